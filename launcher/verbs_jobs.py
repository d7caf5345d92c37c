"""The verbs about runs and their jobs: status, logs, cancel, resume, run; and doctor, about where jobs go.

Owns: the order of each verb's steps; each takes its parsed arguments and returns the exit code.
Must not know: how anything is decided, submitted, read or worded; it calls those who do.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from launcher import cost, views, views_plan, views_states
from launcher.arguments import DONE, FAILED
from launcher.cancelling import cancel as stop
from launcher.config import Cluster, ConfigError, RunConfig, SchedulerError, StoreError, from_plain
from launcher.facts import acting_attempt, read_facts, require_run
from launcher.files import read_fact
from launcher.following import after_submission
from launcher.handover import adopt
from launcher.plan import Run, Sweep, executor_of
from launcher.records import new_attempt_here, recorded_settings, recorded_sweep
from launcher.scheduler import Scheduler, key_of, scheduler_for, this_process
from launcher.selection import chosen, opened, runs_of
from launcher.states import RunState, states_of
from launcher.store import AttemptDir, RunDir, Store, SweepDir
from launcher.submit import act, decide


def status(options: argparse.Namespace) -> int:
    """Show the states of a sweep's runs, once or until none is in flight."""
    directory, store, scheduler = opened(options)
    while True:
        states = _states_or_complaint(directory, store, scheduler, raises=not options.watch)
        if states is not None:
            views_states.show_status(directory, states, as_json=options.json, clear=options.watch)
            if not options.watch or not any(state.in_flight for state in states):
                return DONE
        time.sleep(max(options.every, scheduler.poll_seconds))


def _states_or_complaint(
    directory: SweepDir, store: Store, scheduler: Scheduler, *, raises: bool
) -> list[RunState] | None:
    """The states; None where the scheduler did not answer and the user is watching anyway."""
    try:
        return states_of(runs_of(directory, store), scheduler)
    except SchedulerError as error:
        if raises:
            raise
        views.complain(str(error))
        return None


def logs(options: argparse.Namespace) -> int:
    """Print what one process of a run printed."""
    run = require_run(Store(options.output_dir.absolute()).run(options.run))
    attempts = {attempt.number: attempt for attempt in run.all_attempts()}
    if not attempts:
        raise StoreError(f"{run.run_id}: has no attempt yet, so no log; `resume` its sweep to submit it")
    number = options.attempt or (acting_attempt(run) or attempts[max(attempts)]).number
    if number not in attempts:
        raise ConfigError(f"--attempt {number}: {run.run_id} has the attempts {', '.join(map(str, attempts))}")
    ended = _ended(run)
    log = attempts[number].log_file(options.rank)
    if not log.exists() and (not options.follow or ended()):  # the job has not come to the run, or never will
        log = next((path for path in _logs_before(attempts[number]) if path.exists()), log)
    views_states.show_log(log, follow=options.follow, ended=ended)
    return DONE


def _logs_before(attempt: AttemptDir) -> Iterator[Path]:
    """What was printed before the job came to the run: by the job itself, or by the one that makes its table."""
    for job in (read_fact(attempt.job_file) or {}, attempt.record.get("after") or {}):
        if job.get("log"):
            yield Path(job["log"])


def _ended(run: RunDir) -> views_states.Ended:
    """Whether the run has ended, as its facts say, or the scheduler, which is not asked more often than it likes."""
    scheduler, asked, in_flight = scheduler_for("auto"), 0.0, True

    def ended() -> bool:
        nonlocal asked, in_flight
        facts = read_facts(run)
        if facts.failure is not None or facts.finished:
            return True
        if time.monotonic() - asked >= scheduler.poll_seconds:
            asked, in_flight = time.monotonic(), states_of([run], scheduler)[0].in_flight
        return not in_flight

    return ended


def cancel(options: argparse.Namespace) -> int:
    """Ask the chosen runs to stop."""
    directory, store, scheduler = opened(options)
    with store.submission_lock:
        adopt(runs_of(directory, store), scheduler)
        states = chosen(options, directory, store, scheduler)
        stopped = stop(states, scheduler)
    views_states.say_cancelled(directory, stopped)
    return DONE


