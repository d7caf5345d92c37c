"""Keys that stand where everybody will read them: what is launched is recorded, collected and reported.

Owns: what looks like one, where in a configuration it is looked for, a text without it. Never repeats one.
Must not know: where a configuration is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from launcher.config import Cluster, RunConfig
from launcher.errors import UNSAID, ConfigError

# What is a key wherever it stands.
_KEYS = (
    r"hf_[A-Za-z0-9]{30,}",
    r"sk-(?:proj|ant|or|lf|svcacct|admin)-[\w-]{20,}",  # OpenAI, and those who write theirs likewise
    r"sk-(?=[A-Za-z_-]*\d)[\w-]{20,}",
    r"wandb_v1_\w{20,}",
    r"gh[pousr]_[A-Za-z0-9]{30,}",
    r"github_pat_\w{20,}",
    r"glpat-[\w-]{20,}",
    r"(?:AKIA|ASIA)[A-Z0-9]{16}",  # AWS
    r"AIza[\w-]{30,}",  # Google
    r"(?:nvapi-|gsk_|xox[a-z]-|r8_|npm_|pypi-)[\w-]{20,}",
    r"eyJ[\w-]{8,}\.eyJ[\w-]{8,}",  # a JSON Web Token
)
_BEGUN = rf"(?<![A-Za-z0-9])(?:{'|'.join(_KEYS)})"
# In an address `user:password@`, or a token as the user; an image's `name:tag@sha256:` is neither.
_IN_ADDRESS = r"://[^\s/@:]*:(?![$`{])[^\s/@]+@(?!sha256:)|://\w{30,}@"
_BLOCK = r"-----BEGIN [A-Z ]*PRIVATE KEY"
_KEY = re.compile(f"{_BEGUN}|{_IN_ADDRESS}|{_BLOCK}")

# What a command is told without a name before it.
_TOLD = re.compile(
    r"\bwandb\s+login\b[^;&|]*?\b[0-9a-f]{40}\b|\b(?:curl|wget)\b[^;&|]*?\s-u\s*[\"']?[^\s:$\"']+:(?![$`])\S"
    r"|\b(?:login|sshpass)\b[^;&|]*?\s-p\s*[\"']?(?![$`\"'-])\S"
)
# A name and its value: `--api-key X`, `API_KEY=X`, `api-key: X`, `"api_key": "X"`, `Authorization: Bearer X`.
_NAMED = re.compile(
    r"(?<![\w$-])(?<!\$\{)(?:(?P<option>--?[A-Za-z][\w-]*)\s+"
    r"|(?P<name>-{0,2}[A-Za-z_][\w-]*)(?:=|[\"']?\s*:\s*(?:[\"']?(?:Basic|Bearer|Token)\s+)?))"
    r"(?=[\"']?(?P<value>[^\s\"',;&|]+))"
)
_SECRET = re.compile(
    r"(?:(?:access|account|api|auth|private|secret|signing|storage)[_-]?key|token|secret|password|passwd|passphrase"
    r"|authorization|credentials?)$",
    re.IGNORECASE,
)
_SECRET_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*_(?:AUTH|KEY|PASS|PAT|PWD)")
_OF_A_MODEL = re.compile(
    r"(?:bos|cls|end|eos|eot|image|mask|pad|sep|special|start|stop|think|unk)[_-]?token$", re.IGNORECASE
)
# A variable's value, a command's, a placeholder, another option; a number, a choice; what says that there is no key.
_NO_SECRET = re.compile(
    r"[$`<({*-].*|\.\.\..*|\d{1,6}|true|false|yes|no|on|off|auto|none|null|empty|dummy", re.IGNORECASE
)


def secret_problems(config: RunConfig) -> Iterator[ConfigError]:
    """What looks like a key: by its own form wherever it stands, among the words of commands by the name before it."""
    argv, evaluation = config.evaluation.command.argv, config.evaluation.cluster
    yield from _problems(
        "evaluation.command.argv", [" ".join(argv)], "let the program read it from a variable or a file"
    )
    yield from secrets_of(config.cluster)
    yield from _of_jobs("evaluation.cluster", evaluation.get("setup") or (), evaluation.get("extra") or {})
    yield from _anywhere("", config)


def secrets_of(cluster: Cluster) -> Iterator[ConfigError]:
    """The same of a run's resources."""
    yield from _of_jobs("cluster", cluster.setup, cluster.extra)
    yield from _anywhere("cluster", cluster)


def masked(text: str) -> str:
    """The text with *** for each part of it that looks like a key."""
    text = _KEY.sub("***", text)
    keys = {found["value"] for found in _NAMED.finditer(text) if _is_secret(found)}
    return re.sub("|".join(map(re.escape, keys)), "***", text) if keys else text


def _of_jobs(section: str, setup: Iterable[str], extra: Mapping[str, Any]) -> Iterator[ConfigError]:
    remedy = "export it where you launch, or source a file that only you may read"
    yield from _problems(f"{section}.setup", setup, remedy)
    for key, value in extra.items():
        yield from _problems(f"{section}.extra.{key}", [str(value)], remedy)


def _anywhere(section: str, values: Any) -> Iterator[ConfigError]:
    for key, text in _texts(section, values):
        if _has_key(text):
            yield _problem(key, "leave it out, and log in where you launch")


def _problems(key: str, texts: Iterable[str], remedy: str) -> Iterator[ConfigError]:
    if any(_has_key(text) or _names_key(text) for text in texts):
        yield _problem(key, remedy)


def _problem(key: str, remedy: str) -> ConfigError:
    return ConfigError(key, UNSAID, f"holds what looks like a key, and would be recorded; {remedy}")


def _texts(key: str, value: Any) -> Iterator[tuple[str, str]]:
    """All texts of a configuration, each with its key."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(key, item)
    elif isinstance(inner := getattr(value, "__dict__", value), dict):
        for name, item in inner.items():
            yield from _texts(f"{key}.{name}" if key else str(name), item)


@lru_cache(4096)  # most are the same in all runs of a sweep
def _has_key(text: str) -> bool:
    return _KEY.search(text) is not None


@lru_cache(4096)
def _names_key(text: str) -> bool:
    return _TOLD.search(text) is not None or any(map(_is_secret, _NAMED.finditer(text)))


def _is_secret(found: re.Match[str]) -> bool:
    name = found["option"] or found["name"]
    is_named = _SECRET_VARIABLE.fullmatch(name) or (_SECRET.search(name) and not _OF_A_MODEL.search(name))
    return bool(is_named) and not _NO_SECRET.fullmatch(found["value"])
