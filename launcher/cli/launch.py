"""`python -m launcher -m KEY=VALUES...`: plan, show, submit.

Owns: the order of a launch's steps. Must not know: how anything is planned, submitted or worded.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from launcher import __version__
from launcher.cli.arguments import DONE, VERBS, Parser, as_called, complained, count, folder, program
from launcher.cli.watch import after_submission, damages_in
from launcher.cluster.scheduler import Scheduler, said_by_environment, scheduler_for
from launcher.errors import SchedulerError, UsageError, listed
from launcher.hub.claims import claim_revisions
from launcher.hub.revisions import missing_token
from launcher.machine.accounts import has_token
from launcher.machine.installed import trl_losses
from launcher.machine.once import Once
from launcher.machine.terminal import Say, complain, say, silent
from launcher.planning.conf_places import VARIABLE, Asked, asked_for, conf_dirs
from launcher.planning.data_counts import Look, look
from launcher.planning.hub_sources import Settled, pin_sources, settle
from launcher.planning.lengths import check_lengths
from launcher.planning.named_trainer import check_named, demo_named
from launcher.planning.needed import note_missing
from launcher.planning.planned_runs import executor_of, plan, plan_run
from launcher.planning.prerequisites import check_sources, check_writable, fetch_sources, short_of_disk
from launcher.store.facts import Job
from launcher.store.hashes import Hashes
from launcher.store.output_folder import Store
from launcher.submission.adopt import adopt
from launcher.submission.decide import decide
from launcher.submission.environment import in_environment
from launcher.submission.other_names import under_other_names
from launcher.submission.plan import Plan, check_root, plan_batches
from launcher.submission.reference_job import lost_tables
from launcher.submission.same_content import Compared, compare, identified
from launcher.submission.submit import act, check_ranks
from launcher.sweep import Sweep
from launcher.views import console
from launcher.views import plan as views_plan
from launcher.views.console import say_working
from launcher.views.data import told_once

TOLD = 3  # of what is left out, by name
DESCRIPTION = """\
Run a preference-tuning sweep: model x loss_type x beta, and any other axis.

  python -m launcher -m loss_type=sigmoid,ipo,kto_pair beta=0.01,0.1     plan, show, submit
  python -m launcher -m +sweeps=smoke dry_run=true                       the plan; writes nothing
  python -m launcher status                                              the latest sweep's runs
  python -m launcher resume SWEEP                                        what failed, goes on from its checkpoint

