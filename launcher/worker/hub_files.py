"""The files of a model or data set on the Hub, in the Hub's own cache on this machine.

Owns: which files of a model's repository are needed, fetching them, going on after a fault, what a cache may be trusted
with where there is no way to the Hub.
Must not know: which revision was asked for (`hub.sources` makes it a commit), what the files hold.

Files lie where huggingface_hub keeps them (HF_HOME), for all that use it. A commit never changes, so what is there is
used without a question. A fetch that breaks off goes on where it was, in this process or in the next that asks.
"""

from __future__ import annotations

import glob
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from rich.filesize import decimal

from launcher.hub.faults import is_silence, passes, pause
from launcher.hub.sources import Source, cached_folder, cached_sizes, has_file, is_unreachable, refusal
from launcher.machine.terminal import say
from launcher.model.files import MissingFiles, beside_weights, needed_files, shards

PATIENCE_SECONDS = 600.0  # with faults that pass, while a job waits for its model
SILENCE_SECONDS = 60.0  # with no connection at all, where the cache does not have what is needed

Value = TypeVar("Value")
Choose = Callable[[Collection[str]], Sequence[str]]


def fetch_model(source: Source, commit: str, gguf_file: str | None = None, *, weights: bool = True) -> Path:
    """The folder of a model at a commit, with all that loading it needs; without its weights where those are not asked.

    Raises:
        ConfigError: it cannot be fetched, and is not in the cache; or it holds no model.
    """
    choose = partial(needed_files, gguf_file=gguf_file) if weights else beside_weights
    try:
        return _folder(source, commit, choose)
    except MissingFiles as error:
        raise source.wrong(str(error)) from error


def fetch_dataset(source: Source, commit: str, choose: Choose = sorted) -> Path:
    """The folder of a data set at a commit, with all of its files, or those that are chosen.

    Raises:
        Exception: the client's, the network's or the server's; see `sources.refusal`.
    """
    sizes = patiently(source, SILENCE_SECONDS, lambda: _listing(source, commit))
    wanted = {name: sizes[name] for name in choose(sizes)}
    return _there(source, commit, wanted) or _fetch(source, commit, wanted, SILENCE_SECONDS)


def names(source: Source, commit: str) -> list[str]:
    """The files of a repository at a commit, by the cache or the Hub.

    Raises:
        Exception: the client's, the network's or the server's; see `sources.refusal`.
    """
    return sorted(patiently(source, SILENCE_SECONDS, lambda: _listing(source, commit)))


# ------------------------------------------------------------------------------------------------ fetching


def _folder(source: Source, commit: str, choose: Choose) -> Path:
    cached = _cached(source, commit, choose)
    silence = 0.0 if cached is not None else SILENCE_SECONDS
    try:
        sizes = patiently(source, silence, lambda: _listing(source, commit))
        wanted = {name: sizes[name] for name in choose(sizes)}
        return _there(source, commit, wanted) or _fetch(source, commit, wanted, silence)
    except MissingFiles:
        raise
    except Exception as error:  # the client, the network and the server each have their own family of errors
        if cached is not None and is_unreachable(error):
            say(f"{source}: no way to the Hub from here; taken from the cache, {cached}")
            return cached
        raise refusal(source, error) from error


def _listing(source: Source, commit: str) -> dict[str, int]:
    """The size of each file of the repository, asked once for each cache."""
    from huggingface_hub import HfApi

    if known := cached_sizes(source, commit):
        return known
    entries = HfApi().list_repo_tree(source.path, recursive=True, repo_type=source.kind, revision=commit)
    return {entry.path: entry.size for entry in entries if hasattr(entry, "size")}  # a folder has none


def _fetch(source: Source, commit: str, sizes: dict[str, int], silence: float) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    disable_progress_bars()  # a log is no terminal
    began = time.monotonic()
    missing = [size for name, size in sizes.items() if not has_file(source, commit, name, size)]
    for name in sizes.keys() - {n for n, size in sizes.items() if has_file(source, commit, n, size)}:
        forget_file(source, commit, name)  # half a file, which the client would take for the whole
    what = f"{len(missing)} of {len(sizes)} files, {decimal(sum(missing))}"
    say(f"fetching {source} (commit {commit}): {what}")
    wanted: dict[str, Any] = {"repo_type": source.kind, "revision": commit}
    patterns = [glob.escape(name) for name in sizes]
    folder = patiently(source, silence, lambda: snapshot_download(source.path, allow_patterns=patterns, **wanted))
    say(f"fetched {source} in {time.monotonic() - began:.0f} s")
    return Path(folder)


def patiently(source: Source, silence: float, work: Callable[[], Value]) -> Value:
    """What `work` returns, tried again while its faults are of a kind that passes; a silence, for so many seconds."""
    import tenacity

    began = time.monotonic()

    def enough(state: Any) -> bool:
        limit = silence if is_silence(state.outcome.exception()) else PATIENCE_SECONDS
        return bool(time.monotonic() + state.upcoming_sleep - began > limit)

    def say(state: Any) -> None:
        error = refusal(source, state.outcome.exception())
        say(f"{error}; trying again in {state.next_action.sleep:.0f} s")

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(passes), wait=pause, stop=enough, before_sleep=say, reraise=True
    )
    return retrying(work)


# ------------------------------------------------------------------------------------------------ what is there


def _there(source: Source, commit: str, sizes: dict[str, int]) -> Path | None:
    """The folder at a commit, if the cache has all these files of it, each of its size."""
    whole = sizes and all(has_file(source, commit, *each) for each in sizes.items())
    return cached_folder(source, commit) if whole else None


def forget_file(source: Source, commit: str, name: str) -> None:
    """Let the cache not have a file, so that it is fetched anew; what of it came last time is kept beside it."""
    link = cached_folder(source, commit) / name
    if link.is_file():
        link.resolve().unlink()
    link.unlink(missing_ok=True)


def _cached(source: Source, commit: str, choose: Choose) -> Path | None:
    """The folder at a commit, if it looks whole by what lies in it.

    It is not asked first: a fetch by another program may have left out, say, a chat template.
    """
    folder = cached_folder(source, commit)
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    listed = cached_sizes(source, commit)
    try:
        whole = bool(names) and all(shards(name, folder) <= set(names) for name in choose(names))
        needed = choose(listed) if listed else ()  # what a purge may have taken
        whole = whole and all(has_file(source, commit, name, listed[name]) for name in needed)
    except (MissingFiles, OSError):
        return None
    return folder if whole else None
