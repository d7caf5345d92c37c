"""prefsweep: from a command line to trained runs and results.jsonl.

Only `worker`, which jobs run, imports torch, transformers, trl, datasets or deepspeed; all else is for the login node.
"""

__version__ = "0.1.0"
