"""What an interruption costs: the steps that are done again, and how long it is until the first new one.

    make bench
    python tests/benchmarks/resume.py [--json FILE]

One training of a small model, a checkpoint every EVERY steps, is interrupted AMID two of them, three times one after
the other, and goes on by the same command, which is typed when the one before has ended:

prefsweep   `python -m launcher -m ...` on this machine, as a user types it
TRL         a script around its DPOTrainer, which goes on with train(resume_from_checkpoint=True) where it can; the same
            model, pairs, batch, number of steps and interval
TRL, jit    the same with enable_jit_checkpoint=True, which is about SIGTERM

SIGTERM and SIGKILL go to the process that trains. So does what stands for the time limit, since a real one takes
minutes: SIGUSR2 for ours, whose jobs have SLURM send it before the limit, and SIGTERM for a script, which gets nothing
earlier. On SLURM our job would then go back into the queue by itself. Seconds count from the command to the end of the
first step that was not done before, CPU seconds (user and system) those of all processes that the command has started.
REPEATS in turn.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from measured import in_words, parser, record, table
from rich.console import Console

from launcher.config import Model
from launcher.store.output_folder import Store
from launcher.worker.model.base_model import ensure_base

sys.path.insert(0, str(Path(__file__).parent.parent))

from waiting import LONGEST_WAIT
from worker_fixtures import ARCHITECTURE, write_pairs

REPEATS = 3
EVERY, AMID = 10, 7  # steps between two checkpoints; how many after one the next interruption comes
STEPS = 1000  # none of them comes so far
POLL_SECONDS = 0.01
# Large enough that a step takes some tenths of a second, and an interruption comes where it is meant to.
LARGER = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4}
PAIRS, BATCH, MAX_LENGTH = 64, 16, 64

OURS, TRL, JIT = "prefsweep", "TRL", "TRL, jit"
FIRST = "nothing: the first start"
SIGNALS = {"SIGTERM": signal.SIGTERM, "the time limit": signal.SIGUSR2, "SIGKILL": signal.SIGKILL}
TO_A_SCRIPT = {**SIGNALS, "the time limit": signal.SIGTERM}
TO_JIT = {"SIGTERM": signal.SIGTERM}
LAUNCH = ("-m", "launcher", "-m", "model=./model", "dataset=./pairs", "trainer=full", "cluster=local", "hub=off",
          "tracking=off", "evaluation=none", "sweep=resume", f"trainer.max_steps={STEPS}",
          f"trainer.batch_size={BATCH}", f"trainer.micro_batch_size={BATCH}", f"trainer.max_length={MAX_LENGTH}",
          f"checkpoint.every={EVERY}")  # fmt: skip
SCRIPT = f"""
import json, sys, time
from pathlib import Path

from datasets import load_dataset
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer


