"""A copy of an output folder: its batches were handed over for the original, where their jobs work.

Owns: which batches those are, what is said of their runs. Must not know: schedulers, what is done with such a run.

A folder that has another name since is no copy: what it was called is gone, or leads to it. By what mount it is seen
does not matter, since the number of a folder stays.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from launcher.errors import StoreError
from launcher.runs.status import RunFacts
from launcher.store.facts import BatchRecord
from launcher.store.files import read_fact
from launcher.store.run_folder import BATCH_FILE, BATCH_PARTS


def original_of(batch: Path) -> Path | None:
    """The output folder for which a batch was handed over, where another has a copy of it here.

    None also where that cannot be looked at: then it may have been renamed.
    """
    with contextlib.suppress(StoreError, OSError):
        record = read_fact(batch / BATCH_FILE, BatchRecord)
        if record is not None and Path(record.root) != batch.parents[BATCH_PARTS - 1]:
            there = Path(record.root, *batch.parts[-BATCH_PARTS:])
            same = there.stat().st_ino != batch.stat().st_ino and read_fact(there / BATCH_FILE, BatchRecord) == record
            return Path(record.root) if same else None
    return None


def in_originals(facts: Iterable[RunFacts]) -> list[str]:
    """That jobs are not this folder's to be cancelled, a line for each original."""
    found = Counter(each.original for each in facts if each.original and not each.trained)
    return [
        f"the jobs of {count} runs are those of the original of this copy, {root}; cancel them with --output-dir {root}"
        for root, count in found.items()
    ]
