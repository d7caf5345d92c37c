"""The command line: verbs, their arguments, exit codes. With `views`, the only module that prints; the only that exits.

Owns: what the user types and what is answered.
Must not know: how anything is decided, submitted or read; it calls those who do.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from launcher import evaluating, views
from launcher.benchmarks import awaits_judge, lacking
from launcher.config import Cluster, ConfigError, Judge, PrefsweepError, SchedulerError, StoreError, from_plain
from launcher.facts import read_facts, read_job, require_run
from launcher.handover import adopt
from launcher.judging import estimate, require_judge
from launcher.plan import Sweep
from launcher.scheduler import Scheduler, key_of, scheduler_for, this_process
from launcher.status import UNSUCCESSFUL, Status
from launcher.store import AttemptDir, RunDir, Store, SweepDir, read_fact
from launcher.submit import (
    Action,
    Decision,
    RunState,
    act,
    cancel,
    decide,
    new_attempt_here,
    recorded_settings,
    recorded_sweep,
    states_of,
)

DONE, FAILED, WRONG = 0, 1, 2
POLL_SECONDS = 2.0

DESCRIPTION = """\
Run a preference-tuning sweep: model x loss_type x beta, and any other axis.

  python -m launcher -m loss_type=sigmoid,ipo,kto_pair beta=0.01,0.1     plan, show, submit
  python -m launcher -m +sweeps=smoke dry_run=true                       the plan; writes nothing
  python -m launcher status                                              the latest sweep's runs
  python -m launcher resume SWEEP                                        what failed, goes on from its checkpoint

Overrides are key=value, in Hydra's grammar: a,b  range(1,4)  choice(a,b)  glob(*)  +sweeps=NAME.
conf/config.yaml has every key with its meaning; conf/<group>/ has the choices of model, dataset, trainer, ...
"""

VERBS = {
    "status": "the runs of a sweep: state, step, time left, reason",
    "logs": "what a run printed",
    "cancel": "stop runs that are in flight; they keep their checkpoints",
    "resume": "submit again what failed, was cancelled, timed out or got lost",
    "run": "one run in this process",
    "evaluate": "measure what is missing: answers in jobs, judging here",
    "collect": "write results.jsonl from what is there now",
    "dashboard": "the sweep's W&B workspace and report, or its local trackio or TensorBoard page",
    "sync": "upload what nodes without internet kept for W&B",
    "publish": "push the models that are trained and not published, each as one revision",
    "doctor": "what this machine and its cluster offer, and a file for conf/cluster",
}


class _Parser(argparse.ArgumentParser):
    """argparse with our one-line errors."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see `{self.prog} --help`")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code: 0 done, 1 something failed, 2 the command or config was wrong."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        verb = argv[0] if argv and argv[0] in VERBS else None
        if verb is None:
            return _launch(argv)
        return _VERBS[verb](_verb_parser(verb).parse_intermixed_args(argv[1:]))
    except ConfigError as error:
        views.complain(str(error))
        return WRONG
    except PrefsweepError as error:
        views.complain(str(error))
        return FAILED
    except KeyboardInterrupt:
        views.complain("interrupted; the same command goes on where it was")
        return FAILED
    except BrokenPipeError:  # the reader of a pipe, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return DONE


# ------------------------------------------------------------------------------------------------ launch


