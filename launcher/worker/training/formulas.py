"""The formulas of our paired losses, and the rewards that accuracy and margin are made of.

Owns: pure functions of log-probs, lengths, beta and a loss's keys. Must not know: trainers, which keys are right.

Notation: pi(y|x) is the policy's probability of the completion y, |y| its tokens, c the chosen and r the rejected
completion, s the logistic function. Log-probs are sums over a completion's tokens, in nats, one for each pair; so are
log-ratios, log pi - log pi_ref. Each loss is the mean over the pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def kto_pair_loss(chosen_logratios: Tensor, rejected_logratios: Tensor, beta: float) -> Tensor:
    """The paired KTO loss, as TRL computed it up to 0.9.4 (`DPOTrainer.dpo_loss`, loss_type="kto_pair").

    With r = log pi(y|x) - log pi_ref(y|x), summed over the completion's tokens:

        KL_c = max(0, mean(r_c))      KL_r = max(0, mean(r_r))      over this device's micro-batch
        loss = mean over the 2n terms  1 - sigmoid(beta (r_c - KL_r))  and  1 - sigmoid(beta (KL_c - r_r))

    The KL estimates are neither gathered over devices nor detached, so the micro-batch size belongs to the objective.
    Where a mean is exactly 0, as at the start, the clamp has a kink: a mean of +1e-7 lets its gradient through,
    0 and -1e-7 do not. Rounding of the reference values therefore decides the first gradients, and Adam, which scales
    them, carries that on: on a model of 30,000 weights six steps at a rate of 1e-3 with the reference table ended 4e-3
    from the same steps with a live reference, where sigmoid and ipo ended 6e-8 apart. Away from the kink they agree.
    """
    chosen_kl = chosen_logratios.mean().clamp(min=0)
    rejected_kl = rejected_logratios.mean().clamp(min=0)
    chosen_losses = 1 - torch.sigmoid(beta * (chosen_logratios - rejected_kl))
    rejected_losses = 1 - torch.sigmoid(beta * (chosen_kl - rejected_logratios))
    return torch.cat([chosen_losses, rejected_losses]).mean()


def cdpo_loss(
    chosen_logratios: Tensor, rejected_logratios: Tensor, beta: float, label_smoothing: float = 0.0
) -> Tensor:
    """Conservative DPO (Mitchell, "A note on DPO with noisy preferences & relationship to IPO", 2023, equation 3).

    With h = beta (r_c - r_r) and the share e of labels that are the wrong way round:

        loss = - (1 - e) log s(h) - e log s(-h)
    """
    logits = beta * (chosen_logratios - rejected_logratios)
    return -((1 - label_smoothing) * logsigmoid(logits) + label_smoothing * logsigmoid(-logits)).mean()


def dpop_loss(chosen_logratios: Tensor, rejected_logratios: Tensor, beta: float, lam: float = 50.0) -> Tensor:
    """DPO-Positive (Pal et al., "Smaug", arXiv:2402.13228, the section that introduces DPOP).

        loss = - log s(beta (r_c - r_r - lambda max(0, -r_c)))

    The penalty is above 0 where the policy gives the chosen completion less than the reference does. At the start, r_c
    being 0, it has a kink; 0 counts as no penalty.
    """
    penalty = torch.relu(-chosen_logratios)
    return -logsigmoid(beta * (chosen_logratios - rejected_logratios - lam * penalty)).mean()


def simpo_reward(
    log_probs: Tensor, tokens: Tensor, beta: float, length_normalized: bool = True, **_others: Any
) -> Tensor:
    """SimPO's implicit reward, beta / |y| log pi(y|x) (arXiv:2405.14734); else beta log pi(y|x)."""
    return beta * (log_probs / tokens if length_normalized else log_probs)


def simpo_loss(
    chosen: Tensor,
    rejected: Tensor,
    chosen_tokens: Tensor,
    rejected_tokens: Tensor,
    beta: float,
    gamma: float = 0.5,
    length_normalized: bool = True,
) -> Tensor:
    """SimPO (Meng, Xia, Chen, arXiv:2405.14734, "The SimPO objective").

        loss = - log s(beta / |y_c| log pi(y_c|x) - beta / |y_r| log pi(y_r|x) - gamma)

    gamma is the margin itself: the authors' gamma_beta_ratio times beta, TRL's simpo_gamma. Without normalisation of
    lengths, as in the paper's ablation, the log-probs are not divided.
    """
    better = simpo_reward(chosen, chosen_tokens, beta, length_normalized)
    worse = simpo_reward(rejected, rejected_tokens, beta, length_normalized)
    return -logsigmoid(better - worse - gamma).mean()


