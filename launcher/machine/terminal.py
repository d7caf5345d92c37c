"""The one way to the terminal, for launcher and analysis: text is shown as it is, and never obeyed.

Owns: what stands for characters that a terminal would obey, or cannot show; commands that work when they are pasted.
Must not know: anything of ours.

A path, a reason or a prompt may hold anything: escapes that move the cursor, half of a pair of surrogates, letters that
an ASCII terminal lacks. None of that may end a program, nor change what else is on the screen.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import json
import os
import re
import shlex
import sys
from collections.abc import Callable
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

Say = Callable[[str], None]  # is told what is done while it is done
WIDE = 400  # columns of a pipe or a log, which has no edge at which to break ids
OUTPUT = "the output"  # the file that an error of stdout names
_HARMLESS = "legible"  # the name of our way with what an encoding lacks
# Controls but tab and line feed, overrides of the direction of writing, breaks of Unicode, half pairs.
_OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_ALIKE = str.maketrans({
    "±": "+-", "\u00d7": "x", "…": "...", "\u2013": "-", "—": "-", "\u2212": "-", "·": ".", "•": "*",
    "→": "->", "≤": "<=", "≥": ">=",
    "\u2018": "'", "\u2019": "'", "“": '"', "”": '"', "─": "-", "━": "-", "│": "|", "┃": "|", "✓": "ok", "✗": "x",
})  # fmt: skip
_BYTE_AS_SURROGATE = 0xDC00  # and the byte: how Python has bytes of paths that are no UTF-8


def legible(text: str) -> str:
    r"""The text with what a terminal would obey written out: `\x1b`, `\u202e`."""
    return _OBEYED.sub(lambda found: _written_out(found[0]), text)


def _written_out(letter: str) -> str:
    code = ord(letter)
    byte = code - _BYTE_AS_SURROGATE
    if 0x80 <= byte <= 0xFF or code <= 0xFF:  # noqa: PLR2004 - one byte
        return f"\\x{byte if byte > 0 else code:02x}"
    return f"\\u{code:04x}"


def _instead(error: UnicodeError) -> tuple[str, int]:
    """What stands for characters that an encoding lacks: some that look alike, else their number."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end].translate(_ALIKE)
    return missing.encode("ascii", "backslashreplace").decode("ascii"), error.end


codecs.register_error(_HARMLESS, _instead)


class _Output(io.TextIOWrapper):
    """Stdout, whose refusals say that they are its own."""

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError as error:
            error.filename = OUTPUT
            raise

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            error.filename = OUTPUT
            raise


def prepare_streams() -> None:
    """Have stdout and stderr show all that is written to them, also by others, as far as they can."""
    _open_closed()
    if sys.stdout is sys.__stdout__ and isinstance(sys.stdout, io.TextIOWrapper):
        lines, at_once = sys.stdout.line_buffering, sys.stdout.write_through
        sys.stdout = _Output(sys.stdout.buffer, sys.stdout.encoding, line_buffering=lines, write_through=at_once)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_HARMLESS)


def _open_closed() -> None:
    """Give a program that was started with closed streams (`>&-`) ones that lead nowhere.

    The first files that it opens would otherwise take their numbers, and its children write into them.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # noqa: FBT003 - it has the lowest free number
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8", closefd=False)


def until_unread(work: Callable[[], int]) -> int:
    """The exit code of work that prints; 0 where the reader of a pipe, `head` for one, has seen enough before its end.

    What is left to be written is written here, or lost: at the end of the process a failure would be a traceback.
    """
    code = 0
    try:
        code = work()
        sys.stdout.flush()
    except BrokenPipeError:
        pass
    except OSError as error:  # a disk that is full, for one
        complain(f"cannot write {OUTPUT} ({error.strerror or error})")
        code = 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            _let_go(stream)
    return code


def _let_go(stream: TextIO) -> None:
    try:
        stream.flush()
    except OSError:  # its number then leads nowhere, and so does what it still holds
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def say(text: str = "", *, on: TextIO | None = None, end: str = "\n") -> None:
    """Print a text, at once; on stdout unless told otherwise."""
    stream = on or sys.stdout
    encoding = _encoding(stream)
    print(legible(text).encode(encoding, _HARMLESS).decode(encoding), file=stream, end=end, flush=True)


def _encoding(stream: TextIO | None) -> str:
    return getattr(stream, "encoding", None) or "utf-8"


def rewrite(text: str) -> None:
    """Replace the line that stderr shows, which is a terminal."""
    sys.stderr.write(f"\r\x1b[K{text}")
    sys.stderr.flush()


def silent(what: str) -> None:
    """Tell nobody what is done."""


def complain(text: str, program: str = "prefsweep") -> None:
    """One line on stderr; where nobody reads that, the work goes on all the same."""
    with contextlib.suppress(OSError):
        say(f"{program}: " + " ".join(legible(text).split()), on=sys.stderr)


def say_json(value: Any) -> None:
    """Print a value for programs, in ASCII."""
    json.dump(value, sys.stdout, indent=1)  # piece by piece: of thousands of runs, the whole takes much memory
    print()


def program() -> list[str]:
    """How this program was called: `prefsweep`, the command that an installation has, or as a module."""
    return ["prefsweep"] if os.path.basename(sys.argv[0]) == "prefsweep" else ["python", "-m", "launcher"]  # noqa: PTH119


def command(*words: str | os.PathLike[str]) -> str:
    """A command as it may be pasted into a shell, also from a terminal that cannot show all of its letters."""
    return " ".join(_quoted(os.fspath(word)) for word in words)


def _quoted(word: str) -> str:
    try:
        word.encode(_encoding(sys.stdout), "strict")
    except UnicodeEncodeError:
        pass
    else:
        if legible(word) == word and not set(word) & set("\t\n"):
            return shlex.quote(word)
    octal = "".join(chr(b) if chr(b).isalnum() and b.to_bytes().isascii() else f"\\{b:03o}" for b in os.fsencode(word))
    return f"\"$(printf '{octal}')\""


class Screen(Console):
    """A console on stdout to which a text is no markup, whatever stands in it."""

    def __init__(self) -> None:
        super().__init__(highlight=False, markup=False, emoji=False)
        if not self.is_terminal:
            self.width = max(self.width, WIDE)

    def on_broken_pipe(self) -> None:
        """Leave it to `until_unread`; rich would end the program as one that failed."""
        raise  # noqa: PLE0704 - rich calls this where it has caught it

    def render_str(self, text: str, **options: Any) -> Text:
        """A text as rich shows it; titles, cells and lines all come here."""
        return super().render_str(legible(text), **{**options, "markup": False, "emoji": False})
