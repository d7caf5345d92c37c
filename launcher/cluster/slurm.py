"""The SLURM executor: arrays by scripts as submitit writes them, answers from squeue, sacct and scontrol.

Owns: which cluster is asked what. The calls are made in `slurm_calls`; what they say and mean is in `slurm_words`.
Must not know: what a run is, what a fact means.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from launcher.cluster import slurm_cancel as scancel
from launcher.cluster import slurm_sbatch as sbatch
from launcher.cluster import slurm_survey
from launcher.cluster import slurm_words as words
from launcher.cluster.ambient import Ambient
from launcher.cluster.batch import Batch
from launcher.cluster.job_state import LAG_SECONDS, JobState, Phase
from launcher.cluster.offer import Offer
from launcher.cluster.slurm_calls import Controller, submitted
from launcher.cluster.slurm_environment import ambient
from launcher.cluster.slurm_hidden import hidden_by, is_private, unlisted
from launcher.cluster.slurm_identity import SCRIPT, script_of
from launcher.cluster.slurm_ids import folded
from launcher.cluster.slurm_log import explained
from launcher.cluster.slurm_trial import tried
from launcher.config import Cluster
from launcher.errors import ConfigError, NotCancelled, QueueFull, Refused, SchedulerError
from launcher.machine.terminal import command, complain
from launcher.machine.users import our_name
from launcher.store.facts import Job
from launcher.store.run_folder import BATCH_FILE

SUBMISSION_SECONDS = 180  # sbatch tries again for a while where a queue is full
FIND_SECONDS = 3
SACCT_COMMAND = ["sacct", "-n", "-X"]
NOT_UP = "its controller is not up, for slurmdbd (sacctmgr show cluster)"
SEEN_SECONDS = 2.0  # for a job that sbatch has named to be listed


class SlurmScheduler:
    """Batches become job arrays, which go on whatever happens to the launcher."""

    name = "slurm"
    detached = True
    poll_seconds = 30.0  # a scheduler has better things to do
    runs_per_job = 1
    warned_early_seconds = words.WARNED_EARLY_SECONDS
    kept_options: Mapping[str, str | None] = words.KEPT_OPTIONS
    switches: Collection[str] | None = words.SWITCHES
    # --output expands the first, and expands nothing where it sees the second; controls end a line, or the text.
    signs_in_paths = "%\\" + "".join(map(chr, [*range(ord(" ")), 127]))

    def __init__(self) -> None:
        self._here = Controller()
        self._others: dict[str, Controller] = {}
        self._silence: str | None = None  # why nobody says which clusters there are

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
            done = self._here.ask(words.SETTINGS_COMMAND)
        except SchedulerError as error:
            unknown = "whether there is a cluster is not known; choose cluster=slurm or cluster=local"
            raise SchedulerError(f"{error}: {unknown}") from error
        if not done.returncode:
            self._here.settings = words.read_settings(done.stdout)
        return "configuration source" not in done.stderr

    @cached_property
    def cluster(self) -> str | None:
        """The name of the cluster that answers here; None where it does not say."""
        with contextlib.suppress(SchedulerError):
            return self._here.settings.get("ClusterName")
        return None

    @cached_property
    def _known(self) -> dict[str, bool]:
        """The clusters that one slurmdbd knows, and whether they can be reached; none where there is no slurmdbd."""
        told, self._silence = self._here.accounts(words.CLUSTERS_COMMAND)
        return words.read_clusters(told)

    def reaches(self, cluster: str) -> bool:
        """Whether jobs of that cluster can be asked for and cancelled from here."""
        return cluster == self.cluster or self._known.get(cluster, False)

    def destination(self, cluster: Cluster) -> str | None:
        """The name of the cluster to which jobs of these resources go; None where that is not known.

        Raises:
            ConfigError: there is none of that name.
            SchedulerError: it, or who could say whether there is, does not answer.
        """
        name = cluster.clusters
        if name is None or name == self.cluster:
            return self.cluster
        if name not in self._known:
            if self._silence is not None:
                raise SchedulerError(f"cluster {name}: {self._silence}; try again")
            alone = f"sacctmgr tells of no cluster but {self.cluster}; leave it null"
            names = ", ".join(self._known)
            raise ConfigError("cluster.clusters", name, f"must be one of {names}" if names else alone)
        if not self.reaches(name):
            raise SchedulerError(f"cluster {name}: {NOT_UP}")
        return name

    def _at(self, name: str | None) -> Controller:
        """Who is asked about that cluster: where it cannot be reached, the one that answers here."""
        if name is None or self.cluster in (None, name) or not self.reaches(name):
            return self._here
        return self._others.setdefault(name, Controller(name))

    def _silent_about(self, name: str | None) -> str | None:
        """Why that cluster does not answer for now, or nobody says whether it can be reached; None: neither is so."""
        if name is None or self.cluster in (None, name) or self.reaches(name):
            return None
        silence = NOT_UP if name in self._known else self._silence
        return None if silence is None else f"cluster {name}: {silence}"

    def batch_size(self, cluster: Cluster) -> int:
        """The most jobs that one array of these resources may have here."""
        return self._at(cluster.clusters).limits.batch_size(cluster) if cluster.arrays else 1

    def at_once(self, cluster: Cluster) -> int | None:
        return cluster.max_parallel

    def slots(self, cluster: Cluster) -> int | None:  # noqa: ARG002 - the protocol's
        return None

    def offer(self, cluster: Cluster) -> Offer:
        """What the partition says, or several, whichever gives the least; nothing where sinfo does not answer."""
        try:
            return slurm_survey.read_offer(self._at(cluster.clusters).partitions, cluster.partition)
        except SchedulerError:
            return Offer()

    def ambient(self, cluster: Cluster) -> Ambient:
        """What sbatch's variables say of such jobs."""
        return ambient(cluster, os.environ)

    def replaced(self, cluster: Cluster) -> Mapping[str, Sequence[str]]:
        """The keys in whose place options of sbatch stand."""
        return words.replaced(cluster)

    def script(self, batch: Batch) -> str:
        """The batch's script, as submitit writes it."""
        from submitit.slurm.slurm import _make_sbatch_string

        task = f"{words.task_command(batch)} -u -m launcher.worker.start {command(batch.folder)}"
        array = {} if batch.size == 1 else {"map_count": batch.size}
        return str(_make_sbatch_string(task, batch.folder, **self._parameters(batch), **array))

    def _parameters(self, batch: Batch) -> dict[str, object]:
        """The batch in submitit's words; the cluster that answers here needs no name, nor a slurmdbd that knows it."""
        resources = batch.resources
        if resources.clusters is not None and resources.clusters == self.cluster:
            resources = replace(resources, clusters=None)
        return words.parameters(replace(batch, resources=resources))

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
            done = submitted(path, batch.resources, SUBMISSION_SECONDS)
        except SchedulerError as error:
            return self._looked_for(batch, sbatch.Verdict.OPEN, str(error))
        made = sbatch.accepted(done.stdout)
        verdict = sbatch.verdict(done.returncode, done.stderr)
        if made is not None and not (done.returncode and verdict is sbatch.Verdict.REFUSED):
            where = made.cluster or batch.resources.clusters or self.cluster
            return self._taken(batch, self._seen(batch, made), where)
        said = sbatch.in_words(done.returncode, done.stderr if done.stderr.strip() else done.stdout, batch.size)
        return self._looked_for(batch, verdict, said)

    def _seen(self, batch: Batch, made: sbatch.Accepted) -> str:
        """The id under which SLURM has the batch: sbatch's answer may be cut, or a site's line look like one."""
        last, there = time.monotonic() + SEEN_SECONDS, self._at(made.cluster or batch.resources.clusters)
        shown = None
        with contextlib.suppress(SchedulerError):
            while made.cluster in (None, there.name or self.cluster):
                told = there.queue(words.named_queue_command(batch.name), SEEN_SECONDS * 5)
                shown = words.read_named(told, batch.name)
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
        """The jobs of a batch whose submission was not recorded; None where SLURM has none.

        Raises:
            SchedulerError: it does not answer, or does not show us whose it has.
        """
        there = self._at(batch.resources.clusters)
        parent = words.read_named(there.queue(words.named_queue_command(batch.name)), batch.name)
        if parent is None:
            parent = words.read_named(there.accounting(words.named_accounting_command(batch.name)), batch.name)
        is_anothers = batch.user not in (None, our_name())
        if parent is None and is_anothers and is_private(batch.user, our_name(), there.settings):
            whose = f"{batch.user} submitted {batch.name}, and sees alone what became of it"
            gone = f"if it is gone, move {batch.folder / BATCH_FILE} away"
            raise SchedulerError(f"{whose}; ask {batch.user} to launch the sweep again; {gone}")
        return None if parent is None else self._taken(batch, parent, there.name or self.cluster)

    def _taken(self, batch: Batch, parent: str, cluster: str | None) -> list[Job]:
        """The jobs of an array as they are recorded."""
        ids = [words.job_id(parent, index, batch.size) for index in range(batch.size)]
        logs, user = (str(words.log_file(batch.folder, each)) for each in ids), batch.user or our_name()
        return [
            Job(each, self.name, log=log, user=user, cluster=cluster, name=batch.name)
            for each, log in zip(ids, logs, strict=True)
        ]

    def states(self, jobs: Sequence[Job]) -> dict[str, JobState]:
        """The states of jobs of one cluster; where that is another one and does not answer, they are hidden."""
        there, silence = self._at(jobs[0].cluster if jobs else None), None
        try:
            silence = self._silent_about(jobs[0].cluster if jobs else None)
            if silence is None:
                return {job_id: replace(state, cluster=there.name) for job_id, state in _states(jobs, there).items()}
        except SchedulerError as error:
            if there is self._here:
                raise
            silence = f"cluster {there.name} does not answer: {error}"
        return dict.fromkeys((job.job_id for job in jobs), JobState(Phase.HIDDEN, silence, cluster=there.name))

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Cancel those of the jobs, all of one cluster, that are ours: here or by now, an id may be another's.

        Raises:
            NotCancelled: some are not here, not ours any more, or were denied; the others have been cancelled.
        """
        elsewhere = [job for job in jobs if job.cluster and self.cluster and not self.reaches(job.cluster)]
        here = [job for job in jobs if job not in elsewhere]
        there = self._at(here[0].cluster if here else None)
        names = _names_now([job for job in here if job.name], there)
        others = [job for job in here if scancel.is_anothers(job, names)]
        ours = [job.job_id for job in _at_work([job for job in here if job not in others], names, there)]
        denied = _scancel(folded(ours), there)
        said = scancel.denied_in_words(denied, here, our_name())
        said += scancel.in_words(others, "is another's by now, and is left alone")
        if elsewhere:
            job, silence = elsewhere[0], self._silent_about(elsewhere[0].cluster)
            where = f"is on cluster {job.cluster}, and this is {self.cluster}; cancel there"
            said.append(f"job {job.job_id} {where if silence is None else f'is on {silence}; try again'}")
        if said:
            done = len(ours) - len(scancel.meant(denied, ours))
            missed = [*scancel.meant(denied, ours), *(job.job_id for job in elsewhere)]
            raise NotCancelled(f"scancel: {done} of {len(jobs)} jobs cancelled; {'; '.join(said)}", missed)

    def survey(self, cluster: Cluster) -> tuple[list[tuple[str, str]], str]:
        """What the cluster offers to which such jobs go, and the file that fits it."""
        there, name = self._at(cluster.clusters), self.destination(cluster)
        partitions = there.answer(slurm_survey.PARTITIONS_COMMAND)
        accounting, silence = _keeps_accounts(there)
        told = None
        if accounting:
            told, silence = there.accounts(slurm_survey.accounts_command(our_name(), name))
        limits = slurm_survey.Limits(there.settings) if silence else there.limits  # who is silent is asked no more
        size, clusters = limits.batch_size(Cluster()), self._known if accounting and not silence else ()
        offered = slurm_survey.survey(there.settings, partitions, told, size, clusters, silence)
        offered = replace(offered, trial=tried(there.ask, *slurm_survey.where_to_try(offered)))
        return list(slurm_survey.findings(offered)), slurm_survey.proposal(offered, there.name)

    def run_and_wait(self, batch: Batch, module: str, seconds: float) -> str | None:
        """Run `python -m MODULE FOLDER` as one job, which sbatch waits for."""
        from submitit.slurm.slurm import _make_sbatch_string

        command = f"{words.python_command(batch)} -m {module} {shlex.quote(str(batch.folder))}"
        path = batch.folder / "script.sh"
        path.write_text(_make_sbatch_string(command, batch.folder, **self._parameters(batch)), encoding="utf-8")
        try:
            done = submitted(path, batch.resources, seconds, "--parsable", "--wait")
        except SchedulerError:
            self._at(batch.resources.clusters).ask(["scancel", f"--name={batch.name}"])
            raise
        made = sbatch.accepted(done.stdout)
        refused = sbatch.verdict(done.returncode, done.stderr) is sbatch.Verdict.REFUSED
        if done.returncode and (made is None or refused):  # with --wait it may be the job's
            raise Refused(f"sbatch: {words.complaint(done.stderr)}")
        return None if done.returncode or made is None else made.job_id


def _keeps_accounts(there: Controller) -> tuple[bool, str | None]:
    """Whether sacct answers; and why not, where there are accounts that do not answer now."""
    try:
        done = there.ask(SACCT_COMMAND)
    except SchedulerError as error:
        return False, str(error) if shutil.which(SACCT_COMMAND[0]) else None
    silent = done.returncode and words.NO_ANSWER.search(done.stderr)
    said = f"{SACCT_COMMAND[0]} does not answer: {words.complaint(done.stderr)}" if silent else None
    return not done.returncode, said


def _states(jobs: Sequence[Job], there: Controller) -> dict[str, JobState]:
    """Ask squeue, and sacct, where there is one, for those that squeue has forgotten or that have ended."""
    names = {job.job_id: job.name for job in jobs}
    scripts = {job.job_id: script_of(job) for job in jobs}
    queue = words.read_queue(there.queue(words.queue_command(names)), names, scripts)
    rest = words.open_ids(names, queue)
    told, silence = there.accounts(words.accounting_command(rest)) if rest else ("", None)
    accounts = words.read_accounting(told, names)
    if missing := names.keys() - queue.keys() - words.ended_in(accounts):
        again = there.queue(words.queue_command(sorted(missing)))  # an answer may have been cut short
        queue |= words.read_queue(again, names, scripts)
    known = words.combined(queue, accounts)
    hidden = _hidden([job for job in jobs if job.job_id not in known], silence, accounts, there)
    return hidden | {job.job_id: explained(known[job.job_id], job) for job in jobs if job.job_id in known}


def _names_now(jobs: Sequence[Job], there: Controller) -> dict[str, set[str]]:
    """The names under which SLURM has these ids; it is asked again for those that an answer cut short would lack."""
    names = scancel.read_names(there.queue(scancel.names_command(jobs))) if jobs else {}
    unseen = [job for job in jobs if job.job_id not in names]
    return names | (scancel.read_names(there.queue(scancel.names_command(unseen))) if unseen else {})


def _at_work(jobs: Sequence[Job], names: Mapping[str, set[str]], there: Controller) -> list[Job]:
    """Those that may be there: of ours that squeue does not list, those that have not ended for sacct.

    `scancel --name` is no help: of an array it ends all pending tasks, whichever are named.
    """
    unseen = {job.job_id: job.name for job in jobs if job.name and job.user == our_name() and job.job_id not in names}
    told = there.accounting(words.accounting_command(unseen)) if unseen else ""
    open_ = words.in_flight(words.read_accounting(told, unseen))
    return [job for job in jobs if job.job_id not in unseen or job.job_id in open_]


def _scancel(ids: Sequence[str], there: Controller) -> dict[str, str]:
    """Cancel in one call; of each job that is there and was denied, why."""
    done = there.ask(["scancel", *ids]) if ids else None
    if done is None or not done.returncode:
        return {}
    denied = scancel.refused(done.stderr)
    if not denied and not scancel.OVER.search(done.stderr):
        raise SchedulerError(f"scancel: {words.complaint(done.stderr)}")
    return denied


def _hidden(
    jobs: Sequence[Job], silence: str | None, accounts: Mapping[str, JobState], there: Controller
) -> dict[str, JobState]:
    """Those of the jobs that nobody shows us, and that may be there all the same, each with the reason."""
    settings: dict[str, str] = {}
    with contextlib.suppress(SchedulerError):
        settings = there.settings_now() if jobs else {}  # a controller may have started since we asked
    said = silence and f"squeue does not list it, and {silence}"
    reasons = {
        job.job_id: hidden_by(job, our_name(), settings, time.time()) or unlisted(job, accounts) or said for job in jobs
    }
    return {job_id: JobState(Phase.HIDDEN, why) for job_id, why in reasons.items() if why}
