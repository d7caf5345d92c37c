"""launcher.worker.model.sampling and text: what a model writes, by what is asked for and where its messages end."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GPT2Config, GPT2LMHeadModel
from worker_fixtures import LORA, Configure

from launcher.config import Model, RunConfig
from launcher.store.files import read_fact
from launcher.store.output_folder import Store
from launcher.store.results import Evaluation
from launcher.worker.dataset.pairs import tokenise
from launcher.worker.evaluation.generations import sample
from launcher.worker.evaluation.mt_bench import TransformersWriter
from launcher.worker.evaluation.preference import base_key, evaluate, evaluate_base
from launcher.worker.model import sampling, weights
from launcher.worker.model.text import end_tokens
from launcher.worker.training.train import train
from launcher.worker.training.trainer import lora_config

PROMPTS = ["Story:", "A much longer opening"]
SETTINGS = [
    {"repetition_penalty": 1.5},
    {"min_p": 0.2},
    {"num_beams": 3},
    {"num_beams": 2, "num_return_sequences": 2},
    {"suppress_tokens": list(range(3, 100))},
    {"begin_suppress_tokens": list(range(3, 200))},
    {"bad_words_ids": [[token] for token in range(3, 100)]},
    {"no_repeat_ngram_size": 1},
    {"typical_p": 0.3},
    {"epsilon_cutoff": 0.02},
    {"forced_eos_token_id": 2},
    {"min_new_tokens": 9},
    {"exponential_decay_length_penalty": [1, 9.0]},
    {"sequence_bias": [[[70], 9.0]]},
    {"max_time": 0.0},
    {"stop_strings": ["e"]},
    {"return_dict_in_generate": True},
    {"temperature": 0.1, "top_k": 1, "top_p": 0.1, "max_new_tokens": 1},
]


def with_settings(config: RunConfig, store: Store, folder: Path, **own: Any) -> Model:
    """The tiny model, surer of its words, in a folder whose generation_config.json says this too."""
    module, tokens = weights.load(config.model, store), weights.tokenizer(config.model, store)
    module.save_pretrained(folder)
    tokens.save_pretrained(folder)
    said = {"eos_token_id": tokens.eos_token_id, "pad_token_id": tokens.pad_token_id}
    (folder / "generation_config.json").write_text(json.dumps(said | own))  # transformers would refuse some pairs
    return Model(name="own", path=str(folder), dtype="float32")


def drawn(module: torch.nn.Module, tokens: Any, prompts: list[str], length: int, seed: int, heat: float) -> list[str]:
    """Plain sampling with a seed, one forward over all of the text for each token."""
    encoded = tokens(prompts, return_tensors="pt", padding=True, padding_side="left")
    ids, mask = encoded["input_ids"], encoded["attention_mask"]
    begin, going_on = ids.shape[1], torch.ones(len(prompts), dtype=torch.long)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        for _ in range(length):
            places = (mask.cumsum(dim=1) - 1).clamp(min=0)
            logits = module(input_ids=ids, attention_mask=mask, position_ids=places, use_cache=False).logits[:, -1]
            new = torch.multinomial((logits / heat).softmax(dim=-1), 1).squeeze(1)
            new = torch.where(going_on.bool(), new, tokens.pad_token_id)
            ids, mask = torch.cat([ids, new[:, None]], 1), torch.cat([mask, torch.ones(len(prompts), 1).long()], 1)
            going_on = going_on * (new != tokens.eos_token_id)
            if not going_on.any():
                break
    return [tokens.decode(row, skip_special_tokens=True).strip() for row in ids[:, begin:]]


@pytest.mark.parametrize("own", SETTINGS, ids="-".join)
def test_a_models_own_settings_do_not_reach_its_sampling(
    configure: Configure, store: Store, tmp_path: Path, own: dict[str, Any]
) -> None:
    """What is written is what plain sampling draws, and what MT-Bench is answered is the likeliest; none is lost."""
    model = with_settings(configure(), store, tmp_path / "own", **own)
    module, tokens = weights.load_policy(model, store).eval(), weights.tokenizer(model, store)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        module.lm_head.weight.add_(torch.randn_like(module.lm_head.weight) * 0.5)
    said = module.generation_config.to_dict()
    settings = replace(configure().evaluation, generations=2, batch_size=2, max_new_tokens=8, temperature=0.7)
    texts = drawn(module, tokens, PROMPTS, 8, settings.seed, 0.7)
    question: list[Any] = [{"role": "user", "content": "q"}]
    likeliest = drawn(module, tokens, ["<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"], 8, 0, 1e-6)[0]
    for writer in (module, get_peft_model(copy.deepcopy(module), lora_config(LORA)).eval()):
        (batch,) = sample(writer, tokens, list(PROMPTS), settings)
        assert batch.texts == texts
        assert TransformersWriter(writer, tokens, 8).write([question], 0.0, 0)[0][0] == likeliest
        assert writer.generation_config.to_dict() == said


def test_each_batch_is_drawn_by_its_own_seed(configure: Configure, store: Store) -> None:
    """Written with others or not: its texts are what the process's own random numbers draw after that seed alone."""
    config = configure()
    module, tokens = weights.load_policy(config.model, store).eval(), weights.tokenizer(config.model, store)
    settings = replace(config.evaluation, generations=5, batch_size=2, max_new_tokens=8, temperature=0.7, seed=3)
    found = [batch.texts for batch in sample(module, tokens, list(PROMPTS), settings)]
    asked = (PROMPTS, PROMPTS, PROMPTS[:1])
    assert found == [drawn(module, tokens, each, 8, 3 + 2 * place, 0.7) for place, each in enumerate(asked)]


