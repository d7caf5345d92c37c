"""What lies in a run's folder, read without a line of prefsweep's.

Owns: weights, losses, the facts that must never change. Must not know: what follows from them.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

# Written once, so that nobody may change or remove them; from the output folder.
FACTS = (
    "runs/*/attempts/*/attempt.json", "runs/*/attempts/*/job.json", "runs/*/attempts/*/started.json",
    "runs/*/attempts/*/failure.json", "runs/*/attempts/*/unpublished.json", "runs/*/attempts/*/cancel.json",
    "runs/*/starts/*.json", "runs/*/result.json", "runs/*/revision.json", "runs/*/evaluation.json",
    "runs/*/evaluations/*.json", "sweeps/*/launches/*.json", "sweeps/*/jobs/*/batch.json", "sweeps/*/jobs/*/work.json",
    "sweeps/*/jobs/*/jobs.json",
    "cache/prepare/*/*/batch.json", "cache/prepare/*/*/job.json",
)  # fmt: skip


def facts_below(root: Path) -> list[Path]:
    """Every fact of an output folder that there is now."""
    return [path for pattern in FACTS for path in root.glob(pattern)]


def jobs_below(root: Path, home: str = "") -> dict[str, list[Path]]:
    """Every job that files name, with the attempts that it makes: batches list them, older facts too.

    By CLUSTER/ID; `home`: the cluster of those that name none; without that, by its id.
    """

    def name(job: dict[str, Any]) -> str:
        return "/".join(filter(None, [job.get("cluster") or home, str(job.get("job_id"))]))

    found = {name(fact(path)): [path.parent] for path in root.glob("runs/*/attempts/*/job.json")}
    found |= {name(fact(path)): [] for path in root.glob("cache/prepare/*/*/job.json")}
    for path in [*root.glob("sweeps/*/jobs/*/jobs.json"), *root.glob("cache/prepare/*/*/jobs.json")]:
        work = fact(path.with_name("work.json")).get("jobs", [])
        for number, job in enumerate(fact(path).get("jobs", [])):
            attempts = work[number].get("attempts", []) if number < len(work) else []
            found[name(job)] = [Path(attempt) for attempt in attempts]
    return found


def owner_of(path: Path) -> int | None:
    """The user whose file it is; None where it has gone meanwhile."""
    with suppress(OSError):
        return path.lstat().st_uid
    return None


def weights_of(model: Path) -> str:
    """A hash of all tensors of a model, by name; empty where there is none."""
    if not (model / "model.safetensors").exists():
        return ""
    return hash_of(load_file(model / "model.safetensors"))


def hash_of(tensors: dict[str, Any]) -> str:
    """A hash of tensors: their names, types, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tensors[name].shape}".encode())
        digest.update(tensors[name].tobytes())
    return digest.hexdigest()


def lines_of(log: Path) -> list[dict[str, Any]]:
    """The whole lines of a log."""
    lines: list[dict[str, Any]] = []
    for line in log.read_text(errors="replace").split("\n") if log.exists() else ():
        with suppress(ValueError):
            lines.append(json.loads(line))
    return [line for line in lines if isinstance(line, dict)]


def losses_of(run: Path) -> dict[int, float]:
    """The loss of each step; of a step that was done twice, the later one's."""
    return {line["step"]: line["loss"] for line in lines_of(run / "metrics.jsonl") if "step" in line}


def fact(path: Path) -> dict[str, Any]:
    """A fact as it is; empty where it is not there or damaged."""
    with suppress(OSError, ValueError):
        content = json.loads(path.read_text())
        return content if isinstance(content, dict) else {}
    return {}
