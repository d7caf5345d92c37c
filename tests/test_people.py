"""A folder in which several people work on one machine: the modes of all that is left, and who may do what there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from people import People, Person, people_fixture, system, unlike_umask  # noqa: F401 - the fixture people
from waiting import eventually
from worker_fixtures import write_pairs

from launcher.cli.arguments import DONE
from launcher.cli.main import main
from launcher.cluster import doctor
from launcher.config import Cluster
from launcher.machine import rights
from launcher.planning.prerequisites import check_writable
from launcher.store.entries import making
from launcher.store.files import append_line, building, write_derived, write_once
from launcher.store.locks import held, turn
from launcher.store.output_folder import Store
from launcher.worker import fence
from launcher.worker.training import checkpoints

TINY = ("-m", "model=tiny", "dataset=./pairs", "trainer=full", "loss_type=sigmoid", "cluster=local", "hub=folder",
        "trainer.max_steps=4", "trainer.batch_size=8", "trainer.micro_batch_size=4", "trainer.lr_scheduler=constant",
        "checkpoint.every=2", "checkpoint.milestones=[2]", "checkpoint.keep_finished=1", "evaluation.generations=2",
        "evaluation.max_new_tokens=4", "tracking=trackio", "sweep=s")  # fmt: skip


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def private(path: Path) -> None:
    """A file as safetensors leaves it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"weights")
    path.chmod(0o600)


@pytest.fixture(params=[0o002, 0o022, 0o077], ids=["002", "022", "077"])
def mask(request: pytest.FixtureRequest) -> Iterator[int]:
    """The umask of this process while a test lasts."""
    with umask(request.param):
        yield request.param


# ------------------------------------------------------------------------------------------------ what is left


def test_facts_logs_locks_and_entries_follow_the_umask(tmp_path: Path, mask: int) -> None:
    """Each kind of file that the store writes, and what a library leaves in a folder that is made once."""
    folder = tmp_path / "outputs"
    write_once(folder / "runs" / "fact.json", {"a": 1})
    write_derived(folder / "runs" / "derived.json", "{}")
    append_line(folder / "runs" / "log.jsonl", {"a": 1})
    with turn(folder / ".submit.lock"):
        assert unlike_umask(folder, mask) == []
    with making(folder / "cache" / "models" / "key") as empty:
        assert empty is not None
        private(empty / "inner" / "model.safetensors")
    with building(folder / "hub" / "revision") as empty:
        assert empty is not None
        private(empty / "model.safetensors")
    assert unlike_umask(folder, mask) == []


def test_checkpoints_and_models_follow_the_umask(tmp_path: Path, mask: int) -> None:
    """What the trainer wrote is given the umask's rights as it is closed, or gets its name."""
    checkpoint = tmp_path / "checkpoints" / "001.0001" / "checkpoint-2"
    private(checkpoint / "model.safetensors")
    checkpoints.seal(checkpoint, 1)
    private(tmp_path / ".model.partial" / "model.safetensors")
    fence.put_in_place(tmp_path / ".model.partial", tmp_path / "model")
    assert unlike_umask(tmp_path, mask) == []


def test_what_can_be_run_stays_so_and_a_folder_setgid(tmp_path: Path) -> None:
    """Where the umask lets somebody read a program, they may run it; the group of a folder is inherited further."""
    program, folder = tmp_path / "program", tmp_path / "folder"
    private(program)
    program.chmod(0o700)
    folder.mkdir()
    folder.chmod(0o2700)
    with umask(0o027):
        rights.follow_umask(tmp_path)
    assert [path.stat().st_mode & 0o7777 for path in (program, folder)] == [0o750, 0o2750]


def test_a_link_that_leads_out_changes_nothing_there(tmp_path: Path) -> None:
    """What lies elsewhere is not ours to share."""
    private(tmp_path / "elsewhere" / "secret")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").symlink_to(tmp_path / "elsewhere" / "secret")
    (tmp_path / "folder" / "inner").symlink_to(tmp_path / "elsewhere")
    rights.follow_umask(tmp_path / "folder")
    assert (tmp_path / "elsewhere" / "secret").stat().st_mode & 0o777 == 0o600


@pytest.mark.usefixtures("mask")
@pytest.mark.parametrize(("folders", "lock"), [(0o2775, 0o664), (0o2770, 0o660), (0o755, 0o644), (0o700, 0o600)])
def test_a_lock_is_as_open_as_its_folder(tmp_path: Path, folders: int, lock: int) -> None:
    """One member's umask does not keep the others of a group from an entry that is there: they, too, take its turn."""
    tmp_path.chmod(folders)
    with building(tmp_path / "entry"), held(tmp_path / "held.lock"), turn(tmp_path / "turn.lock"):
        locks = [path for path in tmp_path.iterdir() if path.name.endswith(".lock")]
        assert [path.stat().st_mode & 0o777 for path in locks] == [lock] * 3


