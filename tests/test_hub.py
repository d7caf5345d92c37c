"""hub=huggingface, driven by the real huggingface_hub against a Hub on loopback."""

from __future__ import annotations

import hashlib
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import clean_environment
from finished_runs import NEVER_PUBLISHED, evaluation, files_holding, publish, publish_process, trained_runs
from hub_server import TOKEN, Commit, HubServer, serving
from huggingface_hub import HfApi
from waiting import LONGEST_WAIT

from launcher.store.files import read_fact, write_derived
from launcher.store.output_folder import Store
from launcher.store.run_folder import RunDir

HUB = ("hub=huggingface", "hub.patience=600", "hub.timeout=30", "sweep=scan")
REPO = "me/tiny-scan"


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with serving() as server:
        yield server


def head(hub: HubServer, branch: str, repo: str = REPO) -> Commit:
    return hub.repos[repo].commits[hub.repos[repo].branches[branch]]


def first(hub: HubServer, repo: str = REPO) -> Commit:
    return list(hub.repos[repo].history("main"))[-1]


def assert_whole(hub: HubServer, run: RunDir, branch: str) -> None:
    """The branch is one commit on the first one, and holds the run's files, bit for bit, and nothing else."""
    commit, revision = head(hub, branch), read_fact(run.revision_file) or {}
    assert commit.parent == first(hub).id
    assert json.loads(commit.files["prefsweep.json"])["run_id"] == run.run_id
    assert (revision["repo"], revision["revision"], revision["commit"]) == (REPO, branch, commit.id)
    for path in run.model.glob("*.safetensors"):
        assert commit.files[path.name] == path.read_bytes()
    for name in ("config.yaml", "metrics.jsonl", "result.json", "evaluation.json"):
        assert commit.files[name] == (run.path / name).read_bytes()
    assert not set(commit.files) & set(NEVER_PUBLISHED)


THEIRS = {".gitattributes": b"*.safetensors filter=lfs\n", "theirs.safetensors": b"theirs", "notes.txt": b"theirs"}


def squashed(hub: HubServer, files: dict[str, bytes], name: str = REPO) -> Commit:
    """The one commit of a repository of somebody's, as it is after squashing its history."""
    HfApi(endpoint=hub.url, token=TOKEN).create_repo(name, private=True)
    repo = hub.repos[name]
    repo.branches.clear()
    return repo.add("main", "all of it", files)


def test_each_run_becomes_one_revision_of_a_private_repository(hub: HubServer, store: Store) -> None:
    """One commit per run on a branch from the first commit; optimizer states, pickles, hidden files stay here."""
    runs = trained_runs(store, *HUB, "loss_type=ipo", "beta=0.1,0.5")
    done = publish(hub, store, "scan")
    assert done.returncode == 0, done.stdout + done.stderr
    assert hub.repos[REPO].private
    for run, branch in zip(runs, ("ipo-0.1", "ipo-0.5"), strict=True):
        assert_whole(hub, run, branch)
    card = head(hub, "ipo-0.1").files["README.md"].decode()
    assert f'from_pretrained("{REPO}", revision="ipo-0.1")' in card
    assert list(first(hub).files) == [".gitattributes"]


def test_publishing_again_does_nothing(hub: HubServer, store: Store) -> None:
    """Where all is there, the Hub is asked once for the branches; where our record got lost, it is found there."""
    run, _ = trained_runs(store, *HUB, "loss_type=ipo", "beta=0.1,0.5")
    publish(hub, store, "scan")
    asked, commit = Counter(hub.requests), head(hub, "ipo-0.1").id
    again = json.loads(publish(hub, store, "scan", "--json").stdout)
    assert again["runs"][0]["revision"]["address"] == f"{REPO}@ipo-0.1"
    assert hub.requests - asked == {"refs": 1}
    run.revision_file.unlink()
    assert publish(hub, store, "scan").returncode == 0
    assert hub.requests["commit"] == asked["commit"]
    assert (read_fact(run.revision_file) or {})["commit"] == commit == head(hub, "ipo-0.1").id