def resume(options: argparse.Namespace) -> int:
    """Submit again those of the chosen runs that are not done, with changed settings where given."""
    from launcher.compose import change_settings
    from launcher.resources import trl_losses

    words = options.runs
    overrides = [word for word in words if "=" in word]
    options.runs = [word for word in words if "=" not in word]
    given = {word.partition("=")[0].removeprefix("cluster.") for word in overrides}
    directory, store, scheduler = opened(options)
    with store.submission_lock:
        changed = functools.partial(change_settings, overrides=overrides) if overrides else dict
        sweep = recorded_sweep(directory, store, trl_losses(), changed)
        adopt(runs_of(directory, store), scheduler)
        states = chosen(options, directory, store, scheduler)
        names = {state.run.run_id for state in states}
        scheduler = scheduler_for(executor_of(_to_be_submitted(sweep, states)))
        decisions = [d for d in decide(sweep, store, scheduler, given) if d.run.run_id in names]
        views_plan.show_plan(sweep, decisions, None, store, as_json=options.json)
        act(sweep, decisions, store, scheduler, {"argv": ["resume", directory.name, *words], "time": time.time()})
    return after_submission(directory.name, decisions, store, scheduler, quiet=options.json)


def _to_be_submitted(sweep: Sweep, states: Sequence[RunState]) -> Sequence[Run]:
    """The runs that are neither done nor in flight; the first where there are none."""
    names = {state.run.run_id for state in states if not (state.facts.finished or state.in_flight)}
    return [run for run in sweep.runs if run.run_id in names] or sweep.runs[:1]


def run(options: argparse.Namespace) -> int:
    """Make one run in this process."""
    run = require_run(RunDir(options.run_dir.absolute()))
    store = Store(run.path.parent.parent)
    settings = recorded_settings(run)
    job = importlib.import_module("launcher.worker.job")  # named by its path only: it imports torch
    deepspeed = bool((settings.get("deepspeed") or {}).get("config"))
    succeeded = job.attempt_here(run, store, functools.partial(_attempt_by_hand, run, store), deepspeed=deepspeed)
    return DONE if succeeded else FAILED


def _attempt_by_hand(run: RunDir, store: Store) -> AttemptDir:
    """The attempt that this process is to make: its own, where SLURM has requeued it, else a new one."""
    scheduler = scheduler_for("auto")
    with store.submission_lock:
        adopt([run], scheduler)
        state = states_of([run], scheduler)[0]
        if state.in_flight and state.facts.job is not None and key_of(state.facts.job) == key_of(this_process()):
            return run.attempts()[-1]
        if state.in_flight:
            raise ConfigError(f"{run.run_id}: is {state.status} as job {state.facts.job_id}; cancel it first")
        return new_attempt_here(run)


def doctor(options: argparse.Namespace) -> int:
    """Show what this machine and its cluster offer."""
    from launcher import doctor, slurm

    survey = slurm.survey() if scheduler_for("auto").name == "slurm" else None
    found = doctor.findings(survey, options.output_dir.absolute(), os.environ)
    if options.overrides:
        found += _needed(options.overrides)
    if options.probe:
        found += _probed(options, survey is not None)
    views.show_findings(found, None if survey is None else doctor.proposal(survey))
    return DONE


def _needed(overrides: Sequence[str]) -> list[tuple[str, str]]:
    """What the sweep of these overrides needs on disk."""
    from launcher.compose import compose

    _, points = compose(overrides, multirun=True)
    configs: list[RunConfig] = [from_plain(point.config) for point in points]
    needed = cost.total(configs, configs[0].cluster.max_parallel).disk_bytes
    if needed is None:
        return []
    return [("disk needed", f"about {cost.size(needed)} for {len(configs)} runs, models and checkpoints")]


def _probed(options: argparse.Namespace, on_slurm: bool) -> list[tuple[str, str]]:
    """What a job sees of the node that it gets."""
    from launcher import doctor, slurm
    from launcher.compose import compose

    if not on_slurm:
        raise ConfigError("--probe: there is no SLURM here on which a job could look at a node")
    _, (point, *_) = compose(["cluster=slurm", *options.overrides], multirun=True)
    batch = doctor.question(from_plain(point.config["cluster"], Cluster, "cluster."), options.output_dir.absolute())
    views.complain(f"the probe job {batch.name} is in the queue; waiting up to {options.wait:g} s")
    job = slurm.run_and_wait(batch, "launcher.worker.probe", options.wait)
    return list(doctor.answer(batch, ended_well=job is not None))
