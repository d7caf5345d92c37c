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

import pytest

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


NUMBER = re.compile(r"(?<![\w.-])-?\d+\.\d+")


def compared(text: str) -> list[str]:
    """The lines that are compared: words, ids and numbers; no times, rates, memory, pids, hosts or progress."""
    text = re.sub(r"\d+m\d\ds|\d+h\d\d", "TIME", text)
    text = re.sub(r"[\d,]+( to [\d,]+)?(?= tokens/s)", "RATE", text)
    text = re.sub(r"(?<=memory up to )[\d.]+ .B", "MEMORY", text)
    text = re.sub(r"(?<=12/12)( +)\d+( +1 +)\S+", r"\1PID\2HOST", text)
    text = re.sub(r"smoke\.[0-9a-f]{10}", "BATCH", text)
    return [re.sub(r"\s+", " ", line).strip() for line in text.splitlines() if not line.startswith("[")]


def check(answered: str, shown: str) -> None:
    """Words and ids are equal; a number is what is shown to 2 %, and to one in its last place, as it is rounded."""
    ours, theirs = compared(answered), compared(shown)
    assert [NUMBER.sub("NUMBER", line) for line in ours] == [NUMBER.sub("NUMBER", line) for line in theirs]
    for line, other in zip(ours, theirs, strict=True):
        for said, right in zip(NUMBER.findall(other), NUMBER.findall(line), strict=True):
            last_place = 10.0 ** -len(said.partition(".")[2])
            assert float(right) == pytest.approx(float(said), rel=0.02, abs=1.01 * last_place), f"{line}\n{other}"


def test_every_console_block_answers_as_shown(tmp_path: Path) -> None:
    """Each command runs, in order, in one folder; words, run ids and numbers are those in the README."""
    for block in BLOCK.findall(README.read_text(encoding="utf-8")):
        check(run_block(block, tmp_path), block)


def test_another_number_is_seen() -> None:
    """A score that is off, and a word; not what is rounded otherwise, nor how long it took."""
    shown = "tiny-ipo-beta0.1-e0cb8347 TRAINED 12 0m00s 24.978 0.438 0.008 0.007 0.000 ± 0.000"
    check(shown.replace("24.978", "24.6").replace("0.008", "0.009").replace("0m00s", "1m07s"), shown)
    for right, wrong in (("24.978", "24.4"), ("0.438", "0.428"), ("0.008", "0.010"), ("± 0.000", "± 0.002"),
                         ("0.438", "-0.438"), ("e0cb8347", "e0cb8348"), ("TRAINED", "FAILED")):  # fmt: skip
        with pytest.raises(AssertionError):
            check(shown.replace(right, wrong), shown)


def test_the_two_tables_of_the_demo_agree() -> None:
    """The report's best setting of each loss is the highest golden reward, and its difference that to the untrained."""
    results, report = re.findall(r"```text\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)[:2]
    untrained = float(re.findall(r"smollm2-135m-base .* ([\d.]+) ±", results)[0])
    runs = re.findall(r"smollm2-135m-(\w+)-beta([\d.]+)-.* ([\d.]+) ± [\d.]+", results)
    assert len(runs) == 6
    rows = re.findall(r"smollm2-135m +(\w+) +beta ([\d.]+) +([\d.]+) golden reward +\+([\d.]+) to untrained", report)
    assert [row[0] for row in rows] == ["sigmoid", "ipo", "kto_pair"]
    for loss, beta, score, difference in rows:
        best, setting = max((float(reward), beta) for name, beta, reward in runs if name == loss)
        assert setting == beta
        assert float(score) == pytest.approx(best, abs=0.0051)
        assert float(difference) == pytest.approx(best - untrained, abs=0.0061)


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
