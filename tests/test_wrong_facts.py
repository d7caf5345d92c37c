"""A fact that is JSON and yet not what it should be: one line that names it whatever is asked, never a traceback."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from finished_runs import keep_milestones, trained_runs

from launcher.cli import main
from launcher.cluster.local import LocalScheduler
from launcher.store.facts import Job
from launcher.store.files import write_once
from launcher.store.output_folder import Store
from launcher.store.run_folder import RunDir

GRID = ["model=tiny", "trainer=full", "hub.when=login", "loss_type=sigmoid,ipo", "cluster.executor=local", "sweep=s"]
RUN = "tiny-sigmoid"
# What reads the most, and everything.
SOME = (["collect", "s"], ["publish", "s", "--dry-run"], ["resume", "s"])
ALL = (
    *SOME,
    ["status", "s"],
    ["status", "s", "--json"],
    ["resume", "s", "cluster.time=60"],
    ["cancel", "s"],
    ["evaluate", "s", "--dry-run"],
    ["logs", "{run}"],
    ["-m", *GRID, "dry_run=true"],
    ["-m", *GRID],
)


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The output folder of two runs that are trained, measured and published; one has a failed attempt before that."""
    monkeypatch.chdir(tmp_path)
    store = Store(tmp_path / "outputs")
    monkeypatch.setattr("launcher.cli.watch.POLL_SECONDS", 0.0)
    monkeypatch.setattr("finished_runs.FakeScheduler", _Ended)
    runs = trained_runs(store, "loss_type=sigmoid,ipo", "sweep=s", "cluster.executor=local")
    for run in runs:
        (last,) = run.attempts()
        write_once(last.started_file, {"host": "n1", "pid": 1, "job": None, "time": 1.0})
        write_once(last.failure_file, {"reason": "preempted", "status": "TIMEOUT", "traceback": "", "time": 2.0})
        write_once(last.unpublished_file, {"reason": "no token", "time": 2.0})
        write_once(run.sources_file, {"model": {"commit": None}, "dataset": {"files": {}}})
        write_once(run.evaluations.result_file("mt_bench"), _mt_bench())
        last.log_file().write_text("step 1\n")
        keep_milestones(run, step1=0.5)
    assert main.main(["publish", "s"]) == 0
    return store.root


class _Ended(LocalScheduler):
    """It records jobs as this machine does, of processes that are no more."""

    def submit(self, batch: Any) -> list[Job]:
        return [Job("999999999", "local", str(batch.folder / "log"), "here", 1) for _ in range(batch.size)]


def _mt_bench() -> dict[str, Any]:
    question = {"question_id": 81, "category": "writing", "turns": [7.0, 8.0], "score": 7.5}
    judge = {"model": "m", "temperature": 0.0, "max_tokens": 9, "repeats": 1, "served_models": ["m"]}
    return {"score": 7.5, "stderr": 0.1, "turns": [7.0, 8.0], "categories": {"writing": 7.5}, "questions": [question],
            "unparsable": 0, "unscored": 0, "judge_sd": None, "judged": 2, "judge": judge, "hashes": {}, "answers": {},
            "base": None, "spent": {"calls": 2}, "time": 1.0}  # fmt: skip


def facts_of(root: Path) -> list[Path]:
    """Each kind of fact once: those of one of the two runs, and of the sweep."""
    run = next(root.glob(f"runs/{RUN}*"))
    (batch,) = {attempt.batch for attempt in RunDir(run).attempts()}
    of_batch = [batch / name for name in ("jobs.json", "work.json")] if batch else []
    found = [*run.rglob("*.json"), *root.glob("sweeps/s/launches/*.json"), *of_batch]
    return sorted(path for path in found if "model" not in path.relative_to(root).parts)


def changes(fact: dict[str, Any]) -> Iterator[tuple[Any, Sequence[list[str]]]]:
    """What a fact may have become, and what is asked then: nothing, no mapping, less a key, a key of another kind."""
    yield {}, ALL
    yield [], ALL
    for key, value in fact.items():
        yield {name: fact[name] for name in fact if name != key}, SOME
        yield fact | {key: 1 if isinstance(value, list) else []}, SOME[:2]


