"""Which revision of which repository each run of a sweep will be. Pure, but for the look for a token.

Owns: the store that `auto` stands for, the repositories' default names, the rules for names, collisions.
Must not know: what a revision holds, how it is pushed, how it is known whose one is that is there (`claims`).

Repository names follow the Hub's rules (huggingface_hub.utils.validate_repo_id), revision names git's
(git-check-ref-format) less the slash, so that either is also the name of a folder and cannot lead out of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from launcher.config import Hub
from launcher.errors import ConfigError
from launcher.machine.accounts import has_token
from launcher.store.facts import RunRecord
from launcher.store.run_folder import name_of
from launcher.sweep import Run, Sweep

Key = tuple[str | None, str]
Owner = tuple[str, Mapping[str, Any]]  # run id, axes
NOBODY: Mapping[Key, str] = MappingProxyType({})
MAX_NAME = 96
_PART = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
_START = re.compile(r"start-[0-9a-f]{12}")  # see `starting_point`
_COMMIT = re.compile(r"[0-9a-f]{7,40}")


def missing_token(sweep: Sweep, environment: Mapping[str, str]) -> list[str]:
    """What to tell of a sweep for the Hub that is launched where no token is found."""
    hubs = [run.config.hub for run in sweep.runs if run.config.hub.store == "huggingface"]
    if not hubs or has_token(environment):
        return []
    where = "here, before `publish`" if hubs[0].when == "login" else "where the jobs run"
    return [f"hub.store=huggingface: no token was found on this machine; `hf auth login` or HF_TOKEN is needed {where}"]


def with_revisions(
    sweep: Sweep, recorded: Iterable[RunRecord], *, token: bool, holders: Mapping[Key, str] = NOBODY
) -> Sweep:
    """The sweep with each run's store, repository and revision settled, as its attempts will record them.

    Args:
        sweep: as planned.
        recorded: what earlier launches recorded of the sweep's runs; their revisions are taken.
        token: whether a token was found, without which `hub=auto` is a folder.
        holders: which model, RUN or RUN@STEP, a revision holds already; empty where it is none of ours.

    Raises:
        ConfigError: a name that the Hub or a folder cannot have, or two runs would write one revision.
    """
    recorded = list(recorded)
    before = {each.model: each.settings.get("hub", {}).get("repo") for each in recorded}
    models = tuple(dict.fromkeys(run.config.model.name for run in sweep.runs))
    names = {model: _name_of(model, sweep.name, models, before.get(model)) for model in models}
    owners: dict[Key, Owner] = {
        (None if hub["store"] == "off" else hub["repo"], each.revision): (record.run_id, record.axes)
        for record in recorded
        if "store" in (hub := record.settings.get("hub", {}))
        for each in _hubs(Hub(revision=hub["revision"]), record.settings.get("checkpoint", {}).get("milestones"))
    }
    settled = (_settled(run, names[run.config.model.name], owners, holders, token=token) for run in sweep.runs)
    return replace(sweep, runs=tuple(settled))


def automatic(asked: Hub, *, token: bool) -> str:
    """What `hub=auto` means: a token that happens to lie there is no wish to upload, a name for the place is."""
    return "huggingface" if token and (asked.org or asked.repo) else "folder"


def models_of(run: Run) -> dict[str, Hub]:
    """Where each model of a run goes, by its name: RUN, and its milestones, RUN@STEP."""
    hub, steps = run.config.hub, run.config.checkpoint.milestones or ()
    return {name_of(run.run_id, step): hub.at_step(step) for step in (None, *steps)}


def _name_of(model: str, sweep: str, models: Sequence[str], recorded: str | None) -> str:
    """A repository's default name: that of an earlier version, where a launch of this sweep has recorded it."""
    before = _default_before(model, sweep)
    return before if (recorded or "").rpartition("/")[2] == before else default_name(model, sweep, models)


def _settled(run: Run, name: str, owners: dict[Key, Owner], holders: Mapping[Key, str], *, token: bool) -> Run:
    asked = run.config.hub
    store = asked.store if asked.store != "auto" else automatic(asked, token=token)
    off = store == "off"
    repo = None if off else _repo(asked, name)
    named = _with_hub(run, replace(asked, store=store, repo=repo))
    clash = next(_clashes(named, owners, holders), None)
    if clash is not None:
        if not off and (asked.store != "auto" or asked.repo is not None):
            raise clash
        # Nobody asked for names, so any that tells runs apart will do.
        named = _with_hub(named, replace(named.config.hub, revision=run.run_id))
    for each in models_of(named).values():
        if not off:
            check_names(each)
        owners.setdefault((each.repo, each.revision), (run.run_id, run.axes))
    return _with_hub(named, replace(named.config.hub, repo=asked.repo if off else repo))


