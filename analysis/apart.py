"""What tells runs apart: their models, their data sets, and every key that differs beside loss_type, beta and seed.

Owns: names that are unique where those of the file are not; which keys make up a run's setting, and in which words.
Must not know: scores, figures.

A name says nothing of what it stands for: two folders may have one, and one of the Hub many revisions. So models and
data sets are told apart by where they come from (the objective) and by what was found there (the sources).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import pandas as pd

STEP = "step"  # the axis of runs with milestones
SECTIONS = ("model", "dataset")  # of an objective, with a name each
OBJECTIVE = (*SECTIONS, "trainer", "loss_type", "beta", "seed")  # a whole one has them all
# Where a model or data set comes from.
_PLACE = ("path", "revision", "gguf_file", "config", "data_dir", "data_files")
_NAMES = {f"{section}.{key}" for section in SECTIONS for key in ("name", *_PLACE, "about")}
# Named by columns of their own; every other key that differs makes up a run's "setting".
_NAMED = (*SECTIONS, "loss_type", "beta", "seed")
_NULL = "None"  # as `show` has it
_LONG = 40  # characters of a value that is shown; of a longer one, its hash
_SHORT = 8  # characters of a hash, or a commit
_REVISION = 12  # of a revision

Flat = dict[str, Any]


def show(value: object) -> str:
    """Give a config value as short text: 0.0002 rather than 2.0000e-04, lists and dicts as JSON."""
    if value is None or isinstance(value, str | int):
        return str(value)
    if isinstance(value, float):
        return f"{value:.12g}"
    return json.dumps(value, sort_keys=True, default=str, ensure_ascii=False)


def flat(nested: Mapping[str, Any], prefix: str = "") -> Flat:
    """Flatten nested mappings to ``a.b.c`` keys; an empty one is a value."""
    found: Flat = {}
    for key, value in nested.items():
        name = f"{prefix}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return found


def differing(rows: Sequence[Flat]) -> list[str]:
    """Name the keys of which some rows have different values; a row that lacks a key says nothing of it."""
    keys = dict.fromkeys(key for row in rows for key in row)
    return [key for key in keys if len({show(row[key]) for row in rows if key in row}) > 1]


# ------------------------------------------------------------------------------------------------ names


def unique_names(frame: pd.DataFrame, section: str) -> list[str | None]:
    """Give each row's name of its model (or data set), with what tells it from others of that name."""
    rows = frame.to_dict("records")
    groups: dict[str | None, list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(row[section], []).append(index)
    found: dict[int, str | None] = {}
    for name, indices in groups.items():
        found |= dict(zip(indices, _named([rows[index] for index in indices], name, section), strict=True))
    return [found[index] for index in range(len(rows))]


def _named(rows: Sequence[Mapping[Hashable, Any]], name: str | None, section: str) -> list[str | None]:
    """Give the names of rows that share one: by their places, then by what was found there."""
    places = [place_of(row, section) for row in rows]
    labels = _by_place(name or "?", {place for place in places if place})
    named = [labels.get(place, name) for place in places]
    return [
        each if each is None else each + more
        for each, more in zip(named, _by_content(rows, named, section), strict=True)
    ]


def place_of(row: Mapping[Any, Any], section: str) -> tuple[str | None, ...]:
    """Give where a row's model or data set comes from; empty where its objective does not say."""
    given = row["objective"].get(section)
    return tuple(None if (v := given.get(key)) is None else str(v) for key in _PLACE) if isinstance(given, dict) else ()


def _by_place(name: str, places: set[tuple[str | None, ...]]) -> dict[tuple[str | None, ...], str]:
    """Give the names of places that share one; none where there is but one."""
    with_path = {place for place in places if place[0]}
    if len(places) < 2:  # noqa: PLR2004 - nothing to tell apart
        return {}
    paths = sorted({str(place[0]) for place in with_path})
    depth = _depth(name, paths) if len(paths) > 1 or len(with_path) < len(places) else 0
    return {place: _longer(name, place, with_path, depth) for place in with_path}


def _depth(name: str, paths: Sequence[str]) -> int:
    """Give how many parts of these paths, from their ends, tell them apart, and from the name."""
    deepest = max((len(PurePath(path).parts) for path in paths), default=0)
    wanted = len(paths) + 1
    return next((d for d in range(1, deepest) if len({name, *(_end(path, d) for path in paths)}) == wanted), deepest)


def _longer(name: str, place: tuple[str | None, ...], places: Iterable[tuple[str | None, ...]], depth: int) -> str:
    """Give a name with as much of path, revision and what is taken of it as tells it from the others."""
    path, revision, *within = place
    same = [other for other in places if other[0] == path]
    text = name
    if depth and path:
        text = _end(path, depth) if PurePath(path).name.lower() == name.lower() else f"{name} ({_end(path, depth)})"
    if len({each[1] for each in same}) > 1:
        text += f"@{(revision or 'main')[:_REVISION]}"
    for number, value in enumerate(within, 2):
        if value and len({each[number] for each in same}) > 1:
            text += f" {value}"
    return text


def _end(path: str, depth: int) -> str:
    return "/".join(PurePath(path).parts[-depth:]) if depth else ""


def _by_content(rows: Sequence[Mapping[Hashable, Any]], named: Sequence[str | None], section: str) -> list[str]:
    """Give what to add to the names of rows of one place where different things were found there."""
    found = [content_of(row["sources"], section) for row in rows]
    keys = {
        name: differing([each for each, own in zip(found, named, strict=True) if own == name]) for name in set(named)
    }
    return [_hash(each, keys[name]) for each, name in zip(found, named, strict=True)]


def content_of(sources: Mapping[str, Any], section: str) -> Flat:
    """Give what was found of a model or a data set, by its leaves: commits, and the hashes of files."""
    held, inputs = sources.get(section), sources.get("inputs")
    of_files = inputs.items() if isinstance(inputs, dict) else ()
    local = {key: each for key, each in of_files if key.startswith(f"{section}.")}
    return (flat(held) if isinstance(held, dict) else {}) | flat(local)


def _hash(content: Flat, keys: Sequence[str]) -> str:
    values = [content[key] for key in keys if key in content]
    if not values:
        return ""
    short = str(values[0]) if len(values) == 1 else hashlib.sha256(show(values).encode()).hexdigest()
    return f"@{short[:_SHORT]}"


# ------------------------------------------------------------------------------------------------ settings


def setting_keys(frame: pd.DataFrame) -> list[str]:
    """Name the keys, besides model, dataset, loss_type, beta and seed, that tell the runs of a frame apart."""
    runs = frame[frame["kind"] == "run"].to_dict("records")
    axes = axis_keys(runs)
    varied = [key for key in axes if len({axis_value(row, key) for row in runs}) > 1]
    return varied + further_keys(frame)


def axis_keys(runs: Sequence[Mapping[Hashable, Any]]) -> list[str]:
    """Name the sweeps' axes that have no column of their own and are no part of a name, sorted."""
    return sorted({key for row in runs for key in row["axes"]} - set(_NAMED) - _NAMES)


def further_keys(frame: pd.DataFrame) -> list[str]:
    """Name the keys of the runs' objectives that differ, though no axis, and no name, says so."""
    runs = [row for row in frame[frame["kind"] == "run"].to_dict("records") if row["objective"]]
    whole = [_whole(row["objective"]) for row in runs]
    axes = axis_keys(runs)
    keys = [key for key in sorted(differing(whole)) if key not in {*axes, *_NAMED, *_NAMES}]
    heads = [*SECTIONS, *axes, *(["trainer.name"] if "trainer.name" in keys else [])]
    keys = [key for key in keys if not any(_follows(key, head, runs, whole) for head in heads)]
    return [key for key in keys if not _is_of_a_loss(key, runs, whole)]


def _whole(objective: Mapping[str, Any]) -> Flat:
    """Give an objective by its leaves; in a whole one, what it lacks beside its neighbours is null."""
    leaves = flat(objective)
    if not all(key in objective for key in OBJECTIVE):
        return leaves
    return _Nulls(leaves)


class _Nulls(dict[str, Any]):
    """A mapping in which every key is: those that were not given are null."""

    def __contains__(self, key: object) -> bool:
        return True

    def __missing__(self, _: str) -> None:
        return None


def _follows(key: str, head: str, runs: Sequence[Mapping[Hashable, Any]], whole: Sequence[Flat]) -> bool:
    """Tell whether a key within a group (`trainer.lora.r` in `trainer`) says no more than the group's name does."""
    group = head.removesuffix(".name")
    if key == head or not key.startswith(f"{group}."):
        return False
    values: dict[str, set[str]] = {}
    for row, leaves in zip(runs, whole, strict=True):
        place = str(row[head]) if head in SECTIONS else axis_value(row, head)
        values.setdefault(place, set()).add(show(leaves[key]) if key in leaves else "?")
    return all(len(each) == 1 for each in values.values())


def _is_of_a_loss(key: str, runs: Sequence[Mapping[Hashable, Any]], whole: Sequence[Flat]) -> bool:
    """Tell whether a key is one that only some losses take, each with one value: then loss_type says it."""
    values: dict[str, set[str]] = {}
    for row, leaves in zip(runs, whole, strict=True):
        values.setdefault(str(row["loss_type"]), set()).add(show(leaves[key]) if key in leaves else "None")
    return all(len(each) == 1 for each in values.values()) and {"None"} in values.values()


def settings_of(frame: pd.DataFrame) -> list[str]:
    """Name, for each row, what tells it apart besides model, loss_type, beta and seed."""
    keys = setting_keys(frame)
    words = dict(zip(keys, short_names(keys), strict=True))
    runs = frame[frame["kind"] == "run"]
    telling = _telling(runs, keys)
    dataset_matters = any(len(group) > 1 for group in runs.groupby("model", dropna=False)["dataset"].unique())
    names = []
    for row in frame.to_dict("records"):
        parts = [str(row["dataset"])] if dataset_matters else []
        if row["kind"] == "run":
            known = [key for key in keys if row["objective"] or key in row["axes"] or key == STEP]
            known = [key for key in known if (row["loss_type"], key) in telling]
            parts += [f"{words[key]}={brief(axis_value(row, key))}" for key in known] + [row["evaluated"]]
        names.append(", ".join(filter(None, parts)))
    return names


def _telling(runs: pd.DataFrame, keys: Sequence[str]) -> set[tuple[Any, str]]:
    """Give the keys that tell runs of a loss apart, each with the loss.

    Not those of which none of its runs has a value; nor, of keys that only some losses take, those whose value loss and
    beta say: the one that all have, or a margin that goes with beta.
    """
    found: dict[tuple[Any, str], dict[str, set[str]]] = {}
    for row in runs.to_dict("records"):
        for key in keys:
            found.setdefault((row["loss_type"], key), {}).setdefault(show(row["beta"]), set()).add(axis_value(row, key))
    without = {place for place, values in found.items() if set().union(*values.values()) == {_NULL}}
    of_some = {key for _, key in without}
    said = {place for place, values in found.items() if all(len(each) == 1 for each in values.values())}
    return {place for place in found if place not in without and not (place in said and place[1] in of_some)}


def short_names(keys: Sequence[str]) -> list[str]:
    """Give the last part of each key, or the whole where another key ends alike."""
    short = [key.removesuffix(".name").split(".")[-1] for key in keys]
    often = Counter(short)
    return [name if often[name] == 1 else key for key, name in zip(keys, short, strict=True)]


def brief(text: str) -> str:
    """Give a text, or the hash of a long one."""
    return text if len(text) <= _LONG else f"#{hashlib.sha256(text.encode()).hexdigest()[:_SHORT]}"


def evaluated(frame: pd.DataFrame) -> list[str]:
    """Say, for each row, in which way it was evaluated, where the runs of its model and data set were in several.

    An untrained model was evaluated in the way of the runs beside which it stands.
    """
    scored = frame["golden_reward"].notna() | frame["kl"].notna()
    known = frame[(frame["kind"] == "run") & scored & frame["base"].notna()]
    found: dict[Any, str] = {}
    for _, own in known.groupby(["model", "dataset"], dropna=False):
        if len(own["base"].unique()) > 1:
            made = [flat(by) for by in own["preference_made_by"]]
            ways = [_way(each, differing(made), base) for each, base in zip(made, own["base"], strict=True)]
            found |= dict(zip(own.index, ways, strict=True))
            way_of = dict(zip(own["base"], ways, strict=True))
            bases = frame[(frame["kind"] == "base") & frame["base"].isin(list(way_of))]
            same = bases[(bases["model"] == own["model"].iloc[0]) & (bases["dataset"] == own["dataset"].iloc[0])]
            found |= {index: way_of[base] for index, base in same["base"].items()}
    return [found.get(index, "") for index in frame.index]


def _way(made_by: Flat, keys: Sequence[str], base: str) -> str:
    parts = [_said(key, show(made_by[key])) for key in keys if key in made_by]
    return ", ".join(parts) or f"evaluated as {base[:_SHORT]}"


def _said(key: str, value: str) -> str:
    """Say one of the settings that evaluations differ in; how the KL is estimated is a sentence, of which its end."""
    if key != "kl_estimator":
        return f"{key}={brief(value)}"
    end = value.rpartition("own samples")[2].strip(", ")
    return f"KL by {end}" if end else "KL as estimated before"


def axis_value(row: pd.Series | Mapping[Any, Any], key: str) -> str:
    """Give a run's place on an axis; a run of another sweep, for which it was none, has it in its objective.

    A run without milestones is, beside runs with them, a point at its last step.
    """
    if key == STEP and key not in row["axes"]:
        return show(row["max_steps"]) if math.isfinite(row["max_steps"]) else "?"
    value = row["axes"].get(key, at(row["objective"], key.split(".")))
    return show(value["name"] if isinstance(value, dict) and "name" in value else value)


def at(nested: Mapping[str, Any], path: Iterable[str]) -> object:
    """Give the value that the keys of ``path`` lead to; None where they lead nowhere."""
    value: object = nested
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value
