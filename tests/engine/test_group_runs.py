"""grpo and rloo: what teaches nothing, what stops them, and that they learn."""

import dataclasses

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.engine.conftest import TOY
from tests.engine.test_groups import GROUPED, METHODS, PRICE, lesson_of, move, players_of, policy_of_noise
from tests.engine.test_training import DEAR, STAYED_NATS, learn_to_say_a, rollout_of
from training.engine import groups
from training.engine.batches import row_sums
from training.engine.config import Grpo, Ppo, Rloo
from training.engine.guards import GuardStop
from training.engine.networks import trained_parameters
from training.engine.online import minibatches, updates_per_iteration
from training.engine.online_state import copied

# What teaches nothing


def weights_after(players, learn):
    """The metrics of a call, and whether it changed any weight."""
    before = copied(trained_parameters(players.policy.model))
    metrics = learn()
    after = trained_parameters(players.policy.model)
    return metrics, any(not torch.equal(before[name], weight) for name, weight in after.items())


@pytest.mark.parametrize("method", METHODS)
def test_equal_rewards_teach_nothing(llama, method):
    config, players = players_of(llama, method)
    players.reference = policy_of_noise(llama)
    rollout = rollout_of(config, players)
    rollout = dataclasses.replace(rollout, scores=torch.full((32,), 0.1))
    learn = METHODS[method][1].learn
    metrics, changed = weights_after(players, lambda: learn(players, rollout, 1, 0.0, config))
    assert metrics["equal_groups"] == 1.0 and not changed
    skipping = config.model_copy(update={"skip_equal_groups": True})
    metrics, changed = weights_after(players, lambda: learn(players, rollout, 1, 5.0, skipping))
    assert not changed and "grad_norm" not in metrics
    # Where they are not skipped the price of KL acts on them.
    _, changed = weights_after(players, lambda: learn(players, rollout, 1, 5.0, config))
    assert changed


@pytest.mark.parametrize("method", METHODS)
def test_equal_groups_that_are_skipped_leave_the_divisor(llama, method):
    config, players = players_of(llama, method, skip_equal_groups=True, minibatch_size=32)
    rollout = rollout_of(config, players)
    scores = torch.arange(32.0)
    scores[4:8] = 3.0
    rollout = dataclasses.replace(rollout, scores=scores)
    lesson, loss_of = lesson_of(method, rollout, config, price=0.0)
    rest = [number for number in range(32) if number not in range(4, 8)]
    groups.accumulate_gradients(players, rollout, lesson, rest, loss_of, config)
    expected = players.policy_updater.step()  # The norm of the gradient of the others alone.
    again, players = players_of(llama, method, skip_equal_groups=True, minibatch_size=32)
    metrics = METHODS[method][1].learn(players, rollout, 1, 0.0, again)
    assert metrics["grad_norm"] == pytest.approx(expected, rel=1e-4)
    assert metrics["equal_groups"] == 1 / 8 and metrics["masked_share"] == 0.0


@pytest.mark.parametrize("method", METHODS)
def test_masked_completions_neither_learn_nor_are_compared_with(llama, method):
    norms = {}
    for score in (-50.0, 50.0):
        config, players = players_of(llama, method, mask_unfinished=True, minibatch_size=32)
        rollout = rollout_of(config, players)
        ended = torch.tensor([completion.ended for completion in rollout.completions])
        assert 4 < ended.sum() < 28
        rollout = dataclasses.replace(rollout, scores=torch.where(ended, torch.arange(32.0), score))
        lesson, loss_of = lesson_of(method, rollout, config)
        finished = [number for number in range(32) if ended[number]]
        groups.accumulate_gradients(players, rollout, lesson, finished, loss_of, config)
        expected = players.policy_updater.step()
        _, players = players_of(llama, method, mask_unfinished=True, minibatch_size=32)
        metrics = METHODS[method][1].learn(players, rollout, 1, PRICE, config)
        assert metrics["grad_norm"] == pytest.approx(expected, rel=1e-4)
        assert metrics["masked_share"] == pytest.approx(1 - float(ended.float().mean()))
        norms[score] = expected
    assert norms[-50.0] == norms[50.0] > 0


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_without_any_finished_completion_changes_nothing(llama, method):
    config, players = players_of(llama, method, mask_unfinished=True)
    rollout = rollout_of(config, players)
    cut = [dataclasses.replace(completion, ended=False) for completion in rollout.completions]
    rollout = dataclasses.replace(rollout, completions=cut)
    learn = METHODS[method][1].learn
    metrics, changed = weights_after(players, lambda: learn(players, rollout, 1, PRICE, config))
    assert not changed and metrics["masked_share"] == 1.0 and metrics["policy_loss"] == 0.0


# Guards


@pytest.mark.parametrize("method", METHODS)
def test_a_policy_that_is_not_the_one_that_sampled_is_found_out(llama, method):
    config, players = players_of(llama, method)
    rollout = rollout_of(config, players)
    move(players)
    with pytest.raises(GuardStop, match="before the first step the policy already differs"):
        METHODS[method][1].learn(players, rollout, 1, PRICE, config)


