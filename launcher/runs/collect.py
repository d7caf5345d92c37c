"""Facts -> results.jsonl: one line per run of a sweep, per milestone of one, and per untrained model.

Owns: the rows of results.jsonl, which is all that `analysis` knows of us.
Must not know: how anything is submitted or trained.
"""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from launcher.config import OBJECTIVE
from launcher.errors import StoreError
from launcher.hub.published import published_of
from launcher.runs.run_state import RunState
from launcher.runs.status import Status
from launcher.runs.unreadable import Reading, check_readable
from launcher.store.attempt_config import section, wanted_by
from launcher.store.attempts import Attempts
from launcher.store.counts import DataCounts
from launcher.store.facts import Attempt, RunRecord
from launcher.store.files import Count, Plain, content_key, plain, read_fact, typed, write_derived
from launcher.store.measurements import Measured, result_of
from launcher.store.metrics_log import read_metrics
from launcher.store.model_marker import model_name
from launcher.store.origins import Sources
from launcher.store.output_folder import Store, SweepDir
from launcher.store.results import Evaluation, MTBenchResult, Result
from launcher.store.run_folder import AttemptDir, RunDir
from launcher.store.starts import all_starts
from launcher.store.whose import check

NAMED_BY = ("run_id", "model", "dataset", "loss_type", "beta", "seed", "axes")  # a row's, of the launch's record
MADE_BY = ("judge", "hashes", "answers", "spent")  # what MT-Bench scores depend on, and cost
SAMPLING = ("batch_size", "generations", "max_new_tokens", "temperature", "seed")
# Of each other benchmark's settings, those that its scores depend on, besides those that are hashed.
SETTINGS = {
    "preference": (*SAMPLING, "golden_reward", "dtype", "attn_implementation", "kl_estimator"),
    "lm_eval": ("num_fewshot", "limit", "apply_chat_template"),
    "command": (),
}
HASHED = ("prompts", "argv")
CURVE_KEYS = ("step", "loss", "reward_accuracy", "reward_margin", "learning_rate", "grad_norm")
SCORE_KEYS = (
    "loss", "reward_accuracy", "reward_margin", "kl", "kl_stderr", "golden_reward", "golden_reward_stderr", "pairs",
    "generations", "seconds", "actions",
)  # fmt: skip


# What else a row has, where nothing of it can be read.
_NOTHING: Plain = {
    **dict.fromkeys(("seconds", "gpus", "gpu_hours", "training", "revision", "base")),
    **{key: [] for key in ("hosts", "curve")},
    **{key: {} for key in ("objective", "sources", "data", "provenance")},
}


