"""Which reference values a second job is served, by the reference table and by TRL's own precompute_ref_log_probs.

    python tests/benchmarks/reference.py

After one job has made its reference values, a second job differs in one thing. Right is: no reference pass where the
values stay, a pass where they change, and in either case the values that a fresh copy of the second job's own reference
model computes. What a sweep costs with the table is measured by grid.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from launcher.worker.model import base_model

sys.path.insert(0, str(Path(__file__).parent.parent))  # worker_fixtures

import datasets
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from trl import DPOConfig, DPOTrainer
from worker_fixtures import LORA, make_config, write_pairs

from launcher.config import Model, RunConfig
from launcher.store.output_folder import Store
from launcher.worker.dataset import pairs as of_pairs
from launcher.worker.distributed import ranks, zero
from launcher.worker.model import weights
from launcher.worker.training import reference_table
from launcher.worker.training.trainer import lora_config

TOLERANCE = 1e-3  # of a sum of some ten log-probs in float32
TEMPLATE = "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}{% endfor %}"


@dataclass(frozen=True)
class Job:
    """A config, the folder of its own output, and whether its rows come from memory instead of a file."""

    config: RunConfig
    folder: Path
    in_memory: bool = False


@dataclass(frozen=True)
class Seen:
    """What a job did: its reference forwards, and the values (chosen, rejected) of its training pairs, in order."""

    forwards: int
    values: list[tuple[float, float]]


# ------------------------------------------------------------------------------------------------ the two


def ours(job: Job) -> Seen:
    """prepare.prepare, as a fresh process would call it."""
    reference_table.forget_prepared()
    store = Store(job.folder.parent / "outputs")
    with counted(reference_table, "score") as forwards:
        pairs = reference_table.prepare(job.config, store)
    return Seen(
        len(forwards), list(zip(pairs.train["ref_chosen_logps"], pairs.train["ref_rejected_logps"], strict=True))
    )


def theirs(job: Job, **options: Any) -> Seen:
    """TRL's DPOTrainer with precompute_ref_log_probs, its cache below the folder that both jobs share."""
    datasets.config.HF_DATASETS_CACHE = str(job.folder.parent / "datasets")
    store = Store(job.folder.parent / "models")
    config, trainer = job.config, job.config.trainer
    told = DPOConfig(
        output_dir=str(job.folder / config.output_dir), loss_type=[config.loss_type], beta=config.beta,
        seed=config.seed, learning_rate=trainer.learning_rate, max_length=trainer.max_length,
        max_steps=trainer.max_steps,
        per_device_train_batch_size=trainer.micro_batch_size, ld_alpha=trainer.ld_alpha,
        precompute_ref_log_probs=True, bf16=False, report_to="none", disable_tqdm=True, **options,
    )  # fmt: skip
    # Under ZeRO-3 TRL must load the model itself, which divides it; elsewhere both get the same copy.
    model = str(job.config.model.path) if options else weights.load_policy(config.model, store)
    with counted(DPOTrainer, "compute_ref_log_probs") as forwards:
        made = DPOTrainer(
            model=model,
            args=told,
            train_dataset=rows_of(job),
            processing_class=weights.tokenizer(config.model, store),
            peft_config=None if trainer.lora is None else lora_config(trainer.lora),
        )
    columns = made.train_dataset["ref_chosen_logps"], made.train_dataset["ref_rejected_logps"]
    return Seen(len(forwards), list(zip(*columns, strict=True)))


def under_deepspeed(job: Job, way: str) -> Seen:
    """Either, in a process group of one rank, its weights divided by ZeRO-3."""
    with ranks.joined(job.folder, always=True):
        if way == "ours":
            return ours(job)
        told = zero.arguments(job.config.deepspeed, torch.float32)
        return theirs(job, **{name: told[name] for name in ("deepspeed", "accelerator_config") if name in told})


def rows_of(job: Job) -> datasets.Dataset:
    """The training pairs, from their file, or made in memory."""
    path = Path(str(job.config.dataset.path)) / "train.jsonl"
    if job.in_memory:
        return datasets.Dataset.from_list([json.loads(line) for line in path.read_text().splitlines()])
    return datasets.load_dataset(
        "json", data_files=str(path), split="train", cache_dir=datasets.config.HF_DATASETS_CACHE
    )


@contextlib.contextmanager
def counted(owner: Any, name: str) -> Iterator[list[None]]:
    """The calls of a function while this lasts."""
    calls: list[None] = []
    original = getattr(owner, name)

    def counting(*args: Any, **kwargs: Any) -> Any:
        calls.append(None)
        return original(*args, **kwargs)

    setattr(owner, name, counting)
    try:
        yield calls
    finally:
        setattr(owner, name, original)


