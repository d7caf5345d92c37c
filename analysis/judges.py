"""Scores by who gave them, and how: MT-Bench by judge, prompts, references and answers; a program's by its settings.

Owns: which scores may be compared, and the columns that keep those apart which may not.
Must not know: intervals, figures, which setting is best.

A difference of two judges' scores is one judge less the other, and says nothing of the models. So a column holds the
scores of one judge, and one way of answering, alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.apart import Flat, brief, differing, flat, show
from analysis.columns import SCORES

BY = " by "  # between a score's name and its judge, in the name of a column
PROGRAMS = ("command", "lm_eval")
UNKNOWN = "an unknown judge"
JUDGED = tuple(each.name for each in SCORES if each.name.startswith("mt_bench"))
_SCORES = "mt_bench_scores"
_NO_WAY = ("spent", "time", "answers.base")  # of what MT-Bench scores were made by: what they do not depend on


@dataclass(frozen=True)
class Judgement:
    """One judge's scores of one row of the frame."""

    index: Any
    model: str
    is_run: bool
    made_by: Flat
    scores: Mapping[str, Any]


def by_judge(frame: pd.DataFrame) -> pd.DataFrame:
    """Add the columns of scores that programs gave, and, where there are several, of each judge's."""
    return pd.concat([frame, _judged(frame), *(_measured(frame, name) for name in PROGRAMS)], axis="columns")


def judge_of(made_by: Mapping[str, Any]) -> str:
    """Name the judge of MT-Bench scores."""
    judge = made_by.get("judge")
    return str(judge["model"]) if isinstance(judge, dict) and judge.get("model") else UNKNOWN


# ------------------------------------------------------------------------------------------------ judges


def _judged(frame: pd.DataFrame) -> pd.DataFrame:
    """Give the columns of each judge; none where there is but one."""
    found = [each for index, row in frame.iterrows() for each in _judgements(index, row)]
    keys = _telling(found)
    labels = [_label(each.made_by, keys, found) for each in found]
    counts = Counter(label for each, label in zip(found, labels, strict=True) if each.is_run)
    several = sorted(dict.fromkeys(labels), key=lambda label: -counts[label])
    if len(several) < 2:  # noqa: PLR2004 - nothing to keep apart
        return pd.DataFrame(index=frame.index)
    cells: dict[tuple[str, Any], Mapping[str, Any]] = {}
    for each, label in zip(found, labels, strict=True):
        cells.setdefault((label, each.index), each.scores)
    return pd.DataFrame(
        {
            f"{name}{BY}{label}": pd.Series(
                [cells.get((label, index), {}).get(name, {} if name == _SCORES else math.nan) for index in frame.index],
                index=frame.index,
                dtype=object if name == _SCORES else float,
            )
            for label in several
            for name in (*JUDGED, _SCORES)
        }
    )


def _judgements(index: Any, row: pd.Series) -> list[Judgement]:
    """Give the scores of a row that count for it, then those of other judges, the newest first."""
    own = {name: row[name] for name in (*JUDGED, _SCORES)}
    rounds = [(row["mt_bench_made_by"], own), *((each["mt_bench_made_by"], each) for each in row["mt_bench_also"])]
    model, is_run = str(row["model"]), row["kind"] == "run"
    return [
        Judgement(index, model, is_run, _depends_on(made_by), scores)
        for made_by, scores in rounds
        if math.isfinite(scores["mt_bench"])
    ]


def _depends_on(made_by: Mapping[str, Any]) -> Flat:
    leaves = flat(made_by)
    if isinstance(served := leaves.get("judge.served_models"), list):
        leaves["judge.served_models"] = " and ".join(str(each) for each in served if each)
    return {key: value for key, value in leaves.items() if not key.startswith(_NO_WAY) and value != ""}


def _telling(found: list[Judgement]) -> list[str]:
    """Name what tells the judgements apart: judge and prompts anywhere, the answers' settings within a model."""
    everywhere = [key for key in differing([each.made_by for each in found]) if not key.startswith("answers.")]
    models: dict[str, list[Flat]] = {}
    for each in found:
        models.setdefault(each.model, []).append(each.made_by)
    within = [key for own in models.values() for key in differing(own) if key.startswith("answers.")]
    return [*everywhere, *dict.fromkeys(within)]


def _label(made_by: Flat, keys: list[str], found: list[Judgement]) -> str:
    """Name the judge, and what else tells these scores from others of the same judge."""
    if not made_by:
        return UNKNOWN
    same = differing([each.made_by for each in found if each.made_by.get("judge.model") == made_by.get("judge.model")])
    others = [key for key in keys if key in same and key in made_by]
    words = [f"{key.split('.')[-1]} {brief(show(made_by[key]))}" for key in others]
    return ", ".join([str(made_by.get("judge.model") or UNKNOWN), *words])


# ------------------------------------------------------------------------------------------------ programs


def _measured(frame: pd.DataFrame, program: str) -> pd.DataFrame:
    """Give the columns of a program's scores; of each of its settings, where there are several."""
    scored = [any(_is_of(program, name) for name in scores) for scores in frame["other_scores"]]
    made = [flat(each) for each in frame[f"{program}_made_by"]]
    keys = differing([each for each, has in zip(made, scored, strict=True) if has])
    ends = [_settings(each, keys) for each in made]
    cells: dict[str, list[float]] = {}
    for position, (scores, end) in enumerate(zip(frame["other_scores"], ends, strict=True)):
        for name, value in scores.items():
            if _is_of(program, name):
                cells.setdefault(f"{name}{end}", [math.nan] * len(frame))[position] = value
    return pd.DataFrame(cells, index=frame.index, dtype=float)


def _is_of(program: str, name: str) -> bool:
    return name.startswith(f"{program}/")


def _settings(made_by: Flat, keys: list[str]) -> str:
    words = [f"{key} {brief(show(made_by[key]))}" for key in keys if key in made_by]
    return f"{BY}{', '.join(words)}" if words else ""
