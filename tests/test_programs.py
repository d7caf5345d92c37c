"""launcher.worker.programs: benchmarks that another program computes.

lm-evaluation-harness itself is not run here (it brings a second set of data libraries): a package of its name takes
the arguments of its 0.4.13 and writes results of its form.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest
from worker_fixtures import LORA, Configure

from launcher.config import Command, ConfigError, LmEval, RunConfig
from launcher.files import read_fact
from launcher.store import EvaluationDir, RunDir, Store
from launcher.worker import programs
from launcher.worker.interruption import Interrupted
from launcher.worker.programs import ProgramFailed, Weights, lm_eval_argv, lm_eval_scores, numbers_in, run_program
from launcher.worker.training import train

SCRIPT = """
import json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
print("loading", file=sys.stderr)
names = sorted(path.name for path in folder.iterdir())
print("a library says hello")
print(json.dumps({"files": len(names), "has": {"adapter": float("adapter_config.json" in names)}, "name": "x"}))
"""
LM_EVAL = """
import argparse, json, pathlib
parser = argparse.ArgumentParser()
for name in ("model", "model_args", "tasks", "batch_size", "output_path", "num_fewshot", "limit", "seed"):
    parser.add_argument("--" + name)
parser.add_argument("--apply_chat_template", action="store_true")
options = vars(parser.parse_args())
folder = pathlib.Path(options["output_path"]) / "some__model"
folder.mkdir()
results = {"arc_easy": {"alias": "arc_easy", "acc,none": 0.5, "acc_stderr,none": 0.1, "sample_len": 9},
           "ifeval": {"prompt_level_strict_acc,none": 0.25, "x_stderr,none": "N/A"}}
