"""launcher.store.file_system and locks where the file system lacks hard links, exclusive renames or flock."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
from conftest import clean_environment
from waiting import LONGEST_WAIT, eventually

from launcher.cluster import doctor
from launcher.config import Cluster
from launcher.errors import StoreError, UsageError
from launcher.store import locks
from launcher.store.files import write_once
from launcher.store.locks import turn
from launcher.store.output_folder import Store
from launcher.worker import probe

SHIM = Path(__file__).parent / "shims" / "lacking.c"
NUMBERS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
WRITERS = """
import multiprocessing, sys
from pathlib import Path
from launcher.store.files import write_once

def write(number):
    return [write_once(Path(f"fact-{turn}.json"), {"by": number, "text": "x" * 5000}) for turn in range(20)]

with multiprocessing.get_context("fork").Pool(4) as pool:
    firsts = pool.map(write, range(4), 1)
assert [sum(turn) for turn in zip(*firsts)] == [1] * 20, firsts
"""
COUNTERS = """
import multiprocessing, time
from pathlib import Path
from launcher.store import locks

def count(number):
    for _ in range(10):
        with locks.turn(Path("count.lock")):
            before = int(Path("count").read_text())
            time.sleep(0.002)
            Path("count").write_text(str(before + 1))

Path("count").write_text("0")
with multiprocessing.get_context("fork").Pool(3) as pool:
    pool.map(count, range(3), 1)
assert Path("count").read_text() == "30", Path("count").read_text()
"""
BUILDERS = """
import multiprocessing, time
from pathlib import Path
from launcher.store.files import building

def build(number):
    with building(Path("entry")) as empty:
        if empty is not None:
            time.sleep(0.5)
            (empty / "built").write_text("whole")
    return empty is not None

with multiprocessing.get_context("fork").Pool(3) as pool:
    assert sum(pool.map(build, range(3), 1)) == 1
assert Path("entry/built").read_text() == "whole"
"""
HOLDER = """
import socket, sys, time
from pathlib import Path
socket.gethostname = lambda: sys.argv[1]
from launcher.store import locks
locks.LEASE_SECONDS = 2.0
with locks.turn(Path("a.lock")):
    Path("held").touch()
    time.sleep(float(sys.argv[2]))
Path("released").touch()
"""
WAITER = """
from pathlib import Path
from launcher.store import locks
locks.LEASE_SECONDS = 2.0
locks.SILENT_SECONDS = 0.5
with locks.turn(Path("a.lock")):
    print("released" if Path("released").exists() else "dead")
"""

Python = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Loaded before the C library, it takes from a process what LACKS names."""
    gcc = shutil.which("gcc")
    if gcc is None:
        pytest.skip("there is no gcc to build the file system that lacks things")
    built = tmp_path_factory.mktemp("shim") / "lacking.so"
    subprocess.run([gcc, "-O1", "-shared", "-fPIC", SHIM, "-o", built], check=True)
    return built


@pytest.fixture
def python(shim: Path, tmp_path: Path) -> Python:
    """Start a program on a file system that lacks these."""

    def start(program: str, *arguments: str, lacks: str, number: int = errno.EPERM) -> subprocess.Popen[str]:
        lacking = {"LD_PRELOAD": str(shim), "LACKS": lacks, "LACKS_ERRNO": str(number)}
        return subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            cwd=tmp_path,
            env=clean_environment(**lacking),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def outcome(process: subprocess.Popen[str]) -> tuple[str, str]:
    said = process.communicate(timeout=LONGEST_WAIT)
    assert process.returncode == 0, said[1]
    return said


@pytest.mark.parametrize("lacks", ["link", "link renameat2"])
def test_a_fact_is_written_once_without_hard_links(lacks: str, python: Python, tmp_path: Path) -> None:
    """Of four writers one is first, the file is whole, and nothing is left beside it but a lock."""
    outcome(python(WRITERS, lacks=lacks))
    facts = sorted(tmp_path.glob("fact-*.json"))
    assert len(facts) == 20
    assert all(len(json.loads(fact.read_text())["text"]) == 5000 for fact in facts)
    assert {path.name for path in tmp_path.iterdir()} - {fact.name for fact in facts} <= {".names.lock"}


