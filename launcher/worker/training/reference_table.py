"""The reference table: log-probs of every pair under the untrained model, computed once per (model, dataset).

Owns: the table's key, file and checks; the reference pass; putting its values beside the tokenised pairs.
Must not know: losses, beta, learning rates, runs: none of them changes a value.

    <cache>/reference/<key>/table.parquet   row; chosen, rejected (log-prob sums); chosen_tail, rejected_tail (of these,
                                            what lies beyond the pair's shorter completion); chosen_tokens, ...
                           /manifest.json   what it was computed from, and the table file's hash

A row is found by the hash of its token ids, never by its place. A table that is torn, incomplete or another's is
refused with the reason, and made again.

The pass uses training's own forward: same weights and dtype, TRL's fused head, same cut, packed where pairs can be. So
the first loss of `sigmoid` is log 2, up to what remains: in training a pair meets other neighbours, hence another
blocking of the same matrix products, which in bfloat16 moves a sum of log-probs by some hundredths.
`kto_pair` has a kink exactly there (see `losses.kto_pair_loss`): rounding decides its first gradient.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pyarrow.parquet
import torch
import transformers
import trl
from datasets import Dataset

from launcher.config import RunConfig
from launcher.errors import ConfigError, StoreError
from launcher.losses import loss_named
from launcher.machine import terminal
from launcher.store.entries import list_files, making
from launcher.store.files import Plain, content_key, file_hash, read_fact, write_once
from launcher.store.locks import turn
from launcher.store.node_facts import TableManifest
from launcher.store.output_folder import Store
from launcher.worker import headway, progress
from launcher.worker.dataset.lengths import Lengths
from launcher.worker.dataset.pairs import Pairs, collator
from launcher.worker.dataset.prepared_rows import highest_id, prepared, row_of, with_rows
from launcher.worker.distributed import ranks, zero
from launcher.worker.model import base_model, precision, weights
from launcher.worker.model.memory import Latest
from launcher.worker.scoring import attention
from launcher.worker.scoring.forward import forward, longest_steady
from launcher.worker.training.fit import check_fit
from launcher.worker.training.losses import sums_and_tails
from launcher.worker.training.packing import why_padded, words
from launcher.worker.training.reference_model import reference_model

LOG = logging.getLogger(__name__)
SUMS = ("chosen", "rejected", "chosen_tail", "rejected_tail")
COLUMNS = ("row", *SUMS, "chosen_tokens", "rejected_tokens")
SAY_EVERY_SECONDS = 5.0

_prepared: Latest[Pairs] = Latest()


class Refused(Exception):
    """Why a table on disk must not be used."""


Sums = tuple[float, float, float, float]
Collate = Callable[[list[dict[str, list[int]]]], dict[str, Any]]


@dataclass(frozen=True)
class Table:
    """The four SUMS by row. With them, one table serves every `ld_alpha`, as it does every loss and beta."""

    key: str
    values: dict[str, Sums]

    def reference(self, row: str, ld_alpha: float | None) -> tuple[float, float]:
        """The reference values of a pair's chosen and rejected completion."""
        chosen, rejected, chosen_tail, rejected_tail = self.values[row]
        less = 0.0 if ld_alpha is None else 1 - ld_alpha
        return chosen - less * chosen_tail, rejected - less * rejected_tail


def prepare(config: RunConfig, store: Store) -> Pairs:
    """Tokenise the pairs and attach their reference values; kept for the next run of this process.

    Pairs for a loss that asks no reference model have none, and no table is made for them.
    """
    needs_table = loss_named(config.loss_type).needs_table

    def make() -> Pairs:
        with progress.phase("reading data", progress.READING):
            pairs = prepared(config, store)
        if not needs_table:
            ranks.first(lambda: check_fit(config, store, highest_id(pairs)))
            return pairs
        table, rows = ensure_table(config, store, pairs), with_rows(pairs).rows or ((), ())
        splits = zip((pairs.train, pairs.test), rows, strict=True)
        train, test = (attach(split, hashes, table, config.trainer.ld_alpha) for split, hashes in splits)
        return replace(pairs, train=train, test=test, table=table.key)

    # Unpaired rows have an order and neighbours, which belong to the objective.
    order = None if loss_named(config.loss_type).paired else (config.seed, config.trainer.micro_batch_size)
    trainer = (config.trainer.max_length, config.trainer.ld_alpha, config.trainer.packed)
    identity = repr((config.model, config.dataset, trainer, order, needs_table, store.root))
    return _prepared.get(identity, make)


