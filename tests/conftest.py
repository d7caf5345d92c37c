"""Fixtures that several modules' tests share."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from waiting import LONGEST_WAIT
from worker_fixtures import *  # noqa: F403 - the worker's fixtures

from launcher.hub.revisions import with_revisions
from launcher.machine.installed import trl_losses
from launcher.planning.compose import compose
from launcher.planning.planned_runs import plan, plan_run
from launcher.store.output_folder import Store
from launcher.sweep import Sweep
from launcher.worker import fence

Launch = Callable[..., subprocess.CompletedProcess[str]]
REPOSITORY = Path(__file__).parent.parent


# The longest first, so that of several processes none is left alone with one of them at the end.
SLOW = ("test_slurm_runs", "test_distributed", "test_slurm_cluster", "test_faults", "test_named_sweeps",
        "test_mt_bench_end_to_end", "test_end_to_end", "test_publish_end_to_end", "test_slurm_scan", "test_end_of_job",
        "test_hangs", "test_slurm_hangs", "test_compose", "test_dev_cluster", "test_hub", "test_evaluating",
        "test_slurm_stages", "test_slurm_clusters", "test_slurm_versions", "test_slurm_fence", "test_slurm_people",
        "test_tracking", "test_fence", "test_same_content", "test_wheel", "test_local_gpus", "test_people",
        "test_slurm_ambient", "test_slurm_without", "test_gpu")  # fmt: skip


def pytest_configure() -> None:
    """Let the processes that tests start hear Ctrl-C, which pytest-xdist has its own ignore, and so their children.

    None of them compiles with torch; what it imports for that, on behalf of bitsandbytes, takes a sixth of their start.
    DeepSpeed compiles two operators; to make them fast takes as long as to read them. What is imported is compiled
    once, as it is for a user, though some containers say otherwise.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    os.environ["CXX"] = str(Path(__file__).parent / "cxx")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    gc.disable()  # until all is imported


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files of tests by how long they take; within a file nothing changes."""
    places = {name: place for place, name in enumerate(SLOW)}
    items.sort(key=lambda item: places.get(item.path.stem, len(SLOW)))


def pytest_collection_finish() -> None:
    """What the imported modules hold stays; to look through it at the end of each training takes half of its time."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def no_fence_left() -> Iterator[None]:
    """A run that a test takes up in this process is not looked after in the next test."""
    yield
    fence.lift()


def sweep_of(*argv: str) -> Sweep:
    """The sweep of a command line, planned as the launcher plans it."""
    grid, points = compose(argv, multirun=True)
    runs = [plan_run(point.config, point.axes, point.overrides, trl_losses()) for point in points]
    return with_revisions(plan(runs, grid.varied, grid.name), [], token=False)


@pytest.fixture(autouse=True, scope="session")
def no_account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Whoever runs the tests may be logged in to Weights & Biases or the Hub; no test may track, ask or publish there.

    Tests that need a Hub give their processes one on loopback.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("WANDB_", "HF_", "HUGGING_FACE_"))]:
            patch.delenv(name)
        patch.setenv("NETRC", os.devnull)
        patch.setenv("WANDB_ERROR_REPORTING", "false")
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hub")))
        patch.setenv("PREFSWEEP_CACHE", str(tmp_path_factory.mktemp("user_cache")))
        yield


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "outputs")


@pytest.fixture
def launch(tmp_path: Path) -> Launch:
    """Run `python -m launcher ...` as a user does, in an empty folder."""

    def run(
        *arguments: str, module: str = "launcher", timeout: float = LONGEST_WAIT, **options: object
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=tmp_path,
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            **options,  # type: ignore[call-overload]
        )

    return run


def clean_environment(**more: str) -> dict[str, str]:
    """This process's environment with the checkout importable, and one thread: more only slow a tiny model down."""
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "200", "OMP_NUM_THREADS": "1", **more}
