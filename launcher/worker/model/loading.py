"""Whether a model's files had all of its weights: transformers only logs what it has drawn at random.

Owns: that check. Must not know: where the files lie.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from launcher.errors import UNSAID, ConfigError, listed

SHOWN = 3


def check_loaded(loading: Mapping[str, Any], where: str) -> None:
    """Look at the loading info of `from_pretrained(..., output_loading_info=True)`.

    Raises:
        ConfigError: a weight was missing, or had another shape than the configuration says.
    """
    missing = sorted(map(str, loading.get("missing_keys") or ()))
    mismatched = sorted(
        str(each[0] if isinstance(each, tuple) else each) for each in loading.get("mismatched_keys") or ()
    )
    for names, what in ((missing, "lacks"), (mismatched, "has in another shape")):
        if names:
            shown = listed(names, SHOWN)
            raise ConfigError(
                "model.path",
                UNSAID,
                f"{where} {what} weights that its config.json asks for ({shown}); they would be random",
            )
