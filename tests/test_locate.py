"""What a path of the configuration means: one reading, and everybody who is given a path goes by it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.config import Dataset, Model, Part
from launcher.dataset.local_files import local_files
from launcher.errors import ConfigError
from launcher.evaluation import mt_bench
from launcher.hub import sources
from launcher.hub.card import hub_id
from launcher.machine.locate import Place, place_of, split_revision
from launcher.planning import prerequisites
from launcher.planning.dataset_rules import dataset_problems
from launcher.planning.overrides import expand
from launcher.store.output_folder import Store
from launcher.worker.dataset import reading
from launcher.worker.model import base_model

# The path, its kind and name, and where in the folder of the test it leads; the package is `placed`, in that folder.
PATHS = [
    ("org/name", "hub", "org/name", None),
    ("here/name", "hub", "here/name", None),  # though there is such a folder
    ("org/name@v1", "disk", "org/name@v1", "org/name@v1"),  # a revision has a key of its own
    ("org/pairs.jsonl", "disk", "org/pairs.jsonl", "org/pairs.jsonl"),
    ("name", "disk", "name", "name"),
    ("a/b/c", "disk", "a/b/c", "a/b/c"),
    ("./here/name", "disk", "./here/name", "here/name"),
    ("../outside", "disk", "../outside", "../outside"),
    ("~/model", "disk", "~/model", "model"),
    ("{folder}/here/name", "disk", "{folder}/here/name", "here/name"),
    ("{folder}/nowhere", "disk", "{folder}/nowhere", "nowhere"),
    ("{folder}/pairs.jsonl", "disk", "{folder}/pairs.jsonl", "pairs.jsonl"),
    ("package:placed", "package", "placed", "placed"),
    ("package:absent", "package", "absent", None),
    ("package:placed/sub", "package", "placed/sub", None),
    ("package:../here", "package", "../here", None),
    ("", "disk", "", None),
]
ROW = '{"prompt": "a", "chosen": "b", "rejected": "c"}\n'
NAMES = [path for path, *_ in PATHS]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory, which is the home too, with a folder `here/name`, a file and a package."""
    there = tmp_path / "there"
    for name in ("here/name", "placed"):
        (there / name).mkdir(parents=True)
        for split in ("train", "test"):
            (there / name / f"{split}.jsonl").write_text(ROW)
    (there / "placed" / "__init__.py").touch()
    (there / "pairs.jsonl").write_text(ROW * 2)
    monkeypatch.chdir(there)
    monkeypatch.setenv("HOME", str(there))
    monkeypatch.syspath_prepend(there)
    return there


@pytest.mark.parametrize(("path", "kind", "name", "leads_to"), PATHS)
def test_what_a_path_means(folder: Path, path: str, kind: str, name: str, leads_to: str | None) -> None:
    """By its text alone, whatever is there; only of a package its folder is looked up."""
    found = place_of(path.format(folder=folder))
    assert (found.kind, found.name) == (kind, name.format(folder=folder))
    where = None if found.path is None else (folder / found.path).resolve()
    assert where == (None if leads_to is None else (folder / leads_to).resolve())


def test_no_path_is_no_place() -> None:
    """What has an architecture, or a builder, in its place."""
    assert place_of(None) == place_of("")
    assert place_of(None).path is None


def test_a_revision_is_behind_the_name() -> None:
    """Of a name on the Hub, as it is typed and as pins are named."""
    assert split_revision("org/name@v1") == ("org/name", "v1")
    assert split_revision("org/name") == ("org/name", "")


# ------------------------------------------------------------------------------------------------ who is given a path


