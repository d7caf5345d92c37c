"""The benchmark `preference`: held-out pairs, KL to the reference, golden reward of what a finished run writes.

Owns: evaluation.json of a run, and that of the untrained model.
Must not know: how the model was trained, how results are shown.

Reward accuracy and margin can look fine while the text is destroyed, so samples and a reward that knows nothing of the
pairs stand beside them.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from peft import PeftModel

from launcher.config import RunConfig
from launcher.losses import loss_named
from launcher.machine.terminal import say
from launcher.store.entries import making
from launcher.store.files import Plain, content_key, read_fact, write_once
from launcher.store.model_marker import model_name
from launcher.store.output_folder import Store
from launcher.store.results import Evaluation, HeldOut, OtherLoss, Sample, Written
from launcher.store.run_folder import RunDir
from launcher.worker import progress
from launcher.worker.dataset.pairs import collator
from launcher.worker.dataset.prompts import prompts
from launcher.worker.evaluation import golden
from launcher.worker.evaluation.generations import kl_to_reference, next_log_probs, own_log_probs, sample
from launcher.worker.model import base_model, precision, sampling, weights
from launcher.worker.model.tabular import action_probabilities
from launcher.worker.model.text import Prompt
from launcher.worker.scoring.forward import forward as forward_of_pairs
from launcher.worker.training.kto import held_out_metrics
from launcher.worker.training.losses import Objective, completions
from launcher.worker.training.packing import of_held_out
from launcher.worker.training.train import load_trained
from launcher.worker.training.trainer import RunTrainer

SETTINGS = ("batch_size", "generations", "max_new_tokens", "temperature", "seed", "samples")  # of `evaluation`, ours
OTHER_OBJECTIVES = 100  # of the sweep, whose losses stand beside a run's own: their number grows with its square
KL_ESTIMATOR = "sum over tokens of the KL of the next-token distributions, on the policy's own samples"


def evaluate(config: RunConfig, run: RunDir, store: Store) -> None:
    """Write the run's evaluation.json, once; those of its milestones first, so that it closes the run."""
    if run.evaluation_file.exists():
        return
    for _, milestone in run.milestones():
        evaluate(config, milestone, store)
    began = time.perf_counter()
    say("evaluating")
    trainer = load_trained(config, run, store)
    trainer.model.eval()
    paired = loss_named(config.loss_type).paired
    with of_held_out(trainer, config, store):
        pairs = pair_metrics(trainer, config, store) if paired else held_out_metrics(trainer, config.beta)
    written = generation_metrics(trainer.model, _reference(trainer.model, config, store), config, store)
    fact = Evaluation(
        **vars(pairs),
        **vars(written),
        actions=action_probabilities(trainer.model, weights.tokenizer(config.model, store)),
        seconds=time.perf_counter() - began,
        settings=_settings(config, store),
        base=base_key(config, store),
        model=model_name(run),
    )
    write_once(run.evaluation_file, fact)


def evaluate_base(config: RunConfig, store: Store) -> Evaluation:
    """What the untrained model writes for the same prompts and seed; once per (model, prompts, settings)."""
    folder = store.cache("base", base_key(config, store))
    with making(folder) as empty:
        if empty is not None:
            began = time.perf_counter()
            say("evaluating the untrained model (once)")
            with weights.in_use(weights.load(config.model, store)) as base:
                written = generation_metrics(base, None, config, store)
            seconds, settings = time.perf_counter() - began, _settings(config, store)
            write_once(empty / "evaluation.json", Evaluation(**vars(written), seconds=seconds, settings=settings))
    return read_fact(folder / "evaluation.json", Evaluation) or Evaluation()


def base_key(config: RunConfig, store: Store) -> str:
    """The cache entry of the untrained model's evaluation: by its content and what its generations depend on."""
    identity = {"base": base_model.fingerprint(config.model, store), "settings": _settings(config, store)}
    return content_key(identity)


def _settings(config: RunConfig, store: Store) -> Plain:
    """What the generations depend on, besides the model."""
    return {key: getattr(config.evaluation, key) for key in SETTINGS} | {
        "prompts": prompts(config, store),
        "golden_reward": config.dataset.golden_reward,
        "dtype": str(precision.dtype_of(config.model)).removeprefix("torch."),
        "attn_implementation": config.model.attn_implementation,
        "kl_estimator": _kl_estimator(config),
        **sampling.identity(config.model, store, listed=False),
    }


def _kl_estimator(config: RunConfig) -> str:
    """In float32 it makes no difference that the policy's log-probs were once those kept while it wrote."""
    is_exact = precision.dtype_of(config.model) == torch.float32
    return KL_ESTIMATOR if is_exact else f"{KL_ESTIMATOR}, one forward of each model"


