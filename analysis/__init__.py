"""What a finished (or half-finished) sweep says: tables, figures and one page to share.

Owns: everything that is made from ``results.jsonl``.
Must not know: how runs are launched. Nothing here imports ``launcher``; the file is the whole interface.
"""

from __future__ import annotations

from analysis.read import ResultsError, ResultsWarning, load

__all__ = ["ResultsError", "ResultsWarning", "load"]
