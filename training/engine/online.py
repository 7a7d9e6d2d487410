"""Learning from one's own samples: what ppo, grpo and rloo share. Sample, score, check, learn, save; each
method brings how it learns from a rollout.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from training.engine.advantages import next_coefficient
from training.engine.batches import Encoder, Tokens, row_sums
from training.engine.config import EngineError
from training.engine.generation import Sampling, sample
from training.engine.guards import GuardStop, check_rollout, check_start, text_metrics
from training.engine.intervals import mean_interval
from training.engine.judges import Judge, load_judge
from training.engine.loading import load_policy, load_scorer, save_model
from training.engine.networks import (
    Policy,
    Scorer,
    add_adapters,
    describe_training,
    epoch_order,
    generator,
    learning_rate,
    merge_adapters,
    same_tokenizer,
)
from training.engine.online_settings import Online
from training.engine.online_state import OnlineState
from training.engine.records import PromptRecord, read_records
from training.engine.reward_terms import answer_check, build_terms
from training.engine.rewards import Rewards
from training.engine.rollout import Rollout
from training.engine.runtime import Runtime, settle
from training.engine.scoring import keeps_states, read_tokens
from training.engine.updates import Updater
from training.engine.workspace import StopRequested, Workspace

if TYPE_CHECKING:
    from training.engine.sharing import Household

FINAL_COMPLETIONS = 256  # sampled to measure the policy that is saved


@dataclass(frozen=True)
class Prompts:
    """What is sampled for."""

    fresh: list[PromptRecord]
    earlier: list[PromptRecord]  # of earlier rounds: `replay_share` of each batch is taken from these

    def replayed(self, prompts: Sequence[PromptRecord]) -> Tensor:
        """(B,) bool: which of a rollout's prompts were taken from the earlier ones, B of them."""
        # By the row and not by its text, since a prompt may stand in both files.
        earlier = {id(prompt) for prompt in self.earlier}
        return torch.tensor([id(prompt) in earlier for prompt in prompts])


@dataclass(kw_only=True)
class Players:
    """Who samples, who says what it is worth, and what changes the policy."""

    policy: Policy
    reference: Policy
    rewards: Rewards
    encoder: Encoder
    policy_updater: Updater
    household: Household | None = None  # where the networks share a base

    def save(self, folder: Path) -> None:
        """The policy, as an ordinary model; its adapters are spent after that."""
        if self.household:
            self.household.save(folder)
            return
        merge_adapters(self.policy.model)
        save_model(self.policy, folder)

    def weights(self) -> dict[str, dict[str, torch.nn.Parameter]]:
        """What is learned, by network: a checkpoint holds it."""
        return {"policy": self.policy.trained()}

    def updaters(self) -> dict[str, Updater]:
        """Of the same networks."""
        return {"policy": self.policy_updater}


# A rollout, the iteration's number and the price of KL, in reward per nat, to metrics.
Learn = Callable[[Rollout, int, float], dict[str, float]]


def train_online(
    config: Online, players: Players, prompts: Prompts, learn: Learn, workspace: Workspace
) -> dict[str, Any]:
    """Improve a policy on a reward within a KL budget; leaves OUT/model and OUT/marked.jsonl.

    The model is the best policy by the held-out reward model, or without one the last that passed every guard.
    """
    held_out = load_judge(config.held_out_reward_model, players.policy, config)
    state = OnlineState(players, config, workspace)
    stopped_by = None
    step = start = state.resume()
    progress = state.progress
    try:
        for step in range(start, config.steps):
            began = time.monotonic()
            try:
                rollout = collect(players, batch_prompts(prompts, step, config), step, config, workspace)
            except StopRequested:
                # Nothing has changed since the last step: what was sampled is sampled again.
                state.save(step)
                raise
            if held_out and step % config.held_out_every_steps == 0:
                rollout.ask(held_out)
            if (replayed := prompts.replayed(rollout.prompts)).any():
                rollout.metrics["replay_reward"] = float(rollout.scores[replayed].mean())
            sampled = time.monotonic()
            metrics = rollout.metrics
            if rollout.is_finite:
                check(rollout, step, state, players, config)
                if step > start and step % config.checkpoint_every_steps == 0:
                    state.save(step)  # A state whose rollout passed needs no other one to return to.
                coefficient = progress.kl_coefficient
                metrics = metrics | {"kl_coefficient": coefficient} | learn(rollout, step, coefficient)
                state.after_update(metrics["refused_updates"])
                if step >= config.first_policy_step:
                    progress.kl_coefficient = next_coefficient(
                        coefficient,
                        metrics["exact_kl"],
                        config.kl_target,
                        config.batch_size,
                        config.kl_horizon,
                    )
            else:
                state.roll_back("a probability or a reward")
            metrics["rollbacks"] = progress.rollbacks
            metrics["rollout_seconds"] = sampled - began
            metrics["update_seconds"] = time.monotonic() - sampled
            metrics["tokens_per_second"] = len(rollout.logprobs) / (time.monotonic() - began)
            workspace.events.metrics(step + 1, metrics)
            workspace.events.progress("train", step + 1, config.steps)
            stops = workspace.should_stop()
            if stops or step + 1 == config.steps:
                state.save(step + 1)
            if stops:
                raise StopRequested
        step = config.steps
        check(_measure_final(players, prompts, held_out, config, workspace), step, state, players, config)
    except GuardStop as stop:
        stopped_by = str(stop)
        workspace.events.message("warning", f"stopped after {step} steps: {stopped_by}")

    kept = state.keep()
    players.save(workspace.folder / "model")
    state.write_marked()
    return kept | state.describe() | {"stopped_by": stopped_by}


