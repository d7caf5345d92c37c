"""prefsweep: what a finished (or half-finished) sweep says, in tables, figures and one page to share.

Owns: everything that is made from ``results.jsonl``.
Must not know: how runs are launched. Of ``launcher`` only ``python -m analysis`` imports something, how to print; the
file is the whole interface.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.read import ResultsError, ResultsWarning, load

__all__ = ["ResultsError", "ResultsWarning", "load"]


def __getattr__(name: str) -> Any:
    """Import pandas when it is wanted, so that ``python -m analysis`` can say that it is not there."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from analysis import read

    return getattr(read, name)
