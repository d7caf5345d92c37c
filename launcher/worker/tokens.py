"""Counts a text's tokens: a question of the login node, answered in a process of its own.

Reads {"model": ..., "text": ...} as JSON from stdin and prints the number of tokens. Writes nothing that stays.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from launcher.config import Model
from launcher.machine.imports import uncollected
from launcher.machine.terminal import say
from launcher.store.output_folder import Store


def main() -> None:
    """Answer one question."""
    with uncollected():
        from launcher.worker.model.weights import tokenizer

    question = json.load(sys.stdin)
    with tempfile.TemporaryDirectory() as scratch:
        tokens = tokenizer(Model(**question["model"]), Store(Path(scratch)))(question["text"])["input_ids"]
    say(str(len(tokens)))


if __name__ == "__main__":
    main()
