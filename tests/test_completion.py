"""What TAB gives, in the shells themselves where they are installed."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY, clean_environment

from launcher.cli.arguments import VERBS
from launcher.cli.complete import candidates, options_of, words_of
from launcher.cli.completion import SCRIPTS
from launcher.cli.launch import launch_parser
from launcher.cli.main import verb_parser
from launcher.planning.conf_places import choices, groups

SECONDS = 30.0  # for one answer, on a busy machine


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a sweep of two runs, and a trainer of one's own."""
    monkeypatch.chdir(tmp_path)
    for run in ("tiny-ipo-beta0.1-0a1b2c3d", "tiny-ipo-beta0.2-1a1b2c3d"):
        (tmp_path / "outputs" / "runs" / run).mkdir(parents=True)
    launch = tmp_path / "outputs" / "sweeps" / "smoke" / "launches" / "001.json"
    launch.parent.mkdir(parents=True)
    launch.write_text(json.dumps({"runs": [{"run_id": "tiny-ipo-beta0.1-0a1b2c3d"}]}))
    (tmp_path / "conf" / "trainer").mkdir(parents=True)
    (tmp_path / "conf" / "trainer" / "mine.yaml").write_text("defaults: [full]\n")
    return tmp_path


def after(line: str) -> list[str]:
    return candidates(words_of(line))


def test_overrides() -> None:
    """Groups and their choices, also behind a comma; keys, section by section; sweeps, presets and losses."""
    assert {f"{group}=" for group in groups() if group != "preset"} <= set(after("prefsweep -m "))
    assert after("prefsweep trainer=l") == ["trainer=lora"]
    assert after("prefsweep trainer=") == sorted(f"trainer={name}" for name in choices("trainer"))
    assert "trainer=mine" in after("prefsweep trainer=m")
    assert after("prefsweep -m trainer=lora,fu") == ["trainer=lora,full"]
    assert after("prefsweep trainer.learn") == ["trainer.learning_rate="]
    assert after("prefsweep trainer.lo") == ["trainer.lora."]
    assert "trainer.lora.alpha=" in after("prefsweep trainer.lora.")
    assert after("prefsweep launch +sweeps=smo") == ["+sweeps=smoke"]
    assert "+preset=simpo_llama3" in after("prefsweep +preset=")
    assert {"loss_type=sigmoid", "loss_type=ipo", "loss_type=simpo"} <= set(after("prefsweep loss_type="))
    assert after("prefsweep dry_run=") == ["dry_run=false", "dry_run=true"]
    assert after("prefsweep --help trainer.lora.r") == ["trainer.lora.r"]


def test_verbs_sweeps_and_runs() -> None:
    """Verbs come first; then sweeps, and runs of the sweep that is named."""
    assert after("prefsweep re") == ["report", "resume"]
    assert after("prefsweep status ") == ["smoke"]
    assert after("prefsweep cancel --state failed sm") == ["smoke"]
    assert after("prefsweep cancel smoke ") == ["tiny-ipo-beta0.1-0a1b2c3d"]
    assert after("prefsweep logs tiny-ipo-beta0.2") == ["tiny-ipo-beta0.2-1a1b2c3d"]
    assert after("prefsweep resume smoke cluster.ti") == ["cluster.time=", "cluster.time_margin="]
    assert after("prefsweep report smoke sm") == ["smoke"]
    assert after("prefsweep cancel --state ru") == ["running"]
    assert after("prefsweep completion z") == ["zsh"]
    assert after("prefsweep schema tr") == ["tracking", "trainer"]
    assert after("prefsweep status --output-dir nowhere ") == []


def test_a_broken_line_has_candidates_too() -> None:
    """Quotes that are open, a file that is damaged: nothing raises."""
    assert after("prefsweep 'trainer=lo") == ["trainer=lora"]
    Path("outputs/sweeps/smoke/launches/001.json").write_bytes(b"\xff{")
    assert after("prefsweep cancel smoke ") == []


