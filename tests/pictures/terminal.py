"""docs/images/terminal.svg: a real sweep in a real terminal, recorded and played by CSS alone.

    python tests/pictures/terminal.py docs/images/terminal.svg

Bash runs in a pseudo-terminal, in an empty folder; the commands are typed into it, and all that it shows is recorded.
An answer that took longer than ANSWER_SECONDS is played that much faster. Paths of this machine are left out.
"""

from __future__ import annotations

import argparse
import fcntl
import html
import os
import pty
import re
import select
import signal
import struct
import sys
import tempfile
import termios
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pyte

REPOSITORY = Path(__file__).parents[2]
COMMANDS = (
    "python -m launcher -m +sweeps=smoke",
    "python -m launcher -m +sweeps=smoke beta=0.1,0.5,0.9   # only what is missing",
)
PROMPT = "$"
COLUMNS, ROWS = 112, 33
THOUGHT_SECONDS = 0.8  # before a command is typed
KEY_SECONDS = 0.05  # between two keys
ANSWER_SECONDS = 10.0  # in which an answer is played, at most
READ_SECONDS = 3.0  # after an answer
END_SECONDS = 8.0  # of the last frame, before it begins again
BETWEEN_SECONDS = 0.15  # two frames of an answer, at least
COMMAND_SECONDS = 900.0  # a command must have ended within
TOGETHER_SECONDS = 0.02  # what comes within is one frame

FONT, ADVANCE, LINE, MARGIN, BAR = 14, 8.43, 19, 16, 34  # pixels
BACKGROUND, FOREGROUND, FRAME = "#161b22", "#d8dee6", "#3d444d"
COLOURS = {
    "black": "#6e7681", "red": "#ff7b72", "green": "#56d364", "brown": "#e3b341", "yellow": "#e3b341",
    "blue": "#79c0ff", "magenta": "#d2a8ff", "cyan": "#76e3ea", "white": "#d8dee6",
}  # fmt: skip

PADDING = re.compile(rb"(?: |\x1b\[[0-9;]*m)+(?=\r?\n)")
STAYED = -1  # the place of all rows together that are as they were

Segment = tuple[int, str, str, bool]  # column, text, colour, whether it is bold
Line = tuple[Segment, ...]
Block = tuple[Line, ...]


@dataclass(frozen=True)
class Frame:
    """A screen, and from when on it is shown, in seconds."""

    at: float
    lines: Block


class Terminal:
    """Bash in a pseudo-terminal, and what it shows."""

    def __init__(self, folder: Path) -> None:
        self._screen = pyte.Screen(COLUMNS, ROWS)
        self._stream = pyte.ByteStream(self._screen)
        self._folder = re.compile(f"{re.escape(str(folder))}/?".encode())
        wide = COLUMNS + len(f"{folder}/")
        self._process, self._file = pty.fork()
        if not self._process:
            _become_bash(folder)
        fcntl.ioctl(self._file, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, wide, 0, 0))

    def answers(self, keys: str) -> Iterator[Frame]:
        """Type keys, and show what comes until bash waits for a command and is silent.

        Raises:
            TimeoutError: it never does.
        """
        os.write(self._file, keys.encode())
        begun = time.monotonic()
        while (came := self._reads()) or self._screen.display[self._screen.cursor.y].strip() != PROMPT:
            if came:
                yield Frame(time.monotonic() - begun, self._lines())
            if time.monotonic() > begun + COMMAND_SECONDS:
                raise TimeoutError("\n".join(self._screen.display))

    def types(self, command: str) -> Iterator[Frame]:
        """Type a command, key by key."""
        for number, key in enumerate(command):
            os.write(self._file, key.encode())
            while not self._reads():
                pass
            yield Frame(number * KEY_SECONDS, self._lines())

    def _reads(self) -> bool:
        """Show what comes within a second; whether anything did."""
        if not select.select([self._file], [], [], 1.0)[0]:
            return False
        parts = [os.read(self._file, 65536)]
        while select.select([self._file], [], [], TOGETHER_SECONDS)[0]:
            parts.append(os.read(self._file, 65536))
        # What was made for a wider terminal fits ours without the folder, and without the blanks at its lines' ends.
        told = self._folder.sub(b"", b"".join(parts))
        self._stream.feed(PADDING.sub(lambda found: found[0].replace(b" ", b""), told))
        return True

    def _lines(self) -> Block:
        return tuple(_segments(self._screen.buffer[row]) for row in range(ROWS))

    def close(self) -> None:
        """End bash."""
        os.close(self._file)
        os.kill(self._process, signal.SIGHUP)
        os.waitpid(self._process, 0)


def _become_bash(folder: Path) -> None:
    os.chdir(folder)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB_", "HF_", "SLURM"))}
    paths = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ours = {"PS1": f"{PROMPT} ", "TERM": "xterm-256color", "PATH": paths, "PYTHONPATH": str(REPOSITORY)}
    bash = ["bash", "--norc", "--noprofile", "-i"]
    os.execvpe("bash", bash, {**kept, **ours, "OMP_NUM_THREADS": "1", "HISTFILE": os.devnull})  # noqa: S606, S607


def _segments(row: dict[int, pyte.screens.Char]) -> Line:
    """A line, as what has one style and no gap."""
    found: list[Segment] = []
    cells = [(column, row[column]) for column in range(COLUMNS)]
    for (colour, bold), group in groupby(cells, key=lambda cell: (_colour(cell[1].fg), cell[1].bold)):
        styled = list(group)
        text = "".join(cell.data for _, cell in styled)
        begin = styled[0][0]
        parts = re.finditer(r"\S+(?: \S+)*", text)
        found.extend((begin + words.start(), words[0], colour, bold) for words in parts)
    return tuple(found)


