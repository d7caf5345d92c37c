"""Weights & Biases as a tracker.

Owns: W&B's words for a run; whether it is told online or into a folder that `sync` uploads.
Must not know: the trainer; where the numbers come from. Runs in the process that `process` starts, so that it may be
slow and may raise.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from launcher.machine.accounts import answers, lacks_login, project, server, shown
from launcher.tracking.tracker import FINISH_SECONDS, Subject, Values, library, say, set_aside

TAG_LENGTH = 64  # W&B refuses longer ones
# What says which run this is, or whose part: of a sweep or launch of W&B's, of another run. W&B heeds the first two
# over what `init` is told. A service that is running is another process's.
IDENTITY = re.compile(
    r"WANDB_(SWEEP_\w+|LAUNCH\w*|RUN_\w+|RESUME\w*|FORK_FROM|NAME|JOB_(NAME|SOURCE|TYPE)|CONFIG_PATHS|SERVICE)"
)


class WandbTracker:
    """One W&B run per run, whatever its attempts: id = run id, group = sweep.

    Online, W&B says which step it knows last, and is told the rest. Offline, each attempt has a folder with the whole
    curve, so that the newest is all that `sync` needs to upload: W&B appends one upload to another.
    """

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._run: Any = None

    def start(self) -> int:
        """Online where that can be had, else offline."""
        if left_out := set_aside(IDENTITY):
            say(f"{left_out}: its W&B run has its own id, name and group")
        wandb, mode = library("wandb", "wandb"), self._mode()
        try:
            self._run = self._init(mode)
        except Exception as error:
            if mode == "offline":
                raise
            say(f"W&B did not take the run ({error}); it goes on offline, `python -m launcher sync` uploads it")
            wandb.teardown(1)  # its service still holds the run's id
            self._run = self._init("offline")
        self._run.define_metric("train/step")
        self._run.define_metric("train/*", step_metric="train/step")
        say(f"W&B, {self._run.dir if self._run.offline else self._run.url}")
        return int(self._run.starting_step) - 1 if self._run.resumed else 0

    def _mode(self) -> str:
        wish = self._subject.tracking.mode or os.environ.get("WANDB_MODE")
        if wish == "offline":
            return "offline"
        if lacking := lacks_login():
            say(f"{lacking}: offline, until `python -m launcher sync`")
            return "offline"
        if not answers(server()):
            say(f"{shown(server())} does not answer: offline, until `python -m launcher sync`")
            return "offline"
        return "online"

    def _init(self, mode: str) -> Any:
        wandb, subject = library("wandb", "wandb"), self._subject
        named = subject.named
        subject.folder.mkdir(parents=True, exist_ok=True)
        return wandb.init(
            entity=subject.tracking.entity,
            project=subject.tracking.project or project(),
            group=subject.sweep,
            id=subject.run_id,
            name=subject.run_id,
            job_type="train",
            tags=[str(named["model"])[:TAG_LENGTH], named["loss_type"], f"beta={named['beta']!r}"],
            config=subject.config,
            dir=str(subject.folder),
            mode=mode,
            resume="allow" if mode == "online" else None,  # offline, nobody can say what W&B knows
            settings=wandb.Settings(
                console="off",
                disable_code=True,
                disable_git=True,
                save_code=False,
                sagemaker_disable=True,  # by whose job it would name the run
                finish_timeout=FINISH_SECONDS - 5,
                finish_timeout_raises=True,
                init_timeout=FINISH_SECONDS / 2,
                silent=True,
                x_disable_meta=True,  # command line, host, user, paths
                x_save_requirements=False,
                x_stats_pid=os.getppid(),  # the run's process, not this one
            ),
        )

    def log(self, step: int, at: float, values: Values) -> None:
        """A row of the history; its step is ours."""
        self._run.log({**values, "train/step": step, "_timestamp": at}, step=step)

    def finish(self, step: int, summary: Values, *, succeeded: bool) -> None:  # noqa: ARG002 - W&B knows the step
        """The final numbers become the summary."""
        self._run.summary.update(dict(summary))
        settings = self._run.settings
        self._run.finish(exit_code=0 if succeeded else 1)
        if settings.mode == "online":
            Path(f"{settings.sync_file}.synced").touch()  # wandb's own mark of what needs no `wandb sync`
