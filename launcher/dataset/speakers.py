"""Where the prompt ends in two texts that both begin with it.

Owns: the marks by which texts say who speaks; that no word is cut.
Must not know: rows, columns, messages.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from dataclasses import dataclass

# Who asks and who answers, as data sets name them at the beginning of a line or behind a space, and as templates do.
ASKING = r"Human|HUMAN|User|USER|Question|QUESTION|Q|Instruction|Input"
ANSWERING = r"Assistant|ASSISTANT|AI|Bot|BOT|Chatbot|GPT|Model|Answer|ANSWER|A|Response|Output"
MARK = re.compile(
    rf"(?:(?<!\S)(?:\#+[ ])?(?:(?P<asking>{ASKING})|(?P<answering>{ANSWERING}))[ ]?:)"
    r"|(?P<asks><\|(?:user|prompter|User)\|>|<\|im_start\|>user\n|<start_of_turn>user\n|\[INST\]"
    r"|<\|start_header_id\|>user<\|end_header_id\|>)"
    r"|(?P<answers><\|(?:assistant|Assistant)\|>|<\|im_start\|>assistant\n|<start_of_turn>model\n|\[/INST\]"
    r"|<\|start_header_id\|>assistant<\|end_header_id\|>)"
)


@dataclass(frozen=True)
class Division:
    """Where two texts part.

    Attributes:
        place: how many characters are prompt; 0: none.
        differing: whether they part in what the asking side says, so that the prompts differ.
        alike: whether the answers begin alike: the texts go on together behind the prompt.
    """

    place: int
    differing: bool = False
    alike: bool = False


def division(one: str, other: str) -> Division:
    """Where the prompt ends: at the last mark of who answers that both have, else where the texts part, at a word."""
    common = common_beginning(one, other)
    marks = list(MARK.finditer(common))
    answering = [mark for mark in marks if mark["answering"] or mark["answers"]]
    known = [mark for mark in answering if mark["answers"] or any(_asks(before, mark) for before in marks)]
    asked_again = bool(known) and _asks(marks[-1]) and marks[-1].start() > known[-1].start()
    if asked_again or (not known and marks and any(_answers_a_question(text) for text in (one, other))):
        return Division(0, differing=True)
    place = _behind(common, known[-1].end()) if known else _at_a_word(one, other, len(common))
    return Division(place, alike=bool(common[place:].strip()))


def common_beginning(one: str, other: str) -> str:
    """What two texts begin with."""
    return one[: _parting(one, other)]


def ends_asking(prompt: str, answer: str) -> bool:
    """Whether the last mark in an answer is one by which the prompt, which ends where the answer begins, asks."""
    marks = list(MARK.finditer(prompt))
    if not marks or _asks(marks[-1]) or prompt[marks[-1].end() :].strip():
        return False
    in_lines = prompt[: marks[-1].start()].endswith("\n") or marks[-1].start() == 0
    last = next(reversed(list(MARK.finditer(answer))), None)
    if last is None or not _asks(last) or last.group() not in {mark.group() for mark in marks}:
        return False
    return bool(last["asks"]) or not in_lines or answer[: last.start()].endswith("\n")


def _parting(one: str, other: str) -> int:
    """The first place at which two texts differ, by halving."""
    least, most = 0, min(len(one), len(other))
    while least < most:
        middle = (least + most + 1) // 2
        if one[least:middle] == other[least:middle]:
            least = middle
        else:
            most = middle - 1
    return least


def _answers_a_question(text: str) -> bool:
    marks = list(MARK.finditer(text))
    return any(_asks(one) and not _asks(other) for one, other in itertools.pairwise(marks))


def _asks(mark: re.Match[str], answer: re.Match[str] | None = None) -> bool:
    """Whether a mark is that of who asks, and stands before an answer's."""
    return bool(mark["asking"] or mark["asks"]) and (answer is None or mark.start() < answer.start())


def _behind(common: str, end: int) -> int:
    """Behind a mark and the space that both have there, but for one that belongs to the answer's first word."""
    while end < len(common) and common[end].isspace():
        end += 1
    return end - 1 if common[end - 1] == " " else end


def _at_a_word(one: str, other: str, place: int) -> int:
    if any(ends_in_word(text, place) for text in (one, other)):
        while place and _is_of_word(one[place - 1]):
            place -= 1
    return place - 1 if one[place - 1 : place] == " " and place else place


def ends_in_word(text: str, place: int) -> bool:
    """Whether a cut there would go through a word."""
    return 0 < place < len(text) and _is_of_word(text[place - 1]) and _is_of_word(text[place])


def _is_of_word(character: str) -> bool:
    return character.isalnum() or character in "_'\u2019-" or unicodedata.category(character).startswith("M")
