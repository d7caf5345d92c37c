"""What runs have come to, as the user sees it: scores, judging, publishing, dashboards. Prints; decides nothing.

Owns: words and columns of results. Must not know: how they were measured or where they went.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict

from rich.table import Table

from launcher.config import Judge
from launcher.errors import number_of
from launcher.evaluation.judge import Spent
from launcher.evaluation.scores import Waiting
from launcher.hub.publish import Outcome, Publication
from launcher.machine.disk import in_words
from launcher.machine.terminal import Screen, command, complain, program, say, say_json
from launcher.store.files import Plain, plain
from launcher.store.output_folder import SweepDir
from launcher.views.console import duration, judge_name, verb_command

PROGRAM_SCORES = 4  # with a column in the table of results
JUDGING_SECONDS = 5.0  # between two lines of progress


def show_results(directory: SweepDir, rows: Sequence[Plain]) -> None:
    """The scores of a sweep, and how to get the report."""
    bench = ["MT-Bench"] if any("mt_bench" in (row.get("evaluation") or {}) for row in rows) else []
    programs = _program_scores(rows)
    name_judge = len({_judge_of(row) for row in rows} - {None}) > 1
    table = Table(title=f"results of {directory.name}", title_justify="left", box=None, pad_edge=False)
    for column in (
        "run",
        "status",
        "steps",
        "time",
        "loss",
        "accuracy",
        "margin",
        "KL",
        "golden reward",
        *bench,
        *programs,
        "reason",
    ):
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*_result_cells(row, programs, with_bench=bool(bench), name_judge=name_judge))
    console = Screen()
    console.print(table)
    if line := _rewards_line(rows):
        console.print(line, soft_wrap=True)
    as_module = command("python", "-m", "analysis", directory.path)
    report = as_module if len(program()) > 1 else verb_command(directory, "report")
    console.print(f"{directory.results_file}; report: {report}", soft_wrap=True)


def _rewards_line(rows: Sequence[Plain]) -> str:
    """That accuracies and margins of the table are of several rewards; nothing where they are of one."""
    losses: dict[str, dict[str, None]] = {}
    for row in rows:
        if (row.get("evaluation") or {}).get("reward_margin") is not None and row.get("reward"):
            losses.setdefault(row["reward"], {})[row["loss_type"]] = None
    each = "; ".join(f"{reward}: {', '.join(names)}" for reward, names in losses.items())
    return f"accuracy and margin compare only within one reward: {each}" if len(losses) > 1 else ""


def _program_scores(rows: Sequence[Plain]) -> list[str]:
    """The first scores of programs, which have columns; results.jsonl has all."""
    names = dict.fromkeys(name for row in rows for name in row.get("evaluation") or {})
    return [name for name in names if name.startswith(("command/", "lm_eval/")) and "_stderr" not in name][
        :PROGRAM_SCORES
    ]


def _judge_of(row: Plain) -> str | None:
    judge = (row.get("mt_bench_made_by") or {}).get("judge") or {}
    return judge.get("model")


def _result_cells(row: Plain, programs: Sequence[str], *, with_bench: bool, name_judge: bool) -> list[str]:
    scores = row.get("evaluation") or {}
    numbers = [scores.get(key) for key in ("loss", "reward_accuracy", "reward_margin", "kl")]
    golden = _with_error(scores.get("golden_reward"), scores.get("golden_reward_stderr"))
    bench = [_with_error(scores.get("mt_bench"), scores.get("mt_bench_se"))] if with_bench else []
    bench = [f"{each} by {_judge_of(row)}" if each and name_judge else each for each in bench]
    bench += [_with_error(scores.get(name), None) for name in programs]
    step = "" if row.get("step") is None else str(row["step"])
    shown = ["" if number is None else f"{number:.3f}" for number in numbers] + [golden, *bench]
    return [row["run_id"], row["status"], step, duration(row.get("seconds")), *shown, row.get("reason") or ""]


def _with_error(value: float | None, error: float | None) -> str:
    return "" if value is None else f"{value:.3f}" + ("" if error is None else f" ± {error:.3f}")


def say_unjudged(directory: SweepDir, run_ids: Sequence[str]) -> None:
    """How answers get scores; those that this sweep's launches did not ask for have to be named."""
    if run_ids:
        settings = {record.run_id: record.settings for record in directory.run_records()}
        asked = all("mt_bench" in settings[run_id].get("evaluation", {}).get("benchmarks", []) for run_id in run_ids)
        wanted = [] if asked else ["--benchmark", "mt_bench"]
        runs = number_of(len(run_ids), "run")
        say(f"{runs} with MT-Bench answers and no scores: {verb_command(directory, 'evaluate', *wanted)}")


