"""The rows of a data set on the Hub, at one commit, through `datasets`.

Owns: that the rows are of that commit, also where the Hub cannot be reached; waiting for faults that pass.
Must not know: columns, limits, mixtures.

Without a way to the Hub `datasets` takes what it has prepared last of a data set, of whatever commit. So what was
prepared is only taken if it is of the commit, and else the files in the Hub's cache, if they are all there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
from datasets.naming import camelcase_to_snakecase
from datasets.packaged_modules.cache.cache import Cache

from launcher.config import ConfigError
from launcher.hub_sources import Source, is_unreachable, refusal
from launcher.worker import hub_files


def read(source: Source, commit: str, split: str) -> datasets.Dataset:
    """The rows of a split at a commit.

    Raises:
        ConfigError: they cannot be read, and why.
    """
    datasets.disable_progress_bars()
    try:
        builder = _builder(source, commit)
        hub_files.patiently(source, hub_files.SILENCE_SECONDS, builder.download_and_prepare)
        return builder.as_dataset(split=split)
    except ConfigError:
        raise
    except Exception as error:  # the Hub's client, fsspec and datasets each have their own family of errors
        raise ConfigError(_words(source, split, error)) from error


def _builder(source: Source, commit: str) -> Any:
    prepared = _prepared(source, commit)
    silence = 0.0 if prepared is not None else hub_files.SILENCE_SECONDS
    try:
        found = hub_files.patiently(
            source, silence, lambda: datasets.load_dataset_builder(source.path, revision=commit)
        )
        if found.hash == commit:
            return found
    except Exception as error:
        if not is_unreachable(error):
            raise
    if prepared is not None:
        return prepared
    # what came was prepared from another commit, since nobody answered
    return datasets.load_dataset_builder(str(hub_files.dataset_folder(source, commit)))


def _prepared(source: Source, commit: str) -> Any:
    """What `datasets` has prepared of this commit on this machine; None where there is nothing, or more than one."""
    organisation, _, name = source.path.rpartition("/")
    folder = Path(datasets.config.HF_DATASETS_CACHE) / f"{organisation}___{camelcase_to_snakecase(name)}"
    found = sorted(path for path in folder.glob(f"*/*/{commit}") if (path / "dataset_info.json").is_file())
    if len(found) != 1:
        return None
    configuration, version = found[0].parts[-3:-1]
    return Cache(dataset_name=name, repo_id=source.path, config_name=configuration, version=version, hash=commit)


def _words(source: Source, split: str, error: BaseException) -> str:
    if isinstance(error, ValueError) and str(error).startswith("Unknown split"):
        return f"dataset split {split}: {source} has no such split; {' '.join(str(error).split())}"
    return refusal(source, error)
