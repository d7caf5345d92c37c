"""Progress, not pulse: ranks that stand still, are gone or never came, and those that merely take their time."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ranks import exit_code, finish, new_attempt, new_job, start
from waiting import eventually
from worker_fixtures import make_config, write_pairs

from launcher.cluster import slurm_node
from launcher.cluster.node_list import members, names
from launcher.config import RunConfig
from launcher.store.facts import Cause, Failure
from launcher.store.files import read_fact, read_lines, typed
from launcher.store.node_facts import Lost, Requeue
from launcher.store.output_folder import Store
from launcher.store.progress import Progress
from launcher.store.run_folder import AttemptDir
from launcher.worker.distributed.liveness import Stand, behind
from launcher.worker.distributed.self_watch import SelfWatch

QUICK = """
from launcher.worker import progress, lost
from launcher.worker.distributed import liveness, ranks as distributed, self_watch
liveness.BEAT_SECONDS, self_watch.TICK_SECONDS, lost.LINGER_SECONDS = 0.5, 0.2, 5.0
distributed.TICK_SECONDS = 0.2
import time, signal
from launcher.worker.training.trainer import Recorder
begin = Recorder.on_step_begin
def at(step, of_rank, do):
    def acting(self, args, state, control, **kwargs):
        begin(self, args, state, control, **kwargs)
        if rank == of_rank and state.global_step == step - 1:
            do()
    Recorder.on_step_begin = acting
"""
SLEEP = "\nat(3, {rank}, lambda: time.sleep(10000))\n"
HOLD = """
import re
at(3, {rank}, lambda: (time.sleep(2), re.match("(a+)+$", "a" * 60 + "b")))
"""
UNWATCHED = """
import re
self_watch.AGAIN_TICKS = 2
def hold():
    os.kill(distributed._self_watch._beside.pid, signal.{signal})
    time.sleep({seconds})
    re.match("(a+)+$", "a" * 60 + "b")
at(3, 0, hold)
"""


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("hangs") / "pairs")


SHOWN = "Partition=main ReqNodeList=n1 ExcNodeList=n7 NumNodes=2 NumCPUs=2"
WITHOUT_N3 = ["show job 77", "show node -o", "requeue 77", "show job 77", "update JobId=77 ExcNodeList=n7,n3"]


def shown(states: list[str]) -> str:
    """What `scontrol show node -o` says of the partition's nodes n1, n2 ...; n7, which jobs avoid, is the last one."""
    names = [*(f"n{number}" for number in range(1, len(states))), "n7"]
    return "\n".join(
        f"NodeName={name} Arch=x86_64 State={state} ThreadsPerCore=1 Owner=N/A Partitions=all,main BootTime=x"
        for name, state in zip(names, states, strict=True)
    )


class Job:
    """A job with one run on this machine, or as a step of SLURM with a scontrol that notes what it is asked."""

    def __init__(self, folder: Path, config: RunConfig) -> None:
        self.folder, self.store = folder, Store(folder / "outputs")
        self.attempt: AttemptDir = new_attempt(config, self.store.run("r"))
        self.path = new_job(folder / "job", self.attempt)
        programs = folder / "bin"
        programs.mkdir()
        self.nodes(4)
        (programs / "scontrol").chmod(0o755)
        self.environment = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}

    def nodes(self, count: int) -> None:
        """So many has the partition."""
        (self.folder / "bin" / "scontrol").write_text(
            f"#!/bin/sh\necho $* >>{self.folder}/asked\n"
            f'case "$*" in "show node"*) echo "{shown(["IDLE"] * count)}";; *) echo {SHOWN};; esac\n'
        )

    def start(self, before: str, ranks: int = 2, *, queue: bool = False) -> list[Any]:
        slurm = f"""
del os.environ["SUBMITIT_EXECUTOR"]
os.environ |= {{"SLURM_JOB_ID": "77", "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank),
                "SLURM_STEP_NUM_TASKS": "{ranks}", "SLURMD_NODENAME": "n3"}}
"""
        return start(self.path, ranks, (slurm if queue else "") + QUICK + before, **self.environment)

    @property
    def asked(self) -> list[str]:
        file = self.folder / "asked"
        return file.read_text().splitlines() if file.exists() else []

    @property
    def failure(self) -> Failure | None:
        return read_fact(self.attempt.failure_file, Failure)

    @property
    def lost(self) -> list[Lost]:
        return [fact for path in (self.attempt.path / "lost").glob("*.json") if (fact := read_fact(path, Lost))]

    def log(self, rank: int = 0) -> str:
        return self.attempt.log_file(rank).read_text()


