"""What SLURMs of many versions have answered, read by the launcher: nothing that one of them says is misunderstood.

Below `slurm_answers/VERSION/` is a file for each command. An answer begins with lines that say where it comes from
(recorded on a cluster of slurm/dev-cluster by `record.py`, or public, by its address), what was asked, with which exit
code that ended, and what was true. Then comes what was printed, or complained of where the exit code is not 0.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from launcher.cluster import slurm_cancel, slurm_node, slurm_sbatch, slurm_survey
from launcher.cluster import slurm_words as words
from launcher.cluster.job_state import JobState
from launcher.cluster.slurm_ids import task_ids
from launcher.cluster.slurm_sbatch import Verdict
from launcher.config import Cluster

FOLDER = Path(__file__).parent / "slurm_answers"
ACCOUNTS = "JobID|State|ExitCode|NodeList|JobName"
QUEUE = words.queue_command(["1"])[words.queue_command(["1"]).index("-o") + 1]
VERDICTS = {Verdict.REFUSED: "refused", Verdict.FULL: "full", Verdict.SAID_NO: "said no", Verdict.OPEN: "open"}


@dataclass(frozen=True)
class Answer:
    """One answer: `true` is what the launcher should make of it."""

    version: str
    source: str
    command: list[str]
    code: int
    true: list[str]
    text: str


def answers() -> Iterator[Answer]:
    for path in sorted(FOLDER.glob("*/*.txt")):
        for stanza in re.split(r"^(?=# source: )", path.read_text(), flags=re.MULTILINE)[1:]:
            head = re.match(r"(?:# .*\n)+", stanza)
            assert head, path
            said = [line[2:].partition(": ")[::2] for line in head[0].splitlines()]
            one = dict(said)
            true = [value for key, value in said if key == "true"]
            text = stanza[head.end() :].removesuffix("\n")
            yield Answer(
                path.parent.name, one["source"], shlex.split(one["command"]), int(one["exit code"]), true, text
            )


def in_words(state: JobState) -> str:
    return " ".join(filter(None, [state.phase, state.reason, state.node and f"@{state.node}"]))


def states(read: dict[str, JobState]) -> list[str]:
    return [f"{job}: {in_words(state)}" for job, state in read.items()]


def of_squeue(answer: Answer) -> list[str]:
    if answer.code:
        return ["unknown" if "Invalid job id" in answer.text else "no answer"]
    options = dict(pairwise(answer.command))
    columns = options.get("-o", QUEUE)
    if QUEUE.startswith(columns):  # recorded before squeue was asked when a job is expected to start
        return states(words.read_queue(answer.text))
    if columns == "%F|%j":
        return [str(words.read_named(answer.text, answer.command[-1]))]
    names = slurm_cancel.read_names(answer.text)
    return [f"{job}: {said.partition('|')[0]}" for job, (said, *_) in names.items()]


def of_sacct(answer: Answer) -> list[str]:
    if answer.code:
        return ["no answer" if words.NO_ANSWER.search(answer.text) else "no accounts"]
    if name := next((word.removeprefix("--name=") for word in answer.command if word.startswith("--name=")), None):
        return [str(words.read_named(answer.text, name))]
    header, *lines = answer.text.splitlines()
    if not header.startswith("JobID|"):
        return states(words.read_accounting(answer.text))
    if header == ACCOUNTS:
        return states(words.read_accounting("\n".join(lines)))
    rows = [dict(zip(header.split("|"), line.split("|"), strict=True)) for line in lines]
    whole = [row for row in rows if task_ids(row["JobID"])]  # without the steps, which we do not ask for
    return states({row["JobID"]: words._state(row["State"].partition(" ")[0], "", "") for row in whole})


def of_sbatch(answer: Answer) -> list[str]:
    """One that did not take the job says why in a line; where there are several, each is an answer."""
    if answer.code:
        several = [line for line in answer.text.splitlines() if "Batch job submission failed: " in line]
        texts = several if len(several) > 1 else [answer.text]
        return sorted({VERDICTS[slurm_sbatch.verdict(answer.code, text)] for text in texts})
    job = slurm_sbatch.accepted(answer.text)
    return [] if job is None else [f"accepted {job.job_id}" + (f" on {job.cluster}" if job.cluster else "")]


def of_scancel(answer: Answer) -> list[str]:
    denied = slurm_cancel.refused(answer.text) if answer.code else {}
    if denied and not slurm_cancel.OVER.search(answer.text) and not words.NO_ANSWER.search(answer.text):
        return [f"denied: {job}" for job in denied]
    return ["over" if not answer.code or slurm_cancel.OVER.search(answer.text) else "no answer"]


def of_sinfo(answer: Answer) -> list[str]:
    if answer.command[-1] == slurm_survey.LIMITS_COMMAND[-1]:
        offer = slurm_survey.read_offer(answer.text, None)
        return [f"{offer.nodes} nodes, at most {offer.most_minutes} minutes"]
    found = slurm_survey.read_partitions(answer.text)
    return [
        f"{each.name}{'*' if each.default else ''} {each.nodes} nodes, {each.gpus} GPUs, {each.cpus} cores"
        for each in found
    ]


def of_scontrol(answer: Answer) -> list[str]:
    if answer.code:
        return ["no answer"]
    if "partition" in answer.command:
        limits = slurm_survey.Limits({}, partitions=answer.text)
        return [f"QOS of the default: {qos}" for qos in limits._partition_qos(Cluster())]
    if "job" in answer.command:
        return [f"end: {told[1]}"] if (told := slurm_node.END_TIME.search(answer.text)) else []
    settings = words.read_settings(answer.text)
    return [f"{key}={settings.get(key)}" for key in (each.partition("=")[0] for each in answer.true)]


READERS: dict[str, Callable[[Answer], list[str]]] = {
    "squeue": of_squeue, "sacct": of_sacct, "sbatch": of_sbatch, "scancel": of_scancel, "sinfo": of_sinfo,
    "scontrol": of_scontrol,
}  # fmt: skip
ANSWERS = list(answers())


def asked(answer: Answer) -> str:
    return next(word for word in answer.command if word in READERS)


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: f"{answer.version}: {shlex.join(answer.command)[:60]}")
def test_an_answer_of_some_slurm_is_understood(answer: Answer) -> None:
    """What was true when it was said is what the launcher makes of it."""
    assert sorted(READERS[asked(answer)](answer)) == sorted(answer.true), answer.text
