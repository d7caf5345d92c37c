"""DeepSpeed's operators, which torch compiles when they are first needed: one process at a time, the others after it.

Owns: the lock around that. Must not know: which operators there are, who needs them.

torch's own lock is a file that is there: it stays when a job is killed while it compiles, and every later job waits for
it for ever, in silence.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from torch.utils import cpp_extension

from launcher.store.locks import turn


class Baton:
    """Stands for torch's lock, and goes with its holder. Whoever has waited looks himself what is left to compile."""

    def __init__(self, lock_file_path: str) -> None:
        self._lock = Path(f"{lock_file_path}.held")
        self._turn = contextlib.ExitStack()

    def try_acquire(self) -> bool:
        """Wait for one's turn; there is then nobody to wait for."""
        self._turn.enter_context(turn(self._lock, f"another process that compiles {self._lock.parent.name}"))
        return True

    def release(self) -> None:
        """Let the next one."""
        self._turn.close()


def take_turns() -> None:
    """Have torch use this lock from now on."""
    cpp_extension.FileBaton = Baton  # type: ignore[attr-defined, assignment]
