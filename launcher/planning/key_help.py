"""What `--help` says of groups and keys: the comments of `conf/`, which are above each key. Imports no Hydra.

Owns: reading a file's keys with their comments. Must not know: what a value does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from launcher.errors import UsageError, suggestion
from launcher.planning.conf_places import choices, conf_dirs, conf_file, groups, looked_in

_KEY = re.compile(r"(?P<indent> *)(?P<key>[\w.-]+):(?: +(?P<value>.*))?$")


@dataclass(frozen=True)
class Key:
    """A key of a file: in one piece, `lora.r`, its value as it is written (empty: a section), its comment in lines."""

    name: str
    value: str
    comment: tuple[str, ...]


def keys_of(text: str) -> list[Key]:
    """The keys of a YAML file in order, each with the comment above it; not those of `defaults`, nor of lists."""
    found, comment, above = list[Key](), list[str](), list[tuple[int, str]]()
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            comment.append(stripped.lstrip("# ").rstrip())
            continue
        if match := _KEY.match(line):
            indent = len(match["indent"])
            above = [(depth, name) for depth, name in above if depth < indent]
            name = ".".join([*(each for _, each in above), match["key"]])
            above.append((indent, match["key"]))
            if name.partition(".")[0] != "defaults":
                value = re.sub(r"\s+#.*", "", match["value"] or "").strip()
                found.append(Key(name, value, tuple(comment) or _shared(found, name)))
        comment = []
    return found


def _shared(found: list[Key], name: str) -> tuple[str, ...]:
    """The comment of the key before, or of the section, which is said of several that stand below it."""
    above = name.rpartition(".")[0]
    beside = found and (found[-1].name == above or (found[-1].value and found[-1].name.rpartition(".")[0] == above))
    return found[-1].comment if beside else ()


def header_of(text: str) -> str:
    """What a file says of itself: the comment with which it begins, if a key's does not follow at once; on one line."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#") or line.startswith(("# @package", "# yaml-language-server")):
            if line.startswith("#"):
                continue
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines)


@cache
def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace")


def keys_in(group: str) -> dict[str, Key]:
    """The keys of a group by their names in one piece, `trainer.lora.r`: of all its files, each as the first has it."""
    files = [conf_file(group, name) for name in sorted(choices(group), key=lambda name: (name == "custom", name))]
    found: dict[str, Key] = {}
    for file in files:
        for key in keys_of(_read(file)) if file is not None else ():
            name = f"{group}.{key.name}"
            if name not in found or (key.comment and not found[name].comment):
                found[name] = key
    return found


def own_keys() -> dict[str, Key]:
    """The keys of config.yaml itself."""
    return {key.name: key for key in keys_of(_read(conf_dirs()[-1] / "config.yaml"))}


def all_keys() -> dict[str, Key]:
    """Every key that may be given, but for presets."""
    found = own_keys()
    for group in groups():
        found |= keys_in(group) if group != "preset" else {}
    return found


def help_of(word: str) -> str:
    """What there is to say of a group, a section or a key.

    Raises:
        UsageError: it is none.
    """
    word = word.lstrip("+~").partition("=")[0]
    lines = list(_of_group(word)) if word in groups() else []
    keys = {name: key for name, key in all_keys().items() if name == word or name.startswith(f"{word}.")}
    told: tuple[str, ...] = ()
    for name, key in keys.items():
        lines += [f"# {line}" for line in key.comment if key.comment != told]
        lines.append(f"{name}={key.value}" if key.value else f"{name}:")
        told = key.comment
    if not lines:
        known = [*groups(), *all_keys()]
        raise UsageError(f"--help {word}: no such group or key{suggestion(word, known)}{looked_in(conf_dirs())}")
    return "\n".join(lines)


def _of_group(group: str) -> Iterator[str]:
    sign = "+" if group == "preset" else ""
    yield f"{sign}{group}=NAME, one of:"
    width = max(map(len, choices(group)))
    for name in sorted(choices(group)):
        file = conf_file(group, name)
        yield f"  {name:{width}}  {header_of(_read(file)) if file else ''}".rstrip()
    yield ""


def groups_told() -> str:
    """The groups, each with its choices, for the help of a launch."""
    names = groups()
    width = max(map(len, names))
    return "\n".join(f"  {name:{width}}  {', '.join(sorted(choices(name)))}" for name in names)
