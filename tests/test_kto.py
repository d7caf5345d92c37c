"""loss_type=kto: its rows, its loss against an independent computation, and a run from rows to evaluation."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from by_hand import kl_by_hand
from hypothesis import given, strategies
from peft import PeftModel
from transformers import AutoModelForCausalLM
from worker_fixtures import LORA, Configure, make_config

from launcher.config import Dataset, RunConfig
from launcher.errors import ConfigError
from launcher.machine.installed import trl_losses
from launcher.planning.rules import check
from launcher.store.files import read_fact, read_lines
from launcher.store.output_folder import Store
from launcher.worker.dataset import unpaired
from launcher.worker.evaluation.preference import evaluate
from launcher.worker.model import base_model
from launcher.worker.model import weights as models
from launcher.worker.training.kto import held_out_metrics, ranked
from launcher.worker.training.reference_table import prepare
from launcher.worker.training.train import train
from launcher.worker.training.trainer import build_trainer

KTO = {"loss_type": "kto", "trainer__micro_batch_size": 4, "trainer__batch_size": 8}


def labelled(folder: Path, count: int = 12) -> Dataset:
    """Completions of which every third one is undesirable, with a foreign name for the label."""
    rows = [{"prompt": f"Q{n}:", "completion": f" answer {n}", "thumb": int(n % 3 > 0)} for n in range(count)]
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Dataset(name="thumbs", path=str(folder), columns={"label": "thumb"}, prompts=["Q1:"])


def log_prob(module: Any, prompt: list[int], completion: list[int]) -> float:
    """Of a completion, from plain logits."""
    ids = torch.tensor([prompt + completion])
    scores = module(input_ids=ids).logits[0].double().log_softmax(dim=-1)
    first = len(prompt) - 1
    return sum(float(scores[first + place, token]) for place, token in enumerate(completion))


def kto_by_hand(policy: Any, reference: Any, rows: list[dict[str, Any]], weights: tuple[float, float]) -> float:
    """The KTO paper's equations 7 and 8, one row after another, without padding."""

    def ratio(row: dict[str, Any], name: str) -> float:
        return log_prob(policy, row["prompt_ids"], row[name]) - log_prob(reference, row["prompt_ids"], row[name])

    z = max(0.0, sum(ratio(row, "rejected_ids") for row in rows) / len(rows))
    losses = []
    for row in rows:
        distance = ratio(row, "chosen_ids") - z if row["label"] else z - ratio(row, "chosen_ids")
        value = 1 / (1 + torch.exp(torch.tensor(-0.3 * distance)).item())
        losses.append(weights[0 if row["label"] else 1] * (1 - value))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.5, 0.5)])
def test_the_loss_equals_the_papers_equations(store: Store, tmp_path: Path, weights: tuple[float, float]) -> None:
    """A policy away from its reference has the loss that plain logits give, weights included."""
    (tmp_path / "d").mkdir()
    config = make_config(tmp_path, **KTO, beta=0.3, dataset=labelled(tmp_path / "d"))
    up, down = weights
    config = replace(config, trainer=replace(config.trainer, desirable_weight=up, undesirable_weight=down))
    pairs = prepare(config, store)
    trainer = build_trainer(config, store.run("r"), store, pairs, [])
    policy = trainer.model
    with torch.no_grad():
        for number, parameter in enumerate(policy.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
            parameter.add_(noise, alpha=0.05)
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(4)])
    with torch.no_grad():
        found = float(trainer._compute_loss(policy, trainer.place(batch), return_outputs=False))
    reference = models.load(config.model, store)
    rows = [pairs.train[index] for index in range(4)]
    assert found == pytest.approx(kto_by_hand(policy, reference, rows, weights), abs=1e-5)
    assert abs(found - 0.5 * sum(weights) / 2) > 1e-3  # not what it is before any training