def entries_of(config: RunConfig, store: Store) -> list[str]:
    """What a run that is prepared has in the cache, as paths below the cache's folder: its table, and a model made."""
    table = prepare(config, store).table
    tables = [store.cache("reference", table)] if table else []
    made = [*tables, Path(base_model.ensure_base(config.model, store))]
    cache = store.root / "cache"
    return [folder.relative_to(cache).as_posix() for folder in made if folder.is_relative_to(cache)]


def forget_prepared() -> None:
    """Let go of the pairs that were prepared last, for a process that is to stand for another."""
    _prepared.forget()


def attach(pairs: Dataset, rows: Iterable[str], table: Table, ld_alpha: float | None = None) -> Dataset:
    """The pairs with the columns that DPOTrainer reads instead of asking a reference model; `rows` are their hashes."""
    values = [table.reference(row, ld_alpha) for row in rows]
    with_chosen = pairs.add_column("ref_chosen_logps", [chosen for chosen, _ in values])
    return with_chosen.add_column("ref_rejected_logps", [rejected for _, rejected in values])


def ensure_table(config: RunConfig, store: Store, pairs: Pairs | None = None) -> Table:
    """The table for this model and data set, from the cache, or computed while others wait for it.

    Of several ranks, rank 0 takes the lock, looks and writes; all measure, each its share, or none does.
    """
    pairs = with_rows(pairs or prepared(config, store))
    rows = {row for of_split in pairs.rows or () for row in of_split}
    ranks.first(lambda: check_fit(config, store, highest_id(pairs)))
    packed = why_padded(config, store) is None
    made_from = ranks.first(lambda: _made_from(config, store, rows, packed=packed))
    key = content_key(made_from)
    folder = store.cache("reference", key)
    with _checking(folder):
        if not ranks.first(lambda: _is_good(folder, made_from, rows)):
            with progress.phase("reference pass", progress.LOADING):
                facts = measure(config, store, _by_row(pairs).values())
            ranks.first(lambda: _build(folder, made_from, facts))
            headway.note()
        return Table(key, _read(folder, made_from, rows))


def _by_row(pairs: Pairs) -> dict[str, dict[str, list[int]]]:
    """Each different pair by its hash, in the order in which they stand."""
    splits = zip(pairs.rows or (), (pairs.train, pairs.test), strict=False)
    return {row: pair for rows, split in splits for row, pair in zip(rows, split, strict=True)}


@contextlib.contextmanager
def _checking(folder: Path) -> Iterator[None]:
    """A second lock around `making`'s: only its holder may throw a bad table away."""
    if not ranks.is_first():
        yield
        return
    with turn(folder.with_name(f".{folder.name}.check.lock"), f"another process that makes {folder}"):
        yield


def _is_good(folder: Path, made_from: Plain, rows: Iterable[str]) -> bool:
    """Whether there is a table that can be used; one that cannot goes."""
    if not folder.exists():
        return False
    try:
        _read(folder, made_from, rows)
    except Refused as reason:
        LOG.warning("reference table %s refused: %s; computing it again", folder, reason)
        shutil.rmtree(folder)
        return False
    list_files(folder)  # an earlier version did not
    return True


def _build(folder: Path, made_from: Plain, facts: list[Plain]) -> None:
    with making(folder) as empty:
        if empty is not None:
            _write(empty, made_from, facts)


