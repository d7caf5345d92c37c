"""Trackers, each with its real library: W&B offline and against a loopback server, trackio, TensorBoard."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import REPOSITORY, Launch, sweep_of
from nothing_server import serving_nothing
from waiting import eventually
from wandb_server import WandbServer, history, records, serving
from worker_fixtures import Configure, make_config, write_pairs

from launcher.cli import doctor
from launcher.config import OBJECTIVE, RunConfig
from launcher.errors import ConfigError, UsageError
from launcher.machine import accounts
from launcher.planning.planned_runs import run_id
from launcher.planning.rules import check
from launcher.store.facts import Attempt
from launcher.store.files import Plain, append_line, read_fact, read_lines, write_once
from launcher.store.output_folder import Store
from launcher.store.run_folder import AttemptDir, RunDir
from launcher.tracking import process as tracking
from launcher.tracking.sync import pending, upload
from launcher.worker.attempt import make_attempt
from launcher.worker.outcome import Kind, Outcome

KEY = "0123456789abcdef" * 2 + "01234567"  # as long as W&B wants one
HUB_TOKEN = "hf_plantedplantedplantedplanted"  # noqa: S105 - planted, to be looked for
SWEEP = "a-sweep"


def begun(store: Store, config: RunConfig) -> AttemptDir:
    """The next attempt of a run, on disk as a launcher leaves it."""
    plain = asdict(config)
    objective = {key: plain[key] for key in OBJECTIVE}
    run = store.run(run_id(objective))
    run.write_config(objective)
    return run.new_attempt(Attempt(settings={key: value for key, value in plain.items() if key not in OBJECTIVE}))


def loss(step: int) -> float:
    return 0.7 - step / 100


def train(run: RunDir, steps: Iterable[int]) -> None:
    """Log these steps, as the trainer does."""
    for step in steps:
        line = {"step": step, "max_steps": 9, "loss": loss(step), "reward_accuracy": 0.5, "time": 1.7e9 + step}
        append_line(run.metrics_file, line)


def finish(run: RunDir) -> None:
    write_once(run.result_file, {"loss": 0.61, "steps": 9, "max_steps": 9, "seconds": 4.5})
    write_once(run.evaluation_file, {"kl": 0.25, "reward_accuracy": 0.75, "samples": [{"prompt": "p", "text": "x"}]})


class Preempted(Exception):
    """What ends an attempt before its run is done."""


def preempt(run: RunDir) -> None:
    raise Preempted(run.run_id)


def attempt_of(store: Store, config: RunConfig, *steps: int, done: bool = False) -> RunDir:
    """One attempt that logs these steps, and is preempted where it is not `done`."""
    attempt = begun(store, config)
    with contextlib.suppress(Preempted), tracking.tracked(config, attempt):
        train(attempt.run, steps)
        (finish if done else preempt)(attempt.run)
    return attempt.run


def three_attempts(store: Store, config: RunConfig) -> RunDir:
    """A run that is preempted twice, after a checkpoint at step 2 and at step 5."""
    attempt_of(store, config, 1, 2, 3, 4)
    attempt_of(store, config, 3, 4, 5, 6)
    return attempt_of(store, config, 6, 7, 8, 9, done=True)


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("HF_TOKEN", HUB_TOKEN)


@pytest.fixture
def server(key: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:  # noqa: ARG001 - goes with a key
    with serving() as running:
        monkeypatch.setenv("WANDB_BASE_URL", running.url)
        yield running


def offline_folders(run: RunDir) -> list[Path]:
    return sorted(run.tracking.glob("wandb/offline-run-*"))


# ------------------------------------------------------------------------------------------------ W&B offline


@pytest.mark.usefixtures("key")
def test_a_preempted_run_is_whole_in_each_offline_folder(store: Store, configure: Configure) -> None:
    """Each attempt's folder holds the curve from step 1, each step once, whatever was logged again after a resume."""
    run = three_attempts(store, configure(tracking__backend="wandb", tracking__mode="offline", sweep=SWEEP))
    curves = [history(folder) for folder in offline_folders(run)]
    assert [[step for step, _ in curve] for curve in curves] == [[*range(1, n + 1)] for n in (4, 6, 9)]
    assert curves[-1] == [(step, pytest.approx(loss(step))) for step in range(1, 10)]


