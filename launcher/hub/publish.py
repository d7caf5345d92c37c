"""Publishing a sweep's models: which are pushed, what became of each, and the collection of the best.

Owns: the decision for each model, made before anything is pushed; the choice of the best models.
Must not know: how a store works, how anything is printed.

What changed since it was published (an evaluation was added, the run was trained again) is published anew, and so is
what is gone from where it was. A record says where a model was published; on the Hub, where anybody may remove or
replace it, its branch is looked at before it is said to be there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from launcher.config import Hub
from launcher.errors import PublishError, StoreError, UsageError, listed
from launcher.hub.card import measures
from launcher.hub.folder import FolderShelf
from launcher.hub.look import HubLook
from launcher.hub.payload import owner_of
from launcher.hub.push import has_changed, publish, shelf_of
from launcher.hub.revisions import check_names
from launcher.hub.starting_point import revision_of_start
from launcher.machine import disk
from launcher.model.files import model_files
from launcher.store.attempt_config import hub_of
from launcher.store.attempts import Attempts
from launcher.store.facts import Revision
from launcher.store.files import content_key, plain
from launcher.store.measurements import Measured, revision_of
from launcher.store.model_marker import WEIGHTS
from launcher.store.output_folder import Store, SweepDir
from launcher.store.run_folder import Point, RunDir, points_of

SHOWN = 3  # names of files
COMPARED = 1 << 20  # bytes of a file that was copied
MAX_NOTE = 500  # characters that the Hub takes
OF_A_MODEL = ("base", "dtype", "attn_implementation", "batch_size", "samples")  # in which models may differ
Kind = TypeVar("Kind")
RANKED_BY = ("mt_bench", "golden_reward", "reward_accuracy")  # the first that some model has; more is better


@dataclass(frozen=True)
class Verdict:
    """What `publish` does about a model, and why.

    Attributes:
        due: whether it is pushed.
        why: in words.
        error: what is wrong with its revision, which only its owner can mend.
        checked: whether what is said of its revision is known; where not, the record says it.
        anew: whether it is pushed though its marker is there.
    """

    due: bool
    why: str
    error: str | None = None
    checked: bool = True
    anew: bool = False


@dataclass(frozen=True)
class Publication:
    """A model and what is done about it; `hub` is that of its run."""

    point: Point
    hub: Hub
    verdict: Verdict

    @property
    def revision(self) -> str:
        """What it is published as."""
        return self.hub.at_step(self.point.step).revision


@dataclass(frozen=True)
class Outcome:
    """What became of it: the revision that is there now, and the error that kept it from being made."""

    point: Point
    said: str
    revision: Revision | None
    error: str | None = None
    checked: bool = True


def decide(
    run: RunDir,
    look: HubLook,
    *,
    trained: bool,
    in_flight: bool,
    store: str | None,
    repo: str | None,
    public: bool = False,
    launched: Hub | None = None,
) -> list[Publication]:
    """What publishing does to a run's milestones and its final model.

    Args:
        run: the run.
        look: at what is on the Hub.
        trained: whether the run has its result.
        in_flight: whether a job has it in its hands.
        store: the store that the user wants instead of the sweep's.
        repo: the repository, likewise.
        public: whether it may be one that everybody sees, whatever the sweep says.
        launched: what the sweep was launched with last; None: that is not recorded, and what the run was trained with
            counts.

    Raises:
        ConfigError: the repository cannot be called so.
    """
    asked = launched or _trained_with(run)
    hub = replace(asked, store=store or asked.store, repo=repo or asked.repo, private=asked.private and not public)
    hindrance = "in flight" if in_flight else None if trained else "not trained"
    return [_publication(point, hub, look, hindrance) for point in points_of(run)]


def _trained_with(run: RunDir) -> Hub:
    training = Attempts.of(run).training
    return hub_of(training) if training else Hub(revision="")


def _publication(point: Point, hub: Hub, look: HubLook, hindrance: str | None) -> Publication:
    verdict = _verdict(point, hub, look) if hindrance is None else Verdict(due=False, why=hindrance)
    if verdict.due and hub.repo is None:
        raise UsageError(f"--repo: {point.run.run_id} was launched with hub=off; say which repository is to hold it")
    if verdict.due:
        check_names(hub.at_step(point.step))
    return Publication(point, hub, verdict)


def _verdict(point: Point, hub: Hub, look: HubLook) -> Verdict:
    recorded = revision_of(point.folder)
    if hub.store == "off":
        there = f", and was published as {recorded.address} before" if recorded else ""
        return Verdict(
            due=False, why=f"hub=off{there}; --hub folder or --hub huggingface publishes it", checked=recorded is None
        )
    if recorded is None or not recorded.is_at(hub.at_step(point.step)):
        return Verdict(due=True, why="to be published")
    verdict = _in_folder(point, recorded, hub) if recorded.store == "folder" else _on_hub(point, recorded, hub, look)
    if verdict.error is None and not verdict.due and has_changed(point, recorded):
        return Verdict(due=True, why="changed since it was published")
    return verdict


def _in_folder(point: Point, recorded: Revision, hub: Hub) -> Verdict:
    """What to do about a model that was published in a folder, by what the folder holds now."""
    store, address = Store(point.run.path.parent.parent), recorded.address
    folder = Path(address)
    if not folder.is_dir():
        return Verdict(due=True, why="no longer where it was published")
    holder = FolderShelf(hub.at_step(point.step), store).holder()
    if holder != point.name:
        whose = f"the revision of {holder}" if holder else "none of ours"
        why = f"{address} is {whose} now; move it away to have this model published again, or give --repo"
        return Verdict(due=False, why=why, error=why)
    start = revision_of_start(point)
    if start is not None and not (folder.parent / start).is_dir():
        return Verdict(due=True, why=f"its starting point {start} is gone")
    if changed := [name for name, path in _local_files(point).items() if not _is_same(path, folder / name)]:
        return Verdict(due=True, why=f"changed where it was published: {', '.join(changed[:SHOWN])}", anew=True)
    return Verdict(due=False, why=f"is published as {address}")


def _local_files(point: Point) -> dict[str, Path]:
    """The weights that were published, as far as they are still in the run folder."""
    files = model_files(point.folder.model) if point.folder.model.is_dir() else {}
    return {name: path for name, path in files.items() if name.endswith(WEIGHTS)}


def _is_same(path: Path, published: Path) -> bool:
    """Whether they are one file under two names, or of one size and one beginning."""
    if not published.is_file() or published.stat().st_size != path.stat().st_size:
        return False
    if published.samefile(path):
        return True
    with path.open("rb") as one, published.open("rb") as other:
        return one.read(COMPARED) == other.read(COMPARED)


def _on_hub(point: Point, recorded: Revision, hub: Hub, look: HubLook) -> Verdict:
    """What to do about a model that was published on the Hub, by what its branch is at now."""
    hub, address = replace(hub, repo=recorded.repo, revision=recorded.revision), recorded.address
    try:
        head, start = look.head(hub), revision_of_start(point)
        if head is None:
            return Verdict(due=True, why="no longer on the Hub")
        if start is not None and look.head(replace(hub, revision=start)) is None:
            return Verdict(due=True, why=f"its starting point {start} is no longer on the Hub")
        if head == recorded.commit:
            return Verdict(due=False, why=f"is published as {address}")
        return _moved(point, recorded, head, hub, look)
    except PublishError as error:
        return Verdict(due=False, why=f"was published as {address}; not checked: {error}", checked=False)


def _moved(point: Point, recorded: Revision, head: str, hub: Hub, look: HubLook) -> Verdict:
    """The same where the branch has moved since."""
    address, marker = recorded.address, look.marker(hub, head)
    if marker is None or owner_of(marker) != point.name:
        whose = "none of ours" if marker is None else f"the revision of {owner_of(marker)}"
        why = (
            f"{address} was published at commit {recorded.commit} and is at {head} now, which is {whose}; remove "
            "that branch to have it published again, or publish it elsewhere with --repo"
        )
        return Verdict(due=False, why=why, error=why)
    if marker.get("content") != recorded.content:
        return Verdict(due=True, why="another version of it is on the Hub")
    if changed := look.changed(hub, recorded.commit, head):
        return Verdict(due=True, why=f"changed on the Hub since: {listed(changed, SHOWN)}", anew=True)
    return Verdict(due=False, why=f"is published as {address}, and its card was edited there since (commit {head})")


def act(publication: Publication, store: Store) -> Outcome:
    """Push a model that is due; its failure is told, never raised, so that the next is pushed all the same."""
    point, verdict = publication.point, publication.verdict
    if verdict.error is not None:
        return Outcome(point, f"not published: {verdict.why}", None, verdict.error)
    if not verdict.due:
        return Outcome(point, verdict.why, revision_of(point.folder), checked=verdict.checked)
    try:
        fact = publish(point, publication.hub, store, anew=verdict.anew)
    except (PublishError, StoreError, OSError) as error:
        why = disk.fault(error, store.root, then="publish") or str(error)
        return Outcome(point, f"not published: {why}", None, why)
    return Outcome(point, f"published as {fact.address}", fact)


# ------------------------------------------------------------------------------------------------ the best


def gather(outcomes: Iterable[Outcome], sweep: SweepDir, hub: Hub, store: Store, count: int) -> str:
    """Make the sweep's collection hold the repositories of its `count` best models; returns its address.

    A collection holds repositories, not revisions: each one's note names its best revisions with their scores.

    Raises:
        UsageError: there is no model to choose from.
        PublishError: the Hub did not take it.
    """
    outcomes = list(outcomes)
    best = best_models(outcomes)[:count]
    if not best:
        raise UsageError(
            "--collection: no evaluated model of this sweep is on the Hugging Face Hub; publish them first"
        )
    judge = _ranked(outcomes)[1][0][1].judge
    notes: dict[str, list[str]] = {}
    for told, revision in best:
        notes.setdefault(revision.repo, [f"judged by {judge}"] if judge else []).append(told)
    from launcher.hub.huggingface import HuggingFaceShelf

    shelf = shelf_of(replace(hub, store="huggingface", repo=best[0][1].repo), store)
    assert isinstance(shelf, HuggingFaceShelf)  # noqa: S101 - for the type checker: we have just asked for it
    return shelf.collect(
        f"prefsweep {sweep.name}", {repo: "; ".join(lines)[:MAX_NOTE] for repo, lines in notes.items()}
    )


def best_models(outcomes: Sequence[Outcome]) -> list[tuple[str, Revision]]:
    """The models on the Hub by score, best first: what to tell of each, and its revision; none without the score.

    Scores of another judge, or of other prompts or settings, are no part of the order: the way in which most models
    were measured counts alone.
    """
    measure, ranked = _ranked(outcomes)
    return [(f"{revision.revision}: {measure} {score}", revision) for revision, score in ranked]


def best_of(publications: Sequence[Publication], count: int) -> tuple[list[Publication], list[str]]:
    """Those of the `count` best models, the best first, and what is to be said of the choice, a line for each.

    Raises:
        UsageError: none has a score by which models are ranked.
    """
    measure, ranked = _by_score([(each, _scores(each.point)) for each in publications])
    if not ranked:
        raise UsageError(f"--best {count}: none of these models has a score ({', '.join(RANKED_BY)}); evaluate them")
    left = len(publications) - len(ranked)
    told = [f"{each.point.name}: {measure} {score}" for each, score in ranked[:count]]
    without = f"left out, since {measure} is lacking or was measured otherwise: {left} of {len(publications)} models"
    return [each for each, _ in ranked[:count]], [*told, *([without] if left else [])]


def _ranked(outcomes: Sequence[Outcome]) -> tuple[str | None, list[tuple[Revision, _Score]]]:
    """By which score the models on the Hub are ranked, and those that have it, best first."""
    published = [(revision, each.point) for each in outcomes if (revision := each.revision)]
    return _by_score([(revision, _scores(point)) for revision, point in published if revision.store == "huggingface"])


def _by_score(results: Sequence[tuple[Kind, dict[str, _Score]]]) -> tuple[str | None, list[tuple[Kind, _Score]]]:
    """By which score things are ranked, and those that have it, measured as most of them were, best first."""
    measure = next((name for name in RANKED_BY if any(name in scores for _, scores in results)), None)
    if measure is None:
        return None, []
    scored = [(each, scores[measure]) for each, scores in results if measure in scores]
    (way, _), *_ = Counter(score.way for _, score in scored).most_common(1)
    return measure, sorted((each for each in scored if each[1].way == way), key=lambda result: -result[1].value)


@dataclass(frozen=True)
class _Score:
    """A score with its error, by whom it was given, and a hash of what scores that compare have in common."""

    value: float
    error: float | None
    way: str
    judge: str | None = None

    def __str__(self) -> str:
        return f"{self.value:.3f}" + ("" if self.error is None else f" ± {self.error:.3f}")


def _scores(point: Point) -> dict[str, _Score]:
    measured = Measured.of(point.folder)
    preference = plain(measured.preference) if measured.preference else {}
    way = content_key({k: v for k, v in preference.get("settings", {}).items() if k not in OF_A_MODEL})
    found = {name: _Score(value, error, way) for name, value, error in measures(preference)}
    rated = measured.mt_bench
    if rated is None or rated.score is None:
        return found
    way = content_key(
        [rated.judge, rated.hashes, {key: value for key, value in rated.answers.items() if key not in OF_A_MODEL}]
    )
    return {**found, "mt_bench": _Score(rated.score, rated.stderr, way, str(rated.judge.get("model")))}
