"""launcher.worker.training.checkpoints: which checkpoint is whole."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import xxhash

from launcher.errors import ConfigError, UsageError
from launcher.store import checksums
from launcher.store.run_folder import RunDir
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


# ------------------------------------------------------------------------------------------------ of several starts


def of_start(folder: Path, start: str, step: int, *, sealed: bool = True) -> Path:
    (folder / start).mkdir(exist_ok=True)
    return make(folder / start, step, sealed=sealed)


def left_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.glob("**/checkpoint-*"))


def test_the_newest_of_all_starts_is_found(tmp_path: Path) -> None:
    """By step, then by start; also among those that an older version wrote into one folder."""
    make(tmp_path, 2)
    assert checkpoints.last_complete(tmp_path / "001.0002") == tmp_path / "checkpoint-2"
    of_start(tmp_path, "001.0001", 4)
    later = of_start(tmp_path, "002.0001", 4)
    of_start(tmp_path, "001.0001", 6, sealed=False)
    assert checkpoints.last_complete(tmp_path / "002.0001") == later
    assert RunDir(tmp_path.rename(tmp_path.with_name("checkpoints")).parent).last_checkpoint_step() == 4


def test_what_is_taken_over_stays_when_its_writer_removes_it(tmp_path: Path) -> None:
    """Its files have second names; on a file system without links the folder itself moves."""
    theirs, own = of_start(tmp_path, "001.0001", 4), tmp_path / "001.0002"
    (theirs / "global_step4").mkdir()
    (theirs / "global_step4" / "shard").write_bytes(b"x")
    mine = checkpoints.take_over(theirs, own)
    checkpoints.rotate(tmp_path / "001.0001", keep=0, up_to=4)
    assert not theirs.exists()
    assert mine == own / "checkpoint-4"
    assert (mine / "global_step4" / "shard").read_bytes() == b"x"
    assert checkpoints.missing_in(mine) is None


def test_without_links_the_folder_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then its writer has it no longer, and nothing is half made meanwhile."""

    def no_links(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no links here")

    theirs = of_start(tmp_path, "001.0001", 4)
    monkeypatch.setattr(os, "link", no_links)
    mine = checkpoints.take_over(theirs, tmp_path / "001.0002")
    assert left_in(tmp_path) == ["001.0002/checkpoint-4"]
    assert mine is not None
    assert checkpoints.missing_in(mine) is None


def test_one_that_is_removed_meanwhile_is_not_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its writer rotates between two files: nothing is left of what was linked so far."""
    theirs, link = of_start(tmp_path, "001.0001", 4), os.link

    def link_then_lose(source: Path, target: Path) -> None:
        link(source, target)
        checkpoints.remove(theirs)

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", link_then_lose)
        assert checkpoints.take_over(theirs, tmp_path / "001.0002") is None
    assert checkpoints.take_over(theirs, tmp_path / "001.0002") is None
    assert left_in(tmp_path) == []


def test_rotation_leaves_what_is_of_later_starts(tmp_path: Path) -> None:
    """A process that does not know that it is superseded removes its own and what came before it alone."""
    of_start(tmp_path, "001.0001", 2)
    mine = [of_start(tmp_path, "001.0002", step, sealed=step != 6) for step in (2, 4, 6)]
    later = [of_start(tmp_path, "001.0003", step, sealed=step != 6) for step in (2, 4, 6)]
    checkpoints.rotate(tmp_path / "001.0002", keep=1)
    assert [path for path in mine if path.exists()] == [mine[1]]
    assert all(path.exists() for path in later)
    assert not (tmp_path / "001.0001").exists()
    checkpoints.rotate(tmp_path / "001.0002", keep=0, up_to=10)
    assert all(path.exists() for path in later)


def test_rotation_keeps_what_an_earlier_start_has_until_this_one_has_more(tmp_path: Path) -> None:
    """What is torn goes at once; what is whole and newer, though it may be damaged, when this start is past it."""
    of_start(tmp_path, "001.0001", 8, sealed=False)
    of_start(tmp_path, "001.0001", 6)
    of_start(tmp_path, "001.0002", 4)
    of_start(tmp_path, "001.0001", 4)
    checkpoints.rotate(tmp_path / "001.0002", keep=1)
    assert left_in(tmp_path) == ["001.0001/checkpoint-6", "001.0002/checkpoint-4"]
    of_start(tmp_path, "001.0002", 6)
    checkpoints.rotate(tmp_path / "001.0002", keep=2)
    assert left_in(tmp_path) == ["001.0002/checkpoint-4", "001.0002/checkpoint-6"]


def test_two_may_remove_the_same_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is gone is gone; what cannot be removed is said, and the training goes on."""
    checkpoints.remove(tmp_path / "checkpoint-2")
    unlink, gone = os.unlink, make(tmp_path, 4)
    monkeypatch.setattr(
        os, "unlink", lambda path, **how: (unlink(path, **how), shutil.rmtree(gone, ignore_errors=True))
    )
    checkpoints.remove(gone)
    assert left_in(tmp_path) == []


# ------------------------------------------------------------------------------------------------ what files hold


def test_each_rank_has_its_own_files() -> None:
    """Its shards and its random state; rank 0 has the rest; together they are all."""
    shards = [f"global_step2/zero_pp_rank_{rank}_mp_rank_00_model_states.pt" for rank in range(12)]
    states = [f"global_step2/bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in range(12)]
    names = [*shards, *states, *(f"rng_state_{rank}.pth" for rank in range(12)), "latest", "trainer_state.json"]
    assert checksums.of_rank(names, 11, 12) == [shards[11], states[11], "rng_state_11.pth"]
    assert checksums.of_rank(names, 0, 12) == [shards[0], states[0], "rng_state_0.pth", "latest", "trainer_state.json"]
    assert sorted(name for rank in range(12) for name in checksums.of_rank(names, rank, 12)) == sorted(names)
    assert checksums.of_rank(names, 0, 1) == names


@pytest.mark.parametrize("name", FILES)
def test_other_content_of_the_same_size_is_found(tmp_path: Path, name: str) -> None:
    """In any file, a single bit; by names and sizes it is whole."""
    path = make(tmp_path, 4, sealed=False)
    sums = checksums.checksums(path, checkpoints.written(path))
    assert sums[name] == xxhash.xxh3_128_hexdigest((path / name).read_bytes())
    checkpoints.seal(path, 1, sums)
    assert checksums.changed(path, sums, 0, 1) == []
    (path / name).write_bytes(b"xxxxxyxxxx")
    assert checkpoints.missing_in(path) is None
    assert checksums.changed(path, sums, 0, 1) == [f"{name} has other content than was written"]
    (path / name).unlink()
    assert checksums.changed(path, sums, 0, 1) == [f"{name} cannot be read (No such file or directory)"]
