"""The reference table as a job of its own, which several training jobs are waiting for.

Owns: whether the table is there, as the launcher reads it.
Must not know: what the pass computes, who waits for it, what follows where there is none (`outcome`).
"""

from __future__ import annotations

import time
import traceback
from functools import partial
from pathlib import Path

from launcher.config import RunConfig, from_plain
from launcher.hub.sources import restore
from launcher.machine.imports import uncollected
from launcher.store.facts import Prepared, TableWork
from launcher.store.files import fact_text, write_derived
from launcher.store.output_folder import PreparingDir, Store
from launcher.worker.distributed import ranks
from launcher.worker.interruption import StopRequest
from launcher.worker.lost import settle_table_loss
from launcher.worker.outcome import reason_of, settle_table


def make_table(work: TableWork, folder: PreparingDir) -> None:
    """Make the reference table that several jobs are waiting for; its absence is recorded, and fails the job."""
    StopRequest().listen()  # a warning is not for a pass that cannot be resumed: it has until the limit itself
    config: RunConfig = from_plain(work.prepare)
    with ranks.joined(folder.path, always=bool(config.deepspeed.config)) as rank:
        ranks.begin("table", partial(settle_table_loss, folder))
        try:
            ranks.first(partial(restore, config.pins, Store(Path(work.root))))
            entries = _prepare(config, Store(Path(work.root)), folder)
        except Exception as error:
            settle_table(folder, ranks.failed(reason_of(error, Path(work.root))).cause or "", traceback.format_exc())
            raise
    if rank.index == 0:
        write_derived(folder.done_file, fact_text(Prepared(time.time(), entries)))


def _prepare(config: RunConfig, store: Store, folder: PreparingDir) -> list[str]:
    with uncollected():
        from launcher.worker.training.reference_table import entries_of, prepare

    pairs = prepare(config, store)
    ranks.first(partial(write_derived, folder.data_file, fact_text(pairs.counts)))
    return ranks.first(lambda: entries_of(config, store))
