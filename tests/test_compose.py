"""argv -> configs: Hydra's grammar, sweep files, and equality with Hydra itself."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from launcher.config import OBJECTIVE, RunConfig, canonical
from launcher.errors import ConfigError, UsageError
from launcher.machine.installed import data_dir
from launcher.planning import conf_places
from launcher.planning.compose import compose
from launcher.planning.overrides import BLANK
from launcher.planning.planned_runs import portable, run_id


def by_hydra(overrides: tuple[str, ...]) -> object:
    ConfigStore.instance().store(name="schema", node=RunConfig)
    with initialize_config_dir(config_dir=str(data_dir("conf").absolute()), version_base="1.3"):
        return OmegaConf.to_container(hydra_compose("config", overrides=list(overrides)), resolve=True)


AXES = {
    "loss_type": ["sigmoid", "ipo", "kto_pair", "hinge"],
    "beta": ["0.01", "1", "1e-3", "0.30000000000000004"],
    "seed": ["1", "2", "-3"],
    "model": ["smollm2", "tiny"],
    "trainer": ["lora", "full"],
    "trainer.learning_rate": ["1e-5", "2", "0.5"],
    "trainer.max_steps": ["null", "7"],
    "hub.revision": ["'${model.name}-${loss_type}'", "fixed", "'${seed}'"],
    "dataset.prompts": ["[a]", "['b c','d,e']", "[]"],
    "evaluation.seed": ["3"],
    "+dataset.columns.chosen": ["good", "better"],
    "checkpoint": ["{every:3}", "{every:4,keep:2}"],
    "sweep": ["x", "null"],
}


@st.composite
def grids(draw: st.DrawFn) -> list[str]:
    keys = draw(st.lists(st.sampled_from(sorted(AXES)), min_size=1, max_size=4, unique=True))
    chosen = {key: draw(st.lists(st.sampled_from(AXES[key]), min_size=1, max_size=3, unique=True)) for key in keys}
    return [f"{key}={','.join(values)}" for key, values in chosen.items()]


@settings(max_examples=12, deadline=None)
@given(grids())
def test_every_point_equals_what_hydra_composes(argv: list[str]) -> None:
    """Applying scalar axes to a copy gives what composing each point from the start by Hydra gives."""
    grid, points = compose(argv, multirun=True)
    expected = [tuple(combination) for combination in itertools.product(*(_single(argument) for argument in argv))]
    assert len(points) == len(expected) == len(list(grid.points()))
    for point, overrides in zip(points, expected, strict=True):
        assert point.config == by_hydra(overrides)


def _single(argument: str) -> list[str]:
    """The single-valued overrides of one argument, split without Hydra: at commas outside brackets and quotes."""
    key, _, text = argument.partition("=")
    values, depth, quoted = [""], 0, False
    for letter in text:
        quoted ^= letter == "'"
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and not depth and not quoted:
            values.append("")
        else:
            values[-1] += letter
    return [f"{key}={value}" for value in values]


def test_a_name_made_of_numbers_takes_what_is_none() -> None:
    """As YAML has it, and a list with hyphens: a sweep over weights may begin with those that a loss has of itself."""
    name = "hub.revision='w${number:${loss.weights}}-${number:${beta}}'"
    _, points = compose(["loss_type=sigmoid+sft", "loss.weights=null,[1,0.5]", "beta=3.0", name], multirun=True)
    assert [point.config["hub"]["revision"] for point in points] == ["wnull-3", "w1-0.5-3"]


def test_restoring_leaves_no_trace_of_the_point_before() -> None:
    """A point whose override deletes or adds a key does not change the next point."""
    _, points = compose(["checkpoint={every:3},{keep:5}"], multirun=True)
    found = [{key: point.config["checkpoint"][key] for key in ("every", "keep")} for point in points]
    assert found == [{"every": 3, "keep": 1}, {"every": 10, "keep": 5}]


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("beta=0.1,0.2", [0.1, 0.2]),
        ("beta=choice(0.1,0.2)", [0.1, 0.2]),
        ("seed=range(1,4)", [1, 2, 3]),
        ("seed=range(0,10,5)", [0, 5]),
        ("seed=sort(3,1,2)", [1, 2, 3]),
        ("loss_type=ipo", ["ipo"]),
    ],
)
def test_hydra_sweep_grammar(argument: str, expected: list[object]) -> None:
    """Lists, choice(), range() and sort() mean what they mean in Hydra."""
    _, points = compose([argument], multirun=True)
    assert [point.config[argument.split("=", maxsplit=1)[0]] for point in points] == expected


def test_glob_picks_files_of_a_group() -> None:
    """glob(*) over a group gives each of its files, but not the one that stands for Hub ids and folders."""
    _, points = compose(["dataset=glob(*)", "trainer=full", "model=glob(ti*)"], multirun=True)
    files = {file.stem for file in data_dir("conf").glob("dataset/*.yaml")} - BLANK
    assert len(points) == len(files)
    assert {p.config["model"]["name"] for p in points} == {"tiny"}


@pytest.mark.parametrize(
    ("axis", "names"),
    [
        ("cluster=local,slurm", ["local", "slurm"]),
        ("trainer=lora,full", ["lora", "full"]),
        ("tracking=off,wandb", ["off", "wandb"]),
    ],
)
def test_a_group_that_varies_is_told_by_name(axis: str, names: list[str]) -> None:
    """Tables and figures have one word for a chosen file, also where it gives itself no name."""
    _, points = compose([axis], multirun=True)
    assert [point.axes for point in points] == [{axis.partition("=")[0]: name} for name in names]


def test_model_may_be_a_hub_id_or_a_folder(tmp_path: Path) -> None:
    """model=ORG/NAME@REVISION and model=FOLDER set name, path and revision; a folder becomes absolute."""
    folder = tmp_path / "My Model"
    folder.mkdir()
    _, points = compose(["model=tiny,HuggingFaceTB/SmolLM2-135M@abc123", "dataset=a/b"], multirun=True)
    assert points[1].config["model"]["path"] == "HuggingFaceTB/SmolLM2-135M"
    assert points[1].config["model"]["revision"] == "abc123"
    assert points[1].axes["model"] == "smollm2-135m"
    assert points[1].config["dataset"]["path"] == "a/b"
    _, (point,) = compose([f"model='{folder}'"], multirun=False)
    assert point.config["model"]["path"] == str(folder)
    assert point.config["model"]["name"] == "my-model"


@pytest.fixture
def sweep_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "sweeps"
    folder.mkdir()
    monkeypatch.setattr(conf_places, "data_dir", lambda name: folder if name == "sweeps" else data_dir(name))
    return folder


def test_sweep_file_with_zip_and_exclude(sweep_files: Path) -> None:
    """Zipped axes vary together, excluded combinations are left out, whichever way their numbers are written."""
    (sweep_files / "pairs.yaml").write_text(
        "overrides: {trainer: full, dataset.prompts: ['a, b', c]}\n"
        "grid: {loss_type: [sigmoid, ipo], beta: 'range(0.1,0.35,0.1)'}\n"
        "zip:\n  - {model: [tiny, smollm2], seed: [1, 2]}\n"
        "exclude:\n  - {loss_type: ipo, beta: 0.30}\n  - {model: tiny, beta: 0.1}\n"
    )
    grid, points = compose(["+sweeps=pairs"], multirun=True)
    seen = [
        (p.config["loss_type"], round(p.config["beta"], 9), p.config["model"]["name"], p.config["seed"]) for p in points
    ]
    assert seen == [
        ("sigmoid", 0.1, "smollm2-135m", 2),
        ("sigmoid", 0.2, "tiny", 1),
        ("sigmoid", 0.2, "smollm2-135m", 2),
        ("sigmoid", 0.3, "tiny", 1),
        ("sigmoid", 0.3, "smollm2-135m", 2),
        ("ipo", 0.1, "smollm2-135m", 2),
        ("ipo", 0.2, "tiny", 1),
        ("ipo", 0.2, "smollm2-135m", 2),
    ]
    assert points[0].config["dataset"]["prompts"] == ["a, b", "c"]
    assert grid.name == "pairs"
    assert grid.varied == ["loss_type", "beta", "model", "seed"]


def test_command_line_replaces_axes_of_a_sweep_file(sweep_files: Path) -> None:
    """A key given on the command line replaces the file's, also inside zipped axes."""
    (sweep_files / "pairs.yaml").write_text(
        "grid: {loss_type: [sigmoid, ipo]}\nzip:\n  - {model: [tiny, smollm2], seed: [1, 2]}\n"
    )
    _, points = compose(["+sweeps=pairs", "model=tiny", "loss_type=hinge"], multirun=True)
    assert [(p.config["model"]["name"], p.config["seed"], p.config["loss_type"]) for p in points] == [
        ("tiny", 1, "hinge"),
        ("tiny", 2, "hinge"),
    ]


