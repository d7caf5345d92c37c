"""What the benchmarks measure on is like what it stands for."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))

from drawn_pairs import drawn_pairs
from transformers import AutoTokenizer
from workload import DATA, DRAWN, LONGEST, costs, typical_pairs, write_model, write_pairs

from launcher.worker.dataset.pairs import token_ids


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize(("count", "micro_batch"), [(4, 4), (8, 4), (8, 8), (16, 8)])
def test_a_few_pairs_cost_what_thousands_do(data: str, count: int, micro_batch: int) -> None:
    """Padded, packed and in the head, to within a tenth."""
    expected = costs(drawn_pairs(DATA[data], DRAWN), micro_batch)
    assert costs(typical_pairs(data, count, micro_batch), micro_batch) == pytest.approx(expected, rel=0.1)


def test_pairs_have_the_lengths_that_were_asked_for(tmp_path: Path) -> None:
    """In tokens of the model's own tokenizer, as DPOTrainer makes them, and none is cut."""
    tokens = AutoTokenizer.from_pretrained(write_model(tmp_path / "model"))
    lengths = typical_pairs("orca", 6, 2)
    lines = (write_pairs(tmp_path / "pairs", lengths) / "train.jsonl").read_text().splitlines()
    rows = token_ids([json.loads(line) for line in lines], tokens)
    found = [[len(row[f"{name}_ids"]) for name in ("prompt", "chosen", "rejected")] for row in rows]
    assert found == [list(each) for each in zip(lengths.prompt, lengths.chosen, lengths.rejected, strict=True)]
    assert max(prompt + max(answers) for prompt, *answers in found) <= LONGEST["orca"]
