"""What of an attempt's work is done, as the files of its run say: for a job and for the launcher alike.

Owns: which file says that a benchmark, a training or a publication is done.
Must not know: how a benchmark is computed or judged, how a model is pushed, schedulers. Imports nothing heavy: `status`
asks it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from launcher.store.attempt_config import hub_of, wanted_by
from launcher.store.run_folder import AttemptDir, RunDir, points_of

BEHIND = "evaluation"  # `hub.when` of an attempt whose model is published by the job behind it, which evaluates


def job_file(run: RunDir, benchmark: str) -> Path:
    """The fact that a job leaves of a benchmark."""
    return run.evaluation_file if benchmark == "preference" else run.evaluations.job_file(benchmark)


def lacking(run: RunDir, wanted: Iterable[str]) -> list[str]:
    """Of these benchmarks, those that a job still has to do."""
    return [benchmark for benchmark in wanted if not job_file(run, benchmark).exists()]


def is_measured(attempt: AttemptDir) -> bool:
    """Whether the attempt's run is trained and has all that the attempt was made to measure."""
    return attempt.run.result_file.exists() and not lacking(attempt.run, wanted_by(attempt))


def publishes(attempt: AttemptDir) -> bool:
    """Whether the attempt's job publishes, and has not noted why it could not."""
    return _is_published_by(attempt, "job")


def _is_published_by(attempt: AttemptDir, when: str) -> bool:
    hub = hub_of(attempt)
    return hub.store != "off" and hub.when == when and not attempt.unpublished_file.exists()


def is_published(run: RunDir) -> bool:
    """Whether the final model and all milestones are, wherever that is."""
    return run.revision_file.exists() and all(point.folder.revision_file.exists() for point in points_of(run))


def due_in_job(attempt: AttemptDir) -> bool:
    """Whether the attempt's job has to publish the run, and has neither done it nor noted why it could not."""
    return publishes(attempt) and not is_published(attempt.run)


def due_behind(attempt: AttemptDir) -> bool:
    """Whether the job behind the attempt's has to publish the run, and has not done it."""
    return _is_published_by(attempt, BEHIND) and not is_published(attempt.run)


def has_done_its_part(attempt: AttemptDir) -> bool:
    """Whether nothing that the attempt was made for is left to its job."""
    return is_measured(attempt) and not due_in_job(attempt)
