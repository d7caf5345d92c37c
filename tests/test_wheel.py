"""The built distributions, installed elsewhere.

`PREFSWEEP_TEST_PYTHON=python3.13` installs them into that Python; `make wheel` does so for each that is supported.
"""

from __future__ import annotations

import email
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPOSITORY

from launcher import __version__

DEMO = ["-m", "loss_type=sigmoid,ipo,kto_pair", "beta=0.01,0.1", "dry_run=true"]
TINY = ["-m", "loss_type=sigmoid", "beta=0.1", "model=tiny", "cluster=local", "dry_run=true"]
PYTHON = os.environ.get("PREFSWEEP_TEST_PYTHON") or sys.executable
CONSTRAINTS = REPOSITORY / "constraints.txt"
PAGE = {f"analysis/page/report.{kind}" for kind in ("html.j2", "css", "js")}
DATA = {
    f"launcher/{file.relative_to(REPOSITORY)}"
    for folder in ("conf", "sweeps", "slurm")
    for file in (REPOSITORY / folder).rglob("*")
    if file.is_file()
}


def answer(*command: str | Path, folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | more
    return subprocess.run(
        [str(part) for part in command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def run(*command: str | Path, folder: Path, **more: str) -> str:
    done = answer(*command, folder=folder, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an sdist, and of the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, REPOSITORY, folder=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (found,) = dist.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment in which nothing but the wheel and the login node's needs are installed."""
    venv = tmp_path_factory.mktemp("venv")
    run(PYTHON, "-m", "venv", venv, folder=venv)
    run(venv / "bin/python", "-m", "pip", "install", "--quiet", "--constraint", CONSTRAINTS, wheel, folder=venv)
    return venv / "bin"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder that knows nothing of us, and in which nothing is left."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    yield folder
    assert list(folder.iterdir()) == []


def test_the_wheel_plans_the_demos_sweep_from_another_folder(programs: Path, elsewhere: Path) -> None:
    """It plans the same six runs, and no torch was needed."""
    installed = json.loads(run(programs / "python", "-m", "launcher", *DEMO, "--json", folder=elsewhere))
    checkout = json.loads(run(sys.executable, "-m", "launcher", *DEMO, "--json", folder=REPOSITORY))
    assert [r["run_id"] for r in installed["runs"]] == [r["run_id"] for r in checkout["runs"]]
    assert len(installed["runs"]) == 6
    packages = run(programs / "python", "-m", "pip", "list", folder=elsewhere)
    assert "torch" not in packages


@pytest.mark.parametrize("words", [["prefsweep"], ["python", "-m", "prefsweep"], ["python", "-m", "launcher"]])
def test_each_name_of_the_program(programs: Path, elsewhere: Path, words: list[str]) -> None:
    """The version, the help and a plan, by whichever name."""
    command = [programs / words[0], *words[1:]]
    assert run(*command, "--version", folder=elsewhere) == f"prefsweep {__version__}\n"
    assert "usage: " in run(*command, "--help", folder=elsewhere)
    assert "1 submit" in run(*command, *TINY, folder=elsewhere)


def test_a_report_names_what_it_lacks(programs: Path, elsewhere: Path) -> None:
    """`python -m analysis` is there; without its extra it is one line with the command that installs it."""
    assert "usage: " in run(programs / "python", "-m", "analysis", "--help", folder=elsewhere)
    done = answer(programs / "python", "-m", "analysis", ".", folder=elsewhere)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "pip install 'prefsweep[analysis]'" in done.stderr


def test_uvx_runs_it(wheel: Path, elsewhere: Path, tmp_path: Path) -> None:
    """`uvx prefsweep`, for which uv makes an environment of its own."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed")
    command = [uv, "tool", "run", "--python", PYTHON, "--constraints", CONSTRAINTS, "--from", wheel, "prefsweep"]
    folders = {"UV_CACHE_DIR": str(tmp_path / "cache"), "UV_TOOL_DIR": str(tmp_path / "tools")}
    assert run(*command, "--version", folder=elsewhere, **folders) == f"prefsweep {__version__}\n"
    assert "1 submit" in run(*command, *TINY, folder=elsewhere, **folders)


def test_the_wheel_holds_the_data_and_no_tests(wheel: Path) -> None:
    """All of conf, sweeps and slurm lies inside `launcher`; nothing else is at the top than what the README names."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert names >= PAGE | DATA
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"launcher", "analysis", "prefsweep.py", f"prefsweep-{__version__}.dist-info"}


def test_the_sdist_builds_the_same_wheel(dist: Path, wheel: Path, tmp_path: Path) -> None:
    """`build` makes the wheel from the sdist; one from the checkout holds the same files, byte for byte."""
    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        assert not [name for name in archive.getnames() if "/.venv" in name or "/outputs" in name]
    run(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, REPOSITORY, folder=tmp_path)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as ours, zipfile.ZipFile(wheel) as theirs:
        assert {each.filename: each.CRC for each in ours.infolist()} == {e.filename: e.CRC for e in theirs.infolist()}


def test_what_the_package_index_shows(wheel: Path) -> None:
    """The README is the description; the metadata name addresses, keywords and exactly the supported Pythons."""
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(f"prefsweep-{__version__}.dist-info/METADATA").decode()
    known = email.message_from_string(text)
    assert str(known.get_payload()).strip() == (REPOSITORY / "README.md").read_text(encoding="utf-8").strip()
    assert known["Description-Content-Type"] == "text/markdown"
    assert known["Keywords"]
    assert known["Project-URL"]
    classifiers = known.get_all("Classifier") or []
    pythons = [
        each.rpartition(" ")[2] for each in classifiers if each.startswith("Programming Language :: Python :: 3.")
    ]
    assert pythons == ["3.11", "3.12", "3.13"]


# ------------------------------------------------------------------------------------- other packages of these names


def another(folder: Path, name: str, distribution: str) -> Path:
    """The wheel of a distribution that has a top-level package of that name."""
    source = folder / distribution
    (source / name).mkdir(parents=True)
    (source / name / "__init__.py").write_text('"""Starts rockets."""\nprint("lift-off")\n')
    (source / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        f'[project]\nname = "{distribution}"\nversion = "1"\n'
        f'[tool.hatch.build.targets.wheel]\npackages = ["{name}"]\n'
    )
    run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, source, folder=folder)
    (wheel,) = folder.glob(f"{distribution}-*.whl")
    return wheel


@pytest.fixture
def copied(programs: Path, tmp_path: Path) -> Path:
    """The packages of such an environment, to spoil."""
    (packages,) = (programs.parent / "lib").glob("python3*/site-packages")
    return Path(shutil.copytree(packages, tmp_path / "packages"))


def refused(packages: Path, folder: Path, *before: Path) -> str:
    """The one line with which `python -m prefsweep` ends where the path is these folders, and no other packages."""
    path = os.pathsep.join(map(str, [*before, packages]))
    done = answer(PYTHON, "-S", "-P", "-m", "prefsweep", *TINY, folder=folder, PYTHONPATH=path)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.stdout + done.stderr
    return done.stderr


@pytest.mark.parametrize("name", ["launcher", "analysis"])
def test_a_distribution_that_overwrites_a_package_of_ours_is_named(
    programs: Path, copied: Path, elsewhere: Path, tmp_path: Path, name: str
) -> None:
    """pip lets it; none of its code is run. When it is removed, which takes our file away, the line says what helps."""
    pip = [programs / "python", "-m", "pip"]
    wheel = another(tmp_path, name, "rockets")
    run(*pip, "install", "--quiet", "--no-deps", "--upgrade", "--target", copied, wheel, folder=tmp_path)
    assert (copied / name / "__init__.py").read_text().startswith('"""Starts')
    said = refused(copied, elsewhere)
    assert said.startswith(f"prefsweep: {copied / name / '__init__.py'} is no longer ours but that of rockets: install")
    (copied / name / "__init__.py").unlink()
    assert "is incomplete; `pip install --force-reinstall" in refused(copied, elsewhere)


def test_a_package_that_comes_first_on_the_path_is_named(
    programs: Path, copied: Path, elsewhere: Path, tmp_path: Path
) -> None:
    """PYTHONPATH may have a project with a `launcher` of its own; `prefsweep` in a folder with one is still ours."""
    (tmp_path / "project" / "launcher").mkdir(parents=True)
    (tmp_path / "project" / "launcher" / "__init__.py").touch()
    said = refused(copied, elsewhere, tmp_path / "project")
    assert f"finds another launcher first, {tmp_path / 'project'}" in said
    assert run(programs / "prefsweep", "--version", folder=tmp_path / "project") == f"prefsweep {__version__}\n"
