"""Files of the user's own in front of ours, and what is shown of groups, keys and the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from launcher import __version__
from launcher.cli.main import main
from launcher.planning.comments import Written, comments_in
from launcher.planning.conf_places import choices, conf_dirs, groups
from launcher.planning.key_help import all_keys, help_of


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def answer(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(list(words))
    told = capsys.readouterr()
    return code, told.out, told.err


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    code, out, err = answer(capsys, *words)
    assert code == 0, err
    return out


def test_the_nearest_place_wins(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """--config-dir, then ./conf, then $PREFSWEEP_CONF, then ours; what only one of them has is found there."""
    places = [here / "given", here / "conf", here / "variable"]
    for number, place in enumerate(places):
        for name in ["same", f"only{number}"][: 2 if number < 3 else 1]:
            write(place / "trainer" / f"{name}.yaml", f"defaults: [full]\nepochs: {number + 2}\n")
    monkeypatch.setenv("PREFSWEEP_CONF", str(here / "variable"))
    epochs = ("--cfg", "job", "--package", "trainer.epochs")
    for given, epoch in ((["-cd", "given"], "2.0"), ([], "3.0")):
        assert epoch in shown(capsys, *given, "trainer=same", *epochs)
    assert "4.0" in shown(capsys, "trainer=only2", *epochs)
    assert "1.0" in shown(capsys, "trainer=full", *epochs)
    code, _, error = answer(capsys, "trainer=only0", *epochs)
    assert code == 2
    assert f"looked in {here / 'conf/trainer'}, {here / 'variable/trainer'}, then in ours" in error


def test_another_programs_conf_is_in_nobodys_way(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the folder of another project its conf/config.yaml, and groups that are not ours, change nothing."""
    write(here / "conf" / "config.yaml", "defaults: [optimizer: adam]\nbeta: text\n")
    write(here / "conf" / "optimizer" / "adam.yaml", "lr: 1\n")
    assert "0.1" in shown(capsys, "--cfg", "job", "--package", "beta")


