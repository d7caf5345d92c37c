"""What the intervals of a sweep's best settings hold: simulated sweeps whose truth is known.

    python tests/benchmarks/coverage.py
    --sweeps N       simulated sweeps a row (1000)
    --row WORDS      only rows that have all of these words in their name: "flat 10"
    --maximum        the curve's interval is that of the highest expected score in each draw, not of the best setting's
    --json FILE      a line of JSON for each row, added at once
    --docs           each row goes into the table of docs/statistics.md, at once

A sweep has three losses over 2, 4 or 10 betas with 1 or 3 seeds. Training adds noise of standard deviation tau, the
evaluation on 80 questions one of se to each mean. Truth is drawn anew for each sweep:

- quadratic   a parabola over log beta, peak anywhere within the grid, up to 1 lower at its far end
- flat        all settings alike
- kinked      a tent, its two slopes unlike
- edge        monotone: the best lies at the lowest or the highest beta
- collapsed   as quadratic; the lowest beta of one loss is destroyed, 3 lower

Losses lie 0.1 apart (standard deviation). `lead` is how often some loss is said to lead another falsely, in
as many further sweeps whose three losses have one curve.

What is judged is the best setting of the best loss as each way names it: raw by the highest score (plain, and
Bonferroni's, are today's intervals about it), the curve by the highest expected score. `bias` is what it is said to
score less what it scores by its truth; `coverage` how often the 95 % interval holds that, in `rerun` what one
retraining of it scores; `regret` how much worse its truth is than that of the sweep's truly best setting. `loss` is the
coverage over the best settings of each loss.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from measured import parser, record, table, write_into
from rich.console import Console

from analysis import gaussian
from analysis.best import corrected_level
from analysis.destroyed import below_a_gap
from analysis.gaussian import Floats
from analysis.intervals import CONFIDENCE, Estimate, normal_interval, widened
from analysis.smooth import FEWEST, central

LOSSES, QUESTIONS, COLLAPSED = 3, 80, 3.0
BETAS = {2: (0.01, 0.1), 4: (0.01, 0.05, 0.1, 0.5), 10: (0.01, *(step / 10 for step in range(1, 10)))}
NOISE = ((0.10, 0.08), (0.03, 0.10), (0.10, 0.15), (0.20, 0.08))  # tau, se: the first everywhere, the others once
DOCS = Path(__file__).parents[2] / "docs" / "statistics.md"
Curve = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Row:
    """A kind of sweep."""

    shape: str
    betas: int
    seeds: int
    tau: float
    se: float

    @property
    def name(self) -> str:
        """As in the table."""
        return f"{self.shape} {self.betas} betas {self.seeds} seed{'s' if self.seeds > 1 else ''}"


@dataclass(frozen=True)
class Sweep:
    """A simulated sweep of n settings, all betas of one loss after the other.

    ``truth`` (n,): expected scores; ``scores``: what a fit takes; ``lost`` (n,): whether it is destroyed.
    """

    truth: Floats
    scores: gaussian.Scores
    lost: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]


@dataclass(frozen=True)
class Judged:
    """One way's answer to one sweep; NaN where it has none."""

    bias: float
    covered: float
    rerun: float
    by_loss: float
    regret: float
    lead: float


@dataclass(frozen=True)
class Result:
    """Means over the sweeps of a row."""

    bias_raw: float
    bias_curve: float
    plain: float
    bonferroni: float
    curve: float
    curve_rerun: float
    curve_loss: float
    regret_raw: float
    regret_curve: float
    lead_plain: float
    lead_bonferroni: float
    lead_curve: float


# ------------------------------------------------------------------------------------------------ the sweeps


def curve_of(shape: str, random: np.random.Generator) -> Curve:
    """A curve over places 0 to 1, its highest value 0."""
    peak, drop = random.uniform(0, 1), random.uniform(0.2, 1)
    if shape == "flat":
        return np.zeros_like
    if shape == "kinked":
        left, right = random.uniform(0.2, 1, 2)
        return lambda x: -np.where(x < peak, left * (peak - x), right * (x - peak))
    if shape == "edge":
        bend, falls = random.uniform(0.5, 2), random.random() < 0.5
        return lambda x: -drop * (x if falls else 1 - x) ** bend
    return lambda x: -drop * ((x - peak) / max(peak, 1 - peak)) ** 2


