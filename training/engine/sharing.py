"""Which networks of an online method can live on one frozen base, and how they get there."""

from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig

from training.engine.adapters import (
    Adapter,
    HeadOnBase,
    SavedAdapter,
    SharedBase,
    load_adapter,
    lora_settings,
)
from training.engine.events import EventLog
from training.engine.loading import load_ensemble, load_policy, load_tokenizer, read_head, save_model
from training.engine.networks import Policy, Scorer, generator, same_tokenizer
from training.engine.online_settings import Online
from training.engine.runtime import Runtime


@dataclass
class Household:
    """The base with what its adapters are made like."""

    base: SharedBase
    settings: LoraConfig
    policy: Policy
    reference: Policy

    def add_scorer(
        self, name: str, config: Online, saved: SavedAdapter | None, learns: bool, outputs: int = 1
    ) -> Scorer:
        """A head, zero, on an adapter of its own, which starts as `saved`, or as the base."""
        settings = saved.settings if saved else self.settings
        self.base.add(name, settings, generator(config.seed, f"adapter {name}"), learns)
        if saved:
            self.base.load(name, saved.weights)
        head = HeadOnBase(self.base.model, outputs).requires_grad_(learns)
        policy = self.policy
        adapter = Adapter(self.base, name)
        return Scorer(head, policy.tokenizer, policy.end_tokens, 0.0, policy.runtime, adapter=adapter)

    def save(self, folder: Path) -> None:
        """The policy as an ordinary model, and its adapter apart; the base belongs to the policy after that."""
        add = self.base.merge("policy")
        save_model(self.policy, folder, add)


def share_base(config: Online, runtime: Runtime, events: EventLog) -> Household | None:
    """Policy and reference on one base; None, with a message, where the policy is not an adapter on the reference."""
    source = config.reference_model or config.model
    reference = load_policy(source, config, runtime)
    base = SharedBase(reference.model)
    settings = lora_settings(base.model, config)
    saved = load_adapter(config.model) if config.model != source else None
    same_words = config.model == source or same_tokenizer(load_tokenizer(config.model), reference.tokenizer)
    if config.model != source and not (same_words and _continues(saved, base, settings)):
        events.message(
            "warning",
            f"{config.model} is no adapter of rank {config.lora_rank} on {source}: policy and reference take a copy each",
        )
        return None
    base.add("policy", settings, generator(config.seed, "adapter policy"))
    if saved:
        base.load("policy", saved.weights)
    shared = (reference.model, reference.tokenizer, reference.end_tokens, reference.head, reference.runtime)
    policy = Policy(*shared, Adapter(base, "policy"))
    return Household(base, settings, policy, Policy(*shared, Adapter(base, None)))


def place_reward_model(household: Household, config: Online, events: EventLog) -> Scorer | None:
    """The reward model on the shared base; None, with a message, where it is no adapter of that base."""
    assert config.reward_model
    saved = load_adapter(config.reward_model)
    policy = household.policy
    if (
        saved is None
        or saved.base != household.base.fingerprint
        or not same_tokenizer(load_tokenizer(config.reward_model), policy.tokenizer)
    ):
        events.message(
            "warning", "the reward model is no adapter of the policy's base: it takes a copy of its own"
        )
        return None
    weight, mean = read_head(config.reward_model)
    scorer = household.add_scorer("reward", config, saved, learns=False, outputs=len(weight))
    with torch.no_grad():
        scorer.model.score.weight.copy_(weight)
    scorer.mean, scorer.ensemble = mean, load_ensemble(config.reward_model, policy.runtime)
    return scorer


def add_critic(household: Household, config: Online, scorer: Scorer | None) -> Scorer:
    """A critic that starts from the reward model where that shares the base, else from the base."""
    shared = config.reward_model if scorer and scorer.adapter else None
    saved = load_adapter(shared) if shared else None
    return household.add_scorer("critic", config, saved, learns=True)


def _continues(saved: SavedAdapter | None, base: SharedBase, settings: LoraConfig) -> bool:
    """Whether a saved policy can go on learning as this adapter of this base."""
    return (
        saved is not None
        and saved.base == base.fingerprint
        and (saved.settings.r, saved.settings.lora_alpha) == (settings.r, settings.lora_alpha)
    )
