"""Fetches what nodes without internet need: a request of the login node, carried out in a process of its own.

Reads a JSON list of repositories with their files from stdin; prints a JSON line on stdout for each that is here, with
the bytes that were fetched again since they were not right, and how far it is on stderr. Data sets are prepared too, so
that a job reads them without the Hub.

Owns: that each file is what the Hub lists, by its hash; fetching again what is not.
Must not know: how a file is fetched (`hub_files`), what a sweep is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from launcher.dataset.naming import Naming
from launcher.errors import ConfigError
from launcher.hub.sources import Source, cached_folder, is_unreachable, refusal
from launcher.machine.terminal import say
from launcher.worker import hub_files

SAY_EVERY_SECONDS = 10.0
CHUNK = 2**20

Plain = dict[str, Any]


def main() -> None:
    """Carry out one request; a fault ends it, and what has come stays."""
    answers = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        for number, each in enumerate(json.load(sys.stdin)):
            answer = {"number": number, **_fetch(each)}
            say(json.dumps(answer), on=answers)
            if "error" in answer:
                return


def _fetch(each: Plain) -> Plain:
    source, commit = Source(**each["source"]), each["commit"]
    try:
        with _telling(source, commit, each["files"]):
            bad, again = _fetch_whole(source, commit, each["files"])
        if bad:
            return {"error": f"{source}: {bad[0]} is not what the Hub lists, also when fetched again", "wrong": False}
        if source.kind == "dataset" and each["prepare"]:
            from launcher.worker.dataset import hub_rows  # imports `datasets`

            hub_rows.prepare(source, commit, Naming(**each["naming"]))
    except Exception as error:  # noqa: BLE001 - each client, the network and the disk have their own
        silent = is_unreachable(error) or (error.__cause__ is not None and is_unreachable(error.__cause__))
        told = error if isinstance(error, ConfigError) else refusal(source, error)
        return {"error": str(told), "wrong": not silent and not isinstance(error, OSError)}
    return {"again": again}


def _fetch_whole(source: Source, commit: str, files: Plain) -> tuple[list[str], int]:
    """Fetch what is missing; the files that are wrong also when they were fetched again, and the bytes of all such."""
    again = 0
    for _ in range(2):
        hub_files.fetch_dataset(source, commit, lambda _: sorted(files))
        bad = [name for name, listed in files.items() if not _is_right(cached_folder(source, commit) / name, listed)]
        if not bad:
            break
        for name in bad:
            say(f"{source}: {name} is not what the Hub lists; fetching it again")
            hub_files.forget_file(source, commit, name)
        again += sum(files[name]["size"] for name in bad)
    return bad, again


def _is_right(file: Path, listed: Plain) -> bool:
    """Whether a file's size and hash are those that the Hub lists: SHA-256 of a large one, git's of another."""
    if not file.is_file() or file.stat().st_size != listed["size"]:
        return False
    digest = hashlib.sha256() if listed["sha256"] else hashlib.sha1(f"blob {listed['size']}\0".encode())  # noqa: S324
    with file.open("rb") as content:
        while chunk := content.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest() == (listed["sha256"] or listed["blob"])


@contextlib.contextmanager
def _telling(source: Source, commit: str, files: Plain) -> Iterator[None]:
    """Say every few seconds how much is here."""
    ended, total = threading.Event(), sum(listed["size"] for listed in files.values())
    blobs = cached_folder(source, commit).parents[1] / "blobs"

    def tell() -> None:
        while not ended.wait(SAY_EVERY_SECONDS):
            begun = sum(path.stat().st_size for path in blobs.glob("*.incomplete"))
            whole = [name for name in files if (cached_folder(source, commit) / name).is_file()]
            there = begun + sum(files[name]["size"] for name in whole)
            say(f"{source}: {decimal(min(there, total))} of {decimal(total)}", on=sys.stderr)

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


if __name__ == "__main__":
    main()