def test_a_fact_is_written_once_with_neither_links_nor_locks(python: Python) -> None:
    """Nor a rename that replaces nothing."""
    outcome(python(WRITERS, lacks="link renameat2 flock", number=errno.EOPNOTSUPP))


@pytest.mark.parametrize("number", NUMBERS, ids=errno.errorcode.get)
def test_one_at_a_time_without_flock(number: int, python: Python, tmp_path: Path) -> None:
    """Whatever the system says of it, which is said once; nothing is left."""
    _, said = outcome(python(COUNTERS, lacks="flock", number=number))
    assert f"this file system has no locks (flock: {os.strerror(number)})" in said
    assert not list(tmp_path.glob("*.lease*"))


def test_an_entry_of_the_cache_is_built_once_without_flock(python: Python) -> None:
    """The others wait, and use it."""
    outcome(python(BUILDERS, lacks="flock", number=errno.ENOLCK))


@pytest.mark.parametrize("host", ["here", "elsewhere"])
def test_a_dead_holders_lock_ends(host: str, python: Python, tmp_path: Path) -> None:
    """At once where it has died on this machine; after it was not renewed for a while where that is not seen."""
    import socket

    name = socket.gethostname() if host == "here" else host
    holder = python(HOLDER, name, "600", lacks="flock", number=errno.ENOLCK)
    assert eventually((tmp_path / "held").exists)
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    answer, said = outcome(python(WAITER, lacks="flock", number=errno.ENOLCK))
    assert answer == "dead\n"
    if host == "elsewhere":
        assert f"on {name} since" in said
        assert "If it has died, its lock ends within 2 s" in said


def test_a_living_holder_keeps_its_lock(python: Python, tmp_path: Path) -> None:
    """For longer than a dead one's lasts, also on another machine."""
    holder = python(HOLDER, "elsewhere", "6", lacks="flock", number=errno.ENOLCK)
    assert eventually((tmp_path / "held").exists)
    answer, _ = outcome(python(WAITER, lacks="flock", number=errno.ENOLCK))
    assert answer == "released\n"
    outcome(holder)


@pytest.mark.parametrize("lacks", ["flock", ""])
def test_a_holder_that_stands_still_loses_its_lease(python: Python, tmp_path: Path, lacks: str) -> None:
    """Also to somebody who has flock, and looks again and again; the line says how long it lasts."""
    holder = python(HOLDER, "elsewhere", "600", lacks="flock", number=errno.ENOLCK)
    assert eventually((tmp_path / "held").exists)
    holder.send_signal(signal.SIGSTOP)
    try:
        answer, said = outcome(python(WAITER, lacks=lacks, number=errno.ENOLCK))
    finally:
        holder.kill()
        holder.communicate()
    assert answer == "dead\n"
    assert "If it has died, its lock ends within 2 s" in said


