"""The model card of a revision: metadata that the Hub reads, then what a person wants to know.

Owns: the words and their order. Must not know: files, stores; it is handed plain values.

The metadata's keys are those of the Hub's specification (hub-docs, modelcard.md).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import yaml

from launcher.config import LOSS
from launcher.losses import LOG_RATIO, loss_named, reward_of
from launcher.machine.locate import is_hub_id, place_of
from launcher.store.files import Plain, plain
from launcher.store.measurements import Measured
from launcher.store.origins import Sources
from launcher.store.results import Evaluation, MTBenchResult, Result
from launcher.store.throughput import Throughput

SAMPLES = 3
UNCOUNTED = frozenset({"pairs", "generations", "seconds"})  # numbers of an evaluation that are no result
ERROR = "_stderr"
DIGITS = 4
LIMITS = (
    "A standard error covers the sampling of pairs, generations or questions, not a training with another seed, which "
    "changes results by as much or more. Reward accuracy and margin can look fine while the text is destroyed: read "
    "the samples."
)


@dataclass(frozen=True)
class Subject:
    """What a card is about.

    Attributes:
        name: the run's id; of a milestone, RUN@STEP.
        objective: config.yaml.
        sources: commits or hashes of what it was trained on.
        result, evaluation: the facts, empty where there are none.
        address: what from_pretrained takes first.
        revision: what it takes as `revision`; None where it takes none.
        license: the Hub's identifier of the licence, or None.
        step: the step of a milestone; None: the final model.
    """

    name: str
    objective: Plain
    sources: Sources
    result: Result | None
    measured: Measured
    address: str
    revision: str | None
    license: str | None = None
    step: int | None = None

    @property
    def is_adapter(self) -> bool:
        """Whether the base model is needed to load it."""
        return self.objective["trainer"].get("lora") is not None


def card(subject: Subject) -> str:
    """The card as Markdown with its metadata in front."""
    front = yaml.safe_dump(metadata(subject), sort_keys=False, allow_unicode=True)
    parts = [_what_it_is(subject), _results(subject), _loading(subject), _training(subject), _samples(subject)]
    return f"---\n{front}---\n\n" + "\n".join(part for part in parts if part)


def starting_point_card(model: Plain, sources: Plain, address: str, license_: str | None) -> str:
    """The card of a model from which adapters start, and which is published for their sake.

    Args:
        model: the section `model` of config.yaml.
        sources: what it was made from; see sources.json.
        address: where it is published.
        license_: the Hub's identifier of the licence, or None.
    """
    found = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "license": license_,
        "base_model": _base_ids(model, sources) or None,
        "tags": ["prefsweep"],
    }
    front = yaml.safe_dump({key: value for key, value in found.items() if value is not None}, sort_keys=False)
    return (
        f"---\n{front}---\n\n# The starting point of the adapters here: {model['name']}\n\n"
        f"{_model_words(model, sources)}. Nothing was trained: the adapters in the other revisions of this repository "
        f"start from it, and load it from here ({address}).\n"
    )


def _base_ids(model: Plain, sources: Plain) -> list[str]:
    """The Hub ids of what a starting point consists of."""
    ids = [hub_id(model.get("path"))]
    while "base" in sources:
        sources = sources["base"]
        ids.append(sources.get("hub"))
    return [each for each in dict.fromkeys(ids) if each]


def _model_words(model: Plain, sources: Plain) -> str:
    """What a starting point consists of: an adapter and the model below it, or the model alone."""
    own = sources.get("adapter", sources)
    told = _linked(model, "model", own) or f"{model['name']} ({_origin(model)})"
    if "base" not in sources:
        return told
    base = sources["base"]
    below = {"name": "a model", "path": base.get("adapter", base).get("hub")}
    return f"{told}, an adapter merged into {_model_words(below, base)}"


def hub_id(path: str | None) -> str | None:
    """The Hub id that a configured path is; None where it is none."""
    return path if is_hub_id(path) else None


def metadata(subject: Subject) -> Plain:
    """The metadata; what is not known, or is not on the Hub, is left out."""
    bases = _base_ids(subject.objective["model"], subject.sources.model)
    data = [known for each in _sources(subject.objective["dataset"]) if (known := hub_id(each.get("path")))]
    found: Plain = {
        "library_name": "peft" if subject.is_adapter else "transformers",
        "pipeline_tag": "text-generation",
        "license": subject.license,
        "base_model": bases[0] if len(bases) == 1 else bases or None,
        "base_model_relation": (bases and ("adapter" if subject.is_adapter else "finetune")) or None,
        "datasets": data or None,
        "tags": ["prefsweep", "trl", "preference-tuning", str(subject.objective["loss_type"])],
        "model-index": _model_index(subject) or None,
    }
    return {key: value for key, value in found.items() if value is not None}


Measure = tuple[str, float, float | None]


def measures(evaluation: Mapping[str, Any]) -> Iterator[Measure]:
    """Each result with its standard error, or None where that is not known."""
    for name, value in evaluation.items():
        counted = isinstance(value, (int, float)) and not isinstance(value, bool) and name not in UNCOUNTED
        if counted and not name.partition(",")[0].endswith(ERROR):
            error = evaluation.get(_error_of(name))
            yield name, value, _of_share(name, value, evaluation) if error is None else error


def _error_of(name: str) -> str:
    """The key of a result's error; lm_eval has the name of a filter behind a comma: `acc,strict`."""
    measure, comma, of = name.partition(",")
    return measure + ERROR + comma + of