def test_what_changed_since_is_published_anew(hub: HubServer, store: Store) -> None:
    """A new evaluation makes a second commit of the same run on its branch; a file that is gone goes there too."""
    (run,) = trained_runs(store, *HUB, "loss_type=ipo")
    publish(hub, store, "scan")
    before = head(hub, "ipo-0.1").id
    write_derived(run.evaluation_file, json.dumps(evaluation(0.125)))
    (run.model / "tokenizer.json").unlink()
    assert "published as" in publish(hub, store, "scan").stdout
    now = head(hub, "ipo-0.1")
    assert now.parent == before
    assert "| golden reward | 0.125 | ± 0.0625 |" in now.files["README.md"].decode()
    assert "tokenizer.json" not in now.files
    assert (read_fact(run.revision_file) or {})["commit"] == now.id


@pytest.mark.parametrize(
    "faults",
    [
        {"repos": "429", "branch": "cut", "commit": "412"},
        {"commits": "500", "validate-yaml": "500", "commit": "lost"},
        {"whoami": "429", "lfs": "500", "revision": "cut", "commit": "slow"},
    ],
    ids=lambda faults: " ".join(f"{where}:{kind}" for where, kind in faults.items()),
)
def test_faults_that_pass_are_waited_out(hub: HubServer, store: Store, faults: dict[str, str]) -> None:
    """Quota, stale parent, a failing server, a cut connection, an answer that is late or lost: one whole revision."""
    (run,) = trained_runs(store, *HUB, "loss_type=ipo", "hub.timeout=1")
    hub.fail_once(**faults)
    done = publish(hub, store, "scan")
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(hub.faults[kind] for kind in faults.values())
    assert_whole(hub, run, "ipo-0.1")


def test_many_processes_push_to_one_repository_through_faults(hub: HubServer, store: Store) -> None:
    """12 runs by four processes, some of them by two at once, a fifth of all requests failing: none lost or doubled."""
    runs = trained_runs(store, *HUB, "loss_type=sigmoid,ipo,kto_pair", "beta=0.1,0.2,0.5,1", "hub.timeout=1")
    hub.inject(0.2)
    names = [run.run_id for run in runs]
    shares = [names[start : start + 4] for start in (0, 3, 6, 8)]
    processes = [publish_process(hub, store, "scan", *share) for share in shares]
    for process in processes:
        out, err = process.communicate(timeout=LONGEST_WAIT)
        assert process.returncode == 0, out + err
    assert sum(hub.faults[kind] for kind in ("429", "500", "412", "cut", "lost", "slow")) > 12
    assert len(hub.repos[REPO].branches) == 13
    for run in runs:
        assert_whole(hub, run, str((read_fact(run.revision_file) or {})["revision"]))


@pytest.mark.parametrize("files", [None, THEIRS], ids=["new repository", "repository of somebody's"])
def test_a_killed_upload_is_completed(hub: HubServer, store: Store, files: dict[str, bytes] | None) -> None:
    """Killed while its second file goes up, a push leaves no revision; publishing again sends only that file.

    Nor does it need anybody's help where the first commit, on which revisions begin, holds what is somebody's.
    """
    if files is not None:
        squashed(hub, files)
    (run,) = trained_runs(store, *HUB, "loss_type=ipo")
    held, go_on = threading.Event(), threading.Event()
    one, two = (hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(run.model.glob("*.safetensors")))

    def hold(oid: str) -> None:
        if oid == two:
            while not hub.uploads[one]:
                go_on.wait(0.01)
            held.set()
            go_on.wait(LONGEST_WAIT)

    hub.hold = hold
    process = publish_process(hub, store, "scan")
    assert held.wait(LONGEST_WAIT)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=LONGEST_WAIT)
    assert hub.repos[REPO].branches.get("ipo-0.1") == (first(hub).id if files is None else None)
    assert not run.revision_file.exists()
    hub.hold = lambda _: None
    hub.uploads[two] = 0
    assert publish(hub, store, "scan").returncode == 0
    assert hub.uploads == {one: 1, two: 1}
    go_on.set()
    assert_whole(hub, run, "ipo-0.1")
    assert set(hub.repos[REPO].branches) == {"main", "ipo-0.1"}
    assert not set(head(hub, "ipo-0.1").files) & {"theirs.safetensors", "notes.txt"}
    assert head(hub, "main").id == first(hub).id