def job(tmp_path: Path, pairs: Path, **changes: Any) -> Job:
    quick = {"cluster__hang_seconds": 4, "checkpoint__every": 100}
    return Job(tmp_path, make_config(pairs, **quick | changes))


def test_a_rank_whose_main_thread_stands_still_is_named_and_traced(tmp_path: Path, pairs: Path) -> None:
    """Rank 0 waits for it in a collective, with a pulse like its own: the one that is behind is the one that hangs."""
    hung = job(tmp_path, pairs)
    assert finish(hung.start(SLEEP.format(rank=1)), 120) == [1, 1]
    assert hung.failure is not None
    assert re.fullmatch(r"rank 1 stood in 'step 2 of 6' for \d+ s; see rank1\.log", hung.failure.reason)
    assert hung.failure.cause is Cause.HUNG
    assert "in acting" in hung.log(1)  # faulthandler's trace of the main thread
    assert len(hung.lost) == 1


def test_a_hang_puts_the_job_back_into_the_queue_without_the_node(tmp_path: Path, pairs: Path) -> None:
    """Once, though both ranks notice; the node is added to those that the job avoids already."""
    hung = job(tmp_path, pairs, checkpoint__every=1)
    assert finish(hung.start(SLEEP.format(rank=1), queue=True), 120) == [1, 1]
    assert hung.failure is None
    assert hung.asked == WITHOUT_N3
    back = typed(read_lines(hung.attempt.requeue_log)[0], Requeue, hung.attempt.requeue_log)
    assert (back.step, back.node, back.why) == (2, "n3", hung.lost[0].reason)


def test_a_node_list_means_each_of_its_nodes() -> None:
    """Numbers keep their zeros, and a name may have several brackets."""
    assert members(names("n1,gpu[08-10,12],rack[1-2]n[0,3]")) == [
        "n1", "gpu08", "gpu09", "gpu10", "gpu12", "rack1n0", "rack1n3", "rack2n0", "rack2n3",
    ]  # fmt: skip


FIVE = ["IDLE"] * 5  # n1 to n4, and n7


@pytest.mark.parametrize(
    ("job", "states", "spares"),
    [
        (SHOWN, FIVE, True),
        (SHOWN, FIVE[:4], True),
        (SHOWN.replace("NumNodes=2", "NumNodes=3"), FIVE[:4], False),  # it would wait for ever
        (SHOWN, ["IDLE", "MIXED+DRAIN", "ALLOCATED", "IDLE*", "IDLE"], False),  # n2 and n4 may not come back
        (SHOWN, ["IDLE", "DOWN+NOT_RESPONDING", "ALLOCATED", "IDLE+MAINTENANCE", "IDLE"], False),
        (SHOWN, ["IDLE", "MIXED+PLANNED", "ALLOCATED", "IDLE+CLOUD+POWERED_DOWN", "DOWN"], True),
        (SHOWN.replace("n7", "n[1-2,7]").replace("NumNodes=2", "NumNodes=1"), [*FIVE, "IDLE"], False),  # nobody's fault
        (SHOWN.replace("n7", "(null)"), FIVE[:4], True),
        (SHOWN.replace("=main", "=main,all"), FIVE, True),
        (SHOWN.replace("=main", "=other"), FIVE[:2], True),
        ("slurm_load_jobs error: Invalid job id specified", FIVE[:2], True),
    ],
)
def test_a_job_keeps_away_from_a_node_while_it_has_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: str, states: list[str], spares: bool
) -> None:
    """As many as it takes, and half of those that can be had; where SLURM does not say, as if it had."""
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\n[ $2 = node ] && echo '{shown(states)}' || echo '{job}'\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert slurm_node.spares("77", "n3") is spares


def test_a_hang_leaves_a_job_the_nodes_that_it_needs(tmp_path: Path, pairs: Path) -> None:
    """Two of two: it goes back to where it was, and says so."""
    hung = job(tmp_path, pairs, checkpoint__every=1)
    hung.nodes(2)
    assert finish(hung.start(SLEEP.format(rank=1), queue=True), 120) == [1, 1]
    assert hung.asked == ["show job 77", "show node -o", "requeue 77"]
    assert any("77 goes back into the queue, though on n3: too few are left" in hung.log(rank) for rank in (0, 1))


def test_where_all_are_level_no_node_is_left_out(tmp_path: Path, pairs: Path) -> None:
    """Which of them hangs nobody knows: an innocent one's node is not to be left to the other."""
    hung = job(tmp_path, pairs)
    assert finish(hung.start("\nat(3, rank, lambda: time.sleep(10000))\n", queue=True), 120) == [1, 1]
    words = r"all ranks stood in 'step 2 of 6' for \d+ s, and which of them hangs is not known; see each rank's log"
    assert re.fullmatch(words, hung.lost[0].reason)
    assert hung.asked == ["requeue 77"]
    assert all("in acting" in hung.log(rank) for rank in (0, 1))


