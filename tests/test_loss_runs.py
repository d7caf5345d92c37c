"""Runs of every loss: their first logged loss and gradient beside plain forwards, their tables, their rewards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from conftest import Launch, sweep_of
from fakes import FakeScheduler, submit
from test_loss_formulas import SMOOTHED
from worker_fixtures import Configure, make_config, write_pairs

from launcher.config import Loss, RunConfig
from launcher.losses import LOSSES, reward_of
from launcher.machine.installed import trl_losses
from launcher.planning.estimate import total
from launcher.planning.plain_trl import compared
from launcher.store.files import read_fact, read_lines
from launcher.store.output_folder import Store
from launcher.store.results import Evaluation, Result
from launcher.submission.reference_job import lost_tables, preparation_of
from launcher.views.results import show_results
from launcher.worker.dataset.prepared_rows import prepared
from launcher.worker.evaluation.preference import evaluate
from launcher.worker.model import weights
from launcher.worker.training.losses import PreferenceTrainer
from launcher.worker.training.train import train

# At the start the policy is the reference, up to rounding: of that dpop's penalty would make 50 times as much.
LEAST = {**SMOOTHED, "dpop": {"lam": 2.0}}
CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, LEAST.get(name, {})) for name in sorted({loss.name for loss in LOSSES if loss.paired} | trl_losses())),
    ("sigmoid", {"use_weighting": True}),
    ("ipo", {"f_divergence": "js_divergence"}),
    ("discopop", {"f_divergence": "alpha_divergence", "alpha": 0.3, "tau": 0.2}),
    ("simpo", {"gamma": 1.6}),
    ("alphapo", {"alpha": -0.5}),
    ("cpo", {"length_normalized": True, "alpha": 0.2}),
    ("sigmoid+sft", {"weights": [1.0, 0.3]}),
    ("simpo+sft", {}),
    ("sigmoid+bco_pair+sft", {"weights": [0.8, 0.2, 1.0]}),
]
KINKS = ("dpop", "kto_pair")  # whose gradient at the start rounding decides; `test_loss_formulas` has them elsewhere
KINDS = ("chosen", "rejected")
FREE = [loss.name for loss in LOSSES if loss.paired and not loss.needs_table]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Store]:
    folder = tmp_path_factory.mktemp("loss-runs")
    return write_pairs(folder / "pairs"), Store(folder / "outputs")


def plainly(config: RunConfig, store: Store, batch: dict[str, torch.Tensor]) -> tuple[torch.nn.Module, Any, Any]:
    """A fresh policy in float64, its log-probs of the batch's tokens from plain logits, and log sum p^2 beside them."""
    module = weights.load_policy(config.model, store).double()
    logits = module(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    scores = logits.log_softmax(dim=-1)
    own = batch["completion_mask"][:, 1:].bool()
    log_probs = scores.gather(2, batch["input_ids"][:, 1:, None]).squeeze(2).masked_fill(~own, 0)
    squares = (2 * scores).logsumexp(dim=-1).masked_fill(~own, 0)
    return module, log_probs, squares


def as_arrays(log_probs: Any, squares: Any, mask: Any, monkeypatch: pytest.MonkeyPatch) -> numpy.ndarray[Any, Any]:
    """The tokens of the batch, set as what the formulas of `test_loss_formulas` are of; the reference is the policy."""
    import test_loss_formulas as papers

    tokens = log_probs.detach().numpy().reshape(2, -1, log_probs.shape[1])
    own = mask[:, 1:].bool().numpy().reshape(tokens.shape)
    for name, value in {
        "OWN": own,
        "LENGTHS": own.sum(-1),
        "SQUARES": squares.detach().numpy().reshape(tokens.shape),
        "REFERENCE": tokens.sum(-1),
    }.items():
        monkeypatch.setattr(papers, name, value)
    return tokens


@pytest.mark.parametrize("packed", ["auto", False])
@pytest.mark.parametrize(("loss_type", "keys"), CASES, ids=lambda value: json.dumps(value).strip('"'))
def test_the_first_step_is_that_of_the_paper(
    world: tuple[Path, Store],
    loss_type: str,
    keys: dict[str, Any],
    packed: str | bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The logged loss to 1e-5, and the norm of the gradient, of a step of two micro-batches, packed and padded."""
    import test_loss_formulas as papers

    pairs, store = world
    trainer = {"trainer__max_steps": 1, "trainer__packed": packed, "trainer__max_grad_norm": 1e9}
    config = make_config(pairs, loss_type=loss_type, beta=0.3, loss=Loss(**keys), **trainer)
    batches: list[dict[str, torch.Tensor]] = []
    compute = PreferenceTrainer._compute_loss

    def watched(self: Any, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        if self.model.training and len(batches) < 2 and torch.is_grad_enabled():
            batches.append({key: value.clone() for key, value in inputs.items() if hasattr(value, "clone")})
        return compute(self, model, inputs, return_outputs)

    monkeypatch.setattr(PreferenceTrainer, "_compute_loss", watched)
    run = store.run(f"{loss_type}-{len(list(store.runs()))}")
    train(config, run, store, lambda: False)
    result = read_fact(run.result_file, Result)
    assert result is not None
    assert (result.packing == "packed") is (packed == "auto")
    (line,) = read_lines(run.metrics_file)
    losses, gradient = [], None
    for batch in batches:
        module, log_probs, squares = plainly(config, store, batch)
        tokens = as_arrays(log_probs, squares, batch["completion_mask"], monkeypatch)
        losses.append(papers.by_paper(tokens, loss_type, 0.3, keys))
        slopes = torch.tensor(papers.slopes(tokens, loss_type, 0.3, keys)).reshape(log_probs.shape)
        (slopes * log_probs).sum().backward()
        own = torch.cat([parameter.grad.ravel() for parameter in module.parameters()]) / len(batches)
        gradient = own if gradient is None else gradient + own
    assert line["loss"] == pytest.approx(numpy.mean(losses), abs=1e-5, rel=1e-5)
    if loss_type not in KINKS:
        assert line["grad_norm"] == pytest.approx(float(gradient.norm()), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("loss_type", FREE)
def test_a_loss_without_a_reference_makes_no_table(configure: Configure, store: Store, loss_type: str) -> None:
    """Neither for its training nor for its evaluation; a loss with one makes it."""
    config = configure(loss_type=loss_type, trainer__max_steps=2)
    run = store.run(loss_type)
    train(config, run, store, lambda: False)
    evaluate(config, run, store)
    assert not store.cache("reference", "x").parent.exists()
    train(configure(trainer__max_steps=1), store.run("sigmoid"), store, lambda: False)
    assert store.cache("reference", "x").parent.exists()


def test_held_out_margins_are_of_the_losses_own_rewards(configure: Configure, store: Store) -> None:
    """SimPO's are mean log-probs times beta, by plain logits of the trained model."""
    config = configure(loss_type="simpo", beta=2.0, trainer__max_steps=3)
    run = store.run("r")
    train(config, run, store, lambda: False)
    evaluate(config, run, store)
    found = read_fact(run.evaluation_file, Evaluation)
    assert found is not None
    from transformers import AutoModelForCausalLM

    policy, margins, losses = AutoModelForCausalLM.from_pretrained(run.model).double(), [], []
    for row in prepared(config, store).test:
        chosen, rejected = (mean_log_prob(policy, row["prompt_ids"], row[f"{kind}_ids"]) for kind in KINDS)
        margins.append(2.0 * (chosen - rejected))
        losses.append(float(numpy.logaddexp(0, 0.5 - margins[-1])))
    assert found.reward_margin == pytest.approx(numpy.mean(margins), abs=1e-5)
    assert found.reward_accuracy == pytest.approx(numpy.mean(numpy.array(margins) > 0))
    assert found.loss == pytest.approx(numpy.mean(losses), abs=1e-5)
    last = read_lines(run.metrics_file)[-1]
    assert last["reward_margin"] != 0


@torch.no_grad()
def mean_log_prob(module: Any, prompt: list[int], completion: list[int]) -> float:
    scores = module(input_ids=torch.tensor([prompt + completion])).logits[0].log_softmax(dim=-1)
    places = range(len(prompt) - 1, len(prompt) + len(completion) - 1)
    return float(numpy.mean([float(scores[place, token]) for place, token in zip(places, completion, strict=True)]))


# ------------------------------------------------------------------------------------------------ the table's job


GRID = ("model=tiny", "trainer=full", "cluster=slurm", "cluster.runs_per_job=1", "beta=0.1,0.2")


def test_a_table_is_made_only_if_somebody_needs_it(store: Store) -> None:
    """A sweep of losses without a reference has no job for it; in a mixed one those wait that need it."""
    scheduler = FakeScheduler(batch_size=10)
    submit(sweep_of(*GRID, "loss_type=simpo,cpo"), store, scheduler, [])
    assert scheduler.tables == []
    assert [batch.after for batch in scheduler.submitted] == [None]
    scheduler = FakeScheduler(batch_size=10)
    mixed = sweep_of(*GRID, "loss_type=alphapo,sigmoid,simpo+sft,ipo")
    submit(mixed, store, scheduler, [])
    (table,) = scheduler.tables
    made = scheduler.jobs[table.name][0].job_id
    assert [batch.size for batch in scheduler.submitted] == [4, 4]
    assert [batch.after and batch.after.job_id for batch in scheduler.submitted] == [None, made]
    assert lost_tables(mixed, store) == []
    needing = {run.config.loss_type for run in mixed.runs if preparation_of(run, store)}
    assert needing == {"sigmoid", "ipo"}


def test_no_table_is_in_the_estimate_of_who_needs_none() -> None:
    """Nor a reference model in what plain TRL would compute."""
    hours = {}
    for names in ("simpo", "sigmoid", "simpo,sigmoid"):
        runs = sweep_of("model=zephyr_7b_sft", "dataset=ultrafeedback_binarized", "trainer=zephyr_full",
                        "cluster=slurm", "cluster.gpus_per_node=8", f"loss_type={names}").runs  # fmt: skip
        hours[names] = total([run.config for run in runs], None).gpu_hours
    table = hours["sigmoid"].low - hours["simpo"].low
    assert table > 0
    assert hours["simpo,sigmoid"].low == pytest.approx(2 * hours["simpo"].low + table)
    simpo, sigmoid = (sweep_of("model=tiny", f"loss_type={name}").runs[0].config for name in ("simpo", "sigmoid"))
    assert compared(simpo, None, None).times < compared(sigmoid, None, None).times


# ------------------------------------------------------------------------------------------------ runs of before

SMALL = ("model=tiny", "trainer=full", "cluster=local", "dataset.train_pairs=32", "dataset.test_pairs=8", "beta=0.5",
         "evaluation.generations=2", "evaluation.max_new_tokens=2", "trainer.max_steps=4", "checkpoint.every=2",
         "checkpoint.keep_finished=1")  # fmt: skip


@pytest.fixture
def of_before(launch: Launch, tmp_path: Path) -> Path:
    """An output folder as the version before left it: a run of robust that trained sigmoid, half of it done."""
    launched = launch("-m", *SMALL, "loss_type=sigmoid", "sweep=old")
    assert launched.returncode == 0, launched.stderr
    outputs = tmp_path / "outputs"
    (folder,) = (outputs / "runs").iterdir()
    new = folder.name.replace("-sigmoid-", "-robust-")
    for file in [*outputs.rglob("*.json"), *outputs.rglob("*.jsonl"), *outputs.rglob("*.yaml")]:
        text = file.read_text()
        assert '"loss": {' not in text  # no key was given, and so none is recorded
        text = text.replace(folder.name, new).replace('loss_type=sigmoid"', 'loss_type=robust"')
        text = text.replace('"loss_type": "sigmoid"', '"loss_type": "robust"')
        file.write_text(text.replace("loss_type: sigmoid", "loss_type: robust"))
    folder.rename(outputs / "runs" / new)
    return outputs / "runs" / new


def test_a_robust_of_before_is_shown_and_reported(of_before: Path, launch: Launch, tmp_path: Path) -> None:
    """status, collect and the report have it under its name, with what it has scored."""
    shown = launch("status", "old", "--json")
    assert shown.returncode == 0, shown.stderr
    (run,) = json.loads(shown.stdout)["runs"]
    assert (run["run_id"], run["loss_type"], run["status"]) == (of_before.name, "robust", "TRAINED")
    collected = launch("collect", "old")
    assert collected.returncode == 0, collected.stderr
    rows = [json.loads(line) for line in (tmp_path / "outputs/sweeps/old/results.jsonl").read_text().splitlines()]
    assert [row["loss_type"] for row in rows if row["kind"] == "run"] == ["robust"]
    reported = launch("outputs/sweeps/old", module="analysis")
    assert reported.returncode == 0, reported.stderr


def test_half_a_robust_of_before_goes_on_as_it_was(of_before: Path, launch: Launch) -> None:
    """`resume` says that it trains sigmoid, and ends where sigmoid ends; a launch of today is refused, in one line."""
    before = [line["loss"] for line in read_lines(of_before / "metrics.jsonl")]
    for name in ("result.json", "evaluation.json"):
        (of_before / name).unlink()
    resumed = launch("resume", "old")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "loss_type=robust goes on with the formula of loss_type=sigmoid, as it was launched" in resumed.stderr
    assert (of_before / "result.json").exists()
    assert [line["loss"] for line in read_lines(of_before / "metrics.jsonl")][: len(before)] == before
    again = launch("-m", *SMALL, "loss_type=robust", "sweep=old")
    assert again.returncode == 2
    assert len(again.stderr.splitlines()) == 1
    assert "loss.label_smoothing: loss_type=robust needs one, such as 0.1" in again.stderr


def test_the_launch_names_what_it_leaves_out(launch: Launch) -> None:
    """And the plan has each loss's keys, in the table above and for programs."""
    given = ("-m", *SMALL, "loss_type=orpo", "loss.lam=null,0.1,0.3", "dry_run=true")
    shown = launch(*given)
    assert shown.returncode == 0, shown.stderr
    assert "2 runs, 2 submit, 1 left out that would train the same weights as others" in shown.stdout
    assert "left out, since it would train the same weights as another run of the sweep: tiny-orpo-" in shown.stderr
    assert "keys of the loss none | loss.lam=0.3" in shown.stdout
    plan = json.loads(launch(*given, "--json").stdout)
    assert [run["loss"] for run in plan["runs"]] == [{}, {"lam": 0.3}]
    assert [twin["same_as"] for twin in plan["same_weights"]] == [plan["runs"][0]["run_id"]]


@pytest.mark.parametrize("losses", [("simpo", "ipo", "sigmoid"), ("ipo", "sigmoid")])
def test_the_table_of_results_says_which_margins_compare(
    tmp_path: Path, losses: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """A line below it names the losses of each reward, where there are several."""
    scores = {"reward_margin": 0.5, "reward_accuracy": 1.0}
    rows = [
        {"run_id": name, "status": "TRAINED", "loss_type": name, "evaluation": scores, "reward": reward_of(name, {})}
        for name in losses
    ]
    show_results(Store(tmp_path).sweep("s"), [{"run_id": "base", "status": "TRAINED"}, *rows])
    said = capsys.readouterr().out
    line = "only within one reward: beta / |y| log pi: simpo; beta (log pi - log pi_ref): ipo, sigmoid"
    assert (line in said) is ("simpo" in losses)
    assert ("within one reward" in said) is ("simpo" in losses)
