"""Which files of a folder make a model: of a checkpoint what a milestone keeps, of a model what a revision holds.

Owns: that rule, the only one. Must not know: who wrote the folder, what becomes of the files.

A trainer also leaves optimizer states there, logs, and pickles, which run code when they are loaded. So only the kinds
that loading a model needs are taken, its code among them, and from every subfolder that is not a checkpoint's own:
whatever a trainer may leave there tomorrow stays behind.
"""

from __future__ import annotations

from pathlib import Path

from launcher.store import CHECKPOINT_MARKER

WEIGHTS = ".safetensors"
KINDS = frozenset({WEIGHTS, ".json", ".txt", ".model", ".jinja", ".tiktoken", ".spm", ".bpe", ".codes", ".py"})
NEVER = frozenset({"trainer_state.json", CHECKPOINT_MARKER, "zero_to_fp32.py"})  # the last is DeepSpeed's
TRAINING = (".", "checkpoint-", "global_step")  # how the name of what only training needs begins, or is hidden


def model_files(folder: Path) -> dict[str, Path]:
    """The files that make the model in `folder`, by their names in it, in order."""
    named = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name.as_posix(): path for name, path in named.items() if _belongs(name)}


def _belongs(name: Path) -> bool:
    training = any(part.startswith(TRAINING) for part in name.parts)
    return name.suffix in KINDS and name.name not in NEVER and not training
