"""Names of losses: what a method is called elsewhere, what is here instead, and what a typo means."""

from __future__ import annotations

import pytest

from launcher.errors import suggestion
from launcher.losses import OUR_LOSSES, what_instead
from launcher.machine.installed import KNOWN_TRL_LOSSES
from launcher.planning import grid as grid_module
from launcher.planning.compose import compose
from launcher.planning.planned_runs import plan, plan_run

LOSSES = sorted({*KNOWN_TRL_LOSSES, *OUR_LOSSES})


@pytest.mark.parametrize(
    "method",
    [*("simpo", "orpo", "slic", "rso", "cpo", "grpo", "ppo", "SimPO", "tdpo", "cdpo", "slic-hf", "wpo", "rpo", "bco")],
)
def test_a_method_is_not_taken_for_another(method: str) -> None:
    """Names of methods are spelt alike by nature; what is here instead is said, or that there is nothing."""
    said = what_instead(method, LOSSES)
    assert said
    assert "did you mean" not in said


@pytest.mark.parametrize("unknown", ["zpo", "qdpo", "xkto", "hpo", "apo2", "focal", "tipo", "simmpo", "oprpo"])
def test_no_loss_is_guessed_for_an_unknown_name(unknown: str) -> None:
    """It may be a method that we have not heard of."""
    assert "did you mean" not in what_instead(unknown, LOSSES)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        *(("sigmiod", "sigmoid"), ("sigmod", "sigmoid"), ("SIGMOID", "sigmoid"), ("IPO", "ipo"), ("DPO", "dpo")),
        *(("ktopair", "kto_pair"), ("kto-pair", "kto_pair"), ("hing", "hinge"), ("ippo", "ipo"), ("robsut", "robust")),
    ],
)
def test_a_typo_is_told(typed: str, meant: str) -> None:
    """Letters in another order, one missing or doubled, another case; in long names also more."""
    assert what_instead(typed, LOSSES) == f"; did you mean {meant!r}?"


def test_what_a_method_has_instead() -> None:
    """TRL's own name of the loss, where it has it."""
    assert "loss_type=hinge" in what_instead("slic", LOSSES)
    assert "loss_type=bco_pair" in what_instead("bco", LOSSES)
    assert "no reference model" in what_instead("simop", LOSSES)


def planned(*argv: str, multirun: bool = True) -> tuple[list[str], int, list[str]]:
    grid, points = compose(argv, multirun=multirun)
    sweep = plan([plan_run(p.config, p.axes, p.overrides, LOSSES) for p in points], grid.varied, grid.name)
    return [run.run_id for run in sweep.runs], sweep.duplicates, grid.notes


def test_dpo_is_sigmoid(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same run, by whichever name, on the command line and in a sweep file; given both, one is a duplicate."""
    ids, _, notes = planned("loss_type=sigmoid")
    assert notes == []
    assert planned("loss_type=dpo") == (ids, 0, ["loss_type=dpo is loss_type=sigmoid, as TRL calls it"])
    both, duplicates, _ = planned("loss_type=dpo,sigmoid,ipo")
    assert (both[0], len(both), duplicates) == (ids[0], 2, 1)
    folder = tmp_path_factory.mktemp("sweeps")
    monkeypatch.setattr(grid_module, "data_dir", lambda _: folder)
    (folder / "mine.yaml").write_text(
        "grid: {loss_type: [dpo, ipo], beta: [0.1, 0.2]}\nexclude:\n  - {loss_type: dpo, beta: 0.2}\n"
    )
    found, _, notes = planned("+sweeps=mine")
    assert (found[0], len(found), len(notes)) == (ids[0], 3, 1)
    assert planned("+sweeps=mine", "loss_type=ipo")[2] == []
    (folder / "mine.yaml").write_text("zip:\n  - {loss_type: [dpo, ipo], beta: [0.1, 0.2]}\n")
    found, _, notes = planned("+sweeps=mine")
    assert (found[0], len(notes)) == (ids[0], 1)


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        *(("lr", "learning_rate"), ("choosen", "chosen"), ("max_len", None), ("xyz", None)),
    ],
)
def test_words_of_a_plain_list(wrong: str, meant: str | None) -> None:
    """Keys of one section, without its name."""
    known = ("learning_rate", "lora", "chosen", "rejected")
    assert suggestion(wrong, known) == (f"; did you mean {meant!r}?" if meant else "")
