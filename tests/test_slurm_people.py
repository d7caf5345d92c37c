"""Two people who launch into one folder on a real SLURM: each sees all, ends their own jobs, and doubles none."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from people import People, Person, people_fixture, unlike_umask  # noqa: F401 - the fixture people
from slurm_cluster import QUICK, DevCluster, needs_slurm, running_cluster
from slurm_site import TINY, Site, checkout
from test_slurm_cluster import wrapped
from waiting import eventually
from worker_fixtures import write_pairs

pytestmark = needs_slurm
GROUP = 0o002


@dataclass(frozen=True)
class Desk(Site):
    """A site as a person sees it."""

    person: Person | None = None

    @property
    def environment(self) -> dict[str, str]:
        assert self.person
        return self.person.environment(super().environment)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        assert self.person
        return subprocess.Popen(
            [*self.person.command, str(self.person.python), "-m", "launcher", *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def of(self, person: Person, umask: int = GROUP) -> Desk:
        """The same folder, before which somebody else sits."""
        return replace(self, person=person.with_umask(umask))

    def owners(self, sweep: str) -> dict[str, str]:
        """By job id, whose the jobs are that SLURM has for the sweep's runs, as root sees them."""
        lines = self.cluster.slurm("squeue", "-h", "-r", "-t", "all", "-o", "%i %u %j").splitlines()
        found = (line.split() for line in lines)
        return {job: user for job, user, name in found if name.startswith(f"{sweep}.") and ".prepare." not in name}


@pytest.fixture(scope="module")
def cluster(people: People) -> Iterator[DevCluster]:  # noqa: ARG001 - for the order
    """Two nodes, which show all jobs to all, without accounts; gone before the people are."""
    with running_cluster(*QUICK, "--nodes", "2", "--no-accounting", "--conf", "MinJobAge=3600") as made:
        yield made


@pytest.fixture(scope="module")
def code(people: People) -> Path:
    return checkout(people.folder / "code")


def desk(people: People, cluster: DevCluster, code: Path, name: str, **variables: str) -> Desk:
    """Ana's, in a folder of the group."""
    folder = people.shared(name)
    write_pairs(folder / "pairs")
    return Desk(cluster, folder, code, tuple(variables.items()), people.ana.with_umask(GROUP))


@contextmanager
def private_jobs(cluster: DevCluster) -> Iterator[None]:
    """Within, SLURM shows a job to its owner alone, as many sites have it."""
    file = cluster.root / "etc" / "slurm.conf"
    before = file.read_text()
    try:
        file.write_text(before + "\nPrivateData=jobs\n")
        cluster.slurm("scontrol", "reconfigure")
        yield
    finally:
        file.write_text(before)
        cluster.slurm("scontrol", "reconfigure")


def test_two_people_share_a_sweep(people: People, cluster: DevCluster, code: Path) -> None:
    """Ben sees Ana's jobs, adds a beta, has a job of his own that is his, and cannot end hers; nothing is doubled."""
    ana = desk(people, cluster, code, "shared", GATE=str(people.folder / "shared" / "gate"))
    ben = ana.of(people.ben)
    ana.launch(*TINY, "beta=0.1,0.2", "sweep=s")
    ben.wait("s", "RUNNING", 2)
    assert "2 skip, 1 submit" in ben.launch(*TINY, "beta=0.1,0.2,0.3", "sweep=s")
    owners = ana.owners("s")
    assert sorted(owners.values()) == sorted([people.ana.name] * 2 + [people.ben.name])
    refused = ben.launch("cancel", "s", ana.run("0.1").name, code=1)
    assert f"is {people.ana.name}'s to cancel (Access/permission denied)" in refused, refused
    assert "Traceback" not in refused
    assert not list(ana.run("0.1").glob("attempts/*/cancel.json"))
    ben.launch("cancel", "s", ben.run("0.3").name)
    ben.wait("s", "CANCELLED", 1)
    (ana.folder / "gate").touch()
    ana.wait("s", "TRAINED", 2)
    assert "1 run" in ben.launch("resume", "s")
    ana.wait("s", "TRAINED", 3)
    ben.launch("collect", "s")
    ana.launch("collect", "s")
    assert len((ana.folder / "outputs/sweeps/s/results.jsonl").read_text().splitlines()) >= 3
    assert unlike_umask(ana.folder / "outputs", GROUP) == []


