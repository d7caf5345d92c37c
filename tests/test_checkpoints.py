"""launcher.worker.training.checkpoints: which checkpoint is whole."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.errors import ConfigError, UsageError
from launcher.worker.training import checkpoints

FILES = ("trainer_state.json", "model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "config.json")


def make(folder: Path, step: int, *, sealed: bool = True, files: tuple[str, ...] = FILES, ranks: int = 1) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir()
    for name in files:
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_bytes(b"x" * 10)
    if sealed:
        checkpoints.seal(path, ranks)
    return path


def test_the_newest_whole_checkpoint_is_found(tmp_path: Path) -> None:
    """By step, as a number: 10 comes after 9."""
    make(tmp_path, 9)
    newest = make(tmp_path, 10)
    assert checkpoints.last_complete(tmp_path) == newest
    assert checkpoints.step_of(newest) == 10


def test_no_folder_and_no_checkpoint_are_none(tmp_path: Path) -> None:
    """A run that never saved starts from the beginning."""
    assert checkpoints.last_complete(tmp_path / "none") is None
    (tmp_path / "runs").mkdir()
    assert checkpoints.last_complete(tmp_path) is None


def test_an_unsealed_checkpoint_is_passed_over(tmp_path: Path) -> None:
    """The kill came before the marker: the older checkpoint is used."""
    older = make(tmp_path, 2)
    make(tmp_path, 4, sealed=False)
    assert checkpoints.last_complete(tmp_path) == older


def truncate(path: Path) -> None:
    path.write_bytes(b"x" * 5)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", [truncate, Path.unlink])
def test_a_harmed_file_spoils_the_checkpoint(tmp_path: Path, name: str, harm: Callable[[Path], None]) -> None:
    """Any file that is gone or has another size than the marker says."""
    harm(make(tmp_path, 4) / name)
    assert checkpoints.last_complete(tmp_path) is None


@pytest.mark.parametrize("name", FILES[:-1])
def test_a_checkpoint_needs_all_its_parts(tmp_path: Path, name: str) -> None:
    """State, weights, optimizer, schedule and random numbers: sealed or not, without one it cannot be resumed."""
    make(tmp_path, 4, files=tuple(file for file in FILES if file != name))
    assert checkpoints.last_complete(tmp_path) is None


def test_every_rank_must_have_written(tmp_path: Path) -> None:
    """With two ranks both random states are needed; adapters and DeepSpeed's shards count as weights and optimizer."""
    shards = ("global_step4/zero_pp_rank_0_mp_rank_00_optim_states.pt", "adapter_model.safetensors")
    others = ("trainer_state.json", "scheduler.pt", "rng_state_0.pth", "latest")
    of_rank_1 = ("global_step4/zero_pp_rank_1_mp_rank_00_optim_states.pt", "rng_state_1.pth")
    for step, files in enumerate(((), of_rank_1[:1], of_rank_1[1:]), 3):
        make(tmp_path, step, files=(*shards, *others, *files), ranks=2)
        assert checkpoints.last_complete(tmp_path) is None
    whole = make(tmp_path, 6, files=(*shards, *others, *of_rank_1), ranks=2)
    assert checkpoints.last_complete(tmp_path) == whole


def test_shards_are_resumed_by_as_many_ranks(tmp_path: Path) -> None:
    """A checkpoint that is divided among two ranks is of no use to four, nor to a run without DeepSpeed."""
    shards = tuple(f"global_step4/bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in range(2))
    rest = ("trainer_state.json", "scheduler.pt", "latest", "global_step4/mp_rank_00_model_states.pt")
    divided = make(tmp_path, 4, files=(*shards, *rest, "rng_state_0.pth", "rng_state_1.pth"), ranks=2)
    whole = make(tmp_path, 5)
    assert checkpoints.missing_in(divided) is None
    checkpoints.check_fits(divided, 2, sharded=True)
    checkpoints.check_fits(whole, 2, sharded=False)
    with pytest.raises(UsageError, match="is divided among 2 ranks, this job has 4"):
        checkpoints.check_fits(divided, 4, sharded=True)
    with pytest.raises(ConfigError, match="was written with DeepSpeed and cannot be resumed without it"):
        checkpoints.check_fits(divided, 2, sharded=False)
    with pytest.raises(ConfigError, match="was written without DeepSpeed and cannot be resumed with it"):
        checkpoints.check_fits(whole, 1, sharded=True)


def test_a_torn_marker_is_no_marker(tmp_path: Path) -> None:
    """A file system that lost the end of it must not stop the run."""
    (make(tmp_path, 4) / checkpoints.MARKER).write_text('{"files": ')
    assert checkpoints.last_complete(tmp_path) is None


def test_rotation_keeps_the_newest_whole_ones(tmp_path: Path) -> None:
    """Older checkpoints go, and so do those that were never finished."""
    for step in (2, 4, 6):
        make(tmp_path, step)
    make(tmp_path, 8, sealed=False)
    checkpoints.rotate(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-4", "checkpoint-6"]


def test_the_login_node_may_ask_for_the_step() -> None:
    """The module imports no torch."""
    code = "import sys, launcher.worker.training.checkpoints; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
