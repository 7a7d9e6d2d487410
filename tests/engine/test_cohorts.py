"""The sampling loop's cache: answers that begin, are dropped and moved, for each family of models."""

from dataclasses import replace

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3nForCausalLM,
    Gemma3nTextConfig,
    Gemma3TextConfig,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MiniCPM3Config,
    MiniCPM3ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.cache_utils import DynamicCache

from tests.engine.conftest import SIZES, make_gpt2, make_llama, make_tokenizer, policy_of, save
from training.engine import generation, scoring
from training.engine.batches import Tokens, make_batch
from training.engine.cohorts import MARGIN, Cohort, Cohorts, Growing, make_cache
from training.engine.generation import Sampling, sample
from training.engine.networks import generator
from training.engine.scoring import read_tokens

UNTIED = SIZES | {"tie_word_embeddings": False}  # Gemma would repeat its last token for ever.
GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
WINDOW = {"sliding_window": 6}
FAMILIES = {
    "llama": make_llama,
    "qwen": lambda seed: Qwen3ForCausalLM(Qwen3Config(**UNTIED, **GROUPED)),
    "gpt2": make_gpt2,
    "neox": lambda seed: GPTNeoXForCausalLM(GPTNeoXConfig(**UNTIED)),
    "gemma": lambda seed: Gemma3ForCausalLM(Gemma3TextConfig(**UNTIED, **GROUPED, **WINDOW)),
    "gemma with caps": lambda seed: Gemma2ForCausalLM(Gemma2Config(**UNTIED, **GROUPED, **WINDOW)),
    "convolutions": lambda seed: Lfm2ForCausalLM(
        Lfm2Config(**UNTIED | GROUPED, layer_types=["conv", "full_attention"])
    ),
}
# Of different lengths, and more of them than the small cache has slots.
PROMPTS = [[4, 5, 6], [7], [8, 9], [4, 4, 4, 4, 4], [11, 10, 9, 8, 7, 6, 5, 4], [5], [6, 11], [10, 4, 10]]
LENGTH = 24


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory):
    """A random model whose answers end at different lengths, with what transformers' generate makes of it."""
    for seed in range(50):
        torch.manual_seed(seed)
        model = FAMILIES[request.param](seed)
        expected = [generate(model, prompt) for prompt in PROMPTS]
        if len({len(tokens) for tokens in expected}) > 3:
            folder = save(tmp_path_factory.mktemp("family"), model, make_tokenizer())
            return policy_of(folder, max_completion_tokens=LENGTH), expected
    raise AssertionError("nothing is dropped where all end together")


def generate(model, prompt):
    ids = torch.tensor([prompt])
    mask = torch.ones_like(ids)
    whole = model.eval().generate(
        ids, attention_mask=mask, max_new_tokens=LENGTH, do_sample=False, pad_token_id=0, eos_token_id=[0]
    )
    return whole[0, len(prompt) :].tolist()


WAYS = {
    "all at once": (10**4, 1),
    "nothing is dropped": (10**4, 1000),
    "as many as fit, the rest as others end": (12, 1),
    "looking up now and then": (12, 4),
    "looking up when one must have ended": (12, 1000),
    "one after another": (1, 1),
}


@pytest.mark.parametrize("way", WAYS)
def test_greedy_is_what_transformers_generates(family, way, monkeypatch):
    policy, expected = family
    budget, look_every = WAYS[way]
    monkeypatch.setitem(generation.LOOK_EVERY, "cpu", look_every)
    drawn = sample(policy, PROMPTS, Sampling(LENGTH, (0.0,)), generator(0, "test"), budget)
    assert [one.tokens for one in drawn] == expected


def test_layers_of_keys_and_values_have_cohorts_and_others_what_transformers_has(family):
    policy, _ = family
    kinds = set(getattr(policy.model.config, "layer_types", ()))
    assert policy.runtime.steps == policy.runtime.lines
    assert type(make_cache(policy.model, 4, LENGTH, policy.runtime.steps, False)) is (
        Growing if "conv" in kinds else Cohorts
    )


