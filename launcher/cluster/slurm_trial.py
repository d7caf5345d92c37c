"""What sbatch takes here, found out by `sbatch --test-only`, which submits nothing.

Owns: which jobs are tried, and what their refusals mean. Must not know: what a cluster has, how an answer is shown.

A site may refuse what its SLURM could do, by a plugin or a wrapper of its own, and no setting says so.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

from launcher.cluster.slurm_words import complaint
from launcher.errors import SchedulerError

Ask = Callable[[list[str]], "CompletedProcess[str]"]


@dataclass(frozen=True)
class Trial:
    """What sbatch says of each job that was tried; None: it takes it, or nobody knows.

    Attributes:
        plain: of a job that asks for nothing.
        array: of two such, as an array.
        gpus_per_node: of one with a GPU.
        gres: of one with a GPU, in older words.
    """

    plain: str | None = None
    array: str | None = None
    gpus_per_node: str | None = None
    gres: str | None = None

    @property
    def refuses_arrays(self) -> bool:
        """Whether an array is what it refuses."""
        return self.plain is None and self.array is not None

    @property
    def wants_gres(self) -> bool:
        """Whether GPUs can be had by `--gres` alone."""
        return self.plain is None and self.gpus_per_node is not None and self.gres is None


def tried(ask: Ask, options: Sequence[str], has_gpus: bool) -> Trial:
    """Try them with these options; those with a GPU where there are any."""

    def refusal(*more: str) -> str | None:
        return _refusal(ask, *options, *more)

    plain = refusal()
    if plain is not None:
        return Trial(plain)
    array = refusal("--array=0-1")
    return Trial(None, array, refusal("--gpus-per-node=1"), refusal("--gres=gpu:1")) if has_gpus else Trial(None, array)


def _refusal(ask: Ask, *options: str) -> str | None:
    lines = [f"#SBATCH {option}" for option in ("--time=5", *options)]
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "trial.sh"
        script.write_text("\n".join(["#!/bin/sh", *lines, "exit 0", ""]), encoding="utf-8")
        try:
            done = ask(["sbatch", "--test-only", str(script)])
        except SchedulerError:
            return None
    return complaint(done.stderr) if done.returncode else None