def _launch(argv: Sequence[str]) -> int:
    options = _launch_parser().parse_args(argv)
    if not options.overrides and not options.multirun:
        _launch_parser().print_help()
        return DONE
    # Imported here: only planning needs Hydra, and the verbs stay quick without it.
    from launcher.compose import compose
    from launcher.plan import plan, plan_run
    from launcher.resources import trl_losses
    from launcher.revisions import has_token, missing_token, with_revisions
    from launcher.sources import check_sources, fetch_sources, unpinned

    grid, points = compose(options.overrides, multirun=options.multirun)
    runs = [plan_run(point.config, point.axes, point.overrides, trl_losses()) for point in points]
    sweep = plan(runs, grid.varied, grid.name)
    config = sweep.runs[0].config
    store = Store(Path(config.output_dir).absolute())
    sweep = with_revisions(sweep, store.sweep(sweep.name).run_records(), token=has_token(os.environ))
    notes = [
        *check_sources(sweep, store, dry_run=config.dry_run),
        *unpinned(sweep),
        *missing_token(sweep, os.environ),
    ]
    scheduler = scheduler_for(config.cluster.executor)
    if config.dry_run:
        decisions = decide(sweep, store, scheduler)
        views.show_plan(sweep, decisions, scheduler, store, as_json=options.json)
        views.show_notes(notes)
        return DONE
    views.show_notes(notes)
    fetch_sources(sweep, store)
    with store.submission_lock:
        adopt([store.run(run.run_id) for run in sweep.runs], scheduler)
        decisions = decide(sweep, store, scheduler)
        views.show_plan(sweep, decisions, None, store, as_json=options.json)
        act(sweep, decisions, store, scheduler, {"argv": list(argv), "time": time.time()})
    return _after_submission(sweep.name, decisions, store, scheduler, quiet=options.json)


def _after_submission(
    name: str, decisions: Sequence[Decision], store: Store, scheduler: Scheduler, *, quiet: bool
) -> int:
    """Follow local jobs to their end; leave detached ones alone."""
    directory = store.sweep(name)
    submitted = [d for d in decisions if d.action is not Action.SKIP]
    if scheduler.detached or quiet:
        views.say_submitted(directory, len(submitted), quiet=quiet)
        return DONE
    return _follow([store.run(d.run.run_id) for d in decisions], directory, store, scheduler)


def _follow(runs: Sequence[RunDir], directory: SweepDir, store: Store, scheduler: Scheduler) -> int:
    states = _watch(runs, directory, scheduler)
    if states is None:
        return FAILED
    _show_results(directory, store, scheduler)
    return FAILED if any(state.status in UNSUCCESSFUL for state in states) else DONE


def _watch(runs: Sequence[RunDir], directory: SweepDir, scheduler: Scheduler) -> list[RunState] | None:
    """Show how the runs do until none is in flight; None where the user has ended it."""
    try:
        with views.Progress(directory) as progress:
            while True:
                states = states_of(runs, scheduler)
                progress.show(states)
                if not any(state.in_flight for state in states):
                    break
                time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        stopped = cancel(states_of(runs, scheduler), scheduler)
        views.say_interrupted(directory, len(stopped))
        return None
    return states


def _show_results(directory: SweepDir, store: Store, scheduler: Scheduler) -> None:
    from launcher.collect import collect

    runs = _runs_of(directory, store)
    views.show_results(directory, collect(directory, store, states_of(runs, scheduler)))
    views.say_unjudged(directory, [run.run_id for run in runs if awaits_judge(run)])


# ------------------------------------------------------------------------------------------------ verbs


def _status(options: argparse.Namespace) -> int:
    directory, store, scheduler = _opened(options)
    while True:
        states = _states_or_complaint(directory, store, scheduler, raises=not options.watch)
        if states is not None:
            views.show_status(directory, states, as_json=options.json, clear=options.watch)
            if not options.watch or not any(state.in_flight for state in states):
                return DONE
        time.sleep(max(options.every, scheduler.poll_seconds))


def _states_or_complaint(
    directory: SweepDir, store: Store, scheduler: Scheduler, *, raises: bool
) -> list[RunState] | None:
    """The states; None where the scheduler did not answer and the user is watching anyway."""
    try:
        return states_of(_runs_of(directory, store), scheduler)
    except SchedulerError as error:
        if raises:
            raise
        views.complain(str(error))
        return None


