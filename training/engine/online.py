"""Learning from one's own samples: what ppo, grpo and rloo share. Sample, score, check, learn, save; each
method brings how it learns from a rollout.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from training.engine.advantages import next_coefficient
from training.engine.batches import Encoder, Tokens, row_sums, token_batches
from training.engine.checkpoints import Checkpoints, part, prefixed, restore
from training.engine.config import EngineError
from training.engine.generation import Completion, Sampling, sample
from training.engine.guards import GuardStop, check_rollout, check_start, text_metrics
from training.engine.intervals import mean_interval
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
    same_tokenizer,
    save_model,
    settle,
)
from training.engine.online_settings import Online
from training.engine.records import PromptRecord, read_records
from training.engine.reward_terms import answer_check, build_terms
from training.engine.rewards import Rewards
from training.engine.tensors import exact_kl, token_logprobs, token_statistics
from training.engine.updates import Updater
from training.engine.workspace import StopRequested, Workspace

if TYPE_CHECKING:
    from training.engine.sharing import Household

MAX_REFUSED_ITERATIONS = 3
FINAL_COMPLETIONS = 256  # sampled to measure the policy that is saved


@dataclass
class Players:
    """Who samples, who says what it is worth, and what changes the policy."""

    policy: Policy
    reference: Policy
    rewards: Rewards
    encoder: Encoder
    policy_updater: Updater
    household: Household | None  # where the networks share a base

    def save(self, folder: Path) -> None:
        """The policy, as an ordinary model; its adapters are spent after that."""
        if self.household:
            self.household.save(folder)
            return
        merge_adapters(self.policy.model)
        save_model(self.policy.model, self.policy.tokenizer, folder)

    def weights(self) -> dict[str, dict[str, torch.nn.Parameter]]:
        """What is learned, by network: a checkpoint holds it."""
        return {"policy": self.policy.trained()}

    def updaters(self) -> dict[str, Updater]:
        """Of the same networks."""
        return {"policy": self.policy_updater}


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
    metrics: dict[str, float]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each completion."""
        return [len(row.completion) for row in self.rows]


@dataclass
class Progress:
    """What the loop remembers between iterations, beside weights and optimisers; all of it is saved."""

    kl_coefficient: float
    refused: int = 0  # iterations in a row in which an update was refused
    first: dict[str, float] = field(default_factory=dict)  # metrics of the first rollout
    good: dict[str, Any] = field(default_factory=dict)  # what was measured of the last good policy
    history: list[list[float]] = field(default_factory=list)  # [exact KL, reward] of each iteration


# A rollout, the iteration's number and the price of KL, in reward per nat, to metrics.
Learn = Callable[[Rollout, int, float], dict[str, float]]


def train_online(
    config: Online, players: Players, prompts: list[PromptRecord], learn: Learn, workspace: Workspace
) -> dict[str, Any]:
    """Improve a policy on a reward within a KL budget; leaves OUT/model, the last policy that kept to it."""
    weights, updaters = players.weights(), players.updaters()
    policy_weights = weights["policy"]
    good_weights = copy_weights(policy_weights)
    progress = Progress(config.kl_coefficient)
    checkpoints = Checkpoints(workspace.folder, workspace.events)
    start = 0
    if saved := checkpoints.load():
        start = saved.step
        for name, network in weights.items():
            restore(network, part(name, saved.tensors))
            updaters[name].load_state_dict(saved.state["updaters"][name])
        restore(good_weights, part("good", saved.tensors))
        progress = Progress(**saved.state["progress"])

    def save(step: int) -> None:
        tensors = prefixed("good", good_weights)
        for name, network in weights.items():
            tensors |= prefixed(name, network)
        states = {name: updater.state_dict() for name, updater in updaters.items()}
        checkpoints.save(step, tensors, {"updaters": states, "progress": vars(progress)})

    stopped_by = None
    step = start
    try:
        for step in range(start, config.steps):
            began = time.monotonic()
            try:
                rollout = collect(players, batch_prompts(prompts, step, config), step, config, workspace)
            except StopRequested:
                save(step)  # Nothing has changed since the last step: what was sampled is sampled again.
                raise
            sampled = time.monotonic()
            progress.first = progress.first or rollout.metrics
            check_rollout(rollout.metrics, progress.first, config)
            if not step:
                same = config.reference_model in (None, config.model)
                check_start(
                    0.0, rollout.metrics["exact_kl"] if same else None, players.policy.runtime.tolerance
                )
            good_weights = copy_weights(policy_weights)
            progress.good = _summary(rollout, step)
            progress.history.append([rollout.metrics["exact_kl"], rollout.metrics["reward"]])

            metrics = rollout.metrics | {"kl_coefficient": progress.kl_coefficient}
            metrics |= learn(rollout, step, progress.kl_coefficient)
            progress.refused = progress.refused + 1 if metrics["refused_updates"] else 0
            if progress.refused >= MAX_REFUSED_ITERATIONS:
                raise GuardStop("gradients were not finite in three iterations in a row")
            if step >= config.first_policy_step:
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
            workspace.events.progress("train", step + 1, config.steps)
            last = step + 1 == config.steps
            if last or workspace.stopping or (step + 1) % config.checkpoint_every_steps == 0:
                save(step + 1)
            workspace.check_stop()
        step = config.steps
        final = _measure_final(players, prompts, config, workspace)
        check_rollout(final.metrics, progress.first or final.metrics, config)
        progress.good, good_weights = _summary(final, config.steps), copy_weights(policy_weights)
    except GuardStop as stop:
        stopped_by = str(stop)
        workspace.events.message("warning", f"stopped after {step} steps: {stopped_by}")
        if not progress.good:  # Not even the first policy passed: it is saved as it came.
            progress.good = {"steps": 0, "kl_nats": None, "kl_interval": None, "reward_mean": None}

    restore(policy_weights, good_weights)
    players.save(workspace.folder / "model")
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
    players: Players, prompts: list[PromptRecord], step: int, config: Online, workspace: Workspace
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
    figures = torch.zeros(4, int(ends[-1]), device=policy.runtime.device)
    with torch.no_grad():
        for group, batch in token_batches(rows, budget, policy.runtime.device):
            workspace.check_stop()
            hidden, reference_hidden = policy.hidden(batch), players.reference.hidden(batch)
            own = token_statistics(policy.head, hidden, batch.targets, config.temperature)
            reference = token_logprobs(
                players.reference.head, reference_hidden, batch.targets, config.temperature
            )
            kl = exact_kl(policy.head, hidden, players.reference.head, reference_hidden, config.temperature)
            places = torch.cat([torch.arange(ends[row] - lengths[row], ends[row]) for row in group])
            figures[:, places.to(figures.device)] = torch.stack([own.logprobs, reference, kl, own.entropy])
    rollout = Rollout(prompts, completions, rows, scores, *figures.unbind(), metrics=terms)
    rollout.metrics |= _describe(rollout, players)
    return rollout


