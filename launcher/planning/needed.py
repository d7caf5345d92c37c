"""What a sweep needs of the Hub on nodes that cannot reach it: repositories, their files, which of them are here.

Owns: which files of a repository a job will ask for, as far as the Hub's listing and the card tell.
Must not know: how they are fetched (`worker.fetch` does), at which commit a name stands (`hub_sources`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

from launcher.config import Dataset, RunConfig
from launcher.dataset.columns import absent
from launcher.dataset.layouts import (
    CARD,
    Listing,
    card_metadata,
    check_shards,
    chosen_config,
    configs_in,
    named_files,
    splits_in,
)
from launcher.dataset.local_files import sources_in
from launcher.dataset.naming import Naming, base_of, naming_of
from launcher.errors import ConfigError
from launcher.hub.prepared import lost_tables, prepared_folders
from launcher.hub.sources import (
    Source,
    cached_sizes,
    has_all_files,
    has_file,
    is_whole,
    model_source,
    models_of,
    named,
    refusal,
    text_of,
)
from launcher.machine.locate import HUB_URL, is_commit, is_hub_id
from launcher.machine.terminal import command
from launcher.model.files import MissingFiles, needed_files
from launcher.sweep import Sweep

MT_BENCH = ("question.jsonl", "judge_prompts.jsonl")  # and the answers in reference_answer/


@dataclass(frozen=True)
class Needed:
    """A repository at a commit.

    Attributes:
        source: the repository.
        commit: None where it is not known yet.
        naming: which of its data sets; of a model none.
    """

    source: Source
    commit: str | None
    naming: Naming = field(default=Naming(), compare=False)

    @property
    def identity(self) -> str:
        """What tells it from all others that a sweep needs."""
        return repr((self.source, self.source.gguf_file, self.commit, self.naming))


@dataclass(frozen=True)
class File:
    """A file as the Hub lists it: its size in bytes, the hash that git knows it by, and of a large one its SHA-256."""

    size: int
    blob: str
    sha256: str | None


def needed_of(sweep: Sweep) -> list[Needed]:
    """What is needed of the Hub, each once, in the order of the runs."""
    found = {each.identity: each for run in sweep.runs for each in _of_run(run.config)}
    return list(found.values())


def _of_run(config: RunConfig) -> Iterator[Needed]:
    models = [source for each in models_of(config) if (source := model_source(*each))]
    data = list(data_sources(config))
    known = {source.name for source in (*models, *(source for source, _ in data))}
    bases = [named(name) for name in config.pins if name not in known]
    for source in (*models, *bases):
        yield Needed(source, _commit(source, config))
    for source, each in data:
        yield Needed(source, _commit(source, config), naming_of(each))
    if "mt_bench" in config.evaluation.benchmarks and (found := HUB_URL.fullmatch(config.evaluation.mt_bench.source)):
        key = "evaluation.mt_bench.source"
        yield Needed(Source(found[1], found[2], found[3], key, key), found[3] if is_commit(found[3]) else None)


def data_sources(config: RunConfig) -> Iterator[tuple[Source, Dataset]]:
    """The repositories that rows come from, each with the data set that is in it."""
    for key, each in sources_in(config.dataset):
        if is_hub_id(each.path):
            yield Source("dataset", str(each.path), each.revision, f"{key}.path", f"{key}.revision"), each


def _commit(source: Source, config: RunConfig) -> str | None:
    return source.revision if is_commit(source.revision) else config.pins.get(source.name)


# ------------------------------------------------------------------------------------------------ what is here


def missing_here(sweep: Sweep) -> list[Needed]:
    """What jobs would have to fetch, by this machine's caches."""
    return [each for each in needed_of(sweep) if not is_here(each)]


def is_here(needed: Needed) -> bool:
    """Whether a job that cannot reach the Hub would find all of it on this machine."""
    source, commit, naming = needed.source, needed.commit, needed.naming
    if commit is None:
        return False
    if source.kind == "model":
        return is_whole(source, commit)
    if source.key.startswith("evaluation"):
        listed = cached_sizes(source, commit)
        wanted = [name for name in listed if _is_question(name)]
        return bool(wanted) and all(has_file(source, commit, name, listed[name]) for name in wanted)
    if naming.names_files:
        listed = cached_sizes(source, commit)
        return bool(listed) and all(
            has_file(source, commit, name, listed[name])
            for name in named_files(Listing(str(source), sorted(listed), lambda _: None), naming)
        )
    folders = prepared_folders(commit, naming.config)
    return has_all_files(source, commit) or any(not lost_tables(each) for each in folders)


