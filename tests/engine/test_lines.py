"""Rows on one line: what a row alone says of its tokens, and no place computed for nothing."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, Qwen2MoeConfig, Qwen2MoeForCausalLM

from tests.engine.conftest import make_gpt2, make_llama, make_tokenizer, policy_of, save, scorer_of
from tests.engine.test_cohorts import FAMILIES, GROUPED, UNTIED, WINDOW
from training.engine.batches import Tokens, make_batch
from training.engine.lines import Line, make_line, token_batches
from training.engine.networks import recompute_activations
from training.engine.runtime import Runtime
from training.engine.tensors import token_logprobs

CPU = torch.device("cpu")
# Four completions of one prompt, two of another, which is longer than their completions, and two rows alone.
ROWS = [
    Tokens([4, 5, 6], [7, 8, 9, 10]),
    Tokens([4, 5], [11, 4]),
    Tokens([4, 5, 6], [5]),
    Tokens([9, 8, 7, 6, 5, 4, 10, 11], [6, 6, 0]),
    Tokens([4, 5, 6], [7, 7, 7, 7, 7, 7, 7, 0]),
    Tokens([9, 8, 7, 6, 5, 4, 10, 11], [5, 0]),
    Tokens([7], [0]),
    Tokens([4, 5, 6], [8, 0]),  # as long as another prompt's, so that attention takes both together
]
SHARED = 3 + 3 + 3 + 8  # tokens of prompts that are there already


@pytest.fixture(scope="module", params=FAMILIES)
def policy(request, tmp_path_factory):
    model = FAMILIES[request.param](0)
    return policy_of(save(tmp_path_factory.mktemp("family"), model, make_tokenizer()))


def logprobs(policy, batch):
    return token_logprobs(policy.head, policy.hidden(batch), batch.targets, 1.0)


def gradients(policy, batches, weights):
    """Of a loss that weighs every token of ROWS differently; batches come with their row numbers."""
    policy.model.zero_grad()
    for numbers, batch in batches:
        own = torch.cat([weights[number] for number in numbers])
        (logprobs(policy, batch) * own).sum().backward()
    return {
        name: value.grad.clone() for name, value in policy.model.named_parameters() if value.grad is not None
    }


def test_which_families_read_lines(policy):
    name = type(policy.model).__name__
    # Gemma 2 caps its attention, which torch's own does not; convolutions run across the rows of a line.
    assert policy.runtime.lines == (name not in ("Gemma2ForCausalLM", "Lfm2ForCausalLM"))


def test_a_line_says_of_every_row_what_the_row_alone_says(policy):
    batches = list(token_batches(ROWS, 1000, policy.runtime))
    with torch.no_grad():
        for numbers, batch in batches:
            alone = torch.cat([logprobs(policy, make_batch([ROWS[number]], CPU)) for number in numbers])
            torch.testing.assert_close(logprobs(policy, batch), alone, atol=1e-5, rtol=1e-4)
            last = [policy.model.base_model(input_ids=torch.tensor([[*ROWS[number].prompt, *ROWS[number].completion]]))
                    for number in numbers]  # fmt: skip
            own = torch.stack([one.last_hidden_state[0, -1] for one in last])
            states = policy.model.base_model(
                input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions
            )
            torch.testing.assert_close(
                states.last_hidden_state.flatten(0, 1)[batch.last], own, atol=1e-4, rtol=1e-3
            )
    assert sorted(number for numbers, _ in batches for number in numbers) == list(range(len(ROWS)))


def test_gradients_are_those_of_rows_alone(policy):
    random = torch.Generator().manual_seed(1)
    weights = [torch.randn(len(row.completion), generator=random) for row in ROWS]
    alone = gradients(policy, [([n], make_batch([row], CPU)) for n, row in enumerate(ROWS)], weights)
    for budget in (1000, 20, 1):
        together = gradients(policy, token_batches(ROWS, budget, policy.runtime), weights)
        torch.testing.assert_close(together, alone, atol=2e-5, rtol=1e-4)


def test_numbers_of_rows_rounded_up_change_nothing(policy, monkeypatch):
    random = torch.Generator().manual_seed(1)
    weights = [torch.randn(len(row.completion), generator=random) for row in ROWS]
    exact = gradients(policy, token_batches(ROWS, 20, policy.runtime), weights)
    with torch.no_grad():
        told = [logprobs(policy, batch) for _, batch in token_batches(ROWS, 20, policy.runtime)]
    monkeypatch.setattr(Runtime, "multiple", 16)
    monkeypatch.setattr(policy.head, "multiple", 16)
    rounded = list(token_batches(ROWS, 20, policy.runtime))
    if policy.runtime.lines:
        assert {batch.ids.numel() % 16 for _, batch in rounded} == {0}
    with torch.no_grad():
        torch.testing.assert_close([logprobs(policy, batch) for _, batch in rounded], told)
    torch.testing.assert_close(gradients(policy, rounded, weights), exact, atol=2e-5, rtol=1e-4)


class RowsOfProducts(TorchDispatchMode):
    """The numbers of rows, and of columns, that products of matrices in half precision run over."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        products = (torch.ops.aten.mm.default, torch.ops.aten.linear.default)  # the latter in inference mode
        if function in products and arguments[0].dtype == torch.bfloat16:
            self.seen.update((*arguments[0].shape, *arguments[1].shape))
        return function(*arguments, **(named or {}))


