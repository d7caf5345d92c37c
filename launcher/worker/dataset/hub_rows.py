"""The rows of a data set on the Hub, at one commit, through `datasets`.

Owns: that the rows are of that commit, also where the Hub cannot be reached; waiting for faults that pass.
Must not know: columns, limits, mixtures.

What `datasets` has prepared of a commit is used without a question. So are the files in the Hub's cache, if they are
all there. Without a way to the Hub `datasets` would take what it has prepared last, of whatever commit and
configuration; so it is not asked then.
"""

from __future__ import annotations

import glob
import json
import shutil
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

import datasets
from datasets.naming import camelcase_to_snakecase
from datasets.packaged_modules.cache.cache import Cache
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard, HfApi

from launcher.dataset.layouts import Listing, named_files
from launcher.dataset.naming import Naming
from launcher.errors import UNSAID, ConfigError
from launcher.hub.sources import Source, cached_folder, has_all_files, refusal
from launcher.worker import hub_files

CARDS_OWN = Naming()


def read(source: Source, commit: str, key: str, split: str, naming: Naming = CARDS_OWN) -> datasets.Dataset:
    """The rows of a split at a commit; `key` is whose value the split is.

    Raises:
        ConfigError: they cannot be read, and why.
    """
    datasets.disable_progress_bars()
    try:
        return prepared(source, commit, naming).as_dataset(split=split)
    except ConfigError:
        raise
    except Exception as error:  # the Hub's client, fsspec and datasets each have their own family of errors
        raise _refused(source, key, split, naming, error) from error


def prepared(source: Source, commit: str, naming: Naming) -> Any:
    """The rows as `datasets` keeps them on this machine, prepared now where they are not."""
    builder = _prepared_here(source, commit, naming) or _builder(source, commit, naming)
    hub_files.patiently(source, hub_files.SILENCE_SECONDS, builder.download_and_prepare)
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
    organisation, _, name = source.path.rpartition("/")
    folder = Path(datasets.config.HF_DATASETS_CACHE) / f"{organisation}___{camelcase_to_snakecase(name)}"
    chosen = naming.config or _configuration(source, commit)
    found = sorted(folder.glob(f"{glob.escape(chosen)}/*/{commit}/dataset_info.json"))
    if not found or not _is_whole(found[0]):
        return None
    configuration, version = found[0].parts[-4:-2]
    return Cache(dataset_name=name, repo_id=source.path, config_name=configuration, version=version, hash=commit)


def _is_whole(info: Path) -> bool:
    """Whether what was prepared has its tables; one that has lost some goes, since `datasets` would trust it."""
    splits = json.loads(info.read_text(encoding="utf-8")).get("splits") or {}
    lost = [name for split in splits.values() for name in _tables(split) if not (info.parent / name).is_file()]
    if lost:
        print(f"{info.parent} has lost {lost[0]}, one of {len(lost)}; preparing it again", flush=True)
        shutil.rmtree(info.parent)
    return not lost


def _tables(split: dict[str, Any]) -> list[str]:
    """The files that `datasets` writes of a split."""
    named, shards = f"{split['dataset_name']}-{split['name']}", len(split.get("shard_lengths") or [])
    return [f"{named}-{n:05d}-of-{shards:05d}.arrow" for n in range(shards)] if shards > 1 else [f"{named}.arrow"]


def _configuration(source: Source, commit: str) -> str:
    """The name of the configuration that is read where none is named, as the card says; `default` without one."""
    card = cached_folder(source, commit) / "README.md"
    if not card.is_file():
        return "default"
    found = MetadataConfigs.from_dataset_card_data(DatasetCard.load(card).data)
    only = next(iter(found)) if len(found) == 1 else None
    return found.get_default_config_name() or only or "default"


def _refused(source: Source, key: str, split: str, naming: Naming, error: BaseException) -> ConfigError:
    said = " ".join(str(error).split())
    if isinstance(error, ValueError) and ("BuilderConfig" in said or "Config name is missing" in said):
        value = UNSAID if naming.config is None else naming.config
        return ConfigError("dataset.config", value, f"{source} has several, or no such one: {said}")
    if isinstance(error, ValueError) and str(error).startswith("Unknown split"):
        return ConfigError(key, split, f"{source} has no such split; {said}")
    return refusal(source, error)
