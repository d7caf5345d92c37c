"""What of this machine decides what a run is trained on: files of data, of models, of the adapters' base models.

Owns: which files these are, what is recorded of them, when two records say the same.
Must not know: what is on the Hub, which runs there are, what follows from a change.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from launcher.config import Dataset, Model, RunConfig
from launcher.dataset.local_files import local_files, sources_in
from launcher.machine.locate import place_of, spelled_from
from launcher.model.adapter import adapter_in
from launcher.model.files import deciding_files
from launcher.store.files import content_key
from launcher.store.hashes import Hashes
from launcher.store.origins import Contents

Inputs = Mapping[str, Contents]  # by the key of the configuration that names the path
BASE = ".base"  # behind an adapter's key: the model that it belongs to


@dataclass(frozen=True)
class Local:
    """A path of this machine, and the files there that count, by their names from there."""

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
    models = {"model.path": config.model}
    if config.dataset.weak_rejects is not None:
        models["dataset.weak_rejects.model.path"] = config.dataset.weak_rejects.model
    of_models = [each for key, model in models.items() for each in _of_model(model, key)]
    of_data = [(f"{key}.path", local) for key, part in sources_in(config.dataset) if (local := _of_data(part))]
    return dict([*of_models, *of_data])


def _of_data(part: Dataset) -> Local | None:
    files = [file for key in ("train_split", "test_split") for file in local_files(part, key)]
    path = place_of(part.path).path
    if path is None or not files:
        return None
    folder = path.parent if path.is_file() else path
    return Local(path, {os.path.relpath(file, folder): file for file in files})


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
        _named(now.get(key) or before[key], name)
        for key in dict.fromkeys((*now, *before))
        for name in _differing(_files(before, key), _files(now, key))
    ]
    return list(dict.fromkeys(found))


def differences(neighbour: Inputs, now: Inputs) -> list[str]:
    """The files at the same place that are others now than a neighbour was trained on.

    A neighbour may be trained on other splits of a data set; but of a model all files count.
    """
    found = [
        _named(now[key], name)
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


def _named(contents: Contents, name: str) -> str:
    place = Path(contents.path)
    return str(place if place.is_file() else place / name)
