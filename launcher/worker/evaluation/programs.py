"""Benchmarks that another program computes: lm-evaluation-harness, or any that prints JSON.

Owns: their command lines, their end, what becomes of what they print.
Must not know: what they measure.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from launcher.config import LmEval, RunConfig
from launcher.errors import UNSAID, ConfigError
from launcher.machine import rights
from launcher.machine.installed import package_dir
from launcher.machine.terminal import say
from launcher.store.files import Plain, content_key, look_first, plain, read_fact, write_derived, write_once
from launcher.store.output_folder import Store
from launcher.store.results import ProgramResult
from launcher.store.run_folder import EvaluationDir, RunDir
from launcher.worker import headway, progress
from launcher.worker.evaluation.session import session
from launcher.worker.interruption import Interrupted, locked
from launcher.worker.model import base_model, precision
from launcher.worker.training.train import final_model, forget_trained

POLL_SECONDS = 0.5
PRINTED_CHARACTERS = 20_000  # of what a program prints, kept in the fact
OUTPUT_CHARACTERS = 200_000  # of the object in it; a longer one is not kept
READ_BYTES = 1 << 24  # of the same, read for its scores: the end
KEPT_BYTES = 1 << 20  # of the same, kept in stdout.txt
RESUMED = "resumed"  # beside a benchmark's result as long as there is none: what a program needs to go on
MOST_SCORES = 1000  # each becomes a column


class ProgramFailed(RuntimeError):
    """The program of a benchmark ended badly, took too long, or printed something else; names it and the reason."""


@dataclass(frozen=True)
class Weights:
    """What a program is to load: a folder, the adapter on top of it and another tokenizer, if any."""

    model: str
    adapter: Path | None = None
    tokenizer: Path | None = None

    def folder(self) -> str:
        """One folder that `from_pretrained` understands; an adapter's names the model below it."""
        return self.model if self.adapter is None else str(self.adapter)


Found = tuple[dict[str, float], Plain]  # the scores, and what else is kept of what the program said
Compute = Callable[[Weights, Path], Found]  # what to measure, and a folder for what is left beside the result


def measure(benchmark: str, config: RunConfig, run: RunDir, store: Store, stop: Callable[[], bool]) -> None:
    """Write the run's result of `lm_eval` or `command`, and that of the untrained model once for all runs.

    Raises:
        ConfigError: lm_eval is not installed, or cannot be given such a path.
        ProgramFailed: the program failed; what it printed is kept beside where its result would be.
        Interrupted: `stop` became true.
    """
    settings = asdict(getattr(config.evaluation, benchmark))
    key = _base_key(benchmark, settings, config, store)
    base = EvaluationDir(store.cache("benchmarks", f"{benchmark}-{key}"))
    forget_trained()  # the program needs the accelerator's memory

    def compute(weights: Weights, folder: Path) -> Found:
        return PROGRAMS[benchmark](config, weights, folder, _noting_growth(folder / RESUMED, stop))

    untrained, trained = weights_of(config, run, store)
    with locked(base.path, stop):
        _write(base, benchmark, untrained, compute, ProgramResult(settings=settings))
    _write(run.evaluations, benchmark, trained, compute, ProgramResult(settings=settings, base=key, model=run.run_id))


def _base_key(benchmark: str, settings: Plain, config: RunConfig, store: Store) -> str:
    identity = [benchmark, settings, str(precision.dtype_of(config.model)), base_model.fingerprint(config.model, store)]
    return content_key(identity)


def weights_of(config: RunConfig, run: RunDir, store: Store) -> tuple[Weights, Weights]:
    """The untrained model and the run's; where the config gives a chat template, the run's tokenizer has it."""
    model, lora = final_model(run), config.trainer.lora
    tokenizer = None if config.model.chat_template is None else model
    base = Weights(base_model.ensure_base(config.model, store), tokenizer=tokenizer)
    return base, Weights(str(model)) if lora is None else replace(base, adapter=model)


def _write(directory: EvaluationDir, benchmark: str, weights: Weights, compute: Compute, about: ProgramResult) -> None:
    file = directory.result_file(benchmark)
    if file.exists():
        return
    began = time.perf_counter()
    folder = directory.folder(benchmark)
    look_first()
    _clear(folder, about, directory)
    say(f"{benchmark} of {weights.adapter or weights.model}")
    scores, kept = compute(weights, folder)
    shutil.rmtree(folder / RESUMED, ignore_errors=True)
    rights.follow_umask(folder)
    fact = replace(about, scores=scores, seconds=time.perf_counter() - began, time=time.time())
    write_once(file, plain(fact) | kept)


