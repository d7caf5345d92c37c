"""What a Hub on loopback tells of models and data sets, and how their files are fetched: its endpoints for readers.

Who has no token reads what is public. Of a gated repository everybody may read what it holds, and only whom its owner
lets in may fetch it. The Hub answers in this way as observed in 2026, but for two things: small files come at once,
without a redirect within the Hub, and who has no token is told RepoNotFound in words that huggingface_hub, which
concludes it from an https address, also understands on loopback.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from hub_http import STORAGE, Answer, File, Refusal, Request
from hub_repos import Commit, Repo, entries, etag, is_large, sha256

if TYPE_CHECKING:
    from hub_server import HubServer

USER, DATE = "me", "2026-01-01T00:00:00.000Z"


def whoami(_: HubServer, request: Request) -> Answer:
    if not request.known:
        raise Refusal(401, "Invalid username or password.")
    return 200, {"name": USER, "type": "user", "orgs": []}, {}


def auth_check(hub: HubServer, request: Request, kind: str, name: str) -> Answer:
    let_in(request, hub.repo(request, kind, name))
    return 200, {}, {}


def info(hub: HubServer, request: Request, kind: str, name: str, revision: str = "main") -> Answer:
    repo = hub.repo(request, kind, name)
    commit = commit_at(repo, revision)
    told = {
        "id": name, "author": name.partition("/")[0], "sha": commit.id, "private": repo.private, "disabled": False,
        "gated": repo.gated or False, "lastModified": DATE, "createdAt": DATE, "tags": [], "downloads": 0, "likes": 0,
        "siblings": [_sibling(entry, request) for entry in entries(commit.files) if entry["type"] == "file"],
    }  # fmt: skip
    return 200, told, {}


def _sibling(entry: dict[str, Any], request: Request) -> dict[str, Any]:
    told = {"rfilename": entry["path"]}
    if not request.asks_for("blobs"):
        return told
    large = {key if key != "oid" else "sha256": value for key, value in entry.get("lfs", {}).items()}
    return {**told, "size": entry["size"], "blobId": entry["oid"], **({"lfs": large} if large else {})}


def refs(hub: HubServer, request: Request, kind: str, name: str) -> Answer:
    repo = hub.repo(request, kind, name)

    def listed(names: dict[str, str], within: str) -> list[dict[str, str]]:
        return [{"name": each, "ref": f"refs/{within}/{each}", "targetCommit": id_} for each, id_ in names.items()]

    return 200, {"branches": listed(repo.branches, "heads"), "converts": [], "tags": listed(repo.tags, "tags")}, {}


def commits(hub: HubServer, request: Request, kind: str, name: str, revision: str) -> Answer:
    repo = hub.repo(request, kind, name)
    let_in(request, repo)
    commit_at(repo, revision)
    listed = [
        {"id": each.id, "title": each.title, "message": "", "authors": [{"user": USER}], "date": DATE}
        for each in repo.history(revision)
    ]
    return 200, listed, {}


def tree(hub: HubServer, request: Request, kind: str, name: str, revision: str, folder: str = "") -> Answer:
    commit = commit_at(hub.repo(request, kind, name), revision)
    within = f"{folder}/" if folder else ""
    below = [entry for entry in entries(commit.files) if entry["path"].startswith(within)]
    if within and not below:
        raise Refusal(404, f'{folder} does not exist on "{revision}"', "EntryNotFound", commit.id)
    if not request.asks_for("recursive"):
        below = [entry for entry in below if "/" not in entry["path"].removeprefix(within)]
    return 200, below, {}


def paths_info(hub: HubServer, request: Request, kind: str, name: str, revision: str) -> Answer:
    asked = set(parse_qs(request.body.decode())["paths"])
    files = commit_at(hub.repo(request, kind, name), revision).files
    return 200, [entry for entry in entries(files) if entry["path"] in asked], {}


def resolve(hub: HubServer, request: Request, kind: str, name: str, revision: str, path: str) -> Answer:
    """A small file; for a large one a signed address in the storage, which is on another host, and wants no token."""
    repo = hub.repo(request, kind, name)
    let_in(request, repo)
    commit = commit_at(repo, revision)
    if path not in commit.files:
        raise Refusal(404, "Entry not found", "EntryNotFound", commit.id)
    data = commit.files[path]
    headers = {"X-Repo-Commit": commit.id, "ETag": f'"{etag(path, data)}"'}
    file = f"{repo.address}/{path}"
    if not is_large(path):
        return 200, File(file, data), headers
    hub.objects[sha256(data)] = data
    linked = {"X-Linked-Size": str(len(data)), "X-Linked-ETag": f'"{sha256(data)}"', "Accept-Ranges": "bytes"}
    address = f"{hub.storage}{STORAGE}{sha256(data)}/{file}?X-Amz-Signature=PlantedSignature"
    return 302, b"", {**headers, **linked, **_xet_headers(hub, kind, name, commit, data), "Location": address}


def _xet_headers(hub: HubServer, kind: str, name: str, commit: Commit, data: bytes) -> dict[str, str]:
    """Where xet has a file, by the name that it knows it under."""
    if hub.xet is None:
        return {}
    route = f'<{hub.url}/api/{kind or "models"}/{name}/xet-read-token/{commit.id}>; rel="xet-auth"'
    return {"X-Xet-Hash": hub.xet[sha256(data)], "Link": route}


# ------------------------------------------------------------------------------------------- who may, what is there


def let_in(request: Request, repo: Repo) -> None:
    """Refuse whom a gated repository's owner has not let in."""
    if repo.gated is None or (request.known and repo.lets_us_in):
        return
    if request.known:
        why = f"and you are not in the authorized list. Visit https://huggingface.co/{repo.address} to ask for access."
        raise Refusal(403, f"Access to {repo.address} is restricted {why}", "GatedRepo")
    why = "You must have access to it and be authenticated to access it. Please log in."
    raise Refusal(401, f"Access to {repo.address} is restricted. {why}", "GatedRepo")


def commit_at(repo: Repo, revision: str) -> Commit:
    commit = repo.find(revision)
    if commit is None:
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    return commit


NAME = r"([\w.-]+/[\w.-]+)"
REPO = rf"/api/(models|datasets)/{NAME}"
ROUTES = [
    (("GET",), r"/api/whoami-v2", whoami),
    (("GET",), rf"{REPO}/auth-check", auth_check),
    (("GET",), rf"{REPO}", info),
    (("GET",), rf"{REPO}/revision/([^/]+)", info),
    (("GET",), rf"{REPO}/refs", refs),
    (("GET",), rf"{REPO}/commits/([^/]+)", commits),
    (("GET",), rf"{REPO}/tree/([^/]+)(?:/(.+))?", tree),
    (("POST",), rf"{REPO}/paths-info/([^/]+)", paths_info),
    (("GET", "HEAD"), rf"/(?:(datasets)/)?{NAME}/resolve/([^/]+)/(.+)", resolve),
]
