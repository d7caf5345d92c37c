"""What of a user's environment counts: sbatch's variables, where the configuration says nothing."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import sweep_of
from fakes import FakeScheduler

from launcher.cluster import slurm_words as words
from launcher.cluster.ambient import Ambient
from launcher.cluster.batch import Batch
from launcher.cluster.slurm import SlurmScheduler
from launcher.cluster.slurm_environment import ambient, clean_environment
from launcher.config import Cluster
from launcher.errors import ConfigError
from launcher.planning.cluster_rules import cluster_problems
from launcher.planning.stages import evaluation_cluster
from launcher.submission.environment import completed_by, in_environment


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
        ({"SBATCH_EXCLUSIVE": "1", "SBATCH_COMMENT": "1"}, {}, {}, {"exclusive": True, "comment": "1"}),
        ({"SBATCH_GRES": "lscratch:20"}, {}, {}, {"gres": "lscratch:20"}),
        ({"SBATCH_GRES": "gpu:2"}, {}, {}, {}),
        ({"SBATCH_GRES": "gpu:2"}, {"extra": {"gres": "gpu:4"}}, {}, {}),
        ({"SBATCH_MEM_PER_NODE": "64G"}, {}, {"mem": "64G"}, {}),
        ({"SBATCH_MEM_PER_CPU": "4G"}, {"mem": "64G"}, {}, {}),  # sbatch takes one of them
        ({"SBATCH_MEM_PER_CPU": "4G"}, {"extra": {"mem_per_gpu": "40G"}}, {}, {}),
        ({"SBATCH_CLUSTERS": "c2"}, {}, {"clusters": "c2"}, {}),
        ({"SLURM_CLUSTERS": "c3", "SBATCH_CLUSTERS": "c2"}, {}, {"clusters": "c3"}, {}),  # as sbatch has it
        ({"SLURM_CLUSTERS": "c3"}, {"clusters": "c1"}, {}, {}),
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
        "from the environment: account proj from SBATCH_ACCOUNT, cluster other from SLURM_CLUSTERS",
        "SBATCH_EXPORT=NONE does not count: prefsweep says that itself",
        "SBATCH_QOS=high does not count: cluster.qos=low",
        "left to sbatch: SBATCH_DISTRIBUTION=cyclic",
    )
    gpus = {"SBATCH_GRES": "gpu:2", "SBATCH_DISTRIBUTION": "cyclic"}
    ours = Cluster(gpus_per_node=4, extra={"distribution": "block"})
    assert ambient(ours, gpus).words == (
        "SBATCH_DISTRIBUTION=cyclic does not count: cluster.extra.distribution=block",
        "SBATCH_GRES=gpu:2 does not count: cluster.gpus_per_node=4",
    )
    assert clean_environment(gpus, ours) == {}
    clusters = {"SBATCH_CLUSTERS": "c2", "SLURM_CLUSTERS": "c3"}
    assert ambient(Cluster(), clusters).words == (
        "from the environment: cluster c3 from SLURM_CLUSTERS",
        "SBATCH_CLUSTERS=c2 does not count: SLURM_CLUSTERS=c3",
    )
    assert ambient(Cluster(clusters="c1"), clusters).words == ("SLURM_CLUSTERS=c3 does not count: cluster.clusters=c1",)
    kept = clean_environment(said | clusters)
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


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("time", "1", "a job may be warned 60 s earlier than"),
        ("time", "soon", "give auto, minutes"),
        ("partition", "a\nb", "must be one line"),
    ],
)
def test_an_option_of_a_key_is_checked_as_that_key(key: str, value: str, words: str) -> None:
    """`cluster.extra.time=1` would warn a job at its start, and put it back into the queue for ever."""
    said = value if "\n" not in value else repr(value)
    for executor in ("slurm", "auto"):
        (problem,) = cluster_problems(Cluster(executor=executor, extra={key: value}))
        assert str(problem).startswith(f"cluster.extra.{key}={said}: {words}")
    (same,) = cluster_problems(Cluster(executor="slurm", **{key: value}))  # type: ignore[arg-type]
    assert same.remedy == problem.remedy


@pytest.mark.parametrize("limit", ["UNLIMITED", "infinite", "0", "2:00"])
def test_a_time_limit_that_sbatch_takes_is_one(limit: str) -> None:
    """Also in a key of ours."""
    assert list(cluster_problems(Cluster(executor="slurm", extra={"time": limit}, warning_seconds=30))) == []
    assert list(cluster_problems(Cluster(executor="slurm", time=limit, warning_seconds=30))) == []


def test_an_option_of_a_key_counts_as_that_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that limits, memory and nodes are looked up and learnt by what the job has; null stays what it is."""
    monkeypatch.setenv("SBATCH_PARTITION", "theirs")
    extra = {"time": "90", "mem": "8G", "partition": "ours", "exclude": "n7", "qos": None, "nice": "5"}
    asked = Cluster(executor="slurm", time="60", qos="low", extra=extra)
    cluster, plain, lines = completed_by(asked, SlurmScheduler())
    assert (cluster.time, cluster.mem, cluster.partition, cluster.exclude) == ("90", "8G", "ours", "n7")
    assert (plain["time"], plain["extra"]) == ("90", {"qos": None, "nice": "5"})
    assert lines == (
        "cluster.time=60 does not count: cluster.extra.time=90",
        "SBATCH_PARTITION=theirs does not count: cluster.partition=ours",
        "cluster.qos=low does not count: cluster.extra.qos=null",
    )
    script = SlurmScheduler().script(Batch("s.1", tmp_path / "s.1", 1, cluster, tmp_path)).splitlines()
    for line in ("--time=90", "--mem=8G", "--partition=ours", "--exclude=n7", "--nice=5"):
        assert script.count(f"#SBATCH {line}") == 1
    assert not [line for line in script if "--qos" in line]


