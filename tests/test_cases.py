"""Other people's data, as it was met: each case in tests/cases is trained right, or refused at the plan in one line.

Right are the token ids of a text that is put together here, by hand, from what is written in the files.
"""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_rendering import TEMPLATE
from worker_fixtures import Configure

from launcher.cli.main import main
from launcher.config import Dataset
from launcher.store.output_folder import Store
from launcher.worker.dataset.pairs import tokenise
from launcher.worker.model import weights

CASES = Path(__file__).parent / "cases"
Texts = tuple[str, str, str]  # the prompt, and what follows it in the better and in the other answer
END = "<|im_end|>\n"
BEGINNING = "<|im_start|>assistant\n"


def rows_of(case: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (CASES / case / "train.jsonl").read_text().splitlines()]


def turn(role: str, text: str) -> str:
    return f"<|im_start|>{role}\n{text}{END}"


def asked(question: str, chosen: str, rejected: str, before: str = "") -> Texts:
    return before + turn("user", question) + BEGINNING, chosen + END, rejected + END


def text(row: dict[str, Any]) -> Texts:
    return row["prompt"], row["chosen"], row["rejected"]


def transcript(row: dict[str, Any]) -> Texts:
    prompt, mark, chosen = row["chosen"].rpartition("\n\nAssistant:")
    assert row["rejected"].startswith(prompt + mark)
    return prompt + mark, chosen, row["rejected"].removeprefix(prompt + mark)


def in_parts(row: dict[str, Any]) -> Texts:
    question, chosen, rejected = (row[name][0]["content"][0]["text"] for name in ("prompt", "chosen", "rejected"))
    return asked(question, chosen, rejected)


def with_system(row: dict[str, Any]) -> Texts:
    before = turn("system", row["system"]) if row["system"] else ""
    return asked(row["question"], row["chosen"], row["rejected"], before)


def sharegpt_conversation(row: dict[str, Any]) -> Texts:
    return asked(row["conversations"][0]["value"], row["chosen"]["value"], row["rejected"]["value"])


def sharegpt_messages(row: dict[str, Any]) -> Texts:
    return asked(*(row[name][0]["value"] for name in ("prompt", "chosen", "rejected")))


def single_messages(row: dict[str, Any]) -> Texts:
    return asked(row["prompt"][0]["content"], row["chosen"]["content"], row["rejected"]["content"])


def call(message: dict[str, Any]) -> str:
    return f"<call>{json.dumps(message['tool_calls'][0]['function'])}</call>"


def called(row: dict[str, Any]) -> Texts:
    tools = f"<tools>{json.dumps(json.loads(row['tools']))}</tools>\n"
    return asked(row["prompt"][0]["content"], call(row["chosen"][0]), call(row["rejected"][0]), tools)


def answered_after_call(row: dict[str, Any]) -> Texts:
    question, request, answer = row["prompt"]
    before = turn("user", question["content"]) + turn("assistant", call(request))
    before += turn(f"tool {answer['name']}", answer["content"])
    return before + BEGINNING, row["chosen"][0]["content"] + END, row["rejected"][0]["content"] + END


TRAINED: dict[str, Callable[[dict[str, Any]], Texts]] = {
    "content-parts": in_parts,
    "hh-plain-text": transcript,
    "lone-surrogate": text,
    "orca-system-column": with_system,
    "reviews": text,
    "sharegpt-conversations": sharegpt_conversation,
    "sharegpt-messages": sharegpt_messages,
    "single-message-answers": single_messages,
    "tool-calls-answers": called,
    "tool-calls-history": answered_after_call,
}
PLAIN = ("hh-plain-text", "lone-surrogate", "reviews")  # without a chat template, and with an end of text
CUT = 5  # the row of lone-surrogate that ends within a character


def encoded(rows: list[dict[str, Any]]) -> dict[str, bytes]:
    """The forms in which the same rows were met, by their file's ending."""
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    return {"bom.jsonl": b"\xef\xbb\xbf" + lines.encode(), "utf16.jsonl": lines.encode("utf-16"),
            "packed.jsonl.gz": gzip.compress(lines.encode()), "one-line.json": json.dumps(rows).encode(),
            "pretty.json": json.dumps(rows, indent=1).encode()}  # fmt: skip


def expected(tokens: Any, case: str, rows: list[dict[str, Any]]) -> list[tuple[list[int], ...]]:
    """The ids of the prompt's text, and those behind it of the prompt's and each answer's text."""
    found = []
    for prompt, *answers in map(TRAINED[case], rows):
        end = tokens.eos_token if case in PLAIN else ""
        ids = tokens(prompt, add_special_tokens=case in PLAIN)["input_ids"]
        whole = [tokens(prompt + answer + end, add_special_tokens=case in PLAIN)["input_ids"] for answer in answers]
        assert all(each[: len(ids)] == ids for each in whole)
        found.append((ids, *(each[len(ids) :] for each in whole)))
    return found


def check(case: str, folder: Path, configure: Configure, store: Store) -> dict[str, int]:
    """Compare the ids that a job trains on with those by hand; what it has left out, for each reason."""
    template = {} if case in PLAIN else {"model__chat_template": TEMPLATE}
    mapped = [{"prompt": "question"}] if case == "orca-system-column" else []  # does no harm where it is known
    for mapping in ({}, *mapped):
        dataset = Dataset(name=case, path=str(folder), columns=mapping)
        config = configure(dataset=dataset, trainer__max_length=4096, **template)
        pairs = tokenise(config, store)
        rows = [row for number, row in enumerate(rows_of(case)) if (case, number) != ("lone-surrogate", CUT)]
        by_hand = expected(weights.tokenizer(config.model, store), case, rows)
        assert [(row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]) for row in pairs.train] == by_hand
    return pairs.dropped


@pytest.mark.parametrize("case", TRAINED)
def test_a_case_is_trained_right(case: str, configure: Configure, store: Store) -> None:
    """Nothing is dropped but what is half a character, and that is counted."""
    dropped = check(case, CASES / case, configure, store)
    assert dropped == ({"half a character (a lone surrogate)": 1} if case == "lone-surrogate" else {})


@pytest.mark.parametrize("form", encoded([]))
def test_a_form_of_file_is_trained_right(form: str, configure: Configure, store: Store, tmp_path: Path) -> None:
    """Arrays, compressed lines, other encodings and marks: the same ids."""
    folder = tmp_path / "data"
    folder.mkdir()
    for split in ("train", "test"):
        (folder / f"{split}.{form.split('.', 1)[1]}").write_bytes(encoded(rows_of("reviews"))[form])
    assert check("reviews", folder, configure, store) == {}


@pytest.mark.parametrize("case", TRAINED)
def test_a_case_is_planned_or_refused_in_one_line(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Calls of tools need a template that shows them: without one exit 2, with one the plan is as of the others."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(CASES / case, "data")
    Path("template.jinja").write_text(TEMPLATE)
    words = ["model=tiny", "dataset=./data", "trainer.max_length=256", "loss_type=ipo", "beta=0.1", "dry_run=true"]
    if case.startswith("tool-calls"):
        assert main(words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("prefsweep: model.chat_template: row 1 of those that can be used has tool")
        words.append("model.chat_template=./template.jinja")
    assert main(words) == 0
    assert ("1 of 6 rows are left out: 1 half a character" in capsys.readouterr().err) is (case == "lone-surrogate")


def test_every_case_is_held() -> None:
    """Each folder of tests/cases has a rendering by hand."""
    assert {path.name for path in CASES.iterdir()} == TRAINED.keys()
