"""Proximal policy optimisation with a critic, read straight down: rollout, rewards, advantages, update,
report. docs/ppo.md gives each choice its source and each metric its healthy range.
"""

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from training.engine.advantages import generalized_advantages, next_coefficient, shaped_rewards
from training.engine.batches import Batch, Encoder, Tokens, gather_rows, row_sums, token_batches
from training.engine.checkpoints import Checkpoints, part, prefixed, restore
from training.engine.config import EngineError, Ppo
from training.engine.generation import Completion, Sampling, sample
from training.engine.guards import GuardStop, check_rollout, check_start, text_metrics
from training.engine.intervals import mean_interval
from training.engine.losses import PolicyLoss, clipped_policy_loss, value_loss
from training.engine.networks import (
    Policy,
    Runtime,
    Scorer,
    add_adapters,
    describe_training,
    epoch_order,
    generator,
    learning_rate,
    load_policy,
    load_scorer,
    merge_adapters,
    reset_head,
    same_tokenizer,
    save_model,
    settle,
    trained_parameters,
)
from training.engine.records import PromptRecord, read_records
from training.engine.rewards import Rewards, load_callables
from training.engine.tensors import exact_kl, token_logprobs, token_statistics, whiten
from training.engine.updates import Updater
from training.engine.workspace import StopRequested, Workspace

MAX_REFUSED_ITERATIONS = 3
FINAL_COMPLETIONS = 256  # sampled to measure the policy that is saved


@dataclass
class Players:
    """The four networks, and what changes two of them."""

    policy: Policy
    reference: Policy
    critic: Scorer
    rewards: Rewards
    encoder: Encoder
    policy_updater: Updater
    critic_updater: Updater


