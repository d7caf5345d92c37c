"""launcher.store.starts: who may write in a run's folder."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from launcher.runs.run_state import read_facts
from launcher.store import starts
from launcher.store.facts import Attempt, Purpose, Started
from launcher.store.files import append_line, read_fact, write_once
from launcher.store.output_folder import Store
from launcher.store.run_folder import AttemptDir, RunDir
from launcher.store.starts import Start, all_starts, claim, last_start


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return Store(tmp_path).run("r")


def claim_often(path: Path) -> list[str]:
    return [claim(AttemptDir(path), Started(pid=os.getpid())).name for _ in range(10)]


def test_no_two_starts_have_one_number(run: RunDir) -> None:
    """Four processes that take up an attempt ten times each get forty numbers, without a gap; each file is its own."""
    attempt = run.new_attempt(Attempt())
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        names = [name for found in pool.map(claim_often, [attempt.path] * 4) for name in found]
    assert sorted(names) == [f"001.{number:04d}" for number in range(1, 41)]
    assert [start.name for start in all_starts(attempt)] == sorted(names)


def test_the_last_start_of_the_last_attempt_is_valid(run: RunDir) -> None:
    """Attempts count before starts, as numbers; a late start of an older attempt is superseded from the beginning."""
    first, second = run.new_attempt(Attempt()), run.new_attempt(Attempt())
    one = claim(first, Started(host="n1"))
    assert not one.is_superseded()
    other = claim(second, Started(host="n2"))
    late = claim(first, Started(host="n3"))
    assert late.name == "001.0002"
    assert (one.is_superseded(), other.is_superseded(), late.is_superseded()) == (True, False, True)
    later = one.later()
    assert later is not None
    assert (later.name, later.fact.host) == ("002.0001", "n2")
    found = last_start(first)
    assert found is not None
    assert found.fact.host == "n3"


def test_ten_thousand_starts_are_in_order(run: RunDir) -> None:
    """Names are compared as numbers, also where they have outgrown their digits."""
    attempt = run.new_attempt(Attempt())
    for number in (9999, 10000):
        write_once(run.starts / f"001.{number:04d}.json", Started())
    assert claim(attempt, Started()).name == "001.10001"
    assert Start(run.starts / "001.9999.json").is_superseded()


def test_training_and_evaluation_do_not_supersede_each_other(run: RunDir) -> None:
    """A job that evaluates takes nothing from the one that trains."""
    training, evaluation = run.new_attempt(Attempt()), run.new_attempt(Attempt(purpose=Purpose.EVALUATION))
    trains, evaluates = claim(training, Started()), claim(evaluation, Started())
    assert evaluates.name == "002.evaluation.0001"
    assert not trains.is_superseded()
    assert claim(training, Started()).name == "001.0002"
    assert trains.is_superseded()
    assert not evaluates.is_superseded()
    assert claim(evaluation, Started()).order > evaluates.order
    assert evaluates.is_superseded()


def test_who_lost_its_folder_is_superseded(run: RunDir) -> None:
    """Its name may be somebody else's by now: the run's folder was removed, and the run launched again."""
    start = claim(run.new_attempt(Attempt()), Started(host="n1"))
    run.path.rename(run.path.with_name("elsewhere"))
    assert start.is_superseded()
    again = claim(Store(run.path.parent.parent).run("r").new_attempt(Attempt()), Started(host="n2"))
    assert again.name == start.name
    assert start.is_superseded()
    assert not again.is_superseded()
    shutil.rmtree(run.path)


def test_what_an_older_version_recorded_is_the_first_start(run: RunDir) -> None:
    """It wrote one started.json in the attempt's folder."""
    attempt = run.new_attempt(Attempt())
    assert last_start(attempt) is None
    write_once(attempt.started_file, {"host": "n1", "pid": 1, "job": None, "time": 1.0})
    assert [start.fact.host for start in all_starts(attempt)] == ["n1"]
    claim(attempt, Started(host="n2"))
    assert [start.fact.host for start in all_starts(attempt)] == ["n1", "n2"]


def test_a_link_whose_answer_was_lost_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS asks again, and is told that the name is there: we were the first all the same; a second writer was not."""
    link = os.link

    def link_and_lose_the_answer(source: Path, target: Path) -> None:
        link(source, target)
        raise FileExistsError(target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", link_and_lose_the_answer)
        assert write_once(tmp_path / "fact.json", {"who": 1})
    assert not write_once(tmp_path / "fact.json", {"who": 2})
    assert read_fact(tmp_path / "fact.json") == {"who": 1}


class Client:
    """A machine's view of a folder on NFS: names made elsewhere show late and in another order.

    Until it changes the folder itself, it answers a listing from what it has seen, and shows of the rest only the
    newest name; a change by itself makes it ask the server. Removals are seen as late.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self._known, self._listdir = folder, set[str](), os.listdir
        opened, unlink = os.open, Path.unlink

        def open_here(path: Path, flags: int, *args: int) -> int:
            descriptor = opened(path, flags, *args)
            if flags & os.O_CREAT:
                self.changed()
            return descriptor

        def unlink_here(path: Path, **how: bool) -> None:
            unlink(path, **how)
            self.changed()

        patch.setattr(starts.os, "open", open_here)
        patch.setattr(Path, "unlink", unlink_here)
        patch.setattr(starts.os, "listdir", self.listdir)

    def changed(self) -> None:
        if self.folder.is_dir():
            self._known = set(self._listdir(self.folder))

    def listdir(self, path: Path) -> list[str]:
        if Path(path) != self.folder:
            return self._listdir(path)
        return sorted(self._known, reverse=True)


@pytest.fixture
def client(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> Client:
    return Client(run.starts, monkeypatch)


def elsewhere(attempt: AttemptDir) -> None:
    """Another machine takes the attempt up, without this one's client seeing anything of it."""
    context = get_context("spawn")
    other = context.Process(target=claim, args=(attempt, Started(host="n2")))
    other.start()
    other.join()
    assert other.exitcode == 0


def test_the_fence_holds_where_listings_are_old(run: RunDir, client: Client) -> None:
    """This client still lists a folder without the other start; asked for it, the fence sees it at once."""
    attempt = run.new_attempt(Attempt())
    start = claim(attempt, Started(host="n1"))
    assert not start.is_superseded()
    elsewhere(attempt)
    assert not [name for name in client.listdir(run.starts) if name.startswith("001.0002")]
    assert start.is_superseded()


def test_a_number_that_a_listing_hides_is_not_given_again(run: RunDir, client: Client) -> None:
    """Nor does an old listing let two starts have one number."""
    attempt = run.new_attempt(Attempt())
    claim(attempt, Started(host="n1"))
    elsewhere(attempt)
    assert client.listdir(run.starts) == ["001.0001.json"]
    assert claim(attempt, Started(host="n1")).name == "001.0003"


def test_a_job_that_went_back_and_has_not_begun_again_is_known(run: RunDir) -> None:
    """By the lines of its own requeues, until a start of the next life is there."""
    attempt = run.new_attempt(Attempt())
    claim(attempt, Started(job="7"))
    assert not read_facts(run).put_back
    append_line(attempt.requeue_log, {"step": 2})
    assert read_facts(run).put_back
    claim(attempt, Started(job="7", restart=1))
    assert not read_facts(run).put_back
