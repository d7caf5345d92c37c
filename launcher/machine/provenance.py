"""Where and with what something was submitted: commit, dirty or not, versions, host.

Owns: asking git and the installed packages. Must not know: runs, schedulers. Records no environment variable.
"""

from __future__ import annotations

import importlib.metadata
import platform
import socket
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from launcher.machine.users import our_name

PACKAGES = ("prefsweep", "torch", "transformers", "trl", "peft", "accelerate", "deepspeed", "datasets")


@cache
def provenance() -> dict[str, Any]:
    """Git commit of this code and whether it was changed since, versions, host, user.

    Of a checkout that git does not show us (None), be it nobody's or another user's, nothing is known.
    """
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return {
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": None if changes is None else bool(changes),
        "versions": {"python": platform.python_version(), **_versions()},
        "host": socket.gethostname(),
        "user": our_name(),
    }


def _versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _git(*arguments: str) -> str | None:
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():  # installed: a repository around site-packages is not ours
        return None
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
