"""How long tests wait for what must come: a wait that ends well costs nothing, and a busy machine needs its time."""

from __future__ import annotations

import time
from collections.abc import Callable

LONGEST_WAIT = 900.0


def eventually(condition: Callable[[], object], seconds: float = LONGEST_WAIT) -> bool:
    """Whether `condition` comes true within `seconds`; looking takes at most a third of the time, and leaves the rest.

    What is waited for may need the processor that a look at it would take.
    """
    deadline = time.monotonic() + seconds
    while True:
        began = time.monotonic()
        if condition():
            return True
        ended = time.monotonic()
        if ended > deadline:
            return False
        time.sleep(max(0.05, 2 * (ended - began)))
