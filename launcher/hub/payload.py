"""What a revision holds, and whose it is.

Owns: with which files a model is published, the marker that names the run (and the step, of a milestone), the rule
that no run overwrites another's.
Must not know: how a revision is pushed, what the card says.

Of the model go the files that `model.files` takes. Of a benchmark its scores go, with what they depend on. Answers and
verdicts stay in the run folder: they are long, and hold the words of questions and judges that are not ours to
publish. So does what a program printed or was called with, which may be anything.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import PublishError, StoreError
from launcher.model.adapter import CONFIG_FILE, Adapter, with_base
from launcher.model.files import model_files
from launcher.store import model_marker
from launcher.store.files import Plain, read_fact
from launcher.store.metrics_log import read_metrics
from launcher.store.model_marker import WEIGHTS
from launcher.store.reading import opened, rest_of
from launcher.store.results import BENCHMARKS
from launcher.store.run_folder import Point, RunDir, name_of

MARKER = "prefsweep.json"
CARD = "README.md"
UNTOLD = frozenset({"argv", "output", "printed"})  # of a benchmark that is a program


@dataclass(frozen=True)
class Payload:
    """The files of a revision.

    Attributes:
        run_id: the run whose revision it is.
        step: of which milestone; None: the final model.
        content: a hash that changes with the trained model and with every number that is published beside it.
        files: name in the revision -> the file's content, or where it is.
    """

    run_id: str
    step: int | None
    content: str
    files: Mapping[str, bytes | Path]

    @property
    def name(self) -> str:
        """RUN or RUN@STEP."""
        return name_of(self.run_id, self.step)

    @property
    def marker(self) -> bytes:
        """What MARKER holds."""
        step = {} if self.step is None else {"step": self.step}
        return (json.dumps({"run_id": self.run_id, **step, "content": self.content}, indent=1) + "\n").encode()


def payload_of(point: Point, card: str, base: Adapter | None = None) -> Payload:
    """What is published of a model of a trained run; `base`: what an adapter is to name as the model below it.

    Raises:
        PublishError: there are no weights, or the model is another's, or not as it was written.
    """
    _check_model(point)
    files = _files(point)
    content, published = _hash(point, files), {**files, CARD: card.encode()}
    if base is not None:
        config = (point.folder.model / CONFIG_FILE).read_text(encoding="utf-8")
        published[CONFIG_FILE] = with_base(config, base).encode()
    return Payload(point.run.run_id, point.step, content, published)


def content_of(point: Point) -> str:
    """The hash of what would be published, card aside: it only tells again what the other files say.

    Weights count with name and size: the run's result.json, which says when they were trained, stands for their
    values, and a model of many gigabytes need not be read for nothing.
    """
    return _hash(point, _files(point))


def _files(point: Point) -> dict[str, bytes | Path]:
    return {**_model_files(point), **_records(point)}


def _hash(point: Point, files: Mapping[str, bytes | Path]) -> str:
    digest = hashlib.sha256(point.name.encode())
    for name, content in sorted({**files, **_read([point.run.result_file])}.items()):
        told = content if isinstance(content, bytes) else str(content.stat().st_size).encode()
        digest.update(f"\0{name}\0{len(told)}\0".encode() + told)
    return digest.hexdigest()


def _check_model(point: Point) -> None:
    if whose := model_marker.other_owner(point.folder):
        where = point.folder.model
        raise PublishError(f"{point.name}: {where} is the model of {whose}; put its own there, or train it anew")
    try:
        model_marker.verify(point.folder)
    except StoreError as error:
        raise PublishError(f"{point.name}: {error}") from error


def _model_files(point: Point) -> dict[str, bytes | Path]:
    model = point.folder.model
    found = {name: path for name, path in model_files(model).items() if name != MARKER}
    if not any(name.endswith(WEIGHTS) for name in found):
        raise PublishError(f"{point.name}: {model} holds no weights; is the run trained?")
    return {**found}


def _records(point: Point) -> dict[str, bytes]:
    """The run's own files, under their names in the run folder; of a milestone what is told of it, up to its step."""
    run = point.run
    shared, evaluation = (run.config_file, run.sources_file), point.folder.evaluation_file
    if point.step is not None:
        return {**_read([*shared, evaluation]), **_curve(run, point.step)}
    measured = {f"evaluations/{name}.json": _written(fact) for name, fact in _benchmarks_of(run).items()}
    return {**_read([*shared, run.metrics_file, run.result_file, evaluation]), **measured}


def _read(paths: Iterable[Path]) -> dict[str, bytes]:
    """What these files hold, as far as they are there; a pipe is waited for by nobody."""
    found: dict[str, bytes] = {}
    try:
        for path in paths:
            with contextlib.suppress(FileNotFoundError), opened(path) as (handle, size):
                found[path.name] = rest_of(handle, size)
    except StoreError as error:
        raise PublishError(str(error)) from error
    return found


def _curve(run: RunDir, step: int) -> dict[str, bytes]:
    lines = [json.dumps(line) + "\n" for line in read_metrics(run.metrics_file) if (line.get("step") or 0) <= step]
    return {run.metrics_file.name: "".join(lines).encode()} if lines else {}


def _written(fact: Plain) -> bytes:
    return (json.dumps(fact, indent=1, ensure_ascii=False) + "\n").encode()


def _benchmarks_of(run: RunDir) -> dict[str, Plain]:
    """What the benchmarks beside `preference` found, less what is not to be told, by benchmark."""
    found = {name: read_fact(run.evaluations.result_file(name)) for name in BENCHMARKS}
    return {name: _told(fact) for name, fact in found.items() if fact is not None}


def _told(fact: Plain) -> Plain:
    kept = {key: value for key, value in fact.items() if key not in UNTOLD}
    if "settings" in fact:
        kept["settings"] = {key: value for key, value in fact["settings"].items() if key not in UNTOLD}
    return kept


def owner_of(marker: Plain) -> str:
    """The model that a marker names: RUN or RUN@STEP."""
    return name_of(str(marker.get("run_id")), marker.get("step"))


def already_there(found: Plain | None, payload: Payload, where: str) -> bool:
    """Whether a revision whose marker is `found` is what would be pushed; False where it may be written.

    Raises:
        PublishError: it is another run's.
    """
    if found is None:
        return False
    owner = owner_of(found)
    if owner != payload.name:
        raise PublishError(
            f"{payload.name}: {where} is the revision of {owner}, which is never overwritten; "
            "give another hub.revision or hub.repo"
        )
    return bool(found.get("content") == payload.content)
