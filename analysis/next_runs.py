"""Which settings and seeds to run next: those that tell most about which setting is best.

Owns: which of them, and what is said of each. Must not know: how a run is launched, what a run is expected to tell
(``knowledge``), how curves are fitted (``gaussian``).

A further run is one of a setting that was run already, with another seed, or one of a new setting (``next_places``). A
loss with too few settings for a curve gets those that it lacks first.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import knowledge, statistics
from analysis.gaussian import Floats, Integers, Posterior
from analysis.measures import ACCURACY
from analysis.next_places import Place, candidates, lacking
from analysis.read import load
from analysis.smooth import FEWEST, Smooth, conclusions
from analysis.words import number

LeftOut = Callable[[str, Mapping[str, float]], bool]  # a run's id, and what a new one like it would have otherwise
_MOST = 150  # places that are compared; of more, the most promising


@dataclass(frozen=True)
class NextRun:
    """A run to be made: like that of id ``like``, but for the values of ``changed`` and its ``seed``.

    ``expected`` and ``deviation``: what its setting scores on average, as far as known; ``probability``: that the
    setting is the model's best; ``gain``: by how much the run raises what the best named then is expected to score.
    They are NaN where there is no curve yet.
    """

    like: str
    model: str | None
    dataset: str | None
    loss: str
    beta: float
    setting: str
    seed: int
    changed: Mapping[str, float]
    reason: str
    expected: float = math.nan
    deviation: float = math.nan
    probability: float = math.nan
    gain: float = math.nan


@dataclass(frozen=True)
class Suggestion:
    """The runs, the one that tells most first, and what there is to say besides.

    ``benchmarks``: of which the scores are that settings were compared by.
    """

    runs: tuple[NextRun, ...]
    notes: tuple[str, ...]
    benchmarks: tuple[str, ...] = ()


def suggest(results: Path, count: int, left_out: LeftOut = lambda *_: False) -> Suggestion:
    """Suggest ``count`` runs for the sweep whose ``results.jsonl`` this is, none of which is ``left_out``.

    Raises ``read.ResultsError`` where the file cannot be used.
    """
    frame = statistics.with_estimates(load(results))
    settings = statistics.settings(frame)
    known = [each for each in conclusions(settings) if math.isnan(each.milestone)]
    seeds, notes = _Seeds(frame), [*_waiting(frame), *([] if known else [_NONE])]
    wanted = _Wanted(left_out, notes)
    found = [_run(each, seeds) for each in itertools.islice(wanted.of(_fill(known, settings, notes)), count)]
    left = count - len(found)
    found += _by_gain([along_curves(each, frame, left, wanted) for each in known if each.posterior and left], left)
    benchmarks = dict.fromkeys(each.measure.benchmark for each in known)
    return Suggestion(tuple(found), tuple(dict.fromkeys(notes)), tuple(benchmarks))


_NONE = "no run has been evaluated yet, so nothing can be said about which to run next"


class _Wanted:
    """Which places nobody has left out on purpose; ``notes`` takes that there are others."""

    def __init__(self, left_out: LeftOut = lambda *_: False, notes: list[str] | None = None) -> None:
        self._left_out, self._notes = left_out, [] if notes is None else notes

    def of(self, places: Iterable[Place]) -> Iterator[Place]:
        """Give those of ``places``."""
        for place in places:
            if not self._left_out(str(place.row["run_ids"][0]), place.changed):
                yield place
                continue
            values = ", ".join(f"{key}={number(value)}" for key, value in place.changed.items())
            self._notes.append(f"{place.row['loss_type']} at {values} is not among them: the sweep file excludes it")


class _Seeds:
    """Which seeds each setting has, those that are suggested among them."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self._taken: dict[tuple[Any, ...], set[int]] = {}
        self._suggested: Counter[tuple[Any, ...]] = Counter()
        for _, row in frame[(frame["kind"] == "run") & np.isfinite(frame["seed"])].iterrows():
            self._taken.setdefault(_identity(Place(row)), set()).add(int(row["seed"]))

    def next_of(self, place: Place) -> int:
        """Give the seed of a further run: the usual one of a new setting, the next one of an old."""
        taken = self._taken.setdefault(_identity(place), set())
        usual = int(place.row["seed"]) if math.isfinite(place.row["seed"]) else 0
        seed = max(taken) + 1 if taken else usual
        taken.add(seed)
        self._suggested[_identity(place)] += 1
        return seed

    def why(self, place: Place) -> str:
        """Say why a run is made there, before its seed is taken."""
        before = self._suggested[_identity(place)]
        if place.why and not before:
            return place.why
        count = before + (0 if place.changed else int(place.row["seeds"]))
        return f"again: {count} seed{'' if count == 1 else 's'} {'with those above' if before else 'so far'}"


def _identity(place: Place) -> tuple[Any, ...]:
    row, others = place.row, {key: each for key, each in place.changed.items() if key != "beta"}
    beta = place.changed.get("beta", float(row["beta"]))
    return row["model"], row["dataset"], row["loss_type"], beta, row["setting"], *sorted(others.items())


