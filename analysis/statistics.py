"""The numbers of a report that are not simply read: each row's intervals, seeds pooled into settings, their spread.

Owns: which values are compared with which. Must not know: files, figures, sentences, which setting is best.

Two things these intervals do not cover, which a report has to say: they treat generations (or questions) as
independent; and where no setting was trained with several seeds, they hold the noise of *evaluation* only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.apart import differing, flat, show
from analysis.columns import NUMBERS, SCORES
from analysis.intervals import (
    CONFIDENCE,
    RESAMPLES,
    Estimate,
    mean_interval,
    normal_interval,
    paired_difference,
    proportion_interval,
    unpaired_difference,
    widened,
)
from analysis.measures import ACCURACY, CHANCE, Measure, measures_of, present, text_measures
from analysis.units import on_same_units

_MANY = 150  # rows; above, their intervals are made with a fifth of the resamples
_AVERAGED = [each.name for each in (*NUMBERS, *SCORES) if each.name not in {"beta", "seed"}]


@dataclass(frozen=True)
class Spread:
    """The standard deviation of a score between seeds of one setting, pooled over settings, and its freedom.

    ``evaluation`` is the variance that it would have if seeds differed by their evaluations' noise alone; 0 where the
    scores' values are not known.
    """

    deviation: float = math.nan
    freedom: float = 0
    evaluation: float = 0

    def stderr(self, seeds: float) -> float:
        """Give the standard error of a mean over so many seeds."""
        return self.deviation / math.sqrt(seeds)


def score(row: pd.Series, measure: Measure, confidence: float = CONFIDENCE, resamples: int | None = None) -> Estimate:
    """Give a row's score with its interval: over its values, else from its standard error, else Wilson's."""
    if measure is ACCURACY:
        return proportion_interval(row["reward_accuracy"], row["pairs"], confidence)
    values = list(measure.values(row).values())
    if np.isfinite(values).sum() > 1:
        return mean_interval(values, confidence, resamples=resamples)
    stderr = row[measure.stderr] if measure.stderr else math.nan
    return normal_interval(row[measure.column], stderr, confidence)


def difference(
    row: pd.Series,
    other: pd.Series | None,
    measure: Measure,
    confidence: float = CONFIDENCE,
    resamples: int | None = None,
) -> Estimate:
    """Give the score of ``row`` less that of ``other`` (None: unknown), paired where both list their values.

    Questions pair by their ids, and those that only one row has are left out; generations pair by their places,
    which takes lists of one length.
    """
    if other is None:
        return Estimate(math.nan, confidence=confidence)
    ours, theirs = measure.values(row), measure.values(other)
    common = [key for key in ours if key in theirs]
    if min(np.isfinite(list(each.values())).sum() for each in (ours, theirs)) < 2:  # noqa: PLR2004 - no spread
        first, second = (score(each, measure, confidence, resamples) for each in (row, other))
        return unpaired_difference(first, second)
    if len(common) > 1 and (measure.unit == "question" or len(common) == len(ours) == len(theirs)):
        pairs = [ours[key] for key in common], [theirs[key] for key in common]
        return paired_difference(*pairs, confidence, resamples)
    return paired_difference(list(ours.values()), list(theirs.values()), confidence, resamples)


def base_of(row: pd.Series, bases: pd.DataFrame, measure: Measure) -> pd.Series | None:
    """Give the untrained model, of the frame ``bases``, that a run is compared with.

    The one that was evaluated beside it, else one of its model and dataset; MT-Bench and programs ask the same whatever
    the dataset is, so that there any base of the model serves. Never one that was loaded otherwise, in another
    precision say; and as a measure's column holds the scores of one judge, never one that another judged.
    """
    bases = bases[np.isfinite(bases[measure.column]) & (bases["model"] == row["model"])]
    bases = bases[np.asarray([not _loaded_otherwise(row, base) for _, base in bases.iterrows()], dtype=bool)]
    same_dataset = bases["dataset"] == row["dataset"]
    beside = bases[same_dataset & (bases["base"] == row["base"])] if row["base"] else bases.iloc[:0]
    for found in (beside, bases[same_dataset], bases if measure.of_model else bases.iloc[:0]):
        if len(found):
            return found.iloc[-1]
    return None


def _loaded_otherwise(row: pd.Series, base: pd.Series) -> bool:
    return bool(differing([_loaded(row), _loaded(base)]))


def _loaded(row: pd.Series) -> dict[str, Any]:
    """Give how a row's model is loaded, as far as its objective says."""
    model = row.get("objective", {}).get("model")
    return flat(model) if isinstance(model, dict) else {}


