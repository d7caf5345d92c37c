"""Text keys keep what was typed, in whichever way it is given: 1.10, 2022_001, 12:00:00, 1e3, on, 010."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launcher.config import OBJECTIVE, RunConfig
from launcher.errors import ConfigError, UsageError
from launcher.machine.installed import data_dir
from launcher.planning import conf_places
from launcher.planning import overrides as overrides_module
from launcher.planning.as_typed import read_override
from launcher.planning.changes import change_settings
from launcher.planning.compose import compose
from launcher.planning.kinds import kind_of
from launcher.store.run_folder import RunDir

TYPED = [
    *("1.10", "1e3", "1E+05", "010", "0x1F", "0o17", "0b11", "2022_001", "1_0.5", "007", "1234567", "4e10000"),
    *("12:00:00", "1:30", "1-12:00:00", "2024-01-01", "2024-01-01T10:00:00", "on", "off", "yes", "No", "y", "True"),
    *("FALSE", "nan", "NaN", "inf", "-inf", ".5", "5.", "+5", "-0", "1e", "nil", "None", "nulls", "truely", "0"),
]  # fmt: skip
SPELLINGS = st.one_of(
    st.sampled_from(TYPED),
    st.from_regex(r"[0-9][0-9_.eE+-]{0,7}", fullmatch=True),
    st.from_regex(r"[0-9]{1,3}(:[0-9]{2}){1,2}", fullmatch=True),
    st.from_regex(r"[+-]?[0-9]*\.[0-9]+(e[+-]?[0-9]{1,4})?", fullmatch=True),
)
KEYS = {
    "model.revision": ("model", "revision"),
    "sweep": ("sweep",),
    "hub.revision": ("hub", "revision"),
    "loss_type": ("loss_type",),
    "cluster.account": ("cluster", "account"),
    "cluster.time": ("cluster", "time"),
    "evaluation.judge.model": ("evaluation", "judge", "model"),
    "evaluation.lm_eval.batch_size": ("evaluation", "lm_eval", "batch_size"),
    "evaluation.cluster.account": ("evaluation", "cluster", "account"),
    "+dataset.columns.prompt": ("dataset", "columns", "prompt"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("data")
    shutil.copytree(data_dir("conf"), place / "conf")
    (place / "sweeps").mkdir()
    return {name: place / name for name in ("conf", "sweeps")}


@pytest.fixture(autouse=True)
def own_files(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conf_places, "data_dir", lambda name: folders.get(name) or data_dir(name))
    overrides_module._options.cache_clear()


def value_of(config: Any, parts: tuple[str, ...]) -> Any:
    for part in parts:
        config = config[part]
    return config


def from_argv(_: dict[str, Path], key: str, text: str) -> tuple[list[str], int]:
    return [f"{key}={text}"], 0


def as_an_axis(_: dict[str, Path], key: str, text: str) -> tuple[list[str], int]:
    return [f"{key}=other,{text}"], 1


def as_a_choice(_: dict[str, Path], key: str, text: str) -> tuple[list[str], int]:
    return [f"{key}=choice(other,{text})"], 1


def in_a_sweep_file(folders: dict[str, Path], key: str, text: str) -> tuple[list[str], int]:
    (folders["sweeps"] / "mine.yaml").write_text(f"overrides:\n  {key}: {text}\n")
    return ["+sweeps=mine"], 0


def in_a_list_of_a_sweep_file(folders: dict[str, Path], key: str, text: str) -> tuple[list[str], int]:
    (folders["sweeps"] / "mine.yaml").write_text(f"grid:\n  {key}: [other, {text}]\n")
    return ["+sweeps=mine"], 1


def as_one_value_of_a_sweep_file(folders: dict[str, Path], key: str, text: str) -> tuple[list[str], int]:
    (folders["sweeps"] / "mine.yaml").write_text(f"grid:\n  {key}: {text}\n")
    return ["+sweeps=mine"], 0


def zipped_in_a_sweep_file(folders: dict[str, Path], key: str, text: str) -> tuple[list[str], int]:
    (folders["sweeps"] / "mine.yaml").write_text(f"zip:\n  - {key}:\n    - {text}\n    - other\n    seed: [1, 2]\n")
    return ["+sweeps=mine"], 0


def by_an_alias(folders: dict[str, Path], key: str, text: str) -> tuple[list[str], int]:
    """Anchored where a number is wanted of which YAML makes one; at the text key it is what was typed all the same."""
    (folders["sweeps"] / "mine.yaml").write_text(
        f"overrides:\n  +cluster.extra.comment: &it {text}\n  {key}: *it\n"
    )  # fmt: skip
    return ["+sweeps=mine"], 0


ROUTES: list[Callable[[dict[str, Path], str, str], tuple[list[str], int]]] = [
    from_argv, as_an_axis, as_a_choice, in_a_sweep_file, in_a_list_of_a_sweep_file, as_one_value_of_a_sweep_file,
    zipped_in_a_sweep_file, by_an_alias,
]  # fmt: skip


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=SPELLINGS, route=st.sampled_from(ROUTES), key=st.sampled_from(sorted(KEYS)))
def test_text_keys_keep_what_was_typed(
    folders: dict[str, Path], text: str, route: Callable[..., tuple[list[str], int]], key: str
) -> None:
    """By every way that a value may take, and again from the overrides that are recorded for a relaunch."""
    argv, number = route(folders, key, text)
    _, points = compose(argv, multirun=True)
    assert value_of(points[number].config, KEYS[key]) == text
    again = compose(points[number].overrides, multirun=False)[1][0]
    assert again.config == points[number].config


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=SPELLINGS)
def test_files_of_conf_keep_what_was_typed(folders: dict[str, Path], text: str) -> None:
    """The user's own too, in lists and in free mappings, and below a merge key."""
    (folders["conf"] / "cluster" / "mine.yaml").write_text(
        f"defaults:\n  - slurm\n  - _self_\n_x: &x\n  account: {text}\ntime: {text}\nsetup: [{text}, a]\n"
        f"extra:\n  comment: {text}\n".replace("_x: &x\n  account", "account")
    )
    (folders["conf"] / "dataset" / "mine.yaml").write_text(
        f"name: x\npath: &it {text}\nrevision: *it\ncolumns: {{prompt: {text}}}\nprompts:\n  - {text}\n"
        f"mixture:\n  - &part {{path: a, revision: {text}}}\n  - <<: *part\n    path: {text}\n"
    )
    overrides_module._options.cache_clear()
    config = compose(["cluster=mine", "dataset=mine"], multirun=False)[1][0].config
    cluster, dataset = config["cluster"], config["dataset"]
    assert [cluster[key] for key in ("account", "time")] == [text, text]
    assert cluster["setup"] == [text, "a"]
    assert [dataset["path"], dataset["revision"], dataset["columns"]] == [text, text, {"prompt": text}]
    assert dataset["prompts"] == [text]
    assert [(part["path"], part["revision"]) for part in dataset["mixture"]] == [("a", text), (text, text)]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=SPELLINGS)
