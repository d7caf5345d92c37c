"""launcher.worker.evaluation, preference, generations and golden: what a finished run is worth."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from by_hand import kl_by_hand
from peft import get_peft_model
from worker_fixtures import ARCHITECTURE, LORA, Configure

from launcher.config import Dataset, Hub, Lora, RunConfig
from launcher.errors import ConfigError, StoreError
from launcher.hub.push import publish
from launcher.store.facts import Launch, RunRecord
from launcher.store.files import plain, read_fact, write_derived
from launcher.store.output_folder import Store
from launcher.store.run_folder import Point, RunDir
from launcher.worker.dataset.pairs import first_distinct, tokenise
from launcher.worker.evaluation import generations, golden
from launcher.worker.evaluation import preference as evaluation
from launcher.worker.evaluation.generations import (
    Batch,
    kl_to_reference,
    next_log_probs,
    own_log_probs,
    sample,
    until_end,
)
from launcher.worker.evaluation.preference import evaluate, evaluate_base, generation_metrics, pair_metrics
from launcher.worker.model import weights as models
from launcher.worker.model.text import rendered
from launcher.worker.training import packing
from launcher.worker.training import train as training
from launcher.worker.training.losses import Objective
from launcher.worker.training.train import train
from launcher.worker.training.trainer import lora_config

KEYS = {
    "loss", "losses", "reward_accuracy", "reward_margin", "kl", "kl_stderr", "golden_reward", "golden_reward_stderr",
    "pairs", "generations", "seconds", "golden_rewards", "samples", "settings", "base", "model",
}  # fmt: skip


def trained(config: RunConfig, store: Store, name: str = "r") -> RunDir:
    run = store.run(name)
    train(config, run, store, lambda: False)
    return run


def evaluated(config: RunConfig, run: RunDir, store: Store) -> dict[str, Any]:
    run.evaluation_file.unlink(missing_ok=True)
    evaluate(config, run, store)
    return read_fact(run.evaluation_file) or {}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("lora", [None, LORA])
def test_the_model_in_memory_and_on_disk_agree(configure: Configure, store: Store, lora: object, dtype: str) -> None:
    """Evaluating right after training and evaluating later, in another process, give the same numbers and texts."""
    config = configure(trainer__lora=lora, model__dtype=dtype, loss_type="ipo")
    run = trained(config, store)
    fresh = evaluated(config, run, store)
    training.forget_trained()
    later = evaluated(config, run, store)
    assert set(fresh) == KEYS
    for key in KEYS - {"seconds"}:
        assert later[key] == (pytest.approx(fresh[key], rel=1e-6) if isinstance(fresh[key], float) else fresh[key])


def test_evaluation_is_written_once(configure: Configure, store: Store) -> None:
    """A second call changes nothing."""
    config = configure(trainer__max_steps=1)
    run = trained(config, store)
    evaluate(config, run, store)
    before = run.evaluation_file.read_bytes()
    evaluate(replace(config, beta=0.9), run, store)
    assert run.evaluation_file.read_bytes() == before


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo", "kto_pair"])
@pytest.mark.parametrize("lora", [None, LORA])
def test_pair_metrics_are_trls(configure: Configure, store: Store, loss_type: str, lora: object) -> None:
    """Loss, accuracy and margin equal those of TRL's own evaluate, with batches of equal size."""
    config = configure(loss_type=loss_type, trainer__lora=lora, evaluation__batch_size=3)
    run = trained(config, store)
    trainer = training.load_trained(config, run, store)
    theirs = trainer.evaluate()
    trainer.model.eval()
    ours = pair_metrics(trainer, config, store)
    assert ours.pairs == 6
    assert ours.loss == pytest.approx(theirs["eval_loss"], rel=1e-5)
    assert ours.reward_accuracy == pytest.approx(theirs["eval_rewards/accuracies"])
    assert ours.reward_margin == pytest.approx(theirs["eval_rewards/margins"], rel=1e-4, abs=1e-6)


