"""What can be typed: the verbs, their arguments, examples and help, and the exit codes that answer.

Owns: names, defaults and meanings on the command line. Must not know: what a verb does, or anything of a sweep.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

from launcher.config import ConfigError
from launcher.status import Status

DONE, FAILED, WRONG = 0, 1, 2  # exit codes: WRONG is the command or the config

DESCRIPTION = """\
Run a preference-tuning sweep: model x loss_type x beta, and any other axis.

  python -m launcher -m loss_type=sigmoid,ipo,kto_pair beta=0.01,0.1     plan, show, submit
  python -m launcher -m +sweeps=smoke dry_run=true                       the plan; writes nothing
  python -m launcher status                                              the latest sweep's runs
  python -m launcher resume SWEEP                                        what failed, goes on from its checkpoint

Overrides are key=value, in Hydra's grammar: a,b  range(1,4)  choice(a,b)  glob(*)  +sweeps=NAME.
conf/config.yaml has every key with its meaning; conf/<group>/ has the choices of model, dataset, trainer, ...
"""

VERBS = {
    "status": "the runs of a sweep: state, step, time left, reason",
    "logs": "what a run printed",
    "cancel": "stop runs that are in flight; they keep their checkpoints",
    "resume": "submit again what failed, was cancelled, timed out or got lost",
    "run": "one run in this process",
    "evaluate": "measure what is missing: answers in jobs, judging here",
    "collect": "write results.jsonl from what is there now",
    "dashboard": "the sweep's W&B workspace and report, or its local trackio or TensorBoard page",
    "sync": "upload what nodes without internet kept for W&B",
    "publish": "push the models that are trained and not published, each as one revision",
    "doctor": "what this machine and its cluster offer, and a file for conf/cluster",
}


class _Parser(argparse.ArgumentParser):
    """argparse with our one-line errors."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see `{self.prog} --help`")


def launch_parser() -> _Parser:
    """What a launch may be given; its help lists the verbs."""
    verbs = "\n".join(f"  {verb:10}{meaning}" for verb, meaning in VERBS.items())
    parser = _Parser(
        prog="python -m launcher",
        description=DESCRIPTION,
        epilog=f"verbs (python -m launcher VERB --help):\n{verbs}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides of conf/config.yaml")
    parser.add_argument("-m", "--multirun", action="store_true", help="run every combination of the values given")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON, and do not follow the jobs")
    return parser


