"""Facts -> results.jsonl: one line per run of a sweep, per milestone of one, and per untrained model.

Owns: the rows of results.jsonl, which is all that `analysis` knows of us.
Must not know: how anything is submitted or trained.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from launcher.config import BENCHMARKS, OBJECTIVE
from launcher.runs.run_state import RunState
from launcher.store.files import Fact, read_fact, read_lines, write_derived
from launcher.store.output_folder import Store, SweepDir
from launcher.store.run_folder import AttemptDir, EvaluationDir, RunDir

Facts = Mapping[str, Fact]
MADE_BY = ("judge", "hashes", "answers", "spent")  # what MT-Bench scores depend on, and cost
CURVE_KEYS = ("step", "loss", "reward_accuracy", "reward_margin", "learning_rate", "grad_norm")
SCORE_KEYS = (
    "loss", "reward_accuracy", "reward_margin", "kl", "kl_stderr", "golden_reward", "golden_reward_stderr", "pairs",
    "generations", "seconds", "actions",
)  # fmt: skip


def collect(directory: SweepDir, store: Store, states: Iterable[RunState]) -> list[Fact]:
    """Write results.jsonl from what is known now, and return its rows; may be repeated at any time."""
    records = {record["run_id"]: record for record in directory.run_records()}
    rows = [
        point for state in states for point in _points(_row(records[state.run.run_id], state, directory), state.run)
    ]
    rows = [*_base_rows(rows, store), *rows]
    write_derived(directory.results_file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return rows


def _row(record: Fact, state: RunState, directory: SweepDir) -> Fact:
    run, facts = state.run, state.facts
    result = read_fact(run.result_file) or {}
    attempts = run.attempts()
    attempt = attempts[-1].record if attempts else {}
    gpus = _gpus(attempt, result)
    return {
        "kind": "run",
        "sweep": directory.name,
        **{key: record[key] for key in ("run_id", "model", "dataset", "loss_type", "beta", "seed", "axes")},
        "status": state.status,
        "reason": state.reason,
        "job_id": facts.job_id,
        "attempts": facts.attempts,
        "step": facts.step,
        "max_steps": facts.max_steps,
        "milestone": None,
        "seconds": result.get("seconds"),
        "gpus": gpus,
        "gpu_hours": None if gpus is None else gpus * _worked_seconds(run, read_fact(run.evaluation_file)) / 3600,
        "hosts": _hosts(attempts),
        "objective": run.read_config() if run.path.is_dir() else {},
        "training": result or None,
        "revision": read_fact(run.revision_file),
        **_scores(measured := _facts_of(run)),
        "base": _base_name(_base_keys(measured)),
        "curve": _curve(run),
        "provenance": {**attempt.get("provenance", {}), "created": attempt.get("time")},
        "command": _command(record),
    }


def _gpus(attempt: Mapping[str, Any], result: Mapping[str, Any]) -> int | None:
    """The GPUs that the last attempt asked for; 0 where it turned out to train on a CPU, None before any attempt."""
    if result.get("device") == "cpu":
        return 0
    cluster = attempt.get("settings", {}).get("cluster")
    return cluster and int(cluster["nodes"] * cluster["gpus_per_node"])


def _worked_seconds(run: RunDir, evaluation: Mapping[str, Any] | None) -> float:
    """Seconds of all steps, also of those that a resumed run made again, and of the evaluations.

    Loading a model is not in it, nor waiting in the queue: a job that goes back into it leaves no other trace of when
    it ran.
    """
    steps = sum(line.get("seconds") or 0.0 for line in read_lines(run.metrics_file))
    evaluations = [evaluation, *(read_fact(milestone.evaluation_file) for _, milestone in run.milestones())]
    return float(steps + sum((each or {}).get("seconds") or 0.0 for each in evaluations))


def _hosts(attempts: Iterable[AttemptDir]) -> list[str]:
    """The machines that the attempts ran on, each once."""
    started = (read_fact(attempt.started_file) or {} for attempt in attempts)
    return list(dict.fromkeys(fact["host"] for fact in started if fact.get("host")))


def _points(row: Fact, run: RunDir) -> list[Fact]:
    """The run's row, and before it one for each milestone that is evaluated: the same training, cut at that step.

    What the training cost is told of the run alone.
    """
    found = [(step, milestone, read_fact(milestone.evaluation_file)) for step, milestone in run.milestones()]
    points = [
        row
        | {"run_id": f"{row['run_id']}@{step}", "axes": {**row["axes"], "step": step}}
        | dict.fromkeys(("step", "max_steps", "milestone"), step)
        | dict.fromkeys(("reason", "seconds", "gpus", "gpu_hours", "training"))
        | {"revision": read_fact(milestone.revision_file)}
        | {"status": "TRAINED", **_scores({"preference": evaluation}), "base": evaluation.get("base")}
        | {"curve": [line for line in row["curve"] if line["step"] <= step]}
        for step, milestone, evaluation in found
        if evaluation is not None
    ]
    return [*points, row | {"axes": {**row["axes"], "step": row["max_steps"]}} if points else row]


def _facts_of(run: RunDir) -> Facts:
    """What was measured, by benchmark."""
    files = {name: run.evaluations.result_file(name) for name in BENCHMARKS} | {"preference": run.evaluation_file}
    return {name: fact for name, file in files.items() if (fact := read_fact(file)) is not None}


def _scores(facts: Facts) -> Fact:
    """All scores in one mapping, whatever their benchmark; beside it the lists that intervals are computed from.

    `mt_bench_questions` has a dict for each question: `question_id`, `category`, `turns` (two ratings), `score`.
    """
    preference, bench = facts.get("preference"), facts.get("mt_bench") or {}
    scores = {} if preference is None else {key: preference.get(key) for key in SCORE_KEYS}
    for name in ("lm_eval", "command"):
        scores |= {f"{name}/{key}": value for key, value in facts.get(name, {}).get("scores", {}).items()}
    return {
        "evaluation": scores | _mt_bench_scores(bench) or None,
        "golden_rewards": (preference or {}).get("golden_rewards") or [],
        "samples": (preference or {}).get("samples") or [],
        "mt_bench_scores": {str(q["question_id"]): q["score"] for q in bench.get("questions", []) if q["score"]},
        "mt_bench_questions": bench.get("questions", []),
        "losses": (preference or {}).get("losses") or [],
        "mt_bench_made_by": {key: bench[key] for key in MADE_BY if key in bench},
    }


def _mt_bench_scores(fact: Fact) -> Fact:
    """`mt_bench` and its standard error `mt_bench_se`, `mt_bench_turn_1`, `mt_bench_writing`, ..."""
    if not fact:
        return {}
    turns = {f"mt_bench_turn_{number}": score for number, score in enumerate(fact["turns"], 1)}
    categories = {f"mt_bench_{name}": score for name, score in fact["categories"].items()}
    counts = {f"mt_bench_{name}": fact[name] for name in ("unparsable", "unscored", "judge_sd")}
    return {"mt_bench": fact["score"], "mt_bench_se": fact["stderr"], **turns, **categories, **counts}


def _curve(run: RunDir) -> list[Fact]:
    """The logged steps, each once: a resumed run logs again what came after its checkpoint."""
    steps = {record["step"]: record for record in read_lines(run.metrics_file) if "step" in record}
    return [{key: steps[step].get(key) for key in CURVE_KEYS} for step in sorted(steps)]


def _command(record: Fact) -> str:
    """What to type to get this run alone."""
    return shlex.join(["python", "-m", "launcher", *record["overrides"]])


def _base_rows(rows: Iterable[Fact], store: Store) -> list[Fact]:
    """A row for each untrained model: its results on the same terms as those of the runs that name it.

    Where runs were measured with different settings, there is a row for each set of settings.
    """
    bases: list[tuple[Fact, dict[str, str]]] = []
    for row in rows:
        keys = _base_keys(_facts_of_row(row, store))
        named = {name: row[name] for name in ("sweep", "model", "dataset")}
        alike = [known for base, known in bases if named.items() <= base.items() and _agree(known, keys)]
        if alike:
            alike[0].update(keys)
        elif keys:
            objective = {name: row["objective"][name] for name in OBJECTIVE[:2]}
            base = {"kind": "base", "run_id": f"{row['model']}-base", **named, "status": "TRAINED"}
            bases.append(({**base, "base": _base_name(keys), "axes": {}, "objective": objective}, keys))
    return [base | _scores(facts) for base, keys in bases if (facts := _base_facts(keys, store))]


def _facts_of_row(row: Fact, store: Store) -> Facts:
    run_id, _, step = row["run_id"].partition("@")
    run = store.run(run_id)
    if not step:
        return _facts_of(run)
    fact = read_fact(run.milestone(int(step)).evaluation_file)
    return {} if fact is None else {"preference": fact}


def _base_keys(facts: Facts) -> dict[str, str]:
    """The cache entries of the untrained model's results, by benchmark."""
    return {name: fact["base"] for name, fact in facts.items() if fact.get("base")}


def _base_name(keys: Mapping[str, str]) -> str | None:
    """What a run and the row of its untrained model have in common."""
    return keys.get("preference") or next(iter(keys.values()), None)


def _agree(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    return all(one[name] == other[name] for name in one.keys() & other.keys())


def _base_facts(keys: Mapping[str, str], store: Store) -> Facts:
    found = {}
    for name, key in keys.items():
        folder = EvaluationDir(store.cache("benchmarks", f"{name}-{key}"))
        file = store.cache("base", key) / "evaluation.json" if name == "preference" else folder.result_file(name)
        found[name] = read_fact(file)
    return {name: fact for name, fact in found.items() if fact is not None}
