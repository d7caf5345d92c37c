"""A copied output folder: the jobs of the original are not its own, whatever they do; a renamed one keeps its jobs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from fakes import FakeScheduler
from test_unreadable import WORDS, fake  # noqa: F401 - a fixture

from launcher.cli import main
from launcher.store.output_folder import Store


@pytest.fixture
def copy(fake: FakeScheduler, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811, ARG001
    """A copy of a sweep of four runs, whose jobs are there."""
    monkeypatch.chdir(tmp_path)
    assert main.main(WORDS) == 0
    return Path(shutil.copytree(store.root, tmp_path / "copy"))


def reasons(folder: Path, capsys: pytest.CaptureFixture[str]) -> list[tuple[str, str]]:
    capsys.readouterr()
    main.main(["status", "s", "--json", "--output-dir", str(folder)])
    return [(run["status"], run["reason"]) for run in json.loads(capsys.readouterr().out)["runs"]]


@pytest.mark.parametrize("ended", [False, True])
def test_its_jobs_are_those_of_the_original(
    copy: Path,
    store: Store,
    fake: FakeScheduler,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    *,
    ended: bool,
) -> None:
    """Nothing is learnt of nodes, nothing is cancelled, and a launch trains the copy's runs on their own."""
    for job in fake.phases if ended else ():
        fake.end(job, reason="NODE_FAIL")
    assert set(reasons(copy, capsys)) == {("NEW", f"its job is that of the original of this copy, {store.root}")}
    main.main(["status", "s", "--output-dir", str(copy)])
    assert "ended there before they began" not in capsys.readouterr().out
    assert main.main(["cancel", "s", "--output-dir", str(copy)]) == 1
    said = capsys.readouterr()
    assert f"the jobs of 4 runs are those of the original of this copy, {store.root}" in said.err
    assert "0 runs of s cancelled" in said.out
    assert not list(copy.rglob("cancel.json"))
    assert not fake.cancelled
    before = len(fake.submitted)
    assert main.main([*WORDS, f"output_dir={copy}"]) == 0
    assert len(fake.submitted) == before + 4
    assert not any(batch.resources.exclude for batch in fake.submitted)
    assert {batch.root for batch in fake.tables} == {store.root, copy}
    assert {status for status, _ in reasons(copy, capsys)} == {"PENDING"}
    assert main.main(["cancel", "s", "--output-dir", str(copy)]) == 0
    assert not {job.job_id for batch in fake.submitted[:before] for job in fake.jobs[batch.name]} & set(fake.cancelled)
    assert not {job.job_id for job in fake.jobs[fake.tables[0].name]} & set(fake.cancelled)


def test_a_folder_that_makes_way_for_its_copy(
    copy: Path, store: Store, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The jobs go by the path that they were given: they are those of whichever folder has it now."""
    store.root.rename(tmp_path / "before")
    copy.rename(store.root)
    assert {status for status, _ in reasons(store.root, capsys)} == {"PENDING"}
    assert {status for status, _ in reasons(tmp_path / "before", capsys)} == {"NEW"}


@pytest.mark.parametrize("linked", [False, True])
def test_a_renamed_folder_keeps_its_jobs(
    copy: Path, store: Store, capsys: pytest.CaptureFixture[str], tmp_path: Path, *, linked: bool
) -> None:
    """Also where its former name is a link to it."""
    shutil.rmtree(copy)
    now = store.root.rename(tmp_path / "renamed")
    if linked:
        store.root.symlink_to(now)
    assert {status for status, _ in reasons(now, capsys)} == {"PENDING"}
