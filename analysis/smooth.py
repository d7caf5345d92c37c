"""What a sweep says of its losses if scores vary smoothly along its axes: the best setting, and what a rerun scores.

Owns: which settings make a curve, and what is concluded from the curves of a model; how they are fitted, ``gaussian``
knows. Must not know: files, figures, sentences other than why there is no curve.

The highest of many noisy scores is too high. Here a setting is judged by its neighbours as well: the best setting of a
loss is the one with the highest expected score, given all scores, and its interval is that of the posterior, which the
choice does not bias as far as the model's assumptions hold (docs/statistics.md).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from statistics import NormalDist

import numpy as np
import pandas as pd

from analysis import gaussian
from analysis.apart import STEP, axis_value
from analysis.best import corrected_level, evaluated_alike
from analysis.destroyed import Destroyed, destroyed
from analysis.figures.axes import spread_evenly_in_log
from analysis.gaussian import Floats, Integers
from analysis.intervals import CONFIDENCE, Estimate
from analysis.measures import ACCURACY, Measure, primary
from analysis.rows import other_axes
from analysis.statistics import Spread, base_of
from analysis.units import Evaluations, on_same_units
from analysis.words import listed

FEWEST = 4  # places on an axis that a curve takes
ALIKE = 0.05  # probability of being the loss's best from which on a setting is within noise of it
POWER = 0.8
_UNTIED = "Settings were not scored on the same questions or prompts, so no curve is drawn through their scores."


@dataclass(frozen=True)
class Along:
    """A numeric axis: its key ("beta", "trainer.learning_rate"), log or not, and its ``ranges`` (low, high) by loss.

    A loss's range is that of its own grid: 2 to 10 of one loss is as wide as 0.01 to 1 of another.
    """

    key: str
    log: bool
    ranges: Mapping[str, tuple[float, float]]

    def unit(self, value: float, loss: str) -> float:
        """Map a value to 0 (low) .. 1 (high), beyond the grid to less or more; what has none lies in the middle."""
        low, high = self.ranges.get(loss, (0.0, 0.0))
        if not (math.isfinite(value) and high > low and (value > 0 or not self.log)):
            return 0.5
        low, high, value = (math.log(each) if self.log else each for each in (low, high, value))
        return (value - low) / (high - low)

    def value(self, unit: float, loss: str) -> float:
        """Map it back."""
        low, high = self.ranges[loss]
        if self.log:
            return float(low * (high / low) ** unit)
        return low + unit * (high - low)


@dataclass(frozen=True)
class Curve:
    """What is concluded of one loss.

    ``row``: the setting with the highest expected score. ``expected`` (95 %): what it scores over retrainings on
    average, by an evaluation without noise; ``rerun``: what one retraining does; ``gain``: ``expected`` less the
    untrained model's (NaN where its score is not known). ``probability``: that the loss's best setting is the best of
    all losses that have a curve. ``alike``: rows of the settings that are the loss's best with a probability of at
    least 0.05, highest first, ``row`` among them; ``shares`` are these probabilities. ``raw``: the highest score as
    measured, which flatters, and ``raw_row`` its setting. ``edges``: keys of the axes at whose end ``row`` lies, with
    "lowest" or "highest". ``settings`` and ``runs``: how many the loss had, destroyed ones not counted.
    """

    loss: str
    row: pd.Series
    expected: Estimate
    rerun: Estimate
    gain: Estimate
    probability: float
    alike: tuple[pd.Series, ...]
    shares: tuple[float, ...]
    raw: float
    raw_row: pd.Series
    edges: Mapping[str, str]
    settings: int
    runs: int


@dataclass(frozen=True)
class Lead:
    """The best loss against another, each at its best setting: by how much its expected score is better (95 %).

    ``corrected`` is the same at Bonferroni's level for all pairs of losses, as the scores chose the pair.
    ``probability``: that it is better at all. More is better whatever the measure: a lead is positive.
    """

    first: Curve
    second: Curve
    difference: Estimate
    corrected: Estimate
    probability: float

    @property
    def beyond_noise(self) -> bool:
        """Whether the corrected interval excludes no difference."""
        return self.corrected.excludes(0)


@dataclass(frozen=True)
class Smooth:
    """What is concluded of one model and dataset by one measure; ``milestone``: the step, NaN for the runs themselves.

    ``curves``: of each loss that has one, by the expected score of its best setting, the best first; ``leads``: of the
    first over each other. ``without``: for each other loss, why it has none (a sentence). ``destroyed``: settings that
    were left out.
    ``training`` (95 %): the standard deviation that another seed makes, and whether seeds have shown it (``seeded``) or
    only the scatter about the curves. ``smallest``: the true difference between two settings, each run as often as most
    here, that would have been seen 4 times in 5 at the 5 % level. ``settings`` are the rows of the fit, in its order.
    """

    model: str | None
    dataset: str | None
    measure: Measure
    milestone: float
    settings: pd.DataFrame
    curves: tuple[Curve, ...] = ()
    leads: tuple[Lead, ...] = ()
    without: Mapping[str, str] = field(default_factory=dict)
    destroyed: tuple[Destroyed, ...] = ()
    axes: tuple[Along, ...] = ()
    training: Estimate = field(default_factory=lambda: Estimate(math.nan))
    seeded: bool = False
    smallest: float = math.nan
    posterior: gaussian.Posterior | None = None

    def places(self, row: pd.Series, changed: Mapping[str, Floats]) -> tuple[Floats, Integers]:
        """Give places (p, d) and curves (p,) of settings like ``row``, with p values of some axes in place of its own.

        ``changed`` maps an axis' key to them; all of one length. They are what ``posterior.predict`` takes.
        """
        (count,) = {len(each) for each in changed.values()}
        columns = [
            [axis.unit(each, _loss(row)) for each in changed.get(axis.key, [_number(row, axis.key)] * count)]
            for axis in self.axes
        ]
        position = int(self.settings.index.get_loc(row.name))  # type: ignore[arg-type]
        assert self.posterior is not None  # noqa: S101 - what has curves has one
        return np.asarray(columns, dtype=float).T, np.repeat(self.posterior.scores.curves[position], count)

    def band(self, row: pd.Series, betas: Floats) -> tuple[Floats, Floats, Floats]:
        """Give the expected score, and its 95 % limits, at betas (p,) of the curve on which a fitted ``row`` lies."""
        assert self.posterior is not None  # noqa: S101
        mean, covariance = self.posterior.predict(*self.places(row, {"beta": betas}))
        half = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * np.sqrt(np.diag(covariance).clip(0))
        mean = self.measure.sign * mean
        low, high = (each.clip(*self.measure.ends) for each in (mean - half, mean + half))
        return mean.clip(*self.measure.ends), low, high


def conclusions(frame: pd.DataFrame, measure: Measure | None = None) -> list[Smooth]:
    """Conclude from a ``statistics.settings`` frame, for each model and dataset, and each milestone after the runs.

    By ``measure``, else by the one that ``best_settings`` chooses by. Where no loss has enough settings, or only reward
    accuracy is known, ``curves`` is empty and ``without`` says why; a model without any score is left out.
    """
    runs, bases = frame[frame["kind"] == "run"], frame[frame["kind"] == "base"]
    found = []
    for _, own in runs.groupby(["model", "dataset"], sort=False, dropna=False):
        by = measure or primary(own)
        scored = evaluated_alike(own[np.isfinite(own[by.column])], by)
        steps = sorted({float(each) for each in scored["milestone"].dropna()})
        for step in (math.nan, *steps):
            at_step = scored[scored["milestone"].isna() if math.isnan(step) else scored["milestone"] == step]
            if len(at_step):
                found.append(_conclude(pd.DataFrame(at_step), pd.DataFrame(own), bases, by, step))
    return found


def _conclude(scored: pd.DataFrame, runs: pd.DataFrame, bases: pd.DataFrame, measure: Measure, step: float) -> Smooth:
    """Conclude from the ``scored`` settings; ``runs`` has all that the model has, with and without a score."""
    first = scored.iloc[0]
    bare = functools.partial(Smooth, first["model"], first["dataset"], measure, step)
    losses = list(dict.fromkeys(_loss(row) for _, row in scored.iterrows()))
    if measure is ACCURACY:
        why = "Reward accuracy alone can look fine where the text is destroyed, so no curve is drawn through it."
        return bare(scored, without=dict.fromkeys(losses, why))
    base = base_of(first, bases, measure)
    fair = _fair(scored, base, measure)
    if fair is None:
        return bare(scored, without=dict.fromkeys(losses, _UNTIED))
    measured = dict(scored.iterrows())
    lost = tuple(replace(each, row=measured[each.row.name]) for each in destroyed(fair, measure))
    left = scored.drop(index=[each.row.name for each in lost])
    # One that is destroyed was a setting all the same: three others that are left still lie on their loss's curve.
    kinds, axes = _kinds(scored), _axes(left, runs)
    without = {loss: _why_not(loss, scored, kinds, axes) for loss in losses}
    without = {loss: why for loss, why in without.items() if why}
    fitted = left[[_loss(row) not in without for _, row in left.iterrows()]]
    values = fitted[measure.column].astype(float)
    if len(fitted) and values.min() == values.max():
        without |= dict.fromkeys((_loss(row) for _, row in fitted.iterrows()), "All settings have the same score.")
        fitted = fitted.iloc[:0]
    if not len(fitted):
        return bare(scored, without=without, destroyed=lost)
    scores = _scores(fitted, base, measure, axes, [kinds[index] for index in fitted.index])
    if scores is None:
        return bare(scored, without=without | dict.fromkeys(losses, _UNTIED), destroyed=lost)
    posterior = gaussian.fit(scores)
    curves = _curves(fitted, scored, measure, axes, posterior)
    return bare(
        fitted,
        curves=tuple(curves),
        leads=tuple(_leads(fitted, curves, posterior)),
        without=without,
        destroyed=lost,
        axes=axes,
        training=central(posterior.noise),
        seeded=posterior.scores.freedom > 0,
        smallest=_smallest(posterior),
        posterior=posterior,
    )


# ------------------------------------------------------------------------------------------------ what makes a curve


def _loss(row: pd.Series) -> str:
    return row["loss_type"] or "?"


def _axes(settings: pd.DataFrame, grid: pd.DataFrame) -> tuple[Along, ...]:
    """Give beta, over its logarithm, and each further axis that has numbers, over theirs where they are swept so.

    ``grid`` has all runs of the model, scored or not: so far a loss's range goes.
    """
    found = []
    for key in ("beta", *_keys(settings)):
        known = _known(settings, key)
        if not known or (key != "beta" and (not _numeric(settings, key) or len(set(known)) < 2)):  # noqa: PLR2004
            continue
        log = min(known) > 0 and (key == "beta" or spread_evenly_in_log(known))
        whole = {loss: _known(pd.DataFrame(own), key) for loss, own in grid.groupby(grid["loss_type"].fillna("?"))}
        whole = {str(loss): [each for each in values if each > 0 or not log] for loss, values in whole.items()}
        found.append(Along(key, log, {loss: (min(values), max(values)) for loss, values in whole.items() if values}))
    return tuple(found)


def _known(settings: pd.DataFrame, key: str) -> list[float]:
    return [value for _, row in settings.iterrows() if math.isfinite(value := _number(row, key))]


def _keys(settings: pd.DataFrame) -> list[str]:
    return [key for key in other_axes(settings) if key != STEP]


def _numeric(settings: pd.DataFrame, key: str) -> bool:
    """Tell whether all that have a value on an axis have a number there; some losses do not take every key."""
    texts = {axis_value(row, key) for _, row in settings.iterrows()} - {"None", "?"}
    return all(math.isfinite(_float(each)) for each in texts)


def _number(row: pd.Series, key: str) -> float:
    return float(row["beta"]) if key == "beta" else _float(axis_value(row, key))


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _unit(row: pd.Series, axis: Along) -> float:
    return axis.unit(_number(row, axis.key), _loss(row))


def _kinds(settings: pd.DataFrame) -> dict[object, tuple[str, ...]]:
    """Give, by row, the curve that it lies on: its loss, and its place on every axis that has no numbers."""
    keys = [key for key in _keys(settings) if not _numeric(settings, key)]
    return {
        index: (_loss(row), *(axis_value(row, key) for key in keys), str(row["evaluated"]))
        for index, row in settings.iterrows()
    }


def _why_not(
    loss: str, settings: pd.DataFrame, kinds: Mapping[object, tuple[str, ...]], axes: tuple[Along, ...]
) -> str:
    """Say why a loss has no curve; nothing where it has one: a curve of it has 4 places along some axis."""
    for kind in dict.fromkeys(each for each in kinds.values() if each[0] == loss):
        own = settings[[kinds[index] == kind for index in settings.index]]
        if any(len({_unit(row, axis) for _, row in own.iterrows()}) >= FEWEST for axis in axes):
            return ""
    own = settings[settings["loss_type"].fillna("?") == loss]
    swept = [axis.key for axis in axes if len(set(_known(own, axis.key))) > 1]
    names = listed([key.rpartition(".")[2] for key in swept]) or "beta"
    return f"{loss} has fewer than {FEWEST} settings along {names}, too few for a curve."


def _fair(scored: pd.DataFrame, base: pd.Series | None, measure: Measure) -> pd.DataFrame | None:
    """Give the settings with the scores that they have on the same units; None where these tie them too little."""
    found = _evaluations([row for _, row in scored.iterrows()], base, measure)
    return scored.assign(**{measure.column: found[0].scores[: len(scored)]}) if found else None


def _evaluations(
    rows: list[pd.Series], base: pd.Series | None, measure: Measure
) -> tuple[Evaluations, pd.Series | None] | None:
    """Give the scores of ``rows`` on the same units, and of the untrained model, which is None where it shares few."""
    for last in (base, None) if base is not None else (None,):
        found = on_same_units([*rows, *([] if last is None else [last])], measure)
        if found:
            return found, last
    return None


def _scores(
    settings: pd.DataFrame,
    base: pd.Series | None,
    measure: Measure,
    axes: tuple[Along, ...],
    kinds: list[tuple[str, ...]],
) -> gaussian.Scores | None:
    """Give what a fit takes; None where the settings were not scored on the same units."""
    names = list(dict.fromkeys(kinds))
    rows = [row for _, row in settings.iterrows()]
    evaluated = _evaluations(rows, base, measure)
    if evaluated is None:
        return None
    found, base = evaluated
    noise = found.covariance
    spread: Spread = rows[0]["spread"].get(measure.column, Spread())
    return gaussian.Scores(
        places=np.asarray([[_unit(row, axis) for axis in axes] for row in rows], dtype=float),
        curves=np.asarray([names.index(kind) for kind in kinds]),
        seen=measure.sign * found.scores[: len(rows)],
        covariance=_errors([*rows, *([] if base is None else [base])], measure) if noise is None else noise,
        seeds=settings["seeds"].to_numpy(dtype=float),
        base=math.nan if base is None else measure.sign * float(found.scores[-1]),
        spread=spread.deviation,
        freedom=spread.freedom,
        between=spread.evaluation,
    )


def _errors(rows: list[pd.Series], measure: Measure) -> Floats:
    """Give the covariance of the evaluation's noise where it is not paired: of independent errors."""
    errors = [_error(row, list(measure.units(row).values()), measure) for row in rows]
    return np.diag(np.square(np.nan_to_num(errors)))