def _describe(rollout: Rollout, players: Players) -> dict[str, float]:
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


def minibatches(count: int, step: int, config: Online) -> Iterator[list[int]]:
    """Row numbers of each optimiser update of an iteration: every epoch in another order."""
    for epoch in range(config.epochs):
        random = generator(config.seed, f"minibatches {step}", epoch)
        order = torch.randperm(count, generator=random).tolist()
        for begin in range(0, count, config.minibatch_size):
            yield order[begin : begin + config.minibatch_size]


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


def batch_prompts(prompts: Sequence[PromptRecord], step: int, config: Online) -> list[PromptRecord]:
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
    players: Players, prompts: Sequence[PromptRecord], config: Online, workspace: Workspace
) -> Rollout:
    """A rollout of the policy as it ended, larger than a step's, for figures that hold."""
    count = max(config.batch_size, FINAL_COMPLETIONS // config.samples_per_prompt * config.samples_per_prompt)
    larger = config.model_copy(update={"batch_size": count})
    return collect(players, batch_prompts(prompts, 0, larger), config.steps, larger, workspace)


@dataclass(frozen=True)
class Loaded:
    """What every online method loads before it adds what is its own."""

    prompts: list[PromptRecord]
    runtime: Runtime
    household: Household | None  # None: each network has its own copy of the base
    scorer: Scorer | None
    policy: Policy
    reference: Policy
    rewards: Rewards
    encoder: Encoder
    rate: float


def load_players(config: Online, workspace: Workspace) -> Loaded:
    """Prompts, policy, reference and rewards. Raises EngineError where they do not fit each other."""
    prompts = read_records(config.prompts, PromptRecord, answer_check(config.rewards))
    terms = build_terms(config.rewards, config.max_completion_tokens)
    runtime = settle(config)
    household, scorer = None, None
    if config.lora_rank and config.share_base:
        from training.engine.sharing import place_reward_model, share_base

        household = share_base(config, runtime, workspace.events)
    if household:
        policy, reference = household.policy, household.reference
        scorer = place_reward_model(household, config, workspace.events) if config.reward_model else None
    else:
        policy, reference = _load_apart(config, runtime)
    if config.reward_model and not scorer:
        scorer = load_scorer(config.reward_model, config, runtime)
        scorer.model.requires_grad_(False)
    rewards = Rewards(config, terms, scorer, policy)
    rewards.report(workspace.events)
    rate = learning_rate(config.learning_rate, policy.model, config)
    workspace.events.message("info", describe_training(policy.model, policy.trained(), rate, runtime))
    encoder = Encoder(policy.tokenizer, policy.end_tokens, config)
    return Loaded(prompts, runtime, household, scorer, policy, reference, rewards, encoder, rate)


def _load_apart(config: Online, runtime: Runtime) -> tuple[Policy, Policy]:
    """Policy and reference, a copy each."""
    policy = load_policy(config.model, config, runtime)
    reference = load_policy(config.reference_model or config.model, config, runtime)
    if not same_tokenizer(policy.tokenizer, reference.tokenizer):
        raise EngineError(
            f"reference_model: {config.reference_model} has another tokenizer than {config.model}"
        )
    reference.model.requires_grad_(False)
    add_adapters(policy.model, config)
    return policy, reference


def updates_per_iteration(config: Online) -> int:
    """Optimiser updates of one iteration."""
    return config.epochs * math.ceil(config.batch_size / config.minibatch_size)


def copy_weights(weights: dict[str, Any]) -> dict[str, Tensor]:
    """By name, apart from what goes on learning."""
    return {name: weight.detach().clone() for name, weight in weights.items()}
