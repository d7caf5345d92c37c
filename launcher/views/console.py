"""What every answer to the user is made with: notes, durations, commands to go on with. Prints; decides nothing.

Owns: notes, a verb's command, the words for a time and a judge, what the doctor found.
Must not know: how anything came about. The modules beside it hold the words of plans, states and results.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Sequence

from rich.table import Table

from launcher.config import Judge
from launcher.errors import number_of
from launcher.machine.default_folder import default_output_dir
from launcher.machine.terminal import Say, Screen, command, complain, legible, program, rewrite, say
from launcher.store.output_folder import SweepDir

TERMINAL_SECONDS, LOG_SECONDS = 0.3, 5.0  # between two words on what is being done


def verb_command(directory: SweepDir, verb: str, *words: str) -> str:
    """A verb for this sweep as it may be pasted into a shell; with the folder of everything, where that is not ours."""
    return command(*program(), verb, directory.name, *words, *_place(directory))


def logs_command(directory: SweepDir, run_id: str) -> str:
    """What shows all that a run of this sweep printed, likewise."""
    return command(*program(), "logs", run_id, *_place(directory))


def _place(directory: SweepDir) -> list[str]:
    root = directory.path.parent.parent
    return [] if root == default_output_dir().absolute() else ["--output-dir", str(root)]


def show_notes(notes: Sequence[str]) -> None:
    """What the user should know and need not mend at once."""
    for note in notes:
        complain(note)


def say_working(what: str) -> None:
    """What is being done while somebody at a terminal waits for seconds."""
    if sys.stderr.isatty():
        say(f"{what} ...", on=sys.stderr)


@contextlib.contextmanager
def working() -> Iterator[Say]:
    """What takes the function that it gives to say how far it is: on a terminal one line, which is gone at the end."""
    line = _Line()
    try:
        yield line.say
    finally:
        line.clear()


class _Line:
    """Where a long command is: at a terminal always the same line, elsewhere one every few seconds at most."""

    def __init__(self) -> None:
        self._is_terminal, self._said, self._shown = sys.stderr.isatty(), time.monotonic(), False

    def say(self, what: str) -> None:
        """Show what is being done, unless something was shown just now."""
        now = time.monotonic()
        if now - self._said < (TERMINAL_SECONDS if self._is_terminal else LOG_SECONDS):
            return
        self._said, self._shown = now, True
        with contextlib.suppress(OSError):
            if self._is_terminal:
                rewrite(legible(what)[: os.get_terminal_size(sys.stderr.fileno()).columns - len(" ...")] + " ...")
            else:
                say(f"{what} ...", on=sys.stderr)

    def clear(self) -> None:
        """Leave the line as it was."""
        if self._is_terminal and self._shown:
            with contextlib.suppress(OSError):
                rewrite("")


def duration(seconds: float | None) -> str:
    """Seconds as `1h05` or `3m07s`; nothing for None."""
    if seconds is None:
        return ""
    seconds = round(seconds)
    hours, minutes = divmod(seconds // 60, 60)
    return f"{hours}h{minutes:02d}" if hours else f"{minutes}m{seconds % 60:02d}s"


def show_findings(findings: Sequence[tuple[str, str]], proposal: str | None) -> None:
    """What the doctor found, and the file that it proposes."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for what, how in findings:
        table.add_row(what, how)
    console = Screen()
    console.print(table)
    if proposal is not None:
        console.print("\nA file for this cluster; save it as conf/cluster/NAME.yaml and give cluster=NAME:\n")
        console.print(proposal, soft_wrap=True)


def say_judging_ahead(models: int, estimate: tuple[int, int, int], judge: Judge) -> None:
    """What judging will cost of models that are yet to answer."""
    calls, read, written = estimate
    if models:
        say(
            f"{number_of(models, 'model')} without MT-Bench answers; judging will be {number_of(calls, 'call')} of "
            f"{judge_name(judge)}, about {read:,} tokens to read, were every answer of full length, "
            f"and {written:,} to write"
        )


def judge_name(judge: Judge) -> str:
    """Who judges and where, or that nobody is named."""
    if judge.model is None or judge.base_url is None:
        return "the judge (evaluation.judge.base_url and evaluation.judge.model name none yet)"
    return f"{judge.model} at {judge.base_url}"
