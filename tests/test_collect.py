"""results.jsonl: that it has what its documentation says, and what a run has cost."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import pytest
import yaml
from conftest import sweep_of
from fakes import FakeScheduler, submit
from finished_runs import revision_at

import analysis
from analysis.columns import COLUMNS, SCORES, document
from launcher.runs.collect import collect
from launcher.runs.run_state import states_of
from launcher.store.attempts import Attempts
from launcher.store.files import Plain, append_line, plain, write_derived, write_once
from launcher.store.measurements import Measured
from launcher.store.output_folder import Store
from launcher.store.results import BENCHMARKS, ProgramResult, Result
from launcher.store.run_folder import RunDir
from launcher.store.throughput import Throughput
from launcher.sweep import Sweep

GRID = ["model=tiny", "cluster.gpus_per_node=1", "loss_type=sigmoid,ipo", "beta=0.1,0.5"]
EVALUATION = {"loss": 0.6, "reward_accuracy": 0.7, "kl": 2.0, "golden_reward": 0.5, "golden_rewards": [0.25, 0.75]}
ACTIONS = {"actions": {"1": 0.9, "2": 0.1}}


@pytest.fixture
def sweep(store: Store) -> Sweep:
    """A launched sweep: its first run is done, its second has begun, its third failed, its last one has not started."""
    sweep, scheduler = sweep_of(*GRID), FakeScheduler()
    submit(sweep, store, scheduler, [])
    done, begun, failed, _ = (store.run(run.run_id) for run in sweep.runs)
    for run in (done, begun, failed):
        write_once(Attempts.of(run).training.started_file, {"host": "n1", "pid": 1, "job": None, "time": 1.0})
        for step in (1, 2, 2):  # step 2 was made again after a crash
            append_line(run.metrics_file, {"step": step, "loss": 1 / step, "seconds": 30.0, "time": 0.0})
    result = {"steps": 2, "max_steps": 2, "seconds": 60.0, "loss": 0.5, "device": "NVIDIA H200"}
    write_once(done.result_file, result)
    write_once(done.evaluation_file, EVALUATION | ACTIONS | {"seconds": 90.0, "base": "key1"})
    write_once(done.revision_file, revision_at("/there/tiny@a", time=3.0))
    write_once(Attempts.of(failed).training.failure_file, {"reason": "out of memory", "status": "FAILED", "time": 2.0})
    write_once(store.cache("base", "key1") / "evaluation.json", EVALUATION | {"golden_reward": 0.1})
    return sweep


def rows_of(sweep: Sweep, store: Store) -> list[Plain]:
    runs = [store.run(run.run_id) for run in sweep.runs]
    return collect(store.sweep(sweep.name), store, states_of(runs, FakeScheduler()))


def paths(row: Plain) -> set[str]:
    """The keys of a row, those of `evaluation` with its name before them; of the revision, its address is read."""
    nested = {f"evaluation.{key}" for key in row["evaluation"] or {}}
    nested |= {f"revision.{key}" for key in row.get("revision") or {} if key == "address"}
    return (set(row) - {"evaluation", "training", "revision"}) | nested


def test_every_key_of_a_row_is_documented(sweep: Sweep, store: Store) -> None:
    """What collect writes and docs/results.md explain are the same keys."""
    documented = {".".join(column.path) for column in COLUMNS}
    for row in rows_of(sweep, store):
        assert paths(row) <= documented, row["run_id"]


def test_a_run_has_every_documented_key(sweep: Sweep, store: Store) -> None:
    """A finished run has a key for each column that is read; MT-Bench only where it was evaluated."""
    optional = {".".join(column.path) for column in SCORES if column.name.startswith("mt_bench")} | {"mt_bench_scores"}
    wanted = {".".join(column.path) for column in COLUMNS if column.path and column.path[0] != "training"} - optional
    row = next(row for row in rows_of(sweep, store) if row["status"] == "TRAINED" and row["kind"] == "run")
    assert wanted <= paths(row)


def test_how_many_prompts_the_texts_continue_is_told(sweep: Sweep, store: Store) -> None:
    """Texts of one prompt are no independent ones; where it was not recorded, the number is null."""
    done, begun, *_ = (store.run(run.run_id) for run in sweep.runs)
    write_once(begun.result_file, {"steps": 2, "max_steps": 2, "seconds": 60.0, "loss": 0.5})
    write_once(begun.evaluation_file, EVALUATION | {"settings": {"prompts": ["a", "b", "c"]}})
    told = {row["run_id"]: row["evaluation"]["prompts"] for row in rows_of(sweep, store) if row["evaluation"]}
    assert (told[done.run_id], told[begun.run_id]) == (None, 3)


def test_a_benchmark_is_one_row(sweep: Sweep, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a name and a class of result it can be asked for, and is collected, from runs with and without its file."""
    monkeypatch.setitem(BENCHMARKS, "new", ProgramResult)
    sweep_of(*GRID, "evaluation.benchmarks=[preference,new]")
    before = rows_of(sweep, store)
    run = store.run(sweep.runs[0].run_id)
    write_once(run.evaluations.result_file("new"), {"scores": {"x": 1.0}, "base": "key2"})
    assert Measured.of(run).results["new"] == ProgramResult({"x": 1.0}, base="key2")
    assert Measured.of(run).bases == {"preference": "key1", "new": "key2"}
    assert rows_of(sweep, store)[0]["evaluation"] == before[0]["evaluation"]


