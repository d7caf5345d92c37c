"""The disk that a folder lies on, bytes in words, and a disk that takes nothing: what becomes of a run, and is said."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Launch
from ranks import new_attempt, new_job
from safetensors.torch import load_file
from worker_fixtures import make_config, write_pairs

from launcher.cluster.job_state import JobState, Phase
from launcher.machine import disk
from launcher.runs.signs import looked_into
from launcher.runs.status import RunFacts, Status, status_of
from launcher.store.attempts import Attempts
from launcher.store.facts import Job
from launcher.store.files import append_line, building, read_fact, whole_or_gone, write_once
from launcher.store.output_folder import Store
from launcher.store.run_folder import RunDir
from launcher.worker import job, outcome
from launcher.worker.attempt import make_attempt
from launcher.worker.interruption import StopRequest
from launcher.worker.outcome import Kind, Outcome, reason_of, settle


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 B"),
        (540, "540 B"),
        (22_400, "22.4 kB"),
        (1e6, "1 MB"),
        (869.4e9, "869 GB"),
        (999.9e9, "1000 GB"),
        (1.7364e12, "1.74 TB"),
    ],
)
def test_bytes_in_words(size: float, words: str) -> None:
    """Three digits, in powers of ten as disks are sold."""
    assert disk.in_words(size) == words


def test_a_folder_that_is_not_there_yet_is_on_its_parents_disk(tmp_path: Path) -> None:
    """What an output folder will have, before it is made."""
    assert disk.existing(tmp_path / "a" / "b") == tmp_path
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    assert disk.free_bytes(tmp_path / "a" / "b") == pytest.approx(free, rel=0.1)


# ------------------------------------------------------------------------------------------------ what a disk refuses


MOUNT, UNMOUNT = "/bin/mount", "/bin/umount"


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A disk of its own at a folder; the test is skipped where we may not mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run([MOUNT, "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("mounting needs root")
    try:
        yield
    finally:
        subprocess.run([UNMOUNT, "--lazy", folder], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run([MOUNT, "-o", f"remount,{options}", folder], check=True)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk of {} is full: "),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "your quota on the disk of {} is used up"),
        (OSError(errno.EROFS, "Read-only file system", "{}/a/b"), "{} is read-only on "),
        (OSError(errno.EIO, "Input/output error"), "the disk of {} fails on "),
        (OSError(errno.ESTALE, "Stale file handle"), "{} is gone from "),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "the disk of {} is full: "),  # safetensors
        (RuntimeError("PytorchStreamWriter failed writing file data/0"), None),  # the disk has room: it is not that
        (PermissionError(errno.EACCES, "Permission denied", "/x"), None),
        (ValueError("x"), None),
    ],
)
def test_a_refusal_names_the_folder_and_the_remedy(tmp_path: Path, error: Exception, said: str | None) -> None:
    """Also where a library has put the system's words into an error of its own; anything else stays as it is."""
    if isinstance(error, OSError) and isinstance(error.filename, str):
        error.filename = error.filename.format(tmp_path)
    reason = reason_of(error, tmp_path)
    if said is None:
        assert reason.startswith(type(error).__name__)
    else:
        assert reason.startswith(said.format(tmp_path))
        assert "launch again" in reason


def test_a_full_disk_is_told_with_what_is_free(tmp_path: Path) -> None:
    """As the system counts, whatever torch says of it; a fact that did not fit leaves nothing, and names its file."""
    folder = tmp_path / "disk"
    with mounted(folder, "size=64k"):
        (folder / "fill").write_bytes(b"x" * 65536)
        full = f"the disk of {folder} is full: 0 B free of 65.5 kB; free some, then launch again"
        assert reason_of(RuntimeError("PytorchStreamWriter failed writing file data/0"), folder) == full
        for write in (write_once, append_line):
            with pytest.raises(OSError, match=r"No space left on device") as raised:
                write(folder / "fact.json", {"a": "b" * 5000})
            assert raised.value.filename == str(folder / "fact.json")
        assert {path.name for path in folder.iterdir()} <= {"fill", "fact.json"}