def truth(job: Job) -> list[tuple[float, float]]:
    """The values from a fresh copy of the job's model: no batch, no padding, no cache."""
    store = Store(job.folder / "truth")
    folder = base_model.ensure_base(job.config.model, store)
    model = weights.from_folder(folder, job.config.model, torch.float32).eval()
    pairs = of_pairs.tokenise(job.config, store).train
    alpha = job.config.trainer.ld_alpha
    return [_pair(model, pair, job.config.trainer.max_length, 1.0 if alpha is None else alpha) for pair in pairs]


def _pair(model: Any, pair: Any, max_length: int, alpha: float) -> tuple[float, float]:
    prompt = pair["prompt_ids"]
    both = [_tokens(model, prompt, pair[name][: max_length - len(prompt)]) for name in ("chosen_ids", "rejected_ids")]
    shared = min(map(len, both))
    chosen, rejected = (float(part[:shared].sum() + alpha * part[shared:].sum()) for part in both)
    return chosen, rejected


@torch.no_grad()
def _tokens(model: Any, prompt: list[int], completion: list[int]) -> torch.Tensor:
    ids = torch.tensor([prompt + completion])
    scores = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].log_softmax(dim=-1)
    return scores.gather(1, torch.tensor(completion)[:, None])[:, 0]


# ------------------------------------------------------------------------------------------------ the matrix

Change = Callable[[Job], Job]


def changed(**changes: Any) -> Change:
    """The job with other values of its config."""
    return lambda job: replace(job, config=_with(job.config, **changes))


def _with(config: RunConfig, **changes: Any) -> RunConfig:
    for name, value in changes.items():
        section, _, key = name.partition("__")
        config = replace(config, **{section: replace(getattr(config, section), **{key: value}) if key else value})
    return config


def other_weights(job: Job) -> Job:
    """The same folder, other weights in it."""
    path = Path(str(job.config.model.path)) / "model.safetensors"
    save_file({name: tensor * 1.1 for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})
    return job


def other_template(job: Job) -> Job:
    """The same folder, another chat template in it."""
    (Path(str(job.config.model.path)) / "chat_template.jinja").write_text(TEMPLATE)
    return job


CELLS: dict[str, tuple[Change, bool]] = {
    "the same config": (lambda job: job, False),
    "another beta": (changed(beta=0.7), False),
    "another loss_type": (changed(loss_type="ipo"), False),
    "another output_dir": (changed(output_dir="elsewhere"), False),
    "another learning rate": (changed(trainer__learning_rate=1e-4), False),
    "another seed": (changed(seed=7), False),
    "another LoRA rank": (changed(trainer__lora=replace(LORA, r=8)), False),
    "full instead of LoRA": (changed(trainer__lora=None), False),
    "rows from memory": (lambda job: replace(job, in_memory=True), False),
    "another ld_alpha": (changed(trainer__ld_alpha=0.5), True),
    "another max_length": (changed(trainer__max_length=12), True),
    "another chat template": (other_template, True),
    "other weights in the folder": (other_weights, True),
}


def first_job(folder: Path, *, conversations: bool, lora: bool) -> Job:
    """A tiny model in a folder of its own, and pairs."""
    folder.mkdir(parents=True)
    pairs = write_pairs(folder / "pairs")
    if conversations:
        for path in pairs.glob("*.jsonl"):
            path.write_text("".join(_conversation(line) for line in path.read_text().splitlines()))
    config = make_config(pairs, trainer__lora=LORA if lora else None, output_dir="here")
    shutil.copytree(base_model.ensure_base(config.model, Store(folder / "made")), folder / "model")
    (folder / "model" / "chat_template.jinja").write_text(TEMPLATE.replace("<", "["))
    return Job(replace(config, model=Model(name="tiny", path=str(folder / "model"), dtype="float32")), folder / "job")


def _conversation(line: str) -> str:
    row = json.loads(line)
    turns = {key: [{"role": "user" if key == "prompt" else "assistant", "content": text}] for key, text in row.items()}
    return json.dumps(turns) + "\n"


def judged(way: Callable[[Job], Seen], name: str, folder: Path) -> tuple[str, bool]:
    """What the second job did, in words, and whether that is right."""
    change, differs = CELLS[name]
    before = first_job(folder, conversations="template" in name, lora="LoRA" in name)
    way(before)
    after = change(before)
    seen = way(after)
    return in_words(seen, truth(after), differs=differs)


