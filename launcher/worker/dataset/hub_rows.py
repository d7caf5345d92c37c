"""The rows of a data set on the Hub, at one commit, through `datasets`.

Owns: that the rows are of that commit, also where the Hub cannot be reached; waiting for faults that pass.
Must not know: columns, limits, mixtures.

What `datasets` has prepared of a commit is used without a question. So are the files in the Hub's cache, if they are
all there. Without a way to the Hub `datasets` would take what it has prepared last, of whatever commit and
configuration; so it is not asked then.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

import datasets
from datasets.packaged_modules.cache.cache import Cache
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard, HfApi

from launcher.dataset.layouts import Listing, named_files
from launcher.dataset.naming import Naming
from launcher.errors import UNSAID, ConfigError
from launcher.hub.prepared import lost_tables, prepared_folders
from launcher.hub.sources import Source, cached_folder, has_all_files, refusal
from launcher.machine.terminal import say
from launcher.worker import hub_files

CARDS_OWN = Naming()


def read(source: Source, commit: str, key: str, split: str, naming: Naming = CARDS_OWN) -> datasets.Dataset:
    """The rows of a split at a commit; `key` is whose value the split is.

    Raises:
        ConfigError: they cannot be read, and why.
    """
    builder = prepared(source, commit, naming)
    try:
        return builder.as_dataset(split=split)
    except ValueError as error:
        if str(error).startswith("Unknown split"):
            said = " ".join(str(error).split())
            part = "a part of one is a split too: train[:90%], and train[90%:] held out"
            raise ConfigError(key, split, f"{source} has no such split; {said}; {part}") from error
        raise refusal(source, error) from error


def prepared(source: Source, commit: str, naming: Naming) -> Any:
    """The rows as `datasets` keeps them on this machine, prepared now where they are not.

    Raises:
        ConfigError: they cannot be prepared, and why.
    """
    datasets.disable_progress_bars()
    try:
        builder = _prepared_here(source, commit, naming) or _builder(source, commit, naming)
        hub_files.patiently(source, hub_files.SILENCE_SECONDS, builder.download_and_prepare)
    except ConfigError:
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
