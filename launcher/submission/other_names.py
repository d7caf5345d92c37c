"""Planned runs that were trained already, of the same model under another name.

Owns: which recorded run such a one equals. Must not know: what happens to either.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from launcher.config import OBJECTIVE
from launcher.dataset.inputs import content_of, inputs_of
from launcher.machine.locate import place_of
from launcher.planning.planned_runs import without_paths
from launcher.store.files import Plain
from launcher.store.hashes import Hashes
from launcher.submission.same_content import recorded
from launcher.sweep import Run, Sweep


def under_other_names(sweep: Sweep, known: Hashes) -> list[str]:
    """A line for each run that is new but for its model's name: it names the run that is the same training.

    Raises:
        ConfigError: a data set or an adapter on this machine is not what it should be.
    """
    local = [run for run in sweep.runs if place_of(run.config.model.path).path is not None]
    names = {run.run_id: None for run in known.store.runs()} if local else {}
    new = [run for run in local if run.run_id not in names]
    pairs = ((run, equal) for run in new if (equal := next(_equals(run, names, known), None)))
    return [
        f"{run.run_id}: the same training as {equal}, of the same model under another name; it is trained once more"
        for run, equal in pairs
    ]


def _equals(run: Run, names: Iterable[str], known: Hashes) -> Iterator[str]:
    """The ids of the runs with the same settings, trained on the same content."""
    ending = run.run_id.removeprefix(run.config.model.name).rpartition("-")[0]
    others = [known.store.run(name) for name in names if name.rpartition("-")[0].endswith(ending)]
    objective = _nameless(run.objective)
    for other in others:
        if not other.config_file.exists() or _nameless(other.read_config()) != objective:
            continue
        now, before = content_of(run.inputs or inputs_of(run.config, known)), recorded(other)
        if now and before is not None and content_of(before) == now:
            yield other.run_id


def _nameless(config: Plain) -> Plain:
    """An objective, but for where its model and data lie on this machine, and the model's name."""
    objective = {key: config[key] for key in OBJECTIVE if key in config}
    return without_paths({**objective, "model": {**config.get("model", {}), "name": None}})
