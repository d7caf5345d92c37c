"""Several grids in a sweep file: their points one after another, what the command line adds, what each loss gets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import sweep_of
from fakes import FakeScheduler, submit

from launcher.cli import main
from launcher.errors import ConfigError, UsageError
from launcher.machine.installed import data_dir, trl_losses
from launcher.planning import conf_places
from launcher.planning.budget import Budget, budgets
from launcher.planning.compose import compose
from launcher.planning.launches import recorded_sweep
from launcher.store.output_folder import Store
from launcher.submission.decide import Action
from launcher.sweep import Sweep
from launcher.views.budget import budget_lines

TWO = """\
overrides: {model: tiny, trainer: full}
grid: {seed: [1, 2]}
grids:
  - {loss_type: [sigmoid, ipo], beta: [0.1, 0.2]}
  - {loss_type: hinge, beta: 'range(2,4)', trainer.learning_rate: 1e-5}
"""
Write = Callable[[str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write the sweep file `mine`."""
    folder = tmp_path / "sweeps"
    folder.mkdir()
    monkeypatch.setattr(conf_places, "data_dir", lambda name: folder if name == "sweeps" else data_dir(name))
    monkeypatch.chdir(tmp_path)

    def written(text: str) -> None:
        (folder / "mine.yaml").write_text(text)

    return written


def points(*argv: str) -> list[tuple[Any, ...]]:
    """Loss, beta, learning rate and seed of each point of the file `mine`."""
    _, found = compose(["+sweeps=mine", *argv], multirun=True)
    configs = [point.config for point in found]
    return [(c["loss_type"], c["beta"], c["trainer"]["learning_rate"], c["seed"]) for c in configs]


def notes(*argv: str) -> list[str]:
    return compose(["+sweeps=mine", *argv], multirun=True)[0].notes


def test_a_union_of_grids_in_the_order_of_the_file(write: Write) -> None:
    """Each grid's points after those of the one before; what stands beside `grids` holds for, or multiplies, each."""
    write(TWO)
    grids, found = compose(["+sweeps=mine"], multirun=True)
    assert points() == [
        *((loss, beta, 2e-5, seed) for seed in (1, 2) for loss in ("sigmoid", "ipo") for beta in (0.1, 0.2)),
        *(("hinge", beta, 1e-5, seed) for seed in (1, 2) for beta in (2.0, 3.0)),
    ]
    assert grids.varied == ["seed", "loss_type", "beta", "trainer.learning_rate"]
    assert {point.config["model"]["name"] for point in found} == {"tiny"}
    assert found[-1].axes == {"seed": 2, "loss_type": "hinge", "beta": 3.0, "trainer.learning_rate": 1e-5}
    assert (grids.name, grids.notes) == ("mine", [])


def test_a_point_of_several_grids_is_that_of_its_own_command(write: Write) -> None:
    """The same run id as the overrides that it names give alone, and as the same grid alone gives."""
    write(TWO)
    runs = sweep_of("+sweeps=mine").runs
    assert [sweep_of(*run.overrides).runs[0].run_id for run in runs] == [run.run_id for run in runs]
    alone = sweep_of("model=tiny", "trainer=full", "seed=1,2", "loss_type=sigmoid,ipo", "beta=0.1,0.2")
    assert {run.run_id for run in alone.runs} < {run.run_id for run in runs}


def test_each_grid_has_its_own_zip_and_exclude(write: Write) -> None:
    """What one leaves out another may have; what stands beside `grids` is left out of each."""
    write(
        "overrides: {model: tiny, trainer: full}\n"
        "exclude: [{beta: 9}]\n"
        "grids:\n"
        "  - {loss_type: [sigmoid, ipo], beta: [0.1, 0.2, 9], exclude: [{loss_type: ipo, beta: 0.10}]}\n"
        "  - loss_type: hinge\n"
        "    zip:\n      - {beta: [0.1, 0.2, 9], trainer.learning_rate: [1e-3, 1e-4, 1e-5]}\n"
    )
    assert points() == [
        *(("sigmoid", beta, 2e-5, 42) for beta in (0.1, 0.2)),
        ("ipo", 0.2, 2e-5, 42),
        *(("hinge", 0.1, 1e-3, 42), ("hinge", 0.2, 1e-4, 42)),
    ]