def test_the_unpaired_loss_without_a_kl_term(configure: Configure, store: Store) -> None:
    """TRL's apo_zero_unpaired: its start is sigmoid(0) for each completion, and a micro-batch may be one of them."""
    small = {"micro_batch_size": 1, "batch_size": 2, "max_steps": 3, "learning_rate": 1e-3, "warmup_ratio": 0}
    config = configure(loss_type="apo_zero_unpaired", **{f"trainer__{key}": value for key, value in small.items()})
    check(config, [])
    run = store.run("r")
    train(config, run, store, lambda: False)
    first, *_, last = read_lines(run.metrics_file)
    assert first["loss"] == pytest.approx(0.5, abs=1e-5)
    assert last["loss"] != first["loss"]
    evaluate(config, run, store)
    policy, base = AutoModelForCausalLM.from_pretrained(run.model), models.load(config.model, store)
    expected = []
    for row in unpaired.tokenise(config, store).test:
        asked, said = row["prompt_ids"], row["chosen_ids"]
        ratio = log_prob(policy, asked, said) - log_prob(base, asked, said)
        expected.append(1 / (1 + math.exp(0.1 * ratio * (1 if row["label"] else -1))))
    found = (read_fact(run.evaluation_file) or {})["loss"]
    assert found == pytest.approx(sum(expected) / len(expected), abs=1e-6)
    assert found != pytest.approx(0.5, abs=1e-5)


def test_rows_stand_in_whole_micro_batches_beside_a_foreign_completion(store: Store, tmp_path: Path) -> None:
    """Within each micro-batch completions move on by one; what does not fill the last one is left out."""
    config = make_config(tmp_path, **KTO, dataset=labelled(tmp_path, 11))
    rows = unpaired.tokenise(config, store).train
    assert len(rows) == 8
    own, foreign = rows["chosen_ids"][:], rows["rejected_ids"][:]
    assert foreign == [own[3], *own[:3], own[7], *own[4:7]]
    assert sorted(map(tuple, own)) != list(map(tuple, own))  # shuffled: data sets often come sorted by label
    other = unpaired.tokenise(replace(config, seed=2), store).train
    assert other["chosen_ids"][:] != own