def _of_share(name: str, share: float, evaluation: Mapping[str, Any]) -> float | None:
    """The standard error of the share of pairs that are ranked rightly: sqrt(p (1 - p) / n), of the binomial law.

    Of none or all of them it would be 0, which says nothing of how sure the share is.
    """
    pairs = evaluation.get("pairs")
    return math.sqrt(share * (1 - share) / pairs) if name == "reward_accuracy" and pairs and 0 < share < 1 else None


def mt_bench_measures(fact: MTBenchResult) -> Iterator[Measure]:
    """The score, then what it is the mean of: turns and categories, of the questions with a score."""
    questions = [question for question in fact.questions if question.score is not None]
    parts: dict[str, list[float | None]] = {"score": [question.score for question in questions]}
    for number in range(len(fact.turns)):
        parts[f"turn {number + 1}"] = [question.turns[number] for question in questions]
    for question in questions:
        parts.setdefault(question.category, []).append(question.score)
    for name, values in parts.items():
        if scores := [value for value in values if value is not None]:
            error = statistics.stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else None
            yield name, statistics.fmean(scores), error


def _found(subject: Subject) -> Iterator[tuple[str, list[Measure]]]:
    """What was measured on what; "" stands for the held-out pairs and the model's own texts."""
    measured = subject.measured
    yield "", list(measures(plain(measured.preference) if measured.preference else {}))
    if measured.mt_bench:
        yield "MT-Bench", list(mt_bench_measures(measured.mt_bench))
    tasks: dict[str, Plain] = {}
    for key, value in measured.lm_eval.scores.items() if measured.lm_eval else ():
        task, _, name = key.rpartition("/")
        tasks.setdefault(task, {})[name] = value
    for task, scores in tasks.items():
        yield task, list(measures(scores))
    yield "command", list(measures(measured.command.scores if measured.command else {}))


def _model_index(subject: Subject) -> list[Plain]:
    results = [_index_entry(subject, what, rows) for what, rows in _found(subject) if rows]
    return [{"name": subject.name, "results": results}] if results else []


