"""The columns of a results frame: name, place in ``results.jsonl``, unit and meaning.

Owns: the documented names; ``docs/results.md`` is made from them, and the reader goes by them.
Must not know: files, statistics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tabulate import tabulate

MADE_BY = ("preference_made_by", "mt_bench_made_by", "lm_eval_made_by", "command_made_by")
LABELS = ("desirable", "undesirable")  # of completions
Kind = Literal["text", "number", "mapping", "list"]

CATEGORIES = ("writing", "roleplay", "extraction", "reasoning", "math", "coding", "stem", "humanities")
_HEAD = """\
# results.jsonl

`prefsweep collect SWEEP` writes one JSON object a line: one for each run, one before it for each of its
milestones that is evaluated (`RUN@STEP`: the model after that step), and one for each untrained model ("base").
`analysis.load(path)` reads it as a pandas frame with the columns below; `report/tables/results.parquet` holds the same
frame, its mappings and lists of mappings as JSON text. Whatever is not known is null in the file, and NaN (numbers),
None (text) or empty (mappings, lists) in the frame. Keys that are not listed here are left out, except the numbers of
`evaluation`, which become entries of `other_scores`.

    import analysis
    runs = analysis.load("outputs/sweeps/smoke")
    runs[["run_id", "beta", "golden_reward", "kl"]]

`analysis.load` takes several paths as well: a run that lies in more than one sweep is one row.

Scores that programs printed have columns of their own beside `other_scores` (`command/quality`). Where models were
judged, or measured by a program, in several ways, each way has its columns: `mt_bench by JUDGE`, `mt_bench_se by
JUDGE`, `mt_bench_scores by JUDGE`. Then `mt_bench` is what the file has, of whichever judge: compare within one of the
others.

