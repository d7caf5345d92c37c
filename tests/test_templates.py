"""Chat templates: what they render, what is trained on, and those that cannot be trained with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase
from worker_fixtures import Configure

from launcher.config import Dataset, Model
from launcher.dataset.local_files import check_rows
from launcher.errors import ConfigError
from launcher.planning.compose import compose
from launcher.store.output_folder import Store
from launcher.worker.dataset.pairs import collator, tokenise
from launcher.worker.model import weights
from launcher.worker.model.tiny import byte_tokenizer

SYSTEM, USER, YES, NO = (
    {"role": role, "content": text}
    for role, text in (("system", "Be brief."), ("user", "Why?"), ("assistant", "Because."), ("assistant", "Dunno"))
)
CHATML_PROMPT = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
CHATML_ANSWER = "Because.<|im_end|>\n"
ZEPHYR_PROMPT = "<|system|>\nBe brief.</s>\n<|user|>\nWhy?</s>\n<|assistant|>\n"
ZEPHYR_ANSWER = "Because.</s>\n"
FORGETFUL = "{% for m in messages %}{% if loop.last %}{{ m['content'] }}{% endif %}{% endfor %}"


def zephyr() -> PreTrainedTokenizerBase:
    """The byte tokenizer with the template in conf/model/mistral_7b.yaml and Zephyr's end token."""
    tokens = byte_tokenizer()
    tokens.add_special_tokens({"eos_token": "</s>"})
    _, (point,) = compose(["model=mistral_7b"], multirun=False)
    tokens.chat_template = point.config["model"]["chat_template"]
    return tokens


def conversation(folder: Path) -> Dataset:
    """A data set of one pair of messages."""
    row = {"prompt": [SYSTEM, USER], "chosen": [YES], "rejected": [NO]}
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text(json.dumps(row) + "\n")
    return Dataset(name="talk", path=str(folder))


@pytest.mark.parametrize(
    ("tokens", "prompt", "answer"),
    [(byte_tokenizer(), CHATML_PROMPT, CHATML_ANSWER), (zephyr(), ZEPHYR_PROMPT, ZEPHYR_ANSWER)],
    ids=["chatml", "zephyr"],
)
def test_templates_render_as_their_authors_write_them(tokens: Any, prompt: str, answer: str) -> None:
    """ChatML and Zephyr's template give the texts written by hand here, with and without an answer."""
    assert tokens.apply_chat_template([SYSTEM, USER], tokenize=False, add_generation_prompt=True) == prompt
    assert tokens.apply_chat_template([SYSTEM, USER, YES], tokenize=False) == prompt + answer


@pytest.mark.parametrize("template", [None, "zephyr"])
def test_the_loss_sees_exactly_the_answer(
    configure: Configure, store: Store, tmp_path: Path, template: str | None
) -> None:
    """The tokens under the completion mask are the answer and its end, those before them the rendered prompt."""
    text = None if template is None else str(zephyr().chat_template)
    config = configure(dataset=conversation(tmp_path), trainer__max_length=200, model__chat_template=text)
    tokens, pairs = weights.tokenizer(config.model, store), tokenise(config, store)
    batch = collator(config, store)([pairs.train[0]])
    prompt, end = (CHATML_PROMPT, "<|im_end|>\n") if template is None else (ZEPHYR_PROMPT, "<|im_end|>\n")
    for row, answer in enumerate(("Because.", "Dunno")):
        ids, seen, padded = batch["input_ids"][row], batch["completion_mask"][row], batch["attention_mask"][row]
        assert tokens.decode(ids[seen == 1]) == answer + end
        assert tokens.decode(ids[(seen == 0) & (padded == 1)]) == prompt.replace("</s>", "<|im_end|>")


def test_a_plan_says_that_plain_text_gets_no_template(tmp_path: Path) -> None:
    """Of a chat model; not where the prompts are messages, or have been rendered, nor of a model without a template."""
    folder = tmp_path / "model"
    folder.mkdir()
    settings = {"chat_template": str(zephyr().chat_template)}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "tokenizer.json").write_text("{}")

    def told(prompt: Any, yes: Any, no: Any, model: Model) -> list[str]:
        file = tmp_path / "pairs.jsonl"
        file.write_text((json.dumps({"prompt": prompt, "chosen": yes, "rejected": no}) + "\n") * 2)
        return check_rows(Dataset(name="talk", path=str(file), test_pairs=1), model, file, paired=True)

    def check(prompt: Any, yes: Any, no: Any, model: Model) -> bool:
        return any("chat template does not render" in note for note in told(prompt, yes, no, model))

    chat = Model(name="mine", path=str(folder))
    assert check("Why?", "Because.", "Dunno", chat)
    assert not check([USER], [YES], [NO], chat)
    assert not check("<|user|>\nWhy?</s>\n<|assistant|>\n", "Because.", "Dunno", chat)
    (folder / "tokenizer_config.json").write_text("{}")
    assert not check("Why?", "Because.", "Dunno", chat)


def test_a_template_that_renders_the_prompt_otherwise_is_refused(
    configure: Configure, store: Store, tmp_path: Path
) -> None:
    """The error names the key and shows where prompt and prompt + answer part."""
    config = configure(dataset=conversation(tmp_path), model__chat_template=FORGETFUL)
    message = r"model\.chat_template: row 1 of .* not the beginning of prompt \+ answer; it goes on with 'Why\?' where"
    with pytest.raises(ConfigError, match=message):
        tokenise(config, store)


def test_messages_need_a_template_that_can_be_rendered(configure: Configure, store: Store, tmp_path: Path) -> None:
    """A broken template and a role that it refuses are errors of one line that name the key."""
    refusing = "{{ raise_exception('no system role') }}"
    config = configure(dataset=conversation(tmp_path), model__chat_template=refusing)
    with pytest.raises(
        ConfigError, match=r"model\.chat_template: row 1 of those that can be used: cannot be rendered: no system role"
    ):
        tokenise(config, store)


def test_a_template_from_a_file_is_known_by_its_text(tmp_path: Path) -> None:
    """model.chat_template=FILE.jinja puts the file's text into the config, quotes, newlines and escapes included."""
    text = "{% for m in messages %}\n{{ m['role'] + '\\n' + m[\"content\"] + \"\\\\'\" }}\n{% endfor %}\n"
    (tmp_path / "t.jinja").write_text(text)
    _, (point,) = compose(["model=tiny", f"model.chat_template={tmp_path / 't.jinja'}"], multirun=False)
    assert point.config["model"]["chat_template"] == text
    with pytest.raises(ConfigError, match=r"model\.chat_template=.*none\.jinja: cannot be read"):
        compose([f"model.chat_template={tmp_path / 'none.jinja'}"], multirun=False)


def test_every_row_is_rendered_before_any_is_trained_on(configure: Configure, store: Store, tmp_path: Path) -> None:
    """A role that a template does not know may come late: the row is named, and nothing was trained on by then."""
    rows = [{"prompt": [USER], "chosen": [YES], "rejected": [NO]} for _ in range(400)]
    rows[350]["prompt"] = [{"role": "critic", "content": "Why?"}]
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    strict = "{% for m in messages %}{% if m['role'] == 'critic' %}{{ raise_exception('no critics') }}{% endif %}"
    template = (
        strict + "<{{ m['role'] }}>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    config = configure(dataset=Dataset(name="talk", path=str(tmp_path)), model__chat_template=template)
    with pytest.raises(ConfigError, match=r"row 351 of those that can be used: cannot be rendered: no critics"):
        tokenise(config, store)