@torch.no_grad()
def pair_metrics(trainer: RunTrainer, config: RunConfig, store: Store) -> HeldOut:
    """The run's own loss, reward accuracy and margin on the held-out pairs; and the losses of its sweep's other runs.

    A reward is what the loss's paper says that it is: of most, beta (log pi - log pi_ref). Only margins of one
    definition can be compared.

    The loss is the mean over batches of `evaluation.batch_size`, weighted by their size. For losses that look at the
    whole batch it therefore depends on that size; accuracy and margin are per pair and do not.
    """
    test, size, collate = trainer.eval_dataset, config.evaluation.batch_size, collator(config, store)
    objectives, own = objectives_of(config, store), Objective.of(config)
    losses, margins = dict.fromkeys(objectives, 0.0), []
    for start in range(0, len(test), size):
        rows = [test[index] for index in range(start, min(start + size, len(test)))]
        inputs = trainer.place(collate(rows))
        outputs = forward(trainer, inputs)
        for name, beta in objectives:
            trainer.set_objective(own if (name, beta) == objectives[0] else Objective(name, beta))
            losses[name, beta] += len(rows) * trainer.loss_of(outputs, inputs) / len(test)
        chosen, rejected = completions(outputs, inputs, config.trainer.ld_alpha).rewards(own)
        margins += (chosen - rejected).tolist()
        progress.bump()
    trainer.set_objective(own)
    return HeldOut(
        loss=losses[objectives[0]],
        reward_accuracy=sum(margin > 0 for margin in margins) / len(margins),
        reward_margin=statistics.fmean(margins),
        pairs=len(margins),
        losses=[OtherLoss(name, beta, loss) for (name, beta), loss in losses.items()],
    )


def objectives_of(config: RunConfig, store: Store) -> list[tuple[str, float]]:
    """The run's own loss and beta, then the others of its sweep: from the same forward, they cost nothing.

    Left out are those with keys of their own, and those that need more than the run has: other rows, a reference.
    """
    records = store.sweep(config.sweep).run_records() if config.sweep else []
    plain = [record for record in records if not record.loss]
    theirs = {(record.loss_type, record.beta) for record in plain if _is_computable(record.loss_type, config)}
    own = (config.loss_type, config.beta)
    return [own, *sorted(theirs - {own})[:OTHER_OBJECTIVES]]


def _is_computable(name: str, config: RunConfig) -> bool:
    loss, has_table = loss_named(name), loss_named(config.loss_type).needs_table
    return loss.paired and (has_table or not loss.reference) and (loss.ld_alpha or config.trainer.ld_alpha is None)


def forward(trainer: RunTrainer, inputs: dict[str, Any]) -> Any:
    """One forward, whose outputs serve every loss; the trainer has put TRL's head on the model."""
    labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
    given = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    balance = {"output_router_logits": True} if trainer.aux_loss_enabled else {}  # experts' part of every loss
    return forward_of_pairs(trainer.model, **given, **balance, use_cache=False, labels=labels, fused_lm_head=True)


Reference = Callable[[], AbstractContextManager[torch.nn.Module]]


def _reference(model: Any, config: RunConfig, store: Store) -> Reference:
    """The untrained model: the policy without its adapters, or the base that this process shares."""

    @contextmanager
    def without_adapters() -> Iterator[torch.nn.Module]:
        with model.disable_adapter():
            yield model

    if isinstance(model, PeftModel):
        return without_adapters
    return lambda: weights.in_use(weights.load(config.model, store))


def generation_metrics(model: torch.nn.Module, reference: Reference | None, config: RunConfig, store: Store) -> Written:
    """Golden reward and samples of what `model` writes; KL to the reference where there is one."""
    tokenizer, settings = weights.tokenizer(config.model, store), config.evaluation
    asked: list[Prompt] = []
    texts: list[str] = []
    divergences: list[float] = []
    keep = reference is not None
    for batch in sample(model, tokenizer, prompts(config, store), settings, keep_logits=keep):
        asked += batch.prompts
        texts += batch.texts
        if reference is not None:
            ours = own_log_probs(model, batch, settings.temperature)
            with reference() as base:
                theirs = next_log_probs(base, batch, settings.temperature)
            divergences += kl_to_reference(ours, theirs, batch)
    name = config.dataset.golden_reward
    rewards = [] if name is None else golden.score(name, texts)
    return Written(
        kl=_mean(divergences),
        kl_stderr=_stderr(divergences),
        golden_reward=_mean(rewards),
        golden_reward_stderr=_stderr(rewards),
        golden_rewards=rewards,
        generations=len(texts),
        samples=_samples(asked, texts, rewards, settings.samples),
    )


def _samples(asked: list[Prompt], texts: list[str], rewards: list[float], count: int) -> list[Sample]:
    """The first texts; prompts take turns, so they are of different prompts where there are enough."""
    scores: list[float] | list[None] = rewards or [None] * len(texts)
    rows = zip(asked[:count], texts[:count], scores[:count], strict=True)
    return [Sample(prompt, text, reward) for prompt, text, reward in rows]


def _mean(values: list[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _stderr(values: list[float]) -> float | None:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
