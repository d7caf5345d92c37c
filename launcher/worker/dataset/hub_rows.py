"""The rows of a data set on the Hub, at one commit, through `datasets`; what that cannot read, by our own reader.

Owns: that the rows are of that commit, also where the Hub cannot be reached, and all of them; waiting for faults that
pass.
Must not know: columns, limits, mixtures.

What `datasets` has prepared of a commit is used without a question. So are the files in the Hub's cache, if they are
all there. Without a way to the Hub `datasets` would take what it has prepared last, of whatever commit and
configuration; so it is not asked then. Files of which it can make no table (UTF-16, halves of characters, columns of
several types) are read as those of a folder on this machine are, where their names tell which are the split's.
"""

from __future__ import annotations

import json
import shutil
import traceback
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import datasets
from datasets.exceptions import DatasetGenerationError
from datasets.packaged_modules.cache.cache import Cache
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard, HfApi

from launcher.dataset.layouts import (
    ALIASES,
    SUFFIXES,
    WHOLE,
    Listing,
    check_shards,
    named_files,
    split_files,
    splits_in,
)
from launcher.dataset.naming import Naming, base_of
from launcher.dataset.rows import Row, read_all
from launcher.errors import UNSAID, ConfigError
from launcher.hub.prepared import lost_tables, prepared_folders
from launcher.hub.sources import (
    REST,
    Source,
    cached_folder,
    cached_sizes,
    cached_text,
    has_all_files,
    is_unreachable,
    refusal,
    text_of,
)
from launcher.machine.terminal import say
from launcher.worker import hub_files

CARDS_OWN = Naming()


class Unmade(Exception):
    """`datasets` can make no table of the files; why, in one line."""


def read(source: Source, commit: str, key: str, split: str, naming: Naming = CARDS_OWN) -> datasets.Dataset | list[Row]:
    """The rows of a split at a commit; `key` is whose value the split is.

    Raises:
        ConfigError: they cannot be read, or are not all there, and why.
    """
    if (listing := _listing(source, commit, naming)) is not None:
        check_shards(listing, naming, split)
    try:
        builder = prepared(source, commit, naming)
        return builder.as_dataset(split=split)
    except Unmade as error:
        return list(_own_rows(source, commit, naming, split, str(error)))
    except ValueError as error:
        if str(error).startswith("Unknown split"):
            said = " ".join(str(error).split())
            part = "a part of one is a split too: train[:90%], and train[90%:] held out"
            raise ConfigError(key, split, f"{source} has no such split; {said}; {part}") from error
        raise refusal(source, error) from error


def prepare(source: Source, commit: str, naming: Naming) -> None:
    """Have this machine keep all that a job needs to read the rows without the Hub, and see that it can.

    Raises:
        ConfigError: it cannot, and why.
    """
    try:
        prepared(source, commit, naming)
    except Unmade as error:
        for split in _own_splits(_known_listing(source, commit), naming) or (WHOLE,):
            for _ in _own_rows(source, commit, naming, split, str(error)):
                pass
        if not naming.names_files:
            hub_files.fetch_dataset(source, commit)  # which a job needs, as there is no table


def prepared(source: Source, commit: str, naming: Naming) -> Any:
    """The rows as `datasets` keeps them on this machine, prepared now where they are not.

    Raises:
        ConfigError: they cannot be prepared, and why.
        Unmade: the files are there, and `datasets` cannot read them.
    """
    datasets.disable_progress_bars()
    try:
        builder = _prepared_here(source, commit, naming) or _builder(source, commit, naming)
        hub_files.patiently(source, hub_files.SILENCE_SECONDS, partial(_make, builder))
    except (ConfigError, Unmade):
        raise
    except Exception as error:  # the Hub's client, fsspec and datasets each have their own family of errors
        raise _refused(source, naming, error) from error
    return builder


def _builder(source: Source, commit: str, naming: Naming) -> Any:
    """What prepares the data set, from the files in the cache if they are all there, else from the Hub."""
    folder = cached_folder(source, commit) if has_all_files(source, commit) else None
    wanted = {"name": naming.config, "data_dir": naming.data_dir, "data_files": naming.data_files}
    options = {key: value for key, value in wanted.items() if value is not None}
    # A folder of its name `datasets` would read in place of the Hub. Of files that are named it needs no others.
    if folder is None and (naming.names_files or Path(source.path).exists()):
        folder = hub_files.fetch_dataset(source, commit, partial(_needed, source, naming))
    if folder is not None:
        return datasets.load_dataset_builder(str(folder), **options)

    def ask() -> object:
        return HfApi().repo_info(source.path, repo_type=source.kind, revision=commit)

    hub_files.patiently(source, hub_files.SILENCE_SECONDS, ask)  # whether there is a way; `datasets` would not say
    found = hub_files.patiently(
        source,
        hub_files.SILENCE_SECONDS,
        lambda: datasets.load_dataset_builder(source.path, revision=commit, **options),
    )
    if found.hash != commit:  # the Hub has been lost in between, and what was prepared last came instead
        raise source.wrong("the Hub was lost while its rows were looked up; try again")
    return found