@pytest.mark.parametrize(("axis", "excluded"), [("[1.0, 2.5]", "1"), ("[1, 2.5]", "1.0"), ("[1e0, 2.5]", "1")])
def test_an_exclude_takes_a_number_however_it_is_written(write: Write, axis: str, excluded: str) -> None:
    """A whole one with or without its point."""
    write(f"overrides: {{model: tiny}}\nexclude: [{{beta: {excluded}}}]\ngrid: {{beta: {axis}}}\n")
    assert [beta for _, beta, _, _ in points()] == [2.5]
    assert notes() == []


def test_an_exclude_that_leaves_out_nothing_is_said(write: Write) -> None:
    """No grid has that combination; one that leaves out a row of a zip, or a point of one grid alone, does its work."""
    write(
        "overrides: {model: tiny, trainer: full}\n"
        "exclude: [{beta: 3}, {loss_type: ipo, seed: 1}, {beta: 0.2, trainer.learning_rate: 1e-4}]\n"
        "grids:\n"
        "  - {loss_type: ipo, seed: [1, 2]}\n"
        "  - loss_type: hinge\n"
        "    zip: [{beta: [0.1, 0.2], trainer.learning_rate: [1e-3, 1e-4]}]\n"
    )
    assert notes() == ["exclude: {beta: 3} leaves out no run: no combination has it"]
    assert points() == [("ipo", 0.1, 2e-5, 2), ("hinge", 0.1, 1e-3, 42)]


def test_a_losses_own_key_holds_for_the_grids_that_name_it(write: Write) -> None:
    """Typed beside the file; one that no grid names holds for all, and a loss that does not take it is refused."""
    write(
        "overrides: {model: tiny, trainer: full}\n"
        "grids:\n  - {loss_type: sigmoid, beta: 0.1}\n  - {loss_type: simpo, beta: 2, loss.gamma: [0.5, 1]}\n"
    )
    _, found = compose(["+sweeps=mine", "loss.gamma=3"], multirun=True)
    assert [(point.config["loss_type"], point.config["loss"]["gamma"]) for point in found] == [
        ("sigmoid", None),
        ("simpo", 3.0),
    ]
    said = "as given holds in place of what each grid of sweeps/mine.yaml says of it"
    assert notes("loss.gamma=3") == [f"loss.gamma {said}"]
    assert notes("loss_type=simpo", "loss.gamma=3")[1:] == [f"loss.gamma {said}"]
    with pytest.raises(ConfigError, match=r"loss\.tau=0\.1: only loss_type=discopop takes it"):
        sweep_of("+sweeps=mine", "loss.tau=0.1")


def test_runs_of_two_grids_that_differ_in_what_is_not_trained_are_told_apart(write: Write) -> None:
    """The key in which they differ is named."""
    write(
        "overrides: {model: tiny, trainer: full, loss_type: ipo}\n"
        "grids:\n  - {beta: 0.1}\n  - {beta: [0.1, 0.2], hub.revision: 'x${beta}'}\n"
    )
    with pytest.raises(UsageError, match=r"have this id and differ in hub\.revision; it is no part of what is trained"):
        sweep_of("+sweeps=mine")


def test_what_a_grid_says_takes_the_place_of_what_stands_beside_it(write: Write) -> None:
    """In that grid alone, and as one value, not as a second axis."""
    write(
        "overrides: {model: tiny, trainer: full, trainer.learning_rate: 1e-3}\ngrid: {beta: [0.1, 0.2]}\n"
        "grids:\n  - {loss_type: ipo}\n  - {loss_type: hinge, beta: 1.0, trainer.learning_rate: 1e-4}\n"
    )
    assert points() == [("ipo", 0.1, 1e-3, 42), ("ipo", 0.2, 1e-3, 42), ("hinge", 1.0, 1e-4, 42)]


def test_a_setting_of_one_grid_is_no_axis(write: Write) -> None:
    """How its runs are made and where they go may be each grid's own: that makes no runs, so it is no axis."""
    write(
        "overrides: {model: tiny, trainer: full}\n"
        "grids:\n  - {loss_type: ipo, cluster.mem: 1G, hub.revision: '${loss_type}-x${beta}'}\n"
        "  - {loss_type: hinge, beta: [0.1, 0.2], hub.revision: '${loss_type}-${beta}'}\n"
    )
    sweep = sweep_of("+sweeps=mine")
    assert sweep.axes == ("loss_type", "beta")
    assert [run.config.cluster.mem for run in sweep.runs] == ["1G", None, None]
    assert [run.config.hub.revision for run in sweep.runs] == ["ipo-x0.1", "hinge-0.1", "hinge-0.2"]


