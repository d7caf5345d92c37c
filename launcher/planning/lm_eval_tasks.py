"""Whether the installed lm_eval knows the tasks that a sweep asks for.

Owns: reading the names of its tasks, and where they are remembered. Must not know: how lm_eval is run.

Reading the names takes lm_eval some ten seconds, so that a process of its own does it once for each version.
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from launcher.errors import ConfigError, suggestion
from launcher.machine.terminal import complain
from launcher.machine.user_cache import user_cache
from launcher.store.files import write_derived

MOST_SECONDS = 120
_NAMES = "import json; from lm_eval.tasks import TaskManager; print(json.dumps(TaskManager().all_tasks))"


def check_tasks(tasks: Iterable[str]) -> None:
    """Check that each is a task, a group or a pattern of such, or lies in files; those of files only lm_eval can read.

    Raises:
        ConfigError: there is no such task.
    """
    named = [name for task in tasks for name in task.split(",") if "/" not in name and not Path(name).exists()]
    known = _known() if named else []
    for name in named if known else ():
        if not fnmatch.filter(known, name):
            remedy = f"the installed lm_eval has no such task{suggestion(name, known)}; `lm_eval ls tasks` lists them"
            raise ConfigError("evaluation.lm_eval.tasks", name, remedy)


def _known() -> Sequence[str]:
    """The names of its tasks, groups and tags; none where they cannot be read, which is left to the jobs."""
    try:
        file = user_cache(os.environ) / "lm_eval_tasks" / f"{version('lm_eval')}.json"
    except PackageNotFoundError:
        return []
    with contextlib.suppress(OSError, ValueError):
        return [str(name) for name in json.loads(file.read_text(encoding="utf-8"))]
    complain("reading the names of lm_eval's tasks (once for this version) ...")
    try:
        names = _read()
    except (subprocess.SubprocessError, OSError, ValueError, IndexError):
        return []
    with contextlib.suppress(OSError):
        write_derived(file, json.dumps(names))
    return names


def _read() -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", _NAMES],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=MOST_SECONDS,
        check=True,
    )
    return [str(name) for name in json.loads(done.stdout.strip().splitlines()[-1])]
