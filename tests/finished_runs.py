"""Runs that look as if they had been trained: every file that publishing reads, made in milliseconds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy
from conftest import clean_environment, sweep_of
from fakes import FakeScheduler, submit
from hub_server import HubServer
from safetensors.numpy import save_file
from waiting import LONGEST_WAIT

from launcher.store.facts import Revision
from launcher.store.files import append_line, write_once
from launcher.store.output_folder import Store
from launcher.store.run_folder import RunDir

NEVER_PUBLISHED = (
    "optimizer.pt", "training_args.bin", "rng_state.pth", "scheduler.pt", "trainer_state.json", ".secret.json",
    "checkpoint-5/model.safetensors", "global_step5/weights.safetensors",
)  # fmt: skip


def revision_at(address: str, time: float = 0.0) -> Revision:
    """What revision.json says of a model that is published in a folder."""
    return Revision(address, "folder", "tiny-s", "ipo-0.1", commit="0a", content="0a", time=time)


def trained_runs(store: Store, *argv: str) -> list[RunDir]:
    """The runs of a command line, launched and trained; they are left to `publish` on the login node."""
    sweep, scheduler = sweep_of("model=tiny", "trainer=full", "hub.when=login", *argv), FakeScheduler()
    submit(sweep, store, scheduler, None)
    runs = [store.run(run.run_id) for run in sweep.runs]
    for run in runs:
        finish(run)
    return runs


def finish(run: RunDir) -> None:
    """Give a run a model of two weight files, its facts, and things that must stay."""
    seed = int.from_bytes(run.run_id.encode()[-4:], "big")
    write_model(run, seed)
    append_line(run.metrics_file, {"step": 1, "max_steps": 1, "loss": 0.5})
    write_once(run.result_file, {"steps": 1, "max_steps": 1, "seconds": 1.0, "loss": 0.5, "ended": seed})
    write_once(run.evaluation_file, evaluation(seed % 1000 / 1000))


def write_model(folder: RunDir, seed: int) -> None:
    """A model of two weight files drawn from `seed`, among things that must stay."""
    for name in NEVER_PUBLISHED:
        (folder.model / name).parent.mkdir(parents=True, exist_ok=True)
        (folder.model / name).write_text("must not leave")
    for part in (1, 2):
        weights = numpy.random.default_rng(seed + part).standard_normal((64, 64)).astype("float32")
        save_file({f"layer{part}": weights}, folder.model / f"model-0000{part}-of-00002.safetensors")
    (folder.model / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (folder.model / "tokenizer.json").write_text("{}")


def keep_milestones(run: RunDir, **rewards: float) -> None:
    """Give a run a milestone for each `stepN=golden_reward`."""
    for name, reward in rewards.items():
        step = int(name.removeprefix("step"))
        write_model(run.milestone(step), step)
        write_once(run.milestone(step).evaluation_file, evaluation(reward))


def evaluation(reward: float) -> dict[str, object]:
    """What an evaluation found."""
    sample = {"prompt": "Once | upon", "text": "a `time`\nthere", "reward": reward}
    return {"reward_accuracy": 0.75, "pairs": 64, "golden_reward": reward, "golden_reward_stderr": 0.0625,
            "generations": 16, "samples": [sample], "seconds": 3.0}  # fmt: skip


def publish_process(hub: HubServer, store: Store, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """`python -m launcher publish ...`, against this server, in a process of its own."""
    here = {**hub.environment(str(store.root.parent / f"home-{os.urandom(4).hex()}")), **environment}
    command = [sys.executable, "-m", "launcher", "publish", *arguments, "--output-dir", str(store.root)]
    return subprocess.Popen(
        command, env=clean_environment(**here), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def publish(hub: HubServer, store: Store, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The same, to its end."""
    process = publish_process(hub, store, *arguments, **environment)
    out, err = process.communicate(timeout=LONGEST_WAIT)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def files_holding(folder: Path, *words: str) -> list[Path]:
    """Every file below `folder` that holds one of these words in its name or content."""
    wanted = [word.encode() for word in words]
    found = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in found if any(word in path.read_bytes() + str(path).encode() for word in wanted)]
