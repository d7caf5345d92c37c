"""How a file comes into being: whole, or not at all.

Owns: the three kinds of file, no others: write-once facts (`write_once`), append-only logs (`append_line`), and
derived files (`write_derived`) that may be deleted at any time; their reading, and cache entries built once.
A file that is whole may still be wrong, after a repair by hand for one: what it lacks is told when it is asked for.
Must not know: where a file lies (`store` does), what a fact means.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any

from filelock import FileLock

from launcher.errors import StoreError

Fact = dict[str, Any]
REMEDY = "put it right, or move it away to have it made again"
NUMBER = (int, float)
# What a fact's words stand for, in whichever fact; None is allowed for all of them.
KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("settings", "provenance", "after", "follows", "resources", "scores", "categories", "judge"), dict),
    **dict.fromkeys(("runs", "axes", "attempts", "overrides", "questions", "turns", "samples"), list),
    **dict.fromkeys(("executor", "job_id", "host", "log", "folder", "batch", "root", "name", "code", "cost_key"), str),
    **dict.fromkeys(("reason", "status", "traceback"), str),
    **dict.fromkeys(("store", "repo", "revision", "commit", "address", "content"), str),
    "base": (str, dict),  # the untrained model: its results' key, or what tells its weights from others
    **dict.fromkeys(("time", "seconds", "loss", "reward_accuracy", "reward_margin", "kl", "golden_reward"), NUMBER),
    **dict.fromkeys(("kl_stderr", "golden_reward_stderr", "pairs", "generations", "score", "stderr"), NUMBER),
    **dict.fromkeys(("steps", "max_steps", "size", "slots"), int),
}


class Recorded(dict[str, Any]):
    """What a file says, or a mapping within; a key that it lacks is an error that names the file."""

    file: Path | None = None

    def __missing__(self, key: str) -> Any:
        raise StoreError(f"{self.file}: lacks {key}; {REMEDY}")


def _write_aside(path: Path, text: str) -> Path:
    """Write `text` beside `path`, flushed to disk, and return where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    Path(name).chmod(0o644)  # mkstemp's 0600 would hide a run from its group
    return Path(name)


def write_once(path: Path, fact: Fact) -> bool:
    """Make the fact `path` appear whole; a second writer changes nothing. Returns whether we were the first."""
    aside = _write_aside(path, json.dumps(fact, indent=1, ensure_ascii=False) + "\n")
    try:
        os.link(aside, path)  # unlike rename, link refuses to replace
    except FileExistsError:
        return False
    finally:
        aside.unlink()
    return True


def write_derived(path: Path, text: str) -> None:
    """Replace the derived file `path` in one step."""
    _write_aside(path, text).replace(path)


def append_line(path: Path, record: Fact) -> None:
    """Append one JSON line; a single write, so that a crash tears at most the last line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")


def link(source: Path, target: Path) -> None:
    """A second name for a file that is never changed in place; a copy where the filesystem has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def mend_log(path: Path) -> None:
    """End a line that a crash has torn, so that the next one does not continue it."""
    with contextlib.suppress(FileNotFoundError), path.open("rb+") as file:
        if file.seek(0, os.SEEK_END) and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
            file.write(b"\n")


def read_fact(path: Path) -> Fact | None:
    """The fact at `path`, or None where there is none.

    Raises:
        StoreError: the file is there and is not a JSON object (facts are never half written by us), or a word in it
            stands for something else than it does in facts. Asking the fact for a key that it lacks raises it too.
    """

    def recorded(content: Fact) -> Recorded:
        fact = Recorded(content)
        fact.file = path
        return fact

    try:
        fact = json.loads(path.read_text(encoding="utf-8"), object_hook=recorded)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise StoreError(f"{path}: not readable as JSON ({error}); {REMEDY}") from error
    if not isinstance(fact, Recorded):
        raise StoreError(f"{path}: holds no JSON object; {REMEDY}")
    for key, kind in KINDS.items():
        if not isinstance(value := fact.get(key), (kind, NoneType)):
            raise StoreError(f"{path}: {key} cannot be {json.dumps(value)[:40]}; {REMEDY}")
    return fact


def read_lines(path: Path) -> list[Fact]:
    """All whole lines of a log; a torn one is left out."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    lines = []
    for line in text.split("\n"):  # splitlines() would also split at U+2028, which a text may hold
        with contextlib.suppress(ValueError):
            lines.append(json.loads(line))
    return [line for line in lines if isinstance(line, dict)]


@contextlib.contextmanager
def building(folder: Path) -> Iterator[Path | None]:
    """Build a cache entry once: yields a scratch folder to fill, or None where `folder` is there already.

    The lock makes others wait and then use it; a killed builder leaves only a scratch folder, never half an entry, and
    the next one removes it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if folder.is_dir():
            yield None
            return
        for stale in folder.parent.glob(f".{glob.escape(folder.name)}.*"):  # of builders that were killed
            if stale.is_dir():
                shutil.rmtree(stale, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
            filled = Path(scratch) / folder.name
            filled.mkdir()
            yield filled
            filled.replace(folder)


def content_key(value: Any, digits: int = 16) -> str:
    """The name of a cache entry that was made from `value`: the beginning of the hash of its JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:digits]