def test_a_base_that_was_written_by_its_own_settings_is_written_anew(
    configure: Configure, store: Store, tmp_path: Path
) -> None:
    """The cache's name says so, and is what it was for a model whose folder has no such settings."""
    plain = with_settings(configure(), store, tmp_path / "plain", temperature=0.6, top_p=0.9, do_sample=True)
    penal = with_settings(configure(), store, tmp_path / "penal", repetition_penalty=1.1)
    listed = with_settings(configure(), store, tmp_path / "listed", eos_token_id=[2, 70])
    assert sampling.identity(configure().model, store, listed=False) == {}
    assert sampling.identity(plain, store, listed=False) == {}
    assert sampling.identity(penal, store, listed=True) == {"own_settings": "left out"}
    assert sampling.identity(listed, store, listed=True) == {}
    assert sampling.identity(listed, store, listed=False) == {"ends": [2, 70]}
    keys = {base_key(configure(model=model), store) for model in (plain, penal, listed)}
    assert len(keys) == 3


# ------------------------------------------------------------------------------------------------ where a message ends

TURNS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def turn_end(configure: Configure, store: Store, tmp_path: Path) -> tuple[Model, int, int]:
    """A model whose every next token is "a" or <end_of_turn>, which only its template knows as an end; both tokens."""
    tokens = AutoTokenizer.from_pretrained(Path(with_settings(configure(), store, tmp_path / "base").path or ""))
    tokens.add_special_tokens({"additional_special_tokens": ["<end_of_turn>"]})
    tokens.chat_template = TURNS
    end, a = tokens.convert_tokens_to_ids("<end_of_turn>"), tokens("a")["input_ids"][0]
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 256, "tie_word_embeddings": False}
    module = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokens), bos_token_id=1, eos_token_id=2, **shape))
    with torch.no_grad():
        module.transformer.ln_f.weight.zero_()
        module.transformer.ln_f.bias.zero_()
        module.transformer.ln_f.bias[0] = 1
        module.lm_head.weight.zero_()
        module.lm_head.weight[end, 0], module.lm_head.weight[a, 0] = 20, 20.5
    module.save_pretrained(tmp_path / "turns")
    tokens.save_pretrained(tmp_path / "turns")
    return Model(name="turns", path=str(tmp_path / "turns"), dtype="float32"), end, a


