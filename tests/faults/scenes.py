"""The sweeps that run while faults are injected, each in a folder of its own.

Owns: what is launched (SHAPES), the command lines and their answers, where a scene's files lie.
Must not know: which fault strikes it, what must hold of it.
"""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from living import Rank, ranks_below

IN_FLIGHT = ("PENDING", "RUNNING")
UNDER_WAY = ("evaluating", "waits to be evaluated")
UNMOUNT = ("umount", "--lazy")


@dataclass(frozen=True)
class Shape:
    """A sweep: the overrides that are its own, the processes of one run, where it is published."""

    name: str
    words: tuple[str, ...]
    ranks: int = 1
    executor: str = "slurm"
    store: str = "folder"
    own_disk: bool = False
    tracker: str = "off"


ARRAY = Shape("array", ("loss_type=sigmoid,ipo", "beta=0.1,0.3"))
DISK = Shape("disk", ("loss_type=ipo", "beta=0.1,0.3", "cluster.runs_per_job=2"), own_disk=True)
JOINT = Shape("joint", ("loss_type=ipo", "beta=0.1,0.3", "cluster.nodes=2", "deepspeed=zero3"), ranks=2)
PACKED = Shape(
    "packed",
    ("loss_type=kto_pair,sigmoid", "beta=0.1", "cluster.runs_per_job=2"),
    store="huggingface",
    tracker="tensorboard",
)
LOCAL = Shape("local", ("loss_type=sigmoid", "beta=0.1,0.3"), executor="local")
SHAPES = (ARRAY, JOINT, PACKED, LOCAL, DISK)
# All runs of one rank, for the truth about them.
ALONE = Shape("alone", ("loss_type=sigmoid,ipo,kto_pair", "beta=0.1,0.3"), executor="local")


@dataclass(frozen=True)
class Length:
    """How long a run is: optimizer steps, and seconds that each lasts at least."""

    steps: int
    step_seconds: float


@dataclass
class Answer:
    """What a command has answered."""

    code: int
    output: str
    errors: str
    began: float
    ended: float


