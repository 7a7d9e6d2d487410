"""Optimiser, rewards, heads: what the loops are put together from."""

import math

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

from tests.engine.conftest import LIMITS, TOY, make_llama, scorer_of, write_rows
from tests.engine.test_training import PPO, REWARD, players_of, rollout_of, taste
from training.engine import online, ppo
from training.engine.config import EngineError, Ppo, Sft
from training.engine.generation import Completion
from training.engine.networks import generator, learning_rate, reset_head, trained_parameters
from training.engine.online_state import copied
from training.engine.records import PromptRecord
from training.engine.reward_terms import build_terms, callable_term
from training.engine.rewards import Rewards
from training.engine.updates import Updater

PROMPT = PromptRecord(prompt=[{"role": "user", "content": "a"}])


def updater_of(weight, rate=0.1, steps=10, **changes):
    return Updater(
        {"w": weight}, rate, steps, Sft(model="-", train_data="-", **{"warmup_share": 0.0} | changes)
    )


def test_the_optimiser_by_hand():
    weight = nn.Parameter(torch.tensor([1.0, 1.0]))
    updater = updater_of(weight)
    weight.grad = torch.tensor([3.0, 4.0])
    assert updater.step() == pytest.approx(5.0)
    # Clipped to norm 1: 0.6 and 0.8. Adam's first step is rate * g / (|g| + eps), eps 1e-5.
    expected = [1 - 0.1 * 0.6 / (0.6 + 1e-5), 1 - 0.1 * 0.8 / (0.8 + 1e-5)]
    torch.testing.assert_close(weight.data, torch.tensor(expected), atol=1e-6, rtol=0)


def test_a_gradient_shorter_than_the_limit_is_left_alone():
    weight = nn.Parameter(torch.ones(2))
    updater = updater_of(weight)
    weight.grad = torch.tensor([0.03, 0.04])
    assert updater.step() == pytest.approx(0.05)
    moments = updater.state_dict()["adam"]["state"][0]["exp_avg"]
    torch.testing.assert_close(moments, torch.tensor([0.003, 0.004]))  # a tenth: beta_1 is 0.9


def test_the_learning_rate_rises_then_falls_to_zero():
    weight = nn.Parameter(torch.ones(1))
    updater = updater_of(weight, rate=1.0, steps=10, warmup_share=0.2)
    rates = []
    for _ in range(10):
        rates.append(updater.current_rate)
        weight.grad = torch.ones(1)
        updater.step()
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125])
    assert updater.current_rate == 0.0


def test_decay_takes_from_matrices_alone():
    matrix, vector = nn.Parameter(torch.ones(1, 1)), nn.Parameter(torch.ones(1))
    config = Sft(model="-", train_data="-", weight_decay=0.5, warmup_share=0.0)
    updater = Updater({"m": matrix, "v": vector}, 0.1, 10, config)
    matrix.grad, vector.grad = torch.zeros(1, 1), torch.zeros(1)
    updater.step()
    assert matrix.item() == pytest.approx(0.95) and vector.item() == 1.0


def test_the_default_learning_rate_suits_the_size():
    config = Sft(model="-", train_data="-")
    model = nn.Linear(2000, 2000, bias=False)  # four million weights, whose root is 2000
    assert learning_rate(None, model, config) == pytest.approx(2e-4)
    assert learning_rate(None, model, config.model_copy(update={"lora_rank": 4})) == pytest.approx(2e-3)
    assert learning_rate(None, nn.Linear(2, 2), config) == 3e-4
    assert learning_rate(0.5, model, config) == 0.5


def test_a_completion_that_was_cut_loses_the_penalty_after_the_clip(llama):
    config, players = players_of(
        llama, reward_clip=2.0, missing_eos_penalty=1.0, rewards=[{**TOY, "weight": 10.0}]
    )
    players.rewards._config = config
    done = Completion([4], [4, 0], torch.zeros(2), True)  # "a": 3 before weight
    cut = Completion([4], [4, 4], torch.zeros(2), False)
    scores, means = players.rewards([PROMPT] * 2, [done, cut])
    assert scores.tolist() == [2.0, 1.0]
    assert means == {"reward_share_of_a": 3.0}


def test_a_callable_that_is_not_there_is_named():
    config = Ppo(model="-", prompts="-", rewards=[{**TOY, "path": "tests.engine.toys:absent"}])
    with pytest.raises(EngineError, match=r"toys:absent cannot be imported"):
        build_terms(config.rewards, 8)


def test_a_callable_must_answer_for_each_completion(llama):
    config, players = players_of(llama)
    too_few = callable_term("m:f", lambda prompts, completions: [1.0], "rewards.0")
    rewards = Rewards(config, [too_few], None, players.policy)
    with pytest.raises(EngineError, match="must return 2 finite numbers"):
        rewards([PROMPT] * 2, [Completion([4], [4, 0], torch.zeros(2), True)] * 2)


