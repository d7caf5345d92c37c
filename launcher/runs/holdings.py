"""What each sweep holds, and what may be deleted: runs of a sweep, what no sweep or run refers to any more.

Owns: who holds what, what must stay since something is at work on it. Must not know: how anything is deleted or shown.

What cannot be read holds everything: nothing is deleted where a sweep's launches are damaged.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from launcher.cluster.scheduler import Scheduler
from launcher.config import Hub
from launcher.errors import StoreError, UsageError, listed
from launcher.hub.folder import FolderShelf
from launcher.runs.around import Around
from launcher.runs.idle_jobs import idle_jobs
from launcher.runs.run_state import RunState, states_of
from launcher.runs.status import Status
from launcher.store.age import age
from launcher.store.config_file import has_run_id
from launcher.store.entries import LIST
from launcher.store.facts import CacheUse, Revision
from launcher.store.files import fact_text, read_fact, write_derived
from launcher.store.locks import Timeout, held
from launcher.store.output_folder import Store, SweepDir, folders_in
from launcher.store.run_folder import RunDir, points_of

NAMED = 3  # of several runs, by name
LEFT_SECONDS = 24 * 3600.0  # what has not been written to for so long, and is not under its lock, was left behind
_PART = re.compile(r"\.(?P<name>.+)\.(?:removed\.)?[0-9a-f]{12}")
NAMED_BY_RUNS = {"models": "models", "reference": "reference tables"}  # kinds of cache entries that runs name


@dataclass(frozen=True)
class Holdings:
    """Which sweep holds which runs, of one output folder at one moment."""

    store: Store
    sweeps: tuple[SweepDir, ...]

    @classmethod
    def of(cls, store: Store) -> Holdings:
        """Those of an output folder.

        Raises:
            StoreError: a sweep cannot be read.
        """
        sweeps = tuple(store.sweeps())
        if faults := [fault for sweep in sweeps for fault in sweep.faults()]:
            raise StoreError(f"{faults[0]}; nothing is deleted, since it is not known which runs are held")
        return cls(store, sweeps)

    @cached_property
    def holders(self) -> dict[str, list[str]]:
        """By run id the names of the sweeps that hold the run."""
        found: dict[str, list[str]] = {}
        for sweep in self.sweeps:
            for named in sweep.run_names():
                found.setdefault(named.run_id, []).append(sweep.name)
        return found

    def others(self, run_id: str, sweep: str) -> list[str]:
        """The other sweeps that hold a run."""
        return [name for name in self.holders.get(run_id, ()) if name != sweep]


@dataclass(frozen=True)
class Going:
    """What is to be deleted.

    Attributes:
        runs: their folders.
        paths: what goes besides, each with what it is.
        kept: runs of the sweep that stay, each with the sweeps that hold it too.
        published: revisions in `hub/` of the runs that go, as folders; they stay unless that is asked for.
        whole: the sweep that goes as a whole; None: only runs of it do.
    """

    runs: tuple[RunDir, ...]
    paths: tuple[tuple[Path, str], ...] = ()
    kept: dict[str, list[str]] = field(default_factory=dict)
    published: tuple[Path, ...] = ()
    whole: SweepDir | None = None


def going_with(
    directory: SweepDir, runs: Sequence[RunDir], holdings: Holdings, scheduler: Scheduler, *, published: bool
) -> Going:
    """What `rm` deletes: of some runs of a sweep those that no other sweep holds; with all of them its records, too.

    Args:
        directory: the sweep.
        runs: which of its runs.
        holdings: of its output folder.
        scheduler: is asked whether anything is at work.
        published: whether revisions in `hub/` go too.

    Raises:
        UsageError: a run is in flight, or a job of the sweep is there.
        StoreError: a run cannot be read, so that nobody knows.
    """
    store = holdings.store
    every = [store.run(named.run_id) for named in directory.run_names()]
    whole = len(runs) == len(every)
    shared = {run.run_id: others for run in runs if (others := holdings.others(run.run_id, directory.name))}
    own = tuple(run for run in runs if run.run_id not in shared and run.path.exists())
    around = Around.of(every)
    states = states_of(every, scheduler, around)
    _refuse_busy(directory, [state for state in states if state.run in own or (whole and _is_of(state, directory))])
    if whole:
        _refuse_jobs(directory, states, scheduler, around)
    revisions = tuple(folder for run in own for folder in published_of(run, store))
    paths = [(folder, "published revision") for folder in revisions] if published else []
    paths += [(directory.path, "records of the sweep")] if whole else []
    return Going(own, tuple(paths), shared, () if published else revisions, directory if whole else None)


def _refuse_busy(directory: SweepDir, states: Iterable[RunState]) -> None:
    states = list(states)
    if unknown := [state for state in states if state.status is Status.UNREADABLE or state.facts.unreadable]:
        why = unknown[0].reason or "cannot be read"
        raise StoreError(f"{unknown[0].run.run_id}: {why}; nothing is deleted, since a job may be at work on it")
    if busy := [state.run.run_id for state in states if state.in_flight]:
        what = "a run is" if len(busy) == 1 else f"{len(busy)} runs are"
        remedy = f"`cancel {directory.name}` first, and delete when the jobs have ended"
        raise UsageError(f"{directory.name}: {what} in flight ({listed(busy, NAMED)}); {remedy}")


def _is_of(state: RunState, directory: SweepDir) -> bool:
    """Whether an attempt at the run was handed over by this sweep, whose records its job then reads."""
    return any(attempt.batch is not None and attempt.batch.parent == directory.jobs for attempt in state.run.attempts())


def _refuse_jobs(directory: SweepDir, states: Sequence[RunState], scheduler: Scheduler, around: Around) -> None:
    unknown: list[str] = []
    idle = idle_jobs(directory, states, scheduler, unknown.append, around)
    if unknown:
        raise StoreError(f"{directory.name}: {unknown[0]}; nothing is deleted")
    if idle:
        what = f"job {idle[0].job.job_id} is there, which {idle[0].what}"
        raise UsageError(f"{directory.name}: {what}; `cancel {directory.name}` first, and delete when it has ended")


def published_of(run: RunDir, store: Store) -> Iterator[Path]:
    """The folders below `hub/` in which models of a run are published."""
    for point in points_of(run):
        with contextlib.suppress(StoreError):
            revision = read_fact(point.folder.revision_file, Revision)
            if revision is not None and revision.store == "folder":
                shelf = FolderShelf(Hub(store="folder", repo=revision.repo, revision=revision.revision), store)
                if shelf.holder() == point.name:
                    yield shelf.folder


@dataclass(frozen=True)
class Left:
    """What nothing refers to: its path, and what it is, as the garbage that it is counted with."""

    path: Path
    what: str


def garbage_of(holdings: Holdings, scheduler: Scheduler) -> tuple[list[Left], list[str]]:
    """What nothing refers to any more, and what is worth a note: what stays, and why.

    Runs that no sweep holds; snapshots of the code from which no job runs; models and reference tables in the cache
    that no run names; parts that somebody who was killed has left.
    """
    store, notes = holdings.store, list[str]()
    every = store.runs()
    states = states_of(every, scheduler)
    busy = [state for state in states if state.in_flight or state.status is Status.UNREADABLE or state.facts.unreadable]
    unheld = [run for run in every if run.run_id not in holdings.holders]
    if foreign := [run.run_id for run in unheld if not _is_ours(run)]:
        notes.append(f"in {store.root / 'runs'}, and no runs of ours, so left alone: {listed(foreign, NAMED)}")
    going = {run.run_id for run in unheld if _is_ours(run)} - {state.run.run_id for state in busy}
    found = [Left(run.path, "runs that no sweep holds") for run in every if run.run_id in going]
    found += _snapshots(holdings, states, busy, scheduler)
    staying = [run for run in every if run.run_id not in going]
    found += _entries(store, staying, notes, at_work=bool(busy))
    found += [Left(path, "parts that were left") for path in _parts(store.root)]
    return found, notes


def _is_ours(run: RunDir) -> bool:
    """Whether a folder among the runs is one: other programs call theirs `runs`, too."""
    return has_run_id(run.run_id) and run.config_file.is_file()


def _snapshots(
    holdings: Holdings, states: Sequence[RunState], busy: Sequence[RunState], scheduler: Scheduler
) -> Iterator[Left]:
    """The snapshots of the code of sweeps that have no job."""
    by_run = {state.run.run_id: state for state in states}
    batches = [attempt.batch for state in busy for attempt in state.run.attempts()]
    at_work = {batch.parent.parent for batch in batches if batch is not None}
    for sweep in holdings.sweeps:
        own = [by_run[named.run_id] for named in sweep.run_names() if named.run_id in by_run]
        unknown: list[str] = []
        if sweep.path in at_work or idle_jobs(sweep, own, scheduler, unknown.append) or unknown:
            continue
        for folder in folders_in(sweep.code):
            yield Left(folder, "snapshots of the code from which no job runs")


def _entries(store: Store, runs: Sequence[RunDir], notes: list[str], *, at_work: bool) -> Iterator[Left]:
    """The cache entries that no run names; none as long as there is a run that does not say which ones it needs."""
    every = [each for kind in NAMED_BY_RUNS for each in folders_in(store.root / "cache" / kind)]
    every = [each for each in every if not each.name.startswith(".") and (each / LIST).is_file()]
    if not every:
        return
    uses = {run.run_id: read_fact(run.cache_file, CacheUse) for run in runs}
    silent = [run_id for run_id, use in uses.items() if use is None and store.run(run_id).result_file.exists()]
    if at_work or silent:
        why = "jobs are at work" if at_work else f"runs were trained before they named theirs ({listed(silent, NAMED)})"
        notes.append(f"models and reference tables in {store.root / 'cache'} are all kept: {why}")
        return
    named = {entry for use in uses.values() if use is not None for entry in use.entries}
    for each in every:
        if each.relative_to(store.root / "cache").as_posix() not in named:
            yield Left(each, f"{NAMED_BY_RUNS[each.parent.name]} in the cache that no run names")


def _parts(root: Path) -> Iterator[Path]:
    """What is half made, or half removed, and has been left so."""
    above = [root / "runs", root / "sweeps", root / "cache", root / "hub"]
    for place in [*above, *(folder for each in above for folder in folders_in(each))]:
        for path in sorted(place.glob(".*")) if place.is_dir() else ():
            found = _PART.fullmatch(path.name)
            if found and not path.is_symlink() and _is_left(path, place / f".{found['name']}.lock"):
                yield path


def _is_left(path: Path, lock: Path) -> bool:
    newest = min((seconds for each in (path, *path.glob("*")) if (seconds := age(each)) is not None), default=None)
    if newest is None or newest < LEFT_SECONDS:
        return False
    if not lock.exists():
        return True
    try:
        with held(lock, 0):
            return True
    except (Timeout, OSError):
        return False


def without_runs(directory: SweepDir, going: Collection[str]) -> None:
    """Take runs off the records of a sweep's launches."""
    for path in directory.launch_files():
        fact = read_fact(path)
        if fact is not None and any(run["run_id"] in going for run in fact["runs"]):
            left = {**fact, "runs": [run for run in fact["runs"] if run["run_id"] not in going]}
            write_derived(path, fact_text(left))
