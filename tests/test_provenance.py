"""What is only recorded stops nothing, and says nothing that is not known."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from pathlib import Path

import pytest

from launcher.machine import provenance as module
from launcher.machine.provenance import provenance

GIT = ("git", "-c", "user.name=n", "-c", "user.email=e@x")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository, of which provenance takes its module to be a part."""
    module_file = tmp_path / "launcher" / "machine" / "provenance.py"
    module_file.parent.mkdir(parents=True)
    module_file.write_text("1\n")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run([*GIT, "-C", str(tmp_path), *command], check=True)
    monkeypatch.setattr(module, "__file__", str(module_file))
    provenance.cache_clear()
    return tmp_path


def test_a_checkout_is_known_with_its_changes(checkout: Path) -> None:
    """Clean, then changed."""
    assert (provenance()["git_dirty"], len(provenance()["git_commit"])) == (False, 40)
    (checkout / "launcher/machine/provenance.py").write_text("2\n")
    provenance.cache_clear()
    assert provenance()["git_dirty"] is True


def test_of_what_git_does_not_show_nothing_is_known(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout that is another user's, which git refuses to look at, is not called clean; nor is one without git."""
    if os.getuid() == 0 and not os.environ.get("SUDO_UID"):
        os.chown(checkout, 61234, 61234)
        assert (provenance()["git_commit"], provenance()["git_dirty"]) == (None, None)
    provenance.cache_clear()
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setenv("PATH", "/nowhere")
    assert (provenance()["git_commit"], provenance()["git_dirty"]) == (None, None)


def test_a_user_whom_nobody_knows_has_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container, or while a directory service is down, without USER and the like."""

    def unknown(user: int) -> pwd.struct_passwd:
        raise KeyError(user)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    provenance.cache_clear()
    assert provenance()["user"] == str(os.getuid())
    provenance.cache_clear()
