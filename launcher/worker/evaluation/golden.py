"""Golden rewards: scorers of texts that are independent of what the model was trained on.

Owns: their names and what each computes.
Must not know: models, runs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from launcher.errors import ConfigError


@cache
def _analyser() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


def vader(text: str) -> float:
    """Sentiment of an English text, -1 to 1: the compound score of Hutto & Gilbert's VADER lexicon and rules."""
    return float(_analyser().polarity_scores(text)["compound"])


REWARDS: dict[str, Callable[[str], float]] = {"vader": vader}


def score(name: str, texts: list[str]) -> list[float]:
    """The golden reward of each text.

    Raises:
        ConfigError: there is no reward of that name.
    """
    if name not in REWARDS:
        raise ConfigError("dataset.golden_reward", name, f"unknown; there is {', '.join(REWARDS)}")
    return [REWARDS[name](text) for text in texts]
