"""What the user sees: tables, progress, results, errors. Prints; decides nothing.

Owns: words, columns and colours. Must not know: how anything came about.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.console import Group as Stacked
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from launcher import cost
from launcher.config import Judge, RunConfig, StoreError
from launcher.evaluating import Waiting
from launcher.judging import Spent
from launcher.plan import Sweep
from launcher.publication import Outcome, Publication
from launcher.scheduler import Scheduler
from launcher.status import UNSUCCESSFUL, Status
from launcher.store import Fact, Store, SweepDir
from launcher.submit import Action, Decision, RunGroup, RunState, planned_batches

Ended = Callable[[], bool]
LOG_POLL_SECONDS = 0.5
JUDGING_SECONDS = 5.0  # between two lines of progress
TRACEBACKS, TRACEBACK_LINES = 3, 3  # shown by status: several runs of a sweep mostly fail alike
GUESS_AFTER_RUNS = 0.25  # before so much is done, a guess of the time left would mislead
COLOURS = {Status.TRAINED: "green", Status.RUNNING: "cyan", **dict.fromkeys(UNSUCCESSFUL, "red")}


def _console() -> Console:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 160)  # a pipe or a log has no edge at which to break ids
    return console


def complain(message: str) -> None:
    """One line on stderr."""
    print("prefsweep: " + " ".join(message.split()), file=sys.stderr)


def show_notes(notes: Sequence[str]) -> None:
    """What the user should know and need not mend at once."""
    for note in notes:
        complain(note)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    seconds = round(seconds)
    hours, minutes = divmod(seconds // 60, 60)
    return f"{hours}h{minutes:02d}" if hours else f"{minutes}m{seconds % 60:02d}s"


# ------------------------------------------------------------------------------------------------ plan


def show_plan(
    sweep: Sweep, decisions: Sequence[Decision], scheduler: Scheduler | None, store: Store, *, as_json: bool
) -> None:
    """The plan: each run, what will happen to it and why; `scheduler`, where given, shows a job's script too."""
    if as_json:
        print(json.dumps(_plan_json(sweep, decisions), indent=1))
        return
    console = _console()
    console.print(_plan_table(sweep, decisions))
    console.print(_totals(sweep, decisions))
    for line in _places(sweep):
        console.print(escape(line), soft_wrap=True)
    if scheduler is not None:
        _show_sources_and_cost(console, sweep, decisions)
        groups = planned_batches(decisions, store.sweep(sweep.name), store, scheduler, lambda folder: folder / "HASH")
        batches = [batch for group in groups for batch, _ in group.batches]
        console.print(f"dry run: nothing was written or submitted. There would be {_jobs_in_words(groups)}")
        for batch in batches[:1]:
            console.print(escape(scheduler.script(batch)), soft_wrap=True)


def _jobs_in_words(groups: Sequence[RunGroup]) -> str:
    batches = [batch for group in groups for batch, _ in group.batches]
    jobs, tables = sum(batch.size for batch in batches), sum(group.table is not None for group in groups)
    what = f"{jobs} jobs, in {len(batches)} pieces" if len(batches) > 1 else f"{jobs} jobs"
    if tables:
        what += f", after {tables} for the reference table" + ("s" if tables > 1 else "")
    return what + (", such as:" if jobs else "")


def _show_sources_and_cost(console: Console, sweep: Sweep, decisions: Iterable[Decision]) -> None:
    """What is loaded from a model hub, at which revision, and what the runs to be trained will cost."""
    for source in dict.fromkeys(found for run in sweep.runs for found in _hub_sources(run.config)):
        console.print(escape(source), soft_wrap=True)
    configs = [d.run.config for d in decisions if d.action in (Action.SUBMIT, Action.RESUME)]
    if configs:
        cluster = configs[0].cluster
        for line in cost.sentences(cost.total(configs, cluster.max_parallel), cluster.gpu_tflops):
            console.print(escape(line), soft_wrap=True)


def _hub_sources(config: RunConfig) -> list[str]:
    model, dataset = config.model, config.dataset
    named = [("model", model.path, model.revision), ("dataset", dataset.path, dataset.revision)]
    named += [("dataset", part.path, part.revision) for part in dataset.mixture or []]
    return [f"{what}: {path}@{revision}" for what, path, revision in named if path and revision]


