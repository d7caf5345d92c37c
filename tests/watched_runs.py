"""Sweeps of many runs in every state, as `status` and the sweep's page find them: made of facts, without training."""

from __future__ import annotations

import json
import math
import time
from itertools import product
from zlib import crc32

from launcher.cluster.job_state import UNKNOWN, JobState, Phase
from launcher.runs.run_state import RunState
from launcher.runs.status import RunFacts, Status
from launcher.store.facts import Launch, RunRecord
from launcher.store.files import write_once
from launcher.store.output_folder import Store, SweepDir

TRACEBACK = 'Traceback (most recent call last):\n  File "train.py", line 7, in step\nValueError: no number'
REASON = "the loss is not a number after step 41: lower trainer.learning_rate, or set trainer.max_grad_norm"
STEPS = 400
States = list[RunState]


def recorded(store: Store, models: int, losses: int, betas: int, name: str = "many") -> SweepDir:
    """A sweep of so many models x losses x betas, as a launch records it."""
    every = ("sigmoid", "ipo", "kto_pair", "hinge", "robust", "simpo", "cpo", "orpo", "exo_pair", "sppo_hard")
    points = product([f"mistral-7b-v{number}" for number in range(models)], every[:losses], range(betas))
    records = [record(model, loss, 0.01 * (place + 1)) for model, loss, place in points]
    directory = store.sweep(name)
    directory.add_launch(Launch(["model", "loss_type", "beta"], records))
    return directory


def record(model: str, loss: str, beta: float) -> RunRecord:
    run_id = f"{model}-{loss}-beta{beta:g}-{crc32(f'{model}{loss}{beta}'.encode()):08x}"
    axes = {"model": model, "loss_type": loss, "beta": beta}
    return RunRecord(run_id, model, "pairs", loss, beta, 42, axes, {"tracking": {"backend": "off"}}, [])


def states_of(directory: SweepDir, store: Store, running: int = 8, failed: int = 4, trained: int = 15) -> States:
    """So many of its runs at work, failed and trained; the others wait."""
    names = [each.run_id for each in directory.run_names()]
    kinds = ["trained"] * trained + ["running"] * running + ["failed"] * failed
    kinds += ["waiting"] * (len(names) - len(kinds))
    return [_state(store, run_id, kind, place) for place, (run_id, kind) in enumerate(zip(names, kinds, strict=True))]


def _state(store: Store, run_id: str, kind: str, place: int) -> RunState:
    run, node = store.run(run_id), f"gpu-{place:03d}"
    at = 37 + 9 * place % (STEPS - 40)
    if kind in ("running", "failed"):
        lines = [_line(step, place) for step in range(1, at + 1)]
        run.metrics_file.parent.mkdir(parents=True, exist_ok=True)
        run.metrics_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    known = {"attempts": 1, "job_id": f"4711_{place}", "max_steps": STEPS}
    if kind == "running":
        facts = RunFacts(**known, started=True, host=node, step=at, seconds_per_step=7.5)
        return RunState(run, facts, Status.RUNNING, None, JobState(Phase.RUNNING, node=node), None)
    if kind == "failed":
        status = (Status.FAILED, Status.TIMEOUT, Status.LOST, Status.CANCELLED)[place % 4]
        facts = RunFacts(**known, started=True, step=at, seconds_per_step=7.5, failure=REASON, traceback=TRACEBACK)
        return RunState(run, facts, status, REASON, UNKNOWN, None)
    if kind == "trained":
        write_once(run.result_file, {"steps": STEPS, "max_steps": STEPS, "seconds": 3000.0})
        facts = RunFacts(**known, started=True, trained=True, evaluated=True, step=STEPS, host=node)
        return RunState(run, facts, Status.TRAINED, None, UNKNOWN, None)
    job = JobState(Phase.PENDING, "Priority", place=place, start=time.time() + 600 + 60 * place)
    return RunState(run, RunFacts(**known), Status.PENDING, "Priority", job, None)


def _line(step: int, place: int) -> dict[str, object]:
    return {
        "step": step,
        "max_steps": STEPS,
        "loss": 0.7 * math.exp(-step / 90) + 0.02 * math.sin(step + place),
        "reward_margin": 1 - math.exp(-step / 120),
        "reward_accuracy": min(1.0, 0.5 + step / 500),
        "seconds_per_step": 7.5,
        "time": time.time(),
    }