def _logs(options: argparse.Namespace) -> int:
    run = require_run(Store(options.output_dir.absolute()).run(options.run))
    attempts = {attempt.number: attempt for attempt in run.attempts()}
    if not attempts:
        raise StoreError(f"{run.run_id}: has no attempt yet, so no log; `resume` its sweep to submit it")
    number = options.attempt or max(attempts)
    if number not in attempts:
        raise ConfigError(f"--attempt {number}: {run.run_id} has the attempts {', '.join(map(str, attempts))}")
    ended = _ended(run)
    log = attempts[number].log_file(options.rank)
    job_log = Path((read_fact(attempts[number].job_file) or {}).get("log") or log)
    if not log.exists() and job_log.exists() and (not options.follow or ended()):
        log = job_log  # the job has not come to the run, or never will
    views.show_log(log, follow=options.follow, ended=ended)
    return DONE


def _ended(run: RunDir) -> views.Ended:
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


def _cancel(options: argparse.Namespace) -> int:
    directory, store, scheduler = _opened(options)
    with store.submission_lock:
        adopt(_runs_of(directory, store), scheduler)
        states = _chosen(options, directory, store, scheduler)
        stopped = cancel(states, scheduler)
    views.say_cancelled(directory, stopped)
    return DONE


def _resume(options: argparse.Namespace) -> int:
    from launcher.compose import change_settings
    from launcher.resources import trl_losses

    overrides = [word for word in options.runs if "=" in word]
    options.runs = [word for word in options.runs if "=" not in word]
    given = {word.partition("=")[0].removeprefix("cluster.") for word in overrides}
    directory, store, scheduler = _opened(options)
    with store.submission_lock:
        changed = functools.partial(change_settings, overrides=overrides) if overrides else dict
        sweep = recorded_sweep(directory, store, trl_losses(), changed)
        scheduler = scheduler_for(sweep.runs[0].config.cluster.executor)
        adopt(_runs_of(directory, store), scheduler)
        names = {state.run.run_id for state in _chosen(options, directory, store, scheduler)}
        decisions = [d for d in decide(sweep, store, scheduler, given) if d.run.run_id in names]
        views.show_plan(sweep, decisions, None, store, as_json=options.json)
        act(sweep, decisions, store, scheduler, {})
    return _after_submission(directory.name, decisions, store, scheduler, quiet=options.json)


def _run(options: argparse.Namespace) -> int:
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
        state, before = states_of([run], scheduler)[0], read_job(run)
        if state.in_flight and before is not None and key_of(before) == key_of(this_process()):
            return run.attempts()[-1]
        if state.in_flight:
            raise ConfigError(f"{run.run_id}: is {state.status} as job {state.facts.job_id}; cancel it first")
        return new_attempt_here(run)


def _collect(options: argparse.Namespace) -> int:
    directory, store, scheduler = _opened(options)
    _show_results(directory, store, scheduler)
    return DONE


def _evaluate(options: argparse.Namespace) -> int:
    from launcher.resources import trl_losses
    from launcher.sources import check_benchmarks

    directory, store, _ = _opened(options)
    sweep = evaluating.asked(recorded_sweep(directory, store, trl_losses()), options.benchmark, options.overrides)
    check_benchmarks(sweep)
    judge = evaluating.judge_of(sweep)
    if evaluating.needs_judge(sweep, store, again=options.again):
        require_judge(judge)
    scheduler = scheduler_for(sweep.runs[0].config.cluster.executor)
    with store.submission_lock:
        adopt(_runs_of(directory, store), scheduler)
        if options.again:
            evaluating.set_aside(sweep, store)
        decisions = [d for d in decide(sweep, store, scheduler) if d.action is Action.EVALUATE]
        if decisions:
            views.show_plan(sweep, decisions, None, store, as_json=False)
        if not options.dry_run:
            act(sweep, decisions, store, scheduler, {})
    if decisions and not options.dry_run and not _measured(decisions, directory, store, scheduler):
        return FAILED
    return _judge(sweep, store, judge, options)


