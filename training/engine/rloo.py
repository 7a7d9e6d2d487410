"""REINFORCE leave-one-out: a completion is one action, worth what it is above its prompt's others. No critic.
docs/rloo.md gives each choice its source and each metric its healthy range.
"""

from functools import partial
from typing import Any

from torch import Tensor

from training.engine.advantages import leave_one_out_advantages
from training.engine.batches import row_sums
from training.engine.config import Rloo
from training.engine.groups import (
    Look,
    Loss,
    comparable,
    completion_kl,
    learn_from_groups,
    load_group_players,
)
from training.engine.losses import clipped_policy_loss
from training.engine.online import Players, Rollout, train_online
from training.engine.tensors import whiten
from training.engine.workspace import Workspace


def train_with_rloo(config: Rloo, workspace: Workspace) -> dict[str, Any]:
    """Improve a policy on a reward within a KL budget; leaves OUT/model, the last policy that kept to it."""
    prompts, players = load_group_players(config, workspace)

    def learn_from(rollout: Rollout, step: int, kl_coefficient: float) -> dict[str, float]:
        return learn(players, rollout, step, kl_coefficient, config)

    return train_online(config, players, prompts, learn_from, workspace)


def learn(
    players: Players, rollout: Rollout, step: int, kl_coefficient: float, config: Rloo
) -> dict[str, float]:
    """Compare the completions of each prompt, and update the policy by it; returns metrics."""
    advantages = advantages_of(rollout, kl_coefficient, config)
    return learn_from_groups(players, rollout, advantages, partial(loss_of, config=config), step, config)


def advantages_of(rollout: Rollout, kl_coefficient: float, config: Rloo) -> Tensor:
    """(B,) what each completion's reward, the price of its KL taken off, is above the mean of the others'."""
    counted = comparable(rollout, config)
    rewards = rollout.scores - kl_coefficient * completion_kl(rollout)
    advantages = leave_one_out_advantages(rewards, config.samples_per_prompt, counted)
    if config.whiten_advantages:
        advantages[counted] = whiten(advantages[counted])
    return advantages


def loss_of(look: Look, config: Rloo) -> Loss:
    """A pass's part of the loss: the mean over the step's completions, each a single action.

    The ratio is that of whole completions. Where it is 1, as in the first update after sampling, the gradient
    is REINFORCE's: minus the advantage times the gradient of the completion's log-probability.
    Source: arXiv 2402.14740; the clipped ratio is PPO's.
    """
    new, old = row_sums(look.new, look.lengths), row_sums(look.old, look.lengths)  # (R,)
    parts = clipped_policy_loss(new, old, look.advantages, config.clip_range)
    completions = len(look.step_lengths)
    bonus = config.entropy_coefficient * look.entropy.sum()
    return Loss(parts.loss.sum() / completions, -bonus / completions, parts.clipped)
