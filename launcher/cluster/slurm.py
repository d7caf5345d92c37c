"""The SLURM executor: arrays through submitit, answers from squeue, sacct and scontrol.

Owns: the calls. What they say and mean is in `slurm_words`.
Must not know: what a run is, what a fact means.
"""

from __future__ import annotations

import contextlib
import getpass
import io
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from launcher.cluster import slurm_survey
from launcher.cluster import slurm_words as words
from launcher.cluster.batch import Batch
from launcher.cluster.job_state import JobState, Phase
from launcher.config import Cluster
from launcher.errors import Refused, SchedulerError
from launcher.machine.terminal import command
from launcher.store.facts import Job

ANSWER_SECONDS = 60


class SlurmScheduler:
    """Batches become job arrays, which go on whatever happens to the launcher."""

    name = "slurm"
    detached = True
    poll_seconds = 30.0  # a scheduler has better things to do
    runs_per_job = 1
    warned_early_seconds = words.WARNED_EARLY_SECONDS
    kept_options: Mapping[str, str | None] = words.KEPT_OPTIONS

    def missing(self) -> str | None:
        return None if shutil.which("sbatch") else "there is no sbatch on the PATH"

    def is_here(self) -> bool:
        """Whether this machine knows of a cluster, be it up or down: an installed client alone is none."""
        if self.missing() is not None:
            return False
        try:
            done = _ask(["scontrol", "ping"])
        except SchedulerError:
            return False
        return "configuration source" not in done.stderr

    def batch_size(self, cluster: Cluster) -> int:
        """The most jobs that one array of these resources may have here."""
        return self._limits.batch_size(cluster)

    @cached_property
    def _limits(self) -> slurm_survey.Limits:
        settings = _settings()
        if not slurm_survey.enforces_limits(settings):
            return slurm_survey.Limits(settings)
        user = slurm_survey.associations_command(getpass.getuser())
        commands = (user, slurm_survey.QOS_COMMAND, slurm_survey.PARTITION_QOS_COMMAND, slurm_survey.PARENTS_COMMAND)
        return slurm_survey.Limits(settings, *map(_accounting, commands))

    def script(self, batch: Batch) -> str:
        """The batch's script, as submitit writes it."""
        from submitit.slurm.slurm import _make_sbatch_string

        task = f"{words.task_command(batch)} -u -m submitit.core._submit {command(batch.folder)}"
        array = {} if batch.size == 1 else {"map_count": batch.size}
        return str(_make_sbatch_string(task, batch.folder, **words.parameters(batch), **array))

    def submit(self, batch: Batch) -> list[Job]:
        """Submit the batch as one array.

        Raises:
            Refused: sbatch said no.
            SchedulerError: sbatch did not say whether the jobs were accepted.
        """
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        complaints = io.StringIO()
        try:
            with _environment(words.clean_environment(os.environ)), contextlib.redirect_stderr(complaints):
                executor = submitit.SlurmExecutor(batch.folder, python=words.task_command(batch))
                executor.update_parameters(**words.parameters(batch))
                jobs = executor.submit_array(batch.work)
        except (FailedJobError, FailedSubmissionError, OSError) as error:
            return self._after_failure(batch, f"{complaints.getvalue()}\n{error}")
        return _records(batch, str(jobs[0].job_id).partition("_")[0])

    def _after_failure(self, batch: Batch, complaint: str) -> list[Job]:
        """The jobs, where sbatch reported failure though it accepted them."""
        words_of_sbatch = f"sbatch: {words.complaint(complaint)}"
        if not words.may_have_come_through(complaint):
            raise Refused(words_of_sbatch)
        found = self.find(batch)
        if found is None:
            raise SchedulerError(f"{words_of_sbatch}; launch again: what was accepted all the same is then found")
        return found

    def find(self, batch: Batch) -> list[Job] | None:
        """The jobs of a batch whose submission was not recorded, made whole; None where SLURM has none."""
        queue = _queue(words.named_queue_command(batch.name))
        text = queue or _accounting(words.named_accounting_command(batch.name))
        if not text.strip():
            return None
        parent = text.split()[0].partition("_")[0]
        _complete(batch, parent)
        return _records(batch, parent)

    def states(self, jobs: Sequence[Job]) -> dict[str, JobState]:
        """Ask squeue, and sacct, where there is one, for those that squeue has forgotten or that have ended."""
        ids = [job.job_id for job in jobs]
        queue = words.read_queue(_queue(words.queue_command(ids)))
        rest = words.open_ids(ids, queue)
        accounting = words.read_accounting(_accounting(words.accounting_command(rest))) if rest else {}
        known = words.combined(queue, accounting)
        return {job.job_id: _explained(known[job.job_id], job) for job in jobs if job.job_id in known}

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Cancel these jobs in one call."""
        if not jobs:
            return
        done = _ask(["scancel", *(job.job_id for job in jobs)])
        if done.returncode and "Invalid job id" not in done.stderr:
            raise SchedulerError(f"scancel: {words.complaint(done.stderr)}")

    def survey(self) -> tuple[list[tuple[str, str]], str]:
        """What this cluster offers, and the file that fits it."""
        partitions = _answer(slurm_survey.PARTITIONS_COMMAND)
        accounting = _ask(["sacct", "-n", "-X"]).returncode == 0 if shutil.which("sacct") else False
        accounts = _ask(slurm_survey.accounts_command(getpass.getuser())).stdout if accounting else None
        offered = slurm_survey.survey(_settings(), partitions, accounts, self.batch_size(Cluster()))
        return list(slurm_survey.findings(offered)), slurm_survey.proposal(offered)

    def run_and_wait(self, batch: Batch, module: str, seconds: float) -> str | None:
        """Run `python -m MODULE FOLDER` as one job, which sbatch waits for."""
        from submitit.slurm.slurm import _make_sbatch_string

        command = f"{words.python_command(batch)} -m {module} {shlex.quote(str(batch.folder))}"
        path = batch.folder / "script.sh"
        path.write_text(_make_sbatch_string(command, batch.folder, **words.parameters(batch)), encoding="utf-8")
        try:
            done = _ask(["sbatch", "--parsable", "--wait", str(path)], seconds)
        except SchedulerError:
            _ask(["scancel", f"--name={batch.name}"])
            raise
        job = done.stdout.strip().partition(";")[0]
        if done.returncode and not job:
            raise Refused(f"sbatch: {words.complaint(done.stderr)}")
        return None if done.returncode else job


def _explained(state: JobState, job: Job) -> JobState:
    """What SLURM says of a job that failed, with the rank that was the first to go, where there are several."""
    if state.phase is not Phase.FAILED or not job.log:
        return state
    with contextlib.suppress(OSError):
        rank = words.first_rank(Path(job.log).read_text(encoding="utf-8", errors="replace"))
        return replace(state, reason=f"{state.reason}; {rank}") if rank else state
    return state


def _settings() -> dict[str, str]:
    return words.read_settings(_answer(["scontrol", "show", "config"]))


def _answer(command: list[str]) -> str:
    done = _ask(command)
    if done.returncode:
        raise SchedulerError(f"{command[0]}: {words.complaint(done.stderr)}")
    return done.stdout


def _records(batch: Batch, parent: str) -> list[Job]:
    ids = [words.job_id(parent, index, batch.size) for index in range(batch.size)]
    return [Job(each, SlurmScheduler.name, log=str(words.log_file(batch.folder, each))) for each in ids]


def _complete(batch: Batch, parent: str) -> None:
    """Give each job its pickle, which submitit renames only after sbatch has answered."""
    from submitit.core.utils import DelayedSubmission, JobPaths

    for index, work in enumerate(batch.work):
        path: Path = JobPaths(batch.folder, words.job_id(parent, index, batch.size)).submitted_pickle
        if not path.exists():
            aside = path.with_suffix(".aside")
            DelayedSubmission(work).dump(aside)
            aside.rename(path)


def _ask(command: list[str], seconds: float = ANSWER_SECONDS) -> subprocess.CompletedProcess[str]:
    environment = {**words.clean_environment(os.environ), "SLURM_BITSTR_LEN": "0"}  # no "..." in lists of tasks
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False, env=environment)
    except FileNotFoundError as error:
        raise SchedulerError(f"{command[0]}: not found; is this a machine of the cluster?") from error
    except subprocess.TimeoutExpired as error:
        raise SchedulerError(f"{command[0]}: no answer within {seconds:g} s") from error


def _queue(command: list[str]) -> str:
    """What squeue answers; that it knows none of the jobs is one."""
    done = _ask(command)
    if done.returncode and "Invalid job id" not in done.stderr:
        raise SchedulerError(f"squeue: {words.complaint(done.stderr)}")
    return done.stdout


def _accounting(command: list[str]) -> str:
    """What a command answers that may not be there, since not every cluster keeps accounts; nothing then."""
    try:
        done = _ask(command)
    except SchedulerError:
        return ""
    return "" if done.returncode else done.stdout


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Exactly these variables for processes started within: submitit passes on its own."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
