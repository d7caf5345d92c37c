"""A model's chat template, as far as the login node can know it.

Owns: where it lies in a folder; that of a model that is made on the spot.
Must not know: what a template shows, tokenizers, the Hub.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from launcher.config import Model
from launcher.machine.locate import place_of
from launcher.model.files import TOKENIZER_CONFIG, has_tokenizer

CHAT_TEMPLATE = (  # of a model that is made on the spot
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class Template:
    """A chat template, or several by name; `text` is None where the tokenizer has none."""

    text: str | dict[str, str] | None


def template_here(model: Model) -> Template | None:
    """A model's chat template; None where only a job will know it: on the Hub, in a GGUF file, below an adapter."""
    if model.chat_template is not None:
        return Template(model.chat_template)
    if model.architecture is not None:
        return Template(CHAT_TEMPLATE)
    folder = place_of(model.path).path
    if model.gguf_file is not None or folder is None or not folder.is_dir():
        return None
    if not has_tokenizer([path.name for path in folder.iterdir()]):
        return None
    return Template(_template_in(folder))


def _template_in(folder: Path) -> str | dict[str, str] | None:
    """As transformers looks for it: a file of its own, which several beside it may join, else the configuration."""
    named = {path.stem: path.read_text(encoding="utf-8") for path in folder.glob("additional_chat_templates/*.jinja")}
    own = folder / "chat_template.jinja"
    if own.is_file():
        text = own.read_text(encoding="utf-8")
        return {"default": text, **named} if named else text
    try:
        said = json.loads((folder / TOKENIZER_CONFIG).read_text(encoding="utf-8")).get("chat_template")
    except (OSError, ValueError, AttributeError):
        return None
    return {each["name"]: each["template"] for each in said} if isinstance(said, list) else said
