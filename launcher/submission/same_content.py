"""Whether runs that are there were trained on what lies on this machine now.

Owns: which recorded run a planned one is; which runs were trained on other files, and what may be done about it.
Must not know: which files count and what is recorded of them (`dataset.inputs`), how anything is submitted or printed.

A run is known by its settings and by what it is trained on. Its id is a hash of the settings, with a path of this
machine as a copy of the project has it too. Where that id is of a run with other files, it gets one with the hash of
its own; within one sweep that is refused, since its runs would be compared with each other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from launcher.cluster.scheduler import Scheduler
from launcher.dataset.inputs import Inputs, changes, content_of, differences, inputs_of
from launcher.errors import StoreError, UsageError, listed, number_of
from launcher.planning.planned_runs import named_by_content, respelled, run_id, without_paths
from launcher.runs.run_state import states_of
from launcher.store.attempts import Attempts
from launcher.store.facts import RunRecord
from launcher.store.files import Plain, read_fact
from launcher.store.hashes import Hashes
from launcher.store.origins import Sources
from launcher.store.output_folder import Store
from launcher.store.reading import may_be_there
from launcher.store.run_folder import RunDir
from launcher.sweep import Run, Sweep

SHOWN = 6  # names of files or runs in a line
UNRECORDED = "what it was trained on was not recorded"


# ------------------------------------------------------------------------------------------------ which run it is


def identified(sweep: Sweep, known: Hashes, *, dry_run: bool) -> Sweep:
    """The sweep with what its runs are to be trained on, and each as the run that it is in this output folder.

    A dry run reads no file where there is nothing to compare it with.

    Raises:
        ConfigError: a data set or an adapter on this machine is not what it should be.
    """
    store = known.store
    if not dry_run or _has_company(sweep, store):
        sweep = with_inputs(sweep, known)
    if not any(run.inputs for run in sweep.runs):
        return sweep
    records, planned = store.sweep(sweep.name).run_records(), {run.run_id for run in sweep.runs}
    in_sweep, others = {record.run_id for record in records}, _Others.of(records, planned, store)
    named: dict[str, Run] = {}
    for run in sweep.runs:
        name = _known_id(run, store, in_sweep, others) if run.inputs else run.run_id
        free = name == run.run_id or not (name in planned or name in named)
        named[name if free else run.run_id] = replace(run, run_id=name) if free else run
    return replace(sweep, runs=tuple(named.values()))


def with_inputs(sweep: Sweep, known: Hashes) -> Sweep:
    """The sweep with what each run is to be trained on; each model and data set is looked at once."""
    found: dict[str, Inputs] = {}
    runs = []
    for run in sweep.runs:
        key = repr((run.config.model, run.config.dataset))
        if key not in found:
            found[key] = inputs_of(run.config, known)
        runs.append(replace(run, inputs=found[key]))
    return replace(sweep, runs=tuple(runs))


def _has_company(sweep: Sweep, store: Store) -> bool:
    """Whether there may be runs to compare these with."""
    ids = (each for run in sweep.runs for each in _ids(run))
    return store.sweep(sweep.name).path.is_dir() or any(store.run(each).path.is_dir() for each in ids)


def _ids(run: Run) -> list[str]:
    """Under which ids it may be there: its own, and that of older versions, which hashed absolute paths."""
    return list(dict.fromkeys((run.run_id, run_id(run.objective))))


def _known_id(run: Run, store: Store, in_sweep: set[str], others: _Others) -> str:
    ids = [*_ids(run), named_by_content(run)]
    there = [each for each in ids if may_be_there(store.run(each).config_file)]
    there += [each for each in others.same_as(run) if each not in there]
    own = [each for each in there if each in in_sweep]
    equal = [each for each in there if _has_content(store.run(each), run.inputs)]
    undecided = [each for each in there if _is_undecided(store.run(each))]
    found = [*(each for each in equal if each in own), *own, *equal, *undecided]
    return found[0] if found else ids[-1] if there else run.run_id


@dataclass(frozen=True)
class _Others:
    """Runs of the sweep under other ids than those planned, by how their ids begin; each is read once."""

    store: Store
    named: Mapping[str, Sequence[str]]
    known: dict[str, tuple[Plain, Inputs | None]] = field(default_factory=dict)

    @classmethod
    def of(cls, records: Sequence[RunRecord], planned: Collection[str], store: Store) -> _Others:
        named: dict[str, list[str]] = {}
        for name in (each.run_id for each in records if each.run_id not in planned):
            named.setdefault(name.rpartition("-")[0], []).append(name)
        return cls(store, named)

    def same_as(self, run: Run) -> list[str]:
        """Those that are this run, though their paths are spelled otherwise: by place, or by content."""
        names = self.named.get(run.run_id.rpartition("-")[0], ())
        objective = without_paths(run.objective) if names else {}
        return [name for name in names if self._is_same(name, run.inputs, objective)]

    def _is_same(self, name: str, inputs: Inputs, objective: Plain) -> bool:
        folder = self.store.run(name)
        if name not in self.known and may_be_there(folder.config_file):
            with contextlib.suppress(StoreError):
                self.known[name] = without_paths(folder.read_config()), recorded(folder)
        found, before = self.known.get(name, ({}, None))
        if before is None or found != objective:
            return False
        return content_of(before) == content_of(inputs) or _places(before) == _places(inputs)


def _places(inputs: Inputs) -> dict[str, str]:
    return {key: contents.path for key, contents in inputs.items()}


def _has_content(run: RunDir, inputs: Inputs) -> bool:
    before = _if_readable(run)
    return before is not None and content_of(before) == content_of(inputs)


def _is_undecided(run: RunDir) -> bool:
    """Whether nothing says that the run is of other files: it holds nothing, or does not say, or cannot be read."""
    try:
        return not _holds(run) or recorded(run) is None
    except StoreError:
        return True


def moved(sweep: Sweep, store: Store) -> Iterator[tuple[RunDir, Plain]]:
    """The runs of the sweep, and those planned, whose files lie elsewhere by now: each with its objective so."""
    planned = {run.run_id: run for run in sweep.runs}
    kinds = _kinds(sweep)
    names = [*planned, *(each.run_id for each in store.sweep(sweep.name).run_records())] if kinds else []
    for name in dict.fromkeys(names):
        folder, before = store.run(name), _if_readable(store.run(name)) or {}
        paths = {
            contents.path: now[key].path
            for now in ([planned[name].inputs] if name in planned else kinds)
            for key, contents in before.items()
            if key in now and contents.files == now[key].files and contents.path != now[key].path
            if name in planned or contents.spelled == now[key].spelled
        }
        if paths and may_be_there(folder.config_file):
            with contextlib.suppress(StoreError):  # such a run is left as it is
                yield folder, respelled(folder.read_config(), partial(_elsewhere, paths))


def _elsewhere(paths: Mapping[str, str], path: str) -> str:
    return paths.get(path, path)


def _kinds(sweep: Sweep) -> list[Inputs]:
    """What the runs of a sweep are trained on, each once."""
    return list({id(run.inputs): run.inputs for run in sweep.runs if run.inputs}.values())


# ------------------------------------------------------------------------------------------------ what it was made of


def recorded(run: RunDir) -> Inputs | None:
    """What of this machine a run was trained on, or is to be; None where that was not recorded."""
    if _is_begun(run):
        sources = read_fact(run.sources_file, Sources)
        return sources.inputs if sources else None
    training = Attempts.of(run).training
    return training.record.inputs if training else None


def _if_readable(run: RunDir) -> Inputs | None:
    """The same; None also where that cannot be read: `decide` then leaves the run alone, and says why."""
    with contextlib.suppress(StoreError):
        return recorded(run)
    return None


def _lacks_record(run: RunDir) -> bool:
    """Whether there is a training of it, at least in part, and not on what; not where that cannot be read."""
    with contextlib.suppress(StoreError):
        return _is_begun(run) and recorded(run) is None
    return False


def _is_begun(run: RunDir) -> bool:
    """Whether there is a training of it, or a part of one."""
    return run.has(run.result_file) or run.last_checkpoint_step() is not None


def _holds(run: RunDir) -> bool:
    """Whether there is a training of it, a part of one, or an attempt that may be making one."""
    return _is_begun(run) or bool(Attempts.of(run).open)


@dataclass(frozen=True)
class Compared:
    """What is to be trained anew, by run id with the reason; and what the user should know."""

    retrain: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class _Change:
    """A run that was trained on other files, or is being; `planned`: it is among those that are launched."""

    run: RunDir
    files: Sequence[str]
    planned: bool


def compare(sweep: Sweep, store: Store, scheduler: Scheduler, *, retrain: bool = False) -> Compared:
    """Compare what the sweep's runs were trained on, and these, with what is here now.

    Args:
        sweep: as planned, with its runs' inputs.
        store: the output folder.
        scheduler: which knows of jobs that are under way.
        retrain: whether the planned runs with other files, or with no record of them, are trained anew.

    Raises:
        UsageError: a run was trained on other files, or is being, and is not to be trained anew.
    """
    changed, unknown = list(_changes(sweep, store)), _unrecorded(sweep, store)
    busy = _in_flight([*(each.run for each in changed), *unknown], scheduler)
    found = [each for each in changed if each.run in busy or _is_begun(each.run)]
    refused = [each for each in found if not (retrain and each.planned) or each.run in busy]
    if refused:
        raise UsageError(_complaint(refused, retrain=retrain))
    if retrain:
        why = {each.run.run_id: f"other files: {listed(each.files, SHOWN)}" for each in found}
        again = {store.run(run.run_id) for run in sweep.runs} - busy
        return Compared(why | {each.run_id: UNRECORDED for each in unknown if each in again})
    note = (
        f"{number_of(len(unknown), 'run')} of sweep {sweep.name}: trained before files of this machine were recorded; "
        "whether data or model files have changed since is not known"
    )
    return Compared(notes=[note] if unknown else [])


def _changes(sweep: Sweep, store: Store) -> Iterator[_Change]:
    planned = {run.run_id: run for run in sweep.runs}
    kinds = _kinds(sweep)
    for run in planned.values():
        before = _if_readable(store.run(run.run_id))
        if before is not None and (files := changes(before, run.inputs)):
            yield _Change(store.run(run.run_id), files, planned=True)
    neighbours = [each.run_id for each in store.sweep(sweep.name).run_records() if each.run_id not in planned]
    for name in neighbours if kinds else ():
        before = _if_readable(store.run(name)) or {}
        if files := [file for inputs in kinds for file in differences(before, inputs)]:
            yield _Change(store.run(name), files, planned=False)


def _in_flight(runs: Sequence[RunDir], scheduler: Scheduler) -> set[RunDir]:
    return {state.run for state in states_of(runs, scheduler) if state.in_flight} if runs else set()


def _unrecorded(sweep: Sweep, store: Store) -> list[RunDir]:
    """The runs of the sweep, and those planned, that are trained, at least in part, and do not say on which files."""
    local = {(run.config.model.name, run.config.dataset.name) for run in sweep.runs if run.inputs}
    records = store.sweep(sweep.name).run_records() if local else []
    names = [run.run_id for run in sweep.runs if run.inputs]
    names += [each.run_id for each in records if (each.model, each.dataset) in local]
    runs = map(store.run, dict.fromkeys(names))
    return [run for run in runs if _lacks_record(run)]


def _complaint(refused: Sequence[_Change], *, retrain: bool) -> str:
    files = list(dict.fromkeys(file for change in refused for file in change.files))
    remedies = ["put that content back", "give the sweep another name (sweep=NAME)"]
    if all(change.planned for change in refused):
        remedies.append("cancel these runs first, as they are in flight" if retrain else "train anew (retrain=true)")
    else:
        remedies.append("launch these runs too and train them anew (retrain=true)")
    runs = listed((change.run.run_id for change in refused), SHOWN)
    return (
        f"{listed(files, SHOWN)}: the content differs from what {runs} of this sweep were launched with; "
        f"nothing was submitted. Either {', or '.join(remedies)}"
    )
