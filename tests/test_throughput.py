"""What a training computes, how much of it is of use, and the share of the peak: counted, told, and read everywhere."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from test_analysis_read import base_row, run_row, write_rows
from test_publish import subject
from transformers import AutoModelForCausalLM, LlamaConfig, MixtralConfig
from worker_fixtures import LORA, Configure

import analysis
from analysis import statistics
from analysis.page.page import _runs
from analysis.tables import runs_table
from launcher.cluster.job_state import JobState, Phase
from launcher.hub.card import card
from launcher.model import operations
from launcher.runs.run_state import RunState, read_facts
from launcher.runs.status import RunFacts, Status
from launcher.store.facts import RunName
from launcher.store.files import plain, read_fact, read_lines
from launcher.store.metrics_log import last_metrics
from launcher.store.output_folder import Store, SweepDir
from launcher.store.results import Result
from launcher.store.run_folder import RunDir
from launcher.store.throughput import Throughput, measured, of_lines
from launcher.tracking.process import summary_of, values_of
from launcher.views.states import _state_json, show_status
from launcher.worker.model.size import multiplied
from launcher.worker.training import meter
from launcher.worker.training.meter import Counts, Meter, count, counting
from launcher.worker.training.reference_table import prepare
from launcher.worker.training.train import train

NEW = {"tokens", "computed_tokens", "padding", "tokens_per_second", "peak_memory_bytes", "mfu"}


def by_hand(rows: Dataset, places: list[int], limit: int, *, packed: bool) -> tuple[int, int, int]:
    """Tokens once, places and padding of a micro-batch of pairs, from its lists of ids."""
    pairs = [[rows[place][name] for name in ("prompt_ids", "chosen_ids", "rejected_ids")] for place in places]
    sequences = [(prompt + answer)[:limit] for prompt, *answers in pairs for answer in answers]
    longest = max(map(len, sequences))
    prompts = sum(min(len(prompt), limit) for prompt, *_ in pairs)
    given = sum(map(len, sequences))
    if packed:  # each prompt's last token stands before both answers, and no answer's last token is read
        return given - prompts, given - prompts - len(pairs), 0
    return given - prompts, longest * len(sequences), longest * len(sequences) - given


@pytest.mark.parametrize(
    "changes", [{}, {"trainer__lora": LORA}, {"loss_type": "kto_pair"}, {"trainer__packed": False}]
)
def test_a_training_tells_what_it_computed(configure: Configure, store: Store, changes: dict[str, Any]) -> None:
    """Each line, by the ids of the micro-batches that the seed draws; the result, by all of them."""
    config = configure(trainer__max_steps=3, trainer__max_length=20, tracking__every=2, **changes)
    run = store.run("r")
    train(config, run, store, lambda: False)
    rows = prepare(config, store).train
    order = torch.randperm(32, generator=torch.Generator().manual_seed(1)).tolist()
    packed = changes.get("trainer__packed") is not False
    batches = [by_hand(rows, order[start : start + 4], 20, packed=packed) for start in range(0, 24, 4)]
    lines = read_lines(run.metrics_file)
    assert [line["step"] for line in lines] == [2, 3]
    for line, part in zip(lines, (batches[:4], batches[4:]), strict=True):
        tokens, places, padding = map(sum, zip(*part, strict=True))
        assert (line["tokens"], line["computed_tokens"]) == (tokens, places)
        assert line["padding"] == pytest.approx(padding / places)
        assert line["tokens_per_second"] == pytest.approx(tokens / line["seconds"])
        assert line["peak_memory_bytes"] > 1e7
        assert "mfu" not in line  # nobody knows a CPU's peak
    told = (read_fact(run.result_file, Result) or Result(0, 0, 0.0)).throughput
    assert told is not None
    tokens, places, padding = map(sum, zip(*batches, strict=True))
    assert (told.tokens, told.computed_tokens, told.padding) == (tokens, places, pytest.approx(padding / places))
    assert told.tokens_per_second == pytest.approx(tokens / sum(line["seconds"] for line in lines))
    assert told.peak_memory_bytes == max(line["peak_memory_bytes"] for line in lines)


def test_a_run_that_was_stopped_counts_the_batches_that_it_makes_again(configure: Configure, store: Store) -> None:
    """Skipped ones are not counted, and those that were fetched ahead only when they are computed."""
    config = configure(trainer__max_steps=5, checkpoint__every=2)
    whole, cut = store.run("whole"), store.run("cut")
    train(config, whole, store, lambda: False)
    asked: list[bool] = []
    with pytest.raises(Exception, match="stopped on request at step 3"):
        train(config, cut, store, lambda: asked.append(True) or len(asked) == 3)  # type: ignore[func-returns-value]
    train(config, cut, store, lambda: False)
    lines = [[(line["step"], line["tokens"]) for line in read_lines(run.metrics_file)] for run in (whole, cut)]
    assert lines[0] == lines[1]


def test_unpaired_rows_count_a_prompt_for_each_of_its_forwards(configure: Configure, store: Store) -> None:
    """The row's prompt stands before its own completion and before the foreign one: once it is of use."""
    config = configure(trainer__max_steps=1, loss_type="kto")
    run = store.run("r")
    train(config, run, store, lambda: False)
    rows = prepare(config, store).train
    (line,) = read_lines(run.metrics_file)
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    parts = [[[len(rows[place][name]) for name in names] for place in range(start, start + 4)] for start in (0, 4)]
    assert line["tokens"] == sum(p + own + foreign for part in parts for p, own, foreign in part)
    assert line["computed_tokens"] == sum(
        4 * max(p + own for p, own, _ in part) + 4 * max(p + foreign for p, _, foreign in part) for part in parts
    )