def collect(directory: SweepDir, store: Store, states: Iterable[RunState], read: Reading | None = None) -> list[Plain]:
    """Write results.jsonl from what is known now, and return its rows; may be repeated at any time.

    `read` is told of the runs that cannot be read; of those the row has what the launch has recorded.
    """
    read = read or Reading()
    records = {record.run_id: record for record in directory.run_records()}
    known = [(records[state.run.run_id], state) for state in states if state.run.run_id in records]
    rows = [row for record, state in known for row in _rows(record, state, directory, read)]
    legible = [row for row in rows if row["status"] != Status.UNREADABLE]
    rows = [*_base_rows(legible, store, read), *rows]
    write_derived(directory.results_file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return rows


def _rows(record: RunRecord, state: RunState, directory: SweepDir, read: Reading) -> list[Plain]:
    """A run's row, and those of its milestones; of a run that cannot be read, a row that says so."""
    try:
        check_readable(state.facts)
        return with_milestones(_row(record, state, directory), state.run)
    except StoreError as error:
        read.note(error)
        told = replace(state, status=Status.UNREADABLE, reason=str(error))
        return [_named(record, told, directory) | _NOTHING | _scores(Measured())]


def _named(record: RunRecord, state: RunState, directory: SweepDir) -> Plain:
    """What a row has also of a run that cannot be read."""
    facts = state.facts
    return {
        "kind": "run",
        "sweep": directory.name,
        **{key: getattr(record, key) for key in NAMED_BY},
        "status": state.status,
        "reason": state.reason,
        "job_id": facts.job_id,
        "attempts": facts.attempts,
        "step": facts.step,
        "max_steps": facts.max_steps,
        "milestone": None,
        "command": _command(record),
    }


def _row(record: RunRecord, state: RunState, directory: SweepDir) -> Plain:
    run = state.run
    result, revision = result_of(run), published_of(run)
    attempts = Attempts.of(run)
    attempt = attempts.training.record if attempts.training else Attempt()
    gpus, evaluating = _gpus(attempts.training, result), _gpus(_measuring(attempts), result)
    measured, sources = Measured.of(run), read_fact(run.sources_file, Sources)
    return {
        **_named(record, state, directory),
        "seconds": result.seconds if result else None,
        "gpus": gpus,
        "gpu_hours": None if gpus is None else _gpu_seconds(run, measured.preference, gpus, evaluating or 0) / 3600,
        "hosts": _hosts(attempts.trainings),
        "objective": run.read_config() if run.path.is_dir() else {},
        "sources": _sources(sources) if sources else {},
        "data": _data(run),
        "training": plain(replace(result, sums=None)) if result else None,
        "revision": plain(replace(revision, model=None)) if revision else None,
        **_scores(measured),
        "base": _base_name(measured.bases),
        "curve": _curve(run),
        "provenance": {**attempt.provenance, "created": attempt.time},
    }


def _sources(sources: Sources) -> Plain:
    """What a run was trained on; of files on this machine the hashes, wherever they lay."""
    inputs = {key: contents.files for key, contents in (sources.inputs or {}).items()}
    return {**plain(replace(sources, inputs=None)), **({"inputs": inputs} if inputs else {})}


@dataclass(frozen=True)
class _Machines:
    """What is read of the section `cluster`."""

    nodes: Count
    gpus_per_node: Count


def _gpus(attempt: AttemptDir | None, result: Result | None) -> int | None:
    """The GPUs that the last attempt asked for; 0 where it turned out to train on a CPU, None before any attempt."""
    if result is not None and result.device == "cpu":
        return 0
    cluster = section(attempt, "cluster") if attempt else None
    if not attempt or not cluster:
        return None
    asked = typed(cluster, _Machines, attempt.attempt_file)
    return asked.nodes * asked.gpus_per_node


def _measuring(attempts: Attempts) -> AttemptDir | None:
    """The attempt that measures `preference`: the one that trains, unless that leaves it to the one behind it."""
    training, evaluating = attempts.training, attempts.evaluating
    leaves = training is not None and evaluating is not None and "preference" not in wanted_by(training)
    return evaluating if leaves else training


def _gpu_seconds(run: RunDir, evaluation: Evaluation | None, gpus: int, evaluating: int) -> float:
    """Seconds on each GPU of all steps, also of those that a resumed run made again, and of the evaluations.

    Loading a model is not in it, nor waiting in the queue: a job that goes back into it leaves no other trace of when
    it ran.
    """
    steps = sum(line.get("seconds") or 0.0 for line in read_metrics(run.metrics_file))
    evaluations = [evaluation, *(_evaluation_of(milestone) for _, milestone in run.milestones())]
    return float(gpus * steps + evaluating * sum((each and each.seconds) or 0.0 for each in evaluations))


def _evaluation_of(milestone: RunDir) -> Evaluation | None:
    fact = read_fact(milestone.evaluation_file, Evaluation)
    check(milestone.evaluation_file, fact.model if fact else None, model_name(milestone))
    return fact


def _data(run: RunDir) -> Plain:
    """What its rows were, of which the examples' tokens are left out."""
    data = plain(read_fact(run.data_file, DataCounts)) or {}
    for row in data.get("examples", []):
        for part in (row["prompt"], *row["answers"].values()):
            del part["ids"]
    return data


def _hosts(attempts: Iterable[AttemptDir]) -> list[str]:
    """The machines that the attempts ran on, each once."""
    hosts = (start.fact.host for attempt in attempts for start in all_starts(attempt))
    return list(dict.fromkeys(host for host in hosts if host))


def with_milestones(row: Plain, run: RunDir) -> list[Plain]:
    """The run's row, and before it one for each milestone that is evaluated: the same training, cut at that step.

    What the training cost is told of the run alone.
    """
    found = [(step, milestone, _evaluation_of(milestone)) for step, milestone in run.milestones()]
    points = [
        row
        | {"run_id": f"{row['run_id']}@{step}", "axes": {**row["axes"], "step": step}}
        | dict.fromkeys(("step", "max_steps", "milestone"), step)
        | dict.fromkeys(("reason", "seconds", "gpus", "gpu_hours", "training"))
        | {"revision": plain(replace(revision, model=None)) if revision else None}
        | {"status": "TRAINED", **_scores(Measured({"preference": evaluation})), "base": evaluation.base}
        | {"curve": [line for line in row["curve"] if line["step"] <= step]}
        for step, milestone, evaluation in found
        if evaluation is not None
        for revision in [published_of(milestone)]
    ]
    return [*points, row | {"axes": {**row["axes"], "step": row["max_steps"]}} if points else row]


def _scores(measured: Measured) -> Plain:
    """All scores in one mapping, whatever their benchmark; beside it the lists that intervals are computed from.

    `mt_bench_questions` has a dict for each question: `question_id`, `category`, `turns` (two ratings), `score`.
    """
    preference = plain(measured.preference) if measured.preference else {}
    bench = plain(measured.mt_bench) if measured.mt_bench else {}
    scores = {key: preference.get(key) for key in SCORE_KEYS} if preference else {}
    scores |= {"prompts": len(preference["settings"].get("prompts", [])) or None} if preference else {}
    for name, program in (("lm_eval", measured.lm_eval), ("command", measured.command)):
        scores |= {f"{name}/{key}": value for key, value in program.scores.items()} if program else {}
    return {
        "evaluation": scores | _mt_bench_scores(measured.mt_bench) or None,
        "golden_rewards": preference.get("golden_rewards", []),
        "samples": preference.get("samples", []),
        **_judged(measured.mt_bench),
        "mt_bench_questions": bench.get("questions", []),
        "mt_bench_also": [
            {"evaluation": _mt_bench_scores(fact), **_judged(fact)} for fact in measured.judged_otherwise
        ],
        "losses": preference.get("losses", []),
        **_made_by(measured),
    }


def _judged(fact: MTBenchResult | None) -> Plain:
    """The score of each question, and what they depend on."""
    bench = plain(fact) if fact else {}
    return {
        "mt_bench_scores": {str(q["question_id"]): q["score"] for q in bench.get("questions", []) if q["score"]},
        "mt_bench_made_by": {key: bench[key] for key in MADE_BY if bench},
    }


def _made_by(measured: Measured) -> Plain:
    """What the other scores depend on, besides the model; of long texts, and of what may hold a secret, a hash."""
    settings = {name: plain(fact)["settings"] if (fact := getattr(measured, name)) else {} for name in SETTINGS}
    kept = {
        name: {key: value for key, value in each.items() if key in SETTINGS[name]} for name, each in settings.items()
    }
    hashed = {
        name: {key: content_key(each[key], 8) for key in HASHED if key in each} for name, each in settings.items()
    }
    return {f"{name}_made_by": kept[name] | hashed[name] for name in SETTINGS}


def _mt_bench_scores(fact: MTBenchResult | None) -> Plain:
    """`mt_bench` and its standard error `mt_bench_se`, `mt_bench_turn_1`, `mt_bench_writing`, ..."""
    if fact is None:
        return {}
    turns = {f"mt_bench_turn_{number}": score for number, score in enumerate(fact.turns, 1)}
    categories = {f"mt_bench_{name}": score for name, score in fact.categories.items()}
    counts = {f"mt_bench_{name}": getattr(fact, name) for name in ("unparsable", "unscored", "judge_sd")}
    return {"mt_bench": fact.score, "mt_bench_se": fact.stderr, **turns, **categories, **counts}


def _curve(run: RunDir) -> list[Plain]:
    """The logged steps, each once: a resumed run logs again what came after its checkpoint."""
    steps = {record["step"]: record for record in read_metrics(run.metrics_file) if record.get("step") is not None}
    return [{key: steps[step].get(key) for key in CURVE_KEYS} for step in sorted(steps)]


def _command(record: RunRecord) -> str:
    """What to type to get this run alone."""
    return shlex.join(["python", "-m", "launcher", *record.overrides])


def _base_rows(rows: Iterable[Plain], store: Store, read: Reading) -> list[Plain]:
    """A row for each untrained model: its results on the same terms as those of the runs that name it.

    Where runs were measured with different settings, there is a row for each set of settings.
    """
    bases: list[tuple[Plain, dict[str, str]]] = []
    for row in rows:
        keys = _measured_of_row(row, store).bases
        named = {name: row[name] for name in ("sweep", "model", "dataset")}
        objective = {name: row["objective"].get(name) for name in OBJECTIVE[:2]}
        named |= {"objective": objective, "sources": row["sources"]}
        alike = [(base, known) for base, known in bases if _is_alike(base, named) and _agree(known, keys)]
        if alike:
            base, known = alike[0]
            base["sources"] = {**base["sources"], **row["sources"]}
            known.update(keys)
        elif keys:
            base = {"kind": "base", "run_id": f"{row['model']}-base", **named, "status": "TRAINED"}
            bases.append(({**base, "base": _base_name(keys), "axes": {}}, keys))
    found = [(base, read(partial(Measured.of_untrained, keys, store))) for base, keys in bases]
    return _told_apart([base | _scores(measured) for base, measured in found if measured and measured.results])


def _told_apart(bases: Sequence[Plain]) -> list[Plain]:
    """The rows, those that would have one name with the beginning of what is their own."""
    often = Counter(base["run_id"] for base in bases)
    own = {id(base): f"-{str(base['base'])[:8]}" for base in bases if often[base["run_id"]] > 1}
    return [base | {"run_id": base["run_id"] + own.get(id(base), "")} for base in bases]


def _is_alike(base: Plain, named: Plain) -> bool:
    """Whether two rows name the same model and data, by what both have: an earlier version may have recorded less."""
    one, other = ({key: each for key, each in row.items() if key != "sources"} for row in (named, base))
    return _agree(base["sources"], named["sources"]) and _known_only(one).items() <= _known_only(other).items()


def _known_only(value: Plain) -> Plain:
    """A mapping without its nulls, at every depth."""
    return {
        key: _known_only(each) if isinstance(each, dict) else each for key, each in value.items() if each is not None
    }


def _measured_of_row(row: Plain, store: Store) -> Measured:
    run_id, _, step = row["run_id"].partition("@")
    run = store.run(run_id)
    return Measured.of(run.milestone(int(step)) if step else run)


def _base_name(keys: Mapping[str, str]) -> str | None:
    """What a run and the row of its untrained model have in common."""
    return keys.get("preference") or next(iter(keys.values()), None)


def _agree(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one[name] == other[name] for name in one.keys() & other.keys())
