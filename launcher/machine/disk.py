"""The disk that a folder lies on, and bytes in words.

Owns: what is free there. Must not know: what needs it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from rich.filesize import pick_unit_and_suffix

SUFFIXES = ["B", "kB", "MB", "GB", "TB", "PB"]


def existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next(each for each in (folder, *folder.parents) if each.is_dir())


def free_bytes(folder: Path) -> int:
    """Bytes that are free where a folder is, or will be."""
    return shutil.disk_usage(existing(folder)).free


def in_words(size: float) -> str:
    """A number of bytes to three digits, `1.74 TB`."""
    unit, suffix = pick_unit_and_suffix(int(size), SUFFIXES, 1000)
    return f"{float(f'{size / unit:.3g}'):g} {suffix}"  # 999.6 GB would be 1e+03 GB
