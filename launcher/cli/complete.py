"""What may follow on a command line: verbs, options, groups, choices, keys, sweeps, runs. Asked at each press of TAB.

Owns: which candidates there are. Must not know: shells (`completion` does), what a word does.

It answers in a fraction of a second, so it imports neither Hydra nor a verb: options are read from the verbs' sources,
names from folders. What is wrong, or cannot be read, has no candidates.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from launcher.cli.arguments import VERBS
from launcher.machine.default_folder import default_output_dir

LAUNCH = "launch"
MODULES = {"list": "list_sweeps", "rm": "remove", "gc": "garbage", "du": "disk_use"}  # of verbs that are not called so
_OPTION = re.compile(r'add_argument\(\s*(?:"-\w+",\s*)?"(--[\w-]+)"([^)]*)')
_SHARED = {"sweep_arguments": "arguments", "chosen_arguments": "arguments", "deletion_arguments": "remove"}
_OF_SWEEPS = ("status", "cancel", "resume", "evaluate", "collect", "suggest", "dashboard", "fetch", "sync", "publish",
              "report", "du", "rm")  # fmt: skip
_OF_RUNS = ("cancel", "resume", "publish", "rm")  # their further words are runs of that sweep
_TAKE_OVERRIDES = ("fetch", "doctor", "resume", "evaluate")
_OF_FOLDERS = ("--output-dir", "--config-dir", "-cd", "--output")
_STATES = ("new", "pending", "running", "trained", "failed", "cancelled", "timeout", "lost", "unreadable")
_VALUES = {"--state": _STATES, "--hub": ("folder", "huggingface"), "--cfg": ("job", "hydra", "all"),
           "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")}  # fmt: skip


def words_of(line: str) -> list[str]:
    """The words after the program's name of a line up to the cursor; the last is being typed, and may be empty."""
    for closed in (line, line + "'", line + '"'):
        try:
            words = shlex.split(closed)
        except ValueError:
            continue
        return [*words[1:], *([""] if line[-1:].isspace() else [])]
    return line.split()[1:]


def candidates(words: Sequence[str]) -> list[str]:
    """What the last word may become, by name."""
    *before, word = words or [""]
    verb = before[0] if before else ""
    if not before:
        verbs = _starting(word, [LAUNCH, *VERBS])
        return verbs if word and verbs else _starting(word, [*verbs, *_of_launch(word)])
    found = _after(verb, before, word)
    return _starting(word, found)


def _after(verb: str, before: Sequence[str], word: str) -> Iterable[str]:
    last = before[-1]
    if last in _VALUES or last in _OF_FOLDERS:
        return _VALUES.get(last, ())  # folders the shell knows
    if verb not in VERBS:
        return _groups_and_keys() if last in ("-h", "--help") else _of_launch(word)
    return options_of(verb) if word.startswith("-") else _of_verb(verb, before, word)


def _of_verb(verb: str, before: Sequence[str], word: str) -> Iterable[str]:
    output, given = _output_dir(before), _given(verb, before[1:])
    found = list(_overrides(word)) if verb in _TAKE_OVERRIDES and (given or verb in ("fetch", "doctor")) else []
    if verb == "completion":
        return ("bash", "zsh", "fish")
    if verb == "schema":
        from launcher.planning.schema import KINDS

        return () if given else KINDS
    if verb in ("logs", "run"):
        return [f"{output}/runs/{run}" if verb == "run" else run for run in _runs(output)]
    if verb == "report" or (verb in _OF_SWEEPS and not given):
        return [*_names(output / "sweeps"), *found]
    if verb in _OF_RUNS and given:
        return [*_runs_of(output / "sweeps" / given[0], output), *found]
    return found


def _of_launch(word: str) -> Iterable[str]:
    return options_of(LAUNCH) if word.startswith("-") else _overrides(word)


def _starting(word: str, found: Iterable[str]) -> list[str]:
    return sorted({each for each in found if each.startswith(word)})