def _plan_json(sweep: Sweep, decisions: Iterable[Decision]) -> Fact:
    runs = [
        {
            "run_id": decision.run.run_id,
            "model": decision.run.config.model.name,
            "dataset": decision.run.config.dataset.name,
            "loss_type": decision.run.config.loss_type,
            "beta": decision.run.config.beta,
            "axes": decision.run.axes,
            "action": decision.action,
            "why": decision.why,
            "seconds": decision.seconds,
            "gpu_hours": cost.cost(decision.run.config).gpu_hours,
            "model_revision": decision.run.config.model.revision,
            "dataset_revision": decision.run.config.dataset.revision,
            "hub_store": decision.run.config.hub.store,
            "hub_repo": decision.run.config.hub.repo,
            "hub_revision": decision.run.config.hub.revision,
        }
        for decision in decisions
    ]
    return {"sweep": sweep.name, "duplicates": sweep.duplicates, "runs": runs}


def _plan_table(sweep: Sweep, decisions: Iterable[Decision]) -> Table:
    table = Table(title=f"sweep {escape(sweep.name)}", title_justify="left", box=None, pad_edge=False)
    extra = [axis for axis in sweep.axes if axis not in ("model", "loss_type", "beta")]
    costly = any(
        (cost.cost(run.config).gpu_hours or 0) >= 1 for run in sweep.runs
    )  # a laptop's sweep needs no such column
    priced = ("resources", "GPU-hours") if costly else ()
    for column in ("run", "model", "loss_type", "beta", *extra, *priced, "action", "why", "est. time"):
        table.add_column(escape(column), overflow="fold")
    for decision in decisions:
        run, style = decision.run, "dim" if decision.action is Action.SKIP else ""
        shown = [run.run_id, run.config.model.name, run.config.loss_type, _number(run.config.beta)]
        shown += [_number(run.axes.get(axis, "")) for axis in extra]
        shown += _price(run.config) if costly else []
        shown += [decision.action, decision.why, _duration(decision.seconds)]
        table.add_row(*map(escape, shown), style=style)
    return table


def _price(config: RunConfig) -> list[str]:
    cluster, own = config.cluster, cost.cost(config)
    sharded = "" if config.deepspeed.name == "none" else f" {config.deepspeed.name}"
    hours = "" if own.gpu_hours is None else f"{'<= ' if own.at_most else ''}{own.gpu_hours:.1f}"
    return [f"{cluster.nodes} x {cluster.gpus_per_node} GPUs{sharded}", hours]


def _totals(sweep: Sweep, decisions: Sequence[Decision]) -> str:
    counts = Counter(decision.action for decision in decisions)
    parts = [f"{len(decisions)} runs"] + [f"{count} {action}" for action, count in sorted(counts.items())]
    if sweep.duplicates:
        parts.append(f"{sweep.duplicates} duplicates dropped")
    known = [d.seconds for d in decisions if d.seconds is not None]
    if known:
        parts.append(f"about {_duration(sum(known))} of training for {len(known)} of them")
    return ", ".join(parts)


def _places(sweep: Sweep) -> list[str]:
    """Where the models will be published, a line for each repository."""
    places: dict[tuple[str, str | None], list[str]] = {}
    for run in sweep.runs:
        hub = run.config.hub
        if hub.store != "off":
            places.setdefault((hub.store, hub.repo), []).append(hub.revision)
    return [
        f"published as revisions of {repo} (hub={store}): {names[0]}{', ...' if len(names) > 1 else ''}"
        for (store, repo), names in places.items()
    ]


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


# ------------------------------------------------------------------------------------------------ states


def show_status(directory: SweepDir, states: Sequence[RunState], *, as_json: bool, clear: bool) -> None:
    """The states of a sweep's runs."""
    records = {record["run_id"]: record for record in directory.run_records()}
    if as_json:
        runs = [_state_json(records[state.run.run_id], state) for state in states]
        print(json.dumps({"sweep": directory.name, "runs": runs}, indent=1))
        return
    console = _console()
    if clear and console.is_terminal:
        console.clear()
    console.print(_state_table(directory, states))
    console.print(_summary(states))
    for state in [state for state in states if state.status is Status.FAILED and state.facts.traceback][:TRACEBACKS]:
        console.print(f"\n{escape(state.run.run_id)} ended so (all of it: logs {escape(state.run.run_id)}):")
        console.print(escape("\n".join(state.facts.traceback.splitlines()[-TRACEBACK_LINES:])), soft_wrap=True)