def simulated(row: Row, random: np.random.Generator, *, equal: bool) -> Sweep:
    """One sweep; `equal`: its losses have one curve."""
    logs = np.log(BETAS[row.betas])
    places = (logs - logs[0]) / (logs[-1] - logs[0])
    if equal or row.shape == "flat":
        truth = np.tile(curve_of(row.shape, random)(places), LOSSES)
    else:
        truth = np.concatenate([curve_of(row.shape, random)(places) + random.normal(0, 0.1) for _ in range(LOSSES)])
    count = len(truth)
    if row.shape == "collapsed":
        truth[:: row.betas if equal else count] -= COLLAPSED
    trained = truth[:, None] + random.normal(0, row.tau, (count, row.seeds))
    answers = trained + random.normal(0, row.se * math.sqrt(QUESTIONS), (QUESTIONS, count, row.seeds))
    means, values = answers.mean(axis=0), answers.mean(axis=2)
    freedom = count * (row.seeds - 1)
    left = answers - values[:, :, None] - means + means.mean(axis=1, keepdims=True)
    scores = gaussian.Scores(
        places=np.tile(places, LOSSES)[:, None],
        curves=np.repeat(np.arange(LOSSES), row.betas),
        seen=means.mean(axis=1),
        covariance=gaussian.paired_covariance(values),
        seeds=np.full(count, float(row.seeds)),
        spread=math.sqrt(means.var(axis=1, ddof=1).mean()) if freedom else math.nan,
        freedom=freedom,
        between=float(np.sum(left**2)) / freedom / (QUESTIONS - 1) / QUESTIONS if freedom else 0,
    )
    lost = np.zeros(count, dtype=bool)
    errors = np.full(count, row.se / math.sqrt(row.seeds))
    lost[list(below_a_gap(scores.seen, errors, scores.curves))] = True  # as the report does, KL not being known
    return Sweep(truth, scores, lost)


# ------------------------------------------------------------------------------------------------ the ways


def by_highest(sweep: Sweep, random: np.random.Generator, tau: float, *, corrected: bool) -> Judged:
    """Today's way: the highest score, with its interval as it is or with Bonferroni's correction."""
    scores, count = sweep.scores, len(sweep.truth)
    level = corrected_level(count) if corrected else CONFIDENCE
    bests = [_highest(scores.seen, scores.curves == loss) for loss in range(LOSSES)]

    def interval(value: float, variance: float, share: float) -> Estimate:
        plain = normal_interval(value, math.sqrt(variance), level)
        return widened(plain, scores.spread * math.sqrt(share), scores.freedom)

    noise = scores.covariance
    own = [interval(scores.seen[at], noise[at, at], 1 / scores.seeds[at]) for at in bests]
    first, *others = sorted(range(LOSSES), key=lambda loss: -scores.seen[bests[loss]])
    one, leads = bests[first], []
    for other in (bests[loss] for loss in others):
        apart = noise[one, one] + noise[other, other] - 2 * noise[one, other]
        share = 1 / scores.seeds[one] + 1 / scores.seeds[other]
        leads.append(interval(scores.seen[one] - scores.seen[other], apart, share).excludes(0))
    return _judged(sweep, bests, own, own, first, any(leads), random, tau)


def by_curve(sweep: Sweep, random: np.random.Generator, tau: float, *, maximum: bool) -> Judged:
    """The curve's way, on what is not destroyed."""
    if len(np.unique(sweep.scores.places)) < FEWEST:
        return Judged(*[math.nan] * len(fields(Judged)))
    left = np.flatnonzero(~sweep.lost)
    posterior = gaussian.fit(_without(sweep.scores, left))
    draws, reruns = posterior.draws, posterior.reruns
    curves = sweep.scores.curves[left]
    bests = [_highest(draws.mean(axis=0), curves == loss) for loss in range(LOSSES)]
    expected, rerun = ([central(each[:, at]) for at in bests] for each in (draws, reruns))
    highest = np.stack([draws[:, curves == loss].max(axis=1) for loss in range(LOSSES)])
    expected = [central(each) for each in highest] if maximum else expected
    shares = np.bincount(highest.argmax(axis=0), minlength=LOSSES)
    first, *others = np.argsort(-shares, kind="stable")
    level = corrected_level(math.comb(LOSSES, 2))
    leads = [central(draws[:, bests[first]] - draws[:, bests[other]], level).excludes(0) for other in others]
    return _judged(sweep, [int(left[at]) for at in bests], expected, rerun, int(first), any(leads), random, tau)


def _without(scores: gaussian.Scores, left: gaussian.Integers) -> gaussian.Scores:
    return gaussian.Scores(
        scores.places[left],
        scores.curves[left],
        scores.seen[left],
        scores.covariance[np.ix_(left, left)],
        scores.seeds[left],
        spread=scores.spread,
        freedom=scores.freedom,
        between=scores.between,
    )


