"""A job's part of each benchmark, by its name.

Owns: who computes which benchmark, and that the untrained model is measured first.
Must not know: how any of them works.
"""

from __future__ import annotations

from collections.abc import Callable

from launcher.config import RunConfig
from launcher.store.output_folder import Store
from launcher.store.run_folder import RunDir


def measure(benchmark: str, config: RunConfig, run: RunDir, store: Store, stop: Callable[[], bool]) -> None:
    """Do what a job does of one benchmark: of mt_bench the answers, of the others all.

    Raises:
        ConfigError: something that the benchmark needs is not there.
        Interrupted: `stop` became true.
    """
    if benchmark == "preference":
        from launcher.worker.evaluation.preference import evaluate, evaluate_base

        evaluate_base(config, store)
        evaluate(config, run, store)
    elif benchmark == "mt_bench":
        from launcher.worker.evaluation.mt_bench import answer

        answer(config, run, store, stop)
    else:
        from launcher.worker.evaluation import programs

        programs.measure(benchmark, config, run, store, stop)
