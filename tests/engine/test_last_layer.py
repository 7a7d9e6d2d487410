"""The last layer where states are read: the same states and gradients, from fewer operations."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM
from transformers.models.llama import modeling_llama

from tests.engine.conftest import LIMITS, make_tokenizer, policy_of, save, scorer_of
from tests.engine.test_cohorts import FAMILIES, UNTIED
from tests.engine.test_lines import CPU, ROWS
from training.engine import last_layer
from training.engine.batches import make_batch
from training.engine.config import Reward
from training.engine.last_layer import narrow, reading
from training.engine.lines import lay_out
from training.engine.networks import add_adapters, hidden_states, recompute_activations


@pytest.fixture(scope="module", params=FAMILIES)
def policy(request, tmp_path_factory):
    model = FAMILIES[request.param](0)
    return policy_of(save(tmp_path_factory.mktemp("family"), model, make_tokenizer()))


def gradients(model, states, weigh):
    model.zero_grad()
    (states * weigh).sum().backward()
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def is_narrow(module):
    return getattr(vars(module).get("forward"), "__func__", None) is last_layer._at_read_places


def whole(model, batch, places):
    """The model as transformers runs it, every place of every layer."""
    output = model.base_model(input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions)
    return output.last_hidden_state.flatten(0, 1)[places]


@pytest.mark.parametrize(
    "lay",
    [
        lay_out,
        lambda rows, runtime: make_batch(rows, CPU),
        lambda rows, runtime: make_batch(rows, CPU, left=True),
    ],
)
@pytest.mark.parametrize("read", ["predicting", "last"])
def test_states_and_gradients_are_those_of_the_whole_layer(policy, read, lay):
    batch = lay(ROWS, policy.runtime)
    places = getattr(batch, read)
    weigh = torch.randn(len(places), 32, generator=torch.Generator().manual_seed(0))
    expected = whole(policy.model, batch, places)
    seen = hidden_states(policy.model, batch, places, policy.runtime)
    torch.testing.assert_close(seen, expected, atol=1e-5, rtol=1e-4)
    of_whole = gradients(policy.model, expected, weigh)
    torch.testing.assert_close(gradients(policy.model, seen, weigh), of_whole, atol=1e-4, rtol=1e-4)


def test_which_parts_of_the_last_layer_leave_places_out(policy):
    names = [name for name, module in policy.model.named_modules() if "forward" in vars(module)]
    fewer = {name.rpartition(".")[2] for name in names if "norm" not in name}
    assert (
        fewer
        == {
            "LlamaForCausalLM": {"mlp", "q_proj", "o_proj"},
            "Qwen3ForCausalLM": {"mlp", "q_proj", "o_proj"},
            "GPT2LMHeadModel": {"mlp", "c_proj"},
            "GPTNeoXForCausalLM": {"mlp", "dense"},
            "Gemma3ForCausalLM": {"mlp", "q_proj", "o_proj"},
            "Gemma2ForCausalLM": {"mlp", "q_proj", "o_proj"},
            "Lfm2ForCausalLM": {"feed_forward", "q_proj", "out_proj"},
        }[type(policy.model).__name__]
    )


def products(scorer, rows):
    """Operations of the matrix products of one pass, forwards and backwards."""
    with FlopCounterMode(display=False) as counter:
        scorer.scores(lay_out(rows, scorer.runtime)).sum().backward()
    return counter.get_flop_counts()["Global"][torch.ops.aten.mm]


def test_a_reward_model_computes_its_last_layer_for_one_place_a_row(llama):
    scorer = scorer_of(llama)
    batch = lay_out(ROWS, scorer.runtime)
    tokens, rows = batch.ids.numel(), len(ROWS)
    queries, keys, network = (
        32 * 32,
        2 * 32 * 16,
        3 * 32 * 64,
    )  # weights of a layer; two heads of keys for four
    everywhere = 2 * queries + keys + network  # of the first layer, and by tokens of which all are read
    in_full = tokens * (everywhere + keys) + rows * (2 * queries + network + 32)
    # A product costs two operations a weight, and its two gradients twice that.
    assert products(scorer, ROWS) == 6 * in_full


def test_a_policy_leaves_out_its_prompts(llama):
    policy = policy_of(llama)
    batch = lay_out(ROWS, policy.runtime)
    places, tokens = len(batch.predicting.unique()), batch.ids.numel()
    assert places < len(batch.predicting) < tokens, "rows of one prompt are predicted from its end"
    with FlopCounterMode(display=False) as counter:
        policy.hidden(batch)
    kept, left_out = 2 * (2 * 32 * 16), 2 * 32 * 32 + 3 * 32 * 64
    found = counter.get_flop_counts()["Global"][torch.ops.aten.mm]
    assert found == 2 * (tokens * (kept + left_out) + places * left_out)


def test_where_nearly_all_is_read_nothing_is_copied(llama):
    policy = policy_of(llama)
    batch = lay_out(ROWS, policy.runtime)
    with reading(torch.arange(29), 30), FlopCounterMode(display=False) as counter, torch.no_grad():
        whole(policy.model, batch, batch.last)
    operations = counter.get_flop_counts()["Global"][torch.ops.aten.mm]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        whole(policy.model, batch, batch.last)
    assert operations == counter.get_flop_counts()["Global"][torch.ops.aten.mm]


def test_layers_computed_anew_are_computed_whole(llama):
    policy, other = policy_of(llama), policy_of(llama)
    recompute_activations(other.model)
    batch = lay_out(ROWS, policy.runtime)
    found = [gradients(one.model, one.hidden(batch), 1.0) for one in (policy, other)]
    torch.testing.assert_close(*found)


def test_adapters_on_the_last_layer_learn_the_same(llama):

    config = Reward(model=llama, train_data="-", lora_rank=2, **LIMITS)
    scorer = scorer_of(llama)
    add_adapters(scorer.model, config)
    for name, parameter in scorer.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    batch = lay_out(ROWS, scorer.runtime)
    expected = whole(scorer.model, batch, batch.last)
    of_whole = gradients(scorer.model, expected, 1.0)
    seen = gradients(scorer.model, scorer._hidden(batch, batch.last), 1.0)
    torch.testing.assert_close(seen, of_whole, atol=1e-4, rtol=1e-4)
    assert any("layers.1.mlp" in name and "lora_A" in name for name in seen)
    last = scorer.model.base_model.layers[-1]
    assert is_narrow(last.mlp) and is_narrow(last.self_attn.q_proj.base_layer)


def test_a_layer_whose_parts_look_around_is_left_alone(llama, monkeypatch, tmp_path):
    usual = modeling_llama.LlamaMLP.forward

    def looks_around(self, states):
        return usual(self, states) + states.mean(dim=1, keepdim=True)

    monkeypatch.setattr(modeling_llama.LlamaMLP, "forward", looks_around)
    policy = policy_of(llama)
    assert not any(
        "forward" in vars(module) for name, module in policy.model.named_modules() if "mlp" in name
    )


def test_experts_of_the_last_layer_are_asked_for_what_is_read(tmp_path):
    torch.manual_seed(0)
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    config = Qwen2MoeConfig(**UNTIED, num_key_value_heads=2, shared_expert_intermediate_size=16, **experts)
    policy = policy_of(save(tmp_path / "experts", Qwen2MoeForCausalLM(config), make_tokenizer()))
    assert is_narrow(policy.model.base_model.layers[-1].mlp)
    batch = lay_out(ROWS, policy.runtime)
    expected, seen = whole(policy.model, batch, batch.predicting), policy.hidden(batch)
    torch.testing.assert_close(seen, expected, atol=1e-5, rtol=1e-4)
    found = [gradients(policy.model, states, 1.0) for states in (seen, expected)]
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)


def test_a_model_without_layers_in_a_list_is_left_alone():
    assert narrow(torch.nn.Sequential(torch.nn.Linear(2, 2))) == []
