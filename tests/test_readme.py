"""The commands of docs/walkthrough.md, run as written, answer what it shows; what the README says of the demo holds.

`python tests/test_readme.py` writes the answers into the page again.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from conftest import clean_environment
from hub_contents import model_files
from worker_fixtures import write_pairs

from launcher.cli.arguments import VERBS

REPOSITORY = Path(__file__).parent.parent
README, WALK = REPOSITORY / "README.md", REPOSITORY / "docs/walkthrough.md"
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
    """Each command runs, in order, in one folder; words, run ids and numbers are those on the page."""
    for block in BLOCK.findall(WALK.read_text(encoding="utf-8")):
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


def test_your_own_model_and_data_are_planned_as_typed(tmp_path: Path) -> None:
    """Each command of that section, in a folder with a model, pairs and a file of the cluster: without a SLURM, too."""
    (tmp_path / "sft").mkdir()
    for name, content in model_files("zephyr_7b_sft", seed=0).items():
        (tmp_path / "sft" / name).write_bytes(content)
    shape = json.loads((tmp_path / "sft/config.json").read_text())
    (tmp_path / "sft/config.json").write_text(json.dumps(shape | {"max_position_embeddings": 2048}))
    write_pairs(tmp_path / "pairs")
    (tmp_path / "conf/cluster").mkdir(parents=True)
    (tmp_path / "conf/cluster/mine.yaml").write_text("defaults: [slurm]\npartition: gpu\naccount: me\n")
    section = README.read_text(encoding="utf-8").partition("## Your own model and data")[2]
    block = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)[0].replace("\\\n", "")
    commands = [shlex.split(line, comments=True) for line in block.splitlines()]
    planned = [words for words in commands if any(word.startswith(("model=", "doctor")) for word in words)]
    assert len(planned) == 4
    for words in planned:
        assert words[0] == "prefsweep"
        given = [*words[1:], *([] if "doctor" in words or "dry_run=true" in words else ["dry_run=true"])]
        done = subprocess.run(
            [sys.executable, "-m", "launcher", *given], cwd=tmp_path, env=clean_environment(),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
        assert ("of training" in done.stdout or "submit" in done.stdout) or "doctor" in words


def test_every_verb_is_in_the_readme() -> None:
    """Its table says what each is for; the options are in each verb's help, of which the site makes a page."""
    text = README.read_text(encoding="utf-8")
    assert [verb for verb in VERBS if verb != "launch" and f"`{verb}`" not in text] == []


def main() -> None:
    """Write the answers into the page."""
    with tempfile.TemporaryDirectory() as folder:
        text = BLOCK.sub(lambda match: f"```console\n{run_block(match[1], Path(folder))}```", WALK.read_text())
    WALK.write_text(text)


if __name__ == "__main__":
    main()
