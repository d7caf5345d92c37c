"""launcher.worker.evaluation.mt_bench: a real (tiny) model answers questions, in batches that survive a kill."""

from __future__ import annotations

import copy
import importlib
import multiprocessing
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel
from test_mt_bench import write_bench
from transformers import AutoModelForCausalLM
from waiting import LONGEST_WAIT, eventually
from worker_fixtures import LORA, Configure

from launcher.config import Lora, MTBench, RunConfig
from launcher.errors import ConfigError
from launcher.evaluation import mt_bench
from launcher.store.files import read_fact, read_lines
from launcher.store.output_folder import Store
from launcher.store.run_folder import EvaluationDir, RunDir
from launcher.store.work_done import lacking
from launcher.worker.dataset.completions import Messages
from launcher.worker.evaluation import mt_bench as answers
from launcher.worker.evaluation.mt_bench import TransformersWriter, answer
from launcher.worker.interruption import Interrupted
from launcher.worker.model import base_model, weights
from launcher.worker.training.train import train


@pytest.fixture
def settings(tmp_path: Path) -> MTBench:
    mt_bench.read_bench.cache_clear()
    return MTBench(source=str(write_bench(tmp_path / "bench")), reference="ours", max_new_tokens=6, batch_size=2)


@pytest.fixture
def config(configure: Configure, settings: MTBench) -> RunConfig:
    return configure(trainer__max_steps=1, evaluation__mt_bench=settings, evaluation__benchmarks=["mt_bench"])


def trained(config: RunConfig, store: Store) -> RunDir:
    run = store.run("r")
    train(config, run, store, lambda: False)
    return run


def never() -> bool:
    return False


def base_of(run: RunDir, store: Store) -> EvaluationDir:
    fact = read_fact(run.evaluations.answered_file) or {}
    return EvaluationDir(store.cache("benchmarks", f"mt_bench-{fact['base']}"))


def texts(directory: EvaluationDir) -> dict[int, list[str]]:
    return {line["question_id"]: line["turns"] for line in read_lines(directory.answers_log)}


@pytest.mark.parametrize("lora", [None, LORA])
def test_run_and_untrained_model_answer_both_turns(config: RunConfig, store: Store, lora: object) -> None:
    """Every question has two answers from the run and from the untrained model, which answers once for all runs."""
    config = replace(config, trainer=replace(config.trainer, lora=lora))
    run = trained(config, store)
    assert lacking(run, ["mt_bench"]) == ["mt_bench"]
    answer(config, run, store, never)
    assert lacking(run, ["mt_bench"]) == []
    for directory in (run.evaluations, base_of(run, store)):
        lines = read_lines(directory.answers_log)
        assert sorted(line["question_id"] for line in lines) == [1, 2, 3]
        assert all(len(line["turns"]) == len(line["finish"]) == 2 for line in lines)
        assert {line["question_id"]: line["temperature"] for line in lines} == {1: 0.7, 2: 0.7, 3: 0.0}
    before = base_of(run, store).answers_log.read_bytes()
    other = store.run("other")
    train(replace(config, seed=2), other, store, never)
    answer(replace(config, seed=2), other, store, never)
    assert base_of(other, store).answers_log.read_bytes() == before


def greedy(module: torch.nn.Module, tokens: Any, prompt: str, length: int) -> str:
    """The likeliest continuation, one whole forward a token."""
    ids = tokens(prompt, add_special_tokens=False)["input_ids"]
    new: list[int] = []
    while len(new) < length and tokens.eos_token_id not in new:
        with torch.no_grad():
            new.append(int(module(torch.tensor([ids + new])).logits[0, -1].argmax()))
    return str(tokens.decode(new, skip_special_tokens=True).strip())


