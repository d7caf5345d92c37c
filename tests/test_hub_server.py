"""The Hub on loopback, asked by the real huggingface_hub, transformers and datasets."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import clean_environment
from hub_contents import DATA_SETS, MODELS, TRAIN, named, plant_everything
from hub_server import TOKEN, HubServer, serving
from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from waiting import LONGEST_WAIT

COMMIT, LATER = "a" * 40, "b" * 40
WEIGHTS = bytes(range(256)) * 48_000  # more than huggingface_hub keeps in memory before it writes
FILES = {"config.json": b"{}", "model.safetensors": WEIGHTS, "runs/one/log.txt": b"log"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # whatever the environment said when it was imported
    with serving() as server:
        yield server


def api(hub: HubServer, *, token: str | bool = TOKEN) -> HfApi:
    """The client of somebody with a token, or with False of somebody without."""
    return HfApi(endpoint=hub.url, token=token)


def fetch(hub: HubServer, repo: str, file: str, cache: Path, **options: Any) -> bytes:
    return Path(
        hf_hub_download(repo, file, endpoint=hub.url, cache_dir=cache, **{"token": TOKEN, **options})
    ).read_bytes()


# ------------------------------------------------------------------------------------------------ what is told


def test_a_prescribed_commit_stays_when_its_branch_moves(hub: HubServer) -> None:
    """A branch, a tag and the commit itself lead to what was planted; the moved branch to what came later."""
    hub.plant("model", "org/base", FILES, commit=COMMIT)
    hub.plant("model", "org/base", {"config.json": b"[]"}, commit=LATER).tags["v1"] = COMMIT
    client = api(hub, token=False)
    shas = {revision: client.repo_info("org/base", revision=revision).sha for revision in (None, "main", "v1", COMMIT)}
    assert shas == {None: LATER, "main": LATER, "v1": COMMIT, COMMIT: COMMIT}
    refs = client.list_repo_refs("org/base")
    assert {ref.name: ref.target_commit for ref in refs.branches} == {"main": LATER}
    assert {ref.name: ref.target_commit for ref in refs.tags} == {"v1": COMMIT}
    assert [commit.commit_id for commit in client.list_repo_commits("org/base")] == [LATER, COMMIT]


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_files_are_listed_with_their_sizes_and_names_by_content(hub: HubServer, kind: str) -> None:
    """Both ways of listing agree; of large files they know the hash; folders are there, and one alone can be listed."""
    hub.plant(kind, "org/base", FILES)
    client = api(hub, token=False)
    info = client.repo_info("org/base", repo_type=kind, files_metadata=True)
    sizes = {each.rfilename: each.size for each in info.siblings}
    assert sizes == {path: len(data) for path, data in FILES.items()}
    listed = {each.path: each for each in client.list_repo_tree("org/base", repo_type=kind, recursive=True)}
    assert set(listed) == {*FILES, "runs", "runs/one"}
    assert listed["model.safetensors"].lfs.sha256 == hub_hash(info, "model.safetensors")
    assert listed["config.json"].lfs is None
    assert [each.path for each in client.list_repo_tree("org/base", "runs", repo_type=kind)] == ["runs/one"]
    some = client.get_paths_info("org/base", ["config.json", "runs", "none"], repo_type=kind)
    assert {each.path for each in some} == {"config.json", "runs"}
    with pytest.raises(RemoteEntryNotFoundError):
        list(client.list_repo_tree("org/base", "none", repo_type=kind))


def hub_hash(info: Any, file: str) -> str:
    (found,) = [each.lfs.sha256 for each in info.siblings if each.rfilename == file]
    return str(found)


# ------------------------------------------------------------------------------------------------ who may


def test_what_is_not_there_is_told_apart(hub: HubServer, tmp_path: Path) -> None:
    """No such repository, revision or file; a private one is none for whom has no token, a wrong token is refused."""
    hub.plant("model", "org/base", FILES)
    hub.plant("dataset", "org/ours", FILES, private=True)
    client = api(hub)
    assert client.repo_info("org/ours", repo_type="dataset").private
    for known, kind, repo in ((client, "model", "org/none"), (api(hub, token=False), "dataset", "org/ours")):
        with pytest.raises(RepositoryNotFoundError):
            known.repo_info(repo, repo_type=kind)
    with pytest.raises(RevisionNotFoundError):
        client.repo_info("org/base", revision=COMMIT)
    with pytest.raises(RemoteEntryNotFoundError):
        fetch(hub, "org/base", "none.json", tmp_path)
    with pytest.raises(HfHubHTTPError, match="401"):
        api(hub, token="hf_WrongTokenOfTheTests").repo_info("org/base")  # noqa: S106 - a wrong one


def test_a_gated_repository_tells_all_and_gives_nothing(hub: HubServer, tmp_path: Path) -> None:
    """Its files are refused without a token (401), and with one until its owner lets it in (403)."""
    repo = hub.plant("model", "org/gated", FILES, gated="manual")
    assert api(hub, token=False).repo_info("org/gated").gated == "manual"
    for token, status in ((False, 401), (TOKEN, 403)):
        for work in (lambda token: api(hub, token=token).auth_check("org/gated"),
                     lambda token: fetch(hub, "org/gated", "config.json", tmp_path, token=token)):  # fmt: skip
            with pytest.raises(GatedRepoError) as refused:
                work(token)
            assert refused.value.response.status_code == status
    repo.lets_us_in = True
    api(hub).auth_check("org/gated")
    assert fetch(hub, "org/gated", "config.json", tmp_path) == b"{}"


# ------------------------------------------------------------------------------------------------ downloads


def test_a_snapshot_is_what_was_planted_and_is_fetched_once(hub: HubServer, tmp_path: Path) -> None:
    """Each file comes bit for bit, the large one from the storage and without the token; the second time none does."""
    hub.plant("model", "org/base", FILES, commit=COMMIT)
    for _ in range(2):
        folder = Path(snapshot_download("org/base", endpoint=hub.url, cache_dir=tmp_path, token=TOKEN))
        assert {path: (folder / path).read_bytes() for path in FILES} == FILES
    assert folder.name == COMMIT
    for path, data in FILES.items():
        assert hub.downloads[f"org/base/{path}"] == {"requests": 1, "ranges": 0, "sent": len(data)}
    assert hub.requests["download"] == 1


def test_a_download_that_breaks_off_is_resumed(hub: HubServer, tmp_path: Path) -> None:
    """What has come stays: the client asks for the rest of the file alone."""
    hub.plant("model", "org/base", FILES)
    hub.spoil("org/base/model.safetensors", f"cut:{len(WEIGHTS) - 1000}")
    assert fetch(hub, "org/base", "model.safetensors", tmp_path) == WEIGHTS
    counts = hub.downloads["org/base/model.safetensors"]
    assert (counts["requests"], counts["ranges"]) == (2, 1)
    assert counts["sent"] < 1.5 * len(WEIGHTS)


def test_downloads_of_one_file_meet_the_faults_that_a_test_asks_for(hub: HubServer, tmp_path: Path) -> None:
    """A status, so many times, or a slow body; other files are not touched."""
    hub.plant("model", "org/base", FILES)
    hub.spoil("org/base/config.json", "500", times=2)
    for _ in range(2):
        with pytest.raises(HfHubHTTPError, match="500"):
            fetch(hub, "org/base", "config.json", tmp_path)
    assert fetch(hub, "org/base", "config.json", tmp_path) == b"{}"
    hub.spoil("org/base/runs/one/log.txt", "drip:20")
    start = time.monotonic()
    assert fetch(hub, "org/base", "runs/one/log.txt", tmp_path) == b"log"
    assert time.monotonic() - start > 0.1
    assert hub.downloads["org/base/config.json"]["requests"] == 3


# ------------------------------------------------------------------------------------------------ the other libraries

LOAD = """
import hashlib, json, sys
from datasets import disable_progress_bars, load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