def test_lists_and_mappings_keep_what_was_typed(text: str) -> None:
    """On the command line, as items, as values and as a mapping's keys."""
    argv = [
        f"dataset.prompts=[{text},b]",
        f"dataset.mixture=[{{path:{text},revision:{text}}}]",
        f"evaluation.cluster={{account:{text},nodes:1}}",
        "cluster.setup=['a b'," + text + "]",
    ]
    (point,) = compose(argv, multirun=False)[1]
    config = point.config
    assert config["dataset"]["prompts"] == [text, "b"]
    part = config["dataset"]["mixture"][0]
    assert (part["path"], part["revision"], part["fraction"]) == (text, text, 1.0)
    assert config["evaluation"]["cluster"] == {"account": text, "nodes": 1}
    assert config["cluster"]["setup"] == ["a b", text]
    assert compose(point.overrides, multirun=False)[1][0].config == config


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=SPELLINGS)
def test_what_was_typed_comes_back_from_disk(tmp_path: Path, text: str) -> None:
    """A run's config.yaml and the JSON of a launch hold it, and new settings of `resume` keep it as well."""
    config = compose([f"model.revision={text}", f"cluster.account={text}"], multirun=False)[1][0].config
    run = RunDir(tmp_path / text)
    run.path.mkdir(exist_ok=True)
    run.write_config({key: config[key] for key in OBJECTIVE})
    assert run.read_config()["model"]["revision"] == text
    recorded = json.loads(json.dumps({key: config[key] for key in ("cluster", "hub", "evaluation")}))
    assert change_settings(recorded, ["cluster.nodes=2"])["cluster"]["account"] == text
    assert change_settings(recorded, [f"cluster.qos={text}"])["cluster"]["qos"] == text


