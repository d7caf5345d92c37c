"""Calls of SLURM's commands, about the cluster that answers here or another one.

Owns: the processes, how long they may take, what a failure of theirs means. Must not know: what is done with an answer.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from launcher.cluster import slurm_survey
from launcher.cluster import slurm_words as words
from launcher.cluster.slurm_environment import clean_environment
from launcher.config import Cluster
from launcher.errors import SchedulerError
from launcher.machine.terminal import complain
from launcher.machine.users import our_name

ANSWER_SECONDS = 60
SILENT_SECONDS = 10.0


@dataclass
class Controller:
    """A cluster that is asked: by its name, by way of slurmdbd; None: the one that answers here."""

    name: str | None = None

    def ask(self, command: list[str], seconds: float = ANSWER_SECONDS) -> subprocess.CompletedProcess[str]:
        """What a command does about this cluster."""
        return ask(words.at(command, self.name), seconds)

    def answer(self, command: list[str]) -> str:
        """What it prints.

        Raises:
            SchedulerError: it failed.
        """
        done = self.ask(command)
        if done.returncode:
            raise SchedulerError(f"{command[0]}: {words.complaint(done.stderr)}")
        return done.stdout

    def queue(self, command: list[str], seconds: float = ANSWER_SECONDS) -> str:
        """What squeue answers; that it knows none of the jobs is one.

        Raises:
            SchedulerError: it does not answer.
        """
        done = self.ask(command, seconds)
        failed = done.returncode or "slurm_load_jobs error" in done.stderr
        if failed and "Invalid job id" not in done.stderr:
            raise SchedulerError(f"squeue: {words.complaint(done.stderr)}")
        return done.stdout

    def accounting(self, command: list[str]) -> str:
        """What a command answers that may not be there, since not every cluster keeps accounts; nothing then."""
        return self.accounts(command)[0]

    def accounts(self, command: list[str]) -> tuple[str, str | None]:
        """The same; and why there is no answer, where there are accounts that do not answer now."""
        try:
            done = self.ask(command)
        except SchedulerError as error:
            return "", None if shutil.which(command[0]) is None else str(error)
        if not done.returncode:
            return done.stdout, None
        silent = words.NO_ANSWER.search(done.stderr)
        return "", f"{command[0]} does not answer: {words.complaint(done.stderr)}" if silent else None

    def settings_now(self) -> dict[str, str]:
        """What it says of itself at this moment.

        Raises:
            SchedulerError: it does not answer.
        """
        return words.read_settings(self.answer(words.SETTINGS_COMMAND))

    @cached_property
    def settings(self) -> dict[str, str]:
        """The same, asked once."""
        return self.settings_now()

    @cached_property
    def partitions(self) -> str:
        """What `slurm_survey.read_offer` reads."""
        return self.answer(slurm_survey.LIMITS_COMMAND)

    @cached_property
    def limits(self) -> slurm_survey.Limits:
        """What bounds the number of jobs that may be handed over at once."""
        if not slurm_survey.enforces_limits(self.settings):
            return slurm_survey.Limits(self.settings)
        where = self.settings.get("ClusterName")
        user = slurm_survey.associations_command(our_name(), where)
        commands = (user, slurm_survey.QOS_COMMAND, slurm_survey.PARTITION_QOS_COMMAND)
        answers = map(self.accounting, (*commands, slurm_survey.parents_command(where)))
        return slurm_survey.Limits(self.settings, *answers)


def submitted(script: Path, resources: Cluster, seconds: float, *options: str) -> subprocess.CompletedProcess[str]:
    """Have sbatch submit jobs of these resources, of which no variable says anything else.

    Raises:
        SchedulerError: as of `ask`.
    """
    return ask(["sbatch", *options, str(script)], seconds, resources)


def ask(
    command: list[str], seconds: float = ANSWER_SECONDS, resources: Cluster | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command, aloud where it is slow; `resources`: of the jobs that it submits.

    Raises:
        SchedulerError: it is not there, or did not end within so many seconds.
    """
    environment = {**clean_environment(os.environ, resources), "SLURM_BITSTR_LEN": "0"}  # no "..." in lists of tasks
    slow = f"{command[0]} has not answered for {SILENT_SECONDS:g} s; waiting for up to {seconds:g} s"
    told = threading.Timer(SILENT_SECONDS, complain, (slow,))
    told.daemon = True
    told.start()
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",  # a site's banner, in whichever encoding
            timeout=seconds,
            check=False,
            env=environment,
        )
    except FileNotFoundError as error:
        raise SchedulerError(f"{command[0]}: not found; is this a machine of the cluster?") from error
    except subprocess.TimeoutExpired as error:
        raise SchedulerError(f"{command[0]}: no answer within {seconds:g} s") from error
    except OSError as error:
        raise SchedulerError(f"{command[0]}: {error.strerror or error}") from error
    finally:
        told.cancel()