def test_the_documentation_is_that_of_the_columns() -> None:
    """docs/results.md is made from analysis/columns.py: python -c 'from analysis import columns; ...document()'."""
    written = Path(__file__).parent.parent / "docs" / "results.md"
    assert written.read_text(encoding="utf-8") == document()


def test_gpu_hours_are_those_of_all_steps_and_the_evaluation(sweep: Sweep, store: Store) -> None:
    """One GPU for 3 steps of 30 s and an evaluation of 90 s: 0.05 hours. A failed run has cost something too."""
    by_status = {row["status"]: row for row in rows_of(sweep, store) if row["kind"] == "run"}
    assert by_status["TRAINED"]["gpus"] == 1
    assert by_status["TRAINED"]["gpu_hours"] == pytest.approx(0.05)
    assert by_status["FAILED"]["gpu_hours"] == pytest.approx(0.025)
    assert by_status["FAILED"]["hosts"] == ["n1"]


def test_what_a_training_computed_comes_to_the_frame(sweep: Sweep, store: Store) -> None:
    """Each number in its column; NaN of a run that an earlier version trained, and of one that is not trained."""
    told = Throughput(700, 1500, 0.25, 350.0, 61_000_000_000, 0.31)
    run: RunDir = store.run(sweep.runs[1].run_id)
    write_once(run.result_file, Result(2, 2, 2.0, throughput=told))
    rows_of(sweep, store)
    frame = analysis.load(store.sweep(sweep.name).path).set_index("run_id")
    assert frame.loc[run.run_id, list(plain(told))].to_dict() == plain(told)
    assert frame.drop(run.run_id)[list(plain(told))].isna().to_numpy().all()


def test_a_cpu_costs_no_gpu_hours(sweep: Sweep, store: Store) -> None:
    """What was asked for does not count where there was no GPU."""
    run: RunDir = store.run(sweep.runs[1].run_id)
    write_once(run.result_file, {"steps": 2, "max_steps": 2, "seconds": 60.0, "device": "cpu"})
    row = next(row for row in rows_of(sweep, store) if row["run_id"] == run.run_id)
    assert (row["gpus"], row["gpu_hours"]) == (0, 0.0)


def test_what_collect_writes_is_what_load_reads(sweep: Sweep, store: Store) -> None:
    """Every run and the base come back, with the run's own base, its cost and its scores."""
    rows = rows_of(sweep, store)
    frame = analysis.load(store.sweep(sweep.name).path)
    assert list(frame["run_id"]) == [row["run_id"] for row in rows]
    done = frame[(frame["status"] == "TRAINED") & (frame["kind"] == "run")].iloc[0]
    assert (done["base"], done["device"], done["gpu_hours"]) == ("key1", "NVIDIA H200", pytest.approx(0.05))
    assert done["golden_rewards"] == [0.25, 0.75]
    assert (done["address"], done["actions"]) == ("/there/tiny@a", {"1": 0.9, "2": 0.1})
    assert json.loads(store.sweep(sweep.name).results_file.read_text().splitlines()[0])["base"] == "key1"


