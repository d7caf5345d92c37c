"""What it is to inject a fault: a kind, whom it struck, how it is lifted.

Owns: those plain values, and the choice of a target. Must not know: any one fault.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from living import Rank
from scenes import Scene
from world import World
from world import name_of as cluster_name

T = TypeVar("T")


@dataclass(frozen=True)
class Struck:
    """Whom a fault has struck; `lift` ends it, after `seconds`.

    Attributes:
        target: in words, for the journal.
        scene: the one that has to bear it; None: all of them.
    """

    target: str
    scene: Scene | None = None
    lift: Callable[[], None] | None = None
    seconds: float = 0.0


Injection = Callable[[World, Random], Struck | None]  # None: there is nothing now that it could strike


@dataclass(frozen=True)
class Kind:
    """A kind of fault: its name, and how it is injected."""

    name: str
    inject: Injection


def one_of(draw: Random, values: Sequence[T]) -> T | None:
    """One of them; None where there is none."""
    return draw.choice(values) if values else None


def a_rank(
    world: World, draw: Random, *, training: bool = True, slurm: bool = False, many: bool = False
) -> tuple[Scene, Rank] | None:
    """A living rank of a scene: one that trains; `slurm`: of a job of SLURM's; `many`: one of several."""
    found = [
        (scene, rank)
        for scene in world.scenes
        for rank in scene.ranks()
        if not rank.stopped
        and (not training or (rank.run and (scene.root / "runs" / rank.run / "metrics.jsonl").exists()))
        and (not slurm or is_at_home(world, rank))
        and (not many or scene.shape.ranks > 1)
    ]
    return one_of(draw, found)


def is_at_home(world: World, rank: Rank) -> bool:
    """Whether the first cluster has its job: the other one's bear the same numbers and the same names of nodes."""
    return rank.cluster == cluster_name(world.cluster)


def name_of(rank: Rank) -> str:
    """A rank in words."""
    return f"rank {rank.rank} of {rank.run or 'a job that starts'}, pid {rank.pid}, job {rank.job or 'local'}"