def test_the_critic_starts_from_the_reward_model_with_values_of_zero(engine, llama, tmp_path):
    train = write_rows(tmp_path / "train.jsonl", taste(16))
    engine.run("reward", "judge", model=llama, train_data=train, **REWARD)
    judge = engine.folder / "judge" / "model"
    config, players = players_of(llama, rewards=[], reward_model=str(judge))
    trunk = AutoModelForSequenceClassification.from_pretrained(judge).base_model.state_dict()
    for name, weight in players.critic.model.base_model.state_dict().items():
        assert torch.equal(weight, trunk[name])
    assert not ppo.foresee(players.critic, rollout_of(config, players), config).any()


def test_in_the_warm_up_only_the_critic_learns(llama):
    config, players = players_of(llama, critic_warmup_steps=2)
    before = copied(trained_parameters(players.policy.model))
    critic = copied(trained_parameters(players.critic.model))
    ppo.learn(players, rollout_of(config, players), 1, 0.05, config)
    assert all(
        torch.equal(before[name], now) for name, now in trained_parameters(players.policy.model).items()
    )
    assert any(
        not torch.equal(critic[name], now) for name, now in trained_parameters(players.critic.model).items()
    )
    ppo.learn(players, rollout_of(config, players), 2, 0.05, config)
    assert any(
        not torch.equal(before[name], now) for name, now in trained_parameters(players.policy.model).items()
    )


def test_the_policy_stops_for_the_iteration_where_it_has_moved_too_far(llama):
    config, players = players_of(llama, update_kl_limit_nats=1e-6, epochs=4)
    ppo.learn(players, rollout_of(config, players), 1, 0.05, config)
    assert players.policy_updater.done == 1  # the second minibatch already saw another policy
    assert players.critic_updater.done == 8


def test_the_head_of_a_reward_model_is_drawn_from_the_seed(llama):
    scorer = scorer_of(llama)
    reset_head(scorer, 1 / math.sqrt(33), generator(3, "head"))
    first = scorer.model.score.weight.clone()
    torch.rand(5)  # torch's own generator has no say
    reset_head(scorer, 1 / math.sqrt(33), generator(3, "head"))
    assert torch.equal(first, scorer.model.score.weight)
    assert float(first.detach().std()) == pytest.approx(1 / math.sqrt(33), rel=0.4)


def test_a_reward_model_with_adapters_keeps_its_head(engine, llama, tmp_path):
    train = write_rows(tmp_path / "train.jsonl", taste(48, "abcd"))
    held_out = write_rows(tmp_path / "eval.jsonl", taste(24, "efgh"))
    settings = REWARD | {"lora_rank": 4, "learning_rate": 2e-2}
    assert engine.run("reward", "out", model=llama, train_data=train, eval_data=held_out, **settings) == 0
    accuracy = engine.result("out")["accuracy"]
    assert accuracy > 0.9
    rows = [
        {"prompt": row["prompt"], "completion": row[side]}
        for row in taste(24, "efgh")
        for side in ("chosen", "rejected")
    ]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    engine.run("score", "score", model=str(engine.folder / "out/model"), completions=data)
    import json

    scores = [json.loads(line)["score"] for line in (engine.folder / "score/scores.jsonl").open()]
    right = [one > other for one, other in zip(scores[::2], scores[1::2], strict=True)]
    assert sum(right) / len(right) == accuracy


def test_prompts_are_walked_through_without_leaving_any_out():
    prompts = [PromptRecord(prompt=[{"role": "user", "content": text}]) for text in "abcde"]
    config = Ppo(
        model="-",
        prompts="-",
        **LIMITS | PPO | {"batch_size": 6, "minibatch_size": 6, "samples_per_prompt": 2},
    )
    source = online.Prompts(prompts, [])
    walked = [prompt.text for step in range(5) for prompt in online.batch_prompts(source, step, config)]
    assert walked[::2] == walked[1::2]  # two completions of each, side by side
    assert sorted(walked[:10:2]) == sorted(walked[10:20:2]) == list("abcde")  # each epoch has all
    assert walked[:10] != walked[10:20]


def test_models_with_several_linear_layers_get_adapters_beside_each():
    from training.engine.networks import add_adapters

    model = make_llama()
    add_adapters(model, Sft(model="-", train_data="-", lora_rank=2))
    trained = trained_parameters(model)
    assert trained and all("lora" in name for name in trained)
    assert len(trained) == 2 * 2 * 7  # two layers, two factors, seven linear maps each
