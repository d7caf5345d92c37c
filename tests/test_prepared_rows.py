"""launcher.worker.dataset.prepared_rows: rows are made once, and every rank and run has the very same."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from worker_fixtures import Configure

from launcher.config import RunConfig
from launcher.store.entries import LIST
from launcher.store.output_folder import Store
from launcher.worker.dataset import pairs as of_pairs
from launcher.worker.dataset import prepared_rows, prompts, unpaired
from launcher.worker.dataset.pairs import Pairs
from launcher.worker.training import reference_table

KTO = {"loss_type": "kto", "trainer__micro_batch_size": 2}


def digest(pairs: Pairs) -> str:
    """Of all that a run has of its rows: ids, order, counts."""
    told = (pairs.counts, pairs.dropped, pairs.repeated, pairs.leaked)
    return hashlib.sha256(repr([pairs.train[:], pairs.test[:], *told]).encode()).hexdigest()


@pytest.fixture
def makings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The losses for which rows were made."""
    made: list[str] = []
    for module in (of_pairs, unpaired):
        make: Callable[..., Pairs] = module.tokenise

        def counting(config: RunConfig, store: Store, make: Callable[..., Pairs] = make) -> Pairs:
            made.append(config.loss_type)
            return make(config, store)

        monkeypatch.setattr(module, "tokenise", counting)
    return made


@pytest.mark.parametrize("changes", [{}, KTO, {"trainer__max_length": 40}])
def test_the_rows_are_those_that_were_tokenised(
    configure: Configure, store: Store, makings: list[str], changes: dict[str, Any]
) -> None:
    """The same ids in the same order, and the same counts: by whoever made them, and by whoever finds them."""
    config = configure(**changes)
    make = unpaired.tokenise if changes == KTO else of_pairs.tokenise
    expected = digest(make(config, store))
    makings.clear()
    assert [digest(prepared_rows.prepared(config, store)) for _ in range(2)] == [expected] * 2
    assert len(makings) == 1


def test_rows_need_no_home(configure: Configure, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where its caches would lie, nothing can be written: nothing is, since nothing of these rows is kept there."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", Path("/proc/none/datasets"))
    for config in (configure(), configure(loss_type="kto")):
        assert len(prepared_rows.prepared(config, store).train)


def test_the_runs_of_a_sweep_share_their_rows(configure: Configure, store: Store, makings: list[str]) -> None:
    """Other losses of pairs, betas and seeds; kto, whose rows have an order of their own, by seed and micro-batch."""
    for changes in ({}, {"loss_type": "ipo", "beta": 0.7}, {"seed": 7}, {"trainer__ld_alpha": 0.5}):
        prepared_rows.prepared(configure(**changes), store)
    assert makings == ["sigmoid"]
    for more in ({}, {"beta": 0.7}, {"seed": 7}, {"trainer__micro_batch_size": 4}):
        prepared_rows.prepared(configure(**{**KTO, **more}), store)
    assert makings[1:] == ["kto"] * 3


@pytest.mark.parametrize(
    "changes", [{"trainer__max_length": 40}, {"dataset__train_pairs": 9}, {"model__chat_template": "{{ messages }}"}]
)
def test_what_changes_rows_makes_others(
    configure: Configure, store: Store, makings: list[str], changes: dict[str, Any]
) -> None:
    """A length, a limit, a template."""
    for config in (configure(), configure(**changes)):
        prepared_rows.prepared(config, store)
    assert len(makings) == 2


def test_rows_of_a_file_that_was_edited_are_made_anew(configure: Configure, store: Store, makings: list[str]) -> None:
    """By its content: a copy of the folder, and a file that was touched, have the same rows."""
    config = configure()
    before = digest(prepared_rows.prepared(config, store))
    file = Path(config.dataset.path or "") / "train.jsonl"
    text = file.read_text()
    file.write_text(text + json.dumps({"prompt": "One", "chosen": " more", "rejected": " less"}) + "\n")
    assert digest(prepared_rows.prepared(config, store)) != before
    file.write_text(text)
    assert digest(prepared_rows.prepared(config, store)) == before
    assert len(makings) == 2


