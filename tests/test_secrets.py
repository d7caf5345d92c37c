"""Keys in a configuration: refused before they are written anywhere, and never repeated."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Launch, clean_environment, sweep_of
from fakes import FakeScheduler, submit
from nothing_server import serving_nothing
from waiting import LONGEST_WAIT

from launcher.cluster.ambient import Ambient
from launcher.cluster.batch import Batch
from launcher.config import Cluster
from launcher.errors import ConfigError
from launcher.planning.secrets import secret_problems
from launcher.store.facts import Job
from launcher.store.output_folder import Store
from launcher.submission.environment import in_environment
from launcher.tracking.tracker import Subject

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


WORD = "hunter2"
HEX = "0123456789abcdef" * 3


@pytest.mark.parametrize(
    "line",
    [
        f"export AWS_SECRET_ACCESS_KEY={WORD}",
        f"wandb login {HEX[:40]}",
        f"wandb login --relogin '{HEX[:40]}'",
        f"export JUDGE_KEY={WORD}",
        f"export AZURE_OPENAI_KEY='{HEX[:32]}'",
        f"DB_PASS={WORD} ./setup",
        f"export MYSQL_PWD={WORD}",
        f"gpg --passphrase {WORD} -d x",
        f"export https_proxy=http://me:{WORD}@proxy:3128",
        f"git clone https://x:github_pat_{HEX}@github.com/a/b",
        f"pip install git+https://oauth2:glpat-{HEX}@gitlab.com/a/b",
        f"git clone https://{HEX}@github.com/a/b",
        f"curl -u me:{WORD} https://x",
        f"docker login -u me -p {WORD} nvcr.io",
        f"export GOOGLE=AIza{HEX}",
    ],
)
def test_a_key_is_seen_in_what_a_job_does_first(line: str) -> None:
    """Variables of whatever service, logins, addresses."""
    with pytest.raises(ConfigError, match=r"^cluster.setup: holds what looks like a key") as told:
        check_words(setup=[line])
    assert WORD not in str(told.value)
    assert HEX[:32] not in str(told.value)


@pytest.mark.parametrize(
    "words",
    [
        [f"nvapi-{HEX}"],
        [f"gsk_{HEX}"],
        [f"xoxb-{HEX}"],
        ["eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc"],
        ["--header", f"Authorization: Bearer {WORD}"],
        [f"--header=Authorization: Bearer {WORD}"],
        ["-H", f"api-key: {WORD}"],
        [f'{{"api_key": "{WORD}"}}'],
    ],
)
def test_a_key_is_seen_in_the_words_of_a_program(words: list[str]) -> None:
    """Keys of other services by their form; headers and JSON by what stands before."""
    with pytest.raises(ConfigError, match=r"^evaluation.command.argv: holds what looks like a key"):
        check_words(argv=["score", "{model}", *words])


@pytest.mark.parametrize(
    ("key", "word"),
    [
        ("cluster.container", f"cluster.container=docker://me:{WORD}@registry/image:1"),
        ("model.path", f"model.path=https://me:{HF}@huggingface.co/a/b"),
        ("tracking.project", f"tracking.project=wandb_v1_{HEX}"),
        ("sweep", f"sweep={HF}"),
        ("hub.repo", f"hub.repo=me/{HF}"),
        ("cluster.account", f"cluster.account={HF}"),
    ],
)
def test_a_key_is_seen_wherever_it_stands(key: str, word: str) -> None:
    """By its form, or as the password of an address."""
    with pytest.raises(ConfigError, match=f"^{key}: holds what looks like a key"):
        sweep_of("model=tiny", word)


@pytest.mark.parametrize(
    "line",
    [
        "unset HF_TOKEN WANDB_API_KEY",
        'test -n "$HF_TOKEN" || echo no token here',
        "export HF_HUB_DISABLE_IMPLICIT_TOKEN=1",
        "export OPENAI_API_KEY=EMPTY",
        'wandb login "$WANDB_API_KEY"',
        "wandb login --relogin",
        "export HF_TOKEN=${HF_TOKEN:-$(cat ~/.token)}",
        ': "${HF_TOKEN:?say who you are}"',
        'curl -H "Authorization: Bearer $TOKEN" -u "me:$PASSWORD" https://x:8000/a@b',
        "export https_proxy=http://me:$PROXY_PASSWORD@proxy:3128",
        "git checkout 0123456789abcdef0123456789abcdef01234567",
        "read -s -p 'Token: ' TOKEN",
    ],
)
def test_a_line_without_a_key_is_taken(line: str) -> None:
    """Where its value comes from elsewhere, or there is none."""
    check_words(setup=[line])


@pytest.mark.parametrize(
    "words",
    [["--pad-token", "<pad>"], ["--stop_token=</s>"], ["--eos-token=END"], ["--token", "16"], ["--key", "text"]],
)
def test_tokens_of_a_model_are_no_keys(words: list[str]) -> None:
    """Nor are numbers, and keys of a table."""
    check_words(argv=["score", "{model}", *words])


@pytest.mark.parametrize(
    "word", ["cluster.container=docker://ubuntu:22.04@sha256:0123", "sweep=sk-learn-and-other-classifiers"]
)
def test_an_image_and_a_name_are_no_keys(word: str) -> None:
    """Though they look a little like one."""
    assert sweep_of("model=tiny", word).runs


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


def check_words(setup: list[str] | None = None, argv: list[str] | None = None) -> None:
    """What a sweep with these words of commands is told first."""
    config = copy.deepcopy(sweep_of("model=tiny").runs[0].config)
    config.cluster.setup, config.evaluation.command.argv = setup or [], argv or []
    for problem in secret_problems(config):
        raise problem


def test_a_key_is_seen_in_what_the_environment_says_of_jobs() -> None:
    """As in the option that it stands for; the words on what was taken, which hold it, are not told."""
    scheduler = FakeScheduler()
    scheduler.ambient = lambda _: Ambient(extra={"comment": HF}, words=(f"comment {HF}",))  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match=r"^cluster.extra.comment: holds what looks like a key") as told:
        in_environment(sweep_of("model=tiny"), scheduler)
    assert HF not in str(told.value)


class Heard(FakeScheduler):
    """What the jobs of a launch get of the environment."""

    def submit(self, batch: Batch) -> list[Job]:
        self.environment = dict(os.environ)
        return super().submit(batch)


@pytest.mark.parametrize(
    ("words", "is_given"), [([], False), ([PROGRAM, "evaluation.command.argv=[score,'{model}']"], True)]
)
def test_jobs_do_not_get_the_key_of_the_judge(
    store: Store, monkeypatch: pytest.MonkeyPatch, words: list[str], is_given: bool
) -> None:
    """Only this machine asks a judge; a program of the user's own may need the key in its job."""
    monkeypatch.setenv("OPENAI_API_KEY", SK)
    monkeypatch.setenv("HF_TOKEN", HF)
    submit(sweep_of("model=tiny", *words), store, heard := Heard(), None)
    assert ("OPENAI_API_KEY" in heard.environment) == is_given
    assert heard.environment["HF_TOKEN"] == HF
    assert os.environ["OPENAI_API_KEY"] == SK


