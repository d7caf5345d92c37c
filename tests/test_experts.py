"""Models with experts: trained and evaluated, their balance a part of every loss."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_first_step import EXPERTS
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM
from worker_fixtures import LORA, Configure

from launcher.config import Model
from launcher.store.files import read_fact
from launcher.store.output_folder import Store
from launcher.store.results import Evaluation
from launcher.worker.dataset import unpaired
from launcher.worker.dataset.pairs import tokenise
from launcher.worker.evaluation.preference import evaluate
from launcher.worker.model import base_model, weights
from launcher.worker.training.train import train

ATTENTION = r".*\.(q|k|v|o)_proj"


def scored(module: Any, rows: list[dict[str, list[int]]], pad: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Log-probs of the chosen and of the rejected completions, and the experts' own loss, by one plain forward."""
    texts = [(row["prompt_ids"], row[name]) for name in ("chosen_ids", "rejected_ids") for row in rows]
    longest = max(len(prompt) + len(answer) for prompt, answer in texts)
    ids, mask, own = (torch.full((len(texts), longest), value) for value in (pad, 0, 0))
    for number, (prompt, answer) in enumerate(texts):
        length = len(prompt) + len(answer)
        ids[number, :length], mask[number, :length] = torch.tensor(prompt + answer), 1
        own[number, len(prompt) : length] = 1
    with torch.no_grad():
        made = module(input_ids=ids, attention_mask=mask, output_router_logits=True)
    each = made.logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2) * own[:, 1:]
    chosen, rejected = each.sum(dim=1).chunk(2)
    return chosen, rejected, float(made.aux_loss)


@pytest.mark.parametrize("said", [False, True], ids=["", "output_router_logits"])
@pytest.mark.parametrize("loss_type", ["sigmoid", "kto_pair"])
def test_a_held_out_loss_has_the_experts_balance(
    configure: Configure, store: Store, loss_type: str, *, said: bool
) -> None:
    """The loss of the log-ratios and 0.1 of the balance, which transformers computes, of the model in the folder."""
    experts = (EXPERTS.architecture or {}) | {"output_router_logits": said}
    model = Model("m", architecture=experts, dtype="float32")
    config = configure(model=model, loss_type=loss_type, beta=0.5, evaluation__batch_size=6)
    run = store.run("r")
    train(config, run, store, lambda: False)
    evaluate(config, run, store)
    found = read_fact(run.evaluation_file, Evaluation)
    rows, pad = list(tokenise(config, store).test), weights.tokenizer(model, store).pad_token_id
    folders = (str(run.model), base_model.ensure_base(model, store))
    policy, base = (AutoModelForCausalLM.from_pretrained(folder) for folder in folders)
    chosen, rejected, balance = scored(policy, rows, pad)
    before = scored(base, rows, pad)
    c, r = chosen - before[0], rejected - before[1]
    kept = torch.cat([0.5 * (c - r.mean().clamp(min=0)), 0.5 * (c.mean().clamp(min=0) - r)])
    losses = {"sigmoid": -logsigmoid(0.5 * (c - r)).mean(), "kto_pair": 1 - kept.sigmoid().mean()}
    assert found is not None
    assert balance > 1
    assert found.loss == pytest.approx(float(losses[loss_type]) + 0.1 * balance, rel=1e-4)
    assert found.generations == 6


def test_experts_under_adapters_and_without_pairs(configure: Configure, store: Store) -> None:
    """LoRA on the attention, and kto on completions with a label: the loss of a start, and 0.1 of the balance."""
    still = {"model": EXPERTS, "trainer__max_steps": 1, "trainer__learning_rate": 0.0, "evaluation__batch_size": 6}
    lora = configure(**still, trainer__lora=replace(LORA, target_modules=ATTENTION))
    kto = configure(**still, loss_type="kto")
    pad = weights.tokenizer(EXPERTS, store).pad_token_id
    base = AutoModelForCausalLM.from_pretrained(base_model.ensure_base(EXPERTS, store))
    halves = list(unpaired.tokenise(kto, store).test)
    couples = zip(halves[::2], halves[1::2], strict=True)
    rows = [one | {"rejected_ids": other["chosen_ids"]} for one, other in couples]
    # kto's micro-batches are of four rows
    balances = {"kto": statistics.fmean(scored(base, rows[place : place + 2], pad)[2] for place in (0, 2, 4))}
    balances["lora"] = scored(base, list(tokenise(lora, store).test), pad)[2]
    for name, config, start in (("lora", lora, math.log(2)), ("kto", kto, 0.5)):
        run = store.run(name)
        train(config, run, store, lambda: False)
        evaluate(config, run, store)
        found = read_fact(run.evaluation_file, Evaluation)
        assert found is not None
        assert found.loss == pytest.approx(start + 0.1 * balances[name], rel=1e-4)
