"""The verb `run`: one run in this process."""

from __future__ import annotations

import argparse
import functools
import importlib
from pathlib import Path

from launcher.cli.arguments import DONE, FAILED, Parser
from launcher.cluster.local import this_process
from launcher.cluster.scheduler import key_of, scheduler_to_ask
from launcher.config import Hub, from_plain
from launcher.errors import UsageError
from launcher.machine.terminal import say
from launcher.planning.launches import last_record
from launcher.planning.prerequisites import shut_to_group
from launcher.runs.run_state import require_run, states_of
from launcher.runs.status import Status
from launcher.store.attempts import Attempts
from launcher.store.files import Plain
from launcher.store.output_folder import Store
from launcher.store.run_folder import AttemptDir, RunDir
from launcher.store.work_done import is_published, lacking
from launcher.submission.adopt import adopt
from launcher.submission.submit import new_attempt_here
from launcher.views.console import show_notes

EXAMPLES = ("python -m launcher run outputs/runs/tiny-ipo-beta0.1-0a1b2c3d",)


def arguments(parser: Parser) -> None:
    """What the verb may be given."""
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="a folder of outputs/runs")


def run(options: argparse.Namespace) -> int:
    """Make one run in this process."""
    if options.folder_given:
        raise UsageError(f"--output-dir {options.output_dir}: RUN_DIR says where the run lies; leave it out")
    run = require_run(RunDir(options.run_dir.absolute()))
    store = Store(run.path.parent.parent)
    settings = last_record(run).settings
    show_notes(shut_to_group(store.root))
    if _is_done(run, settings):
        say(f"{run.run_id}: is trained, measured and published as it was launched: nothing is left to do")
        return DONE
    job = importlib.import_module("launcher.worker.job")  # named by its path only: it imports torch
    deepspeed = bool((settings.get("deepspeed") or {}).get("config"))
    succeeded = job.attempt_here(run, store, functools.partial(_attempt_by_hand, run, store), deepspeed=deepspeed)
    return DONE if succeeded else FAILED


def _is_done(run: RunDir, settings: Plain) -> bool:
    """Whether a new attempt with these settings would find nothing to do; if so, nobody waits for a GPU."""
    if states_of([run], scheduler_to_ask())[0].status is not Status.TRAINED:
        return False
    hub = from_plain(settings.get("hub") or {}, Hub, "hub.")
    publishes = hub.store != "off" and hub.when == "job" and not is_published(run)
    benchmarks = (settings.get("evaluation") or {}).get("benchmarks")
    return benchmarks is not None and not lacking(run, benchmarks) and not publishes


def _attempt_by_hand(run: RunDir, store: Store) -> AttemptDir:
    """The attempt that this process is to make: its own, where it was requeued, else a new one."""
    scheduler = scheduler_to_ask()
    with store.submitting():
        adopt([run], scheduler)
        state = states_of([run], scheduler)[0]
        training, job = Attempts.of(run).training, state.facts.job
        if state.in_flight and training and job is not None and key_of(job) == key_of(this_process()):
            return training
        if state.in_flight:
            raise UsageError(f"{run.run_id}: is {state.status} as job {state.facts.job_id}; cancel it first")
        return new_attempt_here(run)
