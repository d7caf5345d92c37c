"""launcher.worker.training.reference_table: the reference table."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch
from conftest import clean_environment
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from trl import DPOTrainer
from worker_fixtures import ARCHITECTURE, LORA, Configure

from launcher.config import Model, RunConfig
from launcher.errors import ConfigError
from launcher.store.output_folder import Store
from launcher.worker.dataset.pairs import collator, load_pairs, tokenise
from launcher.worker.model import base_model
from launcher.worker.model import weights as models
from launcher.worker.training import first_step, packing, reference_table
from launcher.worker.training.losses import PreferenceTrainer
from launcher.worker.training.train import train
from launcher.worker.training.trainer import arguments


@pytest.fixture(autouse=True)
def _forget_earlier_tests() -> None:
    """What another test left in this process must not answer for the table."""
    reference_table.forget_prepared()


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of pairs of every reference pass."""
    counted: list[int] = []
    measure = reference_table.measure

    def counting(config: RunConfig, store: Store, rows: Any) -> Any:
        counted.append(len(rows))
        return measure(config, store, rows)

    monkeypatch.setattr(reference_table, "measure", counting)
    return counted


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of sequences in every forward that scores with the base model."""
    counted: list[int] = []
    score = reference_table.score

    def counting(module: torch.nn.Module, batch: dict[str, Any]) -> torch.Tensor:
        counted.append(len(batch["input_ids"]))
        return score(module, batch)

    monkeypatch.setattr(reference_table, "score", counting)
    return counted


def plain_sum(model: Any, prompt: list[int], completion: list[int]) -> float:
    """The log-prob of one completion by nothing but the model's logits: no batch, no padding."""
    ids = torch.tensor([prompt + completion])
    with torch.no_grad():
        scores = model(input_ids=ids).logits[0].log_softmax(dim=-1)
    return sum(float(scores[len(prompt) + place - 1, token]) for place, token in enumerate(completion))


@pytest.mark.parametrize(("limit", "longer"), [(16, True), (256, False)])
def test_a_table_is_refused_where_a_pair_has_no_values_of_its_own(
    configure: Configure, store: Store, limit: int, longer: bool
) -> None:
    """Beyond a length, dynamic positions are those of a batch's longest row: each batch would give other values."""
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    architecture = {**ARCHITECTURE, "max_position_embeddings": limit, "rope_parameters": rope}
    config = configure(model__architecture=architecture)
    if not longer:
        assert reference_table.prepare(config, store)
        return
    with pytest.raises(ConfigError, match=r"max_length=64: \d+ of \d+ pairs are longer than 16 tokens, beyond"):
        reference_table.prepare(config, store)


def test_the_values_are_the_models_log_probs(configure: Configure, store: Store) -> None:
    """Each value equals the sum over the completion's tokens of a plain forward of the freshly loaded model."""
    config = configure()
    pairs = tokenise(config, store)
    table = reference_table.ensure_table(config, store, pairs)
    model = AutoModelForCausalLM.from_pretrained(base_model.ensure_base(config.model, store), dtype=torch.float32)
    for split in (pairs.train, pairs.test):
        for pair in list(split)[:5]:
            chosen, rejected, *_ = table.values[reference_table.row_of(pair)]
            assert chosen == pytest.approx(plain_sum(model, pair["prompt_ids"], pair["chosen_ids"]), abs=1e-3)
            assert rejected == pytest.approx(plain_sum(model, pair["prompt_ids"], pair["rejected_ids"]), abs=1e-3)


def test_long_completions_are_measured_as_far_as_training_sees_them(configure: Configure, store: Store) -> None:
    """Tokens behind max_length count neither in training nor in the table."""
    config = configure(trainer__max_length=12)
    pairs = tokenise(config, store)
    table = reference_table.ensure_table(config, store, pairs)
    model = AutoModelForCausalLM.from_pretrained(base_model.ensure_base(config.model, store), dtype=torch.float32)
    pair = pairs.train[0]
    cut = pair["chosen_ids"][: 12 - len(pair["prompt_ids"])]
    assert len(cut) < len(pair["chosen_ids"])
    expected = plain_sum(model, pair["prompt_ids"], cut)
    assert table.values[reference_table.row_of(pair)][0] == pytest.approx(expected, abs=1e-3)


def test_one_pass_serves_every_run(configure: Configure, store: Store, forwards: list[int]) -> None:
    """Four runs of different loss, beta, rate, seed and trainer: 38 pairs go through the base model once."""
    changes: list[dict[str, Any]] = [
        {},
        {"loss_type": "ipo", "beta": 0.5},
        {"loss_type": "kto_pair", "seed": 7, "trainer__lora": LORA},
        {"trainer__learning_rate": 1e-2, "trainer__batch_size": 4},
    ]
    for number, change in enumerate(changes):
        config = configure(trainer__max_steps=1, **change)
        train(config, store.run(f"run-{number}"), store, lambda: False)
        reference_table.forget_prepared()  # as in another process
    assert sum(forwards) == 2 * (32 + 6)


