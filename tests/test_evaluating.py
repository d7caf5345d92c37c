"""launcher.evaluation.scores and the verb `evaluate`: from answers in the run folders to scores in results.jsonl."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Launch, sweep_of
from fakes import FakeScheduler, submit
from filelock import FileLock
from judge_server import Judge as Server
from judge_server import judge_server, rule
from test_mt_bench import write_bench
from worker_fixtures import write_pairs

from launcher.config import Judge
from launcher.errors import ConfigError, PrefsweepError, StoreError, UsageError
from launcher.evaluation import mt_bench
from launcher.evaluation import scores as evaluating
from launcher.evaluation.missing_benchmarks import awaits_judge, discard_all, set_aside
from launcher.planning import changes
from launcher.planning.launches import recorded_sweep
from launcher.runs.collect import collect
from launcher.runs.run_state import read_facts, states_of
from launcher.store.attempt_config import wanted_by
from launcher.store.attempts import Attempts
from launcher.store.files import Plain, append_line, read_fact, read_lines, write_once
from launcher.store.output_folder import Store
from launcher.store.run_folder import EvaluationDir
from launcher.store.work_done import lacking
from launcher.submission.decide import Action, decide
from launcher.submission.plan import plan_batches
from launcher.submission.submit import act
from launcher.sweep import Sweep
from launcher.views import results

__all__ = ["judge_server"]
GRID = ["model=tiny", "loss_type=sigmoid,ipo", "sweep=s"]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The overrides that ask for our three questions."""
    monkeypatch.setenv("JUDGE_KEY", "sk-secret")
    mt_bench.read_bench.cache_clear()
    source = write_bench(tmp_path / "bench")
    yield ["evaluation=mt_bench", f"evaluation.mt_bench.source={source}", "evaluation.mt_bench.reference=ours"]
    mt_bench.read_bench.cache_clear()


def judged_by(server: Server, **settings: object) -> list[str]:
    given = {"base_url": server.url, "model": "rule", "key_env": "JUDGE_KEY", "unparsable_retries": 1, **settings}
    return [f"evaluation.judge.{key}={value}" for key, value in given.items()]


def trained(sweep: Sweep, store: Store) -> None:
    """The sweep as if its jobs had trained, and measured `preference`."""
    scheduler = FakeScheduler()
    submit(sweep, store, scheduler, [])
    for run in sweep.runs:
        folder = store.run(run.run_id)
        write_once(folder.result_file, {"steps": 4, "max_steps": 4, "seconds": 8.0})
        write_once(folder.evaluation_file, {"loss": 0.5, "base": "b"})


def answered(sweep: Sweep, store: Store) -> None:
    """As if the jobs had written answers, those of the untrained model too."""
    for run in sweep.runs:
        evaluation = run.config.evaluation
        bench = mt_bench.load(evaluation.mt_bench)
        settings = {name: getattr(evaluation.mt_bench, name) for name in evaluating.ANSWER_SETTINGS}
        settings |= {"questions": bench.hashes["questions"]}
        base = EvaluationDir(store.cache("benchmarks", "mt_bench-k"))
        for directory, name, key in ((base, "base", None), (store.run(run.run_id).evaluations, run.run_id, "k")):
            if write_once(directory.answered_file, {"key": "s", "base": key, "settings": settings}):
                for question in bench.questions:
                    texts = [f"{name} {question.question_id} {turn}" for turn in (1, 2)]
                    line = {"settings": "s", "question_id": question.question_id, "turns": texts}
                    append_line(directory.answers_log, line)


def judge(sweep: Sweep, store: Store, *, again: bool = False) -> tuple[list[str], int]:
    who = evaluating.judge_of(sweep)
    waiting = evaluating.answers_to_judge(sweep, store, again=again)
    opened = evaluating.open_judgements(waiting, who, again=again)
    spent = evaluating.judge_all(waiting, opened, who, lambda *_: None)
    return [each.name for each in waiting], spent.calls


