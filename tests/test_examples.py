"""conf/cluster/examples: each is planned, and its script asks for what the site's own page asks for."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import clean_environment, sweep_of
from fakes import FakeScheduler
from test_slurm import options_of

from launcher.cli.arguments import DONE, WRONG
from launcher.cli.main import main
from launcher.cluster.slurm import SlurmScheduler
from launcher.errors import ConfigError
from launcher.machine.installed import data_dir
from launcher.planning.compose import compose
from launcher.store.output_folder import Store
from launcher.submission.decide import decide
from launcher.submission.plan import plan_batches

NAMES = sorted(file.stem for file in (data_dir("conf") / "cluster" / "examples").glob("*.yaml"))
EVERYWHERE = {
    "job-name",
    "output",
    "open-mode",
    "requeue",
    "kill-on-invalid-dep",
    "signal",
}  # sbatch's own, of any SLURM
# By example: what the user gives, and all that its script may then ask for, but for the above; see the page that the
# file names. A value that is None: an option that the page says is not there, or that another stands for.
WANTED: dict[str, tuple[dict[str, str], dict[str, str | None]]] = {
    "gres_only_puhti": (
        {"account": "project_2001234"},
        {"account": "project_2001234", "partition": "gpu", "gres": "gpu:v100:1", "time": "1440", "nodes": "1",
         "ntasks-per-node": "1", "cpus-per-task": "10", "array": "0-1%2", "gpus-per-node": None},
    ),
    "account_required_lumi": (
        {"account": "project_465000001"},
        {"account": "project_465000001", "partition": "small-g", "nodes": "1", "ntasks-per-node": "1",
         "gpus-per-node": "1", "time": "2880", "cpus-per-task": "7", "array": "0-1%2"},
    ),
    "gpu_partitions_lonestar6": (
        {"account": "ABC12345", "partition": "gpu-a100-small"},
        {"account": "ABC12345", "partition": "gpu-a100-small", "nodes": "1", "ntasks-per-node": "1", "time": "2880",
         "array": "0-1%2", "gpus-per-node": None, "gres": None, "mem": None},
    ),
    "no_arrays_frontera": (
        {"account": "ABC12345"},
        {"account": "ABC12345", "partition": "rtx", "nodes": "1", "ntasks-per-node": "1", "time": "2880",
         "array": None, "gpus-per-node": None, "mem": None, "export": None},
    ),
    "login_offline_marenostrum5": (
        {"account": "ehpc123", "qos": "acc_ehpc"},
        {"account": "ehpc123", "qos": "acc_ehpc", "nodes": "1", "ntasks-per-node": "1", "cpus-per-task": "20",
         "gres": "gpu:1", "time": "2880", "array": "0-1%2", "gpus-per-node": None},
    ),
    "apptainer_only_frontera": (
        {"account": "ABC12345", "container": "/work/image.sif"},
        {"account": "ABC12345", "partition": "rtx", "nodes": "1", "ntasks-per-node": "1", "time": "2880",
         "array": None, "gpus-per-node": None, "mem": None},
    ),
    "mem_per_cpu_only_saga": (
        {"account": "nn1234k"},
        {"account": "nn1234k", "partition": "accel", "gres": "gpu:1", "time": "1440", "mem-per-cpu": "8G",
         "nodes": "1", "ntasks-per-node": "1", "cpus-per-task": "6", "array": "0-1%2", "mem": None,
         "gpus-per-node": None},
    ),
    "multi_cluster_wice": (
        {"account": "lp_myproject"},
        {"account": "lp_myproject", "clusters": "wice", "partition": "gpu", "nodes": "1", "ntasks-per-node": "1",
         "gpus-per-node": "1", "cpus-per-task": "18", "time": "4320", "array": "0-1%2"},
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment of whoever tests says of jobs does not count."""
    for name in [name for name in clean_environment() if name.startswith("SBATCH_")]:
        monkeypatch.delenv(name)


