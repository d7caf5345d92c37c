"""What sbatch takes, as numbers."""

from __future__ import annotations

import pytest

from launcher.cluster.notation import megabytes, minutes


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("90", 90),
        ("1:30", 2),
        ("2:00:00", 120),
        ("0:10:30", 11),
        ("1-0", 1440),
        ("1-2:30", 1590),
        ("2-00:00:01", 2881),
        ("soon", None),
        ("auto", None),
        ("1:2:3:4", None),
        ("-1", None),
        (None, None),
    ],
)
def test_time_limits(limit: str | None, expected: int | None) -> None:
    """sbatch's notations, in whole minutes, never less than asked for; anything else is none."""
    assert minutes(limit) == expected


@pytest.mark.parametrize(
    ("text", "size"), [("64G", 65536), ("512", 512), ("1T", 1048576), ("2048K", 2), ("64GB", 65536), (None, None)]
)
def test_sizes_are_read_as_sbatch_reads_them(text: str | None, size: int | None) -> None:
    """Without a unit they are MiB."""
    assert megabytes(text) == size
