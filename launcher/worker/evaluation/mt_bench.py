"""MT-Bench's answers: a model's replies to the two turns of each question, written batch by batch.

Owns: `answers.jsonl` and `answered.json` of a run and of the untrained model; how a conversation is continued.
Must not know: judges, scores, what the questions are about.

A batch is appended when both its turns are written, and what is there is not written again: a job that is killed or
stopped goes on at the next batch. Batches and their seeds depend on the settings alone, so that the answers are those
of a job that was left in peace.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import PreTrainedTokenizerBase

from launcher.config import MTBench, RunConfig
from launcher.errors import ConfigError
from launcher.evaluation.mt_bench import Bench, Messages, Question, load
from launcher.machine.terminal import say
from launcher.store.files import Plain, append_line, content_key, read_lines, write_once
from launcher.store.model_marker import model_name
from launcher.store.output_folder import Store
from launcher.store.results import Answered
from launcher.store.run_folder import EvaluationDir, RunDir
from launcher.worker import headway
from launcher.worker.interruption import Interrupted, locked
from launcher.worker.model import base_model, precision, sampling, weights
from launcher.worker.model.sampling import continued, seeded
from launcher.worker.model.text import end_tokens, ended_text, rendered
from launcher.worker.training.train import final_model, forget_trained, load_trained

Answer = tuple[str, str]  # the text, and what ended it: stop, length, or "no room" behind the prompt
Opened = Callable[[], AbstractContextManager["Writer"]]


class Writer(Protocol):
    """Continues conversations."""

    def write(self, conversations: Sequence[Messages], temperature: float, seed: int) -> list[Answer]:
        """The next message of each conversation; the same for the same arguments."""


def answer(config: RunConfig, run: RunDir, store: Store, stop: Callable[[], bool]) -> None:
    """Answer what is missing, of the untrained model too (once for all runs with its settings).

    Raises:
        ConfigError: the questions are not there, or the tokenizer has no chat template.
        Interrupted: `stop` became true; the batches so far are kept.
    """
    bench, settings = load(config.evaluation.mt_bench), config.evaluation.mt_bench
    identity = _identity(config, bench, store)
    key = content_key(identity | {"base": base_model.fingerprint(config.model, store)})
    base = EvaluationDir(store.cache("benchmarks", f"mt_bench-{key}"))
    with locked(base.path, stop):
        _answer(base, bench, settings, identity | {"base": None}, lambda: _base_writer(config, store), stop)
    _answer(run.evaluations, bench, settings, identity | {"base": key}, lambda: _run_writer(config, run, store), stop)


def _identity(config: RunConfig, bench: Bench, store: Store) -> Plain:
    """What answers depend on, besides the model."""
    settings = config.evaluation.mt_bench
    return {
        "questions": bench.hashes["questions"],
        "max_new_tokens": settings.max_new_tokens,
        "batch_size": settings.batch_size,
        "seed": settings.seed,
        "dtype": str(precision.dtype_of(config.model)).removeprefix("torch."),
        "attn_implementation": config.model.attn_implementation,
        "backend": "vllm" if _has_vllm() else "transformers",
        **sampling.identity(config.model, store, listed=True),
    }


def _answer(
    directory: EvaluationDir, bench: Bench, settings: MTBench, fact: Plain, opened: Opened, stop: Callable[[], bool]
) -> None:
    """Write the answers of one model that are not there, then the fact that they all are."""
    if directory.answered_file.exists():
        return
    key, log, began = content_key({**fact, "base": None}), directory.answers_log, time.perf_counter()
    done = {line["question_id"] for line in read_lines(log) if line["settings"] == key}
    missing = [question for question in bench.questions if question.question_id not in done]
    if missing:
        with opened() as writer:
            for batch in _batches(bench.questions, settings.batch_size):
                if stop():
                    raise Interrupted(
                        f"stopped on request with {len(done)} of {len(bench.questions)} questions answered"
                    )
                for line in _answer_batch([q for q in batch if q in missing], batch[0], writer, settings.seed):
                    append_line(log, {"settings": key, **line, "time": time.time()})
                    done.add(line["question_id"])
                headway.note()
                say(f"mt_bench: {len(done)} of {len(bench.questions)} questions answered")
    model = model_name(RunDir(directory.path.parent)) if fact["base"] else None
    count, seconds = len(bench.questions), time.perf_counter() - began
    write_once(directory.answered_file, Answered(key, fact["base"], fact, count, seconds, time.time(), model))


def _batches(questions: Sequence[Question], size: int) -> Iterator[list[Question]]:
    """Questions of one temperature, as many as are answered at the same time."""
    ordered = sorted(questions, key=lambda question: question.temperature)
    for _, alike in itertools.groupby(ordered, key=lambda question: question.temperature):
        while batch := list(itertools.islice(alike, size)):
            yield batch


def _answer_batch(batch: Sequence[Question], first: Question, writer: Writer, seed: int) -> Iterator[Plain]:
    """Both turns of each question, the second behind the model's own answer to the first."""
    if not batch:
        return
    seed += first.question_id
    conversations: list[Messages] = [[] for _ in batch]
    answers: list[list[Answer]] = [[] for _ in batch]
    for turn in range(2):
        for conversation, question in zip(conversations, batch, strict=True):
            conversation.append({"role": "user", "content": question.turns[turn]})
        for index, written in enumerate(writer.write(conversations, first.temperature, seed + 1000 * turn)):
            conversations[index].append({"role": "assistant", "content": written[0]})
            answers[index].append(written)
    for question, both in zip(batch, answers, strict=True):
        named = {"question_id": question.question_id, "category": question.category}
        made = {"turns": [text for text, _ in both], "finish": [end for _, end in both]}
        yield {**named, **made, "temperature": question.temperature, "seed": seed}


