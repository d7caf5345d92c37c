"""launcher.evaluation.judge: the real client against a loopback endpoint that misbehaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import clean_environment
from judge_server import Judge as Server
from judge_server import judge_server, rule
from waiting import LONGEST_WAIT

from launcher.config import Judge
from launcher.errors import ConfigError, JudgeError
from launcher.evaluation import judge as judging
from launcher.evaluation.judge import Ask, Spent, ask_all, estimate, open_asks, require_judge
from launcher.store.files import read_lines

__all__ = ["judge_server"]
KEY = "sk-very-secret-0123456789"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)


def judge_at(server: Server, **changes: object) -> Judge:
    settings = {"base_url": server.url, "model": "rule", "key_env": "JUDGE_KEY", "retries": 4, "timeout": 20.0}
    return Judge(**{**settings, **changes})  # type: ignore[arg-type]


def asks_for(log: Path, count: int = 6, repeats: int = 1) -> list[Ask]:
    """Asks for ratings of made-up answers."""
    answers = [f"answer {number}" for number in range(count)]
    user = "[The Start of Assistant's Answer]\n{}\n[The End of Assistant's Answer]"
    return [
        Ask(
            log,
            number,
            1,
            repeat,
            answer,
            [{"role": "system", "content": "S"}, {"role": "user", "content": user.format(answer)}],
        )
        for number, answer in enumerate(answers)
        for repeat in range(repeats)
    ]


def ask(asks: list[Ask], judge: Judge, *, again: bool = False) -> Spent:
    return ask_all(open_asks(asks, judge, again=again), judge, lambda *_: None)


def rated(log: Path) -> dict[int, list[float | None]]:
    found: dict[int, list[float | None]] = {}
    for line in read_lines(log):
        found.setdefault(line["question_id"], []).append(line["rating"])
    return found


def test_every_judgement_is_the_rules(judge_server: Server, tmp_path: Path) -> None:
    """Each answer gets the rating that the rule gives it; each line holds all that was asked and said, and no key."""
    log, judge = tmp_path / "judgements.jsonl", judge_at(judge_server)
    spent = ask(asks_for(log), judge)
    assert rated(log) == {number: [float(rule(f"answer {number}"))] for number in range(6)}
    assert (spent.judged, spent.calls, spent.prompt_tokens, spent.completion_tokens) == (6, 6, 600, 60)
    line = read_lines(log)[0]
    assert (line["judge"], line["served_model"], line["base_url"]) == ("rule", "rule-2026", judge_server.url)
    assert line["answer"] in line["prompt"]
    assert "Rating: [[" in line["verdict"]
    assert len(line["prompt_hash"]) == 64
    assert judge_server.keys == {f"Bearer {KEY}"}
    assert KEY not in log.read_text()
    sent = judge_server.requests[0]
    assert (sent["model"], sent["temperature"], sent["max_tokens"]) == ("rule", 0.0, 2048)


def test_an_address_may_name_a_version_of_its_interface(judge_server: Server, tmp_path: Path) -> None:
    """As Azure's does, behind a question mark: it stays behind the path that is asked for, and in each line."""
    log, judge = tmp_path / "judgements.jsonl", judge_at(judge_server, base_url=f"{judge_server.url}?api-version=v1.2")
    ask(asks_for(log, 2), judge)
    assert judge_server.paths == {"/v1/chat/completions?api-version=v1.2"}
    assert {line["base_url"] for line in read_lines(log)} == {judge.base_url}