def _colour(name: str) -> str:
    if re.fullmatch(r"[0-9a-f]{6}", name):
        return f"#{name}"
    return COLOURS.get(name.removeprefix("bright"), FOREGROUND)


# ------------------------------------------------------------------------------------------------ drawing


def svg(frames: list[Frame]) -> str:
    """The frames as one film that a style moves; each line is there once, and so is what stays between two frames."""
    width, screen = round(COLUMNS * ADVANCE + 2 * MARGIN), ROWS * LINE
    height, duration = screen + BAR + MARGIN, frames[-1].at + END_SECONDS
    names: dict[Block, str] = {}
    film, before = "", frames[0].lines
    for number, frame in enumerate(frames):
        uses = "".join(_used(_blocks(frame.lines, before), names))
        film += f'<g transform="translate(0 {number * screen})">{uses}</g>\n'
        before = frame.lines
    steps = "".join(
        f"{100 * frame.at / duration:.2f}%{{transform:translateY({-number * screen}px)}}"
        for number, frame in enumerate(frames)
    )
    blocks = "".join(f'<g id="{name}">{_drawn(block, names)}</g>\n' for block, name in list(names.items()))
    last = f"transform:translateY({-(len(frames) - 1) * screen}px)"
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" \
height="{height}" role="img" aria-labelledby="title">
<title id="title">A terminal: {html.escape(COMMANDS[0])}. The plan is shown, six runs are trained, their results \
follow; then a third beta joins the sweep, and only its three runs are trained.</title>
<!-- Recorded by tests/pictures/terminal.py; played faster than it ran. -->
<style>
text {{ font: {FONT}px ui-monospace, SFMono-Regular, Menlo, "DejaVu Sans Mono", "Liberation Mono", monospace;
  fill: {FOREGROUND}; white-space: pre }}
.b {{ font-weight: 600 }}
.film {{ animation: film {duration:.1f}s step-end infinite }}
@keyframes film {{ 0%{{transform:translateY(0)}}{steps} }}
@media (prefers-reduced-motion: reduce) {{ .film {{ animation: none; {last} }} }}
</style>
<defs>
{blocks}</defs>
<rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="8" fill="{BACKGROUND}" stroke="{FRAME}"/>
<g fill="{FRAME}"><circle cx="20" cy="17" r="5"/><circle cx="38" cy="17" r="5"/><circle cx="56" cy="17" r="5"/></g>
<svg x="{MARGIN}" y="{BAR}" width="{width - 2 * MARGIN}" height="{screen}" viewBox="0 0 {width - 2 * MARGIN} {screen}">
<g class="film">
{film}</g>
</svg>
</svg>
"""


def _blocks(lines: Block, before: Block) -> Iterator[tuple[int, Block]]:
    """The rows of a screen where something is: what stayed since the screen before, and each line that did not."""
    rows = [row for row, line in enumerate(lines) if line]
    for place, group in groupby(rows, key=lambda row: STAYED if lines[row] == before[row] else row):
        first, *_, last = [*group] * 2
        yield first, lines[first : last + 1] if place == STAYED else (lines[first],)


def _used(blocks: Iterable[tuple[int, Block]], names: dict[Block, str]) -> Iterator[str]:
    for row, block in blocks:
        if len(block) > 1:  # its lines have names of their own
            list(_used([(row, (line,)) for row, line in enumerate(block) if line], names))
        name = names.setdefault(block, f"l{len(names)}")
        yield f'<use href="#{name}" y="{row * LINE}"/>'


def _drawn(block: Block, names: dict[Block, str]) -> str:
    """A line's text, each part in its place, so that columns stay columns in any font; of several lines their names."""
    if len(block) > 1:
        return "".join(_used([(row, (line,)) for row, line in enumerate(block) if line], names))
    parts = []
    for column, text, colour, bold in block[0]:
        style = (' class="b"' if bold else "") + (f' style="fill:{colour}"' if colour != FOREGROUND else "")
        place = f' x="{column * ADVANCE:.0f}"' if column else ' x="0"'
        parts.append(f"<tspan{place}{style}>{html.escape(text, quote=False)}</tspan>")
    return f'<text y="{FONT}">{"".join(parts)}</text>'


def recorded() -> Iterator[list[Frame]]:
    """What was typed and what was answered, in turns, in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        terminal = Terminal(Path(folder).resolve())
        try:
            yield list(terminal.answers(""))
            for command in COMMANDS:
                yield list(terminal.types(command))
                yield list(terminal.answers("\n"))
        finally:
            terminal.close()


def played(scenes: Iterable[list[Frame]]) -> list[Frame]:
    """One film: an answer in ANSWER_SECONDS at most, without frames that nobody would see, and time to read it."""
    film: list[Frame] = []
    clock = 0.0
    for number, scene in enumerate(scenes):
        is_answer = number % 2 == 0
        speed = min(1.0, ANSWER_SECONDS / scene[-1].at) if is_answer and scene[-1].at else 1.0
        for frame in scene:
            at, last = clock + speed * frame.at, frame is scene[-1]
            if not film or last or (at - film[-1].at >= (BETWEEN_SECONDS if is_answer else KEY_SECONDS / 2)):
                film.append(Frame(at, frame.lines))
        clock = film[-1].at + ((READ_SECONDS if number else 0.0) + THOUGHT_SECONDS if is_answer else KEY_SECONDS)
    return film


def main() -> None:
    """Record, and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    picture = parser.parse_args().picture
    text = svg(played(recorded()))
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_text(text, encoding="utf-8")
    sys.stdout.write(f"{picture}: {len(text.encode()) / 1000:.0f} kB\n")


if __name__ == "__main__":
    main()
