"""What `--help` says of groups and keys, and TAB completes, from all folders of `conf/`. Imports no Hydra.

Owns: which of several files tells of a key. Must not know: what a value does; which comment belongs to which key
(`comments`); the types, ranges and defaults of keys (`keys`, which takes longer to import than an answer may).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import yaml

from launcher.errors import UsageError, suggestion
from launcher.planning.comments import ITEM, Comments, Written, comments_in
from launcher.planning.conf_places import choices, conf_dirs, conf_file, groups, looked_in

IN_A_GROUP = 4  # values that are told of each key of a group


@cache
def _read(file: Path) -> Comments:
    """What a file says; nothing where it is no YAML, which a launch that names it refuses."""
    try:
        return comments_in(file.read_text(encoding="utf-8", errors="replace"))
    except yaml.YAMLError:
        return Comments("", {})


def _typed(file: Path) -> dict[str, Written]:
    """The keys of a file that may be typed, not those of its `defaults`, nor of items of lists.

    One without a comment has that of its section.
    """
    found = _read(file).keys
    typed = {name: key for name, key in found.items() if name != "defaults" and ITEM not in name}
    sections = {name: found.get(name.rpartition(".")[0], key) for name, key in typed.items()}
    return {name: Written(key.value, key.comment or sections[name].comment) for name, key in typed.items()}


def keys_in(group: str) -> dict[str, Written]:
    """The keys of a group by their names in one piece, `trainer.lora.r`: of all its files, each as the first has it."""
    found: dict[str, Written] = {}
    for _, name, key in _written_in(group):
        if name not in found or (key.comment and not found[name].comment):
            found[name] = key
    return found


def _written_in(group: str) -> Iterator[tuple[str, str, Written]]:
    """Each choice of a group with each of its keys, that of a model or data set of one's own last."""
    for choice in sorted(choices(group), key=lambda name: (name == "custom", name)):
        file = conf_file(group, choice)
        for last, key in _typed(file).items() if file is not None else ():
            yield choice, f"{group}.{last}", key


def _values(name: str, written: Iterable[tuple[str, str, Written]], first: str, at_most: int) -> str:
    """What the choices of a key's group have for it, `8 (full, lora), 128 (zephyr_full)`; the value where they agree.

    Of more values than `at_most` the first stands for all, with where the others are: under the key alone.
    """
    holders: dict[str, list[str]] = {}
    for choice, each, key in written:
        if each == name and key.value:
            holders.setdefault(key.value, []).append(choice)
    if not holders or (len(holders) == 1 and len(next(iter(holders.values()))) > 1):
        return first
    told = [f"{value} ({', '.join(names)})" for value, names in holders.items()]
    return ", ".join(told) if len(told) <= at_most else f"{told[0]}, ...; --help {name} has all {len(told)}"


def all_keys() -> dict[str, Written]:
    """Every key that may be given, but for presets."""
    found = _typed(conf_dirs()[-1] / "config.yaml")
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
    every = all_keys()
    below = {name: key for name, key in every.items() if name == word or name.startswith(f"{word}.")}
    group = word.partition(".")[0]
    written = list(_written_in(group)) if group in groups() else []
    told: tuple[str, ...] = ()
    for name, key in below.items():
        lines += [f"# {line}" for line in key.comment if key.comment != told]
        at_most = len(every) if name == word else IN_A_GROUP
        lines.append(f"{name}={_values(name, written, key.value, at_most)}" if key.value else f"{name}:")
        told = key.comment
    lines = lines or list(_of_schema(word))
    if not lines:
        known = [*groups(), *every]
        raise UsageError(f"--help {word}: no such group or key{suggestion(word, known)}{looked_in(conf_dirs())}")
    return "\n".join(lines)


def _of_schema(word: str) -> Iterator[str]:
    """Of keys that stand in no file of conf/: what their type and its default say."""
    from launcher.planning.keys import keys  # imports OmegaConf and Hydra, which no other help waits for
    from launcher.planning.overrides import as_text

    for key in (each for section in keys() for each in section.all()):
        if key.name == word or key.name.startswith(f"{word}."):
            yield from (f"# {line}" for line in key.about.splitlines())
            yield f"{key.name}:" if key.below else f"{key.name}={as_text(key.default)}"


def _of_group(group: str) -> Iterator[str]:
    sign = "+" if group == "preset" else ""
    yield f"{sign}{group}=NAME, one of:"
    width = max(map(len, choices(group)))
    for name in sorted(choices(group)):
        file = conf_file(group, name)
        yield f"  {name:{width}}  {_read(file).header if file else ''}".rstrip()
    yield ""


def groups_told() -> str:
    """The groups, each with its choices, for the help of a launch."""
    names = groups()
    width = max(map(len, names))
    return "\n".join(f"  {name:{width}}  {', '.join(sorted(choices(name)))}" for name in names)
