"""One override of the command line or a sweep file: Hydra's grammar, and what we add to it.

Owns: what an override says, whether it picks a file of `conf/`, its shorthands (a Hub id, a folder, a template's file).
Must not know: how several make a grid, how a config is composed of them. Writes nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from launcher.config import ConfigError, canonical
from launcher.resources import data_dir

Overrides = tuple[str, ...]
SHORTHANDS = ("model", "dataset")  # groups whose value may be a Hub id or a folder
BLANK = {"custom", "mixture", "weak_rejects"}  # files of conf/ that say nothing until the user does
TEMPLATE = "model.chat_template"


@cache
def parse(override: str) -> Override:
    """The override as Hydra reads it.

    Raises:
        ConfigError: it is not in Hydra's grammar.
    """
    try:
        return OverridesParser.create().parse_override(override)
    except HydraException as error:
        raise ConfigError(f"{override}: not a valid override, expected key=value ({first_line(error)})") from error


@cache
def options(group: str) -> frozenset[str]:
    """The names of a group's files in `conf/`."""
    return frozenset(file.stem for file in (data_dir("conf") / group).glob("*.yaml"))


def chooses_group(override: Override) -> bool:
    """Whether an override picks a file of conf/ rather than setting a value (Hydra's own rule)."""
    folder = data_dir("conf") / override.key_or_group
    return (folder.is_dir() and not isinstance(override.value(), dict)) or override.is_hydra_override()


def meaning(override: str) -> tuple[str, str]:
    """Key and value of an override, the same for every way to write a number."""
    parsed = parse(override)
    return parsed.key_or_group, json.dumps(canonical(parsed.value()), default=str)


def expand(override: str) -> Overrides:
    """`model=ORG/NAME@REVISION` or `model=./FOLDER` -> the overrides of conf/model/custom.yaml that say so.

    `model.chat_template=FILE.jinja` -> its text, so that a run is known by what the template says.
    """
    key = override.partition("=")[0]
    if key == TEMPLATE:
        return (_with_template(override),)
    value = parse(override).value() if key in SHORTHANDS else None
    if not isinstance(value, str) or not re.search(r"[/@]", value) or value in options(key):
        return (override,)
    path, _, revision = value.partition("@")
    if path.startswith((".", "~")) or Path(path).exists():
        path = str(Path(path).expanduser().resolve())  # a run must not depend on where it was launched from
    name = re.sub(r"[^a-z0-9.]+", "-", Path(path).name.lower()).strip("-.")
    if not name:
        raise ConfigError(f"{override}: is neither a file of conf/{key}, nor ORG/NAME@REVISION, nor a folder")
    values = {"name": name, "path": path, "revision": revision or None}
    return (f"{key}=custom", *(f"{key}.{part}={as_text(value)}" for part, value in values.items()))


def _with_template(override: str) -> str:
    value = str(parse(override).value())
    if not value.endswith((".jinja", ".jinja2")):
        return override
    try:
        return f"{TEMPLATE}={as_text(Path(value).expanduser().read_text(encoding='utf-8'))}"
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{override}: cannot be read ({error}); give a file with a chat template, or Jinja"
        ) from error


def as_text(value: Any) -> str:
    """A YAML value as Hydra's grammar writes it."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{as_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(as_text, value)) + "]"
    text = str(value)
    plain = re.fullmatch(r"[\w./@+-]+", text) or not isinstance(value, str)
    return text if plain else "'" + re.sub(r"(\\*)('|\Z)", _escaped, text) + "'"


def _escaped(end: re.Match[str]) -> str:
    """In quotes Hydra takes backslashes as they are, but for those before a quote."""
    return end[1] * 2 + ("\\'" if end[2] else "")


def first_line(error: BaseException) -> str:
    """The beginning of a library's message, on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) or type(error).__name__
