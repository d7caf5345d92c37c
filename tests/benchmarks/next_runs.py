"""What further runs are worth: those that `suggest` chooses, random ones, and a finer grid about the best.

    python tests/benchmarks/next_runs.py
    --sweeps N       simulated sweeps a row (300)
    --row WORDS      only rows that have all of these words in their name: "kinked"
    --json FILE      a line of JSON for each row, added at once
    --docs           write each row into docs/suggest.md, at once

A sweep has three losses at five betas, one seed. Its truth is drawn anew for each sweep, over log beta:

- quadratic   a parabola, its peak anywhere within the grid, up to 1 lower at its far end
- kinked      a tent, its two slopes unlike
- beyond      a parabola whose peak lies a fifth of the grid beyond one of its ends

Losses lie 0.1 apart (standard deviation); a score has noise of training (tau) and evaluation (se). Each way makes six
runs more:

- suggest     as the verb does
- random      a loss and a beta at random, up to one step of the grid beyond its ends
- each loss   of each loss two: half-way from its highest score to the neighbours, or a step beyond where it has none
- best loss   of the loss with the highest score six: evenly between the neighbours of that, or a step beyond
- again       the six settings with the highest expected scores, each with another seed

Then all are fitted alike, and the setting with the highest expected score is named. Its regret is how much worse its
truth is than the best that a beta within the grid, or a step beyond it, would be. `worse by` is how much more regret a
way has than `suggest`, with its standard error over the sweeps, in which all ways meet the same truth. The last row has
the mean of all rows, each counted alike.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from measured import parser, record, table, write_into
from rich.console import Console

from analysis import gaussian
from analysis.gaussian import Floats
from analysis.measures import GOLDEN
from analysis.next_runs import along_curves
from analysis.smooth import Along, Smooth

PAGE = Path(__file__).parents[2] / "docs" / "suggest.md"
LOSSES, RUNS = 3, 6
BETAS = np.geomspace(0.01, 1, 5)
STEP = 1 / (len(BETAS) - 1)
REACH = np.linspace(-STEP, 1 + STEP, 241)
RANGE = (float(BETAS[0]), float(BETAS[-1]))
AXIS = Along("beta", log=True, ranges={str(loss): RANGE for loss in range(LOSSES)})
Curve = Callable[[Floats], Floats]
Place = tuple[int, float]  # loss, and where on the axis
Seen = dict[Place, list[float]]  # the scores of each seed


@dataclass(frozen=True)
class Row:
    """A kind of sweep."""

    shape: str
    tau: float
    se: float

    @property
    def name(self) -> str:
        """As in the table."""
        return f"{self.shape}, {self.tau:.2f}, {self.se:.2f}"


ROWS = (
    Row("quadratic", 0.10, 0.08),
    Row("quadratic", 0.03, 0.05),
    Row("quadratic", 0.20, 0.15),
    Row("kinked", 0.10, 0.08),
    Row("beyond", 0.10, 0.08),
    Row("beyond", 0.03, 0.05),
)


def curve_of(shape: str, random: np.random.Generator) -> Curve:
    """A curve over places, of which 0 to 1 is the grid; its highest value is 0."""
    peak, drop = random.uniform(0, 1), random.uniform(0.2, 1)
    if shape == "kinked":
        left, right = random.uniform(0.2, 1, 2)
        return lambda x: -np.where(x < peak, left * (peak - x), right * (x - peak))
    if shape == "beyond":
        peak = random.choice([-0.2, 1.2])
    return lambda x: -drop * ((x - peak) / max(peak, 1 - peak)) ** 2


def fitted(seen: Seen, row: Row) -> gaussian.Posterior:
    """The curves of what was seen."""
    seeds = np.asarray([float(len(each)) for each in seen.values()])
    freedom = float((seeds - 1).sum())
    squares = sum(float(np.var(each)) * len(each) for each in seen.values())
    return gaussian.fit(
        gaussian.Scores(
            places=np.asarray([[place] for _, place in seen]),
            curves=np.asarray([loss for loss, _ in seen]),
            seen=np.asarray([float(np.mean(each)) for each in seen.values()]),
            covariance=np.diag(row.se**2 / seeds),
            seeds=seeds,
            spread=math.sqrt(squares / freedom) if freedom else math.nan,
            freedom=freedom,
            between=row.se**2 if freedom else 0,
        )
    )


def named(posterior: gaussian.Posterior, seen: Seen) -> Place:
    """The setting with the highest expected score."""
    return list(seen)[int(posterior.draws.mean(axis=0).argmax())]


# ------------------------------------------------------------------------------------------------ the ways


def suggested(seen: Seen, posterior: gaussian.Posterior, _: np.random.Generator) -> list[Place]:
    """As the verb does."""
    rows = [
        {"kind": "run", "model": "m", "dataset": "d", "loss_type": str(loss), "beta": AXIS.value(place, str(loss)),
         "setting": "", "seed": 1.0, "seeds": 1, "run_ids": ["r"], "axes": {}, "objective": {}}
        for loss, place in seen
    ]  # fmt: skip
    frame = pd.DataFrame(rows)
    smooth = Smooth("m", "d", GOLDEN, math.nan, frame, axes=(AXIS,), posterior=posterior)
    return [(int(run.loss), _nearest(run.beta, int(run.loss), seen)) for _, run in along_curves(smooth, frame, RUNS)]


def _nearest(beta: float, loss: int, seen: Seen) -> float:
    """The place of a beta; of one that was run exactly that which is known."""
    place = AXIS.unit(beta, str(loss))
    return next((known for of, known in seen if of == loss and math.isclose(known, place, abs_tol=1e-9)), place)


def at_random(_: Seen, __: gaussian.Posterior, random: np.random.Generator) -> list[Place]:
    """Anywhere."""
    return [(int(random.integers(LOSSES)), float(random.uniform(-STEP, 1 + STEP))) for _ in range(RUNS)]


def about_each(seen: Seen, _: gaussian.Posterior, __: np.random.Generator) -> list[Place]:
    """A finer grid about the best of each loss."""
    found = []
    for loss in range(LOSSES):
        low, at, high = _about(seen, loss)
        found += [(loss, low if low < 0 else (low + at) / 2), (loss, high if high > 1 else (at + high) / 2)]
    return found


def about_best(seen: Seen, _: gaussian.Posterior, __: np.random.Generator) -> list[Place]:
    """A finer grid about the best of all."""
    loss = max(seen, key=lambda place: seen[place][0])[0]
    low, at, high = _about(seen, loss)
    ends = {low} if low < 0 else {high} if high > 1 else set[float]()
    sides = [(low, at, RUNS // 2), (at, high, RUNS - RUNS // 2)]
    inner = [np.linspace(one, other, count + 2)[1:-1] for one, other, count in sides]
    places = [float(each) for side in inner for each in side]
    return [(loss, each) for each in [*ends, *places][:RUNS]]


def again(seen: Seen, posterior: gaussian.Posterior, _: np.random.Generator) -> list[Place]:
    """Another seed of the best."""
    best = np.argsort(-posterior.draws.mean(axis=0), kind="stable")[:RUNS]
    return [list(seen)[int(index)] for index in best]


def _about(seen: Seen, loss: int) -> tuple[float, float, float]:
    """A loss's best place by its highest score, and its neighbours; a step beyond where there is none."""
    own = sorted(place for of, place in seen if of == loss)
    best = max(own, key=lambda place: seen[loss, place][0])
    at = own.index(best)
    return own[at - 1] if at else best - STEP, best, own[at + 1] if at + 1 < len(own) else best + STEP


