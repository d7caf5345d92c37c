"""What a judge is left to do in a sweep: which answers await one, what they score, what is to be had anew.

Owns: the way from the answers in the run folders to `evaluations/mt_bench.json`.
Must not know: how answers are written, how a judge is spoken to, what is printed.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from launcher.config import Evaluation, Judge
from launcher.errors import UNSAID, ConfigError, PrefsweepError, StoreError
from launcher.evaluation import judge as judging
from launcher.evaluation import missing_benchmarks, mt_bench
from launcher.evaluation.judge import CHARACTERS_PER_TOKEN, Ask, Progress, Spent
from launcher.evaluation.mt_bench import Bench
from launcher.store.files import Plain, read_fact, read_lines
from launcher.store.locks import Timeout, held
from launcher.store.output_folder import Store
from launcher.store.results import Answered, MTBenchResult
from launcher.store.run_folder import EvaluationDir, RunDir
from launcher.store.whose import check
from launcher.store.work_done import job_file
from launcher.sweep import Sweep

JUDGE_SETTINGS = ("model", "temperature", "max_tokens", "repeats")  # of the judge, what a score depends on
ANSWER_SETTINGS = ("max_new_tokens", "batch_size", "seed")


@dataclass(frozen=True)
class Waiting:
    """One model's answers, and the judgements of them that are wanted."""

    name: str
    directory: EvaluationDir
    bench: Bench
    answered: Answered
    asks: tuple[Ask, ...]


# ------------------------------------------------------------------------------------------------ anew


def anew(sweep: Sweep, store: Store) -> dict[str, list[str]]:
    """The benchmarks that jobs are to do once more, by run id, where all are to be had anew.

    Of MT-Bench the answers, where other ones are asked for: with the same settings they would be the same. Its scores
    are replaced as the judge gives new ones.
    """
    return {run.run_id: _anew(store.run(run.run_id), run.config.evaluation) for run in sweep.runs}


def _anew(run: RunDir, evaluation: Evaluation) -> list[str]:
    there = [name for name in evaluation.benchmarks if job_file(run, name).exists()]
    return [name for name in there if name != "mt_bench" or _wants_other_answers(run, evaluation)]


def set_aside(benchmarks: Mapping[str, Iterable[str]], store: Store) -> None:
    """Let these benchmarks, by run id, count as lacking; what is there is kept under a number, and holds until then."""
    for run_id, names in benchmarks.items():
        for name in names:
            missing_benchmarks.set_aside(job_file(store.run(run_id), name))


def _wants_other_answers(run: RunDir, evaluation: Evaluation) -> bool:
    answered = read_fact(run.evaluations.answered_file, Answered)
    return answered is not None and _other_answers(answered, evaluation, mt_bench.load(evaluation.mt_bench))


def _base_of(answered: Answered, store: Store) -> Iterator[EvaluationDir]:
    if answered.base:
        yield EvaluationDir(store.cache("benchmarks", f"mt_bench-{answered.base}"))


def _other_answers(answered: Answered, evaluation: Evaluation, bench: Bench) -> bool:
    wanted = {name: getattr(evaluation.mt_bench, name) for name in ANSWER_SETTINGS}
    wanted |= {"questions": bench.hashes["questions"]}
    return any(answered.settings.get(name) != value for name, value in wanted.items())


# ------------------------------------------------------------------------------------------------ judging


@contextmanager
def only_judge(store: Store) -> Iterator[None]:
    """Nobody else judges here meanwhile: two would pay for the same verdicts.

    Raises:
        PrefsweepError: somebody does.
    """
    try:
        with held(store.root / ".judge.lock", 0):
            yield
    except Timeout as error:
        raise PrefsweepError(f"{store.root}: another `evaluate` is judging there; wait until it is done") from error


def judge_of(sweep: Sweep) -> Judge:
    """The judge of the sweep: one for all its runs, or their scores could not be compared.

    Raises:
        ConfigError: the runs name different ones.
    """
    judge, *others = [run.config.evaluation.judge for run in sweep.runs]
    if any(other != judge for other in others):
        raise ConfigError(
            "evaluation.judge", UNSAID, "differs between the runs; give evaluation.judge.model=... for all of them"
        )
    return judge


