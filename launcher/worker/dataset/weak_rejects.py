"""Pairs from instructions and their answers alone: chosen is the answer, rejected is what a weaker model answers.

Owns: how an instruction becomes messages, the weaker model's completions and their log, which pairs are of no use.
Must not know: where instructions come from, the tokens of the model that is trained, losses.

    <cache>/weak_rejects/<key>/settings.json            the weaker model, by content, and how it writes
                               completions.jsonl        row (the hash of a prompt), completion, finish; appended
    <cache>/datasets/weak-rejects-<key>/train.jsonl     the pairs; test.jsonl those that are held out
                                       /manifest.json   what they were made from, and how many rows went and why

A prompt's random numbers come from its own hash and `seed`, and prompts are always completed in the same company: a
job that was killed goes on at the batch that it lost, and what it writes is what it would have written. One log serves
all data sets, and a longer limit continues what a shorter one has begun.

The idea is that of Intel's orca_dpo_pairs: answers of GPT-4 and GPT-3.5 over those of Llama-2-13B-chat.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from launcher.config import WeakRejects
from launcher.dataset.columns import Row, Rows, columns_of
from launcher.dataset.messages import SPOKEN, Message, Misshapen, as_messages, said
from launcher.dataset.shapes import plain
from launcher.errors import UNSAID, ConfigError
from launcher.machine.terminal import say
from launcher.store.entries import making
from launcher.store.files import Plain, append_line, content_key, read_lines, write_once
from launcher.store.locks import turn
from launcher.store.output_folder import Store
from launcher.worker.dataset.completions import NO_ROOM, Messages, complete
from launcher.worker.distributed import ranks
from launcher.worker.model import base_model, precision, sampling, weights

NO_ANSWER, TOO_LONG = "without an answer", "too long for the weaker model"
NEAR_EMPTY, SAME = "completed without a word", "completed as the answer says"


@dataclass(frozen=True)
class Instruction:
    """A prompt that ends with the user's words, and the answer to it; no words where there is none."""

    prompt: Messages
    answer: str

    @property
    def row(self) -> str:
        """The hash of the prompt, by which its completion is found."""
        return content_key(self.prompt, 32)


def ensure_pairs(weak: WeakRejects, store: Store, train: Rows, test: Rows) -> Path:
    """The folder with train.jsonl and test.jsonl, made on first use.

    Raises:
        ConfigError: the weaker model is not there or has no chat template, or the rows lack a column.
    """
    settings = settings_of(weak, store)
    splits = {"train": instructions_in(train, weak), "test": instructions_in(test, weak)}
    texts = {split: content_key([asdict(each) for each in of_split], 64) for split, of_split in splits.items()}
    made_from = {"weaker": settings, "instructions": texts}
    folder = store.cache("datasets", f"weak-rejects-{content_key(made_from)}")
    with making(folder) as empty:
        if empty is not None:
            began = time.perf_counter()
            completions = complete_all(
                [each for of_split in splits.values() for each in of_split], weak, settings, store
            )
            counts = {split: _write(empty, split, of_split, completions) for split, of_split in splits.items()}
            _record(empty, made_from, weak, counts, time.perf_counter() - began)
    return folder


def settings_of(weak: WeakRejects, store: Store) -> Plain:
    """All that a completion depends on, besides its prompt."""
    with _naming_the_key():
        return {
            "model": base_model.fingerprint(weak.model, store),
            "dtype": str(precision.dtype_of(weak.model)).removeprefix("torch."),
            "attn_implementation": weak.model.attn_implementation,
            "max_new_tokens": weak.max_new_tokens,
            "temperature": weak.temperature,
            "seed": weak.seed,
            "batch_size": weak.batch_size,  # the last digits of a probability depend on its neighbours
            **sampling.identity(weak.model, store, listed=True),
        }


@contextmanager
def _naming_the_key() -> Iterator[None]:
    try:
        yield
    except ConfigError as error:  # `base_model` speaks of model.path and so on
        raise error.under("dataset.weak_rejects") from error


# ------------------------------------------------------------------------------------------------ instructions


def instructions_in(rows: Rows, weak: WeakRejects) -> list[Instruction]:
    """The prompts and answers of rows, which may name their columns otherwise.

    Raises:
        ConfigError: a column is missing, or what is in one is neither text nor messages of text.
    """
    found = columns_of(rows)
    missing = weak.missing(found)
    if missing:
        raise ConfigError(
            "dataset.weak_rejects.columns",
            UNSAID,
            f"{weak.path} has no column {', '.join(missing)}; found "
            f"{', '.join(found)}; map ours to its own with +dataset.weak_rejects.columns.{missing[0]}=NAME",
        )
    return [_instruction(number, row, weak) for number, row in enumerate(rows, 1)]


