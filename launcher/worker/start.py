"""A job of a batch, as its scheduler starts it: python -m launcher.worker.start FOLDER.

Owns: which of the batch's jobs this one is. Must not know: what is done in it.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from launcher.cluster import node
from launcher.cluster.batch import Work


def main(folder: Path) -> None:
    """Do the work of this job of the batch in `folder`."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # until `interruption` takes it, which saves and tells why
    task = node.queued()
    Work(str(folder / str(task.index if task else 0)))()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
