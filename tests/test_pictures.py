"""The README's pictures, and the scripts that make them."""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET
from itertools import pairwise
from typing import Any

import pytest
from conftest import REPOSITORY
from PIL import Image

IMAGES = REPOSITORY / "docs/images"
TERMINAL = IMAGES / "terminal.svg"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module that records and draws."""
    pytest.importorskip("pyte")
    monkeypatch.syspath_prepend(REPOSITORY / "tests/pictures")
    monkeypatch.delitem(sys.modules, "terminal", raising=False)
    import terminal

    return terminal


def test_the_terminal_needs_nothing_else() -> None:
    """It is small, runs no script, loads nothing, can stand still, and names no folder of a machine."""
    text = TERMINAL.read_text(encoding="utf-8")
    assert len(text.encode()) < 150_000
    tree = ET.fromstring(text)  # noqa: S314 - our own file
    assert not [each for each in tree.iter() if each.tag in (f"{SVG}script", f"{SVG}image", f"{SVG}foreignObject")]
    names = {each.get("id") for each in tree.iter()}
    assert all(use.get("href", "").removeprefix("#") in names for use in tree.iter(f"{SVG}use"))
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)|/tmp/|/home/|/root/", text)
    assert "@media (prefers-reduced-motion: reduce)" in text
    assert tree.find(f"{SVG}title") is not None


def test_the_report_is_small_and_sharp() -> None:
    """It is less than 300 kB, and wide enough for a README on a screen of two pixels to one."""
    assert (IMAGES / "report.png").stat().st_size < 300_000
    with Image.open(IMAGES / "report.png") as image:
        assert image.width >= 1660


def test_a_long_answer_is_played_faster_and_a_short_one_as_it_came(terminal: Any) -> None:
    """Each frame keeps its place in its answer; of many in a moment the last one of the answer is always there."""
    one, two = (((0, text, terminal.FOREGROUND, False),) for text in ("one", "two"))
    long = [terminal.Frame(float(second), ((), one if second % 2 else two)) for second in range(101)]
    typed = [terminal.Frame(0.0, (one, ())), terminal.Frame(0.05, (two, ()))]
    film = terminal.played([[terminal.Frame(0.0, ((), ()))], typed, long])
    begun = terminal.THOUGHT_SECONDS + 2 * terminal.KEY_SECONDS
    assert film[-1].at == pytest.approx(begun + terminal.ANSWER_SECONDS)
    assert film[-1].lines == long[-1].lines
    waits = [after.at - before.at for before, after in pairwise(film[3:-1])]
    assert min(waits) >= terminal.BETWEEN_SECONDS
    short = terminal.played([[terminal.Frame(0.0, ((), ()))], typed, long[:6]])
    assert short[-1].at == pytest.approx(begun + 5.0)


def test_each_frame_shows_its_lines(terminal: Any) -> None:
    """Whatever is shared between frames: what a frame's group refers to is its screen, row by row."""
    lines = [((0, f"line {number} <&>", terminal.FOREGROUND, number == 2),) for number in range(4)]
    screens = [(lines[0], (), lines[1]), (lines[0], (), lines[2]), (lines[0], lines[3], lines[2])]
    screens += [(lines[0], lines[3], lines[2]), (lines[3], (), ())]
    frames = [terminal.Frame(float(at), screen) for at, screen in enumerate(screens)]
    tree = ET.fromstring(terminal.svg(frames))  # noqa: S314 - our own text
    named = {each.get("id"): each for each in tree.iter() if each.get("id")}

    def shown(element: Any, row: int = 0) -> dict[int, str]:
        found: dict[int, str] = {}
        for child in element:
            if child.tag == f"{SVG}use":
                found |= shown(named[child.get("href")[1:]], row + int(child.get("y")) // terminal.LINE)
            else:
                found[row] = "".join(child.itertext())
        return found

    film = next(each for each in tree.iter() if each.get("class") == "film")
    told = [shown(group) for group in film]
    assert told == [{row: line[0][1] for row, line in enumerate(screen) if line} for screen in screens]


def test_a_real_terminal_is_recorded(terminal: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bash answers what is typed, in colour; the folder's path is left out."""
    monkeypatch.setattr(terminal, "COMMANDS", ("printf '\\033[32m%s\\033[0m   \\n' $PWD/green",))
    *_, answered = terminal.recorded()
    shown = [segment for line in answered[-1].lines for segment in line]
    assert (0, "green", terminal.COLOURS["green"], False) in shown
    assert shown[-1][1] == terminal.PROMPT
