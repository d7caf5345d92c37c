"""What of this machine decides what a run is trained on: files of data, of models, of the adapters' base models.

Owns: which files these are, what is recorded of them, when two records say the same.
Must not know: what is on the Hub, which runs there are, what follows from a change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from launcher.config import Dataset, Model, RunConfig
from launcher.dataset.local_files import local_file, parts_of, split_file
from launcher.machine.locate import place_of, spelled_from
from launcher.model.adapter import adapter_in
from launcher.model.files import deciding_files
from launcher.store.facts import Contents
from launcher.store.files import content_key
from launcher.store.hashes import Hashes

Inputs = Mapping[str, Contents]  # by the key of the configuration that names the path
BASE = ".base"  # behind an adapter's key: the model that it belongs to


@dataclass(frozen=True)
class Local:
    """A path of this machine, and the files there that count: of data by the split, of a model by name."""

    path: Path
    files: dict[str, Path]


def inputs_of(config: RunConfig, known: Hashes) -> Inputs:
    """What a run is to be trained on, as far as it is on this machine.

    Raises:
        ConfigError: a data set or an adapter there is not what it should be.
    """
    found = {}
    for key, local in local_inputs(config).items():
        hashes = {name: known.of(file) for name, file in sorted(local.files.items())}
        found[key] = Contents(str(local.path), spelled_from(local.path, Path.cwd()), hashes)
    return found


def local_inputs(config: RunConfig) -> dict[str, Local]:
    """The files that count, by the key of the configuration that names where they lie.

    Raises:
        ConfigError: a data set or an adapter there is not what it should be.
    """
    models, data = {"model.path": config.model}, dict(_keyed(config.dataset))
    if config.dataset.weak_rejects is not None:
        models["dataset.weak_rejects.model.path"] = config.dataset.weak_rejects.model
    of_models = [each for key, model in models.items() for each in _of_model(model, key)]
    of_data = [(key, local) for key, part in data.items() if (local := _of_data(part))]
    return dict([*of_models, *of_data])


def _keyed(dataset: Dataset) -> Iterator[tuple[str, Dataset]]:
    """What rows are read from, each with the key of its path."""
    if dataset.weak_rejects is not None:
        weak = dataset.weak_rejects
        yield "dataset.weak_rejects.path", replace(dataset, path=weak.path, revision=weak.revision, builder=None)
        return
    for number, part in enumerate(parts_of(dataset)):
        yield f"dataset.mixture[{number}].path" if dataset.mixture else "dataset.path", part


def _of_data(part: Dataset) -> Local | None:
    found = {split: local_file(part, split) for split in (part.train_split, part.test_split)}
    files = {split: file for split, file in found.items() if file is not None}
    path = place_of(part.path).path
    return Local(path, files) if files and path is not None else None


def _of_model(model: Model, key: str) -> Iterator[tuple[str, Local]]:
    folder = place_of(model.path).path
    if folder is None or not folder.is_dir():
        return
    adapter = adapter_in(folder, key) if model.gguf_file is None else None
    files = deciding_files(folder, model.gguf_file, adapter=adapter is not None)
    yield key, Local(folder, {name: file for name, file in files.items() if file.is_file()})
    if adapter is not None and place_of(adapter.base).path not in (None, folder):
        yield from _of_model(replace(model, path=adapter.base, revision=adapter.revision), key + BASE)


# ------------------------------------------------------------------------------------------------ two records


def content_of(inputs: Inputs) -> dict[str, dict[str, str]]:
    """What was found, wherever it lay: the hashes of the files by key and name."""
    return {key: dict(contents.files) for key, contents in inputs.items()}


def digest_of(inputs: Inputs) -> str:
    """The hash of all that was found."""
    return content_key(content_of(inputs))


def changes(before: Inputs, now: Inputs) -> list[str]:
    """Of one run's inputs, the files that are others now than before, that came, or that went."""
    found = [
        _named(key, now.get(key) or before[key], name)
        for key in dict.fromkeys((*now, *before))
        for name in _differing(_files(before, key), _files(now, key))
    ]
    return list(dict.fromkeys(found))


def differences(neighbour: Inputs, now: Inputs) -> list[str]:
    """The files at the same place that are others now than a neighbour was trained on.

    A neighbour may be trained on other splits of a data set; but of a model all files count.
    """
    found = [
        _named(key, now[key], name)
        for key in now
        if key in neighbour and _same_place(neighbour[key], now[key])
        for name in _differing(neighbour[key].files, now[key].files)
        if _is_of_model(key) or (name in neighbour[key].files and name in now[key].files)
    ]
    return list(dict.fromkeys(found))


def _same_place(one: Contents, other: Contents) -> bool:
    return one.path == other.path or one.spelled == other.spelled


def _files(inputs: Inputs, key: str) -> Mapping[str, str]:
    return inputs[key].files if key in inputs else {}


def _differing(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    return [name for name in dict.fromkeys((*now, *before)) if before.get(name) != now.get(name)]


def _is_of_model(key: str) -> bool:
    return "model.path" in key


def _named(key: str, contents: Contents, name: str) -> str:
    """The path of a model's file, or of a split's."""
    place = Path(contents.path)
    if place.is_file():
        return str(place)
    return str(place / name if _is_of_model(key) else split_file(place, name) or place / name)
