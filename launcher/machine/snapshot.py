"""A copy of our own code, taken when a sweep is submitted: editing a file does not change runs that are queued.

Owns: which files are copied, and the name of the copy. Must not know: runs, schedulers.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from launcher.machine.installed import data_dir

DATA = ("conf", "sweeps", "slurm")


def take(folder: Path) -> Path:
    """Copy the package and its data files to `folder/<hash of their content>`, once, and return where."""
    contents = {name: path.read_bytes() for name, path in sorted(_files())}
    digest = hashlib.sha256()
    for name, content in contents.items():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    target = folder / digest.hexdigest()[:12]
    if not target.is_dir():
        _write(contents, target)
    return target


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
    aside = Path(tempfile.mkdtemp(prefix=".new.", dir=target.parent))
    aside.chmod(0o755)
    for name, content in contents.items():
        (aside / name).parent.mkdir(parents=True, exist_ok=True)
        (aside / name).write_bytes(content)
    try:
        aside.rename(target)
    except OSError:  # another launcher was quicker
        shutil.rmtree(aside)
        if not target.is_dir():
            raise
