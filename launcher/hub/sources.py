"""Models and data sets on the Hugging Face Hub as sources: which there are in a run, and at which commit.

Owns: which repositories a configuration names, the pins of an output folder, what this machine's cache has of a commit,
the words for what cannot be read.
Must not know: when a launch asks (`planning.hub_sources`), how a commit is fetched (`worker.hub_files`), publishing.

    <output>/pins/<models|datasets>/ORG--NAME@REVISION.json    the commit that a branch or a tag stands for here

A branch may move while a sweep waits in the queue, or between two launches, and half of a sweep would be trained on
something else. So a name gets its commit once for an output folder, by the first launch that names it; where that had
no way to the Hub, by the first job. All later jobs and launches keep to it, and a plan says so when the branch has
moved. The run ids hold what was typed: another revision, or the commit itself, makes other runs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from launcher.config import Dataset, Model, RunConfig
from launcher.errors import ConfigError, listed
from launcher.hub.faults import told
from launcher.machine.accounts import has_token
from launcher.machine.locate import DEFAULT_REVISION, is_commit, is_hub_id, split_revision
from launcher.model.files import MissingFiles, check_whole, needed_files
from launcher.store.files import read_fact, write_once
from launcher.store.origins import Pin
from launcher.store.output_folder import Store

LOOK_SECONDS = 10.0  # for one answer, while a user waits
# What to do where a repository has only some of a split's shards.
REST = "give dataset.revision of a state that has all {total}, or name the files that you want with dataset.data_files"
HINTS = 10  # branches and tags that are named to somebody who has mistyped one


@dataclass(frozen=True)
class Source:
    """A repository of the Hub at a revision.

    Attributes:
        kind: "model" or "dataset", as huggingface_hub calls them.
        path, revision: its name; no revision is the default branch.
        key, revision_key: the keys that name these, of the configuration or of an adapter_config.json.
        adapters: of an adapter's base the adapters above it, the one that the configuration names first: what names
            each, and the adapter.
        gguf_file: which of a model's files holds the weights, if it is such a one.
    """

    kind: str
    path: str
    revision: str | None = None
    key: str = field(default="", compare=False)
    revision_key: str = field(default="", compare=False)
    adapters: tuple[tuple[str, str], ...] = field(default=(), compare=False)
    gguf_file: str | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.path}@{self.revision or DEFAULT_REVISION}"

    @property
    def name(self) -> str:
        """What tells it from all others: `model ORG/NAME@REVISION`."""
        return f"{self.kind} {self}"

    def wrong(self, remedy: str) -> ConfigError:
        """What is wrong with it, said of the configuration's key."""
        return beneath(self.adapters, ConfigError(self.key, str(self), remedy))


def beneath(adapters: Sequence[tuple[str, str]], error: ConfigError) -> ConfigError:
    """What is wrong beneath these adapters, said of the first one's key."""
    for key, adapter in reversed(adapters):
        error = ConfigError(key, adapter, str(error))
    return error


def named(name: str) -> Source:
    """The source of a `Source.name`."""
    kind, _, rest = name.partition(" ")
    return Source(kind, *split_revision(rest))


class _Named(Protocol):
    path: Any
    revision: Any


def sources_of(config: RunConfig) -> list[Source]:
    """The repositories that a run names."""
    return [model for each in models_of(config) if (model := model_source(*each))] + dataset_sources(config.dataset)


def models_of(config: RunConfig) -> list[tuple[Model, str]]:
    """The model that is trained and that which writes pairs for it, each with its key."""
    weak = config.dataset.weak_rejects
    return [(config.model, "model"), *([] if weak is None else [(weak.model, "dataset.weak_rejects.model")])]


def model_source(model: Model, key: str = "model") -> Source | None:
    """The repository of a model; None where it is on this machine."""
    source = _source("model", model, f"{key}.path")
    return None if source is None else replace(source, gguf_file=model.gguf_file)


