"""One override of the command line or a sweep file: Hydra's grammar, and what we add to it.

Owns: what an override says, whether it picks a file of `conf/`, its shorthands (a Hub id, a folder, a template's file).
Must not know: how several make a grid, how a config is composed of them. Writes nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import HydraException

from launcher.config import PRESET, canonical
from launcher.errors import UNSAID, ConfigError, UsageError, near_choice
from launcher.losses import ALIASES, PLUS
from launcher.machine.locate import place_of, split_revision
from launcher.planning.as_typed import read_override
from launcher.planning.conf_places import choices, conf_dirs, is_group, looked_in
from launcher.planning.kinds import wanted_of
from launcher.planning.names import name_of

Overrides = tuple[str, ...]
SHORTHANDS = ("model", "dataset")  # groups whose value may be a Hub id or a folder
BLANK = {"custom", "mixture", "weak_rejects"}  # files of conf/ that say nothing until the user does
# What is a file elsewhere, and several keys here.
_INSTEAD = {("trainer", "qlora"): "; QLoRA is trainer=lora model.quantization=4bit"}
SPELT = {"loss.lambda": "loss.lam"}  # lambda is a word of Python's own
TEMPLATE = "model.chat_template"
MIXTURE = "dataset.mixture"
JUDGE = "evaluation.judge"
_NUMBER = re.compile(r"([A-Za-z_]\w*(?:\.\w+)*)=(0|[1-9]\d{0,14}|(?:0|[1-9]\d{0,2})\.\d{1,12})")
SECRETS = ("base_url", "key_env")  # of the judge, which may hold a key by mistake; errors do not repeat them


def is_unicode(text: str) -> bool:
    """Whether a text of the command line is one: Python has other bytes as halves of pairs."""
    return not re.search("[\ud800-\udfff]", text)


@cache
def parse(override: str) -> Override:
    """The override as Hydra reads it.

    Raises:
        UsageError: it is not in Hydra's grammar, or no file could hold it.
    """
    override = override.removeprefix("+") if override.startswith(f"+{PRESET}=") else override
    if (number := _NUMBER.fullmatch(override)) and (parsed := _of_number(*number.groups())) is not None:
        return parsed
    if not is_unicode(override):
        raise wrong(
            override, "holds bytes that are no UTF-8, which no file of a run can name; rename what is called so"
        )
    try:
        parsed = read_override(override)
    except HydraException as error:
        key, _, value = override.partition("=")
        if may_be_secret(key.lstrip("+~"), value):  # of which Hydra's words may hold a part
            raise wrong(override, "not a valid override, expected key=value") from None
        why = re.sub(r" expecting \{.*", "", first_line(error))
        is_text = "token recognition" in why or "'['" in why
        hint = """; quote such a value: key="'value'\"""" if is_text else ""
        raise wrong(override, f"not a valid override, expected key=value ({why}{hint})") from error
    if problem := _problem(parsed):
        raise wrong(parsed, problem)
    return parsed


def _of_number(key: str, text: str) -> Override | None:
    """What the grammar makes of a plain number, of which a grid may have thousands; None where the key takes text."""
    of = float if "." in text else int
    like = _like(f"{key}={of(0)}")
    same = like is not None and type(like.value()) is of
    return replace(like, _value=of(text), input_line=f"{key}={text}") if like is not None and same else None


@cache
def _like(override: str) -> Override | None:
    """The override, where there is nothing to say against it."""
    try:
        parsed = read_override(override)
    except HydraException:
        return None
    return None if _problem(parsed) else parsed


def wrong(override: Override | str, remedy: str) -> UsageError:
    """What is wrong with an override, said of its key with the value as typed; of the whole where it has no key."""
    text = override if isinstance(override, str) else override.input_line or ""
    key, sign, value = text.partition("=")
    if not key or not (sign or key.startswith("~")):
        return UsageError(f"{text}: {remedy}")
    return ConfigError(key, value if sign and not may_be_secret(key.lstrip("+~"), value) else UNSAID, remedy)


def may_be_secret(key: str, value: str) -> bool:
    """Whether a value may be the judge's key: given for it, within its section, or under a name that is not there."""
    if key.rpartition(".")[2] in SECRETS:  # also of a section that is misspelt
        return True
    if key.startswith(f"{JUDGE}."):
        return wanted_of(key) is None
    return value.startswith("{") and JUDGE.startswith(key)


def _problem(override: Override) -> str | None:
    """What is in Hydra's grammar, and means nothing here."""
    key = override.key_or_group
    if not key:
        return "not a valid override, expected key=value"
    if override.is_hydra_override():
        return _in_place_of_hydra(key)
    if override.is_delete() and "." not in key and wanted_of(key) is not None:
        return f"every run has {key}; give {key}=..."
    return None


