"""The login-node side of prefsweep. Never imports torch, transformers, trl, datasets or deepspeed."""

__version__ = "0.1.0"