def _made_from(config: RunConfig, store: Store, rows: Iterable[str], *, packed: bool) -> Plain:
    """All that changes a value, and nothing else."""
    how = {"packed": True} if packed else {}
    return how | {
        "base": base_model.fingerprint(config.model, store),
        "dtype": str(precision.dtype_of(config.model)).removeprefix("torch."),
        "attn_implementation": config.model.attn_implementation,
        "max_length": config.trainer.max_length,
        "truncation": "keep_start",
        "rows": hashlib.sha256("".join(sorted(rows)).encode()).hexdigest(),
    }


def measure(config: RunConfig, store: Store, rows: Iterable[dict[str, list[int]]]) -> list[Plain]:
    """The one pass of the reference model over all rows, the longest first, so that a lack of memory shows at once.

    The batches are dealt to the ranks in turn, and their facts come together on rank 0; the others get none.

    Raises:
        ConfigError: what the model says of a pair depends on which pairs stand beside it.
    """
    rows = list(rows)
    why, collate, size = why_padded(config, store), collator(config, store), config.trainer.micro_batch_size
    batches = _filled(rows, size, config.trainer.max_length) if why is None else _counted(rows, size)
    ours = batches[ranks.index() :: ranks.size()]
    say = _progress(total := sum(map(len, ours)))
    divided = zero.divides_weights(config.deepspeed)
    facts: list[Plain] = []
    if ranks.is_first():
        terminal.say(f"reference pass: pairs go through the model {words(why)}")
    with reference_model(config, store) as base, attention.of_pairs(base, packed=why is None):
        _check_steady(longest_steady(base), rows, config)
        for batch in ours:
            facts += _measure_batch(base, batch, collate(batch)) if divided else _measure_fitting(base, batch, collate)
            say(len(facts))
            progress.bump(len(facts), of=total, seconds=progress.REFERENCE)
        if divided and len(ours) < math.ceil(len(batches) / ranks.size()):
            _measure_batch(base, batches[0], collate(batches[0]))  # the others need our part of the weights once more
    return ranks.gather(facts)


Rows = list[dict[str, list[int]]]


def _check_steady(steady: int | None, rows: Rows, config: RunConfig) -> None:
    """Refuse pairs whose values no table can hold: beyond a length, positions are those of the batch's longest row.

    Plain training is no better off: its policy is another one beside a longer pair. `steady`: that length, if any.
    """
    most, lengths = config.trainer.max_length, [row[0] + max(row[1:]) for row in map(_lengths, rows)]
    longer = sum(min(each, most) > (steady or most) for each in lengths)
    if longer:
        model = config.model.name
        why = f"{longer} of {len(lengths)} pairs are longer than {steady} tokens, beyond which the positions of {model}"
        remedy = f"{why} depend on the longest row of a batch; give trainer.max_length={steady} or less"
        raise ConfigError("trainer.max_length", most, f"{remedy}, or a loss without a reference model")


def _counted(rows: Iterable[dict[str, list[int]]], size: int) -> list[Rows]:
    """Batches of `size` pairs."""
    ordered = sorted(rows, key=lambda row: -max(_lengths(row)[1:]) - _lengths(row)[0])
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def _filled(rows: Iterable[dict[str, list[int]]], size: int, longest: int) -> list[Rows]:
    """Batches of `size` of the longest pairs, and of more where they are shorter: so many tokens, each."""
    rows = list(rows)
    counts = numpy.array([_lengths(row) for row in rows]).reshape(-1, 3).T
    costs: list[int] = Lengths.cut(*counts, max_length=longest).packed.tolist()
    sized = sorted(zip(costs, rows, strict=True), key=lambda each: -each[0])
    budget = sum(tokens for tokens, _ in sized[:size])
    batches: list[Rows] = []
    room = 0
    for tokens, row in sized:
        if tokens > room:
            batches.append([])
            room = budget
        batches[-1].append(row)
        room -= tokens
    return batches


def _lengths(row: dict[str, list[int]]) -> tuple[int, int, int]:
    return len(row["prompt_ids"]), len(row["chosen_ids"]), len(row["rejected_ids"])