@pytest.mark.parametrize("room", [100, 300, 700, 1500])  # kB
@pytest.mark.parametrize("made", [whole_or_gone, building])
def test_a_disk_that_is_filled_by_torch_is_asked_before_there_is_room_again(
    tmp_path: Path, made: Callable[[Path], Any], room: int
) -> None:
    """torch says "unexpected pos 576 vs 534", and what was half written goes."""
    folder = tmp_path / "disk"
    with mounted(folder, f"size={room}k"):
        with pytest.raises(OSError, match="No space left on device") as raised, made(folder / "new") as scratch:
            made_in = scratch or folder / "new"
            made_in.mkdir(exist_ok=True)
            torch.save(torch.zeros(100_000), made_in / "first.pt") if room > 500 else None
            torch.save(torch.zeros(500_000), made_in / "optimizer.pt")
        assert not (folder / "new").exists()
        assert reason_of(raised.value, tmp_path).startswith(f"the disk of {folder} is full: ")


def test_torch_does_not_say_that_a_quota_is_used_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever writes next is told; where nobody is refused, it was something else, and torch's words stay."""
    said = "[enforce fail at inline_container.cc:672] . unexpected pos 139840 vs 139732"
    with pytest.raises(RuntimeError, match="unexpected pos") as kept, whole_or_gone(tmp_path / "new"):
        raise RuntimeError(said)
    assert reason_of(kept.value, tmp_path) == f"RuntimeError: {said}"

    def refuse(**_: object) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(OSError, match="Disk quota exceeded") as raised, whole_or_gone(tmp_path / "new"):
        raise RuntimeError(said)
    assert reason_of(raised.value).startswith(f"your quota on the disk of {tmp_path} is used up; ")
    with pytest.raises(ValueError, match="x"), whole_or_gone(tmp_path / "new"):
        raise ValueError("x")


def test_a_disk_without_room_for_another_file_says_so(tmp_path: Path) -> None:
    """There are bytes left: what is to be removed are files."""
    folder = tmp_path / "disk"
    with mounted(folder, "size=1m,nr_inodes=8"):
        with pytest.raises(OSError, match="No space left on device") as raised:
            for number in range(8):
                (folder / str(number)).touch()
        said = f"the disk of {folder} is full: it can hold no more than its 8 files; remove some, then launch again"
        assert reason_of(raised.value, folder) == said


def test_a_disk_that_refuses_and_has_room_may_have_a_quota(tmp_path: Path) -> None:
    """Where a project's quota is used up, XFS and Lustre say that the disk is full."""
    folder = tmp_path / "disk"
    with mounted(folder, "size=1m"):
        full = OSError(errno.ENOSPC, "No space left on device", str(folder))
        assert "1.05 MB free of 1.05 MB, so a quota of its project may be used up; free some" in reason_of(full)