"""


@dataclass(frozen=True)
class Column:
    """One column: its ``kind``, its ``place`` in a line of the file (dots go inwards; "" for what is computed)."""

    name: str
    kind: Kind
    meaning: str
    unit: str = ""
    place: str | None = None

    @property
    def path(self) -> tuple[str, ...]:
        """The keys that lead to the value in a line of the file; empty for a column that is computed."""
        place = self.name if self.place is None else self.place
        return tuple(place.split(".")) if place else ()


def _score(name: str, meaning: str, unit: str, key: str = "") -> Column:
    return Column(name, "number", meaning, unit, f"evaluation.{key or name}")


_SCORES = (
    ("heldout_loss", "the run's own loss on held-out pairs", "of its loss_type", "loss"),
    ("reward_accuracy", "held-out pairs whose chosen answer gets the higher implicit reward", "0..1"),
    ("reward_margin", "mean implicit reward of chosen less rejected", "of its reward"),
    ("kl", "KL to the reference model, per generation", "nats"),
    ("kl_stderr", "standard error of kl", "nats"),
    ("golden_reward", "mean golden reward of the generations", "of the scorer"),
    ("golden_reward_stderr", "standard error of golden_reward", "of the scorer"),
    ("pairs", "held-out pairs", "pairs"),
    ("generations", "generations that were scored", "texts"),
    ("prompts", "prompts that the generations continue, taking turns", "prompts"),
    ("evaluation_seconds", "time of the evaluation", "s", "seconds"),
    ("mt_bench", "MT-Bench score, mean over questions and turns", "1..10"),
    ("mt_bench_se", "standard error of mt_bench", "1..10"),
    *((f"mt_bench_{each}", f"MT-Bench score, mean over the {each} questions", "1..10") for each in CATEGORIES),
)
TEXT = (
    Column("kind", "text", '"run" or "base" (an untrained model)'),
    Column(
        "run_id",
        "text",
        "the run's id, of a milestone with @STEP; of a base, its model's name with -base, and the beginning of `base` "
        "where several have that name",
    ),
    Column("sweep", "text", "the sweep, or the sweeps, that hold the run"),
    Column("model", "text", "name of the model; where two have one name, with what tells them apart"),
    Column("dataset", "text", "name of the data set; the same"),
    Column("loss_type", "text", "the loss; none for a base"),
    Column("status", "text", "NEW, PENDING, RUNNING, TRAINED, FAILED, CANCELLED, TIMEOUT, LOST or UNREADABLE"),
    Column("reason", "text", "why the run is not trained, in a line"),
    Column("job_id", "text", "the last attempt's job"),
    Column("base", "text", "which untrained model's evaluation the run is compared with: model, prompts, settings"),
    Column("device", "text", "what it trained on: the GPU's name, or cpu", place="training.device"),
    Column(
        "packing",
        "text",
        "how pairs went through the model in training: packed, or padded and why",
        place="training.packing",
    ),
    Column("address", "text", "the published model: REPOSITORY@REVISION, or a folder", place="revision.address"),
    Column("command", "text", "the command that makes this run alone"),
    Column("reward", "text", "what accuracy and margin are made of, by its loss; only those of one reward compare"),
)
NUMBERS = (
    Column("beta", "number", "beta of the loss"),
    Column("seed", "number", "seed of the training"),
    Column("step", "number", "optimizer steps done", "steps"),
    Column("max_steps", "number", "optimizer steps that the run will have", "steps"),
    Column("milestone", "number", "the step after which the row's model was kept; none for the run itself", "steps"),
    Column("seconds", "number", "time of the steps of a finished training", "s"),
    Column("attempts", "number", "submissions so far"),
    Column("gpus", "number", "GPUs that the last attempt asked for; 0 where it trained on a CPU", "GPUs"),
    Column("gpu_hours", "number", "GPU time of all steps, repeated ones too, and of all evaluations", "h"),
    Column("tokens", "number", "prompts and answers that the training computed, each once", "tokens",
           "training.throughput.tokens"),
    Column("computed_tokens", "number", "places that its forwards computed, padding and repeated prompts among them; "
           "packed, no answer's last token is, so that there may be fewer than `tokens`",
           "tokens", "training.throughput.computed_tokens"),
    Column("padding", "number", "share of these that held no token", "0..1", "training.throughput.padding"),
    Column("tokens_per_second", "number", "`tokens` by the time of the steps, all ranks together", "tokens/s",
           "training.throughput.tokens_per_second"),
    Column("peak_memory_bytes", "number", "most memory of a rank: of tensors on a GPU, resident on a CPU", "bytes",
           "training.throughput.peak_memory_bytes"),
    Column("mfu", "number", "share of the GPUs' peak: model FLOPs of `tokens`, head included, nothing twice "
           "(launcher/model/operations.py)", "0..1", "training.throughput.mfu"),
    Column("training_loss", "number", "training loss, mean of the last logged steps", "of its loss_type",
           "training.loss"),
)  # fmt: skip
SCORES = tuple(_score(*each) for each in _SCORES)
NESTED = (
    Column("golden_rewards", "list", "golden reward of each generation, in one order for all runs of a base"),
    Column("actions", "mapping", "probability of each action of a policy that is a table", "0..1",
           "evaluation.actions"),
    Column("mt_bench_scores", "mapping", "MT-Bench score of each question, by the question's id", "1..10"),
    Column("mt_bench_questions", "list", "what is behind it: question_id, category, turns (two ratings), score"),
    Column("mt_bench_made_by", "mapping", "judge, hashes of prompts and references, answer settings, cost; scores made "
           "by different ones cannot be compared"),
    Column("mt_bench_also", "list", "scores of other judges, kept when it was judged again: as above, a mapping each"),
    Column("preference_made_by", "mapping", "what the generations depend on, besides the model"),
    Column("lm_eval_made_by", "mapping", "settings of lm_eval"),
    Column("command_made_by", "mapping", "settings of command; of its words, the hash"),
    Column("losses", "list", "held-out loss under every loss_type and beta of the sweep: loss_type, beta, loss"),
    Column("other_scores", "mapping", "further numbers of evaluation (lm_eval tasks, commands), by their names",
           place=""),
    Column("samples", "list", "generations to read: prompt, text, reward"),
    Column("curve", "list", "training log: step, loss, reward_accuracy, reward_margin, learning_rate"),
    Column("axes", "mapping", "the sweep's axes and the run's place on them; step where runs have milestones"),
    Column("objective", "mapping", "the full resolved objective, which the run id is a hash of"),
    Column("sources", "mapping", "what was found of model and dataset: commits, or hashes of files"),
    Column("data", "mapping", "rows that it was trained on: max_length; splits, each with read, used, left_out by "
           "reason, cut, median and percentile_95 in tokens; examples as the model sees them"),
    Column("hosts", "list", "the machines that its attempts ran on"),
    Column("provenance", "mapping", "commit, versions, submitting host and user, time of the last attempt"),
)  # fmt: skip
COMPUTED = (
    Column("setting", "text", "every key besides model, loss_type, beta and seed that tells runs apart", place=""),
    Column(
        "evaluated",
        "text",
        "in which way the run was evaluated, where those of its model and data were in several",
        place="",
    ),
    Column("panel", "text", "model and setting; within a panel only loss_type, beta and seed differ", place=""),
)
COLUMNS = (*TEXT, *NUMBERS, *SCORES, *NESTED, *COMPUTED)


def document() -> str:
    """Give the text of ``docs/results.md``."""
    rows = [
        [f"`{each.name}`", each.kind, each.unit, f"`{'.'.join(each.path)}`" if each.path else "computed", each.meaning]
        for each in COLUMNS
    ]
    table = tabulate(rows, headers=["column", "kind", "unit", "key", "meaning"], tablefmt="pipe")
    return f"{_HEAD}{table}\n"
