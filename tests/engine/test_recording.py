"""Steps that are recorded: on a processor a stand-in records them, which replays operations as a CUDA graph does."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from tests.engine.conftest import make_tokenizer, policy_of, save
from tests.engine.test_cohorts import FAMILIES, LENGTH, PROMPTS, family, generate  # noqa: F401 (a fixture)
from training.engine import cohorts, generation, recording
from training.engine.generation import Sampling, sample
from training.engine.networks import generator
from training.engine.recording import CHECKED_STEPS


class Tape(TorchDispatchMode):
    """Every operation with the tensors that it read and wrote."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        if function in (torch.ops.aten.item.default, torch.ops.aten._local_scalar_dense.default):
            raise RuntimeError("a number is read while a step is recorded")
        written = function(*arguments, **(named or {}))
        self.operations.append((function, arguments, named or {}, written))
        return written


class Replayed:
    """What `Recording` does, of operations instead of kernels: numbers that a model computed with stay what they were."""

    made = 0

    def __init__(self, forward, ids, positions):
        type(self).made += 1
        self._ids, self._positions = ids.clone(), positions.clone()
        with Tape() as tape:
            self._states = forward(self._ids, self._positions)
        self._operations = tape.operations

    def __call__(self, ids, positions):
        self._ids.copy_(ids)
        self._positions.copy_(positions)
        for function, arguments, named, written in self._operations:
            anew = function(*arguments, **named)
            for before, after in zip(tree_flatten(written)[0], tree_flatten(anew)[0], strict=True):
                if isinstance(before, torch.Tensor) and before.data_ptr() != after.data_ptr():
                    before.copy_(after)
        return self._states.clone()


@pytest.fixture
def recorded(monkeypatch):
    monkeypatch.setattr(generation, "RECORDS", {"cpu"})
    monkeypatch.setattr(recording, "Recording", Replayed)
    monkeypatch.setattr(Replayed, "made", 0)
    return Replayed


@pytest.mark.parametrize("budget", [10**4, 12])
def test_greedy_is_what_transformers_generates(family, recorded, monkeypatch, budget):  # noqa: F811
    policy, expected = family
    monkeypatch.setitem(generation.LOOK_EVERY, "cpu", 4)
    monkeypatch.setattr(policy, "recorded_steps", 0)
    drawn = sample(policy, PROMPTS, Sampling(LENGTH, (0.0,)), generator(0, "test"), budget)
    assert [one.tokens for one in drawn] == expected
    if policy.runtime.lines:
        assert policy.recorded_steps >= recorded.made > 0
    else:
        assert not recorded.made


def test_a_wider_cache_is_recorded_anew(llama, recorded, monkeypatch):
    monkeypatch.setattr("training.engine.cohorts.StillCohort.margin", 5)
    policy, plain = policy_of(llama), policy_of(llama)
    how = Sampling(LENGTH, samples_per_prompt=4, keep_states=True)
    drawn = sample(policy, PROMPTS, how, generator(0, "test"), 64)
    monkeypatch.setattr(generation, "RECORDS", set())
    expected = sample(plain, PROMPTS, how, generator(0, "test"), 64)
    assert [one.tokens for one in drawn] == [one.tokens for one in expected]
    for one, other in zip(drawn, expected, strict=True):
        torch.testing.assert_close(one.logprobs, other.logprobs, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(one.states, other.states, atol=1e-5, rtol=1e-4)
    assert recorded.made > LENGTH // 5


@pytest.mark.parametrize("fault", ["raises", "other numbers", "a number of the first step"])
def test_a_policy_whose_steps_cannot_be_recorded_goes_on_without(llama, recorded, monkeypatch, fault):
    policy = policy_of(llama)
    trunk = policy.model.base_model
    forward, calls = trunk.forward, []

    def flawed(*args, **values):
        output = forward(*args, **values)
        calls.append(torch.utils._python_dispatch._len_torch_dispatch_stack() > 0)
        if fault == "raises" and calls[-1]:
            float(output.last_hidden_state.sum())
        if fault == "other numbers" and calls[-1]:
            output.last_hidden_state *= 1.1
        if fault == "a number of the first step" and values["input_ids"].shape[1] == 1:
            output.last_hidden_state *= 1 + 0.1 * trunk.steps
        return output

    trunk.steps = 0
    advance = cohorts.Cohorts.advance

    def count(cohorts):
        trunk.steps += 1
        advance(cohorts)

    monkeypatch.setattr(cohorts.Cohorts, "advance", count)
    monkeypatch.setattr(trunk, "forward", flawed)
    drawn = sample(policy, PROMPTS[:1], Sampling(LENGTH), generator(0, "test"), 10**4)
    assert policy.recorded_steps is None and recorded.made == 1
    trunk.steps = 0
    monkeypatch.setattr(generation, "RECORDS", set())
    plain = sample(policy, PROMPTS[:1], Sampling(LENGTH), generator(0, "test"), 10**4)
    assert drawn[0].tokens == plain[0].tokens
    torch.testing.assert_close(drawn[0].logprobs, plain[0].logprobs)


def test_first_steps_are_computed_both_ways_and_later_ones_once(llama, recorded, monkeypatch):
    policy = policy_of(llama)
    computed = []
    of_step = generation._Sampler._forward_step

    def note(sampler, ids, positions):
        computed.append(torch.utils._python_dispatch._len_torch_dispatch_stack() > 0)
        return of_step(sampler, ids, positions)

    monkeypatch.setattr(generation._Sampler, "_forward_step", note)
    sample(policy, PROMPTS[:1], Sampling(LENGTH), generator(3, "test"), 10**4)
    assert policy.recorded_steps > CHECKED_STEPS
    # One before anything is recorded, since new answers might begin at the next.
    assert computed == [False, True] + [False] * CHECKED_STEPS


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_on_a_gpu_steps_are_recorded_and_say_the_same(tmp_path, monkeypatch, name, precision):
    folder = save(tmp_path, FAMILIES[name](0), make_tokenizer())
    limits = {"device": "cuda", "precision": precision, "max_completion_tokens": LENGTH}
    policy, plain = policy_of(folder, **limits), policy_of(folder, **limits)
    how = Sampling(LENGTH, samples_per_prompt=8)
    drawn = sample(policy, PROMPTS, how, generator(0, "test"), 64)
    if policy.runtime.steps:
        assert policy.recorded_steps
    monkeypatch.setattr(generation, "RECORDS", set())
    expected = sample(plain, PROMPTS, how, generator(0, "test"), 64)
    assert [one.tokens for one in drawn] == [one.tokens for one in expected]