class Log(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        with open("steps.jsonl", "a") as lines:
            lines.write(json.dumps({{"step": state.global_step, "time": time.time()}}) + "\\n")


arguments = DPOConfig(
    output_dir="out", max_steps={STEPS}, per_device_train_batch_size={BATCH}, max_length={MAX_LENGTH},
    learning_rate=2e-5, beta=0.1, seed=42, save_steps={EVERY}, save_total_limit=1, bf16=False,
    activation_checkpointing=False, logging_steps=1, report_to="none", disable_tqdm=True,
    enable_jit_checkpoint="jit" in sys.argv,
)
pairs = load_dataset("json", data_files="pairs/train.jsonl", split="train")
trainer = DPOTrainer(model="./model", args=arguments, train_dataset=pairs, callbacks=[Log()])
trainer.train(resume_from_checkpoint=any(Path("out").glob("checkpoint-*")))
"""


@dataclass(frozen=True)
class Step:
    """An optimizer step that is done; `time`: when, in seconds since 1970."""

    number: int
    time: float


@dataclass(frozen=True)
class Start:
    """Until the first new step: steps that were done before, and their seconds; all seconds, of clock and CPU."""

    steps_again: int
    seconds_again: float
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Way:
    """One way to train.

    Attributes:
        folder: where its command is typed.
        arguments: of Python.
        log: where its steps are logged, a pattern below the folder.
        signals: by what it is interrupted, in this order.
    """

    name: str
    folder: Path
    arguments: Sequence[str]
    log: str
    signals: Mapping[str, signal.Signals]

    def start(self) -> subprocess.Popen[bytes]:
        """Type the command."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HOME": str(self.folder / "hf")}
        with self.said.open("ab") as said:
            command = [sys.executable, *self.arguments]
            return subprocess.Popen(command, cwd=self.folder, env=environment, stdout=said, stderr=said)

    @property
    def said(self) -> Path:
        """What it has printed."""
        return self.folder / "said.log"

    def steps(self) -> list[Step]:
        """What is logged so far, in the order of time."""
        texts = [path.read_text(encoding="utf-8") for path in self.folder.glob(self.log)]
        lines = [json.loads(line) for text in texts for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [Step(line["step"], line["time"]) for line in lines]

    def trainer(self, process: subprocess.Popen[bytes]) -> int:
        """The process that trains: the script's own, or the run's last start."""
        starts = sorted(self.folder.glob("outputs/runs/*/starts/*.json"))
        return int(json.loads(starts[-1].read_text(encoding="utf-8"))["pid"]) if starts else process.pid


def main(file: Path | None) -> None:
    """Measure and print."""
    found: dict[tuple[str, str], list[Start]] = {}
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory() as folder:
            for way in ways(Path(folder)):
                for cause, start in starts(way):
                    record(file, "resume", cause=cause, way=way.name, **asdict(start))
                    found.setdefault((cause, way.name), []).append(start)
    show(found)


def ways(folder: Path) -> Iterator[Way]:
    """Each in a folder of its own, with the same model and pairs."""
    made = Model(name="tiny", architecture={**ARCHITECTURE, **LARGER}, dtype="float32")
    base = ensure_base(made, Store(folder / "made"))
    logs = {OURS: "outputs/runs/*/metrics.jsonl", TRL: "steps.jsonl", JIT: "steps.jsonl"}
    arguments = {OURS: LAUNCH, TRL: ("train.py",), JIT: ("train.py", "jit")}
    signals = {OURS: SIGNALS, TRL: TO_A_SCRIPT, JIT: TO_JIT}
    for number, (name, log) in enumerate(logs.items()):
        own = folder / str(number)
        shutil.copytree(base, own / "model")
        write_pairs(own / "pairs", train=PAIRS)
        (own / "train.py").write_text(SCRIPT, encoding="utf-8")
        yield Way(name, own, arguments[name], log, signals[name])


def starts(way: Way) -> Iterator[tuple[str, Start]]:
    """Its first start, and one after each interruption."""
    typed, process = time.time(), way.start()
    try:
        yield FIRST, started(way, process, typed, done=0)
        for cause, number in way.signals.items():
            last = way.steps()[-1].number
            due = last + 1 + (AMID - last - 1) % EVERY
            until(lambda steps, due=due: steps[-1].number >= due, way, process)
            os.kill(way.trainer(process), number)
            process.wait(LONGEST_WAIT)
            done = max(step.number for step in way.steps())
            typed, process = time.time(), way.start()
            yield cause, started(way, process, typed, done)
    finally:
        end(process)


def started(way: Way, process: subprocess.Popen[bytes], typed: float, done: int) -> Start:
    """Wait for the first step that is behind those that were done before."""

    def since(steps: Sequence[Step]) -> list[Step]:
        return [step for step in steps if step.time > typed]

    steps = since(until(lambda steps: any(step.number > done for step in since(steps)), way, process))
    cpu_seconds = sum(
        sum(each.cpu_times()[:4]) for each in processes(process)
    )  # with those of children that have ended
    again = [step for step in steps if step.number <= done]
    new = next(step for step in steps if step.number > done)
    return Start(len(again), new.time - steps[0].time, new.time - typed, cpu_seconds)


def until(
    is_so: Callable[[list[Step]], bool], way: Way, process: subprocess.Popen[bytes], seconds: float = LONGEST_WAIT
) -> list[Step]:
    """The steps that are logged, as soon as `is_so` of them."""
    last = time.monotonic() + seconds
    while not is_so(steps := way.steps()):
        is_going = process.poll() is None and time.monotonic() < last
        assert is_going, way.said.read_text(encoding="utf-8")[-3000:]
        time.sleep(POLL_SECONDS)
    return steps


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill it and what it has started."""
    if process.poll() is None:
        for each in processes(process):
            each.kill()
        process.wait()


def processes(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """It and all that it has started, and these have, and that are alive."""
    first = psutil.Process(process.pid)
    return [first, *first.children(recursive=True)]


def show(found: Mapping[tuple[str, str], Sequence[Start]]) -> None:
    """A row for each interruption and way."""
    numbers = ("steps again", "their seconds", "seconds to the first new one", "CPU seconds")
    shown = table("until the first new step", "after", "", *numbers, numbers=numbers)
    for cause, name in sorted(found, key=lambda key: [FIRST, *SIGNALS].index(key[0])):
        each = found[cause, name]
        shown.add_row(
            cause,
            name,
            in_words([start.steps_again for start in each], 0),
            in_words([start.seconds_again for start in each], 1),
            in_words([start.seconds for start in each], 1),
            in_words([start.cpu_seconds for start in each], 1),
        )
    Console(width=120).print(shown)


if __name__ == "__main__":
    main(parser(__doc__).parse_args().json)
