"""What the results say, in sentences.

Owns: the words of the findings; what to beware of is in ``cautions``.
Must not know: HTML, files, how an interval is computed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.best import Best, Lead, first_of, leads
from analysis.measures import ACCURACY
from analysis.page import budget, curves
from analysis.rows import judged, setting
from analysis.winners import Winner, by_model
from analysis.words import fixed, limits, listed, signed

_NAMED = 6  # settings written out in a sentence
_WORDS = {
    "NEW": "not submitted",
    "PENDING": "pending",
    "RUNNING": "running",
    "TRAINED": "trained",
    "FAILED": "failed",
    "CANCELLED": "cancelled",
    "TIMEOUT": "timed out",
    "LOST": "lost",
    "UNREADABLE": "with a file that cannot be read",
}


def title(frame: pd.DataFrame) -> str:
    """Name the sweep, or the sweeps."""
    names = dict.fromkeys(name for each in frame["sweep"] if each for name in each.split(", "))
    return listed(list(names)) or "unnamed sweep"


def findings(frame: pd.DataFrame, found: Sequence[Winner]) -> list[str]:
    """Sum up in a few paragraphs: for each model what is best, by how much and how surely; then what is done."""
    progress = _progress(frame[frame["kind"] == "run"])
    if not found:
        return [progress, "No run has been evaluated yet, so nothing can be said about which setting is best."]
    datasets = {each.row["model"]: each.row["dataset"] for each in found}
    several = any(datasets[each.row["model"]] != each.row["dataset"] for each in found)
    groups = by_model(found)
    each_in_words = (_of_model(each, name_dataset=several, name_reward=len(groups) > 1) for each in groups)
    return [*(text for texts in each_in_words for text in texts), progress]


def _of_model(group: list[Winner], *, name_dataset: bool, name_reward: bool) -> list[str]:
    where = _where(group[0].best, name_dataset=name_dataset, name_reward=name_reward)
    if group[0].smooth and group[0].smooth.curves:
        return curves.winner(group, group[0].smooth, where)
    return [" ".join(winner([each.best for each in group], where))]


def _progress(runs: pd.DataFrame) -> str:
    models, runs = len(runs), runs[runs["milestone"].isna()]
    counts = Counter(_WORDS.get(str(status), str(status)) for status in runs["status"])
    trained = counts.pop("trained", 0)
    evaluated = int(judged(runs).sum())
    text = f"{trained} of {len(runs)} runs {_are(trained)} trained and {evaluated} evaluated"
    others = [f"{count} {word}" for word, count in counts.items()]
    text = f"{text}; {listed(others)}." if others else f"{text}."
    if kept := models - len(runs):
        text += f" {kept} of their milestones {_are(kept)} evaluated as well."
    hours = float(np.nansum(runs["gpu_hours"]))
    text = " ".join(filter(None, (text, budget.finding(runs))))
    return f"{text} They took {fixed(hours, 1)} GPU-hours." if hours > 0 else text


def winner(group: list[Best], where: str) -> list[str]:
    """Name the best loss and setting of one model, how sure its gain is, and how sure its lead."""
    first = first_of(group)
    what = f"{first.row['loss_type']} at {setting(first.row)}"
    score = f"{first.measure.name} {fixed(first.value)}{_gain(first)}."
    if first.all_tie:
        extreme = "lowest" if first.measure.lower else "highest"
        chosen = "nearest to the reference" if first.measure is ACCURACY else extreme
        text = f"{where} {first.looked_at} settings tie: none can be told from the {chosen}, {what}. It has {score}"
        return [text, *_by_accuracy(first, losses=len(group))]
    text = f"{where} the best is {what}: {score}"
    leading = (_lead_over(each) for each in leads(group)[:1])
    return [text, *_ties(first), *leading, *_by_accuracy(first, losses=len(group))]


def _where(best: Best, *, name_dataset: bool, name_reward: bool) -> str:
    with_dataset = f" with {best.row['dataset']}" if name_dataset else ""
    by_reward = f" by the reward {best.row['reward']}" if name_reward and best.measure is ACCURACY else ""
    return f"On {best.row['model'] or 'an unnamed model'}{with_dataset}{by_reward}"


def _gain(best: Best) -> str:
    """Say the difference of a best setting with its intervals, and whether it is noise."""
    other = "chance" if best.measure is ACCURACY else "the untrained model"
    if not best.corrected.known:
        known = math.isfinite(best.corrected.value) and best.measure is not ACCURACY
        gain = f", {signed(best.corrected.value)} against {other}"
        return f"{gain}; without errors of its scores nothing says whether that is noise" if known else ""
    text = f", {signed(best.corrected.value)} against {other} (95 % interval {limits(best.corrected)}"
    if best.looked_at > 1:
        text += f", corrected for the {best.looked_at} settings looked at"
    return f"{text})" + ("" if best.beyond_noise else "; the difference is within noise")


def _ties(best: Best) -> list[str]:
    """Say which other settings of the loss would do as well, as far as can be told."""
    if best.ties is None:
        return [
            f"Whether other settings of {best.row['loss_type']} would do as well is not computed: errors are missing."
        ]
    if not best.ties:
        return []
    alike = len(best.ties)
    if alike == best.of_loss - 1:
        count = "the other setting" if alike == 1 else f"any of the {alike} other settings"
        return [f"It cannot be told from {count} of {best.row['loss_type']}."]
    names = [setting(each).removeprefix("beta ") for each in best.ties[:_NAMED]]
    names += [f"{alike - _NAMED} more"] if alike > _NAMED else []
    return [f"Within noise of it: beta {listed(names)}; the other settings of {best.row['loss_type']} are worse."]


def _lead_over(lead: Lead) -> str:
    name = f"the next loss, {lead.second.row['loss_type']} at {setting(lead.second.row)}"
    if lead.corrected.value == 0:
        return f"The best of {lead.second.row['loss_type']}, at {setting(lead.second.row)}, scores the same."
    if not lead.corrected.known:
        return f"How sure its lead over {name} is cannot be said."
    noise = "" if lead.beyond_noise else ", so which of them is better is within noise"
    interval = f"95 % interval {limits(lead.corrected)}, corrected in the same way"
    return f"It leads {name}, by {fixed(abs(lead.corrected.value))} ({interval}){noise}."


def _by_accuracy(best: Best, losses: int) -> list[str]:
    if best.measure is not ACCURACY:
        return []
    if math.isfinite(best.row["kl"]):
        those = "the settings" if losses == 1 else "the losses' best settings"
        kl = fixed(best.row["kl"])
        return [f"Its KL to the reference is {kl}, the lowest of {those} within noise of the highest accuracy."]
    return ["Nothing but reward metrics is known of it, which can look fine while the text is destroyed."]


def _are(count: int) -> str:
    return "is" if count == 1 else "are"
