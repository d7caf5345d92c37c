"""What a sweep would be trained on, counted on the login node where its data are local and small.

Owns: which data are, the process that counts, what is remembered of it, in the user's cache and by jobs.
Must not know: how rows are counted (`worker.count`, by the functions of a job), how the numbers are shown.

A count is remembered under the hashes of the data files and of the tokenizer's, so that the next plan costs the
hashing. Nothing is written to the output folder: a dry run counts too.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from launcher.config import Dataset, Model, RunConfig, Trainer
from launcher.dataset.inputs import content_of
from launcher.dataset.local_files import local_files, sources_in
from launcher.errors import UNSAID, ConfigError, StoreError
from launcher.hub.sources import cached_folder, model_source
from launcher.losses import loss_named
from launcher.machine.imports import NOTHING_COMPILED
from launcher.machine.locate import is_hub_id, place_of
from launcher.machine.once import Once
from launcher.machine.user_cache import user_cache
from launcher.model.adapter import adapter_in
from launcher.model.files import TEMPLATE_FILES, TOKENIZER_FILES, has_tokenizer
from launcher.store.attempts import Attempts
from launcher.store.counts import DataCounts, SplitCounts
from launcher.store.files import Plain, content_key, fact_text, file_hash, read_fact, typed, write_derived
from launcher.store.output_folder import Store
from launcher.sweep import Run, Sweep

MOST_BYTES = 8_000_000  # of all splits together; a login node tokenises about 1 MB a second
PACKED = {".parquet": 4, ".gz": 4, ".zst": 4}  # how much larger such a file may be once it is read
MOST_SECONDS = 120
KEPT_EXAMPLES = 3  # also where none is asked for, as a job does
OF_THE_DATA = ("dataset.", "trainer.", "model.chat_template")  # keys whose faults a job would find as well
_ONCE = Once()
VERSIONS = ("prefsweep", "trl", "transformers")


@dataclass(frozen=True)
class Counted:
    """What is known of the data of the runs that share model, data and lengths.

    Attributes:
        config: of the first of these runs.
        counts: None where the login node does not count them.
        unknown: why it does not.
    """

    config: RunConfig
    counts: DataCounts | None = None
    unknown: str | None = None


@dataclass(frozen=True)
class Look:
    """The counts of each kind of data in a sweep, and how many examples of each are to be shown."""

    found: tuple[Counted, ...] = ()
    examples: int = 0

    def rows_for(self, config: RunConfig) -> int | None:
        """How many rows a run has to train on; None where that is not known."""
        split = self.split_for(config)
        return split.used if split else None

    def split_for(self, config: RunConfig) -> SplitCounts | None:
        """The numbers of the split that a run trains on; None where they are not known."""
        counts = self._by_kind.get(_kind(config))
        return counts.splits["train"] if counts else None

    @cached_property
    def _by_kind(self) -> dict[str, DataCounts]:
        return {_kind(each.config): each.counts for each in self.found if each.counts}


def look(sweep: Sweep, store: Store, examples: int, say: Callable[[str], None]) -> Look:
    """The counts of each kind of data in a sweep.

    Args:
        sweep: with the pins of its sources.
        store: where runs that have begun have recorded their counts.
        examples: rows of the training split to be shown.
        say: is told what is done, before it takes seconds.

    Raises:
        ConfigError: a job could not train on these data, by what its own functions say.
    """
    found = [_remembered(runs, store, max(examples, KEPT_EXAMPLES)) for runs in _kinds(sweep)]
    open_ = [each for each in found if isinstance(each, _Question)]
    answers = iter(_answers(open_, say) if open_ else [])
    return Look(tuple(next(answers) if isinstance(each, _Question) else each for each in found), examples)


def _kinds(sweep: Sweep) -> list[list[Run]]:
    """The runs of each kind of data."""
    kinds: dict[str, list[Run]] = {}
    for run in sweep.runs:
        kinds.setdefault(_kind(run.config), []).append(run)
    return list(kinds.values())


def _kind(config: RunConfig) -> str:
    """The same as a text, made once for the runs that share it."""
    return _ONCE(_kind_of, config.loss_type, config.model, config.dataset, config.trainer)


def _kind_of(loss_type: str, model: Model, dataset: Dataset, trainer: Trainer) -> str:
    return repr(_settings(RunConfig(model, dataset, trainer, loss_type)))


def _settings(config: RunConfig) -> Plain:
    """What of a run its counts depend on; a seed moves at most which rows fill no micro-batch."""
    paired = loss_named(config.loss_type).paired
    sections = {"model": asdict(config.model), "dataset": asdict(config.dataset)}
    micro = None if paired else config.trainer.micro_batch_size
    return {**sections, "max_length": config.trainer.max_length, "paired": paired, "micro_batch_size": micro}


@dataclass(frozen=True)
class _Question:
    """What is to be counted, and where the answer will be remembered."""

    run: Run
    examples: int
    file: Path


def _remembered(runs: Sequence[Run], store: Store, examples: int) -> Counted | _Question:
    """The counts as they were remembered, or why there are none, or the question."""
    run = runs[0]
    if unknown := _unknown(run.config):
        counts = next(filter(None, (_counts_in(store.run(each.run_id).data_file) for each in runs)), None)
        return Counted(run.config, counts, None if counts else unknown)
    file = user_cache(os.environ) / "counts" / f"{content_key(_identity(run.config, examples), 32)}.json"
    counts = _counts_in(file) or _counted_by_jobs(runs, store)
    return Counted(run.config, counts) if counts else _Question(run, examples, file)


def _counted_by_jobs(runs: Sequence[Run], store: Store) -> DataCounts | None:
    """What a job has counted of the same files, where the user's cache is gone, or nothing could be counted here."""
    for run in runs:
        training = Attempts.of(store.run(run.run_id)).training
        with contextlib.suppress(StoreError):
            before = (training and training.record.inputs) or {}
            same = bool(before) and content_of(before) == content_of(run.inputs)
            if same and (counts := read_fact(store.run(run.run_id).data_file, DataCounts)):
                return counts
    return None