def complaint(words: list[str], path: Path, capsys: pytest.CaptureFixture[str]) -> str | None:
    """What is wrong with the answer, where `path` is: a traceback, or an error that does not name it."""
    try:
        code = main.main(words)
    except Exception as error:  # noqa: BLE001 - any is a traceback for the user
        return f"{type(error).__name__}: {error}"
    lines = capsys.readouterr().err.splitlines()
    return str(lines) if code and str(path.parent) not in lines[-1] else None


@pytest.mark.long
def test_no_fact_makes_a_traceback(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every verb answers as it does otherwise, or with one line that names the file."""
    run, kinds, wrong = next(sweep.glob(f"runs/{RUN}*")).name, facts_of(sweep), []
    assert {path.name for path in kinds} >= {
        "attempt-001.json", "jobs.json", "work.json", "started.json", "failure.json", "unpublished.json",
        "result.json", "evaluation.json", "mt_bench.json", "revision.json", "sources.json", "001.json",
    }  # fmt: skip
    for path in kinds:
        text = path.read_text()
        for content, asked in changes(json.loads(text)):
            for words in asked:
                path.write_text(json.dumps(content))
                if found := complaint([word.format(run=run) for word in words], path, capsys):
                    wrong.append(f"{path.relative_to(sweep)} = {json.dumps(content)[:99]}: {words[0]}: {found}")
        path.write_text(text)
    assert not wrong, "\n".join(wrong)


def test_the_line_says_what_is_wrong_and_what_to_do(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file, the key, what it cannot be, the remedy; a failure of a kind that we do not know is a failure."""
    run = next(sweep.glob(f"runs/{RUN}*"))
    jobs = f"{RunDir(run).attempts()[0].batch}/jobs.json"
    for name, content, said in (
        ("result.json", {}, "lacks steps; put it right, or move it away"),
        ("result.json", {"steps": [1]}, "steps cannot be [1]; put it right"),
        ("attempts/001/failure.json", "text", "holds no JSON object; put it right"),
        ("attempts/001/failure.json", {}, "lacks reason; put it right"),
        (jobs, {}, "lacks jobs; put it right"),
        (jobs, {"jobs": []}, f"lacks the job of {run}/attempt-001.json; put it right"),
        (jobs, {"jobs": [{"job_id": 7}]}, "jobs[0].job_id cannot be 7; put it right"),
    ):
        text = (run / name).read_text()
        (run / name).write_text(json.dumps(content))
        assert main.main(["status", "s"]) == 1
        assert f"{run / name}: {said}" in capsys.readouterr().err
        (run / name).write_text(text)
    (run / "result.json").unlink()
    (run / "attempts/001/failure.json").write_text('{"reason": "why", "status": "odd"}')
    assert main.main(["status", "s"]) == 0
    assert "FAILED" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"step": "two", "seconds": 1.0}, 'step cannot be "two"; put it right'),
        ({"step": [1]}, "step cannot be [1]"),
        ({"step": 1, "seconds": "long"}, 'seconds cannot be "long"'),
        ({"step": 1, "loss": {}}, "loss cannot be {}"),
        ({"step": 1, "max_steps": "all", "seconds_per_step": "s"}, 'max_steps cannot be "all"'),
    ],
)
def test_a_line_of_a_metrics_log_that_cannot_be_is_named(
    sweep: Path, capsys: pytest.CaptureFixture[str], line: dict[str, Any], said: str
) -> None:
    """Wherever in the log it stands; a line that was cut off is passed over as before."""
    run = next(sweep.glob(f"runs/{RUN}*"))
    whole = json.dumps({"step": 2, "max_steps": 2, "loss": 0.5, "seconds": 1.0})
    for text in (f"{json.dumps(line)}\n{whole}\n", f"{whole}\n{json.dumps(line)}\n"):
        (run / "metrics.jsonl").write_text(text)
        assert main.main(["collect", "s"]) == 1
        assert f"{run / 'metrics.jsonl'}: {said}" in capsys.readouterr().err
    assert main.main(["status", "s"]) == 1
    (run / "metrics.jsonl").write_text(f'{whole}\n{{"step": 3, "lo')
    assert main.main(["collect", "s"]) == 0
