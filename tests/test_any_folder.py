"""Where everything lies: any folder, said in either way; what is missing is one line."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import clean_environment
from finished_runs import trained_runs

from launcher.cli.main import main
from launcher.planning.compose import compose
from launcher.planning.overrides import as_text
from launcher.store.output_folder import Store
from launcher.submission import submit
from launcher.views.console import verb_command

ROOT = Path(__file__).parents[1]
NAMES = ["plain", "out[/b]", "[a] it's", "dönnées ±", "a $HOME", "x\x1b[31m"]
VERBS = [
    ("status", "s"), ("cancel", "s"), ("collect", "s"), ("publish", "s", "--dry-run"), ("resume", "s"), ("sync", "s"),
    ("evaluate", "s", "--dry-run"), ("publish", "s"), ("status", "s", "--json"),
]  # fmt: skip


def answers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], str]:
    """The exit codes of all verbs on a trained sweep that lies there, and all that they print on an ASCII terminal."""
    trained_runs(
        Store(folder), "sweep=s", "loss_type=ipo", "hub=folder", "tracking=off", f"output_dir={as_text(str(folder))}"
    )
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", out)
        codes = [main([*words, "--output-dir", str(folder)]) for words in VERBS]
    return codes, out.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]


def test_verbs_answer_alike_wherever_the_sweep_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit codes do not depend on the folder's name; the command for the report works as it is printed."""
    expected = None
    for name in NAMES:
        codes, text = answers(tmp_path / name, monkeypatch)
        expected = expected or codes
        assert codes == expected, text
        assert "\x1b" not in text
        (line,) = set(re.findall(r"report: python -m analysis (.*)", text))
        shown = subprocess.run(["/bin/sh", "-c", f"printf %s {line}"], capture_output=True, check=True).stdout.decode()
        assert shown == str(tmp_path / name / "sweeps" / "s")


@pytest.mark.parametrize("name", NAMES)
def test_the_command_to_go_on_with_names_the_folder(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is not the default, quoted for a shell."""
    line = verb_command(Store(tmp_path / name).sweep("s"), "status", "--watch")
    start = "python -m launcher status s --watch"
    shown = subprocess.run(
        ["/bin/sh", "-c", line.replace(start, "printf '%s|'")], capture_output=True, check=True
    ).stdout
    assert shown.decode() == f"--output-dir|{tmp_path / name}|"
    monkeypatch.chdir(tmp_path)
    assert verb_command(Store(tmp_path / "outputs").sweep("s"), "status", "--watch") == start


def test_the_folder_may_be_said_in_either_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`output_dir=X` and `--output-dir X` mean the same to every verb and to a launch; both at once are refused."""
    folder = tmp_path / "there it is"
    trained_runs(Store(folder), "sweep=s", "loss_type=ipo", "hub=off", "tracking=off")
    for said in (["--output-dir", str(folder)], [f"output_dir={folder}"], [f"output_dir='{folder}'"]):
        for verb in (
            ["status", "s"],
            ["cancel", "s"],
            ["collect", "s"],
            ["resume", "s"],
            ["evaluate", "s", "--dry-run"],
        ):
            assert main([*verb, *said]) == 0, capsys.readouterr().err
    assert main(["status", f"output_dir={folder}", "--output-dir", str(folder)]) == 2
    assert "given twice" in capsys.readouterr().err
    plan = ["model=tiny", "loss_type=ipo", "sweep=s", "dry_run=true", "hub=off", "tracking=off", "trainer=full"]
    assert main([*plan, "--output-dir", str(folder)]) == 0
    assert "dry run" in capsys.readouterr().out
    assert main([*plan, f"output_dir={folder}", "--output-dir", str(folder)]) == 2
    assert "leave out --output-dir" in capsys.readouterr().err


def test_the_verb_run_has_its_folder_already(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is not looked for elsewhere without a word."""
    assert main(["run", str(tmp_path), "output_dir=x"]) == 2
    assert "RUN_DIR says where the run lies" in capsys.readouterr().err


def test_paths_that_are_no_text_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Bytes that are no UTF-8 could not be written down."""
    assert main(["output_dir=x\udcff", "dry_run=true"]) == 2
    assert r"output_dir=x\xff: holds bytes that are no UTF-8" in capsys.readouterr().err


def test_a_folder_of_any_alphabet_is_a_model_or_a_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name in run ids is made of letters that a job and a repository may have."""
    monkeypatch.chdir(tmp_path)
    for name in ("modèle", "模型", "données"):
        (tmp_path / name).mkdir()
    for name in ("modèle", "模型"):
        config = compose([f"model=./{name}", "dataset=./données"], multirun=False)[1][0].config
        assert config["model"]["path"] == str(tmp_path / name)
        assert config["dataset"]["path"] == str(tmp_path / "données")
        assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*", config["model"]["name"])
        assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*", config["dataset"]["name"])
    _, points = compose(["model=./模型,./modèle"], multirun=True)
    assert len({point.config["model"]["name"] for point in points}) == 2


def test_a_python_that_cannot_train_is_refused_at_the_launch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the runs would be trained in it; a cluster's nodes may have another. Nothing is submitted."""
    monkeypatch.setattr(submit, "missing_to_train", lambda: ["torch"])
    argv = ["model=tiny", "loss_type=ipo", "cluster=local", "hub=off", "tracking=off", f"output_dir={tmp_path}"]
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert "cluster.executor=local: runs would be trained in this Python, where torch is not installed" in err
    assert "pip install 'prefsweep[train]'" in err
    assert not list(tmp_path.rglob("attempts"))
    assert main([*argv, "dry_run=true"]) == 0


WITHOUT = """
import sys
class Missing:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        missing = name.partition(".")[0] in {%s}
        return None if missing else self.finder.find_spec(name, path, target)
sys.meta_path[:] = [Missing(finder) for finder in sys.meta_path]
import runpy
sys.argv = ["x", *sys.argv[1:]]
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


def without(packages: str, *words: str) -> subprocess.CompletedProcess[str]:
    program = WITHOUT % ", ".join(repr(each) for each in packages.split())
    environment = clean_environment(PYTHONPATH=str(ROOT))
    return subprocess.run(
        [sys.executable, "-c", program, *words], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("package", ["pandas", "altair", "jinja2", "tabulate", "scipy", "numpy"])
def test_analysis_without_its_extra_is_one_line(tmp_path: Path, package: str) -> None:
    """It names what is missing and how to get it."""
    done = without(package, "analysis", str(tmp_path))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "pip install 'prefsweep[analysis]'" in done.stderr
    assert package in done.stderr


def test_the_launcher_needs_no_extra(tmp_path: Path) -> None:
    """To plan, and to answer for a sweep; verbs that need one say so in a line."""
    extras = "torch transformers trl datasets peft accelerate huggingface_hub tenacity openai lm_eval wandb trackio "
    extras += "tensorboard pandas numpy altair jinja2 scipy pyarrow tabulate"
    folder = f"--output-dir={tmp_path}"
    done = without(extras, "launcher", "+sweeps=smoke", "-m", "dry_run=true", folder)
    assert done.returncode == 0, done.stderr
    trained_runs(Store(tmp_path), "sweep=s", "loss_type=ipo", "hub=huggingface", "tracking=wandb")
    for words, code in ((["status"], 0), (["collect"], 0), (["dashboard"], 2), (["publish", "s"], 1), (["sync"], 0)):
        done = without(extras, "launcher", *words, folder)
        assert "Traceback" not in done.stderr
        assert done.returncode == code, (words, done.stdout, done.stderr)
