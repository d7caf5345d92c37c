"""Which sweep and which of its runs the user means.

Owns: how a sweep or a run is named on the command line. Must not know: what is then done with them. Prints nothing.
"""

from __future__ import annotations

import argparse

from launcher.cluster.scheduler import Scheduler, scheduler_to_ask
from launcher.errors import UsageError
from launcher.runs.around import Around
from launcher.runs.run_state import RunState, states_of
from launcher.store.output_folder import Store, SweepDir
from launcher.store.run_folder import RunDir


def open_sweep(options: argparse.Namespace) -> tuple[SweepDir, Store, Scheduler]:
    """The sweep that the user named, or the one launched last."""
    store = Store(options.output_dir.absolute())
    sweeps = store.sweeps()
    names = [sweep.name for sweep in sweeps]
    if not names:
        raise UsageError(f"--output-dir {options.output_dir}: holds no sweep yet; launch one with -m")
    name = options.sweep or names[-1]
    if name not in names:
        raise UsageError(f"{name}: no such sweep in {store.root}; there are: {', '.join(names)}")
    return store.sweep(name), store, scheduler_to_ask()


def runs_of(directory: SweepDir, store: Store) -> list[RunDir]:
    """The sweep's runs, in the order in which they were added."""
    return [store.run(named.run_id) for named in directory.run_names()]


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
    states = states_of(runs_of(directory, store), scheduler, around)
    for name in options.runs:
        if not any(state.run.run_id.startswith(name) for state in states):
            raise UsageError(f"{name}: no run of {directory.name} is called so; `status {directory.name}` lists them")
    if options.runs:
        states = [state for state in states if state.run.run_id.startswith(tuple(options.runs))]
    wanted = {word.upper() for word in options.state}
    return [state for state in states if not wanted or state.status in wanted]