def _make(builder: Any) -> None:
    try:
        builder.download_and_prepare()
    except (DatasetGenerationError, ValueError) as error:
        if is_unreachable(error) or isinstance(error, json.JSONDecodeError):  # the Hub's answer was none
            raise
        raise Unmade(_why(error)) from None  # its causes look like those of a server in trouble


def _why(error: BaseException) -> str:
    """The innermost cause in one line, with the name of the file that `datasets` was reading."""
    while error.__cause__ is not None:
        error = error.__cause__
    read = [frame.f_locals.get("file") for frame, _ in traceback.walk_tb(error.__traceback__)]
    names = [Path(file).name for file in read if isinstance(file, str)]
    said = " ".join(str(error).split()) or type(error).__name__
    return f"{names[-1]}: {said}" if names else said


def _own_splits(listing: Listing, naming: Naming) -> list[str]:
    """The splits that our own reader finds in the repository; none where it knows none of them."""
    try:
        found = splits_in(listing, naming)
    except ConfigError:
        return []
    return [split for split, files in found.items() if split != WHOLE and all(map(_is_ours, files))]


def _is_ours(name: str) -> bool:
    return name.endswith(SUFFIXES)


def _own_rows(source: Source, commit: str, naming: Naming, split: str, why: str) -> Iterator[Row]:
    """The rows of a split by our own reader; `why` `datasets` has none.

    Raises:
        ConfigError: that reader cannot read them either, or it cannot be told which files are the split's.
    """
    listing = _known_listing(source, commit)
    if not {base_of(split), *ALIASES.get(base_of(split), ())} & {*_own_splits(listing, naming)}:
        raise source.wrong(f"cannot be read: {why}; mend that file, or name others with dataset.data_files")
    names = split_files(listing, naming, "dataset.path", split)
    folder = hub_files.fetch_dataset(source, commit, lambda _: names)
    try:
        yield from read_all(folder / name for name in names)
    except ConfigError as error:
        raise source.wrong(error.remedy.replace(f"{folder}/", "")) from error


def _listing(source: Source, commit: str, naming: Naming) -> Listing | None:
    """What the repository holds; None where only the Hub knows, and the rows have been prepared here already."""
    kept = [] if naming.names_files else prepared_folders(commit, naming.config)
    return _known_listing(source, commit) if cached_sizes(source, commit) or not kept else None


def _known_listing(source: Source, commit: str) -> Listing:
    try:
        names = hub_files.names(source, commit)
    except Exception as error:  # the Hub's client, fsspec and datasets each have their own family of errors
        raise refusal(source, error) from error
    return Listing(str(source), names, partial(_text, source, commit), REST)


def _text(source: Source, commit: str, name: str) -> str | None:
    """A small file, where it can be read; without it there are the names."""
    if (text := cached_text(source, commit, name)) is not None:
        return text
    try:
        return text_of(source, commit, name)
    except Exception:  # noqa: BLE001 - the Hub may be gone, whose files are here
        return None


def _needed(source: Source, naming: Naming, names: Collection[str]) -> list[str]:
    return named_files(Listing(str(source), sorted(names), lambda _: None), naming)


def _prepared_here(source: Source, commit: str, naming: Naming) -> Any:
    """What `datasets` has prepared of this commit on this machine; None where there is nothing, or not all of it."""
    if naming.names_files:  # under a name that only `datasets` could tell, and it finds that by the files
        return None
    for folder in prepared_folders(commit, naming.config or _configuration(source, commit)):
        configuration, version = folder.parts[-3:-1]
        if lost := lost_tables(folder):  # which `datasets` would trust
            say(f"{folder} has lost {lost[0]}, one of {len(lost)}; preparing it again")
            shutil.rmtree(folder)
            continue
        name = source.path.rpartition("/")[2]
        return Cache(dataset_name=name, repo_id=source.path, config_name=configuration, version=version, hash=commit)
    return None


def _configuration(source: Source, commit: str) -> str:
    """The name of the configuration that is read where none is named, as the card says; `default` without one."""
    card = cached_folder(source, commit) / "README.md"
    if not card.is_file():
        return "default"
    found = MetadataConfigs.from_dataset_card_data(DatasetCard.load(card).data)
    only = next(iter(found)) if len(found) == 1 else None
    return found.get_default_config_name() or only or "default"


def _refused(source: Source, naming: Naming, error: BaseException) -> ConfigError:
    said = " ".join(str(error).split())
    if isinstance(error, ValueError) and ("BuilderConfig" in said or "Config name is missing" in said):
        value = UNSAID if naming.config is None else naming.config
        return ConfigError("dataset.config", value, f"{source} has several, or no such one: {said}")
    return refusal(source, error)
