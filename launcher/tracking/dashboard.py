"""The dashboard of a sweep: a W&B workspace and report, or a local trackio or TensorBoard server on loopback.

Owns: what the dashboard of a preference-tuning sweep shows; the libraries that make or serve it.
Must not know: how a run is tracked; schedulers. It is told the sweep's losses and settings, no run folder is read.

The library has no public way to write a definition to a file, so `_to_model` (what its `save` sends) is used for that.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.config import Tracking
from launcher.errors import UsageError
from launcher.machine.accounts import installed, lacks_login, project
from launcher.machine.terminal import complain
from launcher.store.files import write_derived
from launcher.store.output_folder import SweepDir
from launcher.tracking.trackio_tracker import set_trackio_environment

LOOPBACK = "127.0.0.1"
CURVES = ("reward_accuracy", "reward_margin", "loss", "chosen_reward", "rejected_reward", "grad_norm")
SCORES = ("reward_accuracy", "reward_margin", "kl", "loss", "golden_reward")
BEST = ("eval/golden_reward", "eval/reward_accuracy")


@dataclass(frozen=True)
class Page:
    """What the dashboard is about.

    Attributes:
        sweep: its name: W&B's group.
        losses: its loss types, in order.
        runs: how many it has; the library would show ten.
        tracking: the tracking section with which it was launched last.
    """

    sweep: str
    losses: tuple[str, ...]
    runs: int
    tracking: Tracking

    @classmethod
    def of(cls, directory: SweepDir) -> Page:
        """The page of a sweep, from what its launches recorded."""
        records = [record for launch in directory.launches() for record in launch.runs]
        if not records:
            raise UsageError(f"{directory.name}: has no run yet, so no dashboard")
        tracking = Tracking(**records[-1].settings.get("tracking", {}))
        losses = tuple(dict.fromkeys(record.loss_type for record in records))
        return cls(directory.name, losses, len({record.run_id for record in records}), tracking)

    @property
    def project(self) -> str:
        """The project in W&B's words."""
        return self.tracking.project or project()


# ------------------------------------------------------------------------------------------------ W&B


def publish(page: Page, directory: SweepDir) -> list[str]:
    """Save the workspace and the report to W&B where there is an account; returns their addresses.

    Without one, or where W&B does not take them, their definitions become files in the sweep's folder.

    Raises:
        UsageError: wandb-workspaces is not installed.
    """
    _library("wandb_workspaces.workspaces", "wandb")
    if lacking := lacks_login():
        return _write(page, directory, lacking)
    try:
        with _quiet_wandb():
            entity = page.tracking.entity or _library("wandb", "wandb").Api().default_entity
            parts = [workspace(page, entity), report(page, entity)]
            return [part.save().url for part in parts]
    except Exception as error:  # noqa: BLE001 - the library raises whatever its HTTP client, or a null in an answer, does
        return _write(page, directory, f"W&B did not take the dashboard ({type(error).__name__}: {error})")


def _write(page: Page, directory: SweepDir, reason: str) -> list[str]:
    entity, lines = page.tracking.entity or "", [f"{reason}; its definition is written:"]
    for name, part in (("workspace", workspace(page, entity)), ("report", report(page, entity, saved=False))):
        path = directory.tracking / f"wandb-{name}.json"
        write_derived(path, part._to_model().model_dump_json(by_alias=True, exclude_none=True, indent=1))  # noqa: SLF001
        lines.append(str(path))
    return lines


@contextlib.contextmanager
def _quiet_wandb() -> Iterator[None]:
    """Within, wandb says nothing and asks nothing."""
    before = os.environ.get("WANDB_SILENT")
    os.environ["WANDB_SILENT"] = "true"
    try:
        yield
    finally:
        os.environ.pop("WANDB_SILENT")
        if before is not None:
            os.environ["WANDB_SILENT"] = before


def workspace(page: Page, entity: str) -> Any:
    """The sweep's view of its project: curves, scores by beta, parallel coordinates, of this sweep's runs only."""
    workspaces, filters = (_library(name, "wandb") for name in ("wandb_workspaces.workspaces", "wandb_workspaces.expr"))
    sections = {"Training": _curves(page), "By beta": _by_beta(), "All axes": [_parallel()]}
    return workspaces.Workspace(
        entity=entity,
        project=page.project,
        name=page.sweep,
        sections=[workspaces.Section(name=name, panels=panels, is_open=True) for name, panels in sections.items()],
        settings=workspaces.WorkspaceSettings(x_axis="train/step", max_runs=page.runs),
        runset_settings=workspaces.RunsetSettings(filters=filters.And(filters.Metric("Group") == page.sweep)),
    )


def report(page: Page, entity: str, *, saved: bool = True) -> Any:
    """The sweep's report: the best runs, all axes at once, then each loss type with its curves and scores by beta.

    Without `saved`, the run sets name no project: naming one asks the server for its number.
    """
    reports = _library("wandb_workspaces.reports.v2", "wandb")

    def grid(title: str, panels: Sequence[Any], **only: str) -> list[Any]:
        runs = _runs_of(page, entity if saved else "", title, only)
        return [reports.H2(title), reports.PanelGrid(runsets=[runs], panels=list(panels))]

    blocks = grid("Best runs", [_bars(score) for score in SCORES]) + grid("All axes", [_parallel()])
    for loss in page.losses:
        blocks += grid(f"loss_type={loss}", [*_curves(page), *_by_beta()], loss_type=loss)
    return reports.Report(entity=entity, project=page.project, title=page.sweep, blocks=blocks, width="fluid")


