"""How many operations a training needs for its tokens, and which share of a chip's peak that is. Pure.

Owns: the definition, its source and what it leaves out; the peaks of chips.
Must not know: how tokens are counted, torch, files.

The share is the model FLOPs utilisation (MFU) of Chowdhery et al., "PaLM: Scaling Language Modeling with Pathways",
2022, appendix B: what was done in a second of what the objective needs, however that was computed, over what the chip
could do. So it compares implementations as well as chips:

- tokens: a pair's prompt and its two answers, each once. Neither padding counts nor a prompt that is computed again for
  its second answer.
- operations a token, for the N weights that it is multiplied by: 2 N forward, 2 N backward to the activations, and 2
  more for each weight that is trained (Kaplan et al., "Scaling Laws for Neural Language Models", 2020, section 2.1):
  6 N where all are, little more than 4 N with adapters. The head counts among the N, also at the prompt's tokens, whose
  predictions no loss reads; the table of embeddings, which is only looked up, does not, unless it is the head as well.
  Of experts those count that a token goes to.
- not: activations that are computed again (PaLM's "rematerialization"), attention's own products of tokens with tokens
  (a few per cent at 1024 tokens), the optimizer, the reference pass.

The peak is that of dense bfloat16, in whichever precision the training runs.
"""

from __future__ import annotations

# In TFLOP/s without sparsity, by NVIDIA's data sheets; the first part of a name that fits counts.
PEAKS_TFLOPS = {
    "A100": 312.0, "H100 PCIe": 756.0, "H100 NVL": 835.0, "H100": 989.0, "H200": 989.0, "GH200": 989.0, "B200": 2250.0,
    "L40S": 362.0, "A40": 150.0,
}  # fmt: skip
CPU = "cpu"


def per_token(weights: float, trained: float, *, paired: bool = True, recomputes: bool = False) -> float:
    """Operations a token.

    Args:
        weights: that it is multiplied by.
        trained: how many of them are trained.
        paired: else half of the tokens, KTO's foreign completions, are only scored.
        recomputes: whether the forward is made once more in the backward, and counts again: no part of the definition
            above, but of what a training takes.
    """
    own = 4 * weights + 2 * trained + (2 * weights if recomputes else 0)
    return own if paired else (own + 2 * weights) / 2


def peak_tflops(device: str | None, given: float | None = None) -> float | None:
    """A GPU's peak by its name, else as `given` for one that is not known here; None of a CPU."""
    if device is None or device == CPU:
        return None
    return next((peak for name, peak in PEAKS_TFLOPS.items() if name in device), given)


def share_of_peak(operations: float, seconds: float, gpus: int, tflops: float | None) -> float | None:
    """The share from 0 to 1; None where the peak is not known, or no time has passed."""
    return operations / (seconds * gpus * tflops * 1e12) if tflops and seconds > 0 and gpus else None
