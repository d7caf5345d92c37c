"""Unpaired completions: TRL's KTOTrainer on a table of reference values, and what it is worth held out.

Owns: what of KTOTrainer has to be left out once the reference table exists; its held-out scores.
Must not know: where the table, the model and the rows come from.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from datasets import Dataset
from trl import KTOTrainer
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

from launcher.config import RunConfig
from launcher.losses import given
from launcher.store.results import HeldOut
from launcher.worker import progress
from launcher.worker.scoring import head
from launcher.worker.training.losses import Scored, Watched, unlogged

COLUMNS = {
    "chosen_ids": "completion_ids",
    "rejected_ids": "KL_completion_ids",
    "ref_chosen_logps": "ref_logps",
    "ref_rejected_logps": "ref_KL_logps",
}
FOREIGN = 2  # the kind of the KL term's completions, beside those with label 0 and 1


class UnpairedTrainer(KTOTrainer):
    """KTOTrainer on the rows of `unpaired`, which carry their reference log-probs; it holds no reference model."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        head.of_training(self.model)
        self.loss_name, self.precompute_ref_logps = self.args.loss_type, True

    def _prepare_dataset(self, dataset: Dataset, *_args: Any) -> Dataset:
        """Our columns under KTOTrainer's names; the rest was done once for the whole sweep."""
        return dataset.rename_columns(
            {ours: theirs for ours, theirs in COLUMNS.items() if ours in dataset.column_names}
        )

    def _precompute_ref_logps(self, dataset: Dataset, *_args: Any) -> Dataset:
        """Leave the data alone: the reference values are there."""
        return dataset

    def create_model_card(self, *_args: Any, **_kwargs: Any) -> None:
        """Write no card into checkpoints; a published revision gets its own."""

    def scorer(self, model: Any) -> Callable[..., Any]:
        """How `model` scores a micro-batch: as it comes, since its completions have no pairs."""
        return model

    def _compute_loss(self, model: Callable[..., Any], inputs: dict[str, Any], return_outputs: bool) -> Any:
        return super()._compute_loss(head.Filled(model), inputs, return_outputs)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As TRL does, without the metrics of what the head leaves out."""
        head.forget_unlogged(self)
        super().log(logs, *args, **kwargs)

    def place(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch on the model's device."""
        placed: dict[str, Any] = self._prepare_inputs(batch)
        return placed

    def scored(self, outputs: Sequence[Any], inputs: dict[str, Any]) -> list[Scored]:
        """What the loss is told of a batch: by the forward of its KL term, if it has one, and then that of the rows."""
        labels, (*foreign, own) = inputs["label"].long(), outputs
        kinds = torch.full_like(labels, FOREIGN)
        return [
            *(_scored(each, inputs["ref_KL_logps"], inputs["KL_completion_mask"], kinds) for each in foreign),
            _scored(own, inputs["ref_logps"], inputs["completion_mask"], labels),
        ]


def _scored(outputs: Any, reference: torch.Tensor, completion_mask: torch.Tensor, kinds: torch.Tensor) -> Scored:
    return Scored(outputs, outputs.log_probs.sum(dim=1) - reference, reference, completion_mask, kinds)


def kto_arguments(config: RunConfig) -> dict[str, Any]:
    """What KTOConfig must be told: the loss, and that the order of the rows stays as it is."""
    return {
        "loss_type": config.loss_type,
        "beta": config.beta,
        **given(config),
        "train_sampling_strategy": "sequential",
    }


def collator(pad_token_id: int, max_length: int) -> DataCollatorForUnpairedPreference:
    """How a batch is cut and padded."""
    return DataCollatorForUnpairedPreference(pad_token_id=pad_token_id, max_length=max_length)


@torch.no_grad()
def held_out_metrics(trainer: Any, beta: float) -> HeldOut:
    """Loss, accuracy and margin on the held-out completions.

    A completion's reward is beta (log pi - log pi_ref). The accuracy is the share of pairs of a desirable and an
    undesirable completion, whatever their prompts, in which the desirable one's reward is the higher (the area under
    the ROC curve); the margin is the difference of the two mean rewards. Both are None where one kind is missing. The
    loss is the mean over the micro-batches of training's size, whose KL term it contains.
    """
    rows, size = trainer.eval_dataset, trainer.args.per_device_train_batch_size
    losses, rewards, labels = [], [], []
    for start in range(0, len(rows), size):
        batch = trainer.place(trainer.data_collator([rows[index] for index in range(start, start + size)]))
        watched = Watched(trainer.model)
        with unlogged(trainer):
            losses.append(float(trainer._compute_loss(watched, batch, return_outputs=False)))  # noqa: SLF001 - its own
        *_, own = trainer.scored(watched.outputs, batch)
        rewards += (beta * own.ratios).tolist()
        labels += batch["label"].tolist()
        progress.bump()
    accuracy, margin = ranked(rewards, labels)
    return HeldOut(statistics.fmean(losses), accuracy, margin, len(rewards))


def ranked(rewards: list[float], labels: list[bool]) -> tuple[float | None, float | None]:
    """The accuracy and the margin of these rewards, as `held_out_metrics` says."""
    up = [reward for reward, label in zip(rewards, labels, strict=True) if label]
    down = [reward for reward, label in zip(rewards, labels, strict=True) if not label]
    if not up or not down:
        return None, None
    wins = sum((u > d) + (u == d) / 2 for u in up for d in down)
    return wins / (len(up) * len(down)), statistics.fmean(up) - statistics.fmean(down)
