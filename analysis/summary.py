"""What the results say, in sentences.

Owns: the words of the summary and of its cautions.
Must not know: HTML, files, how an interval is computed.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd

from analysis.statistics import Best, Estimate, hidden_damage, runner_up, seed_spread
from analysis.tables import fixed, limits, metric_name, other_axes, setting, signed

_FEW_GENERATIONS = 30
_NAMED_RUNS = 6  # run ids written out in a sentence
_WORDS = {
    "NEW": "not submitted",
    "PENDING": "pending",
    "RUNNING": "running",
    "TRAINED": "trained",
    "FAILED": "failed",
    "CANCELLED": "cancelled",
    "TIMEOUT": "timed out",
    "LOST": "lost",
}


def title(frame: pd.DataFrame) -> str:
    """Name the sweep."""
    return next((str(name) for name in frame["sweep"] if name), "unnamed sweep")


def lead(frame: pd.DataFrame, best: list[Best]) -> str:
    """Sum the sweep up in one paragraph: what is done, and for each model what is best and by how much."""
    sentences = [_progress(frame[frame["kind"] == "run"])]
    for group in _by_model(best):
        sentences += _winner(group)
    if not best:
        sentences.append("No run has been evaluated yet, so nothing can be said about which setting is best.")
    return " ".join(sentences)


def _progress(runs: pd.DataFrame) -> str:
    counts = Counter(_WORDS.get(str(status), str(status)) for status in runs["status"])
    trained = counts.pop("trained", 0)
    evaluated = int((np.isfinite(runs["golden_reward"]) | np.isfinite(runs["reward_accuracy"])).sum())
    text = f"{trained} of {len(runs)} runs {_are(trained)} trained and {evaluated} evaluated"
    others = [f"{count} {word}" for word, count in counts.items()]
    return f"{text}; {_listed(others)}." if others else f"{text}."


def _winner(group: list[Best]) -> list[str]:
    """Name the best loss and setting of one model, and how sure its lead is."""
    by_reward = [each for each in group if each.metric == "golden_reward"]
    first = max(by_reward or group, key=lambda each: float(each.row[each.metric]))
    where = f"On {first.row['model'] or 'an unnamed model'}"
    text = (
        f"{where} the best is {first.row['loss_type']} at {setting(first.row)}, with a {metric_name(first)} "
        f"of {fixed(first.row[first.metric])}{_gain(first)}."
    )
    pair = runner_up(by_reward)
    return [text, _lead_over(pair[1], pair[2])] if pair else [text]


def _gain(best: Best) -> str:
    """Say the difference of a best setting with its intervals, and whether it is noise."""
    if not best.difference.known:
        return ""
    other = "the untrained model" if best.metric == "golden_reward" else "chance"
    text = f", {signed(best.difference.value)} against {other} (95 % interval {limits(best.difference)}"
    if best.looked_at > 1:
        text += f"; {limits(best.corrected)} corrected for the {best.looked_at} settings looked at"
    return f"{text})" + ("" if best.beyond_noise else "; the difference is within noise")


def _lead_over(second: Best, difference: Estimate) -> str:
    name = f"the next loss, {second.row['loss_type']} at {setting(second.row)}"
    if not difference.known:
        return f"How sure its lead over {name} is cannot be said."
    noise = "" if difference.excludes(0) else ", so which of them is better is within noise"
    return f"It leads {name}, by {fixed(difference.value)} (95 % interval {limits(difference)}){noise}."


def cautions(frame: pd.DataFrame, best: list[Best]) -> list[str]:
    """Say what a reader could get wrong, most serious first."""
    runs = frame[frame["kind"] == "run"]
    found = [
        *_damage(frame),
        *_no_base(best),
        *_choice(best),
        *_noise(frame),
        *_settings(runs),
        *_code(frame),
    ]
    if any(each.difference.method == "unpaired" for each in best):
        found.append("Some differences could not be paired by generation; their intervals are wider for it.")
    return found


def _damage(frame: pd.DataFrame) -> list[str]:
    runs = [str(name) for name in hidden_damage(frame)["run_id"]]
    if not runs:
        return []
    named = _listed(runs[:_NAMED_RUNS] + ([f"{len(runs) - _NAMED_RUNS} more"] if len(runs) > _NAMED_RUNS else []))
    text = (
        f"Good reward accuracy hides worse text in {named}: held-out pairs are told apart better than by "
        "chance, yet the golden reward fell below that of the untrained model. Read the generations."
    )
    return [text]


def _no_base(best: list[Best]) -> list[str]:
    missing = {str(each.row["model"]) for each in best if each.metric == "golden_reward" and not each.difference.known}
    return [f"No difference to the untrained model is known for {_listed(sorted(missing))}."] if missing else []


def _choice(best: list[Best]) -> list[str]:
    most = max((each.looked_at for each in best), default=0)
    if most <= 1:
        return []
    text = (
        f"Each best setting was chosen among up to {most} on the numbers that it is judged by, and the best of "
        "several is optimistic. The verdicts therefore use intervals with Bonferroni's correction for that number."
    )
    return [text]


def _noise(frame: pd.DataFrame) -> list[str]:
    text = "The intervals hold the noise of evaluation only; training again with another seed would move the scores too"
    spread = seed_spread(frame)
    text += f" (here by a standard deviation of {fixed(spread, 3)} between seeds)." if spread >= 0 else "."
    counts = [len(values) for values in frame["golden_rewards"] if values]
    few = min(counts, default=_FEW_GENERATIONS)
    narrow = f"With only {few} generations they are also somewhat too narrow."
    return [f"{text} {narrow}" if few < _FEW_GENERATIONS else text]


def _settings(runs: pd.DataFrame) -> list[str]:
    found = []
    axes = [name for name in other_axes(runs) if len({str(each.get(name)) for each in runs["axes"]}) > 1]
    axes += ["dataset"] if any(len(each) > 1 for each in runs.groupby("model")["dataset"].unique()) else []
    axes += ["seed"] if any("seed=" in text for text in runs["setting"]) else []
    if runs["setting"].any():
        what = f" ({_listed(axes)})" if axes else ""
        found.append(
            f"The runs differ in more than model, loss_type and beta{what}. Nothing is averaged: each "
            "combination has a panel of its own, and a model's best setting on a dataset is chosen across all of them."
        )
    repeated = int(runs.duplicated(["panel", "loss_type", "beta"], keep=False).sum())
    if repeated:
        found.append(f"{repeated} runs share all axes with another and differ in their config only; see the configs.")
    return found


def _code(frame: pd.DataFrame) -> list[str]:
    states = {(each.get("git_commit"), bool(each.get("git_dirty"))) for each in frame["provenance"] if each}
    found = []
    if len({commit for commit, _ in states}) > 1:
        found.append("The runs come from more than one commit; see the provenance.")
    if any(dirty for _, dirty in states):
        found.append("Some runs were made from a tree with uncommitted changes: their commit does not hold their code.")
    return found


def _by_model(best: list[Best]) -> list[list[Best]]:
    groups: dict[tuple[object, object], list[Best]] = {}
    for each in best:
        groups.setdefault((each.row["model"], each.row["dataset"]), []).append(each)
    return list(groups.values())


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _listed(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
