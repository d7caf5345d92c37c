"""Facts -> results.jsonl: one line per run of a sweep, and one per untrained model.

Owns: the rows of results.jsonl, which is all that `analysis` knows of us.
Must not know: how anything is submitted or trained.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping

from launcher.config import BENCHMARKS, OBJECTIVE
from launcher.store import EvaluationDir, Fact, RunDir, Store, SweepDir, read_fact, read_lines, write_derived
from launcher.submit import RunState

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
    attempt = (read_fact(attempts[-1].attempt_file) or {}) if attempts else {}
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
        "seconds": result.get("seconds"),
        "objective": run.read_config(),
        "training": result or None,
        "revision": read_fact(run.revision_file),
        **_scores(_facts_of(run)),
        "curve": _curve(run),
        "provenance": {**attempt.get("provenance", {}), "created": attempt.get("time")},
        "command": _command(record),
    }


def _points(row: Fact, run: RunDir) -> list[Fact]:
    """The run's row, and before it one for each milestone that is evaluated: the same training, cut at that step."""
    found = [(step, read_fact(milestone.evaluation_file)) for step, milestone in run.milestones()]
    points = [
        row
        | {"run_id": f"{row['run_id']}@{step}", "axes": {**row["axes"], "step": step}, "step": step, "max_steps": step}
        | {
            "status": "TRAINED",
            "reason": None,
            "seconds": None,
            "training": None,
            **_scores({"preference": evaluation}),
        }
        | {"curve": [line for line in row["curve"] if line["step"] <= step]}
        for step, evaluation in found
        if evaluation is not None
    ]
    return [*points, row | {"axes": {**row["axes"], "step": row["step"]}} if points else row]


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
        "mt_bench_questions": bench.get("questions", []),
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
        facts = _facts_of(store.run(row["run_id"].partition("@")[0]))
        keys = {name: fact["base"] for name, fact in facts.items() if fact.get("base")}
        named = {name: row[name] for name in ("sweep", "model", "dataset")}
        alike = [known for base, known in bases if named.items() <= base.items() and _agree(known, keys)]
        if alike:
            alike[0].update(keys)
        elif keys:
            objective = {name: row["objective"][name] for name in OBJECTIVE[:2]}
            base = {"kind": "base", "run_id": f"{row['model']}-base", **named, "status": "TRAINED"}
            bases.append(({**base, "axes": {}, "objective": objective}, keys))
    return [base | _scores(facts) for base, keys in bases if (facts := _base_facts(keys, store))]


def _agree(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    return all(one[name] == other[name] for name in one.keys() & other.keys())


def _base_facts(keys: Mapping[str, str], store: Store) -> Facts:
    found = {}
    for name, key in keys.items():
        folder = EvaluationDir(store.cache("benchmarks", f"{name}-{key}"))
        file = store.cache("base", key) / "evaluation.json" if name == "preference" else folder.result_file(name)
        found[name] = read_fact(file)
    return {name: fact for name, fact in found.items() if fact is not None}
