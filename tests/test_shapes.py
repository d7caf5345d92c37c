"""launcher.dataset.shapes: rows of every kind become pairs, or are left out by a reason, or refused in one line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from launcher.config import Dataset
from launcher.dataset import shapes
from launcher.dataset.answers import ALIKE, REPEATED, TURNS
from launcher.dataset.shapes import Example
from launcher.dataset.speakers import division
from launcher.errors import ConfigError

Messages = list[dict[str, Any]]


def says(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


ASKED, GOOD, BAD = says("user", "Q"), says("assistant", "yes"), says("assistant", "no")
TEXT = {"prompt": "Q", "chosen": " yes", "rejected": " no"}
MESSAGES = {"prompt": [ASKED], "chosen": [GOOD], "rejected": [BAD]}


def pairs(*rows: dict[str, Any], **columns: str | None) -> list[Example]:
    return shapes.pairs(rows, Dataset(name="d", columns=columns), "train.jsonl")


def pair(row: dict[str, Any], **columns: str | None) -> dict[str, Any]:
    (example,) = pairs(row, **columns)
    assert example.fault is None
    return example.values


def gpt(role: str, text: str) -> dict[str, str]:
    return {"from": role, "value": text}


SAME_PAIR = {
    "content parts": {name: [says(one["role"], [{"type": "text", "text": one["content"]}])]
                      for name, (one,) in MESSAGES.items()},
    "two parts": MESSAGES | {"chosen": [says("assistant", [{"type": "text", "text": "y"}, "es"])]},
    "ShareGPT": {"prompt": [gpt("human", "Q")], "chosen": [gpt("gpt", "yes")], "rejected": [gpt("gpt", "no")]},
    "ShareGPT's conversation": {"conversations": [gpt("human", "Q")], "chosen": gpt("gpt", "yes"),
                                "rejected": gpt("gpt", "no")},
    "a conversation and answers in text": {"messages": [ASKED], "chosen": "yes", "rejected": "no"},
    "whole conversations and one of them again": {"messages": [ASKED, GOOD], "chosen": [ASKED, GOOD],
                                                  "rejected": [ASKED, BAD]},
    "one message each": MESSAGES | {"chosen": GOOD, "rejected": BAD},
    "answers in text": MESSAGES | {"chosen": "yes", "rejected": "no"},
    "answers without a role": MESSAGES | {"chosen": {"content": "yes"}, "rejected": {"content": "no"}},
    "a prompt that the answers repeat": MESSAGES | {"chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]},
    "keys without a value": MESSAGES | {"chosen": [GOOD | {"tool_calls": None, "name": ""}]},
    "one prompt in text": {"prompt": "Q", "chosen": GOOD, "rejected": [BAD]},
}  # fmt: skip


@pytest.mark.parametrize("form", SAME_PAIR)
def test_every_form_of_messages_gives_the_same_pair(form: str) -> None:
    """Role and content, from and value, parts, one message alone, text beside messages."""
    assert pair(SAME_PAIR[form]) == MESSAGES


def test_a_system_column_is_the_system_message() -> None:
    """Beside text and beside messages, where it is not empty; one such row makes all rows messages."""
    system = says("system", "Be short.")
    assert pair(TEXT | {"system": "Be short."})["prompt"] == [system, ASKED]
    assert pair(MESSAGES | {"system": "Be short."})["prompt"] == [system, ASKED]
    own = MESSAGES | {"prompt": [says("system", "own"), ASKED]}
    assert pair(own | {"system": "own "})["prompt"] == own["prompt"]
    (differing,) = pairs(own | {"system": "x"})
    assert differing.fault == "two system messages that differ"
    assert pair(TEXT | {"system": ""}) == TEXT
    assert pair(TEXT | {"told": "Be short."}, system="told")["prompt"] == [system, ASKED]
    first, second = pairs(TEXT | {"system": None}, TEXT | {"system": "Be short."})
    assert first.values == {
        "prompt": [ASKED],
        "chosen": [says("assistant", " yes")],
        "rejected": [says("assistant", " no")],
    }
    assert second.values["prompt"] == [system, ASKED]


def test_what_templates_understand_is_passed_on() -> None:
    """Calls and names of tools, reasoning, tools as a list or as JSON, and what else a template is given."""
    call = {"type": "function", "function": {"name": "f", "arguments": {"a": None, "b": [1]}}}
    history = [ASKED, says("assistant", None, tool_calls=[call]), says("tool", "7", name="f", tool_call_id="1")]
    thought = says("assistant", "yes", reasoning_content="hm")
    for tools in ([{"name": "f"}], '[{"name": "f"}]'):
        row = {"prompt": history, "chosen": [thought], "rejected": [BAD], "tools": tools}
        found = pair(row | {"chat_template_kwargs": {"enable_thinking": False, "other": None}})
        assert found["prompt"] == [ASKED, says("assistant", "", tool_calls=[call]), history[2]]
        assert (found["chosen"], found["tools"]) == ([thought], [{"name": "f"}])
        assert found["chat_template_kwargs"] == {"enable_thinking": False}
    only_calls = {
        "chosen": [{"role": "assistant", "tool_calls": [call]}],
        "rejected": [says("assistant", "", tool_calls=[{}])],
    }
    assert pair(MESSAGES | only_calls)["chosen"] == [says("assistant", "", tool_calls=[call])]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"chosen": 7}, "row 2, column chosen: a number ('7'); give a text (in quotes), or a list of messages"),
        ({"rejected": True}, "row 2, column rejected: true or false ('True'); give a text"),
        ({"prompt": {"text": "Q"}}, "row 2, column prompt: a message with the keys text; give role and content"),
        ({"chosen": ["yes"]}, "row 2, column chosen: a text ('yes') in a list of messages; each is an object"),
        ({"chosen": [says("assistant", 3)]}, "column chosen: a message whose content is a number ('3'); give a text"),
        ({"chosen": [{"role": 1, "content": "x"}]}, "column chosen: a message whose role is 1; give a text"),
        ({"prompt": [says("user", [{"type": "image", "url": "u"}])]}, "a part of a message that is 'image'; only"),
        ({"prompt": [gpt("function_call", "{}")]}, "a message whose role is 'function_call'; write the call"),
        ({"images": ["a.png"]}, "row 2, column images: a list; only text can be trained on"),
        ({"system": 1}, "row 2, column system: a number ('1'); give a text"),
        ({"tools": "get_weather"}, "row 2, column tools: a text ('get_weather'); give a list of tools"),
        ({"chat_template_kwargs": [1]}, "row 2, column chat_template_kwargs: a list; give an object {name: value}"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_on_is_one_line(row: dict[str, Any], words: str) -> None:
    """It names the rows' place, the row, the column, what was found and what would be right."""
    with pytest.raises(ConfigError) as refusal:
        pairs(TEXT, TEXT | row)
    assert str(refusal.value).startswith("dataset.path: train.jsonl, row 2, ")
    assert words in str(refusal.value)