def _measured(decisions: Sequence[Decision], directory: SweepDir, store: Store, scheduler: Scheduler) -> bool:
    """Follow local jobs to their end, leave detached ones alone; whether, as far as is known, they succeed."""
    if scheduler.detached:
        views.say_submitted_to_evaluate(directory, len(decisions))
        return True
    runs = [store.run(decision.run.run_id) for decision in decisions]
    watched = _watch(runs, directory, scheduler)
    wanted = [decision.run.config.evaluation.benchmarks for decision in decisions]
    if watched is not None and any(map(lacking, runs, wanted)):
        _show_results(directory, store, scheduler)
    return watched is not None and not any(map(lacking, runs, wanted))


def _judge(sweep: Sweep, store: Store, judge: Judge, options: argparse.Namespace) -> int:
    """Have the judge rate what awaits it, with its cost before and after."""
    with evaluating.only_judge(store):
        waiting = evaluating.answers_to_judge(sweep, store)
        opened = evaluating.open_judgements(waiting, judge, again=options.again)
        if waiting:
            views.say_to_judge(waiting, estimate(opened, judge), judge)
        if options.dry_run:
            return DONE
        if waiting:
            try:
                spent = evaluating.judge_all(waiting, opened, judge, views.judging_progress())
            except KeyboardInterrupt:
                views.complain("stopped; what was judged is kept, and the same command goes on")
                return FAILED
            views.say_judged(spent, waiting)
    views.say_judged_otherwise(evaluating.judged_otherwise(sweep, store), judge)
    directory = store.sweep(sweep.name)
    _show_results(directory, store, scheduler_for("auto"))
    return DONE


def _dashboard(options: argparse.Namespace) -> int:
    from launcher.dashboard import open_dashboard

    directory, _, _ = _opened(options)
    lines, serving = open_dashboard(directory, options.port, browser=not options.no_browser)
    views.say_dashboard(lines, serving=serving)
    try:
        while serving:
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        pass
    return DONE


def _sync(options: argparse.Namespace) -> int:
    from launcher.sync import pending, upload

    directory, store, scheduler = _opened(options)
    states = states_of(_runs_of(directory, store), scheduler)
    waiting = sum(state.in_flight for state in states)
    uploaded = upload(pending(state.run for state in states if not state.in_flight))
    views.say_uploaded(directory, len(uploaded.done), len(uploaded.left), waiting, uploaded.words)
    return FAILED if uploaded.left else DONE


def _publish(options: argparse.Namespace) -> int:
    from launcher.publication import act, decide, gather

    directory, store, scheduler = _opened(options)
    states = _chosen(options, directory, store, scheduler)
    publications = [decide(state, store=options.hub, repo=options.repo) for state in states]
    if options.dry_run:
        views.show_publications(directory, publications, as_json=options.json)
        return DONE
    outcomes = []
    for number, publication in enumerate(publications, 1):
        views.say_pushing(publication, number, len(publications), quiet=options.json)
        outcomes.append(act(publication, store))
        views.say_outcome(outcomes[-1], number, len(publications), quiet=options.json)
    count, hub = options.collection, publications[0].hub if publications else None
    address = gather(outcomes, directory, hub, store, count) if count and hub else None
    views.show_published(directory, outcomes, address, as_json=options.json)
    return FAILED if any(outcome.error for outcome in outcomes) else DONE


def _doctor(options: argparse.Namespace) -> int:
    from launcher import doctor, slurm

    survey = slurm.survey() if scheduler_for("auto").name == "slurm" else None
    found = doctor.findings(survey, options.output_dir.absolute(), os.environ)
    if options.probe:
        found += _probed(options, survey is not None)
    views.show_findings(found, None if survey is None else doctor.proposal(survey))
    return DONE


def _probed(options: argparse.Namespace, on_slurm: bool) -> list[tuple[str, str]]:
    """What a job sees of the node that it gets."""
    from launcher import doctor, slurm
    from launcher.compose import compose

    if not on_slurm:
        raise ConfigError("--probe: there is no SLURM here on which a job could look at a node")
    _, (point,) = compose(["cluster=slurm", *options.overrides], multirun=False)
    batch = doctor.question(from_plain(point.config["cluster"], Cluster, "cluster."), options.output_dir.absolute())
    views.complain(f"the probe job {batch.name} is in the queue; waiting up to {options.wait:g} s")
    job = slurm.run_and_wait(batch, "launcher.worker.probe", options.wait)
    return list(doctor.answer(batch, ended_well=job is not None))