def dataset_sources(dataset: Dataset) -> list[Source]:
    """The repositories that rows come from: of the data set, of a mixture's parts, of a weaker model's instructions."""
    named: list[tuple[_Named, str]] = [(dataset, "dataset.path")]
    named += [(part, f"dataset.mixture[{number}].path") for number, part in enumerate(dataset.mixture or [])]
    if dataset.weak_rejects is not None:
        named.append((dataset.weak_rejects, "dataset.weak_rejects.path"))
    return [source for each, key in named if (source := _source("dataset", each, key))]


def _source(kind: str, named: _Named, key: str) -> Source | None:
    if not is_hub_id(named.path):
        return None
    return Source(kind, named.path, named.revision, key, key.removesuffix("path") + "revision")


# ------------------------------------------------------------------------------------------------ pins


def commit_of(source: Source, store: Store) -> str:
    """The commit that a source stands for in this output folder; looked up and pinned where nobody has done it yet.

    Raises:
        ConfigError: it cannot be looked up, and why.
    """
    known = pinned_commit(source, store)
    if known is None:
        pin(source, _resolve(source), store)
        known = pinned_commit(source, store)
    return str(known)


def pinned_commit(source: Source, store: Store) -> str | None:
    """The commit that a source stands for, as far as it is settled; without a question to anybody."""
    if is_commit(source.revision):
        return source.revision
    fact = read_fact(pin_file(source, store), Pin)
    return None if fact is None else fact.commit


def pin(source: Source, commit: str, store: Store) -> None:
    """Settle what a source stands for in this output folder; where somebody was quicker, his word holds."""
    if not is_commit(source.revision):
        fact = Pin(commit, source.path, source.revision or DEFAULT_REVISION, time.time())
        write_once(pin_file(source, store), fact)


def restore(pins: Mapping[str, str], store: Store) -> None:
    """Put back the pins with which a run was launched, by `Source.name`, where their files were removed since."""
    for name, commit in pins.items():
        pin(named(name), commit, store)


def pin_file(source: Source, store: Store) -> Path:
    """Where a source's pin is."""
    return store.pin_file(f"{source.kind}s", source.path, source.revision or DEFAULT_REVISION)


def _resolve(source: Source) -> str:
    """The commit of a branch or a tag now; where the Hub cannot be reached, that of this machine's cache."""
    from huggingface_hub import HfApi

    try:
        found = HfApi().resolve_revision(source.path, repo_type=source.kind, revision=source.revision)
    except Exception as error:  # the client, the network and the server each have their own family of errors
        raise refusal(source, error) from error
    return str(found.resolved)


def cached_commit(source: Source) -> str | None:
    """The commit that this machine's cache has for a source; None where it has none."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RevisionResolutionError

    try:
        found = HfApi().resolve_revision(
            source.path, repo_type=source.kind, revision=source.revision, local_files_only=True
        )
    except RevisionResolutionError:
        return None
    return str(found.resolved)


def is_whole(source: Source, commit: str) -> bool:
    """Whether a job would do with what this machine's cache has of a model at a commit."""
    listed = cached_sizes(source, commit)
    try:
        check_whole(cached_folder(source, commit), source.gguf_file)
        needed = needed_files(listed, source.gguf_file) if listed else []
    except MissingFiles:
        return False
    return all(has_file(source, commit, name, listed[name]) for name in needed)


def has_all_files(source: Source, commit: str) -> bool:
    """Whether this machine's cache knows which files a commit has, and has them."""
    listed = cached_sizes(source, commit)
    return bool(listed) and all(has_file(source, commit, *each) for each in listed.items())


def has_file(source: Source, commit: str, name: str, size: int) -> bool:
    """Whether this machine's cache has all of a file."""
    file = cached_folder(source, commit) / name
    return file.is_file() and file.stat().st_size == size


def cached_sizes(source: Source, commit: str) -> dict[str, int]:
    """The size of each file that a commit has, as far as this machine's cache knows it; empty where it does not."""
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        entries = get_cached_repo_tree(source.path, repo_type=source.kind, revision=commit)
    except CachedRepoTreeNotFoundError:
        return {}
    return {entry.path: entry.size for entry in entries}


