"""Where large files of a Hub on loopback lie: under signed addresses, for whoever has one, at a host of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hub_http import Answer, File, Request
from hub_repos import sha256

if TYPE_CHECKING:
    from hub_server import HubServer

OBJECT = r"/lfs/([0-9a-f]{64})"


def upload(hub: HubServer, request: Request, oid: str) -> Answer:
    hub.hold(oid)
    with hub.lock:
        assert sha256(request.body) == oid
        hub.objects[oid] = request.body
        hub.uploads[oid] += 1
    return 200, {}, {}


def download(hub: HubServer, _: Request, oid: str, file: str) -> Answer:
    return 200, File(file, hub.objects[oid]), {"ETag": f'"{oid}"'}


ROUTES = [(("PUT",), OBJECT, upload), (("GET",), rf"{OBJECT}/(.+)", download)]