DOWNLOAD = """
import sys
from huggingface_hub import hf_hub_download
print(hf_hub_download(sys.argv[1], sys.argv[2], revision=sys.argv[3]))
"""


def test_large_files_go_through_xet_where_it_is_there(hub: HubServer, store: Store, tmp_path: Path) -> None:
    """With hf_xet on, and a local folder as its storage, weights go up and come back by it alone, in one commit."""
    (run,) = trained_runs(store, *HUB, "loss_type=ipo")
    hub.xet, hub.xet_storage = {}, f"local://{tmp_path / 'xet'}"
    for path, told in zip(weights := sorted(run.model.glob("*.safetensors")), _xet_hashes(weights), strict=True):
        oid = hashlib.sha256(path.read_bytes()).hexdigest()
        hub.xet[oid], hub.objects[oid] = told, path.read_bytes()  # the Hub knows what lies in xet's storage
    xet = {"HF_HUB_DISABLE_XET": "0", "HF_XET_LOG_DEST": str(tmp_path / "log")}
    done = publish(hub, store, "scan", **xet)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (hub.requests["xet_token"], hub.requests["upload"], hub.requests["batch"]) == (1, 0, 0)
    assert_whole(hub, run, "ipo-0.1")
    environment = clean_environment(**(hub.environment(str(tmp_path / "home")) | xet))
    command = [sys.executable, "-c", DOWNLOAD, REPO, weights[0].name, "ipo-0.1"]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert Path(found.stdout.strip()).read_bytes() == weights[0].read_bytes()


def _xet_hashes(paths: list[Path]) -> list[str]:
    import hf_xet

    return [told.hash for told in hf_xet.hash_files([str(path) for path in paths])]


def test_another_runs_revision_is_never_overwritten(hub: HubServer, store: Store) -> None:
    """A revision that holds another run, or what is none of ours, is refused by name and stays as it is."""
    mine = ("hub=huggingface", "hub.repo=me/shared", "hub.revision=best", "loss_type=ipo")
    (owner,) = trained_runs(store, *mine, "sweep=one")
    (other,) = trained_runs(store, *mine, "sweep=two", "seed=7")
    assert publish(hub, store, "one").returncode == 0
    before = head(hub, "best", "me/shared").id
    done = publish(hub, store, "two")
    assert done.returncode == 1
    assert f"is the revision of {owner.run_id}" in done.stdout
    assert "hub.revision" in done.stdout
    assert head(hub, "best", "me/shared").id == before
    assert not other.revision_file.exists()
    hub.repos["me/shared"].add("mine", "by hand", {"model.safetensors": b"by hand"})
    hub.repos["me/shared"].branches["best"] = hub.repos["me/shared"].branches.pop("mine")
    assert "none of ours" in publish(hub, store, "two").stdout


def test_a_branch_of_somebodys_is_not_overwritten_wherever_it_stands(hub: HubServer, store: Store) -> None:
    """One at the repository's first commit is somebody's all the same, where that commit holds something."""
    (run,) = trained_runs(store, *HUB, "loss_type=ipo")
    theirs = squashed(hub, THEIRS)
    hub.repos[REPO].branches["ipo-0.1"] = theirs.id
    done = publish(hub, store, "scan")
    assert done.returncode == 1
    assert f"{REPO}@ipo-0.1 holds what is none of ours, at commit {theirs.id}; give another hub.revision" in done.stdout
    assert head(hub, "ipo-0.1").files == THEIRS
    assert set(hub.repos[REPO].branches) == {"main", "ipo-0.1"}
    assert not run.revision_file.exists()