@dataclass
class Rollout:
    """Completions with all that was known of them before the update; token figures are flat (N,)."""

    prompts: list[PromptRecord]
    completions: list[Completion]
    rows: list[Tokens]
    scores: Tensor  # (B,)
    logprobs: Tensor  # (N,) under the policy that sampled
    reference_logprobs: Tensor
    exact_kl: Tensor
    entropy: Tensor
    values: Tensor
    metrics: dict[str, float]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each completion."""
        return [len(row.completion) for row in self.rows]


@dataclass(frozen=True)
class Lesson:
    """What a rollout teaches, per token, (N,)."""

    advantages: Tensor  # whitened over the batch's real tokens
    returns: Tensor  # what the critic should have foreseen


@dataclass
class Progress:
    """What the loop remembers between iterations, beside weights and optimisers; all of it is saved."""

    kl_coefficient: float
    refused: int = 0  # iterations in a row in which an update was refused
    first: dict[str, float] = field(default_factory=dict)  # metrics of the first rollout
    good: dict[str, Any] = field(default_factory=dict)  # what was measured of the last good policy
    history: list[list[float]] = field(default_factory=list)  # [exact KL, reward] of each iteration


def train_with_ppo(config: Ppo, workspace: Workspace) -> dict[str, Any]:
    """Improve a policy on a reward within a KL budget; leaves OUT/model, the last policy that kept to it."""
    prompts = read_records(config.prompts, PromptRecord)
    functions = load_callables(config.rewards)
    runtime = settle(config)
    players = _load_players(config, functions, runtime, workspace)
    policy_weights = trained_parameters(players.policy.model)
    critic_weights = trained_parameters(players.critic.model)
    good_weights = _copy(policy_weights)
    progress = Progress(config.kl_coefficient)
    checkpoints = Checkpoints(workspace.folder, workspace.events)
    start = 0
    if saved := checkpoints.load():
        start = saved.step
        restore(policy_weights, part("policy", saved.tensors))
        restore(critic_weights, part("critic", saved.tensors))
        restore(good_weights, part("good", saved.tensors))
        players.policy_updater.load_state_dict(saved.state["policy_updater"])
        players.critic_updater.load_state_dict(saved.state["critic_updater"])
        progress = Progress(**saved.state["progress"])

    def save(step: int) -> None:
        tensors = prefixed("policy", policy_weights) | prefixed("critic", critic_weights)
        state = {
            "policy_updater": players.policy_updater.state_dict(),
            "critic_updater": players.critic_updater.state_dict(),
            "progress": vars(progress),
        }
        checkpoints.save(step, tensors | prefixed("good", good_weights), state)

    stopped_by = None
    step = start
    try:
        for step in range(start, config.steps):
            began = time.monotonic()
            try:
                rollout = collect(players, _batch_prompts(prompts, step, config), step, config, workspace)
            except StopRequested:
                save(step)  # Nothing has changed since the last step: what was sampled is sampled again.
                raise
            sampled = time.monotonic()
            progress.first = progress.first or rollout.metrics
            check_rollout(rollout.metrics, progress.first, config)
            if not step:
                same = config.reference_model in (None, config.model)
                check_start(0.0, rollout.metrics["exact_kl"] if same else None, runtime.tolerance)
            good_weights = _copy(policy_weights)
            progress.good = _summary(rollout, step)
            progress.history.append([rollout.metrics["exact_kl"], rollout.metrics["reward"]])

            metrics = dict(rollout.metrics)
            metrics["kl_coefficient"] = progress.kl_coefficient
            metrics |= learn(players, rollout, step, progress.kl_coefficient, config)
            progress.refused = progress.refused + 1 if metrics["refused_updates"] else 0
            if progress.refused >= MAX_REFUSED_ITERATIONS:
                raise GuardStop("gradients were not finite in three iterations in a row")
            if step >= config.critic_warmup_steps:
                progress.kl_coefficient = next_coefficient(
                    progress.kl_coefficient,
                    metrics["exact_kl"],
                    config.kl_target,
                    config.batch_size,
                    config.kl_horizon,
                )
            metrics["rollout_seconds"] = sampled - began
            metrics["update_seconds"] = time.monotonic() - sampled
            metrics["tokens_per_second"] = len(rollout.logprobs) / (time.monotonic() - began)
            workspace.events.metrics(step + 1, metrics)
            workspace.events.progress("ppo", step + 1, config.steps)
            last = step + 1 == config.steps
            if last or workspace.stopping or (step + 1) % config.checkpoint_every_steps == 0:
                save(step + 1)
            workspace.check_stop()
        step = config.steps
        final = _measure_final(players, prompts, config, workspace)
        check_rollout(final.metrics, progress.first or final.metrics, config)
        progress.good, good_weights = _summary(final, config.steps), _copy(policy_weights)
    except GuardStop as stop:
        stopped_by = str(stop)
        workspace.events.message("warning", f"stopped after {step} steps: {stopped_by}")
        if not progress.good:  # Not even the first policy passed: it is saved as it came.
            progress.good = {"steps": 0, "kl_nats": None, "kl_interval": None, "reward_mean": None}

    restore(policy_weights, good_weights)
    if config.lora_rank:
        merge_adapters(players.policy.model)
    save_model(players.policy.model, players.policy.tokenizer, workspace.folder / "model")
    return {
        **progress.good,
        "stopped_by": stopped_by,
        "kl_budget_nats": config.kl_budget_nats,
        "kl_coefficient": progress.kl_coefficient,
        "first": {
            name: progress.first.get(name)
            for name in ("reward", "entropy", "length", "eos_rate", "distinct_2")
        },
    }


def collect(
    players: Players, prompts: list[PromptRecord], step: int, config: Ppo, workspace: Workspace
) -> Rollout:
    """Sample a completion of each prompt, and let every network say what it makes of it."""
    policy, budget = players.policy, config.micro_batch_tokens
    # `prompts` holds a prompt once for each of its completions; each is prefilled once.
    distinct = prompts[:: config.samples_per_prompt]
    ids = players.encoder.prompts([prompt.messages for prompt in distinct])
    how = Sampling(config.max_completion_tokens, (config.temperature,), config.samples_per_prompt)
    random = generator(config.seed, "sampling", step)
    completions = sample(policy, ids, how, random, budget, workspace.check_stop)
    rows = [Tokens(completion.prompt, completion.tokens) for completion in completions]
    scores, terms = players.rewards(prompts, completions)

    lengths = [len(row.completion) for row in rows]
    ends = torch.tensor(lengths).cumsum(0)
    figures = torch.zeros(5, int(ends[-1]), device=policy.runtime.device)
    with torch.no_grad():
        for group, batch in token_batches(rows, budget, policy.runtime.device):
            workspace.check_stop()
            hidden, reference_hidden = policy.hidden(batch), players.reference.hidden(batch)
            own = token_statistics(policy.head, hidden, batch.targets, config.temperature)
            reference = token_logprobs(
                players.reference.head, reference_hidden, batch.targets, config.temperature
            )
            kl = exact_kl(policy.head, hidden, players.reference.head, reference_hidden, config.temperature)
            values = players.critic.values(batch)
            places = torch.cat([torch.arange(ends[row] - lengths[row], ends[row]) for row in group])
            figures[:, places.to(figures.device)] = torch.stack(
                [own.logprobs, reference, kl, own.entropy, values]
            )
    rollout = Rollout(prompts, completions, rows, scores, *figures.unbind(), metrics=terms)
    rollout.metrics |= _describe(rollout, players, config)
    return rollout


def _describe(rollout: Rollout, players: Players, config: Ppo) -> dict[str, float]:
    """What the log and the guards read of a rollout."""
    recorded = torch.cat([completion.logprobs for completion in rollout.completions])
    texts = [
        players.encoder.text(completion.tokens, players.policy.end_tokens)
        for completion in rollout.completions
    ]
    count = len(rollout.rows)
    log_ratios = rollout.logprobs - rollout.reference_logprobs
    return {
        "reward": float(rollout.scores.mean()),
        "kl": float(log_ratios.sum()) / count,
        "exact_kl": float(rollout.exact_kl.sum()) / count,
        "entropy": float(rollout.entropy.mean()),
        "length": len(rollout.logprobs) / count,
        "eos_rate": sum(completion.ended for completion in rollout.completions) / count,
        # The health of sampling: how far its probabilities are from those of the forward pass.
        "sampling_gap": float((recorded.exp() - rollout.logprobs.cpu().exp()).abs().mean()),
        **text_metrics(texts),
    }


def learn(
    players: Players, rollout: Rollout, step: int, kl_coefficient: float, config: Ppo
) -> dict[str, float]:
    """A few epochs over the batch in minibatches; the policy stops where it has left the old one too far."""
    lengths = rollout.lengths
    log_ratios = rollout.logprobs - rollout.reference_logprobs
    rewards = shaped_rewards(rollout.scores, log_ratios, lengths, kl_coefficient)
    advantages, returns = generalized_advantages(
        rewards, rollout.values, lengths, config.discount, config.gae_lambda
    )
    lesson = Lesson(whiten(advantages), returns)
    policy_updater, critic_updater = players.policy_updater, players.critic_updater
    refused_before = policy_updater.refused + critic_updater.refused
    policy_moves = step >= config.critic_warmup_steps
    started = False
    sums: Counter[str] = Counter()
    norms: dict[str, float] = {}
    for numbers in _minibatches(len(lengths), step, config):
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
        "explained_variance": _explained(rollout.values, returns),
        "refused_updates": policy_updater.refused + critic_updater.refused - refused_before,
        "learning_rate": policy_updater.current_rate,
        **norms,
    }


def _minibatches(count: int, step: int, config: Ppo) -> Iterator[list[int]]:
    """Row numbers of each optimiser update of an iteration: every epoch in another order."""
    for epoch in range(config.epochs):
        random = generator(config.seed, f"minibatches {step}", epoch)
        order = torch.randperm(count, generator=random).tolist()
        for begin in range(0, count, config.minibatch_size):
            yield order[begin : begin + config.minibatch_size]


def accumulate_gradients(
    players: Players,
    rollout: Rollout,
    lesson: Lesson,
    numbers: Sequence[int],
    policy_moves: bool,
    config: Ppo,
) -> dict[str, float]:
    """Add up the gradients of one update's rows, in as many passes as memory asks for.

    Losses are divided by the real tokens of all these rows, so the passes they are cut into do not matter.
    Returns sums over tokens, and the greatest |new - old log-probability|.
    """
    lengths = rollout.lengths
    tokens = sum(lengths[number] for number in numbers)
    policy_tokens = tokens if policy_moves else 0
    sums: Counter[str] = Counter(tokens=tokens, policy_tokens=policy_tokens)
    ratio_error = 0.0
    rows = [rollout.rows[number] for number in numbers]
    for group, batch in token_batches(rows, config.micro_batch_tokens, players.policy.runtime.device):
        picked = [numbers[place] for place in group]
        old, advantages, old_values, returns = (
            gather_rows(flat, lengths, picked)
            for flat in (rollout.logprobs, lesson.advantages, rollout.values, lesson.returns)
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
    return {**sums, "ratio_error": ratio_error}


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


def _summary(rollout: Rollout, step: int) -> dict[str, Any]:
    """What the result says of a policy, if it is the one that is kept."""
    kl, interval = mean_interval(
        row_sums(rollout.exact_kl, rollout.lengths).tolist(), [prompt.key for prompt in rollout.prompts]
    )
    names = ("entropy", "length", "eos_rate", "distinct_2", "identical_share", "repeated_share")
    return {
        "steps": step,
        "kl_nats": kl,
        "kl_interval": interval,
        "reward_mean": rollout.metrics["reward"],
        **{name: rollout.metrics[name] for name in names},
    }


def _batch_prompts(prompts: Sequence[PromptRecord], step: int, config: Ppo) -> list[PromptRecord]:
    """The next prompts of an endless walk through shuffled epochs, each `samples_per_prompt` times."""
    count = config.batch_size // config.samples_per_prompt
    chosen: list[PromptRecord] = []
    for cursor in range(step * count, (step + 1) * count):
        epoch, place = divmod(cursor, len(prompts))
        if not place or cursor == step * count:
            order = epoch_order(config.seed, epoch, len(prompts))
        chosen += [prompts[order[place]]] * config.samples_per_prompt
    return chosen


def _measure_final(
    players: Players, prompts: Sequence[PromptRecord], config: Ppo, workspace: Workspace
) -> Rollout:
    """A rollout of the policy as it ended, larger than a step's, for figures that hold."""
    count = max(config.batch_size, FINAL_COMPLETIONS // config.samples_per_prompt * config.samples_per_prompt)
    larger = config.model_copy(update={"batch_size": count})
    return collect(players, _batch_prompts(prompts, 0, larger), config.steps, larger, workspace)


def _load_players(config: Ppo, functions: Sequence[Any], runtime: Runtime, workspace: Workspace) -> Players:
    policy = load_policy(config.model, config, runtime)
    reference = load_policy(config.reference_model or config.model, config, runtime)
    if not same_tokenizer(policy.tokenizer, reference.tokenizer):
        raise EngineError(
            f"reference_model: {config.reference_model} has another tokenizer than {config.model}"
        )
    reference.model.requires_grad_(False)
    scorer = load_scorer(config.reward_model, config, runtime) if config.reward_model else None
    # The critic starts from the reward model, which knows what is worth something; it reads the policy's ids.
    shares_ids = scorer is not None and same_tokenizer(policy.tokenizer, scorer.tokenizer)
    critic = load_scorer(
        config.reward_model if shares_ids and config.reward_model else config.model, config, runtime
    )
    reset_head(critic, 0.0)
    add_adapters(policy.model, config)
    add_adapters(critic.model, config)
    if scorer:
        scorer.model.requires_grad_(False)
    rewards = Rewards(config, functions, scorer, policy)
    rewards.report(workspace.events)
    encoder = Encoder(policy.tokenizer, policy.end_tokens, config)
    rate = learning_rate(config.learning_rate, policy.model, config)
    workspace.events.message("info", describe_training(policy.model, rate, runtime))
    per_iteration = config.epochs * math.ceil(config.batch_size / config.minibatch_size)
    moving = max(1, config.steps - config.critic_warmup_steps)
    return Players(
        policy=policy,
        reference=reference,
        critic=critic,
        rewards=rewards,
        encoder=encoder,
        policy_updater=Updater(trained_parameters(policy.model), rate, moving * per_iteration, config),
        critic_updater=Updater(
            trained_parameters(critic.model),
            config.critic_learning_rate or 3 * rate,
            config.steps * per_iteration,
            config,
        ),
    )


def _copy(weights: dict[str, Any]) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in weights.items()}
