"""A copy of our own code, taken when a sweep is submitted: editing a file does not change runs that are queued.

Owns: which files are copied, and the name of the copy; that a copy is whole. Must not know: runs, schedulers.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from launcher.machine.installed import data_dir

LOG = logging.getLogger(__name__)
DATA = ("conf", "sweeps", "slurm")


def take(folder: Path) -> Path:
    """Copy the package and its data files to `folder/<hash of their content>`, once, and return where.

    What a copy has lost since, as scratch disks lose old files, is put back: jobs in the queue run it too.
    """
    contents = {name: path.read_bytes() for name, path in sorted(_files())}
    digest = hashlib.sha256()
    for name, content in contents.items():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    target = folder / digest.hexdigest()[:12]
    if not target.is_dir():
        _write(contents, target)
    lost = {name: content for name, content in contents.items() if not _has(target / name, len(content))}
    if lost:
        LOG.warning("%s has lost %d of its files; they are put back", target, len(lost))
        _fill(target, lost)
    return target


def _has(file: Path, size: int) -> bool:
    return file.is_file() and file.stat().st_size == size


def _files() -> Iterator[tuple[str, Path]]:
    """Each file, with its path in the copy: as in a checkout, also where the data files are inside the package."""
    package = Path(__file__).parent.parent
    for path in package.rglob("*.py"):
        yield f"{package.name}/{path.relative_to(package)}", path
    for name in DATA:
        for path in data_dir(name).rglob("*"):
            if path.is_file() and path.suffix in (".yaml", ".sh"):
                yield f"{name}/{path.relative_to(data_dir(name))}", path


def _write(contents: dict[str, bytes], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".new.{secrets.token_hex(6)}")
    aside.mkdir()
    _fill(aside, contents)
    try:
        aside.rename(target)
    except OSError:  # another launcher was quicker
        shutil.rmtree(aside)
        if not target.is_dir():
            raise


def _fill(folder: Path, contents: dict[str, bytes]) -> None:
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
