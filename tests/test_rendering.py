"""From a row to token ids, against renderings by hand; and what is said of rows when a sweep is planned."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Launch, sweep_of
from worker_fixtures import Configure

from launcher.config import Dataset, Model, RunConfig
from launcher.dataset import local_files
from launcher.dataset.local_files import check_rows
from launcher.errors import ConfigError
from launcher.model.template import template_here
from launcher.planning import prerequisites
from launcher.store.output_folder import Store
from launcher.worker.dataset import unpaired
from launcher.worker.dataset.pairs import load_prompts, tokenise
from launcher.worker.evaluation.preference import prompts
from launcher.worker.model import weights
from launcher.worker.model.text import rendered

TEMPLATE = (
    "{% if tools %}<tools>{{ tools | tojson }}</tools>\n{% endif %}{% if formal %}Formal.\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}{{ ' ' + m.name if m.name }}\n"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}"
    "{% for call in m.tool_calls %}<call>{{ call.function | tojson }}</call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ASKED = {"role": "user", "content": "Rain?"}


def call(name: str, **arguments: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"role": "assistant", "tool_calls": [{"type": "function", "function": function}]}


def answer(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


TOOLS = [{"type": "function", "function": {"name": "rain", "parameters": {"properties": {"city": {"type": "string"}}}}}]
SYSTEM = {"role": "system", "content": "Be short."}
# What is written, and the messages and keywords that a hand would give to the template.
ROWS: list[tuple[dict[str, Any], list[Any], Any, Any, dict[str, Any]]] = [
    ({"prompt": [ASKED], "chosen": [call("rain", city="Bern")], "rejected": [call("time")], "tools": json.dumps(TOOLS)},
     [ASKED], call("rain", city="Bern"), call("time"), {"tools": TOOLS}),
    ({"prompt": [ASKED, call("rain", city=None), {"role": "tool", "name": "rain", "content": "7 mm"}], "chosen": "Yes",
      "rejected": "No"},
     [ASKED, call("rain", city=None), {"role": "tool", "name": "rain", "content": "7 mm"}],
     answer("Yes"), answer("No"), {}),
    ({"prompt": [ASKED], "chosen": answer("Yes", reasoning_content="clouds"), "rejected": answer("Yes"),
      "chat_template_kwargs": {"formal": True}},
     [ASKED], answer("Yes", reasoning_content="clouds"), answer("Yes"), {"formal": True}),
    ({"system": "Be short.", "prompt": "Rain?", "chosen": "Yes", "rejected": "No"},
     [SYSTEM, ASKED], answer("Yes"), answer("No"), {}),
    ({"prompt": [{"from": "human", "value": "Rain?"}], "chosen": {"from": "gpt", "value": "Yes"}, "rejected": [
        {"role": "assistant", "content": [{"type": "text", "text": "N"}, {"type": "text", "text": "o"}]}]},
     [ASKED], answer("Yes"), answer("No"), {}),
]  # fmt: skip


@pytest.fixture
def config(configure: Configure, tmp_path: Path) -> RunConfig:
    """A run on all of ROWS, with a template that shows all that they have."""
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        lines = "".join(json.dumps(row) + "\n" for row, *_ in ROWS)
        (tmp_path / "data" / f"{split}.jsonl").write_text(lines)
    dataset = Dataset(name="d", path=str(tmp_path / "data"))
    return configure(dataset=dataset, model__chat_template=TEMPLATE, trainer__max_length=600)


def by_hand(tokens: Any, row: tuple[Any, ...]) -> tuple[list[int], list[int], list[int]]:
    _, prompt, chosen, rejected, given = row
    prompt, *answers = [[{"content": "", **message} for message in each] for each in (prompt, [chosen], [rejected])]
    asked = tokens.apply_chat_template(prompt, add_generation_prompt=True, **given)["input_ids"]
    whole = [tokens.apply_chat_template(prompt + each, **given)["input_ids"] for each in answers]
    assert all(ids[: len(asked)] == asked for ids in whole)
    return asked, *(ids[len(asked) :] for ids in whole)


def test_token_ids_are_those_of_a_rendering_by_hand(config: RunConfig, store: Store) -> None:
    """Of every row, whatever it holds; nothing is added to a call's arguments because another call has more."""
    found = tokenise(config, store).train
    expected = [by_hand(weights.tokenizer(config.model, store), row) for row in ROWS]
    assert [(row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]) for row in found] == expected
    split = unpaired.tokenise(
        replace(config, loss_type="kto", trainer=replace(config.trainer, micro_batch_size=2)), store
    )
    halves = {(tuple(row["prompt_ids"]), tuple(row["chosen_ids"])) for row in split.train}
    assert halves == {(tuple(asked), tuple(said)) for asked, *answers in expected for said in answers}


def test_an_evaluation_asks_with_the_same_rendering(config: RunConfig, store: Store) -> None:
    """Tools and other keywords go to the prompts that the model continues too."""
    config = replace(config, dataset=replace(config.dataset, prompts=[]))
    tokens = weights.tokenizer(config.model, store)
    expected = [tokens.decode(by_hand(tokens, row)[0]) for row in ROWS]
    asked = [rendered(prompt, tokens) for prompt in load_prompts(config.dataset, store)]  # of each half of a pair
    assert asked == [prompt for prompt in expected for _ in range(2)]
    assert [rendered(prompt, tokens) for prompt in prompts(config, store)] == list(dict.fromkeys(expected))


