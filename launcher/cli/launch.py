"""`python -m launcher -m KEY=VALUES...`: plan, show, submit.

Owns: the order of a launch's steps. Must not know: how anything is planned, submitted or worded.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path

from launcher.cli.arguments import DONE, VERBS, Parser
from launcher.cli.watch import after_submission
from launcher.cluster.scheduler import scheduler_for
from launcher.store.output_folder import Store
from launcher.submission.adopt import adopt
from launcher.submission.batches import plan_batches
from launcher.submission.decide import decide
from launcher.submission.submit import act, check_ranks
from launcher.views import console
from launcher.views import plan as views_plan

DESCRIPTION = """\
Run a preference-tuning sweep: model x loss_type x beta, and any other axis.

  python -m launcher -m loss_type=sigmoid,ipo,kto_pair beta=0.01,0.1     plan, show, submit
  python -m launcher -m +sweeps=smoke dry_run=true                       the plan; writes nothing
  python -m launcher status                                              the latest sweep's runs
  python -m launcher resume SWEEP                                        what failed, goes on from its checkpoint

Overrides are key=value, in Hydra's grammar: a,b  range(1,4)  choice(a,b)  glob(*)  +sweeps=NAME.
conf/config.yaml has every key with its meaning; conf/<group>/ has the choices of model, dataset, trainer, ...
"""


def launch_parser() -> Parser:
    """What a launch may be given; its help lists the verbs."""
    verbs = "\n".join(f"  {verb:10}{meaning}" for verb, meaning in VERBS.items())
    parser = Parser(
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


def launch(argv: Sequence[str]) -> int:
    """Plan, show and submit what the command line asks for; returns the exit code."""
    options = launch_parser().parse_intermixed_args(argv)
    if not options.overrides and not options.multirun:
        launch_parser().print_help()
        return DONE
    # Imported here: only planning needs Hydra, and the verbs stay quick without it.
    from launcher.hub.claims import claim_revisions
    from launcher.hub.revisions import missing_token
    from launcher.machine.accounts import has_token
    from launcher.machine.installed import trl_losses
    from launcher.planning.compose import compose
    from launcher.planning.hub_sources import pin_sources, settle
    from launcher.planning.plan import executor_of, plan, plan_run
    from launcher.planning.prerequisites import check_sources, fetch_sources, short_of_disk

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
        planned = plan_batches(sweep, decide(sweep, store, scheduler), store, scheduler)
        views_plan.show_plan(planned, scheduler, store, as_json=options.json, sources=settled.lines)
        console.show_notes(notes)
        return DONE
    check_ranks(sweep, scheduler)
    console.show_notes(notes)
    fetch_sources(sweep, store)
    pin_sources(sweep, store)
    with store.submission_lock:
        adopt([store.run(run.run_id) for run in sweep.runs], scheduler)
        planned = plan_batches(sweep, decide(sweep, store, scheduler), store, scheduler)
        views_plan.show_plan(planned, None, store, as_json=options.json, sources=settled.lines)
        act(planned, store, scheduler, {"argv": list(argv), "time": time.time()})
    return after_submission(planned, store, scheduler, quiet=options.json)
