"""What the documents name is there, and what they say to type can be typed."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from conftest import REPOSITORY

from analysis.__main__ import _parser as analysis_parser
from launcher.cli.arguments import VERBS
from launcher.cli.launch import launch_parser
from launcher.cli.main import verb_parser
from launcher.errors import ConfigError
from launcher.planning.kinds import kind_of
from launcher.planning.overrides import parse

MADE = REPOSITORY / "docs/reference"  # what is made from the code needs no proof of its commands
PAGES = sorted({*(REPOSITORY / "docs").rglob("*.md"), REPOSITORY / "slurm" / "README.md"} - {MADE / "commands.md"})
_BLOCK = re.compile(r"```\w*\n(.*?)```|((?:^(?: {4}|\t)[^\n]*\n)+)", re.DOTALL | re.MULTILINE)
_OURS = re.compile(r"(?:prefsweep|python -m (?:launcher|analysis)) ")
_SHELL = (">", ">>", "|")  # the words of a command end there
_ASKED = ("sweeps", "preset", "points")  # keys of a command line that no run has


def commands() -> list[tuple[str, str]]:
    """Each command of ours that stands in a block of a page, whole."""
    return [
        (str(page.relative_to(REPOSITORY)), command)
        for page in PAGES
        for fenced, indented in _BLOCK.findall(page.read_text(encoding="utf-8"))
        for line in re.sub(r"\\\n\s*", "", fenced or indented).splitlines()
        if _OURS.match(command := line.strip().removeprefix("$ ").removeprefix("HF_HUB_OFFLINE=1 "))
        and " ... " not in command
    ]


@pytest.mark.parametrize(("page", "command"), commands(), ids=lambda each: each)
def test_what_a_page_says_to_type_is_a_command(page: str, command: str) -> None:
    """The verb and its options are there, and each key is one of the schema's, with a value of Hydra's grammar."""
    assert page
    words = list(itertools.takewhile(lambda word: word not in _SHELL, shlex.split(command, comments=True)))
    program, words = (words[2], words[3:]) if words[0] == "python" else (words[0], words[1:])
    if program == "analysis":
        assert analysis_parser().parse_args(words).sweep_dir
        return
    verb = words[0] if words[0] in VERBS else None
    parser = launch_parser() if verb is None else verb_parser(verb)
    options = parser.parse_intermixed_args(words[1:] if verb else words)
    assert options is not None
    for word in words:
        if "=" in word and not word.startswith("-"):
            key = parse(word).key_or_group
            assert key in _ASKED or kind_of(key) is not None, key


def test_a_key_that_is_none_is_seen() -> None:
    """A page that says `betta=0.1` would fail."""
    assert kind_of(parse("betta=0.1").key_or_group) is None
    assert len(commands()) > 60


def test_the_first_page_names_every_page() -> None:
    """Of those that the site's navigation has, but for itself."""
    nav = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    elsewhere = {
        "slurm.md": "../slurm/README.md",
        "contributing.md": "../CONTRIBUTING.md",
        "changes.md": "../CHANGELOG.md",
        "reference/files.md": "../conf",
    }
    pages = {elsewhere.get(page, page) for page in re.findall(r": (\S+\.md)$", nav, re.MULTILINE)} - {"index.md"}
    named = re.findall(r"\]\(([^)#]+)", (REPOSITORY / "docs/index.md").read_text(encoding="utf-8"))
    assert pages - set(named) == set()


def test_each_fault_names_tests_that_exist() -> None:
    """A row of docs/faults.md ends in the tests that make its fault."""
    rows = [line for line in (REPOSITORY / "docs/faults.md").read_text().splitlines() if line.startswith("| ")]
    named = [re.findall(r"`(test_\w+)(?:::(test_\w+))?`", row.split(" | ")[-1]) for row in rows]
    named = [tests for row, tests in zip(rows, named, strict=True) if not row.startswith("| fault |")]
    assert len(named) > 30
    assert all(named)
    for module, test in (each for tests in named for each in tests):
        text = (REPOSITORY / "tests" / f"{module}.py").read_text()
        assert not test or f"def {test}(" in text, (module, test)