def test_a_run_of_two_grids_is_one_run(write: Write) -> None:
    """Where the file has it first; those dropped are counted."""
    write(
        "overrides: {model: tiny, trainer: full}\n"
        "grids:\n  - {loss_type: ipo, beta: [0.2, 0.1]}\n  - {loss_type: [hinge, ipo], beta: [0.1]}\n"
    )
    sweep = sweep_of("+sweeps=mine")
    assert sweep.duplicates == 1
    assert [(r.config.loss_type, r.config.beta) for r in sweep.runs] == [("ipo", 0.2), ("ipo", 0.1), ("hinge", 0.1)]


def test_text_in_a_grid_stays_what_was_typed(write: Write) -> None:
    """As in the rest of a sweep file: 1.10 is a revision where a revision is wanted, also in a zip and an exclude."""
    write(
        "overrides: {model: tiny, trainer: full}\n"
        "grids:\n  - {model.revision: [1.10, 010]}\n  - {beta: 0.3, zip: [{model.revision: [1.10, 1.1], seed: [1, 2]}],"
        " exclude: [{model.revision: 1.1}]}\n"
    )
    found = [point.config["model"]["revision"] for point in compose(["+sweeps=mine"], multirun=True)[1]]
    assert found == ["1.10", "010", "1.10"]


def test_an_axis_of_the_command_line_multiplies_every_grid(write: Write) -> None:
    """A key that the file leaves alone; nothing needs to be said."""
    write(TWO)
    grown = points("trainer.weight_decay=0,0.1")
    assert len(grown) == 2 * len(points())
    assert notes("trainer.weight_decay=0,0.1") == []


def test_what_is_typed_holds_for_every_run(write: Write) -> None:
    """In place of what the file says: of what stands beside the grids as ever, of a grid's own with a word on it."""
    write(TWO)
    assert {seed for *_, seed in points("seed=7")} == {7}
    assert notes("seed=7") == []
    assert {beta for _, beta, *_ in points("beta=0.5")} == {0.5}
    assert notes("beta=0.5") == ["beta as given holds in place of what each grid of sweeps/mine.yaml says of it"]
    assert len(points("beta=0.5")) == 3 * 2  # of each loss and seed one


def test_a_loss_of_the_command_line_chooses_among_the_grids(write: Write) -> None:
    """Where they have losses of their own: other values there were chosen for these; what is left out is said."""
    write(TWO)
    assert {loss for loss, *_ in points("loss_type=ipo,hinge")} == {"ipo", "hinge"}
    assert points("loss_type=ipo,hinge") == [each for each in points() if each[0] != "sigmoid"]
    assert points("loss_type=dpo") == [each for each in points() if each[0] == "sigmoid"]
    said = "loss_type=hinge leaves out 1 of the 2 grids of sweeps/mine.yaml, which are of other losses"
    assert notes("loss_type=hinge") == [said]
    with pytest.raises(
        ConfigError, match=r"loss_type=sft: no grid of sweeps/mine.yaml has it; .*: sigmoid, ipo, hinge"
    ):
        points("loss_type=hinge,sft")


def test_a_loss_that_is_zipped_is_chosen_with_what_varies_with_it(write: Write) -> None:
    """Of axes that vary together the values of that loss remain."""
    write(
        "overrides: {model: tiny, trainer: full}\n"
        "grids:\n  - {zip: [{loss_type: [sigmoid, ipo, sigmoid], beta: [0.1, 0.2, 0.3]}]}\n  - {loss_type: hinge}\n"
    )
    assert [each[:2] for each in points("loss_type=sigmoid,hinge")] == [
        *(("sigmoid", 0.1), ("sigmoid", 0.3), ("hinge", 0.1)),
    ]


