"""Counts what a plan's runs would be trained on: a question of the login node, answered in a process of its own.

`python -m launcher.worker.count PARENT` reads {"configs": [...], "examples": N} as JSON from stdin and prints a JSON
line: for each configuration its counts, or why a job could not train on these data. Writes nothing that stays, asks no
Hub, and ends with the process PARENT that has started it.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from launcher.config import RunConfig, from_plain
from launcher.errors import UNSAID, ConfigError
from launcher.hub.sources import restore
from launcher.losses import loss_named
from launcher.machine.imports import uncollected
from launcher.machine.processes import end_with
from launcher.machine.terminal import say
from launcher.store.files import Plain, plain
from launcher.store.output_folder import Store


def main() -> None:
    """Answer one question of the process whose id is given, and end with it."""
    end_with(int(sys.argv[1]))
    question = json.load(sys.stdin)
    with tempfile.TemporaryDirectory() as scratch:
        answers = [answer(from_plain(each), Store(Path(scratch)), question["examples"]) for each in question["configs"]]
    say("\n" + json.dumps(answers))


def answer(config: RunConfig, store: Store, examples: int) -> Plain:
    """The counts of a run's data, by the functions that its job uses; or `fault`: key, value and remedy."""
    with uncollected():
        from launcher.worker.dataset import pairs, unpaired  # imports torch, which takes longer than a parent may live

    tokenise = (pairs if loss_named(config.loss_type).paired else unpaired).tokenise
    restore(config.pins, store)
    try:
        return {"counts": plain(tokenise(config, store, keep=False, examples=examples).counts)}
    except ConfigError as error:
        value = None if error.value is UNSAID else {"value": str(error.value)}
        return {"fault": {"key": error.key, "remedy": error.remedy, **(value or {})}}


if __name__ == "__main__":
    main()