@pytest.mark.parametrize(("asked", "project"), [(None, "theirs"), ("ours", "ours")])
@pytest.mark.usefixtures("key")
def test_a_users_own_project_counts(
    store: Store, configure: Configure, monkeypatch: pytest.MonkeyPatch, asked: str | None, project: str
) -> None:
    """WANDB_PROJECT, where the configuration names none."""
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    config = configure(tracking__backend="wandb", tracking__mode="offline", tracking__project=asked, sweep=SWEEP)
    run = attempt_of(store, config, 1, 2, done=True)
    (told,) = (record["run"] for record in records(offline_folders(run)[0]) if record["type"] == "run")
    assert told["project"] == project


@pytest.mark.usefixtures("key")
def test_what_wandb_is_told_of_a_run(store: Store, configure: Configure) -> None:
    """Its id is ours, its group the sweep, its config what is trained; its summary has the evaluation."""
    config = configure(tracking__backend="wandb", tracking__mode="offline", sweep=SWEEP, loss_type="ipo")
    run = attempt_of(store, config, 1, 2, done=True)
    found = records(offline_folders(run)[0])
    told = next(record["run"] for record in found if record["type"] == "run")
    assert (told["run_id"], told["run_group"], told["job_type"]) == (run.run_id, SWEEP, "train")
    assert (told["project"], told["tags"]) == ("prefsweep", ["tiny", "ipo", "beta=0.1"])
    values = told["config"]["update"]
    assert values["trainer"]["learning_rate"] == 1e-3
    assert not {"cluster", "output_dir", "hub"} & set(values)
    summary: Plain = {}
    for record in found:
        summary |= record.get("summary", {}).get("update", {})
    assert (summary["eval/kl"], summary["eval/reward_accuracy"], summary["result/loss"]) == (0.25, 0.75, 0.61)
    assert next(record["exit"] for record in found if record["type"] == "exit")["exit_code"] == 0


SWEEP_OF_WANDB = {"WANDB_SWEEP_ID": "abc", "WANDB_RUN_ID": "evil", "WANDB_PROJECT": "theirs"}
RUN_OF_ANOTHER = {
    "WANDB_RESUME": "must",
    "WANDB_NAME": "evil",
    "WANDB_RUN_GROUP": "evil",
    "WANDB_CONFIG_PATHS": "/nonexistent.yaml",
    "WANDB_SERVICE": "3-1-tcp-localhost-9-v1",
}
SAGEMAKER = {"SM_TRAINING_ENV": "{}", "TRAINING_JOB_NAME": "evil", "CURRENT_HOST": "there"}


@pytest.mark.parametrize(
    ("around", "project"),
    [
        (SWEEP_OF_WANDB, "theirs"),
        ({"WANDB_LAUNCH": "true", "WANDB_RUN_ID": "evil"}, "prefsweep"),
        (RUN_OF_ANOTHER, "prefsweep"),
        (SAGEMAKER, "prefsweep"),
    ],
    ids=["wandb agent", "wandb launch", "another run", "SageMaker"],
)
@pytest.mark.usefixtures("key")
def test_a_run_has_its_own_id_in_wandb_whatever_is_around_it(
    store: Store,
    configure: Configure,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    around: dict[str, str],
    project: str,
) -> None:
    """Id, name, group and project are ours below `wandb agent` and its like, and the log names what does not count."""
    config = configure(tracking__backend="wandb", tracking__mode="offline", sweep=SWEEP)
    with monkeypatch.context() as patch:
        for name, value in around.items():
            patch.setenv(name, value)
        run = attempt_of(store, config, 1, 2, done=True)
    (folder,) = offline_folders(run)
    told = next(record["run"] for record in records(folder) if record["type"] == "run")
    assert [told[key] for key in ("run_id", "display_name", "run_group")] == [run.run_id, run.run_id, SWEEP]
    assert told["project"] == project
    said = capfd.readouterr().out
    heeded = {"WANDB_PROJECT", *SAGEMAKER}
    assert [name for name in around if name not in said] == [name for name in around if name in heeded]