def test_runs_of_other_seeds_share_the_token_ids(
    configure: Configure, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each text goes through the tokenizer once in a sweep; only order and neighbours are a seed's own."""
    tokenised, token_ids = [], unpaired.token_ids
    monkeypatch.setattr(unpaired, "token_ids", lambda *given: tokenised.append(len(given[0])) or token_ids(*given))
    first, other = (unpaired.tokenise(configure(seed=seed, **KTO), store) for seed in (1, 2))
    assert tokenised == [2 * 32, 2 * 6]
    assert sorted(first.train["chosen_ids"]) == sorted(other.train["chosen_ids"])
    assert list(first.train["chosen_ids"]) != list(other.train["chosen_ids"])


def test_what_is_left_out_repeated_or_leaked_is_counted_and_told(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As of pairs: an empty completion, what fills no micro-batch, a repeated text, a held-out row to train on."""
    dataset = labelled(tmp_path, 11)
    with (tmp_path / "train.jsonl").open("a") as file:
        for completion in ("", " Answer 3!", " answer 1"):
            file.write(json.dumps({"prompt": "Q3:", "completion": completion, "thumb": 1}) + "\n")
    rows = unpaired.tokenise(make_config(tmp_path, **KTO, dataset=dataset), store)
    assert rows.dropped == {"empty completion": 1, "too few for another micro-batch": 1}
    assert len(rows.train) + sum(rows.dropped.values()) == 14
    assert (rows.repeated, rows.leaked) == (1, 11)
    for said in ("2 of 14 training completions dropped: 1 empty completion, 1 too few for another micro-batch",
                 "3 of 11 held-out completions dropped", "1 of 14 training completions repeat another's text",
                 "11 of 11 held-out completions also stand in the training completions"):  # fmt: skip
        assert said in caplog.text


def test_pairs_are_split_into_labelled_completions(configure: Configure, store: Store) -> None:
    """Each pair of a paired data set gives one desirable and one undesirable row with the same prompt."""
    rows = unpaired.tokenise(configure(**KTO), store).train
    assert len(rows) == 64
    assert sum(rows["label"]) == 32


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_a_run_from_rows_to_evaluation(store: Store, tmp_path: Path, lora: Any) -> None:
    """It learns to tell its own rows apart, resumes nothing, and records loss, accuracy, margin and KL."""
    config = make_config(tmp_path, **KTO, dataset=labelled(tmp_path), trainer__lora=lora, trainer__max_steps=12)
    config = replace(config, trainer=replace(config.trainer, learning_rate=5e-3))
    run = store.run("r")
    train(config, run, store, lambda: False)
    evaluate(config, run, store)
    result, scores = read_fact(run.result_file) or {}, read_fact(run.evaluation_file) or {}
    assert result["steps"] == 12
    losses = [line["loss"] for line in read_lines(run.metrics_file)]
    assert losses[0] == pytest.approx(0.5, abs=1e-4)
    assert scores["loss"] < 0.5
    assert scores["reward_margin"] > 0
    assert scores["reward_accuracy"] > 0.5
    assert scores["pairs"] == 12
    base = models.load(config.model, store)
    policy: Any = AutoModelForCausalLM.from_pretrained(
        base_model.ensure_base(config.model, store) if lora else run.model
    )
    policy = PeftModel.from_pretrained(policy, str(run.model)) if lora else policy
    assert scores["kl"] > 1e-4
    assert scores["kl"] == pytest.approx(kl_by_hand(config, policy.eval(), base, store), rel=1e-3)


def test_the_accuracy_is_the_share_of_ordered_pairs() -> None:
    """Of 2 x 2 comparisons three are right and one is a draw; without a kind there is no accuracy."""
    assert ranked([3.0, 1.0, 1.0, 0.0], [True, True, False, False]) == (0.875, 1.5)
    assert ranked([1.0], [True]) == (None, None)


def test_wrong_labels_and_missing_columns_are_named(store: Store, tmp_path: Path) -> None:
    """A label that is no thumb, and a data set without one, are errors that name data set and value."""
    (tmp_path / "d").mkdir()
    dataset = labelled(tmp_path / "d")
    config = make_config(tmp_path, **KTO, dataset=replace(dataset, columns={"label": "prompt"}))
    with pytest.raises(
        ConfigError, match=r"training split, row 1, column prompt: a label is 'Q0:'; it must be true or false"
    ):
        unpaired.tokenise(config, store)
    config = make_config(tmp_path, **KTO, dataset=replace(dataset, columns={}))
    with pytest.raises(ConfigError, match=r"dataset\.name=thumbs: no column label; found prompt, completion, thumb"):
        unpaired.tokenise(config, store)


def test_a_split_too_small_for_a_micro_batch_is_named(store: Store, tmp_path: Path) -> None:
    """Held-out rows are scored in micro-batches too."""
    dataset = labelled(tmp_path)
    (tmp_path / "test.jsonl").write_text(json.dumps({"prompt": "Q", "completion": " a", "thumb": 1}) + "\n")
    words = r"micro_batch_size=4: not filled by the 1 usable completions of dataset\.test_split of thumbs; give more"
    with pytest.raises(ConfigError, match=words):
        unpaired.tokenise(make_config(tmp_path, **KTO, dataset=dataset), store)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss_type": "kto", "trainer__micro_batch_size": 1}, r"micro_batch_size=1: loss_type=kto .* at least 2"),
        ({"loss_type": "ipo", "trainer__desirable_weight": 2.0}, r"desirable_weight=2\.0: only loss_type=kto"),
        ({"loss_type": "kto", "trainer__undesirable_weight": 0.0}, r"undesirable_weight=0\.0: must be .* greater"),
    ],
)
def test_its_rules_are_checked_when_the_sweep_is_planned(changes: dict[str, Any], message: str) -> None:
    """Before anything is submitted, the message names the key, the value and what would be right."""
    config: RunConfig = make_config(Path("unused"), **changes)
    with pytest.raises(ConfigError, match=message):
        check(config, trl_losses())


# ------------------------------------------------------------------------------------------------ held-out rows


def foreign_prompts(prompts: list[str]) -> list[str]:
    """The prompt that each row's lent completion answers."""
    return [prompts[index] for index in unpaired.foreign_rows(prompts)]


@given(strategies.lists(strategies.sampled_from("abcde"), min_size=1, max_size=40))
def test_no_held_out_row_has_an_answer_to_its_own_prompt(prompts: list[str]) -> None:
    """Wherever there is another prompt, however often each is there; and each lends once where that can be."""
    lent = unpaired.foreign_rows(prompts)
    if len(set(prompts)) > 1:
        assert all(own != foreign for own, foreign in zip(prompts, foreign_prompts(prompts), strict=True))
    elif len(prompts) > 1:
        assert all(row != index for row, index in enumerate(lent))
    if 2 * max(map(prompts.count, prompts)) <= len(prompts):
        assert sorted(lent) == list(range(len(prompts)))


def held_out_pairs(folder: Path, prompts: list[str]) -> Dataset:
    """Pairs of these prompts, held out in this order."""
    pairs = [{"prompt": p, "chosen": f" yes {n}", "rejected": f" no {n} no"} for n, p in enumerate(prompts)]
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return Dataset(name="pairs", path=str(folder), prompts=["Q1:"])


@pytest.mark.parametrize("prompts", ["abcdef", "aabbcd", "aaaabc", "abcabc"])
def test_completions_of_a_pair_are_not_each_others_foreign_ones(store: Store, tmp_path: Path, prompts: str) -> None:
    """Neither are those of another pair with the same prompt, in rows that stand in their order."""
    config = make_config(tmp_path, **KTO, dataset=held_out_pairs(tmp_path, [f"{letter}?" for letter in prompts]))
    test = unpaired.tokenise(config, store).test
    assert len(test) == 2 * len(prompts)
    answers: dict[tuple[int, ...], set[tuple[int, ...]]] = {}
    for row in test:
        answers.setdefault(tuple(row["prompt_ids"]), set()).add(tuple(row["chosen_ids"]))
    assert all(tuple(row["rejected_ids"]) not in answers[tuple(row["prompt_ids"])] for row in test)


def test_one_prompt_alone_is_told(store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """There is no foreign completion then; another row's stands in."""
    config = make_config(tmp_path, **KTO, dataset=held_out_pairs(tmp_path, ["a?"] * 4))
    test = unpaired.tokenise(config, store).test
    assert all(row["chosen_ids"] != row["rejected_ids"] for row in test)
    assert "all held-out completions answer one prompt" in caplog.text


def test_the_held_out_loss_equals_the_papers_equations_on_foreign_answers(store: Store, tmp_path: Path) -> None:
    """Plain logits, row by row, with the foreign answers found here: each micro-batch has its KL term."""
    config = make_config(tmp_path, **KTO, beta=0.3, dataset=held_out_pairs(tmp_path, ["a?", "b?", "b?", "c?"]))
    pairs = prepare(config, store)
    trainer = build_trainer(config, store.run("r"), store, pairs, [])
    with torch.no_grad():
        for number, parameter in enumerate(trainer.model.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
            parameter.add_(noise, alpha=0.05)
        found = held_out_metrics(trainer, 0.3).loss
        rows = [pairs.test[index] for index in range(len(pairs.test))]
        prompts = [tuple(row["prompt_ids"]) for row in rows]
        # All of a? before all of b? before c?, as the commonest come first; each takes from four rows further on.
        together = sorted(range(8), key=lambda index: (-prompts.count(prompts[index]), prompts.index(prompts[index])))
        for place, index in enumerate(together):
            rows[index]["rejected_ids"] = rows[together[(place + 4) % 8]]["chosen_ids"]
        reference = models.load(config.model, store)
        halves = [kto_by_hand(trainer.model, reference, rows[start : start + 4], (1.0, 1.0)) for start in (0, 4)]
    assert found == pytest.approx(sum(halves) / 2, abs=1e-5)
