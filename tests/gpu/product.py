"""The launcher of this checkout as a user and a scheduler run it: processes, in a folder of their own.

Owns: the model, the pairs and the settings that runs have in common; launching, waiting for a step, sending signals.
Must not know: what has to follow from it.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import Machine
from results import Results

from launcher.store.facts import JobList
from launcher.store.files import read_lines
from launcher.store.run_folder import AttemptDir, RunDir
from launcher.store.work_list import write_works
from launcher.submission.submit import new_attempt_here

REPOSITORY = Path(__file__).resolve().parent.parent.parent
ARCHITECTURE = {
    "model_type": "llama", "seed": 0, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "max_position_embeddings": 2048,
    "tie_word_embeddings": "true",
}  # fmt: skip
REAL = {
    "model.name": "shape-135m",
    "model.dtype": "bfloat16",
    "model.architecture": "{" + ",".join(f"{key}:{value}" for key, value in ARCHITECTURE.items()) + "}",
}
STEPS = 60  # of a run
COMMON: dict[str, object] = {
    "cluster": "local", "tracking": "off", "model": "tiny", "trainer": "full", "trainer.max_steps": STEPS,
    "trainer.batch_size": 8, "trainer.micro_batch_size": 4, "trainer.max_length": 256, "checkpoint.every": 10000,
}  # fmt: skip
WORDS = ("film", "was", "long", "and", "warm", "or", "cold", "a", "hero", "ran", "far", "from", "his", "town")
SHORT, LONG = (4, 16), (40, 120)  # words of an answer: within 256 tokens of one byte, and beyond 1024
JOB_ID = "4242"
PATIENCE = 600.0  # seconds that one process may take, on a machine that has other work too
POLL_SECONDS = 0.02
SOME_STEPS = 8
LAST_SECONDS = 20.0


@dataclass(frozen=True)
class Product:
    """The launcher, for runs that are written below the machine's folder."""

    machine: Machine
    results: Results

    @property
    def rate(self) -> float:
        """A learning rate that changes weights."""
        return 1e-3 if self.machine.tiny else 2e-5

    def words(self, output: str, more: Mapping[str, object], pairs: str = "short") -> list[str]:
        """A command line: what runs have in common, and more. `output`: their folder, and their sweep's name."""
        write_pairs(self.machine.folder / pairs, LONG if pairs == "long" else SHORT)
        settings = COMMON | ({} if self.machine.tiny else REAL) | {"dataset": f"./{pairs}"} | dict(more)
        settings |= {"output_dir": output, "sweep": output}
        return ["-m", "launcher", "-m", *(f"{key}={value}" for key, value in settings.items())]

    @property
    def of_one_run(self) -> dict[str, object]:
        """What makes a command line one of a single run, whose weights alone are of interest."""
        rate = {"trainer.learning_rate": f"{self.rate:g}"}
        return rate | {"loss_type": "ipo", "evaluation": "none", "hub": "off"}

    def start(self, words: Sequence[str], **environment: str) -> subprocess.Popen[bytes]:
        """Start Python with these words; what it prints goes to the end of a log."""
        with (self.machine.folder / "processes.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *words],
                cwd=self.machine.folder,
                env=environment_with(**environment),
                stdout=log,
                stderr=log,
            )

    def finish(self, process: subprocess.Popen[bytes]) -> int:
        """Its exit code.

        Raises:
            TimeoutExpired: it has not ended in time, and was asked to end, then killed.
        """
        try:
            return process.wait(timeout=max(1.0, min(PATIENCE, self.results.left)))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # by which a launcher asks its jobs to end
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=LAST_SECONDS)
            process.kill()
            raise

    def launched(self, words: Sequence[str]) -> int:
        """The exit code of a launch, which follows its runs to their ends."""
        return self.finish(self.start(words))

    def runs(self, output: str) -> list[RunDir]:
        """Those of an output folder."""
        folder = self.machine.folder / output / "runs"
        return [RunDir(path) for path in sorted(folder.iterdir())] if folder.is_dir() else []

    def states(self, output: str) -> list[dict[str, Any]]:
        """What `status` says of a sweep."""
        done = subprocess.run(
            [sys.executable, "-m", "launcher", "status", output, "--output-dir", output, "--json"],
            cwd=self.machine.folder,
            env=environment_with(),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        )
        found: list[dict[str, Any]] = json.loads(done.stdout)["runs"]
        return found

    def alone(self, output: str) -> RunDir:
        """A single run, launched and left in peace."""
        self.launched(self.words(output, self.of_one_run))
        (run,) = self.runs(output)
        return run

    def in_peace(self, like: RunDir) -> RunDir:
        """The single run with the id of another: that of the sweep, where it was made."""
        known = (RunDir(self.machine.folder / output / "runs" / like.run_id) for output in ("sweep", "in_peace"))
        return next((run for run in known if run.result_file.exists()), None) or self.alone("in_peace")

    def interrupted(self, process: subprocess.Popen[bytes], output: str, number: int) -> int:
        """Send a signal to what trains the only run there, a few steps after now; the exit code of `process`.

        `process`: the launcher of the run's job, or the job.
        """
        until, before = time.monotonic() + PATIENCE, sum(map(_steps, self.runs(output)))
        while sum(map(_steps, self.runs(output))) < before + SOME_STEPS:
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the run of {output} was to be stopped on its way; its process has ended, or hangs")
            time.sleep(POLL_SECONDS)
        (run,) = self.runs(output)
        last = max(run.starts.iterdir(), key=lambda path: path.name)
        os.kill(json.loads(last.read_text())["pid"], number)
        return self.finish(process)

    def new_job(self, run: RunDir) -> tuple[Path, AttemptDir]:
        """The folder of a batch of one job, with a new attempt at the run."""
        attempt = new_attempt_here(run)
        batch = self.machine.folder / f"batch-{run.run_id}-{attempt.number}"
        write_works(batch, [JobList([str(attempt.path)])])
        return batch, attempt

    def as_slurm(self, batch: Path, restart: int) -> subprocess.Popen[bytes]:
        """Start that job as a task of SLURM, whose scontrol notes what it is asked."""
        tools = self.machine.folder / "tools"
        tools.mkdir(exist_ok=True)
        (tools / "scontrol").write_text(f'#!/bin/sh\necho "$@" >>{self.asked}\n')
        (tools / "scontrol").chmod(0o755)
        task = {"SLURM_JOB_ID": JOB_ID, "SLURM_PROCID": "0", "SLURM_RESTART_COUNT": str(restart)}
        path = os.pathsep.join([str(tools), os.environ["PATH"]])
        return self.start(["-m", "launcher.worker.start", str(batch)], PATH=path, **task)

    @property
    def asked(self) -> Path:
        """What scontrol was asked."""
        return self.machine.folder / "asked"


def environment_with(**more: str) -> dict[str, str]:
    """This process's, in which the checkout is found."""
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, **more}


def _steps(run: RunDir) -> int:
    return len(read_lines(run.metrics_file))


def write_pairs(folder: Path, words: tuple[int, int], train: int = 64, test: int = 8) -> None:
    """A folder with train.jsonl and test.jsonl of made-up sentences of so many words, the same each time."""
    draw = random.Random(0)  # noqa: S311 - made-up text

    def sentence() -> str:
        return " " + " ".join(draw.choice(WORDS) for _ in range(draw.randint(*words)))

    folder.mkdir(exist_ok=True)
    for split, count in (("train", train), ("test", test)):
        rows = [{"prompt": "Story:", "chosen": sentence(), "rejected": sentence()} for _ in range(count)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