def test_one_forward_gives_the_losses_of_the_whole_grid(
    configure: Configure, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each equals what TRL's evaluate says with that loss and beta, and no further forward is made for them."""
    config = configure(sweep="grid", trainer__max_steps=1, evaluation__batch_size=3)
    grid = [(loss_type, beta) for loss_type in ("sigmoid", "ipo", "kto_pair") for beta in (0.1, 0.5)]
    runs = [RunRecord(str(number), "tiny", "d", a, b, 1, {}, {}, []) for number, (a, b) in enumerate(grid)]
    store.sweep("grid").add_launch(Launch([], runs))
    trainer = training.load_trained(config, trained(config, store), store)
    trainer.model.eval()
    forwards: list[None] = []
    forward = evaluation.forward
    monkeypatch.setattr(evaluation, "forward", lambda *given: forwards.append(None) or forward(*given))
    found = pair_metrics(trainer, config, store).losses
    losses = {(other.loss_type, other.beta): other.loss for other in found}
    assert len(forwards) == 2  # 6 pairs, 3 at a time
    assert losses.keys() == set(grid)
    for objective in grid:
        trainer.set_objective(Objective(*objective))
        assert losses[objective] == pytest.approx(trainer.evaluate()["eval_loss"], rel=1e-5)


def test_no_other_loss_is_taken_that_needs_more_than_the_run_has(configure: Configure, store: Store) -> None:
    """Not those on other rows, of other keys, without a reference where they need one, or that have no ld_alpha."""
    names = ("kto", "kto_pair", "hinge", "ipo", "simpo")
    keys = {"hinge": {"use_weighting": True}}
    runs = [RunRecord(name, "tiny", "d", name, 0.1, 1, {}, {}, [], keys.get(name, {})) for name in names]
    store.sweep("grid").add_launch(Launch([], runs))
    own, ipo, kto_pair, simpo = ("sigmoid", 0.1), ("ipo", 0.1), ("kto_pair", 0.1), ("simpo", 0.1)
    assert evaluation.objectives_of(configure(sweep="grid"), store) == [own, ipo, kto_pair, simpo]
    assert evaluation.objectives_of(configure(sweep="grid", trainer__ld_alpha=0.5), store) == [own, ipo]
    free = configure(sweep="grid", loss_type="cpo")
    assert evaluation.objectives_of(free, store) == [("cpo", 0.1), simpo]


def test_pair_metrics_weigh_every_pair_alike(configure: Configure, store: Store) -> None:
    """A last, smaller batch does not count for more: sigmoid's numbers do not depend on the batch size."""
    config = configure()
    run = trained(config, store)
    found = []
    for size in (2, 4, 6):
        sized = replace(config, evaluation=replace(config.evaluation, batch_size=size))
        trainer = training.load_trained(sized, run, store)
        trainer.model.eval()
        found.append(pair_metrics(trainer, sized, store))
    assert found[1].loss == pytest.approx(found[0].loss, rel=1e-5)
    assert found[2].reward_margin == pytest.approx(found[0].reward_margin, abs=1e-5)


def test_a_trained_model_is_tried_once(configure: Configure, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether its pairs go packed is known from the end of its training; one that comes from its folder is tried."""
    tried: list[None] = []
    honest = packing.why_not
    monkeypatch.setattr(packing, "why_not", lambda model: tried.append(None) or honest(model))
    config = configure(trainer__max_steps=1)
    run = trained(config, store)
    before = len(tried)
    evaluated(config, run, store)
    assert len(tried) == before
    training.forget_trained()
    evaluated(config, run, store)
    assert len(tried) == before + 1


def two_models(
    configure: Configure, store: Store, **changes: Any
) -> tuple[RunConfig, torch.nn.Module, torch.nn.Module]:
    """A config, a policy, and a reference that is far from it."""
    config = configure(**changes)
    policy = models.load_policy(config.model, store).eval()
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        policy.lm_head.weight.add_(torch.randn_like(policy.lm_head.weight) * 0.1)
    return config, policy, models.load(config.model, store)


def distances(policy: torch.nn.Module, reference: torch.nn.Module, batch: Batch) -> list[float]:
    return kl_to_reference(next_log_probs(policy, batch, 1.0), next_log_probs(reference, batch, 1.0), batch)


def test_the_kl_of_one_token_is_exact(configure: Configure, store: Store) -> None:
    """With one token to write, the KL is that of the two next-token distributions behind the prompt."""
    config, policy, reference = two_models(configure, store)
    tokens = models.tokenizer(config.model, store)
    settings = replace(config.evaluation, generations=2, max_new_tokens=1)
    batch = next(sample(policy, tokens, ["Story:", "Story: the"], settings))
    with torch.no_grad():
        expected = []
        for prompt in ("Story:", "Story: the"):
            ids = tokens(prompt, return_tensors="pt")["input_ids"]
            ours, theirs = (
                model(input_ids=ids).logits[0, -1].double().log_softmax(-1) for model in (policy, reference)
            )
            expected.append(float((ours.exp() * (ours - theirs)).sum()))
    assert distances(policy, reference, batch) == pytest.approx(expected, rel=1e-4)


def test_the_kl_estimate_agrees_with_the_plain_one(configure: Configure, store: Store) -> None:
    """Over many generations its mean is that of the summed log-ratio of the sampled tokens, and it scatters less."""
    config, policy, reference = two_models(configure, store)
    tokens = models.tokenizer(config.model, store)
    settings = replace(config.evaluation, generations=2000, max_new_tokens=4, batch_size=500)
    better, plain = [], []
    for batch in sample(policy, tokens, ["Story:"], settings):
        better += distances(policy, reference, batch)
        new = batch.ids[:, -batch.written.shape[1] :].unsqueeze(2)
        ours, theirs = (next_log_probs(model, batch, 1.0) for model in (policy, reference))
        ratios = (ours - theirs).gather(2, new).squeeze(2)
        plain += (ratios * batch.written).sum(dim=1).tolist()
    few, many = torch.tensor(better), torch.tensor(plain)
    assert float(few.mean()) == pytest.approx(float(many.mean()), abs=4 * float(many.std()) / math.sqrt(2000))
    assert few.std() < many.std() / 2
    assert few.min() >= 0 > many.min()  # a divergence is never negative; the plain estimate of one is


def test_the_sampled_distribution_is_the_one_that_is_scored(
    configure: Configure, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Log-probs kept while writing equal those of one forward over the whole text, padding and all."""
    config, policy, _ = two_models(configure, store)
    kept: list[torch.Tensor] = []
    generate = policy.generate

    def keeping(**given: Any) -> torch.Tensor:
        made = generate(**given, output_logits=True, return_dict_in_generate=True)
        kept.append(torch.log_softmax(torch.stack(made.logits, dim=1).float() / 0.7, dim=-1))
        return made.sequences

    monkeypatch.setattr(policy, "generate", keeping)
    settings = replace(config.evaluation, generations=4, max_new_tokens=6, temperature=0.7)
    batch = next(sample(policy, models.tokenizer(config.model, store), ["Story:", "A much longer opening"], settings))
    again = next_log_probs(policy, batch, 0.7)
    assert torch.allclose(again[batch.written], kept[0][batch.written], atol=1e-4)


@pytest.mark.parametrize("lora", [None, LORA])
def test_batches_are_written_together_and_read_as_if_alone(
    configure: Configure, store: Store, monkeypatch: pytest.MonkeyPatch, lora: Lora | None
) -> None:
    """In float32: the same tokens, places and log-probs as one batch after another, and one forward over each text."""
    config, policy, _ = two_models(configure, store)
    if lora is not None:
        policy = get_peft_model(policy, lora_config(lora)).eval()
    tokens = models.tokenizer(config.model, store)
    settings = replace(config.evaluation, generations=10, batch_size=4, max_new_tokens=40)
    prompts: list[Any] = ["Story:", "A much longer opening", "A", "Story:", "the"]
    monkeypatch.setattr(generations, "end_tokens", lambda *_: [tokens.eos_token_id, *range(50, 80)])

    def written() -> list[Batch]:
        return list(sample(policy, tokens, prompts, settings, keep_logits=True))

    together = written()
    monkeypatch.setattr(generations, "AT_ONCE", 0)
    alone = written()
    assert [len(batch.prompts) for batch in together] == [4, 4, 2]
    assert len({batch.ids.shape[1] for batch in alone}) > 1
    for ours, theirs in zip(together, alone, strict=True):
        assert ours.texts == theirs.texts
        for name in ("ids", "attention", "written"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name))
        kept, forward = (each(policy, ours, 0.7) for each in (own_log_probs, next_log_probs))
        assert torch.allclose(kept[ours.written], forward[ours.written], atol=1e-4)


def test_in_float32_texts_cost_one_forward_of_each_model(
    configure: Configure, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The policy's is that in which it writes, all short batches at once.

    In bfloat16, where rounding decides which token is drawn, each batch is written by itself, and read once more.
    """
    made: list[str] = []
    monkeypatch.setattr(generations, "continued", noting(made, "written", generations.continued))
    monkeypatch.setattr(generations, "next_log_probs", noting(made, "read", next_log_probs))
    monkeypatch.setattr(evaluation, "next_log_probs", noting(made, "reference", next_log_probs))
    for dtype, expected in (
        ("float32", ["written", "reference", "reference"]),
        ("bfloat16", ["written", "read", "reference"] * 2),
    ):
        config, policy, reference = two_models(configure, store, model__dtype=dtype)
        made.clear()
        found = generation_metrics(policy, lambda: contextlib.nullcontext(reference), config, store)  # noqa: B023
        assert made == expected
        assert found.kl == pytest.approx(
            kl_by_hand(config, policy, reference, store), rel=1e-4 if "32" in dtype else 0.1
        )


def noting(made: list[str], what: str, work: Callable[..., Any]) -> Callable[..., Any]:
    """The same, and a note of each call."""
    return lambda *given, **more: (made.append(what), work(*given, **more))[1]


@pytest.mark.parametrize("lora", [None, LORA])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_untrained_policy_is_at_distance_zero(configure: Configure, store: Store, dtype: str, lora: object) -> None:
    """KL(base || base) is 0, also where a log-prob has three digits."""
    architecture = ARCHITECTURE | {"initializer_range": 0.5}  # as sure of its words as a real model
    config = configure(
        model__dtype=dtype,
        model__architecture=architecture,
        trainer__max_steps=1,
        trainer__learning_rate=0.0,
        trainer__lora=lora,
        evaluation__max_new_tokens=40,
    )
    found = evaluated(config, trained(config, store), store)
    assert found["kl"] == pytest.approx(0.0, abs=1e-6)
    assert any(sample["text"] for sample in found["samples"])


def test_what_is_written_ends_with_the_end_token() -> None:
    """Tokens behind the first end token are padding; the end token itself was a choice and counts."""
    new = torch.tensor([[5, 2, 0, 0], [2, 2, 2, 2], [5, 6, 7, 8]])
    assert until_end(new, [2]).tolist() == [[True, True, False, False], [True, False, False, False], [True] * 4]
    assert until_end(new, [2, 6]).tolist()[2] == [True, True, False, False]


def test_every_model_meets_the_same_random_numbers(configure: Configure, store: Store) -> None:
    """The same model and settings write the same texts, and leave the process's random state alone."""
    config = configure()
    base, tokens = models.load(config.model, store), models.tokenizer(config.model, store)
    state = torch.random.get_rng_state()
    one, two = ([b.texts for b in sample(base, tokens, ["Story:"], config.evaluation)] for _ in range(2))
    other = [b.texts for b in sample(base, tokens, ["Story:"], replace(config.evaluation, seed=7))]
    assert one == two != other
    assert torch.equal(state, torch.random.get_rng_state())


def test_generations_are_dealt_to_the_prompts_in_turn(configure: Configure, store: Store) -> None:
    """Six generations for two prompts: three each; the kept samples show both prompts, each with its reward."""
    config = configure(trainer__max_steps=1)
    found = evaluated(config, trained(config, store), store)
    assert found["generations"] == len(found["golden_rewards"]) == 6
    assert [sample["prompt"] for sample in found["samples"]] == ["Story:", "Story: the", "Story:"]
    assert [sample["reward"] for sample in found["samples"]] == found["golden_rewards"][:3]
    assert found["golden_reward"] == pytest.approx(sum(found["golden_rewards"]) / 6)


def test_without_prompts_those_of_the_test_split_are_used(configure: Configure, store: Store) -> None:
    """Different ones, in order."""
    config = configure(dataset__prompts=[])
    assert evaluation.prompts(config, store) == ["Story:"]
    assert first_distinct(["b", "a", "b", "c"], 2) == ["b", "a"]


def test_a_run_on_conversations(configure: Configure, store: Store, tmp_path: Path) -> None:
    """Messages are trained on and continued through the model's own chat template."""
    user, good, bad = ({"role": r, "content": c} for r, c in (("user", "Q"), ("assistant", "A"), ("assistant", "B")))
    for split in ("train", "test"):
        row = json.dumps({"chosen": [user, good], "rejected": [user, bad]})
        (tmp_path / f"{split}.jsonl").write_text(f"{row}\n" * 8)
    dataset = Dataset(name="chat", path=str(tmp_path))
    config = configure(dataset=dataset, trainer__max_steps=1, evaluation__batch_size=8)
    tokens = models.tokenizer(config.model, store)
    pair = tokenise(config, store).train[0]
    assert tokens.decode(pair["prompt_ids"]) == "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n"
    assert tokens.decode(pair["chosen_ids"]) == "A<|im_end|>\n"
    found = evaluated(config, trained(config, store), store)
    assert found["samples"][0]["prompt"] == [user]
    assert found["pairs"] == 8


def test_messages_are_rendered_by_the_models_template(configure: Configure, store: Store) -> None:
    """A conversation opens the assistant's turn; plain text stays as it is."""
    tokens = models.tokenizer(configure().model, store)
    messages = [{"role": "user", "content": "a"}]
    assert rendered(messages, tokens) == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
    assert rendered("plain", tokens) == "plain"


def test_the_base_is_evaluated_once(configure: Configure, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once per model, prompts and settings, whatever the runs; other settings make another one."""
    calls: list[int] = []
    measure = evaluation.generation_metrics
    monkeypatch.setattr(evaluation, "generation_metrics", lambda *args: calls.append(1) or measure(*args))
    first = evaluate_base(configure(), store)
    assert evaluate_base(configure(beta=0.9, trainer__lora=LORA, loss_type="ipo"), store) == first
    assert len(calls) == 1
    assert evaluate_base(configure(evaluation__seed=3), store).samples != first.samples
    assert evaluate_base(configure(model__architecture=ARCHITECTURE | {"seed": 1}), store) != first
    assert len(calls) == 3
    assert (first.generations, len(first.golden_rewards), len(first.samples)) == (6, 6, 3)


def test_base_and_runs_are_compared_on_equal_terms(configure: Configure, store: Store) -> None:
    """A policy that has not moved writes what the base writes."""
    config = configure(trainer__max_steps=1, trainer__learning_rate=0.0)
    found = evaluated(config, trained(config, store), store)
    assert found["samples"] == plain(evaluate_base(config, store))["samples"]
    assert found["kl"] == pytest.approx(0, abs=1e-5)


def test_without_a_golden_reward_there_is_none(configure: Configure, store: Store) -> None:
    """The keys are there, without values."""
    config = configure(dataset__golden_reward=None, trainer__max_steps=1)
    found = evaluated(config, trained(config, store), store)
    assert (found["golden_reward"], found["golden_reward_stderr"], found["golden_rewards"]) == (None, None, [])
    assert found["samples"][0]["reward"] is None


def test_golden_rewards_by_name() -> None:
    """vader tells praise from blame; an unknown name lists those there are."""
    praise, blame, neither = golden.score("vader", ["A wonderful, warm film!", "A terrible, boring mess.", "It is."])
    assert praise > 0.5
    assert neither == 0
    assert blame < -0.5
    with pytest.raises(ConfigError, match=r"dataset\.golden_reward=vadr: unknown; there is vader"):
        golden.score("vadr", [])


@pytest.mark.parametrize("lora", [None, LORA])
def test_a_run_whose_model_was_removed_is_read_from_its_revision(
    configure: Configure, store: Store, lora: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the folder, or at the recorded commit from the Hub; where there is neither, one line says what to do."""
    config = configure(trainer__max_steps=2, trainer__lora=lora)
    run = trained(config, store)
    weights = training.load_trained(config, run, store).model.state_dict()
    run.write_config(asdict(config))
    hub = Hub(store="folder", repo="scan", revision="one")
    address = Path(publish(Point(run), hub, store).address)
    shutil.rmtree(run.model)
    training.forget_trained()
    loaded = training.load_trained(config, run, store).model.state_dict()
    assert all(torch.equal(weights[name], loaded[name]) for name in weights)
    fact = {"store": "huggingface", "repo": "me/scan", "revision": "one", "commit": "0a", "content": "c"}
    fact["address"] = "me/scan@one"
    write_derived(run.revision_file, json.dumps(fact))
    asked = lambda repo, revision: str(address) if (repo, revision) == ("me/scan", "0a") else ""  # noqa: E731
    monkeypatch.setattr("huggingface_hub.snapshot_download", asked)
    assert training.final_model(run) == address
    run.revision_file.unlink()
    with pytest.raises(StoreError, match=r"r: its model is gone from .*, and is published nowhere; remove result"):
        training.final_model(run)


def test_a_finished_run_is_read_from_its_folder(configure: Configure, store: Store) -> None:
    """What is evaluated later are the weights in the run's model folder."""
    config = configure(trainer__max_steps=2)
    run = trained(config, store)
    trained_weights = training.load_trained(config, run, store).model.state_dict()
    training.forget_trained()
    loaded = training.load_trained(config, run, store).model.state_dict()
    assert all(torch.equal(trained_weights[name], loaded[name]) for name in trained_weights)
