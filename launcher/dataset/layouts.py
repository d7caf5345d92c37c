"""Which files of a folder, or of a repository of the Hub, are a split of a data set: by their names and the card.

Owns: the layouts (one file a split, shards, a folder a split, a card's `configs`, `save_to_disk`), the order of shards,
that none of them is missing.
Must not know: where the names come from, how a file is read, the Hub.

What is looked at, the first that applies: `data_files` as given; `configs` of the card, README.md; what `save_to_disk`
writes; names, at the top or in data/, default/ or the folder of the configuration. Two files that may both be a split
are refused: which one is meant, its author knows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

import yaml

from launcher.dataset.naming import Naming, base_of, patterns_in
from launcher.errors import UNSAID, ConfigError, listed
from launcher.machine.locate import DATA_SUFFIXES

CARD, DICT, STATE = "README.md", "dataset_dict.json", "state.json"
WHOLE = ""  # the name of what has no splits: one table
SUFFIXES = (*DATA_SUFFIXES, ".arrow")
ALIASES = {"train": ("training",), "validation": ("valid", "dev", "val"), "test": ("testing", "eval", "evaluation")}
SHARD = re.compile(r"(?P<split>.+?)-(?P<number>\d+)-of-(?P<total>\d+)(?P<rest>[-.].*)?")
OF_ROWS = {".jsonl", ".json", ".ndjson", ".parquet", ".arrow", ".csv", ".tsv", ".txt", ".tar"}  # as `datasets` has it
NUMBERED = re.compile(r"(?P<split>.+?)[-_.]\d+")
SHOWN = 12  # names that a line lists

Files = dict[str, list[str]]


@dataclass(frozen=True)
class Form:
    """One way in which files are a split, as a line shows it; `is_sure`, if such names mean nothing else."""

    shown: str
    is_sure: bool = True


@dataclass(frozen=True)
class Listing:
    """What is there.

    Attributes:
        place: what a line calls it.
        names: the files, as paths below it.
        read: gives the text of a small one of them; None where it is not there.
        rest: what to do where some of so many files are missing.
    """

    place: str
    names: Sequence[str]
    read: Callable[[str], str | None] = field(compare=False)
    rest: str = "fetch the rest of the {total} files"

    def wrong(self, key: str, value: Any, remedy: str) -> ConfigError:
        """What is wrong with a value, said with the place."""
        return ConfigError(key, value, f"{self.place} {remedy}")


def split_files(listing: Listing, naming: Naming, key: str, split: str) -> list[str]:
    """The files of a split, in order; `key` is whose value the split is. Of one table without splits: its files.

    Raises:
        ConfigError: there is no such split or configuration, a shard is missing, or it cannot be told which is meant.
    """
    base = base_of(split)
    names = (base, *ALIASES.get(base, ()))
    found = splits_in(listing, naming, names)
    name = next((each for each in (WHOLE, *names) if each in found), None)
    if name is None:
        raise _no_such_split(listing, found, key, split)
    return found[name] if _names_each(naming, name) else _complete(listing, found[name])


def _names_each(naming: Naming, split: str) -> bool:
    """Whether the files of a split are given one by one: who names a shard himself wants no other."""
    each = [] if naming.data_files is None else patterns_in(naming.data_files).get(split, [])
    return bool(each) and not any(re.search(r"[*?\[]", one) for one in each)


def check_shards(listing: Listing, naming: Naming, split: str) -> None:
    """That none is missing of the files that `datasets` would take for a split, of whatever format.

    It takes what a card, or patterns, say; else what has the split's name, or lies in its folder; else that in whose
    path the name is a word; else, for the only split, all.

    Raises:
        ConfigError: one of files that are counted is missing.
    """
    base = base_of(split)
    configs = {} if naming.names_files else configs_in(listing)
    config = configs[chosen_config(listing, configs, naming.config)] if configs else {}
    below = _below(listing, naming.data_dir or config.get("data_dir"))
    patterns = config.get("data_files") if naming.data_files is None else naming.data_files
    if patterns is not None:
        files = _matching(listing, below, patterns_in(patterns).get(base, []))
        _complete(listing, [] if _names_each(naming, base) else files)
    else:
        _complete(listing, _of_that_name([name for name in below.names if _holds_rows(name)], base))


def _of_that_name(names: list[str], base: str) -> list[str]:
    words = {base, *ALIASES.get(base, ())}
    likely = [name for name in names if _split_words(name) & words]
    return likely or [name for name in names if words & {*re.split(r"[\W_]+", name)}] or names


def _holds_rows(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.parts[0].startswith(".") and not OF_ROWS.isdisjoint(path.suffixes)


def _split_words(name: str) -> set[str]:
    """What of a file's path may be the name of its split: its folders, and what it is called before the number."""
    path = PurePosixPath(name)
    shard = SHARD.fullmatch(path.name.partition(".")[0])
    return {*path.parent.parts, shard["split"] if shard else path.name.partition(".")[0]}


