"""Published settings under a name, `+preset=NAME`: each composes and plans, and what is typed beside it wins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import sweep_of

from launcher.cli import main
from launcher.errors import ConfigError, UsageError
from launcher.machine.installed import data_dir
from launcher.planning.as_typed import read_yaml
from launcher.planning.changes import change_settings
from launcher.planning.compose import compose

FOLDER = data_dir("conf") / "preset"
NAMES = sorted(file.stem for file in FOLDER.glob("*.yaml"))
# What each source says: loss, beta (of one that has it), learning rate, pairs a step; from the sources in the headers.
PUBLISHED = {
    "dpo_zephyr": ("sigmoid", 0.01, 5e-7, 128),
    "ipo_zephyr": ("ipo", 0.01, 5e-7, 128),
    "kto_halos": ("kto", 0.1, 5e-6, 32),
    "ld_dpo": ("sigmoid", 0.01, 5e-7, 128),
    "simpo_llama3": ("simpo", 2.5, 1e-6, 128),
    "orpo_mistral": ("orpo", None, 5e-6, 32),
    "cpo_alma": ("cpo", 0.1, 1e-4, 32),
    "rpo": ("sigmoid+sft", 0.1, 7e-7, 16),
    "robust_dpo": ("robust", 0.01, 1e-3, 16),
    "alphapo_mistral": ("alphapo", 2.5, 7e-7, 128),
}


def config_of(*argv: str) -> dict[str, Any]:
    config: dict[str, Any] = compose(["model=tiny", *argv], multirun=False)[1][0].config
    return config


def leaves(nested: dict[str, Any], above: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    found: dict[tuple[str, ...], Any] = {}
    for key, value in nested.items():
        found |= leaves(value, (*above, key)) if isinstance(value, dict) else {(*above, key): value}
    return found


def test_every_preset_is_one_whose_numbers_are_known_here() -> None:
    """None is there of which nobody looked up what its source says."""
    assert set(NAMES) == set(PUBLISHED)


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_is_values_with_a_source(name: str) -> None:
    """Its header names a source; below stand keys of one's own config with a comment above each, and nothing else."""
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    header, _, body = text.partition("defaults:\n")
    assert header.startswith("# @package _global_\n")
    assert "\n# Source" in header
    lines = body.splitlines()
    keys = [number for number, line in enumerate(lines) if line.strip() and not line.strip().startswith(("#", "-"))]
    sections = ("trainer:", "loss:")
    assert all(lines[number].strip() in sections or lines[number - 1].strip().startswith("# ") for number in keys)


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_composes_to_its_values(name: str) -> None:
    """Every value of its file, over those of the trainer that it names and of the default configuration."""
    config = config_of(f"+preset={name}")
    values = read_yaml((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"), lambda _: None)
    values.pop("defaults")
    for place, value in leaves(values).items():
        node: Any = config
        for key in place:
            node = node[key]
        assert node == value, place
    trainer = config["trainer"]
    found = (config["loss_type"], config["beta"], trainer["learning_rate"], trainer["batch_size"])
    assert found[:1] + found[2:] == PUBLISHED[name][:1] + PUBLISHED[name][2:]
    assert PUBLISHED[name][1] in (None, found[1])


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_plans(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """On a model that needs no network; the run's own command gives the same run again."""
    monkeypatch.chdir(tmp_path)
    assert main.main(["model=tiny", f"+preset={name}", "trainer.max_length=64", "dry_run=true", "--json"]) == 0
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert (run["loss_type"], run["action"]) == (PUBLISHED[name][0], "submit")
    (planned,) = sweep_of("model=tiny", f"+preset={name}").runs
    assert sweep_of(*planned.overrides).runs[0].run_id == planned.run_id


def test_what_is_typed_beside_a_preset_wins() -> None:
    """In whichever order; also a trainer, of which the preset then changes its keys."""
    for argv in (["beta=0.5", "+preset=ipo_zephyr"], ["+preset=ipo_zephyr", "beta=0.5"]):
        assert config_of(*argv)["beta"] == 0.5
    trainer = config_of("trainer=lora", "+preset=ipo_zephyr")["trainer"]
    assert (trainer["name"], trainer["learning_rate"], trainer["lora"]["r"]) == ("lora", 5e-7, 16)
    assert config_of("+preset=ipo_zephyr", "trainer.learning_rate=1e-6")["trainer"]["learning_rate"] == 1e-6


def test_a_preset_is_the_run_that_its_values_give() -> None:
    """A run is known by what is trained, not by how it was asked for; with the plus and without is the same."""
    values = yaml.safe_load((FOLDER / "ipo_zephyr.yaml").read_text(encoding="utf-8"))
    typed = ["trainer=full", f"loss_type={values['loss_type']}", f"beta={values['beta']}"]
    typed += [f"trainer.{key}={json.dumps(value).strip(chr(34))}" for key, value in values["trainer"].items()]
    runs = [sweep_of("model=tiny", *argv).runs[0] for argv in (typed, ["+preset=ipo_zephyr"], ["preset=ipo_zephyr"])]
    assert len({run.run_id for run in runs}) == 1


def test_presets_are_an_axis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the command line and in the grids of a sweep file, where each grid may vary what it starts from."""
    grids, points = compose(["model=tiny", "+preset=dpo_zephyr,ipo_zephyr", "seed=1,2"], multirun=True)
    assert grids.varied == ["preset", "seed"]
    assert [(p.axes["preset"], p.config["loss_type"]) for p in points[::2]] == [
        *(("dpo_zephyr", "sigmoid"), ("ipo_zephyr", "ipo")),
    ]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "mine.yaml").write_text(
        "overrides: {model: tiny}\ngrids:\n  - {+preset: dpo_zephyr, beta: [0.01, 0.1]}\n  - {preset: ipo_zephyr}\n"
    )
    grids, points = compose(["+sweeps=mine"], multirun=True)
    assert grids.varied == ["preset", "beta"]
    assert [(p.config["loss_type"], p.config["beta"]) for p in points] == [
        *(("sigmoid", 0.01), ("sigmoid", 0.1), ("ipo", 0.01)),
    ]
    assert {p.config["loss_type"] for p in compose(["+sweeps=mine", "+preset=ipo_zephyr"], multirun=True)[1]} == {"ipo"}


def test_a_preset_chooses_the_trainer_of_a_large_model() -> None:
    """So that nobody has to name one who has named a recipe; without it the demo's trainer is refused."""
    from launcher.planning.named_trainer import check_named

    with pytest.raises(ConfigError, match="is the demo's"):
        check_named(sweep_of("model=zephyr_7b_sft"))
    check_named(sweep_of("model=zephyr_7b_sft", "+preset=dpo_zephyr"))


def test_a_preset_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """With the nearest, and all that there are; exit code 2. A run that is there cannot change to one."""
    assert main.main(["model=tiny", "+preset=dpo_zephir"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "preset=dpo_zephir: no such file in conf/preset (did you mean 'dpo_zephyr'" in line
    assert "there are: " + ", ".join(NAMES) in line
    with pytest.raises(
        ConfigError, match=r"preset: is given 2 times; give one, or an axis of them: \+preset=rpo,ld_dpo"
    ):
        config_of("+preset=rpo", "+preset=ld_dpo")
    for override in ("+preset=[dpo_zephyr,ld_dpo]", "preset@trainer=ld_dpo"):
        with pytest.raises(ConfigError, match=r"give one, \+preset=NAME"):
            config_of(override)
    with pytest.raises(UsageError, match="preset=ld_dpo: preset says what is trained; another value is another run"):
        change_settings({"cluster": {}}, ["+preset=ld_dpo"])
