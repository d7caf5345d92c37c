"""The report's files: what they say, that they need no network, and that nothing in the results can hurt them."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from test_analysis_read import Row, base_row, command, grid, run_row, write_rows
from waiting import LONGEST_WAIT

import analysis
from analysis import statistics
from analysis.best import best_settings
from analysis.figures import figures as plots
from analysis.figures import look
from analysis.page import cautions, configurations, summary
from analysis.report import write
from analysis.winners import winners
from analysis.words import MINUS, MISSING, duration, fixed, signed

EVIL = (
    '</script><script>alert(1)</script><img src=http://evil.example/x onerror="alert(2)">\x00 | `a` [b](javascript:1)'
)


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


class Page(HTMLParser):
    """The parts of a page that tests ask for: elements with their attributes, and the text of each script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self._in = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.elements.append((tag, dict(attrs)))
        self._in = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, _: str) -> None:
        """Leave an element."""
        self._in = ""

    def handle_data(self, data: str) -> None:
        """Note a text."""
        if self._in == "script":
            self.scripts[-1] += data
        elif self._in != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        """The visible text, in one line."""
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report on `grid()`, made by the command; its stdout is in stdout.txt."""
    sweep = write_rows(tmp_path_factory.mktemp("sweeps") / "demo", grid(), tail='{"kind": "run", "run_id": "torn')
    ended = command(sweep)
    assert ended.returncode == 0, ended.stderr
    (sweep / "stdout.txt").write_text(ended.stdout)
    (sweep / "stderr.txt").write_text(ended.stderr)
    return sweep


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page((folder / "report" / "report.html").read_text(encoding="utf-8"))


def report_on(folder: Path, rows: list[Row]) -> Page:
    """The page on `rows`, made in this process."""
    made = write(analysis.load(write_rows(folder, rows)), folder / "report", [])
    return Page(made.page.read_text(encoding="utf-8"))


def csv_rows(folder: Path) -> list[dict[str, str]]:
    text = (folder / "report" / "tables" / "runs.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(io.StringIO(text)))


def policy_of(page: Page) -> str:
    found = [attrs for tag, attrs in page.elements if tag == "meta" and "http-equiv" in attrs]
    assert len(found) == 1
    return found[0]["content"] or ""


def test_the_command_writes_every_file_and_says_so(folder: Path) -> None:
    """One line names the page, a table the best settings; a torn line is a warning on stderr."""
    told = (folder / "stdout.txt").read_text().splitlines()
    assert told[0] == f"report: {folder / 'report' / 'report.html'}"
    assert len(told) == 3 + 6  # one best setting for each model and loss
    assert re.match(r"warning: .*results\.jsonl: skipped line 21", (folder / "stderr.txt").read_text())
    tables = {f"tables/{name}.{end}" for name in ("runs", "best") for end in ("csv", "md", "tex")}
    written = {str(path.relative_to(folder / "report")) for path in (folder / "report").rglob("*.*")}
    figures = {
        f"figures/{name}.{end}"
        for name in ("golden-reward", "heatmap", "frontier", "heldout", "curves")
        for end in ("svg", "png", "pdf")
    }
    assert written == {"report.html", "tables/results.parquet", *tables, *figures}


def test_the_page_tells_where_each_model_is(page: Page) -> None:
    """Beside each run's command stands the address of its published model; a run without one has none."""
    assert "Its model: me/tiny-demo@ipo-0.1" in page.text
    assert page.text.count("Its model: ") == 17  # of 18 runs one is pending, which has no command


def test_the_page_loads_nothing(page: Page) -> None:
    """No element refers to anything outside the page, and the page's policy forbids it as well."""
    for tag, attrs in page.elements:
        for name in ("src", "href", "action", "data", "srcset", "poster"):
            assert (attrs.get(name) or "#").startswith(("#", "data:")), (tag, attrs)
    assert "@import" not in str(page.elements)
    assert policy_of(page).startswith("default-src 'none'; script-src 'sha256-")


def test_the_policy_names_exactly_the_pages_scripts(page: Page) -> None:
    """The policy lets the page's own two scripts run, and no other."""
    kinds = [attrs.get("type") for tag, attrs in page.elements if tag == "script"]
    own = [text for text, kind in zip(page.scripts, kinds, strict=True) if kind is None]
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in own]
    assert re.findall(r"'sha256-([^']+)'", policy_of(page)) == hashes
    assert len(hashes) == 2
    assert "unsafe-eval" not in policy_of(page)


def test_the_page_is_small_enough_to_send(folder: Path) -> None:
    """Below 5 MB, with the charts' library in it once."""
    assert (folder / "report" / "report.html").stat().st_size < 5_000_000


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_draws_every_chart(folder: Path, tmp_path: Path) -> None:
    """In the end each still image has given way to its chart, which the policy of the page allows."""
    quiet = ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", *quiet, f"--user-data-dir={tmp_path}"]
    command += ["--virtual-time-budget=5000", "--dump-dom", (folder / "report" / "report.html").as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_WAIT, check=True).stdout
    found = Page(shown).elements
    assert sum(tag == "svg" and attrs.get("class") == "marks" for tag, attrs in found) == 5
    assert not [tag for tag, _ in found if tag == "img"]


