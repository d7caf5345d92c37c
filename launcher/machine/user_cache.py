"""The folder in which this user's launches remember what they have found out, of whatever output folder.

Owns: where it lies. Must not know: what is in it; all of it may be deleted at any time.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

VARIABLE = "PREFSWEEP_CACHE"


def user_cache(environment: Mapping[str, str]) -> Path:
    """$PREFSWEEP_CACHE, else `prefsweep` in $XDG_CACHE_HOME or ~/.cache."""
    if VARIABLE in environment:
        return Path(environment[VARIABLE])
    home = Path(environment.get("HOME", "/nonexistent"))
    return Path(environment.get("XDG_CACHE_HOME", home / ".cache")) / "prefsweep"