def test_a_milestone_is_a_point_that_costs_its_evaluation(sweep: Sweep, store: Store) -> None:
    """RUN@STEP comes before its run, beside the same base, at its own address; GPU-hours are the run's."""
    run = store.run(sweep.runs[0].run_id)
    run.milestone(1).model.mkdir(parents=True)
    write_once(run.milestone(1).evaluation_file, EVALUATION | {"golden_reward": 0.4, "seconds": 18.0, "base": "key1"})
    write_once(run.milestone(1).revision_file, revision_at("/there/tiny@a-step1"))
    rows_of(sweep, store)
    frame = analysis.load(store.sweep(sweep.name).path)
    own = frame[frame["run_id"].str.startswith(run.run_id)]
    assert list(own["run_id"]) == [f"{run.run_id}@1", run.run_id]
    assert list(own["golden_reward"]) == [0.4, 0.5]
    assert list(own["setting"]) == ["step=1", "step=2"]
    assert list(own["base"]) == ["key1", "key1"]
    assert own["milestone"].tolist()[:1] == [1.0]
    assert own["gpu_hours"].fillna(0).tolist() == [0.0, pytest.approx(0.055)]
    assert list(own["address"]) == ["/there/tiny@a-step1", "/there/tiny@a"]


def test_a_run_whose_folder_was_removed_is_a_row_that_says_so(sweep: Sweep, store: Store) -> None:
    """The other rows are what they were, and the report names the run as one that has not started."""
    before, gone = rows_of(sweep, store), store.run(sweep.runs[1].run_id)
    shutil.rmtree(gone.path)
    after = rows_of(sweep, store)
    assert [row["run_id"] for row in after] == [row["run_id"] for row in before]
    assert [row for row in after if row["run_id"] != gone.run_id] == [r for r in before if r["run_id"] != gone.run_id]
    frame = analysis.load(store.sweep(sweep.name).path).set_index("run_id")
    assert frame.loc[gone.run_id, ["status", "loss_type", "beta"]].tolist() == ["NEW", "sigmoid", 0.5]


def test_a_base_is_found_before_the_run_itself_is_evaluated(sweep: Sweep, store: Store) -> None:
    """A run that has only a milestone's evaluation so far already has the untrained model beside it."""
    run = store.run(sweep.runs[1].run_id)
    run.milestone(1).model.mkdir(parents=True)
    write_once(store.cache("base", "key2") / "evaluation.json", EVALUATION | {"golden_reward": 0.2})
    write_once(run.milestone(1).evaluation_file, EVALUATION | {"base": "key2"})
    bases = [row["base"] for row in rows_of(sweep, store) if row["kind"] == "base"]
    assert sorted(bases) == ["key1", "key2"]


def test_a_base_of_two_versions_is_one_row(sweep: Sweep, store: Store) -> None:
    """Where one version recorded keys and sources that an earlier one did not, both runs name the same evaluation."""
    done, begun = (store.run(run.run_id) for run in sweep.runs[:2])
    write_once(begun.evaluation_file, EVALUATION | {"base": "key1"})
    older = begun.read_config()
    assert older["dataset"].pop("data_files", None) is None
    write_derived(begun.config_file, yaml.safe_dump(older))
    write_once(done.sources_file, {"model": {"weights": {"w": "aa"}}, "dataset": {}})
    whole = {"model": {"weights": {"w": "aa"}}, "dataset": {}}
    whole["inputs"] = {"dataset.path": {"path": "/p", "spelled": "p", "files": {"train.jsonl": "bb"}}}
    write_once(begun.sources_file, whole)
    (base,) = (row for row in rows_of(sweep, store) if row["kind"] == "base")
    assert (base["run_id"], base["base"]) == ("tiny-base", "key1")
    assert base["sources"]["inputs"] == {"dataset.path": {"train.jsonl": "bb"}}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frame = analysis.load(store.sweep(sweep.name).path)
    assert list(frame[frame["kind"] == "base"]["run_id"]) == ["tiny-base"]


def test_bases_that_differ_have_names_that_tell_them_apart(sweep: Sweep, store: Store) -> None:
    """Of one model evaluated in two ways there are two rows, and nothing advises to collect once more."""
    run = store.run(sweep.runs[1].run_id)
    write_once(run.evaluation_file, EVALUATION | {"base": "otherwise-evaluated"})
    write_once(store.cache("base", "otherwise-evaluated") / "evaluation.json", EVALUATION | {"golden_reward": 0.2})
    names = [row["run_id"] for row in rows_of(sweep, store) if row["kind"] == "base"]
    assert sorted(names) == ["tiny-base-key1", "tiny-base-otherwis"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        analysis.load(store.sweep(sweep.name).path)
