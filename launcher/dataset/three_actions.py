"""The preferences of the IPO paper's first figure: y1 over y2, y2 over y3, y1 over y3, and nothing else.

Owns: these three pairs, as messages, so that a template can render a completion as exactly one token.
Must not know: models, losses.

Source: Azar et al., "A General Theoretical Paradigm to Understand Learning from Human Preferences" (2023), section 5.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

from launcher.store.entries import making
from launcher.store.output_folder import Store

ACTIONS = ("1", "2", "3")  # the best first


def ensure_pairs(store: Store) -> Path:
    """The folder with train.jsonl and test.jsonl, made on first use.

    Both hold the same three pairs: there is nothing to generalise to.
    """
    folder = store.cache("datasets", "three-actions")
    with making(folder) as empty:
        if empty is not None:
            lines = "".join(_line(better, worse) for better, worse in itertools.combinations(ACTIONS, 2))
            for split in ("train", "test"):
                (empty / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    return folder


def _line(better: str, worse: str) -> str:
    said = {"prompt": ("user", "?"), "chosen": ("assistant", better), "rejected": ("assistant", worse)}
    return json.dumps({key: [{"role": role, "content": text}] for key, (role, text) in said.items()}) + "\n"
