"""What happened: a line a fault, the invariants that were broken, and the table at the end.

Owns: the two logs below the folder of a fault run, what is printed. Must not know: how anything is injected or checked.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from strike import Kind, Struck


@dataclass
class Journal:
    """`faults.log` and `findings.log` in `folder`."""

    folder: Path
    began: float = field(default_factory=time.monotonic)
    injected: Counter[str] = field(default_factory=Counter)
    passed_over: Counter[str] = field(default_factory=Counter)
    by_hand: Counter[str] = field(default_factory=Counter)
    survived: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def say(self, text: str) -> None:
        """One line, with the time, to the terminal and the log."""
        line = f"{time.monotonic() - self.began:7.1f} s  {text}"
        with self.lock, (self.folder / "faults.log").open("a") as log:
            log.write(f"{line}\n")
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    def fault(self, number: int, of: int, kind: Kind, struck: Struck) -> None:
        """A fault was injected."""
        self.injected[kind.name] += 1
        where = f" [{struck.scene.name}]" if struck.scene else ""
        self.say(f"{number}/{of} {kind.name}: {struck.target}{where}")

    def find(self, invariant: str, where: str, text: str) -> None:
        """An invariant is broken; the same is told once."""
        finding = f"{invariant} [{where}]: {text}"
        with self.lock:
            if finding in self.findings:
                return
            self.findings.append(finding)
            with (self.folder / "findings.log").open("a") as log:
                log.write(f"{time.monotonic() - self.began:.1f} s  {finding}\n")
        self.say(f"BROKEN  {finding}")

    def table(self) -> str:
        """How often each kind was injected, and how often all invariants held until the sweep that it hit had ended."""
        width = max(map(len, self.injected), default=4)
        rows = [f"{'kind':{width}}  injected  survived"]
        rows += [f"{name:{width}}  {count:8}  {self.survived[name]:8}" for name, count in sorted(self.injected.items())]
        total = sum(self.injected.values())
        return "\n".join([*rows, f"{'all':{width}}  {total:8}  {sum(self.survived.values()):8}"])
