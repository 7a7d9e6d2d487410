"""Losses as functions from tensors to tensors. Each returns one value per row or token, never a mean:
what to divide by is known only to the loop, which sees the whole optimiser step.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

LOG_RATIO_LIMIT = 20.0  # nats; exp of more overflows before clipping can act (OpenRLHF).


def preference_loss(chosen: Tensor, rejected: Tensor, tie: Tensor) -> Tensor:
    """(P,) Bradley-Terry losses of pairs of scores; tie (P,) bool counts half each way.

    -logsigmoid stays finite for any gap, log(1 + exp) does not. Source: InstructGPT, arXiv 2203.02155,
    section 3.5; half and half is the likelihood of a tie as half a win.
    """
    gap = chosen - rejected
    won = -logsigmoid(gap)
    return torch.where(tie, 0.5 * won - 0.5 * logsigmoid(-gap), won)


def centering_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """(P,) squared sums of the two scores: keeps their level at 0, which preferences leave open.

    Source: Eisenstein et al. 2023, arXiv 2312.09244, as in TRL's center_rewards_coefficient.
    """
    return (chosen + rejected) ** 2


class PolicyLoss(NamedTuple):
    """Of N tokens; all (N,)."""

    loss: Tensor
    clipped: Tensor  # bool: the token teaches nothing, its ratio left the range
    kl: Tensor  # KL(old || new) estimated from the token, nats; never negative


def clipped_policy_loss(new: Tensor, old: Tensor, advantages: Tensor, clip_range: float) -> PolicyLoss:
    """PPO's pessimistic bound on the gain; new, old (N,) log-probabilities of the sampled tokens.

    Source: arXiv 1707.06347, eq. 7. The KL estimate is k3 of Schulman's note, good as a meter.
    """
    log_ratio = (new - old).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    ratio = log_ratio.exp()
    free = -advantages * ratio
    bounded = -advantages * ratio.clamp(1 - clip_range, 1 + clip_range)
    return PolicyLoss(torch.maximum(free, bounded), bounded > free, ratio.detach() - 1 - log_ratio.detach())


def value_loss(new: Tensor, old: Tensor, returns: Tensor, clip_range: float | None) -> Tensor:
    """(N,) half squared errors of values; with a clip range the worse of free and clipped.

    Source: Huang et al., The N Implementation Details of RLHF with PPO.
    """
    free = (new - returns) ** 2
    if clip_range is None:
        return 0.5 * free
    near = old + (new - old).clamp(-clip_range, clip_range)
    return 0.5 * torch.maximum(free, (near - returns) ** 2)
