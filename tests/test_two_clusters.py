"""One output folder, two clusters: what a launch on the second makes of the jobs of the first. Both count from 1."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
from conftest import sweep_of
from fakes import FakeScheduler
from test_submit import actions, launch

from launcher.cluster.job_state import Phase
from launcher.errors import ConfigError, NotCancelled, SchedulerError
from launcher.runs.cancel import cancel
from launcher.runs.run_state import states_of
from launcher.runs.status import Status
from launcher.store.attempts import is_called_off
from launcher.store.facts import Cause, Job, Started
from launcher.store.output_folder import Store
from launcher.store.run_folder import RunDir
from launcher.store.starts import claim
from launcher.submission.adopt import adopt
from launcher.submission.decide import Action, decide
from launcher.sweep import Sweep

GRID = ("model=tiny", "loss_type=sigmoid,ipo", "cluster.runs_per_job=1")
MAY = (
    "and may go on: one that works in this folder stops at its next step, "
    "one that works in a copy of it is cancelled there"
)


def runs_of(sweep: Sweep, store: Store) -> list[RunDir]:
    return [store.run(run.run_id) for run in sweep.runs]


@pytest.fixture
def clusters(monkeypatch: pytest.MonkeyPatch) -> tuple[FakeScheduler, FakeScheduler]:
    """Two, of which neither knows the jobs of the other, and nothing is recent."""
    for module in ("launcher.submission.adopt", "launcher.submission.reference_job", "launcher.runs.status"):
        monkeypatch.setattr(f"{module}.LAG_SECONDS", 0.0)
    return FakeScheduler(cluster="first"), FakeScheduler(cluster="second")


def test_two_jobs_of_one_number_are_two(store: Store, clusters: tuple[FakeScheduler, FakeScheduler]) -> None:
    """The end of one says nothing about the other, whichever cluster is asked."""
    first, second = clusters
    launch(sweep := sweep_of("model=tiny", "loss_type=sigmoid"), store, first)
    launch(other := sweep_of("model=tiny", "loss_type=ipo"), store, second)
    (here, there) = [states_of(runs_of(each, store), first)[0].facts.job_id for each in (sweep, other)]
    assert here == there
    first.end(str(here))
    runs = [*runs_of(sweep, store), *runs_of(other, store)]
    assert [state.status for state in states_of(runs, first)] == [Status.FAILED, Status.PENDING]
    assert [state.status for state in states_of(runs[::-1], first)] == [Status.PENDING, Status.FAILED]
    assert [state.status for state in states_of(runs, second)] == [Status.PENDING, Status.PENDING]


def test_what_was_handed_over_on_another_cluster_is_not_submitted_again(
    store: Store, clusters: tuple[FakeScheduler, FakeScheduler]
) -> None:
    """Its launcher died before it could record the jobs: they are found where they are, and the launch says where."""
    first, second = clusters
    sweep = sweep_of(*GRID)
    first.dies_after = 2  # the table's comes first
    with pytest.raises(KeyboardInterrupt):
        launch(sweep, store, first)
    with pytest.raises(SchedulerError, match="is on cluster first, and this is second; ask there: launch there again"):
        adopt(runs_of(sweep, store), second)
    first.dies_after = None
    adopt(runs_of(sweep, store), first)
    launch(sweep, store, first)
    assert (len(first.submitted), second.jobs) == (2, {})


def test_where_that_cluster_is_gone_its_batch_is_moved_away(
    store: Store, clusters: tuple[FakeScheduler, FakeScheduler]
) -> None:
    """As the launch says: then its runs are submitted here."""
    first, second = clusters
    sweep = sweep_of(*GRID)
    first.dies_before = 2
    with pytest.raises(KeyboardInterrupt):
        launch(sweep, store, first)
    with pytest.raises(SchedulerError) as error:
        adopt(runs_of(sweep, store), second)
    (batch,) = store.root.glob("sweeps/*/jobs/*/batch.json")
    assert str(error.value).endswith(f"move {batch} away")
    batch.rename(store.root / "moved.json")
    adopt(runs_of(sweep, store), second)
    launch(sweep, store, second)
    assert len(second.submitted) == 2


def test_no_job_waits_for_a_table_of_another_cluster(
    store: Store, clusters: tuple[FakeScheduler, FakeScheduler]
) -> None:
    """A job of that number is somebody else's here: another job makes the table, or finds it made."""
    first, second = clusters
    launch(sweep_of(*GRID), store, first)
    launch(sweep_of(*GRID, "beta=0.7"), store, second)
    assert (len(first.tables), len(second.tables)) == (1, 1)
    assert {(batch.after.job_id, batch.after.cluster) for batch in second.submitted if batch.after} == {
        (second.jobs[second.tables[0].name][0].job_id, "second")
    }
    assert len(second.submitted) == 2


