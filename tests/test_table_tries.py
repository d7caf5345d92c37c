"""The jobs that are to make a reference table, again and again: where the next one goes, and when it is enough."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from conftest import sweep_of
from fakes import FakeScheduler, submit

from launcher.cluster.job_state import JobState, Phase
from launcher.cluster.offer import Offer
from launcher.runs.black_holes import black_holes
from launcher.runs.cancel import cancel
from launcher.runs.run_state import RunState, states_of
from launcher.runs.status import Status
from launcher.store.attempts import Attempts
from launcher.store.facts import Cause, Failure
from launcher.store.files import write_once
from launcher.store.output_folder import Store
from launcher.submission.decide import Action, Decision, decide
from launcher.sweep import Sweep

GRID = ["model=tiny", "beta=0.1,0.2,0.3", "cluster.max_attempts=3", "cluster.time=60"]


def states(sweep: Sweep, store: Store, scheduler: FakeScheduler) -> list[RunState]:
    return states_of([store.run(run.run_id) for run in sweep.runs], scheduler)


def actions(decisions: list[Decision]) -> set[Action]:
    return {decision.action for decision in decisions}


def table_job(scheduler: FakeScheduler, number: int = -1) -> str:
    return scheduler.jobs[scheduler.tables[number].name][0].job_id


def end_table(
    scheduler: FakeScheduler, node: str | None = None, reason: str = "FAILED exit code 3", cause: Cause | None = None
) -> None:
    """The last table's job has ended badly, and all that waited were taken out of the queue."""
    scheduler.end(table_job(scheduler), Phase.FAILED, reason, cause, node)
    for job, state in scheduler.phases.items():
        if state.phase is Phase.RUNNING:
            scheduler.end(job, Phase.CANCELLED, "CANCELLED")


def excluded(scheduler: FakeScheduler) -> tuple[str | None, str | None]:
    """By the last job for a table, and the last for runs."""
    return scheduler.tables[-1].resources.exclude, scheduler.submitted[-1].resources.exclude


def test_the_next_job_for_a_table_keeps_away_from_where_the_last_ended(store: Store) -> None:
    """Two bad nodes, of five: the third job goes elsewhere; so do the runs, and the plan says why."""
    scheduler, sweep = FakeScheduler(10), sweep_of(*GRID)
    scheduler.offers = Offer(nodes=5)
    submit(sweep, store, scheduler, [])
    end_table(scheduler, "n1")
    (said,) = {decision.why for decision in submit(sweep, store, scheduler, [])}
    assert said.endswith("; exclude n1; n1: the job for its reference table ended there before it was made")
    assert excluded(scheduler) == ("n1", "n1")
    end_table(scheduler, "n2", "NODE_FAIL n2", Cause.NODE_FAILED)
    submit(sweep, store, scheduler, [])
    assert [set(str(each).split(",")) for each in excluded(scheduler)] == [{"n1", "n2"}] * 2
    scheduler.end(table_job(scheduler), Phase.COMPLETED)
    assert {state.status for state in states(sweep, store, scheduler)} == {Status.PENDING}


def test_a_reason_of_its_own_blames_no_node(store: Store) -> None:
    """Neither what the job has said itself, nor a lack of memory; nor a job that was set up otherwise."""
    scheduler, sweep = FakeScheduler(10), sweep_of(*GRID)
    submit(sweep, store, scheduler, [])
    write_once(scheduler.tables[-1].folder / "failure.json", Failure("the weights are torn"))
    end_table(scheduler, "n1")
    submit(sweep, store, scheduler, [])
    end_table(scheduler, "n2", "OUT_OF_MEMORY", Cause.OUT_OF_MEMORY)
    submit(sweep, store, scheduler, [])
    assert excluded(scheduler) == (None, None)
    end_table(scheduler, "n3")
    decisions = submit(sweep_of(*GRID, "cluster.setup=[module load cuda]"), store, scheduler, [])
    assert (actions(decisions), excluded(scheduler)) == ({Action.SUBMIT}, (None, None))


def test_a_table_that_is_not_made_again_and_again_is_left_alone(store: Store) -> None:
    """After cluster.max_attempts jobs for it, and no run is to blame: these count nothing; what is named is tried."""
    scheduler, sweep = FakeScheduler(10), sweep_of(*GRID)
    for number in range(3):
        assert actions(submit(sweep, store, scheduler, [])) == {Action.SUBMIT}
        write_once(scheduler.tables[-1].folder / "failure.json", Failure(f"torn {number}"))
        end_table(scheduler)
    decisions = submit(sweep, store, scheduler, [])
    again = f"`resume {sweep.name} {sweep.runs[0].run_id}` tries again"
    assert (actions(decisions), len(scheduler.tables)) == ({Action.SKIP}, 3)
    told = f"its reference table was not made 3 times in a row: job {table_job(scheduler)}: torn 2; {again}"
    assert decisions[0].why == told
    others = submit(sweep_of(*GRID, "sweep=other", "seed=8"), store, scheduler, [])
    assert (actions(others), others[0].why[:40]) == ({Action.SKIP}, told[:40])
    insisted = decide(sweep, store, scheduler, insisted=[run.run_id for run in sweep.runs])
    assert actions(insisted) == {Action.SUBMIT}