def test_packed_pairs_have_a_place_fewer_each_than_tokens_and_no_padding() -> None:
    """What a forward computes of them is told by `Counts.packed`: (P - 1) + C + R places a pair."""
    ids = [([1] * 5, [1] * 3, [1] * 4), ([1] * 2, [1], [1] * 9)]
    longest = 11
    sequences = [(p, c) for p, c, _ in ids] + [(p, r) for p, _, r in ids]
    masks = [[[1] * len(p + a) + [0] * (longest - len(p + a)) for p, a in sequences]]
    own = [[0] * len(p) + [1] * len(a) + [0] * (longest - len(p + a)) for p, a in sequences]
    batch = {"input_ids": torch.ones(4, longest), "attention_mask": torch.tensor(masks[0]),
             "completion_mask": torch.tensor(own)}  # fmt: skip
    found = count(batch)
    assert found == Counts(rows=2, tokens=12 + 12, computed=44, padding=44 - (8 + 9 + 3 + 11))
    assert found.packed == Counts(rows=2, tokens=24, computed=(4 + 3 + 4) + (1 + 1 + 9), padding=0)
    assert counting(lambda _: batch)([])[meter.COUNTS] == found
    assert found + found == Counts(4, 48, 88, 26)


# ------------------------------------------------------------------------------------------------ the share of the peak

LLAMA = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "vocab_size": 100}  # fmt: skip
LAYER = 32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 64 + 2 * 32  # attention, its two smaller matrices, MLP, norms


@pytest.mark.parametrize("tied", [True, False])
def test_the_head_counts_and_a_table_that_is_looked_up_does_not(tied: bool) -> None:
    """By hand, of a Llama; of a tied one the table is the head."""
    model = AutoModelForCausalLM.from_config(LlamaConfig(**LLAMA, tie_word_embeddings=tied))
    found = multiplied(model)
    assert found.weights == found.trained == 2 * LAYER + 32 + 100 * 32
    for parameter in model.model.layers[0].parameters():
        parameter.requires_grad_(requires_grad=False)
    assert multiplied(model).trained == LAYER + 32 + 100 * 32


def test_of_experts_those_count_that_a_token_goes_to() -> None:
    """Two of eight: a quarter of their weights, and all of the router's."""
    sizes = {key: value for key, value in LLAMA.items() if key != "intermediate_size"}
    config = MixtralConfig(**sizes, intermediate_size=64, num_local_experts=8, num_experts_per_tok=2)
    whole = 2 * (LAYER - 3 * 32 * 64 + 8 * 32 + 2 * 3 * 32 * 64) + 32 + 100 * 32
    assert multiplied(AutoModelForCausalLM.from_config(config)).weights == whole


def test_a_module_that_is_no_language_model_has_its_weights() -> None:
    """Such as a table of actions."""
    assert multiplied(torch.nn.Linear(3, 2)).weights == 8


@pytest.mark.parametrize(
    ("device", "given", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", None, 312), ("NVIDIA H100 80GB HBM3", None, 989), ("NVIDIA H100 PCIe", 989, 756),
        ("NVIDIA H200", 312, 989), ("NVIDIA RTX 6000", 91, 91), ("NVIDIA RTX 6000", None, None), ("cpu", 91, None),
        (None, 91, None),
    ],
)  # fmt: skip
def test_the_peak_is_the_named_gpus_else_the_given_one(device: str, given: float | None, peak: float | None) -> None:
    """By NVIDIA's data sheets; of a CPU there is none."""
    assert operations.peak_tflops(device, given) == peak