def script_of(name: str, given: dict[str, str], store: Store) -> str:
    """The first script that a launch of two runs would hand over."""
    values = [f"cluster.{key}={value}" for key, value in given.items()]
    sweep = sweep_of("model=tiny", "trainer=full", "seed=1,2", f"cluster=examples/{name}", *values)
    arrays = sweep.runs[0].config.cluster.arrays
    scheduler = FakeScheduler(1000 if arrays else 1, cluster=WANTED[name][1].get("clusters"))
    planned = plan_batches(sweep, decide(sweep, store, scheduler), store, scheduler)
    return SlurmScheduler().script(planned.batches[0].batch)


def test_every_example_is_held_to_a_page() -> None:
    """And says which, in its header."""
    assert sorted(WANTED) == NAMES
    for name in NAMES:
        header = (data_dir("conf") / "cluster" / "examples" / f"{name}.yaml").read_text().partition("defaults:")[0]
        assert "\n# https://" in header


@pytest.mark.parametrize("name", NAMES)
def test_an_examples_script_asks_for_what_the_sites_page_asks_for(name: str, store: Store) -> None:
    """Those options, with those values, and no others."""
    given, wanted = WANTED[name]
    options = {key: value for key, value in options_of(script_of(name, given, store)).items() if key not in EVERYWHERE}
    assert options == {key: value for key, value in wanted.items() if value is not None}
    assert not options.keys() & {key for key, value in wanted.items() if value is None}


@pytest.mark.parametrize("name", NAMES)
def test_an_example_says_what_it_leaves_to_the_user(name: str) -> None:
    """In one line, before anything is planned."""
    keys = [f"cluster.{key}" for key in WANTED[name][0]]
    with pytest.raises(ConfigError) as caught:
        compose(["model=tiny", f"cluster=examples/{name}"], multirun=False)
    said, remedy = str(caught.value).split(": no value; give ")
    assert sorted(said.split(", ")) == sorted(keys)
    assert sorted(remedy.split()) == sorted(f"{key}=..." for key in keys)


@pytest.mark.parametrize("said", ["proj", None])
def test_what_an_example_leaves_open_the_environment_may_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], said: str | None
) -> None:
    """As sites tell their users to export it; `doctor`, by which one sees the accounts, asks for none."""
    for name, does in (("sbatch", "exit 1"), ("scontrol", "echo 'ClusterName = c'"), ("sinfo", ""), ("squeue", "")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SBATCH_ACCOUNT", raising=False)
    if said is not None:
        monkeypatch.setenv("SBATCH_ACCOUNT", said)
    code = main(["-m", "model=tiny", "cluster=examples/gres_only_puhti", "dry_run=true"])
    told = capsys.readouterr()
    if said is None:
        assert (code, "cluster.account: no value; give cluster.account=..." in told.err) == (WRONG, True)
    else:
        assert (code, "#SBATCH --account=proj" in told.out) == (DONE, True), told
    assert main(["doctor", "cluster=examples/gres_only_puhti"]) == DONE


def test_the_container_is_started_by_apptainer(store: Store) -> None:
    """Once its module is loaded."""
    script = script_of("apptainer_only_frontera", WANTED["apptainer_only_frontera"][0], store)
    assert script.index("module load tacc-apptainer || exit 1") < script.index("apptainer exec --nv --bind ")
    assert "/work/image.sif" in script


def test_a_site_without_the_hub_is_not_asked(store: Store) -> None:
    """Its jobs wait for no answer."""
    assert "\nexport HF_HUB_OFFLINE=1\n" in script_of(
        *("login_offline_marenostrum5", WANTED["login_offline_marenostrum5"][0]), store
    )


def test_examples_are_no_choices_unless_they_are_named() -> None:
    """Neither `glob(*)` nor the list of what there is has them; a slip in one's name is answered with the others."""
    with pytest.raises(ConfigError) as caught:
        compose(["model=tiny", "cluster=slrum"], multirun=False)
    assert "examples/" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"did you mean 'examples/gres_only_puhti'\?\); there are: examples/"):
        compose(["model=tiny", "cluster=examples/gres_only_puthi"], multirun=False)
    with pytest.raises(ConfigError) as many:
        sweep_of("model=tiny", "cluster=glob(*)")
    assert "examples/" not in str(many.value)
