"""``results.jsonl`` -> one tidy frame.

Owns: what becomes of missing, torn, repeated or hostile values. The names are those of ``analysis.columns``.
Must not know: statistics, figures, HTML.

Every other module may rely on what is promised here: numbers are floats (NaN where unknown), text is
printable Unicode or None, and each nested value has its documented type, empty where the file has nothing.

Errors::

    ValueError
      ResultsError      the file is missing, empty or broken; the message names the file and the remedy
    UserWarning
      ResultsWarning    the file was readable, but something in it was left out
"""

from __future__ import annotations

import json
import math
import re
import shlex
import warnings
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.apart import SECTIONS, at, evaluated, place_of, settings_of, unique_names
from analysis.columns import COLUMNS, LABELS, MADE_BY, NUMBERS, SCORES, TEXT
from analysis.judges import by_judge
from analysis.measures import LOG_RATIO
from analysis.words import first_of

# Controls and lone surrogates can be written neither to XML nor to UTF-8.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


_NAMED = 8  # sweeps that a message lists
_RECORDS = ("losses", "mt_bench_questions", "mt_bench_also")  # columns that are lists of mappings


class ResultsError(ValueError):
    """``results.jsonl`` cannot be used; the message names the file and what to do."""


class ResultsWarning(UserWarning):
    """A part of ``results.jsonl`` was left out; the message names the file and the line."""


def load(*paths: str | Path) -> pd.DataFrame:
    """Read the results of one sweep or of several.

    Each path is a ``results.jsonl`` or the sweep's folder that holds it. The frame has one row per run and one per
    untrained model, in the files' order, and the columns ``analysis.columns.COLUMNS`` (described in
    docs/results.md): text is ``str`` or None, numbers are float, NaN where missing, mappings are dicts, lists are
    lists. A run that several sweeps hold is one row, which names them all.

    Raises ResultsError for a missing, empty or broken file. Warns ResultsWarning when a torn last line or an
    earlier row of a repeated run is left out.
    """
    rows: list[dict[str, Any]] = []
    for path in paths:
        file = Path(path)
        file = file if file.is_file() else file / "results.jsonl"
        rows += _latest([_row(raw, file, number) for number, raw in _lines(file)], file)
    frame = pd.DataFrame(_merged(rows), columns=[each.name for each in COLUMNS], dtype=object)
    numbers = [each.name for each in (*NUMBERS, *SCORES)]
    frame[numbers] = frame[numbers].astype(float)
    unnamed = (frame["kind"] == "run") & frame["reward"].isna()
    frame.loc[unnamed, "reward"] = LOG_RATIO
    for section in SECTIONS:
        frame[section] = pd.Series(unique_names(frame, section), index=frame.index, dtype=object)
    frame["evaluated"] = evaluated(frame)
    frame["setting"] = settings_of(frame)
    frame["panel"] = _panels(frame)
    return by_judge(frame)


def _lines(file: Path) -> list[tuple[int, dict[str, Any]]]:
    """Give each line's number and object; only the last line may be torn (a writer was interrupted)."""
    lines = _text(file).rstrip().split("\n")
    if lines == [""]:
        raise ResultsError(f"{file}: is empty; {_remedy(file)}")
    parsed = []
    for number, line in enumerate(lines, start=1):
        row = _object(line)
        if row is not None:
            parsed.append((number, row))
        elif number < len(lines) or number == 1:
            raise ResultsError(f"{file}: line {number} is not a JSON object; {_remedy(file)}")
        else:
            warnings.warn(
                f"{file}: skipped line {number}, which is torn; {_remedy(file)}", ResultsWarning, stacklevel=3
            )
    return parsed


def _remedy(file: Path) -> str:
    """What to type; where the sweep does not lie in the folder that the launcher looks in, with that folder."""
    folder = file.absolute().parent
    root = folder.parent.parent if folder.parent.name == "sweeps" else None
    more = [] if root in (None, Path("outputs").absolute()) else ["--output-dir", str(root)]
    return f"write it again with '{shlex.join(['python', '-m', 'launcher', 'collect', folder.name, *more])}'"


