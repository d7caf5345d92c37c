"""The pages of the reference, as Markdown: every key, rule and command, every file of conf/ and sweeps/.

    python docs/reference.py    write docs/reference anew: a test compares it with the code

Owns: their form. What they say stands elsewhere: in the keys' comments and types, in the refusals of the rules, in the
verbs' help.
"""

from __future__ import annotations

import ast
import importlib
import math
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY))  # this checkout's, whichever is installed

from launcher.cli.arguments import VERBS  # noqa: E402 - it lies above this folder
from launcher.cli.launch import launch_parser  # noqa: E402 - it lies above this folder
from launcher.cli.main import verb_parser  # noqa: E402 - it lies above this folder
from launcher.planning import loss_rules, trainer_rules  # noqa: E402 - it lies above this folder
from launcher.planning.comments import comments_in  # noqa: E402 - it lies above this folder
from launcher.planning.keys import GROUPS, Key, choices_of, keys, section_of  # noqa: E402 - it lies above this folder
from launcher.planning.kinds import options_of  # noqa: E402 - it lies above this folder

UNKNOWN = "…"  # in place of what only a configuration says
TITLES = {
    "rules": "Names, sources, numbers, evaluation",
    "trainer_rules": "How a run is trained",
    "loss_rules": "Losses and their keys",
    "dataset_rules": "Data",
    "cluster_rules": "Resources and DeepSpeed",
    "secrets": "Secrets",
    "sweep_file": "Sweep files",
}
LAST = ("launcher.errors", "launcher.config", "launcher.worker")  # what the others raise, a job's own
_WORDS = {str: "text", int: "whole number", float: "number", bool: "`true` or `false`", NoneType: "`null`", Any: "any"}
LISTED = 2  # values of a default that are shown one by one
CONFIG_ERROR = 3  # its arguments: key, value, remedy
HARMLESS = ("items", "join", "values", "sorted", "min")  # calls that only arrange what a table says
_REPEATED = "evaluation.cluster."


KEYS_INTRODUCTION = """\
# Every key

A run's configuration, key by key. The default is the value of a run for which nothing is said. Each key can be an axis
of a grid. Between keys there are [rules](rules.md).

This page is made from the types in `launcher/config.py`, the comments above the keys in [conf/](../../conf) and the
tables of the rules. [The schema](../editor.md) for an editor says the same."""
RULES_INTRODUCTION = f"""\
# Every rule

What a launch checks before it submits anything. Each row is a refusal, in the words in which it is printed:
`KEY=VALUE: {UNKNOWN}`, with exit code 2. {UNKNOWN} stands for what depends on your configuration or your files.

This page is read from the code that refuses; what a function words for itself is not in it. The range of each single
key is in [every key](keys.md), too."""


def keys_page() -> str:
    """Every key with its type, range, default and meaning, a table for each section."""
    top = [key for key in keys() if not key.below]
    parts = [
        KEYS_INTRODUCTION,
        "## At the top",
        _table(top),
    ]
    for key in keys():
        if key.below:
            group = (
                f" The files that it may name: [conf/{key.name}](../../conf/{key.name})." if key.name in GROUPS else ""
            )
            inner = [each for each in key.all() if each is not key and not each.name.startswith(_REPEATED)]
            parts += [
                f"## {key.name}",
                f"{_prose(key.about)}{group}",
                _table([each for each in inner if not each.below]),
            ]
    return "\n\n".join(parts) + "\n"


def _table(rows: list[Key]) -> str:
    lines = ["| key | value | default | meaning |", "|---|---|---|---|"]
    lines += [
        f"| `{key.name}` | {_kind(key)} | {_default(key)} | {_prose(key.about)} |" for key in rows
    ]  # fmt: skip
    return "\n".join(lines)


def _kind(key: Key) -> str:
    words = [f"`{_shown(choice)}`" for choice in key.choices]
    if not words:
        words = [_in_words(option) for option in options_of(key.kind) if option is not NoneType]
    if key.of_items:
        words = [f"list of {', '.join(f'`{each}`' for each in key.of_items)}"]
    bounds = {"at least": key.bounds.least, "greater than": key.bounds.above, "less than": key.bounds.below}
    told = " and ".join(f"{word} {bound:.12g}" for word, bound in bounds.items() if abs(bound) != float("inf"))
    nullable = ", or `null`" if NoneType in options_of(key.kind) else ""
    return f"{' or '.join(words)}{f', {told}' if told else ''}{nullable}"


def _in_words(kind: Any) -> str:
    if get_origin(kind) is list:
        return f"list of {'mappings' if section_of(kind) else _in_words(get_args(kind)[0])}"
    return "mapping" if get_origin(kind) is dict or section_of(kind) else _WORDS[kind]