disable_progress_bars()
asked, found = json.load(sys.stdin), {}
for path, revision in asked["models"]:
    weights = AutoModelForCausalLM.from_pretrained(path, revision=revision).state_dict()
    text = AutoTokenizer.from_pretrained(path, revision=revision).apply_chat_template(
        [{"role": "user", "content": "hello"}], tokenize=False, add_generation_prompt=True)
    digest = hashlib.sha256(b"".join(value.numpy().tobytes() for value in weights.values())).hexdigest()
    found[f"{path}@{revision}"] = [digest, text]
for path, revision, split in asked["data_sets"]:
    rows = load_dataset(path, revision=revision, split=split)
    found[f"{path}@{revision}"] = [len(rows), rows[0]]
print(json.dumps(found))
"""


def test_transformers_and_datasets_load_what_conf_names(tmp_path: Path) -> None:
    """Each model and data set at conf's commit, the models also at main, which has moved on; and again offline."""
    models = [(named("model", choice)["path"], named("model", choice)["revision"]) for choice in MODELS]
    sets = [(said["path"], said["revision"], said["train_split"]) for said in (named("dataset", c) for c in DATA_SETS)]
    asked = json.dumps({"models": models + [(path, "main") for path, _ in models], "data_sets": sets})
    with serving() as hub:
        plant_everything(hub)

        def load(**more: str) -> dict[str, Any]:
            environment = clean_environment(**(hub.environment(str(tmp_path)) | more))
            command = [sys.executable, "-c", LOAD]
            done = subprocess.run(
                command, env=environment, input=asked, capture_output=True, text=True, check=False, timeout=LONGEST_WAIT
            )
            assert done.returncode == 0, done.stderr
            loaded: dict[str, Any] = json.loads(done.stdout)
            return loaded

        online, requests = load(), sum(hub.requests.values())
        assert load(HF_HUB_OFFLINE="1") == online
        assert sum(hub.requests.values()) == requests
        weights = [counts for file, counts in hub.downloads.items() if file.endswith(".safetensors")]
    assert [counts["requests"] for counts in weights] == [2] * 2 * len(models)  # one of each commit
    assert len({online[f"{path}@{revision}"][0] for path, pinned in models for revision in (pinned, "main")}) == 4
    zephyr, openhermes = (online[f"{path}@{revision}"][1] for path, revision in models)
    assert zephyr.startswith("<|user|>\nhello")
    assert openhermes.startswith("<|im_start|>user\nhello")
    assert [online[f"{path}@{revision}"][0] for path, revision, _ in sets] == [TRAIN] * len(sets)
    assert online[f"{sets[0][0]}@{sets[0][1]}"][1]["chosen"][0]["role"] == "user"