def test_what_cannot_be_recorded_ends_the_process_with_its_reason(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In the last line of the log; the job has failed, so that nobody waits for what it was to make."""
    attempt, codes = new_attempt(make_config(tmp_path / "pairs"), store.run("r")), []
    attempt.path.mkdir(parents=True)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(attempt.failure_file))

    monkeypatch.setattr(outcome, "write_once", refuse)
    monkeypatch.setattr(os, "_exit", codes.append)
    settle(Outcome(Kind.FAILED, "ValueError: x"), attempt)
    assert codes == [1]
    last = capfd.readouterr().err.splitlines()[-1]
    assert last.startswith(f"prefsweep: ValueError: x; the disk of {attempt.path} is full: ")


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        (
            "prefsweep: ValueError: x; the disk of /o is full: 0 B free",
            "exit code 1: ValueError: x; the disk of /o is full",
        ),
        ("step 3/6 loss 0.69", "exit code 1: last printed: step 3/6 loss 0.69"),
    ],
)
def test_status_shows_what_a_job_could_not_record(store: Store, tmp_path: Path, last: str, reason: str) -> None:
    """The last line of its log: a complaint of ours is the reason, any other tells where it was cut off."""
    attempt = new_attempt(make_config(tmp_path / "pairs"), store.run("r"))
    attempt.path.mkdir(parents=True)
    attempt.log_file().write_text(f"step 2/6 loss 0.69\n{last}\n")
    write_once(attempt.job_file, Job("7", "slurm"))
    job, facts = (
        JobState(Phase.FAILED, "exit code 1"),
        RunFacts(attempts=1, job=Job("7", "slurm"), job_id="7", started=True),
    )
    status, said = status_of(looked_into(Attempts.of(attempt.run).acting, facts, job), job)
    assert (status, str(said).removesuffix(": 0 B free")) == (Status.FAILED, reason)


@pytest.mark.parametrize(
    ("one_save", "within"),
    [(350, "outputs/runs/tight/checkpoints/001.0001"), (700, "outputs")],  # kB: the optimizer's state, the weights
)
def test_a_run_goes_on_when_the_disk_has_room_again(tmp_path: Path, one_save: int, within: str) -> None:
    """Its save did not fit: it says so in its folder, keeps the checkpoint before, and ends with the same weights."""
    config = make_config(write_pairs(tmp_path / "pairs"), checkpoint__every=2, trainer__max_steps=6)
    folder = tmp_path / "disk"
    with mounted(folder, "size=40m"):
        store = Store(folder / "outputs")
        roomy, tight = store.run("roomy"), store.run("tight")
        assert make_attempt(new_attempt(config, roomy), store, StopRequest()).kind is Kind.DONE
        used = os.statvfs(folder)
        remount(folder, f"size={(used.f_blocks - used.f_bfree) * used.f_frsize // 1024 + one_save}k")
        first = new_attempt(config, tight)
        ended = make_attempt(first, store, StopRequest())
        settle(ended, first)
        assert str((read_fact(first.failure_file) or {})["reason"]).startswith(
            f"the disk of {folder / within} is full: "
        )
        remount(folder, "size=40m")
        assert make_attempt(new_attempt(config, tight), store, StopRequest()).kind is Kind.DONE
        assert weights(tight).keys() == weights(roomy).keys()
        assert all((weights(tight)[name] == value).all() for name, value in weights(roomy).items())


def weights(run: RunDir) -> dict[str, object]:
    return dict(load_file(run.model / "model.safetensors"))


def test_a_cache_that_is_read_only_on_the_node_is_a_failure_of_its_runs(tmp_path: Path, store: Store) -> None:
    """Each run of the job says so: it was not lost."""
    config = make_config(tmp_path / "pairs")
    attempts = [new_attempt(config, store.run(name)) for name in ("r", "s")]
    folder = new_job(tmp_path / "job", *attempts)
    listed = json.loads((folder / "job.json").read_text())
    (folder / "job.json").write_text(json.dumps({**listed, "slots": 1}))
    with mounted(store.root / "cache", "ro"), pytest.raises(OSError, match="Read-only"):
        job.work(folder)
    for attempt in attempts:
        reason = str((read_fact(attempt.failure_file) or {})["reason"])
        assert reason.startswith(f"{store.root / 'cache'} is read-only on ")


def test_a_dry_run_needs_no_folder_that_can_be_written(launch: Launch, tmp_path: Path) -> None:
    """It writes nothing; that a launch could not is said beside the plan."""
    with mounted(tmp_path / "disk", "ro"):
        output = tmp_path / "disk" / "outputs"
        done = launch("-m", "model=tiny", "beta=0.1,0.2", f"output_dir={output}", "dry_run=true")
        assert done.returncode == 0, done.stderr
        assert "2 submit" in done.stdout
        assert f"{tmp_path / 'disk'} cannot be written; choose another folder" in done.stderr
        assert launch("-m", "model=tiny", f"output_dir={output}").returncode == 2
