"""`model/.trained.json`: which run's model it is, of which step, and what its files held when it was written.

Owns: that file, and whether a model is what was written. Must not know: what a model is made of, who asks.

A restore by hand may put a model into another run's folder, a disk or a copy may change one, and what was measured or
published of it would be taken for the run's. The checksums of the final model stand in `result.json` too: files that
are copied by name leave a hidden one behind. A folder that neither tells of is an older version's, or a copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from launcher.errors import StoreError, listed
from launcher.store.checksums import checksums
from launcher.store.files import read_fact, write_once
from launcher.store.names import milestone_in
from launcher.store.results import Result
from launcher.store.run_folder import RunDir, name_of

_NAME = ".trained.json"
WEIGHTS = ".safetensors"
SHOWN = 3  # faults


@dataclass(frozen=True)
class Trained:
    """`.trained.json`.

    Attributes:
        model: RUN or RUN@STEP.
        files: their sizes in bytes, by name; none where an older version wrote them.
        sums: their checksums (xxh3_128), by name.
    """

    model: str
    files: dict[str, int] = field(default_factory=dict)
    sums: dict[str, str] = field(default_factory=dict)


def mark(
    folder: Path, run: RunDir, names: Iterable[str] = (), known: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Note in a model's folder that it is this run's, or milestone's, and what the files of these names hold.

    Args:
        folder: where they are.
        run: whose model it is to be.
        names: of the files that make it.
        known: their checksums, where they were made before.

    Returns:
        Their checksums.

    Raises:
        OSError: one cannot be read.
    """
    names = list(names)
    sums = checksums(folder, names) if known is None else {name: known[name] for name in names if name in known}
    write_once(folder / _NAME, Trained(model_name(run), {name: (folder / name).stat().st_size for name in names}, sums))
    return sums


def other_owner(run: RunDir) -> str | None:
    """RUN or RUN@STEP of whom the model of a run, or milestone, says that it is, where that is another."""
    trained = read_fact(run.model / _NAME, Trained)
    return None if trained is None or trained.model == model_name(run) else trained.model


def whole_run(run: RunDir) -> RunDir:
    """The run itself, of a milestone of one too."""
    step, whole = milestone_in(run.path.name), RunDir(run.path.parents[1])
    return run if step is None or whole.milestone(step) != run else whole


def model_name(run: RunDir) -> str:
    """RUN or RUN@STEP of a run, or milestone of one."""
    whole = whole_run(run)
    return run.run_id if whole == run else name_of(whole.run_id, milestone_in(run.path.name))


def check(run: RunDir) -> None:
    """Look whether the model in a run's folder is its own, by what that says.

    Raises:
        StoreError: it says that it is another's.
    """
    if whose := other_owner(run):
        raise StoreError(f"{run.model} is the model of {whose}, not of {model_name(run)}; {_remedy(run)}")


def verify(run: RunDir, published: Path | None = None) -> None:
    """Read a run's model before it is used: whether it is its own, as it was written.

    `published`: the folder of its revision, where that stands in for it: there an adapter's configuration is another.

    Raises:
        StoreError: it is another's, or was changed since; of one of an older version nothing is known.
        OSError: it cannot be read.
    """
    folder = published or run.model
    check(run)
    trained, result = read_fact(folder / _NAME, Trained), read_fact(run.result_file, Result)
    sizes, sums = (trained.files, trained.sums) if trained else ({}, {})
    sums = sums or (result and result.sums) or {}
    if published is not None:
        sums = _of_weights(sums)
    if faults := _faults(folder, sizes, sums):
        raise StoreError(f"{folder}: {listed(faults, SHOWN)}; {_remedy(run)}")


def verify_start(folder: Path) -> None:
    """Read the weights in a folder that a training starts from, where a run has left them: whether they are those.

    Raises:
        StoreError: they were changed since.
        OSError: they cannot be read.
    """
    trained = read_fact(folder / _NAME, Trained)
    if trained is not None and (faults := _faults(folder, {}, _of_weights(trained.sums))):
        remedy = f"put back what {trained.model} has left there, or remove {_NAME} there where it is to be so"
        raise StoreError(f"{folder}: {listed(faults, SHOWN)}; {remedy}")


def _of_weights(sums: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in sums.items() if name.endswith(WEIGHTS)}


def _faults(folder: Path, sizes: Mapping[str, int], sums: Mapping[str, str]) -> list[str]:
    """What of a model is not as it was written, in words; its size tells more of what was cut, and at once."""
    named = {name: folder / name for name in {**sizes, **sums}}
    faults = {name: f"{name} is gone" for name, path in named.items() if not path.is_file()}
    found = {name: named[name].stat().st_size for name in sizes if name not in faults}
    faults |= {n: f"{n} has {now} bytes, and had {sizes[n]}" for n, now in found.items() if now != sizes[n]}
    whole = [name for name in sums if name not in faults]
    now = checksums(folder, whole)
    return [*faults.values(), *(f"{n} has other content than was written" for n in whole if now[n] != sums[n])]


def _remedy(run: RunDir) -> str:
    return f"put its own there, or remove the run's {run.result_file.name} to train it again"
