"""python tests/faults: real sweeps on a real SLURM, with faults injected in the order of a seed.

Owns: the command line and its exit code. Must not know: any fault.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from random import Random

sys.path[1:1] = [str(Path(__file__).parent.parent), str(Path(__file__).parent.parent.parent)]

import conftest  # noqa: E402 - found by the line above, as are all of tests/
import kinds  # noqa: E402
import truth  # noqa: E402
from harness import Broken, Harness  # noqa: E402
from journal import Journal  # noqa: E402
from scenes import SHAPES, Length  # noqa: E402
from slurm_cluster import why_not_here  # noqa: E402
from world import opened  # noqa: E402

DESCRIPTION = """\
Inject faults into real sweeps on a SLURM of this machine, and check that nothing is lost, doubled or wrong in silence.

Sweeps of tiny models run one beside the other: single runs, runs of two ranks under ZeRO-3, packed ones that publish to
a Hub on loopback, and some on the local executor. Kinds of faults, their targets and their moments are drawn from the
seed; the moments depend on the machine too, so that a replay is alike and not the same to the millisecond. All that is
done for a sweep is to launch it again when nothing of it is in flight, and what prefsweep itself says has to be done.
In the end all runs must be trained, with the weights of a sweep that was left in peace, bit for bit.
"""
EXAMPLES = """\
examples:
  python tests/faults --seed 1 --faults 200          about 25 minutes on two cores
  python tests/faults --seed 1 --faults 20 --only squeue 'rank gets'
  python tests/faults --list

The folder of a run that broke an invariant stays: faults.log, findings.log, the output folders, SLURM's logs. Exit
codes: 0 every invariant holds, 1 one is broken, 2 the command was wrong or no SLURM can run here.
"""


def parser() -> argparse.ArgumentParser:
    """What the command may be given."""
    made = argparse.ArgumentParser(
        prog="python tests/faults",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--seed", type=int, default=1, metavar="N", help="of all that is drawn (default: 1)")
    made.add_argument("--faults", type=int, default=200, metavar="N", help="how many are injected (default: 200)")
    made.add_argument("--alive", type=int, default=3, metavar="N", help="sweeps at a time (default: 3)")
    made.add_argument("--steps", type=int, default=60, metavar="N", help="optimizer steps of a run (default: 60)")
    made.add_argument("--step-seconds", type=float, default=0.5, metavar="S", help="each lasts so long (default: 0.5)")
    made.add_argument("--only", nargs="+", default=(), metavar="WORDS", help="only kinds whose names hold one of these")
    made.add_argument(
        "--without", nargs="+", default=(), metavar="WORDS", help="no kinds whose names hold one of these"
    )
    made.add_argument("--shapes", nargs="*", default=(), metavar="NAME", choices=[shape.name for shape in SHAPES],
                      help="only such sweeps: array, joint, packed, local")  # fmt: skip
    made.add_argument("--keep-going", action="store_true", help="go on when an invariant is broken")
    made.add_argument("--keep", action="store_true", help="keep the folder in any case")
    made.add_argument("--list", action="store_true", help="name all kinds of faults")
    return made


def main() -> int:
    """Run the command; returns its exit code."""
    options = parser().parse_args()
    if options.list:
        sys.stdout.write("".join(f"{kind.name}\n" for kind in kinds.KINDS))
        return 0
    options.kinds = kinds.named(options.only, options.without)
    if not options.kinds:
        parser().error(f"no kind of fault is called {' or '.join(options.only)}; --list names them all")
    if (why := why_not_here()) is not None:
        sys.stderr.write(f"{why}\n")
        return 2
    conftest.pytest_configure()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the cluster is taken down
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    folder.chmod(0o755)  # munged, which is not root, goes through it
    return injected(options, folder)


def injected(options: argparse.Namespace, folder: Path) -> int:
    """Inject faults in a world below `folder`; 0 if every invariant holds."""
    began, journal = time.monotonic(), Journal(folder)
    with opened(folder, Length(options.steps, options.step_seconds)) as world:
        journal.say(f"in {folder}: sweeps are launched, and left in peace, for the truth")
        shapes = tuple(shape for shape in SHAPES if shape.name in (options.shapes or shape.name))
        true = truth.sought(world, shapes)
        journal.say(f"now seed {options.seed}")
        draw = Random(options.seed)  # noqa: S311 - one that can be repeated
        harness = Harness(
            world, true, journal, draw, options.faults, options.alive, options.keep_going, options.kinds,
            shapes,
        )  # fmt: skip
        try:
            harness.go()
        except Broken:
            journal.say("stopped at the first invariant that is broken; --keep-going goes on")
        finally:
            conclude(harness, journal, time.monotonic() - began)
    if not (journal.findings or options.keep):
        shutil.rmtree(folder, ignore_errors=True)
    if journal.findings:
        sys.stdout.write(f"\nagain: python tests/faults {' '.join(sys.argv[1:])}\nall of it is kept in {folder}\n")
    return int(bool(journal.findings))


def conclude(harness: Harness, journal: Journal, seconds: float) -> None:
    """The tables at the end."""
    rows = ["", journal.table(), "", "reasons that status gave:"]
    rows += [f"{count:5}  {reason}" for reason, count in harness.watcher.reasons.most_common(60)]
    rows += ["", "what status said where it could not answer:"]
    rows += [f"{count:5}  {text}" for text, count in harness.watcher.silent.most_common(40)]
    rows += ["", "done by hand, as prefsweep said:", *(f"{n:5}  {what}" for what, n in journal.by_hand.items())]
    rows += ["", "kinds that found nobody to strike:", *(f"{n:5}  {name}" for name, n in journal.passed_over.items())]
    rows += ["", "findings:", *journal.findings] if journal.findings else ["", "every invariant holds"]
    total = sum(journal.injected.values())
    rows.append(
        f"{total} of {harness.faults} faults in {seconds:.0f} s; status was asked {harness.watcher.asked} times"
    )
    text = "\n".join(rows)
    (journal.folder / "summary.txt").write_text(text + "\n")
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
