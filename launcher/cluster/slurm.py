"""The SLURM executor: arrays by scripts as submitit writes them, answers from squeue, sacct and scontrol.

Owns: the calls. What they say and mean is in `slurm_words`.
Must not know: what a run is, what a fact means.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cached_property

from launcher.cluster import slurm_cancel as scancel
from launcher.cluster import slurm_sbatch as sbatch
from launcher.cluster import slurm_survey
from launcher.cluster import slurm_words as words
from launcher.cluster.ambient import Ambient
from launcher.cluster.batch import Batch
from launcher.cluster.job_state import LAG_SECONDS, JobState, Phase
from launcher.cluster.offer import Offer
from launcher.cluster.slurm_environment import ambient, clean_environment
from launcher.cluster.slurm_hidden import hidden_by, unlisted
from launcher.cluster.slurm_identity import SCRIPT, script_of
from launcher.cluster.slurm_ids import folded
from launcher.cluster.slurm_log import explained
from launcher.config import Cluster
from launcher.errors import NotCancelled, QueueFull, Refused, SchedulerError
from launcher.machine.terminal import command, complain
from launcher.machine.users import our_name
from launcher.store.facts import Job

ANSWER_SECONDS = 60
SUBMISSION_SECONDS = 180  # sbatch tries again for a while where a queue is full
FIND_SECONDS = 3
SEEN_SECONDS = 2.0  # for a job that sbatch has named to be listed
SILENT_SECONDS = 10.0


class SlurmScheduler:
    """Batches become job arrays, which go on whatever happens to the launcher."""

    name = "slurm"
    detached = True
    poll_seconds = 30.0  # a scheduler has better things to do
    runs_per_job = 1
    warned_early_seconds = words.WARNED_EARLY_SECONDS
    kept_options: Mapping[str, str | None] = words.KEPT_OPTIONS
    # --output expands the first, and expands nothing where it sees the second; controls end a line, or the text.
    signs_in_paths = "%\\" + "".join(map(chr, [*range(ord(" ")), 127]))

    def missing(self) -> str | None:
        return None if shutil.which("sbatch") else "there is no sbatch on the PATH"

    def is_here(self) -> bool:
        """Whether this machine knows of a cluster, be it up or down: an installed client alone is none.

        Raises:
            SchedulerError: nobody says; a run that was then trained here might be trained on a login node.
        """
        if self.missing() is not None:
            return False
        try:
            done = _ask(["scontrol", "ping"])
        except SchedulerError as error:
            unknown = "whether there is a cluster is not known; choose cluster=slurm or cluster=local"
            raise SchedulerError(f"{error}: {unknown}") from error
        return "configuration source" not in done.stderr

    def batch_size(self, cluster: Cluster) -> int:
        """The most jobs that one array of these resources may have here."""
        return self._limits.batch_size(cluster)

    def offer(self, cluster: Cluster) -> Offer:
        """What the partition says, or several, whichever gives the least; nothing where sinfo does not answer."""
        try:
            return slurm_survey.read_offer(self._partitions, cluster.partition)
        except SchedulerError:
            return Offer()

    @cached_property
    def _partitions(self) -> str:
        return _answer(slurm_survey.LIMITS_COMMAND)

    @cached_property
    def _settings(self) -> dict[str, str]:
        return _settings_now()

    @cached_property
    def _limits(self) -> slurm_survey.Limits:
        settings = self._settings
        if not slurm_survey.enforces_limits(settings):
            return slurm_survey.Limits(settings)
        user = slurm_survey.associations_command(our_name())
        commands = (user, slurm_survey.QOS_COMMAND, slurm_survey.PARTITION_QOS_COMMAND, slurm_survey.PARENTS_COMMAND)
        return slurm_survey.Limits(settings, *map(_accounting, commands))

    def ambient(self, cluster: Cluster) -> Ambient:
        """What sbatch's variables say of such jobs."""
        return ambient(cluster, os.environ)

    def script(self, batch: Batch) -> str:
        """The batch's script, as submitit writes it."""
        from submitit.slurm.slurm import _make_sbatch_string

        task = f"{words.task_command(batch)} -u -m launcher.worker.start {command(batch.folder)}"
        array = {} if batch.size == 1 else {"map_count": batch.size}
        return str(_make_sbatch_string(task, batch.folder, **words.parameters(batch), **array))

    def submit(self, batch: Batch) -> list[Job]:
        """Submit the batch as one array.

        Raises:
            Refused: sbatch said no; QueueFull: since no more may be submitted now.
            SchedulerError: sbatch did not say whether the jobs were accepted, and they are not there (yet).
        """
        path = batch.folder / SCRIPT
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.script(batch), encoding="utf-8")
        try:
            done = _ask(["sbatch", str(path)], SUBMISSION_SECONDS)
        except SchedulerError as error:
            return self._looked_for(batch, sbatch.Verdict.OPEN, str(error))
        made = sbatch.accepted(done.stdout)
        if made is not None:
            return self._taken(batch, self._seen(batch, made), made.cluster)
        said = sbatch.in_words(done.returncode, done.stderr if done.stderr.strip() else done.stdout)
        return self._looked_for(batch, sbatch.verdict(done.returncode, done.stderr), said)

    def _seen(self, batch: Batch, made: sbatch.Accepted) -> str:
        """The id under which SLURM has the batch: sbatch's answer may be cut, or a site's line look like one."""
        last = time.monotonic() + SEEN_SECONDS
        shown = None
        with contextlib.suppress(SchedulerError):
            while made.cluster in (None, self.cluster):
                shown = words.read_named(_queue(words.named_queue_command(batch.name), SEEN_SECONDS * 5), batch.name)
                if shown is not None or time.monotonic() >= last:
                    break
                time.sleep(SEEN_SECONDS / 4)
        if shown not in (None, made.job_id):
            complain(f"sbatch named job {made.job_id}, and SLURM has {batch.name} as job {shown}: that is recorded")
        return shown or made.job_id

    def _looked_for(self, batch: Batch, verdict: sbatch.Verdict, said: str) -> list[Job]:
        """The jobs, where SLURM has them though sbatch has not said so: it may be slow to show them."""
        if verdict is sbatch.Verdict.FULL:
            raise QueueFull(said)
        if verdict is sbatch.Verdict.REFUSED:
            raise Refused(said)
        complain(f"{said}; asking for up to {LAG_SECONDS:g} s whether the jobs are there all the same")
        found, silent = self._found_within(batch, LAG_SECONDS)
        if found is not None:
            return found
        if verdict is sbatch.Verdict.SAID_NO and not silent:
            raise Refused(said)
        raise SchedulerError(f"{said}; launch again: what was accepted all the same is then found")

    def _found_within(self, batch: Batch, seconds: float) -> tuple[list[Job] | None, bool]:
        """The jobs of a batch as soon as SLURM shows them; and whether it did not even answer at last."""
        last = time.monotonic() + seconds
        while True:
            found, silent = None, False
            try:
                found = self.find(batch)
            except SchedulerError:
                silent = True
            if found is not None or time.monotonic() >= last:
                return found, silent
            time.sleep(FIND_SECONDS)

    def find(self, batch: Batch) -> list[Job] | None:
        """The jobs of a batch whose submission was not recorded; None where SLURM has none."""
        parent = words.read_named(_queue(words.named_queue_command(batch.name)), batch.name)
        if parent is None:
            parent = words.read_named(_accounting(words.named_accounting_command(batch.name)), batch.name)
        return None if parent is None else self._taken(batch, parent)

    def _taken(self, batch: Batch, parent: str, cluster: str | None = None) -> list[Job]:
        """The jobs of an array as they are recorded."""
        ids = [words.job_id(parent, index, batch.size) for index in range(batch.size)]
        user, there = our_name(), cluster or self.cluster
        logs = (str(words.log_file(batch.folder, each)) for each in ids)
        return [
            Job(each, self.name, log=log, user=user, cluster=there, name=batch.name)
            for each, log in zip(ids, logs, strict=True)
        ]

    @cached_property
    def cluster(self) -> str | None:
        """The name of the cluster that answers here; None where it does not say."""
        with contextlib.suppress(SchedulerError):
            return self._settings.get("ClusterName")
        return None

    def states(self, jobs: Sequence[Job]) -> dict[str, JobState]:
        """Ask squeue, and sacct, where there is one, for those that squeue has forgotten or that have ended."""
        names = {job.job_id: job.name for job in jobs}
        scripts = {job.job_id: script_of(job) for job in jobs}
        queue = words.read_queue(_queue(words.queue_command(names)), names, scripts)
        rest = words.open_ids(names, queue)
        told, silence = _accounts(words.accounting_command(rest)) if rest else ("", None)
        accounts = words.read_accounting(told, names)
        if missing := names.keys() - queue.keys() - words.ended_in(accounts):
            again = _queue(words.queue_command(sorted(missing)))  # an answer may have been cut short
            queue |= words.read_queue(again, names, scripts)
        known = words.combined(queue, accounts)
        hidden = _hidden([job for job in jobs if job.job_id not in known], silence, accounts)
        return hidden | {job.job_id: explained(known[job.job_id], job) for job in jobs if job.job_id in known}

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Cancel those of the jobs that are ours: here or by now, an id may be another's.

        Raises:
            NotCancelled: some are not here, not ours any more, or were denied; the others have been cancelled.
        """
        elsewhere = [job for job in jobs if job.cluster and self.cluster and job.cluster != self.cluster]
        here = [job for job in jobs if job not in elsewhere]
        names = _names_now([job for job in here if job.name])
        others = [job for job in here if scancel.is_anothers(job, names)]
        ours = [job.job_id for job in _at_work([job for job in here if job not in others], names)]
        denied = _scancel(folded(ours))
        said = [f"job {job_id} ({why})" for job_id, why in denied.items()]
        said = [f"denied: {', '.join(said)}"] if said else []
        said += scancel.in_words(others, "is another's by now, and is left alone")
        if elsewhere:
            where = f"job {elsewhere[0].job_id} is on cluster {elsewhere[0].cluster}, and this is {self.cluster}"
            said.append(f"{where}; cancel there")
        if said:
            done = len(ours) - len(scancel.meant(denied, ours))
            missed = [*scancel.meant(denied, ours), *(job.job_id for job in elsewhere)]
            raise NotCancelled(f"scancel: {done} of {len(jobs)} jobs cancelled; {'; '.join(said)}", missed)

    def survey(self) -> tuple[list[tuple[str, str]], str]:
        """What this cluster offers, and the file that fits it."""
        partitions = _answer(slurm_survey.PARTITIONS_COMMAND)
        accounting = _ask(["sacct", "-n", "-X"]).returncode == 0 if shutil.which("sacct") else False
        accounts = _ask(slurm_survey.accounts_command(our_name())).stdout if accounting else None
        offered = slurm_survey.survey(self._settings, partitions, accounts, self.batch_size(Cluster()))
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


def _names_now(jobs: Sequence[Job]) -> dict[str, set[str]]:
    """The names under which SLURM has these ids; it is asked again for those that an answer cut short would lack."""
    names = scancel.read_names(_queue(scancel.names_command(jobs))) if jobs else {}
    unseen = [job for job in jobs if job.job_id not in names]
    return names | (scancel.read_names(_queue(scancel.names_command(unseen))) if unseen else {})


def _at_work(jobs: Sequence[Job], names: Mapping[str, set[str]]) -> list[Job]:
    """Those that may be there: of ours that squeue does not list, those that have not ended for sacct.

    `scancel --name` is no help: of an array it ends all pending tasks, whichever are named.
    """
    unseen = {job.job_id: job.name for job in jobs if job.name and job.user == our_name() and job.job_id not in names}
    told = _accounting(words.accounting_command(unseen)) if unseen else ""
    there = words.in_flight(words.read_accounting(told, unseen))
    return [job for job in jobs if job.job_id not in unseen or job.job_id in there]


def _scancel(ids: Sequence[str]) -> dict[str, str]:
    """Cancel in one call; of each job that is there and was denied, why."""
    done = _ask(["scancel", *ids]) if ids else None
    if done is None or not done.returncode:
        return {}
    denied = scancel.refused(done.stderr)
    if not denied and not scancel.OVER.search(done.stderr):
        raise SchedulerError(f"scancel: {words.complaint(done.stderr)}")
    return denied


def _settings_now() -> dict[str, str]:
    return words.read_settings(_answer(["scontrol", "show", "config"]))


def _hidden(jobs: Sequence[Job], silence: str | None, accounts: Mapping[str, JobState]) -> dict[str, JobState]:
    """Those of the jobs that nobody shows us, and that may be there all the same, each with the reason."""
    settings: dict[str, str] = {}
    with contextlib.suppress(SchedulerError):
        settings = _settings_now() if jobs else {}  # a controller may have started since we asked
    said = silence and f"squeue does not list it, and {silence}"
    reasons = {
        job.job_id: hidden_by(job, our_name(), settings, time.time()) or unlisted(job, accounts) or said for job in jobs
    }
    return {job_id: JobState(Phase.HIDDEN, why) for job_id, why in reasons.items() if why}


def _answer(command: list[str]) -> str:
    done = _ask(command)
    if done.returncode:
        raise SchedulerError(f"{command[0]}: {words.complaint(done.stderr)}")
    return done.stdout


def _ask(command: list[str], seconds: float = ANSWER_SECONDS) -> subprocess.CompletedProcess[str]:
    environment = {**clean_environment(os.environ), "SLURM_BITSTR_LEN": "0"}  # no "..." in lists of tasks
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


def _queue(command: list[str], seconds: float = ANSWER_SECONDS) -> str:
    """What squeue answers; that it knows none of the jobs is one."""
    done = _ask(command, seconds)
    failed = done.returncode or "slurm_load_jobs error" in done.stderr
    if failed and "Invalid job id" not in done.stderr:
        raise SchedulerError(f"squeue: {words.complaint(done.stderr)}")
    return done.stdout


def _accounting(command: list[str]) -> str:
    """What a command answers that may not be there, since not every cluster keeps accounts; nothing then."""
    return _accounts(command)[0]


def _accounts(command: list[str]) -> tuple[str, str | None]:
    """The same; and why there is no answer, where there are accounts that do not answer now."""
    try:
        done = _ask(command)
    except SchedulerError as error:
        return "", None if shutil.which(command[0]) is None else str(error)
    if not done.returncode:
        return done.stdout, None
    silent = words.NO_ANSWER.search(done.stderr)
    return "", f"{command[0]} does not answer: {words.complaint(done.stderr)}" if silent else None
