"""What the schema wants at each key, and so which words stay the text that was typed. Pure.

Owns: the way from a key down the dataclasses of `config`, and what is wanted there in words.
Must not know: the grammars in which values are typed (`as_typed` reads them), which values are right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from launcher.config import Cluster, Evaluation, RunConfig, Trainer

Option = bool | str | None  # of a batch system: true switches it on, false off, null takes it away; all else is text
# What OmegaConf would not let the schema itself say of these keys.
FINER: dict[tuple[type, str], Any] = {
    (Cluster, "extra"): dict[str, Option],
    (Evaluation, "cluster"): Cluster,
    (Trainer, "packed"): bool | str,
}
# Mappings whose keys are the user's, or of something that knows them itself; none needs Hydra's + for a new one.
FREE = (
    "cluster.extra", "evaluation.cluster", "deepspeed.config", "dataset.columns", "dataset.data_files",
    "dataset.weak_rejects.columns", "dataset.weak_rejects.data_files",
)  # fmt: skip
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


@cache
def kind_at(parts: Sequence[str]) -> Any:
    """The type of the value at a key, given part by part; None where the schema has no such key."""
    kind: Any = RunConfig
    for part in parts:
        kind = kind_below(kind, part)
    return kind


def kind_of(key: str) -> Any:
    """The same for a key in one piece, `trainer.lora.r`."""
    return kind_at(tuple(key.split(".")))


def kind_below(kind: Any, part: str) -> Any:
    """The type of what a mapping or a list of this type holds under a name, or a number."""
    for option in options_of(kind):
        if option is Any:
            return Any
        if is_dataclass(option):
            return FINER.get((option, part), get_type_hints(option).get(part))  # type: ignore[arg-type]
        if get_origin(option) is dict:
            return get_args(option)[1]
        if get_origin(option) is list and part.isdecimal():
            return get_args(option)[0]
    return None


def options_of(kind: Any) -> tuple[Any, ...]:
    """The types of which a value has one."""
    return get_args(kind) if isinstance(kind, UnionType) else (kind,)


def takes_text(kind: Any) -> bool:
    """Whether a word may stand for a value of this type: it is text, or a section, which has the names of files."""
    return any(option is str or is_dataclass(option) for option in options_of(kind))


def is_text(kind: Any) -> bool:
    """Whether a value of this type may be any text."""
    return str in options_of(kind)


def stays_text(read_as: type, kind: Any) -> bool:
    """Whether a word stays text though a grammar would read it as of another type: where text is wanted, not that."""
    return takes_text(kind) and read_as not in options_of(kind)


def is_free(key: str) -> bool:
    """Whether a key is the user's own, below one of the mappings that are."""
    return any(key.startswith(f"{mapping}.") for mapping in FREE)


def wanted_of(key: str) -> str | None:
    """What the schema wants as the value of a key, in words; None where it has no such key."""
    kind = kind_of(key)
    if kind is None:
        return None
    in_words = [_in_words(option) for option in options_of(kind) if option is not NoneType]
    return " or ".join(in_words) + (", or null" if NoneType in options_of(kind) else "")


def names_below(key: str) -> list[str]:
    """The keys of a section; none where it is no section."""
    return [each.name for kind in options_of(kind_of(key)) if is_dataclass(kind) for each in fields(kind)]


def _in_words(kind: Any) -> str:
    if get_origin(kind) is list:
        return f"a list, each {_in_words(get_args(kind)[0])}"
    if is_dataclass(kind):
        return f"a mapping of {', '.join(get_type_hints(kind))}"
    return _WORDS.get(kind, "a mapping {key:value}")