def _state_json(record: Fact, state: RunState) -> Fact:
    facts = state.facts
    return {
        **{key: record[key] for key in ("run_id", "model", "loss_type", "beta")},
        "status": state.status,
        "job_id": facts.job_id,
        "attempts": facts.attempts,
        "step": facts.step,
        "max_steps": facts.max_steps,
        "node": state.job.node or facts.host,
        "reason": state.reason,
        "address": facts.address,
    }


def _state_table(directory: SweepDir, states: Iterable[RunState]) -> Table:
    table = Table(title=f"sweep {escape(directory.name)}", title_justify="left", box=None, pad_edge=False)
    for column in ("run", "status", "step", "left", "job", "attempts", "node", "reason"):
        table.add_column(column, overflow="fold")
    for state in states:
        facts = state.facts
        shown = [state.run.run_id, _steps(state), _left(state), facts.job_id or "", str(facts.attempts)]
        run, step, left, job, attempts = map(escape, shown)
        words = [escape(state.job.node or facts.host or ""), escape(state.reason or _stage(state))]
        table.add_row(run, Text(state.status, COLOURS.get(state.status, "")), step, left, job, attempts, *words)
    return table


def _stage(state: RunState) -> str:
    if not state.facts.trained:
        return ""
    if not state.facts.evaluated:
        return "evaluating" if state.in_flight else "not evaluated"
    if state.facts.publishing:
        return "publishing" if state.in_flight else "not published"
    return state.facts.address or ""


def _steps(state: RunState) -> str:
    facts = state.facts
    return "" if facts.step is None else f"{facts.step}/{facts.max_steps or '?'}"


def _seconds_left(state: RunState) -> float | None:
    facts = state.facts
    if state.status is not Status.RUNNING or not facts.seconds_per_step or facts.step is None or not facts.max_steps:
        return None
    return facts.seconds_per_step * (facts.max_steps - facts.step)


def _left(state: RunState) -> str:
    return _duration(_seconds_left(state))


def _summary(states: Iterable[RunState]) -> str:
    states = list(states)
    counts = Counter(state.status for state in states)
    return f"{len(states)} runs: " + ", ".join(f"{count} {status}" for status, count in counts.most_common())


class Progress:
    """The live table of a sweep that runs on this machine; where there is no terminal, a line for every change."""

    def __init__(self, directory: SweepDir) -> None:
        self._directory = directory
        self._console = _console()
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None
        self._started, self._said = time.time(), ""
        self._first_step: tuple[float, float] | None = None  # when it was seen, and how many runs' worth was done

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def show(self, states: Sequence[RunState]) -> None:
        """Show these states."""
        sentence, left = self._sentence(states), self._remaining(states)
        line = f"{sentence}, about {_duration(left)} left" if left else sentence
        if self._live:
            self._live.update(Stacked(_state_table(self._directory, states), Text(line)), refresh=True)
        elif sentence != self._said:
            print(f"[{_duration(time.time() - self._started)}] {line}", flush=True)
        self._said = sentence

    def _sentence(self, states: Sequence[RunState]) -> str:
        done = sum(not state.in_flight for state in states)
        current = next((state for state in states if state.in_flight and state.facts.started), None)
        if current is None:
            return f"{done} of {len(states)} runs done" + (
                "" if done == len(states) else "; waiting for a job to start"
            )
        doing = f"step {_steps(current)}" if current.facts.step else _last_words(current) or "preparing"
        if current.facts.trained:
            doing = "publishing" if current.facts.publishing else "evaluating"
        return f"run {done + 1} of {len(states)}: {current.run.run_id}: {doing}"

    def _remaining(self, states: Sequence[RunState]) -> float | None:
        """Seconds, at the pace since the first step was seen: what comes before it is paid once for all runs."""
        done = sum(1.0 if not s.in_flight else (s.facts.step or 0) / (s.facts.max_steps or 1) for s in states)
        if not any(state.in_flight and state.facts.step for state in states) and self._first_step is None:
            return None
        self._first_step = self._first_step or (time.time(), done)
        since, progress = time.time() - self._first_step[0], done - self._first_step[1]
        return since * (len(states) - done) / progress if progress > GUESS_AFTER_RUNS else None


