"""A micro-batch of pairs as one row of tokens: no padding, and each prompt once.

Owns: where each sequence lies in the row, how a padded batch becomes one, the way back of what is scored.
Must not know: models, attention's kernels, losses.

The rows of TRL's batch, (2 pairs, length), chosen then rejected, padded on the right, become

    [chosen_1 | ... | chosen_n | rejected_1 | ... | rejected_n]

    chosen_i     the prompt and the completion, but for its last token, from which nothing is predicted
    rejected_i   the prompt's last token and the completion, but for its last token; positions go on where the prompt
                 ends, and the tokens of the prompt before that, in chosen_i, are seen as well

The prompt's last token stands twice, since it predicts two different tokens. Chosen before rejected: so what is scored
stands in the order in which the padded batch has it. A pair costs (P - 1) + C + R tokens, in place of twice the longest
row of its batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import pad

UNSCORED = -100  # the label of a token that is not scored


@dataclass(frozen=True)
class Span:
    """One sequence: the tokens `start:stop` of the row, which see `prefix_start:prefix_stop` of it and each other."""

    start: int
    stop: int
    prefix_start: int = 0
    prefix_stop: int = 0

    @property
    def queries(self) -> int:
        """How many tokens it has of its own."""
        return self.stop - self.start

    @property
    def keys(self) -> int:
        """How many its last token sees."""
        return self.queries + self.prefix_stop - self.prefix_start


class _Seen:
    """What all layouts of one forward share: what was counted and refused, and what is made once."""

    def __init__(self) -> None:
        self.calls, self.refusal = 0, ""
        self.made: dict[Hashable, Any] = {}


class Layout:
    """Where the sequences lie in the row. Models hand it on where they expect an attention mask.

    Attributes:
        spans: the sequences that have tokens, in their order.
        window: how many tokens a token sees, itself included; None: all before it.
    """

    def __init__(self, spans: Sequence[Span], window: int | None = None, seen: _Seen | None = None) -> None:
        self.spans, self.window = tuple(span for span in spans if span.queries), window
        self._seen = _Seen() if seen is None else seen

    def within(self, window: int | None) -> Layout:
        """The same row, in which a token sees the last `window` tokens only."""
        return Layout(self.spans, window, self._seen)

    def count(self) -> None:
        """Note that one more attention layer was given the layout."""
        self._seen.calls += 1

    @property
    def calls(self) -> int:
        """How many attention layers were given it, whatever their window."""
        return self._seen.calls

    def refuse(self, why: str) -> None:
        """Note that what was computed is not what the model computes; the first reason stays.

        Nothing is raised: within a forward under ZeRO-3 that would leave weights gathered.
        """
        self._seen.refusal = self._seen.refusal or why

    @property
    def refusal(self) -> str:
        """Why the forward's result cannot be used; empty where it can."""
        return self._seen.refusal

    def mask(self, span: Span, device: torch.device) -> torch.Tensor | None:
        """What the tokens of a span see, (queries, keys); None where it is all before each, from its own first on."""
        queries, keys = span.queries, span.keys
        window = self.window if self.window is not None and self.window < keys else None
        if queries == keys and window is None:
            return None

        def make() -> torch.Tensor:
            query = torch.arange(keys - queries, keys, device=device)[:, None]
            key = torch.arange(keys, device=device)[None, :]
            seen = key <= query
            return seen if window is None else seen & (key > query - window)

        return self.once(("mask", queries, keys, window, device), make)

    def keys_of_all(self, device: torch.device) -> torch.Tensor:
        """The places in the row of all keys, span after span: those of each prompt twice."""

        def make() -> torch.Tensor:
            each = [(span.prefix_start, span.prefix_stop, span.start, span.stop) for span in self.spans]
            places = [torch.cat([torch.arange(*part[:2]), torch.arange(*part[2:])]) for part in each]
            return torch.cat(places).to(device)

        return self.once(("keys", device), make)

    def bounds(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, int, int]:
        """Where the queries and the keys of each span begin and end, and how many there are at most of each.

        As kernels for sequences of unequal lengths ask for them: int32, (spans + 1,).
        """

        def make() -> tuple[torch.Tensor, torch.Tensor, int, int]:
            counts = [[span.queries for span in self.spans], [span.keys for span in self.spans]]
            ends = [torch.tensor([0, *itertools.accumulate(each)], dtype=torch.int32).to(device) for each in counts]
            return ends[0], ends[1], max(counts[0]), max(counts[1])

        return self.once(("bounds", device), make)

    def seen_by_each(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """The first and the last of `keys_of_all` that each token sees, (tokens,) each; it sees all between them."""

        def make() -> tuple[torch.Tensor, torch.Tensor]:
            ends = list(itertools.accumulate(span.keys for span in self.spans))
            spans = list(zip(self.spans, ends, strict=True))
            last = torch.cat([torch.arange(end - span.queries, end) for span, end in spans])
            first = torch.cat([torch.full((span.queries,), end - span.keys) for span, end in spans])
            if self.window is not None:
                first = torch.maximum(first, last - self.window + 1)
            return first.to(device), last.to(device)

        return self.once(("seen", self.window, device), make)

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What `make` gives; all layouts of the row share it, so the key holds all that it depends on."""
        if key not in self._seen.made:
            self._seen.made[key] = make()
        return self._seen.made[key]


@dataclass(frozen=True)
class Packed:
    """A batch as one row, and the way back.

    Attributes:
        inputs: input_ids, position_ids and shift_labels of the row, (1, tokens) each.
        layout: where the sequences lie in it.
        scored: whether a token is scored, (2 pairs, length - 1), as in the padded batch.
        here: the places in the row at which something is scored, and
        there: those in `scored`, flattened, at which it belongs.
    """

    inputs: dict[str, torch.Tensor]
    layout: Layout
    scored: torch.Tensor
    here: torch.Tensor
    there: torch.Tensor

    def unpack(self, values: torch.Tensor) -> torch.Tensor:
        """What the row has for each token, (1, tokens), at its place in the padded batch; 0 elsewhere."""
        flat = values.new_zeros(self.scored.numel())
        return flat.index_copy(0, self.there, values[0].index_select(0, self.here)).view(self.scored.shape)


def pack(input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor) -> Packed:
    """The row of a padded batch, (2 pairs, length) each: chosen then rejected, padded on the right.

    Of a batch on a GPU five numbers a pair are read back, at once; all else is made from them.

    Raises:
        ValueError: the rows of a pair do not begin with the same prompt, or are not padded on the right.
    """
    pairs, length = len(input_ids) // 2, input_ids.shape[1]
    scored = labels[:, 1:] != UNSCORED
    facts = _facts(input_ids, attention_mask, scored)
    if not all(sound for *_, sound in facts):
        raise ValueError("a pair's two rows do not begin with the same prompt, or are not padded on the right")
    parts, spans = [], []  # of each sequence: its row of the batch, its tokens' places, that of the first scored
    for number, (chosen, _, first, _, _) in enumerate(facts):
        parts.append((number, range(chosen - 1), first))
    for number, (_, rejected, first, other, _) in enumerate(facts):
        parts.append((pairs + number, range(min(first, other), rejected - 1), other))
    starts = [0, *itertools.accumulate(len(places) for _, places, _ in parts)]
    for (row, places, _), (start, stop) in zip(parts, itertools.pairwise(starts), strict=True):
        prefix = starts[row % pairs]
        spans.append(Span(start, stop, prefix, prefix + places.start if row >= pairs else prefix))
    position = _joined([places for _, places, _ in parts])
    index = _joined([range(row * length + places.start, row * length + places.stop) for row, places, _ in parts])
    here, there = _scored_places(parts, starts, length)
    position, index, here, there = (each.to(input_ids.device) for each in (position, index, here, there))
    inputs = {
        "input_ids": input_ids.reshape(-1)[index][None],
        "position_ids": position[None],
        "shift_labels": labels.reshape(-1)[index + 1][None],
    }
    return Packed(inputs, Layout(spans), scored, here, there)


def _facts(ids: torch.Tensor, mask: torch.Tensor, scored: torch.Tensor) -> list[list[int]]:
    """Of each pair: the lengths of both rows, the places from which on they are scored, whether all is as it must be.

    The place is the length of `scored` where nothing is.
    """
    place = torch.arange(scored.shape[1], device=ids.device)
    lengths = mask.sum(dim=1)
    first = pad(scored, (0, 1), value=True).int().argmax(dim=1)
    whole = (scored.sum(dim=1) == (lengths - 1 - first).clamp(min=0)) & (mask[:, 1:] <= mask[:, :-1]).all(dim=1)
    before = place < torch.minimum(*first.chunk(2))[:, None]
    chosen, rejected = ids[:, :-1].chunk(2)
    sound = ~(before & (chosen != rejected)).any(dim=1) & torch.logical_and(*whole.chunk(2))
    facts: list[list[int]] = torch.stack([*lengths.chunk(2), *first.chunk(2), sound.long()], dim=1).tolist()
    return facts


def _joined(ranges: Sequence[range]) -> torch.Tensor:
    return torch.cat([torch.arange(each.start, max(each.start, each.stop)) for each in ranges])


def _scored_places(
    parts: Sequence[tuple[int, range, int]], starts: Sequence[int], length: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where something is scored: in the row, and in the padded batch, flattened."""
    here, there = [], []
    for (row, places, first), start in zip(parts, starts, strict=False):
        count = max(0, places.stop - first)
        here.append(range(start + first - places.start, start + first - places.start + count))
        there.append(range(row * (length - 1) + first, row * (length - 1) + first + count))
    return _joined(here), _joined(there)
