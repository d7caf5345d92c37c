"""Completions with thumbs up or down: from rows to what KTO's trainer is given.

Owns: splitting pairs, the order of the rows, and the foreign completion beside each that KTO's KL term needs.
Must not know: reference values, losses.

KTO estimates how far the policy has gone from completions behind prompts that they do not answer (Ethayarajh et al.,
"KTO: Model Alignment as Prospect Theoretic Optimization", 2024, section 4.1): within each micro-batch the completions
move on by one row. So the order is fixed beforehand, and the sampler must keep it. A row is written as a pair, its own
completion as `chosen`, the foreign one as `rejected`: the reference table then holds all that the loss needs.

Training rows are shuffled first, so that a row's neighbour answers its prompt only by chance. Held-out rows stay in
their order, in which a pair's two completions are neighbours: each is given a completion from among all held-out rows
that answers another prompt.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import replace
from types import SimpleNamespace

from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl import KTOTrainer

from launcher.config import RunConfig
from launcher.dataset import shapes
from launcher.dataset.shapes import Example
from launcher.errors import ConfigError
from launcher.store.output_folder import Store
from launcher.worker.dataset import counts, reading
from launcher.worker.dataset.counts import EXAMPLES, Usable
from launcher.worker.dataset.pairs import TOO_LONG, Pairs, Texts, sentence, shared_token_ids, sound, told, untyped
from launcher.worker.model.templates import check_rendering, shown_rows
from launcher.worker.model.weights import tokenizer

TOLD = logging.getLogger("launcher.data")
IDS = ("prompt_ids", "completion_ids", "label")
ANSWERS = {"completion": "completion_ids"}
TEXT = ("prompt", "completion")  # by which rows are compared
NOT_WHOLE = "too few for another micro-batch"


def tokenise(config: RunConfig, store: Store, *, keep: bool = True, examples: int = EXAMPLES) -> Pairs:
    """The rows as token ids with `label`, in the order in which they are trained on; arguments as in `pairs`.

    Raises:
        ConfigError: no row is left, or the chat template cannot be trained with.
    """
    train, test = reading.read(config.dataset, store, shapes.unpaired)
    size = config.trainer.micro_batch_size
    ids_train = _usable(train, config, store, "train_split", keep=keep)
    ids_train = replace(ids_train, fitting=ids_train.fitting.shuffle(seed=config.seed))
    ids_test = _usable(test, config, store, "test_split", keep=keep)
    of_train, of_test = _filling(ids_train, size), _filling(ids_test, size)
    overlaps = shapes.overlaps(sound(train), sound(test), TEXT)
    numbers = counts.of_splits(config, of_train, of_test, tokenizer(config.model, store), examples, overlaps[1])
    whole = (with_foreign(of_train.fitting, size), held_out(of_test.fitting, size))
    rows = Pairs(*whole, numbers, of_train.left_out, *overlaps)
    return told(rows, train, test, "completions")


def _filling(rows: Usable, size: int) -> Usable:
    """Those that fill whole micro-batches, in their order; the others are left out for that."""
    fitting = _whole(rows.fitting, size)
    if not (left := len(rows.fitting) - len(fitting)):
        return rows
    return replace(rows, fitting=fitting, left_out={**rows.left_out, NOT_WHOLE: left})


def _usable(rows: list[Example], config: RunConfig, store: Store, split: str, *, keep: bool) -> Usable:
    dropped = Counter(row.fault for row in rows if row.fault is not None)
    tokens = tokenizer(config.model, store)
    ids = Dataset.from_list([])
    if texts := sound(rows):
        texts = shown_rows(texts, tokens, config.model)
        check_rendering(texts, tokens, ("completion",))
        ids = shared_token_ids(texts, config, store, token_ids) if keep else token_ids(texts, tokens)
    lengths = [len(row["prompt_ids"]) for row in ids]
    fitting = [index for index, length in enumerate(lengths) if 0 < length < config.trainer.max_length]
    dropped[shapes.NO_PROMPT] += lengths.count(0)
    dropped[TOO_LONG] = sum(length >= config.trainer.max_length for length in lengths)
    unused = {reason: count for reason, count in dropped.items() if count}
    if len(fitting) < config.trainer.micro_batch_size:
        left_out = f" ({sentence(unused)})" if unused else ""
        raise ConfigError(
            "trainer.micro_batch_size",
            config.trainer.micro_batch_size,
            f"not filled by the {len(fitting)} usable completions of dataset.{split} of {config.dataset.name}; "
            f"give more rows, or a smaller one of at least 2{left_out}",
        )
    halves = sum(row.is_half for row in rows)
    return Usable(ids, ids.select(fitting), unused, ANSWERS, len(rows) - halves // 2 if halves else None)


def token_ids(rows: Texts, tokens: PreTrainedTokenizerBase) -> Dataset:
    """Tokenise exactly as KTOTrainer does, by its own method."""
    trainer = SimpleNamespace(_tokenizer=tokens, calculate_KL=False)
    arguments = SimpleNamespace(dataset_num_proc=None, max_length=None)
    tokenised_rows = KTOTrainer._prepare_dataset(  # noqa: SLF001 - see `pairs`
        trainer, untyped(rows), tokens, arguments, ""
    )
    return Dataset.from_list(list(tokenised_rows.select_columns(list(IDS))))


def with_foreign(rows: Dataset, size: int) -> Dataset:
    """Whole micro-batches, each row with the completion of the row before it; the first has the last one's."""
    rows = _whole(rows, size)
    return _beside(rows, [index - 1 if index % size else index + size - 1 for index in range(len(rows))])


def held_out(rows: Dataset, size: int) -> Dataset:
    """Whole micro-batches in their order, each row with a completion from behind another prompt."""
    rows = _whole(rows, size)
    prompts = list(map(tuple, rows["prompt_ids"]))
    if len(set(prompts)) == 1:
        TOLD.warning("all held-out completions answer one prompt: the foreign ones of their loss's KL term do, too")
    return _beside(rows, foreign_rows(prompts))


def foreign_rows(prompts: Sequence[Hashable]) -> list[int]:
    """For each row, given by its prompt, the row that lends it a foreign completion: one with another prompt.

    Each lends once where that can be: with rows of one prompt together, all take from as many rows further on as the
    commonest prompt has. Where that one has more than half of the rows, the few others lend in turn. Where there is
    no other prompt, each row takes from the next.
    """
    groups: dict[Hashable, list[int]] = {}
    for index, prompt in enumerate(prompts):
        groups.setdefault(prompt, []).append(index)
    together = [index for group in sorted(groups.values(), key=len, reverse=True) for index in group]
    most, count = max(map(len, groups.values()), default=0), len(together)
    others = count - most
    if 2 * most <= count or not others:
        lenders = [(place + (most if others else 1)) % count for place in range(count)]
    else:
        lenders = [most + place % others if place < most else place - most for place in range(count)]
    lent = {together[place]: together[lender] for place, lender in enumerate(lenders)}
    return [lent[index] for index in range(count)]


def _whole(rows: Dataset, size: int) -> Dataset:
    return rows.select(range(len(rows) - len(rows) % size))


def _beside(rows: Dataset, lenders: list[int]) -> Dataset:
    own = rows["completion_ids"][:]
    columns = {
        "prompt_ids": rows["prompt_ids"][:],
        "chosen_ids": own,
        "rejected_ids": [own[lender] for lender in lenders],
        "label": rows["label"][:],
    }
    return Dataset.from_dict(columns)