def _highest(values: Floats, among: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> int:
    return int(np.where(among, values, -np.inf).argmax())


def _judged(
    sweep: Sweep,
    bests: list[int],
    expected: list[Estimate],
    rerun: list[Estimate],
    first: int,
    lead: bool,
    random: np.random.Generator,
    tau: float,
) -> Judged:
    truths = [float(sweep.truth[at]) for at in bests]
    held = [not each.excludes(truth) for each, truth in zip(expected, truths, strict=True)]
    again = truths[first] + random.normal(0, tau)
    return Judged(
        bias=expected[first].value - truths[first],
        covered=held[first],
        rerun=not rerun[first].excludes(again),
        by_loss=float(np.mean(held)),
        regret=float(sweep.truth.max()) - truths[first],
        lead=lead,
    )


# ------------------------------------------------------------------------------------------------ the table


def rows() -> Iterator[Row]:
    """All rows of the table."""
    for shape in ("quadratic", "flat", "kinked", "edge", "collapsed"):
        for betas in BETAS:
            for seeds in (1, 3):
                yield Row(shape, betas, seeds, *NOISE[0])
    for noise in NOISE[1:]:
        yield Row("quadratic", 10, 1, *noise)


def result_of(row: Row, sweeps: int, *, maximum: bool = False) -> Result:
    """Simulate and judge a row; the same numbers at each call."""
    random = np.random.default_rng([ord(each) for each in row.name])
    found: dict[str, list[Judged]] = {"plain": [], "bonferroni": [], "curve": []}
    false: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(sweeps):
        sweep = simulated(row, random, equal=False)
        for name, judged in _all_ways(sweep, random, row.tau, maximum).items():
            found[name].append(judged)
        for name, judged in _all_ways(simulated(row, random, equal=True), random, row.tau, maximum).items():
            false[name].append(judged.lead)
    plain, bonferroni, curve = ({key.name: _mean(each, key.name) for key in fields(Judged)} for each in found.values())
    return Result(
        *(plain["bias"], curve["bias"], plain["covered"], bonferroni["covered"], curve["covered"], curve["rerun"]),
        *(curve["by_loss"], plain["regret"], curve["regret"], *(float(np.mean(each)) for each in false.values())),
    )


def _all_ways(sweep: Sweep, random: np.random.Generator, tau: float, maximum: bool) -> dict[str, Judged]:
    return {
        "plain": by_highest(sweep, random, tau, corrected=False),
        "bonferroni": by_highest(sweep, random, tau, corrected=True),
        "curve": by_curve(sweep, random, tau, maximum=maximum),
    }


def _mean(judged: list[Judged], name: str) -> float:
    return float(np.mean([getattr(each, name) for each in judged]))


def main(sweeps: int, words: list[str], json: Path | None, docs: Path | None, *, maximum: bool) -> None:
    """Measure and print."""
    names = [each.name for each in fields(Result)]
    shown = table("simulated sweeps", "row", "tau, se", *names, numbers=names)
    for row in rows():
        if all(word in row.name.split() for word in words):
            began = time.process_time()
            found = result_of(row, sweeps, maximum=maximum)
            shown.add_row(row.name, f"{row.tau:.2f}, {row.se:.2f}", *(_cell(each) for each in asdict(found).values()))
            seconds = time.process_time() - began
            if docs:
                into_docs(docs, row, sweeps, found)
            record(
                json, "coverage", sweeps=sweeps, maximum=maximum, cpu_seconds=seconds, **asdict(row), **asdict(found)
            )
    Console(width=220).print(shown)


def _cell(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"


def into_docs(page: Path, row: Row, sweeps: int, found: Result) -> None:
    """Write a row into the table of the docs: shares in percent."""
    biases = (found.bias_raw, found.bias_curve)
    held = (found.plain, found.bonferroni, found.curve, found.curve_rerun)
    regrets = (found.regret_raw, found.regret_curve)
    leads = (found.lead_plain, found.lead_bonferroni, found.lead_curve)
    cells = [
        *(f"{each:+.2f}".replace("-", "\N{MINUS SIGN}") for each in biases),
        *(f"{100 * each:.1f}" for each in held),
        *(f"{each:.3f}" for each in regrets),
        *(f"{100 * each:.1f}" for each in leads),
    ]
    begins = [row.shape, str(row.betas), str(row.seeds), f"{row.tau:.2f}, {row.se:.2f}"]
    write_into(page, begins, f"{sweeps:,}", *("" if "nan" in each else each for each in cells))


if __name__ == "__main__":
    made = parser(__doc__)
    made.add_argument("--sweeps", type=int, default=1000, metavar="N", help="simulated sweeps a row (1000)")
    made.add_argument("--row", default="", metavar="WORDS", help="only rows with all of these words in their name")
    made.add_argument("--maximum", action="store_true", help="judge by the maximum inside each draw")
    made.add_argument("--docs", action="store_true", help="write each row into docs/statistics.md")
    given = made.parse_args()
    main(given.sweeps, given.row.split(), given.json, DOCS if given.docs else None, maximum=given.maximum)