Overrides are key=value, in Hydra's grammar: a,b  range(1,4)  choice(a,b)  glob(*)  +sweeps=NAME  +preset=NAME.
conf/config.yaml has every key with its meaning; conf/<group>/ has the choices of model, dataset, trainer, ...
"""


def launch_parser() -> Parser:
    """What a launch may be given; its help lists the verbs, and the groups with their choices."""
    from launcher.planning.key_help import groups_told

    verbs = "\n".join(f"  {verb:11}{meaning}" for verb, meaning in VERBS.items())
    verbs = f"verbs ({program()} VERB --help):\n{verbs}"
    parser = Parser(
        prog=program(),
        description=as_called(DESCRIPTION),
        epilog=f"groups and their choices ({program()} --help GROUP has the keys):\n{groups_told()}\n\n{verbs}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides of conf/config.yaml")
    helped = "this; with the name of a group or a key, what it means"
    parser.add_argument("-h", "--help", nargs="?", const="", metavar="GROUP", help=helped)
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.add_argument("-m", "--multirun", action="store_true", help="run every combination of the values given")
    where = "the same as output_dir=FOLDER; default: $PREFSWEEP_OUTPUT_DIR, else outputs"
    parser.add_argument("--output-dir", type=folder, metavar="FOLDER", help=where)
    parser.add_argument("-c", "--cfg", choices=("job", "hydra", "all"), help="print the configuration, launch nothing")
    parser.add_argument("-p", "--package", metavar="KEY", help="of --cfg only what is below a key")
    parser.add_argument(
        "-i", "--info", nargs="?", const="all", metavar="WHAT",
        help="print how the configuration comes about: all, config, defaults, defaults-tree, plugins or searchpath",
    )  # fmt: skip
    own = "a folder with files of your own, in front of ./conf, $PREFSWEEP_CONF and ours"
    parser.add_argument("-cd", "--config-dir", type=Path, metavar="FOLDER", help=own)
    parser.add_argument("-cp", "--config-path", metavar="FOLDER", help=argparse.SUPPRESS)
    parser.add_argument("-cn", "--config-name", default="config", metavar="NAME", help="begin with another config file")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON, and do not follow the jobs")
    parser.add_argument(
        "--show-data", type=count, default=0, metavar="N", help="print the first N rows as they are trained on"
    )
    return parser


def launch(argv: Sequence[str]) -> int:
    """Plan, show and submit what the command line asks for; returns the exit code."""
    options = launch_parser().parse_intermixed_args(argv)
    if options.version:
        say(f"prefsweep {__version__}")
        return DONE
    with asked_for(_places(options)):
        return _launch(options, argv)


def _places(options: argparse.Namespace) -> Asked:
    folder, name = options.config_dir, options.config_name.removesuffix(".yaml")
    if options.config_path is not None:
        raise UsageError(f"--config-path {options.config_path}: our files always count; -cd puts a folder before them")
    if folder is not None and not folder.is_dir():
        raise UsageError(f"--config-dir {folder}: no such folder")
    named = os.environ.get(VARIABLE)
    if named and not Path(named).is_dir():
        raise UsageError(f"{VARIABLE}={named}: no such folder")
    asked = Asked(folder and folder.absolute(), name)
    with asked_for(asked):
        if not any((place / f"{name}.yaml").is_file() for place in conf_dirs()):
            places = ", ".join(map(str, conf_dirs()))
            raise UsageError(f"--config-name {name}: no such file in {places}; --config-dir FOLDER names another")
    return asked


def _shown(options: argparse.Namespace) -> int:
    """What is shown of groups, keys and the configuration, without a launch."""
    if options.help is not None:
        from launcher.planning.key_help import help_of

        say(help_of(options.help) if options.help else launch_parser().format_help().rstrip())
        return DONE
    from launcher.planning.hydra_shown import INFO, shown_config, shown_info

    if options.info is not None:
        if options.info not in INFO:
            raise UsageError(f"--info {options.info}: must be one of {', '.join(INFO)}, with overrides before it")
        say(shown_info(options.overrides, options.info, multirun=options.multirun))
        return DONE
    text, runs = shown_config(options.overrides, options.cfg, options.package, multirun=options.multirun)
    say(text.rstrip())
    if runs > 1:
        complain(f"that is the first of {runs} runs")
    return DONE


def _launch(options: argparse.Namespace, argv: Sequence[str]) -> int:
    if options.help is not None or options.cfg or options.info:
        return _shown(options)
    if options.package is not None:
        raise UsageError(f"--package {options.package}: needs --cfg job, hydra or all")
    if options.output_dir is not None:
        options.overrides = _with_folder(options.overrides, options.output_dir)
    if not options.overrides and not options.multirun:
        say(launch_parser().format_help().rstrip())
        return DONE
    with console.working() as tell:
        sweep, said = composed(options.overrides, multirun=options.multirun, tell=tell)
    config = sweep.runs[0].config
    store = Store(Path(config.output_dir).absolute())
    known = Hashes(store, complain)
    sweep = identified(sweep, known, dry_run=config.dry_run)
    settled = _check(sweep, store, dry_run=config.dry_run)
    check_named(sweep)
    data = look(settled.sweep, store, options.show_data, say_working)
    lengths, twice = check_lengths(settled.sweep, data), under_other_names(settled.sweep, known)
    settled = replace(settled, notes=told_once([*said, *demo_named(sweep), *settled.notes, *twice, *lengths], data))
    settled.lines.extend(note_missing(settled.sweep, options.overrides))
    scheduler = scheduler_for(executor_of(settled.sweep.runs), may_lack=config.dry_run)
    sweep, taken = in_environment(settled.sweep, scheduler)
    short = short_of_disk(sweep, store, scheduler.at_once(sweep.runs[0].config.cluster))
    large = check_ranks((run.config.cluster for run in sweep.runs), scheduler, dry_run=config.dry_run)
    notes = [*settled.notes, *short, *large, *_unlisted(sweep, scheduler)]
    settled = replace(settled, sweep=sweep, notes=notes, lines=[*settled.lines, *taken])
    check_root(store, scheduler)
    if config.dry_run:
        compared = compare(settled.sweep, store, scheduler, retrain=config.retrain)
        planned = _plan_dry(settled.sweep, compared, store, scheduler)
        views_plan.show_plan(planned, scheduler, store, as_json=options.json, sources=settled.lines, data=data)
        console.show_notes([*settled.notes, *compared.notes])
        return complained(damages_in(planned, store.sweep(planned.sweep.name)))
    planned, jobs = _submit(settled, data, known, scheduler, argv, as_json=options.json)
    return after_submission(planned, jobs, store, scheduler, quiet=options.json)


def _with_folder(overrides: Sequence[str], folder: Path) -> list[str]:
    """The overrides, with the folder that the verbs' option names."""
    from launcher.planning.overrides import as_text

    if said := [each for each in overrides if each.lstrip("+").startswith("output_dir=")]:
        raise UsageError(f"{said[0]}: the folder is given twice; leave out --output-dir {folder}")
    return [*overrides, f"output_dir={as_text(str(folder))}"]


