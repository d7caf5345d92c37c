"""Data sets as they are published: each line of the table in docs/recipes.md, planned, and read by the job's reader."""

from __future__ import annotations

import gzip
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from conftest import REPOSITORY, sweep_of

from launcher.cli.main import main
from launcher.config import Dataset
from launcher.dataset import schemas, shapes
from launcher.errors import ConfigError
from launcher.store.output_folder import Store
from launcher.worker.dataset.pairs import load_pairs

Row = dict[str, Any]
pytestmark = pytest.mark.long
COMMANDS = re.findall(r"^\|.*\| `(dataset=[^`]*)` \|$", (REPOSITORY / "docs" / "recipes.md").read_text(), re.MULTILINE)


def user(text: str) -> Row:
    return {"role": "user", "content": text}


def assistant(text: str) -> Row:
    return {"role": "assistant", "content": text}


def said_by(speaker: str, text: str) -> Row:
    return {"from": speaker, "value": text}


def safe(number: int, better: int, safer: int) -> Row:
    """A row of PKU-SafeRLHF."""
    each = {"source": "Alpaca-7B", "harm_category": {"Cybercrime": False}, "severity_level": 0, "sha256": "ab"}
    more = {f"response_{place}_{name}": value for place in (0, 1) for name, value in each.items()}
    return {"prompt": f"Q{number}", "prompt_source": "x", "response_0": f"zero {number}", "response_1": f"one {number}",
            "is_response_0_safe": True, "is_response_1_safe": False, "better_response_id": better,
            "safer_response_id": safer, **more}  # fmt: skip


def helped(preference: int | None, first: str = "R1", second: str = "R2") -> Row:
    each = [{"score": preference, "reasoning": "clearer", "feedback1": "f", "feedback2": "g"}]
    return {"domain": "code", "language": "python", "context": [user("Q"), assistant("A"), user("R")],
            "response1": first, "response2": second, "overall_preference": preference,
            "individual_preference": each}  # fmt: skip


def ranked(*answers: tuple[str, float]) -> list[Row]:
    return [{"answer": text, "model": f"m{place}", "rank": rank} for place, (text, rank) in enumerate(answers)]


def nectar(*answers: tuple[str, float]) -> Row:
    return {"prompt": "\n\nHuman: Q\n\nAssistant: ", "answers": ranked(*answers), "turns": 1,
            "num_responses": len(answers), "source": ["lmsys-chat-1m"], "good_natured": True}  # fmt: skip


def annotated(*sides: str, data: Row | None = None) -> Row:
    """A task of Label Studio's JSON export."""
    results = [[{"value": {"selected": side}, "id": "x", "from_name": "pw", "to_name": "answer1", "type": "pairwise",
                 "origin": "manual"}] for side in sides]  # fmt: skip
    annotations = [{"id": 1, "completed_by": 1, "result": each, "was_cancelled": False} for each in results]
    return {"id": 7, "annotations": annotations, "drafts": [], "predictions": [], "meta": {}, "total_annotations": 1,
            "data": data or {"prompt": "Q", "answer1": "left", "answer2": "right"}}  # fmt: skip


CALL = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {
    "name": "rain", "arguments": {"city": "Bern"}}}]}  # fmt: skip
TOOLS = [{"type": "function", "function": {"name": "rain", "parameters": {"type": "object", "properties": {}}}}]
ASKED = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: What now?\n\nAssistant:"
TEMPLATE = "{{ tools }}{% for message in messages %}{{ message.content }}{{ message.tool_calls }}{% endfor %}"
TURNS = [user("Q"), assistant("A"), user("R")]
SYSTEM = {"role": "system", "content": "Be short."}
TEXTS = {"prompt": "Q", "chosen": "left", "rejected": "right"}
MESSAGES = {"prompt": [user("Q")], "chosen": [assistant("yes")], "rejected": [assistant("no")]}
RIGHT_IS_BETTER = TEXTS | {"chosen": "right", "rejected": "left"}

