"""What a reader of the results could get wrong, in sentences.

Owns: the words of the cautions, and when each is due. Must not know: HTML, files, how an interval is computed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.apart import SECTIONS, axis_value, place_of
from analysis.best import Best
from analysis.judges import BY
from analysis.measures import ACCURACY, GOLDEN, Measure, measures_of, present, primary, text_measures
from analysis.page import budget, curves, data
from analysis.rows import judged, other_axes, setting
from analysis.smooth import Smooth
from analysis.statistics import hidden_damage
from analysis.words import fixed, listed, number

_FEW = 30  # values of a bootstrap
_UNKNOWN_SEEDS = (
    "Training again with another seed would move the scores too, and by how much is not known without an axis over "
    "seed (seed=1,2,3)."
)
_OTHER_SEEDS = "The scores are means over seeds; by how much another seed moves them is not estimated for this measure."
_NAMED_RUNS = 6  # run ids written out in a sentence


def cautions(
    frame: pd.DataFrame, best: list[Best], settings: pd.DataFrame, concluded: Sequence[Smooth] = ()
) -> list[str]:
    """Say what a reader could get wrong, most serious first; ``settings`` is the frame with its seeds pooled."""
    runs = frame[frame["kind"] == "run"]
    curved = {(each.model, each.dataset) for each in concluded if each.curves}
    plain = [each for each in best if (each.row["model"], each.row["dataset"]) not in curved]
    not_curved = [(row["model"], row["dataset"]) not in curved for _, row in settings.iterrows()]
    found = [
        *_untrained(runs),
        *_damage(frame),
        *curves.cautions(concluded, next(iter(frame["sweep"].dropna()), "SWEEP").partition(", ")[0]),
        *_no_base(best),
        *_judges(frame, best),
        *_two_bases(frame),
        *_partial(runs, best),
        *_gaps(frame),
        *_disagreement(settings, best),
        *_choice(plain),
        *budget.cautions(runs),
        *data.cautions(runs),
        *_noise(frame, settings[not_curved], intervals=bool(plain)),
        *_contents(runs),
        *_settings(runs),
        *_rewards(runs),
        *_code(frame),
    ]
    if any(each.difference.method == "unpaired" for each in best):
        found.append("Some differences could not be paired value by value; their intervals are wider for it.")
    return found


def _untrained(runs: pd.DataFrame) -> list[str]:
    """Say which runs never had a learning rate above 0: a warm-up that was as long as the training."""
    rates = {str(row["run_id"]): [point["learning_rate"] for point in row["curve"]] for _, row in runs.iterrows()}
    found = [name for name, own in rates.items() if own and not any(rate != 0 for rate in own)]
    if not found:
        return []
    return [
        f"Nothing was trained in {_some(found)}: the learning rate was 0 in each step. They are the untrained model."
    ]


def _damage(frame: pd.DataFrame) -> list[str]:
    runs = [str(name) for name in hidden_damage(frame)["run_id"]]
    if not runs:
        return []
    text = (
        f"Good reward accuracy hides worse text in {_some(runs)}: held-out pairs are told apart better than by "
        "chance, yet the text scored below that of the untrained model. Read the generations."
    )
    return [text]


def _no_base(best: list[Best]) -> list[str]:
    compared = [each for each in best if each.measure is not ACCURACY]
    missing = {str(each.row["model"]) for each in compared if not math.isfinite(each.difference.value)}
    without = [each for each in compared if not each.difference.known and not each.measure.stderr]
    bare = dict.fromkeys(each.measure.label for each in without)
    found = [f"No difference to the untrained model is known for {listed(sorted(missing))}."] if missing else []
    if bare:
        found.append(
            f"Scores of {listed(list(bare))} come without a standard error, so nothing says which differences are "
            "noise: have the program print one beside each, under the score's name with _stderr at its end."
        )
    return found


def _judges(frame: pd.DataFrame, best: list[Best]) -> list[str]:
    """Say that several judges gave scores, or a program was run with several settings, and by which the best is."""
    found = []
    if len(judges := [each for each in present(frame) if each.unit == "question" and each.by]) > 1:
        chosen = dict.fromkeys(each.measure.label for each in best if each.measure.unit == "question")
        by = f" The best settings were chosen by {listed(list(chosen))}." if chosen else ""
        found.append(
            f"MT-Bench scores were given by {len(judges)} judges, or in {len(judges)} ways "
            f"({listed([each.by.removeprefix(BY) for each in judges])}). Each has figures and columns of its own, and "
            f"no score of one is compared with one of another.{by}"
        )
    if apart := [each.label for each in measures_of(frame) if each.unit == "task" and each.by]:
        found.append(
            f"Programs were run with different settings, whose scores are kept apart: {listed(apart[:_NAMED_RUNS])}."
        )
    return found


def _two_bases(frame: pd.DataFrame) -> list[str]:
    bases = frame[frame["kind"] == "base"]
    models = [str(key[0]) for key, group in bases.groupby(["model", "dataset"], dropna=False) if len(group) > 1]
    if not models:
        return []
    text = (
        f"The runs of {listed(models)} were evaluated in more than one way (prompts, seed or generation settings), "
        "each beside an untrained model of its own: compare a run with its own dashed line, and not across. Each way "
        "has panels of its own, and the best is chosen among those that were evaluated as most were."
    )
    return [text]


def _partial(runs: pd.DataFrame, best: list[Best]) -> list[str]:
    """Say which trained runs lack a measure by which others are chosen."""
    found = []
    for measure in dict.fromkeys(each.measure for each in best if each.measure is not ACCURACY):
        models = {each.row["model"] for each in best if each.measure == measure}
        without = runs[runs["model"].isin(models) & ~np.isfinite(runs[measure.column]) & (runs["status"] == "TRAINED")]
        if len(without):
            names = _some([str(name) for name in without["run_id"]])
            found.append(f"No {measure.name} is known for {names}, so the choice of the best passes over them.")
    return found


def _gaps(frame: pd.DataFrame) -> list[str]:
    """Say which rows lack scores of questions, or generations, that others of their model have, and of how many."""
    found = []
    for measure in text_measures(frame):
        lacking: dict[int, list[str]] = {}
        for _, own in frame[np.isfinite(frame[measure.column])].groupby(["model", "evaluated"], dropna=False):
            rows = [row for _, row in own.iterrows()]
            known = [{key for key, each in measure.values(row).items() if math.isfinite(each)} for row in rows]
            every = len(set().union(*known))
            for row, keys in zip(rows, known, strict=True):
                if 0 < len(keys) < every:
                    name = str(row["run_id"]) if row["kind"] == "run" else f"the untrained {row['model']}"
                    lacking.setdefault(every - len(keys), []).append(name)
        if lacking:
            ordered = sorted(lacking, reverse=True)
            most, fewer = ordered[:_NAMED_RUNS], ordered[_NAMED_RUNS:]
            counts = [f"{count} for {_some(lacking[count])}" for count in most]
            counts += [f"fewer for {sum(len(lacking[count]) for count in fewer)} more"] if fewer else []
            found.append(
                f"Not every {measure.unit} has a score of {measure.name}. Missing are "
                f"{'; '.join(counts)}. A mean as measured depends on which "
                f"those are; differences use the {measure.unit}s that both have, and curves allow for how hard each is."
            )
    return found


def _disagreement(settings: pd.DataFrame, best: list[Best]) -> list[str]:
    """Say where golden reward, or another judge, would have chosen another setting than MT-Bench did."""
    found = []
    for other in text_measures(settings):
        names = [name for each in best if each.measure.unit == "question" and (name := _other(each, other, settings))]
        if names:
            chosen = "MT-Bench" if other is GOLDEN else "the judge of the table"
            found.append(f"By {other.name} rather than {chosen} another setting would be the best of {listed(names)}.")
    return found


def _other(best: Best, measure: Measure, settings: pd.DataFrame) -> str:
    """Name the setting that another measure would have chosen of the loss; nothing where it is the same."""
    keys = ("model", "dataset", "loss_type")
    group = settings[np.logical_and.reduce([settings[key] == best.row[key] for key in keys])]
    scored = group[np.isfinite(group[measure.column])]
    compared = len(scored) > 1 and best.row.name in scored.index  # one setting alone is no choice
    if measure == best.measure or not compared:
        return ""
    other = scored.loc[scored[measure.column].idxmax()]
    same = other.name == best.row.name
    return "" if same else f"{best.row['loss_type']} on {best.row['model']} ({setting(other)})"


def _choice(best: list[Best]) -> list[str]:
    most = max((each.looked_at for each in best), default=0)
    if most <= 1:
        return []
    text = (
        f"The best settings were chosen among up to {most} of a model on the numbers that they are judged by, and the "
        "best of several is optimistic. The verdicts therefore use intervals with Bonferroni's correction for all "
        "settings that they were compared with, of every loss."
    )
    return [text]


def _noise(frame: pd.DataFrame, settings: pd.DataFrame, *, intervals: bool) -> list[str]:
    """Say what noise is not in the intervals; ``intervals``: whether there are models without curves."""
    found = [*_reruns(settings)]
    if not found and intervals and judged(frame).any():
        several = settings["seeds"].max() > 1
        found = [f"The intervals hold the noise of evaluation only. {_OTHER_SEEDS if several else _UNKNOWN_SEEDS}"]
    for measure in present(frame):
        counts = [sum(map(math.isfinite, measure.values(row).values())) for _, row in frame.iterrows()]
        few = min(filter(None, counts), default=_FEW)
        if measure.values_column and few < _FEW:
            found.append(f"With only {few} {measure.unit}s the intervals of {measure.name} are somewhat too narrow.")
    return found


def _reruns(settings: pd.DataFrame) -> list[str]:
    """Say how far apart scores of one setting lie when it is trained again with another seed."""
    found = []
    runs = settings[(settings["kind"] == "run") & settings["spread"].map(bool)]
    for (model, dataset), own in runs.groupby(["model", "dataset"], sort=False, dropna=False):
        measure = primary(own)
        spread = own.iloc[0]["spread"].get(measure.column)
        if spread is not None:
            several = runs[runs["model"] == model]["dataset"].drop_duplicates().size > 1
            name = f"{model} ({dataset})" if several else str(model)
            found.append(_rerun(name, measure, spread.deviation, own["seeds"]))
    return found


def _rerun(model: str, measure: Measure, deviation: float, seeds: pd.Series) -> str:
    apart = 1.96 * math.sqrt(2) * deviation
    each = number(seeds.min()) if seeds.min() == seeds.max() else f"{number(seeds.min())} to {number(seeds.max())}"
    return (
        f"Training {model} again with another seed moves its {measure.name} by a standard deviation of "
        f"{fixed(deviation, 3)} ({each} seeds a setting): two single runs less than about {fixed(apart)} apart may "
        "well be the same setting. Scores here are means over seeds, and their intervals hold this noise as well."
    )


def _contents(runs: pd.DataFrame) -> list[str]:
    """Say that what lay at one place was not the same for all runs, and of which runs that is not known."""
    found = []
    rows = runs.to_dict("records")
    for section in SECTIONS:
        names: dict[tuple[str | None, ...], dict[str, None]] = {}
        for row in rows:
            names.setdefault(place_of(row, section), {})[str(row[section])] = None
        found += [
            f"The runs of {listed(list(each))} were trained on different content of one {section}: it was changed "
            "in between. Each has panels and a best of its own, and none is compared with another."
            for place, each in names.items()
            if place and len(each) > 1
        ]
    known = {(row["model"], row["dataset"]) for row in rows if row["sources"].get("inputs")}
    told = [bool(row["sources"].get("inputs")) or not row["sources"] for row in rows]
    unknown = [
        str(r["run_id"]) for r, t in zip(rows, told, strict=True) if (r["model"], r["dataset"]) in known and not t
    ]
    if unknown:
        found.append(f"On which files {_some(unknown)} were trained was not recorded, so they may be others.")
    return found


def _settings(runs: pd.DataFrame) -> list[str]:
    found = []
    axes = [name for name in other_axes(runs) if len({axis_value(row, name) for row in runs.to_dict("records")}) > 1]
    axes += ["dataset"] if any(len(each) > 1 for each in runs.groupby("model")["dataset"].unique()) else []
    if runs["setting"].any():
        what = f" ({listed(axes)})" if axes else ""
        found.append(
            f"The runs differ in more than model, loss_type and beta{what}. Nothing is averaged over them: each "
            "combination has a panel of its own, and a model's best setting on a dataset is chosen across all of them."
        )
    repeated = int(runs.duplicated(["panel", "loss_type", "beta", "seed"], keep=False).sum())
    if repeated:
        found.append(f"{repeated} runs share all axes with another and differ in their config only; see the configs.")
    return found


def _rewards(runs: pd.DataFrame) -> list[str]:
    """Say that accuracy and margin are of several rewards, where some are known."""
    known = runs[np.isfinite(runs["reward_accuracy"]) | np.isfinite(runs["reward_margin"])]
    losses = {
        str(reward): list(dict.fromkeys(map(str, own["loss_type"])))
        for reward, own in known.groupby("reward", sort=False, dropna=False)
    }
    if len(losses) < 2:  # noqa: PLR2004 - one reward compares with itself
        return []
    each = "; ".join(f"{reward}: {listed(names)}" for reward, names in losses.items())
    text = (
        f"Accuracy and margin on held-out pairs are of what each loss calls a reward ({each}). Those of two rewards "
        "answer two questions and do not compare: compare such losses by what their models write."
    )
    return [text]


def _code(frame: pd.DataFrame) -> list[str]:
    states = {(each.get("git_commit"), bool(each.get("git_dirty"))) for each in frame["provenance"] if each}
    found = []
    if len({commit for commit, _ in states}) > 1:
        found.append("The runs come from more than one commit; see the provenance.")
    if any(dirty for _, dirty in states):
        found.append("Some runs were made from a tree with uncommitted changes: their commit does not hold their code.")
    return found


def _some(runs: list[str]) -> str:
    return listed(runs[:_NAMED_RUNS] + ([f"{len(runs) - _NAMED_RUNS} more"] if len(runs) > _NAMED_RUNS else []))