def needs_judge(sweep: Sweep, store: Store, *, again: bool) -> bool:
    """Whether a trained run is to have scores and has none, or is to have them anew."""
    runs = [store.run(run.run_id) for run in sweep.runs if "mt_bench" in run.config.evaluation.benchmarks]
    trained = [run for run in runs if run.result_file.exists()]
    rated = [run.evaluations.result_file("mt_bench").exists() for run in trained]
    return any(
        again or not has or missing_benchmarks.awaits_judge(run) for run, has in zip(trained, rated, strict=True)
    )


def check_judge(sweep: Sweep, judge: Judge, *, again: bool) -> None:
    """Check that the judge can be had. Where there are scores to lose, it is asked to rate an answer of our own first.

    Raises:
        ConfigError, JudgeError: it cannot.
    """
    judging.require_judge(judge)
    if again:
        evaluation = next(e for run in sweep.runs if "mt_bench" in (e := run.config.evaluation).benchmarks)
        bench = mt_bench.load(evaluation.mt_bench)
        judging.probe(judge, mt_bench.judge_messages(bench, bench.questions[0], ("Yes.", "Yes."), 1))


def answers_to_judge(sweep: Sweep, store: Store, *, again: bool = False) -> list[Waiting]:
    """The models of the sweep, trained and untrained, that have answers and no scores of them yet.

    Args:
        sweep: as it is to be evaluated.
        store: the output folder.
        again: those with scores too.

    Raises:
        ConfigError: the questions that they answered are not those that are there now.
    """
    found: dict[str, Waiting] = {}
    for run in sweep.runs:
        evaluation, directory = run.config.evaluation, store.run(run.run_id).evaluations
        answered = read_fact(directory.answered_file, Answered) if "mt_bench" in evaluation.benchmarks else None
        if answered is None:
            continue
        bases = [(f"{run.config.model.name}-base", base) for base in _base_of(answered, store)]
        for name, each in (*bases, (run.run_id, directory)):
            if str(each.path) not in found and (again or missing_benchmarks.unrated(each)):
                found[str(each.path)] = _waiting(name, each, evaluation)
    return list(found.values())


def judged_otherwise(sweep: Sweep, store: Store) -> list[str]:
    """The runs whose scores were given by another judge, or with other repeats, than is asked for now."""
    different = []
    for run in sweep.runs:
        fact = read_fact(store.run(run.run_id).evaluations.result_file("mt_bench"), MTBenchResult)
        wanted = _judge_fact(run.config.evaluation.judge)
        if fact and wanted["model"] and any(fact.judge.get(name) != value for name, value in wanted.items()):
            different.append(run.run_id)
    return different


def _waiting(name: str, directory: EvaluationDir, evaluation: Evaluation) -> Waiting:
    bench, answered = mt_bench.load(evaluation.mt_bench), read_fact(directory.answered_file, Answered)
    if answered is None or answered.settings.get("questions") != bench.hashes["questions"]:
        raise ConfigError(
            "evaluation.mt_bench.questions",
            evaluation.mt_bench.questions,
            f"{name} has answered other questions, or "
            f"from another source; ask for those again, or give --again for new answers ({directory.answered_file})",
        )
    check(directory.answered_file, answered.model, name)
    lines = {line["question_id"]: line for line in read_lines(directory.answers_log) if _is_of(line, answered)}
    if lost := [question.question_id for question in bench.questions if question.question_id not in lines]:
        raise StoreError(
            f"{name}: {directory.answers_log} has lost the answers to {', '.join(map(str, lost))}; remove "
            f"{directory.answered_file.name} beside it to have them written again"
        )
    asks = tuple(_asks(directory, bench, lines, evaluation.judge.repeats))
    return Waiting(name, directory, bench, answered, asks)


def _is_of(line: Plain, answered: Answered) -> bool:
    return bool(line["settings"] == answered.key)


def _asks(directory: EvaluationDir, bench: Bench, answers: dict[int, Plain], repeats: int) -> Iterator[Ask]:
    for question in bench.questions:
        texts = answers[question.question_id]["turns"]
        for turn in mt_bench.TURNS:
            messages = mt_bench.judge_messages(bench, question, texts, turn)
            for repeat in range(repeats):
                log, text = directory.judgements_log, texts[turn - 1]
                yield Ask(log, question.question_id, turn, repeat, text, messages)


