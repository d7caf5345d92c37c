"""What grid.py and step.py measure on: a Llama of 25 million random weights, and pairs as long as data sets have them.

Owns: that model and its tokenizer, which pairs stand for a data set.
Must not know: what is measured.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

import numpy

sys.path.insert(0, str(Path(__file__).parent.parent))  # drawn_pairs

from drawn_pairs import MAX_LENGTH, drawn_pairs

from launcher.worker.dataset.lengths import Lengths

DATA = {"uf": "ultrafeedback", "orca": "orca", "demo": "demo"}
LONGEST = {"uf": MAX_LENGTH, "orca": MAX_LENGTH, "demo": 48}  # tokens of prompt and answer
VOCABULARY = 32_000
SPECIAL = ("<pad>", "</s>", "<unk>")
DRAWN = 4_000  # pairs, of which some stand for all
SIZE = {
    "vocab_size": VOCABULARY, "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 8,
    "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 2048, "tie_word_embeddings": True,
}  # fmt: skip
LEARNING_RATE = {False: 1e-5, True: 1e-4}  # of all weights; of adapters
LORA = {"r": 16, "alpha": 32}


def write_model(folder: Path) -> Path:
    """The model with random weights in float32, and a tokenizer that makes a token of each word."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = [*SPECIAL, *(word(number) for number in range(VOCABULARY - len(SPECIAL)))]
    pad, end, unknown = SPECIAL
    tokenizer = Tokenizer(models.WordLevel({each: place for place, each in enumerate(words)}, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=pad, eos_token=end, unk_token=unknown)
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(**SIZE, pad_token_id=0, eos_token_id=1, bos_token_id=None)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def word(number: int) -> str:
    """One of the words that are a token each."""
    return f"w{number}"


def typical_pairs(data: str, count: int, micro_batch: int) -> Lengths:
    """So many pairs that are like thousands of the data set's in what a pair costs: padded, packed, and in its head.

    What a few pairs cost beside one another depends on which these are; so they are not the first that are drawn.
    """
    drawn = drawn_pairs(DATA[data], DRAWN)
    wanted = numpy.log(list(costs(drawn, micro_batch).values()))

    def unlike(start: int) -> float:
        found = costs(_between(drawn, start, start + count), micro_batch)
        return float(abs(numpy.log(list(found.values())) - wanted).max())

    start = min(range(DRAWN - count), key=unlike)
    return _between(drawn, start, start + count)


def _between(lengths: Lengths, start: int, stop: int) -> Lengths:
    return Lengths(*(each[start:stop] for each in astuple(lengths)))


def costs(lengths: Lengths, micro_batch: int) -> dict[str, float]:
    """Places of a pair on average: in padded micro-batches, in a packed row, and those that are scored."""
    scored = float((lengths.chosen + lengths.rejected).mean())
    return {"padded": lengths.padded(micro_batch), "packed": float(lengths.packed.mean()), "scored": scored}


def write_pairs(folder: Path, lengths: Lengths) -> Path:
    """Pairs of such lengths in train.jsonl, their words drawn; those in test.jsonl are two short ones."""
    folder.mkdir(parents=True)
    draw = random.Random(0)  # noqa: S311 - made-up text

    def text(words: int) -> str:
        return " ".join(word(draw.randrange(VOCABULARY - len(SPECIAL))) for _ in range(words))

    def row(prompt: int, chosen: int, rejected: int) -> dict[str, str]:  # an answer's last token is its end
        answers = {name: " " + text(max(1, count - 1)) for name, count in (("chosen", chosen), ("rejected", rejected))}
        return {"prompt": text(prompt), **answers}

    splits = {"train": zip(*(each.tolist() for each in astuple(lengths)), strict=True), "test": [(4, 4, 4), (4, 5, 3)]}
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row(*each)) + "\n" for each in rows))
    return folder


def ratios(theirs: Sequence[float], ours: Sequence[float]) -> list[float]:
    """How many times as much theirs are, each beside ours of the same round."""
    return [other / own for other, own in zip(theirs, ours, strict=True)]