@dataclass
class Scene:
    """A sweep in its folder; `environment` is that of whoever launches it."""

    name: str
    shape: Shape
    folder: Path
    environment: dict[str, str]
    words: tuple[str, ...]
    outputs: str = "outputs"
    disk: Path | None = None  # where it lies on one of its own
    began: float = field(default_factory=time.monotonic)
    launcher: subprocess.Popen[str] | None = None
    others: list[subprocess.Popen[str]] = field(default_factory=list)  # launchers beside that one
    launched: float = 0.0
    launches: int = 0
    answered: Answer | None = None  # the last launch's
    seen: list[dict[str, Any]] = field(default_factory=list)  # by the last status that answered
    seen_at: float = 0.0
    complaint: str = ""  # what status said last instead
    is_unknown: bool = False  # whether that was that there is no such sweep
    released: float = 0.0  # when jobs of its were released last that SLURM held
    struck_at: float = 0.0  # by a fault of its own
    met_at: float = 0.0  # by any
    injured: dict[Path, bytes] = field(default_factory=dict)  # what a file held before we damaged it
    torn_steps: dict[str, set[int]] = field(default_factory=dict)  # whose lines we took from a run's log
    deaths: list[int] = field(default_factory=list)  # the system calls at which its next launches are killed
    login: dict[str, str] = field(default_factory=dict)  # what differs where its user sits, if not at home
    numbers: Iterator[int] = field(default_factory=itertools.count)  # of its commands

    @property
    def root(self) -> Path:
        """The output folder."""
        return self.folder / self.outputs

    @property
    def command(self) -> tuple[str, ...]:
        """What launches it, each time the same but for a folder that was moved."""
        return ("-m", *self.words, f"output_dir={self.outputs}")

    def runs(self) -> list[Path]:
        """The folders of its runs."""
        return sorted(path for path in self.root.glob("runs/*") if path.is_dir())

    def ranks(self) -> list[Rank]:
        """Its processes that train, or are about to."""
        return ranks_below(self.folder)

    def start(self, *arguments: str, within: Sequence[str] = (), **variables: str) -> subprocess.Popen[str]:
        """Start a command of prefsweep, `within` another; its output goes into files of their own."""
        said = self.folder.parent / "said" / self.name  # not on its disk, which may be full
        said.mkdir(parents=True, exist_ok=True)
        name = f"{next(self.numbers):04d}.{arguments[0].strip('-')}"
        with (said / f"{name}.out").open("w") as out, (said / f"{name}.err").open("w") as err:
            process = subprocess.Popen(
                [*within, sys.executable, "-m", "launcher", *arguments],
                cwd=self.folder,
                env={**self.environment, **self.login, **variables},
                stdout=out,
                stderr=err,
                text=True,
            )
        process.said = said / name  # type: ignore[attr-defined]
        return process

    def launch(self, **variables: str) -> None:
        """Start the launch command."""
        self.launched, self.launches = time.monotonic(), self.launches + 1
        within = self.killed_at(self.deaths.pop(0)) if self.deaths else ()
        self.launcher = self.start(*self.command, "--json", within=within, **variables)

    def type(self, verb: str, *words: str) -> None:
        """Start a verb that takes the place of a launch."""
        self.launched, self.launches = time.monotonic(), self.launches + 1
        self.launcher = self.start(verb, *words, f"--output-dir={self.outputs}")

    def killed_at(self, call: int) -> tuple[str, ...]:
        """The command within which another is killed at that system call; with 0 its calls are counted."""
        return str(self.folder.parent / "kill_at"), str(call)

    def cancel(self, **how: Any) -> None:
        """Start `cancel` of the whole sweep; `how`: as in `start`."""
        self.others.append(self.start("cancel", self.name, f"--output-dir={self.outputs}", **how))

    def answer_of(self, process: subprocess.Popen[str], began: float) -> Answer:
        """What a command that has ended has said."""
        texts = [Path(f"{process.said}{end}").read_text(errors="replace") for end in (".out", ".err")]  # type: ignore[attr-defined]
        return Answer(process.returncode, *texts, began, time.monotonic())

    def ask(self) -> Answer:
        """`status --json`, now."""
        began = time.monotonic()
        process = self.start("status", self.name, "--json", f"--output-dir={self.outputs}")
        process.wait(timeout=300)
        answer = self.answer_of(process, began)
        if answer.code == 0:
            for end in (".out", ".err"):
                Path(f"{process.said}{end}").unlink()  # type: ignore[attr-defined]
        return answer

    def is_quiet(self) -> bool:
        """Whether nothing is in flight, by a status that is younger than all that was done to the scene."""
        if self.launcher is not None or self.others or self.seen_at < max(self.launched, self.struck_at) + 1:
            return False
        return not any(run["status"] in IN_FLIGHT or str(run["reason"]).startswith(UNDER_WAY) for run in self.seen)

    def has_failed_to_launch(self) -> bool:
        """Whether the last launch was refused, or its launcher has died: the sweep may not even be known."""
        refused = self.answered is not None and self.answered.code != 0
        return self.launcher is None and (refused or self.is_unknown)

    def is_done(self) -> bool:
        """Whether every run is trained and published, as status says."""
        return bool(self.seen) and all(run["status"] == "TRAINED" and run["address"] for run in self.seen)

    def remove(self) -> None:
        """Nothing of it is needed any more."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.disk is not None:
            subprocess.run([*UNMOUNT, self.disk], check=True)
            self.folder.rmdir()


def parsed(answer: Answer) -> list[dict[str, Any]]:
    """The runs that `status --json` tells.

    Raises:
        ValueError: it says something else.
    """
    runs: list[dict[str, Any]] = json.loads(answer.output)["runs"]
    return runs
