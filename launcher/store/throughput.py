"""What a training computed in some time, and how much of that was of use: in a line of its log, and in its result.

Owns: the keys and their units, how rates and shares follow from sums, what they are of several lines together.
Must not know: who counts, what an operation is (`model.operations`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from launcher.store.files import LEFT_OUT, Count, Plain, Seconds


@dataclass(frozen=True)
class Throughput:
    """On all ranks together; None is what is not known.

    Attributes:
        tokens: of prompts and answers as they are cut, each once: what was of use. None of a training that an earlier
            version has begun, which did not count them.
        computed_tokens: the places that the forwards computed: padding is among them, and a prompt as often as it was
            computed. In a packed layout there may be one fewer a pair than tokens are of use: no answer's last token
            need be computed.
        padding: the share of these that held no token.
        tokens_per_second: of those of use, in the seconds of the steps.
        peak_memory_bytes: the most that a rank had at a time: on a GPU, of tensors; on a CPU, resident, since its
            process began.
        mfu: the share of the chips' peak, as `model.operations` defines it; None also where the peak is not known.
    """

    tokens: Count | None = field(default=None, metadata=LEFT_OUT)
    computed_tokens: Count | None = field(default=None, metadata=LEFT_OUT)
    padding: float | None = field(default=None, metadata=LEFT_OUT)
    tokens_per_second: float | None = field(default=None, metadata=LEFT_OUT)
    peak_memory_bytes: Count | None = field(default=None, metadata=LEFT_OUT)
    mfu: float | None = field(default=None, metadata=LEFT_OUT)


@dataclass(frozen=True)
class _Line:
    """What is read of a line."""

    tokens: Count
    computed_tokens: Count
    padding: float
    seconds: Seconds
    peak_memory_bytes: Count | None
    mfu: float | None


def measured(
    tokens: int, computed: int, padding: int, seconds: float, peak_bytes: int | None, mfu: float | None
) -> Throughput:
    """From sums: useful tokens, places computed, those of them without a token, seconds."""
    rate = tokens / seconds if seconds > 0 else None
    return Throughput(tokens, computed, padding / computed if computed else 0.0, rate, peak_bytes, mfu)


def of_lines(lines: Sequence[Plain]) -> Throughput | None:
    """Of a whole training, from the lines of its log, each step once; None where none was counted.

    Where an earlier version has logged some of the lines, rates and shares are those of the others, and sums are not
    known.
    """
    counted = [found for line in lines if (found := _of_line(line)) is not None]
    if not counted:
        return None
    seconds, computed = sum(each.seconds for each in counted), sum(each.computed_tokens for each in counted)
    padding = sum(each.padding * each.computed_tokens for each in counted)
    shares = [(each.mfu, each.seconds) for each in counted if each.mfu is not None]
    of_time = sum(share[1] for share in shares)
    whole = len(counted) == len(lines)
    tokens = sum(each.tokens for each in counted)
    return Throughput(
        tokens=tokens if whole else None,
        computed_tokens=computed if whole else None,
        padding=padding / computed if computed else 0.0,
        tokens_per_second=tokens / seconds if seconds > 0 else None,
        peak_memory_bytes=max((each.peak_memory_bytes for each in counted if each.peak_memory_bytes), default=None),
        mfu=sum(share * time for share, time in shares) / of_time if of_time > 0 else None,
    )


def _of_line(line: Plain) -> _Line | None:
    found: Plain = {key.name: line.get(key.name) for key in fields(_Line)}
    needed = (found[key] for key in ("tokens", "computed_tokens", "padding", "seconds"))
    return None if None in needed else _Line(**found)
