"""Keys that stand where everybody will read them: what is launched is recorded, collected and reported.

Owns: what looks like one, and where in a configuration it is looked for. Never repeats one.
Must not know: where a configuration is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from launcher.config import RunConfig
from launcher.errors import UNSAID, ConfigError

# Tokens of the Hugging Face Hub, of OpenAI and those who write theirs likewise, of W&B, of GitHub, of AWS.
_KEY = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{30,}|sk-[A-Za-z0-9_-]{20,}|wandb_v1_[A-Za-z0-9_]{20,}|gh[pousr]_[A-Za-z0-9]{30,}|AKIA[A-Z0-9]{16})"
)
# A value that is written out, and neither a variable's nor a command's.
_NAMED = re.compile(
    r"(?:^|[\s;&'\"-])[A-Za-z0-9_-]*(?:API[_-]?KEY|TOKEN|SECRET|PASSWORD|PASSWD)(?:=|\s+)[\"']?(?![\s$`\"'-]|$)\S",
    re.IGNORECASE,
)


def secret_problems(config: RunConfig) -> Iterator[ConfigError]:
    """What looks like a key among the words of commands: by its own form, or by the name before it."""
    argv, evaluation = config.evaluation.command.argv, config.evaluation.cluster
    remedy = "let the program read it from a variable or a file"
    yield from _problems("evaluation.command.argv", [" ".join(argv)], remedy)
    remedy = "export it where you launch, or source a file that only you may read"
    yield from _problems("cluster.setup", config.cluster.setup, remedy)
    yield from _problems("evaluation.cluster.setup", evaluation.get("setup") or (), remedy)
    for section, extra in (("cluster", config.cluster.extra), ("evaluation.cluster", evaluation.get("extra") or {})):
        for key, value in extra.items():
            yield from _problems(f"{section}.extra.{key}", [str(value)], remedy)


def _problems(key: str, texts: Iterable[str], remedy: str) -> Iterator[ConfigError]:
    if any(_KEY.search(text) or _NAMED.search(text) for text in texts):
        yield ConfigError(key, UNSAID, f"holds what looks like a key, and would be recorded; {remedy}")