def test_no_job_evaluates_behind_one_of_another_cluster(
    store: Store, clusters: tuple[FakeScheduler, FakeScheduler]
) -> None:
    """What is wanted of a run besides is left to the cluster that trains it, or to the time when it is trained."""
    first, second = clusters
    options = ("model=tiny", "cluster=slurm", "cluster.gpus_per_node=2", "trainer.batch_size=64")
    launch(sweep_of(*options), store, first)
    more = sweep_of(*options, "evaluation=command", "evaluation.command.argv=[score,'{model}']")
    assert actions(decide(more, store, second)) == [Action.SKIP]
    assert actions(decide(more, store, first)) == [Action.EVALUATE]
    assert first.phases["1"].phase is Phase.RUNNING


class Strict(FakeScheduler):
    """Reaches no job of another cluster."""

    def cancel(self, jobs: Sequence[Job]) -> None:
        super().cancel([job for job in jobs if job.cluster == self.cluster])
        if left := [job.job_id for job in jobs if job.cluster != self.cluster]:
            raise NotCancelled("is on cluster first; cancel there", left)


@pytest.mark.parametrize("more", [(), ("cluster=slurm", "cluster.gpus_per_node=2", "trainer.batch_size=64")])
def test_what_was_in_flight_on_a_cluster_that_is_gone_is_cancelled_and_launched_here(
    store: Store, monkeypatch: pytest.MonkeyPatch, clusters: tuple[FakeScheduler, FakeScheduler], more: tuple[str, ...]
) -> None:
    """With its table, and the job behind it; a job that works in this folder all the same sees the wish."""
    first, second = clusters[0], Strict(cluster="second")
    sweep, told, warned = sweep_of(*GRID, *more), list[str](), list[str]()
    launch(sweep, store, first)
    old = [attempt for run in runs_of(sweep, store) for attempt in run.attempts()]
    assert actions(decide(sweep, store, second)) == [Action.SKIP] * 2
    states = states_of(runs_of(sweep, store), second)
    assert cancel(states, second, warn=warned.append, note=told.append) == states
    assert (warned, told) == (["is on cluster first; cancel there"], [f"the jobs of 2 runs are not shown here, {MAY}"])
    states = states_of(runs_of(sweep, store), second)
    assert {(state.status, state.in_flight) for state in states} == {(Status.CANCELLED, False)}
    assert all(is_called_off(attempt) for attempt in old)
    monkeypatch.setattr("launcher.runs.signs.age", lambda _: 1.0)
    for attempt in old:
        claim(attempt, Started(host="n1"))
    states = states_of(runs_of(sweep, store), second)
    assert {state.status for state in states} == {Status.RUNNING}  # it writes into this folder yet
    monkeypatch.setattr("launcher.runs.signs.age", lambda _: None)
    launch(sweep, store, second)
    assert len(second.submitted) == 2
    assert {state.status for state in states_of(runs_of(sweep, store), second)} == {Status.PENDING}
    assert first.cancelled == []