def _index_entry(subject: Subject, what: str, rows: Iterable[Measure]) -> Plain:
    trained_on = subject.objective["dataset"]
    name = trained_on["name"]
    pairs = {"type": hub_id(trained_on.get("path")) or name, "name": name, "split": trained_on.get("test_split")}
    metrics = [{"type": kind, "name": _words(kind), "value": value} for kind, value, _ in rows]
    dataset = {"type": what.lower(), "name": what} if what else pairs
    return {"task": {"type": "text-generation"}, "dataset": dataset, "metrics": metrics}


def _words(name: str) -> str:
    return name.replace("_", " ")


def _what_it_is(subject: Subject) -> str:
    objective = subject.objective
    kind = "A LoRA adapter of" if subject.is_adapter else "A fine-tune of"
    steps = subject.result.steps if subject.result else None
    point = f"The model after step {subject.step} of {steps}, in one" if subject.step else "One"
    beside = subject.measured.results.keys() - {"preference"}
    measured = "`evaluation.json` and `evaluations/`" if beside else "`evaluation.json`"
    return (
        f"# {subject.name}\n\n"
        f"{kind} {_source(subject, 'model')}, preference-tuned on {_source(subject, 'dataset')} with the loss "
        f"{_loss(objective)}. {point} run of a sweep by prefsweep; `config.yaml` "
        f"is its whole objective, `metrics.jsonl` its training curve, {measured} all that was measured.\n"
    )


def _loss(objective: Plain) -> str:
    """The loss with its numbers: a beta where its formula has one, and its own keys."""
    numbers = [f"beta {objective['beta']}"] if loss_named(objective["loss_type"]).beta else []
    numbers += [f"`{key}` {value}" for key, value in _keys(objective).items()]
    return f"`{objective['loss_type']}`" + (f" at {', '.join(numbers)}" if numbers else "")


def _keys(objective: Plain) -> Plain:
    """The keys of the loss that have a value."""
    return {f"{LOSS}.{key}": value for key, value in objective.get(LOSS, {}).items() if value is not None}


def _sources(config: Plain) -> list[Plain]:
    """What the rows of a data set come from; of a model, itself."""
    return config.get("mixture") or [config.get("weak_rejects") or config]


def _source(subject: Subject, key: str) -> str:
    """The model or the data set, linked where it is on the Hub, with what identifies its content."""
    config, known = subject.objective[key], plain(subject.sources)[key]
    if "adapter" in known:
        return _model_words(config, known)
    told = [_linked(source, key, known) for source in _sources(config)]
    if _sources(config) == [config]:
        return told[0] or f"{config['name']} ({_origin(config)})"
    return f"{config['name']} ({_origin(config)} {', '.join(each or 'a local file or folder' for each in told)})"


def _linked(source: Plain, key: str, known: Mapping[str, Any]) -> str | None:
    """A link to a source on the Hub with its commit; None where it is none."""
    on_hub = hub_id(source.get("path"))
    if not on_hub:
        return None
    url = f"https://huggingface.co/{'datasets/' if key == 'dataset' else ''}{on_hub}"
    commit = known.get("commit") or known.get("commits", {}).get(on_hub) or source.get("revision")
    return f"[{on_hub}]({url}) (commit `{commit}`)" if commit else f"[{on_hub}]({url}) (commit not recorded)"


def _origin(config: Mapping[str, Any]) -> str:
    """Where something came from that is not on the Hub: a folder of this machine would tell nobody anything."""
    path = config.get("path")
    if place_of(path).kind == "package":
        return f"`{path}`"
    if config.get("mixture"):
        return "a mixture of"
    if weak := config.get("weak_rejects"):
        return f"prefsweep's `weak_rejects`: what {weak['model']['name']} writes, rejected for the answers of"
    if config.get("builder"):
        return f"built by prefsweep's `{config['builder']}`"
    return "random weights" if config.get("architecture") else "a local folder"