@pytest.mark.parametrize(
    ("override", "kept"),
    [
        ("+cluster.extra.nice=010", "010"),
        ("+cluster.extra.time-min=12:00:00", "12:00:00"),
        ("+cluster.extra.gres_flags=1e3", "1e3"),
        ("+cluster.extra.nice=10", "10"),
        ("+cluster.extra.exclusive=true", True),
        ("+cluster.extra.requeue=false", False),
        ("+cluster.extra.hint=null", None),
    ],
)
def test_options_of_the_batch_system_are_text(folders: dict[str, Path], override: str, kept: object) -> None:
    """But that true and false switch one on and off, and null takes it away."""
    key, _, text = override.partition("=")
    name = key.rpartition(".")[2]
    assert compose([override], multirun=False)[1][0].config["cluster"]["extra"] == {name: kept}
    (folders["sweeps"] / "mine.yaml").write_text(f"overrides:\n  {key}: {text}\n")
    assert compose(["+sweeps=mine"], multirun=False)[1][0].config["cluster"]["extra"] == {name: kept}
    assert repr(kept) in repr(compose(["+sweeps=mine"], multirun=False)[1][0].config["cluster"]["extra"])


WORDS = [*("on", "Off", "YES", "no", "ON"), *("true", "False", "null")]


@pytest.mark.parametrize("word", WORDS)
def test_only_true_and_false_switch(folders: dict[str, Path], word: str) -> None:
    """In every file as on the command line: on, off, yes and no are text."""
    kept = {"true": True, "False": False, "null": None}.get(word, word)
    argv = compose([f"cluster.extra.comment={word}"], multirun=False)[1][0].config["cluster"]["extra"]
    (folders["conf"] / "cluster" / "mine.yaml").write_text(
        f"defaults: [slurm, _self_]\nextra:\n  comment: {word}\n  kill-on-invalid-dep: {word}\n"
    )
    (folders["conf"] / "evaluation" / "mine.yaml").write_text(
        f"defaults: [preference, _self_]\ncluster: {{extra: {{comment: {word}}}}}\n"
    )
    overrides_module._options.cache_clear()
    config = compose(["cluster=mine", "evaluation=mine"], multirun=False)[1][0].config
    assert config["cluster"]["extra"] == {"comment": kept, "kill-on-invalid-dep": kept}
    assert config["evaluation"]["cluster"]["extra"] == argv == {"comment": kept}
    for line in (f"cluster.extra.comment: {word}", f"cluster.extra: {{comment: {word}}}"):
        (folders["sweeps"] / "mine.yaml").write_text(f"overrides:\n  {line}\n")
        assert compose(["+sweeps=mine"], multirun=False)[1][0].config["cluster"]["extra"] == argv
    assert [*map(type, argv.values())] == [type(kept)]


def test_yaml_s_own_words_remain_where_no_text_is_wanted(folders: dict[str, Path]) -> None:
    """A switch of the schema's, and the free mappings of others."""
    (folders["sweeps"] / "mine.yaml").write_text(
        "overrides:\n  model.trust_remote_code: yes\n  deepspeed.config: {zero: {overlap_comm: off}}\n"
    )
    config = compose(["+sweeps=mine"], multirun=False)[1][0].config
    assert config["model"]["trust_remote_code"] is True
    assert config["deepspeed"]["config"] == {"zero": {"overlap_comm": False}}


