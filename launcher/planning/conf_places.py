"""Where files of `conf/` and `sweeps/` are looked for: the user's own in front of ours.

Owns: these folders in order, and the files that there are under a name. Must not know: what is in a file.

    --config-dir FOLDER          of the command; its sweeps in FOLDER/sweeps
    ./conf, ./sweeps             of the working directory
    $PREFSWEEP_CONF              its sweeps in $PREFSWEEP_CONF/sweeps
    ours                         in a checkout beside the packages, else inside

Only --config-dir may have a config.yaml: another project's, in whose folder one works, has nothing to do with ours.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from launcher.machine.installed import data_dir

VARIABLE = "PREFSWEEP_CONF"
CONFIG = "config"  # the file that a run's configuration begins with


@dataclass(frozen=True)
class Asked:
    """What a command says of it: a folder in front of all, and another file to begin with."""

    folder: Path | None = None
    name: str = CONFIG


_asked: list[Asked] = []


@contextlib.contextmanager
def asked_for(asked: Asked) -> Iterator[None]:
    """Within, files are looked for as a command asks."""
    _asked.append(asked)
    try:
        yield
    finally:
        _asked.pop()


def config_name() -> str:
    """The name of the file that configurations begin with."""
    return _now().name


def conf_dirs() -> tuple[Path, ...]:
    """The folders that are there, each once, the first of which wins; ours comes last."""
    return _found(os.getcwd(), os.environ.get(VARIABLE), _now(), data_dir("conf"))  # noqa: PTH109 - asked for each key


def sweep_dirs() -> tuple[Path, ...]:
    """The same for sweep files."""
    given, variable = _now().folder, os.environ.get(VARIABLE)
    first = [given / "sweeps"] if given else []
    last = [Path(variable).expanduser() / "sweeps"] if variable else []
    return _each_once([*first, Path("sweeps"), Path("conf/sweeps"), *last, data_dir("sweeps")])


def own_dirs() -> tuple[Path, ...]:
    """The user's, without the one that the command names: they have groups, and no file to begin with."""
    given = _now().folder
    return tuple(folder for folder in conf_dirs()[:-1] if given is None or folder != given.resolve())


def _now() -> Asked:
    return _asked[-1] if _asked else Asked()


@cache
def _found(here: str, variable: str | None, asked: Asked, ours: Path) -> tuple[Path, ...]:
    """The folders of `conf/`, which is asked for each key of thousands of runs."""
    own = [Path(variable).expanduser()] if variable else []
    return _each_once([*([asked.folder] if asked.folder else []), Path(here, "conf"), *own, ours])


def _each_once(folders: list[Path]) -> tuple[Path, ...]:
    return tuple({folder.resolve(): None for folder in folders if folder.is_dir()})


def conf_file(group: str, name: str) -> Path | None:
    """The file of `conf/` that a choice means."""
    files = (folder / group / f"{name}.yaml" for folder in conf_dirs())
    return next((file for file in files if file.is_file()), None)


def choices(group: str) -> frozenset[str]:
    """The names of a group's files."""
    return frozenset(file.stem for folder in conf_dirs() for file in (folder / group).glob("*.yaml"))


def groups() -> list[str]:
    """The groups that have files, by name; sweeps are none."""
    found = {folder.name for place in conf_dirs() for folder in place.iterdir() if any(folder.glob("*.yaml"))}
    return sorted(found - {"sweeps"})


def is_group(name: str) -> bool:
    """Whether a name is a group's, `model`, or a part of one, `cluster/examples`."""
    return any((folder / name).is_dir() for folder in conf_dirs())


def sweep_names() -> list[str]:
    """The names of the sweep files that there are."""
    return sorted({file.stem for folder in sweep_dirs() for file in folder.glob("*.yaml")})


def sweep_file(name: str) -> Path | None:
    """The sweep file of a name, or of a path, with or without its .yaml: what has a / or ends so is one."""
    if "/" in name or name.endswith(".yaml"):
        path = Path(name.removesuffix(".yaml") + ".yaml").expanduser()
        return path if path.is_file() else None
    files = (folder / f"{name}.yaml" for folder in sweep_dirs())
    return next((file for file in files if file.is_file()), None)


def looked_in(folders: tuple[Path, ...], below: str = "") -> str:
    """Where was looked, in order, for an error; nothing where there is only our own folder."""
    places = [f"{folder / below}" for folder in folders[:-1]]
    return f"; looked in {', '.join(places)}, then in ours" if places else ""