def _instruction(number: int, row: Row, weak: WeakRejects) -> Instruction:
    """Of messages the last is the answer, if it is the assistant's; a prompt of text is the user's."""
    try:
        spoken = _spoken({ours: row.get(theirs) for ours, theirs in weak.named().items()})
    except Misshapen as error:
        raise ConfigError("dataset.weak_rejects.path", weak.path, f"row {number}: {error}") from error
    plainly = [{"role": each["role"], "content": each["content"]} for each in spoken]
    answered = len(plainly) > 1 and plainly[-1]["role"] == "assistant"
    return Instruction(plainly[:-1], plainly[-1]["content"]) if answered else Instruction(plainly, "")


def _spoken(row: dict[str, Any]) -> list[Message]:
    spoken = as_messages(said(row["messages"]), "user")
    if row["messages"] is None:
        columns = (("system", "system"), ("prompt", "user"), ("completion", "assistant"))
        spoken = [each for column, role in columns for each in as_messages(said(row[column] or None, role), role)]
    if more := [key for message in spoken for key in SPOKEN if key in message]:
        raise Misshapen(f"messages with {', '.join(dict.fromkeys(more))}; a weaker model answers text alone")
    return spoken


# ------------------------------------------------------------------------------------------------ pairs


def _write(folder: Path, split: str, instructions: Sequence[Instruction], completions: dict[str, Plain]) -> Plain:
    """Write the pairs of one split; how many rows it had, and how many were of no use, for each reason."""
    faults: Counter[str] = Counter()
    with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as file:
        for instruction in instructions:
            completion = completions.get(instruction.row, {})
            fault = _fault(instruction, completion)
            if fault is None:
                file.write(_line(instruction, completion["completion"]))
            else:
                faults[fault] += 1
    return {"rows": len(instructions), "pairs": len(instructions) - faults.total(), "dropped": dict(faults)}


def _fault(instruction: Instruction, completion: Plain) -> str | None:
    """Why the pair teaches nothing, or None. Case, spacing and punctuation make no difference."""
    if not instruction.answer.strip():
        return NO_ANSWER
    if completion["finish"] == NO_ROOM:
        return TOO_LONG
    words = plain(completion["completion"])
    return NEAR_EMPTY if not words else SAME if words == plain(instruction.answer) else None


def _line(instruction: Instruction, rejected: str) -> str:
    answers = {"chosen": instruction.answer, "rejected": rejected}
    said = {name: [{"role": "assistant", "content": text}] for name, text in answers.items()}
    return json.dumps({"prompt": instruction.prompt, **said}) + "\n"


def _record(folder: Path, made_from: Plain, weak: WeakRejects, counts: Plain, seconds: float) -> None:
    source = {"path": weak.path, "revision": weak.revision}
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    spent = {"device": str(weights.device()), "versions": versions, "seconds": seconds, "time": time.time()}
    named = {"path": weak.model.path, "revision": weak.model.revision}
    write_once(
        folder / "manifest.json",
        {"made_from": made_from, "source": source, "weaker_model": named, "splits": counts, **spent},
    )
    for split, count in counts.items():
        dropped = ", ".join(f"{number} {fault}" for fault, number in count["dropped"].items()) or "none"
        say(f"weak_rejects: {count['pairs']} of {count['rows']} {split} rows are pairs; dropped: {dropped}")


# ------------------------------------------------------------------------------------------------ completions


def complete_all(
    instructions: Sequence[Instruction], weak: WeakRejects, settings: Plain, store: Store
) -> dict[str, Plain]:
    """The weaker model's completions of all prompts that have an answer, by row; what is missing is written now.

    Raises:
        ConfigError: the weaker model cannot be loaded, or has no chat template.
    """
    prompts = {each.row: each.prompt for each in instructions if each.answer.strip()}
    folder = store.cache("weak_rejects", content_key(settings))
    log = folder / "completions.jsonl"
    write_once(folder / "settings.json", settings)
    with turn(folder / ".lock", "another process that completes the same prompts"):
        done = {line["row"]: line for line in read_lines(log)}
        missing = [batch for batch in _batches(list(prompts), weak.batch_size) if not done.keys() >= set(batch)]
        if missing:
            with _writer(weak, store) as write:
                for batch in missing:
                    texts = write([prompts[row] for row in batch])
                    for row, fact in zip(batch, texts, strict=True):
                        if row not in done:  # its neighbours were there in a shorter limit
                            done[row] = {"row": row, **fact}
                            append_line(log, done[row])
                    say(f"weak_rejects: {len(prompts.keys() & done)} of {len(prompts)} prompts completed")
        return done


def _batches(rows: list[str], size: int) -> list[list[str]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


Write = Callable[[list[Messages]], list[Plain]]


@contextmanager
def _writer(weak: WeakRejects, store: Store) -> Iterator[Write]:
    """What completes a batch of prompts, on this rank alone."""
    with _naming_the_key(), ranks.alone():
        tokenizer = weights.tokenizer(weak.model, store)
        if not tokenizer.chat_template:
            raise ConfigError(
                "model.chat_template",
                UNSAID,
                f"the tokenizer of {weak.model.path} has none and instructions are messages; take "
                "a model that has one, or give it as Jinja text",
            )
        with weights.in_use(weights.load(weak.model, store)) as module:
            yield lambda prompts: complete(module, tokenizer, prompts, weak)