@pytest.mark.parametrize(
    ("rows", "faults"),
    [
        (
            [TEXT, {"prompt": "Q", "chosen": " yes"}, {"prompt": "Q", "rejected": " no"}],
            [None, *["empty completion"] * 2],
        ),
        ([{"chosen": " yes", "rejected": " no"}, TEXT], ["no prompt", None]),
        (
            [TEXT | {"prompt": ""}, MESSAGES | {"prompt": [says("user", "")]}, MESSAGES | {"prompt": []}],
            ["no prompt"] * 3,
        ),
        ([TEXT | {"chosen": " \ud83d"}, TEXT], ["half a character (a lone surrogate)", None]),
        ([MESSAGES | {"chosen": [says("user", "R"), GOOD], "rejected": [says("user", "S"), BAD]}], ["prompts differ"]),
    ],
)
def test_a_row_that_lacks_what_others_have_is_left_out(rows: list[dict[str, Any]], faults: list[str | None]) -> None:
    """By its reason; which columns there are is known from all rows."""
    assert [example.fault for example in pairs(*rows)] == faults


def test_labelled_rows_are_looked_at_in_the_same_way() -> None:
    """Labels may be missing, messages in any form, a prompt repeated, and half of a pair of use."""
    rows = [
        {"prompt": "Q", "completion": "Q yes", "label": 1},
        {"prompt": "Q", "completion": " no", "label": None},
        {"prompt": "Q", "completion": " no"},
    ]
    found = shapes.unpaired(rows, Dataset(name="d"), "x")
    assert [example.fault for example in found] == [None, "no label", "no label"]
    assert found[0].values == {"prompt": "Q", "completion": " yes", "label": True}
    assert found[0].notes == (REPEATED,)
    whole = {"prompt": "Q", "completion": [ASKED, GOOD], "label": False}
    assert shapes.unpaired([whole], Dataset(name="d"), "x")[0].values == MESSAGES_LABELLED
    halves = shapes.unpaired([TEXT | {"chosen": ""}], Dataset(name="d"), "x")
    assert [half.fault for half in halves] == ["empty completion", None]