def by_rule(name: str) -> list[float]:
    """What the loopback judge's rule gives the three questions: the mean of their two turns."""
    return [(rule(f"{name} {n} 1") + rule(f"{name} {n} 2")) / 2 for n in (1, 2, 3)]


def rows_of(sweep: Sweep, store: Store) -> dict[str, Plain]:
    states = states_of([store.run(run.run_id) for run in sweep.runs], FakeScheduler())
    collect(store.sweep("s"), store, states)
    lines = store.sweep("s").results_file.read_text().splitlines()
    return {row["run_id"]: row for row in map(json.loads, lines)}


def test_what_an_attempt_lacks(store: Store, bench: list[str]) -> None:
    """Its own wishes count: trained and measured for `preference`, a run still lacks mt_bench, and only that."""
    sweep = sweep_of(*GRID, *bench)
    trained(sweep, store)
    run = store.run(sweep.runs[0].run_id)
    evaluation = Attempts.of(run).evaluating
    assert evaluation
    assert (wanted_by(run.attempts()[0]), wanted_by(evaluation)) == (["preference"], ["preference", "mt_bench"])
    assert lacking(run, ["preference", "mt_bench", "command"]) == ["mt_bench", "command"]
    assert not read_facts(run).evaluated
    answered(sweep, store)
    assert read_facts(run).evaluated
    discard_all(run)
    assert lacking(run, ["preference", "mt_bench"]) == ["preference", "mt_bench"]


def test_another_benchmark_makes_another_attempt_of_a_trained_run(store: Store, bench: list[str]) -> None:
    """A sweep that was launched without mt_bench gets one attempt per run for it, and nothing is trained again."""
    first, scheduler = sweep_of(*GRID), FakeScheduler()
    trained(first, store)
    assert {decision.action for decision in decide(first, store, scheduler)} == {Action.SKIP}
    sweep = changes.with_evaluation(first, ["mt_bench"], bench[1:])
    assert [run.run_id for run in sweep.runs] == [run.run_id for run in first.runs]
    decisions = decide(sweep, store, scheduler)
    assert [(d.action, d.why) for d in decisions] == [(Action.EVALUATE, "trained, not evaluated: mt_bench")] * 2
    act(plan_batches(sweep, decisions, store, scheduler), store, scheduler, None)
    run = store.run(sweep.runs[0].run_id)
    evaluation = Attempts.of(run).evaluating
    assert evaluation
    assert wanted_by(evaluation) == ["mt_bench"]
    assert {decision.action for decision in decide(sweep, store, scheduler)} == {Action.SKIP}  # in flight


def test_a_benchmark_of_a_later_launch_is_judged_too(store: Store, bench: list[str], judge_server: Server) -> None:
    """`evaluate SWEEP` need not be told again what the launch command was told."""
    trained(sweep_of(*GRID), store)
    submit(later := sweep_of(*GRID, *bench), store, FakeScheduler(), [])
    answered(later, store)
    recorded = recorded_sweep(store.sweep("s"), store, ["sigmoid", "ipo"])
    asked = changes.with_evaluation(recorded, [], judged_by(judge_server))
    assert evaluating.needs_judge(asked, store, again=False)
    assert judge(asked, store)[0] == ["tiny-base", *(run.run_id for run in later.runs)]


