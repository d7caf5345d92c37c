"""The schemas that editors read: what they take is what a launch takes, key by key.

`python tests/test_schema.py` writes the files of schema/ anew.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from jsonschema import Draft7Validator
from omegaconf._utils import get_yaml_loader

from launcher.cli.main import main
from launcher.config import RunConfig, from_plain
from launcher.errors import ConfigError
from launcher.planning.comments import MODELINE, comments_in
from launcher.planning.compose import compose
from launcher.planning.keys import Key, keys
from launcher.planning.rules import check
from launcher.planning.schema import KINDS, schema_of

REPOSITORY = Path(__file__).parent.parent
FILES = sorted([*(REPOSITORY / "conf").rglob("*.yaml"), *(REPOSITORY / "sweeps").glob("*.yaml")])
ALL_KEYS = [each for key in keys() for each in key.all()]
VALIDATORS = {kind: Draft7Validator(schema_of(kind)) for kind in KINDS}


def kind_of(file: Path) -> str:
    folder, *inner = file.relative_to(REPOSITORY).parts
    return "sweep" if folder == "sweeps" else inner[0] if len(inner) > 1 and inner[0] != "preset" else "config"


class Editors(get_yaml_loader()):  # type: ignore[misc]
    """YAML 1.2, as editors read it: no other words than these are switches."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {
        letter: [(tag, pattern) for tag, pattern in each if not tag.endswith(":bool")]
        for letter, each in get_yaml_loader().yaml_implicit_resolvers.items()
    }


Editors.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("true|false"), list("tf"))