@pytest.mark.parametrize(("folders", "is_told"), [(0o2775, True), (0o2755, False), (0o775, False)])
def test_a_umask_that_shuts_the_group_off_is_told(tmp_path: Path, mask: int, folders: int, is_told: bool) -> None:
    """Before a launch, where the folder is the group's to work in."""
    tmp_path.chmod(folders)
    told = check_writable(Store(tmp_path / "outputs"), dry_run=True)
    assert [f"your umask {mask:03o} keeps them" in line for line in told] == [True] * (is_told and mask != 0o002)


def test_a_probe_leaves_a_groups_folder_open(tmp_path: Path, mask: int) -> None:
    """`doctor --probe`, the first to work there, makes the output folder the group's; all else goes with its own."""
    tmp_path.chmod(0o2775)
    batch = doctor.write_question(Cluster(), tmp_path / "outputs")
    assert list((tmp_path / "outputs").iterdir()) == [batch.folder]
    assert (tmp_path / "outputs").stat().st_mode & 0o2777 == 0o2770 | (0o777 & ~mask)


def test_doctor_names_a_umask_that_shuts_the_group_off(
    tmp_path: Path, mask: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a launch does."""
    tmp_path.chmod(0o2775)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    assert main(["doctor", "cluster=local"]) == DONE
    assert (f"your umask {mask:03o} keeps them" in capsys.readouterr().out) == (mask != 0o002)


# ------------------------------------------------------------------------------------------------ two people


@pytest.fixture(scope="module")
def trained(people: People) -> Path:
    """A folder of the group in which Ana has trained a run, with umask 002."""
    folder = people.shared("trained")
    write_pairs(folder / "pairs")
    ana = people.ana.with_umask(0o002)
    assert "1 of 1 runs done" in ana.run(folder, *TINY, "beta=0.1")
    ana.run(folder, "outputs/sweeps/s", module="analysis")
    assert unlike_umask(folder / "outputs", 0o002) == []
    return folder


@pytest.mark.long
def test_ben_adds_a_beta_to_anas_sweep(people: People, trained: Path) -> None:
    """Under umask 002 her model, table and tokens serve his run; all of it stays the group's, and she goes on in it."""
    ben, ana = people.ben.with_umask(0o002), people.ana.with_umask(0o002)
    said = ben.run(trained, *TINY, "beta=0.1,0.2")
    assert "1 skip, 1 submit" in said
    assert "2 of 2 runs done" in said
    owners = {path.parent.name: path.owner() for path in trained.glob("outputs/runs/*/result.json")}
    assert sorted(owners.values()) == [people.ana.name, people.ben.name]
    made = {path.owner() for path in trained.glob("outputs/cache/reference/*")}
    assert made == {people.ana.name}
    assert unlike_umask(trained / "outputs", 0o002) == []
    assert {path.group() for path in trained.rglob("outputs/**/*")} == {people.group}
    for verb in (["status"], ["collect", "s"], ["publish", "s"], ["resume", "s"]):
        for each in (ben, ana):
            each.run(trained, *verb)
    for each in (ben, ana):
        each.run(trained, "outputs/sweeps/s", module="analysis")
    assert unlike_umask(trained / "outputs", 0o002) == []


@pytest.mark.long
def test_bens_umask_022_leaves_ana_at_work(people: People, trained: Path) -> None:
    """He is told, and what his run has added to the cache serves hers all the same, though she may not write it."""
    folder = people.shared("umask")
    system("cp", "-a", f"{trained}/.", str(folder))
    for words in ([*TINY, "beta=0.5", "trainer.max_length=40"], ["publish", "s"]):
        said = people.ben.run(folder, *words)
        assert "your umask 022 keeps them from going on with what you leave" in " ".join(said.split()), words
    said = people.ana.with_umask(0o002).run(folder, *TINY, "beta=0.6", "trainer.max_length=40")
    assert "1 of 1 runs done" in said


@pytest.mark.long
def test_umask_077_keeps_all_to_oneself(people: People) -> None:
    """Nothing below the output folder can be read by anybody else, whoever has written it."""
    folder = people.shared("alone", people.ben)
    write_pairs(folder / "pairs")
    ben = people.ben.with_umask(0o077)
    ben.run(folder, *TINY, "beta=0.1")
    ben.run(folder, "outputs/sweeps/s", module="analysis")
    assert unlike_umask(folder / "outputs", 0o077) == []


@pytest.fixture(scope="module", params=[0o022, 0o077], ids=["022", "077"])
def shut(request: pytest.FixtureRequest, people: People, trained: Path) -> Path:
    """The same, as Ana leaves it with another umask."""
    folder = people.folder / f"shut{request.param:03o}"
    shutil.copytree(trained, folder, symlinks=True)
    system("chown", "-R", people.ana.name, str(folder))
    system("chmod", "-R", "go-w" if request.param == 0o022 else "go-rwx", str(folder / "outputs"))
    return folder


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["cancel", "s"], 1),
        (["resume", "s"], 1),
        (["collect", "s"], 1),
        (["evaluate", "s"], 1),
        ([*TINY, "beta=0.1,0.3"], 2),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_ben_may_not_is_one_line(people: People, shut: Path, words: list[str], code: int) -> None:
    """It names what refuses, Ana, and what helps; nothing is written."""
    before = sorted(shut.rglob("*"))
    said = people.ben.with_umask(0o002).run(shut, *words, code=code)
    (line,) = [line for line in said.splitlines() if line.startswith("prefsweep: ")]
    assert re.search(
        rf"cannot be (read|written).*; ask {people.ana.name}, the owner of {shut}/outputs\S*, to share", line
    )
    assert "Traceback" not in said
    assert "No such file" not in said
    assert sorted(shut.rglob("*")) == before


