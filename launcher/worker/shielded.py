"""Python, with the time limit's warning kept until it is asked for: python -m launcher.worker.shielded ARGUMENTS...

Owns: the time between a process's first line and `interruption`, which may be minutes of imports. SIGUSR2 would end
the process there, and the job fail; blocked, it waits, and the run saves as it would at any other time.
Must not know: what is run.
"""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    """Become the same command without our name in it; a blocked signal stays blocked, and pending, through exec."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    ours = sys.orig_argv.index("-m")
    os.execv(sys.executable, [*sys.orig_argv[:ours], *sys.orig_argv[ours + 2 :]])  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main()
