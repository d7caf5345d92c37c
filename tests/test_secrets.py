"""Keys in a configuration: refused before they are written anywhere, and never repeated."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Launch, sweep_of

from launcher.errors import ConfigError

HF, SK = "hf_" + "a1B2" * 9, "sk-proj-" + "x_Y-" * 8
PROGRAM = "evaluation=command"


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("cluster.setup", [f"cluster.setup=['export HF_TOKEN={HF}']"]),
        ("cluster.setup", ["cluster.setup=['module load cuda','export WANDB_API_KEY=0123abcd']"]),
        ("cluster.setup", ["cluster.setup=['DB_PASSWORD=\"hunter2\" ./setup']"]),
        ("evaluation.command.argv", [PROGRAM, "evaluation.command.argv=[score,'{model}','--api-key=0123abcd']"]),
        ("evaluation.command.argv", [PROGRAM, "evaluation.command.argv=[score,'{model}','--api-key','0123abcd']"]),
        ("evaluation.command.argv", [PROGRAM, f"evaluation.command.argv=[score,'{{model}}','{SK}']"]),
        ("cluster.extra.comment", [f"+cluster.extra.comment={SK}"]),
        ("cluster.extra.export", [f"+cluster.extra.export='ALL,OPENAI={SK}'"]),
    ],
)
def test_a_key_is_refused_and_not_repeated(key: str, words: list[str]) -> None:
    """Whatever tells it: its form, or the name before it."""
    with pytest.raises(ConfigError) as told:
        sweep_of("model=tiny", *words)
    assert str(told.value).startswith(f"{key}: holds what looks like a key")
    assert not any(secret in str(told.value) for secret in (HF, SK, "0123abcd", "hunter2"))


@pytest.mark.parametrize(
    "words",
    [
        ["cluster.setup=['export HF_TOKEN=$(cat ~/.token)','export WANDB_API_KEY=$KEY','export TOKEN=\"$OTHER\"']"],
        ["cluster.setup=['export TOKENIZERS_PARALLELISM=false','source ~/.keys']"],
        [
            PROGRAM,
            "evaluation.command.argv=[score,'{model}','--max-tokens','64','--token-file','/x','--api-key-env=K']",
        ],
        ["trainer.learning_rate=1e-4", "+cluster.extra.comment=sk-learn"],
    ],
)
def test_what_only_sounds_like_one_is_taken(words: list[str]) -> None:
    """Variables, files, and words that are about tokens."""
    assert sweep_of("model=tiny", *words).runs


def test_nothing_of_it_reaches_the_disk(launch: Launch, tmp_path: Path) -> None:
    """Exit code 2, one line."""
    done = launch(f"cluster.setup=['export HF_TOKEN={HF}']")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert HF not in done.stdout + done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and HF in path.read_text(errors="replace")]