def check(rollout: Rollout, step: int, state: OnlineState, players: Players, config: Online) -> None:
    """Remember the policy that wrote this as good, or raise GuardStop saying why it is not."""
    progress = state.progress
    is_first = not progress.first
    progress.first = progress.first or rollout.metrics
    state.mark(rollout, step)
    check_rollout(rollout.metrics, progress.first, config)
    state.look(rollout, step)
    if is_first:
        same = config.reference_model in (None, config.model)
        check_start(0.0, rollout.metrics["exact_kl"] if same else None, players.policy.runtime.tolerance)
    state.accept(rollout, _summary(rollout, step))


def collect(
    players: Players, prompts: list[PromptRecord], step: int, config: Online, workspace: Workspace
) -> Rollout:
    """Sample a completion of each prompt, and let every network say what it makes of it."""
    policy, budget = players.policy, config.micro_batch_tokens
    # `prompts` holds a prompt once for each of its completions; each is prefilled once.
    distinct = prompts[:: config.samples_per_prompt]
    ids = players.encoder.prompts([prompt.messages for prompt in distinct])
    how = Sampling(
        config.max_completion_tokens,
        (config.temperature,),
        config.samples_per_prompt,
        keep_states=keeps_states(policy, len(prompts), config.max_completion_tokens),
    )
    random = generator(config.seed, "sampling", step)
    completions = sample(policy, ids, how, random, budget, workspace.check_stop)
    scores, terms = players.rewards(prompts, completions)
    figures = read_tokens(
        policy,
        players.reference,
        completions,
        config.temperature,
        budget,
        generator(config.seed, "gauge", step),
        workspace.check_stop,
    )
    rows = [Tokens(completion.prompt, completion.tokens) for completion in completions]
    texts = [players.encoder.text(completion.tokens, policy.end_tokens) for completion in completions]
    completions = [replace(completion, states=None) for completion in completions]  # They have been read.
    told = figures.tokens
    rollout = Rollout(
        prompts=prompts,
        completions=completions,
        rows=rows,
        scores=scores,
        logprobs=told.logprobs,
        reference_logprobs=told.reference_logprobs,
        exact_kl=told.exact_kl,
        entropy=told.entropy,
        metrics=terms,
        temperature=config.temperature,
        texts=texts,
        spread=players.rewards.spread,
    )
    rollout.metrics |= figures.metrics | _describe(rollout)
    return rollout


def _describe(rollout: Rollout) -> dict[str, float]:
    """What the log and the guards read of a rollout."""
    count = len(rollout.rows)
    log_ratios = rollout.logprobs - rollout.reference_logprobs
    return {
        "reward": float(rollout.scores.mean()),
        "kl": float(log_ratios.sum()) / count,
        "exact_kl": float(rollout.exact_kl.sum()) / count,
        "entropy": float(rollout.entropy.mean()),
        "length": len(rollout.logprobs) / count,
        "eos_rate": sum(completion.ended for completion in rollout.completions) / count,
        **text_metrics(rollout.texts),
    }


