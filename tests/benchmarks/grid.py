"""What a grid costs end to end, by the product and by plain TRL: python tests/benchmarks/grid.py.

    --only uf-full     one cell, or several with commas: {uf,orca,demo}-{full,lora}
    --repeats N        each side so often, in turn
    --quick            one repeat of demo-full, or of the cells given
    --json FILE        a line of JSON for each repeat, added at once

Six runs, {sigmoid, ipo, kto_pair} x 2 betas, of one model on the same pairs in the same order for as many steps. The
product makes them as a user has them made: one launch in a folder, nothing evaluated, nothing published. TRL makes each
in a process of its own, with a live reference model. Both have one thread.

Seconds are those of the CPU, user and system, of all processes that a side starts. Compute is what lies within
reference passes and trainings, clocked by the processes themselves; start-up is all the rest: imports, planning, models
and data that are read, and models that are saved. A ratio of compute is that of one run of TRL's to ours with its sixth
of the reference pass, so each repeat has six. Final weights are compared run by run.

The grids are short, so start-up weighs more, and the reference pass no less, than where a run takes an hour.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measured import in_words, parser, record
from rich.console import Console
from rich.table import Table
from safetensors.numpy import load_file
from workload import LEARNING_RATE, LONGEST, LORA, costs, ratios, typical_pairs, write_model, write_pairs

from launcher.worker.dataset.lengths import Lengths

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
LOSSES, BETAS = ("sigmoid", "ipo", "kto_pair"), (0.1, 0.5)
RUNS = [(loss_type, beta) for loss_type in LOSSES for beta in BETAS]
SEED = 42
SUBREAPER = 36  # prctl's PR_SET_CHILD_SUBREAPER: who is left behind by our children becomes our child


@dataclass(frozen=True)
class Cell:
    """A grid: how long its pairs are, what is trained, how many steps of how many pairs, and how often it is made."""

    data: str
    lora: bool
    steps: int
    micro_batch: int
    repeats: int

    @property
    def pairs(self) -> Lengths:
        """How long its pairs are."""
        return typical_pairs(self.data, self.steps * self.micro_batch, self.micro_batch)


CELLS = {
    f"{data}-{'lora' if lora else 'full'}": Cell(data, lora, *size)
    for data, size in {"uf": (1, 4, 1), "orca": (1, 4, 1), "demo": (8, 8, 1)}.items()
    for lora in (False, True)
}


@dataclass(frozen=True)
class Side:
    """What a side has spent on a grid, in CPU seconds: in all, on its reference pass, and on each run's training."""

    total: float
    reference: float
    trainings: dict[tuple[str, float], float]

    @property
    def compute(self) -> float:
        """Reference pass and trainings."""
        return self.reference + sum(self.trainings.values())

    @property
    def start_up(self) -> float:
        """All the rest."""
        return self.total - self.compute

    @property
    def each(self) -> list[float]:
        """Of each run: its training, and its share of the reference pass."""
        return [self.trainings[run] + self.reference / len(RUNS) for run in RUNS]

    @property
    def plain(self) -> dict[str, Any]:
        """For JSON."""
        trainings = [[*run, seconds] for run, seconds in self.trainings.items()]
        return {"total": self.total, "reference": self.reference, "trainings": trainings}


@dataclass(frozen=True)
class Repeat:
    """A grid by both sides, and by how much the weights of their runs are apart at most, and have moved at least."""

    ours: Side
    theirs: Side
    apart: dict[str, float]
    moved: float

    @property
    def ratios(self) -> list[float]:
        """Of compute, run by run."""
        return ratios(self.theirs.each, self.ours.each)


# ------------------------------------------------------------------------------------------------ the two


def ours(cell: Cell, folder: Path) -> Side:
    """One launch."""
    command = [
        *(sys.executable, "-m", "launcher", "-m", "model=./model", "model.dtype=float32", "dataset=./pairs"),
        *(f"trainer={'lora' if cell.lora else 'full'}", f"trainer.learning_rate={LEARNING_RATE[cell.lora]}"),
        *("trainer.warmup_ratio=0", f"trainer.max_steps={cell.steps}", f"trainer.max_length={LONGEST[cell.data]}"),
        *(f"trainer.batch_size={cell.micro_batch}", f"trainer.micro_batch_size={cell.micro_batch}"),
        *(f"loss_type={','.join(LOSSES)}", f"beta={','.join(map(str, BETAS))}", f"seed={SEED}"),
        *("evaluation=none", "hub=off", "tracking=off", "cluster=local", "checkpoint.every=1000000"),
    ]
    return side([command], folder, folder / "ours.jsonl")


def theirs(cell: Cell, folder: Path) -> Side:
    """A process for each run."""
    same = {
        "model": "model",
        "pairs": "pairs/train.jsonl",
        "lora": LORA if cell.lora else None,
        "learning_rate": LEARNING_RATE[cell.lora],
        "steps": cell.steps,
        "micro_batch": cell.micro_batch,
        "max_length": LONGEST[cell.data],
        "seed": SEED,
    }
    runs = [{"loss_type": loss_type, "beta": beta, "output": plain_folder(loss_type, beta)} for loss_type, beta in RUNS]
    commands = [[sys.executable, str(HERE / "plain_trl.py"), json.dumps(same | run)] for run in runs]
    return side(commands, folder, folder / "theirs.jsonl")


def plain_folder(loss_type: str, beta: float) -> str:
    """Where TRL's model of a run is left."""
    return f"plain/{loss_type}-{beta}"


