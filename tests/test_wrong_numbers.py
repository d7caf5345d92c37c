"""Numbers with which nobody can reckon, in a fact of one run: the file is named, and the others go on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_wrong_facts import GRID, RUN, sweep  # noqa: F401 - a fixture

from launcher.cli import main

NUMBERS = ["Infinity", "NaN", "-1", "true", "9" * 400]
FACTS = {
    "result.json": ["seconds", "steps", "ended"],
    "evaluation.json": ["seconds", "pairs"],
    "metrics.jsonl": ["seconds", "seconds_per_step", "step"],
    "saves.jsonl": ["seconds"],
    "attempt-001.json": ["time", "settings.cluster.nodes", "settings.cluster.gpus_per_node"],
    "attempts/001/failure.json": ["time"],
}


def with_number(text: str, key: str, number: str) -> str:
    """A fact, or a log's last line, with this number under a key; the parts of a key have dots between them."""
    *lines, last = text.rstrip("\n").split("\n") if text.startswith('{"') else [text]
    content = json.loads(last)
    *parents, name = key.split(".")
    place = content
    for parent in parents:
        place = place[parent]
    place[name] = "NUMBER"
    return "\n".join([*lines, json.dumps(content).replace('"NUMBER"', number)]) + "\n"


@pytest.mark.parametrize("name", FACTS)
def test_a_number_that_cannot_be_is_one_runs(sweep: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:  # noqa: F811
    """`collect` has a row for each run, `status` and a launch go on; the file is named."""
    file = next(sweep.glob(f"runs/{RUN}*")) / name
    if name.endswith(".jsonl"):
        line = {"step": 1, "max_steps": 4, "loss": 1.0, "seconds": 1.0, "seconds_per_step": 1.0, "time": 1.0}
        file.write_text((json.dumps(line) + "\n") * 2)
    before = file.read_text()
    rows = sweep / "sweeps/s/results.jsonl"
    assert main.main(["collect", "s"]) == 0
    runs = {row["run_id"] for row in map(json.loads, rows.read_text().splitlines()) if "@" not in row["run_id"]}
    for key in FACTS[name]:
        for number in NUMBERS:
            file.write_text(with_number(before, key, number))
            for verb in (["collect", "s"], ["status", "s"], ["-m", *GRID, "dry_run=true"]):
                capsys.readouterr()
                code = main.main(verb)
                said = capsys.readouterr()
                assert "Traceback" not in said.err, (key, number, verb)
                if verb[0] == "collect" and name != "saves.jsonl":
                    assert (code, f"{file}: " in said.err) == (1, True), (key, number, said.err)
            found = [json.loads(line) for line in rows.read_text().splitlines()]
            assert {row["run_id"] for row in found} >= runs, (key, number)
            assert len([row for row in found if row["status"] == "TRAINED"]) > 0, (key, number)