def test_the_script_is_bundled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later report reads it from the user's cache; where that cannot be written, it is bundled again."""
    bundled = []

    def bundle() -> str:
        bundled.append(1)
        return "draw()"

    monkeypatch.setattr(look, "_bundle", bundle)
    for cache in (tmp_path / "cache", tmp_path / "cache", Path("/dev/null/none")):
        monkeypatch.setenv("PREFSWEEP_CACHE", str(cache))
        look.script.cache_clear()
        assert look.script() == "draw()"
    look.script.cache_clear()
    assert len(bundled) == 2


def test_every_figure_has_words_for_it(page: Page) -> None:
    """Each chart has a label for those who cannot see it, and a still image with the same words."""
    labels = [attrs["aria-label"] for _, attrs in page.elements if "data-specification" in attrs]
    images = [attrs["alt"] for tag, attrs in page.elements if tag == "img"]
    assert len(labels) == 5
    assert labels == images
    assert all(label and "runs" in label for label in labels)


def test_every_evaluated_run_is_drawn(folder: Path) -> None:
    """The scan plot has a point for each run with a golden reward, and drawing it gives no warning."""
    image = (folder / "report" / "figures" / "golden-reward.svg").read_text(encoding="utf-8")
    assert len(set(re.findall(r"run: ([^;\"]+)", image))) == 15
    assert "WARN" not in (folder / "stderr.txt").read_text()


def test_the_page_says_what_is_missing_and_why(page: Page) -> None:
    """Failed, pending and unevaluated runs are counted and listed with their reasons."""
    assert "16 of 18 runs are trained and 16 evaluated; 1 failed and 1 pending." in page.text
    assert "tiny-sigmoid-beta0.1-0123abcd" in page.text
    assert "CUDA out of memory" in page.text


def test_the_page_shows_generations_beside_the_untrained_models(page: Page) -> None:
    """A prompt's texts stand together: the base's and each run's."""
    assert page.text.count("it was a film") == 2
    assert "kto_pair at 0.5 liked it" in page.text


def test_the_csv_equals_the_input(folder: Path) -> None:
    """Every row is in runs.csv, in order, with its numbers in full."""
    rows = csv_rows(folder)
    given = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()[:-1]]
    assert len(rows) == len(given) == 20
    for row, source in zip(rows, given, strict=True):
        scores = source.get("evaluation") or {}
        for name in ("golden_reward", "kl", "reward_accuracy", "reward_margin"):
            assert row[name] == ("" if scores.get(name) is None else repr(float(scores[name])))
        for name in ("run_id", "status", "beta", "step", "reason"):
            assert row[name] == ("" if source.get(name) is None else str(source[name]))


