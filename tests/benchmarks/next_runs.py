"""What N more runs are worth: those that `suggest` chooses, random ones, and a finer grid around the best.

Sweeps whose truth is known: 3 losses at 5 betas each, curves of several kinds, some with their best beyond the grid.
Each strategy adds N runs; the setting that the curves then name is judged by its regret: what the best beta anywhere in
reach truly scores, less what the named one does.

    python tests/benchmarks/next_runs.py [--json] [--sweeps N] [--runs N] [--row NAME]
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))


LOSSES = 3