def cpo_reward(
    log_probs: Tensor, tokens: Tensor, beta: float, length_normalized: bool = False, **_others: Any
) -> Tensor:
    """CPO's implicit reward, beta log pi(y|x): DPO's with a uniform reference; with lengths normalised, SimPO's."""
    return simpo_reward(log_probs, tokens, beta, length_normalized)


def cpo_loss(
    chosen: Tensor,
    rejected: Tensor,
    chosen_tokens: Tensor,
    rejected_tokens: Tensor,
    beta: float,
    alpha: float = 1.0,
    length_normalized: bool = False,
) -> Tensor:
    """CPO (Xu et al., arXiv:2401.08417, equation 3, and the likelihood that it is added to).

        loss = - log s(beta log pi(y_c|x) - beta log pi(y_r|x)) - alpha / |y_c| log pi(y_c|x)

    The paper writes the likelihood as a sum over tokens; the authors' code, and TRL's, take the mean, and so do we: of
    each chosen completion by itself, where TRL's is over all tokens of the micro-batch. With lengths normalised, the
    first term is SimPO's without a margin (the authors' CPO-SimPO has one besides: loss_type=simpo+sft).
    """
    better = cpo_reward(chosen, chosen_tokens, beta, length_normalized)
    worse = cpo_reward(rejected, rejected_tokens, beta, length_normalized)
    return (-logsigmoid(better - worse) - alpha * chosen / chosen_tokens).mean()


def orpo_reward(log_probs: Tensor, tokens: Tensor, *_beta: float, **_others: Any) -> Tensor:
    """The log odds of a completion, log(p / (1 - p)) with log p = log pi(y|x) / |y| (arXiv:2403.07691, equation 4).

    The difference of two is the logarithm of ORPO's odds ratio. A mean log-prob counts as at most minus
    the precision, where odds would be infinite.
    """
    mean = (log_probs / tokens).clamp(max=-torch.finfo(log_probs.dtype).eps)
    return mean - torch.log(-torch.expm1(mean))


def orpo_loss(
    chosen: Tensor,
    rejected: Tensor,
    chosen_tokens: Tensor,
    rejected_tokens: Tensor,
    beta: float = 0.0,  # noqa: ARG001 - it has none
    lam: float = 0.1,
) -> Tensor:
    """ORPO (Hong, Lee, Thorne, arXiv:2403.07691, equations 4 and 7, and the likelihood that it is added to).

        loss = - 1 / |y_c| log pi(y_c|x) - lambda log s(log odds(y_c|x) - log odds(y_r|x))

    lambda is what TRL's ORPOConfig calls beta. The likelihood is the mean over each chosen completion by itself.
    """
    ratio = orpo_reward(chosen, chosen_tokens) - orpo_reward(rejected, rejected_tokens)
    return (-chosen / chosen_tokens - lam * logsigmoid(ratio)).mean()


def alphapo_reward(log_probs: Tensor, tokens: Tensor, beta: float, alpha: float = 0.25, **_others: Any) -> Tensor:
    """AlphaPO's reward, beta (1 - pi(y|x)^(-alpha / |y|)) / alpha (arXiv:2501.03884, the section on AlphaPO).

    Where alpha goes to 0 it is SimPO's.
    """
    return -beta * torch.expm1(-alpha * log_probs / tokens) / alpha


def alphapo_loss(
    chosen: Tensor,
    rejected: Tensor,
    chosen_tokens: Tensor,
    rejected_tokens: Tensor,
    beta: float,
    alpha: float = 0.25,
    gamma: float = 0.5,
) -> Tensor:
    """AlphaPO (Gupta et al., arXiv:2501.03884, the section on AlphaPO): SimPO's loss of another shape of reward.

    loss = - log s(reward(y_c) - reward(y_r) - gamma), the reward being `alphapo_reward`.
    """
    better = alphapo_reward(chosen, chosen_tokens, beta, alpha)
    worse = alphapo_reward(rejected, rejected_tokens, beta, alpha)
    return -logsigmoid(better - worse - gamma).mean()


# Each by the name of its row in `launcher.losses`, with what of its keys has a value behind beta. Where the row has a
# reference: of the log-ratios of the chosen and of the rejected completions. Else: of their log-probs and their tokens.
FORMULAS: dict[str, Callable[..., Tensor]] = {
    "kto_pair": kto_pair_loss,
    "cdpo": cdpo_loss,
    "dpop": dpop_loss,
    "simpo": simpo_loss,
    "cpo": cpo_loss,
    "orpo": orpo_loss,
    "alphapo": alphapo_loss,
}
# The reward of completions by their log-probs, tokens, beta and all keys, of losses without a reference.
REWARDS: dict[str, Callable[..., Tensor]] = {
    "simpo": simpo_reward,
    "cpo": cpo_reward,
    "orpo": orpo_reward,
    "alphapo": alphapo_reward,
}