# By the name in the command: rows as they are published, and of those that can be used prompt, chosen and rejected.
PUBLISHED: dict[str, tuple[list[Row], list[Row]]] = {
    "hh-rlhf": (
        [{"chosen": ASKED + " What a day", "rejected": ASKED + " Whales"}],
        [{"prompt": ASKED, "chosen": " What a day", "rejected": " Whales"}],
    ),
    "ultrafeedback": (
        [{"prompt": "Q", "prompt_id": "0f", "chosen": [user("Q"), assistant("yes")],
          "rejected": [user("Q"), assistant("no")], "messages": [user("Q"), assistant("yes")], "score_chosen": 8.0,
          "score_rejected": 6.5}],
        [MESSAGES],
    ),
    "orca_dpo_pairs.jsonl": (
        [{"system": "Be short.", "question": "Q", "chosen": "yes", "rejected": "no"},
         {"system": "", "question": "Q", "chosen": "no way", "rejected": "no"}] * 2,
        [{**MESSAGES, "prompt": [SYSTEM, user("Q")]}, {**MESSAGES, "chosen": [assistant("no way")]}] * 2,
    ),
    "helpsteer3": (
        [helped(-3), helped(-1), helped(0), helped(1), helped(3), helped(None)],
        [{"prompt": TURNS, "chosen": [assistant(one)], "rejected": [assistant(other)]}
         for one, other in (("R1", "R2"), ("R1", "R2"), ("R2", "R1"), ("R2", "R1"))],
    ),
    "pku-saferlhf": (
        [safe(1, better=0, safer=1), safe(2, better=1, safer=1)],
        [{"prompt": "Q1", "chosen": "zero 1", "rejected": "one 1"},
         {"prompt": "Q2", "chosen": "one 2", "rejected": "zero 2"}],
    ),
    "nectar.parquet": (
        [nectar(("mid", 2.0), ("best", 1.0), ("worst", 3.0)), nectar(("a", 1.0), ("b", 1.0)), nectar(("x", 4.0)),
         *[nectar(("b", 2.0), ("a", 1.0))] * 10],
        [{"prompt": "\n\nHuman: Q\n\nAssistant: ", "chosen": "best", "rejected": "worst"},
         *[{"prompt": "\n\nHuman: Q\n\nAssistant: ", "chosen": "a", "rejected": "b"}] * 10],
    ),
    "capybara.parquet": (
        [{"source": "Airoboros", "conversation": [{"input": "Q", "output": "A"}, {"input": "R", "output": "B"}],
          "original_response": "B", "generation_prompt": ["<s>Q"], "raw_generation_responses": ["C"],
          "new_generations": ["C"], "prompt": "R", "chosen": [*TURNS, assistant("yes")],
          "rejected": [*TURNS, assistant("no")], "rating_chosen": 5, "rating_rejected": 2, "chosen_model": "C",
          "rejected_model": "D"}] * 2,
        [{"prompt": TURNS, "chosen": [assistant("yes")], "rejected": [assistant("no")]}] * 2,
    ),
    "tool-calls": (
        [{"messages": [user("Rain?")], "tools": json.dumps(TOOLS), "chosen": CALL, "rejected": assistant("No.")}],
        [{"prompt": [user("Rain?")], "chosen": [CALL], "rejected": [assistant("No.")], "tools": TOOLS}],
    ),
    "sharegpt.json": (
        [{"conversations": [said_by("human", "Q")], "chosen": said_by("gpt", "yes"), "rejected": said_by("gpt", "no"),
          "system": "Be short."}] * 2,
        [{**MESSAGES, "prompt": [SYSTEM, user("Q")]}] * 2,
    ),
    "alpaca.json": (
        [{"instruction": "Say it", "input": "dog", "chosen": "yes", "rejected": "no"},
         {"instruction": "Q", "input": "", "chosen": "yes", "rejected": "no"}] * 2,
        [{"prompt": "Say it\ndog", "chosen": "yes", "rejected": "no"},
         {"prompt": "Q", "chosen": "yes", "rejected": "no"}] * 2,
    ),
    "alpaca-history.json": (
        [{"instruction": "R", "input": "", "chosen": "yes", "rejected": "no", "system": "Be short.",
          "history": [["Q", "A"]]}] * 2,
        [{**MESSAGES, "prompt": [SYSTEM, *TURNS]}] * 2,
    ),
    "label-studio.json": (
        [annotated("left"), annotated("left", "right"), annotated(), annotated("right", "left", "right")],
        [TEXTS, RIGHT_IS_BETTER],
    ),
    "label-studio-own.json": (
        [annotated("right", data={"question": "Q", "a": "left", "b": "right"})] * 2,
        [RIGHT_IS_BETTER] * 2,
    ),
    "arena.jsonl": (
        [{"question_id": "1", "model_a": "m", "model_b": "n", "winner": winner, "judge": "arena_user_1", "turn": 1,
          "conversation_a": [user("Q"), assistant("yes")], "conversation_b": [user("Q"), assistant("no")],
          "language": "English"} for winner in ("model_a", "tie", "tie (bothbad)", "model_b")],
        [MESSAGES, {**MESSAGES, "chosen": MESSAGES["rejected"], "rejected": MESSAGES["chosen"]}],
    ),
    "labelled.jsonl": (
        [{"question": "Q", "answer_a": "left", "answer_b": "right", "winner": winner}
         for winner in ("A", "tie", "answer_b")],
        [TEXTS, RIGHT_IS_BETTER],
    ),
    "ranked.jsonl": ([{"prompt": "Q", "replies": ranked(("right", 2), ("left", 1))}] * 2, [TEXTS] * 2),
}  # fmt: skip
SAFER = [{"prompt": "Q1", "chosen": "one 1", "rejected": "zero 1"}, PUBLISHED["pku-saferlhf"][1][1]]
SAID = {
    "alpaca.json": "read as Alpaca: instruction is the prompt, followed by input where that is not empty",
    "alpaca-history.json": "read as Alpaca with history: instruction is the prompt, followed by input where that is",
    "orca_dpo_pairs.jsonl": "read as orca_dpo_pairs: question is the prompt",
    "helpsteer3": "read as HelpSteer3: overall_preference below 0 says that response1 is chosen, above 0 that",
    "pku-saferlhf": "read as PKU-SafeRLHF: better_response_id says which of response_0, response_1 is chosen",
    "nectar.parquet": "read as Nectar: of answers the first by rank is chosen, and the last rejected",
    "label-studio.json": "read as Label Studio: annotations says which of data.answer1, data.answer2 is chosen",
    "arena.jsonl": "read as Chatbot Arena: winner says which of conversation_a, conversation_b is chosen",
    "labelled.jsonl": ": winner says which of answer_a, answer_b is chosen",
}
LEFT_OUT = {
    "helpsteer3": "2 of 6 rows are left out: 1 neither answer is better, 1 nothing says which answer is better",
    "nectar.parquet": "2 of 13 rows are left out: 1 neither answer is better, 1 nothing says which answer is better",
    "label-studio.json": "2 of 4 rows are left out: 1 neither answer is better, 1 nothing says which answer is better",
    "arena.jsonl": "2 of 4 rows are left out: 2 neither answer is better",
    "labelled.jsonl": "1 of 3 rows are left out: 1 neither answer is better",
}


