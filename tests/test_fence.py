"""launcher.worker.fence: a process whose start another has superseded leaves, and harms nothing."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
from ranks import exit_code, new_attempt, new_job, start
from waiting import eventually
from worker_fixtures import Configure, make_config, write_pairs

from launcher.cluster import node
from launcher.cluster.local import LocalScheduler
from launcher.config import Checkpoint, RunConfig
from launcher.runs.run_state import states_of
from launcher.store import files
from launcher.store.facts import Failure, Started
from launcher.store.files import append_line, read_fact, write_derived, write_once
from launcher.store.output_folder import Store
from launcher.store.run_folder import AttemptDir, RunDir
from launcher.store.starts import claim
from launcher.worker import fence
from launcher.worker.outcome import Kind, Outcome, settle

WRITES = {
    "a fact": lambda run: write_once(run.result_file, {}),
    "a log": lambda run: append_line(run.metrics_file, {}),
    "a derived file": lambda run: write_derived(run.data_file, "{}"),
    "a failure": lambda run: settle(Outcome(Kind.FAILED, "broken"), AttemptDir(run.path / "attempts/001")),
    "a requeue": lambda run: settle(Outcome(Kind.STOPPED, signal=node.WARNING), AttemptDir(run.path / "attempts/001")),
    "a folder": lambda run: fence.put_in_place(run.path / "made", run.model),
    "none": lambda _: time.sleep(60),
}


@pytest.fixture
def run(tmp_path: Path, configure: Configure) -> RunDir:
    run = Store(tmp_path).run("r")
    new_attempt(configure(), run)
    (run.path / "made").mkdir()
    return run


def contents(run: RunDir) -> dict[str, str]:
    """What every file of the run holds, but for what processes print, and say of how far they are.

    A process that was stopped while it says that goes on where it was, before it looks at anything; the next who says
    it has the last word.
    """
    found = sorted(path for path in run.path.rglob("*") if path.is_file())
    found = [path for path in found if path.suffix != ".log" and "progress.json" not in path.name]
    return {path.relative_to(run.path).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def be_superseded(path: Path, what: str) -> None:
    """In a process: take up the run, lose it, and go on to write."""
    run, attempt = RunDir(path), AttemptDir(path / "attempts" / "001")
    os.environ |= {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "PATH": f"{path.parent}:{os.environ['PATH']}"}
    fence.GUARD_SECONDS = 0.2 if what == "none" else 60.0
    fence.take_up(attempt, Started(host="n1"), exit_code=9)
    other = get_context("spawn").Process(target=claim, args=(attempt, Started(host="n2")))
    other.start()
    other.join()
    WRITES[what](run)


@pytest.mark.parametrize("what", WRITES)
def test_nothing_is_written_by_a_superseded_process(
    run: RunDir, what: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It ends before it writes a fact, a log or a model, or asks for a requeue; its thread ends it where it waits."""
    scontrol = tmp_path / "runs" / "scontrol"
    scontrol.write_text(f"#!/bin/sh\ntouch {tmp_path}/asked\n")
    scontrol.chmod(0o755)
    process = get_context("spawn").Process(target=be_superseded, args=(run.path, what))
    process.start()
    assert exit_code(process) == 9
    assert sorted(contents(run)) == ["attempt-001.json", "config.yaml",
                                     "starts/001.0001.json", "starts/001.0002.json"]  # fmt: skip
    assert not run.model.exists()
    assert not (tmp_path / "asked").exists()
    assert "left: start 001.0002 on n2 has taken this run up" in capfd.readouterr().out


