"""The data sets that we build ourselves, by the name that `dataset.builder` gives them.

Owns: which there are. Must not know: when they are built. The pairs of a weaker model are built by the job that has it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from launcher.dataset import movie_reviews, three_actions
from launcher.store.output_folder import Store

# Each makes its folder with train.jsonl and test.jsonl on first use, and may raise a ConfigError.
BUILDERS: dict[str, Callable[[Store], Path]] = {
    "movie_reviews": movie_reviews.ensure_pairs,
    "three_actions": three_actions.ensure_pairs,
}
