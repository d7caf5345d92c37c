"""Tracking one run: a process of its own that follows metrics.jsonl and tells a tracker what it reads there.

Owns: that process: how it starts, follows and ends; which steps a tracker is told.
Must not know: torch, how a run is trained; any tracker's library (`wandb_tracker` and its like do).

Why a process, and why a file between: whatever a tracker's library does (hangs, raises, keeps threads, listens for the
exit of the interpreter), training neither waits for it nor shares an interpreter with it; and what an attempt could
not tell, the next one finds in metrics.jsonl, which has every step. So each attempt tells the whole curve, each step
once: a tracker that knows its beginning is told the rest.

The pipe to the process's standard input is its lifeline: it ends when that is closed, be it that the run is over or
that its process was killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from launcher.cluster import node
from launcher.config import RunConfig
from launcher.machine import rights
from launcher.machine.accounts import installed, lacks_login
from launcher.store.files import Plain, plain, read_fact
from launcher.store.locks import held
from launcher.store.results import Evaluation, Result
from launcher.store.run_folder import AttemptDir, RunDir
from launcher.tracking.tensorboard_tracker import TensorBoardTracker
from launcher.tracking.tracker import FINISH_SECONDS, Subject, Tracker, say
from launcher.tracking.trackio_tracker import TrackioTracker
from launcher.tracking.wandb_tracker import WandbTracker

STOP_SECONDS = 10.0  # for a run that was stopped or failed: its job may be about to be killed
POLL_SECONDS = 1.0
DONE, ENDED = b"done", b"ended"
SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|CREDENTIAL|_KEY$|_KEY_", re.IGNORECASE)
NOT_TOLD = ("step", "max_steps", "time", "seconds")  # of a logged line: what is not a curve
SUMMARY = ("loss", "steps", "seconds")  # of result.json
NOT_SCORES = ("pairs", "generations", "seconds")  # of evaluation.json, whose other numbers are told

# ------------------------------------------------------------------------------------------------ beside the training


@contextlib.contextmanager
def tracked(config: RunConfig, attempt: AttemptDir) -> Iterator[None]:
    """Within, the run is tracked as its config says; no error, delay or end of the tracker reaches the run.

    At the end the tracker has FINISH_SECONDS to deliver what is left, STOP_SECONDS where the run did not succeed.
    """
    follower = _start(config, attempt)
    word, patience = ENDED, STOP_SECONDS
    try:
        yield
        word, patience = DONE, FINISH_SECONDS
    finally:
        if follower is not None:
            _end(follower, word, patience)


def backend(config: RunConfig, environment: Mapping[str, str] = os.environ) -> str:
    """The tracker that this process is to use: the config's; for `auto`, what this very node offers.

    That is decided here, since a compute node may have another environment than the login node. Only rank 0 tracks.
    """
    return "off" if _rank(environment) != 0 else offered(config.tracking.backend, environment)[0]


def offered(wish: str, environment: Mapping[str, str]) -> tuple[str, str | None]:
    """The tracker that `tracking.backend` comes to on this machine, and why it is off where that was not the wish."""
    if wish in ("auto", "wandb") and environment.get("WANDB_MODE") == "disabled":
        return "off", "WANDB_MODE=disabled"
    if wish != "auto":
        return wish, None
    lacking = lacks_login(environment) if installed("wandb") else "wandb is not installed here"
    return ("off", lacking) if lacking else ("wandb", None)


def _rank(environment: Mapping[str, str]) -> int:
    task = node.here(environment)
    return int(environment.get("RANK") or (task.rank if task else 0))


def _start(config: RunConfig, attempt: AttemptDir) -> subprocess.Popen[bytes] | None:
    chosen = backend(config)
    if chosen == "off":
        return None
    command = [sys.executable, "-P", "-m", "launcher.tracking.process", str(attempt.path), chosen]
    try:
        with _signals_blocked():
            # What a library says to standard error, a panic of its service even, is no line of the run's log.
            environment = environment_of(chosen)
            return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
    except OSError as error:
        say(f"{chosen} could not be started ({error}); metrics.jsonl has every step")
        return None


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Processes started within never see what asks the run to stop: they are to report its end."""
    before = signal.pthread_sigmask(
        signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP}
    )
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def environment_of(chosen: str) -> dict[str, str]:
    """Ours less its secrets, of which a tracker needs only its own; and the code that this process runs."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not SECRET.search(name) or (chosen == "wandb" and name.startswith("WANDB_"))
    }
    path = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return kept | {"PYTHONPATH": os.pathsep.join(filter(None, path))}


def _end(follower: subprocess.Popen[bytes], word: bytes, patience: float) -> None:
    try:
        follower.communicate(word, timeout=patience)
        if follower.returncode:
            say(f"the tracker ended early ({follower.returncode}); metrics.jsonl has every step")
    except subprocess.TimeoutExpired:
        follower.kill()
        follower.communicate()
        say(f"the tracker was not done {patience:g} s after the run and was left; metrics.jsonl has every step")
    except OSError as error:
        say(f"the tracker could not be told the end ({error}); metrics.jsonl has every step")


# ------------------------------------------------------------------------------------------------ the process


def main(path: str, chosen: str, mode: str | None = None) -> None:
    """Follow the attempt in the folder `path` until standard input ends; no exception leaves.

    `mode` takes the place of tracking.mode: `sync` tells W&B with it what it has not been told.
    """
    from launcher.store.attempt_config import read_config

    attempt = AttemptDir(Path(path))
    try:
        config, run = read_config(attempt), attempt.run
        config = replace(config, tracking=replace(config.tracking, mode=mode or config.tracking.mode))
        run.tracking.mkdir(exist_ok=True)
        # After kill -9 and a quick resume, the process of the attempt before may still be delivering.
        with held(run.tracking / ".lock", FINISH_SECONDS):
            subject = Subject.of(config, run, attempt.number)
            follow(run, tracker_of(chosen, subject), heard(sys.stdin.fileno()), partial(_share, subject))
    except Exception as error:  # noqa: BLE001 - a tracker may fail as it likes: the run goes on
        say(f"{chosen} gave up ({type(error).__name__}: {error}); metrics.jsonl has every step")


def tracker_of(backend: str, subject: Subject) -> Tracker:
    """The tracker of that name."""
    trackers: dict[str, Callable[[Subject], Tracker]] = {
        "wandb": WandbTracker,
        "trackio": TrackioTracker,
        "tensorboard": TensorBoardTracker,
    }
    return trackers[backend](subject)


def heard(descriptor: int) -> Callable[[float], bytes | None]:
    """A function that waits so many seconds for the end of `descriptor`: None, or all that was written to it."""
    words = b""

    def listen(seconds: float) -> bytes | None:
        nonlocal words
        while select.select([descriptor], [], [], seconds)[0]:
            word = os.read(descriptor, 64)
            if not word:
                return words
            words += word
        return None

    return listen


def _share(subject: Subject) -> None:
    """Give what the tracker has left the umask's rights: SQLite, for one, makes files that a group cannot write."""
    for folder in filter(Path.is_dir, (subject.folder, subject.shared)):
        rights.follow_umask(folder)