def _runs_of(page: Page, entity: str, name: str, only: dict[str, str]) -> Any:
    """The sweep's runs, those with the best scores first."""
    reports, filters = (_library(name, "wandb") for name in ("wandb_workspaces.reports.v2", "wandb_workspaces.expr"))
    wanted = [filters.Metric("Group") == page.sweep, *(filters.Config(key) == value for key, value in only.items())]
    return reports.Runset(
        entity=entity,
        project=page.project if entity else "",
        name=name,
        filters=filters.And(*wanted),
        order=[reports.OrderBy(reports.SummaryMetric(score)) for score in BEST],
        pinned_columns=["config:beta.value", *(f"summary:eval/{score}" for score in SCORES)],
    )


def _curves(page: Page) -> list[Any]:
    reports = _library("wandb_workspaces.reports.v2", "wandb")
    shown: dict[str, Any] = {"legend_template": "${config:beta} ${run:name}", "max_runs_to_show": page.runs}
    return [reports.LinePlot(title=name, x="train/step", y=[f"train/{name}"], **shown) for name in CURVES]


def _by_beta() -> list[Any]:
    reports = _library("wandb_workspaces.reports.v2", "wandb")
    beta = reports.Config("beta")
    return [
        reports.ScatterPlot(title=f"{name} by beta", x=beta, y=reports.SummaryMetric(f"eval/{name}"), log_x=True)
        for name in SCORES
    ]


def _bars(score: str) -> Any:
    reports = _library("wandb_workspaces.reports.v2", "wandb")
    return reports.BarPlot(title=score, metrics=[reports.SummaryMetric(f"eval/{score}")], orientation="h")


def _parallel() -> Any:
    reports = _library("wandb_workspaces.reports.v2", "wandb")
    column, keys = reports.ParallelCoordinatesPlotColumn, ("model.name", "loss_type", "trainer.learning_rate", "seed")
    columns = [column(reports.Config("beta"), log=True), *(column(reports.Config(key)) for key in keys)]
    columns += [column(reports.SummaryMetric(f"eval/{score}")) for score in SCORES]
    return reports.ParallelCoordinatesPlot(title="All axes", columns=columns)


# ------------------------------------------------------------------------------------------------ local servers


def serve(page: Page, directory: SweepDir, port: int | None, *, browser: bool) -> str:
    """Start the local dashboard of trackio or TensorBoard in this process, on loopback; returns its address.

    Raises:
        UsageError: nothing has been tracked yet, the port is taken, or the library is not installed.
    """
    folder = directory.tracking / page.tracking.backend
    if not folder.is_dir():
        raise UsageError(f"{page.sweep}: nothing in {folder} yet; its runs write it once they train")
    port = port or None  # 0 is any that is free, which a library need not know
    if port is not None and not _is_free(port):
        raise UsageError(f"--port {port}: something listens there already; give another, or none to have one chosen")
    return SERVERS[page.tracking.backend](page, folder, port, browser=browser)


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, port))
        except (OSError, OverflowError):
            return False
    return True


def _serve_trackio(page: Page, folder: Path, port: int | None, *, browser: bool) -> str:
    if left_out := set_trackio_environment(folder.absolute()):
        complain(left_out)
    trackio = _library("trackio", "trackio")
    project = page.tracking.project or page.sweep
    with _quiet():
        _, address, _, _ = trackio.show(
            project=project,
            open_browser=browser,
            block_thread=False,
            host=LOOPBACK,
            share=False,
            server_port=port,
        )
    return f"{address.rstrip('/')}/?project={project}"  # without the token that lets it delete runs


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Within, a library prints nothing: we say where the page is."""
    with Path(os.devnull).open("w", encoding="utf-8") as nothing, contextlib.redirect_stdout(nothing):
        yield


def _serve_tensorboard(page: Page, folder: Path, port: int | None, *, browser: bool) -> str:
    server = _library("tensorboard.program", "tensorboard").TensorBoard()
    arguments = ["--logdir", str(folder), "--host", LOOPBACK, "--window_title", page.sweep]
    server.configure(argv=["tensorboard", *arguments, *(["--port", str(port)] if port is not None else [])])
    address: str = server.launch()
    if browser:
        importlib.import_module("webbrowser").open(address)
    return address


# Who serves the page of a tracker whose files lie here.
SERVERS = {"trackio": _serve_trackio, "tensorboard": _serve_tensorboard}


def _library(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(f"dashboard: {error}; pip install 'prefsweep[{extra}]'") from error


def has_tracker(directory: SweepDir) -> bool:
    """Whether the sweep was tracked by something that has pages: `auto` is W&B where its package and a login are here.

    Raises:
        UsageError: the sweep has no run yet.
    """
    backend = Page.of(directory).tracking.backend
    if backend == "auto":
        return installed("wandb") and lacks_login() is None
    return backend != "off"


def open_dashboard(directory: SweepDir, port: int | None, *, browser: bool) -> tuple[list[str], bool]:
    """Make or start the dashboard of the tracker with which the sweep was launched last.

    Returns:
        What to tell the user, and whether a server now runs in this process.

    Raises:
        UsageError: it cannot be made, with what there is instead.
    """
    page = Page.of(directory)
    if page.tracking.backend in SERVERS:
        return [serve(page, directory, port, browser=browser)], True
    return publish(page, directory), False
