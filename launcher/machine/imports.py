"""Importing libraries so large that it takes seconds, in less of them.

Owns: what makes it shorter. Must not know: who imports what.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

# For a process that computes nothing with torch: bitsandbytes imports all of torch's compiler otherwise.
NOTHING_COMPILED = {"TORCHDYNAMO_DISABLE": "1"}


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Import within this: it takes a quarter of the time less, since almost all that is made then stays."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