@pytest.mark.parametrize("verb", VERBS)
def test_all_options_of_a_verb_and_no_others(verb: str) -> None:
    """They are read from its source; argparse has the same."""
    said = verb_parser(verb).format_help()
    usage = set(re.findall(r"(--[a-z][\w-]*)", said.partition("examples:")[0]))
    known = {action for each in verb_parser(verb)._actions for action in each.option_strings if action[:2] == "--"}
    assert set(options_of(verb)) == (known if "--output-dir" in usage else known - {"--output-dir"})


def test_all_options_of_a_launch() -> None:
    """The same."""
    known = {option for each in launch_parser()._actions for option in each.option_strings if option[:2] == "--"}
    assert set(options_of("launch")) == known


def test_it_is_quick_and_imports_no_hydra(here: Path) -> None:
    """One press of TAB imports neither Hydra, nor torch, nor a verb, and takes a fraction of a second of the CPU."""
    code = (
        "import sys, time; from launcher.cli.main import main; main(['completion', '--line', 'prefsweep trainer=']);"
        "heavy = [m for m in ('hydra', 'omegaconf', 'torch', 'pandas', 'launcher.cli.status') if m in sys.modules];"
        "print(heavy, time.process_time(), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=here, env=clean_environment(), capture_output=True, text=True, check=True
    )
    heavy, _, seconds = done.stderr.strip().rpartition(" ")
    assert heavy == "[]"
    assert float(seconds) < 0.6  # twice what is promised: other tests run beside it


SHELLS = {
    "bash": (["bash", "--norc", "-i"], "source <(prefsweep completion bash)"),
    "zsh": (["zsh", "-f", "-i"], "autoload -U compinit; compinit -u -D; source <(prefsweep completion zsh)"),
    "fish": (["fish", "--no-config", "-i"], "prefsweep completion fish | source"),
}


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("typed", "becomes"),
    [
        ("prefsweep trainer=zephyr_l\t", "prefsweep trainer=zephyr_lora"),
        ("prefsweep -m trainer=lora,fu\t", "prefsweep -m trainer=lora,full"),
        ("prefsweep cancel smoke ti\t", "prefsweep cancel smoke tiny-ipo-beta0.1-0a1b2c3d"),
    ],
)
def test_in_the_shell_itself(shell: str, typed: str, becomes: str, here: Path) -> None:
    """TAB at a terminal completes the word in place."""
    command, setup = SHELLS[shell]
    if shutil.which(command[0]) is None:
        pytest.skip(f"{shell} is not installed here")
    program = here / "bin" / "prefsweep"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nPYTHONPATH={REPOSITORY} exec {sys.executable} -m launcher "$@"\n')
    program.chmod(0o755)
    assert becomes in at_terminal(command, setup, typed, becomes, f"{program.parent}:{os.environ['PATH']}")


def at_terminal(command: list[str], setup: str, typed: str, becomes: str, path: str) -> str:
    """What the terminal shows after something was typed."""
    process, terminal = pty.fork()
    if process == 0:
        given = {"TERM": "dumb", "PATH": path, "PS1": "$ ", "HOME": str(Path.cwd())}
        os.execvpe(command[0], command, {**os.environ, **given})  # noqa: S606 - the shell itself is tested
    try:
        os.write(terminal, f"{setup}; echo rea''dy\n".encode())
        until(terminal, "ready\r\n")
        os.write(terminal, typed.encode())
        return until(terminal, becomes)
    finally:
        os.close(terminal)
        os.kill(process, 9)
        os.waitpid(process, 0)


def until(terminal: int, word: str) -> str:
    shown, end = "", time.monotonic() + SECONDS
    while word not in shown and time.monotonic() < end:
        if select.select([terminal], [], [], 0.1)[0]:
            shown += os.read(terminal, 65536).decode(errors="replace")
    return shown


def test_scripts_are_printed_for_three_shells(capsys: pytest.CaptureFixture[str]) -> None:
    """And no other."""
    from launcher.cli.main import main

    for shell, script in SCRIPTS.items():
        assert main(["completion", shell]) == 0
        assert capsys.readouterr().out == script
    assert main(["completion", "tcsh"]) == 2
