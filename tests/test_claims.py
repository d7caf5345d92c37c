"""What a launch finds out of its revisions' names before anything is submitted, on the Hub and in the folder."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from conftest import clean_environment, sweep_of
from finished_runs import trained_runs
from hub_server import TOKEN, HubServer, serving
from huggingface_hub import HfApi
from waiting import LONGEST_WAIT

from launcher.errors import ConfigError
from launcher.hub.claims import claim_revisions
from launcher.planning.compose import compose
from launcher.planning.planned_runs import plan, plan_run
from launcher.store.output_folder import Store
from launcher.sweep import Sweep

GRID = (
    "model=tiny",
    "sweep=scan",
    "loss_type=sigmoid,ipo",
    "trainer.lr_scheduler=constant",
    "checkpoint.milestones=[5]",
)
REPO = "me/scan"
STORES = {"huggingface": ("hub=huggingface", f"hub.repo={REPO}"), "folder": ("hub=folder", f"hub.repo={REPO}")}
Launch = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with serving() as server:
        yield server


@pytest.fixture
def launch(hub: HubServer, store: Store) -> Launch:
    """`python -m launcher -m` on the grid and these words, where this Hub is the Hub."""

    def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        here = {**hub.environment(str(store.root.parent / "home")), **environment}
        command = [sys.executable, "-m", "launcher", "-m", *GRID, f"output_dir={store.root}", *words]
        return subprocess.run(
            command, env=clean_environment(**here), capture_output=True, text=True, check=False, timeout=LONGEST_WAIT
        )

    return run


def marker(run_id: str, step: int | None = None) -> bytes:
    return json.dumps({"run_id": run_id, "content": "x"} | ({} if step is None else {"step": step})).encode()


def plant(hub: HubServer, store: Store, revision: str, files: dict[str, bytes], *, private: bool = True) -> None:
    """A revision with these files, on the Hub and in the folder."""
    if REPO not in hub.repos:
        HfApi(endpoint=hub.url, token=TOKEN).create_repo(REPO, private=private)
    hub.repos[REPO].add(revision, "planted", {".gitattributes": b"", **files})
    folder = store.published(REPO, revision)
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("where", STORES)
@pytest.mark.parametrize(
    ("revision", "files", "whose"),
    [
        ("ipo-0.1", {"prefsweep.json": marker("other-run")}, "the revision of other-run, which is never overwritten"),
        (
            "ipo-0.1-step5",
            {"prefsweep.json": marker("other", 9)},
            "the revision of other@9, which is never overwritten",
        ),
        ("sigmoid-0.1", {"model.safetensors": b"theirs"}, "none of ours"),
    ],
    ids=["another run's", "of a milestone", "none of ours"],
)
def test_a_revision_that_is_taken_is_refused_before_anything_is_submitted(
    hub: HubServer, store: Store, launch: Launch, where: str, revision: str, files: dict[str, bytes], whose: str
) -> None:
    """Not after the training: the line names key, revision, owner and what to do; a dry run says the same."""
    plant(hub, store, revision, files)
    words = f"hub.revision={revision}: {REPO} has one already, {whose}; give another hub.revision or hub.repo"
    for more in ((), ("dry_run=true",)):
        done = launch(*STORES[where], *more)
        assert (done.returncode, done.stdout) == (2, "")
        assert words in " ".join(done.stderr.split())
    assert not (store.root / "runs").exists()


@pytest.mark.parametrize("where", STORES)
def test_names_that_may_be_written_are_no_reason_to_refuse(
    hub: HubServer, store: Store, launch: Launch, where: str
) -> None:
    """A run's own revision, which is written anew, and one of nobody's; a repository is asked for its branches once."""
    ids = {run.config.loss_type: run.run_id for run in sweep_of(*GRID).runs}
    plant(hub, store, "ipo-0.1", {"prefsweep.json": marker(ids["ipo"])})
    plant(hub, store, "ipo-0.1-step5", {"prefsweep.json": marker(ids["ipo"], 5)})
    hub.repos[REPO].add("sigmoid-0.1", "by hand", {".gitattributes": b"", "README.md": b""})
    done = launch(*STORES[where], "dry_run=true")
    assert done.returncode == 0, done.stderr
    assert f"published as revisions of {REPO} (hub={where}): sigmoid-0.1, ..." in done.stdout
    assert "not checked" not in done.stderr
    assert hub.requests["refs"] == (where == "huggingface")


def test_of_runs_that_are_trained_nothing_is_asked(hub: HubServer, store: Store) -> None:
    """They keep the names that they were launched with, whoever has taken them since: that is for `publish` to say."""
    runs = trained_runs(store, *GRID[1:], *STORES["folder"])
    plant(hub, store, "ipo-0.1", {"prefsweep.json": marker("other-run")})
    sweep = sweep_of(*GRID, "trainer=full", *STORES["folder"])
    assert [run.run_id for run in sweep.runs] == [run.run_id for run in runs]
    assert claim_revisions(sweep, store, token=False) == (sweep, [])
    (runs[1].path / "result.json").unlink()
    with pytest.raises(ConfigError, match=r"hub\.revision=ipo-0\.1"):
        claim_revisions(sweep, store, token=False)


def test_names_that_another_sweep_has_claimed_are_taken(store: Store) -> None:
    """Also while its runs wait to be trained or published: they will take their names."""
    names = ("hub=folder", "hub.repo=scan", "hub.revision=best", "loss_type=ipo")
    trained_runs(store, *names, "beta=0.1", "sweep=first", "hub.when=login")
    with pytest.raises(ConfigError, match=r"hub\.revision=best: .* would both write it to scan"):
        claim_revisions(sweep_of("model=tiny", *names, "beta=0.2", "sweep=second"), store, token=False)
    claimed, _ = claim_revisions(
        sweep_of("model=tiny", "trainer=full", *names, "beta=0.1", "sweep=third"), store, token=False
    )
    assert [run.config.hub.revision for run in claimed.runs] == ["best"]  # the same run
    with pytest.raises(
        ConfigError, match=r"hub\.revision=start-0123456789ab: is the name of a starting point's revision"
    ):
        claim_revisions(sweep_of("model=tiny", "hub=folder", "hub.repo=r", "hub.revision=start-0123456789ab",
                                 "loss_type=ipo", "beta=0.2"), store, token=False)  # fmt: skip


def test_where_nobody_asked_for_names_a_run_makes_way(store: Store) -> None:
    """hub=auto without a repository: a name that is taken is left to whoever has it, and the run id stands for it."""
    other = store.published("tiny-scan", "sigmoid-0.1")
    other.mkdir(parents=True)
    (other / "prefsweep.json").write_bytes(marker("other-run"))
    sweep, notes = claim_revisions(unsettled(*GRID, "hub=auto"), store, token=False)
    ids = [run.run_id for run in sweep.runs]
    assert [run.config.hub.revision for run in sweep.runs] == [ids[0], "ipo-0.1"]
    assert [run.settings["hub"]["revision"] for run in sweep.runs] == [ids[0], "ipo-0.1"]
    assert notes == []


def unsettled(*argv: str) -> Sweep:
    """The sweep as the launcher plans it before it knows of revisions."""
    grid, points = compose(argv, multirun=True)
    runs = [plan_run(point.config, point.axes, point.overrides, {"sigmoid", "ipo"}) for point in points]
    return plan(runs, grid.varied, grid.name)


def test_a_public_repository_is_refused_before_anything_is_submitted(
    hub: HubServer, store: Store, launch: Launch
) -> None:
    """Unless hub.private=false says that everybody may see the models; so also where it is the default repository."""
    plant(hub, store, "main", {}, private=False)
    done = launch(*STORES["huggingface"])
    assert (done.returncode, done.stdout) == (2, "")
    assert f"hub.private=true: {REPO} is public; to publish there all the same give hub.private=false" in done.stderr
    assert launch("hub=auto", "hub.repo=scan", "dry_run=true").returncode == 2
    assert not (store.root / "runs").exists()
    assert launch(*STORES["huggingface"], "hub.private=false", "dry_run=true").returncode == 0


def test_where_the_hub_cannot_be_asked_one_note_says_so(launch: Launch) -> None:
    """The launch goes on: the machine that launches may have no way to the internet, or not the token."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    done = launch(*STORES["huggingface"], "dry_run=true", HF_ENDPOINT=f"http://127.0.0.1:{port}")
    assert done.returncode == 0, done.stderr
    words = " ".join(done.stderr.split())
    assert words.count("not checked") == 1
    assert f"hub.store=huggingface: not checked which revisions are taken: {REPO}: no way to the Hub from" in words