def in_words(seen: Seen, expected: list[tuple[float, float]], *, differs: bool) -> tuple[str, bool]:
    """`hit` or `pass`, and whether the values are those of the job's own reference model."""
    exact = len(seen.values) == len(expected) and all(
        abs(a - b) < TOLERANCE
        for one, other in zip(seen.values, expected, strict=True)
        for a, b in zip(one, other, strict=True)
    )
    words = ("pass" if seen.forwards else "hit") + ("" if exact else ", WRONG VALUES")
    needless = seen.forwards > 0 and not differs
    return words + (", needless" if needless else ""), exact and not needless


def main() -> None:
    """Every cell, ours beside TRL's."""
    datasets.disable_progress_bars()
    table = Table(title="a second job differs in", title_justify="left", box=None)
    for column in ("", "right would be", "prefsweep", "TRL precompute"):
        table.add_column(column)
    for name, (_, differs) in CELLS.items():
        right = "a pass, or the values" if "ld_alpha" in name else "pass" if differs else "hit"
        with tempfile.TemporaryDirectory() as folder:
            cells = [judged(way, name, Path(folder) / way.__name__) for way in (ours, theirs)]
        table.add_row(name, right, *(_mark(*cell) for cell in cells))
    for name, cells in (("two jobs at once", together()), ("other weights, ZeRO-3", divided())):
        table.add_row(name, "one pass" if "once" in name else "pass", *(_mark(*cell) for cell in cells))
    Console(width=110).print(table)


def _mark(words: str, right: bool) -> str:
    return f"[green]{words}[/green]" if right else f"[red]{words}  <- wrong[/red]"


# Two of these start together, or one after the other on other weights; each says how many forwards it made.
CHILD = """
import json, sys
from pathlib import Path
sys.path[:0] = [{here!r}]
import reference
from launcher.config import DeepSpeed, from_plain, RunConfig
if __name__ == "__main__":
    way, plain, folder = json.loads(sys.argv[1])
    job = reference.Job(from_plain(plain), Path(folder))
    seen = reference.under_deepspeed(job, way) if plain["deepspeed"]["config"] else getattr(reference, way)(job)
    print(json.dumps([seen.forwards, seen.values]))
"""


def child(way: str, job: Job, **environment: str) -> subprocess.Popen[str]:
    """The job in a process of its own."""
    from dataclasses import asdict

    script = CHILD.format(here=str(Path(__file__).parent))
    arguments_ = json.dumps([way, asdict(job.config), str(job.folder)])
    return subprocess.Popen(
        [sys.executable, "-c", script, arguments_], stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )


def result_of(process: subprocess.Popen[str]) -> Seen:
    """What a child said; its last line."""
    output, _ = process.communicate(timeout=900)
    if process.returncode:
        return Seen(0, [])
    forwards, values = json.loads(output.splitlines()[-1])
    return Seen(forwards, [(chosen, rejected) for chosen, rejected in values])


def together() -> list[tuple[str, bool]]:
    """Two jobs of one config, started at the same moment."""
    cells = []
    for way in ("ours", "theirs"):
        with tempfile.TemporaryDirectory() as folder:
            job = first_job(Path(folder) / way, conversations=False, lora=False)
            seen = [result_of(process) for process in [child(way, job) for _ in range(2)]]
        passes = sum(one.forwards > 0 for one in seen)
        cells.append((f"{passes} passes" if passes != 1 else "one pass", passes == 1))
    return cells


def divided() -> list[tuple[str, bool]]:
    """Other weights in the same folder, in a second process under ZeRO-3 (one rank, on the CPU)."""
    if not shutil.which("gcc") or not _deepspeed_config():
        return [("not run: no DeepSpeed here", True)] * 2
    cells = []
    for way in ("ours", "theirs"):
        with tempfile.TemporaryDirectory() as folder:
            before = first_job(Path(folder) / way, conversations=False, lora=False)
            before = replace(before, config=replace(before.config, deepspeed=_deepspeed_config()))
            result_of(child(way, before, DS_ACCELERATOR="cpu"))
            after = other_weights(before)
            seen = result_of(child(way, after, DS_ACCELERATOR="cpu"))
            cells.append(in_words(seen, truth(after), differs=True))
    return cells


def _deepspeed_config() -> Any:
    """conf/deepspeed/zero3.yaml; None where DeepSpeed is not installed."""
    from importlib.util import find_spec

    import yaml

    from launcher.config import DeepSpeed

    if find_spec("deepspeed") is None:
        return None
    return DeepSpeed(**yaml.safe_load(Path("conf/deepspeed/zero3.yaml").read_text()))


if __name__ == "__main__":
    main()