def test_leases_may_be_asked_for(python: Python, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where flock holds on one machine only, and does not say so."""
    monkeypatch.setenv("PREFSWEEP_LOCKS", "lease")
    holder = python(HOLDER, "elsewhere", "1", lacks="")
    assert eventually((tmp_path / "held").exists)
    assert (tmp_path / "a.lock.lease").exists() or holder.poll() == 0
    assert outcome(python(WAITER, lacks=""))[0] == "released\n"
    outcome(holder)


def test_two_launches_without_links_and_flock_submit_each_run_once(shim: Path, tmp_path: Path) -> None:
    """The whole way, with the demo's smallest models: each is trained by one attempt, and both launches end well."""
    lacking = {"LD_PRELOAD": str(shim), "LACKS": "link flock", "LACKS_ERRNO": str(errno.EOPNOTSUPP)}
    lacking["LACKS_BELOW"] = str(tmp_path)
    command = [sys.executable, "-m", "launcher", "-m", "+sweeps=smoke", "loss_type=sigmoid", "evaluation=none",
               "cluster=local", "hub=off"]  # fmt: skip
    both = [
        subprocess.Popen(
            command,
            cwd=tmp_path,
            env=clean_environment(**lacking),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=LONGEST_WAIT)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert len(list(tmp_path.glob("outputs/runs/*/result.json"))) == 2
    assert [path.name for path in tmp_path.glob("outputs/runs/*/attempt-*.json")] == ["attempt-001.json"] * 2
    assert all("this file system has no locks" in each for each in said)


# ------------------------------------------------------------------------------------------------ doctor

LACKING = [
    ("", "hard links and locks work"),
    ("link", "no hard links: a rename that refuses to replace keeps files from being written twice"),
    ("link renameat2", "no hard links: a lock keeps files from being written twice"),
    ("flock", "no flock: files that their holders renew do instead, and are free 120 s after a holder's death"),
]


@pytest.mark.parametrize(("lacks", "said"), LACKING)
def test_doctor_says_what_the_file_system_lacks(lacks: str, said: str, shim: Path, tmp_path: Path) -> None:
    """And what is done instead; it leaves nothing."""
    lacking = {"LD_PRELOAD": str(shim), "LACKS": lacks, "LACKS_ERRNO": str(errno.EOPNOTSUPP)}
    done = subprocess.run(
        [sys.executable, "-m", "launcher", "doctor", "--output-dir", tmp_path],
        env=clean_environment(**lacking),
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.search(rf"^its file system +{re.escape(said)} *$", done.stdout, re.MULTILINE), done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_a_node_does_not_see_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a job that looks whether the one of the login node holds there; and whether the Hub answers."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    found: list[dict[str, str]] = []
    for see in (True, False):
        batch = doctor.write_question(Cluster(), tmp_path)
        with doctor.locked_here(batch) if see else nullcontext():
            probe.main(batch.folder)
        found.append(dict(doctor.read_answer(batch, ended_well=True)))
    (name,) = (name for name in found[0] if name.startswith("its file system on "))
    assert found[0][name] == "hard links and locks work"
    assert found[1][name].startswith("a lock that is held here does NOT hold there: export PREFSWEEP_LOCKS=lease")
    (hub,) = (said for name, said in found[0].items() if name.startswith("Hub from "))
    assert re.fullmatch(r"http://127.0.0.1:9 does not answer \(.*refused\): `fetch` on this machine .*", hub)


@pytest.mark.parametrize("wanted", ["LEASE", "leases", "flock"])
def test_a_wish_for_locks_that_nobody_knows_is_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    """It would leave flock, and two launches at once where that holds on one machine only; none is no wish."""
    monkeypatch.setenv("PREFSWEEP_LOCKS", wanted)
    with pytest.raises(UsageError, match=f"PREFSWEEP_LOCKS={wanted}: must be lease, or not set"), store.submitting():
        pass
    monkeypatch.setenv("PREFSWEEP_LOCKS", "")
    with store.submitting():
        pass


def test_who_lost_a_lease_writes_nothing_more(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever stood still for longer than it lasts finds another's turn before the next file, and so before sbatch."""
    monkeypatch.setenv("PREFSWEEP_LOCKS", "lease")
    with pytest.raises(StoreError, match=r"another has taken its turn .* launch again"), store.submitting():
        write_once(store.root / "one.json", {})
        (claim,) = store.root.rglob("*.lease")
        claim.write_text("filelock/2\ntoken=anothers\n")
        write_once(store.root / "two.json", {})
    assert [path.name for path in store.root.glob("*.json")] == ["one.json"]


def test_where_flock_fails_for_one_of_two_they_still_see_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who holds it by flock says so, and is not passed by; a lease is waited for by who has flock."""
    lock = tmp_path / "a.lock"

    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    with turn(lock), monkeypatch.context() as patch:
        other = locks.Lock(lock)
        patch.setattr(other._held, "acquire", fails)
        with pytest.raises(
            StoreError, match=rf"flock fails here, and pid {os.getpid()} on .* by flock, may be at work"
        ):
            other.acquire(0)
    lease = locks._lease(lock)
    lease.acquire()
    with pytest.raises(locks.Timeout):
        locks.Lock(lock).acquire(0.1)
    lease.release()
    locks.Lock(lock).acquire(0.1)