def write(name: str, words: list[str]) -> None:
    """The rows as a file, or as a folder of two splits that are named as the command names them."""
    rows = PUBLISHED[name][0]
    if Path(name).suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), name)
    elif Path(name).suffix:
        Path(name).write_text(json.dumps(rows) if name.endswith(".json") else lines(rows))
    else:
        Path(name).mkdir()
        named = dict(word.split("=", 1) for word in words)
        for split in ("train", "test"):
            file = Path(name) / f"{named.get(f'dataset.{split}_split', split)}.jsonl.gz"
            file.write_bytes(gzip.compress(lines(rows).encode()))


def lines(rows: list[Row]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_line_of_the_table_is_so(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], store: Store
) -> None:
    """The command plans, and says what it took the columns for; the job reads the pairs that a hand would write."""
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command)
    name = words[0].removeprefix("dataset=./")
    write(name, words)
    Path("tools.jinja").write_text(TEMPLATE)
    asked = ["model=tiny", *words, "trainer.max_length=256", "beta=0.1", "loss_type=ipo"]
    assert main([*asked, "dry_run=true"]) == 0
    told = capsys.readouterr()
    by_safety = "better:safer_response_id" in command
    said = "safer_response_id says which" if by_safety else SAID.get(name, "")
    assert said in told.err
    assert ("read as" in told.err) is said.startswith("read as")
    assert LEFT_OUT.get(name, "") in told.err
    assert ("left out" in told.err) is (name in LEFT_OUT)
    train, test = load_pairs(sweep_of(*asked).runs[0].config.dataset, store)
    read = train.to_list() + ([] if Path(name).is_dir() else test.to_list())
    assert plain(read) == (SAFER if by_safety else PUBLISHED[name][1])