def test_half_precision_multiplies_few_numbers_of_rows_on_a_processor(llama):
    # Each other number would be compiled anew, and the program kept.
    policy, random = policy_of(llama, precision="bfloat16"), torch.Generator().manual_seed(0)
    sizes = {size for weight in policy.model.parameters() for size in weight.shape}
    with RowsOfProducts() as products:
        for _ in range(12):
            lengths = torch.randint(1, 60, (2, 6), generator=random).tolist()
            rows = [Tokens([4] * one, [5] * other) for one, other in zip(*lengths, strict=True)]
            for _, batch in token_batches(rows, 1000, policy.runtime):
                logprobs(policy, batch).sum().backward()
    numbers = products.seen - sizes
    assert numbers
    assert all(number % 64 == 0 for number in numbers)


def test_no_column_is_computed_for_padding_nor_twice_for_a_prompt(llama):
    policy = policy_of(llama)
    [(_, batch)] = token_batches(ROWS, 1000, policy.runtime)
    assert batch.ids.numel() == sum(row.length for row in ROWS) - SHARED
    assert len(batch.targets) == len(batch.predicting) == sum(len(row.completion) for row in ROWS)


@pytest.mark.parametrize("budget", [1, 8, 12, 20, 33])
def test_no_line_is_longer_than_the_budget_but_for_one_row(llama, budget):
    batches = list(token_batches(ROWS, budget, policy_of(llama).runtime))
    for numbers, batch in batches:
        assert batch.ids.numel() <= budget or len(numbers) == 1
    assert sorted(number for numbers, _ in batches for number in numbers) == list(range(len(ROWS)))


@pytest.mark.parametrize(("longest", "useful"), [(600, 0.85), (60, 0.7)])
def test_attention_computes_few_places_that_are_nobodys(longest, useful):
    random = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, longest, (64,), generator=random).tolist()
    line = make_line([Tokens([4], [5] * length) for length in lengths], CPU).mask
    assert len(line.own) == sum(lengths) + 1 > useful * len(line.queries)


def test_parts_are_no_more_than_they_are_worth():
    def parts(lengths):
        rows = [Tokens([4 + number], [5] * length) for number, length in enumerate(lengths)]
        return [len(part.queries) for part in make_line(rows, CPU).mask.parts]

    # Padding three rows of 20 tokens to 40 costs 3 * (41 * 42 - 21 * 22) = 3,780 places, and a call the time of 4,096.
    assert parts([40, 20, 20, 20]) == [4]
    assert parts([40, 20, 20, 20, 20]) == [1, 4]
    assert parts([200, 195, 190, 10, 9, 8]) == [3, 3]


def test_a_window_on_a_line_is_that_of_the_row(tmp_path):
    torch.manual_seed(0)
    settings = UNTIED | GROUPED | WINDOW
    windowed = Gemma3ForCausalLM(Gemma3TextConfig(**settings, layer_types=["sliding_attention"] * 2))
    policy = policy_of(save(tmp_path / "windowed", windowed, make_tokenizer()))
    rows = [Tokens([4, 5, 6, 7, 8, 9, 10, 11, 4], [6] * 9), Tokens([4, 5, 6, 7, 8, 9, 10, 11, 4], [7] * 4)]
    assert policy.runtime.lines
    with torch.no_grad():
        alone = torch.cat([logprobs(policy, make_batch([row], CPU)) for row in rows])
        torch.testing.assert_close(logprobs(policy, make_line(rows, CPU)), alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("longest", "lines"), [(16, False), (3, True)])
