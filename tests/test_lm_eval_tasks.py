"""Tasks that the installed lm_eval does not know are refused before anything is submitted."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from conftest import sweep_of
from lm_eval.tasks import TaskManager

from launcher.errors import ConfigError
from launcher.machine.user_cache import user_cache
from launcher.planning import lm_eval_tasks
from launcher.planning.lm_eval_tasks import check_tasks
from launcher.planning.prerequisites import check_benchmarks


@pytest.mark.long
def test_tasks_are_those_of_the_installed_lm_eval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its names are read once and remembered; tasks, groups, tags, patterns and files are taken, others are not."""
    monkeypatch.setenv("PREFSWEEP_CACHE", str(tmp_path))
    manager = TaskManager()
    known = [manager.all_subtasks[0], manager.all_groups[0], manager.all_tags[0], "ifeval", "arc_*", "ifeval,gsm8k"]
    (tmp_path / "own.yaml").write_text("task: own")
    check_tasks([*known, str(tmp_path / "own.yaml")])
    assert "reading the names of lm_eval's tasks" in capsys.readouterr().err
    (file,) = (user_cache(os.environ) / "lm_eval_tasks").iterdir()
    assert sorted(json.loads(file.read_text())) == sorted(manager.all_tasks)
    for wrong in ("ifevall", "gsm8k,ifevall"):
        with pytest.raises(ConfigError, match=r"lm_eval\.tasks=ifevall: .* no such task \(did you mean 'ifeval'\?"):
            check_tasks([wrong])
    with pytest.raises(ConfigError, match="no such task"):
        check_tasks(["nothing_*_matches"])
    assert not capsys.readouterr().err


def test_a_plan_looks_only_where_jobs_have_this_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere other tasks may be there; and where the names cannot be read the jobs tell."""
    monkeypatch.setenv("PREFSWEEP_CACHE", str(tmp_path))
    monkeypatch.setattr(lm_eval_tasks, "_read", lambda: ["ifeval"])
    asked = ("model=tiny", "evaluation=lm_eval", "evaluation.lm_eval.tasks=[ifevall]")
    with pytest.raises(ConfigError, match="ifevall"):
        check_benchmarks(sweep_of(*asked))
    check_benchmarks(sweep_of(*asked, "cluster.executor=slurm", "cluster.python=/opt/python"))

    def fail() -> list[str]:
        raise subprocess.SubprocessError

    monkeypatch.setenv("PREFSWEEP_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(lm_eval_tasks, "_read", fail)
    check_benchmarks(sweep_of(*asked))