def test_an_earlier_life_of_a_job_takes_nothing_up(run: RunDir) -> None:
    """SLURM gave up its node and started it elsewhere, before it came to its first run."""
    attempt = run.attempts()[0]
    claim(attempt, Started(job="7", restart=1))
    assert claim(attempt, Started(job="7", restart=0)) is None
    assert claim(attempt, Started(job="7", restart=1)) is not None
    assert claim(attempt, Started(job="8", restart=0)) is not None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_full_disk_does_not_hide_another_start(run: RunDir, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Where no file can be made, what the folder lists is looked at all the same."""
    attempt, opened = run.attempts()[0], os.open
    one = claim(attempt, Started())
    assert one is not None

    def full(path: Path, flags: int, *args: int) -> int:
        if flags & os.O_CREAT:
            raise OSError(number, os.strerror(number))
        return opened(path, flags, *args)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", full)
        assert not one.is_superseded()
    claim(attempt, Started())
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", full)
        assert one.is_superseded()


def test_what_is_made_aside_is_of_one_start(run: RunDir) -> None:
    """What an earlier one has left goes; a model that is there makes way only for one that is whole."""
    attempt = run.attempts()[0]
    fence.take_up(attempt, Started())
    first = fence.aside(run.model)
    assert first.name == ".model.001.0001.partial"
    first.mkdir()
    (first / "weights").write_text("1")
    fence.put_in_place(first, run.model)
    fence.aside(run.model).mkdir()
    fence.take_up(attempt, Started())
    second = fence.aside(run.model)
    assert [path.name for path in run.path.glob(".model*")] == []
    with pytest.raises(FileNotFoundError):
        fence.put_in_place(second, run.model)  # somebody has removed it
    assert (run.model / "weights").read_text() == "1"
    second.mkdir()
    (second / "weights").write_text("2")
    fence.put_in_place(second, run.model)
    assert (run.model / "weights").read_text() == "2"
    assert [path.name for path in run.path.glob(".model*")] == []
    fence.lift()
    assert fence.own(run.checkpoints) == run.checkpoints
    files.look_first()


# ------------------------------------------------------------------------------------------------ while it trains


# Where a process is stopped in the middle of its work, after it has looked for the last time before what follows.
STOPPED = {
    "at a step": """
from launcher.worker.training.trainer import Recorder as place
name, at = "on_step_begin", 4
""",
    "before a seal": """
import launcher.worker.training.checkpoints as place
name, at = "seal", 2
""",
    "before a rotation": """
import launcher.worker.training.checkpoints as place
name, at = "rotate", 3
""",
    "before the model's name": """
from pathlib import Path as place
name, at = "rename", 1
""",
    "while it evaluates": """
import launcher.worker.evaluation.preference as place
name, at = "generation_metrics", 1  # the untrained model's are there
""",
}
STOP = """
import signal
kept, calls = getattr(place, name), []
def stopping(*args, **how):
    calls.append(1)
    if len(calls) == at:
        os.kill(os.getpid(), signal.SIGSTOP)
    return kept(*args, **how)
setattr(place, name, stopping)
"""


@dataclass(frozen=True)
class World:
    """An output folder, a configuration, and the run that nothing has disturbed."""

    folder: Path
    config: RunConfig

    def start(self, run: RunDir, before: str = "") -> ForkServerProcess:
        """Start a job that makes the run's next attempt."""
        return self.start_all(run, before, ranks=1)[0]

    def start_all(self, run: RunDir, before: str = "", ranks: int = 2) -> list[ForkServerProcess]:
        """The same with several ranks."""
        attempt = new_attempt(self.config, run)
        return start(new_job(self.folder / f"{run.run_id}.{attempt.number}", attempt), ranks, before)

    def run(self, name: str) -> RunDir:
        return Store(self.folder / "outputs").run(name)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("fence")
    made = World(folder, make_config(write_pairs(folder / "pairs")))
    assert exit_code(made.start(made.run("in-peace"))) == 0
    return made


def is_stopped(process: ForkServerProcess) -> bool:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.mark.parametrize("where", STOPPED)
def test_a_process_that_was_stopped_writes_nothing_when_it_goes_on(world: World, where: str) -> None:
    """Another start trains the run to its end meanwhile, and ends with the very weights of one left in peace."""
    run = world.run(where.replace(" ", "-"))
    first = world.start(run, STOPPED[where] + STOP)
    try:
        assert eventually(lambda: is_stopped(first)), [path.read_text() for path in run.path.glob("attempts/*/*.log")]
        assert exit_code(world.start(run)) == 0
        before = contents(run)
    finally:
        os.kill(first.pid or 0, signal.SIGCONT)
    assert exit_code(first) == 0
    assert contents(run) == before
    assert "left: start 002.0001 on " in (run.path / "attempts/001/rank0.log").read_text()
    assert not list(run.path.rglob("*partial"))
    assert not run.checkpoints.exists()
    assert weights_of(run) == weights_of(world.run("in-peace"))


def weights_of(run: RunDir) -> bytes:
    return (run.model / "model.safetensors").read_bytes()


# ------------------------------------------------------------------------------------------------ what it goes on from


def zero_4_kb(path: Path) -> None:
    with path.open("rb+") as file:
        file.seek(path.stat().st_size // 2)
        file.write(bytes(4096))


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.fixture(scope="module")
def interrupted(world: World) -> RunDir:
    """A run that was killed when it had checkpoints of steps 2 and 4."""
    kept = World(world.folder, replace(world.config, checkpoint=Checkpoint(every=2, keep=2)))
    run = world.run("interrupted")
    killed = STOPPED["at a step"].replace("4", "6") + STOP.replace("SIGSTOP", "SIGKILL")
    assert exit_code(kept.start(run, killed)) == -signal.SIGKILL
    return run


@pytest.mark.parametrize(("name", "harm"), [("optimizer.pt", zero_4_kb), ("model.safetensors", flip_a_bit),
                                            ("optimizer.pt", cut_off)])  # fmt: skip
def test_a_damaged_checkpoint_is_passed_over(
    world: World, interrupted: RunDir, name: str, harm: Callable[[Path], None]
) -> None:
    """The one before it is taken, which status says, and the run ends as if nothing had happened."""
    run = copy_of(interrupted, f"{name}-{harm.__name__}")
    harm(run.checkpoints / "001.0001" / "checkpoint-4" / name)
    said = resumed(world, run)
    assert "checkpoint-4 is damaged, and passed over: " + name in said
    assert [int(step) for step in re.findall(r"step (\d)/6", said)] == [3, 4, 5, 6]
    (damage,) = run.damages()
    assert (damage.checkpoint, damage.step) == ("001.0001/checkpoint-4", 2)
    (state,) = states_of([run], LocalScheduler())
    assert state.reason is not None
    assert f"001.0001/checkpoint-4 was damaged ({name} " in state.reason
    assert state.reason.endswith("the training went on from step 2")
    assert weights_of(run) == weights_of(world.run("in-peace"))


def test_where_all_are_damaged_the_training_begins_anew(world: World, interrupted: RunDir) -> None:
    """It says so, and has the same end; a whole one is taken over, also one that has no checksums."""
    run, older = copy_of(interrupted, "all-damaged"), copy_of(interrupted, "without-checksums")
    for checkpoint in run.checkpoints.glob("*/*"):
        zero_4_kb(checkpoint / "optimizer.pt")
    said = resumed(world, run)
    assert "no whole checkpoint is left: the training begins anew" in said
    assert [damage.step for damage in run.damages()] == [None, None]
    for marker in older.checkpoints.glob("*/*/complete.json"):
        marker.write_text(json.dumps({key: value for key, value in read_fact(marker).items() if key != "sums"}))
    (older.checkpoints / "001.0001" / "checkpoint-4").rename(older.checkpoints / "checkpoint-4")  # as it was laid out
    assert "step 4/6" not in resumed(world, older)
    assert weights_of(run) == weights_of(older) == weights_of(world.run("in-peace"))


def test_exchanged_checkpoints_are_not_gone_on_from(world: World, interrupted: RunDir) -> None:
    """Those of another run, and of another step: the training begins anew, and ends as if nothing had happened."""
    run, other = copy_of(interrupted, "exchanged"), world.run("of-another")
    mine, fours = run.checkpoints / "001.0001", "checkpoint-4"
    (mine / fours).rename(mine / "checkpoint-5")
    shutil.rmtree(mine / "checkpoint-2")
    shutil.copytree(copy_of(interrupted, other.run_id).checkpoints / "001.0001" / fours, mine / fours)
    said = resumed(world, run)
    assert [int(step) for step in re.findall(r"step (\d)/6", said)] == [1, 2, 3, 4, 5, 6]
    assert [damage.why for damage in run.damages()] == [
        "it is the checkpoint of step 4", "it is a checkpoint of the run of-another"
    ]  # fmt: skip
    assert weights_of(run) == weights_of(world.run("in-peace"))


LOSE = """
from transformers import Trainer
import shutil
load = Trainer._load_rng_state
def lose_and_load(self, checkpoint):
    shutil.rmtree(checkpoint)
    load(self, checkpoint)  # which passes over what is not there
Trainer._load_rng_state = lose_and_load
"""
FORGET = """
from launcher.worker.training import train as place
go = place._go
def forget(trainer, recorder, checkpoint):
    trainer.train = lambda resume_from_checkpoint: type(trainer).train(trainer)
    go(trainer, recorder, checkpoint)
place._go = forget
"""


@pytest.mark.parametrize(("before", "why"), [(LOSE, "checkpoint-4 was changed while it was loaded: no complete.json"),
                                             (FORGET, "starts at step 0, its checkpoint is of step 4")])  # fmt: skip
def test_a_training_starts_where_its_checkpoint_was_written(
    world: World, interrupted: RunDir, before: str, why: str
) -> None:
    """Or it fails before its first step: weights of step 4 with the schedule of step 0 would be another model."""
    run = copy_of(interrupted, "lost" if before == LOSE else "forgotten")
    assert exit_code(world.start(run, before)) is not None
    failure = read_fact(run.attempts()[-1].failure_file, Failure)
    assert failure is not None
    assert re.search(why, failure.reason), failure.reason
    assert not run.model.exists()
    assert "step 5/6" not in (run.attempts()[-1].log_file()).read_text()
    (damage,) = run.damages()
    assert re.search(why, damage.why)
    assert damage.step is None  # as nothing is left
    assert run.last_checkpoint_step() is None


def copy_of(run: RunDir, name: str) -> RunDir:
    """The run as another of that name, whose files say that they are its own."""
    copy = RunDir(Path(shutil.copytree(run.path, run.path.with_name(name))))
    for file in (copy.config_file, *copy.path.glob("attempt-*.json"), *copy.checkpoints.glob("*/*/complete.json")):
        file.write_text(file.read_text().replace(run.run_id, name))
    return copy


def resumed(world: World, run: RunDir) -> str:
    """What the run's next attempt prints, which must succeed."""
    assert exit_code(world.start(run)) == 0
    return run.attempts()[-1].log_file().read_text()


def test_two_ranks_leave_and_two_go_on(world: World) -> None:
    """Rank 0 finds out that it is superseded, and rank 1 that it has left; each of the new ones reads what it loads."""
    config = replace(world.config, checkpoint=Checkpoint(every=1, keep=2))
    two = World(world.folder, replace(config, evaluation=replace(config.evaluation, benchmarks=[])))
    peaceful, run = world.run("two-in-peace"), world.run("two")
    assert [exit_code(process) for process in two.start_all(peaceful)] == [0, 0]
    first = two.start_all(run, STOPPED["at a step"] + "at = at if rank == 0 else 0\n" + STOP)
    try:
        assert eventually(lambda: is_stopped(first[0])), run.attempts()[0].log_file().read_text()
        flip_a_bit(run.checkpoints / "001.0001" / "checkpoint-3" / "rng_state_1.pth")
        assert [exit_code(process) for process in two.start_all(run)] == [0, 0]
        before = contents(run)
    finally:
        os.kill(first[0].pid or 0, signal.SIGCONT)
    assert [exit_code(process) for process in first] in ([0, 1], [0, -signal.SIGABRT])
    assert contents(run) == before
    assert [(damage.checkpoint, damage.why, damage.step) for damage in run.damages()] == [
        ("001.0001/checkpoint-3", "rng_state_1.pth has other content than was written", 2)
    ]
    assert weights_of(run) == weights_of(peaceful)
