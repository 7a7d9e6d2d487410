"""From scores to what each token is worth: KL-shaped rewards, generalised advantages. Flat (N,) tensors."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from training.engine.batches import offsets


def shaped_rewards(scores: Tensor, log_ratios: Tensor, lengths: Sequence[int], coefficient: float) -> Tensor:
    """(N,) rewards per token: the price of KL everywhere, and the score at the last token.

    scores: (B,). log_ratios: (N,), log policy - log reference of the sampled tokens (k1), in nats.
    Source: Ziegler et al., arXiv 1909.08593, section 2.2; k1 here is unbiased, arXiv 2510.01555.
    """
    rewards = -coefficient * log_ratios
    last = torch.tensor(offsets(lengths)[1:], device=rewards.device) - 1
    return rewards.index_add(0, last, scores.to(rewards))


def generalized_advantages(
    rewards: Tensor, values: Tensor, lengths: Sequence[int], discount: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """(N,) advantages and (N,) returns from (N,) rewards and values; each row ends at its last token.

    Source: arXiv 1506.02438, eq. 16. After the last token there is nothing, so its value is 0.
    """
    reward_rows = pad_sequence(list(rewards.split(list(lengths))))  # (C, B), zeros after the end
    value_rows = pad_sequence(list(values.split(list(lengths))))
    following = torch.cat([value_rows[1:], torch.zeros_like(value_rows[:1])])
    deltas = reward_rows + discount * following - value_rows
    advantages = torch.zeros_like(deltas)
    carried = torch.zeros_like(deltas[0])
    for place in range(len(deltas) - 1, -1, -1):
        # Beyond a row's end rewards and values are zeros, so what is carried into its last token is 0.
        carried = deltas[place] + discount * gae_lambda * carried
        advantages[place] = carried
    flat = torch.cat([advantages[:length, row] for row, length in enumerate(lengths)])
    return flat, flat + values


def next_coefficient(coefficient: float, kl: float, target: float, completions: int, horizon: int) -> float:
    """The price of KL after a batch: dearer above the target, cheaper below.

    Source: Ziegler et al., arXiv 1909.08593, section 2.2.
    """
    error = max(-0.2, min(0.2, kl / target - 1))
    return coefficient * (1 + error * completions / horizon)
