"""Who computes which pair of an optimizer step, and what the dealing gains."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable
from typing import Any

import numpy
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from datasets import Dataset
from drawn_pairs import drawn_pairs
from torch.utils.data import BatchSampler, RandomSampler
from worker_fixtures import ARCHITECTURE, Configure

from launcher.store.output_folder import Store
from launcher.worker.dataset.lengths import Lengths
from launcher.worker.distributed import ranks as group
from launcher.worker.training.reference_table import prepare
from launcher.worker.training.step_order import Ranks, StepOrder, deal
from launcher.worker.training.trainer import RunTrainer, build_trainer

Step = list[list[int]]


def steps_of(order: Iterable[int], shared: Ranks) -> list[Step]:
    """What accelerate's own sampler gives the ranks of an order: for each step, the micro-batches round by round."""
    batches = BatchSampler(list(order), shared.micro_batch, drop_last=False)
    of_ranks = [list(BatchSamplerShard(batches, shared.count, rank)) for rank in range(shared.count)]
    assert len({len(of_rank) for of_rank in of_ranks}) == 1
    rounds = list(zip(*of_ranks, strict=True))
    each = shared.batch // shared.round
    return [list(itertools.chain(*rounds[start : start + each])) for start in range(0, len(rounds), each)]


def drawn(rows: int, seed: int) -> list[int]:
    """The order of one device, by torch's own permutation."""
    return torch.randperm(rows, generator=torch.Generator().manual_seed(seed)).tolist()


def costs_like(rows: int, seed: int = 0) -> list[int]:
    draw = random.Random(seed)  # noqa: S311 - made-up lengths
    return [1 + int(draw.lognormvariate(5, 1)) for _ in range(rows)]


