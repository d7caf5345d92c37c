"""One run's trainer: the config's values in TRL's words, checkpoints that are whole, a line per logged step.

Owns: what DPOConfig and peft are told; what is saved, recorded and refused during training.
Must not know: when a run is done, what is written then.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import torch.distributed
from peft import LoraConfig
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback
from trl import DPOConfig, KTOConfig

from launcher.config import Lora, RunConfig
from launcher.config import Trainer as TrainerConfig
from launcher.errors import CheckpointError, ConfigError, TrainingError
from launcher.losses import loss_named
from launcher.machine.terminal import say
from launcher.model.adapter import CONFIG_FILE, Adapter, with_base
from launcher.store import checksums
from launcher.store.checkpoint_folders import step_of
from launcher.store.files import append_line, plain, whole_or_gone
from launcher.store.metrics_log import Saved
from launcher.store.output_folder import Store
from launcher.store.run_folder import RunDir
from launcher.worker import fence, progress
from launcher.worker.dataset.lengths import Lengths
from launcher.worker.dataset.pairs import Pairs, collator
from launcher.worker.distributed import ranks, zero
from launcher.worker.model import base_model, precision, weights
from launcher.worker.model.precision import keep_master_weights
from launcher.worker.scoring import attention
from launcher.worker.scoring.attention import NotPackable
from launcher.worker.training import checkpoints, first_step, milestones, packing
from launcher.worker.training.kto import UnpairedTrainer, kto_arguments
from launcher.worker.training.kto import collator as kto_collator
from launcher.worker.training.losses import Objective, PreferenceTrainer, Watched, loss_arguments
from launcher.worker.training.meter import COUNTS, Counts, Meter, counting
from launcher.worker.training.step_order import Ranks, StepOrder

LOGGED = {
    "loss": "loss",
    "rewards/accuracies": "reward_accuracy",
    "rewards/margins": "reward_margin",
    "rewards/chosen": "chosen_reward",
    "rewards/rejected": "rejected_reward",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
    "entropy": "entropy",
}
# The same algorithm, in one pass over the weights: a tenth of the time on a CPU, and no copies of them on a GPU. It is
# transformers' own default; a checkpoint that was made by the other goes on with that one, which its state names.
_IN_ONE_PASS = {"adamw_torch": "adamw_torch_fused"}
# As transformers calls it: 5.17 by the second name alone, 5.23 by the first, with the second as an alias that warns.
RECOMPUTES = next(name for name in ("activation_checkpointing", "gradient_checkpointing") if hasattr(DPOConfig, name))


class _Kept(Trainer):
    """A trainer with float32 master weights, sealed checkpoints, and an end at a first step or a loss that is wrong."""

    precision = torch.float32  # of the weights in every forward
    keep_checkpoints = 1
    milestones: Mapping[int, RunDir] = MappingProxyType({})  # where to keep the model of which step
    saves_log: Path | None = None  # where the seconds of each save are noted
    training: checkpoints.Training | None = None  # what its checkpoints say that they are of
    base: Adapter | None = None  # what an adapter is to name as the model below it
    way: packing.Way = packing.Way()  # how pairs go through the model
    _is_turned = False  # whether the model computes attention as pairs need it
    meter: Meter | None = None  # is told of each batch that is trained on

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = super().create_optimizer(*args, **kwargs)
        if not self.is_deepspeed_enabled:  # which keeps its own
            keep_master_weights(optimizer)
        return optimizer

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As transformers does; afterwards the model computes attention as before."""
        self._is_turned = False
        with attention.restored(self.model):
            return super().train(*args, **kwargs)

    def _turn(self, model: Any) -> None:
        """Before the first forward in this process; `model` is what they go through, maybe divided among the ranks."""
        self.way = self.way.settled(model)
        attention.turn(model, packed=self.way.packed)
        self._is_turned = True
        if ranks.is_first():
            say(f"pairs go through the model {self.way.words}")

    def look_back(self) -> None:
        """After a packed training, try its model once more; what is found can only be said and recorded."""
        self.way = self.way.looked_back_on(self.model_wrapped)
        if self.way.doubt is not None and ranks.is_first():
            say(f"WARNING: pairs went through the model {self.way.words}")

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The loss; in the first step of a training, after a look at whether it starts at the reference model."""
        scorer = self.scorer(model)
        if self.state.global_step or not self.model.training:
            loss = super().compute_loss(scorer, inputs, *args, **kwargs)
            progress.bump()  # the backward comes next, in which ranks wait for each other
            return loss
        watched = Watched(scorer)
        loss = super().compute_loss(watched, inputs, *args, **kwargs)
        first_step.check(self, loss.item(), watched.outputs, inputs)
        return loss

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        progress.bump()
        if not self._is_turned:
            self._turn(model)
        if self.meter is not None:
            self.meter.add(self._computed(inputs[COUNTS]))
        try:
            loss: torch.Tensor = super().training_step(model, inputs, *args, **kwargs)
        except NotPackable as reason:  # what a trial does not show: dropout of its own, recomputed layers
            raise TrainingError(
                f"pairs cannot go through the model packed, which its trial did not show: {reason}; "
                "launch again with trainer.packed=false"
            ) from reason
        if not torch.isfinite(loss):
            raise TrainingError(
                f"step {self.state.global_step + 1}: the loss is {loss.item()}; lower the learning rate"
            )
        return loss

    def _computed(self, counts: Counts) -> Counts:
        """What the forward computes of a batch: all places of the padded one, or the tokens of one row."""
        return counts.packed if self.way.packed else counts

    def _save(self, output_dir: str | None = None, *args: Any, **kwargs: Any) -> None:
        super()._save(output_dir, *args, **kwargs)
        file = Path(output_dir or self.args.output_dir) / CONFIG_FILE
        if self.base is not None and file.is_file():
            # Only in the file: with a Hub id in memory, peft would ask the Hub at every save.
            file.write_text(with_base(file.read_text(encoding="utf-8"), self.base), encoding="utf-8")

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        with progress.phase("saving a checkpoint", progress.SAVING):
            self._save_and_seal(*args, **kwargs)

    def _save_and_seal(self, *args: Any, **kwargs: Any) -> None:
        began = time.perf_counter()
        fence.check()
        checkpoint = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        with whole_or_gone(checkpoint):
            super()._save_checkpoint(*args, **kwargs)
            if torch.distributed.is_initialized():
                torch.distributed.barrier()
            mine = checksums.of_rank(checkpoints.written(checkpoint), ranks.index(), ranks.size())
            sums = ranks.gather(list(checksums.checksums(checkpoint, mine).items()))
            if self.args.should_save:
                fence.check()
                checkpoints.seal(checkpoint, self.args.world_size, dict(sums), self.training, self.way.words)
        if self.args.should_save:
            if self.saves_log is not None:
                append_line(self.saves_log, plain(Saved(self.state.global_step, time.perf_counter() - began)))
            if self.state.global_step in self.milestones:
                milestone = self.milestones[self.state.global_step]
                milestones.keep(checkpoint, milestone.model, milestone)
            fence.check()
            checkpoints.rotate(Path(self.args.output_dir), self.keep_checkpoints, training=self.training)


class RunTrainer(_Kept, PreferenceTrainer):
    """The trainer of pairs, which several ranks share by length where a loss is a mean over pairs."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        # The experts' balance is one within a micro-batch, as are the losses of neighbours.
        if ranks.size() == 1 or loss_named(self.loss_name).neighbours or self.aux_loss_enabled:
            return super()._get_train_sampler(train_dataset)
        args, rows = self.args, self.train_dataset
        size, rounds = args.per_device_train_batch_size, args.gradient_accumulation_steps
        shared = Ranks(ranks.size(), size, ranks.size() * size * rounds)
        steps = math.ceil(len(rows) / shared.batch)
        costs = Lengths.of(rows, args.max_length).packed.tolist()
        return StepOrder(args.data_seed, lambda: self.state.global_step // steps, shared, costs)


class KtoRunTrainer(_Kept, UnpairedTrainer):
    """The trainer of completions with a label."""


class Recorder(TrainerCallback):
    """Says when to save and when to stop, and appends the metrics."""

    def __init__(
        self,
        metrics_file: Path,
        save_every: int,
        stop_requested: Callable[[], bool],
        milestones: Collection[int] = (),
        meter: Meter | None = None,
    ) -> None:
        self.metrics_file, self.save_every, self.stop_requested = metrics_file, save_every, stop_requested
        self.milestones = milestones
        self.meter = meter or Meter()
        self.stopped = False
        self.goes_on_from: Path | None = None  # the checkpoint that was given to the trainer
        self._began = 0.0
        self._has_begun = False
        self._seconds = 0.0
        self._steps = 0
        self._pace = progress.Pace()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.meter.begin(kwargs["model"])
        if self.milestones and args.lr_scheduler_type == "constant_with_warmup" and state.is_world_process_zero:
            steps = args.get_warmup_steps(state.max_steps)
            say(f"warm-up: {steps} steps; a training that ends at a milestone has trainer.warmup_steps={steps}")
        late = [step for step in self.milestones if step > state.max_steps]
        if late and state.is_world_process_zero:  # with epochs, only now the number of steps is known
            say(f"checkpoint.milestones={late}: never reached, the training has {state.max_steps} steps")

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self._has_begun:  # all that is loaded is loaded
            check_start(state.global_step, self.goes_on_from)
            self._has_begun = True
        fence.check(within=fence.STEP_SECONDS)
        self._began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._seconds += time.perf_counter() - self._began
        self._steps += 1
        self._pace.step(state.global_step, state.max_steps)
        if state.global_step >= state.max_steps:
            control.should_log = True  # what came after the last whole window counts as well
            return  # the final model is written next, and needs no checkpoint
        self.stopped = agree_to_stop(self.stop_requested())
        due = state.global_step % self.save_every == 0 or state.global_step in self.milestones
        control.should_save = self.stopped or due
        control.should_log = control.should_log or control.should_save  # who goes on from there has no part of a window
        control.should_training_stop = control.should_training_stop or self.stopped

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if not logs or "loss" not in logs:
            return  # the summary at the end
        line = {ours: _number(logs[theirs]) for theirs, ours in LOGGED.items() if theirs in logs}
        if not math.isfinite(line.get("grad_norm", 0.0)):
            raise TrainingError(f"step {state.global_step}: the gradient is not finite; lower the learning rate")
        times = {"seconds": self._seconds, "seconds_per_step": self._seconds / max(1, self._steps), "time": time.time()}
        measured = plain(self.meter.window(self._seconds))
        self._seconds, self._steps = 0.0, 0
        if state.is_world_process_zero:
            append_line(
                self.metrics_file, {"step": state.global_step, "max_steps": state.max_steps} | line | times | measured
            )
            say(_sentence(state.global_step, state.max_steps, line, times["seconds_per_step"]))


def check_start(step: int, checkpoint: Path | None) -> None:
    """Look whether a training starts where its checkpoint was written: the trainer loads what it finds, in silence.

    Raises:
        CheckpointError: it starts elsewhere, or the checkpoint was touched while it was loaded.
    """
    wanted, remedy = 0 if checkpoint is None else step_of(checkpoint), "launch the run again"
    if step != wanted:
        raise CheckpointError(f"the training starts at step {step}, its checkpoint is of step {wanted}; {remedy}")
    if checkpoint is not None and (why := checkpoints.missing_in(checkpoint)) is not None:
        raise CheckpointError(f"{checkpoint} was changed while it was loaded: {why}; {remedy}")


def _number(value: Any) -> float:
    return float(value.item() if isinstance(value, torch.Tensor) else value)


def _sentence(step: int, steps: int, line: dict[str, float], pace: float) -> str:
    values = " ".join(
        f"{name} {line[name]:.4g}" for name in ("loss", "reward_accuracy", "reward_margin") if name in line
    )
    return f"step {step}/{steps} {values} {pace:.2f} s/step"


def agree_to_stop(wish: bool) -> bool:
    """Whether any rank wishes it: a save is collective, so all must take part at the same step."""
    if not torch.distributed.is_initialized():
        return wish
    flag = torch.tensor([float(wish)], device=weights.device())
    torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
    return bool(flag.item())


def build_trainer(
    config: RunConfig,
    run: RunDir,
    store: Store,
    pairs: Pairs,
    callbacks: list[TrainerCallback],
) -> RunTrainer | KtoRunTrainer:
    """The trainer of one run, around a fresh policy."""
    loss, pad = loss_named(config.loss_type), weights.tokenizer(config.model, store).pad_token_id
    base_model.ensure_base(config.model, store)  # where it has to be made again, no rank makes it divided
    told = arguments(config, run)  # from here on, under ZeRO-3, what is loaded is divided among the ranks
    trainer = (RunTrainer if loss.paired else KtoRunTrainer)(
        model=weights.load_policy(config.model, store),
        args=told,
        data_collator=counting(
            collator(config, store) if loss.paired else kto_collator(pad, config.trainer.max_length)
        ),
        train_dataset=pairs.train,
        eval_dataset=pairs.test,
        processing_class=weights.tokenizer(config.model, store),
        peft_config=None if config.trainer.lora is None else lora_config(config.trainer.lora),
        callbacks=callbacks,
        **({"objective": Objective.of(config)} if loss.paired else {}),
    )
    if config.model.quantization is not None:
        # TRL rounds adapters on packed weights to bfloat16; peft would load a checkpoint's as float32, as all others.
        for parameter in trainer.model.parameters():
            parameter.data = parameter.data.float() if parameter.requires_grad else parameter.data
    trainer.way = packing.Way(packing.why_trained_padded(config, store, trainer))
    trainer.base = base_model.name_of(config.model, store)
    trainer.precision = precision.dtype_of(config.model)
    trainer.training = checkpoints.Training.of(run)
    trainer.keep_checkpoints = config.checkpoint.keep
    trainer.saves_log = run.saves_log
    trainer.milestones = {step: run.milestone(step) for step in config.checkpoint.milestones or ()}
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    return trainer


def accumulation(config: RunConfig, world_size: int) -> int:
    """Micro-batches per optimizer step on each device.

    Each step sees the pairs that it would see on one device: the seed alone gives the order of an epoch, the order is
    cut into micro-batches, and accelerate deals these to the ranks in turn; a step takes batch_size / micro_batch_size
    of them, on however many ranks. Which of a step's pairs share a micro-batch is by length (`step_order`), unless the
    loss depends on that. Only where an epoch ends amid a step, ranks that would be left without a micro-batch get the
    epoch's first pairs once more, where one device makes a smaller step.

    Raises:
        ConfigError: the batch cannot be made of whole micro-batches.
    """
    at_once = config.trainer.micro_batch_size * world_size
    if config.trainer.batch_size % at_once:
        raise ConfigError(
            "trainer.batch_size",
            config.trainer.batch_size,
            f"not a multiple of micro_batch_size {config.trainer.micro_batch_size} x {world_size} devices = {at_once}",
        )
    return config.trainer.batch_size // at_once


def lora_config(lora: Lora) -> LoraConfig:
    """The adapters in peft's words."""
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        task_type="CAUSAL_LM",
    )


