"""Gradients against what knows nothing of autograd's way: differences of the loss itself, and an enumeration."""

import itertools

import pytest
import torch

from tests.engine.conftest import LIMITS, policy_of, scorer_of
from tests.engine.test_dpo import config_of as dpo_config_of
from tests.engine.test_dpo import make_pairs
from tests.engine.test_groups import tabular
from tests.engine.test_training import players_of, preferences, rollout_of
from training.engine import dpo, ppo
from training.engine.advantages import generalized_advantages, shaped_rewards
from training.engine.batches import make_batch
from training.engine.config import Reward
from training.engine.losses import clipped_policy_loss
from training.engine.networks import add_adapters, trained_parameters
from training.engine.reference_pairs import Preferences
from training.engine.reward_model import update
from training.engine.tensors import token_logprobs
from training.engine.updates import Updater

STEP = 2e-3


def assert_slope(loss, weight, gradient):
    """The loss must fall and rise along the gradient, and along a random direction, as the gradient says."""
    random = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    kept = weight.detach().clone()
    assert gradient.norm() > 1e-3
    for direction in (gradient, random):
        direction = direction / direction.norm()
        ends = []
        for step in (STEP, -STEP):
            with torch.no_grad():
                weight.copy_(kept + step * direction)
            ends.append(loss())
        with torch.no_grad():
            weight.copy_(kept)
        slope = float((gradient * direction).sum())
        # A hundredth of the steepest slope is more than float32 and the third derivative ask for.
        assert (ends[0] - ends[1]) / (2 * STEP) == pytest.approx(slope, abs=0.01 * float(gradient.norm()))


def of(weights, ending):
    """The first weight whose name ends so."""
    return next(weight for name, weight in weights.items() if name.endswith(ending))


def stirred(weights):
    """Adapters and heads away from their first zeros, where half of their gradients are zero."""
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in weights.items():
            if "lora" in name or "score" in name:
                weight.add_(0.05 * torch.randn(weight.shape, generator=random))
    return weights


@pytest.mark.parametrize(
    ("network", "ending", "changes"),
    [
        ("policy", "lm_head.weight", {}),
        ("policy", "lora_A.policy.weight", {"lora_rank": 2}),
        ("policy", "lora_B.policy.weight", {"lora_rank": 2}),
        ("critic", "score.weight", {}),
        ("critic", "lora_B.critic.weight", {"lora_rank": 2}),
    ],
)
def test_ppo_follows_the_slope_of_its_loss(llama, network, ending, changes):
    config, players = players_of(llama, entropy_coefficient=0.05, **changes)
    rollout = rollout_of(config, players)
    random = torch.Generator().manual_seed(2)
    for weights in players.weights().values():
        stirred(weights)
    rollout.logprobs = log_probabilities(
        players, rollout, config
    )  # The ratio is 1: no token stands at its clip.
    lesson = ppo.Lesson(*torch.randn(3, len(rollout.logprobs), generator=random))
    weight = of(players.weights()[network], ending)

    def loss():
        sums = ppo.accumulate_gradients(players, rollout, lesson, range(32), True, config)
        return (sums["policy_loss"] if network == "policy" else sums["value_loss"]) / sums["tokens"]

    loss()
    assert_slope(loss, weight, weight.grad.clone())


def log_probabilities(players, rollout, config):
    policy, batch = players.policy, make_batch(rollout.rows, torch.device("cpu"))
    with torch.no_grad():
        return token_logprobs(policy.head, policy.hidden(batch), batch.targets, config.temperature)


@pytest.mark.parametrize(
    ("ending", "rank"), [("score.weight", 0), ("lora_A.default.weight", 2), ("lora_B.default.weight", 2)]
)
def test_the_reward_model_follows_the_slope_of_its_loss(llama, monkeypatch, ending, rank):
    scorer = scorer_of(llama)
    config = Reward(model=llama, train_data="-", **LIMITS | {"lora_rank": rank, "max_grad_norm": 1e9})
    add_adapters(scorer.model, config)
    weights = stirred(trained_parameters(scorer.model))
    updater = Updater(weights, 0.0, 10, config)
    monkeypatch.setattr(updater, "drop", lambda: None)  # Keep the gradients to look at.

    def loss():
        return update(scorer, updater, preferences(ties=True), config)["loss"]

    loss()
    assert_slope(loss, of(weights, ending), of(weights, ending).grad.clone())


@pytest.mark.parametrize(("ending", "rank"), [("lm_head.weight", 0), ("lora_B.default.weight", 2)])
def test_dpo_follows_the_slope_of_its_loss(llama, monkeypatch, ending, rank):
    policy = policy_of(llama)
    config = dpo_config_of(llama, lora_rank=rank, max_grad_norm=1e9)
    add_adapters(policy.model, config)
    weights = stirred(trained_parameters(policy.model))
    updater = Updater(weights, 0.0, 10, config)
    monkeypatch.setattr(updater, "drop", lambda: None)
    pairs = Preferences(make_pairs(ties=True), torch.full((2, 4), -6.0))

    def loss():
        return dpo.update(policy, updater, pairs, config)["loss"]

    loss()
    assert_slope(loss, of(weights, ending), of(weights, ending).grad.clone())


# Against an enumeration


def by_token(new, base, score, price):
    """What ppo learns from one answer, with a critic that foresees nothing."""
    old = new.detach()
    rewards = shaped_rewards(score[None], old - base, [2], price)
    advantages, _ = generalized_advantages(rewards, torch.zeros(2), [2], 1.0, 1.0)
    return clipped_policy_loss(new, old, advantages, 0.2).loss.sum()


def by_answer(new, base, score, price):
    """What rloo learns from one answer, without the baseline."""
    total = new.sum()[None]
    advantage = score - price * (total.detach() - base.sum())
    return clipped_policy_loss(total, total.detach(), advantage, 0.2).loss.sum()


@pytest.mark.parametrize("learn", [by_token, by_answer])
def test_kl_in_the_reward_has_the_gradient_of_the_enumerated_objective(learn):
    random = torch.Generator().manual_seed(6)
    table = torch.randn(4, 3, generator=random, requires_grad=True)
    reference, scores, price = torch.randn(4, 3, generator=random), torch.randn(9, generator=random), 0.7
    objective = expected_loss = 0.0
    for answer, score in zip(itertools.product(range(3), repeat=2), scores, strict=True):
        new, base = tabular(table, answer), tabular(reference, answer)
        probability = new.sum().exp()
        objective = objective + probability * (score - price * (new - base).sum())
        expected_loss = expected_loss + probability.detach() * learn(new, base, score, price)
    wanted = torch.autograd.grad(objective, table, retain_graph=True)[0]
    found = torch.autograd.grad(expected_loss, table)[0]
    torch.testing.assert_close(found, -wanted, atol=1e-5, rtol=1e-5)
