"""Group relative policy optimisation: a completion is worth what it is above its prompt's others. No critic.
docs/grpo.md gives each choice its source and each metric its healthy range.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from training.engine.advantages import group_advantages
from training.engine.config import Grpo
from training.engine.groups import (
    Look,
    Loss,
    comparable,
    completion_kl,
    learn_from_groups,
    load_group_players,
)
from training.engine.losses import clipped_policy_loss, completion_kl_loss, token_kl_loss
from training.engine.online import Players, Rollout, train_online
from training.engine.workspace import Workspace


def train_with_grpo(config: Grpo, workspace: Workspace) -> dict[str, Any]:
    """Improve a policy on a reward within a KL budget; leaves OUT/model, the last policy that kept to it."""
    prompts, players = load_group_players(config, workspace)

    def learn_from(rollout: Rollout, step: int, kl_coefficient: float) -> dict[str, float]:
        return learn(players, rollout, step, kl_coefficient, config)

    return train_online(config, players, prompts, learn_from, workspace)


def learn(
    players: Players, rollout: Rollout, step: int, kl_coefficient: float, config: Grpo
) -> dict[str, float]:
    """Compare the completions of each prompt, and update the policy by it; returns metrics."""
    advantages = advantages_of(rollout, kl_coefficient, config)
    loss = partial(loss_of, kl_coefficient=kl_coefficient, config=config)
    return learn_from_groups(players, rollout, advantages, loss, step, config)


def advantages_of(rollout: Rollout, kl_coefficient: float, config: Grpo) -> Tensor:
    """(B,) what each completion's reward is above its group's mean, the price of its KL taken off."""
    size, counted = config.samples_per_prompt, comparable(rollout, config)
    advantages = group_advantages(rollout.scores, size, counted, config.divide_by_deviation)
    if config.kl_in_loss:
        return advantages
    # Scores alone are divided by their deviation: a nat costs the same in every group, and in a group of equal
    # scores the noise of the log-ratios is not blown up to a deviation of 1.
    prices = -kl_coefficient * completion_kl(rollout)
    return advantages + group_advantages(prices, size, counted)


def loss_of(look: Look, kl_coefficient: float, config: Grpo) -> Loss:
    """A pass's part of the loss: each token answers for the whole completion's advantage.

    Source: arXiv 2402.03300, eq. 3; what it is divided by is `token_weights`'.
    """
    weights = token_weights(look.lengths, look.step_lengths, config).to(look.new)
    advantages = look.advantages.repeat_interleave(torch.tensor(look.lengths, device=look.new.device))
    parts = clipped_policy_loss(look.new, look.old, advantages, config.clip_range, config.clip_range_high)
    regularisers = -config.entropy_coefficient * look.entropy
    if config.kl_in_loss:
        regularisers = regularisers + kl_coefficient * kl_loss(look, config)
    return Loss((weights * parts.loss).sum(), (weights * regularisers).sum(), parts.clipped)


def kl_loss(look: Look, config: Grpo) -> Tensor:
    """(N,) the term of each token whose gradient is that of KL to the reference, nats."""
    if config.kl_gradient == "token":
        return token_kl_loss(look.new, look.old, look.reference)
    return completion_kl_loss(look.new, look.old, look.reference, look.lengths)


def token_weights(lengths: Sequence[int], step_lengths: Sequence[int], config: Grpo) -> Tensor:
    """(N,) what the loss of each token counts for; lengths are of a pass, step_lengths of its optimiser step.

    Over the tokens of a step the weights add up to 1, or, with a constant divisor, to how full completions are.
    """
    counts = torch.tensor(lengths)
    divisors = {
        "tokens": torch.full_like(counts, sum(step_lengths)),  # DAPO, arXiv 2503.14476, section 3.3
        "completion": counts * len(step_lengths),  # arXiv 2402.03300, eq. 3
        "constant": torch.full_like(counts, config.max_completion_tokens * len(step_lengths)),  # Dr. GRPO
    }
    return (1 / divisors[config.length_divisor]).repeat_interleave(counts)