def plain(rows: list[Row]) -> list[Row]:
    """Without the nulls that a typed table puts where one message lacks what another has."""
    return json.loads(json.dumps(rows), object_hook=lambda each: {k: v for k, v in each.items() if v is not None})  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["question", "instruction", "input", "query"])
def test_a_question_in_a_column_of_another_name_is_not_passed_over(name: str) -> None:
    """Though the answers begin alike, their beginning is no prompt; where they hold the question, it is."""
    row = {name: "Why?", "chosen": "I think so", "rejected": "I do not"}
    with pytest.raises(ConfigError, match=rf"a column {name} that its answers do not hold .*give \+dataset"):
        pairs(row, row)
    assert pairs(row, prompt=name)[0].values["prompt"] == "Why?"
    whole = {name: "Why?", "chosen": "Q: Why? A: so", "rejected": "Q: Why? A: not"}
    assert pairs(whole)[0].values["prompt"] == "Q: Why? A:"
    assert pairs(row | {"messages": [user("How?")]})[0].values["prompt"] == [user("How?")]


def test_both_splits_are_messages_where_one_of_them_is() -> None:
    """A system message in one of the training pairs makes the held-out ones messages too."""
    silent, told = {"system": "", "question": "Q", "chosen": "yes", "rejected": "no"}, {"system": "Be short."}
    for train, test in (([silent | told], [silent]), ([silent], [silent | told])):
        for split in shapes.of_one_kind(pairs(*train), pairs(*test)):
            assert [example.values["prompt"][-1] for example in split] == [user("Q")]
            assert [example.values["chosen"] for example in split] == [[assistant("yes")]]
    assert shapes.of_one_kind(pairs(silent), pairs(silent))[0][0].values["prompt"] == "Q"


def test_every_published_form_is_in_the_table() -> None:
    """And each line of the table has a form here."""
    named = [shlex.split(command)[0].removeprefix("dataset=./") for command in COMMANDS]
    assert set(named) == PUBLISHED.keys()
    assert len(COMMANDS) == len(PUBLISHED) + 1  # PKU-SafeRLHF by either label


def pairs(*rows: Row, **columns: str) -> list[shapes.Example]:
    return shapes.pairs(rows, Dataset(name="d", columns=columns), "train.jsonl")


def test_a_known_data_set_is_known_by_all_of_its_names_and_by_nothing_less() -> None:
    """What has columns of ours, or is told its columns, is read by these; of other names nothing is guessed."""
    own = {"prompt": "Q", "chosen": "yes", "rejected": "no"}
    assert pairs(safe(1, 0, 0) | own)[0].values == own
    mapped = pairs(safe(1, 0, 0), chosen="response_1", rejected="response_0")
    assert (mapped[0].values["chosen"], mapped[0].notes[0][:6]) == ("one 1", "column")
    for row in (
        {"prompt": "Q", "response_0": "a", "response_1": "b", "better_id": 0},
        {"context": "Q", "response1": "a", "response2": "b"},
        {"prompt": "Q", "responses": []},
        {"id": 1, "annotations": [], "data": {"prompt": "Q", "text1": "a", "text2": "b"}},
    ):
        with pytest.raises(ConfigError, match=r"no column chosen, rejected"):
            pairs(row)