def verb_parser(verb: str) -> _Parser:
    """What this verb may be given; its help has examples."""
    examples = {
        "status": "status\n  status smoke --watch\n  status smoke --json | jq '.runs[] | select(.status==\"FAILED\")'",
        "logs": "logs tiny-ipo-beta0.1-0a1b2c3d --follow\n  logs tiny-ipo-beta0.1-0a1b2c3d --attempt 1",
        "cancel": "cancel smoke\n  cancel smoke tiny-ipo\n  cancel smoke --state pending",
        "resume": "resume smoke\n  resume smoke tiny-ipo\n  resume smoke cluster.time=8:00:00 cluster.exclude=n3",
        "run": "run outputs/runs/tiny-ipo-beta0.1-0a1b2c3d",
        "evaluate": "evaluate smoke\n  evaluate smoke --benchmark mt_bench evaluation.judge.base_url=URL "
        "evaluation.judge.model=NAME\n  evaluate smoke --again evaluation.generations=256",
        "collect": "collect smoke",
        "publish": "publish smoke\n  publish smoke --hub huggingface --repo me/scan\n  publish smoke --collection 3",
        "dashboard": "dashboard smoke\n  dashboard smoke --port 7860 --no-browser",
        "sync": "sync smoke",
        "doctor": "doctor\n  doctor +sweeps=pref_align_scan\n"
        "  doctor --probe cluster.partition=gpu cluster.gpus_per_node=1",
    }
    text = "examples:\n" + "\n".join(f"  python -m launcher {line.strip()}" for line in examples[verb].splitlines())
    parser = _Parser(
        prog=f"python -m launcher {verb}",
        description=VERBS[verb],
        epilog=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _ARGUMENTS[verb](parser)
    parser.add_argument(
        "--output-dir", type=Path, default=Path("outputs"), help="where everything is (default: outputs)"
    )
    return parser


def _count(text: str) -> int:
    """A number of at least 1, as argparse's `type`."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number of at least 1")
    return int(text)


def _sweep_arguments(parser: _Parser) -> None:
    parser.add_argument("sweep", nargs="?", metavar="SWEEP", help="default: the sweep launched last")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def _status_arguments(parser: _Parser) -> None:
    _sweep_arguments(parser)
    parser.add_argument("--watch", action="store_true", help="again and again, until nothing is in flight")
    parser.add_argument("--every", type=float, default=30.0, metavar="S", help="seconds between two (default: 30)")


def _chosen_arguments(parser: _Parser, which: str = "run ids or their beginnings (default: all)") -> None:
    parser.add_argument("sweep", metavar="SWEEP")
    parser.add_argument("runs", nargs="*", metavar="RUN", help=which)
    states = [status.lower() for status in Status]
    parser.add_argument("--state", action="append", default=[], choices=states, help="only runs in this state")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def _resume_arguments(parser: _Parser) -> None:
    _chosen_arguments(parser, "run ids or their beginnings (default: all), and key=value for new settings")


def _publish_arguments(parser: _Parser) -> None:
    _chosen_arguments(parser)
    parser.add_argument(
        "--hub", choices=["huggingface", "folder"], help="another store than the sweep was launched with"
    )
    parser.add_argument("--repo", metavar="REPO", help="another repository: NAME or OWNER/NAME")
    parser.add_argument("--public", action="store_true", help="where everybody sees it (hub.private=false)")
    best = "gather the N best models in a Hub collection, by MT-Bench, golden reward or accuracy"
    parser.add_argument("--collection", type=_count, metavar="N", help=best)
    parser.add_argument("--dry-run", action="store_true", help="show what would be pushed, and push nothing")


def _logs_arguments(parser: _Parser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run id")
    parser.add_argument("--follow", action="store_true", help="go on as the run prints, until it ends")
    parser.add_argument("--attempt", type=int, metavar="N", help="default: the last")
    parser.add_argument(
        "--rank", type=int, default=0, metavar="R", help="the process of a distributed run (default: 0)"
    )


def _evaluate_arguments(parser: _Parser) -> None:
    parser.add_argument("sweep", metavar="SWEEP")
    parser.add_argument(
        "overrides", nargs="*", metavar="evaluation...=value", help="in place of what it was launched with"
    )
    named = "only this one (may be given again); default: those of evaluation.benchmarks"
    parser.add_argument("--benchmark", action="append", default=[], metavar="NAME", help=named)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--again", action="store_true", help="also what is there already, which is kept under a number")
    mode.add_argument("--dry-run", action="store_true", help="only show what would be measured and what judging costs")


def _run_arguments(parser: _Parser) -> None:
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="a folder of outputs/runs")


def _dashboard_arguments(parser: _Parser) -> None:
    parser.add_argument("sweep", nargs="?", metavar="SWEEP", help="default: the sweep launched last")
    parser.add_argument("--port", type=int, metavar="P", help="of the local page, on loopback (default: a free one)")
    parser.add_argument("--no-browser", action="store_true", help="print the local page's address only")


def _sync_arguments(parser: _Parser) -> None:
    parser.add_argument("sweep", nargs="?", metavar="SWEEP", help="default: the sweep launched last")


def _doctor_arguments(parser: _Parser) -> None:
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="a sweep, to know its disk; for --probe: cluster.partition=gpu, ...",
    )
    parser.add_argument("--probe", action="store_true", help="also look at a node, with a job of one task")
    parser.add_argument("--wait", type=float, default=600.0, metavar="S", help="seconds for that job (default: 600)")


_ARGUMENTS = {
    "status": _status_arguments,
    "logs": _logs_arguments,
    "cancel": _chosen_arguments,
    "resume": _resume_arguments,
    "run": _run_arguments,
    "evaluate": _evaluate_arguments,
    "collect": _sweep_arguments,
    "dashboard": _dashboard_arguments,
    "sync": _sync_arguments,
    "publish": _publish_arguments,
    "doctor": _doctor_arguments,
}