def note_missing(sweep: Sweep, overrides: Sequence[str]) -> list[str]:
    """That something is not here, in one line with the command that fetches it; nothing where all is here."""
    names = list(dict.fromkeys(each.source.name for each in missing_here(sweep)))
    words = command(*(each for each in overrides if not each.startswith("dry_run=")))
    lack = f"not on this machine yet: {', '.join(names)}; where nodes have no internet: prefsweep fetch {words}"
    return [lack] if names else []


# ------------------------------------------------------------------------------------------------ files


def files_of(needed: Needed) -> dict[str, File]:
    """The files that a job will ask for.

    Raises:
        ConfigError: the Hub lacks the repository or the commit, lets nobody in, or there is no such configuration.
        Exception: the client's, the network's or the server's where there is no answer.
    """
    source, commit = needed.source, str(needed.commit)
    every = _listed(source, commit)
    try:
        return {name: every[name] for name in _wanted(needed, sorted(every))}
    except MissingFiles as error:
        raise source.wrong(str(error)) from error


def _listed(source: Source, commit: str) -> dict[str, File]:
    from huggingface_hub import HfApi

    entries: Iterable[Any] = HfApi().list_repo_tree(source.path, recursive=True, repo_type=source.kind, revision=commit)
    files = [entry for entry in entries if hasattr(entry, "size")]  # a folder has none
    return {each.path: File(each.size, each.blob_id, each.lfs.sha256 if each.lfs else None) for each in files}


def _wanted(needed: Needed, names: list[str]) -> list[str]:
    source, naming = needed.source, needed.naming
    if source.kind == "model":
        return needed_files(names, source.gguf_file)
    if source.key.startswith("evaluation"):
        return [name for name in names if _is_question(name)]
    listing = Listing(str(source), names, cache(partial(_text, source, str(needed.commit))))
    if naming.names_files:
        return named_files(listing, naming)
    if configs_in(listing):
        files = {name for each in splits_in(listing, naming).values() for name in each}
        return sorted(files | ({CARD} & set(names)))
    return names


def _is_question(name: str) -> bool:
    return name.endswith(MT_BENCH) or ("reference_answer/" in name and name.endswith(".jsonl"))


def _text(source: Source, commit: str, name: str) -> str | None:
    try:
        return text_of(source, commit, name)
    except Exception as error:
        raise refusal(source, error) from error


# ------------------------------------------------------------------------------------------------ splits and columns


def check_rows(listing: Listing, dataset: Dataset, missing: Callable[[set[str]], list[str]]) -> None:
    """Whether a repository has the configuration, splits, shards and columns asked for, where card or names tell.

    Args:
        listing: the repository.
        dataset: the data set in it.
        missing: which columns rows with these columns lack.

    Raises:
        ConfigError: it has not.
    """
    naming = naming_of(dataset)
    if naming.names_files:
        named_files(listing, naming)
    known = _known_splits(listing, naming)
    for key in ("train_split", "test_split"):
        split = getattr(dataset, key)
        if known and base_of(split) not in known:
            there = f"it has {', '.join(sorted(known))}; a piece of one is NAME[:90%], NAME[90%:]"
            raise ConfigError(f"dataset.{key}", split, f"{listing.place} has no such split; {there}")
        check_shards(listing, naming, split)
    columns = _columns(listing, naming)
    if columns and (lacking := missing(columns)):
        raise absent(listing.place, lacking, columns, dataset)


def _known_splits(listing: Listing, naming: Naming) -> set[str]:
    """The splits, where it can be known without `datasets`: a card names them, or shards in data/."""
    if naming.data_files is not None:
        return set(naming.data_files)
    if naming.data_dir is not None:
        return set()
    configs = configs_in(listing)
    if configs:
        chosen = configs[chosen_config(listing, configs, naming.config)]
        return set(splits_in(listing, naming)) if "data_files" in chosen else set()
    sharded = any(name.startswith("data/") and "-of-" in name for name in listing.names)
    return set(splits_in(listing, Naming(data_dir="data"))) if sharded and naming.config is None else set()


def _columns(listing: Listing, naming: Naming) -> set[str]:
    """The columns that a card says the rows have; none where it does not."""
    info = card_metadata(listing).get("dataset_info")
    each = info if isinstance(info, list) else [info]
    configs = configs_in(listing)
    chosen = chosen_config(listing, configs, naming.config) if configs and not naming.names_files else naming.config
    found = [one for one in each if isinstance(one, dict) and one.get("config_name", "default") in (chosen, "default")]
    features = found[0].get("features") if len(found) == 1 else None
    return {str(one["name"]) for one in features or [] if isinstance(one, dict) and "name" in one}
