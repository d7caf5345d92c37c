"""What launches record of a sweep's runs: enough to list them without reading their folders, and to launch them again.

Owns: what of a run is recorded; runs and settings made from that.
Must not know: what is done with them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

from launcher.config import Hub, from_plain
from launcher.errors import ConfigError, StoreError
from launcher.losses import given
from launcher.planning.planned_runs import plan_run
from launcher.store.facts import RunRecord
from launcher.store.files import Plain
from launcher.store.output_folder import Store, SweepDir
from launcher.store.run_folder import RunDir
from launcher.sweep import Run, Sweep


def record_of(run: Run) -> RunRecord:
    """What a launch records of a run."""
    config = run.config
    return RunRecord(
        run_id=run.run_id,
        model=config.model.name,
        dataset=config.dataset.name,
        loss_type=config.loss_type,
        beta=config.beta,
        seed=config.seed,
        axes=run.axes,
        settings=run.settings,
        loss=given(config) or None,
        overrides=list(run.overrides),
    )


def news_of(
    sweep: Sweep, directory: SweepDir, launched: Collection[str], left: Collection[str] = ()
) -> list[RunRecord]:
    """What is to be recorded of the sweep: runs that are new to it; of those launched, also other settings.

    Of those that are `left` as they are what is left open stays as it is on record: another shell may have said it.
    """
    known = {record.run_id: record for record in directory.run_records()}
    news = []
    for run in sweep.runs:
        record, before = record_of(run), known.get(run.run_id)
        if before is not None and record.run_id in left:
            record = replace(record, settings=_kept(record.settings, before.settings, run.left_open))
        if before is None:
            news.append(record)
        elif record.run_id in launched and before.settings != json.loads(json.dumps(record.settings)):  # as it is read
            news.append(replace(record, axes={**before.axes, **record.axes}))
    return news


def _kept(settings: Plain, before: Plain, left_open: Collection[str]) -> Plain:
    """The settings, with what those before say of the cluster where these leave it open."""
    now, then = settings.get("cluster") or {}, before.get("cluster") or {}
    now = {key: None if key in left_open else value for key, value in now.items()}
    said = {key: value for key, value in now.items() if value is not None}
    extra = {key: value for key, value in (now.get("extra") or {}).items() if f"extra.{key}" not in left_open}
    return {**settings, "cluster": {**now, **then, **said, "extra": {**(then.get("extra") or {}), **extra}}}


def recorded_sweep(
    directory: SweepDir,
    store: Store,
    losses: Collection[str],
    changed: Callable[[Plain], Plain] = dict,
    left_out: dict[str, str] | None = None,
) -> Sweep:
    """The sweep as it was launched last, from what the launches and the runs recorded; `changed` gives new settings.

    `left_out` takes the runs whose own record cannot be read, by id with the reason; None: that is an error.

    Raises:
        StoreError: what was recorded is gone, or not whole.
    """
    refuse_damage([directory])
    runs = []
    for record in directory.run_records():
        settings = {**changed(record.settings), "sweep": directory.name}
        try:
            config = {**_objective_of(record, store.run(record.run_id), losses), **settings}
        except StoreError as error:
            if left_out is None:
                raise
            left_out[record.run_id] = str(error)
        else:
            planned = plan_run(config, record.axes, record.overrides, losses, recorded=True)
            runs.append(replace(planned, run_id=record.run_id))
    if not runs and left_out:
        raise StoreError("; ".join(left_out.values()))
    if not runs:
        raise StoreError(f"{directory.path / 'launches'}: names no run; launch the sweep again")
    return Sweep(directory.name, tuple(runs), tuple(directory.axes()))


def _objective_of(record: RunRecord, run: RunDir, losses: Collection[str]) -> Plain:
    """What the run was made for; where its folder was removed, what its overrides say, if that still is this run.

    Raises:
        StoreError: the run's config.yaml cannot be read, or its overrides give another run by now.
    """
    if run.path.is_dir():
        return run.read_config()
    from launcher.planning.compose import compose

    _, (point,) = compose(record.overrides, multirun=False)
    found = plan_run(point.config, record.axes, record.overrides, losses, recorded=True)
    if found.run_id != run.run_id:
        raise StoreError(f"{run.path}: was removed, and its settings now give {found.run_id}; launch the sweep again")
    return found.objective


def launched_with(directory: SweepDir) -> dict[str, Hub]:
    """The hub settings that the sweep was launched with last, by run id; none of launches that settled no store.

    Raises:
        StoreError: what was recorded cannot be.
    """
    recorded = {record.run_id: record.settings.get("hub") or {} for record in directory.run_records()}
    try:
        return {run_id: from_plain(hub, Hub, "hub.") for run_id, hub in recorded.items() if "store" in hub}
    except ConfigError as error:  # nobody has typed it
        raise StoreError(f"{directory.path / 'launches'}: settings.{error}") from error


def refuse_damage(sweeps: Iterable[SweepDir]) -> None:
    """Refuse to take settings from older launches, where a later one cannot be read.

    Raises:
        StoreError: names each file that cannot be read.
    """
    if damages := [damage for sweep in sweeps for damage in sweep.damages()]:
        raise StoreError("; ".join(damages))


def last_record(run: RunDir) -> RunRecord:
    """What was recorded of the run when it was last launched.

    Raises:
        StoreError: no launch has recorded it, or one cannot be read.
    """
    store = Store(run.path.parent.parent)
    refuse_damage(store.sweeps())
    records = [r for sweep in store.sweeps() for r in sweep.run_records() if r.run_id == run.run_id]
    if not records:
        raise StoreError(f"{run.run_id}: no sweep in {store.root} holds it; launch it with -m")
    return records[-1]