@pytest.mark.parametrize("sign", ["", "+"])
@pytest.mark.parametrize(
    ("override", "section", "found"),
    [
        ("dataset.columns={prompt:010}", "dataset.columns", {"prompt": "010"}),
        ("dataset.columns.prompt=010", "dataset.columns", {"prompt": "010"}),
        ("cluster.extra.nice=010", "cluster.extra", {"nice": "010"}),
        ("evaluation.cluster.mem=1G", "evaluation.cluster", {"mem": "1G"}),
        ("deepspeed.config.a.b=1", "deepspeed.config", {"a": {"b": 1}}),
    ],
)
def test_free_mappings_need_no_sign(
    folders: dict[str, Path], sign: str, override: str, section: str, found: object
) -> None:
    """On the command line, in a sweep file, and of the settings in `resume`; other keys are still known or refused."""
    key, _, value = override.partition("=")
    (folders["sweeps"] / "mine.yaml").write_text(f"overrides:\n  {sign}{key}: {value.replace(':', ': ')}\n")
    for argv in ([f"{sign}{override}"], ["+sweeps=mine"]):
        config = compose(argv, multirun=False)[1][0].config
        assert value_of(config, tuple(section.split("."))) == found
    if not section.startswith("dataset"):
        settings_before = compose([], multirun=False)[1][0].config
        changed = change_settings(settings_before, [f"{sign}{override}"])
        assert value_of(changed, tuple(section.split("."))) == found
        with pytest.raises(ConfigError, match="no such key"):
            change_settings(settings_before, ["cluster.exra.nice=1"])


def test_numbers_remain_numbers(folders: dict[str, Path]) -> None:
    """Where the schema wants them, and in mappings that are free: a model's architecture, DeepSpeed's own file."""
    argv = ["beta=1e-1", "seed=1_000", "deepspeed.config={zero_optimization:{stage:2,reduce_bucket_size:5e8}}"]
    config = compose(argv, multirun=False)[1][0].config
    assert (config["beta"], config["seed"]) == (0.1, 1000)
    assert config["deepspeed"]["config"]["zero_optimization"] == {"stage": 2, "reduce_bucket_size": 5e8}
    (folders["sweeps"] / "mine.yaml").write_text("overrides:\n  beta: 1e-1\n  seed: 010\n  trainer.max_steps: 1_0\n")
    config = compose(["+sweeps=mine"], multirun=False)[1][0].config
    assert (config["beta"], config["seed"], config["trainer"]["max_steps"]) == (0.1, 10, 10)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.revision=float(1e3)", "text is wanted"),
        ("model.revision=range(1.0,2.0,0.5)", "text is wanted"),
        ("loss_type=null", "must be text"),
        ("model.revision=[1.10]", "must be text, or null"),
        ("dataset.prompts=[null]", "must be a list, each text"),
    ],
)
def test_what_cannot_be_kept_is_refused(override: str, words: str) -> None:
    """A number that is computed has no one spelling; an absent word is no text."""
    with pytest.raises(ConfigError, match="=") as caught:
        compose([override], multirun=True)
    assert words in str(caught.value) or "makes" in str(caught.value)


def test_time_as_in_a_number_of_base_sixty_is_refused_where_a_number_is_wanted(folders: dict[str, Path]) -> None:
    """YAML takes 1:30 for 90."""
    (folders["sweeps"] / "mine.yaml").write_text("overrides:\n  trainer.max_steps: 1:30\n")
    with pytest.raises(ConfigError, match=r"trainer\.max_steps='1:30': must be a whole number"):
        compose(["+sweeps=mine"], multirun=False)


@pytest.mark.parametrize("name", ["1e3", "010", "off", "1.10", "2022_001"])
def test_names_of_files_are_text(folders: dict[str, Path], name: str) -> None:
    """Of sweep files, and of the files of `conf/`, on the command line and in a sweep file."""
    (folders["conf"] / "trainer" / f"{name}.yaml").write_text((folders["conf"] / "trainer" / "full.yaml").read_text())
    (folders["sweeps"] / f"{name.replace('.', '_')}.yaml").write_text(f"overrides:\n  trainer: {name}\n")
    overrides_module._options.cache_clear()
    assert compose([f"trainer={name}"], multirun=False)[1][0].config["trainer"]["lora"] is None
    assert compose([f"trainer=lora,{name}"], multirun=True)[1][1].config["trainer"]["lora"] is None
    grid, (point,) = compose([f"+sweeps={name.replace('.', '_')}"], multirun=True)
    assert grid.name == name.replace(".", "_")
    assert point.config["trainer"]["lora"] is None