def test_what_ben_may_only_read_he_may_read(people: People, shut: Path) -> None:
    """Under umask 022 the status and a report elsewhere; under 077 one line says whose it is."""
    ben, is_open = people.ben, (shut / "outputs").stat().st_mode & 0o004
    said = ben.run(shut, "status", "s", code=0 if is_open else 1)
    assert ("TRAINED" in said) if is_open else (f"ask {people.ana.name}, the owner of {shut}/outputs" in said)
    assert f"NOT writable; ask {people.ana.name}" in ben.run(shut, "doctor")
    said = ben.run(shut, "outputs/sweeps/s", module="analysis", code=2)
    assert f"ask {people.ana.name}, the owner of " in said
    assert "cannot write the output" not in said
    if is_open:
        ben.run(shut, "outputs/sweeps/s", "--output", str(ben.home / "report"), module="analysis")


@pytest.mark.parametrize("way", ["shared", "shut"])
@pytest.mark.long
def test_ben_goes_on_from_anas_checkpoint(people: People, trained: Path, way: str) -> None:
    """Where he may read it; else it is named, and neither passed over nor removed."""
    folder = people.shared(f"resumed-{way}")
    system("cp", "-a", f"{trained}/.", str(folder))
    (run,) = (path.parent for path in folder.glob("outputs/runs/*/result.json") if path.owner() == people.ana.name)
    for left in (run / "model", run / "milestones"):
        shutil.rmtree(left)
    for name in ("result.json", "evaluation.json", "revision.json"):  # as of a training that was cut short
        (run / name).unlink()
    (weights,) = run.glob("checkpoints/*/checkpoint-*/model.safetensors")
    if way == "shut":
        weights.chmod(0o600)
    said = people.ben.with_umask(0o002).run(folder, "resume", "s", run.name, code=0 if way == "shared" else 1)
    if way == "shut":
        told = " ".join(said.split())
        assert "cannot be read (Permission denied)" in told
        assert f"ask {people.ana.name}, the owner of" in told
        assert weights.exists()
    else:
        assert (run / "result.json").owner() == people.ben.name
        assert unlike_umask(folder / "outputs", 0o002) == []
    assert not (run / "damage.jsonl").exists()


def test_a_cache_that_ana_has_made_with_umask_077(people: People, trained: Path) -> None:
    """Ben's run fails with the file, whose it is and what helps, not as if it were missing; hers is left as it is."""
    folder = people.shared("cache")
    system("cp", "-a", f"{trained}/.", str(folder))
    (model,) = folder.glob("outputs/cache/models/random-*")
    weights = model / "model.safetensors"
    weights.chmod(0o600)
    said = people.ben.with_umask(0o002).run(folder, *TINY, "beta=0.4", code=1)
    told = " ".join(said.split())
    assert "cannot be read (Permission denied)" in told
    assert f"ask {people.ana.name}, the owner of" in told
    assert "No such file" not in told
    assert weights.owner() == people.ana.name


def test_ben_cannot_end_anas_process(people: People) -> None:
    """He is told whose it is, and it goes on."""
    script = "from launcher.cluster.local import LocalScheduler, _process_record\nimport sys\n"
    script += "LocalScheduler().cancel([_process_record(int(sys.argv[1]))])\n"
    process = subprocess.Popen([*people.ana.command, "sleep", "600"])
    try:
        assert eventually(lambda: Path("/proc", str(process.pid)).owner() == people.ana.name)
        done = people.ben.python_with(script, str(process.pid))
        assert f"NotCancelled: process {process.pid} is {people.ana.name}'s, who alone can end it" in done
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def test_a_home_that_ben_may_not_read_has_no_token_of_his(people: People, tmp_path: Path) -> None:
    """As after `su` without a login: what needs none goes on, and nobody is advised to share theirs."""
    home = tmp_path / "home"
    (home / ".cache" / "huggingface").mkdir(parents=True)
    (home / ".cache" / "huggingface" / "token").write_text("hf_x")
    home.chmod(0o700)
    script = "import os\nfrom launcher.machine.accounts import has_token\nprint(has_token(os.environ))\n"
    assert people.ben.python_with(f"import os; os.environ['HOME'] = {str(home)!r}\n{script}").strip() == "False"
