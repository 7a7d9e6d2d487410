"""Norms in fewer passes: the same states and the same gradients, and no norm taken for another."""

import copy

import pytest
import torch
from torch import nn
from transformers import GemmaConfig, GemmaForCausalLM, Qwen3Config, Qwen3ForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from tests.engine.conftest import SIZES, make_gpt2, make_llama, make_tokenizer, policy_of, save
from training.engine.norms import quicken_norms

COUNT = 2 * 2 + 1  # two a layer, and the last


def drawn(model):
    """The model with weights that differ from place to place, as training leaves them."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, mean=0.5, std=0.5)
    return model


def both_ways(norm, states, weigh):
    """Of the norm as it is and as it becomes: output, gradient of the states, gradient of the weight."""
    for one in (norm, copy.deepcopy(norm)):
        if one is not norm:
            assert quicken_norms(one) == 1
        given = states.clone().requires_grad_()
        seen = one(given)
        (seen * weigh).sum().backward()
        yield seen, given.grad, one.weight.grad


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("shape", [(7, 16), (2, 5, 16), (1, 4, 3, 16)])
def test_states_and_gradients_are_those_of_the_model(shape, scale):
    torch.manual_seed(0)
    states, weigh = scale * torch.randn(shape), torch.randn(shape)
    for own, ours in zip(*both_ways(drawn(LlamaRMSNorm(16)), states, weigh), strict=True):
        torch.testing.assert_close(ours, own, atol=1e-5, rtol=1e-4)


def test_the_gradient_is_the_slope(tmp_path):
    torch.manual_seed(0)
    norm = LlamaRMSNorm(6).double()
    usual = norm.forward
    assert quicken_norms(norm) == 1
    states = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    # What is not float32 is left to the model; the function itself knows no precision.
    torch.testing.assert_close(norm(states), usual(states))
    from training.engine.norms import _Norm

    weight = torch.randn(6, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda *given: _Norm.apply(*given, 1e-5), (states, weight))
    torch.autograd.gradcheck(lambda given: _Norm.apply(given, weight.detach(), 1e-5), (states,))
    torch.autograd.gradcheck(lambda given: _Norm.apply(states.detach(), given, 1e-5), (weight,))


def test_a_loaded_policy_has_them_and_says_the_same(tmp_path):
    model = make_llama()
    folder = save(tmp_path / "llama", model, make_tokenizer())
    policy = policy_of(folder)
    assert all("forward" in vars(one) for one in policy.model.modules() if isinstance(one, LlamaRMSNorm))
    ids = torch.tensor([[4, 5, 6, 7]])
    with torch.no_grad():
        torch.testing.assert_close(policy.model(ids).logits, model.eval()(ids).logits, atol=1e-5, rtol=1e-4)


def test_norms_that_compute_something_else_are_left_alone():
    torch.manual_seed(0)
    assert quicken_norms(drawn(make_llama())) == COUNT
    assert quicken_norms(drawn(GemmaForCausalLM(GemmaConfig(**SIZES, head_dim=8)))) == 0, (
        "adds 1 to its weight"
    )
    assert quicken_norms(make_gpt2()) == 0, "subtracts the mean"
    of_heads = Qwen3ForCausalLM(Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=8))
    assert quicken_norms(drawn(of_heads)) == COUNT + 2 * 2, "queries and keys have theirs"
    nameless = nn.RMSNorm(8)  # torch's own takes the default epsilon of its dtype
    assert quicken_norms(nameless) == 0


def test_a_norm_that_wants_a_gate_is_left_alone():
    class GatedRMSNorm(LlamaRMSNorm):
        def forward(self, states, gate):
            return super().forward(states * gate)

    norm = GatedRMSNorm(16)
    assert quicken_norms(norm) == 0 and "forward" not in vars(norm)


def test_half_precision_is_left_to_the_model():
    norm = drawn(LlamaRMSNorm(16))
    states = torch.randn(5, 16, dtype=torch.bfloat16)
    before = norm(states)
    assert quicken_norms(norm) == 1
    assert torch.equal(norm(states), before), (
        "states in half precision, the weight in full, as under autocast"
    )
    half = copy.deepcopy(norm).to(torch.bfloat16)
    assert torch.equal(half(states), LlamaRMSNorm.forward(half, states))
    assert half(states).dtype == torch.bfloat16


def test_another_epsilon_than_it_says_is_found_out():
    usual = LlamaRMSNorm.forward

    class OddRMSNorm(LlamaRMSNorm):
        def forward(self, states):
            self.variance_epsilon, said = 4e-6, self.variance_epsilon
            seen = usual(self, states)
            self.variance_epsilon = said
            return seen

    assert quicken_norms(OddRMSNorm(16, eps=1e-6)) == 0


def test_what_is_kept_for_the_backward_pass_is_the_states_once():
    kept = []
    norm = LlamaRMSNorm(64)
    quicken_norms(norm)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda one: kept.append(one.numel()) or one, lambda one: one
    ):
        norm(torch.randn(32, 64, requires_grad=True))
    assert sum(kept) == 32 * 64 + 64 + 32
