"""What the environment of whoever launches says of jobs, beside the configuration.

Owns: that plain value. Must not know: any executor's variables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Ambient:
    """What counts for jobs of certain resources.

    Attributes:
        keys: of `cluster`, which leaves them open, with their values.
        extra: likewise of `cluster.extra`.
        words: what was taken, and what was not and why, each in a line.
    """

    keys: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    words: tuple[str, ...] = ()
