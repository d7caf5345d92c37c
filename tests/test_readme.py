"""The README's commands, run as written, answer what the README shows.

`python tests/test_readme.py` writes the answers into the README again.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from launcher.cli.arguments import VERBS
from launcher.cli.main import verb_parser

REPOSITORY = Path(__file__).parent.parent
README = REPOSITORY / "README.md"
BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)


def run_block(block: str, folder: Path) -> str:
    """The block with each command's answer as it is now."""
    answers = []
    for command in re.findall(r"^\$ (.*)$", block, re.MULTILINE):
        words = shlex.split(command)
        assert words[:2] == ["python", "-m"], command
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "300", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, *words[1:]], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        answers.append(f"$ {command}\n" + _shown(done.stdout, folder))
    return "".join(answers)


def _shown(text: str, folder: Path) -> str:
    """An answer without what differs from run to run for no reason: trailing blanks, folders."""
    text = text.replace(f"{folder}/", "").replace(str(Path(sys.executable)), "python")
    return "".join(line.rstrip() + "\n" for line in text.splitlines())


def normal(text: str) -> list[str]:
    """What must be equal on every machine: words and ids; no times, scores, pids, hosts or progress."""
    text = re.sub(r"\d+m\d\ds|\d+h\d\d", "TIME", text)
    text = re.sub(r"(?<![\w.-])-?\d+\.\d+", "NUMBER", text)
    text = re.sub(r"(?<=12/12)( +)\d+( +1 +)\S+", r"\1PID\2HOST", text)
    text = re.sub(r"smoke\.[0-9a-f]{10}", "BATCH", text)
    return [re.sub(r"\s+", " ", line).strip() for line in text.splitlines() if not line.startswith("[")]


def test_every_console_block_answers_as_shown(tmp_path: Path) -> None:
    """Each command runs, in order, in one folder; words and run ids are those in the README."""
    for block in BLOCK.findall(README.read_text(encoding="utf-8")):
        assert normal(run_block(block, tmp_path)) == normal(block)


def test_every_verb_and_option_is_in_the_readme() -> None:
    """Nothing can be typed that the README does not mention."""
    text = README.read_text(encoding="utf-8")
    for verb in VERBS:
        assert re.search(rf"`{verb}[ `]", text)
        options = re.findall(r"(--[a-z-]+)", verb_parser(verb).format_usage())
        missing = [option for option in options if option not in text and option not in ("--output-dir", "--every")]
        assert not missing, f"{verb}: {missing}"


def main() -> None:
    """Write the answers into the README."""
    with tempfile.TemporaryDirectory() as folder:
        text = BLOCK.sub(lambda match: f"```console\n{run_block(match[1], Path(folder))}```", README.read_text())
    README.write_text(text)


if __name__ == "__main__":
    main()
