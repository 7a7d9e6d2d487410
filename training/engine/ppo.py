"""Proximal policy optimisation with a critic: rewards per token, advantages, a few epochs of updates.
docs/ppo.md gives each choice its source and each metric its healthy range.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from training.engine.advantages import generalized_advantages, shaped_rewards
from training.engine.batches import Batch, gather_rows, offsets
from training.engine.config import Ppo
from training.engine.guards import check_start
from training.engine.lines import token_batches
from training.engine.loading import load_scorer
from training.engine.losses import PolicyLoss, clipped_policy_loss, value_loss
from training.engine.networks import Policy, Scorer, add_adapters, reset_head, same_tokenizer
from training.engine.online import (
    Players,
    Prompts,
    Rollout,
    load_players,
    minibatches,
    train_online,
    updates_per_iteration,
)
from training.engine.tensors import token_logprobs, token_statistics, whiten
from training.engine.updates import Updater
from training.engine.workspace import Workspace


@dataclass(kw_only=True)
class PpoPlayers(Players):
    """The critic plays too."""

    critic: Scorer
    critic_updater: Updater

    def weights(self) -> dict[str, dict[str, torch.nn.Parameter]]:
        """Both networks learn."""
        return super().weights() | {"critic": self.critic.trained()}

    def updaters(self) -> dict[str, Updater]:
        """Of the same networks."""
        return super().updaters() | {"critic": self.critic_updater}


@dataclass(frozen=True)
class Lesson:
    """What a rollout teaches, per token, (N,)."""

    advantages: Tensor  # whitened over the batch's real tokens
    values: Tensor  # what the critic foresaw before the update
    returns: Tensor  # what it should have foreseen


def train_with_ppo(config: Ppo, workspace: Workspace) -> dict[str, Any]:
    """Improve a policy on a reward within a KL budget; leaves OUT/model, the last policy that kept to it."""
    prompts, players = load_ppo_players(config, workspace)

    def learn_from(rollout: Rollout, step: int, kl_coefficient: float) -> dict[str, float]:
        return learn(players, rollout, step, kl_coefficient, config)

    return train_online(config, players, prompts, learn_from, workspace)


def learn(
    players: PpoPlayers, rollout: Rollout, step: int, kl_coefficient: float, config: Ppo
) -> dict[str, float]:
    """A few epochs over the batch in minibatches; the policy stops where it has left the old one too far."""
    lengths = rollout.lengths
    log_ratios = rollout.logprobs - rollout.reference_logprobs
    rewards = shaped_rewards(rollout.scores, log_ratios, lengths, kl_coefficient)
    values = foresee(players.critic, rollout, config)
    advantages, returns = generalized_advantages(rewards, values, lengths, config.discount, config.gae_lambda)
    lesson = Lesson(whiten(advantages), values, returns)
    policy_updater, critic_updater = players.policy_updater, players.critic_updater
    refused_before = policy_updater.refused + critic_updater.refused
    policy_moves = step >= config.critic_warmup_steps
    started = False
    sums: Counter[str] = Counter()
    norms: dict[str, float] = {}
    for numbers in minibatches(len(lengths), step, config):
        of_batch = accumulate_gradients(players, rollout, lesson, numbers, policy_moves, config)
        sums.update({name: value for name, value in of_batch.items() if name != "ratio_error"})
        if policy_moves:
            if not started:
                check_start(of_batch["ratio_error"], None, players.policy.runtime.tolerance)
                started = True
            if of_batch["kl"] / len(numbers) > config.update_kl_limit:
                policy_updater.drop()
                policy_moves = False
            else:
                norms["grad_norm"] = policy_updater.step()
        norms["critic_grad_norm"] = critic_updater.step()
    policy_tokens = max(sums["policy_tokens"], 1)
    return {
        "value_loss": sums["value_loss"] / sums["tokens"],
        "policy_loss": sums["policy_loss"] / policy_tokens,
        "clip_fraction": sums["clipped"] / policy_tokens,
        "approx_kl": sums["kl"] / policy_tokens,
        "explained_variance": _explained(values, returns),
        "refused_updates": policy_updater.refused + critic_updater.refused - refused_before,
        "learning_rate": policy_updater.current_rate,
        **norms,
    }


def accumulate_gradients(
    players: PpoPlayers,
    rollout: Rollout,
    lesson: Lesson,
    numbers: Sequence[int],
    policy_moves: bool,
    config: Ppo,
) -> dict[str, float]:
    """Add up the gradients of one update's rows, in as many passes as memory asks for.

    Losses are divided by the real tokens of all these rows, so the passes and processes they are dealt to do not
    matter. Returns sums over tokens, and the greatest |new - old log-probability|, of all processes.
    """
    runtime = players.policy.runtime.shared_with(players.critic.runtime)
    lengths = rollout.lengths
    tokens = sum(lengths[number] for number in numbers)
    policy_tokens = tokens if policy_moves else 0
    sums: Counter[str] = Counter()
    ratio_error = 0.0
    rows = [rollout.rows[number] for number in numbers]
    for group, batch in token_batches(rows, config.micro_batch_tokens, runtime):
        picked = [numbers[place] for place in group]
        old, advantages, old_values, returns = (
            gather_rows(flat, lengths, picked)
            for flat in (rollout.logprobs, lesson.advantages, lesson.values, lesson.returns)
        )
        if policy_moves:
            loss, parts, new = _policy_terms(players.policy, batch, old, advantages, config)
            (loss / tokens).backward()
            ratio_error = max(ratio_error, float((new - old).abs().max()))
            clipped = float(parts.clipped.sum())
            sums.update(policy_loss=float(loss.detach()), clipped=clipped, kl=float(parts.kl.sum()))
        values = players.critic.values(batch)
        critic_loss = value_loss(values, old_values, returns, config.value_clip_range).sum()
        (critic_loss / tokens).backward()
        sums.update(value_loss=float(critic_loss.detach()))
    sums = runtime.processes.count_up(sums)
    sums.update(tokens=tokens, policy_tokens=policy_tokens)
    return {**sums, "ratio_error": max(runtime.processes.gather(ratio_error))}


def _policy_terms(
    policy: Policy, batch: Batch, old: Tensor, advantages: Tensor, config: Ppo
) -> tuple[Tensor, PolicyLoss, Tensor]:
    """The policy's summed loss, its parts, and the new log-probabilities."""
    hidden = policy.hidden(batch)
    if not config.entropy_coefficient:
        new = token_logprobs(policy.head, hidden, batch.targets, config.temperature)
        parts = clipped_policy_loss(new, old, advantages, config.clip_range)
        return parts.loss.sum(), parts, new.detach()
    new, entropy = token_statistics(policy.head, hidden, batch.targets, config.temperature)
    parts = clipped_policy_loss(new, old, advantages, config.clip_range)
    return parts.loss.sum() - config.entropy_coefficient * entropy.sum(), parts, new.detach()