def test_a_message_ends_where_the_template_ends_it(
    configure: Configure, store: Store, turn_end: tuple[Model, int, int], tmp_path: Path
) -> None:
    """Training data, sampling, the KL's mask and MT-Bench's answers know one and the same end."""
    model, end, a = turn_end
    module, tokens = weights.load(model, store), weights.tokenizer(model, store)
    assert end_tokens(module.generation_config, tokens) == sorted({tokens.eos_token_id, end})
    (tmp_path / "chat").mkdir()
    for split in ("train", "test"):
        row = '{"prompt": [{"role": "user", "content": "Q"}], "chosen": [{"role": "assistant", "content": "A"}], '
        row += '"rejected": [{"role": "assistant", "content": "B"}]}\n'
        (tmp_path / "chat" / f"{split}.jsonl").write_text(row * 8)
    config = configure(model=model, dataset__path=str(tmp_path / "chat"), dataset__golden_reward=None)
    assert end in tokenise(config, store).train[0]["chosen_ids"]
    settings = replace(config.evaluation, generations=400, batch_size=100, max_new_tokens=12)
    lengths = []
    for batch in sample(module, tokens, [[{"role": "user", "content": "Q"}]], settings):
        new = batch.ids[:, -batch.written.shape[1] :]
        for row, written, text in zip(new.tolist(), batch.written.tolist(), batch.texts, strict=True):
            own = row[: row.index(end) + 1] if end in row else row
            assert written == [place < len(own) for place in range(len(row))]
            assert text == "a" * own.count(a)
            lengths.append(len(own))
    # Each token is the end with probability p, and at most 12 are written: 2.64 on average, with a deviation of 2.1.
    p = 1 / (1 + math.exp(0.5))
    assert sum(lengths) / len(lengths) == pytest.approx((1 - (1 - p) ** 12) / p, abs=3 * 2.1 / math.sqrt(400))
    answers = TransformersWriter(module, tokens, 12).write([[{"role": "user", "content": "Q"}]] * 8, 1.0, 0)
    assert {finish for _, finish in answers} == {"stop"}
    assert all(set(text) <= {"a"} for text, _ in answers)


def test_each_way_to_say_where_a_message_ends(configure: Configure, store: Store) -> None:
    """The tokenizer, the model's list, the template; what a template writes in ordinary words is no end."""
    tokens = weights.tokenizer(configure().model, store)
    kept = tokens.chat_template
    try:
        for template, ends in (
            (None, [2, 7]),
            (kept, [2, 7]),
            ("{% for m in messages %}[{{ m.role }}] {{ m.content }} <|im_start|>\n{% endfor %}", [1, 2, 7]),
            ("{% for m in messages %}### {{ m.role }}: {{ m.content }}\n\n{% endfor %}", [2, 7]),
            ("{% for m in messages %}{{ m.content }} STOP<|im_start|>{% endfor %}", [2, 7]),
            ("{{ raise_exception('no') }}", [2, 7]),
        ):
            tokens.chat_template = template
            assert end_tokens(GenerationConfig(eos_token_id=[7, 2]), tokens) == ends
            assert end_tokens(GenerationConfig(eos_token_id=7), tokens) == ends
    finally:
        tokens.chat_template = kept


def test_a_policy_knows_the_ends_of_its_base(
    configure: Configure, store: Store, turn_end: tuple[Model, int, int]
) -> None:
    """Trained, and read from its folder: the same texts, at distance 0 where it has not moved."""
    config = configure(model=turn_end[0], trainer__max_steps=1, trainer__learning_rate=0.0)
    run = store.run("r")
    train(config, run, store, lambda: False)
    evaluate(config, run, store)
    found = read_fact(run.evaluation_file, Evaluation)
    assert found is not None
    assert found.samples == evaluate_base(config, store).samples
    assert found.kl == pytest.approx(0.0, abs=1e-6)
    saved = AutoModelForCausalLM.from_pretrained(run.model)
    tokens = weights.tokenizer(config.model, store)
    assert end_tokens(saved.generation_config, tokens) == sampling.identity(config.model, store, listed=False)["ends"]
