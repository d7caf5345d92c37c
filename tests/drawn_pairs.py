"""Lengths of pairs as data sets have them, drawn: what padding and dealing come to is arithmetic on these."""

from __future__ import annotations

import numpy

from launcher.worker.dataset.lengths import Lengths

MEANS = {"ultrafeedback": (185, 288, 285), "orca": (295, 144, 142)}  # of prompt, chosen, rejected
SIGMA = 0.7
MAX_LENGTH = 1024
# Of `demo`, the fewest and the most: somewhat longer, and less apart, than its own, which are 4, 17 and 18 on average.
DEMO_PROMPT, DEMO_ANSWER = (3, 7), (12, 28)


def drawn_pairs(data: str, count: int) -> Lengths:
    """So many pairs: log-normal lengths with the data set's means, cut at 1024 tokens of prompt and answer.

    Those of `demo` are of any length between two bounds as often.
    """
    draw = numpy.random.default_rng(0)
    if data == "demo":
        bounds = (DEMO_PROMPT, DEMO_ANSWER, DEMO_ANSWER)
        return Lengths(*(draw.integers(*each, count, endpoint=True) for each in bounds))
    prompt, chosen, rejected = (
        numpy.maximum(1, draw.lognormal(numpy.log(mean) - SIGMA**2 / 2, SIGMA, count)).astype(int)
        for mean in MEANS[data]
    )
    prompt = numpy.minimum(prompt, MAX_LENGTH - 24)
    return Lengths(prompt, *(numpy.minimum(answer, MAX_LENGTH - prompt) for answer in (chosen, rejected)))