@pytest.mark.parametrize(
    ("label", "chosen"),
    [(0, "zero"), (1, "one"), (1.0, "one"), ("0", "zero"), ("response_1", "one"), ("Response_0", "zero")],
)
def test_a_label_is_a_columns_name_or_its_end(label: Any, chosen: str) -> None:
    """In any case of letters, and as a number of any kind."""
    row = {"prompt": "Q", "response_0": "zero", "response_1": "one", "better_response_id": label}
    assert pairs(row)[0].values["chosen"] == chosen


@pytest.mark.parametrize(
    ("row", "columns", "said"),
    [
        (safe(1, better=2, safer=0), {}, "column better_response_id: a number ('2') names neither response_0 nor"),
        (safe(1, better=-1, safer=0), {}, "names neither response_0 nor response_1; give 0 or 1, or tie"),
        (safe(1, better=True, safer=0), {}, "true or false ('True') names neither"),
        (helped(0) | {"overall_preference": "-3"}, {}, "column overall_preference: a text ('-3'); give a number"),
        (nectar() | {"answers": ["a", "b"]}, {}, "a ranked answer is a text; give an object with answer and rank"),
        (nectar() | {"answers": [{"text": "a", "rank": 1}]}, {}, "a ranked answer is the keys text, rank; give"),
        (nectar() | {"answers": [{"answer": "a", "rank": "1"}]}, {}, "a rank is a text ('1'); give a number"),
        (nectar() | {"answers": "a"}, {}, "column answers: a text ('a'); give a list of objects with answer and rank"),
        (annotated("both"), {}, "column annotations: a comparison that selects 'both'; it is left or right"),
        ({"x": "a", "y": "b", "w": "first"}, {"first": "x", "second": "y", "better": "w"}, "names neither x nor y"),
        ({"a_x": "a", "b_x": "b", "w": "x"}, {"first": "a_x", "second": "b_x", "better": "w"}, "give that name, or"),
    ],
)  # fmt: skip
def test_what_says_something_else_is_refused_in_one_line(row: Row, columns: dict[str, str], said: str) -> None:
    """By row and column; nothing is guessed from a label that is not understood."""
    with pytest.raises(ConfigError) as refusal:
        pairs(row, **columns)
    assert said in str(refusal.value)
    assert "train.jsonl, row 1, " in str(refusal.value)


@pytest.mark.parametrize("missing", [None, "", float("nan")])
def test_where_nothing_says_which_is_better_a_row_is_left_out(missing: Any) -> None:
    """As tables write what is missing; by a label, a scale and a rank."""
    rows = safe(1, 0, 0) | {"better_response_id": missing}, helped(1) | {"overall_preference": missing}
    for row in (*rows, nectar(("a", missing), ("b", 1.0))):
        assert pairs(row)[0].fault == schemas.UNDECIDED


def test_ties_train_nothing_as_labelled_completions_either() -> None:
    """Of a pair of which neither answer is better, neither half is desirable."""
    halves = shapes.unpaired([helped(0), helped(2)], Dataset(name="d"), "x")
    assert [half.fault for half in halves] == [schemas.TIE] * 2 + [None] * 2
    assert [half.values["label"] for half in halves[2:]] == [True, False]
    assert halves[2].values["completion"] == [assistant("R2")]


def test_a_name_with_dots_leads_into_a_column() -> None:
    """For plain pairs too; a column that has the dots in its own name comes first."""
    row = {"data": {"q": "Q", "good": "yes", "bad": "no"}, "data.bad": "never"}
    (found,) = pairs(row, prompt="data.q", chosen="data.good", rejected="data.bad")
    assert found.values == {"prompt": "Q", "chosen": "yes", "rejected": "never"}
    assert found.notes == ()