def _default(key: Key) -> str:
    return "must be given" if key.default == "???" else f"`{_shown(key.default)}`".replace("|", "\\|")


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]" if len(value) <= LISTED else f"a list of {len(value)}"
    return {None: "null", True: "true", False: "false"}.get(value, str(value)) if not isinstance(value, dict) else "{}"


def _prose(text: str) -> str:
    """A comment as Markdown: no character of it is markup, but for code between backticks."""
    pieces = text.split("`")
    plain = [_plain(piece) if number % 2 == 0 else f"`{piece}`" for number, piece in enumerate(pieces)]
    return "".join(plain).replace("|", "\\|")


def _plain(text: str) -> str:
    for mark in "\\*_<>[]{}$":
        text = text.replace(mark, f"\\{mark}" if mark not in "<>" else {"<": "&lt;", ">": "&gt;"}[mark])
    return text


@dataclass(frozen=True)
class Rule:
    """A refusal: of which key, its words, with UNKNOWN where they depend on the configuration; of which loss alone."""

    key: str
    refusal: str
    loss: str = ""


def rules_page() -> str:
    """Every refusal that a configuration may meet before anything is submitted."""
    parts = [
        RULES_INTRODUCTION,
    ]
    for name, title in TITLES.items():
        parts += [f"## {title}", _rows(rules_of(f"launcher.planning.{name}"))]
    others = (rule for name in _other_modules() for rule in rules_of(name))
    parts += ["## What is found in files, on the Hub, on the cluster and on this machine", _rows(others)]
    return "\n\n".join(parts) + "\n"


def _rows(found: Iterable[Rule]) -> str:
    told = dict.fromkeys(rule for rule in found if any(map(str.isalpha, rule.refusal)))
    rows = [f"| {_code(rule.key)}{rule.loss and f' of {rule.loss}'} | {_prose(rule.refusal)} |" for rule in told]
    return "\n".join(["| key | refusal |", "|---|---|", *rows])


def _code(key: str) -> str:
    return f"`{key}`" if key.strip(f"{UNKNOWN}.") else "the key"


def _other_modules() -> list[str]:
    """The modules of the login node that refuse something, besides those of TITLES."""
    files = sorted((REPOSITORY / "launcher").rglob("*.py"))
    names = {".".join(file.relative_to(REPOSITORY).with_suffix("").parts): file for file in files}
    first = {f"launcher.planning.{name}" for name in TITLES}
    return [
        name
        for name, file in names.items()
        if "ConfigError(" in file.read_text(encoding="utf-8") and not name.startswith(LAST) and name not in first
    ]


def _of_tables(name: str) -> Iterator[Rule]:
    """What a table of a module refuses, value by value."""
    if name == loss_rules.__name__:
        for key, of_losses in loss_rules.RANGES.items():
            for loss, bounds in of_losses.items():
                yield Rule(key, str(bounds.problem(math.nan)), loss)
                yield from (Rule(f"{key}={value:g}", why, loss) for value, why in bounds.never.items())
    if name == trainer_rules.__name__:
        yield from (Rule(f"trainer.lr_scheduler={each}", why) for each, why in trainer_rules.SCHEDULES_REFUSED.items())
        yield from (Rule(f"trainer.optimizer={each}", why) for each, why in trainer_rules.OPTIMIZERS_REFUSED.items())


def rules_of(name: str) -> Iterator[Rule]:
    """The refusals that stand in a module, one for each key that a loop over a table gives."""
    yield from _of_tables(name)
    module = importlib.import_module(name)
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree))
    calls = [node for node in nodes if isinstance(node, ast.Call) and _called(node).endswith("ConfigError")]
    for function in nodes:
        if isinstance(function, ast.FunctionDef) and (inner := _within(function, calls)):
            given = {each.arg for each in ast.walk(function.args) if isinstance(each, ast.arg)}
            known = {each: value for each, value in vars(module).items() if each not in given}
            yield from (Rule(key, text) for key, text in _refusals(function.body, known, inner))


def _within(node: ast.stmt, calls: list[ast.Call]) -> list[ast.Call]:
    """Those of the calls that stand on the lines of a statement."""
    return [call for call in calls if node.lineno <= call.lineno <= (node.end_lineno or 0)]


def _refusals(body: list[ast.stmt], known: Mapping[str, Any], calls: list[ast.Call]) -> Iterator[tuple[str, str]]:
    """Of statements, with what is known of names there: constants of the module, of loops over tables, texts."""
    known = dict(known)
    for statement in body:
        if isinstance(statement, ast.Assign):
            known |= _assigned(statement.targets[0], statement.value, known)
        mine = _within(statement, calls)
        if not mine or isinstance(statement, ast.FunctionDef | ast.ClassDef):
            continue
        if isinstance(statement, ast.For):
            for bound in _bindings(statement, known):
                yield from _refusals(statement.body, {**known, **bound}, mine)
            continue
        blocks = [getattr(statement, name, None) or [] for name in ("body", "orelse", "finalbody")]
        blocks += [handler.body for handler in getattr(statement, "handlers", [])]
        inner = [call for block in blocks for child in block for call in _within(child, mine)]
        for call in mine:
            if call not in inner:
                told = _text(call.args[2], known) if len(call.args) == CONFIG_ERROR else UNKNOWN
                yield _text(call.args[0], known), told
        for block in blocks:
            yield from _refusals(block, known, mine)