MESSAGES_LABELLED = {"prompt": [ASKED], "completion": [GOOD], "label": False}


@pytest.mark.parametrize("asked", ["Q1:", [ASKED], "Q"])
@pytest.mark.parametrize("one_sided", [True, False])
def test_a_repeated_prompt_is_taken_once(asked: str | list[Any], one_sided: bool) -> None:
    """By one answer or by both, as text or as messages, and it is said; a prompt of one word may be an echo."""
    good, bad = ([GOOD], [BAD]) if isinstance(asked, list) else (" good", " bad")
    (example,) = pairs({"prompt": asked, "chosen": asked + good, "rejected": bad if one_sided else asked + bad})
    if asked == "Q" and one_sided:
        assert example.fault == "only one answer begins with the prompt's single word"
        return
    assert example.values == {"prompt": asked, "chosen": good, "rejected": bad}
    assert (example.fault, example.notes) == (None, (REPEATED,))


def test_a_prompt_in_text_is_taken_from_one_answer_in_messages() -> None:
    """Which alone is a whole conversation."""
    assert pair({"prompt": "Q", "chosen": [ASKED, GOOD], "rejected": [BAD]}) == MESSAGES


def test_a_word_is_not_cut_from_an_answer() -> None:
    """Where a prompt is the beginning of a word."""
    row = {"prompt": "I", "chosen": "It", "rejected": "Is"}
    assert pair(row) == row


def test_what_is_not_used_is_counted_by_name() -> None:
    """A column that is neither ours nor empty."""
    (example,) = pairs(TEXT | {"score": 0, "id": None, "scores": [["a", "b"]]})
    assert example.notes == ("column score not used", "column scores not used")
    (nested,) = pairs({"d": {"q": "Q", "by": "me"}, "chosen": "yes", "rejected": "no"}, prompt="d.q")
    assert nested.notes == ("column d.by not used",)


@pytest.mark.parametrize("name", ["input", "context", "history", "Question", "system_prompt"])
def test_a_part_of_the_prompt_is_not_lost(name: str) -> None:
    """It is refused with what to do, unless the prompt holds it, or it is not wanted."""
    row = TEXT | {name: [["old", "new"]] if name == "history" else "dog"}
    ours = {"history": "history", "system_prompt": "system"}.get(name, "input")
    with pytest.raises(ConfigError) as refusal:
        pairs(TEXT, row)
    assert f"row 2, column {name}: " in str(refusal.value)
    assert f"by +dataset.columns.{ours}={name}, or give +dataset.columns.{name}=null" in str(refusal.value)
    with pytest.raises(ConfigError, match=f"column {name}"):
        shapes.unpaired([{"prompt": "Q", "completion": " yes", "label": True, name: row[name]}], Dataset(name="d"), "x")
    assert pair(row, **{name: None}) == TEXT
    assert pair(TEXT | {name: "Q"}) == TEXT


