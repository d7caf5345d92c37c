"""Facts -> results.jsonl: one line per run of a sweep, and one per untrained model.

Owns: the rows of results.jsonl, which is all that `analysis` knows of us.
Must not know: how anything is submitted or trained.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from launcher.config import OBJECTIVE
from launcher.store import Fact, RunDir, Store, SweepDir, read_fact, read_lines, write_derived
from launcher.submit import RunState

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
    result, evaluation = read_fact(run.result_file) or {}, read_fact(run.evaluation_file)
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
        **_scores(evaluation),
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
        | {"status": "TRAINED", "reason": None, "seconds": None, "training": None, **_scores(evaluation)}
        | {"curve": [line for line in row["curve"] if line["step"] <= step]}
        for step, evaluation in found
        if evaluation is not None
    ]
    return [*points, row | {"axes": {**row["axes"], "step": row["step"]}} if points else row]


def _scores(evaluation: Mapping[str, Any] | None) -> Fact:
    if evaluation is None:
        return {"evaluation": None, "golden_rewards": [], "samples": []}
    return {
        "evaluation": {key: evaluation.get(key) for key in SCORE_KEYS},
        "golden_rewards": evaluation.get("golden_rewards") or [],
        "samples": evaluation.get("samples") or [],
    }


def _curve(run: RunDir) -> list[Fact]:
    """The logged steps, each once: a resumed run logs again what came after its checkpoint."""
    steps = {record["step"]: record for record in read_lines(run.metrics_file) if "step" in record}
    return [{key: steps[step].get(key) for key in CURVE_KEYS} for step in sorted(steps)]


def _command(record: Fact) -> str:
    """What to type to get this run alone."""
    return shlex.join(["python", "-m", "launcher", *record["overrides"]])


def _base_rows(rows: Iterable[Fact], store: Store) -> list[Fact]:
    """The evaluations of the untrained models that these runs were evaluated beside."""
    bases: dict[str, Fact] = {}
    for row in rows:
        run = store.run(row["run_id"].partition("@")[0])
        key = (read_fact(run.evaluation_file) or {}).get("base")
        evaluation = read_fact(store.cache("base", key) / "evaluation.json") if key else None
        if key and evaluation and key not in bases:
            named = {name: row[name] for name in ("sweep", "model", "dataset")}
            objective = {name: row["objective"][name] for name in OBJECTIVE[:2]}
            base = {"kind": "base", "run_id": f"{row['model']}-base", **named, "status": "TRAINED"}
            bases[key] = {**base, "axes": {}, "objective": objective, **_scores(evaluation)}
    return list(bases.values())