# What we have in place of Hydra's own settings; the first beginning that fits holds.
_FOR_HYDRA = {
    "hydra.run": "where runs lie is output_dir=FOLDER",
    "hydra.sweep.": "where runs lie is output_dir=FOLDER",
    "hydra.output_subdir": "where runs lie is output_dir=FOLDER",
    "hydra/launcher": "where jobs go is cluster=slurm or cluster=local, with cluster.KEY=VALUE",
    "hydra.launcher": "where jobs go is cluster=slurm or cluster=local, with cluster.KEY=VALUE",
    "hydra/sweeper": "an axis is KEY=A,B with -m, or a file, +sweeps=NAME",
    "hydra.sweeper": "an axis is KEY=A,B with -m, or a file, +sweeps=NAME",
    "hydra.mode": "several values of a key need -m",
    "hydra.searchpath": "files of your own are found by --config-dir FOLDER, in ./conf, or in $PREFSWEEP_CONF",
    "hydra.job.env": "what a job needs before it starts is cluster.setup=[LINE, ...]",
    "hydra.job.chdir": "a job's folder is its own; where runs lie is output_dir=FOLDER",
    "hydra.job.name": "a sweep's name is sweep=NAME, what its jobs' names begin with cluster.job_name",
    "hydra.job.config_name": "another file to begin with is --config-name NAME",
    "hydra": "what runs print is shown by the verb logs, what they log by tracking=NAME",
}


def _in_place_of_hydra(key: str) -> str:
    instead = next(told for beginning, told in _FOR_HYDRA.items() if key.startswith(beginning))
    return f"Hydra's own settings have no effect here: {instead}; leave it out"


def options(group: str) -> frozenset[str]:
    """The names of a group's files in `conf/`."""
    return _options(group, conf_dirs())


@cache
def _options(group: str, _places: tuple[Path, ...]) -> frozenset[str]:
    return choices(group)


def examples(group: str) -> frozenset[str]:
    """Those that are to be completed by the user, as they are named: no axis over the whole group has them."""
    return frozenset(f"examples/{name}" for name in options(f"{group}/examples"))


def chooses_group(override: Override) -> bool:
    """Whether an override picks a file of conf/ rather than setting a value (Hydra's own rule)."""
    return _is_group(override.key_or_group, conf_dirs()) and not isinstance(override.value(), dict)


@cache
def _is_group(key: str, _places: tuple[Path, ...]) -> bool:
    return is_group(key)


def check_choice(override: Override) -> None:
    """Check that an override which picks files of `conf/` names some that are there.

    Raises:
        ConfigError: it does not.
    """
    group, value = override.key_or_group, override.value()
    if override.package is None and (override.is_add() or override.is_force_add()):
        raise wrong(override, f"{group} is there; leave out the +")
    if group == PRESET and (override.package is not None or isinstance(value, list)):
        raise wrong(override, f"give one, +{PRESET}=NAME; with commas between several and -m they are an axis")
    for name in value if isinstance(value, list) else [value]:
        if name not in options(group) | examples(group):
            are_meant = str(name).startswith("examples/") and examples(group)
            known = sorted(examples(group) if are_meant else options(group) - {"custom"})
            also = ", ORG/NAME@REVISION or ./FOLDER" if group in SHORTHANDS else ""
            near = _INSTEAD.get((group, str(name))) or near_choice(name, known)
            looked = looked_in(conf_dirs(), group)
            there = f"no such file in conf/{group}{near}; there are: {', '.join(known)}{also}{looked}"
            raise wrong(override, there)


def meaning(override: str) -> tuple[str, str]:
    """Key and value of an override, the same for every way to write a number."""
    parsed = parse(override)
    return parsed.key_or_group, json.dumps(_whole(canonical(parsed.value())), default=str)


