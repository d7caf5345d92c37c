"""The processes of a fault run that train, as /proc shows them.

Owns: which ranks are alive, of which run and attempt, on which node, and whether they are stopped.
Must not know: what prefsweep says of them; nothing of it is imported.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

LOOKS_PER_SECOND = 4  # at most: a look costs some hundredths of a second
STARTS = ("submitit.core._submit", "launcher.worker.start")  # how a job is started: on this machine, by SLURM
RANK_LOG = re.compile(r"(?P<folder>/.*)/runs/(?P<run>[^/]+)/attempts/(?P<attempt>[^/]+)/rank(?P<rank>\d+)\.log")


@dataclass(frozen=True)
class Rank:
    """A process that makes an attempt, or is about to; `run` is empty until it has come to one."""

    pid: int
    start: int  # in clock ticks since boot: with the pid, its name for ever
    stopped: bool
    command: str
    node: str
    job: str
    run: str
    attempt: str
    rank: int
    cluster: str = ""  # SLURM's name of it; none on this machine


def ranks_below(folder: Path) -> list[Rank]:
    """Every living rank of the jobs whose folders lie there, by pid; not what it has forked."""
    found = [each for each in _all(int(time.monotonic() * LOOKS_PER_SECOND)) if f"{folder}/" in each[1].command]
    pids = {rank.pid for _, rank in found}
    return sorted((rank for parent, rank in found if parent not in pids), key=lambda rank: rank.pid)


@functools.lru_cache(maxsize=1)
def _all(_: int) -> list[tuple[int, Rank]]:
    """Every rank of this machine, with its parent's pid; read anew with each number."""
    return [each for process in Path("/proc").glob("[0-9]*") for each in _read(process)]


def _read(process: Path) -> list[tuple[int, Rank]]:
    with suppress(OSError, ValueError):  # it has ended meanwhile
        command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        # The other one is srun, which waits for it.
        if any(start in command for start in STARTS) and (process / "comm").read_text().startswith("python"):
            return list(_rank(process, command))
    return []


def _rank(process: Path, command: str) -> Iterator[tuple[int, Rank]]:
    values = dict(line.partition("=")[::2] for line in (process / "environ").read_text(errors="replace").split("\0"))
    number = values.get("SLURM_PROCID", values.get("SUBMITIT_LOCAL_GLOBALID"))
    if number is None:
        return
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    if fields[0] == "Z":
        return
    log = _log_of(process)
    job, array = values.get("SLURM_JOB_ID", ""), values.get("SLURM_ARRAY_JOB_ID")
    job = f"{array}_{values.get('SLURM_ARRAY_TASK_ID')}" if array else job
    place = (log["run"], log["attempt"]) if log else ("", "")
    rank = Rank(int(process.name), int(fields[19]), fields[0] in "Tt", command, values.get("SLURMD_NODENAME", ""), job,
                *place, int(number), values.get("SLURM_CLUSTER_NAME", ""))  # fmt: skip
    yield int(fields[1]), rank


def _log_of(process: Path) -> re.Match[str] | None:
    """Where its output goes: the log of an attempt, once it has come to one."""
    return RANK_LOG.fullmatch(str((process / "fd" / "1").readlink()))