QUICK = """
import sys
from launcher.cli import main as cli
assert cli.main(sys.argv[1:]) == 0
print([name for name in ("huggingface_hub", "httpx2", "tenacity") if name in sys.modules])
"""


@pytest.mark.parametrize("where", ["folder", "off"])
def test_a_launch_that_does_not_need_the_hub_imports_nothing_of_it(store: Store, where: str) -> None:
    """The client takes a third of a second, which nobody should wait for without a reason."""
    command = [sys.executable, "-c", QUICK, "-m", *GRID, f"output_dir={store.root}", f"hub={where}", "dry_run=true"]
    done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, check=False)
    assert done.stdout.endswith("[]\n"), done.stdout + done.stderr


def test_runs_that_differ_in_a_list_are_told_how_to_name_it(store: Store) -> None:
    """`loss.weights` are several numbers, of which a name takes one after another; what is said works as typed."""
    argv = ["model=tiny", "hub=folder", "loss_type=sigmoid+sft", "loss.weights=[1,0.5],[1,0.25]"]
    with pytest.raises(ConfigError, match=r"such as \$\{number:\$\{loss\.weights\}\}$"):
        claim_revisions(sweep_of(*argv), store, token=False)
    named, _ = claim_revisions(
        sweep_of(*argv, "hub.revision=${loss_type}-${number:${loss.weights}}"), store, token=False
    )
    assert [run.config.hub.revision for run in named.runs] == ["sigmoid+sft-1-0.5", "sigmoid+sft-1-0.25"]