def test_no_key_means_offline_where_wandb_was_asked_for(store: Store, configure: Configure) -> None:
    """tracking=wandb on a node without a login loses nothing: it is written for `sync`."""
    run = attempt_of(store, configure(tracking__backend="wandb", sweep=SWEEP), 1, 2)
    assert [step for step, _ in history(offline_folders(run)[0])] == [1, 2]


# ------------------------------------------------------------------------------------------------ W&B online


def test_a_preempted_run_is_one_continuous_curve_online(
    store: Store, configure: Configure, server: WandbServer
) -> None:
    """A run preempted twice is one W&B run whose steps are 1, 2, 3 ... 9; `auto` finds the key."""
    run = three_attempts(store, configure(tracking__backend="auto", sweep=SWEEP))
    assert list(server.runs) == [run.run_id]
    told = server.runs[run.run_id]
    assert told.steps == list(range(1, 10))
    assert [line["train/loss"] for line in told.history] == pytest.approx([loss(step) for step in range(1, 10)])
    assert (told.asked["groupName"], told.asked["tags"]) == (SWEEP, ["tiny", "sigmoid", "beta=0.1"])
    assert told.summary["eval/kl"] == 0.25
    assert told.exit_codes == [1, 1, 0]
    assert pending([run]) == []


def test_sync_below_a_wandb_agent_uploads_to_our_run(
    store: Store, configure: Configure, server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was offline, and one that W&B has in part, keep their ids, though the shell has a sweep's."""
    new = attempt_of(store, configure(tracking__backend="wandb", tracking__mode="offline", sweep=SWEEP), 1, done=True)
    known = configure(tracking__backend="wandb", tracking__mode="online", sweep=SWEEP, beta=0.2)
    monkeypatch.setattr(tracking, "STOP_SECONDS", tracking.FINISH_SECONDS)
    attempt_of(store, known, 1, 2)
    attempt_of(store, replace(known, tracking=replace(known.tracking, mode="offline")), 3, done=True)
    for name, value in SWEEP_OF_WANDB.items():
        monkeypatch.setenv(name, value)
    uploaded = upload(pending(store.runs()))
    assert uploaded.left == (), uploaded.words
    assert set(server.runs) == {run.run_id for run in store.runs()}
    assert server.runs[new.run_id].steps == [1]


@pytest.mark.parametrize(
    "modes", [("offline", "offline", None), ("online", "offline", None), ("offline", "online", "offline")]
)
def test_sync_merges_attempts_into_one_run(
    store: Store,
    configure: Configure,
    server: WandbServer,
    modes: tuple[str | None, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However attempts were tracked, and if there was a sync in between, W&B ends with each step once."""
    steps = ((1, 2, 3, 4), (3, 4, 5, 6), (6, 7, 8, 9))
    monkeypatch.chdir(tmp_path)
    for number, mode in enumerate(modes):
        if mode is None:
            assert upload(pending(store.runs())).left == ()
        config = configure(tracking__backend="wandb", tracking__mode=mode or "offline", sweep=SWEEP)
        run = attempt_of(store, config, *steps[number], done=number == 2)
    uploaded = upload(pending([run]))
    assert not (tmp_path / "wandb").exists()
    assert (uploaded.done, uploaded.left) == ((run,), ())
    assert list(server.runs) == [run.run_id]
    assert server.runs[run.run_id].steps == list(range(1, 10))
    assert server.runs[run.run_id].summary["eval/kl"] == 0.25
    assert pending([run]) == []


def test_sync_without_an_account_is_refused(
    store: Store, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no key, or no server, `sync` says so before it does anything."""
    run = attempt_of(store, configure(tracking__backend="wandb", sweep=SWEEP), 1)
    with pytest.raises(UsageError, match="wandb login"):
        upload(pending([run]))
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(UsageError, match="does not answer"):
        upload(pending([run]))


# ------------------------------------------------------------------------------------------------ outages


@contextmanager
def silent_server() -> Iterator[str]:
    """A server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def trained(store: Store, config: RunConfig) -> tuple[RunDir, float]:
    """A real run, to its end, and how many seconds it took."""
    attempt, began = begun(store, config), time.monotonic()
    assert make_attempt(attempt, store, lambda: False) == Outcome(Kind.DONE)
    return attempt.run, time.monotonic() - began


def without_measures(run: RunDir) -> list[Plain]:
    return [
        {k: v for k, v in line.items() if not any(word in k for word in ("time", "second", "memory"))}
        for line in read_lines(run.metrics_file)
    ]


@pytest.mark.usefixtures("key")
def test_a_server_that_never_answers_costs_a_run_nothing_but_a_short_wait_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The same steps and losses, a run that is TRAINED, and tracked offline.

    What the wait may be: the tracker gives the server ANSWER_SECONDS from the run's beginning, then needs some 3 s to
    write the run offline; the rest is for a busy machine. The run itself is shorter than that.
    """
    pairs = write_pairs(tmp_path / "pairs")
    plain, _ = trained(Store(tmp_path / "first"), make_config(pairs))  # pays what a process pays once
    _, alone = trained(Store(tmp_path / "off"), make_config(pairs))
    with silent_server() as url:
        monkeypatch.setenv("WANDB_BASE_URL", url)
        config = make_config(pairs, tracking__backend="wandb", sweep=SWEEP)
        run, beside = trained(Store(tmp_path / "silent"), config)
    assert without_measures(run) == without_measures(plain)
    assert read_fact(run.result_file) is not None
    assert run.evaluation_file.exists()
    assert beside < alone + accounts.ANSWER_SECONDS + 10
    assert [step for step, _ in history(offline_folders(run)[0])] == list(range(1, 7))
    assert len([line for line in capfd.readouterr().out.splitlines() if "does not answer" in line]) == 1


def test_a_server_that_fails_in_the_middle_delays_the_end_by_so_much_and_sync_completes_it(
    store: Store,
    configure: Configure,
    server: WandbServer,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The tracker is left when its time is over; when the server is back, W&B gets every step, each once."""
    monkeypatch.setattr(tracking, "FINISH_SECONDS", 3.0)
    config = configure(tracking__backend="wandb", sweep=SWEEP)
    attempt = begun(store, config)
    with tracking.tracked(config, attempt):
        train(attempt.run, range(1, 5))
        assert eventually(lambda: server.runs.get(attempt.run.run_id))
        server.status = 503
        train(attempt.run, range(5, 10))
        finish(attempt.run)
        ended = time.monotonic()
    assert time.monotonic() < ended + 3.0 + 30.0  # W&B's own patience has no end
    assert "was left" in capfd.readouterr().out
    assert pending([attempt.run]) == [attempt.run]
    server.status = 200
    assert upload([attempt.run]).left == ()
    assert server.runs[attempt.run.run_id].steps == list(range(1, 10))


def test_a_server_that_refuses_the_key_leaves_the_run_offline(
    store: Store, configure: Configure, server: WandbServer, capfd: pytest.CaptureFixture[str]
) -> None:
    """A wrong key is one line in the log, without the key; the run is tracked offline."""
    server.status = 401
    run = attempt_of(store, configure(tracking__backend="wandb", sweep=SWEEP), 1, 2, done=True)
    said = capfd.readouterr().out
    assert "W&B did not take the run" in said
    assert KEY not in said
    assert [step for step, _ in history(offline_folders(run)[-1])] == [1, 2]


@pytest.mark.parametrize("missing", ["wandb", "trackio", "tensorboard"])
def test_a_library_that_is_missing_is_one_line(
    store: Store, configure: Configure, missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A node without the package trains all the same, and its log says what to install."""
    (tmp_path / "shadow").mkdir()
    (tmp_path / "shadow" / f"{missing}.py").write_text(f"raise ImportError('No module named {missing}')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "shadow"))
    run = attempt_of(store, configure(tracking__backend=missing, sweep=SWEEP), 1, 2, done=True)
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 1
    assert f"prefsweep[{missing}]" in lines[0]
    assert run.result_file.exists()


def test_a_tracker_outlives_neither_kill_9_nor_its_run(store: Store, configure: Configure, tmp_path: Path) -> None:
    """When the run's process is killed, the tracker writes what was logged, and ends."""
    config = configure(tracking__backend="wandb", tracking__mode="offline", sweep=SWEEP)
    attempt = begun(store, config)
    code = (
        "import sys, time, pathlib\n"
        "from launcher.store.run_folder import AttemptDir\n"
        "from launcher.store.attempt_config import read_config\n"
        "from launcher.tracking import process as tracking\n"
        "attempt = AttemptDir(pathlib.Path(sys.argv[1]))\n"
        "with tracking.tracked(read_config(attempt), attempt):\n"
        "    print('begun', flush=True); time.sleep(600)\n"
    )
    command = [sys.executable, "-c", code, str(attempt.path)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=tmp_path) as process:
        assert process.stdout
        assert process.stdout.readline() == "begun\n"
        train(attempt.run, range(1, 4))
        process.send_signal(signal.SIGKILL)
        process.stdout.read()  # returns when the last process that holds the pipe has ended: the tracker, W&B's service
    assert [step for step, _ in history(offline_folders(attempt.run)[0])] == [1, 2, 3]


# ------------------------------------------------------------------------------------------------ secrets


def files_with(folder: Path, *secrets: str) -> list[str]:
    """The files with one of these in their name or their bytes."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [
        str(path)
        for path in files
        if any(secret in str(path) or secret.encode() in path.read_bytes() for secret in secrets)
    ]


def test_no_secret_is_in_any_file_that_a_sweep_leaves(launch: Launch, tmp_path: Path, server: WandbServer) -> None:
    """A W&B key and a Hub token in the environment are in no config, pickle, log or tracker's file, online or off."""
    run = ["model=tiny", "trainer=full", "dataset.train_pairs=32", "dataset.test_pairs=8", "trainer.max_steps=2"]
    short = ["evaluation.generations=2", "evaluation.max_new_tokens=2", "loss_type=sigmoid", "sweep=secretive",
             "hub=folder"]  # with a Hub token there, hub=auto would push  # fmt: skip
    done = launch(*run, *short, "beta=0.1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [told.steps for told in server.runs.values()] == [[1, 2]]
    assert {told.asked["groupName"] for told in server.runs.values()} == {"secretive"}
    (trained_run,) = (tmp_path / "outputs/runs").iterdir()
    tracked_again = AttemptDir(trained_run / "attempts/001")
    for backend in ("wandb", "trackio", "tensorboard"):
        config = make_config(tmp_path, tracking__backend=backend, tracking__mode="offline", sweep="secretive")
        with tracking.tracked(config, tracked_again):
            pass
    assert list(trained_run.glob("tracking/wandb/*run-*/*.wandb"))
    assert files_with(tmp_path, KEY, HUB_TOKEN) == []


@pytest.mark.usefixtures("key")
def test_the_tracker_is_given_no_secret_but_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens of other services do not reach a tracker's process."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted")
    given = tracking.environment_of("wandb")
    assert given["WANDB_API_KEY"] == KEY
    assert not {"HF_TOKEN", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY"} & set(given)
    assert "WANDB_API_KEY" not in tracking.environment_of("trackio")


# ------------------------------------------------------------------------------------------------ trackio, TensorBoard


def test_trackio_has_each_step_once(store: Store, configure: Configure) -> None:
    """The sweep's project in the sweep's folder holds a preempted run as one curve, and then its evaluation."""
    pytest.importorskip("trackio", minversion="0.43")
    run = three_attempts(store, configure(tracking__backend="trackio", sweep=SWEEP))
    with sqlite3.connect(store.sweep(SWEEP).tracking / "trackio" / f"{SWEEP}.db") as database:
        rows = database.execute("SELECT run_name, step, metrics FROM metrics ORDER BY id").fetchall()
    assert {name for name, _, _ in rows} == {run.run_id}
    told = [(step, json.loads(metrics)) for _, step, metrics in rows]
    curve = [(step, values["train/loss"]) for step, values in told if "train/loss" in values]
    assert curve == [(step, pytest.approx(loss(step))) for step in range(1, 10)]
    assert told[-1][0] == 9
    assert told[-1][1]["eval/kl"] == 0.25


@pytest.mark.parametrize(
    "name", ["TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_BUCKET_ID", "TRACKIO_PAUSE_WRITES"]
)
def test_trackio_stays_in_the_sweeps_folder(
    store: Store,
    configure: Configure,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    name: str,
) -> None:
    """A variable of trackio's that would lead to a Space, a server or a bucket does not count, and the log says so."""
    pytest.importorskip("trackio", minversion="0.43")
    with serving_nothing() as (address, asked):
        values = {"TRACKIO_SERVER_URL": f"{address}/?write_token=planted", "TRACKIO_PAUSE_WRITES": "1"}
        monkeypatch.setenv(name, values.get(name, "me/space"))
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        run = attempt_of(store, configure(tracking__backend="trackio", sweep=SWEEP), 1, 2, done=True)
    assert asked == []
    with sqlite3.connect(store.sweep(SWEEP).tracking / "trackio" / f"{SWEEP}.db") as database:
        rows = database.execute("SELECT run_name, step FROM metrics ORDER BY id").fetchall()
    assert rows == [(run.run_id, step) for step in (1, 2, 2)]  # the last is of the results
    assert f"{name} does not count" in capfd.readouterr().out


def test_tensorboard_has_each_step_once(store: Store, configure: Configure) -> None:
    """One event file per run, read back by TensorBoard: every step once, the evaluation, what HParams shows."""
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = three_attempts(store, configure(tracking__backend="tensorboard", sweep=SWEEP))
    folder = store.sweep(SWEEP).tracking / "tensorboard" / run.run_id
    assert len(list(folder.iterdir())) == 1
    events = accumulators.EventAccumulator(str(folder))
    events.Reload()
    read = [(event.step, event.value) for event in _scalars(events, "train/loss")]
    assert read == [(step, pytest.approx(loss(step))) for step in range(1, 10)]
    assert [event.value for event in _scalars(events, "eval/kl")] == [0.25]
    assert "_hparams_/session_start_info" in events.summary_metadata


def _scalars(events: Any, tag: str) -> list[Any]:
    """TensorBoard turns scalars into tensors when it reads them, or leaves them."""
    if tag in events.Tags()["scalars"]:
        return list(events.Scalars(tag))
    return [event._replace(value=event.tensor_proto.float_val[0]) for event in events.Tensors(tag)]


# ------------------------------------------------------------------------------------------------ what is followed


class Listener:
    """A tracker that keeps what it is told."""

    def __init__(self, known: int = 0) -> None:
        self.known, self.told, self.summary = known, [], {}  # type: ignore[var-annotated]

    def start(self) -> int:
        return self.known

    def log(self, step: int, at: float, values: Any) -> None:  # noqa: ARG002 - the protocol's
        self.told.append((step, values["train/loss"]))

    def finish(self, step: int, summary: Any, *, succeeded: bool) -> None:
        self.summary = {**summary, "step": step, "succeeded": succeeded}


def answers_of(*answers: Callable[[], bytes | None]) -> Callable[[float], bytes | None]:
    waiting = iter(answers)
    return lambda _: next(waiting)()


def test_torn_and_repeated_lines(store: Store) -> None:
    """A torn line is left out until it is whole; a step logged again counts once; what came last is still told."""
    run, tracker = store.run("r"), Listener()
    train(run, (1, 2, 3))

    def tear() -> None:
        with run.metrics_file.open("a") as file:
            file.write('{"step": 4, "lo')

    def mend() -> None:
        with run.metrics_file.open("a") as file:
            file.write('ss": 0.66, "time": 1.0}\nnonsense\n')

    def last() -> bytes:
        train(run, (3, 4, 5))
        finish(run)
        return b"done"

    tracking.follow(run, tracker, answers_of(tear, mend, last))
    assert tracker.told == [(step, pytest.approx(loss(step))) for step in range(1, 6)]
    assert tracker.summary == {
        "step": 5, "succeeded": True, "result/loss": 0.61, "result/steps": 9, "result/seconds": 4.5, "eval/kl": 0.25,
        "eval/reward_accuracy": 0.75,
    }  # fmt: skip


def test_a_tracker_that_knows_the_beginning_is_told_the_rest(store: Store) -> None:
    """What W&B has already is not told again."""
    run, tracker = store.run("r"), Listener(known=3)
    train(run, range(1, 6))
    tracking.follow(run, tracker, answers_of(lambda: b"ended"))
    assert [step for step, _ in tracker.told] == [4, 5]
    assert tracker.summary["succeeded"] is False


# ------------------------------------------------------------------------------------------------ which tracker


def test_which_tracker_is_used(configure: Configure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`auto` is W&B where there is a key or a login for its server, else nothing; only rank 0 tracks."""
    auto = configure(tracking__backend="auto")
    assert tracking.backend(auto, {"HOME": str(tmp_path)}) == "off"
    assert tracking.backend(auto, {"WANDB_API_KEY": KEY}) == "wandb"
    assert tracking.backend(auto, {"WANDB_API_KEY": KEY, "RANK": "1"}) == "off"
    assert tracking.backend(auto, {"WANDB_API_KEY": KEY, "WANDB_MODE": "disabled"}) == "off"
    assert tracking.backend(configure(tracking__backend="trackio"), {}) == "trackio"
    login = tmp_path / "netrc"
    login.write_text(f"machine api.wandb.ai login user password {KEY}\n")
    assert tracking.backend(auto, {"NETRC": str(login)}) == "wandb"
    assert tracking.backend(auto, {"NETRC": str(login), "WANDB_BASE_URL": "https://wandb.example.org"}) == "off"
    monkeypatch.setattr(tracking, "installed", lambda _: False)
    assert tracking.backend(auto, {"WANDB_API_KEY": KEY}) == "off"


@pytest.mark.parametrize(
    ("environment", "logins", "there"),
    [
        ({}, "", False),
        ({}, "api.wandb.ai", True),
        ({}, "api.wandb.ai.example.org", False),
        ({}, "wandb.example.org", False),  # another server's login
        ({"WANDB_API_KEY": KEY}, "", True),
        ({"WANDB_IDENTITY_TOKEN_FILE": "/run/token"}, "", True),
        ({"WANDB_BASE_URL": "https://wandb.example.org"}, "api.wandb.ai", False),
        ({"WANDB_BASE_URL": "https://wandb.example.org"}, "wandb.example.org", True),
        ({"WANDB_BASE_URL": "https://wandb.example.org:8443/"}, "wandb.example.org:8443", True),
        ({"NETRC": "{home}/elsewhere"}, "api.wandb.ai", False),
        ({"NETRC": "~nobody-of-that-name/netrc"}, "api.wandb.ai", False),
        ({"WANDB_BASE_URL": "http://[x"}, "api.wandb.ai", False),  # no address
        ({"WANDB_BASE_URL": "http://[x", "WANDB_API_KEY": KEY}, "", False),
        ({"WANDB_MODE": "disabled", "WANDB_API_KEY": KEY}, "", False),
    ],
)
def test_doctor_finds_the_key_that_runs_would_track_with(
    configure: Configure, tmp_path: Path, environment: dict[str, str], logins: str, *, there: bool
) -> None:
    """Whether `doctor` says that there is one is whether `auto` tracks, whatever server is meant."""
    (tmp_path / ".netrc").write_text(f"machine {logins} login user password {KEY}\n" if logins else "")
    given = {"HOME": str(tmp_path)} | {key: value.format(home=tmp_path) for key, value in environment.items()}
    what, how = doctor.tracking_here("auto", given)
    assert (what, how.split(":")[0]) == ("tracking=auto", "wandb" if there else "off")
    assert tracking.backend(configure(tracking__backend="auto"), given) == ("wandb" if there else "off")


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({}, "no W&B key or login here (`wandb login`, or WANDB_API_KEY)"),
        ({"WANDB_API_KEY": KEY, "WANDB_MODE": "disabled"}, "WANDB_MODE=disabled"),
        (
            {"WANDB_BASE_URL": "http://[x"},
            "the W&B server's address is malformed (see WANDB_BASE_URL)",
        ),
    ],
)
def test_doctor_says_why_nothing_tracks(tmp_path: Path, environment: dict[str, str], why: str) -> None:
    """It tells tracking's own decision, with its reason."""
    assert doctor.tracking_here("auto", {"HOME": str(tmp_path), **environment}) == ("tracking=auto", f"off: {why}")


def test_doctor_says_that_wandb_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key alone tracks nothing."""
    monkeypatch.setattr(tracking, "installed", lambda _: False)
    how = "off: wandb is not installed here"
    assert doctor.tracking_here("auto", {"WANDB_API_KEY": KEY}) == ("tracking=auto", how)
    assert doctor.tracking_here("trackio", {}) == ("tracking=trackio", "trackio")


def test_without_home_the_login_is_that_of_the_password_database(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As wandb finds it; and where that knows no such user, there is none."""
    (tmp_path / ".netrc").write_text(f"machine api.wandb.ai login user password {KEY}\n")
    auto = configure(tracking__backend="auto")
    monkeypatch.setattr(pwd, "getpwuid", lambda _: SimpleNamespace(pw_dir=str(tmp_path)))
    assert tracking.backend(auto, {}) == "wandb"
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    assert tracking.backend(auto, {}) == "off"


@pytest.mark.parametrize("backend", ["auto", "wandb"])
def test_an_address_that_is_none_does_not_reach_the_run(
    store: Store, configure: Configure, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    """A malformed WANDB_BASE_URL: the run goes on, whatever its tracker makes of it."""
    monkeypatch.setenv("WANDB_BASE_URL", "http://[x")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    attempt = begun(store, configure(tracking__backend=backend))
    with tracking.tracked(configure(tracking__backend=backend), attempt):
        train(attempt.run, [1])
    assert not accounts.answers("http://[x")


@pytest.mark.parametrize("backend", ["off", "auto"])
def test_without_a_tracker_nothing_is_started_or_imported(store: Store, configure: Configure, backend: str) -> None:
    """tracking=off, and auto without a key, start no process, import no tracker's library and write nothing."""
    attempt = begun(store, configure(tracking__backend=backend))
    code = (
        "import pathlib, subprocess, sys\n"
        "from launcher.store.run_folder import AttemptDir\n"
        "from launcher.worker import job; from launcher.tracking import process as tracking\n"
        "subprocess.Popen = None\n"
        "attempt = AttemptDir(pathlib.Path(sys.argv[1]))\n"
        "with tracking.tracked(job.read_config(attempt), attempt):\n"
        "    print(sorted({'wandb', 'trackio', 'tensorboard', 'torch'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(attempt.path)], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    assert done.stdout == "[]\n"
    assert not attempt.run.tracking.exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tracking__backend": "wand"}, "did you mean 'wandb'"),
        ({"tracking__mode": "on"}, "online, offline or null"),
        ({"tracking__project": "a/b"}, "tracking.project=a/b"),
        ({"tracking__every": 0}, "at least 1"),
    ],
)
def test_wrong_tracking_is_refused(configure: Configure, changes: dict[str, Any], words: str) -> None:
    """A tracker or a mode that is not there is one line, before anything is submitted."""
    with pytest.raises(ConfigError, match=words):
        check(configure(**changes), ("sigmoid",))


def test_a_password_in_the_servers_address_is_not_logged() -> None:
    """The log of a run is read by whoever reads its folder."""
    assert accounts.shown("http://me:word@wandb.lab:8080/path@x") == "http://wandb.lab:8080/path@x"
    assert accounts.shown("https://wandb.lab") == "https://wandb.lab"


def test_where_wandb_is(tmp_path: Path) -> None:
    """The server is that of the environment, else of the user's settings, else the public one."""
    (tmp_path / "settings").write_text("[default]\nbase_url = https://wandb.example.org/\n")
    assert accounts.server({"WANDB_CONFIG_DIR": str(tmp_path)}) == "https://wandb.example.org"
    assert accounts.server({"WANDB_CONFIG_DIR": str(tmp_path), "WANDB_BASE_URL": "http://x"}) == "http://x"
    assert accounts.server({"WANDB_CONFIG_DIR": str(tmp_path / "none")}) == "https://api.wandb.ai"


def test_every_run_knows_its_sweep() -> None:
    """A run's settings name its sweep, given or not; its id does not depend on it."""
    unnamed = sweep_of("model=tiny", "beta=0.1,0.2")
    named = sweep_of("model=tiny", "beta=0.1,0.2", "sweep=mine")
    assert {run.settings["sweep"] for run in unnamed.runs} == {unnamed.name} == {"tiny-movie-reviews"}
    assert {run.config.sweep for run in named.runs} == {"mine"}
    assert [run.run_id for run in unnamed.runs] == [run.run_id for run in named.runs]
    one, other = unnamed.runs[0].config, named.runs[0].config
    assert (one.hub.repo, other.hub.repo) == ("tiny-movie-reviews", "tiny-mine")
    assert replace(one, sweep=None, hub=other.hub) == replace(other, sweep=None)