def side(commands: Sequence[Sequence[str]], folder: Path, clock: Path) -> Side:
    """What commands spend, one after the other, with all that they start; returns when the last of it has ended."""
    path = [str(HERE / "shims"), str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path),
        "GRID_CLOCK": str(clock),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HOME": str(folder / "huggingface"),
        "HF_HUB_OFFLINE": "1",
    }
    before = spent()
    for command in commands:
        with (folder / "said.log").open("ab") as said:
            done = subprocess.run(command, cwd=folder, env=environment, stdout=said, stderr=said, check=False)
        with contextlib.suppress(ChildProcessError):
            while True:
                os.wait()
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{(folder / 'said.log').read_text()[-3000:]}")
    return clocked(spent() - before, clock)


def spent() -> float:
    """CPU seconds of all children that have ended, and of theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def clocked(total: float, clock: Path) -> Side:
    """A side that has spent so much in all."""
    lines = [json.loads(line) for line in clock.read_text().splitlines()]
    passes = [line["seconds"] for line in lines if line["part"] == "pass"]
    trainings = {(line["loss_type"], line["beta"]): line["seconds"] for line in lines if line["part"] == "train"}
    assert set(trainings) == set(RUNS), f"{clock} lacks {set(RUNS) - set(trainings)}"
    return Side(total, sum(passes), trainings)


# ------------------------------------------------------------------------------------------------ the weights


def compared(folder: Path) -> tuple[dict[str, float], float]:
    """How far the weights of both sides are apart at most, of each loss; how far training has moved ours at least.

    Of kto_pair it is not known: its runs start elsewhere.
    """
    start = load_file(folder / "model/model.safetensors")
    apart, moved = dict.fromkeys(LOSSES, 0.0), float("inf")
    for loss_type, beta in RUNS:
        (run,) = (folder / "outputs/runs").glob(f"*-{loss_type}-beta{beta}-*")
        mine, other = (weights(path) for path in (run / "model", folder / plain_folder(loss_type, beta)))
        apart[loss_type] = max(apart[loss_type], farthest(mine, other))
        if loss_type != "kto_pair":  # adapters start at 0 in one of their two matrices
            moved = min(moved, farthest({name: mine[name] for name in mine if "lora_A" not in name}, start))
    return apart, moved


def weights(folder: Path) -> dict[str, Any]:
    """A model's, or an adapter's."""
    (file,) = folder.glob("*model.safetensors")
    return load_file(file)


def farthest(some: Mapping[str, Any], others: Mapping[str, Any]) -> float:
    """The largest difference of two models' weights; what the others lack is 0 there."""
    return max(float(abs(values - others.get(name, 0)).max()) for name, values in some.items())


# ------------------------------------------------------------------------------------------------ all of it


def measured(cell: Cell, number: int, model: Path) -> Repeat:
    """One grid by both sides, which take turns in being first."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "model").symlink_to(model)
        write_pairs(folder / "pairs", cell.pairs)
        ways = (ours, theirs) if number % 2 == 0 else (theirs, ours)
        done = {way.__name__: way(cell, folder) for way in ways}
        apart, moved = compared(folder)
    return Repeat(done["ours"], done["theirs"], apart, moved)


def row(name: str, cell: Cell, repeats: Sequence[Repeat]) -> list[str]:
    """A cell's row of the table."""
    own, other = [each.ours for each in repeats], [each.theirs for each in repeats]
    places = costs(cell.pairs, cell.micro_batch)
    apart = {loss_type: max(repeat.apart[loss_type] for repeat in repeats) for loss_type in LOSSES}
    return [
        name,
        f"{places['padded'] / places['packed']:.2f}",
        *(in_words([each.compute for each in sides], 0) for sides in (own, other)),
        in_words([ratio for repeat in repeats for ratio in repeat.ratios]),
        *(in_words([each.start_up for each in sides], 0) for sides in (own, other)),
        in_words(ratios([each.total for each in other], [each.total for each in own])),
        f"{max(apart['sigmoid'], apart['ipo']):.0e}",
        f"{apart['kto_pair']:.0e}",
        f"{min(repeat.moved for repeat in repeats):.0e}",
    ]


COLUMNS = ("", "tokens", "compute: ours", "TRL", "ratio", "start-up: ours", "TRL", "ratio in all",
           "apart: sigmoid, ipo", "kto_pair", "moved")  # fmt: skip


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--only", type=lambda text: text.split(","))
    options.add_argument("--repeats", type=int)
    options.add_argument("--quick", action="store_true")
    asked = options.parse_args()
    if ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0):
        raise SystemExit("this machine does not tell what the jobs of a launch have spent (it has no prctl)")
    table = Table(title="6 runs: CPU seconds, and ratios to TRL's", title_justify="left", box=None)
    for column in COLUMNS:
        table.add_column(column, justify="right" if column else "left")
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(Path(folder) / "model")
        for name in asked.only or (["demo-full"] if asked.quick else CELLS):
            cell, repeats = CELLS[name], []
            for number in range(asked.repeats or (1 if asked.quick else cell.repeats)):
                repeats.append(repeat := measured(cell, number, model))
                sides = {"ours": repeat.ours.plain, "trl": repeat.theirs.plain}
                record(asked.json, "grid", cell=name, repeat=number, **sides, apart=repeat.apart, moved=repeat.moved)
            table.add_row(*row(name, cell, repeats))
            Console(stderr=True, width=180).print(*row(name, cell, repeats))
    Console(width=180).print(table)


if __name__ == "__main__":
    main()
