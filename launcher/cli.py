"""One command line: what it asks for, the launch of a sweep, and how everything ends: exit codes, one-line errors.

Owns: which verb answers, the launch, the order of its steps, what an error becomes. The only module that exits.
Must not know: how anything is decided, submitted, read or worded; it calls those who do.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from launcher import verbs_jobs, verbs_results, views, views_plan
from launcher.arguments import DONE, FAILED, VERBS, WRONG, launch_parser, verb_parser
from launcher.config import ConfigError, PrefsweepError
from launcher.following import after_submission
from launcher.handover import adopt
from launcher.scheduler import scheduler_for
from launcher.store import Store
from launcher.submit import act, check_ranks, decide

_VERBS = {
    "status": verbs_jobs.status,
    "logs": verbs_jobs.logs,
    "cancel": verbs_jobs.cancel,
    "resume": verbs_jobs.resume,
    "run": verbs_jobs.run,
    "evaluate": verbs_results.evaluate,
    "collect": verbs_results.collect,
    "dashboard": verbs_results.dashboard,
    "sync": verbs_results.sync,
    "publish": verbs_results.publish,
    "doctor": verbs_jobs.doctor,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code: 0 done, 1 something failed, 2 the command or config was wrong."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        verb = argv[0] if argv and argv[0] in VERBS else None
        if verb is None:
            return _launch(argv)
        return _VERBS[verb](verb_parser(verb).parse_intermixed_args(argv[1:]))
    except PrefsweepError as error:
        views.complain(str(error))
        return WRONG if isinstance(error, ConfigError) else FAILED
    except KeyboardInterrupt:
        views.complain("interrupted; the same command goes on where it was")
        return FAILED
    except BrokenPipeError:  # the reader of a pipe, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return DONE
    except OSError as error:  # a full disk, a folder without rights: not ours to mend
        views.complain(f"{error.filename or 'cannot read or write'}: {error.strerror or error}")
        return FAILED


def _launch(argv: Sequence[str]) -> int:
    options = launch_parser().parse_intermixed_args(argv)
    if not options.overrides and not options.multirun:
        launch_parser().print_help()
        return DONE
    # Imported here: only planning needs Hydra, and the verbs stay quick without it.
    from launcher.claims import claim_revisions
    from launcher.compose import compose
    from launcher.plan import executor_of, plan, plan_run
    from launcher.resources import trl_losses
    from launcher.revisions import has_token, missing_token
    from launcher.sources import check_sources, fetch_sources, short_of_disk
    from launcher.sources_hub import pin_sources, settle

    grid, points = compose(options.overrides, multirun=options.multirun)
    runs = [plan_run(point.config, point.axes, point.overrides, trl_losses()) for point in points]
    sweep = plan(runs, grid.varied, grid.name)
    config = sweep.runs[0].config
    store = Store(Path(config.output_dir).absolute())
    sweep, unchecked = claim_revisions(sweep, store, token=has_token(os.environ))
    settled = settle(sweep, store, dry_run=config.dry_run)
    sweep = settled.sweep
    notes = [
        *check_sources(sweep, store, dry_run=config.dry_run),
        *settled.notes,
        *short_of_disk(sweep, store),
        *missing_token(sweep, os.environ),
        *unchecked,
    ]
    scheduler = scheduler_for(executor_of(sweep.runs))
    if config.dry_run:
        decisions = decide(sweep, store, scheduler)
        views_plan.show_plan(sweep, decisions, scheduler, store, as_json=options.json, sources=settled.lines)
        views.show_notes(notes)
        return DONE
    check_ranks(sweep, scheduler)
    views.show_notes(notes)
    fetch_sources(sweep, store)
    pin_sources(sweep, store)
    with store.submission_lock:
        adopt([store.run(run.run_id) for run in sweep.runs], scheduler)
        decisions = decide(sweep, store, scheduler)
        views_plan.show_plan(sweep, decisions, None, store, as_json=options.json, sources=settled.lines)
        act(sweep, decisions, store, scheduler, {"argv": list(argv), "time": time.time()})
    return after_submission(sweep.name, decisions, store, scheduler, quiet=options.json)