def test_a_branch_that_holds_nothing_of_anybodys_is_written(hub: HubServer, store: Store) -> None:
    """What the Hub itself puts into a new repository, a card among it, is no reason to need another name."""
    (run,) = trained_runs(store, *HUB, "loss_type=ipo")
    made = squashed(hub, {".gitattributes": b"*.safetensors filter=lfs\n", "README.md": b"---\nlicense: mit\n---\n"})
    hub.repos[REPO].branches["ipo-0.1"] = made.id
    done = publish(hub, store, "scan")
    assert done.returncode == 0, done.stdout
    assert_whole(hub, run, "ipo-0.1")


def test_nothing_is_published_for_everybody_unless_that_was_asked_for(hub: HubServer, store: Store) -> None:
    """A repository that is public takes no model of a sweep with hub.private=true: nothing goes there, not a branch."""
    (run,) = trained_runs(store, *HUB, "loss_type=ipo")
    HfApi(endpoint=hub.url, token=TOKEN).create_repo(REPO, private=False)
    done = publish(hub, store, "scan")
    assert done.returncode == 1
    assert f"hub.private=true: {REPO} is public; to publish there all the same give hub.private=false" in done.stdout
    assert (hub.requests["upload"], hub.requests["branch"], hub.requests["commit"]) == (0, 0, 0)
    assert publish(hub, store, "scan", "--public").returncode == 0
    assert_whole(hub, run, "ipo-0.1")
    assert not hub.repos[REPO].private


def test_a_sweep_with_hub_private_false_publishes_where_everybody_sees_it(hub: HubServer, store: Store) -> None:
    """In a repository that is there, and in one that is made."""
    HfApi(endpoint=hub.url, token=TOKEN).create_repo(REPO, private=False)
    trained_runs(store, *HUB, "loss_type=ipo", "hub.private=false")
    assert publish(hub, store, "scan").returncode == 0
    assert publish(hub, store, "scan", "--repo", "me/new").returncode == 0
    assert not hub.repos["me/new"].private


def test_a_draft_that_another_push_of_the_run_has_put_away_is_made_again(hub: HubServer, store: Store) -> None:
    """Two processes may push one run at the same time: that the other was quicker costs another look, not the push."""
    (run,) = trained_runs(store, *HUB, "loss_type=ipo")
    squashed(hub, THEIRS)
    put_away: list[str] = []

    def overtake(_: str, path: str) -> None:
        branch = path.rpartition("/commit/")[2]
        if not put_away and branch in hub.repos[REPO].branches:
            put_away.append(branch)
            del hub.repos[REPO].branches[branch]

    hub.fault = overtake
    done = publish(hub, store, "scan")
    assert done.returncode == 0, done.stdout
    assert put_away[0].startswith("prefsweep-draft-")
    assert set(hub.repos[REPO].branches) == {"main", "ipo-0.1"}
    assert_whole(hub, run, "ipo-0.1")


