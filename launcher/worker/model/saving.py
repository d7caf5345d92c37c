"""A model written into a folder by this process alone.

Owns: that it is written whichever rank this is. Must not know: what the model is, whose folder that is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel


def save(module: PreTrainedModel, folder: Path) -> None:
    """Write the configuration and the weights of a module, which belongs to no training, into a folder.

    Of several ranks transformers lets the first alone write, and the others write nothing, in silence. In the cache
    whichever rank comes first makes an entry, and the others wait for it.
    """
    alone: Any = module
    alone.should_save_on_this_rank = lambda is_main_process: is_main_process
    module.save_pretrained(folder)