def test_input_follows_the_prompt_and_history_goes_before_it() -> None:
    """Joined by a line break, where there is any; turns as pairs, as messages, or either as JSON."""
    assert pair(TEXT | {"given": "dog"}, input="given")["prompt"] == "Q\ndog"
    assert pair(TEXT | {"given": ""}, input="given") == TEXT
    turns = [says("user", "old"), says("assistant", "new")]
    for history in ([["old", "new"]], turns, '[["old", "new"]]'):
        assert pair(TEXT | {"history": history}, history="history")["prompt"] == [*turns, ASKED]
    with pytest.raises(ConfigError, match="column history: a turn that is not two texts"):
        pairs(TEXT | {"history": [["old"]]}, history="history")
    with pytest.raises(ConfigError, match="no column given"):
        pairs(TEXT, input="given")


def test_messages_in_json_text_are_messages() -> None:
    """And it is said; other JSON is a text; what Python has written is refused."""
    whole = {"chosen": json.dumps([ASKED, GOOD]), "rejected": json.dumps([ASKED, BAD])}
    for row in (
        whole,
        whole | {"prompt": "Q"},
        whole | {"prompt": json.dumps([ASKED])},
        whole | {"chosen": [ASKED, GOOD]},
    ):
        (example,) = pairs(row)
        assert example.values == MESSAGES
        assert "column rejected: JSON text taken for messages" in example.notes
    assert pair({"prompt": "Q", "chosen": json.dumps(GOOD), "rejected": json.dumps(BAD)}) == MESSAGES
    for text in (
        '[{"role": "clerk", "pay": 1}]',
        "[1, 2]",
        '{"value": 3}',
        "{'value': 3}",
        json.dumps([ASKED]) + " is it",
    ):
        assert pair(TEXT | {"chosen": text})["chosen"] == text
    for python in (str([ASKED, GOOD]), f"[{ASKED}\n {GOOD}]", f"array([{ASKED}, {GOOD}], dtype=object)"):
        with pytest.raises(ConfigError, match=r"row 1, column chosen: messages as Python writes them .*json\.dumps"):
            pairs(TEXT | {"chosen": python})


THANKS = "\n\nHuman: thanks"


@pytest.mark.parametrize(
    "row",
    [
        {"chosen": [ASKED, GOOD, says("user", "thanks")], "rejected": [ASKED, BAD]},
        {"prompt": [ASKED], "chosen": [GOOD], "rejected": [BAD, says("user", "why?")]},
        {"chosen": "\n\nHuman: Q\n\nAssistant: yes" + THANKS, "rejected": "\n\nHuman: Q\n\nAssistant: no"},
        {"prompt": "\n\nHuman: Q\n\nAssistant:", "chosen": " yes", "rejected": " no" + THANKS},
        {"chosen": "USER: Q ASSISTANT: yes USER: ah", "rejected": "USER: Q ASSISTANT: no"},
    ],
)
def test_an_answer_that_ends_with_the_users_words_is_left_out(row: dict[str, Any]) -> None:
    """Of messages and of text with marks; as a labelled completion the other half is of use."""
    assert [example.fault for example in pairs(row)] == ["answer that ends with the user's words"]
    assert [half.fault for half in shapes.unpaired([row], Dataset(name="d"), "x")].count(None) == 1


def test_users_words_within_an_answer_are_said() -> None:
    """And a word that is like a mark is no turn."""
    turns = [GOOD, says("user", "R"), GOOD]
    assert pairs({"prompt": [ASKED], "chosen": turns, "rejected": [BAD]})[0].notes == (TURNS,)
    for answer in (" a list:\nInput: x", " he said Human: no", THANKS + "\n\nAssistant: fine"):
        assert pairs({"prompt": "\n\nHuman: Q\n\nAssistant:", "chosen": answer, "rejected": " x"})[0].fault is None


