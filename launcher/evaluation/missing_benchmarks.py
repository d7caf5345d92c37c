"""Which of a run's missing benchmarks nobody is about to do, and results that are to be had anew.

Owns: who has claimed a benchmark, and that answers wait for a judge; removing results, or keeping them under a number.
Must not know: which file says that a benchmark is done (`work_done`), how one is computed or judged, schedulers.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from launcher.store.attempt_config import wanted_by
from launcher.store.attempts import Attempts
from launcher.store.files import fact_text, link, read_fact, write_derived, write_once
from launcher.store.measurements import kept
from launcher.store.results import Answered, MTBenchResult
from launcher.store.run_folder import EvaluationDir, RunDir
from launcher.store.work_done import lacking


def unclaimed(run: RunDir, wanted: Iterable[str]) -> list[str]:
    """Of these benchmarks, those that are lacking and that no attempt under way was made for."""
    alive = [attempt for attempt in Attempts.of(run).open if not attempt.has(attempt.cancel_file)]
    claimed = {name for attempt in alive for name in wanted_by(attempt)}
    return [name for name in lacking(run, wanted) if name not in claimed]


def awaits_judge(run: RunDir) -> bool:
    """Whether the run has answers that nobody has rated."""
    return unrated(run.evaluations)


def unrated(directory: EvaluationDir) -> bool:
    """Whether answers are there, and no scores, or only those of answers with other settings."""
    answered = read_fact(directory.answered_file, Answered)
    rated = read_fact(directory.result_file("mt_bench"), MTBenchResult) if answered else None
    return answered is not None and (rated is None or rated.answers != answered.settings)


def discard_all(run: RunDir) -> None:
    """Remove what was said of a model that is no more: its scores, and where it is published."""
    for fact in (run.evaluation_file, *kept(run.evaluation_file), run.revision_file):
        fact.unlink(missing_ok=True)
    shutil.rmtree(run.evaluations.path, ignore_errors=True)


def set_aside(file: Path) -> None:
    """Keep a result under a number, so that its benchmark counts as lacking."""
    if file.exists():
        file.rename(_free(file))


def replace(file: Path, fact: Any) -> None:
    """Write a result in place of one that is there: that is kept under a number, and holds until then."""
    if file.exists():
        link(file, _free(file))
        write_derived(file, fact_text(fact))
    else:
        write_once(file, fact)


def _free(file: Path) -> Path:
    """The next number under which a result can be kept."""
    numbers = (file.with_name(f"{file.stem}.{number:03d}{file.suffix}") for number in itertools.count(1))
    return next(name for name in numbers if not name.exists())