def _error(row: pd.Series, values: list[float], measure: Measure) -> float:
    if len(values) > 1:
        return float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return float(row[measure.stderr]) if measure.stderr else math.nan


# ------------------------------------------------------------------------------------------------ what is concluded


def _curves(
    settings: pd.DataFrame,
    scored: pd.DataFrame,
    measure: Measure,
    axes: tuple[Along, ...],
    posterior: gaussian.Posterior,
) -> list[Curve]:
    losses = np.asarray([_loss(row) for _, row in settings.iterrows()])
    names = list(dict.fromkeys(losses.tolist()))
    highest = np.stack([posterior.draws[:, losses == name].max(axis=1) for name in names])
    probable = np.bincount(highest.argmax(axis=0), minlength=len(names)) / highest.shape[1]
    reruns, measured = posterior.reruns, settings[measure.column].to_numpy(dtype=float)
    found = []
    for name, probability in zip(names, probable, strict=True):
        own = np.flatnonzero(losses == name)
        best = own[int(posterior.draws[:, own].mean(axis=0).argmax())]
        share = np.bincount(posterior.draws[:, own].argmax(axis=1), minlength=len(own)) / len(reruns)
        alike = [place for place in np.argsort(-share, kind="stable") if share[place] >= ALIKE or own[place] == best]
        raw = own[int((measure.sign * measured[own]).argmax())]
        row = settings.iloc[best]
        found.append(
            Curve(
                loss=name,
                row=row,
                expected=_within(measure, central(measure.sign * posterior.draws[:, best])),
                rerun=_within(measure, central(measure.sign * reruns[:, best])),
                gain=central(measure.sign * (posterior.draws[:, best] - posterior.base)),
                probability=float(probability),
                alike=tuple(settings.iloc[own[place]] for place in alike),
                shares=tuple(float(share[place]) for place in alike),
                raw=float(measured[raw]),
                raw_row=settings.iloc[raw],
                edges=_edges(row, scored[[_loss(each) == name for _, each in scored.iterrows()]], axes),
                settings=len(own),
                runs=int(settings["seeds"].iloc[own].sum()),
            )
        )
    return sorted(found, key=lambda each: -measure.sign * each.expected.value)


