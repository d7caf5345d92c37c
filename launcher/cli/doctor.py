"""The verb `doctor`: what this machine and its cluster offer."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import fields

from launcher.cli.arguments import DONE, Parser
from launcher.cluster.doctor import findings, locked_here, read_answer, write_question
from launcher.cluster.scheduler import AUTO, ClusterScheduler, Scheduler, scheduler_for, scheduler_to_ask
from launcher.config import Cluster, RunConfig, from_plain
from launcher.errors import Refused, SchedulerError, UsageError, number_of
from launcher.machine.disk import existing, in_words
from launcher.machine.terminal import complain
from launcher.planning import estimate
from launcher.submission.environment import completed_by
from launcher.views import console

EXAMPLES = (
    "python -m launcher doctor",
    "python -m launcher doctor +sweeps=pref_align_scan",
    "python -m launcher doctor --probe cluster.partition=gpu cluster.gpus_per_node=1",
)


def doctor(options: argparse.Namespace) -> int:
    """Show what this machine and its cluster offer."""
    from launcher.planning.prerequisites import shut_to_group

    configs = _configs(options.overrides) if options.overrides else []
    executor = configs[0].cluster.executor if configs else AUTO
    scheduler = scheduler_to_ask() if executor == AUTO else scheduler_for(executor)
    cluster = scheduler if isinstance(scheduler, ClusterScheduler) else None
    proposal: str | None = None
    silence: SchedulerError | None = None  # told last, below what is known all the same
    offered: list[tuple[str, str]] | None = None if executor == AUTO else []  # who names this machine wants no cluster
    if cluster is not None:
        try:
            asked, _, _ = completed_by(configs[0].cluster if configs else Cluster(), cluster)
            offered, proposal = cluster.survey(asked)
        except SchedulerError as error:
            offered, silence = [(cluster.name.upper(), "does not answer")], error
    found = findings(offered, options.output_dir.absolute(), os.environ)
    found.append(tracking_here(configs[0].tracking.backend if configs else AUTO, os.environ))
    found += [("umask", told) for told in shut_to_group(existing(options.output_dir.absolute()))]
    found += _needed(configs, scheduler)
    if options.probe and silence is None:
        try:
            found += _probe(options, cluster)
        except SchedulerError as error:
            silence = error
    console.show_findings(found, proposal)
    if silence is not None:
        raise silence
    return DONE


def _configs(overrides: Sequence[str]) -> list[RunConfig]:
    """The runs of these overrides, checked as a launch would check them."""
    from launcher.machine.installed import trl_losses
    from launcher.planning.compose import compose
    from launcher.planning.rules import check

    open_keys = [
        f"cluster.{key.name}" for key in fields(Cluster) if key.default is None
    ]  # accounts, say, are what somebody wants to see
    _, points = compose(overrides, multirun=True, may_be_open=open_keys)
    configs: list[RunConfig] = [from_plain(point.config) for point in points]
    for config in configs:
        check(config, trl_losses())
    return configs


def tracking_here(wish: str, environment: Mapping[str, str]) -> tuple[str, str]:
    """What would track a run that is started here."""
    from launcher.tracking.process import offered

    chosen, why = offered(wish, environment)
    return f"tracking={wish}", f"{chosen}: {why}" if why else chosen


def _needed(configs: Sequence[RunConfig], scheduler: Scheduler) -> list[tuple[str, str]]:
    """What the sweep of these runs needs on disk."""
    needed = estimate.total(configs, scheduler.at_once(configs[0].cluster)).disk_bytes if configs else None
    if needed is None:
        return []
    return [("disk needed", f"about {in_words(needed)} for {number_of(len(configs), 'run')}, models and checkpoints")]


def _probe(options: argparse.Namespace, cluster: ClusterScheduler | None) -> list[tuple[str, str]]:
    """What a job sees of the node that it gets."""
    if cluster is None:
        raise UsageError("--probe: there is no cluster here on which a job could look at a node")
    (config, *_) = _configs([f"cluster={cluster.name}", *options.overrides])
    resources, _, taken = completed_by(config.cluster, cluster)
    for line in taken:
        complain(line)
    batch = write_question(resources, options.output_dir.absolute())
    complain(f"submitting the probe job {batch.name}; waiting up to {options.wait:g} s for its end")
    with locked_here(batch):
        try:
            job = cluster.run_and_wait(batch, "launcher.worker.probe", options.wait)
        except Refused:
            shutil.rmtree(batch.folder)
            raise
    return list(read_answer(batch, ended_well=job is not None))


def arguments(parser: Parser) -> None:
    """What the verb may be given."""
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="a sweep, to know its disk; for --probe: cluster.partition=gpu, ...",
    )
    parser.add_argument("--probe", action="store_true", help="also look at a node, with a job of one task")
    parser.add_argument("--wait", type=float, default=600.0, metavar="S", help="seconds for that job (default: 600)")
