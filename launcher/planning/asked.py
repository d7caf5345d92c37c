"""The grids of a command line: its own axes, or a sweep file's with its own on top.

Owns: what a key means that both name.
Must not know: the form of a sweep file, how a config is composed. Writes nothing.

What is typed holds for every run: a key that the file names too takes the place of the file's, any other multiplies
each of its grids. The one exception is `loss_type` where the grids of a file have losses of their own: their other
values were chosen for those, so that it says which of them to run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from hydra.core.override_parser.types import Override

from launcher.config import LOSS as OF_THE_LOSS
from launcher.config import PRESET
from launcher.errors import UNSAID, ConfigError, UsageError
from launcher.planning.as_typed import POINTS
from launcher.planning.axes import Axis, axis_of
from launcher.planning.conf_places import sweep_names
from launcher.planning.grid import Grid, Grids, differ, idle_excludes, section_of
from launcher.planning.overrides import Overrides, meaning, parse, wrong
from launcher.planning.sweep_file import read_sweep_file

LOSS = "loss_type"


def read_grids(argv: Sequence[str], *, multirun: bool) -> Grids:
    """What a command line asks for.

    Raises:
        UsageError: an override or the sweep file is wrong, or they do not go together.
    """
    parsed = [parse(argument) for argument in argv]
    names = [o for o in parsed if o.key_or_group == "sweeps"]
    if len(names) > 1 or any(o.is_sweep_override() for o in names):
        raise ConfigError("sweeps", UNSAID, "give one sweep file at a time")
    if len(presets := [o for o in parsed if o.key_or_group == PRESET]) > 1:
        both = ",".join(str(o.value()) for o in presets)
        remedy = f"is given {len(presets)} times; give one, or an axis of them: +{PRESET}={both}"
        raise ConfigError(PRESET, UNSAID, remedy)
    given = {o.get_key_element(): axis_of(o, multirun=multirun) for o in parsed if o not in names}
    _check_given_once(given)
    if not names:
        return Grids((Grid(tuple(given.values())),), remarks=_remarks(parsed))
    name = str(names[0].value())
    return _on_top(read_sweep_file(name), given, name if name in sweep_names() else Path(name).stem)


def excluded_by(argv: Sequence[str]) -> tuple[frozenset[tuple[str, str]], ...]:
    """What the sweep file of a launch that was made excludes now; nothing where there is none any more."""
    names = [word.partition("=")[2] for word in argv if word.partition("=")[0].lstrip("+") == "sweeps"]
    with contextlib.suppress(UsageError):
        return tuple(each for name in names for grid in read_sweep_file(name) for each in grid.exclude)
    return ()


def _check_given_once(given: Mapping[str, Axis]) -> None:
    """Check that no key is given both by itself and in `points`, where it would have two values."""
    inside = given[POINTS].keys if POINTS in given else ()
    for key in inside:
        if key.lstrip("+~") in {each.lstrip("+~") for each in given}:
            raise ConfigError(POINTS, UNSAID, f"{key} is given in it and by itself; leave out one of the two")


def _remarks(parsed: Sequence[Override]) -> tuple[str, ...]:
    """A word on a sweep's name that is a sweep file's, where no file is given.

    Raises:
        ConfigError: it is given as a file would be.
    """
    if any(override.key_or_group == POINTS for override in parsed):
        return ()  # whoever writes out the runs, as `suggest` does, has a grid
    for override in parsed:
        name = str(override.value())
        if override.key_or_group == "sweep" and name in sweep_names():
            if override.is_add():
                raise wrong(override, f"only names the sweep; for the file sweeps/{name}.yaml give +sweeps={name}")
            return (f"sweep={name} only names the sweep; for the file sweeps/{name}.yaml give +sweeps={name}",)
    return ()


def _on_top(grids: tuple[Grid, ...], given: Mapping[str, Axis], name: str) -> Grids:
    """The file's grids with the command line's axes."""
    remarks = idle_excludes(grids)
    all_grids, losses = grids, given.get(LOSS)
    if losses is not None and differ(grids, LOSS):
        kept = _of_these_losses(grids, losses, name)
        if len(kept) < len(grids):
            words = ",".join(dict.fromkeys(_word(value) for value in losses.of(LOSS)))
            left = f"{len(grids) - len(kept)} of the {len(grids)} grids of sweeps/{name}.yaml"
            remarks.append(f"{LOSS}={words} leaves out {left}, which are of other losses")
        grids, given = kept, {key: axis for key, axis in given.items() if key != LOSS}
    replaced = [key for key in given if differ(all_grids, key.lstrip("+~"))]
    remarks += [f"{key} as given holds in place of what each grid of sweeps/{name}.yaml says of it" for key in replaced]
    return Grids(tuple(grid.under(_of_its_loss(grid, grids, given)) for grid in grids), name, tuple(remarks))


def _of_its_loss(grid: Grid, grids: Sequence[Grid], given: Mapping[str, Axis]) -> Grid:
    """What is typed, as it holds for one of a file's grids; where some name a loss's own key, it holds for these."""

    def holds(key: str) -> bool:
        own = key.lstrip("+~")
        elsewhere = any(each.values_of(own) for each in grids) and not grid.values_of(own)
        return section_of(own) != OF_THE_LOSS or not elsewhere

    return Grid(tuple(axis for key, axis in given.items() if holds(key)))


def _of_these_losses(grids: Sequence[Grid], losses: Axis, name: str) -> tuple[Grid, ...]:
    """The grids of these losses, each with those of its own that are among them; one that names none gets them all.

    Raises:
        ConfigError: no grid has one of them.
    """
    known = dict.fromkeys(_word(value) for grid in grids for value in grid.values_of(LOSS))
    open_to_all = any(not grid.values_of(LOSS) for grid in grids)
    for value in losses.of(LOSS):
        if _word(value) not in known and not open_to_all:
            raise ConfigError(
                LOSS, _word(value), f"no grid of sweeps/{name}.yaml has it; there are: {', '.join(known)}"
            )
    found = (_restricted(grid, losses) for grid in grids)
    return tuple(grid for grid in found if grid.values_of(LOSS))


def _restricted(grid: Grid, losses: Axis) -> Grid:
    if not grid.values_of(LOSS):
        return replace(grid, axes=(*grid.axes, losses))
    wanted = {meaning(override) for value in losses.of(LOSS) for override in value}
    return replace(grid, axes=tuple(_kept(axis, wanted) if LOSS in axis.keys else axis for axis in grid.axes))


def _kept(axis: Axis, wanted: set[tuple[str, str]]) -> Axis:
    among = zip(axis.values, axis.of(LOSS), strict=True)
    return replace(axis, values=tuple(value for value, loss in among if {meaning(each) for each in loss} <= wanted))


def _word(value: Overrides) -> str:
    """The loss that a value of the axis names."""
    return str(parse(value[0]).value())
