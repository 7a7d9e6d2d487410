"""Sampling: the same tokens as the model's own generate, and the same probabilities as a forward pass."""

import itertools
import math

import pytest
import torch

from tests.engine.conftest import policy_of
from training.engine.batches import Tokens, make_batch, row_sums
from training.engine.generation import Sampling, _draw, sample
from training.engine.networks import generator
from training.engine.tensors import exact_kl, token_logprobs

PROMPTS = [[4, 5, 6], [7], [8, 9], [4, 4, 4, 4, 4]]


def draw(policy, how, prompts=PROMPTS, budget=1000, seed=0):
    return sample(policy, prompts, how, generator(seed, "test"), budget)


@pytest.mark.parametrize("name", ["llama", "pad_is_end", "gpt2"])
def test_greedy_is_what_transformers_generates(name, request):
    policy = policy_of(request.getfixturevalue(name))
    for prompt, completion in zip(PROMPTS, draw(policy, Sampling(20, (0.0,))), strict=True):
        ids = torch.tensor([prompt])
        own = policy.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False, pad_token_id=0
        )
        assert own[0, len(prompt) :].tolist() == completion.tokens


def test_greedy_on_a_real_model_is_what_transformers_generates(shared):
    policy = policy_of(str(shared / "models/stories260K"))
    prompts = policy.tokenizer(["Once upon a time", "The dog and the cat went to the park", "A"])["input_ids"]
    for prompt, completion in zip(prompts, draw(policy, Sampling(60, (0.0,)), prompts), strict=True):
        ids = torch.tensor([prompt])
        own = policy.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=60, do_sample=False, pad_token_id=0
        )
        assert own[0, len(prompt) :].tolist() == completion.tokens


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_recorded_log_probabilities_are_those_of_a_forward_pass(name, temperature, request):
    policy = policy_of(request.getfixturevalue(name))
    completions = draw(policy, Sampling(12, (temperature,), samples_per_prompt=3))
    rows = [Tokens(completion.prompt, completion.tokens) for completion in completions]
    batch = make_batch(rows, torch.device("cpu"))
    with torch.no_grad():
        forward = token_logprobs(policy.head, policy.hidden(batch), batch.targets, temperature)
    recorded = torch.cat([completion.logprobs for completion in completions])
    torch.testing.assert_close(recorded, forward, atol=1e-5, rtol=1e-4)


def test_completions_end_at_the_first_end_token_or_are_cut(llama):
    completions = draw(policy_of(llama), Sampling(10, samples_per_prompt=20))
    assert {completion.ended for completion in completions} == {True, False}
    for completion in completions:
        assert 0 not in completion.tokens[:-1]
        assert completion.ended == (completion.tokens[-1] == 0)
        assert completion.ended or len(completion.tokens) == 10


def test_neither_the_budget_nor_the_neighbours_change_what_is_drawn(llama):
    policy = policy_of(llama)
    how = Sampling(10, samples_per_prompt=3)
    large, small = draw(policy, how), draw(policy, how, budget=5)
    assert [one.tokens for one in large] == [one.tokens for one in small]
    assert len({len(one.tokens) for one in large}) > 1  # rows ended at different places, so some were dropped


def test_a_seed_gives_its_samples_and_another_seed_others(llama):
    policy = policy_of(llama)
    how = Sampling(10, samples_per_prompt=4)
    first, again, other = (draw(policy, how, seed=seed) for seed in (1, 1, 2))
    assert [one.tokens for one in first] == [one.tokens for one in again]
    assert [one.tokens for one in first] != [one.tokens for one in other]


def test_samples_come_as_often_as_their_probability_says(llama):
    policy = policy_of(llama)
    batch = make_batch([Tokens([4], [token]) for token in range(12)], torch.device("cpu"))
    with torch.no_grad():
        expected = token_logprobs(policy.head, policy.hidden(batch), batch.targets, 1.0).exp()
    drawn = torch.tensor(
        [one.tokens[0] for one in draw(policy, Sampling(1, samples_per_prompt=8000), [[4]], 10**6)]
    )
    shares = torch.bincount(drawn, minlength=12) / 8000
    assert ((shares - expected).abs() < 5 * (expected / 8000).sqrt()).all()


def test_temperatures_are_taken_in_turn(llama):
    greedy, *others = draw(policy_of(llama), Sampling(8, (0.0, 1.0, 1.0), 3), [[4]])
    assert greedy.tokens == draw(policy_of(llama), Sampling(8, (0.0,)), [[4]])[0].tokens
    assert others[0].tokens != others[1].tokens


@pytest.mark.parametrize(
    "how", [Sampling(1, samples_per_prompt=300, top_k=2), Sampling(1, samples_per_prompt=300, top_p=1e-6)]
)
def test_truncation_keeps_to_the_likeliest(llama, how):
    drawn = {one.tokens[0] for one in draw(policy_of(llama), how, [[4]])}
    assert len(drawn) == (2 if how.top_k else 1)


def test_a_draw_of_zero_takes_no_token_that_was_ruled_out():
    logs = torch.tensor([[-torch.inf, math.log(0.5), math.log(0.5)]])
    chosen = _draw(logs, torch.zeros(1, dtype=torch.float64), Sampling(1))
    assert chosen.tolist() == [1]


def every_completion(length, vocabulary):
    """All token sequences that end at the first end token or at `length`."""
    for size in range(1, length + 1):
        for head in itertools.product(range(1, vocabulary), repeat=size - 1):
            yield from ([*head, token] for token in (range(vocabulary) if size == length else [0]))


def test_the_sampled_kl_is_that_of_an_enumeration_and_steadier_than_the_log_ratio(llama, other_llama):
    policy, reference = policy_of(llama), policy_of(other_llama)
    prompt, cpu = [4, 5], torch.device("cpu")

    def under(model, rows):
        batch = make_batch(rows, cpu)
        return row_sums(token_logprobs(model.head, model.hidden(batch), batch.targets, 1.0), batch.lengths)

    def kl_of(rows):
        batch = make_batch(rows, cpu)
        per_token = exact_kl(policy.head, policy.hidden(batch), reference.head, reference.hidden(batch), 1.0)
        return row_sums(per_token, batch.lengths)

    with torch.no_grad():
        rows = [Tokens(prompt, completion) for completion in every_completion(3, 12)]
        logs = under(policy, rows)
        assert float(logs.exp().sum()) == pytest.approx(1.0, abs=1e-4)
        truth = float((logs.exp() * (logs - under(reference, rows))).sum())
        assert float((logs.exp() * kl_of(rows)).sum()) == pytest.approx(truth, abs=1e-4)
        drawn = draw(policy, Sampling(3, samples_per_prompt=3000), [prompt], 10**6)
        rows = [Tokens(prompt, one.tokens) for one in drawn]
        exact = kl_of(rows)
        ratio = under(policy, rows) - under(reference, rows)
    assert (exact >= 0).all()
    assert abs(float(exact.mean()) - truth) < 4 * float(exact.std()) / math.sqrt(3000)
    assert exact.var() < ratio.var()