def test_points_are_whole_combinations(sweep_files: Path) -> None:
    """Each of `points` is one combination with its own keys, its text as typed; it takes the place of a file's axes."""
    (sweep_files / "grid.yaml").write_text("grid: {loss_type: [sigmoid, ipo], beta: [0.1, 0.2], seed: [1, 2]}\n")
    points = "points={loss_type:dpo,beta:1e-3,model.revision:1.10},{loss_type:ipo,beta:0.05}"
    grid, found = compose(["+sweeps=grid", "model=tiny", points], multirun=True)
    assert [
        (p.config["loss_type"], p.config["beta"], p.config["model"]["revision"], p.config["seed"]) for p in found
    ] == [
        ("sigmoid", 0.001, "1.10", 1),
        ("ipo", 0.05, None, 1),
        ("sigmoid", 0.001, "1.10", 2),
        ("ipo", 0.05, None, 2),
    ]
    assert grid.varied == ["seed", "loss_type", "beta", "model.revision"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["points=0.1,0.2"], "each point as"),
        (["points={}"], "each point as"),
        (["points='range(1,3)'"], "each point as"),
        (["+points={beta:0.1}"], r"\+points.*give points="),
        (["points={beta:0.1},{beta:0.2}", "beta=0.3"], "beta is given in it and by itself"),
        (["points={betta:0.1}"], "betta=0.1: no such key"),
    ],
)
def test_wrong_points_are_one_clear_line(argv: list[str], words: str) -> None:
    """What is no list of combinations, or names a key twice or wrongly, is refused."""
    with pytest.raises(UsageError, match=words):
        compose(argv, multirun=True)


