"""What of a user's environment counts: sbatch's variables, where the configuration says nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from launcher.cluster import slurm_words as words
from launcher.cluster.batch import Batch
from launcher.cluster.slurm import SlurmScheduler
from launcher.cluster.slurm_environment import ambient, clean_environment
from launcher.config import Cluster
from launcher.errors import ConfigError
from launcher.submission.environment import completed_by


@pytest.mark.parametrize(
    ("said", "cluster", "keys", "extra"),
    [
        ({"SBATCH_ACCOUNT": "proj"}, {}, {"account": "proj"}, {}),
        ({"SBATCH_ACCOUNT": "proj"}, {"account": "ours"}, {}, {}),
        ({"SBATCH_ACCOUNT": "proj"}, {"extra": {"account": None}}, {}, {}),
        ({"SBATCH_ACCOUNT": ""}, {}, {}, {}),
        (
            {"SBATCH_PARTITION": "gpu,long", "SBATCH_QOS": "high", "SBATCH_TIMELIMIT": "4:00:00"},
            {"qos": "low"},
            {"partition": "gpu,long", "time": "4:00:00"},
            {},
        ),
        ({"SBATCH_RESERVATION": "friday", "SBATCH_WCKEY": "w"}, {}, {}, {"reservation": "friday", "wckey": "w"}),
        ({"SBATCH_RESERVATION": "friday"}, {"extra": {"reservation": "monday"}}, {}, {}),
        ({"SBATCH_EXCLUSIVE": "user"}, {}, {}, {"exclusive": "user"}),
        ({"SBATCH_MEM_PER_NODE": "64G"}, {}, {"mem": "64G"}, {}),
        ({"SBATCH_MEM_PER_CPU": "4G"}, {"mem": "64G"}, {}, {}),  # sbatch takes one of them
        ({"SBATCH_MEM_PER_CPU": "4G"}, {"extra": {"mem_per_gpu": "40G"}}, {}, {}),
        ({"SBATCH_EXPORT": "NONE", "SBATCH_JOB_NAME": "x", "SBATCH_ARRAY_INX": "0-9"}, {}, {}, {}),
        ({"SLURM_ACCOUNT": "theirs", "SALLOC_ACCOUNT": "theirs", "SBATCHACCOUNT": "theirs"}, {}, {}, {}),
    ],
)
def test_what_is_left_open_the_environment_says(
    said: Mapping[str, str], cluster: Mapping[str, Any], keys: Mapping[str, str], extra: Mapping[str, str]
) -> None:
    """The configuration wins, null in `cluster.extra` included; what jobs of ours could not bear never counts."""
    found = ambient(Cluster(**cluster), said)
    assert (found.keys, found.extra) == (keys, extra)


def test_all_of_it_is_named() -> None:
    """What was taken, what was not and why, and what sbatch itself will heed; what is the same twice is no news."""
    said = {
        "SBATCH_ACCOUNT": "proj", "SBATCH_QOS": "high", "SBATCH_PARTITION": "gpu", "SBATCH_EXPORT": "NONE",
        "SBATCH_DISTRIBUTION": "cyclic", "SLURM_CLUSTERS": "other",
    }  # fmt: skip
    assert ambient(Cluster(qos="low", partition="gpu"), said).words == (
        "from the environment: account proj from SBATCH_ACCOUNT",
        "SLURM_CLUSTERS=other does not count: jobs go to the cluster that answers here",
        "SBATCH_EXPORT=NONE does not count: prefsweep says that itself",
        "SBATCH_QOS=high does not count: cluster.qos=low",
        "left to sbatch: SBATCH_DISTRIBUTION=cyclic",
    )
    kept = clean_environment(said)
    assert kept == {"SBATCH_DISTRIBUTION": "cyclic"}  # what counts is in the script, which sbatch heeds last


def test_it_is_in_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it is the same for the table's job and for all arrays, and on record."""
    monkeypatch.setenv("SBATCH_ACCOUNT", "proj")
    monkeypatch.setenv("SBATCH_RESERVATION", "friday")
    cluster, plain, _ = completed_by(Cluster(executor="slurm", qos="low"), SlurmScheduler())
    assert (plain["account"], plain["extra"]) == ("proj", {"reservation": "friday"})
    script = SlurmScheduler().script(Batch("s.1", tmp_path / "s.1", 1, cluster, tmp_path))
    assert {"#SBATCH --account=proj", "#SBATCH --reservation=friday", "#SBATCH --qos=low"} <= set(script.splitlines())


def test_a_wrong_value_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has typed the key."""
    monkeypatch.setenv("SBATCH_TIMELIMIT", "soon")
    with pytest.raises(ConfigError, match=r"cluster\.time=soon: .*time soon from SBATCH_TIMELIMIT"):
        completed_by(Cluster(executor="slurm"), SlurmScheduler())


@pytest.mark.parametrize("spelled", ["gpus-per-node", "gpus_per_node"])
def test_null_takes_an_option_of_ours_away(tmp_path: Path, spelled: str) -> None:
    """A site that takes --gres alone is served with several tasks a node."""
    cluster = Cluster(gpus_per_node=4, extra={spelled: None, "gres": "gpu:a100:4"})
    script = SlurmScheduler().script(Batch("s.1", tmp_path / "s.1", 1, cluster, tmp_path))
    assert "#SBATCH --gres=gpu:a100:4" in script
    assert "#SBATCH --ntasks-per-node=4" in script
    assert "gpus-per-node" not in script


def test_the_settings_of_a_batch_are_plain(tmp_path: Path) -> None:
    """They go into its record."""
    batch = Batch("s.1", tmp_path, 1, Cluster(extra={"a": None}), tmp_path)
    assert json.dumps(words.parameters(batch)["additional_parameters"])