def test_excluded_combinations_are_those_of_the_text(folders: dict[str, Path]) -> None:
    """1.1 does not leave out 1.10; of a number, all spellings are one."""
    (folders["sweeps"] / "mine.yaml").write_text(
        "grid: {model.revision: [1.1, 1.10], beta: [0.1, 0.2]}\nexclude:\n  - {model.revision: 1.1, beta: 0.10}\n"
    )
    _, points = compose(["+sweeps=mine"], multirun=True)
    assert [(p.config["model"]["revision"], p.config["beta"]) for p in points] == [
        ("1.1", 0.2),
        ("1.10", 0.1),
        ("1.10", 0.2),
    ]


def test_letters_of_all_alphabets_need_no_quotes(tmp_path: Path) -> None:
    """In values, as of the characters of ASCII."""
    folder = tmp_path / "modèle" / "模型"
    folder.mkdir(parents=True)
    (point,) = compose([f"model={folder}", "cluster.account=forêt"], multirun=False)[1]
    assert point.config["model"]["path"] == str(folder)
    assert point.config["cluster"]["account"] == "forêt"
    assert compose(point.overrides, multirun=False)[1][0].config == point.config


PIECES = ["train[:90%]", "train[90%:]", "train[10%:-5%]", "train_sft[:1000]", "my-split.v2[-3:]", "train[:]"]


@pytest.mark.parametrize("piece", PIECES)
def test_a_piece_of_a_split_is_typed_as_it_is_documented(piece: str) -> None:
    """With and without -m, as an axis, in a list and in a mapping; and again from what is recorded."""
    for argv, multirun, number in (
        ([f"dataset.train_split={piece}"], False, 0),
        ([f"dataset.train_split={piece}"], True, 0),
        ([f"dataset.train_split=train,{piece}"], True, 1),
        ([f"dataset.train_split=choice(train,{piece})"], True, 1),
        ([f"dataset.train_split='{piece}'"], False, 0),
    ):
        points = compose(argv, multirun=multirun)[1]
        assert points[number].config["dataset"]["train_split"] == piece
        assert compose(points[number].overrides, multirun=False)[1][0].config == points[number].config
    mixture = "dataset.mixture=[{path:/x,train_split:" + piece + ",test_split:'a[0:1]'}]"
    (part,) = compose([mixture, f"dataset.prompts=[{piece},b]"], multirun=False)[1][0].config["dataset"]["mixture"]
    assert (part["train_split"], part["test_split"]) == (piece, "a[0:1]")


GRAMMAR = st.text(st.sampled_from(list("ab1[]{}:,%'\"\\ -.()=")), max_size=14)


@settings(max_examples=400, deadline=None)
@given(text=GRAMMAR)
def test_what_hydra_can_read_means_what_it_meant(text: str) -> None:
    """Pieces are looked for only where Hydra's own grammar sees no value; what holds none is refused as ever."""
    override = f"deepspeed.config={text}"  # where numbers are numbers, as for Hydra
    try:
        known = OverridesParser.create().parse_override(override)
    except HydraException:
        if not re.search(r"\w\[[-\d%]*:[-\d%]*\]|[.-]\[[-\d%]*:[-\d%]*\]", text):
            with pytest.raises(HydraException):
                read_override(override)
        return
    found = read_override(override)
    assert (repr(found._value), found.value_type) == (repr(known._value), known.value_type)


@pytest.mark.parametrize("value", ["train[a]", "train [:90%]", "train[:90%", "train[1:2:3]"])
def test_other_brackets_are_refused_with_what_works(value: str) -> None:
    """Quoted as the line says, they are text."""
    with pytest.raises(ConfigError, match="not a valid override"):
        compose([f"model.name={value}"], multirun=False)
    assert compose([f"model.name='{value}'"], multirun=False)[1][0].config["model"]["name"] == value


def test_every_section_is_known_to_the_schema() -> None:
    """The schema is the one source of which keys are text."""
    assert all(kind_of(each.name) is not None for each in fields(RunConfig))
    assert kind_of("nope") is None
    assert kind_of("evaluation.cluster.time") == str | None


def test_no_yaml_is_one_line(folders: dict[str, Path]) -> None:
    """A file that is not YAML names itself."""
    (folders["sweeps"] / "mine.yaml").write_text("overrides: [")
    with pytest.raises(UsageError, match=r"mine\.yaml is not readable as YAML"):
        compose(["+sweeps=mine"], multirun=False)
