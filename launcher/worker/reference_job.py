"""The reference table as a job of its own, which several training jobs are waiting for.

Owns: whether the table is there, as the launcher reads it; its absence fails the job.
Must not know: what the pass computes, who waits for it.
"""

from __future__ import annotations

import time
import traceback
from functools import partial
from pathlib import Path

from launcher.config import RunConfig, from_plain
from launcher.hub.sources import restore
from launcher.store.facts import Failure, Prepared, TableWork
from launcher.store.files import write_once
from launcher.store.output_folder import PreparingDir, Store
from launcher.worker.distributed import ranks
from launcher.worker.interruption import StopRequest
from launcher.worker.outcome import reason_of


def make_table(work: TableWork, folder: PreparingDir) -> None:
    """Make the reference table that several jobs are waiting for; its absence is recorded, and fails the job."""
    StopRequest().listen()  # a warning is not for a pass that cannot be resumed: it has until the limit itself
    config: RunConfig = from_plain(work.prepare)

    def record(reason: str) -> None:
        if ranks.is_first():
            failure = Failure(reason, traceback=traceback.format_exc()[-8000:], time=time.time())
            write_once(folder.failure_file, failure)

    with ranks.joined(folder.path, always=bool(config.deepspeed.config)) as rank:
        ranks.begin("table", record)
        try:
            ranks.first(partial(restore, config.pins, Store(Path(work.root))))
            _prepare(config, Store(Path(work.root)))
        except Exception as error:
            record(ranks.failed(reason_of(error)).cause or "")
            raise
    if rank.index == 0:
        write_once(folder.done_file, Prepared(time.time()))


def _prepare(config: RunConfig, store: Store) -> None:
    from launcher.worker.training.reference_table import prepare

    prepare(config, store)
