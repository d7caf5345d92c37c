"""An adapter as a starting point: what its adapter_config.json says.

Owns: which model an adapter belongs to, and whether it can be merged into that.
Must not know: torch, how it is merged, where a base model lies.

A policy that starts from supervised fine-tuning with adapters starts from base + adapter, merged. Left unmerged, TRL
would put its own fresh adapter in its place, and train from another model than the reference table was made with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import ConfigError

CONFIG_FILE = "adapter_config.json"
BASE_KEY = "base_model_name_or_path"  # in it
# Of peft's kinds, those that are no change of weights, so that there is nothing to merge.
UNMERGEABLE = frozenset({
    "PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "CPT", "XLORA",
})  # fmt: skip


@dataclass(frozen=True)
class Adapter:
    """Which model an adapter belongs to.

    Attributes:
        base: a Hub id, or the absolute path of a folder.
        revision: the base's revision on the Hub, where it was recorded.
    """

    base: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{self.base}@{self.revision}" if self.revision else self.base


def adapter_in(folder: Path, key: str = "model.path") -> Adapter | None:
    """The adapter that a folder holds; None where it holds none. `key` names the folder, for errors.

    Raises:
        ConfigError: its adapter_config.json cannot be read, or it cannot be merged.
    """
    file = folder / CONFIG_FILE
    if not file.is_file():
        return None
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(key, folder, f"{CONFIG_FILE} cannot be read ({error})") from error
    return adapter_of(text, key, str(folder))


def adapter_of(text: str, key: str, where: str) -> Adapter:
    """The adapter that the text of an adapter_config.json describes; `where` it lies and the key of that, for errors.

    Raises:
        ConfigError: it is not what peft writes, names no base model, or cannot be merged.
    """
    try:
        config = json.loads(text)
    except ValueError as error:
        raise ConfigError(key, where, f"{CONFIG_FILE} is not JSON ({error})") from error
    if not isinstance(config, Mapping):
        raise ConfigError(key, where, f"{CONFIG_FILE} holds no mapping")
    kind, base = str(config.get("peft_type")), config.get(BASE_KEY)
    if kind in UNMERGEABLE:
        raise ConfigError(
            key,
            where,
            f"is an adapter of peft_type {kind}, which changes no weights and cannot be merged; "
            "start from a model, or from an adapter such as LORA",
        )
    if not isinstance(base, str) or not base:
        raise ConfigError(
            key,
            where,
            f"{CONFIG_FILE} does not say which model the adapter belongs to; set {BASE_KEY} there",
        )
    revision = config.get("revision")
    if not isinstance(revision, str | None):
        raise ConfigError(key, where, f"revision={revision} in its {CONFIG_FILE} must be text, in quotes")
    return Adapter(base, revision or None)


def with_base(text: str, adapter: Adapter) -> str:
    """The text of an adapter_config.json, naming another model as that which the adapter belongs to."""
    named = {BASE_KEY: adapter.base, "revision": adapter.revision}
    return json.dumps({**json.loads(text), **named}, indent=2) + "\n"
