"""From scores to what each token is worth: KL-shaped rewards, generalised advantages. Flat (N,) tensors."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from training.engine.batches import offsets

EPSILON = 1e-4  # Added to a group's deviation, in units of the reward (TRL).


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


def group_advantages(
    rewards: Tensor, group_size: int, counted: Tensor, divide_by_deviation: bool = False
) -> Tensor:
    """(B,) how much better each completion is than the mean of those sampled for its prompt.

    rewards: (B,), the completions of one prompt side by side. counted: (B,) bool; completions without it enter
    no mean and get 0. Where divided, in deviations of the group; equal rewards give 0 either way.
    Raises ValueError if groups do not fill B.
    Source: GRPO, arXiv 2402.03300, section 4.1.2; not to divide is Dr. GRPO's, arXiv 2503.20783.
    """
    groups, kept = _in_groups(rewards, group_size), _in_groups(counted, group_size)  # (prompts, group_size)
    number = kept.sum(1, keepdim=True)
    mean = _masked(groups, kept).sum(1, keepdim=True) / number.clamp(min=1)
    centered = _masked(groups - mean, kept)
    if divide_by_deviation:
        # Of a sample, as everyone takes it: one less than the number; a single completion has none.
        variance = (centered**2).sum(1, keepdim=True) / (number - 1).clamp(min=1)
        centered = centered / (variance.sqrt() + EPSILON)
    # Where all are equal, rounding must not leave a trace: an optimiser blows up what is small.
    return _masked(centered, ~equal_groups(rewards, group_size, counted)[:, None]).flatten()


def leave_one_out_advantages(rewards: Tensor, group_size: int, counted: Tensor) -> Tensor:
    """(B,) how much better each completion is than the mean of the others sampled for its prompt.

    rewards: (B,), the completions of one prompt side by side. counted: (B,) bool; completions without it are in
    no mean and get 0, as does one that has no others; equal rewards give 0. Raises ValueError if groups do not
    fill B.
    Source: RLOO, arXiv 2402.14740.
    """
    groups, kept = _in_groups(rewards, group_size), _in_groups(counted, group_size)  # (prompts, group_size)
    groups = _masked(groups, kept)
    others = (kept.sum(1, keepdim=True) - 1).clamp(min=1)
    baseline = (groups.sum(1, keepdim=True) - groups) / others
    # Where all are equal, rounding must not leave a trace: an optimiser blows up what is small.
    return _masked(groups - baseline, kept & ~equal_groups(rewards, group_size, counted)[:, None]).flatten()


def equal_groups(rewards: Tensor, group_size: int, counted: Tensor) -> Tensor:
    """(prompts,) bool: the counted completions of the prompt have one and the same reward, or are fewer than two.

    A reward that is no number is equal to none. Raises ValueError if groups do not fill B.
    """
    groups, kept = _in_groups(rewards, group_size), _in_groups(counted, group_size)
    highest = groups.masked_fill(~kept, -torch.inf).amax(1)
    lowest = groups.masked_fill(~kept, torch.inf).amin(1)
    return (highest == lowest) | (kept.sum(1) < 2)


def _in_groups(figures: Tensor, group_size: int) -> Tensor:
    """(B,) to (prompts, group_size)."""
    if len(figures) % group_size:
        raise ValueError(f"{len(figures)} completions do not fill groups of {group_size}")
    return figures.view(-1, group_size)


def _masked(figures: Tensor, kept: Tensor) -> Tensor:
    """Zeros where not kept, also where a figure is no number."""
    return torch.where(kept, figures, torch.zeros_like(figures))


def next_coefficient(coefficient: float, kl: float, target: float, completions: int, horizon: int) -> float:
    """The price of KL after a batch: dearer above the target, cheaper below.

    Source: Ziegler et al., arXiv 1909.08593, section 2.2.
    """
    error = max(-0.2, min(0.2, kl / target - 1))
    return coefficient * (1 + error * completions / horizon)