class Asked(Exception):
    """The Hub would have been asked."""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An output folder; whoever would ask the Hub is stopped."""

    def ask(*_: object, **__: object) -> str:
        raise Asked

    for module in (base_model, reading):
        monkeypatch.setattr(module, "commit_of", ask)
    return Store(tmp_path / "outputs")


def _answer(look: Callable[[], Path | None]) -> Path | str | None:
    """Where on this machine somebody looks; "hub": there; None: nowhere, which is an error."""
    try:
        found = look()
    except Asked:
        return "hub"
    except ConfigError:
        return None
    return "hub" if found is None else found.resolve()


def _expected(place: Place, there: Callable[[Path], bool]) -> Path | str | None:
    if place.kind == "hub":
        return "hub"
    return place.path.resolve() if place.path is not None and there(place.path) else None


@pytest.mark.parametrize("path", NAMES)
def test_models(folder: Path, store: Store, path: str) -> None:
    """The job takes a model from where the launcher checks it, and asks the Hub for what is pinned there."""
    model = Model(name="m", path=path.format(folder=folder))
    place = place_of(model.path)
    assert _answer(lambda: base_model.locate(model, store)) == _expected(place, Path.is_dir)
    assert (sources.model_source(model) is not None) == (place.kind == "hub")
    assert bool(prerequisites.missing_packages([(model, "model")])) == (place.kind == "package" and place.path is None)


@pytest.mark.parametrize("path", NAMES)
def test_data_sets(folder: Path, store: Store, path: str) -> None:
    """The job reads the file that the launcher has looked into."""
    absolute = Dataset(name="d", path=path.format(folder=folder), revision="v1")
    place = place_of(absolute.path)
    expected = _expected(place, Path.exists)
    if isinstance(expected, Path) and place.path is not None and not place.path.is_absolute():
        with pytest.raises(ConfigError, match="needs its absolute path"):
            local_files(absolute, "train_split")
    else:
        file = expected / "train.jsonl" if isinstance(expected, Path) and expected.is_dir() else expected
        assert _answer(lambda: next(iter(local_files(absolute, "train_split")), None)) == file
    if expected == "hub":
        with pytest.raises(Asked):
            reading.read_source(absolute, store)
    elif expected is None:
        with pytest.raises(ConfigError):
            reading.read_source(absolute, store)
    else:
        assert len(reading.read_source(absolute, store)[0])
    assert bool(sources.dataset_sources(absolute)) == (place.kind == "hub")


@pytest.mark.parametrize("path", NAMES)
def test_mt_bench(folder: Path, path: str) -> None:
    """A name on the Hub is refused, since a repository's type is to be said, even where there is such a folder."""
    source = path.format(folder=folder)
    place = place_of(source)
    expected = None if place.kind == "hub" else _expected(place, Path.is_dir)
    assert _answer(lambda: mt_bench.locate(source)) == expected
    if place.kind == "hub":
        with pytest.raises(ConfigError, match=f"give hf://datasets/{source} or"):
            mt_bench.locate(source)


@pytest.mark.parametrize("path", NAMES)
def test_cards(folder: Path, path: str) -> None:
    """A card links what is on the Hub, and nothing else."""
    given = path.format(folder=folder)
    assert hub_id(given) == (given if place_of(given).kind == "hub" else None)


@pytest.mark.parametrize("path", NAMES)
def test_parts(folder: Path, path: str) -> None:
    """Paths that cannot be made absolute for the user are refused by their text."""
    given = path.format(folder=folder)
    mixture = Dataset(name="d", mixture=[Part(path=given)])
    said = [problem for problem in dataset_problems(mixture) if "absolute path" in str(problem)]
    assert bool(said) == place_of(given).is_relative == given.startswith((".", "~"))


@pytest.mark.parametrize(
    ("value", "path", "revision"),
    [
        ("org/name", "org/name", "null"),
        ("org/name@v1", "org/name", "v1"),
        ("here/name@v1", "here/name", "v1"),
        ("./here/name", "{folder}/here/name", "null"),
        ("../outside", "{parent}/outside", "null"),
        ("{folder}/here/name", "{folder}/here/name", "null"),
        ("package:placed/sub", "package:placed/sub", "null"),
        ("a/b/c", "a/b/c", "null"),
    ],
)
def test_shorthands(folder: Path, value: str, path: str, revision: str) -> None:
    """`model=` and `dataset=` say path and revision; a path on disk is made absolute, so that it means the same."""
    given = expand(f"model={value.format(folder=folder)}")
    known = dict(override.split("=", 1) for override in given)
    assert known["model.path"].strip("'") == path.format(folder=folder.resolve(), parent=folder.resolve().parent)
    assert known["model.revision"] == revision