def _whole(value: Any) -> Any:
    """The value with 1 for 1.0."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    return [_whole(item) for item in value] if isinstance(value, list) else value


def expand(override: str) -> Overrides:
    """`model=ORG/NAME@REVISION` or `model=./FOLDER` -> the overrides of conf/model/custom.yaml that say so.

    `model.chat_template=FILE.jinja` -> its text, so that a run is known by what the template says.
    `loss_type=dpo` -> `loss_type=sigmoid`, which is the same run.
    `dataset.mixture=[{path:./FOLDER}]` -> with the folder's absolute path.
    """
    key = override.partition("=")[0]
    if key.lstrip("+") == MIXTURE:
        return (_with_places(override),)
    if key == TEMPLATE:
        return (_with_template(override),)
    if (loss := aliased(override)) is not None:
        return (f"{key}={loss}",)
    value = parse(override).value() if key in SHORTHANDS else None
    if not isinstance(value, str) or not re.search(r"[/@]", value) or value in options(key):
        return (override,)
    path, revision = _located(override, value)
    name = name_of(Path(path).name)
    if not name:
        raise wrong(override, f"is neither a file of conf/{key}, nor ORG/NAME@REVISION, nor a folder")
    values = {"name": name, "path": path, "revision": revision or None}
    return (f"{key}=custom", *(f"{key}.{part}={as_text(value)}" for part, value in values.items()))


def aliased(override: str) -> str | None:
    """The loss that an override means by another of its names; None where it names none, or by its own."""
    value = parse(override).value() if override.partition("=")[0] == "loss_type" else None
    if not isinstance(value, str):
        return None
    own = PLUS.join(ALIASES.get(part, part) for part in value.split(PLUS))
    return own if own != value else None


def _located(override: str, value: str) -> tuple[str, str]:
    """Path and revision of a shorthand's value: a folder's absolute path, or a name on the Hub as it stands.

    Raises:
        ConfigError: it may be either, or a folder is given a revision.
    """
    whole = place_of(value).path
    if whole is not None and whole.exists():
        return str(whole.resolve()), ""  # a run must not depend on where it was launched from
    path, revision = split_revision(value)
    place = place_of(path)
    if place.kind == "hub":
        if "@" not in value and Path(path).exists():
            raise wrong(
                override,
                f"is both a folder here and of the form of a name on the Hub; give ./{path} for the folder, "
                f"{path}@main for the Hub",
            )
        return path, revision
    if place.path is not None and place.path.exists():
        raise wrong(override, f"{path} is a folder, which has no revision {revision}; leave out @{revision}")
    return str(place.path.resolve()) if place.path is not None and place.is_relative else path, revision


def _with_template(override: str) -> str:
    value = str(parse(override).value())
    if not value.endswith((".jinja", ".jinja2")):
        return override
    try:
        return f"{TEMPLATE}={as_text(Path(value).expanduser().read_text(encoding='utf-8'))}"
    except (OSError, UnicodeDecodeError) as error:
        raise wrong(override, f"cannot be read ({error}); give a file with a chat template, or Jinja") from error


def _with_places(override: str) -> str:
    """A mixture whose parts on this machine have absolute paths; as it was typed where there is nothing to change."""
    value = parse(override).value()
    parts = value if isinstance(value, list) else []
    found = [_placed(override, part) if isinstance(part, dict) else part for part in parts]
    return f"{override.partition('=')[0]}={as_text(found)}" if found != parts else override


def _placed(override: str, part: dict[Any, Any]) -> dict[Any, Any]:
    return {key: _placed_path(override, value) if _word(key) == "path" else value for key, value in part.items()}


def _placed_path(override: str, value: Any) -> Any:
    path = _word(value)
    is_folder = isinstance(path, str) and "/" in path and place_of(path).is_relative  # .5 is a word
    return _located(override, path)[0] if is_folder else value


def _word(value: Any) -> Any:
    return value.text if isinstance(value, QuotedString) else value


def as_text(value: Any) -> str:
    """A YAML value as Hydra's grammar writes it."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_as_key(key)}:{as_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(as_text, value)) + "]"
    if isinstance(value, QuotedString):
        return quoted(value.text)
    text = str(value)
    plain = re.fullmatch(r"[\w./@+-]+", text, re.ASCII) or not isinstance(value, str)
    return text if plain and not (isinstance(value, str) and _is_no_text(text)) else quoted(text)


def _as_key(key: Any) -> str:
    """A mapping's key, which may not be quoted there."""
    text = key.text if isinstance(key, QuotedString) else str(key)
    return re.sub(r"([\\()\[\]{}:=, \t])", r"\\\1", text)


def quoted(text: str) -> str:
    """A text that Hydra's grammar takes for nothing else."""
    return "'" + re.sub(r"(\\*)('|\Z)", _escaped, text) + "'"


@cache
def _is_no_text(text: str) -> bool:
    """Whether Hydra's grammar would read these letters as a number or the like."""
    return not isinstance(read_override(f"key={text}").value(), str)


def _escaped(end: re.Match[str]) -> str:
    """In quotes Hydra takes backslashes as they are, but for those before a quote."""
    return end[1] * 2 + ("\\'" if end[2] else "")


def first_line(error: BaseException) -> str:
    """The beginning of a library's message, on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) or type(error).__name__
