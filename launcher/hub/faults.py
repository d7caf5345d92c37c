"""How the Hub is asked: again while a fault passes, not for long where nothing answers, and what of it may be told.

Owns: which faults pass, how long they are waited out, errors as one line without secrets.
Must not know: what is asked for.

A compute node may have no way to the internet at all. So where nothing has answered this process yet, it does not wait
for `hub.patience`, while its GPUs idle, but for SILENCE_SECONDS; for each further question it then knocks only once.
An answer, an error too, ends that for good.
"""

from __future__ import annotations

import json
import logging
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from typing import Any

from launcher.config import Hub
from launcher.errors import PublishError

LOG = logging.getLogger(__name__)
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds; the pause is drawn below a bound that doubles from one to the other
CONNECT_SECONDS = 30.0
SILENCE_SECONDS, KNOCK_SECONDS = 60.0, 10.0  # for the first answer of all; for one connection that is to bring it
PASSING = frozenset({
    HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.PRECONDITION_FAILED, HTTPStatus.TOO_EARLY,
    HTTPStatus.TOO_MANY_REQUESTS,
})  # fmt: skip
_ADVICE = re.compile(r"For more information check: \S+")
_SIGNED = re.compile(r"(https?://[^\s?'\"]+)\?[^\s'\"]*")


class Overtaken(Exception):
    """Another process was quicker; what is there now is to be looked at, and decided upon anew."""


def never() -> bool:
    """Not to give up before patience runs out."""
    return False


@dataclass(frozen=True)
class Persistence:
    """Asks until there is an answer.

    Attributes:
        hub: whose timeout and patience hold.
        name: what it is about, for messages.
        remedy: what to tell, besides, where nothing answers at all.
        stop: whether to give up between two tries.
    """

    hub: Hub
    name: str
    remedy: str = ""
    stop: Callable[[], bool] = never

    def __call__(self, work: Callable[[], Any]) -> Any:
        """What `work` returns, tried again while its faults pass.

        Raises:
            PublishError: any other fault, or patience has run out.
        """
        import tenacity

        try:
            _be_careful(self.hub.timeout)
            self._find_way()
            return self._tries(passes, tenacity.stop_after_delay(self.hub.patience))(work)
        except PublishError:
            raise
        except Exception as error:  # noqa: BLE001 - the client's, the network's, the server's: there are many families
            raise PublishError(f"{self.name}: {told(error)}") from None

    def _find_way(self) -> None:
        """Have something answer this process once.

        Raises:
            PublishError: nothing does.
        """
        import httpx2

        end = _silence_ends(min(SILENCE_SECONDS, self.hub.patience))
        try:
            self._tries(is_silence, lambda state: time.monotonic() + state.upcoming_sleep >= end)(knock)
        except httpx2.TransportError as error:
            why = f"no way to the Hub from {socket.gethostname()} ({told(error)})"
            raise PublishError(f"{self.name}: {why}{self.remedy}") from None

    def _tries(self, passing: Callable[[BaseException], bool], enough: Callable[[Any], bool]) -> Any:
        """What calls a function again while its faults are passing ones, and it is not enough."""
        import tenacity

        return tenacity.Retrying(
            retry=tenacity.retry_if_exception(passing),
            wait=pause,
            stop=lambda state: self.stop() or enough(state),
            before_sleep=self._say,
            reraise=True,
        )

    def _say(self, state: Any) -> None:
        LOG.warning("%s: again in %.0f s: %s", self.name, state.next_action.sleep, told(state.outcome.exception()))


def passes(error: BaseException) -> bool:
    """Whether a fault is one that goes away by itself: contention, quota, the server's or the network's trouble."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, Overtaken):
        return True
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return status in PASSING or status >= HTTPStatus.INTERNAL_SERVER_ERROR
    if isinstance(error, (OfflineModeIsEnabled, httpx2.LocalProtocolError, httpx2.UnsupportedProtocol)):
        return False
    # A server in trouble answers with a page where JSON was expected.
    if isinstance(error, (httpx2.TransportError, json.JSONDecodeError, ConnectionError, TimeoutError)):
        return True
    return error.__cause__ is not None and passes(error.__cause__)  # an upload's fault comes wrapped


def is_silence(error: BaseException) -> bool:
    """Whether no connection came about: no route, no name, nobody there, or a proxy that does not let us through."""
    import httpx2

    return isinstance(error, (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError))


@cache
def _silence_ends(seconds: float) -> float:
    """When the process, which knocks for the first time, will have waited so long for an answer."""
    return time.monotonic() + seconds


@cache
def knock() -> None:
    """Ask the Hub for anything; once it has answered, the process asks no more.

    Raises:
        httpx2.TransportError: no connection came about. What else may be wrong, the first question in earnest will say.
    """
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=KNOCK_SECONDS)
    except Exception as error:
        if is_silence(error):
            raise


def pause(state: Any) -> float:
    """Seconds until the next try: random, so that runs that collided do not again; longer where the Hub asks for it."""
    import tenacity

    drawn = tenacity.wait_random_exponential(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE)(state)
    headers = getattr(getattr(state.outcome.exception(), "response", None), "headers", {})
    asked = str(headers.get("Retry-After", ""))
    return float(drawn) + (float(asked) if asked.isdecimal() else 0.0)


def told(error: BaseException) -> str:
    """An error as one line that holds neither a token nor the signature of an address."""
    from huggingface_hub import get_token

    text = "the answer was no JSON" if isinstance(error, json.JSONDecodeError) else str(error)
    if type(error) is RuntimeError and error.__cause__ is not None:  # an upload's fault comes wrapped
        text += f" {error.__cause__}"
    text = _SIGNED.sub(r"\1", " ".join(_ADVICE.sub("", text).split())) or type(error).__name__
    token = get_token()
    return text.replace(token, "***") if token else text


@cache
def _be_careful(seconds: float) -> None:
    """Set huggingface_hub a time limit on answers, which it has not; silence it, for its warnings tell secrets."""
    import httpx2
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils import disable_progress_bars, logging  # type: ignore[attr-defined]
    from huggingface_hub.utils._http import default_client_factory  # public under no name; it has the hooks

    def factory() -> httpx2.Client:
        client = default_client_factory()
        client.timeout = httpx2.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS))
        return client

    logging.get_logger("huggingface_hub").setLevel("ERROR")
    disable_progress_bars()
    set_client_factory(factory)
