"""launcher.worker.evaluation.programs: benchmarks that another program computes, lm-evaluation-harness too."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from waiting import eventually
from worker_fixtures import LORA, WORDS, Configure

from launcher.config import Command, LmEval, RunConfig
from launcher.errors import ConfigError
from launcher.store.files import read_fact
from launcher.store.output_folder import Store
from launcher.store.results import BENCHMARKS
from launcher.store.run_folder import EvaluationDir, RunDir
from launcher.worker.evaluation import programs
from launcher.worker.evaluation.programs import (
    ProgramFailed,
    Weights,
    lm_eval_argv,
    lm_eval_scores,
    numbers_in,
    run_program,
)
from launcher.worker.interruption import Interrupted
from launcher.worker.model import base_model
from launcher.worker.training.train import train

SCRIPT = """
import json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
print("loading", file=sys.stderr)
names = sorted(path.name for path in folder.iterdir())
print("a library says hello")
print(json.dumps({"files": len(names), "has": {"adapter": float("adapter_config.json" in names)}, "name": "x"}))
"""
# A task of lm-evaluation-harness: exp of minus the mean log-probability of the stories' words.
STORIES = """
task: stories
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
test_split: test
output_type: loglikelihood
doc_to_text: "Story: the"
doc_to_target: " {{word}}"
metric_list: [{metric: perplexity, aggregation: perplexity, higher_is_better: false}]
metadata: {version: 2.0}
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


@pytest.mark.long
def test_lm_eval_measures_the_adapter_and_the_untrained_model(
    configure: Configure, store: Store, tmp_path: Path
) -> None:
    """The harness's perplexity of a task of ours is, for both, the one that plain transformers and peft give."""
    words = WORDS[:10]
    (tmp_path / "stories.jsonl").write_text("".join(json.dumps({"word": word}) + "\n" for word in words))
    task = tmp_path / "stories.yaml"
    task.write_text(STORIES % (tmp_path / "stories.jsonl"))
    tasks = LmEval(tasks=[str(task)], limit=8, apply_chat_template=False)
    rate = {"trainer__learning_rate": 0.1, "trainer__max_steps": 3}  # far from the untrained model
    config = configure(trainer__lora=LORA, evaluation__lm_eval=tasks, **rate)
    run = trained(config, store)
    programs.measure("lm_eval", config, run, store, never)
    fact = read_fact(run.evaluations.result_file("lm_eval")) or {}
    base = read_fact(EvaluationDir(store.cache("benchmarks", f"lm_eval-{fact['base']}")).result_file("lm_eval")) or {}
    untrained = AutoModelForCausalLM.from_pretrained(base_model.ensure_base(config.model, store), dtype="float32")
    tokens = AutoTokenizer.from_pretrained(run.model)
    expected = [perplexity(untrained, tokens, words[:8])]
    expected.append(perplexity(PeftModel.from_pretrained(untrained, run.model), tokens, words[:8]))
    measured = [result["scores"]["stories/perplexity"] for result in (base, fact)]
    assert measured == pytest.approx(expected, rel=1e-4)
    assert abs(expected[1] / expected[0] - 1) > 0.01
    assert (fact["versions"], fact["n-samples"]) == ({"stories": 2.0}, {"stories": {"original": 10, "effective": 8}})


@torch.no_grad()
def perplexity(model: Any, tokens: Any, words: Sequence[str]) -> float:
    """That of the words behind "Story: the "."""
    prompt, logs = tokens("Story: the", add_special_tokens=False)["input_ids"], []
    for word in words:
        ids = tokens(f"Story: the {word}", add_special_tokens=False)["input_ids"]
        log_probs = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        chosen = log_probs[torch.arange(len(ids) - 1), ids[1:]]
        logs.append(float(chosen[len(prompt) - 1 :].sum()))
    return math.exp(-sum(logs) / len(logs))


def test_every_benchmark_has_somebody_who_computes_it() -> None:
    """A program for each but the two that are ours."""
    assert BENCHMARKS.keys() == {"preference", "mt_bench", *programs.PROGRAMS}


def test_lm_eval_arguments() -> None:
    """The folder and the adapter on top of it are given; a comma, which would end an argument, is refused."""
    settings = LmEval(tasks=["a"], apply_chat_template=False)
    argv = lm_eval_argv(settings, Weights("/base", Path("/adapter")), "bfloat16", 7, Path("out"))
    assert argv[argv.index("--model_args") + 1] == "pretrained=/base,dtype=bfloat16,peft=/adapter"
    assert "--apply_chat_template" not in argv
    assert "--limit" not in argv
    with pytest.raises(ConfigError, match=r"output_dir: lm_eval takes no comma in a path, and peft is /a,b"):
        lm_eval_argv(settings, Weights("/base", Path("/a,b")), "float32", 0, Path("out"))