@pytest.mark.parametrize("lora", [None, LORA])
def test_greedy_answers_are_the_argmax_through_the_chat_template(
    config: RunConfig, store: Store, lora: Lora | None
) -> None:
    """At temperature 0 each token is the likeliest one behind the tokenizer's own template; computed without generate.

    The second turn stands behind the model's own first answer; the run's answers are those of the weights in its
    folder, loaded here anew, and not the untrained model's.
    """
    config = replace(config, trainer=replace(config.trainer, lora=lora, learning_rate=0.05, max_steps=4))
    run = trained(config, store)
    answer(config, run, store, never)
    tokens, base = weights.tokenizer(config.model, store), weights.load(config.model, store)
    saved = copy.deepcopy(base) if lora else AutoModelForCausalLM.from_pretrained(run.model, dtype=torch.float32)
    policy = PeftModel.from_pretrained(saved, str(run.model)) if lora else saved
    for directory, module in ((base_of(run, store), base), (run.evaluations, policy.eval())):
        prompt = "<|im_start|>user\nq3<|im_end|>\n<|im_start|>assistant\n"
        first, second = texts(directory)[3]
        assert first == greedy(module, tokens, prompt, 6)
        prompt += f"{first}<|im_end|>\n<|im_start|>user\nr3<|im_end|>\n<|im_start|>assistant\n"
        assert second == greedy(module, tokens, prompt, 6)
    assert texts(run.evaluations)[3] != texts(base_of(run, store))[3]


