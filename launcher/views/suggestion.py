"""Which runs to make next, as the user sees it. Prints; decides nothing.

Owns: the words and columns of a suggestion. Must not know: how the runs were chosen, how their command is made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from launcher.machine.terminal import Screen, command, complain, program, say, say_json
from launcher.store.files import Plain
from launcher.store.output_folder import SweepDir
from launcher.views.console import verb_command
from launcher.views.table import table_of

if TYPE_CHECKING:
    from analysis.next_runs import NextRun, Suggestion

_SMALL = 1e-4  # of a gain; less is none that anybody could see


def show_suggestion(
    directory: SweepDir, found: Suggestion, words: Sequence[str], unmeasured: Sequence[str], *, as_json: bool
) -> None:
    """The runs with reasons, and the command that launches them; `words` are that command's, none without runs.

    `unmeasured`: the benchmarks by which settings were compared, and which that command does not measure.
    """
    launch = command(*program(), *words) if words else None
    if as_json:
        runs = [_plain(run) for run in found.runs]
        say_json({"sweep": directory.name, "runs": runs, "command": launch, "evaluate": list(unmeasured),
                  "notes": list(found.notes)})  # fmt: skip
        return
    for note in found.notes:
        complain(note)
    if launch is None:
        say(f"nothing to suggest for {directory.name}")
        return
    several = len({run.model for run in found.runs}) > 1 or len({run.dataset for run in found.runs}) > 1
    columns = [*(["model", "dataset"] if several else []), "loss_type", "beta", "setting", "seed"]
    columns += ["expected score", "best with", "gain", "why"]
    shown = Screen()
    rows = [(_cells(run, several=several), "") for run in found.runs]
    kept = [place for place, name in enumerate(columns) if name != "setting" or any(cells[place] for cells, _ in rows)]
    table = table_of(
        f"next runs of {directory.name}, the one that tells most first",
        [columns[place] for place in kept],
        [([cells[place] for place in kept], style) for cells, style in rows],
    )
    shown.print(table, crop=False)
    say("launch them with:")
    say(launch)
    for name in unmeasured if launch else ():
        then = verb_command(directory, "evaluate", "--benchmark", name)
        say(f"settings were compared by {name}, which that does not measure; then, with its evaluation keys as before:")
        say(then)


def _cells(run: NextRun, *, several: bool) -> list[str]:
    named = [run.model or "", run.dataset or ""] if several else []
    return [*named, run.loss, f"{run.beta:.6g}", run.setting, str(run.seed), *_numbers(run), run.reason]


def _numbers(run: NextRun) -> tuple[str, str, str]:
    """Expected score, probability of being the best, and gain; nothing of a loss without a curve."""
    if math.isnan(run.gain):
        return "", "", ""
    gain = f"{run.gain:.4f}" if run.gain >= _SMALL else "none"
    return f"{run.expected:.3f} ± {run.deviation:.3f}", f"{run.probability:.0%}", gain


def _plain(run: NextRun) -> Plain:
    """A run for programs, with null for what is not known."""
    values = asdict(run) | {"loss_type": run.loss, "changed": dict(run.changed)}
    del values["loss"]
    return {key: None if isinstance(each, float) and math.isnan(each) else each for key, each in values.items()}
