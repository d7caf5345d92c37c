"""`prefsweep` and `python -m prefsweep`: the same program as `python -m launcher`, by a name that is ours alone.

Owns: that the packages behind it are ours. `launcher` and `analysis` are common words: another distribution that has
such a package, installed into the same environment, overwrites ours without a word from pip, and one that comes first
on Python's path hides it. Either is one line here, before anything of the other's is run.
Must not know: what the program does.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

PACKAGES = ("launcher", "analysis")
OURS = '"""prefsweep: '  # how the `__init__.py` of each begins
WRONG = 2  # the exit code of whatever the user has to mend
APART = "install prefsweep into an environment of its own (`uv tool install prefsweep`, or a new venv)"


def main() -> int:
    """Run the command line, unless another package stands in the place of ours; returns the exit code."""
    if fault := next(filter(None, map(_fault, PACKAGES)), None):
        sys.stderr.write(f"prefsweep: {fault}\n")
        return WRONG
    from launcher.cli.main import main as run

    return run()


def _fault(name: str) -> str | None:
    """What is wrong with this package, and what helps; None: it is ours."""
    ours = Path(__file__).resolve().parent / name
    spec = importlib.util.find_spec(name)  # imports nothing: the package is no part of another
    if spec is None or spec.origin is None:
        return f"{ours} is incomplete; `pip install --force-reinstall --no-deps prefsweep` mends it"
    found = Path(spec.origin).resolve()
    if found != ours / "__init__.py":
        return f"Python finds another {name} first, {found}: take its folder off PYTHONPATH, or {APART}"
    if not found.read_text(encoding="utf-8", errors="replace").startswith(OURS):
        return f"{found} is no longer ours but that of {_owners(name)}: {APART}"
    return None


def _owners(name: str) -> str:
    """Who else has installed such a package, by name; reads what every distribution here has installed."""
    from importlib.metadata import packages_distributions

    others = {*packages_distributions().get(name, ())} - {"prefsweep"}
    return " and ".join(sorted(others)) or "another distribution"


if __name__ == "__main__":
    raise SystemExit(main())
