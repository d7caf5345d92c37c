"""Two people of one group on this machine: real users, for tests of a folder in which both work.

A module that needs them imports the fixture:

    from people import People, people_fixture  # noqa: F401 - the fixture people

They are made for the module and removed after it. Only root may make users; without it such tests are skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from conftest import clean_environment
from slurm_cluster import open_folder
from waiting import LONGEST_WAIT

ROOTS_OWN = ("PREFSWEEP_CACHE", "HF_HOME", "NETRC", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "SUDO_UID")


def system(*command: str) -> None:
    """Have the machine do something, as root."""
    subprocess.run(command, check=True, capture_output=True)


@dataclass(frozen=True)
class Person:
    """A user of this machine, at a terminal with some umask."""

    name: str
    home: Path
    python: Path
    umask: int = 0o022

    def with_umask(self, umask: int) -> Person:
        """The same, who has set it."""
        return replace(self, umask=umask)

    @property
    def command(self) -> list[str]:
        """What makes a command, put behind it, this person's."""
        umask = ["sh", "-c", f'umask {self.umask:03o} && exec "$@"', "sh"]
        return ["setpriv", f"--reuid={self.name}", f"--regid={self.name}", "--init-groups", *umask]

    def environment(self, ours: Mapping[str, str]) -> dict[str, str]:
        """This process's environment, with their own folders in it."""
        rest = {name: value for name, value in ours.items() if name not in ROOTS_OWN}
        own = {"HOME": str(self.home), "USER": self.name, "LOGNAME": self.name, "HF_HUB_OFFLINE": "1"}
        libraries = {"LD_LIBRARY_PATH": str(self.python.resolve().parents[1] / "lib"), "PYTHONDONTWRITEBYTECODE": "1"}
        return {**rest, **own, **libraries}

    def python_with(self, script: str, *words: str) -> str:
        """What a script prints, however it ends."""
        return self._done(self.home, "-c", script, *words).stdout

    def run(self, folder: Path, *words: str, code: int | None = 0, module: str = "launcher") -> str:
        """`python -m MODULE WORDS` in a folder; all that it prints. `code`: with which it has to end."""
        done = self._done(folder, "-m", module, *words)
        assert code in (None, done.returncode), done.stdout
        return done.stdout

    def _done(self, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
        """Python with these words, as this person, to its end."""
        return subprocess.run(
            [*self.command, str(self.python), *words],
            cwd=folder,
            env=self.environment(clean_environment()),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LONGEST_WAIT,
            check=False,
        )


@dataclass(frozen=True)
class People:
    """Ana and Ben, the group that both are in, and a folder that all can reach."""

    ana: Person
    ben: Person
    group: str
    folder: Path

    def shared(self, name: str, owner: Person | None = None) -> Path:
        """A new folder of the group, setgid, as an administrator makes them; Ana's, unless told otherwise."""
        folder = self.folder / name
        folder.mkdir()
        shutil.chown(folder, (owner or self.ana).name, self.group)
        folder.chmod(0o2775)
        return folder


@pytest.fixture(scope="module", name="people")
def people_fixture() -> Iterator[People]:
    """Two users and their group, for as long as the module."""
    if os.geteuid() != 0:
        pytest.skip("only root can make the users of these tests")
    if not all(map(shutil.which, ("useradd", "userdel", "groupadd", "groupdel", "setpriv"))):
        pytest.skip("useradd, groupadd or setpriv is not here")
    with open_folder() as folder, _group(f"psg{os.getpid()}") as group:
        python = _python_for_all(folder)
        with (
            _user(f"ana{os.getpid()}", group, folder, python) as ana,
            _user(f"ben{os.getpid()}", group, folder, python) as ben,
        ):
            yield People(ana, ben, group, folder)


@contextmanager
def _group(name: str) -> Iterator[str]:
    system("groupadd", name)
    try:
        yield name
    finally:
        system("groupdel", name)


@contextmanager
def _user(name: str, group: str, folder: Path, python: Path) -> Iterator[Person]:
    home = folder / name
    system("useradd", "--user-group", "--create-home", "--home-dir", str(home), "--groups", group, name)
    try:
        yield Person(name, home, python)
    finally:
        system("userdel", name)


def _python_for_all(folder: Path) -> Path:
    """A Python with our packages that every user can start; ours may lie in root's own folder."""
    base = Path(sys.base_prefix).resolve()
    if all(place.stat().st_mode & 0o001 for place in (base, *base.parents)):
        return Path(sys.executable)
    copy, packages = folder / "python", sysconfig.get_path("purelib")
    try:
        system("cp", "-al", str(base), str(copy))
    except subprocess.CalledProcessError:  # another disk
        system("cp", "-a", str(base), str(copy))
    named = f"python{sys.version_info.major}.{sys.version_info.minor}"
    venv = folder / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "lib" / named).mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(copy / "bin" / named)
    (venv / "lib" / named / "site-packages").symlink_to(packages)
    (venv / "pyvenv.cfg").write_text(f"home = {copy / 'bin'}\n")
    return venv / "bin" / "python"


def unlike_umask(folder: Path, umask: int) -> list[str]:
    """Each file and folder below whose mode is not the umask's; that of a program may have its x."""
    found = []
    for path in sorted(path for path in folder.rglob("*") if not path.is_symlink()):
        mode = path.stat().st_mode & 0o777
        allowed = {0o777 & ~umask} if path.is_dir() else {0o666 & ~umask, 0o777 & ~umask}
        if mode not in allowed:
            found.append(f"{mode:o} {path}")
    return found
