"""Where in a row its prompt ends and its answers begin.

Owns: that a prompt which answers repeat, or alone hold, is said once; what of an answer is the user's words.
Must not know: columns, which answer is the better one, files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

from launcher.dataset.messages import Message, Said, as_messages, text_of
from launcher.dataset.speakers import division, ends_asking, ends_in_word

SAME, DIFFERING = "chosen == rejected", "prompts differ"
ASKS = "answer that ends with the user's words"
ECHO = "only one answer begins with the prompt's single word"  # its own word perhaps, or the prompt once more
TURNS = "an answer holds words of the user too, which are trained on"
ALIKE = "answers begin alike"
REPEATED = "prompt repeated in the completion, taken once"


@dataclass(frozen=True)
class Found:
    """A row before it is known whether its data set is text or messages."""

    prompt: Said
    answers: tuple[Said, ...]
    system: str = ""
    fault: str | None = None
    notes: tuple[str, ...] = ()
    given: dict[str, Any] = field(default_factory=dict)

    @property
    def is_messages(self) -> bool:
        """Whether anything in it is messages, or makes it so."""
        return bool(self.system or self.given) or any(isinstance(value, list) for value in (self.prompt, *self.answers))


def beside(prompt: Said, answers: tuple[Said, ...]) -> Found:
    """A prompt in a column of its own, which the answers may repeat."""
    if isinstance(prompt, list) or not any(isinstance(answer, list) for answer in answers):
        return _taken_once(prompt, answers)
    lists = [as_messages(answer, "assistant") for answer in answers]
    shared = _shared(lists) if all(lists) else 0
    if shared:
        return _checked(lists[0][:shared], tuple(each[shared:] for each in lists))
    return _taken_once(as_messages(prompt, "user"), answers) if prompt else _checked(prompt, answers)


def _taken_once(prompt: Said, answers: tuple[Said, ...]) -> Found:
    """The prompt, and the answers behind it: what begins with the prompt does not say it twice."""
    repeating = [_begins(answer, prompt) for answer in answers]
    if not prompt or not any(repeating):
        return _checked(prompt, answers)
    if isinstance(prompt, str) and re.fullmatch(r"\w+", prompt) and not _all_repeat(answers, repeating):
        return replace(_checked(prompt, answers), fault=ECHO)
    pairs = zip(answers, repeating, strict=True)
    behind = tuple(answer[len(prompt) :] if answer and repeats else answer for answer, repeats in pairs)
    found = _checked(prompt, behind)
    return replace(found, notes=(*found.notes, REPEATED))


def _begins(answer: Said, prompt: Said) -> bool:
    """Whether an answer begins with the prompt, and goes on with a word of its own."""
    if not prompt or not answer or type(answer) is not type(prompt) or answer[: len(prompt)] != prompt:
        return False
    return not (isinstance(answer, str) and ends_in_word(answer, len(prompt)))


def _all_repeat(answers: tuple[Said, ...], repeating: list[bool]) -> bool:
    return all(repeats for answer, repeats in zip(answers, repeating, strict=True) if answer)


def apart(chosen: Said, rejected: Said, asked: Said) -> Found:
    """Two completions that hold the prompt, or answer the conversation that stands beside them."""
    if not chosen or not rejected:  # of no use, and nothing to find the prompt by
        return Found(None, (None, None))
    if isinstance(chosen, str) and isinstance(rejected, str):
        if isinstance(asked, list) and asked and asked[-1]["role"] != "assistant":
            return _checked(asked, (chosen, rejected))
        where = division(chosen, rejected)
        fault = SAME if chosen == rejected else DIFFERING if where.differing else None
        notes = (ALIKE,) if where.alike and not fault else ()
        return Found(chosen[: where.place] or None, (chosen[where.place :], rejected[where.place :]), "", fault, notes)
    lists = [as_messages(answer, "assistant") for answer in (chosen, rejected)]
    shared = _shared(lists)
    prompt = lists[0][:shared] if shared else asked
    return _checked(prompt, tuple(each[shared:] for each in lists))


def _shared(lists: list[list[Message]]) -> int:
    """How many messages all lists begin with, one of each left out; of one list with a question, all but the answer."""
    most = min(map(len, lists)) - 1
    if len(lists) == 1:
        return _to_last_answer(lists[0]) if lists[0][0]["role"] in ("system", "user") else 0
    return next((place for place in range(most) if any(each[place] != lists[0][place] for each in lists)), max(0, most))


def _to_last_answer(messages: list[Message]) -> int:
    """The place of the last message, or of the assistant's before it, where the user has the last word."""
    place = len(messages) - 1
    while place > 1 and messages[place]["role"] == "user":
        place -= 1
    return place


def _checked(prompt: Said, answers: tuple[Said, ...]) -> Found:
    """Answers that begin with the user's words are whole conversations, whose prompts differ."""
    asks = any(isinstance(answer, list) and answer and answer[0]["role"] == "user" for answer in answers)
    turns = any(isinstance(answer, list) and any(each["role"] == "user" for each in answer[1:-1]) for answer in answers)
    return Found(prompt, answers, fault=DIFFERING if asks else None, notes=(TURNS,) if turns and not asks else ())


def asks_at_its_end(prompt: Said, answer: Said) -> bool:
    """Whether an answer's last words are the user's, which nobody answers."""
    if isinstance(answer, list) and answer and answer[-1]["role"] in ("user", "system"):
        return True
    return ends_asking(text_of(prompt), text_of(answer))
