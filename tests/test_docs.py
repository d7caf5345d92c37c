"""What the documents name is there."""

from __future__ import annotations

import re

from conftest import REPOSITORY


def test_each_fault_names_tests_that_exist() -> None:
    """A row of docs/faults.md ends in the tests that make its fault."""
    rows = [line for line in (REPOSITORY / "docs/faults.md").read_text().splitlines() if line.startswith("| ")]
    named = [re.findall(r"`(test_\w+)(?:::(test_\w+))?`", row.split(" | ")[-1]) for row in rows]
    named = [tests for row, tests in zip(rows, named, strict=True) if not row.startswith("| fault |")]
    assert len(named) > 30
    assert all(named)
    for module, test in (each for tests in named for each in tests):
        text = (REPOSITORY / "tests" / f"{module}.py").read_text()
        assert not test or f"def {test}(" in text, (module, test)
