"""Where everything is written and looked for, unless the command says it.

Owns: the variable and the name. Must not know: anything of ours, since completion at a prompt asks here.
"""

from __future__ import annotations

import os
from pathlib import Path

OUTPUT_DIR = "PREFSWEEP_OUTPUT_DIR"
OUTPUTS = "outputs"


def default_output_dir() -> Path:
    """The folder that PREFSWEEP_OUTPUT_DIR names, else `outputs`; an empty variable is none, as in a shell."""
    return Path(os.environ.get(OUTPUT_DIR) or OUTPUTS)