def _noting_growth(folder: Path, stop: Callable[[], bool]) -> Callable[[], bool]:
    """`stop`, which notes meanwhile that a program has left more to go on from than there was."""
    before = _bytes(folder)

    def asked() -> bool:
        if not headway.was_made() and _bytes(folder) > before:
            headway.note()
        return stop()

    return asked


def _bytes(folder: Path) -> int:
    with contextlib.suppress(OSError):  # the program may remove what we look at
        return sum(path.stat().st_size for path in folder.rglob("*"))
    return 0


def _clear(folder: Path, about: ProgramResult, directory: EvaluationDir) -> None:
    """Leave of a program that did not come to its end what another goes on from, if it measures the same."""
    trained = read_fact(RunDir(directory.path.parent).result_file)
    key = content_key([about.settings, trained])
    resumed, measures = folder / RESUMED, folder / RESUMED / "measures.txt"
    same = measures.is_file() and measures.read_text(encoding="utf-8") == key
    for path in folder.iterdir() if folder.is_dir() else ():
        if path != resumed or not same:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    resumed.mkdir(parents=True, exist_ok=True)
    write_derived(measures, key)


# ------------------------------------------------------------------------------------------------ command


def _command(config: RunConfig, weights: Weights, folder: Path, stop: Callable[[], bool]) -> Found:
    settings, path = config.evaluation.command, weights.folder()
    words = {"{model}": path, "{folder}": str(folder / RESUMED)}
    argv = [functools.reduce(lambda word, name: word.replace(name, words[name]), words, word) for word in settings.argv]
    printed = run_program(argv, settings.minutes, folder / "stdout.txt", stop)
    value = _object_in(printed)
    if value is None:
        raise ProgramFailed(f"{argv[0]}: printed no JSON object as the whole, or the last line, of {folder}/stdout.txt")
    output = value if len(json.dumps(value)) <= OUTPUT_CHARACTERS else None
    return scores_in(value, argv[0]), {"output": output, "printed": printed[-PRINTED_CHARACTERS:]}


def scores_in(value: Plain, name: str) -> dict[str, float]:
    """The scores that a program of this name printed.

    Raises:
        ProgramFailed: one is no finite number, or there are none, or too many.
    """
    if wrong := not_finite(value):
        key, number = next(iter(wrong.items()))
        raise ProgramFailed(f"{name}: printed {key}: {number}, which is no score; it must be a finite number")
    scores = numbers_in(value)
    if not 0 < len(scores) <= MOST_SCORES:
        raise ProgramFailed(f"{name}: printed {len(scores)} numbers as scores; it must be 1 to {MOST_SCORES}")
    return scores


def _object_in(printed: str) -> Plain | None:
    """The JSON object that is the whole text, or else its last line, behind what libraries print on their own."""
    lines = printed.strip().split("\n")
    for text in (printed, lines[-1]):
        with contextlib.suppress(ValueError):
            value = json.loads(text)
            if isinstance(value, dict):
                return value
    return None


def numbers_in(value: Plain) -> dict[str, float]:
    """The finite numbers of a JSON object, those of inner objects under `outer/inner`."""
    return {name: float(number) for name, number in _numbers(value) if abs(number) < math.inf}


def not_finite(value: Plain) -> dict[str, float]:
    """The other numbers of a JSON object: NaN and infinities, which Python's json writes."""
    return {name: float(number) for name, number in _numbers(value) if not abs(number) < math.inf}


def _numbers(value: Plain, prefix: str = "") -> Iterator[tuple[str, float]]:
    for key, item in value.items():
        if isinstance(item, dict):
            yield from _numbers(item, f"{prefix}{key}/")
        elif isinstance(item, int | float) and not isinstance(item, bool):
            yield f"{prefix}{key}", item


# ------------------------------------------------------------------------------------------------ lm_eval