def test_asking_again_costs_nothing(judge_server: Server, tmp_path: Path) -> None:
    """What was judged is not open any more; another judge, or one more repeat, opens only what that adds."""
    log, judge = tmp_path / "judgements.jsonl", judge_at(judge_server)
    ask(asks_for(log), judge)
    assert open_asks(asks_for(log), judge) == []
    assert len(open_asks(asks_for(log), judge_at(judge_server, model="other"))) == 6
    assert len(open_asks(asks_for(log, repeats=2), judge)) == 6
    assert estimate(open_asks(asks_for(log, repeats=2), judge), judge) == (6, 6 * 75 // 4, 1500)


@pytest.mark.parametrize("fault", ["429", "500", "503", "cut"])
def test_a_bad_moment_is_waited_out(judge_server: Server, tmp_path: Path, fault: str) -> None:
    """After rate limits, a server's errors and cut connections every rating is there, and each was paid for once."""
    judge_server.faults = [fault] * 3
    log = tmp_path / "judgements.jsonl"
    spent = ask(asks_for(log), judge_at(judge_server))
    assert rated(log) == {number: [float(rule(f"answer {number}"))] for number in range(6)}
    assert set(judge_server.paid.values()) == {1}
    assert len(judge_server.requests) == 9
    assert spent.calls == 6


def test_a_slow_judge_is_asked_several_things_at_once(judge_server: Server, tmp_path: Path) -> None:
    """As many requests are in flight as `concurrency` says, and never more."""
    judge_server.faults = ["slow"] * 12
    ask(asks_for(tmp_path / "log", 12), judge_at(judge_server, concurrency=4))
    assert judge_server.most_in_flight == 4


def test_garbage_is_asked_again_and_then_counted(judge_server: Server, tmp_path: Path) -> None:
    """A verdict without a rating is kept and asked for again; one that never has a rating is counted, and has none."""
    judge_server.faults = ["garbage", "empty"]
    judge_server.always = {"answer 5": "garbage"}
    log, judge = tmp_path / "judgements.jsonl", judge_at(judge_server, unparsable_retries=2, concurrency=1)
    spent = ask(asks_for(log), judge)
    assert rated(log)[0] == [None, None, float(rule("answer 0"))]
    assert rated(log)[5] == [None, None, None]
    assert (spent.judged, spent.unparsable, spent.calls) == (6, 1, 10)
    assert open_asks(asks_for(log), judge) == []
    judge_server.always = {}
    assert ask(asks_for(log), judge, again=True).calls == 1
    assert rated(log)[5][-1] == rule("answer 5")


def test_strange_characters_lose_nothing(judge_server: Server, tmp_path: Path) -> None:
    """Line separators and lone surrogates in a verdict neither tear its line nor stop its writing."""
    judge_server.faults = ["surrogate", "separator"]
    log = tmp_path / "judgements.jsonl"
    ask(asks_for(log, 2), judge_at(judge_server, concurrency=1))
    assert rated(log) == {0: [3.0], 1: [4.0]}
    assert open_asks(asks_for(log, 2), judge_at(judge_server)) == []


def test_a_refused_text_is_no_end(judge_server: Server, tmp_path: Path) -> None:
    """A text that the endpoint will not take is recorded with its words and counted; the others are judged."""
    judge_server.always = {"answer 2": "400"}
    log = tmp_path / "judgements.jsonl"
    spent = ask(asks_for(log), judge_at(judge_server, unparsable_retries=1))
    refused = [line for line in read_lines(log) if line["question_id"] == 2]
    assert [line["finish"] for line in refused] == ["refused", "refused"]
    assert "made up 400" in refused[0]["error"]
    assert KEY not in log.read_text()
    assert (spent.judged, spent.unparsable) == (6, 1)


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        ("401", ConfigError, "evaluation.judge.key_env=JUDGE_KEY: .* refuses that key"),
        ("404", ConfigError, "evaluation.judge.model=rule: not found at http"),
        ("400", ConfigError, "evaluation.judge.model=rule: takes no request"),
        ("500", JudgeError, "gave no verdict in 2 tries"),
        ("cut", JudgeError, "gave no verdict in 2 tries"),
    ],
)
def test_an_endpoint_that_cannot_judge_ends_it(
    judge_server: Server, tmp_path: Path, fault: str, kind: type[Exception], message: str
) -> None:
    """One line that names what is wrong, without the key that the endpoint repeats; not one line per judgement."""
    judge_server.always = {"": fault}
    judge = judge_at(judge_server, retries=1, unparsable_retries=0)
    with pytest.raises(kind, match=message) as error:
        ask(asks_for(tmp_path / "log", 40), judge)
    assert KEY not in str(error.value)
    assert "\n" not in str(error.value)
    assert len(judge_server.requests) < 40


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_url": None}, r"evaluation\.judge\.base_url: has no value"),
        ({"model": None}, r"evaluation\.judge\.model: has no value"),
        ({"key_env": "NOT_SET"}, r"evaluation\.judge\.key_env=NOT_SET: not set in the environment; export it, or give"),
    ],
)
def test_a_judge_must_be_named(changes: dict[str, None], message: str) -> None:
    """Before anything is sent; an endpoint without keys is said to have none."""
    with pytest.raises(ConfigError, match=message):
        require_judge(Judge(**{"base_url": "http://x", "model": "m", "key_env": "JUDGE_KEY", **changes}))  # type: ignore[arg-type]
    assert require_judge(Judge(base_url="http://x", model="m", key_env=None)) == "none"


def test_a_client_that_is_absent_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line with the remedy, before anything is sent."""
    monkeypatch.setattr(judging, "package_dir", lambda _: None)
    with pytest.raises(ConfigError, match=r"not installed here; pip install 'prefsweep\[judge\]'"):
        require_judge(Judge(base_url="http://x", model="m", key_env=None))


SCRIPT = """
import sys
from pathlib import Path
from test_judging import asks_for
from launcher.config import Judge
from launcher.evaluation.judge import ask_all, open_asks
judge = Judge(base_url=sys.argv[2], model="rule", key_env="JUDGE_KEY", concurrency=3)
ask_all(open_asks(asks_for(Path(sys.argv[1]), 20), judge), judge, lambda *_: None)
"""


def test_kill_9_and_go_on(judge_server: Server, tmp_path: Path) -> None:
    """Killed in the middle, the next call asks only for the rest: the server is paid once for each judgement."""
    log, judge = tmp_path / "judgements.jsonl", judge_at(judge_server, concurrency=3)
    judge_server.hold_after = 9
    environment = clean_environment(JUDGE_KEY=KEY)
    environment["PYTHONPATH"] += os.pathsep + str(Path(__file__).parent)
    command = [sys.executable, "-c", SCRIPT, str(log), judge_server.url]
    process = subprocess.Popen(command, env=environment)
    judge_server.holding(3)
    process.send_signal(signal.SIGKILL)
    process.wait(LONGEST_WAIT)
    assert len(read_lines(log)) == 9
    with log.open("a") as file:
        file.write('{"torn": ')  # as a crash may leave it
    judge_server.left_alone()
    judge_server.requests.clear()
    ask(asks_for(log, 20), judge)
    assert sorted(rated(log)) == list(range(20))
    assert all(len(ratings) == 1 for ratings in rated(log).values())
    assert len(judge_server.requests) == 11
    assert set(judge_server.paid.values()) == {1}
    assert all(json.loads(line) for line in log.read_text().splitlines() if "torn" not in line)