def _within(measure: Measure, estimate: Estimate) -> Estimate:
    """Cut an estimate where the measure ends, of which the model knows nothing."""
    low, high = measure.ends
    ends = {name: min(max(getattr(estimate, name), low), high) for name in ("value", "low", "high")}
    return replace(estimate, **ends)


def _edges(row: pd.Series, own: pd.DataFrame, axes: tuple[Along, ...]) -> dict[str, str]:
    """Name the axes at whose end a setting lies, among at least 2 places of its loss, destroyed ones too."""
    found = {}
    for axis in axes:
        units = [_unit(each, axis) for _, each in own.iterrows()]
        if min(units) < max(units) and _unit(row, axis) in {min(units), max(units)}:
            found[axis.key] = "lowest" if _unit(row, axis) == min(units) else "highest"
    return found


def _leads(settings: pd.DataFrame, curves: list[Curve], posterior: gaussian.Posterior) -> list[Lead]:
    at = {curve.loss: int(settings.index.get_loc(curve.row.name)) for curve in curves}  # type: ignore[arg-type]
    level = corrected_level(math.comb(len(curves), 2)) if len(curves) > 1 else CONFIDENCE
    found = []
    for other in curves[1:]:
        ahead = posterior.draws[:, at[curves[0].loss]] - posterior.draws[:, at[other.loss]]
        found.append(Lead(curves[0], other, central(ahead), central(ahead, level), float((ahead > 0).mean())))
    return found


def central(draws: Floats, confidence: float = CONFIDENCE) -> Estimate:
    """Give mean and central interval of draws (D,)."""
    if not np.isfinite(draws).all():
        return Estimate(math.nan)
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(float(draws.mean()), float(low), float(high), confidence, "curve")


def _smallest(posterior: gaussian.Posterior) -> float:
    """Give the difference between two settings that is seen with a power of 0.8 by a two-sided test at 5 %.

    (z_0.975 + z_0.8) standard errors of a paired difference (Miller 2024, section 5), training noise among them.
    """
    scores = posterior.scores
    count = len(scores.seen)
    noise = scores.covariance[:count, :count]
    pairs = np.diag(noise)[:, None] + np.diag(noise)[None, :] - 2 * noise
    evaluation = float(np.median(pairs[np.triu_indices(count, 1)]))
    training = 2 * float(np.mean(posterior.noise**2)) / float(np.median(scores.seeds))
    factor = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) + NormalDist().inv_cdf(POWER)
    return factor * math.sqrt(max(evaluation, 0) + training)