def minibatches(count: int, step: int, config: Online) -> Iterator[list[int]]:
    """Row numbers of each optimiser update of an iteration: every epoch in another order."""
    for epoch in range(config.epochs):
        random = generator(config.seed, f"minibatches {step}", epoch)
        order = torch.randperm(count, generator=random).tolist()
        for begin in range(0, count, config.update_size):
            yield order[begin : begin + config.update_size]


def _summary(rollout: Rollout, step: int) -> dict[str, Any]:
    """What the result says of a policy, if it is the one that is kept."""
    kl, interval = mean_interval(
        row_sums(rollout.exact_kl, rollout.lengths).tolist(), [prompt.key for prompt in rollout.prompts]
    )
    names = ("entropy", "length", "eos_rate", "distinct_2", "identical_share", "repeated_share", "run_share")
    return {
        "steps": step,
        "kl_nats": kl,
        "kl_interval": interval,
        "reward_mean": rollout.metrics["reward"],
        "held_out_reward": rollout.metrics.get("held_out_reward"),
        **{name: rollout.metrics[name] for name in names},
    }


def batch_prompts(prompts: Prompts, step: int, config: Online) -> list[PromptRecord]:
    """The next fresh prompts, then the next earlier ones, each `samples_per_prompt` times.

    After any number of steps the earlier ones are `replay_share` of all, to the nearest whole prompt.
    """
    count = config.batch_size // config.samples_per_prompt
    before, after = (round(done * count * config.replay_share) for done in (step, step + 1))
    fresh = walk(
        prompts.fresh, range(step * count - before, (step + 1) * count - after), config.seed, "order"
    )
    earlier = walk(prompts.earlier, range(before, after), config.seed, "replay")
    return [prompt for prompt in fresh + earlier for _ in range(config.samples_per_prompt)]


def walk(prompts: Sequence[PromptRecord], places: range, seed: int, purpose: str) -> list[PromptRecord]:
    """Some places of an endless walk through shuffled epochs."""
    chosen = []
    for cursor in places:
        epoch, place = divmod(cursor, len(prompts))
        if not place or cursor == places.start:
            order = epoch_order(seed, epoch, len(prompts), purpose)
        chosen.append(prompts[order[place]])
    return chosen


def _measure_final(
    players: Players,
    prompts: Prompts,
    held_out: Judge | None,
    config: Online,
    workspace: Workspace,
) -> Rollout:
    """A rollout of the policy as it ended, larger than a step's, for figures that hold."""
    count = max(config.batch_size, FINAL_COMPLETIONS // config.samples_per_prompt * config.samples_per_prompt)
    larger = config.model_copy(update={"batch_size": count})
    rollout = collect(players, batch_prompts(prompts, 0, larger), config.steps, larger, workspace)
    if held_out:
        rollout.ask(held_out)
    return rollout


@dataclass(frozen=True)
class Loaded:
    """What every online method loads before it adds what is its own."""

    prompts: Prompts
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
    prompts = _read_prompts(config)
    terms = build_terms(config.rewards, config.max_completion_tokens)
    runtime = settle(config, workspace.processes)
    household, scorer = None, None
    if config.lora_rank and config.share_base:
        from training.engine.sharing import place_reward_model, share_base

        household = share_base(config, runtime, workspace.events)
    policy, reference = (household.policy, household.reference) if household else _load_apart(config, runtime)
    rate = learning_rate(config.learning_rate, policy.model, config)
    workspace.events.message("info", describe_training(policy.model, policy.trained(), rate, runtime))
    if household:
        scorer = place_reward_model(household, config, workspace.events) if config.reward_model else None
    if config.reward_model and not scorer:
        scorer = load_scorer(config.reward_model, config, runtime)
        scorer.model.requires_grad_(False)
    rewards = Rewards(config, terms, scorer, policy)
    rewards.report(workspace.events)
    encoder = Encoder(policy.tokenizer, policy.end_tokens, config)
    return Loaded(prompts, runtime, household, scorer, policy, reference, rewards, encoder, rate)


def _read_prompts(config: Online) -> Prompts:
    check = answer_check(config.rewards)
    fresh = read_records(config.prompts, PromptRecord, check)
    return Prompts(
        fresh, read_records(config.replay_prompts, PromptRecord, check) if config.replay_prompts else []
    )


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
    return config.epochs * math.ceil(config.batch_size / config.update_size)
