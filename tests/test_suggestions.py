"""Names of losses: what a method is called elsewhere, what is here instead, and what a typo means."""

from __future__ import annotations

import pytest
from conftest import sweep_of

from launcher.errors import UsageError, near_choice, suggestion
from launcher.losses import OUR_LOSSES, what_instead
from launcher.machine.installed import KNOWN_TRL_LOSSES, data_dir
from launcher.planning import conf_places
from launcher.planning.compose import compose
from launcher.planning.planned_runs import plan, plan_run
from launcher.planning.prerequisites import check_sources

LOSSES = sorted({*KNOWN_TRL_LOSSES, *OUR_LOSSES})


@pytest.mark.parametrize(
    "method",
    ["slic", "rso", "grpo", "ppo", "GRPO", "tdpo", "slic-hf", "wpo", "rpo", "bco"],
)
def test_a_method_is_not_taken_for_another(method: str) -> None:
    """Names of methods are spelt alike by nature; what is here instead is said, or that there is nothing."""
    said = what_instead(method, LOSSES)
    assert said
    assert "did you mean" not in said


@pytest.mark.parametrize("unknown", ["zpo", "qdpo", "xkto", "hpo", "apo2", "focal", "tipo", "oprpo"])
def test_no_loss_is_guessed_for_an_unknown_name(unknown: str) -> None:
    """It may be a method that we have not heard of."""
    assert "did you mean" not in what_instead(unknown, LOSSES)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        *(("sigmiod", "sigmoid"), ("sigmod", "sigmoid"), ("SIGMOID", "sigmoid"), ("IPO", "ipo"), ("DPO", "dpo")),
        *(("ktopair", "kto_pair"), ("kto-pair", "kto_pair"), ("hing", "hinge"), ("ippo", "ipo"), ("robsut", "robust")),
        *(("simop", "simpo"), ("SimPO", "simpo"), ("simmpo", "simpo"), ("orrpo", "orpo"), ("CPO", "cpo")),
    ],
)
def test_a_typo_is_told(typed: str, meant: str) -> None:
    """Letters in another order, one missing or doubled, another case; in long names also more."""
    assert what_instead(typed, LOSSES) == f" (did you mean {meant!r}?)"


def test_what_a_method_has_instead() -> None:
    """TRL's own name of the loss, where it has it."""
    assert "loss_type=hinge" in what_instead("slic", LOSSES)
    assert "loss_type=bco_pair" in what_instead("bco", LOSSES)
    assert "loss_type=sigmoid+sft with loss.weights" in what_instead("rpo", LOSSES)
    assert "is no loss here: that method's loss is not computed" in what_instead("rebell", LOSSES)


def planned(*argv: str, multirun: bool = True) -> tuple[list[str], int, list[str]]:
    grid, points = compose(argv, multirun=multirun)
    sweep = plan([plan_run(p.config, p.axes, p.overrides, LOSSES) for p in points], grid.varied, grid.name)
    return [run.run_id for run in sweep.runs], sweep.duplicates, grid.notes


def test_dpo_is_sigmoid(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same run, by whichever name, on the command line and in a sweep file; given both, one is a duplicate."""
    ids, _, notes = planned("loss_type=sigmoid")
    assert notes == []
    assert planned("loss_type=dpo") == (ids, 0, ["loss_type=dpo is loss_type=sigmoid, as TRL calls it"])
    both, duplicates, _ = planned("loss_type=dpo,sigmoid,ipo")
    assert (both[0], len(both), duplicates) == (ids[0], 2, 1)
    folder = tmp_path_factory.mktemp("sweeps")
    monkeypatch.setattr(conf_places, "data_dir", lambda name: folder if name == "sweeps" else data_dir(name))
    (folder / "mine.yaml").write_text(
        "grid: {loss_type: [dpo, ipo], beta: [0.1, 0.2]}\nexclude:\n  - {loss_type: dpo, beta: 0.2}\n"
    )
    found, _, notes = planned("+sweeps=mine")
    assert (found[0], len(found), len(notes)) == (ids[0], 3, 1)
    assert planned("+sweeps=mine", "loss_type=ipo")[2] == []
    (folder / "mine.yaml").write_text("zip:\n  - {loss_type: [dpo, ipo], beta: [0.1, 0.2]}\n")
    found, _, notes = planned("+sweeps=mine")
    assert (found[0], len(notes)) == (ids[0], 1)


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        *(("lr", "learning_rate"), ("choosen", "chosen"), ("max_len", None), ("xyz", None)),
    ],
)
def test_words_of_a_plain_list(wrong: str, meant: str | None) -> None:
    """Keys of one section, without its name."""
    known = ("learning_rate", "lora", "chosen", "rejected")
    assert suggestion(wrong, known) == (f" (did you mean {meant!r}?)" if meant else "")


OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "adafactor", "grokadamw", "lion_8bit", "adamax_x", "sgd", "rmsprop")
CHOICES = (*OPTIMIZERS, "float32", "bfloat16", "4bit", "zero2", "lora", "llama_1b", "sdpa", "flash_attention_2")


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        *(("adamw", "adamw_torch"), ("AdamW_Torch", "adamw_torch"), ("adamw-torch", "adamw_torch")),
        *(("adafacter", "adafactor"), ("sdap", "sdpa"), ("rmsporp", "rmsprop"), ("lion", "lion_8bit")),
        *(("flash_attention", "flash_attention_2"), ("LORA", "lora"), ("adamw_torhc", "adamw_torch")),
        *(("float16", None), ("8bit", None), ("qlora", None), ("zero1", None), ("llama_3b", None), ("", None)),
        *(("flash_attention_1", None), ("nadam", None), ("adam", None), ("lamb", None), ("lion_32bit", None)),
        *(("stable_adamw", None), ("smol", None), ("bfloat", "bfloat16"), ("llama", "llama_1b"), ("ada", None)),
    ],
)
def test_no_choice_is_taken_for_another(wrong: str, meant: str | None) -> None:
    """What differs in its first letter or a digit does something else; a beginning or a slip is what was meant."""
    assert near_choice(wrong, CHOICES) == (f" (did you mean {meant!r}?)" if meant else "")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trainer=qlora", "trainer=lora model.quantization=4bit"),
        ("model.quantization=8bit", "must be one of 4bit"),
        ("hub.name=x", "no such key; see"),
    ],
)
def test_what_is_told_instead(override: str, words: str) -> None:
    """What there is, and no guess."""
    with pytest.raises(UsageError) as caught:
        sweep_of(override)
    assert words in str(caught.value)
    assert "did you mean" not in str(caught.value)


def test_the_default_optimizer_is_the_first_that_is_meant() -> None:
    """Of all that begin so, and never one that no run can have."""
    with pytest.raises(UsageError, match=r"did you mean 'adamw_torch'\?"):
        check_sources(sweep_of("trainer.optimizer=adamw", "model=tiny"), dry_run=True)
    with pytest.raises(UsageError, match="no such name; the installed"):
        check_sources(sweep_of("trainer.optimizer=galor", "model=tiny"), dry_run=True)