def _last_words(state: RunState) -> str:
    """What a run that has not come to its first step printed last: how far the shared work is."""
    attempts = state.run.attempts()
    log = attempts[-1].log_file() if attempts else None
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log and log.exists() else []
    return next((line for line in reversed(lines) if line.startswith("reference pass")), "")


# ------------------------------------------------------------------------------------------------ sentences


def say_submitted(directory: SweepDir, count: int, *, quiet: bool) -> None:
    """Where to look from now on."""
    if not quiet:
        print(f"{count} runs submitted; `python -m launcher status {directory.name} --watch` shows how they do")


def say_submitted_to_evaluate(directory: SweepDir, count: int) -> None:
    """What to do when the jobs are done."""
    print(
        f"{count} jobs submitted; when they are done, the same command judges what they wrote (sweep {directory.name})"
    )


def say_unjudged(directory: SweepDir, run_ids: Sequence[str]) -> None:
    """How answers get scores."""
    if run_ids:
        print(f"{len(run_ids)} runs have MT-Bench answers and no scores: python -m launcher evaluate {directory.name}")


def say_judged_otherwise(run_ids: Sequence[str], judge: Judge) -> None:
    """That scores are there, but not from who is asked for now."""
    if run_ids:
        print(
            f"{len(run_ids)} runs were judged by another judge than {judge.model}, or otherwise; --again judges anew:"
        )
        print("  " + " ".join(run_ids))


def say_to_judge(asked: Sequence[Waiting], estimate: tuple[int, int, int], judge: Judge) -> None:
    """What judging will cost, before it does."""
    calls, prompt, verdicts = estimate
    print(
        f"{len(asked)} models have answers without scores: {calls} calls of {judge.model} at {judge.base_url}, "
        f"about {prompt:,} tokens to read and {verdicts:,} to write",
        flush=True,
    )


def judging_progress() -> Callable[[Spent, int], None]:
    """Tells how far judging is: every few seconds, and at its end."""
    began, told = time.monotonic(), [0.0]

    def tell(spent: Spent, total: int) -> None:
        now = time.monotonic()
        if spent.judged < total and now - told[0] < JUDGING_SECONDS:
            return
        told[0], pace = now, (now - began) / max(1, spent.judged)
        left = f", about {_duration(pace * (total - spent.judged))} left" if 0 < spent.judged < total else ""
        print(f"judged {spent.judged} of {total}, {spent.unparsable} unparsable{left}", flush=True)

    return tell


def say_judged(spent: Spent, asked: Sequence[Waiting]) -> None:
    """What judging has cost, and what could not be read."""
    used = f"{spent.prompt_tokens:,} tokens read and {spent.completion_tokens:,} written"
    print(f"{len(asked)} models scored: {spent.calls} calls, {used}")
    if spent.unparsable:
        print(
            f"{spent.unparsable} verdicts have no readable rating, so their questions no score: judgements.jsonl has "
            "the judge's words; --again asks once more"
        )


def say_interrupted(directory: SweepDir, count: int) -> None:
    """What Ctrl-C did."""
    print(f"\n{count} runs asked to stop at their next step; `python -m launcher resume {directory.name}` goes on")


def say_cancelled(directory: SweepDir, stopped: Sequence[RunState]) -> None:
    """What cancel did."""
    for state in stopped:
        print(f"{state.run.run_id}: asked to stop (was {state.status}, job {state.facts.job_id})")
    print(f"{len(stopped)} runs of {directory.name} cancelled; the others were not in flight")


def say_dashboard(lines: Sequence[str], *, serving: bool) -> None:
    """Where the sweep's dashboard is."""
    for line in lines:
        print(line, flush=True)
    if serving:
        print("Ctrl-C ends it", flush=True)


def say_uploaded(directory: SweepDir, done: int, left: int, waiting: int, words: str) -> None:
    """What `sync` has uploaded, and what it has not."""
    later = f", {waiting} in flight and left for later" if waiting else ""
    print(f"{done} runs of {directory.name} uploaded to W&B{later}")
    if left:
        complain(f"{left} runs could not be uploaded: {words}; `sync {directory.name}` tries again")


