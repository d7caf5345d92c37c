"""What a revision holds, and whose it is.

Owns: which files of a run are published, the marker that names the run, the rule that no run overwrites another's.
Must not know: how a revision is pushed, what the card says.

Only files of kinds that loading a model needs are taken, and only from the final model's folder, so that optimizer
states, pickles and checkpoints cannot leave whatever a trainer may put there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from launcher.config import PublishError
from launcher.files import Fact, read_fact
from launcher.store import RunDir

MARKER = "prefsweep.json"
CARD = "README.md"
WEIGHTS = ".safetensors"
KINDS = frozenset({WEIGHTS, ".json", ".txt", ".model", ".jinja", ".tiktoken", ".py"})
NEVER = frozenset({"trainer_state.json", "complete.json", MARKER})
ADAPTER_CONFIG = "adapter_config.json"


@dataclass(frozen=True)
class Payload:
    """The files of a revision.

    Attributes:
        run_id: the run whose revision it is.
        content: a hash that changes with the trained model and with every number that is published beside it.
        files: name in the revision -> the file's content, or where it is.
    """

    run_id: str
    content: str
    files: Mapping[str, bytes | Path]

    @property
    def marker(self) -> bytes:
        """What MARKER holds."""
        return (json.dumps({"run_id": self.run_id, "content": self.content}, indent=1) + "\n").encode()


def payload_of(run: RunDir, card: str) -> Payload:
    """What is published of a run that is trained.

    Raises:
        PublishError: there are no weights.
    """
    files = {**_model_files(run), **_records(run)}
    return Payload(run.run_id, content_of(run), {**files, CARD: card.encode()})


def content_of(run: RunDir) -> str:
    """The hash of what would be published, card aside: it only tells again what the other files say.

    Weights count with name and size: result.json, which says when they were trained, stands for their values, and a
    model of many gigabytes need not be read for nothing.
    """
    digest = hashlib.sha256(run.run_id.encode())
    for name, content in sorted({**_model_files(run), **_records(run)}.items()):
        told = content if isinstance(content, bytes) else str(content.stat().st_size).encode()
        digest.update(f"\0{name}\0{len(told)}\0".encode() + told)
    return digest.hexdigest()


def _model_files(run: RunDir) -> dict[str, bytes | Path]:
    found = {
        path.relative_to(run.model).as_posix(): path
        for path in sorted(run.model.rglob("*"))
        if path.is_file() and path.suffix in KINDS and path.name not in NEVER and not _is_hidden(path, run.model)
    }
    if not any(name.endswith(WEIGHTS) for name in found):
        raise PublishError(f"{run.run_id}: {run.model} holds no weights; is the run trained?")
    if ADAPTER_CONFIG in found:
        return {**found, ADAPTER_CONFIG: _with_base_revision(found[ADAPTER_CONFIG], run)}
    return {**found}


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith((".", "checkpoint-", "global_step")) for part in path.relative_to(folder).parts)


def _with_base_revision(path: Path, run: RunDir) -> bytes:
    """The adapter's config, naming the commit of the base model that it was trained on: peft then loads that one."""
    config = json.loads(path.read_text(encoding="utf-8"))
    commit = base_commit(run)
    return json.dumps({**config, "revision": commit or config.get("revision")}, indent=2).encode()


def base_commit(run: RunDir) -> str | None:
    """The commit (or the revision asked for) of the base model; None where it is no Hub model, or nobody noted it."""
    model = (read_fact(run.sources_file) or {}).get("model") or {}
    return model.get("commit") or (run.read_config().get("model") or {}).get("revision")


def _records(run: RunDir) -> dict[str, bytes]:
    """The run's own files, under their names in the run folder."""
    paths = (run.config_file, run.sources_file, run.metrics_file, run.result_file, run.evaluation_file)
    return {path.name: path.read_bytes() for path in paths if path.exists()}


def already_there(found: Fact | None, payload: Payload, where: str) -> bool:
    """Whether a revision whose marker is `found` is what would be pushed; False where it may be written.

    Raises:
        PublishError: it is another run's.
    """
    if found is None:
        return False
    if found.get("run_id") != payload.run_id:
        raise PublishError(
            f"{payload.run_id}: {where} is the revision of {found.get('run_id')}, which is never overwritten; "
            "give another hub.revision or hub.repo"
        )
    return bool(found.get("content") == payload.content)
