"""python tests/gpu: what only a GPU can show, on a machine with one of NVIDIA's and no network.

Owns: the command line, the order of the parts, the exit code. Must not know: what a part does.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import platform
import shutil
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(folder) for folder in (HERE, HERE.parent, HERE.parent.parent)]

DESCRIPTION = """\
Check on one GPU, and measure, what a CPU cannot show.

  kernels        each kernel of packed attention in bfloat16 and float32, beside TRL's padded forward
  sweep          six runs by the product itself: packed, evaluated, published to a folder
  speed          the step of a 1B Llama beside TRL's own, in turn: seconds, tokens/s, memory, share of the chip's peak
  interruption   SIGTERM, and the signal before a time limit; the weights of a run that was left in peace, bit for bit
  divided        ZeRO-3, and NCCL, with one rank
  memory         a run that fills the GPU's memory goes on with a smaller micro-batch

Each result is a line of JSON, at once. With `right`, it is a check; with `skipped`, it says why; else a measurement.
"""
EXAMPLES = """\
examples:
  python tests/gpu --out results.jsonl
  python tests/gpu --part kernels speed --budget 240
  python tests/gpu --device cpu --model tiny     all of it that has a meaning on a CPU, in about a minute

Exit codes: 0 all checks are right, 1 one is not, 2 the command was wrong or there is no GPU.
"""
PARTS = ("kernels", "sweep", "speed", "interruption", "divided", "memory")  # in the order of their worth
NEEDED = ("torch", "transformers", "trl", "datasets", "peft", "accelerate", "hydra", "msgspec", "omegaconf", "submitit",
          "filelock", "psutil", "rich", "tenacity", "xxhash")  # fmt: skip
TOLD = ("torch", "transformers", "trl", "peft", "accelerate", "deepspeed", "triton")
BUDGET = 460.0


def parser() -> argparse.ArgumentParser:
    """What the command may be given."""
    made = argparse.ArgumentParser(
        prog="python tests/gpu",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="default: cuda")
    made.add_argument("--model", choices=("real", "tiny"), default="real",
                      help="the sizes of real models, 135M and 1B, or tiny ones (default: real)")  # fmt: skip
    made.add_argument("--part", choices=PARTS, nargs="+", default=PARTS, metavar="NAME", help="only these parts")
    made.add_argument("--budget", type=float, default=BUDGET, metavar="SECONDS",
                      help=f"what would take longer is skipped, and that is said (default: {BUDGET:.0f})")  # fmt: skip
    made.add_argument("--out", type=Path, metavar="FILE", help="gets each line as well")
    return made


def why_not_here(device: str) -> str | None:
    """Why nothing can be run here, in words."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        return f"{sys.executable} lacks {', '.join(missing)}; pip install 'prefsweep[train]', or give another PYTHON"
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        return "torch sees no GPU here; --device cpu --model tiny goes through what a CPU can show"
    return None


def main() -> int:
    """Run the command; returns its exit code."""
    options = parser().parse_args()
    for name in [name for name in os.environ if name.startswith(("SLURM_", "SUBMITIT_"))]:
        del os.environ[name]  # SLURM may have lent the machine: what runs here is no task of its
    if options.device == "cuda":
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # one of several is enough
    if (why := why_not_here(options.device)) is not None:
        sys.stderr.write(f"{why}\n")
        return 2
    folder = Path(tempfile.mkdtemp(prefix="gpu-"))
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PREFSWEEP_CACHE": str(folder / "user")}
    import torch
    from machine import Machine
    from results import Results

    results = Results(options.out, options.budget)
    machine = Machine(torch.device(options.device), options.model == "tiny", folder)
    with contextlib.redirect_stdout(sys.stderr):  # what the product says
        results.part = "all"
        results.say("machine", chip=machine.name, python=platform.python_version(), **versions())
        for part in PARTS:
            if part in options.part:
                results.part = part
                importlib.import_module(f"part_{part}").run(machine, results)
                machine.empty()
    if results.failed:
        sys.stderr.write(f"all of it is kept in {folder}\n")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return results.conclude()


def versions() -> dict[str, str | None]:
    """Of the libraries that matter; None: it is not installed."""
    found: dict[str, str | None] = {}
    for name in TOLD:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


if __name__ == "__main__":
    sys.exit(main())