def test_the_share_is_that_of_model_flops() -> None:
    """By hand: 7.24e9 weights, 900 tokens a pair, 128 pairs in 10 s on 8 H100: 6 N, 4 N with frozen weights."""
    for trained, factor in ((7.24e9, 6), (0.0, 4)):
        done = operations.per_token(7.24e9, trained) * 900 * 128
        found = operations.share_of_peak(done, 10.0, 8, 989.0)
        assert found == pytest.approx(factor * 7.24e9 * 900 * 128 / (10 * 8 * 989e12))
    assert operations.per_token(1.0, 1.0, recomputes=True) == 8
    assert operations.per_token(1.0, 1.0, paired=False) == (6 + 2) / 2
    assert operations.share_of_peak(1.0, 10.0, 8, None) is None
    assert operations.share_of_peak(1.0, 0.0, 8, 989.0) is None


def test_on_a_gpu_a_window_has_its_share_of_the_peak_and_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the GPU's own name and PyTorch's count of memory, which begins anew with each training."""
    begun: list[bool] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: begun.append(True))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 61 * 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100 80GB HBM3")
    own = Meter()
    own.begin(torch.nn.Linear(1000, 1000, bias=False))
    own.add(Counts(4, 10**6, 2 * 10**6, 10**5))
    own.add(Counts(4, 10**6, 2 * 10**6, 3 * 10**5))
    found = own.window(0.5)
    share = 6 * 10**6 * 2 * 10**6 / (0.5 * 989e12)
    assert found == Throughput(2 * 10**6, 4 * 10**6, 0.1, 4 * 10**6, 61 * 10**9, pytest.approx(share))
    assert begun == [True]
    assert own.window(0.5).tokens == 0


# ------------------------------------------------------------------------------------------------ told and read


def test_of_several_lines_rates_are_sums_over_sums() -> None:
    """By hand; a line of an earlier version leaves the sums open, and the rates are those of the others."""
    one = {"tokens": 100, "computed_tokens": 200, "padding": 0.5, "seconds": 1.0, "peak_memory_bytes": 7, "mfu": 0.1}
    two = {"tokens": 500, "computed_tokens": 600, "padding": 0.1, "seconds": 3.0, "peak_memory_bytes": 5, "mfu": 0.3}
    assert of_lines([one, two]) == Throughput(600, 800, 160 / 800, 150.0, 7, pytest.approx(0.25))
    assert of_lines([{"step": 1, "seconds": 9.0}, one]) == Throughput(None, None, 0.5, 100.0, 7, pytest.approx(0.1))
    assert of_lines([{"step": 1, "seconds": 9.0}]) is None
    assert of_lines([]) is None
    assert measured(10, 0, 0, 0.0, None, None) == Throughput(10, 0, 0.0, None)


def test_a_log_and_a_result_of_an_earlier_version_are_read(tmp_path: Path) -> None:
    """They lack the new keys, and what is made of them lacks the values."""
    log = tmp_path / "metrics.jsonl"
    log.write_text(json.dumps({"step": 1, "max_steps": 2, "loss": 0.5, "seconds": 1.0, "time": 5.0}) + "\n")
    assert last_metrics(log)["step"] == 1
    result = tmp_path / "result.json"
    result.write_text(json.dumps({"steps": 2, "max_steps": 2, "seconds": 1.0}))
    found = read_fact(result, Result)
    assert found is not None
    assert found.throughput is None


def test_trackers_are_told_what_a_training_computes(configure: Configure, store: Store) -> None:
    """As curves beside the loss, and in the summary at the end."""
    run = store.run("r")
    train(configure(trainer__max_steps=1), run, store, lambda: False)
    (line,) = read_lines(run.metrics_file)
    assert {f"train/{name}" for name in NEW - {"mfu"}} <= values_of(line).keys()
    summary = summary_of(run)
    assert {f"result/{name}" for name in NEW - {"mfu"}} <= summary.keys()
    assert summary["result/tokens"] == line["tokens"]
    assert all(isinstance(value, int | float) for value in summary.values())


def test_status_tells_what_runs_at_work_compute(capsys: pytest.CaptureFixture[str]) -> None:
    """A line for people, an object for programs; while none is at work, of those that are trained."""
    run, fast = RunDir(Path("/runs/r")), Throughput(100, 200, 0.43, 12_345.6, 61 * 10**9, 0.313)
    working = RunState(run, RunFacts(throughput=fast), Status.RUNNING, None, JobState(Phase.RUNNING), None)
    slow = replace(fast, tokens_per_second=8_000.0, padding=0.2, mfu=None, peak_memory_bytes=7 * 10**9)
    other = replace(working, facts=RunFacts(throughput=slow))
    trained = replace(working, facts=RunFacts(throughput=slow, trained=True), status=Status.TRAINED)
    old = replace(working, facts=RunFacts())
    sweep = SweepDir(Path("/sweeps/s"))
    show_status(sweep, [working, other, trained, old], [], as_json=False)
    words = "2 runs at work: 8,000 to 12,346 tokens/s (prompts and answers once), 20 to 43 % padding, 31 % of the GPUs'"
    assert f"{words} peak (MFU), memory up to 61 GB a rank\n" in capsys.readouterr().out
    show_status(sweep, [trained, replace(old, status=Status.TRAINED)], [], as_json=False)
    assert "1 run trained: 8,000 tokens/s (prompts and answers once), 20 % padding, memory" in capsys.readouterr().out
    show_status(sweep, [old], [], as_json=False)
    assert "tokens/s" not in capsys.readouterr().out
    told = [_state_json(RunName("r", "m", "ipo", 0.1), state)["throughput"] for state in (working, old)]
    assert told == [{**plain(fast)}, None]


def test_a_run_at_work_has_what_it_logged_last(configure: Configure, store: Store) -> None:
    """Until its result has all of it."""
    config, run = configure(trainer__max_steps=3), store.run("r")
    train(config, run, store, lambda: False)
    last, result = read_lines(run.metrics_file)[-1], read_fact(run.result_file, Result)
    assert result is not None
    assert read_facts(run).throughput == result.throughput
    run.result_file.unlink()
    found = read_facts(run).throughput
    assert found is not None
    assert (found.tokens, found.tokens_per_second) == (last["tokens"], last["tokens_per_second"])


def test_the_model_card_has_what_the_training_computed() -> None:
    """In its table of how the model was trained; of a milestone not, since it is that of the whole training."""
    text = card(subject(result=Result(3, 3, 1.0, throughput=Throughput(700, 1500, 0.25, 350.0, 61, 0.31))))
    for name, value in (("tokens", 700), ("computed_tokens", 1500), ("tokens_per_second", 350.0), ("mfu", 0.31)):
        assert f"| result.{name.replace('_', chr(92) + '_')} | {value} |" in text
    assert "tokens" not in card(subject(result=Result(3, 3, 1.0)))
    assert "computed" not in card(subject(result=Result(3, 3, 1.0, throughput=Throughput(7, 9)), step=2))


def test_the_report_has_columns_of_what_trainings_computed(tmp_path: Path) -> None:
    """In the page's table and in the flat one; without any such value the page leaves them out."""
    told = {"loss": 0.6, "throughput": plain(Throughput(700, 1500, 0.25, 1350.4, 61 * 10**9, 0.31))}
    with_, without = ([base_row(), run_row(**changes)] for changes in ({"training": told}, {}))
    frame = statistics.with_estimates(analysis.load(write_rows(tmp_path / "with", with_)))
    header, (_, row) = _runs(frame)
    cells = dict(zip([name for name, _ in header], [cell.text for cell in row], strict=True))
    assert [cells[name] for name in ("tokens/s", "padding", "memory", "of peak")] == ["1,350", "25 %", "61 GB", "31 %"]
    assert runs_table(frame)["computed_tokens"].dropna().tolist() == [1500]
    bare = statistics.with_estimates(analysis.load(write_rows(tmp_path / "without", without)))
    assert not {"tokens/s", "padding", "memory", "of peak"} & {name for name, _ in _runs(bare)[0]}


def test_the_ranks_sums_are_one_and_the_largest_memory_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever each has: here as two ranks would answer, one collective for all numbers."""
    asked: list[list[int]] = []

    def answer(mine: list[int]) -> list[list[int]]:
        asked.append(mine)
        return [mine, [2, 30, 50, 10, 10**12]]

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(meter, "_gathered", answer)
    own = Meter()
    own.begin(torch.nn.Linear(2, 2))
    own.add(Counts(2, 20, 50, 30))
    found = own.window(2.0)
    assert replace(found, mfu=None) == Throughput(50, 100, 0.4, 25.0, 10**12)
    assert len(asked) == 1