@pytest.mark.parametrize("rows", [64, 70, 67, 33])
@pytest.mark.parametrize("epoch", [0, 3])
def test_each_step_has_the_pairs_of_one_device(rows: int, epoch: int) -> None:
    """Those of the permutation that seed + epoch draw, as many in each of a rank's micro-batches."""
    shared = Ranks(count=2, micro_batch=4, batch=16)
    found, alone = steps_of(StepOrder(5, lambda: epoch, shared, costs_like(rows)), shared), drawn(rows, 5 + epoch)
    for number, step in enumerate(found[: rows // 16]):
        assert [len(batch) for batch in step] == [4] * 4
        assert sorted(itertools.chain(*step)) == sorted(alone[16 * number : 16 * number + 16])
    assert len(found) == -(-rows // 16)


@pytest.mark.parametrize("rows", [70, 67, 33, 5])
def test_a_step_that_an_epochs_end_cuts_short_stays_as_it_was(rows: int) -> None:
    """It has the very micro-batches that it has without any dealing, those among them that are given once more."""
    shared = Ranks(count=2, micro_batch=4, batch=16)
    dealt, before = (
        steps_of(order, shared) for order in (StepOrder(5, lambda: 0, shared, costs_like(rows)), drawn(rows, 5))
    )
    assert dealt[-1] == before[-1]
    assert (dealt == before) == (rows < 2 * 16)  # of one whole step and a part, both stay


def test_a_round_gives_all_ranks_about_as_much_and_the_costliest_pairs_come_first() -> None:
    """By hand: 9 8 7 6 goes first, as 9 + 6 and 8 + 7; then 4 + 1 and 3 + 2."""
    costs = [1, 9, 3, 7, 2, 8, 4, 6]
    order = [costs[place] for place in deal(costs, Ranks(count=2, micro_batch=2, batch=8))]
    assert order == [9, 6, 8, 7, 4, 1, 3, 2]


def test_the_order_is_the_same_each_time_also_of_pairs_that_cost_the_same() -> None:
    """No process, no hash and no place in memory decides."""
    shared = Ranks(count=4, micro_batch=2, batch=16)
    assert deal([7] * 16, shared) == deal([7] * 16, shared)
    assert sorted(deal([7] * 16, shared)) == list(range(16))
    assert deal([7] * 16, shared)[:2] == [0, 4]


# ------------------------------------------------------------------------------------------------ in a trainer


Sample = Callable[..., tuple[RunTrainer, Any]]


@pytest.fixture
def sampled(configure: Configure, store: Store, monkeypatch: pytest.MonkeyPatch) -> Sample:
    """A trainer and its sampler, as one of so many ranks has them."""

    def sample(size: int, **changes: object) -> tuple[RunTrainer, Any]:
        config = configure(trainer__micro_batch_size=2, **changes)
        pairs = prepare(config, store)
        monkeypatch.setattr(group, "size", lambda: size)
        trainer = build_trainer(config, store.run("r"), store, pairs, [])
        sampler = trainer._get_train_sampler(trainer.train_dataset)
        monkeypatch.setattr(group, "size", lambda: 1)
        return trainer, sampler

    return sample


@pytest.mark.parametrize("loss", ["kto_pair", "sft", "aot", "bco_pair"])
def test_where_the_micro_batch_is_part_of_the_objective_the_order_stays(sampled: Sample, loss: str) -> None:
    """On two ranks, too, the sampler is transformers' own: the permutation that seed and epoch draw."""
    assert type(sampled(2, loss_type=loss)[1]) is RandomSampler


def test_on_one_rank_the_order_stays(sampled: Sample) -> None:
    """So that one device trains with the bits that it had before."""
    assert type(sampled(1)[1]) is RandomSampler


def test_experts_that_are_balanced_within_a_micro_batch_keep_the_order(sampled: Sample) -> None:
    """Their loss is no mean over pairs."""
    balanced: dict[str, Any] = {"model_type": "mixtral", "num_local_experts": 2, "num_experts_per_tok": 1}
    for weight, kind in ((0.01, RandomSampler), (0.0, StepOrder)):
        architecture = {**ARCHITECTURE, **balanced, "router_aux_loss_coef": weight, "output_router_logits": False}
        _, sampler = sampled(2, model__architecture=architecture)
        assert type(sampler) is kind


def test_means_over_pairs_are_dealt_by_what_a_packed_row_of_them_costs(sampled: Sample) -> None:
    """Of each step of 8 the four pairs with most tokens, counted here from the ids, come in the first round."""
    trainer, sampler = sampled(2)
    rows, order, alone = trainer.train_dataset, list(sampler), drawn(32, 1)

    def tokens(place: int) -> int:
        return sum(len(rows[place][name]) for name in ("prompt_ids", "chosen_ids", "rejected_ids"))

    for start in range(0, 32, 8):
        assert sorted(order[start : start + 8]) == sorted(alone[start : start + 8])
        assert min(map(tokens, order[start : start + 4])) >= max(map(tokens, order[start + 4 : start + 8]))
    assert order != alone
    trainer.state.global_step = 4  # a step of the second epoch
    assert sorted(list(sampler)[:8]) == sorted(drawn(32, 2)[:8])


# ------------------------------------------------------------------------------------------------ lengths, gains


def test_lengths_are_those_of_the_rows_that_the_collator_leaves() -> None:
    """By hand, cut at 10: 3 + 4 and 3 + 2 tokens; 6 + 9, of which 4 stay, and 6 + 1."""
    ids = {"prompt_ids": [3, 6], "chosen_ids": [4, 9], "rejected_ids": [2, 1]}
    rows = Dataset.from_dict({name: [list(range(size)) for size in sizes] for name, sizes in ids.items()})
    found = Lengths.of(rows, 10)
    assert found.once.tolist() == [3 + 4 + 2, 6 + 4 + 1]
    assert found.twice.tolist() == [7 + 5, 10 + 7]
    assert found.packed.tolist() == [2 + 4 + 2, 5 + 4 + 1]
    assert Lengths.of(rows.select([1]), 10).once.tolist() == [11]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_padded_tokens_are_the_mean_over_all_micro_batches_that_can_be_drawn(size: int) -> None:
    """Of five pairs, by going through every draw."""
    prompt, chosen, rejected = numpy.array([3, 6, 1, 9, 4]), numpy.array([4, 2, 2, 1, 7]), numpy.array([2, 1, 30, 3, 3])
    longest = [max(p + c, p + r) for p, c, r in zip(prompt, chosen, rejected, strict=True)]
    drawn = [max(each) for each in itertools.combinations(longest, size)]
    found = Lengths(prompt, chosen, rejected).padded(size)
    assert found == pytest.approx(2 * sum(drawn) / len(drawn))
    assert Lengths(prompt, chosen, rejected).padded(9) == pytest.approx(2 * max(longest))


@pytest.mark.parametrize(("data", "before", "after"), [("ultrafeedback", 1.95, 2.45), ("orca", 2.3, 3.0)])
def test_what_dealing_gains_on_eight_ranks(data: str, before: float, after: float) -> None:
    """Tokens of the slowest rank of each round, added up: padded in the drawn order against packed, drawn and dealt.

    8 ranks, micro-batch 4, two rounds a step. Dealt, the step lacks at most 3 % of an even share.
    """
    shared = Ranks(count=8, micro_batch=4, batch=64)
    lengths = drawn_pairs(data, 64 * 100)
    packed, longest = (
        lengths.prompt - 1 + lengths.chosen + lengths.rejected,
        lengths.prompt + numpy.maximum(lengths.chosen, lengths.rejected),
    )

    def slowest(order: list[int], *, padded: bool) -> float:
        of_batches = numpy.array(order).reshape(-1, shared.count, shared.micro_batch)
        work = 2 * 4 * longest[of_batches].max(axis=2) if padded else packed[of_batches].sum(axis=2)
        return float(work.max(axis=1).sum())

    as_drawn = list(range(len(packed)))
    dealt = [
        start + place
        for start in range(0, len(packed), 64)
        for place in deal(packed[start : start + 64].tolist(), shared)
    ]
    trl = slowest(as_drawn, padded=True)
    gains = trl / slowest(as_drawn, padded=False), trl / slowest(dealt, padded=False)
    print(data, gains, trl / slowest(dealt, padded=True), trl / (packed.sum() / 8))  # noqa: T201 - with pytest -s
    assert gains[0] > before
    assert gains[1] > after
    assert slowest(dealt, padded=False) < 1.03 * packed.sum() / 8
    assert trl / slowest(dealt, padded=True) > 1.15  # also where pairs are padded