@pytest.mark.parametrize("files", [None, THEIRS], ids=["new repository", "repository of somebody's"])
def test_of_two_runs_that_want_one_revision_at_once_one_gets_it(
    hub: HubServer, store: Store, files: dict[str, bytes] | None
) -> None:
    """Both have seen the branch empty before either commits: the Hub takes one, the other is refused, none is mixed."""
    if files is not None:
        squashed(hub, files, "me/shared")
    mine = ("hub=huggingface", "hub.repo=me/shared", "hub.revision=best", "loss_type=ipo")
    runs = [*trained_runs(store, *mine, "sweep=one"), *trained_runs(store, *mine, "sweep=two", "seed=7")]
    both = threading.Barrier(2)  # the second weight file of each waits for the other's
    second = {hashlib.sha256(next(run.model.glob("*-00002-*")).read_bytes()).hexdigest() for run in runs}

    def hold(oid: str) -> None:
        if oid in second:
            both.wait(LONGEST_WAIT)

    hub.hold = hold
    processes = [publish_process(hub, store, sweep) for sweep in ("one", "two")]
    told = [process.communicate(timeout=LONGEST_WAIT)[0] for process in processes]
    assert sorted(process.returncode for process in processes) == [0, 1]
    winner, loser = sorted(runs, key=lambda run: not run.revision_file.exists())
    assert not loser.revision_file.exists()
    assert any(f"is the revision of {winner.run_id}" in text for text in told)
    commit = head(hub, "best", "me/shared")
    assert commit.parent == first(hub, "me/shared").id
    assert all(commit.files[path.name] == path.read_bytes() for path in winner.model.glob("*.safetensors"))
    assert set(hub.repos["me/shared"].branches) == {"main", "best"}


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"HF_TOKEN": ""}, "hf auth login"),
        ({"HF_TOKEN": "hf_WrongTokenOfTheTests"}, "Invalid user token"),
        ({"HF_HUB_OFFLINE": "1"}, "offline mode"),
    ],
    ids=["no token", "wrong token", "offline"],
)
def test_what_does_not_pass_is_one_line_at_once(
    hub: HubServer, store: Store, environment: dict[str, str], words: str
) -> None:
    """A fault that waiting does not mend ends the push: the run stays, the line says why and never shows a token."""
    (run,) = trained_runs(store, *HUB, "loss_type=ipo", "hub.patience=600")
    done = publish(hub, store, "scan", **environment)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert words in done.stdout
    assert not run.revision_file.exists()
    for token in (TOKEN, "hf_WrongTokenOfTheTests"):
        assert token not in done.stdout + done.stderr


IMPATIENT = """
import sys
from launcher.cli import main as cli; from launcher.hub import faults as hub
hub.SILENCE_SECONDS = 5.0
sys.exit(cli.main(sys.argv[1:]))
"""


def impatient(
    hub: HubServer, store: Store, script: str = IMPATIENT, **environment: str
) -> subprocess.CompletedProcess[str]:
    """`python -m launcher publish scan` by a script in which a first answer is not waited for a real minute."""
    environment = clean_environment(**(hub.environment(str(store.root.parent / "home")) | environment))
    command = [sys.executable, "-c", script, "publish", "scan", "--output-dir", str(store.root)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=LONGEST_WAIT)


def test_where_nothing_answers_a_push_gives_up_soon(hub: HubServer, store: Store) -> None:
    """A node without a way to the Hub keeps its GPUs no longer than for a first answer, and says what completes it."""
    (run,) = trained_runs(store, *HUB, "loss_type=ipo", "hub.patience=600", "hub.repo=me/scan")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    done = impatient(hub, store, HF_ENDPOINT=f"http://127.0.0.1:{port}")
    assert done.returncode == 1
    assert "no way to the Hub from" in done.stdout
    assert "`python -m launcher publish` completes it" in done.stdout
    assert not run.revision_file.exists()


SILENT = """
import sys, time, httpx2, tenacity
from types import SimpleNamespace
from launcher.cli import main as cli; from launcher.hub import faults as hub
waited = []
def knock():
    raise httpx2.ConnectError("nobody there")
hub.knock, hub.time = knock, SimpleNamespace(monotonic=lambda: sum(waited))
tenacity.nap.time = SimpleNamespace(sleep=waited.append)
code = cli.main(sys.argv[1:])
print("waited", sum(waited))
sys.exit(code)
"""