def test_a_job_that_hung_too_often_has_failed(tmp_path: Path, pairs: Path) -> None:
    """It has been back as often as cluster.max_requeues allows; a lone process judges itself."""
    hung = job(tmp_path, pairs, cluster__max_requeues=0)
    assert finish(hung.start(SLEEP.format(rank=0), 1, queue=True), 120) == [1]
    assert hung.failure is not None
    words = r"rank 0 stood in 'step 2 of 6' for \d+ s; see rank0\.log; after 0 requeues \(cluster\.max_requeues\)"
    assert re.fullmatch(words, hung.failure.reason)
    assert (hung.failure.node, hung.asked) == ("n3", [])
    assert "in acting" in hung.log()


def test_a_lone_process_that_holds_the_interpreter_goes_back_too(tmp_path: Path, pairs: Path) -> None:
    """No thread of it can judge or speak any more: the process beside does, and leaves the trace."""
    hung = job(tmp_path, pairs)
    assert finish(hung.start(HOLD.format(rank=0), 1, queue=True), 120) == [-signal.SIGKILL]
    assert hung.asked == WITHOUT_N3
    assert "none of its threads moved; see rank0.log" in hung.lost[0].reason
    assert "in acting" in hung.log()


@pytest.mark.parametrize(("number", "seconds"), [("SIGKILL", 2), ("SIGSTOP", 12)])
def test_a_process_beside_that_is_gone_is_started_again(tmp_path: Path, pairs: Path, number: str, seconds: int) -> None:
    """Killed or stopped, by whomever: the next one notices what it would have noticed."""
    hung = job(tmp_path, pairs, cluster__hang_seconds=seconds + 3)
    before = UNWATCHED.format(signal=number, seconds=seconds)
    assert finish(hung.start(before, 1, queue=True), 120) == [-signal.SIGKILL]
    assert "none of its threads moved; see rank0.log" in hung.lost[0].reason
    assert "prefsweep: the process beside this one" in hung.log()


def test_a_stopped_rank_0_is_left_by_the_others(tmp_path: Path, pairs: Path) -> None:
    """It keeps the store, which answers nothing any more: the others leave, and put the job back."""
    hung = job(tmp_path, pairs)
    stop = "\nliveness.SILENT_BEATS = 10\nprogress.judge_from = lambda seconds: None\n"
    stop += "at(3, 0, lambda: (time.sleep(2), os.kill(os.getpid(), signal.SIGSTOP)))\n"
    first, second = hung.start(stop, queue=True)
    try:
        assert exit_code(second, 120) == 1
        assert first.is_alive()
    finally:
        first.kill()
        first.join()
    assert re.fullmatch(r"rank 0 has been silent for \d+ s; see rank0\.log", hung.lost[0].reason)
    assert "requeue 77" in hung.asked


@pytest.mark.parametrize("of_rank", [0, 1])
def test_a_killed_rank_is_the_schedulers_to_explain(tmp_path: Path, pairs: Path, of_rank: int) -> None:
    """In a queue nothing is called a failure: the step ends badly, and what was noticed lies beside."""
    killed = job(tmp_path, pairs)
    before = (
        f"\nlost.LINGER_SECONDS = 1\nat(3, {of_rank}, lambda: (time.sleep(2), os.kill(os.getpid(), signal.SIGKILL)))\n"
    )
    codes = finish(killed.start(before, queue=True), 120)
    assert (codes[of_rank], codes[1 - of_rank]) == (-signal.SIGKILL, 1)
    assert (killed.failure, killed.asked) == (None, [])
    assert [fact.reason for fact in killed.lost] == [f"rank {of_rank} was killed; see rank{of_rank}.log"]


def test_a_rank_that_dies_before_the_meeting_is_named(tmp_path: Path, pairs: Path) -> None:
    """The others wait no longer than a meeting may take."""
    early = job(tmp_path, pairs)
    before = """
from launcher.worker.distributed import rendezvous
distributed.MEETING_SECONDS = 5.0
if rank == 1:
    os._exit(3)
"""
    codes = finish(early.start(before, 3, queue=False), 120)
    assert codes[1] == 3
    assert 0 not in codes
    assert early.failure is not None
    assert early.failure.reason.startswith("rank 1 has not come within 5 s, of 3")


SLOW = "\nprogress.FIRST_STEP = 60.0\nat(1, 1, lambda: time.sleep(9))\n"
LONG = """
def longer():
    with progress.phase("waiting for nothing", 60.0):
        time.sleep(9)
at(3, {rank}, longer)
"""


