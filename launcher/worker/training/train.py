"""One run from its config to its final model and result.json.

Owns: resuming, stopping, the order in which the end of a run is written.
Must not know: schedulers, signals (it is handed a function that says whether to stop), golden rewards.

The end, in this order: the model, aside and then renamed; result.json; removal of the checkpoints. A kill between any
two of them costs at most the steps since the last checkpoint.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from peft import set_peft_model_state_dict
from safetensors.torch import load_file

from launcher.config import DeepSpeed, RunConfig
from launcher.errors import CheckpointError, StoreError, TrainingError
from launcher.hub.published import check_fetched
from launcher.losses import loss_named
from launcher.model.files import model_files
from launcher.store import model_marker
from launcher.store.checkpoint_folders import step_of
from launcher.store.facts import CacheUse
from launcher.store.files import Plain, fact_text, whole_or_gone, write_derived, write_once
from launcher.store.measurements import revision_of
from launcher.store.metrics_log import read_metrics
from launcher.store.output_folder import Store
from launcher.store.results import Result
from launcher.store.run_folder import RunDir
from launcher.store.throughput import of_lines
from launcher.worker import fence, progress
from launcher.worker.dataset.lengths import Lengths
from launcher.worker.dataset.pairs import Pairs
from launcher.worker.distributed import ranks, zero
from launcher.worker.model import precision, weights
from launcher.worker.model.memory import Latest
from launcher.worker.model.size import parameters
from launcher.worker.training import checkpoints
from launcher.worker.training.meter import Meter
from launcher.worker.training.reference_table import entries_of, prepare
from launcher.worker.training.resume import checkpoint_to_resume, refuse
from launcher.worker.training.trainer import Recorder, RunTrainer, build_trainer

LAST_LOGGED = 10  # lines whose mean is the run's training loss: one batch alone says little
VERSIONS = ("torch", "transformers", "trl", "peft", "accelerate")

_trained: Latest[RunTrainer] = Latest()

gc.freeze()  # what the libraries hold stays, and need not be looked through each time that a run lets go of its own


class Stopped(Exception):
    """The run was asked to stop, has saved a checkpoint, and can be resumed."""

    def __init__(self, step: int, max_steps: int) -> None:
        super().__init__(f"stopped on request at step {step} of {max_steps}; its checkpoint is saved")
        self.step = step


def train(config: RunConfig, run: RunDir, store: Store, stop_requested: Callable[[], bool]) -> None:
    """Train one run to its end, from its last complete checkpoint where there is one.

    Raises:
        Stopped: `stop_requested` became true; the state is saved.
        ConfigError: the config cannot be trained.
        RuntimeError: the loss or the gradient is not finite, or training ended early.
    """
    if ranks.first(run.result_file.exists):
        return
    began = time.time()
    _trained.forget()
    pairs = prepare(config, store)
    ranks.first(partial(write_derived, run.data_file, fact_text(pairs.counts)))
    ranks.first(lambda: write_derived(run.cache_file, fact_text(CacheUse(entries_of(config, store)))))
    meter = Meter(paired=loss_named(config.loss_type).paired, tflops=config.cluster.gpu_tflops)
    milestones = config.checkpoint.milestones or ()
    recorder = Recorder(run.metrics_file, config.checkpoint.every, stop_requested, milestones, meter)
    own, sharded, trainer = fence.own(run.checkpoints), bool(config.deepspeed.config), None
    try:
        with progress.phase("loading the model", progress.LOADING):
            trainer = build_trainer(config, run, store, pairs, [recorder])
            trainer.meter = meter
        _go_on(trainer, recorder, run, checkpoint_to_resume(run, own, config.checkpoint.keep, sharded=sharded))
        _finish(config, run, trainer, pairs, began)
    finally:
        if _is_joint(config):
            zero.release(trainer)  # also where none was made: what the libraries were told would reach the next run
    if not _is_joint(config):
        _let_go_of_training_state(trainer)
        _trained.put(run.path, trainer)


def _is_joint(config: RunConfig) -> bool:
    """Whether the trainer is one of several, or divided: then rank 0 alone cannot evaluate with it."""
    return ranks.size() > 1 or bool(config.deepspeed.config)


def _go_on(trainer: RunTrainer, recorder: Recorder, run: RunDir, checkpoint: Path | None) -> None:
    try:
        _go(trainer, recorder, checkpoint)
    except CheckpointError as error:
        if checkpoint is not None and ranks.is_first():
            refuse(run, checkpoint, str(error).partition(";")[0])
        raise


def _go(trainer: RunTrainer, recorder: Recorder, checkpoint: Path | None) -> None:
    recorder.goes_on_from = checkpoint
    if checkpoint is not None:
        began = ranks.first(partial(checkpoints.packing_in, checkpoint))
        trainer.way = replace(trainer.way, began=began, step=step_of(checkpoint))
    with progress.phase("step", progress.FIRST_STEP):
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    step, max_steps = trainer.state.global_step, trainer.state.max_steps
    if recorder.stopped:
        raise Stopped(step, max_steps)
    if step < max_steps:
        raise TrainingError(f"training ended at step {step} of {max_steps} without saying why")


def _finish(config: RunConfig, run: RunDir, trainer: RunTrainer, pairs: Pairs, began: float) -> None:
    with progress.phase("saving the model", progress.SAVING):
        trainer.look_back()
        sums = save_model(trainer, run.model)
    if ranks.is_first():
        write_once(run.result_file, replace(_result(config, run, trainer, pairs, began), sums=sums))
        own = fence.own(run.checkpoints)
        checkpoints.rotate(own, config.checkpoint.keep_finished, trainer.state.global_step, trainer.training)
        _remove_empty(own, run.checkpoints)


def _remove_empty(*folders: Path) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def save_model(trainer: RunTrainer, folder: Path) -> dict[str, str]:
    """Make `folder` the final model, or adapter, with its tokenizer; whole or not at all.

    All ranks take part: under ZeRO-3 the weights are gathered. Rank 0 writes, and has the files' checksums returned.
    """
    aside = Path(ranks.first(lambda: str(fence.aside(folder))))
    with whole_or_gone(aside):
        trainer.save_model(str(aside))
    if not ranks.is_first():
        return {}
    (aside / "training_args.bin").unlink(missing_ok=True)  # a pickle of this machine's paths; config.yaml says it all
    sums = model_marker.mark(aside, RunDir(folder.parent), model_files(aside))
    fence.put_in_place(aside, folder)
    return sums


def _result(config: RunConfig, run: RunDir, trainer: RunTrainer, pairs: Pairs, began: float) -> Result:
    lines = list({line["step"]: line for line in read_metrics(run.metrics_file)}.values())
    return Result(
        steps=trainer.state.global_step,
        max_steps=trainer.state.max_steps,
        seconds=sum(line["seconds"] for line in lines),
        loss=_last_loss(lines),
        train_pairs=len(pairs.train),
        dropped_pairs=sum(pairs.dropped.values()),
        dropped=pairs.dropped,
        repeated_pairs=pairs.repeated,
        leaked_pairs=pairs.leaked,
        tokens_per_pair=float(Lengths.of(pairs.train, config.trainer.max_length).twice.mean()),
        throughput=of_lines(lines),
        micro_batch_size=config.trainer.micro_batch_size,
        dtype=str(precision.dtype_of(config.model)).removeprefix("torch."),
        device=_device_name(),
        threads=torch.get_num_threads(),
        versions={name: version(name) for name in VERSIONS},
        parameters=parameters(trainer.model),
        started=min((line["time"] - line["seconds"] for line in lines), default=began),
        ended=time.time(),
        model=run.run_id,
        packing=trainer.way.words,
    )


def _last_loss(lines: list[Plain]) -> float | None:
    """The mean over the steps of the last lines; a line at a checkpoint, or at the end, stands for fewer of them."""
    lines = sorted(lines, key=lambda line: line["step"])
    steps = [0, *(line["step"] for line in lines)]
    counts = [step - before for before, step in itertools.pairwise(steps)][-LAST_LOGGED:]
    losses = [line["loss"] for line in lines[-LAST_LOGGED:]]
    total = sum(count * loss for count, loss in zip(counts, losses, strict=True))
    return total / sum(counts) if lines else None


def _device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def _let_go_of_training_state(trainer: RunTrainer) -> None:
    """What is kept for the evaluation is the model; optimizer state is twice its size or more."""
    trainer.optimizer = trainer.lr_scheduler = None
    trainer.callback_handler.optimizer = trainer.callback_handler.lr_scheduler = None
    trainer.accelerator.free_memory()  # it knows them too
    trainer.model.zero_grad(set_to_none=True)


def load_trained(config: RunConfig, run: RunDir, store: Store) -> RunTrainer:
    """The trainer of a finished run: the one that has just trained it here, or one made from its folder.

    After joint training it comes from the folder, without DeepSpeed: rank 0 evaluates alone.
    """
    config = replace(config, deepspeed=DeepSpeed())

    def from_disk() -> RunTrainer:
        pairs = prepare(config, store)
        with progress.phase("loading the model", progress.LOADING):
            trainer = build_trainer(config, run, store, pairs, [])
        _remove_empty(fence.own(run.checkpoints), run.checkpoints)  # the trainer makes it, though it will not train
        _load_final(trainer, config, run)
        trainer.model.to(weights.device())
        return trainer

    return _trained.get(run.path, from_disk)


def forget_trained() -> None:
    """Let go of the model that was trained here last, for what needs its memory."""
    _trained.forget()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _load_final(trainer: RunTrainer, config: RunConfig, run: RunDir) -> None:
    folder = final_model(run)
    if config.trainer.lora is not None:
        set_peft_model_state_dict(trainer.model, load_file(folder / "adapter_model.safetensors"))
        return
    saved = weights.from_folder(str(folder), config.model, precision.dtype_of(config.model))
    trainer.model.load_state_dict(saved.state_dict())


def final_model(run: RunDir) -> Path:
    """The folder of a run's final model: its own, or where that was removed, its published revision.

    Raises:
        StoreError: neither can be had, or it is another run's, or not as it was written.
    """
    if run.model.is_dir():
        model_marker.verify(run)
        return run.model
    published = revision_of(run)
    if published and published.store == "folder" and (revision := Path(published.address)).is_dir():
        return _checked(run, revision, published.address)
    gone = f"{run.run_id}: its model is gone from {run.model}"
    if published is None or published.store != "huggingface":
        raise StoreError(f"{gone}, and is published nowhere; remove {run.result_file.name} there to train it again")
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(published.repo, revision=published.commit))
    except (OSError, ValueError) as error:  # the Hub's own errors are among these
        words = " ".join(str(error).split())[:200]
        raise StoreError(f"{gone}, and {published.address} cannot be fetched: {words}") from error
    return _checked(run, folder, published.address)


def _checked(run: RunDir, revision: Path, address: str) -> Path:
    check_fetched(run, revision, address)
    model_marker.verify(run, revision)
    return revision
