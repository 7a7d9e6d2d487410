"""What a pass needs of memory grows with the batch, but never by batch x length x vocabulary, forward or backward."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from tests.engine.conftest import LIMITS, PROMPTS, TOY, make_llama, make_tokenizer, policy_of, save, scorer_of
from tests.engine.test_dpo import DPO
from tests.engine.test_groups import GROUPED
from tests.engine.test_training import PPO, REWARD, NoWorkspace
from training.engine import dpo, evaluate, groups, grpo, online, ppo, reward_model, rloo, sft, tensors
from training.engine.batches import Tokens
from training.engine.config import Dpo, Evaluate, Grpo, Ppo, Reward, Rloo, Sft
from training.engine.generation import Completion
from training.engine.networks import trained_parameters
from training.engine.preferences import Judgment, Preference
from training.engine.records import PromptRecord
from training.engine.reference_pairs import Pair, Preferences
from training.engine.rollout import Rollout
from training.engine.updates import Updater

VOCABULARY, LENGTH = 8192, 32
ONE_PASS = LIMITS | {"micro_batch_tokens": 10**6}


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A model of which the logits of one token weigh more than all else that is kept of it."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = make_llama(vocab_size=VOCABULARY, num_key_value_heads=1, **sizes)
    return save(tmp_path_factory.mktemp("wide"), model, make_tokenizer())


@pytest.fixture
def prompts_file(tmp_path):
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a"}\n')
    return str(tmp_path / "prompts.jsonl")


def peak_bytes(work):
    """The most that `work` held at once of what it asked torch for."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    held = peak = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def rows_of(count, seed=0):
    drawn = torch.randint(4, VOCABULARY, (count, 4 + LENGTH), generator=torch.Generator().manual_seed(seed))
    return [Tokens(row[:4], row[4:]) for row in drawn.tolist()]


def rollout_of(count):
    rows = rows_of(count)
    prompts = [PromptRecord(prompt=[{"role": "user", "content": "a"}])] * count
    figures = torch.full((4, count * LENGTH), -9.0)
    completions = [Completion(row.prompt, row.completion, torch.zeros(LENGTH), True) for row in rows]
    return Rollout(prompts, completions, rows, torch.randn(count), *figures, {})


def updater_of(network, config):
    return Updater(trained_parameters(network), 1e-4, 10, config)


def a_ppo_update(folder, file, count):
    config = Ppo(model=folder, prompts=file, **ONE_PASS | PPO | {"entropy_coefficient": 0.01})
    players, rollout = ppo.load_ppo_players(config, NoWorkspace())[1], rollout_of(count)
    lesson = ppo.Lesson(*torch.randn(3, count * LENGTH))
    return lambda: ppo.accumulate_gradients(players, rollout, lesson, range(count), True, config)


def a_grouped_update(method, module):
    def make(folder, file, count):
        config = method(model=folder, prompts=file, **ONE_PASS | GROUPED)
        players, rollout = groups.load_group_players(config, NoWorkspace())[1], rollout_of(count)
        lesson = groups.Lesson(torch.randn(count), torch.ones(count, dtype=torch.bool))

        def loss_of(look):
            given = {"kl_coefficient": 0.1} if module is grpo else {}
            return module.loss_of(look, config=config, **given)

        return lambda: groups.accumulate_gradients(players, rollout, lesson, range(count), loss_of, config)

    return make


def a_reward_update(folder, file, count):
    config = Reward(model=folder, train_data="-", **ONE_PASS | REWARD)
    scorer, rows = scorer_of(folder), rows_of(count)
    judgments = [
        Judgment((rows[n], rows[n + 1]), (Preference(0, 1, False, 1.0),), "p") for n in range(0, count, 2)
    ]
    updater = updater_of(scorer.model, config)
    return lambda: reward_model.update(scorer, updater, judgments, config)


def a_dpo_update(folder, file, count):
    config = Dpo(model=folder, train_data="-", **ONE_PASS | DPO)
    policy, rows = policy_of(folder), rows_of(count)
    pairs = [Pair(rows[n], rows[n + 1], False, 1.0, "p") for n in range(0, count, 2)]
    preferences, updater = Preferences(pairs, torch.zeros(2, count // 2)), updater_of(policy.model, config)
    return lambda: dpo.update(policy, updater, preferences, config)


def an_sft_update(folder, file, count):
    config = Sft(model=folder, train_data="-", **ONE_PASS)
    policy, rows = policy_of(folder), rows_of(count)
    updater = updater_of(policy.model, config)
    return lambda: sft._update(policy, updater, rows, [1.0] * count, config)


def an_evaluation(folder, file, count):
    config = Evaluate(model=folder, baseline_model=folder, prompts="-", **ONE_PASS)
    policy, baseline = policy_of(folder), policy_of(folder)
    done = rollout_of(count).completions
    return lambda: evaluate.completion_kl(policy, baseline, done, 1.0, config, NoWorkspace())


@pytest.fixture
def small_chunks(monkeypatch):
    """A 128th of the engine's own chunks: 16 tokens of this vocabulary."""
    rows = tensors._chunk_rows
    monkeypatch.setattr(tensors, "_chunk_rows", lambda head, hidden, most: rows(head, hidden, most // 128))


@pytest.mark.parametrize(("vocabulary", "rows"), [(1_536, 170), (150_000, 111), (32_000, 128)])
def test_a_piece_of_logits_fits_a_cache_but_reads_the_head_for_many_rows(vocabulary, rows):
    head = torch.nn.Linear(2, vocabulary)
    with torch.no_grad():
        # Of 150,000 words 128 rows are more than a chunk may hold.
        assert tensors._chunk_rows(head, torch.zeros(1, 2), tensors.CHUNK_ELEMENTS) == rows
    assert tensors._chunk_rows(head, torch.zeros(1, 2), tensors.CHUNK_ELEMENTS) == 2**24 // vocabulary


LOGITS = 32 * LENGTH * VOCABULARY * 4  # bytes, of all completion tokens of 32 rows
WORK = {
    "ppo": a_ppo_update,
    "grpo": a_grouped_update(Grpo, grpo),
    "rloo": a_grouped_update(Rloo, rloo),
    "reward": a_reward_update,
    "dpo": a_dpo_update,
    "sft": an_sft_update,
    "evaluate": an_evaluation,
}


@pytest.mark.parametrize("name", WORK)
def test_a_larger_batch_needs_no_more_logits_at_once(wide, prompts_file, small_chunks, name):
    fewer, more = (peak_bytes(WORK[name](wide, prompts_file, count)) for count in (32, 64))
    # What does grow, a few kilobytes for each token, is a tenth of what its logits would be.
    assert more - fewer < 0.2 * LOGITS
    assert more < LOGITS


def test_longer_completions_need_no_more_logits_at_once_in_a_rollout(wide, prompts_file, small_chunks):
    peaks = []
    for length in (LENGTH // 2, LENGTH):
        changes = {"max_completion_tokens": length, "rewards": [TOY]}
        config = Grpo(model=wide, prompts=prompts_file, **ONE_PASS | GROUPED | changes)
        players = groups.load_group_players(config, NoWorkspace())[1]
        prompts = [PromptRecord(prompt=[{"role": "user", "content": text}]) for text in PROMPTS]
        batch = online.batch_prompts(online.Prompts(prompts, []), 0, config)
        peaks.append(peak_bytes(lambda: online.collect(players, batch, 0, config, NoWorkspace())))  # noqa: B023
    # Sampling itself holds the logits of one token of each row, however long the completions are.
    assert peaks[1] - peaks[0] < 0.2 * LOGITS / 2