# ------------------------------------------------------------------------------------------------ transformers


@dataclass(frozen=True)
class TransformersWriter:
    """Writes with a module in this process.

    Plain sampling at the temperature, greedy at 0: no top_k and no top_p, which vLLM would not have by default either.
    """

    module: Any
    tokenizer: PreTrainedTokenizerBase
    max_new_tokens: int

    def write(self, conversations: Sequence[Messages], temperature: float, seed: int) -> list[Answer]:
        """Continue those behind whose prompt the model's context has room; the others stay empty."""
        prompts = [rendered(conversation, self.tokenizer) for conversation in conversations]
        lengths = [len(ids) for ids in self.tokenizer(prompts, add_special_tokens=False)["input_ids"]]
        room = self._context() - torch.tensor(lengths)
        fitting = [prompt for prompt, left in zip(prompts, room.tolist(), strict=True) if left > 0]
        limit = min(self.max_new_tokens, int(room[room > 0].min())) if fitting else 0
        written = iter(self._generate(fitting, temperature, seed, limit) if fitting else [])
        return [next(written) if left > 0 else ("", "no room") for left in room.tolist()]

    def _context(self) -> int:
        return int(getattr(self.module.config, "max_position_embeddings", None) or 2**31)

    def _generate(self, prompts: list[str], temperature: float, seed: int, limit: int) -> list[Answer]:
        ends = end_tokens(self.module.generation_config, self.tokenizer)
        with seeded(self.module, seed):
            _, _, new = continued(
                self.module, self.tokenizer, prompts, ends, temperature=temperature, max_new_tokens=limit
            )
        return [ended_text(tokens, ends, self.tokenizer) for tokens in new.tolist()]


def _chat_tokenizer(config: RunConfig, store: Store) -> PreTrainedTokenizerBase:
    tokenizer = weights.tokenizer(config.model, store)
    if not tokenizer.chat_template:
        raise ConfigError(
            "model.name",
            config.model.name,
            "its tokenizer has no chat template, which mt_bench needs; take a model "
            "that has one, or evaluation.benchmarks without mt_bench",
        )
    return tokenizer


@contextmanager
def _base_writer(config: RunConfig, store: Store) -> Iterator[Writer]:
    tokenizer, length = _chat_tokenizer(config, store), config.evaluation.mt_bench.max_new_tokens
    say("mt_bench of the untrained model (once)")
    if _has_vllm():
        yield VllmWriter.of(config, base_model.ensure_base(config.model, store), None, store)
        return
    with weights.in_use(weights.load(config.model, store)) as module:
        yield TransformersWriter(module, tokenizer, length)


@contextmanager
def _run_writer(config: RunConfig, run: RunDir, store: Store) -> Iterator[Writer]:
    tokenizer, length = _chat_tokenizer(config, store), config.evaluation.mt_bench.max_new_tokens
    if _has_vllm():
        model = final_model(run)
        adapter = None if config.trainer.lora is None else model
        folder = base_model.ensure_base(config.model, store) if adapter else str(model)
        yield VllmWriter.of(config, folder, adapter, store)
        return
    module = load_trained(config, run, store).model
    yield TransformersWriter(module.eval(), tokenizer, length)


# ------------------------------------------------------------------------------------------------ vLLM


def _has_vllm() -> bool:
    return torch.cuda.is_available() and importlib.util.find_spec("vllm") is not None


@dataclass(frozen=True)
class VllmWriter:
    """Writes with vLLM, which batches by itself and takes a LoRA adapter as it is."""

    vllm: Any
    engine: Any
    adapter: Any
    chat_template: str | None
    max_new_tokens: int
    ends: list[int]

    @classmethod
    def of(cls, config: RunConfig, folder: str, adapter: Path | None, store: Store) -> VllmWriter:
        """The weights in `folder`, with the adapter where there is one; what this process has trained makes room."""
        forget_trained()
        vllm = importlib.import_module("vllm")
        model, lora = config.model, config.trainer.lora
        engine = vllm.LLM(
            model=folder,
            dtype=str(precision.dtype_of(model)).removeprefix("torch."),
            seed=config.evaluation.mt_bench.seed,
            trust_remote_code=model.trust_remote_code,
            generation_config="vllm",  # not the model's own top_k and top_p
            **({"enable_lora": True, "max_lora_rank": lora.r} if adapter and lora else {}),
        )
        lora_request = importlib.import_module("vllm.lora.request").LoRARequest
        request = lora_request("run", 1, str(adapter)) if adapter else None
        ends = end_tokens(weights.generation_settings(model, store), weights.tokenizer(model, store))
        return cls(vllm, engine, request, model.chat_template, config.evaluation.mt_bench.max_new_tokens, ends)

    def write(self, conversations: Sequence[Messages], temperature: float, seed: int) -> list[Answer]:
        """Continue all of them at once."""
        limits = {"max_tokens": self.max_new_tokens, "stop_token_ids": self.ends}
        asked = self.vllm.SamplingParams(temperature=temperature, seed=seed, **limits)
        given = {"lora_request": self.adapter, "chat_template": self.chat_template}  # None: the tokenizer's own
        made = self.engine.chat(list(conversations), asked, use_tqdm=False, **given)
        outputs = [request.outputs[0] for request in made]
        return [(output.text.strip(), str(output.finish_reason)) for output in outputs]