def test_the_markdown_table_has_a_line_for_each_row(folder: Path) -> None:
    """A header, a rule, and as many cells in each line as in the header."""
    lines = (folder / "report" / "tables" / "runs.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2 + 20
    assert {line.count("|") for line in lines} == {lines[0].count("|")}


def test_the_same_results_make_the_same_report(folder: Path, tmp_path: Path) -> None:
    """Nothing random and no clock is in a report."""
    write_rows(tmp_path, [])
    shutil.copy(folder / "results.jsonl", tmp_path)
    assert command(tmp_path / "results.jsonl", "--output", tmp_path / "there").returncode == 0
    for name in ("tables/runs.csv", "tables/runs.md", "figures/frontier.svg"):
        assert (tmp_path / "there" / name).read_bytes() == (folder / "report" / name).read_bytes()


def test_hostile_results_are_harmless(tmp_path: Path) -> None:
    """Markup, controls, absurd numbers and sizes end up as text on the page, in the figures and in the tables."""
    numbers = {"golden_reward": 1e308, "kl": -math.inf, "reward_accuracy": 7, "reward_margin": math.nan, "pairs": -1}
    curve = [{"step": 1, "loss": 1e308}, {"step": -1, "loss": math.nan}, {"step": "x"}, 5]
    rows = [
        base_row(EVIL, samples=[{"prompt": EVIL, "text": "x" * 100_000}]),
        run_row(EVIL, model=EVIL, run_id=EVIL, sweep=EVIL, command=EVIL, dataset=EVIL, axes={EVIL: EVIL}),
        run_row(model=EVIL, run_id="2", evaluation=numbers, golden_rewards=[1e308, -1e308, 1e308], curve=curve),
        run_row(model=EVIL, run_id="3", beta=math.inf, status=EVIL, reason=EVIL, golden_rewards=[math.nan, None, "a"]),
        run_row("=cmd()", 0, run_id="4", objective={EVIL: [EVIL]}, provenance={EVIL: {EVIL: 10**400}}),
        run_row("\u202e\u0627\u0628 漢字 🙂", -5.0, run_id="5", model="m" * 5000, samples=[{"text": "\ud800"}, None]),
    ]
    page = report_on(tmp_path, rows)
    assert sum(tag == "script" for tag, _ in page.elements) <= 2 + 6
    assert not [attrs for _, attrs in page.elements if any(name.startswith("on") for name in attrs)]
    assert all((attrs.get("src") or "data:").startswith("data:") for _, attrs in page.elements)
    assert "<script>alert(1)</script><img src=http" in page.text
    for name in ("golden-reward", "frontier", "heldout", "curves"):
        assert "<script" not in (tmp_path / "report" / "figures" / f"{name}.svg").read_text(encoding="utf-8")
    table = (tmp_path / "report" / "tables" / "runs.md").read_text(encoding="utf-8")
    assert "<img" not in table
    assert "\\[b\\](javascript:1)" in table
    assert csv_rows(tmp_path)[4]["loss_type"] == "'=cmd()"


def test_nothing_evaluated_is_said_in_sentences(tmp_path: Path) -> None:
    """A sweep that has just begun has a page without figures, and figures of an earlier report are gone."""
    stale = tmp_path / "report" / "figures" / "curves.svg"
    stale.parent.mkdir(parents=True)
    stale.touch()
    page = report_on(tmp_path, [{"kind": "run", "run_id": "a", "status": "PENDING"}])
    assert page.text.count("Nothing to draw yet") == 4
    assert "0 of 1 runs are trained and 0 evaluated; 1 pending." in page.text
    assert "No generations have been recorded yet." in page.text
    assert not stale.exists()


def test_only_an_untrained_model_makes_a_page(tmp_path: Path) -> None:
    """Even without a run there is a report."""
    assert "0 of 0 runs are trained" in report_on(tmp_path, [base_row()]).text


def test_other_axes_get_panels_and_are_said(tmp_path: Path) -> None:
    """Runs that differ in learning rate are not joined by a line, and the reader is told."""
    rows = [
        run_row(beta=beta, run_id=f"{beta}{rate}", axes={"beta": beta, "trainer.learning_rate": rate})
        for beta in (0.1, 0.5)
        for rate in (1e-4, 2e-4)
    ]
    frame = statistics.with_estimates(analysis.load(write_rows(tmp_path, rows)))
    settings = statistics.settings(frame)
    chart = plots.figures(frame, settings, [])[0].chart
    assert chart is not None
    titles = [panel["title"]["text"] for panel in chart["concat"]]
    assert titles == ["tiny · learning_rate=0.0001", "tiny · learning_rate=0.0002"]
    assert any("trainer.learning_rate" in text for text in cautions.cautions(frame, [], settings))


def test_a_panel_narrower_than_its_title_has_it_in_lines() -> None:
    """Model and data set are both read above a heat map of three columns."""
    assert look.panel_title("smollm2-135m · movie-reviews", 192).text == ["smollm2-135m ·", "movie-reviews"]
    assert look.panel_title("smollm2-135m · movie-reviews", 400).text == "smollm2-135m · movie-reviews"


def test_thousands_of_gpu_hours_are_written_out(tmp_path: Path) -> None:
    """With one decimal, not in powers of ten; those of runs that came to nothing are named."""
    rows = [run_row(gpu_hours=1200.0), run_row(beta=0.5, gpu_hours=800.5, status="FAILED")]
    frame = analysis.load(write_rows(tmp_path, rows))
    assert ("GPU-hours", "2000.5, of them 800.5 in runs without a result") in configurations.provenance(frame)


def test_a_difference_within_noise_is_called_so(tmp_path: Path) -> None:
    """The sentence that keeps a reader from seeing an effect where there is none."""
    frame = statistics.with_estimates(analysis.load(write_rows(tmp_path, [base_row(), run_row(lift=0.0)])))
    best = best_settings(statistics.settings(frame))
    assert "the difference is within noise" in summary.findings(frame, winners(best, ()))[0]
    assert not best[0].beyond_noise


def test_losses_differ_by_shape_and_colour() -> None:
    """Nothing is said by colour alone, for as many losses as TRL has."""
    channels = look.loss_channels([f"loss{number}" for number in range(16)])
    ranges = [channels[name].to_dict()["scale"]["range"] for name in ("color", "shape")]
    marks = list(zip(*ranges, strict=True))
    assert len(set(marks)) == 16


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.125, "0.12"),
        (-0.3, f"{MINUS}0.30"),
        (0.0, "0.00"),
        (0.0004, "0.0004"),
        (math.nan, MISSING),
        (math.inf, "inf"),
    ],
)
def test_numbers_are_written_for_reading(value: float, text: str) -> None:
    """Two decimals, a true minus, a small number not rounded to nothing, a dash for the unknown."""
    assert fixed(value) == text


def test_differences_and_durations_are_written_for_reading() -> None:
    """A difference has its sign, a duration its unit."""
    assert [signed(0.1), signed(-0.1)] == ["+0.10", f"{MINUS}0.10"]
    assert [duration(65), duration(600), duration(7 * 3600)] == ["65 s", "10 min", "7.0 h"]
