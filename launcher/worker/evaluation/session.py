"""A program in a session of its own, which does not outlive this process.

Owns: its start and its end, that of all that it has started, also where this process is killed; that our GPUs stay
taken as long as any of it lives. Must not know: what the program does, how long it may take.

Nothing of ours runs any more in a process that was killed. So a small one waits beside each program (python -m
launcher.worker.evaluation.session), with a pipe for its lifeline, on which it is told the program's session.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from launcher.machine import dealing
from launcher.machine.processes import session_members

GRACE_SECONDS = 10  # between SIGTERM and SIGKILL
POLL_SECONDS = 0.1


@contextlib.contextmanager
def session(argv: Sequence[str], output: BinaryIO) -> Iterator[subprocess.Popen[bytes]]:
    """The program, started; however this is left, nothing of its session remains.

    Raises:
        OSError: it cannot be started.
    """
    with _beside() as line:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, start_new_session=True, pass_fds=dealing.descriptors()
        )
        try:
            with contextlib.suppress(BrokenPipeError):  # somebody has ended it, and we end the program as well
                os.write(line, str(process.pid).encode())
            yield process
        finally:
            end(process.pid)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_SECONDS)


@contextlib.contextmanager
def _beside() -> Iterator[int]:
    """Within, a process ends the session whose number it is told by this pipe, should the pipe be closed."""
    read, write = os.pipe()
    try:
        beside = subprocess.Popen([sys.executable, "-P", "-m", __name__], stdin=read, start_new_session=True)
    except OSError:
        os.close(write)
        raise
    finally:
        os.close(read)
    try:
        yield write
    finally:
        beside.kill()  # before the pipe is closed: there is nothing left to end
        beside.wait()
        os.close(write)


def end(leader: int) -> None:
    """Have all processes of the leader's session end, by force those that have not in time."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for member in session_members(leader):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(member, number)
        until = time.monotonic() + GRACE_SECONDS
        while session_members(leader) and time.monotonic() < until:
            time.sleep(POLL_SECONDS)


def main() -> None:
    """Wait until the other process has ended, then end what it has left."""
    for number in (signal.SIGINT, signal.SIGTERM):  # it ends with the other
        signal.signal(number, signal.SIG_IGN)
    with open(0, "rb", closefd=False) as line:
        told = line.read()
    if told:
        end(int(told))


if __name__ == "__main__":
    main()