def test_a_loss_of_the_command_line_is_an_axis_where_grids_name_none(write: Write) -> None:
    """They differ in something else then, and each gets all losses."""
    write("overrides: {model: tiny, trainer: full}\ngrids: [{beta: 0.1, seed: 1}, {beta: 0.2, seed: 2}]\n")
    assert [each[:2] for each in points("loss_type=ipo,hinge")] == [
        *(("ipo", 0.1), ("hinge", 0.1), ("ipo", 0.2), ("hinge", 0.2)),
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("grids: {beta: [1]}\n", r"grids: needs a list of grids"),
        ("grids: []\n", r"grids: needs a list of grids"),
        ("grids: [{beta: 0.1}, {}]\n", r"grids\[1\]: says nothing of a run"),
        ("grids: [{beta: 0.1}, beta]\n", r"grids\[1\]: says nothing of a run"),
        ("grids: [{beta: 0.1}, {beta: []}]\n", r"grids\[1\]: has no run"),
        ("grids: [{beta: 0.1, exclude: [{beta: 0.1}]}]\n", r"grids\[0\]: has no run"),
        ("exclude: [{beta: 0.2}]\ngrids: [{beta: 0.1}, {beta: 0.2}]\n", r"grids\[1\]: has no run"),
        ("grids: [{beta: 0.1}, {grid: {beta: 0.1}}]\n", r"grids\[1\]\.grid: the axes of a grid stand in it"),
        ("grids: [{overrides: {beta: 0.1}}]\n", r"grids\[0\]\.overrides: the axes"),
        ("grids: [{beta: 0.1}, {beto: 0.1}]\n", r"beto=0.1: no such key \(did you mean 'beta'"),
        ("grids: [{trainer.learning_rat: [1, 2]}]\n", r"trainer.learning_rat=1: no such key \(did you mean"),
        ("grids: [{zip: {beta: [1, 2]}}]\n", r"grids\[0\]\.zip: needs a list of mappings"),
        ("grids: [{beta: 0.1, exclude: [0.1]}]\n", r"grids\[0\]\.exclude: needs a list of mappings"),
        ("grids: [{beta: 1}, {zip: [{beta: [1, 2], seed: [1]}]}]\n", r"grids\[1\]\.zip\[0\]: .* equally many"),
        ("zip: {beta: [1, 2]}\n", r"zip: needs a list of mappings"),
        ("grids: [{beta: 'range(1,60000)'}, {beta: 'range(1,60000)'}]\n", r"more than 100,000 combinations"),
    ],
)
def test_wrong_grids_are_one_clear_line(
    write: Write, content: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where it is, and what would be right; exit code 2, and nothing was written."""
    write(f"overrides: {{model: tiny, trainer: full}}\n{content}")
    with pytest.raises(UsageError, match=words):
        compose(["+sweeps=mine"], multirun=True)
    assert main.main(["-m", "+sweeps=mine"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not Path("outputs").exists()


def test_a_launch_is_recorded_and_grows(write: Write, store: Store) -> None:
    """Launching again submits nothing, another beta joins the sweep, and the record gives the same runs again."""
    write(TWO)
    scheduler, sweep = FakeScheduler(), sweep_of("+sweeps=mine")
    assert [each.action for each in submit(sweep, store, scheduler, [])] == [Action.SUBMIT] * 12
    assert [each.action for each in submit(sweep, store, scheduler, [])] == [Action.SKIP] * 12
    more = sweep_of("model=tiny", "trainer=full", "loss_type=ipo", "beta=0.3", "seed=1,2", "sweep=mine")
    assert [each.action for each in submit(more, store, scheduler, [])] == [Action.SUBMIT] * 2
    directory = store.sweep("mine")
    again = recorded_sweep(directory, store, trl_losses())
    assert again.axes == ("seed", "loss_type", "beta", "trainer.learning_rate")
    assert [run.run_id for run in again.runs] == [run.run_id for run in (*sweep.runs, *more.runs)]
    assert [run.objective for run in again.runs] == [run.objective for run in (*sweep.runs, *more.runs)]
    assert [(b.loss_type, b.settings, b.runs) for b in budgets(again.runs)] == [
        *(("sigmoid", 2, 4), ("ipo", 3, 6), ("hinge", 2, 4)),
    ]
    write("overrides: {beta: 0.1}\n")  # what the file says by now does not matter to runs that are there
    assert recorded_sweep(directory, store, trl_losses()) == again


def test_the_plan_states_the_budget(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    """Settings and seeds of each loss: a line below the table, and its numbers in the JSON."""
    write(TWO)
    assert main.main(["-m", "+sweeps=mine", "dry_run=true"]) == 0
    printed = capsys.readouterr().out
    assert "\nbudget: 2 settings x 2 seeds for each of sigmoid, ipo, hinge\n" in printed
    assert main.main(["-m", "+sweeps=mine", "dry_run=true", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["budget"] == [
        {"model": "tiny", "dataset": "movie-reviews", "loss_type": loss, "settings": 2,
         "fewest_seeds": 2, "most_seeds": 2, "runs": 4}
        for loss in ("sigmoid", "ipo", "hinge")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("argv", "lines"),
    [
        (["loss_type=ipo", "beta=0.1,0.2"], []),
        (["loss_type=ipo,hinge"], ["budget: 1 setting x 1 seed for each of ipo, hinge"]),
        (
            ["model=tiny,qwen_0_6b", "loss_type=ipo,hinge", "seed=1,2"],
            ["budget on each of 2 models: 1 setting x 2 seeds for each of ipo, hinge"],
        ),
    ],
)
def test_the_budget_in_words(argv: list[str], lines: list[str]) -> None:
    """Of one loss nothing is compared; of several models it is said once where they have the same."""
    more = () if argv[0].startswith("model") else ("model=tiny",)
    assert budget_lines(sweep_of("trainer=full", *more, *argv)) == lines


def test_unequal_budgets_are_said_in_the_plan(write: Write) -> None:
    """Which loss has how much, and what follows of it; seeds that are not the same for all settings, too."""
    write(
        "overrides: {model: tiny, trainer: full}\ngrids:\n"
        "  - {loss_type: [sigmoid, hinge], beta: [0.1, 0.2], seed: [1, 2]}\n"
        "  - {loss_type: ipo, beta: [0.1, 0.2, 0.3]}\n  - {loss_type: ipo, beta: 0.1, seed: 1}\n"
    )
    sweep = sweep_of("+sweeps=mine")
    assert budgets(sweep.runs)[2] == Budget("tiny", "movie-reviews", "ipo", 3, 1, 2, 4)
    (line,) = budget_lines(sweep)
    assert line.startswith("budget: sigmoid, hinge 2 settings x 2 seeds; ipo 3 settings x 1 to 2 seeds. ")
    assert line.endswith("These are not equal: the best of more settings scores higher by chance alone")


def test_budgets_that_differ_between_models_are_said_of_each(write: Write) -> None:
    """A line for each model with its data."""
    write(
        "overrides: {trainer: full, trainer.learning_rate: 1e-5, trainer.max_length: 64}\ngrids:\n"
        "  - {model: tiny, loss_type: [ipo, hinge]}\n"
        "  - {model: qwen_0_6b, loss_type: [ipo, hinge], beta: [0.1, 0.2]}\n"
    )
    assert budget_lines(sweep_of("+sweeps=mine")) == [
        "budget on tiny with movie-reviews: 1 setting x 1 seed for each of ipo, hinge",
        "budget on qwen3-0.6b with movie-reviews: 2 settings x 1 seed for each of ipo, hinge",
    ]


def test_a_key_that_one_grid_alone_sets_is_blank_elsewhere(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    """In the plan's table; in the record it is null."""
    write(
        "overrides: {model: tiny, trainer: full}\n"
        "grids: [{loss_type: sigmoid, trainer.ld_alpha: 0.5}, {loss_type: ipo, beta: 0.2}]\n"
    )
    sweep: Sweep = sweep_of("+sweeps=mine")
    assert [run.axes["trainer.ld_alpha"] for run in sweep.runs] == [0.5, None]
    assert main.main(["-m", "+sweeps=mine", "dry_run=true"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("tiny-")]
    assert ["0.5" in rows[0].split(), "None" in rows[1]] == [True, False]


def test_keys_of_losses_share_a_column(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    """Where several are axes: each run has few of them. One alone has its own."""
    write(
        "overrides: {model: tiny, trainer: full}\n"
        "grids: [{loss_type: simpo, zip: [{beta: [2, 5], loss.gamma: [1, 2.5]}]}, {loss_type: orpo, loss.lam: 0.3}]\n"
    )
    assert main.main(["-m", "+sweeps=mine", "dry_run=true"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("keys of the loss" in line and "loss.gamma" not in line for line in lines if line.startswith("run "))
    rows = [line for line in lines if line.startswith("tiny-")]
    assert ["gamma=1 " in rows[0], "gamma=2.5 " in rows[1], "lam=0.3 " in rows[2]] == [True] * 3
    write("overrides: {model: tiny, trainer: full, loss_type: simpo}\ngrid: {loss.gamma: [1, 2.5]}\n")
    assert main.main(["-m", "+sweeps=mine", "dry_run=true"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("loss.gamma" in line for line in lines if line.startswith("run "))