def test_attempts_that_lacked_their_table_are_none_in_vain(store: Store) -> None:
    """Twice no table; then it is there, and the run has all its own attempts before it."""
    scheduler, sweep = FakeScheduler(10), sweep_of(*GRID)
    for node in ("n1", "n2"):
        submit(sweep, store, scheduler, [])
        end_table(scheduler, node)
    submit(sweep, store, scheduler, [])
    write_once(scheduler.tables[-1].folder.parent / "done.json", {})
    for number in range(3):
        if number:
            assert actions(submit(sweep, store, scheduler, [])) == {Action.SUBMIT}, number
        for job, state in scheduler.phases.items():
            if state.phase is Phase.RUNNING:
                scheduler.end(job, Phase.FAILED, "FAILED exit code 1", node=f"n{number}")
    decisions = submit(sweep, store, scheduler, [])
    assert actions(decisions) == {Action.SKIP}
    assert decisions[0].why.startswith("failed 3 times without progress: ended on n2 before it began")


def test_a_table_that_was_made_and_lost_has_all_its_attempts_again(store: Store) -> None:
    """What was tried before it was made is of no account."""
    scheduler, sweep = FakeScheduler(10), sweep_of(*GRID)
    for _ in range(2):
        submit(sweep, store, scheduler, [])
        end_table(scheduler, "n1")
    submit(sweep, store, scheduler, [])
    write_once(scheduler.tables[-1].folder.parent / "done.json", {"entries": ["reference/lost"]})
    for job in scheduler.phases:
        scheduler.end(job, Phase.FAILED, "FAILED exit code 1", node="n3")
    for _ in range(3):
        assert actions(submit(sweep, store, scheduler, [])) == {Action.SUBMIT}
        end_table(scheduler, "n1")
    assert actions(submit(sweep, store, scheduler, [])) == {Action.SKIP}


def test_a_run_that_has_begun_behind_a_table_had_one(store: Store) -> None:
    """Whatever its scheduler says of the job that made it, and whoever has deleted the record."""
    scheduler, sweep = FakeScheduler(10), sweep_of(*GRID)
    for _ in range(3):
        submit(sweep, store, scheduler, [])
        end_table(scheduler, "n1")
    submit(sweep_of(*GRID, "cluster.max_attempts=4"), store, scheduler, [])
    attempt = Attempts.of(store.run(sweep.runs[0].run_id)).training
    write_once(attempt.started_file, {"host": "n3", "time": time.time()})
    for job in scheduler.phases:
        scheduler.end(job, Phase.FAILED, "FAILED exit code 1", node="n3")
    assert actions(submit(sweep, store, scheduler, [])) == {Action.SUBMIT}


@pytest.mark.parametrize("knows", [True, False])
def test_a_table_that_was_cancelled_has_not_failed(store: Store, knows: bool) -> None:
    """Somebody may change his mind as often as he likes, also where SLURM forgets it."""
    scheduler, sweep = FakeScheduler(10), sweep_of(*GRID)
    for _ in range(4):
        assert actions(submit(sweep, store, scheduler, [])) == {Action.SUBMIT}
        for job, state in scheduler.phases.items():
            if state.phase is Phase.RUNNING:
                scheduler.end(job, Phase.PENDING, "Dependency", Cause.DEPENDENCY)
        cancel(states(sweep, store, scheduler), scheduler)
        assert table_job(scheduler) in scheduler.cancelled
        for job in scheduler.phases:
            scheduler.end(job, Phase.CANCELLED if knows else Phase.UNKNOWN, "CANCELLED", node="n1" if knows else None)
        age_files(store.root)
    assert excluded(scheduler) == (None, None)


def age_files(folder: Path) -> None:
    for file in folder.rglob("*.json"):
        os.utime(file, (file.stat().st_atime, file.stat().st_mtime - 100))


def test_sweeps_that_share_a_table_learn_from_one_another(store: Store) -> None:
    """Whichever of them has asked for it: where it ended, and how often."""
    scheduler, one, other = FakeScheduler(10), sweep_of(*GRID, "sweep=one"), sweep_of(*GRID, "seed=8", "sweep=other")
    submit(one, store, scheduler, [])
    end_table(scheduler, "n1")
    submit(other, store, scheduler, [])
    assert excluded(scheduler) == ("n1", "n1")
    end_table(scheduler, "n2")
    submit(one, store, scheduler, [])
    assert [set(str(each).split(",")) for each in excluded(scheduler)] == [{"n1", "n2"}] * 2
    end_table(scheduler, "n3")
    for sweep in (one, other):
        assert actions(submit(sweep, store, scheduler, [])) == {Action.SKIP}
    alone = sweep_of("model=tiny", "beta=0.9", "cluster.max_attempts=4", "sweep=one")
    assert actions(submit(alone, store, scheduler, [])) == {Action.SUBMIT}


