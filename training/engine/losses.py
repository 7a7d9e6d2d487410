"""Losses as functions from tensors to tensors. Each returns one value per row or token, never a mean:
what to divide by is known only to the loop, which sees the whole optimiser step.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from training.engine.batches import sums_to_go

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


def dpo_loss(margins: Tensor, tie: Tensor, beta: float, label_smoothing: float) -> Tensor:
    """(P,) losses of pairs by the implicit reward, beta times the log-ratio of policy to reference.

    margins (P,): the chosen completion's log-ratio minus the rejected one's, nats; tie (P,) bool.
    Source: DPO, arXiv 2305.18290, eq. 7.
    """
    return _either_way(lambda gap: -logsigmoid(beta * gap), margins, tie, label_smoothing)


def ipo_loss(margins: Tensor, tie: Tensor, beta: float, label_smoothing: float) -> Tensor:
    """(P,) squared distances of margins from 1 / (2 beta): a preference that is certain asks for no more.

    margins (P,), nats per token. Source: IPO, arXiv 2310.12036, eq. 17, where beta is called tau.
    """
    return _either_way(lambda gap: (gap - 1 / (2 * beta)) ** 2, margins, tie, label_smoothing)


def _either_way(
    loss: Callable[[Tensor], Tensor], margins: Tensor, tie: Tensor, label_smoothing: float
) -> Tensor:
    """The expected loss where a label is the wrong way round with probability `label_smoothing`; a tie with
    one half. Source: conservative DPO, ericmitchell.ai/cdpo.pdf, eq. 3.
    """
    swapped = torch.where(tie, 0.5, label_smoothing)
    return (1 - swapped) * loss(margins) + swapped * loss(-margins)


class PolicyLoss(NamedTuple):
    """Of N tokens; all (N,)."""

    loss: Tensor
    clipped: Tensor  # bool: the token teaches nothing, its ratio left the range
    kl: Tensor  # KL(old || new) estimated from the token, nats; never negative


def clipped_policy_loss(
    new: Tensor, old: Tensor, advantages: Tensor, clip_range: float, clip_range_high: float | None = None
) -> PolicyLoss:
    """PPO's pessimistic bound on the gain; new, old (N,) log-probabilities of the sampled tokens.

    N may as well count whole completions, each with the sum of its tokens' log-probabilities. The ratio is held
    to 1 - clip_range and 1 + clip_range_high, which is clip_range where it is None.
    Source: arXiv 1707.06347, eq. 7; the upper limit of its own is DAPO's, arXiv 2503.14476, section 3.1.
    """
    highest = 1 + (clip_range if clip_range_high is None else clip_range_high)
    ratio = likelihood_ratio(new, old)
    free = -advantages * ratio
    bounded = -advantages * ratio.clamp(1 - clip_range, highest)
    return PolicyLoss(torch.maximum(free, bounded), bounded > free, approximate_kl(new.detach(), old))


def likelihood_ratio(new: Tensor, old: Tensor) -> Tensor:
    """(N,) how much likelier each token has become, finite for any log-probabilities."""
    return (new - old).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()


def approximate_kl(new: Tensor, old: Tensor) -> Tensor:
    """(N,) KL(old || new) estimated from each token, nats; k3 of Schulman's note, good as a meter."""
    log_ratio = (new - old).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return log_ratio.exp() - 1 - log_ratio


def completion_kl_loss(new: Tensor, old: Tensor, reference: Tensor, lengths: Sequence[int]) -> Tensor:
    """(N,) terms whose summed gradient is that of the KL of whole completions to the reference, nats.

    new, old, reference: (N,) log-probabilities of tokens that were sampled with `old`; lengths: of the rows.
    A token answers for the log-ratios from it to the end of its completion: the choice made there changes what
    follows. What came before has mean 0 in the gradient, and only adds noise. Differentiating an estimate of
    the KL itself gives another gradient: none with k1, that of KL(reference || policy) with k3, and with k2
    token by token (the half square) what follows is missing; k2 of whole completions has the same mean as ours.
    The likelihood ratio corrects for tokens sampled before the policy moved. Only the gradient means anything.
    Source: arXiv 2506.09477, on KL of sequences; arXiv 2510.01555, on k2 and on the correction.
    """
    following = sums_to_go((new - reference).detach(), lengths)
    return likelihood_ratio(new, old) * following


def token_kl_loss(new: Tensor, old: Tensor, reference: Tensor) -> Tensor:
    """(N,) terms whose gradient is that of the KL to the reference of each next token by itself, nats.

    As above, but no token answers for what follows it, so that a nat costs less than its price. Its gradient has the
    mean that k3 times the likelihood ratio has. Only the gradient means anything.
    Source: arXiv 2512.02556, section 3.1, and the default of TRL.
    """
    return likelihood_ratio(new, old) * (new - reference).detach()


def value_loss(new: Tensor, old: Tensor, returns: Tensor, clip_range: float | None) -> Tensor:
    """(N,) half squared errors of values; with a clip range the worse of free and clipped.

    Source: Huang et al., The N Implementation Details of RLHF with PPO.
    """
    free = (new - returns) ** 2
    if clip_range is None:
        return 0.5 * free
    near = old + (new - old).clamp(-clip_range, clip_range)
    return 0.5 * torch.maximum(free, (near - returns) ** 2)
