"""The end of a job on a real SLURM: a timer before the time limit, and the script that requeues where no task can.

The runs train nothing: what is tried is what becomes of their jobs. The time limit itself is in `test_slurm_runs`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import REPOSITORY
from slurm_cluster import needs_slurm, running_cluster
from slurm_site import TINY, Site
from waiting import eventually

pytestmark = needs_slurm

# In its first life a job's main thread never looks whether a warning has come; in the next its run is done at once.
STUCK = """
import os, sys
if "SLURM_PROCID" in os.environ and "launcher.worker.shielded" not in sys.orig_argv:
    import pathlib, time
    from launcher.worker import attempt
    def train(config, made, store, stop):
        if "SLURM_RESTART_COUNT" not in os.environ:
            pathlib.Path(os.environ["STUCK"]).touch()
            time.sleep(3600)
        (made.run.path / "result.json").write_text('{"steps": 1, "max_steps": 1, "seconds": 1.0}')
    attempt._train_and_evaluate = train
"""
# Runs here what was to run in the image, where there is no scontrol.
APPTAINER = """#!/bin/bash
while [[ $1 != *.sif ]]; do shift; done
shift
PATH=/nowhere exec "$@"
"""
# Warned 50 s before the limit it may have 20 s left, which is when it has to go.
WARNED = (*TINY, "evaluation=none", "hub=off", "cluster.time=60", "cluster.warning_seconds=50")
IN_CONTAINER = ("cluster.container=/a.sif", "cluster.container_runtime=apptainer", f"cluster.python={sys.executable}")


@dataclass(frozen=True)
class Stuck:
    """Sites whose run's job was stuck when it was warned of its time limit."""

    plain: Site
    contained: Site
    forbidden: Site
    by_hand: Site


@pytest.fixture(scope="module")
def stuck(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stuck]:
    folder = tmp_path_factory.mktemp("end")
    for name, text in {"code/sitecustomize.py": STUCK, "bin/apptainer": APPTAINER}.items():
        (folder / name).parent.mkdir()
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    with running_cluster("--requeue-delay", "5", "--no-accounting") as cluster:
        base = Site(cluster, folder / "none", REPOSITORY)
        places = {
            name: base.at(
                name,
                PYTHONPATH=f"{folder / 'code'}:{REPOSITORY}",
                PATH=f"{folder / 'bin'}:{cluster.environment['PATH']}",
                STUCK=str(folder / name / "stuck"),
            )
            for name in ("plain", "contained", "forbidden", "by_hand")
        }
        places["plain"].launch(*WARNED, "sweep=plain")
        places["contained"].launch(*WARNED, *IN_CONTAINER, "sweep=contained")
        places["forbidden"].launch(*WARNED, *IN_CONTAINER, "sweep=forbidden", "+cluster.extra.requeue=false")
        jobs = {name: places[name].recorded()[0] for name in ("plain", "contained", "forbidden")}
        for name, job in jobs.items():
            warn(places[name], job)
        yield Stuck(**places)


def warn(site: Site, job: str) -> None:
    """What SLURM sends before a time limit, once the job's main thread is stuck."""
    assert eventually((site.folder / "stuck").exists, 120)
    site.cluster.slurm("scancel", "--signal=USR2", job)


@pytest.mark.parametrize("name", ["plain", "contained"])
def test_a_job_that_is_not_ready_before_its_limit_goes_back_all_the_same(stuck: Stuck, name: str) -> None:
    """Under its own id, and counted; also where its tasks run in a container, which has no scontrol."""
    here: Site = getattr(stuck, name)
    here.wait(name, "TRAINED", 1, 120)
    (job,) = here.recorded()
    assert here.cluster.field(job, "Restarts") == "1"
    (line,) = map(json.loads, (here.run() / "attempts/001/requeues.jsonl").read_text().splitlines())
    assert (line["step"], line["progress"]) == (None, False)
    assert not list(here.folder.glob("outputs/sweeps/*/jobs/*/requeue.*"))


def test_where_requeueing_is_forbidden_the_script_says_so(stuck: Stuck) -> None:
    """The run in the container has timed out, with what SLURM said outside."""
    here = stuck.forbidden
    here.wait("forbidden", "TIMEOUT", 1, 120)
    reason = str(here.status("forbidden")[0]["reason"])
    assert reason.startswith("the time limit; it could not be requeued: Requested operation is presently disabled")


def test_a_job_by_hand_has_the_same_way_back(stuck: Stuck) -> None:
    """slurm/run.sbatch, with a Python whose scontrol does not work."""
    here = stuck.by_hand
    here.launch(*WARNED, "sweep=by_hand", "+cluster.extra.hold=true")
    (job,) = here.recorded()
    here.launch("cancel", "by_hand")
    python, broken = here.folder / "python", here.folder / "bin" / "scontrol"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\ncase $1 in requeue) echo munged is away >&2; exit 1;; ping) echo up;; esac\n")
    python.write_text(f'#!/bin/bash\nPATH={broken.parent}:$PATH exec {sys.executable} "$@"\n')
    for program in (python, broken):
        program.chmod(0o755)
    options = ["--parsable", "--time=60", f"--export=ALL,PREFSWEEP_PYTHON={python}"]
    command = ["sbatch", *options, REPOSITORY / "slurm/run.sbatch", here.run().relative_to(here.folder)]
    done = subprocess.run(
        command, cwd=here.folder, env=here.environment, capture_output=True, text=True, check=True, timeout=60
    )
    job_id = done.stdout.strip()
    assert job_id != job
    warn(here, job_id)
    here.wait("by_hand", "TRAINED", 1, 120)
    assert here.cluster.field(job_id, "Restarts") == "1"
    assert not list(Path(here.run()).glob("requeue.*"))
