"""What the documents name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
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


PAGES = [
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "slurm/README.md")),
    *sorted(REPOSITORY.glob("docs/**/*.md")),
]
MADE = REPOSITORY / "docs/reference"  # pages that `make docs` writes


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_each_link_leads_somewhere(page: Path) -> None:
    """To a file that is there, and to a heading in it."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if target.parent == MADE or target.name in ("slurm.md", "contributing.md", "changes.md"):
            continue
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in anchors_of(target), link
