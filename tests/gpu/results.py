"""What the parts of tests/gpu find: a line of JSON each, at once; what failed; how much of the time is left.

Owns: the lines and the verdict. Must not know: any part.
"""

from __future__ import annotations

import json
import math
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

DIGITS = 6


class Results:
    """Takes what is found, and says it.

    Attributes:
        part: which part is at work; in each line.
        failed: the checks that failed, as `part: name`.

    Args:
        out: a file that gets each line as well.
        budget: seconds that all parts together may take.
    """

    def __init__(self, out: Path | None, budget: float) -> None:
        self.part = ""
        self.failed: list[str] = []
        self._out, self._budget, self._began = out, budget, time.monotonic()
        self._stdout = sys.stdout  # others are kept from it
        self._passed, self._skipped = 0, 0

    @property
    def left(self) -> float:
        """Seconds."""
        return self._budget - (time.monotonic() - self._began)

    def say(self, name: str, **found: Any) -> None:
        """One line: a measurement."""
        line = json.dumps({"part": self.part, "name": name, **{key: _short(value) for key, value in found.items()}})
        self._stdout.write(f"{line}\n")
        self._stdout.flush()
        if self._out is not None:
            with self._out.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")

    def check(self, name: str, *, right: bool, **found: Any) -> None:
        """The same of something that has to be so."""
        self._passed += right
        if not right:
            self.failed.append(f"{self.part}: {name}")
        self.say(name, right=right, **found)

    def skip(self, name: str, why: str) -> None:
        """The same of something that was not done."""
        self._skipped += 1
        self.say(name, skipped=why)

    def attempt(self, name: str, seconds: float, work: Callable[[], None]) -> None:
        """Do what takes about so many seconds on a GPU, if there is time; an error in it is a failure."""
        if self.left < seconds:
            self.skip(name, f"{max(0.0, self.left):.0f} s are left of {self._budget:.0f}, it takes about {seconds:.0f}")
            return
        began = time.monotonic()
        try:
            work()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is said, and the next piece goes on
            traceback.print_exc()
            self.check(name, right=False, error=f"{type(error).__name__}: {error}"[:2000])
        self.say(f"{name}: time", seconds=time.monotonic() - began)

    def conclude(self) -> int:
        """The last line; returns the exit code."""
        self.part = "all"
        seconds = self._budget - self.left
        counts = {"passed": self._passed, "left_out": self._skipped, "failed": self.failed}
        self.say("end", right=not self.failed, seconds=seconds, **counts)
        return int(bool(self.failed))


def _short(value: Any) -> Any:
    """As JSON has it, floats without digits that mean nothing."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {key: _short(each) for key, each in value.items()}
    return [_short(each) for each in value] if isinstance(value, list | tuple) else value
