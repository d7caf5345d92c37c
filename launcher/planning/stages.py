"""What the job that evaluates a run asks of the cluster: the training's resources, and what is said otherwise. Pure.

Owns: the meaning of `evaluation.cluster`; what can be wrong with it is in `rules`.
Must not know: files, schedulers, what a benchmark is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, cast

from launcher.config import Cluster, RunConfig
from launcher.store.files import Plain
from launcher.sweep import Run

OF_THE_TRAINING = ("executor", "runs_per_job", "max_parallel")  # job for job, the evaluation follows the training


def evaluation_cluster(config: RunConfig) -> Cluster:
    """What a job that evaluates this run needs.

    The benchmarks of a run are computed by one process, so that more than one GPU is of use only to a program that
    divides the model itself; hence one, unless `evaluation.cluster` says otherwise.
    """
    cluster = config.cluster
    small = replace(cluster, nodes=1, gpus_per_node=min(1, cluster.gpus_per_node))
    return replace(small, **_typed(config.evaluation.cluster))


def _typed(given: Mapping[str, Any]) -> dict[str, Any]:
    """The values as `Cluster` types them: `time: 5` is the text "5", as in `cluster.time=5`."""
    from omegaconf import OmegaConf  # here: verbs that plan nothing need none of it

    typed = OmegaConf.to_container(OmegaConf.merge(OmegaConf.structured(Cluster), dict(given))) if given else {}
    return {key: value for key, value in cast("dict[str, Any]", typed).items() if key in given}


def evaluates_apart(run: Run) -> bool:
    """Whether the run wants benchmarks for a job of their own; `preference` shares the trained model in memory."""
    return any(name != "preference" for name in run.config.evaluation.benchmarks)


def to_be_trained(run: Run) -> Run:
    """The run as its training job makes it, where another job evaluates it: with no benchmark but `preference`."""
    here = [name for name in run.config.evaluation.benchmarks if name == "preference"]
    config = replace(run.config, evaluation=replace(run.config.evaluation, benchmarks=here))
    return replace(run, config=config, settings=_with(run.settings, "evaluation", {"benchmarks": here}))


def to_be_evaluated(run: Run) -> Run:
    """The run as the job makes it that only evaluates it: with that job's resources."""
    cluster = evaluation_cluster(run.config)
    settings = _with(run.settings, "cluster", asdict(cluster))
    return replace(run, config=replace(run.config, cluster=cluster), settings=settings)


def _with(settings: Plain, section: str, values: Plain) -> Plain:
    return {**settings, section: {**settings[section], **values}}
