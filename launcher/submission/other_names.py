"""Planned runs that were trained already, of the same model under another name.

Owns: which recorded run such a one equals. Must not know: what happens to either.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from launcher.config import objective_in
from launcher.dataset.inputs import content_of, inputs_of
from launcher.errors import StoreError
from launcher.machine.locate import place_of
from launcher.planning.planned_runs import without_paths
from launcher.store.files import Plain, content_key
from launcher.store.hashes import Hashes
from launcher.store.reading import may_be_there
from launcher.store.run_folder import RunDir
from launcher.submission.same_content import recorded
from launcher.sweep import Run, Sweep


def under_other_names(sweep: Sweep, known: Hashes) -> list[str]:
    """A line for each run that is new but for its model's name: it names the run that is the same training.

    Raises:
        ConfigError: a data set or an adapter on this machine is not what it should be.
    """
    local = [run for run in sweep.runs if place_of(run.config.model.path).path is not None]
    names = {run.run_id: None for run in known.store.runs()} if local else {}
    others = _Others(names, known)
    new = [run for run in local if run.run_id not in names]
    pairs = ((run, equal) for run in new if (equal := next(others.equal_to(run), None)))
    return [
        f"{run.run_id}: the same training as {equal}, of the same model under another name; it is trained once more"
        for run, equal in pairs
    ]


class _Others:
    """The recorded runs, by what their names say of loss and beta; of those that a run may be, each is read once."""

    def __init__(self, names: Iterable[str], known: Hashes) -> None:
        self._known = known
        self._named: dict[str, list[str]] = {}
        for name in names:
            self._named.setdefault(_ending(name), []).append(name)
        self._alike: dict[str, dict[str, list[RunDir]]] = {}

    def equal_to(self, run: Run) -> Iterator[str]:
        """The ids of the runs with the same settings, trained on the same content."""
        ending = _ending(run.run_id)
        if ending not in self._alike:
            self._alike[ending] = self._by_objective(self._named.get(ending, ()))
        for other in self._alike[ending].get(content_key(_nameless(run.objective)), ()):
            now = content_of(run.inputs or inputs_of(run.config, self._known))
            with contextlib.suppress(StoreError):
                if now and (before := recorded(other)) is not None and content_of(before) == now:
                    yield other.run_id

    def _by_objective(self, names: Iterable[str]) -> dict[str, list[RunDir]]:
        found: dict[str, list[RunDir]] = {}
        for other in map(self._known.store.run, names):
            if may_be_there(other.config_file):
                with contextlib.suppress(StoreError):  # of a run that cannot be read nothing is known
                    found.setdefault(content_key(_nameless(other.read_config())), []).append(other)
        return found


def _ending(run_id: str) -> str:
    """What of a run's id is neither its model's name nor the hash: `sigmoid-beta0.1`."""
    name = run_id.rpartition("-")[0]
    return name[name.rfind("-", 0, max(0, name.rfind("-beta"))) + 1 :]


def _nameless(config: Plain) -> Plain:
    """An objective, but for where its model and data lie on this machine, and the model's name."""
    return without_paths({**objective_in(config), "model": {**config.get("model", {}), "name": None}})
