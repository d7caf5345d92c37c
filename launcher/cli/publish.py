"""The verb `publish`: push the models that are not published as they are now."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from launcher.cli.arguments import DONE, FAILED, Parser, chosen_arguments, count
from launcher.cli.selection import choose, open_sweep
from launcher.hub.look import HubLook
from launcher.machine.terminal import complain
from launcher.planning.launches import launched_with
from launcher.runs.run_state import RunState
from launcher.runs.unreadable import Reading, check_readable
from launcher.views import results
from launcher.views.console import show_notes

if TYPE_CHECKING:
    from launcher.config import Hub
    from launcher.hub.publish import Publication

EXAMPLES = (
    "python -m launcher publish smoke",
    "python -m launcher publish smoke --hub huggingface --repo me/scan",
    "python -m launcher publish smoke --best 3",
    "python -m launcher publish smoke --collection 3",
)


def arguments(parser: Parser) -> None:
    """What the verb may be given."""
    chosen_arguments(parser)
    parser.add_argument(
        "--hub", choices=["huggingface", "folder"], help="another store than the sweep was launched with"
    )
    parser.add_argument("--repo", metavar="REPO", help="another repository: NAME or OWNER/NAME")
    parser.add_argument("--public", action="store_true", help="where everybody sees it (hub.private=false)")
    only = "only the N best models, by MT-Bench, golden reward or accuracy"
    parser.add_argument("--best", type=count, metavar="N", help=only)
    best = "gather the N best models in a Hub collection, by MT-Bench, golden reward or accuracy"
    parser.add_argument("--collection", type=count, metavar="N", help=best)
    parser.add_argument("--dry-run", action="store_true", help="show what would be pushed, and push nothing")


def publish(options: argparse.Namespace) -> int:
    """Push the chosen runs' models, or with --dry-run only say which."""
    from launcher.hub.publish import act, best_of, gather
    from launcher.planning.prerequisites import shut_to_group

    directory, store, scheduler = open_sweep(options)
    states, read = choose(options, directory, store, scheduler), Reading(complain)
    given = {"store": options.hub, "repo": options.repo, "public": options.public}
    publications = _decided(states, launched_with(directory), given, read)
    if options.best is not None:
        publications, told = best_of(publications, options.best)
        show_notes(told)
    if options.dry_run:
        results.show_publications(directory, publications, as_json=options.json)
        return FAILED if read.faults or any(each.verdict.error for each in publications) else DONE
    show_notes(shut_to_group(store.root))
    outcomes = []
    for number, publication in enumerate(publications, 1):
        results.say_pushing(publication, number, len(publications), quiet=options.json)
        outcomes.append(act(publication, store))
        results.say_outcome(outcomes[-1], number, len(publications), quiet=options.json)
    count, hub = options.collection, publications[0].hub if publications else None
    address = gather(outcomes, directory, hub, store, count) if count and hub else None
    results.show_published(directory, outcomes, address, as_json=options.json)
    return FAILED if read.faults or any(outcome.error for outcome in outcomes) else DONE


def _decided(
    states: Iterable[RunState], launched: Mapping[str, Hub], given: dict[str, Any], read: Reading
) -> list[Publication]:
    """What is done about each model; about those of a run that cannot be read nothing."""
    from launcher.hub.publish import decide

    look = HubLook()

    def decided(state: RunState) -> list[Publication]:
        check_readable(state.facts)
        trained, there = state.facts.trained, launched.get(state.run.run_id)
        return decide(state.run, look, trained=trained, in_flight=state.in_flight, launched=there, **given)

    return [each for state in states for each in read(partial(decided, state)) or ()]
