"""Weights in half precision while answers are sampled."""

import pytest
import torch

from tests.engine.conftest import policy_of
from tests.engine.test_lines import ROWS, RowsOfProducts
from training.engine.batches import Tokens, make_batch
from training.engine.config import Ppo
from training.engine.generation import Sampling, sample
from training.engine.half_weights import STEP_MULTIPLE, linear_products_in, linear_weights_in
from training.engine.networks import add_adapters, generator
from training.engine.tensors import token_logprobs

PROMPT = [4, 4, 4, 4, 4]


def with_adapters(policy, folder, rank):
    """Adapters that do something, as they do once they have learned."""
    add_adapters(policy.model, Ppo(model=folder, prompts="-", reward_model=folder, lora_rank=rank))
    with torch.no_grad():
        for name, value in policy.model.named_parameters():
            if "lora_B" in name:
                value.normal_(generator=torch.Generator().manual_seed(0))


def describe(model):
    """What must be as it was before."""
    weights = {name: (id(value), value.dtype) for name, value in model.named_parameters()}
    return weights, {name for name, module in model.named_modules() if "forward" in vars(module)}


@pytest.mark.parametrize("rank", [0, 4])
def test_weights_in_half_precision_say_what_autocast_says(llama, rank):
    policy = policy_of(llama, precision="bfloat16")
    with_adapters(policy, llama, rank)
    ids = torch.tensor([PROMPT])
    before = describe(policy.model)

    def say():
        with torch.no_grad(), policy.runtime.autocast():
            return policy.model(input_ids=ids, use_cache=False).logits

    expected = say()
    with linear_weights_in(torch.bfloat16, policy.model):
        assert policy.model.base_model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
        assert torch.equal(say(), expected)
    assert describe(policy.model) == before


@pytest.mark.parametrize("half", [linear_weights_in, linear_products_in])
def test_weights_are_back_after_a_failure(llama, half):
    policy = policy_of(llama, precision="bfloat16")
    before, within = describe(policy.model), []

    def fail():
        with half(torch.bfloat16, policy.model):
            within.append(describe(policy.model))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert within[0] != before
    assert describe(policy.model) == before


@pytest.mark.parametrize("rank", [0, 4])
def test_products_in_half_precision_say_about_the_same(llama, rank):
    policy = policy_of(llama)
    with_adapters(policy, llama, rank)
    ids, before = torch.tensor([PROMPT]), describe(policy.model)
    with torch.no_grad():
        exact = policy.model(input_ids=ids, use_cache=False).logits
        with linear_products_in(torch.bfloat16, policy.model), RowsOfProducts() as products:
            half = policy.model(input_ids=ids, use_cache=False).logits
    assert products.seen and half.dtype == torch.float32
    assert 1e-6 < (half - exact).abs().max() < 0.05 * exact.abs().max()
    assert describe(policy.model) == before


def test_a_bias_is_added_and_any_shape_comes_back():
    layer = torch.nn.Linear(6, 3)
    with torch.no_grad():
        layer.bias += 100
        for shape in ((6,), (1, 6), (5, 1, 6), (2, 3, 5, 6), (65, 6)):
            states = torch.randn(shape, generator=torch.Generator().manual_seed(1))
            expected = layer(states)
            with linear_products_in(torch.bfloat16, torch.nn.Sequential(layer)):
                torch.testing.assert_close(layer(states), expected, atol=0.6, rtol=0)


def test_sampling_multiplies_few_numbers_of_rows_on_a_processor(llama):
    # Each other number would be compiled anew, and the program kept.
    policy = policy_of(llama, precision="bfloat16")
    before, sizes = (
        describe(policy.model),
        {size for weight in policy.model.parameters() for size in weight.shape},
    )
    with RowsOfProducts() as products:
        drawn = sample(
            policy, [row.prompt for row in ROWS], Sampling(8, samples_per_prompt=6), generator(0, "test"), 60
        )
    assert len(drawn) == 6 * len(ROWS)
    rows = products.seen - sizes
    assert rows and all(number % STEP_MULTIPLE == 0 for number in rows)
    assert all(number % 64 == 0 for number in rows if number > 64)
    assert describe(policy.model) == before


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_what_is_sampled_in_half_precision_is_near_what_a_pass_says(name, request):
    policy = policy_of(request.getfixturevalue(name), precision="bfloat16")
    completions = sample(policy, [PROMPT, [7]], Sampling(8, samples_per_prompt=8), generator(0, "test"), 200)
    batch = make_batch([Tokens(one.prompt, one.tokens) for one in completions], torch.device("cpu"))
    with torch.no_grad():
        forward = token_logprobs(policy.head, policy.hidden(batch), batch.targets, 1.0)
    recorded = torch.cat([one.logprobs for one in completions])
    assert recorded.dtype == torch.float32
    assert (recorded - forward).abs().max() < policy.runtime.tolerance / 4