def _absent(file: Path) -> str:
    """What is wrong where there are no results: of a sweep they are not collected, of another folder it is none."""
    folder = file.parent
    if _is_sweep(folder):
        return f"no such file; {_remedy(file)}"
    missing = "no such file" if folder.is_dir() else "no such folder"
    near = (sorted(filter(_is_sweep, place.glob("*"))) for place in (folder / "sweeps", folder, folder.parent))
    sweeps = ", ".join(str(each) for each in next(filter(None, near), [])[:_NAMED])
    return f"{missing}; give the folder of a sweep{': ' + sweeps if sweeps else ', such as outputs/sweeps/NAME'}"


def _is_sweep(folder: Path) -> bool:
    return (folder / "launches").is_dir()


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig", errors="replace")
    except FileNotFoundError:
        raise ResultsError(f"{file}: {_absent(file)}") from None
    except PermissionError:
        raise  # whose it is, the command line says
    except OSError as error:
        raise ResultsError(f"{file}: cannot be read ({error.strerror})") from None


def _object(line: str) -> dict[str, Any] | None:
    """Parse one line into an object whose every text is printable; None if that cannot be done."""
    try:
        value = _clean(json.loads(line))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _row(raw: dict[str, Any], file: Path, number: int) -> dict[str, Any]:
    """One line as a flat row; ``kind`` and, for a run, ``run_id`` are what a row cannot do without."""
    row: dict[str, Any] = {each.name: _string(at(raw, each.path)) for each in TEXT}
    if row["kind"] not in {"run", "base"}:
        raise ResultsError(f"{file}: line {number}: kind is {row['kind']!r}, not 'run' or 'base'; {_remedy(file)}")
    if row["kind"] == "run" and not row["run_id"]:
        raise ResultsError(f"{file}: line {number}: a run without run_id; {_remedy(file)}")
    row |= {each.name: _number(at(raw, each.path)) for each in (*NUMBERS, *SCORES)}
    row |= {key: _mapping(raw.get(key)) for key in ("axes", "objective", "sources", "provenance", *MADE_BY)}
    row["data"] = _data(_mapping(raw.get("data")))
    row["actions"] = _numbers(at(raw, ("evaluation", "actions")))
    row |= {"mt_bench_scores": _by_question(raw.get("mt_bench_scores")), "other_scores": _others(raw)}
    row |= {key: [each for each in _list(raw.get(key)) if isinstance(each, dict)] for key in _RECORDS}
    row["mt_bench_also"] = [_judgement(each) for each in row["mt_bench_also"]]
    row["golden_rewards"] = [_number(value) for value in _list(raw.get("golden_rewards"))]
    row["golden_reward"] = _known(row["golden_reward"], row["golden_rewards"])
    row["mt_bench"] = _known(row["mt_bench"], list(row["mt_bench_scores"].values()))
    row["samples"] = [_sample(value) for value in _list(raw.get("samples")) if isinstance(value, dict)]
    row["curve"] = [_point(value) for value in _list(raw.get("curve")) if isinstance(value, dict)]
    row["hosts"] = [str(value) for value in _list(raw.get("hosts"))]
    return row


def _judgement(raw: dict[str, Any]) -> dict[str, Any]:
    """Give the scores of another judge in the form of the row's own: numbers, scores by question, who gave them."""
    scores = {each.name: _number(at(raw, each.path)) for each in SCORES if each.name.startswith("mt_bench")}
    by_question = _by_question(raw.get("mt_bench_scores"))
    made_by = _mapping(raw.get("mt_bench_made_by"))
    return scores | {"mt_bench_scores": by_question, "mt_bench_made_by": made_by}


def _data(raw: dict[str, Any]) -> dict[str, Any]:
    """Give what a run was trained on: numbers of each split, by name, and examples; empty where that is not known."""
    splits = {name: _split(each) for name, each in _mapping(raw.get("splits")).items() if isinstance(each, dict)}
    rows = [_example(each) for each in _list(raw.get("examples")) if isinstance(each, dict)]
    numbers = {name: _number(raw.get(name)) for name in ("max_length", "leaked")}
    return {**numbers, "splits": splits, "examples": rows} if splits else {}


def _split(raw: dict[str, Any]) -> dict[str, Any]:
    optional = {name: _number(raw[name]) for name in ("median", "percentile_95", *LABELS) if raw.get(name) is not None}
    numbers = {name: _number(raw.get(name)) for name in ("read", "used", "cut")}
    return {**numbers, "left_out": _numbers(raw.get("left_out")), **optional}