@pytest.mark.parametrize("before", [SLOW, LONG.format(rank=1), LONG.format(rank=0)], ids=["first step", "rank 1", "0"])
def test_what_was_announced_is_no_hang(tmp_path: Path, pairs: Path, before: str) -> None:
    """A first step that compiles, a phase that takes long, for the rank in it and for those who wait for it."""
    slow = job(tmp_path, pairs)
    assert finish(slow.start(before), 240) == [0, 0]
    assert slow.lost == []


def test_a_suspended_job_does_not_hang(tmp_path: Path, pairs: Path) -> None:
    """All of its processes stand still for longer than the limit and go on, as under scontrol suspend."""
    paused = job(tmp_path, pairs)
    (process,) = paused.start(f"\nat(3, 0, lambda: (open({str(tmp_path)!r} + '/there', 'w'), time.sleep(2)))\n", 1)
    assert eventually((tmp_path / "there").exists, 120)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    everyone = [*map(int, children), process.pid]
    for pid in everyone:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(10)
    for pid in everyone:
        os.kill(pid, signal.SIGCONT)
    assert finish([process], 120) == [0]
    assert paused.lost == []


def test_progress_is_told_while_it_is_made(tmp_path: Path, pairs: Path) -> None:
    """progress.json names the phase, what is done in it, and how long it may take."""
    told = job(tmp_path, pairs)
    often = "\nfrom launcher.worker import report\nreport.LOOK_SECONDS = report.EVERY_SECONDS = 0.2\n"
    (process,) = told.start(f"{often}at(3, 0, lambda: time.sleep(3))\n", 1)

    def stands() -> bool:
        found = read_fact(told.attempt.progress_file, Progress)
        return found is not None and (found.phase, found.done, found.of) == ("step", 2, 6)

    assert eventually(stands, 120)
    assert finish([process], 120) == [0]


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        (["torch/distributed/distributed_c10d.py"], True),
        (["torch/autograd/graph.py", "torch/utils/checkpoint.py"], True),
        (["deepspeed/runtime/zero/partition_parameters.py"], True),
        (["torch/distributed/distributed_c10d.py", "site/handler.py"], False),  # of a signal
        (["transformers/trainer.py"], False),
    ],
)
def test_who_is_below_a_collective_need_not_wait_in_it(frames: list[str], expected: bool) -> None:
    """The innermost frame tells."""
    watch, seen, do = SelfWatch(lambda: None), [], partial(time.sleep, 1)
    for file in reversed(frames):
        names: dict[str, Any] = {"inner": do}
        exec(compile("def do(): inner()", f"/lib/{file}", "exec"), names)  # noqa: S102 - a frame of that file
        do = names["do"]
    threading.Timer(0.3, lambda: seen.append(watch.in_collective)).start()
    do()
    assert seen == [expected]


def stand(
    phase: str = "step", *, bumps: int = 0, hangs: bool = True, waits: bool = False, joint: bool = False
) -> Stand:
    return Stand(1, "n1", "pid:[1]", 1, 1, phase, bumps=bumps, hangs=hangs, waits=waits, joint=joint)


@pytest.mark.parametrize(
    ("stands", "expected"),
    [
        ([stand(bumps=5), stand(bumps=4)], [1]),
        ([stand(bumps=4), stand(bumps=4, joint=True)], [0]),
        ([stand(bumps=4, joint=True), stand(bumps=4)], [1]),
        ([stand(bumps=5), stand(bumps=4, hangs=False)], []),  # that one compiles
        ([stand("saving a checkpoint", hangs=False), stand(bumps=4)], []),
        ([stand("evaluating", bumps=99), stand("waiting for rank 0", hangs=False, waits=True)], [0]),
        ([stand("saving a checkpoint", joint=True), stand(bumps=4)], [1]),
        ([stand(hangs=False), stand(hangs=False)], []),
        ([stand(bumps=4), stand(bumps=4)], [0, 1]),
        ([stand(bumps=4, joint=True), stand(bumps=4, joint=True)], [0, 1]),
        ([stand(bumps=4), stand(bumps=4, joint=True), stand(bumps=4)], [0, 2]),
        ([stand("saving a checkpoint", bumps=1), stand(bumps=4)], [0, 1]),  # of two phases nobody knows which is ahead
    ],
)
def test_the_rank_that_is_behind_hangs(stands: list[Stand], expected: list[int]) -> None:
    """Not those that wait for it, and nobody as long as somebody keeps to what was announced; all that are level."""
    assert behind(dict(enumerate(stands))) == expected