def say_judged_otherwise(run_ids: Sequence[str], judge: Judge) -> None:
    """That scores are there, but not from who is asked for now."""
    if run_ids:
        runs = number_of(len(run_ids), "run")
        say(f"{runs} judged by another judge than {judge.model}, or otherwise; --again judges again:")
        say("  " + " ".join(run_ids))


def say_to_judge(asked: Sequence[Waiting], estimate: tuple[int, int, int], judge: Judge) -> None:
    """What judging will cost, before it does."""
    calls, prompt, verdicts = estimate
    say(
        f"{len(asked)} models have answers without scores: {calls} calls of {judge_name(judge)}, "
        f"about {prompt:,} tokens to read and {verdicts:,} to write",
    )


def judging_progress() -> Callable[[Spent, int], None]:
    """Tells how far judging is: every few seconds, and at its end."""
    began, told = time.monotonic(), [0.0]

    def tell(spent: Spent, total: int) -> None:
        now = time.monotonic()
        if spent.judged < total and now - told[0] < JUDGING_SECONDS:
            return
        told[0], pace = now, (now - began) / max(1, spent.judged)
        left = f", about {duration(pace * (total - spent.judged))} left" if 0 < spent.judged < total else ""
        say(f"judged {spent.judged} of {total}, {spent.unparsable} unparsable{left}")

    return tell


def say_judged(spent: Spent, asked: Sequence[Waiting]) -> None:
    """What judging has cost, and what could not be read."""
    used = f"{spent.prompt_tokens:,} tokens read and {spent.completion_tokens:,} written"
    say(f"{number_of(len(asked), 'model')} scored: {number_of(spent.calls, 'call')}, {used}")
    if spent.unparsable:
        say(
            f"{spent.unparsable} verdicts have no readable rating, so their questions no score: judgements.jsonl has "
            "the judge's words; --again asks once more"
        )


def show_publications(directory: SweepDir, publications: Sequence[Publication], *, as_json: bool) -> None:
    """What publishing would do."""
    if as_json:
        runs = [{"run_id": each.point.name, **asdict(each.verdict)} for each in publications]
        say_json({"sweep": directory.name, "runs": runs})
        return
    for publication in publications:
        hub, verdict = publication.hub, publication.verdict
        where = f" ({publication.revision} of {hub.repo}, hub={hub.store})" if verdict.due else ""
        say(f"{publication.point.name}: {verdict.why}{where}")
    say(f"dry run: {sum(p.verdict.due for p in publications)} of {len(publications)} would be pushed; nothing was")


def say_pushing(publication: Publication, number: int, total: int, *, quiet: bool) -> None:
    """What is about to be pushed: large models take their time."""
    if publication.verdict.due and not quiet:
        point = publication.point
        size = sum(path.stat().st_size for path in point.folder.model.rglob("*") if path.is_file())
        place = f"{publication.revision} of {publication.hub.repo}"
        say(f"[{number}/{total}] {point.name}: {in_words(size)} to {place}")


def say_outcome(outcome: Outcome, number: int, total: int, *, quiet: bool) -> None:
    """What became of one model."""
    if not quiet:
        say(f"[{number}/{total}] {outcome.point.name}: {outcome.said}")


def show_published(directory: SweepDir, outcomes: Sequence[Outcome], collection: str | None, *, as_json: bool) -> None:
    """What is published of a sweep."""
    if as_json:
        shown = ("revision", "error", "checked")
        runs = [{"run_id": each.point.name} | {key: getattr(each, key) for key in shown} for each in outcomes]
        say_json(plain({"sweep": directory.name, "runs": runs, "collection": collection}))
        return
    there = [_is_there(outcome) for outcome in outcomes if outcome.point.step is None]
    kept = [_is_there(outcome) for outcome in outcomes if outcome.point.step is not None]
    beside = f", {sum(kept)} of {len(kept)} milestones" if kept else ""
    unknown = sum(not outcome.checked for outcome in outcomes)
    more = f"; {unknown} more were, and could not be checked" if unknown else ""
    say(f"{sum(there)} of {len(there)} runs of {directory.name} are published{beside}{more}")
    if collection:
        say(f"collection: {collection}")


def _is_there(outcome: Outcome) -> bool:
    return outcome.revision is not None and outcome.checked


def say_dashboard(lines: Sequence[str], *, serving: bool) -> None:
    """Where the sweep's dashboard is."""
    for line in lines:
        say(line)
    if serving:
        say("Ctrl-C ends it")


def say_uploaded(directory: SweepDir, done: int, left: int, waiting: int, words: str) -> None:
    """What `sync` has uploaded, and what it has not."""
    later = f", {waiting} in flight and left for later" if waiting else ""
    say(f"{number_of(done, 'run')} of {directory.name} uploaded to W&B{later}")
    if left:
        runs = number_of(left, "run")
        complain(f"{runs} could not be uploaded: {words}; `{verb_command(directory, 'sync')}` tries again")
