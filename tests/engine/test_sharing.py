"""One frozen base in memory: whose turn it is changes what is computed, and nothing else."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.engine.conftest import policy_of, write_rows
from tests.engine.test_training import PPO, REWARD, gradients, players_of, rollout_of, taste
from training.engine import ppo
from training.engine.adapters import fingerprint, load_adapter
from training.engine.batches import Tokens, make_batch
from training.engine.config import Ppo
from training.engine.loading import load_policy
from training.engine.runtime import settle
from training.engine.tensors import token_logprobs

ADAPTERS = {"lora_rank": 4, "learning_rate": 1e-2, "steps": 8}
CPU = torch.device("cpu")
BATCH = make_batch([Tokens([4, 5, 6], [7, 8, 0]), Tokens([9], [4, 0])], CPU)


def storages(*models):
    """Bytes of the distinct weights behind some models."""
    found = {weight.data_ptr(): weight.nbytes for model in models for weight in model.parameters()}
    return sum(found.values())


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_policy_critic_and_reference_hold_one_base(request, name):
    folder = request.getfixturevalue(name)
    _, players = players_of(folder, **ADAPTERS)
    _, apart = players_of(folder, **ADAPTERS | {"share_base": False})
    models = (players.policy.model, players.reference.model, players.critic.model)
    assert players.policy.model is players.reference.model
    base = storages(AutoModelForCausalLM.from_pretrained(folder))
    adapters = sum(weight.nbytes for network in players.weights().values() for weight in network.values())
    assert storages(*models) == base + adapters
    copies = storages(apart.policy.model, apart.reference.model, apart.critic.model)
    assert copies > 2.5 * base
    assert players.policy.runtime.lines and players.reference.runtime.lines and players.critic.runtime.lines


def test_the_reference_stays_what_it_was_while_the_policy_moves(llama):
    config, players = players_of(llama, **ADAPTERS)
    untouched = policy_of(llama)
    first = players.reference.hidden(BATCH)
    for step in (1, 2):
        ppo.learn(players, rollout_of(config, players, step), step, 0.05, config)
    moved = players.policy.hidden(BATCH)
    assert torch.equal(players.reference.hidden(BATCH), first)
    torch.testing.assert_close(first, untouched.hidden(BATCH), atol=1e-6, rtol=0)
    assert (moved - first).abs().max() > 1e-3
    assert torch.equal(players.policy.hidden(BATCH), moved)  # whoever computed in between


def test_the_critic_foresees_nothing_at_first(llama):
    config, players = players_of(llama, **ADAPTERS)
    assert not ppo.foresee(players.critic, rollout_of(config, players), config).any()


def test_sharing_changes_no_gradient(llama):
    found = []
    for share in (True, False):
        config, players = players_of(llama, **ADAPTERS | {"share_base": share})
        rollout = rollout_of(config, players)
        torch.manual_seed(5)
        lesson = ppo.Lesson(*torch.randn(3, len(rollout.logprobs)))
        policy, critic = players.weights()["policy"], players.weights()["critic"]
        with torch.no_grad():  # The same adapters in both, and none of them zero.
            for network in (policy, critic):
                for number, key in enumerate(sorted(network)):
                    random = torch.Generator().manual_seed(number)
                    network[key].copy_(torch.randn(network[key].shape, generator=random) * 0.1)
        sums = ppo.accumulate_gradients(players, rollout, lesson, range(32), True, config)
        grads = [value for name in (policy, critic) for _, value in sorted(gradients(name).items())]
        found.append((sums["policy_loss"], sums["value_loss"], grads))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-4)
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-4)
    torch.testing.assert_close(found[0][2], found[1][2], atol=1e-5, rtol=1e-3)


def test_an_adapter_is_saved_beside_the_merged_model_and_goes_on_in_the_next_run(engine, llama, prompts):
    assert engine.run("ppo", "one", model=llama, prompts=prompts, **PPO | ADAPTERS) == 0
    model = engine.folder / "one" / "model"
    saved = load_adapter(model)
    assert saved.base == fingerprint(AutoModelForCausalLM.from_pretrained(llama))
    more = (
        PPO
        | ADAPTERS
        | {"steps": 1, "critic_warmup_steps": 0, "learning_rate": 1e-9, "reference_model": llama}
    )
    assert engine.run("ppo", "two", model=str(model), prompts=prompts, **more) == 0
    assert not any("a copy each" in event["text"] for event in engine.events("two", "message"))
    # With the policy at rest it is the merged model of the run before.
    kl = engine.result("one")["kl_nats"]
    assert engine.events("two", "metrics")[0]["metrics"]["exact_kl"] == pytest.approx(kl, rel=0.3)
    again = AutoModelForCausalLM.from_pretrained(engine.folder / "two" / "model").state_dict()
    for key, weight in AutoModelForCausalLM.from_pretrained(model).state_dict().items():
        torch.testing.assert_close(again[key], weight, atol=1e-5, rtol=1e-4)


def test_peft_itself_reads_the_saved_adapter(engine, llama, prompts):
    from peft import PeftModel

    engine.run("ppo", "out", model=llama, prompts=prompts, **PPO | ADAPTERS)
    model = engine.folder / "out" / "model"
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama), model / "adapter")
    ids = torch.tensor([[4, 5, 6, 7]])
    merged = AutoModelForCausalLM.from_pretrained(model)
    assert (merged(ids).logits - AutoModelForCausalLM.from_pretrained(llama)(ids).logits).abs().max() > 1e-2
    torch.testing.assert_close(theirs(ids).logits, merged(ids).logits, atol=1e-4, rtol=1e-3)


def test_a_policy_that_is_no_adapter_of_the_reference_says_what_it_costs(engine, llama, other_llama, prompts):
    settings = (
        PPO
        | ADAPTERS
        | {"steps": 1, "critic_warmup_steps": 0, "reference_model": other_llama, "kl_budget_nats": 1000.0}
    )
    assert engine.run("ppo", "out", model=llama, prompts=prompts, **settings) == 0
    assert any("take a copy each" in event["text"] for event in engine.events("out", "message"))


@pytest.mark.parametrize("adapters", [{}, {"lora_rank": 4}])
def test_computing_activations_anew_changes_no_gradient(llama, adapters):
    found = []
    for again in (False, True):
        config, players = players_of(llama, gradient_checkpointing=again, **adapters)
        rollout = rollout_of(config, players)
        torch.manual_seed(5)
        lesson = ppo.Lesson(*torch.randn(3, len(rollout.logprobs)))
        ppo.accumulate_gradients(players, rollout, lesson, range(32), True, config)
        found.append([gradients(network) for network in players.weights().values()])
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=1e-5)


def test_computing_activations_anew_keeps_fewer_of_them(tmp_path):
    from tests.engine.conftest import LIMITS, make_llama, make_tokenizer, save

    folder = save(tmp_path, make_llama(num_hidden_layers=6), make_tokenizer())
    kept = []
    for again in (False, True):
        config = Ppo(model=folder, prompts="-", **LIMITS | PPO | {"gradient_checkpointing": again})
        policy = load_policy(folder, config, settle(config))
        sizes = []

        def pack(tensor, sizes=sizes):
            sizes.append(tensor.nbytes)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            batch = make_batch([Tokens([4, 5, 6, 7] * 2, [8, 9] * 8)] * 8, CPU)
            token_logprobs(policy.head, policy.hidden(batch), batch.targets, 1.0).sum()
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 3


@pytest.mark.parametrize("members", [1, 3])
def test_a_reward_model_with_adapters_plays_on_the_policys_base(engine, llama, tmp_path, members):
    train = write_rows(tmp_path / "train.jsonl", taste(16))
    settings = REWARD | {"lora_rank": 4, "learning_rate": 2e-2, "members": members}
    assert engine.run("reward", "judge", model=llama, train_data=train, **settings) == 0
    judge = str(engine.folder / "judge" / "model")
    settings = {"rewards": [], "reward_model": judge, "reward_clip": 99.0, "reward_spread_coefficient": 0.5}
    scores = []
    for share in (True, False):
        config, players = players_of(llama, **ADAPTERS | settings | {"share_base": share})
        rollout = rollout_of(config, players)
        scores.append(rollout.scores)
        scorer = players.rewards._judge._scorer
        assert (scorer.adapter is not None) == share
    torch.testing.assert_close(scores[0], scores[1], atol=1e-4, rtol=1e-3)