def test_an_option_of_a_key_is_not_the_environments() -> None:
    """What was typed is no key that was left open, which a run that is skipped would keep."""
    sweep, _ = in_environment(sweep_of("model=tiny", "cluster=slurm", "+cluster.extra.time=90"), SlurmScheduler())
    assert (sweep.runs[0].config.cluster.time, sweep.runs[0].left_open) == ("90", ())


def test_an_option_of_a_key_is_that_of_the_job_that_evaluates() -> None:
    """Unless `evaluation.cluster` gives it another, or an option of its own."""
    (run,) = sweep_of("model=tiny", "cluster=slurm", "+cluster.extra.time=90").runs
    assert evaluation_cluster(run.config).time == "90"
    for given in ("evaluation.cluster.time=30", "evaluation.cluster.extra={time: 30}"):
        (run,) = sweep_of("model=tiny", "cluster=slurm", "+cluster.extra.time=90", f"+{given}").runs
        assert (evaluation_cluster(run.config).time, evaluation_cluster(run.config).extra) == ("30", {})


@pytest.mark.parametrize("spelled", ["gpus-per-node", "gpus_per_node"])
def test_null_takes_an_option_of_ours_away(tmp_path: Path, spelled: str) -> None:
    """A site that takes --gres alone is served with several tasks a node."""
    cluster = Cluster(gpus_per_node=4, extra={spelled: None, "gres": "gpu:a100:4"})
    script = SlurmScheduler().script(Batch("s.1", tmp_path / "s.1", 1, cluster, tmp_path))
    assert "#SBATCH --gres=gpu:a100:4" in script
    assert "#SBATCH --ntasks-per-node=4" in script
    assert "gpus-per-node" not in script