def test_a_window_that_a_model_has_in_its_mask_alone_is_not_lost(tmp_path, longest, lines):
    torch.manual_seed(0)
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    windows = {"layer_types": ["sliding_attention", "full_attention"], "use_sliding_window": True}
    config = Qwen2MoeConfig(
        **UNTIED | {"num_key_value_heads": 2, "shared_expert_intermediate_size": 16} | experts | windows,
        sliding_window=8,
        max_window_layers=0,
    )
    folder = save(tmp_path / "experts", Qwen2MoeForCausalLM(config), make_tokenizer())
    limits = {"max_prompt_tokens": longest, "max_completion_tokens": longest}
    policy = policy_of(folder, **limits)
    assert policy.runtime.lines == lines  # Where no row is as long as the window there is nothing to lose.
    rows = [Tokens([4, 5, 6, 7, 8][:longest], [4 + n % 8 for n in range(longest - 1)]), Tokens([4], [5, 6])]
    with torch.no_grad():
        for numbers, batch in token_batches(rows, 1000, policy.runtime):
            alone = torch.cat([logprobs(policy, make_batch([rows[number]], CPU)) for number in numbers])
            torch.testing.assert_close(logprobs(policy, batch), alone, atol=1e-5, rtol=1e-4)


def test_one_long_prompt_does_not_widen_what_others_look_at():
    rows = [Tokens([4] * 300, [5] * 9) for _ in range(4)]
    rows += [Tokens([6 + n % 5, *[7] * (n // 5)], [5] * 9) for n in range(100) for _ in range(4)]
    line = make_line(rows, CPU).mask
    # What each row alone would look at, and half as much again for what lengths differ.
    alone = sum(row.length**2 for row in rows)
    assert sum(part.queries.numel() * part.keys.shape[1] for part in line.parts) < 1.5 * alone


def test_a_line_outlives_recomputed_activations(llama):
    policy, other = policy_of(llama), policy_of(llama)
    recompute_activations(other.model)
    weights = [torch.ones(len(row.completion)) for row in ROWS]
    [(numbers, batch)] = token_batches(ROWS, 1000, policy.runtime)
    torch.testing.assert_close(
        gradients(other, [(numbers, batch)], weights), gradients(policy, [(numbers, batch)], weights)
    )


def test_a_scorer_and_a_policy_of_another_kind_share_what_both_can_read(llama, tmp_path):
    eager = make_llama()
    folder = save(tmp_path / "eager", eager, make_tokenizer())
    policy, scorer = policy_of(llama), scorer_of(folder)
    assert policy.runtime.shared_with(scorer.runtime).lines
    apart = policy_of(save(tmp_path / "conv", FAMILIES["convolutions"](0), make_tokenizer()))
    [(_, batch)] = token_batches(ROWS[:1], 1000, policy.runtime.shared_with(apart.runtime))
    assert not isinstance(batch.mask, Line)


def test_a_saved_model_does_not_name_our_attention(tmp_path):
    policy = policy_of(save(tmp_path / "one", make_gpt2(), make_tokenizer(pad="<pad>")))
    policy.model.save_pretrained(tmp_path / "two")
    assert policy.runtime.lines
    assert "ragged" not in (tmp_path / "two" / "config.json").read_text()


def test_half_precision_attends_in_float32_on_a_processor(llama, monkeypatch):
    from training.engine import lines

    policy = policy_of(llama, precision="bfloat16")
    seen = set()
    attention = lines.sdpa_attention_forward

    def note(module, query, key, value, *rest, **options):
        seen.update((query.dtype, key.dtype, value.dtype))
        return attention(module, query, key, value, *rest, **options)

    monkeypatch.setattr(lines, "sdpa_attention_forward", note)
    [(_, batch)] = token_batches(ROWS, 1000, policy.runtime)
    with torch.no_grad():
        policy.hidden(batch)
    assert seen == {torch.float32}