def test_the_command_that_has_answers_judged_is_one_that_does(
    store: Store, bench: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no launch of the sweep asked for MT-Bench, as of runs that another sweep shares, it has to be named."""
    monkeypatch.chdir(store.root.parent)
    trained(sweep := sweep_of(*GRID), store)
    answered(sweep_of(*GRID, *bench), store)
    names = [run.run_id for run in sweep.runs]
    said = "2 runs with MT-Bench answers and no scores: python -m launcher evaluate s"
    results.say_unjudged(store.sweep("s"), names)
    assert capsys.readouterr().out == f"{said} --benchmark mt_bench\n"
    submit(sweep_of(*GRID, *bench), store, FakeScheduler(), [])
    results.say_unjudged(store.sweep("s"), names)
    assert capsys.readouterr().out == f"{said}\n"


def test_scores_are_the_rules_and_cost_nothing_twice(store: Store, bench: list[str], judge_server: Server) -> None:
    """Each run's and the base's scores, errors and columns are those of the judge's rule, computed here again."""
    sweep = sweep_of(*GRID, *bench, *judged_by(judge_server))
    trained(sweep, store)
    answered(sweep, store)
    assert evaluating.needs_judge(sweep, store, again=False)
    names = ["tiny-base", *(run.run_id for run in sweep.runs)]
    assert judge(sweep, store) == (names, 18)
    assert judge(sweep, store) == ([], 0)
    assert not evaluating.needs_judge(sweep, store, again=False)
    rows = rows_of(sweep, store)
    assert list(rows) == names
    for name in names:
        expected = by_rule("base" if name == "tiny-base" else name)
        scores = rows[name]["evaluation"]
        assert scores["mt_bench"] == pytest.approx(statistics.fmean(expected))
        assert scores["mt_bench_se"] == pytest.approx(statistics.stdev(expected) / math.sqrt(3))
        assert scores["mt_bench_writing"] == pytest.approx(statistics.fmean(expected[:2]))
        assert scores["mt_bench_math"] == pytest.approx(expected[2])
        questions = rows[name]["mt_bench_questions"]
        assert [row["score"] for row in questions] == expected
        assert [row["question_id"] for row in questions] == [1, 2, 3]
        made_by = rows[name]["mt_bench_made_by"]
        assert (made_by["judge"]["model"], made_by["spent"]["calls"]) == ("rule", 6)
        assert set(made_by["hashes"]) == {"questions", "prompts", "references"}
    assert rows[names[1]]["evaluation"]["loss"] == 0.5
    assert "sk-secret" not in store.sweep("s").results_file.read_text()


def test_the_cost_is_known_before_there_are_answers(store: Store, bench: list[str]) -> None:
    """Calls are exact; tokens are of answers of full length, from the prompts put together here; nobody judges yet."""
    sweep = sweep_of(*GRID, *bench, "evaluation.mt_bench.max_new_tokens=100", "evaluation.judge.repeats=2")
    models, (calls, read, written) = evaluating.judging_ahead(sweep, store)
    assert (models, calls) == (3, 3 * 3 * 2 * 2)
    first = "|[The Start of Assistant's Answer]\n\n[The End of Assistant's Answer]"
    turns = "### Assistant A:\n\n\n### Assistant A:\n\n\n"
    second = f"<|The Start of Assistant A's Conversation|>{turns}<|The End of Assistant A's Conversation|>"
    characters = len("S" + "q1" + first) * 2 + len("S" + "yes" + first) + 3 * len("S" + second) + 9 * 400
    assert read == 3 * (2 * characters // 4)
    assert written == calls * 250
    trained(sweep, store)
    answered(sweep, store)
    assert evaluating.judging_ahead(sweep, store) == (0, (0, 0, 0))


def test_again_asks_another_judge_and_keeps_the_old_scores(
    store: Store, bench: list[str], judge_server: Server
) -> None:
    """Another judge is told of, and asked only with --again; the answers stay, as do the first judge's scores."""
    sweep = sweep_of(*GRID, *bench, *judged_by(judge_server))
    trained(sweep, store)
    answered(sweep, store)
    judge(sweep, store)
    other = changes.with_evaluation(sweep, [], ["evaluation.judge.model=other"])
    assert judge(other, store) == ([], 0)
    assert evaluating.judged_otherwise(other, store) == [run.run_id for run in sweep.runs]
    assert evaluating.anew(other, store) == {run.run_id: ["preference"] for run in sweep.runs}
    decisions = decide(other, store, FakeScheduler(), anew=evaluating.anew(other, store))
    assert [(d.action, d.why) for d in decisions] == [(Action.EVALUATE, "trained, again: preference")] * 2
    evaluating.set_aside(evaluating.anew(other, store), store)
    run = store.run(sweep.runs[0].run_id)
    assert lacking(run, ["preference", "mt_bench"]) == ["preference"]
    assert judge(other, store, again=True)[1] == 18
    kept = read_fact(run.evaluations.path / "mt_bench.001.json") or {}
    assert kept["judge"]["model"] == "rule"
    assert (read_fact(run.evaluations.result_file("mt_bench")) or {})["judge"]["model"] == "other"
    assert judge(sweep, store, again=True)[1] == 0  # what the first judge said is still there


def test_scores_by_an_older_rule_are_told_and_read_anew_at_no_cost(
    store: Store, bench: list[str], judge_server: Server
) -> None:
    """A rating that was read from a judge's thinking is not kept: the verdict is there, and so is what it says."""
    sweep = sweep_of(*GRID, *bench, *judged_by(judge_server))
    trained(sweep, store)
    answered(sweep, store)
    judge(sweep, store)
    directory = store.run(sweep.runs[0].run_id).evaluations
    fact, lines = read_fact(directory.result_file("mt_bench")) or {}, read_lines(directory.judgements_log)
    said = [line | {"rating": 1.0, "verdict": f"<think>[[1]]?</think>{line['verdict']}"} for line in lines]
    directory.judgements_log.write_text("".join(json.dumps(line) + "\n" for line in said))
    old = {name: value for name, value in fact["judge"].items() if name != "rule"}
    directory.result_file("mt_bench").write_text(json.dumps(fact | {"score": 1.0, "judge": old}))
    assert evaluating.judged_otherwise(sweep, store) == [sweep.runs[0].run_id]
    assert judge(sweep, store, again=True)[1] == 0
    anew = read_fact(directory.result_file("mt_bench")) or {}
    assert anew["score"] == pytest.approx(fact["score"])
    assert evaluating.judged_otherwise(sweep, store) == []


def test_again_with_other_settings_asks_for_new_answers(store: Store, bench: list[str], judge_server: Server) -> None:
    """The answers count as lacking only where the new settings would give other ones."""
    sweep = sweep_of(*GRID, *bench, *judged_by(judge_server))
    trained(sweep, store)
    answered(sweep, store)
    longer = changes.with_evaluation(sweep, ["mt_bench"], ["evaluation.mt_bench.max_new_tokens=7"])
    evaluating.set_aside(evaluating.anew(longer, store), store)
    assert lacking(store.run(sweep.runs[0].run_id), ["mt_bench", "preference"]) == ["mt_bench"]


def test_unreadable_verdicts_are_reported(store: Store, bench: list[str], judge_server: Server) -> None:
    """A question that the judge never rates is counted in the scores' fact and row, and has no score."""
    sweep = sweep_of(*GRID, *bench, *judged_by(judge_server))
    trained(sweep, store)
    answered(sweep, store)
    victim = sweep.runs[0].run_id
    judge_server.always = {f"{victim} 2 2": "garbage"}
    judge(sweep, store)
    row = rows_of(sweep, store)[victim]
    assert (row["evaluation"]["mt_bench_unparsable"], row["evaluation"]["mt_bench_unscored"]) == (1, 1)
    expected = [score for number, score in enumerate(by_rule(victim)) if number != 1]
    assert row["evaluation"]["mt_bench"] == pytest.approx(statistics.fmean(expected))
    assert row["mt_bench_questions"][1]["score"] is None
    judge_server.always = {}
    assert judge(sweep, store, again=True)[1] == 1
    assert rows_of(sweep, store)[victim]["evaluation"]["mt_bench"] == pytest.approx(statistics.fmean(by_rule(victim)))


def test_other_questions_are_noticed(store: Store, bench: list[str], judge_server: Server) -> None:
    """Answers to other questions than those that are there now are not judged as if they were answers to these."""
    sweep = sweep_of(*GRID, *bench, *judged_by(judge_server))
    trained(sweep, store)
    answered(sweep, store)
    fewer = changes.with_evaluation(sweep, [], ["evaluation.mt_bench.questions=2"])
    with pytest.raises(ConfigError, match=r"questions=2: tiny-base has answered other questions.*--again"):
        judge(fewer, store)


def test_lost_answers_are_noticed(store: Store, bench: list[str], judge_server: Server) -> None:
    """A log that was cut is named with the questions and the remedy, before anybody is asked."""
    sweep = sweep_of(*GRID, *bench, *judged_by(judge_server))
    trained(sweep, store)
    answered(sweep, store)
    log = store.run(sweep.runs[0].run_id).evaluations.answers_log
    log.write_text(log.read_text().splitlines(keepends=True)[0])
    with pytest.raises(StoreError, match=r"answers\.jsonl has lost the answers to 2, 3; remove answered\.json"):
        judge(sweep, store)
    assert judge_server.requests == []


def test_only_one_judges_at_a_time(store: Store) -> None:
    """A second `evaluate` says so instead of paying for the same verdicts."""
    store.root.mkdir()
    with FileLock(store.root / ".judge.lock"), pytest.raises(PrefsweepError, match="another `evaluate` is judging"):  # noqa: SIM117
        with evaluating.only_judge(store):
            pass


@pytest.mark.parametrize(
    ("names", "overrides", "message"),
    [
        (["mtbench"], [], r"--benchmark mtbench: no such benchmark \(did you mean 'mt_bench'\?\)"),
        ([], ["beta=0.2"], "beta=0.2: only evaluation="),
        ([], ["evaluation.judge.modle=x"], r"evaluation.judge.modle: no such key \(did you mean"),  # x may be a secret
        ([], ["evaluation.judge.concurrency=many"], "evaluation.judge.concurrency=many: must be a whole number"),
        ([], ["evaluation.judge.concurrency=0"], "evaluation.judge.concurrency=0: must be at least 1"),
        ([], ["evaluation.judge.base_url=localhost:80"], "base_url=localhost:80: must begin with http:// or https://"),
        ([], ["evaluation.judge.base_url='http://me:pw@x/v1'"], "evaluation.judge.base_url: must hold no secret"),
        ([], ["evaluation.judge.base_url='http://x/v1?api-version=1&key=k'"], "judge.base_url: must hold no secret"),
        ([], ["evaluation.judge.key_env=sk-12"], "key_env: must be the name of an environment variable, never the key"),
        ([], ["evaluation.benchmarks=[mt_bnch]"], r"mt_bnch: no such benchmark \(did you mean 'mt_bench'\?\)"),
        (["lm_eval"], [], r"evaluation.lm_eval.tasks=\[\]: names no task"),
        (["command"], ["evaluation.command.argv=[a,b]"], r"evaluation.command.argv=.*one of them with \{model\}"),
    ],
)
def test_what_is_asked_wrongly_is_told(store: Store, names: list[str], overrides: list[str], message: str) -> None:
    """One line that names the key, the value and what would be right; a key is never repeated."""
    sweep = sweep_of(*GRID)
    trained(sweep, store)
    with pytest.raises(UsageError, match=message) as error:
        changes.with_evaluation(sweep, names, overrides)
    assert "pw@" not in str(error.value)
    assert "sk-12" not in str(error.value)


@pytest.mark.parametrize("name", ["mt_bench", "lm_eval", "command", "none"])
def test_conf_and_schema_have_the_same_defaults(name: str) -> None:
    """What conf/evaluation/NAME.yaml says of a section is what the section is without it; `preference` stays."""
    override = {"lm_eval": "evaluation.lm_eval.tasks=[a]", "command": "evaluation.command.argv=['{model}']"}
    with_it, without = (
        sweep_of(*GRID, f"evaluation={choice}", *([override[name]] if name in override else [])).runs[0].settings
        for choice in (name, "preference")
    )
    wanted = {"none": []}.get(name, ["preference", name])
    assert with_it["evaluation"] == {**without["evaluation"], "benchmarks": wanted}


def test_one_judge_for_all() -> None:
    """Scores of different judges cannot be compared."""
    one, other = sweep_of(*GRID), sweep_of("model=tiny", "beta=0.2", "evaluation.judge.model=b")
    assert evaluating.judge_of(one) == Judge()
    with pytest.raises(ConfigError, match=r"evaluation\.judge: differs between the runs"):
        evaluating.judge_of(replace(one, runs=(*one.runs, *other.runs)))


def test_set_aside_keeps_every_old_result(tmp_path: Path) -> None:
    """Each under a number of its own."""
    for number in range(3):
        (tmp_path / "a.json").write_text(str(number))
        set_aside(tmp_path / "a.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.001.json", "a.002.json", "a.003.json"]
    assert (tmp_path / "a.002.json").read_text() == "1"
    set_aside(tmp_path / "a.json")


def test_old_scores_hold_until_the_new_ones_are_written(store: Store, bench: list[str], judge_server: Server) -> None:
    """While answers are written anew, and where the new judge breaks down, results.jsonl has those that there are."""
    sweep = sweep_of(*GRID, *bench, *judged_by(judge_server))
    trained(sweep, store)
    answered(sweep, store)
    judge(sweep, store)
    before = rows_of(sweep, store)
    anew = changes.with_evaluation(sweep, [], ["evaluation.judge.model=other", "evaluation.mt_bench.max_new_tokens=7"])
    evaluating.set_aside(evaluating.anew(anew, store), store)
    assert rows_of(sweep, store) == before
    answered(anew, store)
    assert [run.run_id for run in sweep.runs if awaits_judge(store.run(run.run_id))] == [r.run_id for r in sweep.runs]
    judge_server.faults = ["401"]
    with pytest.raises(ConfigError, match="refuses that key"):
        judge(anew, store)
    assert rows_of(sweep, store) == before
    judge(anew, store)
    after = rows_of(sweep, store)
    for run in sweep.runs:
        row = after[run.run_id]
        assert row["mt_bench_made_by"]["judge"]["model"] == "other"
        assert [each["mt_bench_made_by"]["judge"]["model"] for each in row["mt_bench_also"]] == ["rule"]
        assert row["mt_bench_also"][0]["mt_bench_scores"] == before[run.run_id]["mt_bench_scores"]
        assert row["mt_bench_also"][0]["evaluation"]["mt_bench"] == before[run.run_id]["evaluation"]["mt_bench"]
    kept = sorted(store.root.rglob("mt_bench.*.json"))
    judge(anew, store)
    assert sorted(store.root.rglob("mt_bench.*.json")) == kept


def test_a_retrained_model_has_no_score_of_the_one_before(store: Store, bench: list[str]) -> None:
    """What was kept under a number goes with the model that it was said of."""
    sweep = sweep_of(*GRID, *bench)
    trained(sweep, store)
    run = store.run(sweep.runs[0].run_id)
    evaluating.set_aside({run.run_id: ["preference"]}, store)
    assert rows_of(sweep, store)[run.run_id]["evaluation"]["loss"] == 0.5
    discard_all(run)
    assert rows_of(sweep, store)[run.run_id]["evaluation"] is None


TINY = ["model=tiny", "trainer=full", "dataset.train_pairs=32", "dataset.test_pairs=8", "trainer.max_steps=2",
        "evaluation.generations=4", "evaluation.max_new_tokens=4", "sweep=s", "loss_type=sigmoid,ipo"]  # fmt: skip


def test_evaluate_from_the_command_line(launch: Launch, tmp_path: Path, bench: list[str], judge_server: Server) -> None:
    """A trained sweep gets MT-Bench later: jobs answer, the judge rates, results.jsonl has it, and only once."""
    pairs = tmp_path / "pairs"
    write_pairs(pairs)
    done = launch("-m", *TINY, f"dataset=./{pairs.name}", "evaluation=none")
    assert done.returncode == 0, done.stdout + done.stderr
    words = [*bench[1:], *judged_by(judge_server), "evaluation.mt_bench.max_new_tokens=8"]
    unset = launch("evaluate", "s", "--benchmark", "mt_bench", *bench[1:])
    assert (unset.returncode, unset.stdout) == (2, "")
    assert unset.stderr.startswith("prefsweep: evaluation.judge.base_url: has no value")
    cost = launch("evaluate", "s", "--benchmark", "mt_bench", "--dry-run", *bench[1:])
    assert cost.returncode == 0, cost.stderr
    assert "3 models without MT-Bench answers; judging will be 18 calls of the judge (" in cost.stdout
    done = launch("evaluate", "s", "--benchmark", "mt_bench", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    for said in ("2 runs, 2 evaluate", "3 models have answers without scores: 18 calls of rule at http://127.0.0.1",
                 "judged 18 of 18, 0 unparsable", "3 models scored: 18 calls, 1,800 tokens read and 180 written",
                 "MT-Bench"):  # fmt: skip
        assert said in done.stdout, said
    rows = [json.loads(line) for line in (tmp_path / "outputs/sweeps/s/results.jsonl").read_text().splitlines()]
    assert [row["kind"] for row in rows] == ["base", "run", "run"]
    for row in rows[1:]:
        lines = read_lines(tmp_path / "outputs/runs" / row["run_id"] / "evaluations/mt_bench/answers.jsonl")
        expected = {line["question_id"]: statistics.fmean(map(rule, line["turns"])) for line in lines}
        assert {each["question_id"]: each["score"] for each in row["mt_bench_questions"]} == expected
    files: list[Any] = sorted((tmp_path / "outputs").rglob("attempts/*"))
    again = launch("evaluate", "s", "--benchmark", "mt_bench", *words)
    assert again.returncode == 0
    assert "calls" not in again.stdout
    ahead = launch("evaluate", "s", "--benchmark", "mt_bench", "--dry-run", *words)
    assert ahead.stdout == "nothing to evaluate: the trained runs of s have all that is asked for\n"
    assert sorted((tmp_path / "outputs").rglob("attempts/*")) == files
    assert sum(judge_server.paid.values()) == 18
    results_file = tmp_path / "outputs/sweeps/s/results.jsonl"
    there = results_file.read_text()
    other = [*words, "evaluation.judge.model=other", "evaluation.judge.retries=0"]
    shown = launch("evaluate", "s", "--benchmark", "mt_bench", "--again", "--dry-run", *other)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "18 calls of other at http://127.0.0.1" in shown.stdout
    judge_server.faults = ["401"]
    asked = len(judge_server.requests)
    refused = launch("evaluate", "s", "--benchmark", "mt_bench", "--again", *other)
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert refused.stderr.startswith("prefsweep: evaluation.judge.key_env=JUDGE_KEY: ")
    assert len(judge_server.requests) == asked + 1
    assert launch("collect", "s").returncode == 0
    assert results_file.read_text() == there
    assert sorted((tmp_path / "outputs").rglob("attempts/*")) == files
    done = launch("evaluate", "s", "--benchmark", "mt_bench", "--again", *other)
    assert done.returncode == 0, done.stdout + done.stderr
    for row in map(json.loads, results_file.read_text().splitlines()):
        assert row["mt_bench_made_by"]["judge"]["model"] == "other"
        assert [each["mt_bench_made_by"]["judge"]["model"] for each in row["mt_bench_also"]] == ["rule"]