def test_a_chat_template_of_the_config_is_that_of_lm_eval_too(configure: Configure, store: Store) -> None:
    """It is in the run's tokenizer, not in the base model's: that tokenizer is for both."""
    config = configure(trainer__max_steps=1, trainer__lora=LORA, model__chat_template="{{ messages }}")
    run = trained(config, store)
    for weights in programs.weights_of(config, run, store):
        argv = lm_eval_argv(LmEval(tasks=["a"]), weights, "float32", 7, Path("out"))
        assert f"tokenizer={run.model}" in argv[argv.index("--model_args") + 1].split(",")
    assert AutoTokenizer.from_pretrained(run.model).chat_template == "{{ messages }}"
    plain = replace(config, model=replace(config.model, chat_template=None))
    assert [weights.tokenizer for weights in programs.weights_of(plain, run, store)] == [None, None]


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
        ("import time; time.sleep(600)", 0.01, r"took longer than the 0\.01 minutes"),
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


@pytest.mark.parametrize(
    ("printed", "message"),
    [
        ('{"quality": NaN}', "printed quality: nan, which is no score; it must be a finite number"),
        ('{"a": 1, "b": {"c": -Infinity}}', "printed b/c: -inf, which is no score"),
        ('{"name": "x"}', "printed 0 numbers as scores; it must be 1 to 1000"),
        (json.dumps({str(n): n for n in range(1001)}), "printed 1001 numbers as scores"),
    ],
)
def test_what_is_no_score_is_a_failure(printed: str, message: str) -> None:
    """One clear line; a NaN that is stored without a word would be a run that looks measured."""
    with pytest.raises(ProgramFailed, match=f"score.py: {re.escape(message)}"):
        programs.scores_in(json.loads(printed), "score.py")


def test_of_what_a_program_prints_the_end_is_kept(tmp_path: Path) -> None:
    """Its scores are found behind any amount of output, and of that a MiB stays, also where it fails."""
    chatter = (
        "import sys; [sys.stdout.write('x' * 1023 + chr(10)) for _ in range(5000)]; print('{\"a\": 1}'); sys.exit({})"
    )
    printed = run_program([sys.executable, "-c", chatter.replace("{}", "0")], 1.0, tmp_path / "out", never)
    assert programs._object_in(printed) == {"a": 1}
    assert (tmp_path / "out").stat().st_size == 1 << 20
    assert (tmp_path / "out").read_text().endswith('{"a": 1}\n')
    with pytest.raises(ProgramFailed, match="exit code 3"):
        run_program([sys.executable, "-c", chatter.replace("{}", "3")], 1.0, tmp_path / "out", never)
    assert (tmp_path / "out").stat().st_size == 1 << 20


def test_a_stopped_program_leaves_no_child(tmp_path: Path) -> None:
    """Asked to stop, the program's whole session ends, whatever it has started."""
    pid_file = tmp_path / "pid"
    child = f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with pytest.raises(Interrupted):
        run_program(
            [sys.executable, "-c", parent],
            60.0,
            tmp_path / "out",
            lambda: bool(pid_file.exists() and pid_file.read_text()),
        )
    stat = Path(f"/proc/{pid_file.read_text()}/stat")
    assert eventually(lambda: not stat.exists() or ") Z" in stat.read_text())


RESUMING = """
import json, pathlib, sys
kept = pathlib.Path(sys.argv[2]) / "lives"
lives = int(kept.read_text()) + 1 if kept.exists() else 1
kept.write_text(str(lives))
if lives < 2:
    sys.exit("cut off")
print(json.dumps({"lives": lives}))
"""


def test_a_command_goes_on_in_its_folder_while_it_measures_the_same(configure: Configure, store: Store) -> None:
    """What it keeps in {folder} is there in its next life, not for another model of the run, and gone at the end."""
    argv = [sys.executable, "-c", RESUMING, "{model}", "{folder}"]
    config = configure(trainer__max_steps=1, evaluation__command=Command(argv=argv, minutes=1.0))
    run = trained(config, store)

    def measure() -> None:
        programs.measure("command", config, run, store, never)

    with pytest.raises(ProgramFailed, match="exit code 1"):
        measure()  # the untrained model's first life
    with pytest.raises(ProgramFailed, match="exit code 1"):
        measure()  # its second, then the trained one's first
    result = read_fact(run.result_file) or {}
    run.result_file.write_text(json.dumps({**result, "ended": 0.0}))
    with pytest.raises(ProgramFailed, match="exit code 1"):
        measure()  # another model's first
    measure()
    assert (read_fact(run.evaluations.result_file("command")) or {})["scores"] == {"lives": 2.0}
    assert not (run.evaluations.folder("command") / programs.RESUMED).exists()