def _counts_in(file: Path) -> DataCounts | None:
    """The counts in a file; None where they cannot be read."""
    with contextlib.suppress(StoreError, OSError):
        return read_fact(file, DataCounts)
    return None


# ------------------------------------------------------------------------------------------------ which data


def _unknown(config: RunConfig) -> str | None:
    """Why the login node does not count these data; None where it does."""
    if config.dataset.builder is not None or config.dataset.weak_rejects is not None:
        return "is built before the first job"
    if any(is_hub_id(part.path) for _, part in sources_in(config.dataset)):
        return "is on the Hub"
    size = sum(file.stat().st_size * PACKED.get(file.suffix, 1) for file in _files(config))
    if size > MOST_BYTES:
        return f"is larger than {MOST_BYTES // 10**6} MB"
    return None if config.model.architecture or _folders(config.model, config.pins) else "needs a tokenizer on the Hub"


def _files(config: RunConfig) -> list[Path]:
    """The files of the data set, or of the parts of a mixture."""
    parts = [part for _, part in sources_in(config.dataset)]
    files = [file for part in parts for key in ("train_split", "test_split") for file in local_files(part, key)]
    return list(dict.fromkeys(files))


def _folders(model: Model, pins: Mapping[str, str]) -> list[Path]:
    """The folder with the model's tokenizer, behind those of the adapters above it; none where it is not here."""
    folder = _folder(model, pins)
    if folder is None or not folder.is_dir():
        return []
    if model.gguf_file is not None or has_tokenizer([path.name for path in folder.iterdir()]):
        return [folder]
    adapter = adapter_in(folder)
    if adapter is None or adapter.base == model.path:
        return []
    below = _folders(replace(model, path=adapter.base, revision=adapter.revision), pins)
    return [folder, *below] if below else []