def _unlisted(sweep: Sweep, scheduler: Scheduler) -> list[str]:
    """Which partitions are named that the scheduler does not list: hidden ones, or a site's own names, if no slip."""
    clusters = {(each.clusters, each.partition): each for each in (run.config.cluster for run in sweep.runs)}
    offers = ((each.partition, scheduler.offer(each).unlisted) for each in clusters.values())
    said = "not among the partitions that are listed here; sbatch may refuse the jobs"
    return [
        f"cluster.partition={named}: {listed(unlisted, TOLD)} {'is' if len(unlisted) == 1 else 'are'} {said}"
        for named, unlisted in offers
        if unlisted
    ]


def _plan_dry(sweep: Sweep, compared: Compared, store: Store, scheduler: Scheduler) -> Plan:
    """The plan of a dry run, which a scheduler that does not answer does not hold up."""
    decisions = decide(sweep, store, scheduler, retrain=compared.retrain)
    try:
        return plan_batches(sweep, decisions, store, scheduler)
    except SchedulerError as error:
        return Plan(sweep, tuple(decisions), silence=str(error))


def composed(overrides: Sequence[str], *, multirun: bool, tell: Say = silent) -> tuple[Sweep, list[str]]:
    """The sweep that overrides make, and what is worth a note of the words in which it is asked for."""
    from launcher.planning.compose import compose  # imports Hydra, which no help waits for

    grid, points = compose(overrides, multirun=multirun, tell=tell, may_be_open=said_by_environment())
    once, losses, runs = Once(), trl_losses(), []
    for number, point in enumerate(points, 1):
        tell(f"checking run {number:,} of {len(points):,}")
        runs.append(plan_run(point.config, point.axes, point.overrides, losses, once))
    sweep = plan(runs, grid.varied, grid.name)
    return sweep, [*grid.notes, *_told_of_twins(sweep)]


def _told_of_twins(sweep: Sweep) -> list[str]:
    """Which grid points are left out that would train what another one trains; a line for all."""
    if not sweep.twins:
        return []
    which = listed((f"{twin.run_id} as {twin.of}" for twin in sweep.twins), TOLD)
    return [f"left out, since it would train the same weights as another run of the sweep: {which}"]


def _check(sweep: Sweep, store: Store, *, dry_run: bool) -> Settled:
    """The sweep with its revisions and pins, and all that is worth a note; writes no more than `settle` does."""
    unwritable = check_writable(store, dry_run=dry_run)
    sweep, unchecked = claim_revisions(sweep, store, token=has_token(os.environ))
    settled = settle(sweep, store, dry_run=dry_run)
    notes = [
        *unwritable,
        *check_sources(settled.sweep, dry_run=dry_run),
        *settled.notes,
        *lost_tables(settled.sweep, store),
        *missing_token(settled.sweep, os.environ),
        *unchecked,
    ]
    return replace(settled, notes=notes)


def _submit(
    settled: Settled, data: Look, known: Hashes, scheduler: Scheduler, argv: Sequence[str], *, as_json: bool
) -> tuple[Plan, list[Job]]:
    sweep, store = settled.sweep, known.store
    console.show_notes(settled.notes)
    fetch_sources(sweep, store)
    pin_sources(sweep, store)
    known.keep()
    with store.submitting():
        adopt([store.run(run.run_id) for run in sweep.runs], scheduler)
        compared = compare(sweep, store, scheduler, retrain=sweep.runs[0].config.retrain)
        console.show_notes(compared.notes)
        decisions = decide(sweep, store, scheduler, retrain=compared.retrain)
        planned = plan_batches(sweep, decisions, store, scheduler)
        views_plan.show_plan(planned, None, store, as_json=as_json, sources=settled.lines, data=data)
        with console.working() as tell:
            return planned, act(planned, store, scheduler, argv, tell)
