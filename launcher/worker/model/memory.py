"""What one process keeps between the runs that it trains, and between the steps of one.

Owns: the last value made of a kind, so that runs which follow each other pay for it once; how freed memory is kept.
Must not know: what the values are. Only the last one is kept: two 7B models side by side would be too many.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Latest(Generic[Value]):
    """The last value made, and the key that it was made for."""

    def __init__(self) -> None:
        self._held: tuple[object, Value] | None = None

    def get(self, key: object, make: Callable[[], Value]) -> Value:
        """The value of `key`, made now if the last one was another's."""
        if self._held is None or self._held[0] != key:
            self._held = None  # let the old value go before the new one is made
            self._held = (key, make())
        return self._held[1]

    def put(self, key: object, value: Value) -> None:
        """Keep `value` as the last one."""
        self._held = (key, value)

    def forget(self) -> None:
        """Keep nothing."""
        self._held = None


# glibc's mallopt parameters, from malloc.h
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> None:
    """Let this process keep what it frees, for its next step.

    glibc gives every block above 32 MB back to the kernel at once, and a training step on a CPU frees and takes many
    such blocks: the kernel's zeroing of the same pages, again and again, was a quarter of a step of SmolLM2-135M.
    Elsewhere than on glibc nothing happens.
    """
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(_TOP_PAD, 2**28)
