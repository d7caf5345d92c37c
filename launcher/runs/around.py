"""What is looked at once for many runs: the batches of their output folders, and the lists of what their jobs make.

Owns: which batches there are, which of their lists cannot be read. Must not know: schedulers, what follows from a list.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from launcher.runs.copies import original_of
from launcher.runs.lost_records import Listed
from launcher.runs.unreadable import Reading
from launcher.store.attempts import Attempts
from launcher.store.facts import Job, JobList
from launcher.store.output_folder import folders_in
from launcher.store.run_folder import RunDir
from launcher.store.work_list import works_of


@dataclass(frozen=True)
class Around:
    """What lies around runs, each file read once.

    Attributes:
        listed: by run id, the attempts that the lists name; not those of copies.
        copied: by its folder, the original output folder of each batch that is a copy.
        faults: what is wrong with the lists that cannot be read, and with the folders where they lie, a line for each:
            as long as all attempts have their records, nobody misses them.
        batches: the jobs of each batch, as they were read first.
        looks: the attempts at each run, as first looked at; None: none is kept, as thousands need much memory.
    """

    listed: Mapping[str, Sequence[Listed]]
    copied: Mapping[Path, Path]
    faults: Sequence[str]
    batches: dict[str, list[Job] | None] = field(default_factory=dict)
    looks: dict[Path, Attempts] | None = None

    @classmethod
    def of(cls, runs: Iterable[RunDir], *, keeps: bool = False) -> Around:
        """What lies around these runs; `keeps`: also the look at each, for those who come after."""
        read = Reading()
        roots = dict.fromkeys(run.path.parent.parent for run in runs)
        batches = [batch for root in roots for batch in _batches_in(root, read)]
        copied = {batch: original for batch in batches if (original := original_of(batch))}
        listed: dict[str, list[Listed]] = {}
        for batch in (each for each in batches if each not in copied):
            for run_id, each in read(partial(_listed_in, batch)) or ():
                listed.setdefault(run_id, []).append(each)
        return cls(listed, copied, list(read.faults), looks={} if keeps else None)

    def look(self, run: RunDir) -> Attempts:
        """The attempts at a run from one listing of each of its folders."""
        if self.looks is None:
            return Attempts.of(run.at_a_look(self.batches))
        if run.path not in self.looks:
            self.looks[run.path] = Attempts.of(run.at_a_look(self.batches))
        return self.looks[run.path]


def _batches_in(root: Path, read: Reading) -> Iterator[Path]:
    for sweep in read(partial(folders_in, root / "sweeps")) or ():
        yield from read(partial(folders_in, sweep / "jobs")) or ()


def _listed_in(batch: Path) -> list[tuple[str, Listed]]:
    """The attempts of a batch, each with its run's id."""
    works = enumerate(works_of(batch) or ())
    paths = [(index, path) for index, work in works if isinstance(work, JobList) for path in work.attempts]
    split = [(index, path.split("/")[-3:]) for index, path in paths]
    return [(parts[0], Listed(parts[2], batch, index)) for index, parts in split if len(parts) == 3]  # noqa: PLR2004 - run, attempts, name
