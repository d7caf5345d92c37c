"""How long tests wait for what must come: a wait that ends well costs nothing, and a busy machine needs its time."""

from __future__ import annotations

import time
from collections.abc import Callable

LONGEST_WAIT = 900.0


def eventually(condition: Callable[[], object], seconds: float = LONGEST_WAIT) -> bool:
    """Whether `condition` comes true within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