def test_a_cancel_that_is_denied_changes_nothing(people: People, cluster: DevCluster, code: Path) -> None:
    """Neither a run that works, which would see the wish at its next step, nor one that waits, whatever the umask."""
    ana = desk(people, cluster, code, "denied", GATE=str(people.folder / "denied" / "gate"))
    seen, asked = ana.folder / "seen", ana.folder / "asked"
    path = wrapped(ana, "scancel", f'ls outputs/runs/*/attempts/*/cancel.json >{seen}; touch {asked}; exec $REAL "$@"')
    ben = replace(ana.of(people.ben, 0o022), variables=(("PATH", path),))
    ana.launch(*TINY, "beta=0.1", "sweep=denied")
    ana.wait("denied", "RUNNING", 1)
    ana.launch(*TINY, "beta=0.2", "sweep=denied", "+cluster.extra.hold=true")
    assert "of those asked for, 2 were not reached, and in flight as before" in ben.launch("cancel", "denied", code=1)
    assert (asked.exists(), seen.read_text()) == (True, "")
    assert ana.counts("denied") == {"RUNNING": 1, "PENDING": 1}
    cluster.slurm("scontrol", "release", cluster.slurm("squeue", "-h", "-t", "PENDING", "-o", "%i"))
    (ana.folder / "gate").touch()
    ana.wait("denied", "TRAINED", 2)
    assert unlike_umask(ana.folder / "outputs", GROUP) == []


def test_hidden_jobs_are_anothers(people: People, cluster: DevCluster, code: Path) -> None:
    """Where SLURM shows Ana's jobs to her alone, they are in flight for Ben, and hers; he does not submit them too."""
    ana = desk(people, cluster, code, "hidden", GATE=str(people.folder / "hidden" / "gate"))
    ben = ana.of(people.ben)
    with private_jobs(cluster):
        ana.launch(*TINY, "beta=0.1", "sweep=h")
        (run,) = ben.status("h")
        assert run["status"] in {"RUNNING", "PENDING"}
        assert f"is {people.ana.name}'s, and shown to nobody else here" in str(run["reason"])
        assert "1 skip" in ben.launch(*TINY, "beta=0.1", "sweep=h")
        refused = ben.launch("cancel", "h", code=1)
        assert f"is {people.ana.name}'s to cancel" in refused, refused
        assert ben.status("h")[0]["status"] in {"RUNNING", "PENDING"}
        assert set(ana.owners("h").values()) == {people.ana.name}
        (ana.folder / "gate").touch()
        ana.wait("h", "TRAINED", 1)
        assert ben.counts("h") == ana.counts("h")
    assert len(ana.owners("h")) == 1


def forget_jobs(folder: Path) -> None:
    """What a launcher leaves that dies after sbatch has answered, and before it has recorded the answer."""
    for record in folder.glob("outputs/sweeps/*/jobs/*/jobs.json"):
        record.unlink()


def test_who_dies_while_submitting_is_taken_up_by_the_other(people: People, cluster: DevCluster, code: Path) -> None:
    """Ben's launch finds the jobs of Ana's dead launcher, and records them as hers."""
    ana = desk(people, cluster, code, "dead", GATE=str(people.folder / "dead" / "gate"))
    ben = ana.of(people.ben)
    ana.launch(*TINY, "beta=0.1,0.2", "sweep=d")
    forget_jobs(ana.folder)
    assert "2 skip" in ben.launch(*TINY, "beta=0.1,0.2", "sweep=d")
    records = [json.loads(path.read_text()) for path in ana.folder.glob("outputs/sweeps/d/jobs/*/jobs.json")]
    assert {job["user"] for record in records for job in record["jobs"]} == {people.ana.name}
    (ana.folder / "gate").touch()
    ben.wait("d", "TRAINED", 2)
    assert len(ana.owners("d")) == 2


def test_hidden_jobs_of_a_dead_launcher_are_submitted_once(people: People, cluster: DevCluster, code: Path) -> None:
    """Nobody but Ana can find them: Ben's launch says so, and hers takes them up."""
    ana = desk(people, cluster, code, "unseen", GATE=str(people.folder / "unseen" / "gate"))
    ben = ana.of(people.ben)
    with private_jobs(cluster):
        ana.launch(*TINY, "beta=0.1", "sweep=u")
        forget_jobs(ana.folder)
        refused = ben.launch(*TINY, "beta=0.1", "sweep=u", code=1)
        assert f"ask {people.ana.name} to launch the sweep again" in refused
        assert "1 skip" in ana.launch(*TINY, "beta=0.1", "sweep=u")
        (ana.folder / "gate").touch()
        ana.wait("u", "TRAINED", 1)
    assert len(ana.owners("u")) == 1


def test_a_folder_that_is_shut(people: People, cluster: DevCluster, code: Path) -> None:
    """Ben's launch into Ana's folder under umask 022 is refused before anything is submitted, with whose it is."""
    ana = desk(people, cluster, code, "shut").of(people.ana, 0o022)
    ben = ana.of(people.ben)
    ana.launch(*TINY, "beta=0.1", "sweep=w")
    ana.wait("w", "TRAINED", 1)
    assert unlike_umask(ana.folder / "outputs", 0o022) == []
    assert ben.counts("w") == {"TRAINED": 1}
    before = sorted(ana.folder.rglob("*"))
    refused = ben.launch(*TINY, "beta=0.1,0.2", "sweep=w", code=2)
    assert f"ask {people.ana.name}, the owner of {ana.folder / 'outputs'}, to share it with your group" in refused
    assert sorted(ana.folder.rglob("*")) == before
    assert eventually(lambda: set(ana.owners("w").values()) == {people.ana.name})
