"""What the methods without a critic, grpo and rloo, share: which completions of a prompt are held against each
other, and the update of the policy in minibatches. How completions are compared, and the loss, are the method's.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from training.engine.advantages import equal_groups
from training.engine.batches import Batch, gather_rows, row_sums
from training.engine.guards import check_start
from training.engine.lines import token_batches
from training.engine.losses import approximate_kl
from training.engine.online import Players, Prompts, Rollout, load_players, minibatches, updates_per_iteration
from training.engine.online_settings import Grouped
from training.engine.tensors import token_logprobs, token_statistics
from training.engine.updates import Updater
from training.engine.workspace import Workspace


@dataclass(frozen=True)
class Lesson:
    """What a rollout teaches, per completion."""

    advantages: Tensor  # (B,)
    teaches: Tensor  # (B,) bool: the others are in no loss, nor in what it is divided by


class Look(NamedTuple):
    """One pass over some rows of an optimiser step: R completions of N tokens in all."""

    new: Tensor  # (N,) log-probabilities under the policy as it is now, with their gradient
    entropy: Tensor  # (N,) nats, with its gradient; zeros where no bonus asks for it
    old: Tensor  # (N,) log-probabilities under the policy that sampled
    reference: Tensor  # (N,) and under the reference
    advantages: Tensor  # (R,)
    lengths: list[int]  # of these R completions
    step_lengths: list[int]  # of all completions of the optimiser step, these among them


class Loss(NamedTuple):
    """A pass's part of the loss of an optimiser step: the parts add up, whatever the passes are."""

    policy: Tensor  # (), the clipped loss
    regulariser: Tensor  # (), what is added to it: minus the entropy bonus, a price of KL
    clipped: Tensor  # bool, for each ratio that there is: it left its range, and teaches nothing


LossOf = Callable[[Look], Loss]


def comparable(rollout: Rollout, config: Grouped) -> Tensor:
    """(B,) bool: the completions that are held against each other; all, or those that ended by themselves."""
    ended = torch.tensor([completion.ended for completion in rollout.completions])
    return ended if config.mask_unfinished else torch.ones_like(ended)


def completion_kl(rollout: Rollout) -> Tensor:
    """(B,) KL to the reference of each completion, as the log-ratio of its tokens (k1), in nats."""
    return row_sums(rollout.logprobs - rollout.reference_logprobs, rollout.lengths).to(rollout.scores)


def learn_from_groups(
    players: Players, rollout: Rollout, advantages: Tensor, loss_of: LossOf, step: int, config: Grouped
) -> dict[str, float]:
    """Update the policy by what each completion is worth, (B,); returns metrics.

    Prompts whose completions all have one score are equal groups, whatever the KL adds to their rewards.
    """
    counted = comparable(rollout, config)
    equal = equal_groups(rollout.scores, config.samples_per_prompt, counted)
    left_out = equal.repeat_interleave(config.samples_per_prompt) & config.skip_equal_groups
    metrics = update_policy(players, rollout, Lesson(advantages, counted & ~left_out), loss_of, step, config)
    shares = {"equal_groups": equal.float().mean(), "masked_share": 1 - counted.float().mean()}
    return metrics | {name: float(share) for name, share in shares.items()}


def update_policy(
    players: Players, rollout: Rollout, lesson: Lesson, loss_of: LossOf, step: int, config: Grouped
) -> dict[str, float]:
    """A few epochs over the batch in minibatches; stops where the policy has left the old one too far."""
    updater = players.policy_updater
    refused_before = updater.refused
    teaches = lesson.teaches.tolist()
    sums: Counter[str] = Counter()
    norm: dict[str, float] = {}
    for numbers in minibatches(len(rollout.rows), step, config):
        taught = [number for number in numbers if teaches[number]]
        if not taught:
            continue
        of_step, ratio_error = accumulate_gradients(players, rollout, lesson, taught, loss_of, config)
        if not sums["steps"]:
            check_start(ratio_error, None, players.policy.runtime.tolerance)
        sums.update(of_step, steps=1)
        if of_step["kl"] / len(taught) > config.update_kl_limit:
            updater.drop()
            break
        norm["grad_norm"] = updater.step()
    return {
        "policy_loss": sums["policy_loss"] / max(sums["steps"], 1),
        "clip_fraction": sums["clipped"] / max(sums["ratios"], 1),
        "approx_kl": sums["kl"] / max(sums["tokens"], 1),
        "refused_updates": updater.refused - refused_before,
        "learning_rate": updater.current_rate,
        **norm,
    }


def accumulate_gradients(
    players: Players,
    rollout: Rollout,
    lesson: Lesson,
    numbers: Sequence[int],
    loss_of: LossOf,
    config: Grouped,
) -> tuple[dict[str, float], float]:
    """Add up the gradients of one update's rows, in as many passes as memory asks for.

    Returns the update's figures, and the greatest |new - old log-probability|, nats, of all processes.
    """
    runtime = players.policy.runtime
    lengths = rollout.lengths
    step_lengths = [lengths[number] for number in numbers]
    sums: Counter[str] = Counter()
    ratio_error = 0.0
    rows = [rollout.rows[number] for number in numbers]
    for group, batch in token_batches(rows, config.micro_batch_tokens, runtime):
        picked = [numbers[place] for place in group]
        old = gather_rows(rollout.logprobs, lengths, picked)
        reference = gather_rows(rollout.reference_logprobs, lengths, picked)
        new, entropy = _statistics(players, batch, config)
        advantages = lesson.advantages[picked].to(new)
        loss = loss_of(Look(new, entropy, old, reference, advantages, batch.lengths, step_lengths))
        (loss.policy + loss.regulariser).backward()
        change = (new.detach() - old).abs().max()
        ratio_error = max(ratio_error, float(change))
        sums.update(
            policy_loss=float(loss.policy.detach()),
            clipped=float(loss.clipped.sum()),
            ratios=len(loss.clipped),
            kl=float(approximate_kl(new.detach(), old).sum()),
        )
    sums = runtime.processes.count_up(sums)
    sums["tokens"] = sum(step_lengths)
    return sums, max(runtime.processes.gather(ratio_error))


def _statistics(players: Players, batch: Batch, config: Grouped) -> tuple[Tensor, Tensor]:
    """(N,) log-probabilities of a batch's tokens, and the entropy there, which costs a pass over all logits."""
    policy = players.policy
    hidden = policy.hidden(batch)
    if config.entropy_coefficient:
        return token_statistics(policy.head, hidden, batch.targets, config.temperature)
    new = token_logprobs(policy.head, hidden, batch.targets, config.temperature)
    return new, torch.zeros_like(new)


def load_group_players(config: Grouped, workspace: Workspace) -> tuple[Prompts, Players]:
    """Prompts, and the networks with what changes the policy."""
    loaded = load_players(config, workspace)
    parameters, updates = loaded.policy.trained(), config.steps * updates_per_iteration(config)
    players = Players(
        policy=loaded.policy,
        reference=loaded.reference,
        rewards=loaded.rewards,
        encoder=loaded.encoder,
        household=loaded.household,
        policy_updater=Updater(parameters, loaded.rate, updates, config, loaded.runtime.processes),
    )
    return loaded.prompts, players