@pytest.mark.parametrize(
    ("gpus", "asked", "given"),
    [
        (4, "gpu:v100:1", "gpu:v100:4"),
        (1, "gpu:4", "gpu:1"),
        (2, "gpu", "gpu:2"),
        (2, "lscratch:50,gpu:a100", "lscratch:50,gpu:a100:2"),
        (2, "lscratch:50", "lscratch:50"),
        (4, "gpu:2080ti:1", "gpu:2080ti:4"),
        (2, "gpu:3g.20gb", "gpu:3g.20gb:2"),
        (2, "gpu:4090:1,lscratch:5", "gpu:4090:2,lscratch:5"),
    ],
)
def test_gres_asks_for_as_many_gpus_as_the_job_has_ranks(tmp_path: Path, gpus: int, asked: str, given: str) -> None:
    """In the place of --gpus-per-node, null or not: of two numbers SLURM took this one. What is changed is told."""
    cluster = Cluster(gpus_per_node=gpus, extra={"gpus-per-node": None, "gres": asked})
    script = SlurmScheduler().script(Batch("s.1", tmp_path / "s.1", 1, cluster, tmp_path))
    assert f"#SBATCH --gres={given}\n" in script
    told = (f"cluster.extra.gres={asked} becomes {given}: cluster.gpus_per_node={gpus}",)
    assert ambient(cluster, {}).words == (() if given == asked else told)
    beside = Cluster(gpus_per_node=gpus, extra={"gres": asked})
    script = SlurmScheduler().script(Batch("s.1", tmp_path / "s.1", 1, beside, tmp_path))
    assert f"#SBATCH --gres={given}\n" in script
    assert ("--gpus-per-node=" in script) == ("gpu" not in asked)


@pytest.mark.parametrize(
    ("option", "asked", "of_training", "of_evaluating", "of_none"),
    [
        ("gpus-per-node", "a100:1", "a100:4", "a100:1", None),
        ("gpus_per_node", "2080ti", "2080ti:4", "2080ti:1", None),
        ("gpus", "3g.20gb:2", "3g.20gb:8", "3g.20gb:1", None),
        ("gpus", "4", "8", "1", None),
    ],
)
def test_a_type_of_gpu_is_asked_for_in_the_number_of_ranks(
    tmp_path: Path, option: str, asked: str, of_training: str, of_evaluating: str, of_none: str | None
) -> None:
    """Of whichever option; a job that evaluates has one GPU or none, and what is changed is told."""
    name = option.replace("_", "-")
    for gpus, nodes, given in ((4, 2, of_training), (1, 1, of_evaluating), (0, 1, of_none)):
        cluster = Cluster(nodes=nodes, gpus_per_node=gpus, extra={option: asked})
        script = SlurmScheduler().script(Batch("s.1", tmp_path / "s.1", 1, cluster, tmp_path))
        found = re.findall(rf"^#SBATCH --{name}=(.*)", script, re.MULTILINE)
        assert found == ([] if given is None else [given])
        (*_, told) = ambient(cluster, {}).words or ("",)
        becomes = "does not count" if given is None else f"becomes {given}"
        assert told.startswith(f"cluster.extra.{name}={asked} {becomes}: ") or given == asked


def test_gpus_of_several_types_keep_their_numbers(tmp_path: Path) -> None:
    """Nobody knows how a number of ranks is to be divided among them; the plan says so."""
    cluster = Cluster(gpus_per_node=2, extra={"gres": "gpu:a100:1,gpu:v100:1"})
    script = SlurmScheduler().script(Batch("s.1", tmp_path / "s.1", 1, cluster, tmp_path))
    assert "#SBATCH --gres=gpu:a100:1,gpu:v100:1\n" in script
    (told,) = ambient(cluster, {}).words
    why = "since it has several types: cluster.gpus_per_node=2"
    assert told == f"cluster.extra.gres=gpu:a100:1,gpu:v100:1 keeps its numbers, {why}"


@pytest.mark.parametrize("key", ["mem-per-cpu", "mem_per_gpu"])
def test_one_kind_of_memory_is_asked_for(tmp_path: Path, key: str) -> None:
    """sbatch takes one; what cluster.extra says wins."""
    cluster = Cluster(mem="64G", extra={key: "4G"})
    script = SlurmScheduler().script(Batch("s.1", tmp_path / "s.1", 1, cluster, tmp_path))
    assert "--mem=" not in script
    assert "=4G" in script