def _example(raw: dict[str, Any]) -> dict[str, tuple[str, float]]:
    """Give the parts of a row, prompt and answers, by name: text, and how many more tokens were cut."""
    parts = {"prompt": raw.get("prompt"), **_mapping(raw.get("answers"))}
    each = {name: _mapping(part) for name, part in parts.items()}
    return {name: (_string(part.get("text")) or "", _number(part.get("cut"))) for name, part in each.items()}


def _others(raw: dict[str, Any]) -> dict[str, float]:
    """Give the numbers of an evaluation that no column is named for."""
    named = {each.path[-1] for each in SCORES}
    numbers = {key: _number(value) for key, value in _mapping(raw.get("evaluation")).items() if key not in named}
    return {key: value for key, value in numbers.items() if not math.isnan(value)}


def _by_question(value: object) -> dict[str, float]:
    """Give scores by question; a plain list is numbered."""
    return _numbers(dict(enumerate(value)) if isinstance(value, list) else value)


def _numbers(value: object) -> dict[str, float]:
    return {str(key): _number(each) for key, each in _mapping(value).items()}


def _latest(rows: list[dict[str, Any]], file: Path) -> list[dict[str, Any]]:
    """Keep the last row of each run (and of each base), in the file's order."""
    last = {_identity(row): position for position, row in enumerate(rows)}
    if len(last) < len(rows):
        left_out = len(rows) - len(last)
        text = f"{file}: {left_out} row(s) repeat a run; the last one of each counts; {_remedy(file)}"
        warnings.warn(text, ResultsWarning, stacklevel=3)
    return [rows[position] for position in sorted(last.values())]


def _merged(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Make one row of what several sweeps hold: the one that knows most, with all their names."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    unlike: dict[str, None] = {}
    for row in rows:
        before = found.get(_identity(row))
        if before is not None and _differ(before, row):
            unlike[str(row["run_id"] or row["model"])] = None
        names = dict.fromkeys(name for each in (before, row) if each and (name := each["sweep"]))
        newest = max(filter(None, (row, before)), key=_progress)
        found[_identity(row)] = newest | {"sweep": ", ".join(names) or None}
    if unlike:
        rule = "the row with most scores counts, of equals the last"
        text = f"{first_of(unlike, _NAMED)}: the sweeps have different scores of the same model; {rule}"
        warnings.warn(text, ResultsWarning, stacklevel=3)
    return list(found.values())


def _differ(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two rows of a model have different values of a score."""
    pairs = ((one[each.name], other[each.name]) for each in SCORES)
    return any(math.isfinite(a) and math.isfinite(b) and a != b for a, b in pairs)


def _progress(row: dict[str, Any]) -> tuple[int, float]:
    """Order rows of one run by how far it was when they were collected."""
    known = sum(math.isfinite(row[each.name]) for each in SCORES)
    return known, row["step"] if math.isfinite(row["step"]) else -1.0


def _identity(row: dict[str, Any]) -> tuple[Any, ...]:
    if row["kind"] == "run":
        return "run", row["run_id"]
    places = [place_of(row, section) for section in SECTIONS]
    return "base", row["model"], row["dataset"], row["base"], *places


def _sample(value: dict[str, Any]) -> dict[str, Any]:
    return {
        "prompt": _string(value.get("prompt")) or "",
        "text": _string(value.get("text")) or "",
        "reward": _number(value.get("reward")),
    }


def _point(value: dict[str, Any]) -> dict[str, float]:
    names = ("step", "loss", "reward_accuracy", "reward_margin", "learning_rate")
    return {name: _number(value.get(name)) for name in names}


def _number(value: object) -> float:
    """Give a float: NaN for whatever is not a number, infinities as they are (a diverged loss is a fact)."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan


def _known(mean: float, values: list[float]) -> float:
    """Give the mean that the file has; where it has none, that of ``values``."""
    known = [value for value in values if math.isfinite(value)]
    return math.fsum(value / len(known) for value in known) if math.isnan(mean) and known else mean


def _string(value: object) -> str | None:
    return None if value is None else str(value)


def _clean(value: object) -> object:
    if isinstance(value, str):
        return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", value)
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {str(_clean(key)): _clean(item) for key, item in value.items()}
    return value


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _panels(frame: pd.DataFrame) -> list[str]:
    pairs = zip(frame["model"], frame["setting"], strict=True)
    return [" · ".join(filter(None, (model or "?", setting))) for model, setting in pairs]
