"""Which sweep and which of its runs the user means.

Owns: how a sweep or a run is named on the command line. Must not know: what is then done with them. Prints nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from launcher.cluster.scheduler import Scheduler, scheduler_to_ask
from launcher.errors import UsageError, listed, suggestion
from launcher.runs.around import Around
from launcher.runs.run_state import RunState, states_of
from launcher.store.output_folder import Store, SweepDir
from launcher.store.reading import may_be_there
from launcher.store.run_folder import RunDir

TOLD = 4  # of several runs, by name


def open_sweep(options: argparse.Namespace) -> tuple[SweepDir, Store, Scheduler]:
    """The sweep that the user named, by its name or its folder, or the one launched last."""
    directory = find_sweep(options, options.sweep)
    return directory, store_of(directory), scheduler_to_ask()


def store_of(directory: SweepDir) -> Store:
    """The output folder that a sweep lies in."""
    return Store(directory.path.parent.parent)


def find_sweep(options: argparse.Namespace, named: str | None) -> SweepDir:
    """The sweep of a name in the output folder, or of a folder anywhere; the one launched last where None is named.

    Raises:
        UsageError: there is no such sweep, or the folder lies elsewhere than --output-dir says.
    """
    if named == "":
        raise UsageError("the sweep's name is empty; give one, or leave the word out")  # "$SWEEP" that nobody has set
    store = Store(options.output_dir.absolute())
    names = [sweep.name for sweep in store.sweeps()]
    if named and named not in names and (place := sweep_at(Path(named))) is not None:
        if options.folder_given and not place.path.parent.parent.samefile(store.root):
            raise UsageError(f"{named}: lies in another folder than --output-dir {options.output_dir}; leave that out")
        return place
    if not names:
        folder = f"--output-dir {options.output_dir}" if options.folder_given else store.root
        raise UsageError(f"{folder}: holds no sweep yet; launch one with -m")
    name = named or names[-1]
    if name not in names:
        near = suggestion(name, names)
        raise UsageError(f"{name}: no such sweep in {store.root}{near}; there are: {', '.join(names)}")
    return store.sweep(name)


def sweep_at(path: Path) -> SweepDir | None:
    """The sweep whose folder this is, `outputs/sweeps/smoke`, however it is spelt."""
    place = path.absolute() if not path.is_absolute() and ".." not in path.parts else path.resolve()
    known = place.parent.name == "sweeps" and place in [each.path for each in Store(place.parent.parent).sweeps()]
    return SweepDir(place) if known else None


def find_run(options: argparse.Namespace, named: str) -> RunDir:
    """The run of an id, of the beginning of one that no other begins with, or of a folder.

    Raises:
        UsageError: there is none, or there are several.
    """
    place = Path(named).absolute()
    if place.parent.name == "runs" and may_be_there(place / "config.yaml"):
        return RunDir(place)
    store = Store(options.output_dir.absolute())
    if named and "/" not in named and may_be_there(store.run(named).config_file):
        return store.run(named)
    found = [run for run in store.runs() if named and run.run_id.startswith(named)]
    if len(found) > 1:
        several = listed((run.run_id for run in found), TOLD)
        raise UsageError(f"{named}: {len(found)} runs begin so: {several}; give more of the id")
    if not found:
        raise UsageError(f"{named}: no such run in {store.root / 'runs'}; `status` lists the runs of a sweep")
    return found[0]


def runs_of(directory: SweepDir, store: Store) -> list[RunDir]:
    """The sweep's runs, in the order in which they were added."""
    return [store.run(named.run_id) for named in directory.run_names()]


def named_runs(names: Sequence[str], directory: SweepDir, store: Store) -> list[RunDir]:
    """The sweep's runs whose ids are, or begin with, one of these names; all of them where there is no name.

    Raises:
        UsageError: no run is called so.
    """
    every = runs_of(directory, store)
    for name in names:
        if not name or not any(run.run_id.startswith(name) for run in every):
            told = name or "an empty name"
            raise UsageError(f"{told}: no run of {directory.name} is called so; `status {directory.name}` lists them")
    return [run for run in every if run.run_id.startswith(tuple(names))] if names else every


def choose(
    options: argparse.Namespace,
    directory: SweepDir,
    store: Store,
    scheduler: Scheduler,
    around: Around | None = None,
) -> list[RunState]:
    """The runs that the user named, by id or its beginning, or those in the states asked for; else all.

    `around`: of the sweep's runs, as found before.
    """
    states = states_of(named_runs(options.runs, directory, store), scheduler, around)
    wanted = {word.upper() for word in options.state}
    return [state for state in states if not wanted or state.status in wanted]