def faults(text: str, kind: str) -> list[str]:
    return [
        f"{'.'.join(map(str, each.absolute_path))}: {each.message}"
        for each in VALIDATORS[kind].iter_errors(yaml.load(text, Editors))  # noqa: S506 - a safe one
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_each_is_a_schema_and_the_file_that_our_yaml_names_is_the_same(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the verb prints, an editor finds beside our files."""
    Draft7Validator.check_schema(schema_of(kind))
    assert main(["schema", kind]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed) == schema_of(kind)
    assert (REPOSITORY / "schema" / f"{kind}.json").read_text() == printed, "python tests/test_schema.py"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(REPOSITORY)))
def test_our_files_have_the_form_that_their_first_lines_promise(file: Path) -> None:
    """Each names its schema, which is there, and is as it says."""
    text, kind = file.read_text(), kind_of(file)
    [line] = [line for line in text.splitlines() if MODELINE.match(line)]
    assert (file.parent / line.partition("$schema=")[2]).resolve() == REPOSITORY / "schema" / f"{kind}.json"
    assert faults(text, kind) == []
    assert comments_in(text).header


@pytest.mark.parametrize(
    ("kind", "text", "key"),
    [
        ("sweep", "grid: {betta: [0.1]}", "betta"),
        ("sweep", "grids: [{loss_type: ipo, loss.gama: [1]}]", "gama"),
        ("sweep", "overides: {beta: 0.1}", "overides"),
        ("sweep", "zip: [{trainer.learnin_rate: [1, 2]}]", "learnin_rate"),
        ("sweep", "exclude: [{loss_typ: ipo}]", "loss_typ"),
        ("sweep", "grid: {beta: [a, b]}", "beta"),
        ("sweep", "grid: {beta: none}", "beta"),
        ("sweep", "overrides: {trainer.max_steps: 1.5}", "max_steps"),
        ("sweep", "overrides: {trainer.batch_size: 0}", "batch_size"),
        ("sweep", "overrides: {hub.when: later}", "when"),
        ("sweep", "grids: {beta: [1]}", "grids"),
        ("trainer", "learning_rate: fast", "learning_rate"),
        ("trainer", "lora: {rank: 8}", "rank"),
        ("cluster", "gpus: 8", "gpus"),
        ("cluster", "nodes: two", "nodes"),
        ("dataset", "mixture: [{path: a, fracton: 0.5}]", "fracton"),
        ("evaluation", "benchmarks: [mt-bench]", "benchmarks"),
        ("config", "trainer: {learning-rate: 1e-6}", "learning-rate"),
        ("config", "checkpoints: {every: 10}", "checkpoints"),
    ],
)
def test_a_mistyped_key_and_a_wrong_value_are_seen(kind: str, text: str, key: str) -> None:
    """With the key in what is said; the same is refused at a launch."""
    assert any(key in fault for fault in faults(text, kind))


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("sweep", 'grid: {beta: "range(0.1,1.0,0.1)", loss_type: "ipo,sigmoid", model: "glob(*)"}'),
        ("sweep", "overrides: {hub.revision: '${loss_type}-x', trainer.warmup_steps: '${checkpoint.every}'}"),
        ("sweep", "overrides: {model: ORG/NAME@main, dataset: ./pairs, trainer: mine, +preset: simpo_llama3}"),
        (
            "sweep",
            "overrides: {dataset.columns.chosen: better, cluster.extra.reservation: friday, cluster.account: 2022}",
        ),
        ("sweep", "overrides: {evaluation.cluster.mem: 64G, evaluation.cluster: {nodes: 1}, cluster.time: 12:00:00}"),
        ("sweep", "grid: {trainer.lora.r: [8, 16], seed: [1, 2]}\nexclude: [{seed: [1], trainer.lora.r: 8}]"),
        ("cluster", "defaults: [slurm, _self_]\naccount: ???\ntime: 90\nextra: {exclusive: true, gres: null}"),
        ("model", "name: 1.10\nabout: {parameters: 7e9}"),
        ("tracking", "backend: off"),
        ("trainer", "packed: false\nmax_steps: null"),
    ],
)
def test_what_a_launch_takes_is_taken(kind: str, text: str) -> None:
    """Hydra's grammar, values that come later, names of the user's own, text that looks like a number."""
    assert faults(text, kind) == []


def test_every_key_has_a_meaning_and_a_type() -> None:
    """Each of them has a comment in conf/, which the schema says again; none is left out."""
    assert all(key.about and key.kind is not None for key in ALL_KEYS)
    assert len(ALL_KEYS) > 150
    named = schema_of("sweep")["definitions"]
    assert all(named[name]["description"] == key.about for key in ALL_KEYS for name in (key.name, f"axis {key.name}"))


def _config(**values: Any) -> RunConfig:
    _, [point] = compose(["+sweeps=smoke", "loss_type=sigmoid", "beta=0.1"], multirun=False)
    found: RunConfig = from_plain(point.config)
    for name, value in values.items():
        *above, last = name.split("__")
        held: Any = found
        for part in above:
            held = getattr(held, part)
        setattr(held, last, value)
    return found


BOUNDED = [
    key
    for key in ALL_KEYS
    if key.bounds != type(key.bounds)()
    and not key.name.startswith(("loss.", "trainer.lora", "dataset.weak_rejects", "evaluation.cluster."))
    and "desirable_weight" not in key.name
]


@pytest.mark.parametrize("key", BOUNDED, ids=lambda key: key.name)
def test_a_range_is_that_of_the_rules(key: Key) -> None:
    """What lies beyond it is refused at a launch with that key, and what lies on it is not."""
    bounds, place = key.bounds, key.name.replace(".", "__")
    wrong = [bounds.least - 1] if bounds.least > float("-inf") else [bounds.above]
    wrong += [bounds.below] if bounds.below < float("inf") else []
    for value in wrong:
        with pytest.raises(ConfigError, match=f"^{re.escape(key.name)}="):
            check(_config(**{place: value}), {"sigmoid"})
    if bounds.least > float("-inf"):
        try:
            check(_config(**{place: bounds.least}), {"sigmoid"})
        except ConfigError as error:
            assert error.key != key.name or "at least" not in str(error)  # noqa: PT017 - another rule may have it


def test_it_needs_no_hydra() -> None:
    """The verb answers at once: it imports neither Hydra nor torch."""
    code = (
        "import sys; from launcher.cli.main import main; main(['schema']); print({'hydra', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")


def test_a_kind_that_is_none_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """With those that there are."""
    assert main(["schema", "sweeps"]) == 2
    assert "sweep" in capsys.readouterr().err


if __name__ == "__main__":
    for each in KINDS:
        done = subprocess.run([sys.executable, "-m", "launcher", "schema", each], capture_output=True, check=True)
        (REPOSITORY / "schema" / f"{each}.json").write_bytes(done.stdout)