WAYS: dict[str, Callable[[Seen, gaussian.Posterior, np.random.Generator], list[Place]]] = {
    "suggest": suggested,
    "random": at_random,
    "each loss": about_each,
    "best loss": about_best,
    "again": again,
}
OTHERS = [way for way in WAYS if way != "suggest"]


# ------------------------------------------------------------------------------------------------ the table


def regrets(row: Row, sweeps: int) -> dict[str, Floats]:
    """The regret of each way, and before any further run, in each of so many sweeps; the same at each call."""
    random = np.random.default_rng([ord(each) for each in row.name])
    found = np.asarray([list(_regrets_of_one(row, random)) for _ in range(sweeps)])
    return dict(zip(["before", *WAYS], found.T, strict=True))


def _regrets_of_one(row: Row, random: np.random.Generator) -> Iterator[float]:
    truths = [curve_of(row.shape, random) for _ in range(LOSSES)]
    offsets = random.normal(0, 0.1, LOSSES)
    noise = math.hypot(row.tau, row.se)

    def truth(place: Place) -> float:
        return float(truths[place[0]](np.asarray(place[1])) + offsets[place[0]])

    grid = [(loss, float(place)) for loss in range(LOSSES) for place in np.linspace(0, 1, len(BETAS))]
    seen = {place: [truth(place) + random.normal(0, noise)] for place in grid}
    best = max(float((curve(REACH) + offset).max()) for curve, offset in zip(truths, offsets, strict=True))
    posterior = fitted(seen, row)
    yield best - truth(named(posterior, seen))
    further = random.normal(0, noise, RUNS)
    for way in WAYS.values():
        more = {place: list(scores) for place, scores in seen.items()}
        for place, error in zip(_checked(way(seen, posterior, random)), further, strict=True):
            more.setdefault(place, []).append(truth(place) + error)
        yield best - truth(named(fitted(more, row), more))