LINKING = [
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "slurm/README.md")),
    *sorted(REPOSITORY.glob("docs/**/*.md")),
]


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", LINKING, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_each_link_leads_somewhere(page: Path) -> None:
    """To a file that is there, and to a heading in it."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if target.name in ("slurm.md", "contributing.md", "changes.md"):
            continue
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in anchors_of(target), link


@pytest.fixture(scope="module")
def reference() -> Iterator[ModuleType]:
    """docs/reference.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(REPOSITORY / "docs"))
        yield importlib.import_module("reference")


@pytest.mark.parametrize("name", ["keys", "rules", "commands"])
def test_the_reference_says_what_the_code_says(
    reference: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/reference is made from it: python docs/reference.py."""
    if name == "commands" and sys.version_info[:2] != (3, 11):
        pytest.skip("another Python words its usage lines otherwise")
    monkeypatch.setenv("COLUMNS", "100")
    page = f"reference/{name}.md"
    assert (REPOSITORY / "docs" / page).read_text(encoding="utf-8") == reference.PAGES[page]()


@pytest.fixture(scope="module")
def refusals(reference: ModuleType) -> list[tuple[str, str]]:
    """Each row of the page of rules: key and refusal, as patterns; the key is empty where the row names none."""
    text = reference.rules_page()
    rows = re.findall(r"^\| (?:`([^`]*)`[^|`]*|the key) \| (.*) \|$", text, re.MULTILINE)
    assert len(rows) == sum(line.startswith("| ") for line in text.splitlines()) - text.count("| key | refusal |")
    plain = [(key, re.sub(r"\\(.)", r"\1", said.replace("&lt;", "<").replace("&gt;", ">"))) for key, said in rows]

    def pattern(said: str) -> str:
        return ".*".join(map(re.escape, said.split(reference.UNKNOWN)))

    return [(pattern(key.partition("=")[0]), pattern(said)) for key, said in plain]


@pytest.mark.parametrize(
    "command",
    [
        "beta=0",
        "trainer.batch_size=0",
        "trainer.batch_size=3 trainer.micro_batch_size=2",
        "trainer.lr_scheduler=greedy",
        "trainer.optimizer=lomo",
        "model.dtype=float16",
        "hub.when=later",
        "loss_type=cdpo loss.label_smoothing=0.6",
        "loss_type=orpo loss.lam=0",
        "cluster.time=soon",
        "cluster.clusters=all",
        "checkpoint.milestones=[4]",
        "evaluation.temperature=0",
        "evaluation.benchmarks=[mt-bench]",
        "evaluation=lm_eval",
        "tracking.mode=now",
        "model.quantization=4bit",
    ],
)
def test_a_refusal_stands_in_the_page_of_rules(command: str, refusals: list[tuple[str, str]]) -> None:
    """What a launch says of a wrong value is one of its rows, with the key."""
    from launcher.cli.launch import composed

    with pytest.raises(ConfigError) as caught:
        composed(["+sweeps=smoke", *command.split()], multirun=True)
    found = caught.value
    assert any(
        re.fullmatch(said, found.remedy, re.DOTALL) for key, said in refusals if not key or re.fullmatch(key, found.key)
    ), found


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    """And no page asks for anything from elsewhere."""
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed: pip install 'prefsweep[docs]'")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = {page: page.read_text(encoding="utf-8") for page in (tmp_path / "site").rglob("*.html")}
    assert len(pages) > 25
    loads = re.compile(r'<(?:script|img|iframe)[^>]*\ssrc="?(https?:[^"\s>]*)|<link[^>]*\shref="?(https?:[^"\s>]*)')
    assert not [(page.name, found) for page, text in pages.items() for found in loads.findall(text)]
