"""Fetching what a sweep needs, here, for nodes that cannot reach the Hub.

Owns: what is asked for, what of it is here, room on the disk, the process that fetches.
Must not know: how a file is fetched (`worker.fetch`), how it is told.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from launcher.errors import ConfigError, FetchError, UsageError
from launcher.hub.prepared import lost_tables, prepared_folders
from launcher.hub.sources import has_file, is_unreachable, refusal
from launcher.machine import disk
from launcher.planning.needed import File, Needed, files_of, needed_of
from launcher.sweep import Sweep


@dataclass(frozen=True)
class Item:
    """A repository that a sweep needs, and what of it is here.

    Attributes:
        needed: the repository at its commit.
        files: those that a job asks for.
        missing: of these, the bytes that are not here.
        prepared: of a data set, whether its rows are, which then need no files.
        again: bytes that were here and were fetched again, as they were not what the Hub lists.
    """

    needed: Needed
    files: Mapping[str, File]
    missing: int
    prepared: bool = False
    again: int = 0

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.size for file in self.files.values())

    @property
    def is_here(self) -> bool:
        """Whether nothing of it is to be fetched."""
        return self.prepared or not self.missing


def items_of(sweep: Sweep) -> list[Item]:
    """What the sweep needs of the Hub, with sizes.

    Raises:
        FetchError: the Hub cannot be reached.
        ConfigError: it lacks something, or does not let us have it.
    """
    return [_item(_at_a_commit(needed)) for needed in needed_of(sweep)]


def _at_a_commit(needed: Needed) -> Needed:
    from huggingface_hub import HfApi

    source = needed.source
    if needed.commit is not None:
        return needed
    try:
        found = HfApi().resolve_revision(source.path, repo_type=source.kind, revision=source.revision)
    except Exception as error:
        raise _told(needed, error) from error
    return replace(needed, commit=str(found.resolved))


def _item(needed: Needed) -> Item:
    source, commit, naming = needed.source, str(needed.commit), needed.naming
    try:
        files = files_of(needed)
    except ConfigError:
        raise
    except Exception as error:
        raise _told(needed, error) from error
    folders = prepared_folders(commit, naming.config) if source.kind == "dataset" and not naming.names_files else []
    missing = sum(file.size for name, file in files.items() if not has_file(source, commit, name, file.size))
    return Item(needed, files, missing, any(not lost_tables(folder) for folder in folders))


def _told(needed: Needed, error: Exception) -> FetchError | ConfigError:
    """What the user reads; where nobody answered that is no fault of the command."""
    told = refusal(needed.source, error)
    return FetchError(str(told)) if is_unreachable(error) else told


def check_room(items: Sequence[Item]) -> None:
    """Whether the cache's disk has room for what is missing; rows are kept twice, as files and as tables.

    Raises:
        FetchError: it has not.
    """
    from huggingface_hub import constants

    left = [item for item in items if not item.is_here]
    wanted = sum(item.missing * (2 if item.needed.source.kind == "dataset" else 1) for item in left)
    cache = Path(constants.HF_HUB_CACHE)
    if wanted > (free := disk.free_bytes(cache)):
        there, needed = disk.in_words(free), disk.in_words(wanted)
        raise FetchError(f"{cache} has {there} free, and {needed} are to be fetched; set HF_HOME to a larger disk")


def carry_out(items: Sequence[Item]) -> Iterator[Item]:
    """Fetch and check all of it, in a process of its own; yields each item that is here and right.

    Raises:
        UsageError: the Hub does not let us have one of them, or it is no data set.
        FetchError: it could not be fetched, or another file came than the Hub lists.
    """
    left = [item for item in items if not item.prepared]
    request = json.dumps([_request(item) for item in left])
    command = [sys.executable, "-m", "launcher.worker.fetch"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 - for the type checker
        process.stdin.write(request)
        process.stdin.close()
        done = 0
        for line in process.stdout:
            answer = json.loads(line)
            if "error" in answer:
                raise (UsageError if answer["wrong"] else FetchError)(answer["error"])
            yield replace(left[answer["number"]], again=answer["again"])
            done += 1
    if done < len(left):
        raise FetchError(f"{left[done].needed.source}: fetching it ended with exit code {process.returncode}")


def _request(item: Item) -> dict[str, object]:
    source, naming = asdict(item.needed.source), asdict(item.needed.naming)
    files = {name: asdict(file) for name, file in item.files.items()}
    rows = not item.needed.source.key.startswith("evaluation")
    return {"source": source, "commit": item.needed.commit, "naming": naming, "files": files, "prepare": rows}
