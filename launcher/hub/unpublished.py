"""Why models of an evaluated run are not published, as its facts say.

Owns: that answer. Must not know: stores of revisions, how a model is pushed. Imports nothing heavy: `status` asks it.
"""

from __future__ import annotations

from launcher.store.attempt_config import hub_of
from launcher.store.facts import Revision, Unpublished
from launcher.store.files import read_fact
from launcher.store.run_folder import AttemptDir, RunDir, points_of
from launcher.store.work_done import is_published


def why_unpublished(attempt: AttemptDir) -> str | None:
    """Why a model of an evaluated run is not published as it is now, and nothing is about to; None where all are."""
    note, hub = attempt.read(attempt.unpublished_file, Unpublished), hub_of(attempt)
    waits = "waits for the verb `publish` (hub.when=login)" if hub.store != "off" and hub.when == "login" else None
    why = waits if note is None else note.reason
    if why and is_published(attempt.run) and (note is None or _last_published(attempt.run) > note.time):
        return None
    return why


def _last_published(run: RunDir) -> float:
    facts = (read_fact(point.folder.revision_file, Revision) for point in points_of(run))
    return max((fact.time for fact in facts if fact is not None), default=0.0)