def test_rows_that_other_code_has_made_do_not_count(
    configure: Configure, store: Store, makings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upgrade that makes other rows of the same data must not find the old ones."""
    prepared_rows.prepared(configure(), store)
    monkeypatch.setattr(prepared_rows, "_code", lambda: "another")
    prepared_rows.prepared(configure(), store)
    assert len(makings) == 2


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


HARMS: dict[str, Callable[[Path], None]] = {
    "purged": lambda folder: (folder / "test.arrow").unlink(),
    "torn": lambda folder: (folder / "train.arrow").write_bytes((folder / "train.arrow").read_bytes()[:99]),
    "one bit": lambda folder: flip(folder / "train.arrow"),
    "no manifest": lambda folder: (folder / "rows.json").unlink(),
    "torn manifest": lambda folder: (folder / "rows.json").write_text("{"),
    "no list": lambda folder: (folder / LIST).unlink(),
    "gone": shutil.rmtree,
}


@pytest.mark.parametrize("harm", HARMS)
def test_damaged_rows_are_made_again(configure: Configure, store: Store, makings: list[str], harm: str) -> None:
    """Whatever a disk has lost of them, also where their size is the same."""
    config = configure()
    before = digest(prepared_rows.prepared(config, store))
    HARMS[harm](prepared_rows.entry(config, store))
    assert digest(prepared_rows.prepared(config, store)) == before
    assert len(makings) == 2


def test_what_is_told_of_rows_is_told_to_each_run(
    configure: Configure, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """The second run's log has the same lines as the first one's, each once."""
    said = []
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            prepared_rows.prepared(configure(trainer__max_length=40), store)
        said.append([record.getMessage() for record in caplog.records if record.name == "launcher.data"])
    assert said[0] == said[1] != []


def test_another_rank_makes_nothing(
    configure: Configure, store: Store, makings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told where rank 0 has put the rows, and neither reads the data nor looks at any hash."""
    config = configure()
    first = prepared_rows.prepared(config, store)
    folder = str(prepared_rows.entry(config, store))
    monkeypatch.setattr(prepared_rows.ranks, "first", lambda _: [folder, True])
    monkeypatch.setattr(prepared_rows.ranks, "is_first", lambda: False)
    monkeypatch.setattr(prepared_rows, "file_hash", lambda _: pytest.fail("rank 0 has looked"))
    other = prepared_rows.prepared(config, store)
    assert (digest(other), other.rows) == (digest(first), first.rows)
    assert len(makings) == 1


def test_the_hashes_beside_the_rows_are_theirs(configure: Configure, store: Store) -> None:
    """By them the reference table knows each pair; the values beside the rows are in their order."""
    pairs = prepared_rows.prepared(configure(), store)
    assert pairs.rows == tuple([prepared_rows.row_of(pair) for pair in split] for split in (pairs.train, pairs.test))
    reference_table.forget_prepared()
    ready, table = reference_table.prepare(configure(), store), reference_table.ensure_table(configure(), store)
    for pair in ready.train:
        chosen, rejected, *_ = table.values[prepared_rows.row_of(pair)]
        assert (pair["ref_chosen_logps"], pair["ref_rejected_logps"]) == (chosen, rejected)
    ids = [max(max(pair[name]) for name in of_pairs.IDS if pair[name]) for pair in (*pairs.train, *pairs.test)]
    assert prepared_rows.highest_id(pairs) == max(ids)


def test_the_openings_are_found_once(configure: Configure, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that evaluates finds in the cache what another has read a whole data set for."""
    config = configure(dataset__prompts=None)
    prompts._prompts.forget()
    first = prompts.prompts(config, store)
    prompts._prompts.forget()
    monkeypatch.setattr(prompts, "load_prompts", lambda *_: pytest.fail("the data were read again"))
    assert prompts.prompts(config, store) == first != []