def bases_of(rows: pd.DataFrame, bases: pd.DataFrame, measure: Measure) -> list[pd.Series | None]:
    """Give ``base_of`` each row; asked once for rows that are alike."""
    loaded = [show(_loaded(row)) for _, row in rows.iterrows()]
    keys = list(zip(rows["model"], rows["dataset"], rows["base"], loaded, strict=True))
    found: dict[tuple[object, ...], pd.Series | None] = {}
    for key, (_, row) in zip(keys, rows.iterrows(), strict=True):
        if key not in found:
            found[key] = base_of(row, bases, measure)
    return [found[key] for key in keys]


def with_estimates(frame: pd.DataFrame) -> pd.DataFrame:
    """Add, for each measure, ``estimate`` and, but for reward accuracy, ``difference`` (to the base).

    Where settings were trained with several seeds, the intervals hold the noise between seeds as well.
    """
    resamples = None if len(frame) <= _MANY else RESAMPLES // 5
    rows, bases = [row for _, row in frame.iterrows()], frame[frame["kind"] == "base"]
    added: dict[str, pd.Series] = {
        ACCURACY.estimate: column([score(row, ACCURACY) for row in rows], frame),
    }
    for measure in measures_of(frame):
        spreads = [_spread_of(row) for row in rows]
        scores = [score(row, measure, resamples=resamples) for row in rows]
        others = bases_of(frame, bases, measure)
        differences = [_to_base(row, base, measure, resamples) for row, base in zip(rows, others, strict=True)]
        for name, values in ((measure.estimate, scores), (measure.difference, differences)):
            wide = [_with_seeds(each, row, spread.get(measure.column)) for each, row, spread in
                    zip(values, rows, spreads, strict=True)]  # fmt: skip
            added[name] = column(wide, frame)
    return frame.assign(**added)


def _spread_of(row: pd.Series) -> dict[str, Spread]:
    return dict(row["spread"]) if "spread" in row.index and row["spread"] else {}


def _with_seeds(estimate: Estimate, row: pd.Series, spread: Spread | None) -> Estimate:
    if spread is None or row["kind"] != "run":
        return estimate
    return widened(estimate, spread.stderr(row["seeds"]), spread.freedom)


def _to_base(row: pd.Series, base: pd.Series | None, measure: Measure, resamples: int | None) -> Estimate:
    if row["kind"] != "run" or not math.isfinite(row[measure.column]):
        return Estimate(math.nan)
    return difference(row, base, measure, resamples=resamples)


def column(values: list[Any], frame: pd.DataFrame) -> pd.Series:
    """Give a column of objects for a frame."""
    return pd.Series(values, index=frame.index, dtype=object)


def settings(frame: pd.DataFrame) -> pd.DataFrame:
    """Make one row of the runs of a setting that differ in their seed only, of a ``with_estimates`` frame.

    Scores are means over the seeds, value by value, and their intervals hold the noise between seeds as well.
    ``seeds`` counts the runs, ``run_ids`` names them, and ``spread`` maps a measure's column to the Spread of its
    model and dataset, where seeds were repeated.
    """
    pooled = pd.DataFrame([_pooled(rows) for rows in _groups(frame)])
    groups = frame.groupby(["model", "dataset"], dropna=False)
    known = {_place(own.iloc[0]): _spreads(own) for _, own in groups}
    spreads = [known[_place(row)] if row["kind"] == "run" else {} for _, row in pooled.iterrows()]
    pooled = pooled.assign(spread=column(spreads, pooled))
    return with_estimates(pooled) if len(pooled) < len(frame) else pooled


def _groups(frame: pd.DataFrame) -> Iterator[list[pd.Series]]:
    """Give the rows of each setting, those with a score where there are.

    Runs of one seed are never pooled: something else tells them apart.
    """
    names = ["kind", "model", "dataset", "loss_type", "beta", "setting", "base"]
    scores = frame[[each.column for each in (*measures_of(frame), ACCURACY)]]
    judges = [each.column for each in text_measures(frame) if each.by]
    keys = [*(frame[name] for name in names), *(scores[name].notna() for name in judges)]
    again = frame.groupby([*keys, frame["seed"]], dropna=False).cumcount()
    scored = np.isfinite(scores.to_numpy(dtype=float)).any(axis=1)
    rows = [row for _, row in frame.iterrows()]
    which = frame.groupby([*keys, again], sort=False, dropna=False).ngroup().to_numpy()
    for places in np.split(np.argsort(which, kind="stable"), np.cumsum(np.bincount(which))[:-1]):
        yield [rows[place] for place in (places[scored[places]] if scored[places].any() else places)]


