"""The one way to the terminal, for launcher and analysis: text is shown as it is, and never obeyed.

Owns: what stands for characters that a terminal would obey, or cannot show; commands that work when they are pasted.
Must not know: anything of ours.

A path, a reason or a prompt may hold anything: escapes that move the cursor, half of a pair of surrogates, letters that
an ASCII terminal lacks. None of that may end a program, nor change what else is on the screen.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import shlex
import sys
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

WIDE = 160  # columns of a pipe or a log, which has no edge at which to break ids
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


def prepare_streams() -> None:
    """Have stdout and stderr show all that is written to them, also by others, as far as they can."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_HARMLESS)


def say(text: str = "", *, on: TextIO | None = None, end: str = "\n") -> None:
    """Print a text, at once; on stdout unless told otherwise."""
    stream = on or sys.stdout
    encoding = stream.encoding or "utf-8"
    print(legible(text).encode(encoding, _HARMLESS).decode(encoding), file=stream, end=end, flush=True)


def complain(text: str, program: str = "prefsweep") -> None:
    """One line on stderr."""
    say(f"{program}: " + " ".join(legible(text).split()), on=sys.stderr)


def say_json(value: Any) -> None:
    """Print a value for programs, in ASCII."""
    print(json.dumps(value, indent=1))


def command(*words: str | os.PathLike[str]) -> str:
    """A command as it may be pasted into a shell, also from a terminal that cannot show all of its letters."""
    return " ".join(_quoted(os.fspath(word)) for word in words)


def _quoted(word: str) -> str:
    try:
        word.encode(sys.stdout.encoding or "utf-8", "strict")
    except UnicodeEncodeError:
        pass
    else:
        if legible(word) == word and "\n" not in word:
            return shlex.quote(word)
    octal = "".join(chr(b) if chr(b).isalnum() and b.to_bytes().isascii() else f"\\{b:03o}" for b in os.fsencode(word))
    return f"\"$(printf '{octal}')\""


class Screen(Console):
    """A console on stdout to which a text is no markup, whatever stands in it."""

    def __init__(self) -> None:
        super().__init__(highlight=False, markup=False, emoji=False)
        if not self.is_terminal:
            self.width = max(self.width, WIDE)

    def render_str(self, text: str, **options: Any) -> Text:
        """A text as rich shows it; titles, cells and lines all come here."""
        return super().render_str(legible(text), **{**options, "markup": False, "emoji": False})