def _assigned(target: ast.expr, value: ast.expr, known: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        pairs = zip(target.elts, value.elts, strict=True)
        return {name: text for each in pairs for name, text in _assigned(*each, known).items()}
    return {target.id: _Text(_text(value, known))} if isinstance(target, ast.Name) else {}


class _Text(str):
    """A text that was read, with UNKNOWN in it perhaps."""

    __slots__ = ()


def _bindings(loop: ast.For, known: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the names of a loop stand for, time after time; nothing is known of one that is over no table."""
    values = loop.iter.body if isinstance(loop.iter, ast.IfExp) else loop.iter
    names = [each.id for each in ast.walk(loop.target) if isinstance(each, ast.Name)]
    found = _value(values, known)
    if not isinstance(found, Collection) or isinstance(found, str):
        return [dict.fromkeys(names, _Text(UNKNOWN))]
    return [dict(zip(names, each if isinstance(loop.target, ast.Tuple) else (each,), strict=False)) for each in found]


def _text(node: ast.expr, known: Mapping[str, Any]) -> str:
    """What an expression says, as far as it can be read."""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part, known) for part in node.values)
    if isinstance(node, ast.BinOp):
        return _text(node.left, known) + _text(node.right, known)
    if isinstance(node, ast.IfExp):
        either = [_text(node.body, known), _text(node.orelse, known)]
        return " / ".join(dict.fromkeys(each for each in either if each)) or ""
    value = _value(ast.JoinedStr([node]) if isinstance(node, ast.FormattedValue) else node, known)
    return UNKNOWN if value is None or not isinstance(value, str | int | float) else str(value)


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)


def _value(node: ast.expr, known: Mapping[str, Any]) -> Any:
    """The value of an expression of our own source; None where it depends on a configuration, or calls for work."""
    if any(isinstance(each, ast.Call) and _called(each) not in HARMLESS for each in ast.walk(node)):
        return None
    try:
        return eval(compile(ast.fix_missing_locations(ast.Expression(node)), "rules", "eval"), {**known})  # noqa: S307
    except Exception:  # noqa: BLE001 - whatever it lacks, it is not known
        return None


def commands_page() -> str:
    """The launch and every verb, as `--help` prints it."""
    os.environ["COLUMNS"] = "100"
    parts = [
        "# Every command",
        "`prefsweep` and `python -m launcher` are one program. This page is made from what `--help` prints.",
        "## A launch",
        _fenced(launch_parser().format_help()),
    ]
    for verb in VERBS:
        parts += [f"## {verb}", _fenced(verb_parser(verb).format_help())]
    from analysis.__main__ import _parser

    return "\n\n".join([*parts, "## python -m analysis", _fenced(_parser().format_help())]) + "\n"


def files_page() -> str:
    """The files of conf/ and sweeps/, as they are."""
    parts = ["# Every file of conf and sweeps", "The files that come with prefsweep, with what each says of itself."]
    for group in ("", *GROUPS, "preset"):
        parts.append(f"## conf{f'/{group}' if group else ''}")
        parts += [
            _file(REPOSITORY / "conf" / group / f"{name}.yaml") for name in (choices_of(group) if group else ["config"])
        ]
    parts.append("## sweeps")
    parts += [_file(file) for file in sorted((REPOSITORY / "sweeps").glob("*.yaml"))]
    return "\n\n".join(parts) + "\n"


def _file(file: Path) -> str:
    name = str(file.relative_to(REPOSITORY))
    text = file.read_text(encoding="utf-8")
    header = comments_in(text).header
    return f'??? note "`{name}`: {_title(header)}"\n\n' + _indented(f"```yaml\n{text}```")


def _title(header: str) -> str:
    sentence = header.partition(". ")[0].rstrip(".")
    return sentence.replace('"', "'")


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" if line else "" for line in text.splitlines())


def _fenced(text: str) -> str:
    return f"```text\n{text.rstrip()}\n```"


PAGES = {"reference/keys.md": keys_page, "reference/rules.md": rules_page, "reference/commands.md": commands_page}
OF_THE_SITE = {"reference/files.md": files_page}  # the repository has the files themselves


if __name__ == "__main__":
    for place, page in PAGES.items():
        (REPOSITORY / "docs" / place).write_text(page(), encoding="utf-8")
