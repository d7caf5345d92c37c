"""What the runs of a sweep are trained on, as their jobs have counted it.

Owns: where that is read. Must not know: how it is counted or shown.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from launcher.machine.terminal import Say, silent
from launcher.runs.run_state import RunState
from launcher.runs.unreadable import Reading
from launcher.store.counts import DataCounts
from launcher.store.files import read_fact
from launcher.store.output_folder import PreparingDir


def data_of(states: Iterable[RunState], warn: Say = silent) -> list[DataCounts]:
    """The counts of each kind of data, once: of the runs that have begun, and of the tables that others wait for.

    `warn` is told of each that cannot be read.
    """
    read, found = Reading(warn), list[DataCounts]()
    for state in states:
        counts = read(partial(_of_run, state))
        if counts is not None and counts not in found:
            found.append(counts)
    return found


def _of_run(state: RunState) -> DataCounts | None:
    table = state.facts.table
    made = read_fact(state.run.data_file, DataCounts)
    if made is None and table is not None and table.folder is not None:
        return read_fact(PreparingDir(Path(table.folder)).data_file, DataCounts)
    return made
