"""The rows of a data set on the Hub, at one commit, through `datasets`.

Owns: that the rows are of that commit, also where the Hub cannot be reached; waiting for faults that pass.
Must not know: columns, limits, mixtures.

What `datasets` has prepared of a commit is used without a question. So are the files in the Hub's cache, if they are
all there. Without a way to the Hub `datasets` would take what it has prepared last, of whatever commit and
configuration; so it is not asked then.
"""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Any

import datasets
from datasets.naming import camelcase_to_snakecase
from datasets.packaged_modules.cache.cache import Cache
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard, HfApi

from launcher.errors import ConfigError
from launcher.hub.sources import Source, cached_folder, has_all_files, refusal
from launcher.worker import hub_files


def read(source: Source, commit: str, key: str, split: str) -> datasets.Dataset:
    """The rows of a split at a commit; `key` is whose value the split is.

    Raises:
        ConfigError: they cannot be read, and why.
    """
    datasets.disable_progress_bars()
    try:
        builder = _prepared_here(source, commit) or _builder(source, commit)
        hub_files.patiently(source, hub_files.SILENCE_SECONDS, builder.download_and_prepare)
        return builder.as_dataset(split=split)
    except ConfigError:
        raise
    except Exception as error:  # the Hub's client, fsspec and datasets each have their own family of errors
        raise _refused(source, key, split, error) from error


def _builder(source: Source, commit: str) -> Any:
    """What prepares the data set, from the files in the cache if they are all there, else from the Hub."""
    folder = cached_folder(source, commit) if has_all_files(source, commit) else None
    if folder is None and Path(source.path).exists():  # which `datasets` would read in place of the Hub
        folder = hub_files.fetch_dataset(source, commit)
    if folder is not None:
        return datasets.load_dataset_builder(str(folder))

    def ask() -> object:
        return HfApi().repo_info(source.path, repo_type=source.kind, revision=commit)

    hub_files.patiently(source, hub_files.SILENCE_SECONDS, ask)  # whether there is a way; `datasets` would not say
    found = hub_files.patiently(
        source, hub_files.SILENCE_SECONDS, lambda: datasets.load_dataset_builder(source.path, revision=commit)
    )
    if found.hash != commit:  # the Hub has been lost in between, and what was prepared last came instead
        raise source.wrong("the Hub was lost while its rows were looked up; try again")
    return found


def _prepared_here(source: Source, commit: str) -> Any:
    """What `datasets` has prepared of this commit on this machine; None where there is nothing."""
    organisation, _, name = source.path.rpartition("/")
    folder = Path(datasets.config.HF_DATASETS_CACHE) / f"{organisation}___{camelcase_to_snakecase(name)}"
    found = sorted(folder.glob(f"{glob.escape(_configuration(source, commit))}/*/{commit}/dataset_info.json"))
    if not found:
        return None
    configuration, version = found[0].parts[-4:-2]
    return Cache(dataset_name=name, repo_id=source.path, config_name=configuration, version=version, hash=commit)


def _configuration(source: Source, commit: str) -> str:
    """The name of the configuration that is read where none is named, as the card says; `default` without one."""
    card = cached_folder(source, commit) / "README.md"
    if not card.is_file():
        return "default"
    found = MetadataConfigs.from_dataset_card_data(DatasetCard.load(card).data)
    only = next(iter(found)) if len(found) == 1 else None
    return found.get_default_config_name() or only or "default"


def _refused(source: Source, key: str, split: str, error: BaseException) -> ConfigError:
    if isinstance(error, ValueError) and str(error).startswith("Unknown split"):
        words = f"{source} has no such split; {' '.join(str(error).split())}"
        return ConfigError(key, split, f"{words}; a part of one is a split too: train[:90%], and train[90%:] held out")
    return refusal(source, error)