def test_memory_in_two_measures_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """sbatch takes one: none is lost in silence, be it typed, a file's or the environment's."""
    both = Cluster(executor="slurm", mem="32G", extra={"mem_per_cpu": "8G"})
    (problem,) = cluster_problems(both)
    assert str(problem).startswith("cluster.mem=32G: a job has one of this and cluster.extra.mem-per-cpu=8G; ")
    extra = {"mem-per-gpu": "40G", "mem-per-cpu": "8G"}
    assert len(list(cluster_problems(Cluster(executor="slurm", extra=extra)))) == 1
    assert list(cluster_problems(Cluster(executor="slurm", mem="32G", extra={"mem": "8G"}))) == []
    monkeypatch.setenv("SBATCH_MEM_PER_NODE", "6G")
    monkeypatch.setenv("SBATCH_MEM_PER_CPU", "2G")
    told = r"cluster\.mem=6G: .*mem-per-cpu=2G.*mem-per-cpu 2G from SBATCH_MEM_PER_CPU, mem 6G from SBATCH_MEM_PER_NODE"
    with pytest.raises(ConfigError, match=told):
        completed_by(Cluster(executor="slurm"), SlurmScheduler())


@pytest.mark.parametrize("key", ["cluster.mem", "evaluation.cluster.mem"])
def test_memory_that_is_typed_beside_that_of_a_profile_is_refused(key: str) -> None:
    """Neither training nor evaluating jobs drop it without a word."""
    profile = ("model=tiny", "cluster=examples/mem_per_cpu_only_saga", "cluster.account=p")
    with pytest.raises(ConfigError) as refused:
        sweep_of(*profile, f"{key}=4G")
    assert str(refused.value).startswith(f"{key}=4G: a job has one of this and cluster.extra.mem-per-cpu=8G; ")


def test_null_for_one_measure_of_memory_leaves_the_other(tmp_path: Path) -> None:
    """As who takes a profile's --mem-per-cpu back for cluster.mem."""
    cluster = Cluster(executor="slurm", mem="32G", extra={"mem-per-cpu": None})
    assert list(cluster_problems(cluster)) == []
    script = SlurmScheduler().script(Batch("s.1", tmp_path / "s.1", 1, cluster, tmp_path))
    assert "#SBATCH --mem=32G\n" in script
    found = ambient(Cluster(extra={"mem-per-gpu": None}), {"SBATCH_MEM_PER_CPU": "2G"})
    assert found.extra == {"mem-per-cpu": "2G"}


def test_a_key_in_whose_place_an_option_stands_is_named() -> None:
    """What cluster.extra says wins, and the plan says over what; that of the same value is no news."""
    said = {"account": "theirs", "time": None, "qos": "high"}
    assert ambient(Cluster(account="ours", time="10", qos="high", extra=said), {}).words == (
        "cluster.account=ours does not count: cluster.extra.account=theirs",
        "cluster.time=10 does not count: cluster.extra.time=null",
    )


@pytest.mark.parametrize(
    ("variable", "option"),
    [
        ("SBATCH_REQ_SWITCH", "switches"),
        ("SBATCH_WAIT4SWITCH", "switches"),
        ("SBATCH_CPU_FREQ_REQ", "cpu_freq"),
        ("SBATCH_BURST_BUFFER", "bb"),
        ("SBATCH_BURST_BUFFER", "bbf"),
        ("SBATCH_DEBUG", "verbose"),
        ("SBATCH_THREAD_SPEC", "core-spec"),
        ("SBATCH_EXCLUSIVE", "oversubscribe"),
        ("SBATCH_NETWORK", "network"),
    ],
)
def test_an_option_wins_over_its_variable_whatever_its_name(variable: str, option: str) -> None:
    """sbatch heeds its variables before a script, so that it must not see this one; the plan says so."""
    cluster = Cluster(extra={option: "1"})
    assert clean_environment({variable: "3"}, cluster) == {}
    told = f"{variable}=3 does not count: cluster.extra.{option.replace('_', '-')}=1"
    assert ambient(cluster, {variable: "3"}).words == (told,)