def _explained(values: Tensor, returns: Tensor) -> float:
    """Share of the returns' variance that the values foresaw; 1 is all, below 0 is worse than a constant."""
    variance = float(returns.var(correction=0))
    return 1 - float((returns - values).var(correction=0)) / variance if variance > 0 else 0.0


@torch.no_grad()
def foresee(critic: Scorer, rollout: Rollout, config: Ppo) -> Tensor:
    """(N,) the value of the state before each sampled token."""
    begins = offsets(rollout.lengths)
    values = torch.zeros(begins[-1], device=critic.runtime.device)
    for group, batch in token_batches(rollout.rows, config.micro_batch_tokens, critic.runtime):
        places = torch.cat([torch.arange(begins[row], begins[row + 1]) for row in group])
        values[places.to(values.device)] = critic.values(batch)
    return critic.runtime.processes.add_up(values)


def load_ppo_players(config: Ppo, workspace: Workspace) -> tuple[Prompts, PpoPlayers]:
    """Prompts, and the networks with what changes two of them."""
    loaded = load_players(config, workspace)
    # The critic starts from the reward model, which knows what is worth something; it reads the policy's ids.
    scorer, policy = loaded.scorer, loaded.policy
    shares_ids = scorer is not None and same_tokenizer(policy.tokenizer, scorer.tokenizer)
    if loaded.household:
        from training.engine.sharing import add_critic

        critic = add_critic(loaded.household, config, scorer)
    else:
        source = config.reward_model if shares_ids and config.reward_model else config.model
        critic = load_scorer(source, config, loaded.runtime)
        reset_head(critic, 0.0)
        add_adapters(critic.model, config)
    updates, processes = updates_per_iteration(config), loaded.runtime.processes
    moving = max(1, config.steps - config.critic_warmup_steps)
    players = PpoPlayers(
        policy=policy,
        reference=loaded.reference,
        rewards=loaded.rewards,
        encoder=loaded.encoder,
        household=loaded.household,
        policy_updater=Updater(policy.trained(), loaded.rate, moving * updates, config, processes),
        critic=critic,
        critic_updater=Updater(
            critic.trained(),
            config.critic_learning_rate or 3 * loaded.rate,
            config.steps * updates,
            config,
            processes,
        ),
    )
    return loaded.prompts, players
