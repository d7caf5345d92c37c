"""Asks a judge, and keeps every word that it was paid for. The only importer of the `openai` client.

Owns: requests to the endpoint, what is repeated and what counts as an end, `judgements.jsonl`.
Must not know: which runs there are, what is printed, where questions come from.

A judgement is known by what was asked of whom: the hash of judge, sampling settings and messages, and its number among
the repeats. One whose rating can be read is never asked for again. Its line is appended by the thread that received
it, before anything else: a crash loses only requests that nobody has answered yet.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from launcher.config import Judge
from launcher.errors import UNSAID, ConfigError, JudgeError, PrefsweepError
from launcher.evaluation.mt_bench import Messages, rating_in
from launcher.machine.installed import package_dir
from launcher.store.files import Plain, append_line, read_lines

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types.chat import ChatCompletion, ChatCompletionMessageParam

CHARACTERS_PER_TOKEN = 4  # of English text, roughly: only the estimate before judging rests on it
VERDICT_TOKENS = 250  # a usual verdict's length, for the estimate
REFUSALS_IN_A_ROW = 5  # so many requests refused, and not one accepted: it is not the texts that are wrong
TICK_SECONDS = 1.0

Progress = Callable[["Spent", int], None]


@dataclass(frozen=True)
class Ask:
    """One judgement to be had: what to ask, and where its line goes."""

    log: Path
    question_id: int
    turn: int
    repeat: int
    answer: str
    messages: Messages

    def key(self, judge: Judge) -> str:
        """Says who is asked what."""
        asked = [judge.model, judge.temperature, judge.max_tokens, self.messages]
        return hashlib.sha256(json.dumps(asked, ensure_ascii=False).encode()).hexdigest()[:24]


@dataclass
class Spent:
    """What a round of judging has come to."""

    judged: int = 0
    calls: int = 0
    unparsable: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def add(self, line: Plain) -> None:
        """Count one answer of the judge."""
        self.calls += 1
        self.prompt_tokens += line["usage"]["prompt_tokens"]
        self.completion_tokens += line["usage"]["completion_tokens"]


# ------------------------------------------------------------------------------------------------ what is there


def said(logs: Iterable[Path]) -> dict[tuple[Path, str, int], list[Plain]]:
    """The stored lines of each judgement, by its log, key and repeat."""
    found: dict[tuple[Path, str, int], list[Plain]] = {}
    for log in dict.fromkeys(logs):
        for line in read_lines(log):
            found.setdefault((log, line["key"], line["repeat"]), []).append(line)
    return found


def ratings_of(lines: Iterable[Plain]) -> list[float]:
    """The ratings in stored verdicts, read by today's rule, whatever was read from them when they came."""
    return [rating for line in lines if (rating := rating_in(line["verdict"])) is not None]


def open_asks(asks: Sequence[Ask], judge: Judge, *, again: bool = False) -> list[tuple[Ask, int]]:
    """The judgements that are missing, each with the tries that it has left.

    Args:
        asks: all that are wanted.
        judge: who is asked.
        again: whether what was unparsable too often gets its tries anew.
    """
    known, missing = said(ask.log for ask in asks), []
    for ask in asks:
        lines = known.get((ask.log, ask.key(judge), ask.repeat), [])
        left = 1 + judge.unparsable_retries - (0 if again else len(lines))
        if left > 0 and not ratings_of(lines):
            missing.append((ask, left))
    return missing


def estimate(asks: Iterable[tuple[Ask, int]], judge: Judge) -> tuple[int, int, int]:
    """Calls, prompt tokens and completion tokens that these will need, roughly, if every verdict is readable."""
    characters = [sum(len(message["content"]) for message in ask.messages) for ask, _ in asks]
    verdict = min(VERDICT_TOKENS, judge.max_tokens or VERDICT_TOKENS)
    return len(characters), sum(characters) // CHARACTERS_PER_TOKEN, len(characters) * verdict


# ------------------------------------------------------------------------------------------------ asking


def require_judge(judge: Judge) -> str:
    """The key for the judge's endpoint.

    Raises:
        ConfigError: no judge is named, its client is not installed, or its key is not in the environment.
    """
    for key in ("base_url", "model"):
        if getattr(judge, key) is None:
            raise ConfigError(
                f"evaluation.judge.{key}", UNSAID, f"has no value, so nobody can judge; give evaluation.judge.{key}=..."
            )
    if package_dir("openai") is None:
        raise ConfigError(
            "evaluation.judge", UNSAID, "its client is not installed here; pip install 'prefsweep[judge]'"
        )
    if judge.key_env is None:
        return "none"
    if not os.environ.get(judge.key_env):
        raise ConfigError(
            "evaluation.judge.key_env",
            judge.key_env,
            "not set in the environment; export it, or give "
            "evaluation.judge.key_env=null for an endpoint that needs no key",
        )
    return os.environ[judge.key_env]


def ask_all(asks: Sequence[tuple[Ask, int]], judge: Judge, progress: Progress) -> Spent:
    """Have these judged, several at a time; each verdict is on disk when this returns or raises.

    Raises:
        ConfigError: the endpoint knows neither key nor model, or understands no request.
        JudgeError: it cannot be reached, or breaks down, however often it is asked.
    """
    with _panel(judge) as panel, ThreadPoolExecutor(judge.concurrency, "judge") as pool:
        waiting: set[Future[None]] = {pool.submit(panel.judge, ask, tries) for ask, tries in asks}
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=TICK_SECONDS, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                progress(panel.spent, len(asks))
        except BaseException:  # Ctrl-C too: what is in flight is still received and kept
            panel.closed = True
            pool.shutdown(cancel_futures=True)
            raise
    return panel.spent