def test_a_node_that_ends_the_tables_of_two_models_is_a_hole_for_all(store: Store) -> None:
    """Each table's job counts once; runs of a third model keep away from it too."""
    scheduler = FakeScheduler(10)
    sweep = sweep_of(*GRID[1:], "model=tiny,smollm2")
    submit(sweep, store, scheduler, [])
    for number in (0, 1):
        scheduler.end(table_job(scheduler, number), Phase.FAILED, "FAILED exit code 3", node="n1")
    end_table(scheduler, "n1")
    assert not black_holes(states(sweep, store, scheduler))  # two jobs, and nothing that does well elsewhere
    three = sweep_of(*GRID[1:], "model=tiny,smollm2,qwen_0_6b")
    submit(three, store, scheduler, [])
    assert {batch.resources.exclude for batch in [*scheduler.tables[2:], *scheduler.submitted[2:]]} == {"n1"}
    assert len(scheduler.tables) == 5


def test_a_failed_tables_log_is_read_once_for_all_that_waited(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Node, SLURM's words, the last line and where more is; the sweep is skipped with the same words."""
    scheduler, sweep = FakeScheduler(10), sweep_of(*GRID)
    submit(sweep, store, scheduler, [])
    log = store.root / "table.out"
    log.write_text("slurm_script: line 9\nno module\n")
    for run in sweep.runs:
        file = Attempts.of(store.run(run.run_id)).training.attempt_file
        fact = json.loads(file.read_text())
        file.write_text(json.dumps({**fact, "after": {**fact["after"], "log": str(log)}}))
    end_table(scheduler, "n1")
    reads = []
    last_words = "launcher.runs.run_state.last_words"
    monkeypatch.setattr(last_words, lambda path: reads.append(path) or "no module")
    found = states(sweep, store, scheduler)
    told = f"no reference table: job 1: FAILED exit code 3 on n1: no module; its log is {log}"
    assert ({state.reason for state in found}, reads) == ({told}, [log])


def test_a_job_that_waits_in_vain_is_told_by_the_launch_too(store: Store) -> None:
    """Where a site leaves it in the queue; once it is cancelled, the launch makes the table anew."""
    scheduler, sweep = FakeScheduler(10), sweep_of(*GRID)
    submit(sweep, store, scheduler, [])
    scheduler.end("1", Phase.FAILED, "FAILED exit code 3", node="n1")
    for job in ("2", "3", "4"):
        scheduler.phases[job] = JobState(Phase.PENDING, "DependencyNeverSatisfied", cause=Cause.IN_VAIN)
    (said, *_) = decide(sweep, store, scheduler)
    remedy = "job 2 waits in vain: `cancel` it, then launch again"
    told = "no reference table: job 1: FAILED exit code 3 on n1"
    assert (said.action, said.why) == (Action.SKIP, f"in flight: PENDING as job 2; {told}; {remedy}")
    cancel(states(sweep, store, scheduler), scheduler)
    for job in ("2", "3", "4"):
        scheduler.end(job, Phase.CANCELLED)
    assert actions(submit(sweep, store, scheduler, [])) == {Action.SUBMIT}
    assert excluded(scheduler) == ("n1", "n1")


@pytest.mark.parametrize("again", [False, True])
def test_no_node_is_blamed_where_the_output_folder_was_moved(store: Store, again: bool) -> None:
    """The job for a table does not find what it was to do, wherever it starts; also where there is a new folder."""
    scheduler, sweep = FakeScheduler(10), sweep_of(*GRID)
    scheduler.offers = Offer(nodes=5)
    submit(sweep, store, scheduler, [])
    (job_file,) = store.root.glob("cache/prepare/*/001/job.json")
    was = job_file.parent
    job_file.write_text(json.dumps(json.loads(job_file.read_text()) | {"log": str(was / "1_0_log.out")}))
    for file in store.root.glob("runs/*/attempt-001.json"):
        content = json.loads(file.read_text())
        content["after"]["log"] = str(was / "1_0_log.out")
        file.write_text(json.dumps(content))
    moved = Store(store.root.with_name("moved"))
    store.root.rename(moved.root)
    if again:
        submit(sweep, store, FakeScheduler(10), [])
    end_table(scheduler, "n1", "FAILED signal 53")
    said = f"what it was to do lay in {was}, and the output folder has had another name since; launch again"
    (reason,) = {state.reason for state in states(sweep, moved, scheduler)}
    assert reason == f"no reference table: job 1: FAILED signal 53 on n1: {said}"
    log = moved.root / was.relative_to(store.root) / "1_0_log.out"
    log.write_text("no module\n")  # it had begun
    (reason,) = {state.reason for state in states(sweep, moved, scheduler)}
    assert reason == f"no reference table: job 1: FAILED signal 53 on n1: no module; {said}; its log is {log}"
    assert actions(submit(sweep, moved, scheduler, [])) == {Action.SUBMIT}
    assert excluded(scheduler) == (None, None)
