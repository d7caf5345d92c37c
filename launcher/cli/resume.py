"""The verb `resume`: submit again what is not done."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Sequence

from launcher.cli.arguments import Parser, chosen_arguments, complained
from launcher.cli.selection import choose, open_sweep, runs_of
from launcher.cli.watch import after_submission
from launcher.cluster.scheduler import scheduler_for
from launcher.machine.terminal import complain
from launcher.planning.launches import recorded_sweep
from launcher.planning.loss_rules import trains_as_recorded
from launcher.planning.planned_runs import executor_of
from launcher.planning.prerequisites import shut_to_group
from launcher.runs.run_state import RunState
from launcher.store.hashes import Hashes
from launcher.submission.adopt import adopt
from launcher.submission.decide import Action, Decision, decide
from launcher.submission.environment import in_environment
from launcher.submission.plan import plan_batches
from launcher.submission.same_content import compare, with_inputs
from launcher.submission.submit import act
from launcher.sweep import Run, Sweep
from launcher.views import plan
from launcher.views.console import show_notes, working

EXAMPLES = (
    "python -m launcher resume smoke",
    "python -m launcher resume smoke tiny-ipo",
    "python -m launcher resume smoke cluster.time=8:00:00 cluster.exclude=n3",
    "python -m launcher resume smoke --dry-run",
)


def arguments(parser: Parser) -> None:
    """What the verb may be given."""
    chosen_arguments(parser, "run ids or their beginnings (default: all), and key=value for new settings")
    parser.add_argument("--dry-run", action="store_true", help="show what would be submitted; writes nothing")


def resume(options: argparse.Namespace) -> int:
    """Submit again those of the chosen runs that are not done, with changed settings where given."""
    from launcher.machine.installed import trl_losses
    from launcher.planning.changes import changing

    words = options.runs
    overrides = [word for word in words if "=" in word]
    options.runs = [word for word in words if "=" not in word]
    given = {word.lstrip("+").partition("=")[0].removeprefix("cluster.").removeprefix("extra.") for word in overrides}
    directory, store, scheduler = open_sweep(options)
    with contextlib.nullcontext() if options.dry_run else store.submitting():
        changed = changing(overrides) if overrides else dict
        known = Hashes(store, complain)
        left_out: dict[str, str] = {}
        sweep = with_inputs(recorded_sweep(directory, store, trl_losses(), changed, left_out), known)
        if not options.dry_run:
            known.keep()
            adopt(runs_of(directory, store), scheduler)
        states = choose(options, directory, store, scheduler)
        names = {state.run.run_id for state in states}
        scheduler = scheduler_for(executor_of(_to_be_submitted(sweep, states)), may_lack=options.dry_run)
        sweep, taken = in_environment(sweep, scheduler)
        show_notes([*shut_to_group(store.root), *compare(sweep, store, scheduler).notes])
        insisted = names if options.runs or options.state or overrides else ()
        decided = decide(sweep, store, scheduler, given, insisted=insisted)
        decisions = [d for d in decided if d.run.run_id in names]
        planned = plan_batches(sweep, decisions, store, scheduler, decided)
        show_notes(_under_their_names(planned.decisions))
        asked = scheduler if options.dry_run else None
        plan.show_plan(planned, asked, store, as_json=options.json, sources=taken)
        if options.dry_run:
            return complained(left_out.values())
        with working() as tell:
            jobs = act(planned, store, scheduler, ["resume", directory.name, *words], tell)
    code = after_submission(planned, jobs, store, scheduler, quiet=options.json)
    return complained(left_out.values()) or code


def _under_their_names(decisions: Sequence[Decision]) -> list[str]:
    """What those runs train that go on, though no launch would give them their names today; a line for each loss."""
    going_on = [each.run.config for each in decisions if each.action in (Action.SUBMIT, Action.RESUME)]
    return list(dict.fromkeys(filter(None, map(trains_as_recorded, going_on))))


def _to_be_submitted(sweep: Sweep, states: Sequence[RunState]) -> Sequence[Run]:
    """The runs that are neither done nor in flight; the first where there are none."""
    names = {state.run.run_id for state in states if not (state.facts.finished or state.in_flight)}
    return [run for run in sweep.runs if run.run_id in names] or sweep.runs[:1]