def show_results(directory: SweepDir, rows: Sequence[Fact]) -> None:
    """The scores of a sweep, and how to get the report."""
    bench = ["MT-Bench"] if any("mt_bench" in (row.get("evaluation") or {}) for row in rows) else []
    table = Table(title=f"results of {escape(directory.name)}", title_justify="left", box=None, pad_edge=False)
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
        "reason",
    ):
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, _result_cells(row, with_bench=bool(bench))))
    console = _console()
    console.print(table)
    console.print(f"{directory.results_file}; report: python -m analysis {directory.path}", soft_wrap=True)


def _result_cells(row: Fact, *, with_bench: bool) -> list[str]:
    scores = row.get("evaluation") or {}
    numbers = [scores.get(key) for key in ("loss", "reward_accuracy", "reward_margin", "kl")]
    golden = _with_error(scores.get("golden_reward"), scores.get("golden_reward_stderr"))
    bench = [_with_error(scores.get("mt_bench"), scores.get("mt_bench_se"))] if with_bench else []
    step = "" if row.get("step") is None else str(row["step"])
    shown = ["" if number is None else f"{number:.3f}" for number in numbers] + [golden, *bench]
    return [row["run_id"], row["status"], step, _duration(row.get("seconds")), *shown, row.get("reason") or ""]


def _with_error(value: float | None, error: float | None) -> str:
    return "" if value is None else f"{value:.3f}" + ("" if error is None else f" ± {error:.3f}")


def show_publications(directory: SweepDir, publications: Sequence[Publication], *, as_json: bool) -> None:
    """What publishing would do."""
    if as_json:
        runs = [{"run_id": p.run.run_id, "due": p.due, "why": p.why} for p in publications]
        print(json.dumps({"sweep": directory.name, "runs": runs}, indent=1))
        return
    for publication in publications:
        hub = publication.hub
        where = f" ({hub.revision} of {hub.repo}, hub={hub.store})" if publication.due else ""
        print(f"{publication.run.run_id}: {publication.why}{where}")
    print(f"dry run: {sum(p.due for p in publications)} of {len(publications)} would be pushed; nothing was")


def say_pushing(publication: Publication, number: int, total: int, *, quiet: bool) -> None:
    """What is about to be pushed: large models take their time."""
    if publication.due and not quiet:
        size = sum(path.stat().st_size for path in publication.run.model.rglob("*") if path.is_file())
        place = f"{publication.hub.revision} of {publication.hub.repo}"
        print(f"[{number}/{total}] {publication.run.run_id}: {size / 1e6:.1f} MB to {place}", flush=True)


def say_outcome(outcome: Outcome, number: int, total: int, *, quiet: bool) -> None:
    """What became of one run."""
    if not quiet:
        print(f"[{number}/{total}] {outcome.run.run_id}: {outcome.said}", flush=True)


def show_published(directory: SweepDir, outcomes: Sequence[Outcome], collection: str | None, *, as_json: bool) -> None:
    """What is published of a sweep."""
    if as_json:
        runs = [{"run_id": o.run.run_id, "revision": o.revision, "error": o.error} for o in outcomes]
        print(json.dumps({"sweep": directory.name, "runs": runs, "collection": collection}, indent=1))
        return
    there = sum(outcome.revision is not None for outcome in outcomes)
    print(f"{there} of {len(outcomes)} runs of {directory.name} are published")
    if collection:
        print(f"collection: {collection}")


def show_findings(findings: Sequence[tuple[str, str]], proposal: str | None) -> None:
    """What the doctor found, and the file that it proposes."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for what, how in findings:
        table.add_row(escape(what), escape(how))
    console = _console()
    console.print(table)
    if proposal is not None:
        console.print("\nA file for this cluster; save it as conf/cluster/NAME.yaml and give cluster=NAME:\n")
        console.print(escape(proposal), soft_wrap=True)


def show_log(path: Path, *, follow: bool, ended: Ended) -> None:
    """Print a log, and what is added to it until the run has ended.

    Raises:
        StoreError: there is no log (yet).
    """
    while not path.exists():
        if not follow or ended():
            raise StoreError(f"{path}: not there; the run has not been started, or not with so many processes")
        time.sleep(LOG_POLL_SECONDS)
    with path.open(encoding="utf-8", errors="replace") as file:
        while True:
            over = not follow or ended()
            sys.stdout.write(file.read())
            sys.stdout.flush()
            if over:
                return
            time.sleep(LOG_POLL_SECONDS)
