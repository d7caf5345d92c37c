"""What of a sweep lies on the Hub: looked up when it is launched, before anything is submitted.

Owns: which sources are asked for, when they are pinned, what the plan tells of them.
Must not know: how a name is resolved or told (`hub.sources`), files of models and data sets, torch.

A repository or revision that is not there, or may not be read, costs one line here and sixty failed jobs later. Where
the Hub cannot be reached from the launching machine, the cache is asked, and what that does not know is left to the
jobs: their nodes may have another way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from launcher.config import RunConfig
from launcher.dataset import schemas
from launcher.dataset.layouts import Listing
from launcher.dataset.local_files import INSTRUCTION_KEYS, check_absolute
from launcher.dataset.naming import Naming, naming_of
from launcher.errors import ConfigError, UsageError
from launcher.hub.sources import (
    LOOK_SECONDS,
    REST,
    Source,
    beneath,
    cached_commit,
    cached_sizes,
    cached_text,
    fetch_command,
    is_gated,
    is_offline,
    is_unreachable,
    models_of,
    named,
    pin,
    pin_file,
    pinned_commit,
    refusal,
    sources_of,
    text_of,
)
from launcher.losses import loss_named
from launcher.machine.installed import package_dir
from launcher.machine.locate import DEFAULT_REVISION, is_commit, is_hub_id, place_of, split_revision
from launcher.model.adapter import BASE_KEY, CONFIG_FILE, Adapter, adapter_in, adapter_of
from launcher.model.files import INDEX, MissingFiles, check_tokenizer, needed_files, shards_in
from launcher.planning import needed
from launcher.planning.needed import Needed, data_sources
from launcher.store.output_folder import Store
from launcher.sweep import Run, Sweep


@dataclass(frozen=True)
class Settled:
    """What a launch found out about the sources of its sweep.

    Attributes:
        sweep: with the pins of each run among its settings.
        lines: which commit each source stands for, and which models are adapters.
        notes: what could not be looked up, and what has moved since it was pinned.
    """

    sweep: Sweep
    lines: list[str]
    notes: list[str]


def settle(sweep: Sweep, store: Store, *, dry_run: bool) -> Settled:
    """Look every source up, once; writes nothing but, in the Hub's cache, what a branch stands for.

    Raises:
        ConfigError: there is no such repository or revision, or no access to it.
    """
    look = _Look(store, dry_run=dry_run)
    runs = [_with_pins(run, look.at(run.config)) for run in sweep.runs]
    return Settled(replace(sweep, runs=tuple(runs)), list(look.lines), list(look.notes))


def pin_sources(sweep: Sweep, store: Store) -> None:
    """Pin what the sweep's sources were found to stand for.

    Raises:
        UsageError: another launch has just pinned one of them to another commit.
    """
    for name, commit in {item for run in sweep.runs for item in run.config.pins.items()}:
        source = named(name)
        pin(source, commit, store)
        if pinned_commit(source, store) != commit:
            raise UsageError(f"{source}: another launch has pinned it to {pinned_commit(source, store)}; launch again")


def _with_pins(run: Run, pins: dict[str, str]) -> Run:
    return replace(run, config=replace(run.config, pins=pins), settings={**run.settings, "pins": pins})


@dataclass
class _Look:
    """One look at the sources of a sweep: each is asked for once, and none after a silence."""

    store: Store
    dry_run: bool
    lines: dict[str, None] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    silence: Exception | None = None
    _earlier: dict[str, str] | None = None
    _runs: dict[str, dict[str, str]] = field(default_factory=dict)
    _commits: dict[Source, str | None] = field(default_factory=dict)
    _files: dict[Source, frozenset[str]] = field(default_factory=dict)
    _namings: dict[Source, Naming] = field(default_factory=dict)

    def at(self, config: RunConfig) -> dict[str, str]:
        """The pins of a run: of what it names, and of the models that its adapters belong to."""
        identity = repr((config.model, config.dataset))
        if identity not in self._runs:
            self._runs[identity] = dict(self._pins(config))
        self._check_rows(config)
        return self._runs[identity]

    def _check_rows(self, config: RunConfig) -> None:
        """Whether data sets have the splits and columns that are asked for, as far as can be known here."""
        paired, weak = loss_named(config.loss_type).paired, config.dataset.weak_rejects
        identity = repr((config.dataset, paired))
        if identity in self._runs:
            return
        self._runs[identity] = {}
        for source, each in data_sources(config):
            commit = self._commits.get(source)
            names = commit and (self._files.get(source) or cached_sizes(source, commit))
            if commit is None or not names:
                continue
            listing = Listing(str(source), sorted(names), cache(partial(self._text, source, commit)), REST)
            lacking = partial(schemas.lacking, dataset=each, paired=paired) if weak is None else weak.missing
            try:
                needed.check_rows(listing, each, lacking)
            except ConfigError as error:
                raise (error if weak is None else error.renamed(INSTRUCTION_KEYS)) from error

    def _text(self, source: Source, commit: str, name: str) -> str | None:
        """A small file, where it can be read; whoever may not read a card may still be let in on a node."""
        if source not in self._files or self.silence is not None:
            return cached_text(source, commit, name)
        try:
            return text_of(source, commit, name)
        except Exception:  # noqa: BLE001 - then the job tells
            return None

    def _pins(self, config: RunConfig) -> Iterator[tuple[str, str]]:
        elsewhere = bool(config.cluster.setup or config.cluster.container)  # a job may have another way, or a token
        left, seen = [*sources_of(config), *self._local_bases(config)], set()
        self._namings |= {source: naming_of(each) for source, each in data_sources(config)}
        while left:
            source = left.pop(0)
            if source in seen:
                continue
            seen.add(source)
            if source not in self._commits:
                self._commits[source] = self._settle(source, elsewhere=elsewhere)
            if (commit := self._commits[source]) is not None:
                yield source.name, commit
                left += self._bases(source, commit)

    # -------------------------------------------------------------------------------------------- one source

    def _settle(self, source: Source, *, elsewhere: bool) -> str | None:
        """Its commit; None where only a job can tell."""
        if source.revision is None:
            with _naming(source):
                check_absolute(source.key, Path(source.path))  # a folder of that name here may be what is meant
        _check_name(source)
        known = pinned_commit(source, self.store) or self._recorded().get(source.name)
        commit = self._look_up(source, known, elsewhere=elsewhere)
        if commit is not None:
            kind = "" if source.revision == commit else f", commit {commit}"
            self.lines[f"{source.kind}: {source}{kind}"] = None
        return commit

    def _look_up(self, source: Source, known: str | None, *, elsewhere: bool) -> str | None:
        if package_dir("huggingface_hub") is None:
            self._note(source.wrong("not looked up, since huggingface_hub is not installed here "
                                    "(pip install 'prefsweep[hub]'); the first job pins its commit"))  # fmt: skip
            return known
        _quiet()
        if self.silence is not None:
            return self._unanswered(source, known, elsewhere=elsewhere)
        try:
            return self._ask(source, known)
        except ConfigError:
            raise
        except Exception as error:
            if is_unreachable(error):
                self.silence = error
                return self._unanswered(source, known, elsewhere=elsewhere)
            wrong = _gone(source, known, self.store, error) or refusal(source, error)
            if known is not None and self._is_here(source, known):  # what is gone from the Hub is still here
                self._note(f"{wrong}; this machine's cache has that commit, and jobs take it from there")
            elif not (is_gated(error) and (elsewhere or self.dry_run)):
                raise wrong from error
            else:
                self._note(f"{wrong} (where the jobs run)" if elsewhere else wrong)
            return known

    def _ask(self, source: Source, known: str | None) -> str:
        """What the Hub says of it; that a branch has moved since it was pinned is noted."""
        from huggingface_hub import HfApi

        api, commit = HfApi(), known
        if commit is None and not self.dry_run:  # so that the cache knows it too, for a launch that is offline
            commit = api.resolve_revision(source.path, repo_type=source.kind, revision=source.revision).resolved
        revision = commit or source.revision
        info = api.repo_info(source.path, repo_type=source.kind, revision=revision, timeout=LOOK_SECONDS)
        self._files[source] = frozenset(each.rfilename for each in getattr(info, "siblings", None) or ())
        if info.gated:  # its description may be read by all, its files only by some
            api.auth_check(source.path, repo_type=source.kind)
        if known is not None and not is_commit(source.revision):
            self._compare(source, known, api)
        if source.kind == "model":
            self._check_files(source, str(info.sha))
        return str(info.sha)

    def _check_files(self, source: Source, commit: str) -> None:
        """Whether the repository has all that loading the model needs, by its files' names and its index."""
        names = self._files[source]
        try:
            check_tokenizer(names, source.gguf_file)
            for name in needed_files(names, source.gguf_file):
                if name.endswith(INDEX) and (lost := shards_in(text_of(source, commit, name) or "", name) - names):
                    raise MissingFiles(f"lacks {', '.join(sorted(lost))}, which {name} names")  # noqa: TRY301
        except MissingFiles as error:
            raise source.wrong(str(error)) from error

    def _compare(self, source: Source, known: str, api: Any) -> None:
        try:
            now = api.repo_info(source.path, repo_type=source.kind, revision=source.revision, timeout=LOOK_SECONDS).sha
        except Exception as error:  # noqa: BLE001 - the branch may be gone; what it stood for is there
            self._note(
                f"{refusal(source, error)}; runs in {self.store.root} keep to the commit it was pinned to, {known}"
            )
            return
        if now != known:
            self._note(
                f"{source}: has moved on to {now}; runs in {self.store.root} keep to {known}, to which it was pinned "
                f"there ({source.revision_key}={now} makes runs on what it is now)"
            )

    def _unanswered(self, source: Source, known: str | None, *, elsewhere: bool) -> str | None:
        """What this machine's cache says of it, where there is no way to the Hub."""
        commit = known or cached_commit(source)
        if commit is None or not self._is_here(source, commit):
            offline = self.silence is not None and is_offline(self.silence)
            if self.silence is not None and offline and not (elsewhere or self.dry_run):
                raise refusal(source, self.silence)
            why = "HF_HUB_OFFLINE is set" if offline else "there is no way to the Hub from here"
            self._note(source.wrong(f"not looked up, {why}, and it is not whole in the cache; jobs need one or the "
                                    f"other ({fetch_command(source)})"))  # fmt: skip
        return commit

    def _is_here(self, source: Source, commit: str) -> bool:
        return needed.is_here(Needed(source, commit, self._namings.get(source, Naming())))

    def _recorded(self) -> dict[str, str]:
        """The pins with which earlier launches were recorded here, in case their files were removed since."""
        if self._earlier is None:
            settings = [record.settings for sweep in self.store.sweeps() for record in sweep.run_records()]
            self._earlier = {name: commit for each in settings for name, commit in each.get("pins", {}).items()}
        return self._earlier

    def _note(self, note: object) -> None:
        self.notes[str(note)] = None

    # -------------------------------------------------------------------------------------------- adapters

    def _local_bases(self, config: RunConfig) -> Iterator[Source]:
        """The repositories of the models that adapters on this machine belong to."""
        for model, key in models_of(config):
            folder = place_of(model.path).path
            adapter = None if folder is None else adapter_in(folder, f"{key}.path")
            if adapter is not None:
                yield from self._base(adapter, ((f"{key}.path", str(model.path)),))

    def _bases(self, source: Source, commit: str) -> list[Source]:
        """The repository of the model that an adapter on the Hub belongs to."""
        if source.kind != "model":
            return []
        try:
            text = self._adapter_config(source, commit)
        except Exception as error:
            raise refusal(source, error) from error
        if text is None:
            return []
        here = (source.key, str(source))
        with _naming(source):
            adapter = adapter_of(text, *here)
        return list(self._base(adapter, (*source.adapters, here)))

    def _adapter_config(self, source: Source, commit: str) -> str | None:
        files = self._files.get(source)
        if files is None or self.silence is not None:
            return cached_text(source, commit, CONFIG_FILE)
        return text_of(source, commit, CONFIG_FILE) if CONFIG_FILE in files else None

    def _base(self, adapter: Adapter, adapters: tuple[tuple[str, str], ...]) -> Iterator[Source]:
        """Its repository, if it has one; `adapters` lead to the adapter, which is the last of them."""
        *above, (key, path) = adapters
        self.lines[f"model: {path} is an adapter of {adapter}; the two are merged once, and training starts there"] = (
            None
        )
        if is_hub_id(adapter.base):
            if adapter.base == split_revision(path)[0]:
                remedy = f"{BASE_KEY} in its {CONFIG_FILE} is the adapter itself"
                raise beneath(above, ConfigError(key, path, remedy))
            yield Source(
                "model", adapter.base, adapter.revision, BASE_KEY, f"revision of {BASE_KEY}", adapters=adapters
            )
        elif not Path(adapter.base).is_absolute() or not (Path(adapter.base) / "config.json").is_file():
            remedy = (
                f"is an adapter of {adapter.base}, which is neither ORG/NAME of the Hub nor the absolute path of a "
                f"model's folder here; set {BASE_KEY} in its {CONFIG_FILE}"
            )
            raise beneath(above, ConfigError(key, path, remedy))


@contextmanager
def _naming(source: Source) -> Iterator[None]:
    """What is wrong with a source, also said of the adapters above it."""
    try:
        yield
    except ConfigError as error:
        raise beneath(source.adapters, error) from error


def _quiet() -> None:
    """Have huggingface_hub warn nobody: what it would say is told once, in our words."""
    from huggingface_hub.utils import logging

    logging.get_logger("huggingface_hub").setLevel("ERROR")


def _check_name(source: Source) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(source.path)
    except HFValidationError as error:
        raise source.wrong(f"cannot be a name on the Hub: {' '.join(str(error).split())}") from error


def _gone(source: Source, known: str | None, store: Store, error: Exception) -> ConfigError | None:
    """The error where the Hub lacks the commit to which a branch is pinned; None where that is not what is wrong."""
    from huggingface_hub.errors import RevisionNotFoundError

    if known is None or is_commit(source.revision) or not isinstance(error, RevisionNotFoundError):
        return None
    return source.wrong(
        f"is pinned to {known} in {store.root}, which the Hub does not have any more; remove "
        f"{pin_file(source, store)} to take what {source.revision or DEFAULT_REVISION} is now"
    )