def test_a_stopped_job_goes_on_at_the_next_batch(
    config: RunConfig, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after a batch, the next job writes only the rest, and all is as if it had never been stopped."""
    run = trained(config, store)
    answer(config, run, store, never)
    peaceful = texts(run.evaluations)
    for file in (run.evaluations.answers_log, run.evaluations.answered_file):
        file.unlink()
    asked: list[int] = []
    write = TransformersWriter.write

    def counting(self: TransformersWriter, conversations: Any, *rest: Any) -> Any:
        asked.append(len(conversations))
        return write(self, conversations, *rest)

    monkeypatch.setattr(TransformersWriter, "write", counting)
    with pytest.raises(Interrupted, match="1 of 3 questions answered"):
        answer(config, run, store, lambda: bool(asked))
    assert lacking(run, ["mt_bench"]) == ["mt_bench"]
    with run.evaluations.answers_log.open("a") as file:
        file.write('{"settings": "to')  # torn by a kill
    answer(config, run, store, never)
    assert asked == [1, 1, 2, 2]
    assert texts(run.evaluations) == peaceful
    answer(config, run, store, never)
    assert asked == [1, 1, 2, 2]


def test_kill_9_while_answering(config: RunConfig, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job killed after its first batch has lost nothing of it: the next one writes the others, each once."""
    run, log = trained(config, store), store.run("r").evaluations.answers_log
    write = TransformersWriter.write

    def hanging(self: TransformersWriter, conversations: Any, *rest: Any) -> Any:
        while log.exists():
            time.sleep(0.05)
        return write(self, conversations, *rest)

    monkeypatch.setattr(TransformersWriter, "write", hanging)
    job = multiprocessing.get_context("fork").Process(target=answer, args=(config, run, store, never))
    job.start()
    assert eventually(lambda: read_lines(log))
    job.kill()
    job.join(LONGEST_WAIT)
    assert job.exitcode == -signal.SIGKILL
    first = log.read_text()
    monkeypatch.setattr(TransformersWriter, "write", write)
    answer(config, run, store, never)
    assert log.read_text().startswith(first)
    assert [line["question_id"] for line in read_lines(log)] == [3, 1, 2]


def test_other_settings_ask_for_other_answers(config: RunConfig, store: Store, settings: MTBench) -> None:
    """Answers written for other settings are not taken for these."""
    run = trained(config, store)
    answer(config, run, store, never)
    first = base_of(run, store)
    run.evaluations.answered_file.unlink()
    longer = replace(config, evaluation=replace(config.evaluation, mt_bench=replace(settings, max_new_tokens=7)))
    answer(longer, run, store, never)
    assert len(read_lines(run.evaluations.answers_log)) == 6
    assert base_of(run, store) != first


def written_greedily(writer: TransformersWriter, conversation: Messages) -> tuple[str, str]:
    """The likeliest token after another, until one ends the message or the context of 256 is full."""
    tokens = writer.tokenizer
    ids = tokens.apply_chat_template(conversation, add_generation_prompt=True)["input_ids"]
    asked = len(ids)
    with torch.no_grad():
        while len(ids) < 256 and ids[-1] != tokens.eos_token_id:
            ids.append(int(writer.module(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    text = tokens.decode(ids[asked:], skip_special_tokens=True).strip()
    return text, "stop" if ids[-1] == tokens.eos_token_id else "length"


def test_a_prompt_that_fills_the_context_has_no_answer(configure: Configure, store: Store) -> None:
    """It stays empty and says why; another beside it is answered within the context that is left."""
    config = configure()
    writer = TransformersWriter(weights.load(config.model, store), weights.tokenizer(config.model, store), 400)
    long, short = ([{"role": "user", "content": text}] for text in ("word " * 400, "word"))
    full, answered = writer.write([long, short], 0.0, 0)
    assert full == ("", "no room")
    assert answered == written_greedily(writer, short) == writer.write([short], 0.0, 0)[0]
    endless = [{"role": "user", "content": "A long story"}]
    (cut,) = writer.write([endless], 0.0, 0)
    assert (cut, cut[1], answered[1]) == (written_greedily(writer, endless), "length", "stop")


def test_a_model_without_a_chat_template_is_told(
    config: RunConfig, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line that names the model and the way out."""
    run = trained(config, store)
    monkeypatch.setattr(weights.tokenizer(config.model, store), "chat_template", None)
    with pytest.raises(ConfigError, match=r"model\.name=tiny: its tokenizer has no chat template, which mt_bench"):
        answer(config, run, store, never)


def test_vllm_writes_where_it_is_there(config: RunConfig, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The calls are those of vLLM's documented interface, which is not run here: weights, adapter, chat, sampling."""
    calls: list[dict[str, Any]] = []

    class LLM:
        def __init__(self, **options: Any) -> None:
            calls.append(options)

        def chat(self, conversations: list[Any], sampling: Any, **options: Any) -> list[Any]:
            calls.append({"sampling": sampling, **options})
            return [
                SimpleNamespace(outputs=[SimpleNamespace(text=" hi ", finish_reason="stop")]) for _ in conversations
            ]

    requests = ModuleType("vllm.lora.request")
    fake = ModuleType("vllm")
    fake.LLM, fake.SamplingParams = LLM, dict  # type: ignore[attr-defined]
    requests.LoRARequest = lambda *arguments: arguments  # type: ignore[attr-defined]
    for name, module in (("vllm", fake), ("vllm.lora", ModuleType("vllm.lora")), ("vllm.lora.request", requests)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(answers, "_has_vllm", lambda: True)
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    model = replace(config.model, chat_template=template)
    config = replace(config, model=model, trainer=replace(config.trainer, lora=LORA))
    run = trained(config, store)
    answer(config, run, store, never)
    assert {call["chat_template"] for call in calls if "sampling" in call} == {template}  # the base's is another
    assert importlib.import_module("vllm") is fake
    loaded = [call for call in calls if "model" in call]
    folder = base_model.ensure_base(config.model, store)
    assert [call["model"] for call in loaded] == [folder, folder]
    assert [call.get("max_lora_rank") for call in loaded] == [None, LORA.r]
    assert calls[-1]["lora_request"] == ("run", 1, str(run.model))
    assert {call["sampling"]["temperature"] for call in calls if "sampling" in call} == {0.0, 0.7}
    assert texts(run.evaluations)[1] == ["hi", "hi"]
