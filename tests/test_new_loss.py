"""A loss with a key, added to a copy of this tree as CONTRIBUTING says, and trained from its command line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, clean_environment, sweep_of
from waiting import LONGEST_WAIT

from launcher.planning.planned_runs import run_id

PARTS = ("launcher", "conf", "sweeps", "slurm")
FORMULA = '''

def hinge_margin_loss(
    chosen_logratios: Tensor, rejected_logratios: Tensor, beta: float, margin: float = 1.0
) -> Tensor:
    """The mean of max(0, margin - beta (r_c - r_r))."""
    return torch.relu(margin - beta * (chosen_logratios - rejected_logratios)).mean()
'''
KEY = """\
  # The least difference of rewards with which hinge_margin is content; null: 1.
  margin: null
"""
# What is written behind what, in which file.
CHANGES = {
    "launcher/losses.py": [("    # ours\n", '    Loss("hinge_margin", ours=True, keys=("loss.margin",)),\n')],
    "launcher/worker/training/formulas.py": [
        ("return torch.cat([chosen_losses, rejected_losses]).mean()\n", FORMULA),
        ('    "kto_pair": kto_pair_loss,\n', '    "hinge_margin": hinge_margin_loss,\n'),
    ],
    "launcher/planning/loss_rules.py": [
        ('    "loss.tau": {"": _ABOVE_NONE},\n', '    "loss.margin": {"": _ABOVE_NONE},\n'),
        ('    "loss.tau": {"": 0.05},\n', '    "loss.margin": {"": 1.0},\n'),
    ],
    "launcher/config.py": [("    weights: list[float] | None = None\n", "    margin: float | None = None\n")],
    "conf/config.yaml": [("  weights: null\n", KEY)],
}
RUN = ["model=tiny", "trainer=full", "beta=0.5", "trainer.learning_rate=1e-4", "trainer.warmup_ratio=0"]
LITTLE = ["dataset.train_pairs=32", "dataset.test_pairs=8", "evaluation.generations=2", "evaluation.max_new_tokens=2",
          "trainer.max_steps=2", "cluster=local"]  # fmt: skip


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree with one more loss."""
    folder = tmp_path_factory.mktemp("tree")
    for part in PARTS:
        shutil.copytree(REPOSITORY / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name, insertions in CHANGES.items():
        text = (folder / name).read_text()
        for before, new in insertions:
            assert text.count(before) == 1, f"{name} has changed"
            text = text.replace(before, before + new)
        (folder / name).write_text(text)
    return folder


def python(copy: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=clean_environment(PYTHONPATH=str(copy)),
        capture_output=True,
        text=True,
        timeout=LONGEST_WAIT,
        check=False,
    )


def launch(copy: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return python(copy, folder, "-m", "launcher", "-m", *arguments)


def planned_ids(copy: Path, folder: Path, *arguments: str) -> list[str]:
    done = launch(copy, folder, *arguments, "dry_run=true", "--json")
    assert done.returncode == 0, done.stderr
    return [run["run_id"] for run in json.loads(done.stdout)["runs"]]


@contextmanager
def without(copy: Path, name: str) -> Iterator[None]:
    """Within, one of its files is as it was."""
    changed = (copy / name).read_text()
    (copy / name).write_text((REPOSITORY / name).read_text())
    try:
        yield
    finally:
        (copy / name).write_text(changed)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("launcher/losses.py", "loss_type=hinge_margin: not a loss of the installed TRL"),
        ("launcher/config.py", "loss.margin: no such key"),
        ("launcher/worker/training/formulas.py", "KeyError: 'hinge_margin'"),
    ],
)
def test_each_of_its_modules_is_needed(copy: Path, tmp_path: Path, file: str, words: str) -> None:
    """Without its row or its key's type the launch is refused; without its formula there is none to train with.

    That these are enough, the tests below show. conf/ is where a user finds the key, and loss_rules.py has its range.
    """
    formula = ["-c", "from launcher.worker.training.formulas import FORMULAS; FORMULAS['hinge_margin']"]
    planned = ["-m", "launcher", "-m", *RUN, "loss_type=hinge_margin", "loss.margin=0.25", "dry_run=true"]
    with without(copy, file):
        lacking = python(copy, tmp_path, *(formula if "worker" in file else planned))
    assert lacking.returncode != 0
    assert words in lacking.stderr


def test_it_trains_by_its_formula(copy: Path, tmp_path: Path) -> None:
    """Two steps without the key and with it: their losses, and the held-out one, are those of the formula."""
    done = launch(copy, tmp_path, *RUN, *LITTLE, "loss_type=hinge_margin", "loss.margin=null,0.25")
    assert done.returncode == 0, done.stdout + done.stderr
    (results,) = tmp_path.glob("outputs/sweeps/*/results.jsonl")
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    runs: list[dict[str, Any]] = [row for row in rows if row["kind"] == "run"]
    assert [run["axes"] for run in runs] == [{"loss.margin": None}, {"loss.margin": 0.25}]
    for run, margin in zip(runs, (1.0, 0.25), strict=True):
        first, second = run["curve"]
        assert first["loss"] == pytest.approx(margin, abs=1e-5)  # where all log-ratios are 0
        # No pair is content so early, so the mean of the maxima is the margin less the mean difference of rewards.
        for point in (second, run["evaluation"]):
            assert point["loss"] == pytest.approx(margin - point["reward_margin"], abs=1e-5)
            assert point["reward_margin"] != 0


def test_only_its_value_enters_a_runs_id(copy: Path, tmp_path: Path) -> None:
    """No run that was there before is renamed, and without a value the new key is not there."""
    known = ["+sweeps=smoke", "trainer=full,lora"]
    assert planned_ids(copy, tmp_path, *known) == [run.run_id for run in sweep_of(*known).runs]
    (hinge,) = sweep_of(*RUN, "loss_type=hinge").runs
    bare = run_id(hinge.objective | {"loss_type": "hinge_margin"})
    with_null, with_value = planned_ids(copy, tmp_path, *RUN, "loss_type=hinge_margin", "loss.margin=null,0.25")
    assert with_null == bare != with_value


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["loss_type=ipo", "loss.margin=2"], "loss.margin=2.0: only loss_type=hinge_margin takes it; set it to"),
        (["loss_type=hinge_margin", "loss.margin=0"], "loss.margin=0.0: must be a number greater than 0"),
    ],
)
def test_what_is_wrong_with_its_key_is_told(copy: Path, tmp_path: Path, given: list[str], message: str) -> None:
    """Given to another loss, or out of its range: one line, and exit code 2."""
    done = launch(copy, tmp_path, *RUN, *given)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert message in line
    assert list(tmp_path.iterdir()) == []
