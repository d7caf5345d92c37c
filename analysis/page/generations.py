"""Generations side by side: for each prompt, what the untrained model wrote and what every run wrote.

Owns: which texts belong together. Must not know: HTML, intervals.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from analysis.rows import setting

MAX_CHARACTERS = 600
MAX_PROMPTS = 12  # of one model
MAX_TEXTS = 600  # on the page, so that it stays small enough to send


@dataclass(frozen=True)
class Text:
    """One generation: who wrote it, its text (cut to ``MAX_CHARACTERS``), its golden reward, and the run's scores.

    ``cut`` is the number of characters left out; rewards are NaN where unknown.
    """

    label: str
    text: str
    cut: int
    reward: float
    mean_reward: float
    accuracy: float
    kl: float


@dataclass
class Prompt:
    """A prompt to one model, with the base's text (None if there is none) and the runs' texts."""

    model: str
    prompt: str
    base: Text | None = None
    texts: list[Text] = field(default_factory=list)
    left_out: int = 0


def prompts(frame: pd.DataFrame) -> list[Prompt]:
    """Give up to ``MAX_PROMPTS`` prompts for each model and dataset, in the file's order.

    Where there are more than ``MAX_TEXTS`` texts, each prompt has its share of them, evenly over the runs.
    A prompt that is asked several times (with other seeds) is several prompts, matched by position.
    """
    found: dict[tuple[Any, ...], Prompt] = {}
    several_seeds = len(frame["seed"].dropna().unique()) > 1
    order = frame.assign(_base=frame["kind"] == "run").sort_values("_base", kind="stable")
    for _, row in order.iterrows():
        group = (row["model"], row["dataset"])
        for key, sample in _numbered(row["samples"]):
            entry = found.setdefault((group, *key), Prompt(str(row["model"] or "?"), sample["prompt"]))
            text = _text(row, sample, f", seed {row['seed']:.7g}" if several_seeds else "")
            if row["kind"] == "base":
                entry.base = text
            else:
                entry.texts.append(text)
    return _first(found)


def _first(found: dict[tuple[Any, ...], Prompt]) -> list[Prompt]:
    """Keep each group's first prompts, groups one after another."""
    groups: dict[Any, list[Prompt]] = {}
    for (group, *_), prompt in found.items():
        groups.setdefault(group, []).append(prompt)
    first = [prompt for each in groups.values() for prompt in each[:MAX_PROMPTS]]
    for prompt in first:
        stride = math.ceil(len(prompt.texts) * len(first) / MAX_TEXTS) or 1
        prompt.left_out = len(prompt.texts) - len(prompt.texts[::stride])
        prompt.texts = prompt.texts[::stride]
    return first


def _numbered(samples: list[dict[str, Any]]) -> list[tuple[tuple[str, int], dict[str, Any]]]:
    seen: Counter[str] = Counter()
    numbered = []
    for sample in samples:
        numbered.append(((sample["prompt"], seen[sample["prompt"]]), sample))
        seen[sample["prompt"]] += 1
    return numbered


def _text(row: pd.Series, sample: dict[str, Any], seed: str) -> Text:
    text = sample["text"]
    label = "untrained" if row["kind"] == "base" else f"{row['loss_type'] or '?'} · {setting(row)}{seed}"
    scores = (row["golden_reward"], row["reward_accuracy"] if row["kind"] == "run" else math.nan, row["kl"])
    return Text(label, text[:MAX_CHARACTERS], max(0, len(text) - MAX_CHARACTERS), sample["reward"], *scores)