def _pooled(rows: list[pd.Series]) -> dict[str, Any]:
    first = {str(key): value for key, value in rows[0].items()}
    many: dict[str, Any] = {"seeds": len(rows), "run_ids": [row["run_id"] for row in rows]}
    if len(rows) == 1:
        return first | many
    frame = pd.DataFrame(rows)
    averaged = [*_AVERAGED, *(name for each in measures_of(frame) for name in (each.column, each.stderr) if name)]
    numbers = frame[list(dict.fromkeys(averaged))].astype(float).mean().to_dict()
    numbers["kl_stderr"] = math.sqrt(sum(row["kl_stderr"] ** 2 for row in rows)) / len(rows)
    values = {measure.values_column: _mean_values(rows, measure) for measure in text_measures(frame)}
    values["actions"] = _means([row["actions"] for row in rows])
    return first | {str(key): value for key, value in numbers.items()} | values | many


def _mean_values(rows: list[pd.Series], measure: Measure) -> Any:
    """Give the means over the seeds in the form of the column."""
    means = _means([measure.values(row) for row in rows])
    return means if isinstance(rows[0][measure.values_column], dict) else list(means.values())


def _means(values: list[dict[str, float]]) -> dict[str, float]:
    """Give the mean over the seeds of each value that all of those have which have any."""
    values = [each for each in values if each]
    keys = [key for key in (values[0] if values else {}) if all(key in each for each in values)]
    return {key: math.fsum(each[key] for each in values) / len(values) for key in keys}


def _place(row: pd.Series) -> tuple[object, object]:
    return row["model"], row["dataset"]


def _spreads(own: pd.DataFrame) -> dict[str, Spread]:
    spreads = {measure.column: seed_spread(own, measure) for measure in present(own)}
    return {name: spread for name, spread in spreads.items() if spread.freedom > 0}


def seed_spread(frame: pd.DataFrame, measure: Measure) -> Spread:
    """Give the pooled standard deviation of a score between the seeds of one setting; NaN without repeats.

    Milestones are left out: they share their run's seed and most of its training, so they are no further repeats.
    """
    runs = frame[(frame["kind"] == "run") & frame["milestone"].isna() & np.isfinite(frame[measure.column])]
    keys = ["model", "dataset", "loss_type", "beta", "setting"]
    once = _on_same_units(runs.drop_duplicates([*keys, "seed"]), keys, measure)
    scores = once.groupby(keys, dropna=False)[measure.column]
    freedom = float((scores.count() - 1).sum())
    if freedom <= 0:
        return Spread()
    squares = float(((scores.count() - 1) * scores.var(ddof=1).fillna(0)).sum())
    return Spread(math.sqrt(squares / freedom), freedom, _between_evaluations(once, keys, measure))


def _on_same_units(once: pd.DataFrame, keys: list[str], measure: Measure) -> pd.DataFrame:
    """Give runs with the scores that those of one setting have on the same units, without those that share none."""
    scores = once[measure.column].copy()
    for _, group in once.groupby(keys, dropna=False):
        if len(group) > 1:
            found = on_same_units([row for _, row in group.iterrows()], measure)
            scores.loc[group.index] = found.scores if found else math.nan
    return once.assign(**{measure.column: scores})[scores.notna()]


def _between_evaluations(once: pd.DataFrame, keys: list[str], measure: Measure) -> float:
    """Give the variance of a run's score about its setting's that evaluating alone makes, units being shared.

    What is left of the values (units, seeds) without the unit's mean and the seed's (two-way analysis of variance),
    over the number of units; pooled by degrees of freedom.
    """
    squares = freedom = 0.0
    for _, group in once.groupby(keys, dropna=False):
        values = [measure.units(row) for _, row in group.iterrows()]
        common = [key for key in values[0] if all(key in each for each in values)]
        table = np.asarray([[each[key] for each in values] for key in common], dtype=float)
        if len(values) > 1 and len(common) > 1 and np.isfinite(table).all():
            left = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
            squares += float(np.sum(left**2)) / len(common)
            freedom += (len(values) - 1) * (len(common) - 1)
    return squares / freedom if freedom else 0.0


def hidden_damage(frame: pd.DataFrame) -> pd.DataFrame:
    """Give the runs whose reward accuracy beats chance while the text that they write fell below the base's.

    Both beyond their 95 % intervals: such a run looks fine by reward metrics alone and writes worse text.
    """
    accurate = [estimate.known and estimate.low > CHANCE for estimate in frame[ACCURACY.estimate]]
    worse = np.zeros(len(frame), dtype=bool)
    for measure in text_measures(frame):
        worse |= np.asarray([each.known and each.high < 0 for each in frame[measure.difference]], dtype=bool)
    return frame[np.logical_and(accurate, worse)]


def pareto(cost: list[float], gain: list[float]) -> list[bool]:
    """Tell which points (n,) no other point beats: none costs at most as much and gains more, or less and as much."""
    points = list(zip(cost, gain, strict=True))
    return [not any(_beats(other, point) for other in points) for point in points]


def _beats(other: tuple[float, float], point: tuple[float, float]) -> bool:
    return other[0] <= point[0] and other[1] >= point[1] and other != point
