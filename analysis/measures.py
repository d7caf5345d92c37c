"""What a run can be judged by, and in which order of trust.

Owns: the measures, and where a row keeps each. Must not know: intervals, figures.

A measure of the text that a model writes comes first: an MT-Bench score, else a golden reward. A score that a program
of the user's choice printed comes next, then those of lm_eval. Only where a model has none of them is held-out reward
accuracy left, which can look fine while the text is destroyed; see ``best``.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

import pandas as pd

from analysis.columns import CATEGORIES
from analysis.judges import BY, PROGRAMS, UNKNOWN, judge_of

CHANCE = 0.5  # reward accuracy of a coin
LOG_RATIO = "beta (log pi - log pi_ref)"  # the one reward that rows knew before they named theirs


@dataclass(frozen=True)
class Measure:
    """A measure: its column, what to call it, and where its values by ``unit`` (question, generation) are.

    ``by`` is who gave the scores, or with which settings, where columns are kept apart by that (the columns' end);
    ``lower`` says that less is better.
    """

    column: str
    label: str
    stderr: str = ""
    values_column: str = ""
    unit: str = "generation"
    against: str = "untrained"
    by: str = ""
    lower: bool = False

    @property
    def sign(self) -> int:
        """1 where more is better, else -1."""
        return -1 if self.lower else 1

    @property
    def benchmark(self) -> str:
        """The name of what measures it: `preference`, `mt_bench`, `lm_eval` or `command`."""
        named = ("mt_bench", *PROGRAMS)
        return next((name for name in named if self.column.startswith(name)), "preference")

    @property
    def of_model(self) -> bool:
        """Whether it asks the same of a model whatever data set it is trained on."""
        return self.unit in {"question", "task"}

    @property
    def ends(self) -> tuple[float, float]:
        """The lowest and the highest score that there can be, as far as that is known."""
        if self.unit == "question":
            return 1, 10
        return (0, 1) if self.column.startswith(("lm_eval/acc", "lm_eval/exact_match")) else (-math.inf, math.inf)

    def alone(self, row: pd.Series) -> str:
        """Name the one question, or prompt, that a row was scored on; nothing where there are several."""
        if self.unit == "generation" and row.get("prompts", math.nan) == 1:
            return "one prompt"
        return f"one {self.unit}" if len(self.values(row)) == 1 else ""

    def category(self, name: str) -> str:
        """The column of the mean over an MT-Bench category."""
        return f"mt_bench_{name}{self.by}"

    @property
    def estimate(self) -> str:
        """The column of its Estimates."""
        return f"estimate of {self.column}" if self.unit == "task" else f"{self.column}_estimate"

    @property
    def difference(self) -> str:
        """The column of the Estimates of its difference to the base."""
        return f"difference of {self.column}" if self.unit == "task" else f"{self.column}_difference"

    @property
    def name(self) -> str:
        """Its name in a sentence."""
        return self.label if self.unit in {"question", "task"} else self.label.lower()

    def values(self, row: pd.Series) -> dict[str, float]:
        """Give a row's finite values by what they are paired by: the question, or the generation's place."""
        if not self.values_column:
            return {}
        values = row[self.values_column]
        items = values.items() if isinstance(values, dict) else enumerate(values)
        return {str(key): value for key, value in items}

    def units(self, row: pd.Series) -> dict[str, float]:
        """Give a row's finite values by independent units: of a question, its mean over turns; of a prompt, over texts.

        Prompts take turns in writing texts. Of fewer than 10 prompts, or where their number is not known, each text is
        a unit: then it is these prompts alone that the scores are about.
        """
        values = {key: value for key, value in self.values(row).items() if math.isfinite(value)}
        prompts = row.get("prompts", math.nan)
        if self.unit != "generation" or not _FEWEST_UNITS <= prompts < len(self.values(row)):
            return values
        texts: dict[str, list[float]] = {}
        for place, value in values.items():
            texts.setdefault(str(int(place) % int(prompts)), []).append(value)
        return {prompt: math.fsum(own) / len(own) for prompt, own in texts.items()}


MT_BENCH = Measure("mt_bench", "MT-Bench", "mt_bench_se", "mt_bench_scores", "question")
GOLDEN = Measure("golden_reward", "Golden reward", "golden_reward_stderr", "golden_rewards")
ACCURACY = Measure("reward_accuracy", "Reward accuracy", unit="pair", against="chance")
_FEWEST_UNITS = 10
_TASKS = 6  # scores of programs with a figure and a column on the page; the tables have all
# Of a score whose name has one of these words in it, less is better.
_LOWER = {
    "perplexity",
    "ppl",
    "loss",
    "nll",
    "bits",
    "error",
    "err",
    "wer",
    "cer",
    "ter",
    "mse",
    "rmse",
    "mae",
    "brier",
}


def measures_of(frame: pd.DataFrame) -> list[Measure]:
    """Give the measures that a frame has columns for, reward accuracy apart, the most trusted first."""
    return [*text_measures(frame), *_programs(frame)]


def text_measures(frame: pd.DataFrame) -> list[Measure]:
    """Give the measures of the text that a model writes: MT-Bench of each judge, and golden reward."""
    stem = f"{MT_BENCH.values_column}{BY}"
    judges = [name.removeprefix(stem) for name in frame.columns if name.startswith(stem)]
    return [*([_by(BY + judge) for judge in judges] or [MT_BENCH]), GOLDEN]


def _by(end: str) -> Measure:
    column, stderr, values = (f"{name}{end}" for name in (MT_BENCH.column, MT_BENCH.stderr, MT_BENCH.values_column))
    label = f"{MT_BENCH.label}{end}"
    return replace(MT_BENCH, column=column, label=label, stderr=stderr, values_column=values, by=end)


def _programs(frame: pd.DataFrame) -> list[Measure]:
    names = [name for program in PROGRAMS for name in frame.columns if name.startswith(f"{program}/")]
    return [_program(name, names) for name in names if not _error_in(name)]


def _program(name: str, names: list[str]) -> Measure:
    """Give the measure of a program's score; its standard error, where there is one, is called as lm_eval does."""
    score, by, settings = name.partition(BY)
    kind, comma, way = score.partition(",")
    error = f"{kind}_stderr{comma}{way}{by}{settings}"
    lower = bool(_LOWER & set(re.split(r"[^a-z]+", kind.rpartition("/")[2].lower())))
    return Measure(name, name, error if error in names else "", unit="task", by=by + settings, lower=lower)


def _error_in(name: str) -> bool:
    return name.partition(BY)[0].partition(",")[0].endswith("_stderr")


def present(rows: pd.DataFrame) -> list[Measure]:
    """Give the measures that some row has, reward accuracy apart: the most trusted first, of several ways the usual."""
    counts = {each: int(rows[each.column].abs().lt(math.inf).sum()) for each in measures_of(rows)}
    found = [each for each, count in counts.items() if count]
    names = list(dict.fromkeys(each.column.partition(BY)[0] for each in found))
    return sorted(found, key=lambda each: (_trust(each), names.index(each.column.partition(BY)[0]), -counts[each]))


def _trust(measure: Measure) -> int:
    return ["question", "generation", "task"].index(measure.unit)


def shown(measures: list[Measure]) -> list[Measure]:
    """Give the measures that a page has room for: of tasks, of which lm_eval may have hundreds, the first."""
    return [each for each in measures if each.unit != "task"] + [each for each in measures if each.unit == "task"][
        :_TASKS
    ]


def judged_by(rows: pd.DataFrame, measure: Measure) -> str:
    """Say who gave the scores, for beneath a figure; nothing where a program or a formula did."""
    if measure.unit != "question":
        return ""
    if measure.by:
        return f"The judge is {measure.by.removeprefix(BY)}. "
    scored = rows[rows[measure.column].abs().lt(math.inf)]
    names = dict.fromkeys(judge_of(made_by) for made_by in scored["mt_bench_made_by"])
    return "Who the judge was is not known. " if list(names) == [UNKNOWN] else f"The judge is {' and '.join(names)}. "


def primary(rows: pd.DataFrame) -> Measure:
    """Give the measure by which these rows are to be judged."""
    return next(iter(present(rows)), ACCURACY)


def categories(rows: pd.DataFrame, measure: Measure = MT_BENCH) -> list[str]:
    """Give the MT-Bench categories for which some row has a mean, in their usual order."""
    return [each for each in CATEGORIES if rows[measure.category(each)].abs().lt(math.inf).any()]