@pytest.mark.parametrize("part", [{"type": "text", "text": None, "image": None}, {"type": "text"}, {"text": None}])
def test_a_part_without_text_is_empty(part: dict[str, Any]) -> None:
    """As a typed table fills what lacks it; what has something else in its place is refused by that."""
    spoken = [{"type": "text", "text": "Q"}, part]
    assert pair(MESSAGES | {"prompt": [says("user", spoken)]}) == MESSAGES
    with pytest.raises(ConfigError, match="a part of a message without text, with url; give its text"):
        pairs(MESSAGES | {"prompt": [says("user", [*spoken, part | {"url": "u"}])]})
    with pytest.raises(ConfigError, match="a part of a message whose text is a number"):
        pairs(MESSAGES | {"prompt": [says("user", [part | {"text": 3}])]})


def test_texts_that_part_within_a_word_are_said_to_begin_alike() -> None:
    """Where words have no space between them, no prompt is found, and that is the reason."""
    with pytest.raises(ConfigError, match="begin alike without a mark of who answers"):
        pairs({"chosen": "問題は何ですか鯨は大きい", "rejected": "問題は何ですか鯨が小さい"})


HUMAN = "\n\nHuman: What a day?\n\nAssistant:"


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected"),
    [
        (HUMAN, " What a film", " Whales are big"),
        (HUMAN, " I am not sure of it", " I am sure"),
        (HUMAN + " Yes.\n\nHuman: And now?\n\nAssistant:", " Now", " Not"),
        ("USER: hi ASSISTANT:", " Hello you", " Hello there"),
        ("### Instruction:\nAdd.\n\n### Response:\n", "The sum", "The product"),
        ("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n", "Hey", "Hello"),
        ("<s>[INST] hi [/INST]", " Yes", " You"),
        ("Q: why? A:", " because", " but"),
        ("Q: why? A:", " I think", " I am"),
        ("Once upon a", " time", " tide"),
        ("Once upon a", " time", " table and"),
        ("I don't know, he", " said", " sat"),
        ("Q:", "A", "B"),
        ("It is", " don't", " done"),
    ],
)
def test_an_implicit_prompt_ends_at_a_mark_or_at_a_word(prompt: str, chosen: str, rejected: str) -> None:
    """At the last mark of who answers, though the answers begin alike; without one never inside a word."""
    found = pair({"chosen": prompt + chosen, "rejected": prompt + rejected})
    assert found == {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def test_answers_that_begin_alike_are_counted() -> None:
    """The mark says where they begin, and the text alone would not."""
    alike, other = pairs(*({"chosen": HUMAN + good, "rejected": HUMAN + " No"} for good in (" No, sir", " Yes")))
    assert (alike.notes, other.notes) == ((ALIKE,), ())


@pytest.mark.parametrize(
    "other", ["\n\nHuman: Why?\n\nAssistant: No", "\n\nHuman: What?\n\nAssistant: No\n\nHuman: Hm\n\nAssistant: B"]
)
def test_texts_whose_questions_differ_are_no_pair(other: str) -> None:
    """Whether they part in the first question or in a later one."""
    assert division("\n\nHuman: What?\n\nAssistant: No\n\nHuman: Ha\n\nAssistant: A", other).differing


def test_where_many_pairs_have_nothing_in_common_a_column_is_missing() -> None:
    """A few of them are left out."""
    alike, unlike = {"chosen": "Q: a", "rejected": "Q: b"}, {"chosen": "yes", "rejected": "no"}
    assert [each.fault for each in pairs(*[alike] * 10, unlike)] == [None] * 10 + ["no prompt"]
    with pytest.raises(
        ConfigError, match=r"do not begin alike \(row 2: 'yes', 'no'\); name it with \+dataset.columns.prompt"
    ):
        pairs(alike, unlike)