def is_whole_table(listing: Listing, naming: Naming) -> bool:
    """Whether there are no splits, but one table."""
    return WHOLE in splits_in(listing, naming)


def splits_in(listing: Listing, naming: Naming, wanted: Sequence[str] = ()) -> Files:
    """The files of each split; of one table without splits under WHOLE.

    Raises:
        ConfigError: there is no such configuration, or nothing where a pattern says; or one of the `wanted` splits may
            be either of two.
    """
    below = _below(listing, naming.data_dir)
    if naming.data_files is not None:
        return {split: _matching(listing, below, each) for split, each in patterns_in(naming.data_files).items()}
    configs = configs_in(listing) if naming.data_dir is None else {}
    if configs:
        chosen = configs[chosen_config(listing, configs, naming.config)]
        return _of_config(listing, chosen, wanted)
    return _saved(listing, below, naming) or _by_name(listing, below, naming, wanted)


def named_files(listing: Listing, naming: Naming) -> list[str]:
    """The files that `data_dir` or `data_files` mean, and the card; all of them where neither is given.

    Raises:
        ConfigError: there are none.
    """
    below = _below(listing, naming.data_dir)
    if naming.data_files is None:
        found = list(below.names)
    else:
        found = [name for each in patterns_in(naming.data_files).values() for name in _matching(listing, below, each)]
    return sorted({*found, *({CARD} & set(listing.names))})


# ------------------------------------------------------------------------------------------------ the card


def configs_in(listing: Listing) -> dict[str, dict[str, Any]]:
    """The configurations that the card names, by name; none without a card, or where it says nothing of files."""
    metadata = card_metadata(listing)
    found = metadata.get("configs")
    named = [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
    return {str(each.get("config_name", "default")): each for each in named if {"data_files", "data_dir"} & each.keys()}


def card_metadata(listing: Listing) -> dict[str, Any]:
    """What stands between the lines of dashes at the beginning of the card."""
    text = listing.read(CARD) if CARD in listing.names else None
    block = re.match(r"\ufeff?\s*---\s*\n(.*?)\n---\s*(\n|\Z)", text or "", re.DOTALL)
    try:
        found = yaml.safe_load(block[1]) if block else None
    except yaml.YAMLError:
        found = None
    return found if isinstance(found, dict) else {}


def chosen_config(listing: Listing, configs: Mapping[str, Mapping[str, Any]], wanted: str | None) -> str:
    """The configuration that is meant: the one that is asked for, the default one, or the only one.

    Raises:
        ConfigError: there is none of that name, or several and none is asked for.
    """
    if wanted is not None:
        if wanted not in configs:
            raise listing.wrong("dataset.config", wanted, f"has no such configuration; it has {listed(configs, SHOWN)}")
        return wanted
    default = [name for name, each in configs.items() if each.get("default")] or [n for n in configs if n == "default"]
    if not default and len(configs) > 1:
        raise listing.wrong(
            "dataset.config",
            UNSAID,
            f"has several configurations; give dataset.config, one of {listed(configs, SHOWN)}",
        )
    return (default or list(configs))[0]


def _of_config(listing: Listing, config: Mapping[str, Any], wanted: Sequence[str]) -> Files:
    folder = config.get("data_dir")
    below = _below(listing, None if folder is None else str(folder))
    if "data_files" not in config:
        return _by_name(listing, below, Naming(), wanted)
    return {split: _matching(listing, below, each) for split, each in patterns_in(config["data_files"]).items()}


# ------------------------------------------------------------------------------------------------ patterns


def _below(listing: Listing, folder: str | None) -> Listing:
    """What lies below a folder, by the same names."""
    if folder is None:
        return listing
    start = PurePosixPath(folder).as_posix().rstrip("/")
    names = [name for name in listing.names if name.startswith(f"{start}/")] if start != "." else listing.names
    if not names:
        raise listing.wrong(
            "dataset.data_dir", folder, f"has no such folder; it has {listed(_tops(listing.names), SHOWN)}"
        )
    return replace(listing, place=f"{listing.place}/{start}" if start != "." else listing.place, names=names)


def _matching(listing: Listing, below: Listing, patterns: Sequence[str]) -> list[str]:
    """The files that match any of these patterns, relative to the folder; each once."""
    prefix = below.place.removeprefix(listing.place).lstrip("/")
    found: dict[str, None] = {}
    for pattern in patterns:
        wanted = _as_regex(f"{prefix}/{pattern}" if prefix else pattern.removeprefix("./"))
        matching = [name for name in below.names if wanted.fullmatch(name)]
        if not matching:
            there = listed([name for name in below.names if name.endswith(SUFFIXES)], SHOWN)
            raise below.wrong("dataset.data_files", pattern, f"has no such file; it has {there}")
        found |= dict.fromkeys(_ordered(matching))
    return list(found)


def _as_regex(pattern: str) -> re.Pattern[str]:
    """A pattern as fsspec reads it: `*` within a folder, `**` across folders, `[...]` and `?` a character."""
    pieces = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", pattern)
    words = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(words.get(each) or (each if each[:1] == "[" else re.escape(each)) for each in pieces))