def test_a_pass_that_lacks_memory_goes_on_in_smaller_batches(
    configure: Configure, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in a job of its own, whose failure would fail every run; a pair that does not fit alone is the end."""
    whole = reference_table.ensure_table(configure(), store).values
    score, most = reference_table.score, 2

    def small(module: torch.nn.Module, batch: dict[str, Any]) -> torch.Tensor:
        if len(batch["input_ids"]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return score(module, batch)

    monkeypatch.setattr(reference_table, "score", small)
    shutil.rmtree(store.root / "cache" / "reference")
    again = reference_table.ensure_table(configure(), store).values
    assert again.keys() == whole.keys()
    for row, values in whole.items():
        assert again[row] == pytest.approx(values, abs=1e-3)
    most = 1
    shutil.rmtree(store.root / "cache" / "reference")
    with pytest.raises(torch.OutOfMemoryError):
        reference_table.ensure_table(configure(), store)


def key_of(config: RunConfig, store: Store) -> str:
    return reference_table.ensure_table(config, store).key


@pytest.mark.parametrize(
    "change",
    [
        {"beta": 0.9},
        {"loss_type": "ipo"},
        {"seed": 9},
        {"trainer__learning_rate": 0.1},
        {"trainer__lora": LORA},
        {"trainer__micro_batch_size": 2},
        {"trainer__max_steps": 99},
        {"output_dir": "elsewhere"},
        {"evaluation__seed": 5},
        {"dataset__prompts": ["other"]},
        {"model__name": "renamed"},
        {"trainer__ld_alpha": 0.5},
    ],
)
def test_what_changes_no_value_does_not_change_the_key(
    configure: Configure, store: Store, passes: list[int], change: dict[str, Any]
) -> None:
    """Such a run finds the table that is there."""
    assert key_of(configure(), store) == key_of(configure(**change), store)
    assert len(passes) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"trainer__max_length": 20},
        {"dataset__train_pairs": 5},
        {"model__dtype": "bfloat16"},
        {"model__attn_implementation": "eager"},
        {"model__architecture": ARCHITECTURE | {"seed": 1}},
    ],
)
def test_what_changes_a_value_changes_the_key(
    configure: Configure, store: Store, passes: list[int], change: dict[str, Any]
) -> None:
    """Such a run gets a table of its own."""
    assert key_of(configure(), store) != key_of(configure(**change), store)
    assert len(passes) == 2


@pytest.fixture
def local_model(configure: Configure, store: Store, tmp_path: Path) -> tuple[RunConfig, Path]:
    """A config whose model is a folder that the test may change."""
    folder = tmp_path / "model"
    shutil.copytree(base_model.ensure_base(configure().model, store), folder)
    return configure(model=Model(name="local", path=str(folder), dtype="float32")), folder


def test_the_same_files_in_another_folder_are_the_same_model(
    configure: Configure, store: Store, local_model: tuple[RunConfig, Path]
) -> None:
    """The key knows content, not places."""
    assert key_of(configure(), store) == key_of(local_model[0], store)


def test_other_weights_in_the_same_folder_are_another_model(store: Store, local_model: tuple[RunConfig, Path]) -> None:
    """A folder whose weights were replaced gets a table of its own."""
    config, folder = local_model
    before = key_of(config, store)
    weights = load_file(folder / "model.safetensors")
    save_file({name: tensor + 0.01 for name, tensor in weights.items()}, folder / "model.safetensors")
    assert key_of(config, store) != before


def test_another_chat_template_is_another_key(store: Store, local_model: tuple[RunConfig, Path]) -> None:
    """The template decides what a conversation's tokens are."""
    config, folder = local_model
    before = key_of(config, store)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert key_of(config, store) != before


def truncate(folder: Path) -> None:
    content = (folder / "table.parquet").read_bytes()
    (folder / "table.parquet").write_bytes(content[: len(content) // 2])


def rewrite(folder: Path, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    """Other rows, with a manifest that vouches for the file."""
    rows = pyarrow.parquet.read_table(folder / "table.parquet").to_pylist()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(change(rows)), folder / "table.parquet")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["table_sha256"] = hashlib.sha256((folder / "table.parquet").read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


HARMS: dict[str, tuple[Callable[[Path], None], str]] = {
    "torn table": (truncate, "not the file that the manifest describes"),
    "no table": (lambda folder: (folder / "table.parquet").unlink(), "No such file"),
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), "manifest.json is missing"),
    "torn manifest": (lambda folder: (folder / "manifest.json").write_text("{"), "not readable as JSON"),
    "missing row": (lambda folder: rewrite(folder, lambda rows: rows[1:]), "1 of 38 rows are missing, 0 are foreign"),
    "foreign row": (
        lambda folder: rewrite(folder, lambda rows: [*rows, rows[0] | {"row": "0" * 32}]),
        "0 of 38 rows are missing, 1 are foreign",
    ),
    "an earlier version": (
        lambda folder: rewrite(
            folder, lambda rows: [{k: v for k, v in row.items() if "tail" not in k} for row in rows]
        ),
        "it lacks chosen_tail, rejected_tail: an earlier version made it",
    ),
    "not a number": (
        lambda folder: rewrite(folder, lambda rows: [rows[0] | {"chosen": float("nan")}, *rows[1:]]),
        "not finite",
    ),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_bad_table_is_refused_and_made_again(
    configure: Configure, store: Store, passes: list[int], caplog: pytest.LogCaptureFixture, harm: str
) -> None:
    """The reason is said, the table is computed again, and its values are right."""
    table = reference_table.ensure_table(configure(), store)
    do, reason = HARMS[harm]
    do(store.cache("reference", table.key))
    assert reference_table.ensure_table(configure(), store) == table
    assert reason in caplog.text
    assert len(passes) == 2


def test_a_table_of_another_model_is_refused(
    configure: Configure, store: Store, passes: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    """Even under the right key, with the right rows."""
    ours, theirs = configure(), configure(model__architecture=ARCHITECTURE | {"seed": 1})
    right, wrong = reference_table.ensure_table(ours, store), reference_table.ensure_table(theirs, store)
    shutil.rmtree(store.cache("reference", right.key))
    shutil.copytree(store.cache("reference", wrong.key), store.cache("reference", right.key))
    assert reference_table.ensure_table(ours, store) == right
    assert "computed from another base" in caplog.text
    assert len(passes) == 3


def test_of_two_that_start_together_one_computes(configure: Configure, store: Store, passes: list[int]) -> None:
    """The other waits and reads the same values."""
    config, found = configure(), []
    pairs = tokenise(config, store)
    packing.why_padded(config, store)  # threads would try the one model of this process at once, as processes do not
    threads = [
        threading.Thread(target=lambda: found.append(reference_table.ensure_table(config, store, pairs)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(passes) == 1
    assert found[0] == found[1]


def test_a_killed_pass_leaves_no_table(configure: Configure, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was begun does not look complete; the next pass starts again."""
    with monkeypatch.context() as patch:
        patch.setattr(reference_table, "write_once", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            reference_table.ensure_table(configure(), store)
    assert not [path for path in store.cache("reference", "x").parent.iterdir() if not path.name.startswith(".")]
    assert len(reference_table.ensure_table(configure(), store).values) == 38


@pytest.mark.parametrize(("loss_type", "ld_alpha"), [("sigmoid", None), ("ipo", None), ("sigmoid", 0.3)])
def test_training_on_the_table_equals_training_on_a_live_reference(
    configure: Configure, store: Store, loss_type: str, ld_alpha: float | None
) -> None:
    """Final weights agree to 1e-5 with TRL's own DPOTrainer, its own tokenising and its own reference model."""
    config = configure(loss_type=loss_type, trainer__ld_alpha=ld_alpha)
    run = store.run("table")
    train(config, run, store, lambda: False)
    ours = load_file(run.model / "model.safetensors")

    live_arguments = arguments(config, store.run("live"))
    live_arguments.precompute_ref_log_probs = False
    live = DPOTrainer(
        model=models.load_policy(config.model, store),
        ref_model=models.load_policy(config.model, store),
        args=live_arguments,
        data_collator=collator(config, store),
        train_dataset=load_pairs(config.dataset, store)[0],
        processing_class=models.tokenizer(config.model, store),
    )
    live.train()
    theirs = live.model.state_dict()
    base = models.load(config.model, store).state_dict()
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < 1e-5
    assert max(float((ours[name] - base[name]).abs().max()) for name in ours) > 1e-3


def test_the_first_loss_is_log_2(configure: Configure, store: Store) -> None:
    """The table's values are training's own, so an untrained policy starts at log 2 to float32's last digits."""
    run = store.run("first")
    train(configure(trainer__max_steps=1), run, store, lambda: False)
    assert json.loads(run.metrics_file.read_text())["loss"] == pytest.approx(0.69314718, abs=1e-6)


@pytest.mark.parametrize("alpha", [None, 0.0, 0.3, 1.0])
def test_one_table_serves_every_ld_alpha(
    configure: Configure, store: Store, forwards: list[int], alpha: float | None
) -> None:
    """LD-DPO's weighted sums come from the same pass; they equal those of the token log-probs of a plain forward."""
    reference_table.ensure_table(configure(), store)
    counted = sum(forwards)
    pairs = reference_table.prepare(configure(trainer__ld_alpha=alpha), store)
    assert sum(forwards) == counted
    model = AutoModelForCausalLM.from_pretrained(base_model.ensure_base(configure().model, store), dtype=torch.float32)
    for pair in list(pairs.train)[:4]:
        shared = min(len(pair["chosen_ids"]), len(pair["rejected_ids"]))
        for name in ("chosen", "rejected"):
            whole = plain_sum(model, pair["prompt_ids"], pair[f"{name}_ids"])
            head = plain_sum(model, pair["prompt_ids"], pair[f"{name}_ids"][:shared])
            expected = head + (1.0 if alpha is None else alpha) * (whole - head)
            assert pair[f"ref_{name}_logps"] == pytest.approx(expected, abs=1e-3)


def kto_pair_weights(config: RunConfig, store: Store, name: str) -> dict[str, torch.Tensor]:
    run = store.run(name)
    train(config, run, store, lambda: False)
    return load_file(run.model / "model.safetensors")


def furthest(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


def test_kto_pair_on_the_table_equals_a_live_reference_away_from_its_kink(
    configure: Configure, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a policy that is not the reference, the weights agree to 1e-5; see kto_pair_loss for the kink itself."""
    config = configure(loss_type="kto_pair")
    base, fresh, compute = models.load(config.model, store), models.load_policy, PreferenceTrainer._compute_loss

    def moved(model: Model, where: Store) -> torch.nn.Module:
        policy = fresh(model, where)
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.mul_(1.05)
        return policy

    def live(trainer: Any, model: Any, inputs: dict[str, Any], *more: Any, **options: Any) -> Any:
        with models.scoring(base):
            values = reference_table.score(base, inputs).sum(dim=1).chunk(2)
        reference = dict(zip(("ref_chosen_logps", "ref_rejected_logps"), values, strict=True))
        return compute(trainer, model, inputs | reference, *more, **options)

    monkeypatch.setattr(models, "load_policy", moved)
    monkeypatch.setattr(first_step, "check", lambda *_: None)  # it would refuse such a policy
    on_the_table = kto_pair_weights(config, store, "table")
    monkeypatch.setattr(PreferenceTrainer, "_compute_loss", live)
    on_a_live_reference = kto_pair_weights(config, store, "live")
    assert furthest(on_the_table, on_a_live_reference) < 1e-5
    assert furthest(on_the_table, moved(config.model, store).state_dict()) > 1e-3


# ------------------------------------------------------------------------------------------------ faults

DIE = """
import os, sys
from pathlib import Path
sys.path[:0] = [{tests!r}]
from worker_fixtures import make_config
from launcher.store.output_folder import Store
from launcher.worker.training import reference_table as prepare
owner, name = {where}
original = getattr(owner, name)
def dying(*args, **kwargs):
    if {after}:
        original(*args, **kwargs)
    os.kill(os.getpid(), 9)
setattr(owner, name, dying)
prepare.prepare(make_config(Path({pairs!r})), Store(Path({root!r})))
"""


@pytest.mark.parametrize(
    ("where", "after"),
    [
        ('prepare, "_measure_batch"', True),  # within the pass
        ('prepare.pyarrow.parquet, "write_table"', True),  # the table is written, the manifest is not
        ('prepare, "write_once"', True),  # both are written, in the scratch folder
    ],
)
def test_a_pass_that_is_killed_leaves_nothing_that_looks_complete(
    configure: Configure, store: Store, passes: list[int], where: str, *, after: bool
) -> None:
    """kill -9 at three points: the next pass starts again and its values are right."""
    config = configure()
    script = DIE.format(
        tests=str(Path(__file__).parent), where=where, after=after, pairs=config.dataset.path, root=str(store.root)
    )
    killed = subprocess.run([sys.executable, "-c", script], env=clean_environment(), check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not [path for path in store.cache("reference", "x").parent.glob("*") if not path.name.startswith(".")]
    table = reference_table.ensure_table(config, store)
    assert len(passes) == 1
    assert table.values == reference_table.ensure_table(config, Store(store.root / "elsewhere")).values


def test_a_full_disk_is_told_and_costs_no_wrong_number(configure: Configure, tmp_path: Path) -> None:
    """On a disk with room for half a table: one clear line, no table; with room again, the right one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root may mount the small disk that this test fills")
    try:
        store, config = Store(disk), configure()
        models.tokenizer(config.model, store)
        filler = disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(bytes(4096))
                file.flush()
        with pytest.raises(OSError, match="No space left"):
            reference_table.ensure_table(config, store)
        assert not [path for path in store.cache("reference", "x").parent.glob("*") if not path.name.startswith(".")]
        filler.unlink()
        right = reference_table.ensure_table(config, Store(tmp_path / "roomy"))
        assert reference_table.ensure_table(config, store).values == right.values
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)  # noqa: S607 - the weights may still be mapped