_VERBS = {
    "status": _status,
    "logs": _logs,
    "cancel": _cancel,
    "resume": _resume,
    "run": _run,
    "evaluate": _evaluate,
    "collect": _collect,
    "dashboard": _dashboard,
    "sync": _sync,
    "publish": _publish,
    "doctor": _doctor,
}


def _opened(options: argparse.Namespace) -> tuple[SweepDir, Store, Scheduler]:
    """The sweep that the user named, or the one launched last."""
    store = Store(options.output_dir.absolute())
    sweeps = store.sweeps()
    names = [sweep.name for sweep in sweeps]
    if not names:
        raise ConfigError(f"--output-dir {options.output_dir}: holds no sweep yet; launch one with -m")
    name = options.sweep or names[-1]
    if name not in names:
        raise ConfigError(f"{name}: no such sweep in {store.root}; there are: {', '.join(names)}")
    return store.sweep(name), store, scheduler_for("auto")


def _runs_of(directory: SweepDir, store: Store) -> list[RunDir]:
    return [store.run(record["run_id"]) for record in directory.run_records()]


def _chosen(options: argparse.Namespace, directory: SweepDir, store: Store, scheduler: Scheduler) -> list[RunState]:
    """The runs that the user named, by id or its beginning, or those in the states asked for; else all."""
    states = states_of(_runs_of(directory, store), scheduler)
    for name in options.runs:
        if not any(state.run.run_id.startswith(name) for state in states):
            raise ConfigError(f"{name}: no run of {directory.name} is called so; `status {directory.name}` lists them")
    if options.runs:
        states = [state for state in states if state.run.run_id.startswith(tuple(options.runs))]
    wanted = {word.upper() for word in options.state}
    return [state for state in states if not wanted or state.status in wanted]


# ------------------------------------------------------------------------------------------------ arguments


def _launch_parser() -> _Parser:
    verbs = "\n".join(f"  {verb:10}{meaning}" for verb, meaning in VERBS.items())
    parser = _Parser(
        prog="python -m launcher",
        description=DESCRIPTION,
        epilog=f"verbs (python -m launcher VERB --help):\n{verbs}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides of conf/config.yaml")
    parser.add_argument("-m", "--multirun", action="store_true", help="run every combination of the values given")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON, and do not follow the jobs")
    return parser