def test_a_first_answer_is_waited_for_once_for_all_models(hub: HubServer, store: Store) -> None:
    """Not a minute for each of a sweep's 60 models, of which each is named all the same."""
    trained_runs(store, *HUB, "loss_type=ipo", "beta=0.1,0.2,0.5,1", "hub.repo=me/scan")
    done = impatient(hub, store, SILENT)
    assert done.returncode == 1, done.stderr
    told = re.findall(r"me/scan@ipo-(\S+): no way to the Hub", done.stdout)
    assert set(told) == {"0.1", "0.2", "0.5", "1"}
    assert 0 < float(done.stdout.split("waited ")[1]) < 60


def test_a_hub_that_answers_with_errors_has_all_the_patience(hub: HubServer, store: Store) -> None:
    """However long it is in trouble: an answer is an answer, and the push comes through in the end."""
    (run,) = trained_runs(store, *HUB, "loss_type=ipo", "hub.repo=me/tiny-scan")
    first_asked: list[float] = []

    def fault(*_: str) -> str | None:
        first_asked.append(time.monotonic())
        return "503" if first_asked[-1] < first_asked[0] + 8.0 else None

    hub.fault = fault
    done = impatient(hub, store)
    assert done.returncode == 0, done.stdout + done.stderr
    assert hub.faults["503"] > 2
    assert_whole(hub, run, "ipo-0.1")


def test_no_signed_address_and_no_token_reaches_a_file_or_the_screen(hub: HubServer, store: Store) -> None:
    """Addresses that the Hub signs for an upload are told without their signature, tokens not at all."""
    trained_runs(store, *HUB, "loss_type=ipo")
    hub.fault = lambda method, _: "403" if method == "PUT" else None
    done = publish(hub, store, "scan")
    assert done.returncode == 1
    assert "/lfs/" in done.stdout
    assert "403" in done.stdout
    hub.fail_once(lfs="500")
    again = publish(hub, store, "scan")
    assert again.returncode == 0
    told = done.stdout + done.stderr + again.stdout + again.stderr
    assert not [word for word in (TOKEN, "PlantedSignature") if word in told]
    assert files_holding(store.root, TOKEN, "PlantedSignature") == []
    content = b"".join(b"".join(commit.files.values()) for commit in hub.repos[REPO].commits.values())
    assert TOKEN.encode() not in content


def test_the_best_models_are_gathered_in_a_collection(hub: HubServer, store: Store) -> None:
    """Its one item is the repository, whose note names the best revisions, best first; gathering again renews it."""
    runs = trained_runs(store, *HUB, "loss_type=ipo", "beta=0.1,0.2,0.5")
    for run, reward in zip(runs, (0.25, 0.75, 0.5), strict=True):
        write_derived(run.evaluation_file, json.dumps(evaluation(reward)))
    done = json.loads(publish(hub, store, "scan", "--collection", "2", "--json").stdout)
    (collection,) = hub.collections.values()
    assert done["collection"].endswith(collection["slug"])
    (item,) = collection["items"]
    assert item["id"] == REPO
    assert item["note"]["text"] == "ipo-0.2: golden_reward 0.750 ± 0.062; ipo-0.5: golden_reward 0.500 ± 0.062"
    publish(hub, store, "scan", "--collection", "1")
    assert [each["note"]["text"] for each in collection["items"]] == ["ipo-0.2: golden_reward 0.750 ± 0.062"]
    assert collection["private"]


# ------------------------------------------------------------------------------------------------ what is there


def said_twice(hub: HubServer, store: Store, *, code: int = 0) -> dict[str, str]:
    """What --dry-run says of each model, and publishing then too, which both end with this code."""
    told = []
    for more in (("--dry-run",), ()):
        done = publish(hub, store, "scan", *more)
        assert done.returncode == code, done.stdout + done.stderr
        lines = [line.split("] ")[-1].split(": ", 1) for line in done.stdout.splitlines()[:-1]]
        told.append({name: words for name, words in lines if not re.match(r"\d[\d.]* [kM]B to ", words)})
    assert told[0].keys() == told[1].keys()
    return {name: f"{words}\n{told[1][name]}" for name, words in told[0].items()}