def _lm_eval(config: RunConfig, weights: Weights, folder: Path, stop: Callable[[], bool]) -> Found:
    if package_dir("lm_eval") is None:
        raise ConfigError("evaluation.benchmarks", "lm_eval", "not installed here; pip install lm_eval[hf]")
    dtype = str(precision.dtype_of(config.model)).removeprefix("torch.")
    argv = lm_eval_argv(config.evaluation.lm_eval, weights, dtype, config.evaluation.seed, folder)
    if config.model.trust_remote_code:
        argv.append("--trust_remote_code")
    run_program(argv, config.evaluation.lm_eval.minutes, folder / "stdout.txt", stop)
    files = sorted(folder.rglob("results_*.json"))
    if not files:
        raise ProgramFailed(f"lm_eval: left no results_*.json in {folder}; its log says why")
    results = json.loads(files[-1].read_text(encoding="utf-8"))
    kept = {name: results.get(name) for name in ("versions", "n-shot", "n-samples", "lm_eval_version", "git_hash")}
    return lm_eval_scores(results["results"]), kept


def lm_eval_argv(settings: LmEval, weights: Weights, dtype: str, seed: int, folder: Path) -> list[str]:
    """The command line of lm-evaluation-harness 0.4."""
    arguments = {"pretrained": weights.model, "dtype": dtype}
    if weights.adapter is not None:
        arguments["peft"] = str(weights.adapter)
    if weights.tokenizer is not None:
        arguments["tokenizer"] = str(weights.tokenizer)
    for name, value in arguments.items():
        if "," in value:
            raise ConfigError(
                "output_dir", UNSAID, f"lm_eval takes no comma in a path, and {name} is {value}; choose another"
            )
    model_args = ",".join(f"{name}={value}" for name, value in arguments.items())
    argv = [sys.executable, "-m", "lm_eval", "--model", "hf", "--model_args", model_args]
    argv += ["--tasks", ",".join(settings.tasks), "--batch_size", settings.batch_size, "--seed", str(seed)]
    argv += ["--output_path", str(folder), "--use_cache", str(folder / RESUMED / "answers")]
    argv += [] if settings.num_fewshot is None else ["--num_fewshot", str(settings.num_fewshot)]
    argv += [] if settings.limit is None else ["--limit", str(settings.limit)]
    return [*argv, "--apply_chat_template"] if settings.apply_chat_template else argv


def lm_eval_scores(results: dict[str, dict[str, Any]]) -> dict[str, float]:
    """`{"task": {"acc,none": 0.5}}` -> `{"task/acc": 0.5}`; a filter other than `none` stays in the name."""
    found = {}
    for task, metrics in results.items():
        numbers = {name: value for name, value in metrics.items() if "," in name}  # the others describe the task
        for name, value in numbers_in(numbers).items():
            found[f"{task}/{name.removesuffix(',none')}"] = value
    return found


# ------------------------------------------------------------------------------------------------ processes


def run_program(argv: Sequence[str], minutes: float, output: Path, stop: Callable[[], bool]) -> str:
    """Run a program to its end and return what it printed, of very much the end; its stderr is the log's.

    Raises:
        ProgramFailed: it is not there, failed, or took longer than `minutes`.
        Interrupted: `stop` became true.
    """
    try:
        with output.open("wb") as file:
            returned = _returned(argv, file, minutes, stop)
        printed = _end_of(output, READ_BYTES)
    finally:
        if output.stat().st_size > KEPT_BYTES:
            output.write_bytes(_end_of(output, KEPT_BYTES))
    if returned != 0:
        raise ProgramFailed(f"{argv[0]}: ended with exit code {returned}; the log has its last words")
    return printed.decode("utf-8", "replace")


def _returned(argv: Sequence[str], output: BinaryIO, minutes: float, stop: Callable[[], bool]) -> int:
    """The exit code of a program, once it has ended."""
    with contextlib.ExitStack() as stack:
        try:
            process = stack.enter_context(session(argv, output))
        except OSError as error:
            raise ProgramFailed(f"{argv[0]}: cannot be started ({error.strerror})") from error
        _wait(process, argv[0], minutes, stop)
    return int(process.returncode)


def _end_of(file: Path, size: int) -> bytes:
    with file.open("rb") as opened:
        opened.seek(max(0, file.stat().st_size - size))
        return opened.read()


def _wait(process: subprocess.Popen[bytes], name: str, minutes: float, stop: Callable[[], bool]) -> None:
    deadline = time.monotonic() + minutes * 60
    while process.poll() is None:
        progress.bump()  # it has its own limit
        if stop():
            raise Interrupted(f"stopped on request while {name} was measuring")
        if time.monotonic() > deadline:
            raise ProgramFailed(f"{name}: took longer than the {minutes:g} minutes that evaluation allows it")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(POLL_SECONDS)


PROGRAMS = {"lm_eval": _lm_eval, "command": _command}