@pytest.mark.parametrize("method", METHODS)
def test_nan_in_a_score_does_not_move_the_policy(llama, method):
    config, players = players_of(llama, method, minibatch_size=32)
    rollout = rollout_of(config, players)
    scores = rollout.scores.index_fill(0, torch.tensor([3]), float("nan"))
    broken = dataclasses.replace(rollout, scores=scores)
    learn = METHODS[method][1].learn
    metrics, changed = weights_after(players, lambda: learn(players, broken, 1, PRICE, config))
    assert metrics["refused_updates"] == 1 and not changed


@pytest.mark.parametrize("method", METHODS)
def test_the_policy_stops_for_the_iteration_where_it_has_moved_too_far(llama, method):
    config, players = players_of(llama, method, update_kl_limit_nats=1e-6, epochs=4)
    METHODS[method][1].learn(players, rollout_of(config, players), 1, PRICE, config)
    assert players.policy_updater.done == 1  # the second minibatch already saw another policy


def test_the_kl_of_a_completion_is_the_sum_of_its_log_ratios(llama):
    config, players = players_of(llama, "grpo")
    players.reference = policy_of_noise(llama)
    rollout = rollout_of(config, players)
    kl = groups.completion_kl(rollout)
    assert float(kl.mean()) == pytest.approx(rollout.metrics["kl"], rel=1e-4) and kl.abs().max() > 0.01
    torch.testing.assert_close(kl, row_sums(rollout.logprobs - rollout.reference_logprobs, rollout.lengths))


# Learning


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("method", METHODS)
def test_they_raise_the_share_of_a_wanted_word(engine, llama, prompts, method, seed):
    learn_to_say_a(engine, method, llama, prompts, seed=seed, **GROUPED)
    metrics = engine.events("out", "metrics")[-1]["metrics"]
    assert {"policy_loss", "clip_fraction", "approx_kl", "grad_norm", "learning_rate", "refused_updates",
            "equal_groups", "masked_share", "reward", "exact_kl"} <= metrics.keys()  # fmt: skip
    AutoModelForCausalLM.from_pretrained(engine.folder / "out" / "model")


@pytest.mark.parametrize(
    "options",
    [
        {"length_divisor": "completion", "divide_by_deviation": True, "kl_in_loss": True},
        {"length_divisor": "constant", "skip_equal_groups": True, "mask_unfinished": True, "epochs": 2},
    ],
)
def test_grpo_learns_with_its_options_too(engine, llama, prompts, options):
    assert engine.run("grpo", "out", model=llama, prompts=prompts, **GROUPED | options) == 0
    rewards = [event["metrics"]["reward"] for event in engine.events("out", "metrics")]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.5


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("method", "options"), [("grpo", {}), ("grpo", {"kl_in_loss": True}), ("rloo", {})])
def test_a_high_price_of_kl_keeps_the_policy_where_it_was(engine, llama, prompts, method, options, seed):
    dear = GROUPED | options | DEAR
    assert engine.run(method, "out", model=llama, prompts=prompts, seed=seed, **dear) == 0
    assert engine.result("out")["kl_nats"] < STAYED_NATS


def test_adapters_learn_without_a_critic(engine, llama, prompts):
    adapters = {"lora_rank": 4, "learning_rate": 1e-2, "steps": 8}
    assert engine.run("rloo", "out", model=llama, prompts=prompts, **GROUPED | adapters) == 0
    rewards = [event["metrics"]["reward"] for event in engine.events("out", "metrics")]
    assert rewards[-1] > rewards[0] + 0.2


@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS)
def test_on_a_gpu_they_learn_as_on_a_cpu(engine, llama, prompts, method):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    settings = GROUPED | {"device": "cuda", "entropy_coefficient": 0.001}
    assert engine.run(method, "out", model=llama, prompts=prompts, **settings) == 0
    rewards = [event["metrics"]["reward"] for event in engine.events("out", "metrics")]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.5


# Settings


@pytest.mark.parametrize("method", [Ppo, Grpo, Rloo])
@pytest.mark.parametrize("batch_size", [32, 64, 256])
def test_the_size_of_a_batch_may_be_given_alone(method, batch_size):
    config = method(model="-", prompts="-", rewards=[TOY], batch_size=batch_size)
    sizes = [len(numbers) for numbers in minibatches(batch_size, 0, config)]
    updates = batch_size if method is Rloo else min(64, batch_size)
    assert sizes == [updates] * (config.epochs * batch_size // updates)
    assert updates_per_iteration(config) == len(sizes)
    given = method(**config.model_dump() | {"minibatch_size": 16})
    assert {len(numbers) for numbers in minibatches(batch_size, 0, given)} == {16}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"samples_per_prompt": 1}, "samples_per_prompt: input should be greater than or equal to 2, not 1"),
        ({"batch_size": 30}, "batch_size: must be a multiple of samples_per_prompt"),
    ],
)
def test_a_completion_needs_others_of_its_prompt(engine, prompts, capsys, method, changes, complaint):
    settings = GROUPED | {"model": "no/such/model", "prompts": prompts} | changes
    assert engine.run(method, "out", **settings) == 2
    said = capsys.readouterr().err
    assert complaint in said and said.count("\n") == 1