# ------------------------------------------------------------------------------------------------ save_to_disk


def _saved(listing: Listing, below: Listing, naming: Naming) -> Files:
    """What `save_to_disk` has written, of a DatasetDict or of one table; nothing where it has not."""
    prefix = below.place.removeprefix(listing.place).lstrip("/")
    tops = [f"{prefix}/" if prefix else ""]
    tops += [f"{tops[0]}{naming.config}/"] if naming.config else []
    for top in tops:
        if f"{top}{DICT}" in listing.names:
            splits = json.loads(listing.read(f"{top}{DICT}") or "{}").get("splits", [])
            return {split: _of_state(listing, f"{top}{split}/") for split in splits}
        if f"{top}{STATE}" in listing.names:
            return {WHOLE: _of_state(listing, top)}
    return {}


def _of_state(listing: Listing, top: str) -> list[str]:
    """The files of one saved table, as its state.json has them."""
    text = listing.read(f"{top}{STATE}")
    if text is None:
        raise listing.wrong("dataset.path", top.rstrip("/"), f"lacks {top}{STATE}; save it to disk again")
    files = [f"{top}{each['filename']}" for each in json.loads(text).get("_data_files", [])]
    if lost := [name for name in files if name not in listing.names]:
        raise listing.wrong(
            "dataset.path", top.rstrip("/") or ".", f"lacks {listed(lost, SHOWN)}; save it to disk again"
        )
    return files


# ------------------------------------------------------------------------------------------------ by their names


def _by_name(listing: Listing, below: Listing, naming: Naming, wanted: Sequence[str]) -> Files:
    """The splits by the names of files and folders; of two forms of one that is not wanted the first."""
    prefix = below.place.removeprefix(listing.place).lstrip("/")
    top = f"{prefix}/" if prefix else ""
    roots = _roots(top, naming.config)
    found: dict[str, dict[Form, list[str]]] = {}
    for name in (each for each in below.names if each.endswith(SUFFIXES)):
        for split, form in _forms(name, roots):
            found.setdefault(split, {}).setdefault(form, []).append(name)
    if naming.config is not None and not found:
        raise listing.wrong(
            "dataset.config", naming.config, f"has no such configuration; it has {listed(_tops(below.names), SHOWN)}"
        )
    told = {split: _likely(forms) for split, forms in found.items()}
    return {split: _only(listing, split, forms, wanted) for split, forms in told.items() if forms}


def _roots(top: str, config: str | None) -> tuple[str, ...]:
    """The folders in which a split's files may lie, the deepest first."""
    inner = ("default",) if config is None else (config,)
    found = [f"{top}{each}/data/" for each in inner] + [f"{top}data/{each}/" for each in inner]
    found += [f"{top}{each}/" for each in inner]
    return tuple(found if config is not None else [*found, f"{top}data/", top])


