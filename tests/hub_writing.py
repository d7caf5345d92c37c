"""How models get onto a Hub on loopback: its endpoints for those who publish, large files' ways, and collections."""

from __future__ import annotations

import base64
import json
import re
import time
from typing import TYPE_CHECKING, Any

from hub_http import STORAGE, Answer, Refusal, Request
from hub_reading import DATE, NAME, USER, commit_at
from hub_repos import Repo, etag, is_large

if TYPE_CHECKING:
    from hub_server import HubServer


def validate(_: HubServer, request: Request) -> Answer:
    assert json.loads(request.body)["content"].startswith("---\n")
    return 200, {"errors": [], "warnings": []}, {}


def create(hub: HubServer, request: Request) -> Answer:
    asked = json.loads(request.body)
    name = f"{asked.get('organization') or USER}/{asked['name']}"
    if name in hub.repos:
        raise Refusal(409, "You already created this model repo", url=f"{hub.url}/{name}")
    hub.repos[name] = Repo(name, private=asked.get("visibility") == "private")
    hub.repos[name].add("main", "initial commit", {".gitattributes": b"*.safetensors filter=lfs\n"})
    return 200, {"url": f"{hub.url}/{name}", "name": name}, {}


def branch(hub: HubServer, request: Request, name: str, branch: str) -> Answer:
    repo = hub.repo(request, "models", name)
    if branch in repo.branches:
        raise Refusal(409, f"Reference already exists: {branch}")
    repo.branches[branch] = commit_at(repo, json.loads(request.body or b"{}").get("startingPoint", "main")).id
    return 200, {}, {}


def delete_branch(hub: HubServer, request: Request, name: str, branch: str) -> Answer:
    if hub.repo(request, "models", name).branches.pop(branch, None) is None:
        raise Refusal(404, f"Invalid rev id: {branch}", "RevisionNotFound")
    return 200, {}, {}


def preupload(hub: HubServer, request: Request, name: str, revision: str) -> Answer:
    there = commit_at(hub.repo(request, "models", name), revision).files

    def mode(path: str) -> dict[str, Any]:
        oid = etag(path, there[path]) if path in there else None
        how = "lfs" if is_large(path) else "regular"
        return {"path": path, "uploadMode": how, "shouldIgnore": False, "oid": oid}

    return 200, {"files": [mode(file["path"]) for file in json.loads(request.body)["files"]]}, {}


def batch(hub: HubServer, request: Request, name: str) -> Answer:
    hub.repo(request, "models", name)

    def action(asked: dict[str, Any]) -> dict[str, Any]:
        signed = f"{hub.storage}{STORAGE}{asked['oid']}?X-Amz-Signature=PlantedSignature"
        needed = {} if asked["oid"] in hub.objects else {"actions": {"upload": {"href": signed, "header": {}}}}
        return {"oid": asked["oid"], "size": asked["size"], **needed}

    return 200, {"transfer": "basic", "objects": [action(each) for each in json.loads(request.body)["objects"]]}, {}


def xet_token(hub: HubServer, request: Request, name: str, _: str, __: str) -> Answer:
    hub.repo(request, "models", name)
    expiry = int(time.time()) + 3600
    named = {"X-Xet-Cas-Url": hub.xet_storage, "X-Xet-Access-Token": "none", "X-Xet-Token-Expiration": str(expiry)}
    return 200, {"casUrl": hub.xet_storage, "accessToken": "none", "exp": expiry}, named


def commit(hub: HubServer, request: Request, name: str, branch: str) -> Answer:
    repo = hub.repo(request, "models", name)
    lines = [json.loads(line) for line in request.body.splitlines()]
    header, files = lines[0]["value"], dict(commit_at(repo, branch).files)
    if header.get("parentCommit") not in (None, commit_at(repo, branch).id):
        raise Refusal(412, "A commit has happened since. Please refresh and try again.")
    for line in lines[1:]:
        value, path = line["value"], line["value"]["path"]
        if line["key"] == "deletedFile":
            del files[path]
        elif line["key"] == "lfsFile":
            files[path] = hub.objects[value["oid"]]
        else:
            files[path] = base64.b64decode(value["content"])
    done = repo.add(branch, header["summary"], files)
    url = f"{hub.url}/{name}/commit/{done.id}"
    return 200, {"commitUrl": url, "commitOid": done.id, "pullRequestUrl": None}, {}


def collection(hub: HubServer, request: Request) -> Answer:
    asked = json.loads(request.body)
    slug = f"{asked['namespace']}/{re.sub(r'[^a-z0-9]+', '-', asked['title'].lower())}-0123456789abcdef01234567"
    if slug in hub.collections:
        return 409, {"slug": slug, "error": "exists"}, {}
    hub.collections[slug] = {
        "slug": slug, "owner": {"name": USER}, "items": [], "lastUpdated": DATE, "position": 0,
        "title": asked["title"], "private": asked["private"], "theme": "pink", "upvotes": 0,
    }  # fmt: skip
    return 200, hub.collections[slug], {}


def get_collection(hub: HubServer, _: Request, slug: str) -> Answer:
    return 200, hub.collections[slug], {}


def add_item(hub: HubServer, request: Request, slug: str) -> Answer:
    asked, items = json.loads(request.body), hub.collections[slug]["items"]
    item = {"_id": str(len(items)), "position": len(items), **asked["item"], "note": {"text": asked["note"]}}
    items.append(item)
    return 200, hub.collections[slug], {}


def change_item(hub: HubServer, request: Request, slug: str, item: str) -> Answer:
    hub.collections[slug]["items"][int(item)]["note"] = {"text": json.loads(request.body)["note"]}
    return 200, {}, {}


ROUTES = [
    (("POST",), r"/api/validate-yaml", validate),
    (("POST",), r"/api/repos/create", create),
    (("POST",), rf"/api/models/{NAME}/branch/([^/]+)", branch),
    (("DELETE",), rf"/api/models/{NAME}/branch/([^/]+)", delete_branch),
    (("POST",), rf"/api/models/{NAME}/preupload/([^/]+)", preupload),
    (("POST",), rf"/api/models/{NAME}/commit/([^/]+)", commit),
    (("POST",), rf"/{NAME}\.git/info/lfs/objects/batch", batch),
    (("GET",), rf"/api/models/{NAME}/xet-(write|read)-token/([^/]+)", xet_token),
    (("POST",), r"/api/collections", collection),
    (("GET",), rf"/api/collections/{NAME}", get_collection),
    (("POST",), rf"/api/collections/{NAME}/items", add_item),
    (("PATCH",), rf"/api/collections/{NAME}/items/(\w+)", change_item),
]
