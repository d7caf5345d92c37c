"""The model below a published adapter, where it lies only in this output folder.

Owns: when an adapter needs it, and what is published of it.
Must not know: how a revision is pushed, how the model was made.

An adapter's configuration names the model that it was trained on. A model that was made here (an adapter merged into
its base, an unpacked GGUF file, random weights) has no name outside of this output folder. So it is published once
beside the adapters that need it, and they name it there. What lies in a folder of the user's is not uploaded unasked:
an adapter of that names the folder.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from launcher.errors import PublishError
from launcher.hub.card import starting_point_card
from launcher.hub.payload import CARD, Payload
from launcher.model.adapter import CONFIG_FILE
from launcher.model.files import model_files
from launcher.store.entries import lost_files
from launcher.store.files import read_fact
from launcher.store.origins import Sources
from launcher.store.output_folder import Store
from launcher.store.run_folder import Point

START = "start-"  # how such a revision's name begins
MADE_HERE = ("cache", "models")  # the last folders of a path below the output folder, which may have been moved


def starting_point(point: Point, store: Store) -> Path | None:
    """The folder of the model below an adapter that is to be published; None where it needs none beside it.

    Raises:
        PublishError: it was removed.
    """
    name = _name_of_start(point)
    if name is None:
        return None
    folder = store.cache("models", name)
    if not folder.is_dir() or lost_files(folder):
        raise PublishError(
            f"{point.name}: is an adapter of {folder}, which was removed, or lost files; any job of the sweep makes it "
            "again, such as "
            "that of `evaluate SWEEP --again`"
        )
    return folder


def _name_of_start(point: Point) -> str | None:
    file = point.folder.model / CONFIG_FILE
    if not file.is_file():
        return None
    base = Path(str(json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")))
    return base.name if base.parts[-3:-1] == MADE_HERE else None


def revision_of_start(point: Point) -> str | None:
    """The revision that holds the model below an adapter; None where it needs none beside it.

    A name that tells the model from all others that were made here: so what was removed can be published again under
    the name that adapters know it by.
    """
    name = _name_of_start(point)
    return None if name is None else f"{START}{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def payload_of_start(folder: Path, point: Point, address: str, license_: str | None) -> Payload:
    """What is published of it; `point` is one of the adapters that need it."""
    files = model_files(folder)
    digest = hashlib.sha256(folder.name.encode())
    for name, path in files.items():
        digest.update(f"\0{name}\0{path.stat().st_size}".encode())
    sources = read_fact(point.run.sources_file, Sources) or Sources()
    card = starting_point_card(point.run.read_config()["model"], sources.model, address, license_)
    return Payload(f"starting point {folder.name}", None, digest.hexdigest(), {**files, CARD: card.encode()})