def test_trackers_do_not_get_command_lines(store: Store) -> None:
    """A project in W&B is read by more people than the folder in which a run lies."""
    (run,) = sweep_of(
        "model=tiny", PROGRAM, "evaluation.command.argv=[score,'{model}',/home/me/private]", "sweep=s"
    ).runs
    subject = Subject.of(run.config, store.run(run.run_id), 1)
    assert "private" not in json.dumps(subject.config)
    assert subject.config["evaluation"]["command"]["minutes"] == run.config.evaluation.command.minutes


def test_nothing_of_it_reaches_the_disk(launch: Launch, tmp_path: Path) -> None:
    """Exit code 2, one line."""
    done = launch(f"cluster.setup=['export HF_TOKEN={HF}']")
    said = [line for line in done.stderr.splitlines() if not line.endswith(" ...")]
    assert (done.returncode, len(said)) == (2, 1)
    assert HF not in done.stdout + done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and HF in path.read_text(errors="replace")]


@pytest.mark.parametrize("secret", [HF, SK, "hunter2"])
def test_what_the_environment_says_is_told_without_keys(secret: str) -> None:
    """The plan stands on a screen, and in a CI's logs."""

    class Told(FakeScheduler):
        def ambient(self, _cluster: Cluster) -> Ambient:
            return Ambient(words=(f"SBATCH_EXPORT=ALL,HF_TOKEN={secret} does not count", "SBATCH_QOS=high"))

    _, lines = in_environment(sweep_of("model=tiny", "cluster=slurm"), Told())
    assert lines == ["SBATCH_EXPORT=ALL,HF_TOKEN=*** does not count", "SBATCH_QOS=high"]


# ------------------------------------------------------------------------------------------------ what is reported

REPORT = """
import importlib, sys
importlib.import_module(sys.argv[1])
from huggingface_hub import constants
from huggingface_hub.utils import _telemetry, build_hf_headers, send_telemetry
send_telemetry("trl/other")
build_hf_headers()
if not constants.HF_HUB_DISABLE_TELEMETRY:
    _telemetry._TELEMETRY_QUEUE.join()
"""


@pytest.mark.parametrize("module", ["launcher.__main__", "launcher.worker.start"])
@pytest.mark.parametrize("wish", [None, "0", "1"])
def test_nothing_is_reported_to_the_hub_unless_wished(tmp_path: Path, module: str, wish: str | None) -> None:
    """Wherever a process of ours begins, TRL's words about a training stay here, and no registry is asked for."""
    with serving_nothing() as (address, asked):
        environment = clean_environment(HF_ENDPOINT=address, HF_HUB_OFFLINE="0", HF_HOME=str(tmp_path))
        environment.pop("HF_HUB_DISABLE_TELEMETRY", None)
        environment |= {} if wish is None else {"HF_HUB_DISABLE_TELEMETRY": wish}
        subprocess.run([sys.executable, "-c", REPORT, module], env=environment, check=True, timeout=LONGEST_WAIT)
    assert set(asked) == ({"/api/agent-harnesses", "/api/telemetry/trl/other"} if wish == "0" else set())