def _with_hub(run: Run, hub: Hub) -> Run:
    return replace(run, config=replace(run.config, hub=hub), settings={**run.settings, "hub": {**vars(hub)}})


def _hubs(hub: Hub, milestones: Iterable[int] | None) -> list[Hub]:
    """Where each model of a run goes: the final one, and its milestones."""
    return [hub, *(hub.at_step(step) for step in milestones or ())]


def _clashes(run: Run, owners: Mapping[Key, Owner], holders: Mapping[Key, str]) -> Iterator[ConfigError]:
    """Which of the run's revisions are another's: of this sweep, or in their store already."""
    for name, hub in models_of(run).items():
        owner = owners.get((hub.repo, hub.revision), (run.run_id, run.axes))
        if owner[0] != run.run_id:
            yield _shared(hub, owner, run)
        holder = holders.get((hub.repo, hub.revision), name)
        if holder != name:
            yield _held(hub, holder)


def _repo(hub: Hub, default: str) -> str:
    """The repository as far as it is known without asking the Hub: its owner may be the token's user."""
    name = default if hub.repo is None else hub.repo
    return f"{hub.org}/{name}" if hub.org and "/" not in name else name


def default_name(model: str, sweep: str, models: Sequence[str] = ()) -> str:
    """`<model>-<sweep>`, without what a repository's name may not have; not the model twice.

    A sweep that is called by all its `models`, as it is where it was given no name, is called by this one instead; one
    that names its only model anywhere keeps its name.
    """
    every = "+".join(models)
    if len(models) > 1 and re.match(rf"{re.escape(every)}(-|$)", sweep):
        return _as_name(f"{model}{sweep[len(every) :]}")
    named = re.search(rf"(^|[-+._]){re.escape(model)}([-+._]|$)", sweep) if len(models) <= 1 else None
    return _as_name(sweep) if named else _default_before(model, sweep)


def _default_before(model: str, sweep: str) -> str:
    """The default of earlier versions, under which models may be published."""
    return _as_name(sweep if sweep.startswith(f"{model}-") else f"{model}-{sweep}")


def _as_name(whole: str) -> str:
    name = re.sub(r"[^A-Za-z0-9_.]+|\.\.+", "-", whole)
    name = re.sub(r"-{2,}", "-", name)[:MAX_NAME].removesuffix(".git")
    return name.strip("-.")


def check_names(hub: Hub) -> None:
    """Check the names that a revision would be published under.

    Raises:
        ConfigError: the key, the value and what it may be.
    """
    parts = (hub.repo or "").split("/")
    plain = all(_PART.fullmatch(part) and len(part) <= MAX_NAME for part in parts) and len(parts) <= 2  # noqa: PLR2004 - owner/name
    if not plain or re.search(r"--|\.\.|\.git$", hub.repo or ""):
        raise ConfigError(
            "hub.repo",
            hub.repo,
            f"needs NAME or OWNER/NAME of letters, digits, '-', '_' and '.', at most {MAX_NAME} "
            "each, no '--' or '..', the first and last no '-' or '.'",
        )
    name = hub.revision
    wrong = not _REVISION.fullmatch(name) or len(name) > MAX_NAME or re.search(r"\.\.|\.$|\.lock$", name)
    if _START.fullmatch(name):
        raise ConfigError("hub.revision", name, "is the name of a starting point's revision; give another")
    if wrong or _COMMIT.fullmatch(name):
        raise ConfigError(
            "hub.revision",
            name,
            f"needs letters, digits, '-', '_', '+', '.', at most {MAX_NAME}, the first no sign, "
            "and may not have '..' or '.lock', or look like a commit",
        )


def _held(hub: Hub, holder: str) -> ConfigError:
    whose = f"the revision of {holder}, which is never overwritten" if holder else "none of ours"
    remedy = f"{hub.repo} has one already, {whose}; give another hub.revision or hub.repo"
    return ConfigError("hub.revision", hub.revision, remedy)


def _resolved(key: str, *, several: bool) -> str:
    """A key's value within a name, as OmegaConf is asked for it; of a list, its numbers one after another."""
    return f"${{number:${{{key}}}}}" if several else f"${{{key}}}"


def _shared(hub: Hub, owner: Owner, run: Run) -> ConfigError:
    differing = [key.lstrip("+") for key in run.axes if run.axes[key] != owner[1].get(key)]
    apart = differing[0] if differing else "seed"
    several = isinstance(run.axes.get(apart), list)
    return ConfigError(
        "hub.revision",
        hub.revision,
        f"{owner[0]} and {run.run_id} would both write it to {hub.repo}; "
        f"put what tells them apart into hub.revision, such as {_resolved(apart, several=several)}",
    )