def test_what_a_template_does_not_show_is_refused_or_counted(
    config: RunConfig, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """Calls, reasoning, tools and keywords are refused by row, at the plan as in the job; a name is counted."""
    for lost in ("tool_calls", "reasoning_content", "formal", "tools"):
        model = replace(config.model, chat_template=TEMPLATE.replace(lost, "other"))
        said = rf"^model\.chat_template: row \d .* has .*{lost}, which the chat"
        with pytest.raises(ConfigError, match=said):
            tokenise(replace(config, model=model), store)
        with pytest.raises(ConfigError, match=said):
            check_rows(config.dataset, model, Path(str(config.dataset.path)) / "train.jsonl", paired=True)
    nameless = replace(config, model=replace(config.model, chat_template=TEMPLATE.replace("m.name", "m.other")))
    assert len(tokenise(nameless, store).train) == len(ROWS)
    assert "the chat template does not show name, which 1 messages have" in caplog.text
    with pytest.raises(ConfigError, match=r"tiny has none and the data are messages"):
        tokenise(replace(config, model=replace(config.model, chat_template="")), store)


def test_templates_are_found_where_transformers_finds_them(tmp_path: Path) -> None:
    """In a file of their own, in the tokenizer's configuration, or given; that there is none is known too."""
    model = Model(name="m", path=str(tmp_path))
    assert template_here(model) is None
    (tmp_path / "tokenizer.json").write_text("{}")
    for said, text in (
        ({}, None),
        ({"chat_template": "a"}, "a"),
        ({"chat_template": [{"name": "x", "template": "b"}]}, {"x": "b"}),
    ):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
        found = template_here(model)
        assert found is not None
        assert found.text == text
    (tmp_path / "chat_template.jinja").write_text("c")
    assert [getattr(template_here(each), "text", None) for each in (model, replace(model, chat_template="d"))] == [
        "c",
        "d",
    ]
    assert template_here(Model(name="m", path="org/name")) is None


def test_answers_that_differ_only_behind_the_cut_are_left_out(
    configure: Configure, store: Store, tmp_path: Path
) -> None:
    """As many tokens as max_length leaves behind the prompt are compared; what alone is left is named."""
    rows = [{"prompt": "Q", "chosen": "same words, a", "rejected": f"{begin} words, b"} for begin in ("same", "other")]
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = configure(dataset=Dataset(name="d", path=str(tmp_path)), trainer__max_length=10)
    found = tokenise(config, store)
    assert (len(found.train), found.dropped) == (1, {"chosen == rejected within max_length": 1})
    (tmp_path / "test.jsonl").write_text(json.dumps(rows[0]) + "\n")
    with pytest.raises(ConfigError, match=r"trainer\.max_length=10: no pair's completions differ within it"):
        tokenise(config, store)


def test_a_plan_looks_at_all_rows_of_a_file_or_says_so(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left out is counted; of a large file the first rows are looked at, and that is said."""
    good, bad = {"prompt": "Q", "chosen": "a", "rejected": "b"}, {"prompt": "Q", "chosen": "a"}
    file = tmp_path / "all.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in (good, bad, bad, good)))
    config = configure()
    assert check_rows(config.dataset, config.model, file, paired=True) == [
        f"{file}: 2 of 4 rows are left out: 2 empty completion"
    ]
    monkeypatch.setattr(local_files, "CHECKED_ROWS", 2)
    assert check_rows(config.dataset, config.model, file, paired=False) == [
        f"{file}: 1 of 2 rows are left out: 1 empty completion",
        f"{file}: its first 2 rows have been looked at; a job looks at the others",
    ]
    file.write_text(json.dumps(bad | {"rejected": ""}) + "\n")
    with pytest.raises(ConfigError, match=r"all\.jsonl: none of its rows can be used: 1 empty completion"):
        check_rows(config.dataset, config.model, file, paired=True)


def test_a_launch_refuses_in_one_line(launch: Launch, tmp_path: Path) -> None:
    """Exit code 2, before anything is written, and what is left out is said."""
    rows = [{"prompt": "Q", "chosen": f" {n}", "rejected": " no"} for n in range(3)]
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"prompt": "Q"}\n')
    asked = ["model=tiny", f"dataset={tmp_path}", "dry_run=true"]
    done = launch(*asked)
    assert done.returncode == 0, done.stderr
    assert f"prefsweep: {tmp_path / 'train.jsonl'}: 1 of 4 rows are left out: 1 empty completion" in done.stderr
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write('{"prompt": "Q", "chosen": 4, "rejected": " no"}\n')
    done = launch(*asked)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "train.jsonl, row 5, column chosen: a number ('4'); give a text" in done.stderr


def test_a_file_is_looked_at_once_for_all_lengths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a large one takes seconds; only another model, data set or kind of loss makes another look worth it."""
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps({"prompt": "a", "chosen": f"b{n}", "rejected": "c"}) + "\n" for n in range(20)))
    looked: list[bool] = []
    monkeypatch.setattr(prerequisites, "check_rows", lambda *_, paired: looked.append(paired) or [])
    axes = ["trainer.max_length=64,128", "loss_type=ipo,kto", "beta=0.1,0.2", "trainer.micro_batch_size=2"]
    sweep = sweep_of("model=tiny", f"dataset={file}", *axes)
    assert len(sweep.runs) == 8
    prerequisites.check_sources(sweep, dry_run=True)
    assert sorted(looked) == [False, True]
