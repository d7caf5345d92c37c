"""slurm/dev-cluster-root: another SLURM is fetched once, or not at all, and mounts nothing that others see.

The package that is fetched here is made on the spot, and needs no mirror; a real one is in `test_slurm_versions`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from slurm_cluster import OTHER_SLURM, dev_cluster_script, needs_slurm
from waiting import eventually

UNSHARE = shutil.which("unshare") or "false"
MAY_MOUNT = subprocess.run([UNSHARE, "--mount", "true"], capture_output=True, check=False).returncode == 0
pytestmark = [*needs_slurm, pytest.mark.skipif(not MAY_MOUNT, reason="not even root may mount anything here")]
# It leaves what debootstrap would: a package, here with a made-up SLURM of one version.
DEBOOTSTRAP = """#!/bin/bash
target=${{@: -3:1}}; tree=$target/tree; archives=$target/var/cache/apt/archives
mkdir -p "$tree"/{{DEBIAN,usr/bin,usr/sbin,usr/share,usr/lib/some-where/slurm-wlm}} "$archives"
printf 'Package: slurm\\nVersion: 1\\nArchitecture: all\\nMaintainer: x\\nDescription: x\\n' >"$tree/DEBIAN/control"
printf '#!/bin/sh\\necho slurm-wlm {version}\\n' >"$tree/usr/sbin/slurmctld-wlm"
printf '#!/bin/sh\\necho "sbatch in $PWD, $#: $*"; cat; exit 3\\n' >"$tree/usr/bin/sbatch"
chmod +x "$tree"/usr/*bin/*
dpkg-deb --build "$tree" "$archives/slurm.deb"
exit {code}
"""
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def run(tmp_path: Path, cache: Path) -> Run:
    """Run a command with a mirror that answers, and a debootstrap that ends with this code, or none of either."""

    def call(
        *words: object, version: str = "24.11.5", code: int = 0, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        folder = tmp_path / "programs"
        folder.mkdir(exist_ok=True)
        for name, text in (("debootstrap", DEBOOTSTRAP.format(version=version, code=code)), ("wget", "#!/bin/sh\n")):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        environment = {**os.environ, "PREFSWEEP_SLURM_CACHE": str(cache), "PATH": f"{folder}:{os.environ['PATH']}"}
        return subprocess.run(
            [str(word) for word in words], env={**environment, **variables}, cwd=tmp_path, input="a\nb\n",
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    return call


def test_a_root_is_made_once_and_entered_without_a_trace(run: Run, tmp_path: Path, cache: Path) -> None:
    """SLURM's commands work from outside, with folder, input, arguments and exit code; nothing is mounted outside."""
    made = run(OTHER_SLURM, "make", "24.11")
    assert (made.returncode, made.stderr) == (0, "")
    assert made.stdout.splitlines()[-1] == f"dev-cluster: SLURM 24.11 is ready below {cache}/24.11"
    again = run(OTHER_SLURM, "make", "24.11", code=1)
    assert (again.returncode, again.stdout) == (0, "")
    assert run(OTHER_SLURM, "enter", "24.11", "slurmctld", "-V").stdout == "slurm-wlm 24.11.5\n"
    run(OTHER_SLURM, "commands", "24.11", tmp_path / "bin")
    for inside in ([], [OTHER_SLURM, "enter", "24.11"]):  # a job finds the same folder on its PATH
        done = run(*inside, tmp_path / "bin" / "sbatch", "--wrap", "a b", "$HOME")
        assert (done.returncode, done.stdout) == (3, f"sbatch in {tmp_path}, 3: --wrap a b $HOME\na\nb\n")
    assert str(cache) not in Path("/proc/self/mounts").read_text()
    assert {path.name for path in cache.iterdir()} == {"24.11", "24.11.making.log", "lock"}


@pytest.mark.parametrize(
    ("how", "complaint"),
    [
        ({"code": 1}, "no SLURM 24.11: debootstrap failed; read "),
        ({"version": "25.11.1"}, "no SLURM 24.11: Debian trixie has slurm-wlm 25.11.1 by now"),
    ],
)
def test_a_root_that_is_not_whole_is_not_taken(run: Run, cache: Path, how: dict[str, object], complaint: str) -> None:
    """It fails in one line; the next command makes it anew."""
    failed = run(OTHER_SLURM, "make", "24.11", **how)
    assert (failed.returncode, len(failed.stderr.splitlines())) == (1, 1)
    assert complaint in failed.stderr
    entered = run(OTHER_SLURM, "enter", "24.11", "true")
    assert (entered.returncode, entered.stderr) == (
        1,
        f"dev-cluster: there is no root with SLURM 24.11 below {cache}\n",
    )
    assert run(OTHER_SLURM, "make", "24.11").returncode == 0


def test_a_mirror_that_does_not_answer_is_said_at_once(cache: Path) -> None:
    """In one line, with its address; so tests that want another SLURM are skipped with it, and none waits."""
    variables = {"PREFSWEEP_SLURM_CACHE": str(cache), "PREFSWEEP_DEBIAN_MIRROR": "http://127.0.0.1:9/debian"}
    done = subprocess.run(
        [OTHER_SLURM, "make", "26.05"], env={**os.environ, **variables}, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    said = "dev-cluster: no SLURM 26.05: http://127.0.0.1:9/debian/dists/forky does not answer\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_a_cache_that_is_in_use_is_not_removed(run: Run, cache: Path) -> None:
    """`clean` names the processes that work there; when they have ended it removes it, and nothing else."""
    run(OTHER_SLURM, "make", "24.11")
    (cache / "precious").touch()
    environment = {**os.environ, "PREFSWEEP_SLURM_CACHE": str(cache)}
    with subprocess.Popen([OTHER_SLURM, "enter", "24.11", "sleep", "600"], env=environment) as user:
        assert eventually(lambda: f"lowerdir={cache}" in Path(f"/proc/{user.pid}/mounts").read_text())
        refused = run(OTHER_SLURM, "clean")
        user.kill()
    assert (refused.returncode, cache.exists()) == (1, True)
    assert f"take them down first (processes {user.pid} )" in refused.stderr
    assert run(OTHER_SLURM, "clean").returncode == 0
    assert [path.name for path in cache.iterdir()] == ["precious"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["up", "--slurm", "20.11", "--root", "/nonexistent/c"], "--slurm must be 24.11 or 26.05, or left out"),
        (["up", "--slurm"], "--slurm needs a value"),
    ],
)
def test_a_version_that_is_not_known_is_refused(words: list[str], complaint: str) -> None:
    done = dev_cluster_script(*words)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert complaint in done.stderr
