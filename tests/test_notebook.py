"""examples/analysis.ipynb runs on a finished sweep, and holds nothing of the machine on which it was written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
NOTEBOOK = json.loads((REPOSITORY / "examples" / "analysis.ipynb").read_text(encoding="utf-8"))
CODE = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One in which the sweep of the notebook's first lines is finished."""
    place = tmp_path_factory.mktemp("notebook")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    for words in (["-m", "+sweeps=smoke"], ["collect", "smoke"]):
        subprocess.run(
            [sys.executable, "-m", "launcher", *words], cwd=place, env=environment, capture_output=True, check=True
        )
    return place


def test_every_cell_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after another, in a folder with that sweep; the last writes its report."""
    monkeypatch.chdir(folder)
    names: dict[str, object] = {}
    for source in CODE:
        exec(compile(source, "analysis.ipynb", "exec"), names)  # noqa: S102 - that is what a notebook is
    assert (folder / "outputs/sweeps/smoke/report/report.html").is_file()
    assert len(names["runs"]) == 6  # type: ignore[arg-type]


def test_it_has_no_output_and_no_place_of_a_machine() -> None:
    """A notebook in a repository is read as a text."""
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in NOTEBOOK["cells"])
    assert "/home/" not in json.dumps(NOTEBOOK)