def test_what_srun_would_read_is_named_where_no_job_has_set_it() -> None:
    """A site's module sets it for srun, and jobs are to find their own."""
    own = {"SLURM_MPI_TYPE": "pmix", "SLURM_CPU_BIND": "none", "SLURM_CONF": "/x", "SLURM_TIME_FORMAT": "relative"}
    said = ("SLURM_CPU_BIND, SLURM_MPI_TYPE do not reach srun: set them in cluster.setup",)
    assert ambient(Cluster(), own).words == said
    assert ambient(Cluster(), {**own, "SLURM_JOB_ID": "7"}).words == ()


@pytest.mark.parametrize("key", ["time", "wckey", "nodelist", "mem"])
def test_null_leaves_no_default_of_anothers(tmp_path: Path, key: str) -> None:
    """submitit has some: five minutes, for one."""
    cluster = Cluster(time="10", mem="1G", extra={key: None})
    script = SlurmScheduler().script(Batch("s.1", tmp_path / "s.1", 1, cluster, tmp_path))
    assert f"--{key}" not in script


def test_true_is_for_options_without_a_value() -> None:
    """Of any other sbatch would take the next option for one, the name of the job for one."""
    (problem,) = cluster_problems(Cluster(executor="slurm", extra={"comment": True, "exclusive": True}))
    assert str(problem).startswith("cluster.extra.comment=True: --comment needs a value; true is for contiguous,")


@pytest.mark.parametrize(
    ("key", "home"), [("arr", "cluster.runs_per_job"), ("out", "output_dir"), ("sig", "cluster.w")]
)
def test_a_beginning_stands_for_an_option(key: str, home: str) -> None:
    """As sbatch takes it."""
    (problem,) = cluster_problems(Cluster(executor="slurm", extra={key: "1"}))
    assert f"cluster.extra.{key}=1: the launcher counts on its own; set {home}" in str(problem)


def test_tasks_have_what_the_script_has_set(tmp_path: Path) -> None:
    """Also at sites that prescribe --export=NONE: the way to the snapshot is set there."""
    batch = Batch("s.1", tmp_path / "s.1", 1, Cluster(extra={"export": "NONE"}), tmp_path)
    script = SlurmScheduler().script(batch)
    assert "#SBATCH --export=NONE" in script
    assert re.search(r"^srun .*--export=ALL", script, re.MULTILINE)


def test_the_settings_of_a_batch_are_plain(tmp_path: Path) -> None:
    """They go into its record."""
    batch = Batch("s.1", tmp_path, 1, Cluster(extra={"a": None}), tmp_path)
    assert json.dumps(words.parameters(batch)["additional_parameters"])


def test_a_gres_of_gpus_counts_where_our_option_is_left_out() -> None:
    """As at a site that takes only --gres, by whoever has it in their profile: else the job would ask for no GPU."""
    cluster = Cluster(gpus_per_node=4, extra={"gpus-per-node": None})
    found = ambient(cluster, {"SBATCH_GRES": "gpu:a100:1"})
    assert found.extra == {"gres": "gpu:a100:1"}
    assert found.words[0] == "from the environment: gres gpu:a100:1 from SBATCH_GRES"
    assert words.gpus_of(replace(cluster, extra={**cluster.extra, **found.extra}))["gres"] == "gpu:a100:4"


def test_memory_that_an_evaluation_asks_for_goes_with_no_variable_in_another_measure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is refused, as it is for the training, and not dropped from the script of the job that evaluates."""
    monkeypatch.setenv("SBATCH_MEM_PER_CPU", "2G")
    with pytest.raises(ConfigError, match=r"^evaluation\.cluster\..*SBATCH_MEM_PER_CPU"):
        in_environment(sweep_of("model=tiny", "cluster=slurm", "evaluation.cluster.mem=4G"), Ambiguous())
    sweep, _ = in_environment(sweep_of("model=tiny", "cluster=slurm", "evaluation.cluster.time=60"), Ambiguous())
    assert sweep.runs[0].config.cluster.extra == {"mem-per-cpu": "2G"}


class Ambiguous(FakeScheduler):
    """One that reads the environment as SLURM does."""

    def ambient(self, asked: Cluster) -> Ambient:
        return ambient(asked, os.environ)
