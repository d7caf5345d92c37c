"""launcher.machine.imports: large libraries are imported without a search for garbage."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from launcher.machine.imports import uncollected


def test_nothing_is_collected_within_and_again_behind() -> None:
    """However it is left; whoever had switched the collector off finds it so."""
    with pytest.raises(KeyError), uncollected():
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled()
    gc.disable()
    try:
        with uncollected():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_jobs_libraries_are_imported_so() -> None:
    """No collection looks through what torch and the trainer make; with the collector on there are hundreds."""
    code = """
import contextlib, gc, sys
from launcher.worker import make_table
rounds = []
gc.callbacks.append(lambda phase, _: rounds.append(phase))
with contextlib.suppress(AttributeError):
    make_table._prepare(None, None, None)  # imports all, and then finds no configuration
assert "trl" in sys.modules and gc.isenabled()
print(rounds.count("start"))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(done.stdout.split()[-1]) < 20
