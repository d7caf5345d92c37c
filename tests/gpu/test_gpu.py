"""tests/gpu: it goes through all that has a meaning on a CPU, says what has none, and finds a kernel that is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import part_kernels
import pytest
import torch
from conftest import REPOSITORY, clean_environment
from machine import Machine
from results import Results
from waiting import LONGEST_WAIT

from launcher.worker.scoring import kernels

PARTS = ("kernels", "sweep", "speed", "interruption", "divided", "memory")
WITHOUT_MEANING = {("divided", "NCCL and ZeRO-3"), ("memory", "out of memory")}


def gpu(*words: str) -> subprocess.CompletedProcess[str]:
    """`python tests/gpu`, where no GPU can be seen."""
    return subprocess.run(
        [sys.executable, "tests/gpu", *words],
        cwd=REPOSITORY,
        env=clean_environment(CUDA_VISIBLE_DEVICES=""),
        capture_output=True,
        text=True,
        timeout=LONGEST_WAIT,
        check=False,
    )


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_all_that_a_cpu_can_show_is_right(tmp_path: Path) -> None:
    """Every part; each line is in the file as well."""
    done = gpu("--device", "cpu", "--model", "tiny", "--budget", "3000", "--out", str(tmp_path / "out.jsonl"))
    lines = lines_of(done.stdout)
    assert done.returncode == 0, [line for line in lines if line.get("right") is False] or done.stderr
    assert (tmp_path / "out.jsonl").read_text() == done.stdout
    assert {line["part"] for line in lines} == {"all", *PARTS}
    left_out = {(line["part"], line["name"]) for line in lines if "skipped" in line}
    assert {each for each in left_out if each[0] != "kernels"} == WITHOUT_MEANING
    assert all(name.endswith(": varlen") for part, name in left_out if part == "kernels")
    assert sum("times_as_fast" in line for line in lines) == 8
    assert lines[-1]["name"] == "end"


def test_without_a_gpu_it_says_so_in_one_line() -> None:
    """And does nothing."""
    done = gpu()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("torch sees no GPU here; ")
    assert done.stderr.count("\n") == 1


def test_what_does_not_fit_into_the_budget_is_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And said, piece by piece; that is no failure."""
    results = Results(None, 0.0)
    part_kernels.run(Machine(torch.device("cpu"), tiny=True, folder=tmp_path), results)
    assert results.conclude() == 0
    *skipped, end = lines_of(capsys.readouterr().out)
    models = [f"{name} {dtype}" for dtype in part_kernels.NAMES.values() for name in part_kernels.ARCHITECTURES]
    assert [line["name"] for line in skipped] == models
    assert all(line["skipped"] == "0 s are left of 0, it takes about 15" for line in skipped)
    assert (end["right"], end["left_out"]) == (True, len(models))


def test_a_kernel_that_is_wrong_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In both precisions, and no other does."""

    def wrong(layout: Any, query: torch.Tensor, key: torch.Tensor, *more: Any) -> torch.Tensor:
        return kernels.one_by_one(layout, query, key.flip(2), *more)

    monkeypatch.setitem(part_kernels.KERNELS, "one call per sequence", wrong)
    monkeypatch.delitem(part_kernels.KERNELS, "flex")
    monkeypatch.setattr(part_kernels, "ARCHITECTURES", {"llama": part_kernels.ARCHITECTURES["llama"]})
    results = Results(None, 600.0)
    part_kernels.run(Machine(torch.device("cpu"), tiny=True, folder=tmp_path), results)
    assert results.failed == [f": llama {precision}: one call per sequence" for precision in ("float32", "bfloat16")]
    assert results.conclude() == 1
    assert lines_of(capsys.readouterr().out)[-1]["right"] is False