def open_judgements(waiting: Iterable[Waiting], judge: Judge, *, again: bool) -> list[tuple[Ask, int]]:
    """What is still to be asked of the judge, each with the tries that it has left."""
    return judging.open_asks([ask for each in waiting for ask in each.asks], judge, again=again)


def judging_ahead(sweep: Sweep, store: Store) -> tuple[int, tuple[int, int, int]]:
    """Of models without answers: how many, and what judging them will need; see `judge.estimate`.

    Each answer counts as being of full length, and the untrained model as having answered where one of its runs has.
    """
    runs = [run for run in sweep.runs if "mt_bench" in run.config.evaluation.benchmarks]
    silent = [run for run in runs if not store.run(run.run_id).evaluations.answered_file.exists()]
    known = {run.config.model.name for run in runs if run not in silent}
    bases = {run.config.model.name: run for run in silent if run.config.model.name not in known}
    wanted = [run.config.evaluation for run in (*bases.values(), *silent)]
    costs = {key: _full_length(each) for key, each in {repr(each): each for each in wanted}.items()}
    calls, read, written = (sum(costs[repr(each)][part] for each in wanted) for part in range(3))
    return len(wanted), (calls, read, written)


def _full_length(evaluation: Evaluation) -> tuple[int, int, int]:
    """What judging a model needs whose every answer is as long as it may be."""
    bench, longest = mt_bench.load(evaluation.mt_bench), "x" * evaluation.mt_bench.max_new_tokens * CHARACTERS_PER_TOKEN
    answers = {question.question_id: {"turns": [longest] * len(mt_bench.TURNS)} for question in bench.questions}
    asks = _asks(EvaluationDir(Path()), bench, answers, evaluation.judge.repeats)
    return judging.estimate([(ask, 1) for ask in asks], evaluation.judge)


def judge_all(waiting: Sequence[Waiting], opened: Sequence[tuple[Ask, int]], judge: Judge, progress: Progress) -> Spent:
    """Ask the judge, and write the scores of every model; a model's scores come when its last verdict is in.

    Raises:
        ConfigError, JudgeError: the judge cannot be had; its verdicts so far are kept.
    """
    spent = judging.ask_all(opened, judge, progress) if opened else Spent()
    for each in waiting:
        _write(each.directory.result_file("mt_bench"), _score(each, judge))
    return spent


def _write(file: Path, scored: MTBenchResult) -> None:
    """Write a model's scores, unless the same are there already."""
    there = read_fact(file, MTBenchResult)
    if there is None or there != replace(scored, time=there.time, model=there.model and scored.model):
        missing_benchmarks.replace(file, scored)


def _score(waiting: Waiting, judge: Judge) -> MTBenchResult:
    """The fact of one model: its scores, and all that they depend on."""
    said = judging.said([waiting.directory.judgements_log])
    ratings: dict[tuple[int, int], list[float]] = {}
    lines: list[Plain] = []
    for ask in waiting.asks:
        heard = said.get((ask.log, ask.key(judge), ask.repeat), [])
        lines += heard
        ratings.setdefault((ask.question_id, ask.turn), []).extend(judging.ratings_of(heard)[:1])
    judged = sum(map(len, ratings.values()))
    return MTBenchResult(
        **vars(mt_bench.scores(waiting.bench.questions, ratings)),
        judged=judged,
        unparsable=len(waiting.asks) - judged,
        judge=_judge_fact(judge) | {"served_models": sorted({line.get("served_model") or "" for line in lines})},
        hashes=dict(waiting.bench.hashes),
        answers=waiting.answered.settings,
        base=waiting.answered.base,
        spent={"calls": len(lines), **_tokens(lines)},
        time=time.time(),
        model=waiting.answered.model,
    )


def _judge_fact(judge: Judge) -> Plain:
    return {name: getattr(judge, name) for name in JUDGE_SETTINGS} | {"rule": mt_bench.RATING_RULE}


def _tokens(lines: Iterable[Plain]) -> dict[str, int]:
    used = [line["usage"] for line in lines]
    return {name: sum(usage[name] for usage in used) for name in ("prompt_tokens", "completion_tokens")}
