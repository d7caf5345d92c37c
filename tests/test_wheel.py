"""The built distribution, installed elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

from conftest import REPOSITORY

DEMO = ["-m", "loss_type=sigmoid,ipo,kto_pair", "beta=0.01,0.1", "dry_run=true"]
EXAMPLES = {f"launcher/{file.relative_to(REPOSITORY)}" for file in (REPOSITORY / "conf/cluster/examples").iterdir()}
PAGE = {f"analysis/page/report.{kind}" for kind in ("html.j2", "css", "js")}


def run(*command: str | Path, folder: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_plans_the_demos_sweep_from_another_folder(tmp_path: Path) -> None:
    """Built, installed into an empty environment with only the login node's needs, it plans the same six runs."""
    run(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, REPOSITORY, folder=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert set(archive.namelist()) >= PAGE | EXAMPLES
    run(sys.executable, "-m", "venv", tmp_path / "venv", folder=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    constraints = REPOSITORY / "constraints.txt"
    run(python, "-m", "pip", "install", "--quiet", "--constraint", constraints, wheel, folder=tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    installed = json.loads(run(python, "-m", "launcher", *DEMO, "--json", folder=elsewhere))
    checkout = json.loads(run(sys.executable, "-m", "launcher", *DEMO, "--json", folder=REPOSITORY))
    assert [r["run_id"] for r in installed["runs"]] == [r["run_id"] for r in checkout["runs"]]
    assert len(installed["runs"]) == 6
    packages = run(python, "-m", "pip", "list", folder=elsewhere)
    assert "torch" not in packages
    assert list(elsewhere.iterdir()) == []
