"""The verb `logs`: what a run printed."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

from launcher.cli.arguments import DONE, Parser
from launcher.cli.selection import find_run
from launcher.cluster.scheduler import scheduler_to_ask
from launcher.errors import StoreError, UsageError
from launcher.machine.terminal import complain
from launcher.runs.run_state import read_facts, states_of
from launcher.runs.unreadable import Reading
from launcher.store.attempts import Attempts
from launcher.store.run_folder import AttemptDir, RunDir
from launcher.views import states as views_states

EXAMPLES = (
    "python -m launcher logs tiny-ipo-beta0.1-0a1b2c3d --follow",
    "python -m launcher logs tiny-ipo-beta0.1-0a1b2c3d --attempt 1",
)


def arguments(parser: Parser) -> None:
    """What the verb may be given."""
    parser.add_argument("run", metavar="RUN", help="a run id, its beginning, or the run's folder")
    parser.add_argument("--follow", action="store_true", help="go on as the run prints, until it ends")
    parser.add_argument("--attempt", type=int, metavar="N", help="default: the last")
    parser.add_argument(
        "--rank", type=int, default=0, metavar="R", help="the process of a distributed run (default: 0)"
    )


def logs(options: argparse.Namespace) -> int:
    """Print what one process of a run printed."""
    run = find_run(options, options.run)
    found = Attempts.of(run)
    attempts = {attempt.number: attempt for attempt in found.all}
    if not attempts:
        raise StoreError(f"{run.run_id}: has no attempt yet, so no log; `resume` its sweep to submit it")
    read = Reading(complain)
    number = options.attempt or (read(lambda: found.acting) or found.all[-1]).number
    if number not in attempts:
        raise UsageError(f"--attempt {number}: {run.run_id} has the attempts {', '.join(map(str, attempts))}")
    ended = _ended(run)
    log = attempts[number].log_file(options.rank)
    if not log.exists() and (not options.follow or ended()):  # the job has not come to the run, or never will
        before = read(lambda: list(_logs_before(attempts[number]))) or []
        log = next((path for path in before if path.exists()), log)
    views_states.show_log(log, follow=options.follow, ended=ended)
    return DONE


def _logs_before(attempt: AttemptDir) -> Iterator[Path]:
    """What was printed before the job came to the run: by the job itself, or by the one that makes its table."""
    for job in (attempt.job, attempt.record.after):
        if job and job.log:
            yield Path(job.log)


def _ended(run: RunDir) -> views_states.Ended:
    """Whether the run has ended, as its facts say, or the scheduler, which is not asked more often than it likes."""
    scheduler, asked, in_flight = scheduler_to_ask(), 0.0, True

    def ended() -> bool:
        nonlocal asked, in_flight
        facts = read_facts(run)
        if facts.failure is not None or facts.finished:
            return True
        if time.monotonic() - asked >= scheduler.poll_seconds:
            asked, in_flight = time.monotonic(), states_of([run], scheduler)[0].in_flight
        return not in_flight

    return ended