def _results(subject: Subject) -> str:
    rows = [(f"{what}: {_words(name)}" if what else _words(name), _number(value),
             "" if error is None else f"± {_number(error)}")
            for what, found in _found(subject) for name, value, error in found]  # fmt: skip
    if not rows:
        return ""
    found = subject.measured.preference or Evaluation()
    counted = ((found.pairs, "held-out pairs"), (found.generations, "texts written by the model"))
    counts = [f"{count} {words}" for count, words in counted if count]
    told = f"Measured on {' and '.join(counts)}. " if counts else ""
    leaked = subject.result.leaked_pairs if subject.result else None
    told += f"{leaked} of the held-out pairs stand in the training split, too. " if leaked else ""
    table = _table(("measure", "value", "standard error"), rows)
    return f"## Results\n\n{told}{_reward(subject)}{_judged(subject)}{LIMITS}\n\n{table}"


def _reward(subject: Subject) -> str:
    """What accuracy and margin are made of, where it is not what most would think."""
    reward = reward_of(str(subject.objective["loss_type"]), subject.objective.get(LOSS, {}))
    found = subject.measured.preference or Evaluation()
    known = found.reward_accuracy is not None or found.reward_margin is not None
    told = f"Accuracy and margin are of the reward `{reward}`; those of other rewards do not compare. "
    return told if known and reward != LOG_RATIO else ""


def _judged(subject: Subject) -> str:
    """By whom MT-Bench was rated, without which its scores mean nothing."""
    fact = subject.measured.mt_bench
    if fact is None:
        return ""
    rated = sum(question.score is not None for question in fact.questions)
    judge = " ".join(str(fact.judge["model"]).split()).replace("`", "")
    return (
        f"MT-Bench: {rated} of {len(fact.questions)} questions have a rating, by `{judge}`; the scores of another "
        "judge do not compare. "
    )


def _number(value: float) -> str:
    return f"{value:.{DIGITS}g}"


def _loading(subject: Subject) -> str:
    where = f'"{subject.address}"' + (f', revision="{subject.revision}"' if subject.revision else "")
    if subject.objective["model"].get("trust_remote_code"):
        where += ", trust_remote_code=True"
    library, auto = (
        ("peft", "AutoPeftModelForCausalLM") if subject.is_adapter else ("transformers", "AutoModelForCausalLM")
    )
    return (
        "## How to load it\n\n```python\n"
        f"from {library} import {auto}\nfrom transformers import AutoTokenizer\n\n"
        f"model = {auto}.from_pretrained({where})\n"
        f"tokenizer = AutoTokenizer.from_pretrained({where})\n```\n"
    )


def _training(subject: Subject) -> str:
    objective, result = subject.objective, plain(subject.result) if subject.result else {}
    if subject.step is None:
        result |= result.get("throughput") or {}
    else:
        result |= {"steps": subject.step, "loss": None, "seconds": None}  # those of the whole training
    rows = [(key, objective[key]) for key in ("loss_type", "beta", "seed")] + list(_keys(objective).items())
    rows += [(f"trainer.{key}", value) for key, value in objective["trainer"].items() if value is not None]
    computed = [key.name for key in fields(Throughput)]
    shown = ("steps", "train_pairs", "loss", "dtype", "device", "seconds", *computed, "versions")
    rows += [(f"result.{key}", result[key]) for key in shown if result.get(key) is not None]
    return "## How it was trained\n\n" + _table(("key", "value"), [(key, str(value)) for key, value in rows])


def _samples(subject: Subject) -> str:
    samples = subject.measured.preference.samples[:SAMPLES] if subject.measured.preference else []
    if not samples:
        return ""
    rows = [(str(sample.prompt), sample.text) for sample in samples]
    return "## What it writes\n\n" + _table(("prompt", "continuation"), rows)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(map(_cell, line)) + " |\n" for line in lines)


def _cell(text: str) -> str:
    """A text as one cell: what it holds is shown, not interpreted."""
    plain = " ".join(text.split())
    for letter in "\\`*_[]<>|":
        plain = plain.replace(letter, f"\\{letter}")
    return plain
