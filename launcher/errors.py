"""Every error of ours, the hint for a mistyped word, names and numbers of things. The message is one line.

Owns: the tree of errors and what each names. Must not know: anything of ours.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from enum import Enum


class PrefsweepError(Exception):
    """Root of our errors: the message is one line for the user, never a traceback.

    PrefsweepError
    |- UsageError     the command is wrong, nothing was done (exit code 2)
    |  `- ConfigError what is wrong is the value of a key
    |- StoreError     a file of the run directory is missing, torn or foreign (exit code 1)
    |  |- Unread      the system does not let it be read: it may be whole
    |  `- Foreign     it is another run's
    |- FetchError     what is on the Hub could not be fetched (exit code 1)
    |- TrainingError  a training cannot go on (in a job; the run has failed)
    |- MeasuringError a benchmark cannot be done (in a job; the run is trained)
    |- PublishError   a revision was not taken, or is another run's (exit code 1)
    `- SchedulerError the scheduler did not answer (exit code 1)
       |- NotCancelled  some jobs could not be cancelled; the others were
       `- Refused     it answered, and took nothing
          `- QueueFull   since as many jobs as may be are there: later it would
    """


class UsageError(PrefsweepError):
    """Names the word of the command, or the sweep or run that it is about, and what would be right."""


class _Unsaid(Enum):
    UNSAID = "not repeated"
    UNSET = "not set"


UNSAID = _Unsaid.UNSAID  # in place of a value that may be a secret, or where the key alone says it
UNSET = _Unsaid.UNSET  # nobody gave one: the remedy tells what follows from that


class ConfigError(UsageError):
    """A key whose value is not right, in one line: `key=value: remedy`, or `key: remedy` where the value is UNSAID.

    Attributes:
        key: dotted, as it is typed, with a sign before it too; several, with commas, where all of them lack a value.
        value: what it is, or UNSAID, or UNSET.
        remedy: what is wrong with it, and what would be right.
    """

    def __init__(self, key: str, value: object, remedy: str) -> None:
        super().__init__(key, value, remedy)
        self.key, self.value, self.remedy = key, value, remedy

    def __str__(self) -> str:
        if self.value is UNSET:
            return f"{self.key} is not set, and {self.remedy}"
        said = self.key if self.value is UNSAID else f"{self.key}={self.value}"
        return f"{said}: {self.remedy}"

    def under(self, section: str) -> ConfigError:
        """The same, said of the key in a section that has the same keys."""
        return ConfigError(f"{section}.{self.key}", self.value, self.remedy)

    def renamed(self, keys: Mapping[str, str]) -> ConfigError:
        """The same, said of the key that takes the place of this one, if one does."""
        return ConfigError(keys.get(self.key, self.key), self.value, self.remedy)


class StoreError(PrefsweepError):
    """Names the run and the file."""


class Unread(StoreError):
    """Names the file, the system's words and what helps: nothing says that it is damaged, so nobody may replace it."""


class Foreign(StoreError):
    """Names the file, whose it is and whose it should be."""


class FetchError(PrefsweepError):
    """Names the model or data set, and why it is not here."""


class TrainingError(PrefsweepError):
    """Names the step, what is wrong there, and what to do."""


class CheckpointError(TrainingError):
    """Names the checkpoint that a training cannot start from, and what is wrong with it."""


class MeasuringError(PrefsweepError):
    """Names the benchmark, what is wrong, and what to do."""


class PublishError(PrefsweepError):
    """Names the revision and why it is not there; the run stays TRAINED."""


class SchedulerError(PrefsweepError):
    """Names the scheduler's own words."""


class NotCancelled(SchedulerError):
    """Of the jobs that were to be cancelled those that may go on, by id."""

    def __init__(self, said: str, jobs: Iterable[str]) -> None:
        super().__init__(said)
        self.jobs = frozenset(jobs)


class Refused(SchedulerError):
    """The scheduler said no: it has taken nothing of what it was handed."""


class QueueFull(Refused):
    """As many jobs as the user may have are there: it would take the same when some have ended."""


# What others call our keys.
_OTHERS_WORDS = {
    "cluster.account": "account",
    "trainer.lora.alpha": "alpha lora_alpha",
    "trainer.batch_size": "bs batch",
    "cluster.cpus_per_gpu": "cpus cpus_per_task",
    "dataset": "data",
    "output_dir": "dir out output outdir",
    "trainer.lora.dropout": "dropout",
    "dry_run": "dry dryrun",
    "tracking.entity": "entity",
    "trainer.epochs": "epoch n_epochs num_epochs num_train_epochs",
    "evaluation": "eval",
    "sweep": "experiment sweep_name",
    "cluster.gpus_per_node": "gpus gpu n_gpus ngpus num_gpus",
    "trainer.max_grad_norm": "grad_clip",
    "trainer.learning_rate": "lr learning",
    "tracking": "logger report_to wandb",
    "loss_type": "loss",
    "trainer.lora.r": "lora_r rank lora_rank",
    "trainer.lr_scheduler": "lr_scheduler_type scheduler",
    "trainer.max_length": "max_len max_seq_len max_seq_length maxlen seq_len seq_length",
    "trainer.micro_batch_size": "mbs micro_batch micro_bs per_device_train_batch_size",
    "cluster.mem": "memory",
    "cluster.nodes": "nnodes num_nodes",
    "trainer.max_steps": "num_steps steps",
    "trainer.optimizer": "optim",
    "trainer.lora": "peft",
    "model.dtype": "precision torch_dtype",
    "hub": "push_to_hub",
    "cluster.partition": "queue",
    "checkpoint.every": "save_every save_steps",
    "beta": "tau",
    "cluster.time": "time_limit timelimit walltime",
    "trainer.warmup_ratio": "warmup",
    "trainer.weight_decay": "wd",
}
_OURS = {word: key for key, words in _OTHERS_WORDS.items() for word in words.split()}
_SECTIONS = ("", "trainer", "cluster", "model", "dataset", "hub", "checkpoint", "tracking")  # meant rather than others
_NEAR_ENOUGH, _SURE_ENOUGH = 0.7, 0.85  # of difflib's measure
_EVERYWHERE = {"name", "path"}  # last words of keys that say nothing of which section is meant


def suggestion(wrong: str, known: Collection[str]) -> str:
    """` (did you mean ...?)`, or nothing where no known word is near: by another name, in another section, misspelt."""
    found = _meant(wrong.lstrip("+~"), known)
    return f" (did you mean {found!r}?)" if found else ""


def near_choice(wrong: object, known: Collection[str]) -> str:
    """The same for one of a few words, each of which does something else: only what is surely meant.

    That is another case of its letters, its beginning, or a slip that spares the first letter and all digits: adamw is
    not grokadamw misspelt, nor 8bit 4bit.
    """
    word = _plain(str(wrong))
    plain = {_plain(each): each for each in reversed(list(known))}  # of equals the first
    alike = [each for each in known if word and _plain(each).startswith(word)]
    begun = [each for each in alike if len(alike) == 1 or _plain(each).startswith(f"{word}_")]
    slips = [each for each in difflib.get_close_matches(word, plain, n=3, cutoff=0) if _is_slip(word, each)]
    found = plain.get(word) or next(iter(begun), None) or next((plain[each] for each in slips), None)
    return f" (did you mean {found!r}?)" if found else ""


def _plain(word: str) -> str:
    return word.lower().replace("-", "_")


def _is_slip(word: str, meant: str) -> bool:
    same = word[:1] == meant[:1] and re.findall(r"\d+", word) == re.findall(r"\d+", meant)
    likely = difflib.SequenceMatcher(None, word, meant).ratio() >= _SURE_ENOUGH
    return same and (likely or sorted(word) == sorted(meant))


def _meant(wrong: str, known: Collection[str]) -> str | None:
    section, _, word = wrong.rpartition(".")
    word = word.replace("-", "_").lower()
    ours = _OURS.get(word, word)
    for name in (ours, ours.rpartition(".")[2] if section or "." not in wrong else ours, word):
        if section and name in _EVERYWHERE:
            continue
        if same := [each for each in known if each == name or each.endswith(f".{name}")]:
            return min(same, key=lambda each: _distance(each, section))
    within = {each.rpartition(".")[2].lower(): each for each in known if section and each.rpartition(".")[0] == section}
    # All keys of a section begin alike, which makes none of them likely.
    choices = within or {each.lower(): each for each in known} | _by_last_word(known, section)
    near = difflib.get_close_matches(word if within else wrong.lower(), choices, n=1, cutoff=_NEAR_ENOUGH)
    return choices[near[0]] if near else None


def _by_last_word(known: Collection[str], section: str) -> dict[str, str]:
    """The keys by their last words, where no section is given in which to look."""
    likely = sorted(known, key=lambda each: _distance(each, section), reverse=True)
    return {} if section else {each.rpartition(".")[2].lower(): each for each in likely}


def _distance(key: str, section: str) -> tuple[bool, int, int, str]:
    """How unlikely it is that a key is meant by somebody who gave its last word, and this section."""
    own = key.rpartition(".")[0]
    order = _SECTIONS.index(own) if own in _SECTIONS else len(_SECTIONS)
    return own != section, order, key.count("."), key


def listed(names: Iterable[object], at_most: int) -> str:
    """Names on one line: the first ones, and how many more there are."""
    every = list(map(str, names))
    more = f" and {len(every) - at_most} more" if len(every) > at_most else ""
    return ", ".join(every[:at_most]) + more


def number_of(count: float, noun: str) -> str:
    """A number of things: `1 run`, `1,000 runs`, `1.5 epochs`."""
    said = f"{count:,}" if isinstance(count, int) else f"{count:g}"
    return f"{said} {noun}{'' if count == 1 else 's'}"


class JudgeError(PrefsweepError):
    """The judge cannot be reached, or refuses; what it said before is kept. Names the endpoint and its words."""


class RankFailedError(PrefsweepError):
    """Another rank cannot go on, so this one cannot either; says which and why."""
