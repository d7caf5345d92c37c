"""What of a run is done by the job that trains it, what by one behind it, and what that one asks of the cluster. Pure.

Owns: that division, and the meaning of `evaluation.cluster`; what can be wrong with it is in `rules`.
Must not know: files, schedulers, what a benchmark is.

A job of one rank measures `preference` of the model that it has in memory, and publishes it. Where a run has several,
all but rank 0 would wait for that with their GPUs idle: their job trains, and leaves the rest to one of a single GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, cast

from launcher.config import Cluster, RunConfig
from launcher.planning.options import as_keys
from launcher.store.files import Plain
from launcher.store.work_done import BEHIND
from launcher.sweep import Run

# Job for job, the evaluation follows the training, which works within one cluster.
OF_THE_TRAINING = ("executor", "clusters", "runs_per_job", "max_parallel")


def evaluation_cluster(config: RunConfig) -> Cluster:
    """What a job that evaluates this run needs.

    The benchmarks of a run are computed by one process, so that more than one GPU is of use only to a program that
    divides the model itself; hence one, unless `evaluation.cluster` says otherwise.
    """
    cluster = as_keys(config.cluster)
    small = replace(cluster, nodes=1, gpus_per_node=min(1, cluster.gpus_per_node))
    return as_keys(replace(small, **_typed(config.evaluation.cluster)))


def _typed(given: Mapping[str, Any]) -> dict[str, Any]:
    """The values as `Cluster` types them: `time: 5` is the text "5", as in `cluster.time=5`."""
    from omegaconf import OmegaConf  # here: verbs that plan nothing need none of it

    typed = OmegaConf.to_container(OmegaConf.merge(OmegaConf.structured(Cluster), dict(given))) if given else {}
    return {key: value for key, value in cast("dict[str, Any]", typed).items() if key in given}


def is_joint(config: RunConfig) -> bool:
    """Whether several ranks train the run: one for each GPU, or for each node without any."""
    return config.cluster.nodes * max(1, config.cluster.gpus_per_node) > 1


def left_to_evaluation(run: Run) -> list[str]:
    """The benchmarks that the job which trains the run does not do, where a job behind it can."""
    return [name for name in run.config.evaluation.benchmarks if is_joint(run.config) or name != "preference"]


def pushes(run: Run) -> bool:
    """Whether a job is to publish the run."""
    return run.config.hub.store != "off" and run.config.hub.when == "job"


def evaluates_apart(run: Run) -> bool:
    """Whether anything of the run is for a job behind the one that trains it: benchmarks, or only the push."""
    return bool(left_to_evaluation(run)) or (is_joint(run.config) and pushes(run))


def to_be_trained(run: Run) -> Run:
    """The run as its training job makes it, where another job does the rest."""
    left = left_to_evaluation(run)
    here = [name for name in run.config.evaluation.benchmarks if name not in left]
    when = BEHIND if is_joint(run.config) and pushes(run) else run.config.hub.when
    evaluation, hub = replace(run.config.evaluation, benchmarks=here), replace(run.config.hub, when=when)
    settings = _with(_with(run.settings, "evaluation", {"benchmarks": here}), "hub", {"when": when})
    return replace(run, config=replace(run.config, evaluation=evaluation, hub=hub), settings=settings)


def to_be_evaluated(run: Run) -> Run:
    """The run as the job makes it that only evaluates it: with that job's resources."""
    cluster = evaluation_cluster(run.config)
    settings = _with(run.settings, "cluster", asdict(cluster))
    return replace(run, config=replace(run.config, cluster=cluster), settings=settings)


def _with(settings: Plain, section: str, values: Plain) -> Plain:
    return {**settings, section: {**settings[section], **values}}