def _progress(total: int) -> Callable[[int], None]:
    """Says every few seconds how far the pass is."""
    said = time.monotonic()

    def say(done: int) -> None:
        nonlocal said
        if done == total or time.monotonic() - said >= SAY_EVERY_SECONDS:
            said = time.monotonic()
            terminal.say(f"reference pass: {done} of {total} pairs")

    return say


def _measure_fitting(base: torch.nn.Module, rows: list[dict[str, list[int]]], collate: Collate) -> list[Plain]:
    """The facts of a batch, or of its halves where the accelerator's memory does not hold all of it.

    Not for divided weights: each forward is a joint one of all ranks there.
    """
    try:
        return _measure_batch(base, rows, collate(rows))
    except torch.OutOfMemoryError:
        if len(rows) == 1:
            raise
    half = len(rows) // 2
    return [fact for part in (rows[:half], rows[half:]) for fact in _measure_fitting(base, part, collate)]


def _measure_batch(base: torch.nn.Module, rows: list[dict[str, list[int]]], batch: dict[str, Any]) -> list[Plain]:
    sums = sums_and_tails(score(base, batch), batch["completion_mask"])  # in the precision of training
    halves = [half for values in sums for half in values.double().cpu().chunk(2)]
    columns = zip(map(row_of, rows), *halves, *batch["completion_mask"].sum(dim=1).chunk(2), strict=True)
    return [
        {name: v if isinstance(v, str) else v.item() for name, v in zip(COLUMNS, fact, strict=True)} for fact in columns
    ]


@torch.no_grad()
def score(module: torch.nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    """Log-probs of the completions' tokens, 0 elsewhere, by a module under `weights.scoring`; as DPOTrainer does it."""
    where = weights.device()
    ids, mask, completion = (batch[name].to(where) for name in ("input_ids", "attention_mask", "completion_mask"))
    labels = ids.masked_fill(completion == 0, -100)
    outputs = forward(module, input_ids=ids, attention_mask=mask, labels=labels, use_cache=False, fused_lm_head=True)
    log_probs: torch.Tensor = outputs.log_probs
    return log_probs


def _write(folder: Path, made_from: Plain, facts: list[Plain]) -> None:
    table = folder / "table.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(facts), table)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "trl": trl.__version__}
    device, digest = str(weights.device()), file_hash(table)
    manifest = TableManifest(made_from, len(facts), digest, device, versions, time.time())
    write_once(folder / "manifest.json", manifest)


def _read(folder: Path, made_from: Plain, rows: Iterable[str]) -> dict[str, Sums]:
    """The values of a table that is whole and ours.

    Raises:
        Refused: it is not.
    """
    _check_manifest(folder, made_from)
    facts = pyarrow.parquet.read_table(folder / "table.parquet").to_pylist()
    if facts and (lacking := set(COLUMNS) - facts[0].keys()):
        raise Refused(f"it lacks {', '.join(sorted(lacking))}: an earlier version made it")
    values = {fact["row"]: tuple(fact[name] for name in SUMS) for fact in facts}
    wanted = set(rows)
    if values.keys() != wanted:
        missing, foreign = len(wanted - values.keys()), len(values.keys() - wanted)
        raise Refused(f"{missing} of {len(wanted)} rows are missing, {foreign} are foreign")
    if not all(math.isfinite(value) for pair in values.values() for value in pair):
        raise Refused("it holds values that are not finite")
    return values


def _check_manifest(folder: Path, made_from: Plain) -> None:
    try:
        manifest = read_fact(folder / "manifest.json", TableManifest)
        digest = file_hash(folder / "table.parquet")
    except (StoreError, OSError) as error:
        raise Refused(str(error)) from error
    if manifest is None:
        raise Refused("manifest.json is missing")
    if manifest.table_sha256 != digest:
        raise Refused("table.parquet is not the file that the manifest describes")
    other = [name for name in made_from if manifest.made_from.get(name) != made_from[name]]
    if other:
        raise Refused(f"it was computed from another {', '.join(other)}")
