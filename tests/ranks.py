"""A job of several ranks on this machine: real processes, as submitit's local executor starts them."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import asdict
from itertools import count
from pathlib import Path

from waiting import LONGEST_WAIT

from launcher.config import OBJECTIVE, RunConfig
from launcher.store.facts import Attempt
from launcher.store.files import write_once
from launcher.store.run_folder import AttemptDir, RunDir

TESTS = Path(__file__).parent
# Where DeepSpeed's one compiled operator is kept from one test run to the next.
EXTENSIONS = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or TESTS.parent / ".venv" / "torch_extensions")
_STARTS = count()


def new_attempt(config: RunConfig, run: RunDir) -> AttemptDir:
    """The next attempt of a run, as the launcher makes it."""
    plain = asdict(config)
    run.write_config({key: plain[key] for key in OBJECTIVE})
    return run.new_attempt(Attempt(settings={key: value for key, value in plain.items() if key not in OBJECTIVE}))


def new_job(folder: Path, *attempts: AttemptDir) -> Path:
    """A job's folder with its list of attempts."""
    write_once(folder / "job.json", {"attempts": [str(attempt.path) for attempt in attempts], "slots": None})
    return folder


def start(folder: Path, ranks: int = 2, before: str = "", **environment: str) -> list[subprocess.Popen[bytes]]:
    """Start the job's ranks; each executes `before`, in which `rank` is its number, and then the job's entry point."""
    begun = f"{os.getpid()}-{next(_STARTS)}"
    code = "import os, sys, pathlib; rank = int(os.environ['SUBMITIT_LOCAL_GLOBALID'])\n"
    code += f"{before}\nfrom launcher.worker.job import work; work(pathlib.Path(sys.argv[1]))"
    common = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]),
        "OMP_NUM_THREADS": "1",
        "TORCH_EXTENSIONS_DIR": str(EXTENSIONS),
        "SUBMITIT_EXECUTOR": "local",
        "SUBMITIT_LOCAL_JOB_ID": begun,
        "SUBMITIT_LOCAL_NTASKS": str(ranks),
        **environment,
    }
    return [
        subprocess.Popen(
            [sys.executable, "-c", code, str(folder)],
            env={**common, "SUBMITIT_LOCAL_GLOBALID": str(rank), "SUBMITIT_LOCAL_LOCALID": str(rank)},
        )
        for rank in range(ranks)
    ]


def finish(processes: list[subprocess.Popen[bytes]], seconds: float = LONGEST_WAIT) -> list[int]:
    """Their exit codes, when all have ended."""
    try:
        return [process.wait(timeout=seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