whole = {"results": results, "versions": {"arc_easy": 1.0}, "seen": options}
(folder / "results_2026-11-21T06-33-51.000001.json").write_text(json.dumps(whole))
"""


def never() -> bool:
    return False


def trained(config: RunConfig, store: Store) -> RunDir:
    run = store.run("r")
    train(config, run, store, never)
    return run


@pytest.mark.parametrize("lora", [None, LORA])
def test_a_command_reads_the_model_and_prints_json(
    configure: Configure, store: Store, tmp_path: Path, lora: object
) -> None:
    """Its numbers are the scores of the run and, by its own folder, of the untrained model; what it printed is kept."""
    (tmp_path / "score.py").write_text(SCRIPT)
    command = Command(argv=[sys.executable, str(tmp_path / "score.py"), "{model}"])
    config = configure(trainer__max_steps=1, trainer__lora=lora, evaluation__command=command)
    run = trained(config, store)
    programs.measure("command", config, run, store, never)
    fact = read_fact(run.evaluations.result_file("command")) or {}
    assert fact["scores"] == {"files": len(list(run.model.iterdir())), "has/adapter": float(lora is not None)}
    assert fact["printed"].startswith("a library says hello\n{")
    assert fact["output"]["name"] == "x"
    base = EvaluationDir(store.cache("benchmarks", f"command-{fact['base']}"))
    assert (read_fact(base.result_file("command")) or {})["scores"]["has/adapter"] == 0.0
    before = base.result_file("command").stat().st_mtime_ns
    run.evaluations.result_file("command").unlink()
    programs.measure("command", config, run, store, never)
    assert base.result_file("command").stat().st_mtime_ns == before


def test_lm_eval_is_run_and_read(
    configure: Configure, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The harness gets model, adapter, tasks and settings; its metrics become scores, its descriptions do not."""
    package = tmp_path / "site" / "lm_eval"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(LM_EVAL)
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setenv("PYTHONPATH", f"{package.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    tasks = LmEval(tasks=["arc_easy", "ifeval"], num_fewshot=3, limit=5)
    config = configure(trainer__max_steps=1, trainer__lora=LORA, evaluation__lm_eval=tasks)
    run = trained(config, store)
    programs.measure("lm_eval", config, run, store, never)
    fact = read_fact(run.evaluations.result_file("lm_eval")) or {}
    scores = {"arc_easy/acc": 0.5, "arc_easy/acc_stderr": 0.1, "ifeval/prompt_level_strict_acc": 0.25}
    assert fact["scores"] == scores
    assert fact["versions"] == {"arc_easy": 1.0}
    (file,) = run.evaluations.folder("lm_eval").rglob("results_*.json")
    seen = json.loads(file.read_text())["seen"]
    assert (seen["tasks"], seen["num_fewshot"], seen["limit"]) == ("arc_easy,ifeval", "3", "5")
    assert seen["apply_chat_template"] is True
    assert f"peft={run.model}" in seen["model_args"]


def test_lm_eval_arguments() -> None:
    """A Hub model's revision is given, a folder's is not; a comma, which would end an argument, is refused."""
    settings = LmEval(tasks=["a"], apply_chat_template=False)
    argv = lm_eval_argv(settings, Weights("org/name", "abc", None), "bfloat16", 7, Path("out"))
    assert argv[argv.index("--model_args") + 1] == "pretrained=org/name,dtype=bfloat16,revision=abc"
    assert "--apply_chat_template" not in argv
    assert "--limit" not in argv
    with pytest.raises(ConfigError, match=r"output_dir: lm_eval takes no comma in a path, and peft is /a,b"):
        lm_eval_argv(settings, Weights("org/name", None, Path("/a,b")), "float32", 0, Path("out"))


def test_lm_eval_that_is_absent_is_told(configure: Configure, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line with the remedy."""
    monkeypatch.setattr(programs, "package_dir", lambda name: None if name == "lm_eval" else Path(name))
    config = configure(trainer__max_steps=1, evaluation__lm_eval=LmEval(tasks=["a"]))
    with pytest.raises(ConfigError, match=r"not installed here; pip install lm_eval\[hf\]"):
        programs.measure("lm_eval", config, trained(config, store), store, never)


def test_filters_of_lm_eval_stay_in_the_name() -> None:
    """Only the filter `none` is no part of a metric's name."""
    found = lm_eval_scores({"gsm8k": {"exact_match,strict-match": 0.1, "exact_match,flexible-extract": 0.2}})
    assert found == {"gsm8k/exact_match,strict-match": 0.1, "gsm8k/exact_match,flexible-extract": 0.2}


def test_only_finite_numbers_are_scores() -> None:
    """Neither texts, truths, lists nor infinities."""
    value = {"a": 1, "b": {"c": 0.5, "d": "x"}, "e": True, "f": [1], "g": float("inf"), "h": float("nan")}
    assert numbers_in(value) == {"a": 1.0, "b/c": 0.5}


@pytest.mark.parametrize(
    ("program", "minutes", "message"),
    [
        ("raise SystemExit(3)", 1.0, "ended with exit code 3"),
        ("import time; time.sleep(60)", 0.01, r"took longer than the 0\.01 minutes"),
    ],
)
def test_a_program_that_fails(tmp_path: Path, program: str, minutes: float, message: str) -> None:
    """Is named with the reason."""
    with pytest.raises(ProgramFailed, match=message):
        run_program([sys.executable, "-c", program], minutes, tmp_path / "out", never)
    with pytest.raises(ProgramFailed, match=r"/no/such: cannot be started \(No such file"):
        run_program(["/no/such"], 1.0, tmp_path / "out", never)


def test_what_prints_no_object_is_refused(configure: Configure, store: Store) -> None:
    """The command, and where all that it printed lies, are named."""
    command = Command(argv=[sys.executable, "-c", "print([1])", "{model}"])
    config = configure(trainer__max_steps=1, evaluation__command=command)
    with pytest.raises(ProgramFailed, match=r"printed no JSON object as the whole, or the last line, of .*stdout\.txt"):
        programs.measure("command", config, trained(config, store), store, never)


def test_a_stopped_program_leaves_no_child(tmp_path: Path) -> None:
    """Asked to stop, the program's whole session ends, whatever it has started."""
    pid_file = tmp_path / "pid"
    child = f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with pytest.raises(Interrupted):
        run_program(
            [sys.executable, "-c", parent],
            1.0,
            tmp_path / "out",
            lambda: bool(pid_file.exists() and pid_file.read_text()),
        )
    deadline = time.monotonic() + 10
    stat = Path(f"/proc/{pid_file.read_text()}/stat")
    while stat.exists() and ") Z" not in stat.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not stat.exists() or ") Z" in stat.read_text()