def _waiting(frame: pd.DataFrame) -> list[str]:
    """Say how many runs there are whose scores would tell something, too."""
    count = int(((frame["kind"] == "run") & (frame["status"] != "TRAINED")).sum())
    return [f"{count} {'run is' if count == 1 else 'runs are'} not trained yet, and would tell more"] if count else []


def _fill(known: Sequence[Smooth], settings: pd.DataFrame, notes: list[str]) -> Iterator[Place]:
    """Give what losses lack that have too few settings for a curve, one for each loss after the other.

    ``notes`` takes why nothing is said of others.
    """
    queues = []
    for smooth in known:
        of_model = settings[(settings["model"] == smooth.model) & (settings["dataset"] == smooth.dataset)]
        for loss, why in smooth.without.items():
            own = of_model[(of_model["kind"] == "run") & (of_model["loss_type"].fillna("?") == loss)]
            tried = sorted(set(own["beta"].dropna()))
            if smooth.measure is ACCURACY or len(tried) >= FEWEST or not tried or tried[0] <= 0:
                notes.append(f"{smooth.model}, {loss}: {why}")
                continue
            scores = smooth.measure.sign * own[smooth.measure.column].astype(float)
            best = own.iloc[int(scores.fillna(-np.inf).argmax())]
            upwards = best["beta"] > np.median(tried) or len(tried) == 1
            queues.append(lacking(best, tried, upwards=bool(upwards)))
    return (each for turn in itertools.zip_longest(*queues) for each in turn if each is not None)


def _run(place: Place, seeds: _Seeds) -> NextRun:
    row = place.row
    others = {key.rpartition(".")[2]: value for key, value in place.changed.items() if key != "beta"}
    reason = seeds.why(place)
    return NextRun(
        like=str(row["run_ids"][0]),
        model=row["model"],
        dataset=row["dataset"],
        loss=str(row["loss_type"]),
        beta=place.changed.get("beta", float(row["beta"])),
        setting=", ".join(f"{key}={number(value)}" for key, value in others.items()) or str(row["setting"]),
        seed=seeds.next_of(place),
        changed=place.changed,
        reason=reason,
    )


def _by_gain(queues: Sequence[list[tuple[float, NextRun]]], count: int) -> list[NextRun]:
    """Take from the models' runs, each in its order, those that are worth most."""
    found: list[NextRun] = []
    while len(found) < count and any(queues):
        fullest = max((queue for queue in queues if queue), key=lambda queue: queue[0][0])
        found.append(fullest.pop(0)[1])
    return found


def along_curves(
    smooth: Smooth, frame: pd.DataFrame, count: int, wanted: _Wanted | None = None
) -> list[tuple[float, NextRun]]:
    """Give a model's next runs, the one that tells most first; ``frame`` has all of its runs, with and without scores.

    With each comes its worth, which compares between models: its gain in standard deviations of a run's noise.
    """
    posterior, seeds = smooth.posterior, _Seeds(frame)
    assert posterior is not None  # noqa: S101 - of models that have one
    new = (wanted or _Wanted()).of(candidates(smooth, posterior, frame))
    places = [*(Place(row) for _, row in smooth.settings.iterrows()), *new]
    mean, covariance = posterior.predict(*_where(smooth, places))
    kept = _promising(mean, covariance)
    mean, covariance, places = mean[kept], covariance[np.ix_(kept, kept)], [places[index] for index in kept]
    trained = np.flatnonzero([not place.changed for place in places])
    noise, best = _noise(posterior), knowledge.shares(mean, covariance)
    found = []
    for choice in knowledge.choose(mean, covariance, trained, noise, count):
        at = choice.place
        run = replace(
            _run(places[at], seeds),
            expected=smooth.measure.sign * float(mean[at]),
            deviation=math.sqrt(max(0.0, covariance[at, at])),
            probability=float(best[at]),
            gain=choice.gain,
        )
        found.append((choice.gain / math.sqrt(noise), run))
    return found


def _where(smooth: Smooth, places: Sequence[Place]) -> tuple[Floats, Integers]:
    """Give the places as ``posterior.predict`` takes them."""
    found = []
    for place in places:
        changed = place.changed or {"beta": float(place.row["beta"])}
        found.append(smooth.places(place.row, {key: np.asarray([value]) for key, value in changed.items()}))
    return np.concatenate([at for at, _ in found]), np.concatenate([curve for _, curve in found])


def _promising(mean: Floats, covariance: Floats) -> Integers:
    """Give which places to compare, in their order: where there are many, those that may still be the best."""
    hope = mean + 2 * np.sqrt(np.diag(covariance).clip(0))
    return np.sort(np.argsort(-hope, kind="stable")[:_MOST])


def _noise(posterior: Posterior) -> float:
    """Give the variance of one run's score about what is expected of it: training, and what its evaluation alone adds.

    What evaluations share, the difficulty of their questions, moves all settings alike and decides nothing.
    """
    scores, count = posterior.scores, len(posterior.scores.seen)
    noise = scores.covariance[:count, :count]
    common = float(noise.sum() - np.trace(noise)) / max(1, count * (count - 1))
    own = max(0.0, float(np.trace(noise)) / count - common) * float(np.median(scores.seeds))
    return float(np.mean(posterior.noise**2)) + own
