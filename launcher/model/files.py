"""Which files make a model: what a milestone keeps and a revision holds, what loading it needs, what identifies it.

Owns: these rules. Must not know: who wrote the folder, what becomes of the files.

A trainer also leaves optimizer states there, logs, and pickles, which run code when they are loaded. So only the kinds
that loading a model needs are taken, its code among them, and from every subfolder that is not a checkpoint's own:
whatever a trainer may leave there tomorrow stays behind.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Collection, Iterable
from pathlib import Path

from launcher.machine import rights
from launcher.model.adapter import CONFIG_FILE
from launcher.store.checkpoint_folders import MARKER
from launcher.store.model_marker import WEIGHTS

KINDS = frozenset({WEIGHTS, ".json", ".txt", ".model", ".jinja", ".tiktoken", ".spm", ".bpe", ".codes", ".py"})
NEVER = frozenset({"trainer_state.json", MARKER, "zero_to_fp32.py"})  # the last is DeepSpeed's
TRAINING = (".", "checkpoint-", "global_step")  # how the name of what only training needs begins, or is hidden


def model_files(folder: Path) -> dict[str, Path]:
    """The files that make the model in `folder`, by their names in it, in order."""
    named = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name.as_posix(): path for name, path in named.items() if _belongs(name)}


def _belongs(name: Path) -> bool:
    training = any(part.startswith(TRAINING) for part in name.parts)
    return name.suffix in KINDS and name.name not in NEVER and not training


# ------------------------------------------------------------------------------------------------ what loading needs

INDEX = ".index.json"
# In the order in which transformers looks for them; the first that is there is the model's, the others are the same
# weights again.
FORMS = (
    ("model.safetensors",),
    ("model.safetensors.index.json", "model-*.safetensors"),
    ("pytorch_model.bin",),
    ("pytorch_model.bin.index.json", "pytorch_model-*.bin"),
)
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")  # peft takes the first that is there
ADAPTER_FORMS = tuple((name,) for name in ADAPTER_WEIGHTS)
# A tokenizer has one of them; other kinds are remote code's own business.
VOCABULARY = ("tokenizer.json", "*.model", "vocab*", "*.tiktoken", "*.spm", "*.bpe", "tokenization_*.py")
TOKENIZER_CONFIG = "tokenizer_config.json"  # all that some have


class MissingFiles(Exception):
    """What a folder or a repository lacks of a model, in words."""


def needed_files(names: Collection[str], gguf_file: str | None = None) -> list[str]:
    """What loading a model needs of the files with these names; with both a model's and an adapter's, the adapter's.

    Raises:
        MissingFiles: there is no model.
    """
    return [*beside_weights(names), *_weights(names, gguf_file)]


def beside_weights(names: Collection[str]) -> list[str]:
    """The files of a model that are no weights: its configuration, its tokenizer, its code."""
    small = KINDS - {WEIGHTS}
    found = [name for name in sorted(names) if Path(name).suffix in small and _belongs(Path(name))]
    return [name for name in found if not name.endswith(INDEX) and ("/" not in name or _in_subfolder(name))]


def _in_subfolder(name: str) -> bool:
    """Code and templates may lie in one; other things there are another model's, such as the original form of this."""
    return name.endswith(".py") or name.startswith("additional_chat_templates/")


def _weights(names: Collection[str], gguf_file: str | None) -> list[str]:
    if gguf_file is not None:
        if gguf_file in names:
            return [gguf_file]
        there = ", ".join(sorted(name for name in names if name.endswith(".gguf"))) or "none"
        raise MissingFiles(f"has no {gguf_file} (model.gguf_file); its .gguf files: {there}")
    is_adapter = CONFIG_FILE in names
    if not is_adapter and "config.json" not in names:
        raise MissingFiles(f"has no config.json and no {CONFIG_FILE}, so it holds no model")
    for form in ADAPTER_FORMS if is_adapter else FORMS:
        found = sorted(name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in form))
        if found and "/" not in found[0] and (len(form) == 1 or form[0] in found):
            return found
    packed = sorted(name for name in names if name.endswith(".gguf"))
    hint = f"; give model.gguf_file={packed[0]}" if packed else ""
    wanted = " or ".join(form[0] for form in (ADAPTER_FORMS if is_adapter else FORMS))
    raise MissingFiles(f"holds no weights: no {wanted}{hint}")


def has_tokenizer(names: Collection[str]) -> bool:
    """Whether there is a vocabulary among these files."""
    return any(fnmatch.fnmatch(name, pattern) for name in names for pattern in VOCABULARY if "/" not in name)


def check_tokenizer(names: Collection[str], gguf_file: str | None = None) -> None:
    """Look for a tokenizer among these files; a GGUF file brings its own, an adapter may leave it to its base.

    Raises:
        MissingFiles: there is none.
    """
    if gguf_file is None and CONFIG_FILE not in names and TOKENIZER_CONFIG not in names and not has_tokenizer(names):
        raise MissingFiles("holds no tokenizer")


def check_whole(folder: Path, gguf_file: str | None = None) -> None:
    """Look at a folder by its names and indexes: whether it holds a model, or an adapter, with all of its weights.

    Raises:
        MissingFiles: it does not.
    """
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    for name in needed_files(names, gguf_file):
        if lost := shards(name, folder) - names:
            raise MissingFiles(f"lacks {', '.join(sorted(lost))}, which {name} names")
        if not rights.may_read(folder / name):
            raise MissingFiles(f"has {name}, which you may not read; ask {rights.owner_of(folder / name)} for it")
        if _is_pointer(folder / name):
            raise MissingFiles(f"has only git-lfs's pointer to {name}; run git lfs pull there")
    check_tokenizer(names, gguf_file)


def shards(name: str, folder: Path) -> set[str]:
    """The files that an index names; of any other file none.

    Raises:
        MissingFiles: the index is none.
    """
    return shards_in((folder / name).read_text(encoding="utf-8"), name) if name.endswith(INDEX) else set()


def shards_in(text: str, name: str) -> set[str]:
    """The files that the text of an index names.

    Raises:
        MissingFiles: the index is none.
    """
    try:
        return set(json.loads(text)["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MissingFiles(f"has an index that cannot be read, {name}") from error


def _is_pointer(file: Path) -> bool:
    with file.open("rb") as content:
        return content.read(40).startswith(b"version https://git-lfs")


# ------------------------------------------------------------------------------------------------ what identifies it

# By the hashes of these a model's content is known. Merged models and reference tables are kept under names made of
# them: another pattern, and all of those are made again.
WEIGHT_FILES = ("*.safetensors", "*.bin", "config.json", "*.py")
ADAPTER_FILES = (CONFIG_FILE, "adapter_model*")
TEMPLATE_FILES = ("chat_template*", "additional_chat_templates/*")
TOKENIZER_FILES = ("tokenizer*", "*.model", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json",
                   *TEMPLATE_FILES)  # fmt: skip


def files_like(folder: Path, patterns: Iterable[str]) -> dict[str, Path]:
    """The files of a folder whose names are of these patterns, by their names in it, in order."""
    found = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    return {path.relative_to(folder).as_posix(): path for path in sorted(found)}


def deciding_files(folder: Path, gguf_file: str | None, *, adapter: bool) -> dict[str, Path]:
    """The files of a folder on this machine that decide what its model, or its adapter, is, by their names in it."""
    if gguf_file is not None:
        return {gguf_file: folder / gguf_file}
    return files_like(folder, (*(ADAPTER_FILES if adapter else WEIGHT_FILES), *TOKENIZER_FILES))