def _warmup(trainer: TrainerConfig) -> float:
    """As transformers reads it: steps, or below 1 a share of all of them."""
    return trainer.warmup_ratio if trainer.warmup_steps is None else trainer.warmup_steps


def arguments(config: RunConfig, run: RunDir) -> DPOConfig | KTOConfig:
    """The run in TRL's words."""
    trainer = config.trainer
    paired = loss_named(config.loss_type).paired
    loss = loss_arguments(Objective.of(config), trainer.ld_alpha) if paired else kto_arguments(config)
    return (DPOConfig if paired else KTOConfig)(
        output_dir=str(fence.own(run.checkpoints)),
        **loss,
        learning_rate=trainer.learning_rate,
        lr_scheduler_type=trainer.lr_scheduler,
        warmup_steps=_warmup(trainer),
        optim=_IN_ONE_PASS.get(trainer.optimizer, trainer.optimizer),
        weight_decay=trainer.weight_decay,
        max_grad_norm=trainer.max_grad_norm,
        num_train_epochs=trainer.epochs,
        max_steps=trainer.max_steps or -1,
        per_device_train_batch_size=trainer.micro_batch_size,
        per_device_eval_batch_size=config.evaluation.batch_size,
        gradient_accumulation_steps=accumulation(config, ranks.size()),
        **{RECOMPUTES: trainer.gradient_checkpointing, f"{RECOMPUTES}_kwargs": {"use_reentrant": False}},
        max_length=trainer.max_length,
        disable_dropout=False,  # the base's own is off (`weights.load_policy`), the adapters' stays as configured
        precompute_ref_log_probs=trainer.lora is None,  # no reference model is loaded: the columns are there
        # No autocast: the forward runs in the dtype of the weights, as the reference pass does.
        **zero.arguments(config.deepspeed, precision.dtype_of(config.model)),
        seed=config.seed,
        data_seed=config.seed,
        save_strategy="no",  # Recorder says when
        logging_steps=config.tracking.every,
        logging_nan_inf_filter=False,  # would hide what must end the run
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        report_to="none",
    )
