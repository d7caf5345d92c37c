"""Names that tell a sweep's models apart, and its data sets: those of the shorthands `model=A/final,B/final`. Pure.

Owns: which points of a grid share a name though they start from something else, and what goes into the name then.
Must not know: how a config is composed, run ids.

A name is a part of a run's id. So only names that stand for two things in one sweep get longer.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

NAMED = ("model", "dataset")  # the sections of a config that have a name
PLACE = ("path", "revision", "gguf_file")  # what a shorthand's name is made from a part of
MAX_REVISION = 12  # characters of a revision in a name
MAX_NAME = 100

Place = tuple[str | None, ...]
Renamed = dict[tuple[str, str, Place], str]  # section, name and place -> the longer name


def slug(text: str) -> str:
    """A text as a name: small letters, digits, dots and hyphens."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")


def name_of(text: str) -> str:
    """The same of a folder's or a repository's name; one that has no such letter is named by a digest."""
    return slug(text) or (f"x-{hashlib.sha256(text.encode()).hexdigest()[:6]}" if text else "")


def told_apart(configs: Sequence[Mapping[str, Any]]) -> Renamed:
    """The longer names of those models and data sets that share theirs with another one of these configs."""
    return {
        (section, name, place): longer
        for section in NAMED
        for name, places in _shared(configs, section)
        for place, longer in _longer(name, places).items()
    }


def place_in(config: Mapping[str, Any], section: str) -> Place:
    """Where a config's model or data set comes from."""
    return tuple(config[section].get(key) for key in PLACE)


def _shared(configs: Sequence[Mapping[str, Any]], section: str) -> Iterator[tuple[str, list[Place]]]:
    """Each name that stands for several things, and where they come from."""
    found: dict[str, dict[Place, None]] = {}
    for config in configs:
        found.setdefault(config[section]["name"], {})[place_in(config, section)] = None
    for name, places in found.items():
        if len(places) > 1:
            yield name, list(places)


def _longer(name: str, places: Sequence[Place]) -> dict[Place, str]:
    """A name for each place: what has no path keeps it, of the others the end of the path and the revision count."""
    with_path = [place for place in places if place[0] is not None]
    paths = sorted({str(place[0]) for place in with_path})
    depth = _depth(name, paths) if len(paths) > 1 or len(with_path) < len(places) else 0
    names = {place: _named(name, place, with_path, depth) for place in with_path}
    often = Counter([name, *names.values()])
    return {place: each if often[each] == 1 else _with_digest(each, place) for place, each in names.items()}


def _named(name: str, place: Place, places: Sequence[Place], depth: int) -> str:
    """The name with the end of the path, the revision and the file, as far as these tell it from the others."""
    path, revision, file = place
    end = _end(str(path), depth)
    known = depth > 0 and slug(PurePath(str(path)).name) == name
    parts = [end] if known else [name, end]
    same = [other for other in places if other[0] == path]
    parts += [slug(str(revision or "main"))[:MAX_REVISION]] if len({each[1] for each in same}) > 1 else []
    parts += [slug(str(file))] if len({each[2] for each in same}) > 1 else []
    return "-".join(filter(None, parts))[-MAX_NAME:].lstrip("-.")


def _end(path: str, depth: int) -> str:
    """The last so many parts of a path, as a name."""
    return slug("/".join(PurePath(path).parts[-depth:])) if depth else ""


def _depth(name: str, paths: Sequence[str]) -> int:
    """How many parts of these paths, from their ends, tell them apart, and from the name; 1 where none do."""
    ends = (
        (depth, [_end(path, depth) for path in paths]) for depth in range(1, 1 + max(map(_parts, paths), default=0))
    )
    return next((depth for depth, found in ends if len({name, *found}) == len(paths) + 1), 1)


def _parts(path: str) -> int:
    return len(PurePath(path).parts)


def _with_digest(name: str, place: Place) -> str:
    return f"{name[: MAX_NAME - 7]}-{hashlib.sha256(repr(place).encode()).hexdigest()[:6]}"
