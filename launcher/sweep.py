"""A sweep and its runs, as plain frozen values.

Owns: what a planned run consists of. Must not know: how it is planned, where it goes, files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from launcher.config import RunConfig
from launcher.store.origins import Contents


@dataclass(frozen=True)
class Run:
    """One grid point.

    Attributes:
        run_id: `<model>-<loss_type>-beta<beta>-<hash8>`.
        config: the typed configuration, checked; shared, so never changed.
        objective: what is trained, plain, with canonical floats: what the run id is the hash of.
        settings: the other sections, plain: where and how it is run.
        axes: the values of the axes that vary in this sweep.
        overrides: what to type to get this run alone.
        inputs: what of this machine it is to be trained on, by key, where that was looked at.
        left_open: the keys of `cluster`, `extra.KEY` too, that the configuration leaves to the environment.
    """

    run_id: str
    config: RunConfig
    objective: dict[str, Any]
    settings: dict[str, Any]
    axes: dict[str, Any]
    overrides: tuple[str, ...]
    inputs: Mapping[str, Contents] = field(default_factory=dict)
    left_open: tuple[str, ...] = ()


@dataclass(frozen=True)
class Twin:
    """A grid point that is left out, since another run trains the same weights under another id."""

    run_id: str
    of: str


@dataclass(frozen=True)
class Sweep:
    """A named set of runs, in the grid's order, each once; `duplicates` and `twins` are what was left out of it."""

    name: str
    runs: tuple[Run, ...]
    axes: tuple[str, ...]
    duplicates: int = 0
    twins: tuple[Twin, ...] = ()
