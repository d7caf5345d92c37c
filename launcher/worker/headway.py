"""Whether this life of a job has made anything that its next life need not make again.

Owns: the answer, for this process. Must not know: what was made, what follows.
"""

from __future__ import annotations

import threading

_made = threading.Event()


def note() -> None:
    """Something is done for good: a training, a benchmark, a task of one, a reference table."""
    _made.set()


def was_made() -> bool:
    """Whether anything is, since this process began."""
    return _made.is_set()