def test_several_points_take_multirun() -> None:
    """As with any other axis."""
    with pytest.raises(UsageError, match="add -m"):
        compose(["points={beta:0.1},{beta:0.2}"], multirun=False)
    assert [point.config["beta"] for point in compose(["points={beta:0.2}"], multirun=False)[1]] == [0.2]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("zip:\n  - {seed: [1, 2], beta: [0.1]}\n", "equally many"),
        ("girds: {beta: [1]}\n", r"no others: 'girds' is none \(did you mean 'grids'\?\)"),
        ("grid: {beta: range(0.1,0.4,0.1)}\n", "ends at the comma, where YAML's braces end a value; give it in quotes"),
        ("grid: [1, 2]\n", "key: value"),
        ("grid: {beta: [}\n", "YAML"),
        ("- 1\n", "no others"),
    ],
)
def test_wrong_sweep_files_are_one_clear_line(sweep_files: Path, content: str, words: str) -> None:
    """A sweep file that cannot be meant is refused with what it should hold."""
    (sweep_files / "wrong.yaml").write_text(content)
    with pytest.raises(UsageError, match=words):
        compose(["+sweeps=wrong"], multirun=True)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "nope"])
def test_sweep_files_lie_in_their_folder(name: str) -> None:
    """A sweep file's name cannot lead elsewhere."""
    with pytest.raises(ConfigError, match="no such sweep file"):
        compose([f"+sweeps={name}"], multirun=True)


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("beto=1", "did you mean 'beta'"),
        ("trainer.learning_rat=1", "did you mean 'trainer.learning_rate'"),
        ("beta=abc", "beta=abc: must be a number"),
        ("beta=null", "beta=null: must be a number"),
        ("beta={a:1}", "beta={a:1}: must be a number"),
        ("beta.x=1", "beta.x=1: no such key"),
        ("dataset.prompts.x=1", "dataset.prompts.x=1: no such key"),
        ("loss_type=[ipo]", "loss_type=[ipo]: must be text"),
        ("dry_run=maybe", "dry_run=maybe: must be true or false"),
        ("trainer.max_steps=1.5", "trainer.max_steps=1.5: must be a whole number, or null"),
        ("checkpoint.milestones=5", "must be a list, each a whole number, or null"),
        ("checkpoint=5", "checkpoint=5: must be a mapping of every, keep, keep_finished, milestones"),
        ("dataset.mixture=[{path:a,share:1}]", "must be a list, each a mapping of path, revision, fraction"),
        ("dataset.columns=[a]", "dataset.columns=[a]: must be a mapping {key:value}"),
        ("+model.architecture.hidden_size=64", "model.architecture is null; choose a file of conf/model that has it"),
        ("++model.architecture.hidden_size=64", "give all: model.architecture={hidden_size: ...}"),
        ("model.about.parameters=1e9", "model.about is null; choose a file of conf/model"),
        ("+beta=1", "beta is there; leave out the +"),
        ("+model=tiny", "model is there; leave out the +"),
        ("~beta", "every run has beta; give beta=..."),
        ("~model", "every run has model; give model=..."),
        ("~nope", "~nope: no such key"),
        ("~hub.revision", "hub.revision cannot be left out; give hub.revision=..."),
        ("~cluster.extra.nice", "cluster.extra.nice is not there"),
        ("model=smol", "did you mean 'smollm2'"),
        ("trainer.lora.target_modules=[q_proj]", "trainer.lora.target_modules=[q_proj]: must be text"),
        ("model=null", "model=null: no such file in conf/model"),
        ("trainer=5", "trainer=5: no such file in conf/trainer; there are: full, lora"),
        ("trainer=../model/tiny", "no such file in conf/trainer"),
        ("hydra/launcher=basic", "Hydra's own settings have no effect here"),
        ("beta=[1", "not a valid override"),
        ("word", "expected key=value"),
        ("=5", "expected key=value"),
        ("model=d\u00e9j\u00e0", "model=d\u00e9j\u00e0: no such file in conf/model"),
        ("cluster.account=a#b", "quote such a value"),
        ("trainer.lr=1", "did you mean 'trainer.learning_rate'"),
        ("cluster.gpus=8", "did you mean 'cluster.gpus_per_node'"),
        ("lr=1", "did you mean 'trainer.learning_rate'"),
        ("bs=8", "did you mean 'trainer.batch_size'"),
        ("batch_size=8", "did you mean 'trainer.batch_size'"),
        ("epochs=8", "did you mean 'trainer.epochs'"),
        ("max_len=8", "did you mean 'trainer.max_length'"),
        ("trainer.max_seq_length=8", "did you mean 'trainer.max_length'"),
        ("seq_len=8", "did you mean 'trainer.max_length'"),
        ("ngpus=8", "did you mean 'cluster.gpus_per_node'"),
        ("partition=gpu", "did you mean 'cluster.partition'"),
        ("trainer.partition=gpu", "did you mean 'cluster.partition'"),
        ("cluster.walltime=5", "did you mean 'cluster.time'"),
        ("evaluation.lr=5", "did you mean 'trainer.learning_rate'"),
        ("trainer.lora_rank=5", "trainer.lora_rank=5: no such key (did you mean 'trainer.lora.r'"),
        ("lerning_rate=1", "did you mean 'trainer.learning_rate'"),
        ("trainer.colour=1", "trainer.colour=1: no such key; see"),
        ("colour=1", "colour=1: no such key; see"),
        ("hub.revision='${nope}'", "hub.revision: Interpolation key 'nope' not found"),
        ('cluster.setup=["export A=${BAR}"]', r"; for a variable of the shell, $BAR or \${...}"),
        ('+evaluation.cluster.setup=["export A=${bar:-x}"]', r"; for a variable of the shell, $bar or \${...}"),
        ("output_dir='${SCRATCH}/o'", "; for a variable of the environment, ${oc.env:SCRATCH}"),
        ("beta=interval(0,1)", "range"),
        ("beta=range(1,2,0)", "must not be zero"),
        ("seed=range(3,3)", "empty"),
        ("seed=range(0,1000000000)", "more than 100,000 combinations"),
        ("loss_type=glob(*)", "empty"),
        ("+sweeps=smoke,steps_scan", "one sweep file at a time"),
    ],
)
def test_wrong_overrides_are_one_clear_line(argument: str, words: str) -> None:
    """Each wrong override names the key, the value and what would be right."""
    with pytest.raises(UsageError) as caught:
        compose([argument], multirun=True)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_variable_is_written_as_the_refusal_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the shell, which the job resolves, in either way; of the environment, which the launch does."""
    monkeypatch.setenv("SCRATCH", "/scratch")
    words = [r'cluster.setup=["export A=$BAR B=\${BAR:-x}"]', "output_dir='${oc.env:SCRATCH}/o'"]
    _, (point,) = compose(words, multirun=True)
    assert point.config["cluster"]["setup"] == ["export A=$BAR B=${BAR:-x}"]
    assert point.config["output_dir"] == "/scratch/o"


def test_the_wrong_one_of_two_is_named() -> None:
    """Not the group that its key begins with."""
    with pytest.raises(ConfigError, match=r"^trainer\.max_steps=many: must be a whole number"):
        compose(["trainer=full", "trainer.max_steps=many"], multirun=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model=custom"], "model.name: no value; give model.name=..."),
        (["dataset=weak_rejects", "dataset.name=x"], "dataset.weak_rejects.path: no value; give dataset.weak_rejects."),
        (["dataset=custom", "beta=???"], "dataset.name, beta: no value; give dataset.name=... beta=..."),
        (["dataset.mixture=[{fraction:1}]"], "dataset.mixture[0].path: no value; give dataset.mixture[0].path=..."),
    ],
)
def test_what_must_be_given_is_named_in_full(arguments: list[str], message: str) -> None:
    """All keys that have no value, each as it is typed on the command line."""
    with pytest.raises(ConfigError) as caught:
        compose(arguments, multirun=False)
    assert str(caught.value).startswith(message)


def test_a_whole_section_may_be_given_where_there_is_none() -> None:
    """The remedy that the message about a null section names: adapters beside `full`, an architecture for a model."""
    _, (point,) = compose(["trainer=full", "trainer.lora={r:4}"], multirun=False)
    assert point.config["trainer"]["lora"] == {"r": 4, "alpha": 32, "dropout": 0.0, "target_modules": "all-linear"}
    _, (point,) = compose(["model=custom", "model.name=x", "model.architecture={seed:1}"], multirun=False)
    assert point.config["model"]["architecture"] == {"seed": 1}


def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    """One with accents, quoted, is taken as it is."""
    folder = tmp_path / "d\u00e9j\u00e0 vu"
    folder.mkdir()
    _, (point,) = compose([f"model='{folder}'"], multirun=False)
    assert point.config["model"]["path"] == str(folder)


def test_several_values_need_multirun() -> None:
    """Without -m a comma is a mistake, and the message says how to mend it."""
    with pytest.raises(ConfigError, match="add -m"):
        compose(["beta=0.1,0.2"], multirun=False)


@pytest.mark.parametrize(
    ("axis", "names"),
    [
        ("model=org/x@v1,org/x@v2", ["x-v1", "x-v2"]),
        ("model=org/x,org/x@v2", ["x-main", "x-v2"]),
        ("model=org/x@v1,oth/x@v1", ["org-x", "oth-x"]),
        ("model=org/x@v1,org/x@v2,oth/x@v1", ["org-x-v1", "org-x-v2", "oth-x"]),
        ("model=/m/run1/final,/m/run2/final,tiny", ["run1-final", "run2-final", "tiny"]),
        ("model=org/tiny,tiny", ["org-tiny", "tiny"]),
        ("dataset=org/x@v1,org/x@v2", ["x-v1", "x-v2"]),
    ],
)
def test_two_sources_of_one_name_are_told_apart(axis: str, names: list[str]) -> None:
    """More of the path, or the revision, goes into the name, and into the overrides that give this run alone."""
    section = axis.partition("=")[0]
    _, points = compose([axis, "loss_type=ipo", "beta=0.1"], multirun=True)
    assert [point.config[section]["name"] for point in points] == names
    assert [point.axes[section] for point in points] == names
    for point in points:
        assert compose(point.overrides, multirun=False)[1][0].config == point.config


@pytest.mark.parametrize("paths", [("/m/a/Final", "/m/A/final"), ("/m/a b/x", "/m/a-b/x")])
def test_names_differ_also_where_paths_differ_in_signs_alone(paths: tuple[str, str]) -> None:
    """A name has small letters and few signs, so that two paths may have all of it in common."""
    axis = "model=" + ",".join(f"'{path}'" for path in paths)
    _, points = compose([axis, "loss_type=ipo", "beta=0.1"], multirun=True)
    one, other = (point.config["model"]["name"] for point in points)
    assert one != other


def test_a_name_that_stands_for_one_thing_stays(tmp_path: Path) -> None:
    """So that no run of a sweep without such a pair has another id; nor does a file of conf/ change its name."""
    (tmp_path / "a/final").mkdir(parents=True)
    _, points = compose([f"model={tmp_path}/a/final,tiny", "loss_type=ipo", "beta=0.1,0.2"], multirun=True)
    assert [point.config["model"]["name"] for point in points] == ["final", "final", "tiny", "tiny"]
    _, points = compose(["model=gemma_1b,org/gemma-3-1b", "loss_type=ipo", "beta=0.1"], multirun=True)
    assert [point.config["model"]["name"] for point in points] == ["gemma-3-1b", "org-gemma-3-1b"]


@pytest.mark.parametrize(
    ("beta", "name"), [("3", "ipo-3"), ("1e1", "ipo-10"), ("0.1", "ipo-0.1"), ("1e-05", "ipo-1e-05")]
)
def test_a_revision_is_called_by_beta_as_it_is_typed(beta: str, name: str) -> None:
    """A whole number has no decimals there, as it has none in the run's id."""
    (point,) = compose(["model=tiny", "loss_type=ipo", f"beta={beta}"], multirun=False)[1]
    assert point.config["hub"]["revision"] == name


def test_parts_of_a_mixture_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the one data set may: absolute in the run, and from the working directory in what it is known by."""
    ids = []
    for place in (tmp_path / "one", tmp_path / "other"):
        (place / "pairs").mkdir(parents=True)
        monkeypatch.chdir(place)
        keys = ["model=tiny", "dataset=mixture", "dataset.name=two", "beta=0.1", "loss_type=sigmoid"]
        for path in ("./pairs", "'./pairs'", str(place / "pairs")):
            mixture = "+dataset.mixture=[{path:" + path + ",fraction:0.5},{path:org/x,revision:010}]"
            (point,) = compose([*keys, mixture], multirun=False)[1]
            parts = point.config["dataset"]["mixture"]
            assert [(part["path"], part["revision"], part["fraction"]) for part in parts] == [
                (str(place / "pairs"), None, 0.5),
                ("org/x", "010", 1.0),
            ]
            ids.append(run_id(portable(canonical({key: point.config[key] for key in OBJECTIVE}))))
    assert len(set(ids)) == 1