def test_what_is_gone_from_the_hub_is_published_again(hub: HubServer, store: Store) -> None:
    """A branch that was removed there, then the whole repository: --dry-run says so, and publishing makes it anew."""
    one, two = trained_runs(store, *HUB, "loss_type=ipo", "beta=0.1,0.5")
    publish(hub, store, "scan")
    del hub.repos[REPO].branches["ipo-0.1"]
    told = said_twice(hub, store)
    assert told[one.run_id].startswith("no longer on the Hub (ipo-0.1 of tiny-scan, hub=huggingface)\npublished as ")
    assert told[two.run_id] == "\n".join([f"is published as {REPO}@ipo-0.5"] * 2)
    assert_whole(hub, one, "ipo-0.1")
    del hub.repos[REPO]
    told = said_twice(hub, store)
    assert {words.partition(" (")[0] for words in told.values()} == {"no longer on the Hub"}
    assert_whole(hub, two, "ipo-0.5")
    assert hub.repos[REPO].private


def test_what_was_edited_on_the_hub_stays(hub: HubServer, store: Store) -> None:
    """Somebody has written into the card there: the model is published all the same, and the words are kept."""
    (run,) = trained_runs(store, *HUB, "loss_type=ipo")
    publish(hub, store, "scan")
    files = head(hub, "ipo-0.1").files
    edited = hub.repos[REPO].add("ipo-0.1", "by hand", {**files, "README.md": b"words"})
    told = said_twice(hub, store)[run.run_id]
    words = f"is published as {REPO}@ipo-0.1, and its card was edited there since (commit {edited.id})"
    assert told == f"{words}\n{words}"
    assert head(hub, "ipo-0.1") == edited


@pytest.mark.parametrize("weights", [b"by hand", None])
def test_weights_that_were_changed_beside_our_marker_are_published_again(
    hub: HubServer, store: Store, weights: bytes | None
) -> None:
    """The marker alone proves nothing: other weights under it, or none, are named and put right."""
    (run,) = trained_runs(store, *HUB, "loss_type=ipo")
    publish(hub, store, "scan")
    files = {**head(hub, "ipo-0.1").files}
    name = next(name for name in files if name.endswith(".safetensors"))
    hub.repos[REPO].add("ipo-0.1", "by hand", {k: v for k, v in (files | {name: weights}).items() if v is not None})
    told = said_twice(hub, store)[run.run_id]
    assert told.startswith(f"changed on the Hub since: {name} (ipo-0.1 of tiny-scan, hub=huggingface)\npublished as ")
    now = head(hub, "ipo-0.1")
    assert now.files[name] == (run.model / name).read_bytes()
    assert (read_fact(run.revision_file) or {})["commit"] == now.id
    assert said_twice(hub, store)[run.run_id] == "\n".join([f"is published as {REPO}@ipo-0.1"] * 2)


def test_a_marker_that_is_none_is_somebodys(hub: HubServer, store: Store) -> None:
    """Whatever its file holds: an error of that model, and the others are looked at."""
    runs = trained_runs(store, *HUB, "loss_type=ipo", "beta=0.1,0.2,0.5")
    publish(hub, store, "scan")
    files = head(hub, "ipo-0.1").files
    for revision, content in (("ipo-0.1", b"[]"), ("ipo-0.2", b"\xff")):
        hub.repos[REPO].add(revision, "by hand", {**files, "prefsweep.json": content})
    told = said_twice(hub, store, code=1)
    assert [("which is none of ours" in told[run.run_id]) for run in runs] == [True, True, False]


