"""prefsweep: from a command line to trained runs and results.jsonl.

Only `worker`, which jobs run, imports torch, transformers, trl, datasets or deepspeed; all else is for the login node.
"""

import os

__version__ = "0.1.0"

# Read as huggingface_hub is imported, which is later in every process of ours: without it TRL tells the Hub of each
# training, and every request what agent makes it, though nobody has asked for anything on the Hub.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