def _given(verb: str, words: Sequence[str]) -> list[str]:
    """The words that are neither options, nor their values, nor overrides."""
    of_options = {number + 1 for number, word in enumerate(words) if _options(verb).get(word)}
    plain = (word for number, word in enumerate(words) if number not in of_options)
    return [word for word in plain if not word.startswith("-") and "=" not in word]


def options_of(verb: str) -> list[str]:
    """The options that a verb takes."""
    return sorted(_options(verb))


@cache
def _options(verb: str) -> dict[str, bool]:
    """The options that a verb's source names, and those that it shares with others; whether each takes a value."""
    source = (Path(__file__).with_name(f"{MODULES.get(verb, verb)}.py")).read_text(encoding="utf-8")
    shared = [name for name in _SHARED if re.search(rf"\b{name}\b", source.replace(f"def {name}", ""))]
    parts = [source, *(_function(name) for name in shared)]
    found = {match[1]: "store_true" not in match[2] for part in parts for match in _OPTION.finditer(part)}
    return {**found, "--help": False, **({"--output-dir": True} if verb not in ("completion", "run") else {})}


def _function(name: str) -> str:
    source = Path(__file__).with_name(f"{_SHARED[name]}.py").read_text(encoding="utf-8")
    return source.partition(f"def {name}(")[2].partition("\ndef ")[0] + "\n"


def _overrides(word: str) -> Iterable[str]:
    """Overrides that a word may become: a group's choices after its `=`, also behind a comma; else keys."""
    from launcher.planning.conf_places import choices, groups, sweep_names

    key, sign, value = word.partition("=")
    if not sign:
        names = [f"{group}=" for group in groups() if group != "preset"]
        return [*names, "+sweeps=", "+preset=", *(f"{key}=" for key in _keys(word)), *_sections(word)]
    done, comma, _ = value.rpartition(",")
    group = key.lstrip("+")
    if key == "+sweeps":
        known: Iterable[str] = sweep_names()
    elif group in groups():
        known = choices(group)
    else:
        known = _losses() if key == "loss_type" else _written(key)
    return [f"{key}={done}{comma}{name}" for name in known]


def _losses() -> Iterable[str]:
    from launcher.losses import ALIASES, LOSSES
    from launcher.machine.installed import trl_losses

    return {*(loss.name for loss in LOSSES), *ALIASES, *trl_losses()}


def _written(key: str) -> Iterable[str]:
    """What a key may be besides what it is: only where that is one of two."""
    from launcher.planning.key_help import all_keys

    found = all_keys().get(key)
    return ("true", "false") if found is not None and found.value in ("true", "false") else ()


def _keys(word: str) -> Iterable[str]:
    """The keys that begin so, to the end of a section where the word is within one."""
    from launcher.planning.key_help import all_keys

    depth = word.count(".")
    return [name for name, key in all_keys().items() if name.count(".") == depth and key.value]


def _sections(word: str) -> Iterable[str]:
    from launcher.planning.key_help import all_keys

    depth = word.count(".")
    return {".".join(name.split(".")[: depth + 1]) + "." for name in all_keys() if name.count(".") > depth}


def _groups_and_keys() -> Iterable[str]:
    from launcher.planning.conf_places import groups
    from launcher.planning.key_help import all_keys

    return [*groups(), *all_keys()]


def _output_dir(before: Sequence[str]) -> Path:
    for number, each in enumerate(before):
        name, sign, value = each.partition("=")
        if name in ("--output-dir", "output_dir") and (sign or number + 1 < len(before)):
            return Path(value if sign else before[number + 1])
    return default_output_dir()


def _names(folder: Path) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if not name.startswith(".")]
    except OSError:
        return []


def _runs(output: Path) -> list[str]:
    return _names(output / "runs")


def _runs_of(sweep: Path, output: Path) -> list[str]:
    """The runs that the launches of a sweep name, by a look at their text: they may hold thousands."""
    there, found = set(_runs(output)), set[str]()
    for launch in _names(sweep / "launches"):
        try:
            text = (sweep / "launches" / launch).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        found.update(re.findall(r'"run_id": "([^"]+)"', text))
    return sorted(found & there)
