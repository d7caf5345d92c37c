"""What runs elsewhere: the workflows on GitHub, the devcontainer and the image name what is here, and may do little."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY

from launcher import __version__

WORKFLOWS = {path.stem: path for path in sorted((REPOSITORY / ".github/workflows").glob("*.yml"))}
TARGETS = set(re.findall(r"^([a-z][\w-]*):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
PINNED = re.compile(r"actions/[\w-]+@v\d+|[\w-]+/[\w-]+@[0-9a-f]{40}|\./\.github/workflows/[\w-]+\.yml")


def workflow(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(WORKFLOWS[name].read_text(encoding="utf-8"))
    return found


def steps(name: str) -> list[dict[str, Any]]:
    return [step for job in workflow(name)["jobs"].values() for step in job.get("steps", [])]


def made(text: str) -> list[str]:
    """The targets that a command makes."""
    return re.findall(r"\bmake ([a-z][\w-]*)", re.sub(r"install[^&;\n]*", "", text))


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_makes_targets_that_there_are(name: str) -> None:
    """So `make` here is what runs there; other workflows and files that it names exist, too."""
    commands = [step["run"] for step in steps(name) if "run" in step]
    assert {target for command in commands for target in made(command)} <= TARGETS
    for job in workflow(name)["jobs"].values():
        if "uses" in job:
            assert (REPOSITORY / job["uses"]).is_file()
            assert "workflow_call" in workflow(Path(job["uses"]).stem)[True]  # YAML 1.1 reads `on` so


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_may_only_read(name: str) -> None:
    """No secret, no right to write; actions are pinned, and leave no credentials in the checkout; each job may end."""
    text = WORKFLOWS[name].read_text(encoding="utf-8")
    assert "secrets." not in text
    assert workflow(name)["permissions"] == {"contents": "read"}
    granted = {job: given["permissions"] for job, given in workflow(name)["jobs"].items() if "permissions" in given}
    assert granted == ({"publish": {"id-token": "write"}} if name == "publish" else {})
    for used in re.findall(r"uses: (\S+)", text):
        assert PINNED.fullmatch(used), used
    for step in steps(name):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"] == {"persist-credentials": False}
    assert all("timeout-minutes" in job for job in workflow(name)["jobs"].values() if "uses" not in job)


def test_only_a_tag_that_is_the_version_is_published(tmp_path: Path) -> None:
    """After all tests, from an environment, by a trusted publisher; a tag of another version ends the build."""
    given = workflow("publish")
    assert given[True] == {"push": {"tags": ["v*"]}}
    publish = given["jobs"]["publish"]
    assert set(publish["needs"]) == {"tests", "wheel", "build"}
    assert publish["environment"]["name"] == "pypi"
    assert all("run" not in step for step in publish["steps"])
    (check,) = [step["run"] for step in steps("publish") if "GITHUB_REF_NAME" in step.get("run", "")]
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / f"prefsweep-{__version__}.tar.gz").touch()
    for tag, code in ((f"v{__version__}", 0), ("v9.9.9", 1)):
        bash = ["bash", "-e", "-c", check]
        assert subprocess.run(bash, cwd=tmp_path, env={"GITHUB_REF_NAME": tag, "PATH": "/bin:/usr/bin"}, check=False,
                              capture_output=True).returncode == code  # fmt: skip


def test_every_supported_slurm_and_python_has_its_job() -> None:
    """Those that the Makefile, slurm/dev-cluster-root and the metadata name."""
    makefile = (REPOSITORY / "Makefile").read_text()
    versions = re.findall(
        r"^ +([\d.]+)\) echo \w+ ;;", (REPOSITORY / "slurm/dev-cluster-root").read_text(), re.MULTILINE
    )
    assert workflow("slurm")["jobs"]["slurm"]["strategy"]["matrix"]["slurm"] == versions
    assert f"SLURMS ?= own {' '.join(versions)}\n" in makefile
    pythons = re.findall(r"Python :: (3\.\d+)\"", (REPOSITORY / "pyproject.toml").read_text())
    assert f"PYTHONS ?= {' '.join(f'python{each}' for each in pythons)}\n" in makefile
    installed = next(
        step["with"]["python-version"] for step in steps("wheel") if "setup-python" in step.get("uses", "")
    )
    assert sorted(installed.split()) == pythons


def test_the_devcontainer_makes_targets_that_there_are() -> None:
    """It is the Debian of the tests, as root, which SLURM's daemons need."""
    text = (REPOSITORY / ".devcontainer/devcontainer.json").read_text(encoding="utf-8")
    given = json.loads(re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE))
    assert given["image"].endswith(":bookworm")
    assert given["remoteUser"] == "root"
    commands = f"{given['onCreateCommand']}\n{given['postCreateCommand']}"
    assert made(commands) == ["debian", "lint"]
    assert set(made(commands)) <= TARGETS


def section(name: str) -> str:
    found = re.search(
        rf"^%{name}\n(.*?)(?=^%|\Z)", (REPOSITORY / "slurm/apptainer.def").read_text(), re.DOTALL | re.MULTILINE
    )
    assert found is not None
    return found[1]


def test_the_image_takes_what_the_wheel_needs(tmp_path: Path) -> None:
    """Each file that its recipe copies is there, and from them alone a wheel is built; its scripts are shell."""
    copied = [line.split() for line in section("files").splitlines() if line.strip()]
    for source, target in copied:
        assert target == f"/opt/prefsweep/{source}"
        copy = shutil.copytree if (REPOSITORY / source).is_dir() else shutil.copy
        copy(REPOSITORY / source, tmp_path / source)
    built = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", tmp_path], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stdout + built.stderr
    for name in ("post", "test", "runscript", "environment"):
        assert subprocess.run(["/bin/sh", "-n"], input=section(name), text=True, check=False).returncode == 0
    extras = re.findall(r"\[([\w,-]+)\]", section("post"))[0].split(",")
    pyproject = (REPOSITORY / "pyproject.toml").read_text()
    assert all(re.search(rf"^{extra} = \[", pyproject, re.MULTILINE) for extra in extras)


def test_the_citation_is_of_this_version() -> None:
    """CITATION.cff names what the package index will name."""
    cited = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert (cited["version"], cited["license"], cited["type"]) == (__version__, "Apache-2.0", "software")
