"""A job of several ranks on this machine: real processes, in the environment that submitit's local executor gives them.

They are forked from one that has imported what every rank imports, which takes longer than all that they do.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
from dataclasses import asdict
from itertools import count
from multiprocessing.context import ForkServerProcess
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
_FORKED = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload(["launcher.worker.training.train", "launcher.worker.evaluation.preference", "deepspeed"])


def new_attempt(config: RunConfig, run: RunDir) -> AttemptDir:
    """The next attempt of a run, as the launcher makes it."""
    plain = asdict(config)
    run.write_config({key: plain[key] for key in OBJECTIVE})
    return run.new_attempt(Attempt(settings={key: value for key, value in plain.items() if key not in OBJECTIVE}))


def new_job(folder: Path, *attempts: AttemptDir) -> Path:
    """A job's folder with its list of attempts."""
    write_once(folder / "job.json", {"attempts": [str(attempt.path) for attempt in attempts], "slots": None})
    return folder


def start(folder: Path, ranks: int = 2, before: str = "", **environment: str) -> list[ForkServerProcess]:
    """Start the job's ranks; each executes `before`, in which `rank` is its number, and then the job's entry point."""
    common = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]),
        "OMP_NUM_THREADS": "1",
        "TORCH_EXTENSIONS_DIR": str(EXTENSIONS),
        "SUBMITIT_EXECUTOR": "local",
        "SUBMITIT_LOCAL_JOB_ID": f"{os.getpid()}-{next(_STARTS)}",
        "SUBMITIT_LOCAL_NTASKS": str(ranks),
        **environment,
    }
    numbers = [{"SUBMITIT_LOCAL_GLOBALID": str(rank), "SUBMITIT_LOCAL_LOCALID": str(rank)} for rank in range(ranks)]
    processes = [_FORKED.Process(target=_be_rank, args=(folder, before, common | number)) for number in numbers]
    for process in processes:
        process.start()
    return processes


def _be_rank(folder: Path, before: str, environment: dict[str, str]) -> None:
    gc.freeze()  # what has been imported stays
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["-c", str(folder)]
    code = "import os, sys, pathlib; rank = int(os.environ['SUBMITIT_LOCAL_GLOBALID'])\n"
    code += f"{before}\nimport torch; torch.set_num_threads(1)\n"
    code += "from launcher.worker.job import work; work(pathlib.Path(sys.argv[1]))"
    exec(code, {})  # noqa: S102 - the tests' own


def finish(processes: list[ForkServerProcess], seconds: float = LONGEST_WAIT) -> list[int | None]:
    """Their exit codes, when all have ended."""
    try:
        return [exit_code(process, seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()


def exit_code(process: ForkServerProcess, seconds: float = LONGEST_WAIT) -> int | None:
    """Its exit code, once it has ended; None where it has not."""
    process.join(seconds)
    return process.exitcode
