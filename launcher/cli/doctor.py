"""The verb `doctor`: what this machine and its cluster offer."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence

from launcher.cli.arguments import DONE, Parser
from launcher.cluster.doctor import findings, read_answer, write_question
from launcher.cluster.scheduler import AUTO, ClusterScheduler, scheduler_for
from launcher.config import RunConfig, from_plain
from launcher.errors import UsageError
from launcher.machine.disk import in_words
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
    configs = _configs(options.overrides) if options.overrides else []
    executor = configs[0].cluster.executor if configs else AUTO
    scheduler = scheduler_for(executor)
    cluster = scheduler if isinstance(scheduler, ClusterScheduler) else None
    proposal: str | None = None
    offered: list[tuple[str, str]] | None = None if executor == AUTO else []  # who names this machine wants no cluster
    if cluster is not None:
        offered, proposal = cluster.survey()
    found = findings(offered, options.output_dir.absolute(), os.environ)
    found.append(tracking_here(configs[0].tracking.backend if configs else AUTO, os.environ))
    found += _needed(configs)
    if options.probe:
        found += _probe(options, cluster)
    console.show_findings(found, proposal)
    return DONE


def _configs(overrides: Sequence[str]) -> list[RunConfig]:
    """The runs of these overrides, checked as a launch would check them."""
    from launcher.machine.installed import trl_losses
    from launcher.planning.compose import compose
    from launcher.planning.rules import check

    _, points = compose(overrides, multirun=True)
    configs: list[RunConfig] = [from_plain(point.config) for point in points]
    for config in configs:
        check(config, trl_losses())
    return configs


def tracking_here(wish: str, environment: Mapping[str, str]) -> tuple[str, str]:
    """What would track a run that is started here."""
    from launcher.tracking.process import offered

    chosen, why = offered(wish, environment)
    return f"tracking={wish}", f"{chosen}: {why}" if why else chosen


def _needed(configs: Sequence[RunConfig]) -> list[tuple[str, str]]:
    """What the sweep of these runs needs on disk."""
    needed = estimate.total(configs, configs[0].cluster.max_parallel).disk_bytes if configs else None
    if needed is None:
        return []
    return [("disk needed", f"about {in_words(needed)} for {len(configs)} runs, models and checkpoints")]


def _probe(options: argparse.Namespace, cluster: ClusterScheduler | None) -> list[tuple[str, str]]:
    """What a job sees of the node that it gets."""
    if cluster is None:
        raise UsageError("--probe: there is no cluster here on which a job could look at a node")
    (config, *_) = _configs([f"cluster={cluster.name}", *options.overrides])
    resources, _, taken = completed_by(config.cluster, cluster)
    for line in taken:
        complain(line)
    batch = write_question(resources, options.output_dir.absolute())
    complain(f"the probe job {batch.name} is in the queue; waiting up to {options.wait:g} s")
    job = cluster.run_and_wait(batch, "launcher.worker.probe", options.wait)
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