LATENT = {"q_lora_rank": 16, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
SHARED = {
    "num_hidden_layers": 4, "num_kv_shared_layers": 2, "layer_types": ["sliding_attention", "full_attention"] * 2,
    "sliding_window": 64, "intermediate_size": [64] * 4, "activation_sparsity_pattern": [0.0] * 4, "laurel_rank": 4,
    "altup_num_inputs": 2, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 12,
}  # fmt: skip
OTHERS = {
    "keys and values are made of what is cached": lambda: MiniCPM3ForCausalLM(
        MiniCPM3Config(**UNTIED, **LATENT)
    ),
    "layers look at another layer's": lambda: Gemma3nForCausalLM(
        Gemma3nTextConfig(**UNTIED | GROUPED | SHARED)
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_attention_that_looks_at_something_else_than_was_cached_takes_no_steps(tmp_path, name):
    torch.manual_seed(0)
    model = OTHERS[name]()
    expected = [generate(model, prompt) for prompt in PROMPTS]
    policy = policy_of(save(tmp_path / "model", model, make_tokenizer()), max_completion_tokens=LENGTH)
    assert policy.runtime.lines and not policy.runtime.steps
    drawn = sample(policy, PROMPTS, Sampling(LENGTH, (0.0,)), generator(0, "test"), 12)
    assert [one.tokens for one in drawn] == expected


def test_a_model_that_takes_padding_for_tokens_reads_prompts_of_one_length_together(tmp_path, monkeypatch):
    torch.manual_seed(0)
    settings = {
        name: value
        for name, value in UNTIED.items()
        if name not in ("intermediate_size", "num_attention_heads")
    }
    model = MambaForCausalLM(MambaConfig(**settings, state_size=4))
    policy = policy_of(save(tmp_path / "mamba", model, make_tokenizer()))
    drawn = sample(policy, PROMPTS, Sampling(LENGTH, (0.0,)), generator(0, "test"), 10**4)
    alone = [
        sample(policy, [prompt], Sampling(LENGTH, (0.0,)), generator(0, "test"), 10**4)[0]
        for prompt in PROMPTS
    ]
    assert [one.tokens for one in drawn] == [one.tokens for one in alone]


def passes_of(policy, monkeypatch):
    """(rows, columns) of every pass of a model's trunk from now on."""
    seen = []
    trunk = policy.model.base_model
    forward = trunk.forward

    def note(*args, **values):
        seen.append(tuple(values["input_ids"].shape))
        return forward(*args, **values)

    monkeypatch.setattr(trunk, "forward", note)
    return seen


@pytest.fixture
def policy(llama):
    return policy_of(llama, max_completion_tokens=LENGTH)


def test_a_prompt_is_read_once_however_many_samples_it_has(policy, monkeypatch):
    passes = passes_of(policy, monkeypatch)
    sample(policy, PROMPTS, Sampling(6, samples_per_prompt=8), generator(0, "test"), 10**4)  # in two bands
    assert sum(rows for rows, columns in passes if columns > 1) == len(PROMPTS)


def test_no_step_is_taken_for_an_answer_that_has_ended(policy, monkeypatch):
    passes = passes_of(policy, monkeypatch)
    drawn = sample(policy, PROMPTS, Sampling(LENGTH, samples_per_prompt=8), generator(0, "test"), 10**4)
    # Each token but the last of an answer goes through the trunk once, and no other does.
    steps = sum(rows for rows, columns in passes if columns == 1)
    assert steps == sum(len(one.tokens) - 1 for one in drawn)


def test_where_answers_wait_slots_are_filled_again(policy, monkeypatch):
    passes = passes_of(policy, monkeypatch)
    how = Sampling(LENGTH, samples_per_prompt=16)
    drawn = sample(policy, PROMPTS, how, generator(0, "test"), 64)
    slots = 64 * generation.CACHE_FACTOR // (LENGTH + max(map(len, PROMPTS)))
    assert max(rows for rows, _ in passes) <= slots < len(drawn) / 4
    steps = [rows for rows, columns in passes if columns == 1]
    assert sum(steps) / len(steps) > 0.7 * slots  # Until the last ones are begun, about all slots are busy.


def test_attention_looks_little_further_back_than_answers_go(policy, monkeypatch):
    """However many came before: nobody pays for the age of others."""
    looked = []
    window = Cohort.window

    def note(cohort, layer, most=None):
        keys, values, hidden = window(cohort, layer, most)
        own = keys.shape[0] * keys.shape[2] if hidden is None else int((hidden == 0).sum())
        looked.append((own, keys.shape[0] * keys.shape[2], cohort.columns))
        return keys, values, hidden

    monkeypatch.setattr(Cohort, "window", note)
    sample(policy, PROMPTS, Sampling(LENGTH, samples_per_prompt=16), generator(0, "test"), 32)
    own, places, columns = zip(*looked, strict=True)
    assert max(columns) <= max(map(len, PROMPTS)) + LENGTH + MARGIN
    assert sum(own) > 0.7 * sum(places)


def test_a_mask_shows_each_answer_its_own_columns(policy):
    prefilled = DynamicCache()
    keys = torch.randn(2, 2, 5, 8, generator=torch.Generator().manual_seed(0))
    prefilled.update(keys, -keys, 0)
    cohorts = Cohorts(policy.model, 4, LENGTH, takes_steps=False)
    cohorts.admit(prefilled, [1, 0, 1], [3, 5, 3])
    assert cohorts.mask().tolist() == [[0, 0, 1, 1, 1, 1], [1] * 6, [0, 0, 1, 1, 1, 1]]
    seen, _ = cohorts.write(0, torch.ones(3, 2, 1, 8), torch.ones(3, 2, 1, 8))
    torch.testing.assert_close(seen, torch.cat([keys[[1, 0, 1]], torch.ones(3, 2, 1, 8)], dim=2))
    cohorts.advance()
    assert cohorts.keep([0, 2]) == [0, 2] and cohorts.mask() is None
    assert cohorts.get_seq_length() == 4  # What the one that went had before them is left out.
    assert cohorts.free == 0  # Without an attention that takes steps, the next ones wait for these.


def test_a_band_of_prompts_is_of_like_length(policy):
    lengths = [1, 2, 3, 40, 41, 100]
    bands = generation._bands(range(6), [[4] * length for length in lengths], Sampling(8))
    assert [[lengths[number] for number in band] for band in bands] == [[1, 2, 3], [40, 41], [100]]


def test_states_are_those_that_tokens_were_drawn_from(policy, monkeypatch):
    monkeypatch.setitem(generation.LOOK_EVERY, "cpu", 4)
    how = Sampling(LENGTH, samples_per_prompt=4, keep_states=True)
    for one in sample(policy, PROMPTS, how, generator(0, "test"), 64):
        batch = make_batch([Tokens(one.prompt, one.tokens)], torch.device("cpu"))
        with torch.no_grad():
            torch.testing.assert_close(one.states, policy.hidden(batch), atol=1e-5, rtol=1e-4)


# What was recorded, and a pass


def read(policy, reference, completions, on_pass=lambda: None):
    return read_tokens(policy, reference, completions, 1.0, 10**4, generator(0, "gauge"), on_pass)


def recorded(policy):
    how = Sampling(8, samples_per_prompt=4, keep_states=True)
    return sample(policy, PROMPTS, how, generator(0, "test"), 10**4)


def test_recorded_states_stand_for_a_pass_where_a_few_rows_agree(policy, other_llama, monkeypatch):
    reference, completions = policy_of(other_llama), recorded(policy)
    passes = passes_of(policy, monkeypatch)
    reused = read(policy, reference, completions)
    assert reused.metrics["reused"] == 1 and reused.metrics["sampling_gap_nats"] < 1e-5
    longest = sorted(len(one.prompt) + len(one.tokens) for one in completions)[-scoring.GAUGED_ROWS :]
    assert 0 < sum(rows * columns for rows, columns in passes) <= sum(longest)
    anew = read(policy, reference, [replace(one, states=None) for one in completions])
    assert anew.metrics["reused"] == 0
    for name, one in reused.tokens._asdict().items():
        torch.testing.assert_close(one, getattr(anew.tokens, name), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("change", [1.3, 1.001])  # The guard before the first update lets either not pass.
def test_where_they_do_not_agree_everything_is_read_anew(policy, other_llama, change):
    reference, completions = policy_of(other_llama), recorded(policy)
    with torch.no_grad():
        policy.model.model.norm.weight.mul_(change)  # as if something else had sampled
    read_anew = read(policy, reference, completions)
    assert read_anew.metrics["reused"] == 0
    assert read_anew.metrics["sampling_gap_nats"] > policy.runtime.tolerance
    truth = read(policy, reference, [replace(one, states=None) for one in completions])
    assert torch.equal(read_anew.tokens.logprobs, truth.tokens.logprobs)


def test_states_are_kept_as_far_as_memory_goes(policy, llama, monkeypatch):
    assert scoring.keeps_states(policy, 64, LENGTH)
    assert not scoring.keeps_states(policy_of(llama, precision="bfloat16"), 64, LENGTH)
    monkeypatch.setattr(scoring, "STATES_BYTES", 64 * LENGTH * 32 * 4 - 1)
    assert not scoring.keeps_states(policy, 64, LENGTH)