def probe(judge: Judge, messages: Messages) -> None:
    """Ask the judge once, for nothing that is kept.

    Raises:
        ConfigError: the endpoint knows neither key nor model, or understands no request.
        JudgeError: it cannot be reached.
    """
    with _panel(judge) as panel:
        panel.probe(messages)


@contextmanager
def _panel(judge: Judge) -> Iterator[_Panel]:
    from openai import OpenAI

    key, url = require_judge(judge), urlsplit(judge.base_url or "")
    address, query = urlunsplit(url._replace(query="")), dict(parse_qsl(url.query))  # which belongs behind each path
    patience: dict[str, Any] = {"max_retries": judge.retries, "timeout": judge.timeout}
    with OpenAI(base_url=address, default_query=query, api_key=key, **patience) as client:
        yield _Panel(judge, client, key if judge.key_env else "")


class _Panel:
    """The judge and its client; used by several threads."""

    def __init__(self, judge: Judge, client: OpenAI, secret: str) -> None:
        self.settings, self.client, self.secret = judge, client, secret
        self.spent, self.closed = Spent(), False
        self.refused = 0
        self.lock = threading.Lock()

    def judge(self, ask: Ask, tries: int) -> None:
        """Ask until the rating can be read, `tries` times at most."""
        for _ in range(tries):
            if self.closed:
                return
            line = self._line(ask)
            with self.lock:
                append_line(ask.log, line)
                self.spent.add(line)
            if line["rating"] is not None:
                break
        with self.lock:
            self.spent.judged += 1
            self.spent.unparsable += line["rating"] is None

    def probe(self, messages: Messages) -> None:
        """Ask once, and forget the answer."""
        import openai

        try:
            self._request(messages)
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            words = self._words(error)
            raise ConfigError("evaluation.judge.model", self.settings.model, f"takes no request: {words}") from error
        except openai.OpenAIError as error:
            raise self._explained(error) from error

    def _line(self, ask: Ask) -> Plain:
        """Ask once; what the judge said, or why it would not, as a line of the log."""
        import openai

        try:
            answer = self._request(ask.messages)
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            return self._refusal(ask, error)
        except openai.OpenAIError as error:
            raise self._explained(error) from error
        self.refused = -1
        choice = answer.choices[0] if answer.choices else None
        verdict = _printable((choice.message.content if choice else None) or "")
        return self._record(ask, verdict, rating_in(verdict)) | {
            "finish": choice and choice.finish_reason,
            "served_model": answer.model,
            "usage": {name: getattr(answer.usage, name, 0) or 0 for name in ("prompt_tokens", "completion_tokens")},
        }

    def _request(self, messages: Messages) -> ChatCompletion:
        settings = {"temperature": self.settings.temperature, "max_tokens": self.settings.max_tokens}
        sent: dict[str, Any] = {name: value for name, value in settings.items() if value is not None}
        asked = cast("list[ChatCompletionMessageParam]", messages)
        model = self.settings.model or ""
        answer: ChatCompletion = self.client.chat.completions.create(model=model, messages=asked, **sent)
        return answer

    def _record(self, ask: Ask, verdict: str, rating: float | None) -> Plain:
        judge, (system, user) = self.settings, ask.messages
        return {
            "key": ask.key(judge),
            "question_id": ask.question_id,
            "turn": ask.turn,
            "repeat": ask.repeat,
            "rating": rating,
            "judge": judge.model,
            "base_url": judge.base_url,
            "temperature": judge.temperature,
            "prompt_hash": hashlib.sha256(f"{system['content']}\0{user['content']}".encode()).hexdigest(),
            "system": system["content"],
            "prompt": user["content"],
            "answer": ask.answer,
            "verdict": verdict,
            "time": time.time(),
        }

    def _refusal(self, ask: Ask, error: Exception) -> Plain:
        """A text that the endpoint will not take (too long, filtered): a judgement without a rating, not an end."""
        with self.lock:
            self.refused += self.refused >= 0
            if self.refused >= REFUSALS_IN_A_ROW:
                raise ConfigError(
                    "evaluation.judge.model", self.settings.model, f"takes no request: {self._words(error)}"
                )
        usage = {"prompt_tokens": 0, "completion_tokens": 0}
        return self._record(ask, "", None) | {"finish": "refused", "error": self._words(error), "usage": usage}

    def _explained(self, error: Exception) -> PrefsweepError:
        import openai

        judge, words = self.settings, self._words(error)
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            return ConfigError("evaluation.judge.key_env", judge.key_env, f"{judge.base_url} refuses that key: {words}")
        if isinstance(error, openai.NotFoundError):
            return ConfigError("evaluation.judge.model", judge.model, f"not found at {judge.base_url}: {words}")
        tries = judge.retries + 1
        return JudgeError(f"{judge.base_url}: gave no verdict in {tries} tries ({words}); the same command goes on")

    def _words(self, error: Exception) -> str:
        """What the endpoint said, on one line, without the key, which some repeat."""
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        text = " ".join(f"{error}{cause}".split())
        return _printable(text.replace(self.secret, "***") if self.secret else text)[:300]


def _printable(text: str) -> str:
    """The text less lone surrogates, which JSON can carry and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode("utf-8")