def _checked(places: Sequence[Place]) -> Sequence[Place]:
    assert len(places) == RUNS, "every way makes as many runs"
    return places


@dataclass(frozen=True)
class Measured:
    """A row: the mean regret of each way, and the standard error of how much worse it is than `suggest`."""

    name: str
    means: dict[str, float]
    errors: dict[str, float]

    @classmethod
    def of(cls, name: str, found: dict[str, Floats]) -> Measured:
        """From the regret of each way in each sweep."""
        means = {way: float(each.mean()) for way, each in found.items()}
        worse = {way: found[way] - found["suggest"] for way in OTHERS}
        return cls(name, means, {way: float(each.std(ddof=1) / math.sqrt(len(each))) for way, each in worse.items()})

    @classmethod
    def together(cls, rows: Sequence[Measured]) -> Measured:
        """The mean of rows that know nothing of one another."""
        means = {way: float(np.mean([row.means[way] for row in rows])) for way in rows[0].means}
        errors = {way: float(np.linalg.norm([row.errors[way] for row in rows])) / len(rows) for way in OTHERS}
        return cls("all", means, errors)

    def worse(self, way: str, digits: int) -> str:
        """How much more regret a way has than `suggest`."""
        by = self.means[way] - self.means["suggest"]
        return f"{by:+.{digits}f} \N{PLUS-MINUS SIGN} {self.errors[way]:.{digits}f}"

    def into(self, page: Path) -> None:
        """Write the row into the page's table."""
        others = (f"{self.means[way]:.3f} ({self.worse(way, 3)})" for way in OTHERS)
        write_into(page, [self.name], *(f"{self.means[way]:.3f}" for way in ("before", "suggest")), *others)


def main(sweeps: int, words: Sequence[str], json: Path | None, page: Path | None) -> None:
    """Measure and print."""
    columns = ["before", *WAYS, *(f"{way} worse by" for way in OTHERS)]
    shown = table(f"regret after {RUNS} further runs", "row", *columns, numbers=columns)
    measured: list[Measured] = []
    for row in (row for row in ROWS if all(word in row.name for word in words)):
        began = time.process_time()
        measured.append(found := Measured.of(row.name, regrets(row, sweeps)))
        seconds, kind = time.process_time() - began, asdict(row)
        record(json, "next_runs", sweeps=sweeps, cpu_seconds=seconds, **kind, regret=found.means, errors=found.errors)
        if page is not None:
            found.into(page)
    if len(measured) == len(ROWS):
        measured.append(every := Measured.together(measured))
        record(json, "next_runs", sweeps=sweeps, shape="all", regret=every.means, errors=every.errors)
        if page is not None:
            every.into(page)
    for found in measured:
        worse = (found.worse(way, 4) for way in OTHERS)
        shown.add_row(found.name, *(f"{each:.4f}" for each in found.means.values()), *worse)
    Console(width=200).print(shown)


if __name__ == "__main__":
    made = parser(__doc__)
    made.add_argument("--sweeps", type=int, default=300, metavar="N", help="simulated sweeps a row (300)")
    made.add_argument("--row", default="", metavar="WORDS", help="only rows with all of these words in their name")
    made.add_argument("--docs", action="store_true", help="write each row into docs/suggest.md, at once")
    given = made.parse_args()
    main(given.sweeps, given.row.split(), given.json, PAGE if given.docs else None)