def follow(
    run: RunDir, tracker: Tracker, listen: Callable[[float], bytes | None], share: Callable[[], None] = lambda: None
) -> None:
    """Tell `tracker` every step of the run, each once and in order, until `listen` says that the run is over.

    `share` is called when it has begun, and when it has ended.
    """
    step = tracker.start()
    share()
    read, word = lines_of(run.metrics_file), None
    while word is None:
        word = listen(POLL_SECONDS)  # before reading: what was logged before the end is read after it
        if word is not None:
            signal.alarm(int(FINISH_SECONDS) + 5)  # ends us where nobody is left who would
        for line in each_step_once(read(), after=step):
            step = line["step"]
            tracker.log(step, line["time"], values_of(line))
    tracker.finish(step, summary_of(run), succeeded=word == DONE)
    share()
    signal.alarm(0)


def lines_of(path: Path) -> Callable[[], list[Plain]]:
    """A function that gives the whole lines that were appended since it was last called."""
    offset = 0

    def read() -> list[Plain]:
        nonlocal offset
        if not path.exists():
            return []
        with path.open("rb") as file:
            file.seek(offset)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        offset += len(whole)
        return [line for line in map(_parsed, whole.splitlines()) if line is not None]

    return read


def _parsed(line: bytes) -> Plain | None:
    """The record of a line; None where a crash has torn it."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "step" in record else None


def each_step_once(lines: list[Plain], after: int) -> list[Plain]:
    """The lines of later steps in order, each step as it was logged last.

    A resumed run logs again, with the same values, what came after its checkpoint.
    """
    steps = {line["step"]: line for line in lines if line["step"] > after}
    return [steps[step] for step in sorted(steps)]


def values_of(line: Plain) -> dict[str, float]:
    """What a tracker is told of a logged line: its numbers, as `train/<name>`."""
    return {f"train/{name}": value for name, value in line.items() if name not in NOT_TOLD}


def summary_of(run: RunDir) -> dict[str, float]:
    """The run's final numbers, as far as there are any: `result/<name>` and `eval/<name>`."""
    result, evaluation = read_fact(run.result_file, Result), read_fact(run.evaluation_file, Evaluation)
    numbers = {f"result/{name}": getattr(result, name) for name in SUMMARY} if result else {}
    computed = plain(result.throughput) if result and result.throughput else {}
    numbers |= {f"result/{name}": value for name, value in computed.items()}
    told = plain(evaluation) if evaluation else {}
    scores = {name: score for name, score in told.items() if isinstance(score, int | float)}
    return numbers | {f"eval/{name}": score for name, score in scores.items() if name not in NOT_SCORES}


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)  # all is delivered, or was given up: no library's exit hook is waited for
