"""Several values of a key that is no part of what is trained: refused, with what would be right."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from conftest import sweep_of

from launcher.errors import ConfigError, UsageError
from launcher.planning.changes import change_settings
from launcher.planning.compose import compose


def refused(*argv: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        sweep_of(*argv)
    return caught.value


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("cluster.exclude", "n1,n2"), ("cluster.partition", "a,b"), ("cluster.mail", "a@x,b@x")),
        *(("cluster.qos", "q,$r"), ("cluster.extra.comment", "a,010"), ("evaluation.cluster.exclude", "n[1-2],n4")),
    ],
)
def test_a_text_with_commas_is_told_how_to_be_given(key: str, value: str) -> None:
    """The remedy holds a word of the shell that works as it stands, also beside an axis and without -m."""
    if "[" not in value:
        error = refused(f"{key}={value}", "beta=0.1,0.2")
        assert (error.key, error.value) == (key, value)
        _works(str(error), key, value)
        with pytest.raises(ConfigError) as single:
            compose([f"{key}={value}"], multirun=False)
        _works(str(single.value), key, value)
        settings = compose([], multirun=False)[1][0].config
        with pytest.raises(ConfigError) as resumed:
            change_settings(settings, [f"{key}={value}"])
        _works(str(resumed.value), key, value)
    (run,) = sweep_of(f"{key}='{value}'").runs
    assert _at(run.settings, key) == value


def _works(message: str, key: str, value: str) -> None:
    (word,) = shlex.split(message.rpartition("with its commas: ")[2])
    (run,) = sweep_of(word).runs
    assert _at(run.settings, key) == value


def _at(settings: Any, key: str) -> Any:
    for part in key.split("."):
        settings = settings[part]
    return settings


@pytest.mark.parametrize(
    "override",
    [
        *("sweep=1e3,010", "output_dir=a,b", "hub.repo=a/b,c/d", "hub=off,auto", "tracking.project=a,b"),
        *("checkpoint.every=5,10", "evaluation.samples=1,2", "cluster.max_requeues=range(1,3)", "retrain=true,false"),
        *("evaluation.seed=choice(1,2)", "dataset.about={train_pairs:10},{train_pairs:20}", "tracking=off,wandb"),
    ],
)
def test_no_run_is_dropped_for_another_with_other_settings(override: str) -> None:
    """Whatever key it is, alone and beside an axis."""
    for more in ([], ["beta=0.1,0.2"]):
        error = refused(override, *more)
        assert error.key == override.partition("=")[0]
        assert "give one value" in error.remedy


def test_settings_may_go_with_an_axis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a zip of a sweep file, where none is lost; but those of the launch are one for all runs."""
    monkeypatch.chdir(tmp_path)
    sweeps = tmp_path / "sweeps"
    sweeps.mkdir()
    (sweeps / "mine.yaml").write_text("zip:\n  - {beta: [0.1, 0.2], cluster.mem: [1G, 2G]}\n")
    assert [run.config.cluster.mem for run in sweep_of("+sweeps=mine").runs] == ["1G", "2G"]
    (sweeps / "mine.yaml").write_text("zip:\n  - {beta: [0.1, 0.1], cluster.mem: [1G, 2G]}\n")
    assert refused("+sweeps=mine").key == "cluster.mem"
    (sweeps / "mine.yaml").write_text("zip:\n  - {beta: [0.1, 0.2], output_dir: [a, b]}\n")
    assert refused("+sweeps=mine").key == "output_dir"


def test_true_duplicates_are_dropped_and_counted() -> None:
    """The same in everything."""
    sweep = sweep_of("beta=0.1,0.10", "cluster.exclude=n1,n1", "loss_type=dpo,sigmoid")
    assert (len(sweep.runs), sweep.duplicates) == (1, 7)


def test_a_secret_among_the_values_is_not_repeated() -> None:
    """Of the judge's address, which may hold one."""
    error = refused("evaluation.judge.base_url=http://a/s3cret,http://b")
    assert "s3cret" not in f"{error} {error.args}"


def test_a_sweep_file_that_is_given_as_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`+sweep=` is refused where it names a file, `sweep=` noted; a name of one's own is neither."""
    monkeypatch.chdir(tmp_path)
    sweeps = tmp_path / "sweeps"
    sweeps.mkdir()
    (sweeps / "mine.yaml").write_text("overrides: {beta: 0.2}\n")
    with pytest.raises(UsageError, match=r"give \+sweeps=mine$"):
        compose(["+sweep=mine"], multirun=True)
    assert "give +sweeps=mine" in compose(["sweep=mine"], multirun=True)[0].notes[0]
    assert compose(["sweep=mine", "+sweeps=mine"], multirun=True)[0].notes == []
    assert compose(["sweep=other"], multirun=True)[0].notes == []
