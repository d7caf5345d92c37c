"""What is made once of values that thousands of runs share, such as the sections of their configurations.

Owns: knowing them again, by identity. Must not know: what is made, of what.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Made = TypeVar("Made")
MOST = 4096  # results that are kept at a time


class Once:
    """Makes each thing once; for values that nobody changes."""

    def __init__(self) -> None:
        self._made: dict[tuple[Any, ...], tuple[tuple[Any, ...], Any]] = {}

    def __call__(self, make: Callable[..., Made], *of: Any) -> Made:
        """`make(*of)`, or what that gave before of the very same objects."""
        key = (make, *map(id, of))
        known = self._made.get(key)
        if known is None:
            if len(self._made) >= MOST:
                self._made.clear()
            known = self._made[key] = (of, make(*of))  # kept with them, so that no other object gets their ids
        made: Made = known[1]
        return made
