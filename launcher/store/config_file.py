"""`config.yaml` of a run: its objective, below a line that names the run.

Owns: what stands in that file. Must not know: where it lies, what the objective means.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import yaml

from launcher.config import OBJECTIVE, canonical
from launcher.errors import StoreError
from launcher.machine.once import Once
from launcher.store.files import Plain
from launcher.store.reading import REMEDY, read_content, read_mapping
from launcher.store.whose import check

# Ten times as fast, where PyYAML was built with libyaml.
_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_ONCE = Once()
_OF = b"# of "
_ID = re.compile(r"-beta[^/]+-[0-9a-f]{8}$")


def text_of(run_id: str, objective: Plain) -> str:
    """What the file of a run holds; a section that runs share becomes text once for all of them."""
    sections = "".join(_ONCE(_yaml, sys.intern(key), value) for key, value in objective.items())
    return f"{_OF.decode()}{run_id}\n{sections}"


def _yaml(key: str, value: Any) -> str:
    """One key of a configuration, as YAML."""
    return yaml.dump({key: value}, Dumper=_DUMPER, sort_keys=False, allow_unicode=True)


def read(file: Path, run_id: str) -> Plain:
    """The objective that the file holds.

    Raises:
        StoreError: there is no such file, it is not whole, or another run's.
    """
    config = read_mapping(file)
    if config is None:
        raise StoreError(f"{file}: is not there; launch the run again with -m")
    if lacking := [key for key in OBJECTIVE if key not in config]:
        raise StoreError(f"{file}: lacks {', '.join(lacking)}; {REMEDY}")
    check(file, _owner_in(read_content(file) or b""), run_id)
    _check_beginning(file, config, run_id)
    return {str(key): value for key, value in config.items()}


def has_run_id(name: str) -> bool:
    """Whether this is the name of a run, and not that of any folder."""
    return _ID.search(name) is not None


def beginning_of(objective: Plain) -> str:
    """How the id of an objective begins, by what can be read in it; it has always been so."""
    beta = re.sub(r"\.0$", "", repr(canonical(float(objective["beta"]))))
    return f"{objective['model']['name']}-{objective['loss_type']}-beta{beta}"


def _check_beginning(file: Path, config: Plain, run_id: str) -> None:
    """The rest of an id cannot be made again: older versions hashed other spellings of paths, and projects move.

    Raises:
        Foreign: the objective is that of a run that is called otherwise.
    """
    try:
        beginning = beginning_of(config)
    except (KeyError, TypeError, ValueError):  # which whoever needs it tells
        return
    if has_run_id(run_id) and run_id[: -len("-00000000")] != beginning:
        check(file, f"a run {beginning}-...", run_id)


def _owner_in(text: bytes) -> str | None:
    """The run that its first line names; none where an older version wrote it."""
    first = text.partition(b"\n")[0]
    return first.removeprefix(_OF).strip().decode() if first.startswith(_OF) else None