def cached_folder(source: Source, commit: str) -> Path:
    """Where the cache keeps the files of a commit."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    repository = repo_folder_name(repo_id=source.path, repo_type=source.kind)
    return Path(constants.HF_HUB_CACHE) / repository / "snapshots" / commit


# ------------------------------------------------------------------------------------------------ single files


def text_of(source: Source, commit: str, name: str) -> str | None:
    """The text of a small file at a commit; None where there is none. Nothing is kept on this machine.

    Raises:
        Exception: the client's, the network's or the server's; see `refusal`.
    """
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

    url = hf_hub_url(source.path, name, repo_type=source.kind, revision=commit)
    answer = get_session().get(url, headers=build_hf_headers(), follow_redirects=True, timeout=LOOK_SECONDS)
    try:
        hf_raise_for_status(answer)
    except EntryNotFoundError:
        return None
    return str(answer.text)


def cached_text(source: Source, commit: str, name: str) -> str | None:
    """The same from this machine's cache."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(source.path, name, revision=commit, repo_type=source.kind)
    return Path(found).read_text(encoding="utf-8") if isinstance(found, str) else None


# ------------------------------------------------------------------------------------------------ words


def refusal(source: Source, error: BaseException) -> ConfigError:
    """Why a source cannot be read, and what to do about it."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):
        return source.wrong(_gate(source, error))
    if isinstance(error, RevisionNotFoundError):
        remedy = f"{source.path} has no such branch, tag or commit{_branches(source)}"
        return beneath(source.adapters, ConfigError(source.revision_key, source.revision, remedy))
    if isinstance(error, RepositoryNotFoundError):
        return source.wrong(f"the Hub has no such {source.kind}, or it is private and {_token_may_not()}")
    if is_unreachable(error):
        why = "HF_HUB_OFFLINE is set" if is_offline(error) else "there is no way to the Hub"
        return source.wrong(f"is not whole in the cache ({_cache()}), and {why}; {fetch_command(source)}")
    return source.wrong(f"cannot be read: {told(error)}")


def _gate(source: Source, error: Any) -> str:
    from huggingface_hub import constants

    page = f"{constants.ENDPOINT}/{'datasets/' if source.kind == 'dataset' else ''}{source.path}"
    if has_token(os.environ) and error.response.status_code != 401:  # noqa: PLR2004 - HTTP's own number
        return f"is gated, and this token has no access; ask for it at {page}"
    return f"is gated, and {_token_may_not()}; accept its terms at {page}, then `hf auth login` or HF_TOKEN"


def _token_may_not() -> str:
    found = has_token(os.environ)
    return "this token may not read it" if found else "no token was found here (`hf auth login`, or HF_TOKEN)"


def _branches(source: Source) -> str:
    """Which branches and tags there are, for somebody who has mistyped one; nothing where that cannot be told."""
    from huggingface_hub import HfApi

    try:
        refs = HfApi().list_repo_refs(source.path, repo_type=source.kind)
    except Exception:  # noqa: BLE001 - it is only a hint
        return ""
    names = [ref.name for ref in [*refs.branches, *refs.tags]]
    return f"; it has {listed(names, HINTS)}" if names else ""


def _cache() -> str:
    from huggingface_hub import constants

    return str(constants.HF_HUB_CACHE)


def fetch_command(source: Source) -> str:
    """What to type where there is internet, with the same HF_HOME; `prefsweep fetch` does it for a whole sweep."""
    kind = " --repo-type dataset" if source.kind == "dataset" else ""
    revision = f" --revision {source.revision}" if source.revision else ""
    return f"where there is internet: hf download {source.path}{kind}{revision}, or `prefsweep fetch` for a whole sweep"


def is_gated(error: BaseException) -> bool:
    """Whether a repository may be read by some, and this token is not theirs."""
    from huggingface_hub.errors import GatedRepoError

    return isinstance(error, GatedRepoError)


def is_offline(error: BaseException) -> bool:
    """Whether huggingface_hub was told not to ask anybody."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    return any(isinstance(each, OfflineModeIsEnabled) for each in _causes(error))


def is_unreachable(error: BaseException) -> bool:
    """Whether no answer came from the Hub, for whatever reason that may be gone later or elsewhere."""
    import httpx2

    return is_offline(error) or any(isinstance(each, httpx2.TransportError) for each in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
