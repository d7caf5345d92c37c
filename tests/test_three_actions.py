"""The IPO paper's three actions, through the code that every run goes through, against the optimum on paper."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from conftest import sweep_of

from launcher.store.files import read_fact
from launcher.store.output_folder import Store
from launcher.sweep import Run
from launcher.worker.evaluation.preference import evaluate
from launcher.worker.training.train import train


def trained(run: Run, store: Store) -> list[float]:
    """The probabilities of y1, y2 and y3 after a run of the sweep."""
    directory = store.run(run.run_id)
    train(run.config, directory, store, lambda: False)
    evaluate(run.config, directory, store)
    actions = (read_fact(directory.evaluation_file) or {})["actions"]
    assert list(actions) == ["1", "2", "3"]
    return list(actions.values())


def optimum_of_ipo(tau: float) -> list[float]:
    """Where the gradient of IPO's loss is 0.

    With a uniform reference and theta the logits, the loss is the sum over the pairs (1,2), (2,3), (1,3) of
    (theta_i - theta_j - c)^2, c = 1 / (2 tau). With a = theta_1 - theta_2 and b = theta_2 - theta_3 that is
    (a - c)^2 + (b - c)^2 + (a + b - c)^2, whose derivatives vanish for 2a + b = 2c and a + 2b = 2c: a = b = 2c / 3.
    """
    step = 1 / (3 * tau)
    weights = [math.exp(2 * step), math.exp(step), 1.0]
    return [weight / sum(weights) for weight in weights]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, float], list[float]]:
    store = Store(tmp_path_factory.mktemp("figure"))
    runs = sweep_of("+sweeps=ipo_figure1", "beta=0.1,0.4,1.0").runs
    return {(run.config.loss_type, run.config.beta): trained(run, store) for run in runs}


@pytest.mark.parametrize("tau", [0.1, 0.4, 1.0])
def test_ipo_ends_at_its_optimum(outcomes: dict[tuple[str, float], list[float]], tau: float) -> None:
    """The three probabilities are those of the closed form, well within 1e-2, and in the order of preference."""
    found = outcomes["ipo", tau]
    assert found == pytest.approx(optimum_of_ipo(tau), abs=1e-3)
    assert found[0] > found[1] > found[2]


def test_ipo_is_held_by_tau_and_dpo_is_not(outcomes: dict[tuple[str, float], list[float]]) -> None:
    """From tau 0.1 to 1 IPO gives y1 up to half of its share; DPO leaves the others less than 2 % at any tau."""
    assert outcomes["ipo", 0.1][0] > 0.95
    assert outcomes["ipo", 1.0][0] < 0.5
    assert all(outcomes["sigmoid", tau][0] > 0.98 for tau in (0.1, 0.4, 1.0))


def test_the_pairs_are_every_order_of_three_actions(tmp_path: Path) -> None:
    """y1 over y2, y1 over y3, y2 over y3; each split holds all of them."""
    from launcher.dataset.three_actions import ensure_pairs

    folder = ensure_pairs(Store(tmp_path))
    assert (folder / "train.jsonl").read_text() == (folder / "test.jsonl").read_text()
    assert (folder / "train.jsonl").read_text().count("\n") == 3