def test_what_another_machine_was_at_is_cancelled_and_launched_here(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process of a machine of another name, which may be this one's former name."""
    monkeypatch.setattr("launcher.runs.signs.age", lambda _: None)
    sweep, told, fake = sweep_of("model=tiny", "loss_type=sft"), list[str](), FakeScheduler()
    launch(sweep, store, fake)
    (file,) = store.root.glob("sweeps/*/jobs/*/jobs.json")
    content = json.loads(file.read_text())
    content["jobs"][0] |= {"executor": "local", "host": "former", "job_id": "7", "process_start": 7}
    file.write_text(json.dumps(content))
    (run,) = runs_of(sweep, store)
    claim(run.attempts()[0], Started(host="former"))
    states = states_of([run], fake)
    assert (states[0].status, states[0].reason) == (Status.RUNNING, "was started on former; ask there")
    assert cancel(states, fake, note=told.append) == states
    assert told == [f"the jobs of 1 run are not shown here, {MAY}"]
    assert states_of([run], fake)[0].status is Status.CANCELLED
    assert actions(decide(sweep, store, fake)) == [Action.SUBMIT]


# ------------------------------------------------------------------------------------------------ one slurmdbd


def test_of_clusters_that_know_each_other_each_has_its_own_table(store: Store) -> None:
    """No job waits for one of the other; what is in flight there stays so, and new runs go where this launch says."""
    fake = FakeScheduler(cluster="first", others=["second"])
    launch(sweep_of(*GRID), store, fake)
    more = sweep_of(*GRID, "beta=0.1,0.7", "cluster.clusters=second")
    assert actions(decide(sweep_of(*GRID, "cluster.clusters=second"), store, fake)) == [Action.SKIP] * 2
    launch(more, store, fake)
    assert [fake.jobs[table.name][0].cluster for table in fake.tables] == ["first", "second"]
    for batch in fake.submitted:
        assert batch.after is not None
        assert batch.after.cluster == fake.jobs[batch.name][0].cluster


def test_one_launch_may_hand_over_to_both(store: Store) -> None:
    """As when `resume` takes up runs that were launched to one and to the other: each has its table's job."""
    fake, sweep = FakeScheduler(cluster="first", others=["second"]), sweep_of(*GRID, "beta=0.1,0.7")
    runs = [
        replace(run, config=replace(run.config, cluster=replace(run.config.cluster, clusters=name)))
        for run, name in zip(sweep.runs, (None, "second", None, "second"), strict=True)
    ]
    launch(replace(sweep, runs=tuple(runs)), store, fake)
    assert [fake.jobs[table.name][0].cluster for table in fake.tables] == ["first", "second"]
    assert len({table.folder for table in fake.tables}) == 2
    assert all(batch.after and batch.after.cluster == fake.jobs[batch.name][0].cluster for batch in fake.submitted)


def test_no_job_evaluates_behind_one_of_a_cluster_that_can_be_reached(store: Store) -> None:
    """Unless the launch goes to that cluster as well."""
    fake = FakeScheduler(cluster="first", others=["second"])
    options = ("model=tiny", "cluster=slurm", "cluster.gpus_per_node=2", "trainer.batch_size=64")
    launch(sweep_of(*options, "cluster.clusters=second"), store, fake)
    more = (*options, "evaluation=command", "evaluation.command.argv=[score,'{model}']")
    assert actions(decide(sweep_of(*more), store, fake)) == [Action.SKIP]
    assert actions(decide(sweep_of(*more, "cluster.clusters=second"), store, fake)) == [Action.EVALUATE]


def test_what_was_handed_over_to_a_cluster_that_can_be_reached_is_found_there(
    store: Store, clusters: tuple[FakeScheduler, FakeScheduler]
) -> None:
    """By whichever login node the launcher that died was started."""
    first, sweep = clusters[0], sweep_of(*GRID)
    first.dies_after = 2
    with pytest.raises(KeyboardInterrupt):
        launch(sweep, store, first)
    second = FakeScheduler(cluster="second", others=["first"])
    second.jobs, second.phases = first.jobs, first.phases
    adopt(runs_of(sweep, store), second)
    assert actions(decide(sweep, store, second)) == [Action.SKIP, Action.SUBMIT]  # it had not come to the other


def test_a_cluster_that_is_no_more_is_refused_before_anything_is_submitted(store: Store) -> None:
    """As when a launch of long ago named it, and `resume` takes up its runs: no attempt is left behind."""
    fake, sweep = FakeScheduler(cluster="first"), sweep_of(*GRID, "cluster.clusters=gone")
    with pytest.raises(ConfigError, match=r"^cluster\.clusters=gone"):
        launch(sweep, store, fake)
    assert [attempt for run in runs_of(sweep, store) for attempt in run.attempts()] == []


def test_a_node_is_left_out_on_its_own_cluster_alone(store: Store) -> None:
    """On the other one its name is another's, or nobody's, and sbatch would refuse it."""
    fake = FakeScheduler(cluster="first", others=["second"])
    options = ("model=tiny", "loss_type=sft", "cluster=slurm")
    launch(sweep_of(*options), store, fake)
    fake.end("1", Phase.FAILED, "NODE_FAIL n1", Cause.NODE_FAILED, "n1")
    (here,) = decide(sweep_of(*options), store, fake)
    (there,) = decide(sweep_of(*options, "cluster.clusters=second"), store, fake)
    assert (here.run.config.cluster.exclude, there.run.config.cluster.exclude) == ("n1", None)
