"""A place to launch from: a cluster of `slurm_cluster`, a folder that its nodes share, and the code installed there."""

from __future__ import annotations

import compileall
import json
import py_compile
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from conftest import REPOSITORY, clean_environment
from slurm_cluster import DevCluster
from waiting import LONGEST_WAIT, eventually
from worker_fixtures import write_pairs

STAND_IN = """
import json, os, signal, sys, time
from pathlib import Path

VERSION = 1

def work(folder):
    job = json.loads((folder.parent / "work.json").read_text())["jobs"][int(folder.name)]
    if "prepare" in job:
        if os.environ.get("PREPARE_FAILS") == "is killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if os.environ.get("PREPARE_FAILS") == "raises":
            (folder.parent / "failure.json").write_text('{"reason": "the weights are torn"}')
            sys.exit(1)
        (folder.parent.parent / "done.json").write_text("{}")
        return
    for path in map(Path, job["attempts"]):
        run = path.parent.parent
        path.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".evaluation" and not (run / "result.json").exists():
            (path / "failure.json").write_text('{"reason": "nothing to evaluate", "status": "FAILED"}')
            sys.exit(1)
        started = {"version": VERSION, "pid": os.getpid(), "host": os.environ["SLURMD_NODENAME"]}
        (path / "started.json").write_text(json.dumps({**started, "environment": dict(os.environ)}))
        if path.suffix == ".evaluation":
            (run / "evaluations").mkdir(exist_ok=True)
            (run / "evaluations" / "command.json").write_text('{"scores": {}}')
            continue
        time.sleep(float(os.environ.get("STAND_IN_SECONDS", "0")))
        while os.environ.get("GATE") and not Path(os.environ["GATE"]).exists():
            time.sleep(0.1)
        if os.environ.get("TRAINING_FAILS"):
            (path / "failure.json").write_text('{"reason": "the loss is not a number", "status": "FAILED"}')
            sys.exit(1)
        (run / "evaluation.json").write_text("{}")
        (run / "result.json").write_text('{"steps": 1, "max_steps": 1, "seconds": 1.0}')
"""
TINY = ["-m", "model=tiny", "dataset=./pairs", "trainer=full", "cluster=slurm", "cluster.gpus_per_node=0"]


@dataclass(frozen=True)
class Site:
    """A cluster, a folder that its nodes share, and the code that is installed there."""

    cluster: DevCluster
    folder: Path
    code: Path
    variables: tuple[tuple[str, str], ...] = ()

    def at(self, name: str, **variables: str) -> Site:
        """The same in a fresh folder, with more environment variables."""
        folder = self.folder.parent / name
        folder.mkdir()
        write_pairs(folder / "pairs")
        return replace(self, folder=folder, variables=tuple(variables.items()))

    @property
    def max_array_size(self) -> int:
        lines = self.cluster.slurm("scontrol", "show", "config").splitlines()
        return int(next(line.split("=")[1] for line in lines if line.startswith("MaxArraySize")))

    @property
    def environment(self) -> dict[str, str]:
        python = {"PYTHONPATH": str(self.code), "PYTHONDONTWRITEBYTECODE": "1"}
        return clean_environment(**{**self.cluster.environment, **python, **dict(self.variables)})

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "launcher", *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def launch(self, *arguments: str, code: int = 0) -> str:
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=LONGEST_WAIT)
        assert process.returncode == code, output
        return output

    def status(self, sweep: str, *options: str) -> list[dict[str, object]]:
        runs: list[dict[str, object]] = json.loads(self.launch("status", sweep, "--json", *options))["runs"]
        return runs

    def counts(self, sweep: str, *options: str) -> Counter[object]:
        return Counter(run["status"] for run in self.status(sweep, *options))

    def jobs(self, sweep: str) -> list[str]:
        """The ids of the jobs that SLURM knows for a sweep's runs, in its queue or a short time ago."""
        return [job for job, name in self._named(sweep) if ".prepare." not in name and ".evaluate." not in name]

    def evaluations(self, sweep: str) -> list[str]:
        """The ids of those that evaluate what others have trained."""
        return [job for job, name in self._named(sweep) if ".evaluate." in name]

    def tables(self, sweep: str) -> list[str]:
        """The ids of those that make a reference table for it."""
        return [job for job, name in self._named(sweep) if ".prepare." in name]

    def _named(self, sweep: str) -> list[list[str]]:
        lines = self.cluster.slurm("squeue", "-h", "-r", "-t", "all", "-o", "%i %j").splitlines()
        return [line.split() for line in lines if line.split()[1].startswith(f"{sweep}.")]

    def recorded(self) -> list[str]:
        """The job ids that the launcher has recorded."""
        asked = [json.loads(path.read_text()) for path in self.folder.glob("outputs/runs/*/attempt-*.json")]
        files = [(Path(each["batch"]) / "jobs.json", each["index"]) for each in asked if each["batch"]]
        byhand = self.folder.glob("outputs/runs/*/attempts/*/job.json")
        found = [json.loads(file.read_text())["jobs"][index]["job_id"] for file, index in files if file.exists()]
        return [*found, *(json.loads(file.read_text())["job_id"] for file in byhand)]

    def run(self, beta: object = "*") -> Path:
        (run,) = self.folder.glob(f"outputs/runs/tiny-*-beta{beta}-*")
        return run

    def wait(self, sweep: str, status: str, count: int, seconds: float = LONGEST_WAIT) -> None:
        """Until so many runs of the sweep are in that state."""
        if not eventually(lambda: self.counts(sweep)[status] == count, seconds):
            logs = [path.read_text()[-2000:] for path in self.folder.glob("outputs/sweeps/*/jobs/*/*.out")]
            raise AssertionError(self.launch("status", sweep) + "\n".join(logs))


def checkout(folder: Path) -> Path:
    """A copy of this checkout with the stand-in for a worker; compiled, but for what a test changes later."""
    for name in ("launcher", "conf", "sweeps", "slurm"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "launcher" / "worker" / "job.py").write_text(STAND_IN)
    compileall.compile_dir(folder, quiet=1, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)
    return folder
