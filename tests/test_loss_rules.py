"""launcher.planning.loss_rules: which loss takes which key, what is another loss's formula, which runs are the same."""

from __future__ import annotations

import inspect
import itertools
import re
from typing import Any

import pytest
from conftest import REPOSITORY, sweep_of

from launcher.config import LOSS, Loss, RunConfig
from launcher.errors import ConfigError, UsageError
from launcher.losses import LOSSES, PLUS, loss_named
from launcher.machine.installed import trl_losses
from launcher.planning.loss_rules import DEFAULTS, KEYS, RANGES, keys_in_words, trained_by, trains_as_recorded
from launcher.planning.planned_runs import plan_run
from launcher.worker.training import losses as of_worker
from launcher.worker.training.formulas import FORMULAS

RUN = ("model=tiny", "trainer=full", "cluster=local")
SMOOTHED = "loss.label_smoothing=0.1"
# The least that each loss needs to be one of its own.
NEEDED = {loss.name: [SMOOTHED] for loss in LOSSES if loss.needs}
SIGMOID = "its formula is then that of loss_type=sigmoid"


def planned(*given: str) -> RunConfig:
    (run,) = sweep_of(*RUN, *given).runs
    return run.config


def refusal(*given: str) -> str:
    with pytest.raises((ConfigError, UsageError)) as found:
        sweep_of(*RUN, *given)
    (line,) = str(found.value).splitlines()
    return line


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["loss_type=robust"], "loss.label_smoothing: loss_type=robust needs one, such as 0.1: without it"),
        (["loss_type=cdpo"], "loss.label_smoothing: loss_type=cdpo needs one, such as 0.1"),
        (["loss_type=sft+robust"], "loss.label_smoothing: loss_type=robust needs one"),
        (["loss_type=robust", "loss.label_smoothing=0"], f"loss.label_smoothing=0.0: {SIGMOID}; give that"),
        (["loss_type=cdpo", "loss.label_smoothing=1e-17"], f"loss.label_smoothing=1e-17: {SIGMOID}; give that"),
        (["loss_type=alphapo", "loss.alpha=1e-12"], "loss.alpha=1e-12: its formula is then that of loss_type=simpo"),
        (["loss_type=dpop", "loss.lam=1e-30"], f"loss.lam=1e-30: {SIGMOID}; give that"),
        (["loss_type=robust", "loss.label_smoothing=0.5"], "=0.5: must be a number greater than 0 and less than 0.5"),
        (["loss_type=cdpo", "loss.label_smoothing=-0.1"], "=-0.1: must be a number greater than 0 and less than 0.5"),
        (["loss_type=exo_pair", "loss.label_smoothing=0"], "its formula has the logarithm of it"),
        (["loss_type=sigmoid", SMOOTHED], "only loss_type=cdpo or exo_pair or robust or aot or aot_unpaired takes it"),
        (["loss_type=sigmoid", "loss.gamma=0.5"], "loss.gamma=0.5: only loss_type=simpo or alphapo takes it"),
        (["loss_type=simpo", "loss.gamma=-1"], "loss.gamma=-1.0: must be a number at least 0"),
        (["loss_type=simpo", "loss.gamma=inf"], "loss.gamma=inf: must be a number at least 0"),
        (["loss_type=simpo", "loss.gamma=abc"], "loss.gamma=abc: must be a number, or null"),
        (["loss_type=simpo", "loss.lam=1"], "loss.lam=1.0: only loss_type=dpop or orpo takes it"),
        (["loss_type=orpo", "loss.lam=0"], "give loss_type=sft"),
        (["loss_type=dpop", "loss.lam=0"], SIGMOID),
        (["loss_type=dpop", "loss.lambda=1"], "loss.lambda=1: no such key; it is loss.lam here"),
        (["loss_type=alphapo", "loss.alpha=0"], "its formula is then that of loss_type=simpo"),
        (["loss_type=cpo", "loss.alpha=-1"], "loss.alpha=-1.0: must be a number at least 0"),
        (["loss_type=ipo", "loss.alpha=0.5"], "takes it with loss.f_divergence=alpha_divergence alone"),
        (["loss_type=ipo", "loss.f_divergence=alpha_divergence", "loss.alpha=1"], "is then loss.f_divergence=rev"),
        (["loss_type=ipo", "loss.f_divergence=alpha_divergence", "loss.alpha=0"], "is then loss.f_divergence=for"),
        (["loss_type=ipo", "loss.f_divergence=forward"], "must be one of reverse_kl, forward_kl, js_divergence, alpha"),
        (["loss_type=apo_zero", "loss.f_divergence=forward_kl"], "only loss_type=sigmoid or sigmoid_norm or hinge or"),
        (["loss_type=hinge", "loss.use_weighting=true"], "loss.use_weighting=True: only loss_type=sigmoid or"),
        (["loss_type=discopop", "loss.tau=0"], "loss.tau=0.0: must be a number greater than 0"),
        (["loss_type=sigmoid", "loss.length_normalized=true"], "DPO of mean log-ratios is loss_type=sigmoid_norm"),
        (["loss_type=ipo", "loss.length_normalized=true"], "only loss_type=simpo or cpo takes it"),
        (["loss_type=sigmoid", "loss.weights=[1]"], "loss_type=sigmoid is no sum, as sigmoid+sft is; set it to null"),
        (["loss_type=sigmoid+sft", "loss.weights=[1]"], "has 1 for the 2 losses of sigmoid+sft; give one each"),
        (["loss_type=sigmoid+sft", "loss.weights=[1,0]"], "each must be a number greater than 0"),
        (["loss_type=sigmoid+sft", "loss.gamma=1"], "only loss_type=simpo or alphapo takes it"),
        (["loss_type=sigmoid+sigmoid"], "sigmoid is in it twice"),
        (["loss_type=sigmoid+kto"], "kto trains on completions with a label, and cannot be in a sum"),
        (["loss_type=exo_pair+aot"], "loss.label_smoothing: TRL has one for all parts, exo_pair's null is 1e-3"),
        (["loss_type=sigmoid+"], "loss_type=sigmoid+: '' is not a loss"),
        (["loss_type=sigmod+sft"], "loss_type=sigmod+sft: 'sigmod' is not a loss of the installed TRL (did you mean"),
        (["loss_type=sigmoid+aot", "loss.use_weighting=true"], "every part of a sum has to take it, and aot cannot"),
        (["loss_type=sigmoid+bco_pair", "loss.f_divergence=forward_kl"], "every part of a sum has to take it, and"),
        (["loss_type=aot", "trainer.micro_batch_size=1"], "sorts the pairs of a micro-batch, and of one is"),
        (["loss_type=simpo", "trainer.ld_alpha=0.5"], "trainer.ld_alpha=0.5: not defined for loss_type=simpo"),
        (["loss_type=sigmoid+simpo", "trainer.ld_alpha=0.5"], "not defined for loss_type=sigmoid+simpo"),
        (["loss_type=rpo"], "it is loss_type=sigmoid+sft with loss.weights"),
        (["loss_type=mpo"], "it is loss_type=sigmoid+bco_pair+sft with loss.weights=[0.8,0.2,1]"),
        (["loss_type=wpo"], "it is loss_type=sigmoid with loss.use_weighting=true"),
        (["loss_type=f-dpo"], "it is loss_type=sigmoid with loss.f_divergence"),
        (["loss_type=sigmoid", "trainer.desirable_weight=2"], "only loss_type=kto or apo_zero_unpaired takes it"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_loss_is_one_line(given: list[str], words: str) -> None:
    """Which names the key, its value, and what would be right."""
    assert words in refusal(*given)


def a_value(key: str, loss: Any) -> str:
    """A value that a loss may have of a key, unlike its default."""
    values: dict[str, Any] = {
        "loss.label_smoothing": 0.2, "loss.gamma": 1.25, "loss.lam": 0.7, "loss.alpha": 0.3, "loss.tau": 0.2,
        "loss.f_divergence": "forward_kl", "loss.use_weighting": "true", "trainer.desirable_weight": 1.5,
        "trainer.undesirable_weight": 1.5,
        "loss.length_normalized": "false" if loss.name == "simpo" else "true",
    }  # fmt: skip
    return f"{key}={values[key]}"


TAKEN = [(loss, key) for loss in LOSSES for key in loss.keys]


@pytest.mark.parametrize(("loss", "key"), TAKEN, ids=[f"{loss.name}-{key}" for loss, key in TAKEN])
def test_every_key_makes_runs_of_its_own(loss: Any, key: str) -> None:
    """An axis over null and a value has two runs: one of the id that there is without the key, and another."""
    needed = [] if key in loss.needs else NEEDED.get(loss.name, [])
    is_order = key == "loss.alpha" and not loss.ours
    needed = [*needed, *(["loss.f_divergence=alpha_divergence"] if is_order else [])]
    name, value = a_value(key, loss).split("=")
    first = SMOOTHED.partition("=")[2] if key in loss.needs else "null"
    sweep = sweep_of(*RUN, f"loss_type={loss.name}", *needed, f"{key}={first},{value}")
    assert len({run.run_id for run in sweep.runs}) == 2
    assert [run.axes for run in sweep.runs][1].keys() == {name}
    if first == "null":
        (bare,) = sweep_of(*RUN, f"loss_type={loss.name}", *needed).runs
        assert sweep.runs[0].run_id == bare.run_id
    assert trained_by(sweep.runs[0].config) != trained_by(sweep.runs[1].config)


@pytest.mark.parametrize(
    ("given", "run_id"),
    [
        (["loss_type=sigmoid"], "tiny-sigmoid-beta0.1-4e1723ad"),
        (["loss_type=sft"], "tiny-sft-beta0.1-948915b3"),
        (["loss_type=kto", "trainer.desirable_weight=2"], "tiny-kto-beta0.1-047cd855"),
        (["loss_type=kto_pair", "trainer=lora"], "tiny-kto_pair-beta0.1-7118eda8"),
    ],
)
def test_runs_of_before_keep_their_ids(given: list[str], run_id: str) -> None:
    """These are the ids of the version before there were such keys; without a value, the section is not there."""
    (run,) = sweep_of(*RUN, *given).runs
    assert run.run_id == run_id
    assert LOSS not in run.objective
    assert LOSS not in run.settings


def test_a_key_with_a_value_is_part_of_what_is_trained() -> None:
    """It stands in config.yaml's objective and in no settings."""
    (run,) = sweep_of(*RUN, "loss_type=simpo", "loss.gamma=1").runs
    assert run.objective[LOSS]["gamma"] == 1.0
    assert LOSS not in run.settings
    assert run.config.loss == Loss(gamma=1.0)


@pytest.mark.parametrize(
    ("given", "kept", "left"),
    [
        (["loss_type=sigmoid,sft", "beta=0.1,0.2"], 3, 1),  # sft has no beta
        (["loss_type=orpo", "beta=0.1,0.2,0.3"], 1, 2),
        (["loss_type=orpo", "loss.lam=null,0.1,0.2"], 2, 1),  # null is 0.1
        (["loss_type=simpo", "loss.gamma=null,0.5"], 1, 1),
        (["loss_type=exo_pair", "loss.label_smoothing=null,0.001"], 1, 1),
        (["loss_type=sigmoid", "loss.f_divergence=null,reverse_kl"], 1, 1),
        (["loss_type=sigmoid", "loss.use_weighting=null,false"], 1, 1),
        (["loss_type=sigmoid", "trainer.ld_alpha=null,1"], 1, 1),
        (["loss_type=kto", "trainer.desirable_weight=null,1"], 1, 1),
        (["loss_type=sigmoid+sft,sft+sigmoid"], 1, 1),
        (["loss_type=sigmoid+sft", "loss.weights=null,[1,1]"], 1, 1),
        (["loss_type=sigmoid+sft,sft+sigmoid", "loss.weights=[1,0.5]"], 2, 0),
        (["loss_type=sigmoid+sft", "beta=0.1,0.2"], 2, 0),
        (["loss_type=cpo", "loss.alpha=0,1", "loss.length_normalized=null,true"], 4, 0),
    ],
)
def test_of_runs_that_would_train_the_same_weights_the_first_stays(given: list[str], kept: int, left: int) -> None:
    """The others are left out, and named beside the run that they would repeat."""
    sweep = sweep_of(*RUN, *given)
    assert (len(sweep.runs), len(sweep.twins)) == (kept, left)
    assert {twin.of for twin in sweep.twins} <= {run.run_id for run in sweep.runs}
    assert {twin.run_id for twin in sweep.twins}.isdisjoint(run.run_id for run in sweep.runs)


def test_an_alpha_that_trl_takes_for_reverse_kl_is_refused() -> None:
    """Within 1e-6 of 1 it falls back to it, and near there it rounds; farther off the value is shown in full."""
    for alpha in ("1", "1.0000001", "0.9999999", "0.99999", "1.0009"):
        with pytest.raises(ConfigError, match=r"is then loss\.f_divergence=reverse_kl"):
            sweep_of(*RUN, "loss_type=sigmoid", "loss.f_divergence=alpha_divergence", f"loss.alpha={alpha}")
    near = planned("loss_type=sigmoid", "loss.f_divergence=alpha_divergence", "loss.alpha=1.00201")
    assert "alpha=1.00201" in keys_in_words(near)


def test_other_names_of_losses_are_known_in_sums() -> None:
    """As they are alone."""
    assert planned("loss_type=dpo+sft").loss_type == "sigmoid+sft"
    with pytest.raises(ConfigError, match="sigmoid is in it twice"):
        sweep_of(*RUN, "loss_type=sigmoid+dpo")


def test_losses_under_two_names_are_the_same() -> None:
    """CPO without its likelihood is SimPO without a margin, both with or both without lengths."""
    for normalized in ("true", "false"):
        cpo = planned("loss_type=cpo", "loss.alpha=0", f"loss.length_normalized={normalized}")
        simpo = planned("loss_type=simpo", "loss.gamma=0", f"loss.length_normalized={normalized}")
        assert trained_by(cpo) == trained_by(simpo)


def test_no_two_losses_with_their_default_keys_are_the_same_to_a_plan() -> None:
    """Nor with the least that they need; `test_loss_formulas` has the same of their gradients."""
    names = sorted({loss.name for loss in LOSSES} | trl_losses())
    found = {name: trained_by(planned(f"loss_type={name}", *NEEDED.get(name, []))) for name in names}
    assert [pair for pair in itertools.combinations(names, 2) if found[pair[0]] == found[pair[1]]] == []


def test_defaults_are_those_of_the_formulas() -> None:
    """What null stands for, where runs are compared, is what the worker computes then."""
    for name, formula in FORMULAS.items():
        parameters = inspect.signature(formula).parameters
        for key in loss_named(name).keys:
            own = DEFAULTS[key]
            assert parameters[key.partition(".")[2]].default == own.get(name, own.get("")), (name, key)
    told = {name: of_worker.loss_arguments(of_worker.Objective(name, 0.1)) for name in trl_losses()}
    of_trl = {
        "loss.label_smoothing": "label_smoothing", "loss.tau": "discopop_tau", "loss.f_divergence": "f_divergence_type",
        "loss.alpha": "f_alpha_divergence_coef", "loss.use_weighting": "use_weighting",
    }  # fmt: skip
    for name, arguments in told.items():
        for key in set(loss_named(name).keys) - {"trainer.ld_alpha"}:
            own = DEFAULTS[key]
            assert arguments[of_trl[key]] == own.get(name, own.get("")), (name, key)


def test_every_key_has_a_default_and_the_numbers_a_range() -> None:
    """And every key of the section is taken by some loss, or by sums."""
    assert DEFAULTS.keys() == set(KEYS)
    assert {key for key in KEYS if isinstance(next(iter(DEFAULTS[key].values())), bool | str)} == set(KEYS) - set(
        RANGES
    )
    assert {f"{LOSS}.{key}" for key in vars(Loss())} - set(KEYS) == {"loss.weights"}


def test_a_run_of_before_goes_on_as_it_was_launched() -> None:
    """A robust without smoothing, which trained sigmoid, is refused today, and is what it was where it is on record."""
    (run,) = sweep_of(*RUN, "loss_type=sigmoid").runs
    config = {**run.objective, **run.settings, "loss_type": "robust"}
    with pytest.raises(ConfigError, match="needs one, such as"):
        plan_run(config, {}, (), trl_losses())
    recorded = plan_run(config, {}, (), trl_losses(), recorded=True)
    assert recorded.run_id.startswith("tiny-robust-beta0.1-")
    words = trains_as_recorded(recorded.config) or ""
    assert "goes on with the formula of loss_type=sigmoid, as it was launched" in words
    assert trains_as_recorded(run.config) is None


def test_the_documentation_has_every_loss() -> None:
    """docs/losses.md has a line for each, with its keys, and whether it asks the reference model."""
    lines = (REPOSITORY / "docs" / "losses.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines if line.startswith("| `")]
    told = {row[0].split("`")[1]: row for row in cells if len(row) == 6}
    assert told.keys() == {loss.name for loss in LOSSES} | trl_losses()
    for loss in LOSSES:
        _, _, _, keys, reference, computed = told[loss.name]
        assert sorted(re.findall(r"`([^`]+)`", keys)) == sorted(loss.keys), loss.name
        assert [f"`{key}` (needed)" in keys for key in loss.needs] == [True] * len(loss.needs), loss.name
        assert reference.startswith("yes" if loss.reference else "for its" if loss.needs_table else "no"), loss.name
        assert (computed == "us") == (loss.ours and loss.paired), loss.name


@pytest.mark.parametrize("name", ["sigmoid+sft", "simpo+sft", "sigmoid+simpo", "sft+kto_pair"])
def test_a_sum_has_what_its_parts_have(name: str) -> None:
    """It looks at neighbours, at a reference, and at a beta, where one of them does."""
    whole, parts = loss_named(name), [loss_named(part) for part in name.split(PLUS)]
    assert whole.neighbours == any(part.neighbours for part in parts)
    assert whole.reference == any(part.reference for part in parts)
    assert whole.beta == any(part.beta for part in parts)
    assert whole.needs_table == (name != "simpo+sft")
