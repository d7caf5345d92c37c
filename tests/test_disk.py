"""The disk that a folder lies on, and bytes in words."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from launcher.machine import disk


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 B"),
        (540, "540 B"),
        (22_400, "22.4 kB"),
        (1e6, "1 MB"),
        (869.4e9, "869 GB"),
        (999.9e9, "1000 GB"),
        (1.7364e12, "1.74 TB"),
    ],
)
def test_bytes_in_words(size: float, words: str) -> None:
    """Three digits, in powers of ten as disks are sold."""
    assert disk.in_words(size) == words


def test_a_folder_that_is_not_there_yet_is_on_its_parents_disk(tmp_path: Path) -> None:
    """What an output folder will have, before it is made."""
    assert disk.existing(tmp_path / "a" / "b") == tmp_path
    free = shutil.disk_usage(tmp_path).free
    assert disk.free_bytes(tmp_path / "a" / "b") == pytest.approx(free, rel=0.1)