def test_a_config_of_ones_own(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--config-name begins with another file, which may stand on ours."""
    write(here / "conf" / "mine.yaml", "defaults: [config, _self_]\nbeta: 0.37\n")
    assert "0.37" in shown(capsys, "-cn", "mine", "--cfg", "job", "-p", "beta")
    code, _, error = answer(capsys, "-cn", "thine", "beta=1")
    assert (code, "no such file in" in error) == (2, True)
    assert answer(capsys, "-cd", "nowhere", "beta=1")[0] == 2


def test_sweep_files_of_ones_own(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By name from ./sweeps, or by path; an error in one names the file."""
    write(here / "sweeps" / "mine.yaml", "overrides: {model: tiny}\ngrid: {beta: [0.1, 0.2]}\n")
    for name in ("mine", "./sweeps/mine.yaml", "sweeps/mine"):
        assert "0.1" in shown(capsys, "-m", f"+sweeps={name}", "--cfg", "job", "-p", "beta")
        assert "sweep mine" in shown(capsys, "-m", f"+sweeps={name}", "evaluation=none", "dry_run=true")
    write(here / "sweeps" / "wrong.yaml", "grid: [1]\n")
    assert "sweeps/wrong.yaml" in answer(capsys, "+sweeps=wrong", "dry_run=true")[2]
    assert f"looked in {here / 'sweeps'}" in answer(capsys, "+sweeps=none", "dry_run=true")[2]


def test_the_configuration_is_shown_and_nothing_launched(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--cfg prints what would be launched, resolved, as YAML; --info how it came about."""
    config = yaml.safe_load(shown(capsys, "--cfg", "job", "model=tiny", "beta=0.3"))
    assert (config["beta"], config["model"]["name"]) == (0.3, "tiny")
    assert "hydra" in yaml.safe_load(shown(capsys, "--cfg", "all"))
    code, out, err = answer(capsys, "-m", "beta=0.3,0.4", "-c", "job", "-p", "beta")
    assert (code, out, "the first of 2 runs" in err) == (0, "# @package beta\n0.3\n", True)
    assert shown(capsys, "-c", "job", "-p", "model.architecture") == "# @package model.architecture\nnull\n"
    assert "-cd puts a folder before them" in answer(capsys, "-cp", str(here), "-c", "job")[2]
    assert "model/tiny" in shown(capsys, "model=tiny", "--info", "defaults")
    assert str(conf_dirs()[-1]) in shown(capsys, "--info", "searchpath")
    assert "model/smollm2" in shown(capsys, "--info")
    for words in (["--cfg", "job", "-p", "modle"], ["--info", "nothing"], ["-p", "model"], ["--cfg", "nothing"]):
        assert answer(capsys, *words)[0] == 2
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("override", "instead"),
    [
        ("hydra.run.dir=x", "output_dir=FOLDER"),
        ("hydra/launcher=submitit_slurm", "cluster=slurm"),
        ("hydra.launcher.timeout_min=3", "cluster=slurm"),
        ("hydra/sweeper=optuna", "-m"),
        ("hydra.mode=MULTIRUN", "-m"),
        ("hydra.searchpath=[x]", "--config-dir"),
        ("hydra.job.env_set.A=1", "cluster.setup"),
        ("hydra.verbose=true", "logs"),
    ],
)
def test_hydras_own_settings_name_ours(override: str, instead: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line says what there is in their place."""
    code, _, error = answer(capsys, override)
    assert (code, instead in error, len(error.splitlines())) == (2, True, 1)


def test_help_has_groups_choices_and_keys(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--help lists the groups with their choices; of a group, a section or a key it has each key with its comment."""
    write(here / "conf" / "trainer" / "mine.yaml", "# Mine alone.\ndefaults: [full]\n")
    told = shown(capsys, "--help")
    for group in groups():
        assert set(choices(group)) <= set(told.replace(",", " ").split()), group
    told = shown(capsys, "--help", "trainer")
    assert "mine         Mine alone." in told
    assert "# Peak learning rate.\ntrainer.learning_rate=2e-5 (full), 1e-3 (lora), 5e-7 (zephyr_full)" in told
    assert "\ntrainer.lr_scheduler=cosine\n" in told
    assert "trainer.lora.r=16 (lora), 64 (zephyr_lora)" in told
    revisions = shown(capsys, "--help", "model.revision").splitlines()[-1]
    assert {f"({name})" for name in ("qwen_0_6b", "mistral_7b", "gemma_1b")} <= set(revisions.replace(",", "").split())
    assert shown(capsys, "-h", "cluster.time").startswith("# Time limit of a job")
    told = shown(capsys, "--help", "dataset")
    assert "\ndataset.name=kto-mix (kto_mix), ...; --help dataset.name has all 6\n" in told
    assert "\ndataset.about.labelled=true (kto_mix)\n" in told  # one choice alone has it
    assert "loss.gamma=null" in shown(capsys, "--help", "loss")
    assert shown(capsys, "--help", "trainer.desirable_weight").endswith("\ntrainer.desirable_weight=null\n")
    code, _, error = answer(capsys, "--help", "trainer.learningrate")
    assert (code, "did you mean 'trainer.learning_rate'" in error) == (2, True)


def test_every_key_has_a_comment_that_is_found() -> None:
    """Of all files of conf/: what --help tells of a key is what stands above it."""
    lacking = [name for name, key in all_keys().items() if key.value and not key.comment]
    assert [name for name in lacking if not name.endswith(".name") and ".config." not in name] == []
    header = "# A file.\n# @package _global_\n# yaml-language-server: $schema=x\n"
    found = comments_in(f"{header}a:\n  # One.\n  # Two.\n  b: 1  # no\nc: [1]\n")
    assert found.header == "A file."
    assert found.keys == {"a": Written("", ()), "a.b": Written("1", ("One.", "Two.")), "c": Written("[1]", ())}
    assert help_of("seed").startswith("# Seed of data order")
    assert not any("yaml-language-server" in help_of(word) for word in (*groups(), *all_keys()))


def test_a_variable_that_names_no_folder_is_told(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else ours would stand in the place of the files that lie in the one that is meant."""
    monkeypatch.setenv("PREFSWEEP_CONF", str(here / "nope"))
    code, _, error = answer(capsys, "--cfg", "job")
    assert (code, f"PREFSWEEP_CONF={here / 'nope'}: no such folder" in error) == (2, True)


def test_a_file_that_is_no_yaml_is_in_no_helps_way(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--help lists it by name, and tells the keys of the others."""
    write(here / "conf" / "trainer" / "broken.yaml", "learning_rate: [1\n")
    told = shown(capsys, "--help", "trainer")
    assert "  broken" in told
    assert "trainer.learning_rate=" in told


def test_the_same_program(capsys: pytest.CaptureFixture[str]) -> None:
    """`launch` may be said; a word that is no verb is told, and so is the version."""
    assert shown(capsys, "--version") == f"prefsweep {__version__}\n"
    assert "0.3" in shown(capsys, "launch", "beta=0.3", "--cfg", "job", "-p", "beta")
    code, _, error = answer(capsys, "statsu")
    assert (code, "did you mean 'status'" in error) == (2, True)
    for verb in ("cancel", "rm", "resume"):
        code, _, error = answer(capsys, verb)
        assert (code, "required: SWEEP;" in error) == (2, True)


def test_a_plan_for_slurm_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A laptop shows the plan, and says what only the scheduler could tell; a launch is refused as before."""
    monkeypatch.setenv("PATH", "/nonexistent")
    words = ("cluster=slurm", "model=tiny", "evaluation=none")
    told = shown(capsys, *words, "dry_run=true")
    assert "1 run, 1 submit" in told
    assert "only the scheduler can tell: scontrol: not found" in told
    code, _, error = answer(capsys, *words)
    assert (code, "there is no sbatch on the PATH" in error) == (2, True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cpus_per_gpuu: 1", "cluster.cpus_per_gpuu: no such key (did you mean 'cpus_per_gpu'?)"),
        ("nodes: many", "cluster.nodes: must be a whole number"),
    ],
)
def test_a_wrong_key_in_a_file_of_ones_own_is_one_line(
    here: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the file, the key, and what would be right."""
    file = here / "conf/cluster/mine.yaml"
    write(file, f"defaults: [slurm]\n{text}\n")
    code, _, err = answer(capsys, "model=tiny", "cluster=mine", "dry_run=true")
    assert (code, err.strip().splitlines()[-1]) == (2, f"prefsweep: {file}: {said}")