def _forms(name: str, roots: Iterable[str]) -> Iterator[tuple[str, Form]]:
    """The split that a file may belong to, and as what: alone, as one of several, or as a file of its folder."""
    root = next((each for each in roots if name.startswith(each)), None)
    if root is None:
        return
    first, _, rest = name.removeprefix(root).partition("/")
    if rest:
        yield first, Form(f"{root}{first}/")
        return
    suffix = next(each for each in SUFFIXES if first.endswith(each))
    stem = first.removesuffix(suffix)
    yield stem, Form(f"{root}{first}")
    if shard := SHARD.fullmatch(stem):
        yield shard["split"], Form(f"{root}{shard['split']}-*-of-{shard['total']}{suffix}")
    elif numbered := NUMBERED.fullmatch(stem):
        yield numbered["split"], Form(f"{root}{numbered['split']}*{suffix}", is_sure=False)


def _likely(forms: Mapping[Form, list[str]]) -> dict[Form, list[str]]:
    """The forms that are sure; without any, files that count: train-0, train-1, and not train-1000 alone."""
    sure = {form: names for form, names in forms.items() if form.is_sure}
    return sure or {form: names for form, names in forms.items() if _count(names)}


def _count(names: Sequence[str]) -> bool:
    numbers = sorted(int(re.findall(r"\d+", PurePosixPath(name).name)[-1]) for name in names)
    return len(names) > 1 and numbers in ([*range(len(names))], [*range(1, len(names) + 1)])


def _only(listing: Listing, split: str, forms: Mapping[Form, list[str]], wanted: Sequence[str]) -> list[str]:
    """The files of the one form that there is."""
    if len(forms) > 1 and split in wanted:
        both = " and ".join(form.shown for form in forms)
        raise listing.wrong(
            "dataset.path",
            UNSAID,
            f"has {both}, and each may be the {split} split; name the files of each split with "
            f"dataset.data_files='{{{split}: PATTERN, ...}}'",
        )
    files = next(iter(forms.values()))
    top = f"{PurePosixPath(files[0]).parent.as_posix()}/"
    return _of_state(listing, top) if f"{top}{STATE}" in listing.names else _ordered(files)


def _complete(listing: Listing, files: list[str]) -> list[str]:
    """The files, if none is missing among those that are counted.

    Raises:
        ConfigError: one is missing.
    """
    counted: dict[tuple[str, str, int, str], set[int]] = {}
    for name in files:
        path = PurePosixPath(name)
        suffix = next((each for each in SUFFIXES if path.name.endswith(each)), path.suffix)
        if shard := SHARD.fullmatch(path.name.removesuffix(suffix)):
            group = (path.parent.as_posix(), shard["split"], int(shard["total"]), suffix)
            counted.setdefault(group, set()).add(int(shard["number"]))
    for (folder, split, total, suffix), numbers in counted.items():
        first = 1 if total in numbers else 0  # some count from 1
        if lost := sorted(set(range(first, first + total)) - numbers):
            names = [f"{split}-{number:05d}-of-{total:05d}{suffix}" for number in lost]
            where = "" if folder == "." else f" in {folder}"
            raise listing.wrong(
                "dataset.path", UNSAID, f"lacks {listed(names, SHOWN)}{where}; {listing.rest.format(total=total)}"
            )
    return files


def _ordered(names: Iterable[str]) -> list[str]:
    """In the order of their numbers: part-2 before part-10."""

    def place(name: str) -> list[tuple[int, str]]:
        return [(int(each), "") if each.isdecimal() else (-1, each) for each in re.split(r"(\d+)", name)]

    return sorted(names, key=place)


def _no_such_split(listing: Listing, found: Collection[str], key: str, split: str) -> ConfigError:
    files, splits = (
        listed(_tops(listing.names), SHOWN) or "nothing",
        sorted(each for each in found if not SHARD.fullmatch(each)),
    )
    remedy = f"no {base_of(split)}.jsonl, .json or .parquet, nor shards of it, in {listing.place}; found {files}"
    remedy += "; name the file of that split (without .jsonl), or give one file as dataset.path, whose last tenth is"
    remedy += " held out"
    if splits:
        remedy += f"; splits: {listed(splits, SHOWN)}; a piece of one is NAME[:90%], NAME[90%:]"
    return ConfigError(key, split, remedy)


def _tops(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(name.partition("/")[0] + ("/" if "/" in name else "") for name in names))