def _verb_parser(verb: str) -> _Parser:
    examples = {
        "status": "status\n  status smoke --watch\n  status smoke --json | jq '.runs[] | select(.status==\"FAILED\")'",
        "logs": "logs tiny-ipo-beta0.1-0a1b2c3d --follow\n  logs tiny-ipo-beta0.1-0a1b2c3d --attempt 1",
        "cancel": "cancel smoke\n  cancel smoke tiny-ipo\n  cancel smoke --state pending",
        "resume": "resume smoke\n  resume smoke tiny-ipo\n  resume smoke cluster.time=8:00:00 cluster.exclude=n3",
        "run": "run outputs/runs/tiny-ipo-beta0.1-0a1b2c3d",
        "evaluate": "evaluate smoke\n  evaluate smoke --benchmark mt_bench evaluation.judge.base_url=URL "
        "evaluation.judge.model=NAME\n  evaluate smoke --again evaluation.generations=256",
        "collect": "collect smoke",
        "publish": "publish smoke\n  publish smoke --hub huggingface --repo me/scan\n  publish smoke --collection 3",
        "dashboard": "dashboard smoke\n  dashboard smoke --port 7860 --no-browser",
        "sync": "sync smoke",
        "doctor": "doctor\n  doctor --probe cluster.partition=gpu cluster.gpus_per_node=1",
    }
    text = "examples:\n" + "\n".join(f"  python -m launcher {line.strip()}" for line in examples[verb].splitlines())
    parser = _Parser(
        prog=f"python -m launcher {verb}",
        description=VERBS[verb],
        epilog=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _ARGUMENTS[verb](parser)
    parser.add_argument(
        "--output-dir", type=Path, default=Path("outputs"), help="where everything is (default: outputs)"
    )
    return parser


def _sweep_arguments(parser: _Parser) -> None:
    parser.add_argument("sweep", nargs="?", metavar="SWEEP", help="default: the sweep launched last")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def _status_arguments(parser: _Parser) -> None:
    _sweep_arguments(parser)
    parser.add_argument("--watch", action="store_true", help="again and again, until nothing is in flight")
    parser.add_argument("--every", type=float, default=30.0, metavar="S", help="seconds between two (default: 30)")


def _chosen_arguments(parser: _Parser, which: str = "run ids or their beginnings (default: all)") -> None:
    parser.add_argument("sweep", metavar="SWEEP")
    parser.add_argument("runs", nargs="*", metavar="RUN", help=which)
    states = [status.lower() for status in Status]
    parser.add_argument("--state", action="append", default=[], choices=states, help="only runs in this state")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def _resume_arguments(parser: _Parser) -> None:
    _chosen_arguments(parser, "run ids or their beginnings (default: all), and key=value for new settings")


def _publish_arguments(parser: _Parser) -> None:
    _chosen_arguments(parser)
    parser.add_argument(
        "--hub", choices=["huggingface", "folder"], help="another store than the sweep was launched with"
    )
    parser.add_argument("--repo", metavar="REPO", help="another repository: NAME or OWNER/NAME")
    parser.add_argument("--collection", type=int, metavar="N", help="gather the N best models in a Hub collection")
    parser.add_argument("--dry-run", action="store_true", help="show what would be pushed, and push nothing")


def _logs_arguments(parser: _Parser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run id")
    parser.add_argument("--follow", action="store_true", help="go on as the run prints, until it ends")
    parser.add_argument("--attempt", type=int, metavar="N", help="default: the last")
    parser.add_argument(
        "--rank", type=int, default=0, metavar="R", help="the process of a distributed run (default: 0)"
    )


def _evaluate_arguments(parser: _Parser) -> None:
    parser.add_argument("sweep", metavar="SWEEP")
    parser.add_argument(
        "overrides", nargs="*", metavar="evaluation...=value", help="in place of what it was launched with"
    )
    named = "only this one (may be given again); default: those of evaluation.benchmarks"
    parser.add_argument("--benchmark", action="append", default=[], metavar="NAME", help=named)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--again", action="store_true", help="also what is there already, which is kept under a number")
    mode.add_argument("--dry-run", action="store_true", help="only show what would be measured and what judging costs")


def _run_arguments(parser: _Parser) -> None:
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="a folder of outputs/runs")


def _dashboard_arguments(parser: _Parser) -> None:
    parser.add_argument("sweep", nargs="?", metavar="SWEEP", help="default: the sweep launched last")
    parser.add_argument("--port", type=int, metavar="P", help="of the local page, on loopback (default: a free one)")
    parser.add_argument("--no-browser", action="store_true", help="print the local page's address only")


def _sync_arguments(parser: _Parser) -> None:
    parser.add_argument("sweep", nargs="?", metavar="SWEEP", help="default: the sweep launched last")


def _doctor_arguments(parser: _Parser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for --probe: cluster.partition=gpu, ...")
    parser.add_argument("--probe", action="store_true", help="also look at a node, with a job of one task")
    parser.add_argument("--wait", type=float, default=600.0, metavar="S", help="seconds for that job (default: 600)")


_ARGUMENTS = {
    "status": _status_arguments,
    "logs": _logs_arguments,
    "cancel": _chosen_arguments,
    "resume": _resume_arguments,
    "run": _run_arguments,
    "evaluate": _evaluate_arguments,
    "collect": _sweep_arguments,
    "dashboard": _dashboard_arguments,
    "sync": _sync_arguments,
    "publish": _publish_arguments,
    "doctor": _doctor_arguments,
}
