"""What `datasets` has prepared on this machine of a data set on the Hub, which is not asked since it is slow to import.

Owns: where it keeps the rows of a commit, whether all of them are there.
Must not know: how rows are prepared, when they are wanted.

    <HF_DATASETS_CACHE>/ORG___NAME/<configuration>/<version>/<commit>/dataset_info.json, and a table or several a split
"""

from __future__ import annotations

import glob
import json
import os
from pathlib import Path
from typing import Any


def prepared_folders(commit: str, config: str | None) -> list[Path]:
    """The folders with rows of a commit, of one configuration or of any, be they whole or not."""
    from huggingface_hub import constants

    cache = Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets").expanduser()
    found = cache.glob(f"*___*/{'*' if config is None else glob.escape(config)}/*/{commit}/dataset_info.json")
    return sorted(info.parent for info in found)


def lost_tables(folder: Path) -> list[str]:
    """The tables that a folder has lost since it was prepared."""
    splits = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8")).get("splits") or {}
    return [name for split in splits.values() for name in _tables(split) if not (folder / name).is_file()]


def _tables(split: dict[str, Any]) -> list[str]:
    """The files that `datasets` writes of a split."""
    named, shards = f"{split['dataset_name']}-{split['name']}", len(split.get("shard_lengths") or [])
    return [f"{named}-{n:05d}-of-{shards:05d}.arrow" for n in range(shards)] if shards > 1 else [f"{named}.arrow"]
