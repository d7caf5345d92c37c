"""What a sweep spends on each loss, in lines below the plan and in its JSON.

Owns: these words. Must not know: how it is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from launcher.errors import number_of
from launcher.planning.budget import Budget, budgets
from launcher.store.files import Plain
from launcher.sweep import Sweep


def budget_json(sweep: Sweep) -> list[Plain]:
    """For programs: of each loss on each model and data set."""
    return [asdict(budget) for budget in budgets(sweep.runs)]


def budget_lines(sweep: Sweep) -> list[str]:
    """What each loss has, where several are compared: one line where all models have the same, else one for each."""
    places: dict[tuple[str, str], list[Budget]] = {}
    for budget in budgets(sweep.runs):
        places.setdefault((budget.model, budget.dataset), []).append(budget)
    compared = {place: own for place, own in places.items() if len(own) > 1}
    said = {place: _line(own) for place, own in compared.items()}
    if len(set(said.values())) == 1:
        on_each = f" on each of {len(said)} models" if len(said) > 1 else ""
        return [f"budget{on_each}: {line}" for line in list(said.values())[:1]]
    return [f"budget on {model} with {dataset}: {line}" for (model, dataset), line in said.items()]


def _line(own: Sequence[Budget]) -> str:
    """All losses of a model, those together that have the same."""
    groups: dict[tuple[int, int, int], list[str]] = {}
    for budget in own:
        groups.setdefault(budget.size, []).append(budget.loss_type)
    if len(groups) == 1:
        return f"{_size(own[0])} for each of {', '.join(each.loss_type for each in own)}"
    by_size = {budget.size: _size(budget) for budget in own}
    parts = "; ".join(f"{', '.join(losses)} {by_size[size]}" for size, losses in groups.items())
    return f"{parts}. These are not equal: the best of more settings scores higher by chance alone"


def _size(budget: Budget) -> str:
    fewest, most = budget.fewest_seeds, budget.most_seeds
    seeds = number_of(most, "seed") if fewest == most else f"{fewest} to {most} seeds"
    return f"{number_of(budget.settings, 'setting')} x {seeds}"