def _folder(model: Model, pins: Mapping[str, str]) -> Path | None:
    source = model_source(model)
    if source is None:
        return place_of(model.path).path
    commit = pins.get(source.name)
    return None if commit is None else cached_folder(source, commit)


# ------------------------------------------------------------------------------------------------ what is remembered


def _identity(config: RunConfig, examples: int) -> Plain:
    """All that changes a count, by content: neither a path nor a time of change is in it."""
    settings, files = _settings(config), [file_hash(file) for file in _files(config)]
    settings["dataset"] = _without_paths(settings["dataset"])
    settings["model"] = _without_paths(settings["model"])
    tokenizer = [_tokenizer_of(folder, config.model) for folder in _folders(config.model, config.pins)]
    seed = None if loss_named(config.loss_type).paired else config.seed
    versions = {name: version(name) for name in VERSIONS}
    keys = [key.name for kind in (DataCounts, SplitCounts) for key in fields(kind)]
    return {
        **settings,
        "seed": seed,
        "files": files,
        "tokenizer": tokenizer,
        "examples": examples,
        "by": versions,
        "keys": keys,
    }


def _without_paths(section: Any) -> Any:
    if isinstance(section, list):
        return [_without_paths(each) for each in section]
    if not isinstance(section, dict):
        return section
    return {key: _without_paths(value) for key, value in section.items() if key not in ("path", "about", "revision")}


def _tokenizer_of(folder: Path, model: Model) -> dict[str, Any]:
    """The hashes of the files that make a tokenizer; a GGUF file, which is large, is known by its size and time."""
    if model.gguf_file is not None:
        stat = (folder / model.gguf_file).stat()
        return {model.gguf_file: [stat.st_size, stat.st_mtime_ns]}
    patterns = (*TOKENIZER_FILES, *TEMPLATE_FILES, "config.json")
    files = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    return {str(path.relative_to(folder)): file_hash(path) for path in files}


# ------------------------------------------------------------------------------------------------ counting


def _answers(questions: Sequence[_Question], say: Callable[[str], None]) -> list[Counted]:
    """The answers of one process to all questions, each remembered."""
    say("counting rows and tokens (once for these data)")
    try:
        answers = _ask(questions)
    except (subprocess.SubprocessError, OSError, ValueError) as error:
        why = f"took more than {MOST_SECONDS} s" if isinstance(error, subprocess.TimeoutExpired) else _last(error)
        return [Counted(each.run.config, unknown=f"could not be counted here ({why})") for each in questions]
    return [_counted(question, answer) for question, answer in zip(questions, answers, strict=True)]


def _ask(questions: Sequence[_Question]) -> list[Plain]:
    configs = [{**each.run.objective, **each.run.settings} for each in questions]
    asked = {"configs": configs, "examples": max(each.examples for each in questions)}
    done = subprocess.run(
        [sys.executable, "-m", "launcher.worker.count", str(os.getpid())],
        input=json.dumps(asked),
        env={**os.environ, "HF_HUB_OFFLINE": "1", **NOTHING_COMPILED},
        capture_output=True,
        text=True,
        timeout=MOST_SECONDS,
        check=True,
    )
    answers: list[Plain] = json.loads(done.stdout.strip().splitlines()[-1])
    return answers


def _last(error: Exception) -> str:
    """The last line of what a process that failed has said."""
    said = error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)
    return ((said or "").strip().splitlines() or ["no message"])[-1]


def _counted(question: _Question, answer: Plain) -> Counted:
    config = question.run.config
    if fault := answer.get("fault"):
        error = ConfigError(fault["key"], fault.get("value", UNSAID), fault["remedy"])
        if fault["key"].startswith(OF_THE_DATA):
            raise error
        return Counted(config, unknown=f"could not be counted here ({error})")  # a job may have other packages
    counts = typed(answer["counts"], DataCounts, question.file)
    with contextlib.suppress(OSError):
        write_derived(question.file, fact_text(counts))
    return Counted(config, counts)
