"""What trackers left offline, told to W&B from here: the runs of a sweep, several attempts becoming one W&B run.

Owns: which runs have something left, how each is uploaded, and whether that came about.
Must not know: how a run is tracked; schedulers (it is told which runs are in flight).

Each attempt leaves a folder of its own with the run's whole curve so far. Where W&B has nothing of a run, `wandb sync`
uploads the newest folder, with the machine's metrics. Where it may have a part of it, that would be there twice, since
`wandb sync` appends (wandb 0.31); so the tracker goes on with the run online, from the step that W&B names.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import UsageError
from launcher.machine.accounts import answers, installed, lacks_login, server, shown
from launcher.store.attempts import Attempts
from launcher.store.run_folder import RunDir
from launcher.tracking.wandb_tracker import IDENTITY

FOLDER = re.compile(r"(offline-)?run-(?P<start>\d{8}_\d{6})-.+")


@dataclass(frozen=True)
class Uploaded:
    """How an upload ended: the runs that W&B has now, those that it has not, and the last words on these."""

    done: tuple[RunDir, ...]
    left: tuple[RunDir, ...]
    words: str = ""


def pending(runs: Iterable[RunDir]) -> list[RunDir]:
    """The runs whose newest W&B folder has not been delivered."""
    return [run for run in runs if (folders := _folders(run)) and not _is_delivered(folders[-1])]


def _folders(run: RunDir) -> list[Path]:
    """The W&B folders of a run with something in them, oldest first."""
    found = [
        path for path in run.tracking.glob("wandb/*run-*") if FOLDER.fullmatch(path.name) and not path.is_symlink()
    ]
    return sorted((path for path in found if list(path.glob("*.wandb"))), key=_start)


def _start(folder: Path) -> str:
    match = FOLDER.fullmatch(folder.name)
    return match["start"] if match else ""


def _is_delivered(folder: Path) -> bool:
    """Whether wandb's own mark is there, which the tracker also sets when an online run has been delivered."""
    return any(folder.glob("*.wandb.synced"))


def _may_be_known(run: RunDir) -> bool:
    """Whether W&B may have a part of the run already."""
    return any(_is_delivered(folder) or not folder.name.startswith("offline-") for folder in _folders(run))


def upload(runs: list[RunDir]) -> Uploaded:
    """Tell W&B what it has not been told of these runs; nothing is asked at the terminal.

    Raises:
        UsageError: wandb is not installed, has no key here, or its server does not answer.
    """
    if not runs:
        return Uploaded((), ())
    _require_account()
    known = [run for run in runs if _may_be_known(run)]
    words, logs = [_continue_online(run) for run in known], runs[0].tracking
    if new := [run for run in runs if run not in known]:
        words.append(_run([sys.executable, "-m", "wandb", "sync", *(str(_folders(run)[-1]) for run in new)], logs))
    left = tuple(pending(runs))
    return Uploaded(tuple(run for run in runs if run not in left), left, next(filter(None, reversed(words)), ""))


def _require_account() -> None:
    if not installed("wandb"):
        raise UsageError("sync: wandb is not installed here; pip install 'prefsweep[wandb]'")
    if lacking := lacks_login():
        raise UsageError(f"sync: {lacking}")
    if not answers(server()):
        raise UsageError(f"sync: {shown(server())} does not answer; try again later, or set WANDB_BASE_URL")


def _continue_online(run: RunDir) -> str:
    """Let the tracker tell W&B the rest of a run that is not in flight."""
    word = "done" if run.result_file.exists() else "ended"
    last = Attempts.of(run).trainings[-1]
    command = [sys.executable, "-P", "-m", "launcher.tracking.process", str(last.path), "wandb", "online"]
    return _run(command, run.tracking, word)


def _run(command: list[str], logs: Path, told: str = "") -> str:
    """Run a command and return its last line; wandb keeps its own logs below `logs`, not below the user's folder."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
    environment = {
        name: value for name, value in os.environ.items() if name != "WANDB_MODE" and not IDENTITY.fullmatch(name)
    }
    environment |= {"NO_COLOR": "1", "PYTHONPATH": path, "WANDB_DIR": str(logs)}
    environment["WANDB__DISABLE_STATS"] = "true"  # this machine's load is none of the run's
    ended = subprocess.run(command, input=told, capture_output=True, text=True, check=False, env=environment)
    lines = [line for line in (ended.stderr + ended.stdout).splitlines() if line.strip()]
    return lines[-1] if lines else ""