def test_a_starting_point_that_is_gone_is_published_again(hub: HubServer, store: Store) -> None:
    """Adapters name its revision, so that they load again."""
    (run,) = trained_runs(store, *HUB, "loss_type=ipo")
    made = store.cache("models", "merged-0123")
    made.mkdir(parents=True)
    (made / "model.safetensors").write_bytes(b"weights")
    (run.model / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(made), "r": 4}))
    publish(hub, store, "scan")
    (start,) = [name for name in hub.repos[REPO].branches if name.startswith("start-")]
    named = json.loads(head(hub, "ipo-0.1").files["adapter_config.json"])
    assert (named["base_model_name_or_path"], named["revision"]) == (REPO, start)
    del hub.repos[REPO].branches[start]
    told = said_twice(hub, store)[run.run_id]
    assert told.startswith(f"its starting point {start} is no longer on the Hub (ipo-0.1 of tiny-scan")
    assert head(hub, start).files["model.safetensors"] == b"weights"
    assert json.loads(head(hub, "ipo-0.1").files["adapter_config.json"]) == named


def test_what_was_replaced_on_the_hub_is_an_error_that_keeps_no_other(hub: HubServer, store: Store) -> None:
    """Another run's model, or what is none of ours, in place of a published one: named with its commit, not touched."""
    one, two, three = trained_runs(store, *HUB, "loss_type=ipo", "beta=0.1,0.2,0.5")
    publish(hub, store, "scan", one.run_id, two.run_id)
    before = head(hub, "ipo-0.1").id
    hub.repos[REPO].branches["ipo-0.1"] = theirs = head(hub, "ipo-0.2").id
    hand = hub.repos[REPO].add("ipo-0.2", "by hand", {"model.safetensors": b"by hand"})
    told = said_twice(hub, store, code=1)
    moved = f"{REPO}@ipo-0.1 was published at commit {before} and is at {theirs} now, which is the revision of "
    assert told[one.run_id].startswith(f"{moved}{two.run_id}; remove that branch to have it published again, or ")
    assert told[one.run_id].endswith("publish it elsewhere with --repo")
    assert f"is at {hand.id} now, which is none of ours; " in told[two.run_id]
    assert told[three.run_id].endswith(f"published as {REPO}@ipo-0.5")
    assert_whole(hub, three, "ipo-0.5")
    assert [head(hub, name).id for name in ("ipo-0.1", "ipo-0.2")] == [theirs, hand.id]


@pytest.mark.parametrize("why", ["no way", "no token"])
def test_where_the_hub_cannot_be_asked_nothing_is_claimed(hub: HubServer, store: Store, why: str) -> None:
    """Neither that a published model is there nor that it is gone; what is not known is said, and is no error."""
    trained_runs(store, *HUB, "loss_type=ipo", "beta=0.1,0.5")
    publish(hub, store, "scan")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    lacking = {"no way": {"HF_ENDPOINT": f"http://127.0.0.1:{port}"}, "no token": {"HF_TOKEN": ""}}[why]
    done = publish(hub, store, "scan", **lacking)
    assert done.returncode == 0, done.stdout
    reason = {"no way": f"{REPO}: no way to the Hub from", "no token": f"{REPO}: .*401"}[why]
    for name in ("ipo-0.1", "ipo-0.5"):
        assert re.search(rf"was published as {REPO}@{name}; not checked: {reason}", done.stdout)
    assert done.stdout.endswith("0 of 2 runs of scan are published; 2 more were, and could not be checked\n")
    assert "is published" not in done.stdout
    told = json.loads(publish(hub, store, "scan", "--json", **lacking).stdout)["runs"]
    assert [(each["checked"], each["error"]) for each in told] == [(False, None)] * 2


def test_a_dry_run_pushes_nothing(hub: HubServer, store: Store) -> None:
    """--dry-run names what would be pushed where; of models that are published nowhere it asks nobody."""
    (run,) = trained_runs(store, *HUB, "loss_type=ipo")
    done = publish(hub, store, "scan", "--dry-run")
    assert f"{run.run_id}: to be published (ipo-0.1 of tiny-scan, hub=huggingface)" in done.stdout
    assert not hub.requests
    assert not run.revision_file.exists()
