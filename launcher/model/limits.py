"""What a model takes: how many tokens in a row, and which. By the files in its folder, without loading any of them.

Owns: these rules. Must not know: torch, what is trained on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from launcher.errors import ConfigError

POSITIONS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "n_ctx")
SHOWN = 3
# Tokenizers of these classes have no end token of their own accord; others may have one that no file names.
WITHOUT_DEFAULTS = ("PreTrainedTokenizerFast", "TokenizersBackend")


def check_length(config: Mapping[str, Any], key: str, length: int, whose: str) -> None:
    """Whether the model of this `config.json` takes so many tokens in a row; `whose` says of which model it is.

    Raises:
        ConfigError: it does not; names the key that asks for them, and the limit.
    """
    limit = positions_of(config)
    if limit is not None and length > limit[1]:
        raise ConfigError(
            key, length, f"above the {limit[1]} positions of {whose} ({limit[0]}); give at most {limit[1]}"
        )


def check_rows(config: Mapping[str, Any], tokens: Mapping[str, int], key: str, path: str | None) -> None:
    """Whether the model has an embedding of each of these tokens, by their ids.

    Raises:
        ConfigError: it has none; names the tokens and the limit.
    """
    rows = rows_of(config)
    beyond = {token: number for token, number in tokens.items() if rows is not None and number >= rows}
    if beyond:
        shown = ", ".join(f"{token!r} is {number}" for token, number in list(beyond.items())[:SHOWN])
        raise ConfigError(
            key,
            path,
            f"its tokenizer goes beyond the {rows} rows of its embedding ({shown}; vocab_size in its config.json); "
            "resize the embedding with resize_token_embeddings, or take these tokens out",
        )


def no_end(key: str, path: str | None) -> ConfigError:
    """That a tokenizer has no end token."""
    return ConfigError(key, path, "its tokenizer has no end token; name one as eos_token in its tokenizer_config.json")


def positions_of(config: Mapping[str, Any]) -> tuple[str, int] | None:
    """The key of a `config.json` that limits the number of tokens, and that number; None where nothing does.

    Where rotary positions are scaled, by the factor more: some models name the length before, others that after.
    """
    text = config.get("text_config") or config
    attention = text.get("attn_config") or {}
    if text.get("alibi") or text.get("position_embedding_type") == "alibi" or attention.get("alibi"):
        return None
    key = next((key for key in POSITIONS if isinstance(text.get(key), int) and text[key] > 0), None)
    if key is None:
        return None
    return key, max([text[key], *(int(_scaled(each, text[key])) for each in _scalings(text))])


def _scalings(text: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """How rotary positions are scaled; newer files say it for each kind of layer."""
    for name in ("rope_scaling", "rope_parameters"):
        given = text.get(name)
        if isinstance(given, Mapping):
            yield given
            yield from (each for each in given.values() if isinstance(each, Mapping))


def _scaled(scaling: Mapping[str, Any], length: int) -> float:
    factor = scaling.get("factor")
    kind = scaling.get("rope_type") or scaling.get("type")
    if not isinstance(factor, int | float) or kind in (None, "default", "llama3", "longrope", "su"):
        return length  # of these the length is that after
    original = scaling.get("original_max_position_embeddings")
    return factor * (original if isinstance(original, int) else length)


def rows_of(config: Mapping[str, Any]) -> int | None:
    """How many tokens a model of this `config.json` has an embedding of."""
    rows = (config.get("text_config") or config).get("vocab_size")
    return rows if isinstance(rows, int) else None


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's `config.json`; empty where there is none that can be read."""
    return _read(folder / "config.json")


def added_tokens(folder: Path) -> dict[str, int]:
    """The tokens, and their ids, that its tokenizer has beside its vocabulary, such as those for padding and ends."""
    listed = _read(folder / "tokenizer.json").get("added_tokens") or []
    found = {str(each.get("content")): each.get("id") for each in listed if isinstance(each, Mapping)}
    return {token: number for token, number in found.items() if isinstance(number, int)}


def lacks_end(folder: Path) -> bool:
    """Whether its tokenizer certainly has no end token."""
    said = _read(folder / "tokenizer_config.json")
    named = said.get("eos_token") or _read(folder / "special_tokens_map.json").get("eos_token")
    return not named and said.get("tokenizer_class") in WITHOUT_DEFAULTS


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
