"""grpo and rloo: how completions of a prompt are compared, and the gradients of that, by hand and by plain loops."""

import dataclasses
import itertools
import math
import tempfile
from functools import partial

import pytest
import torch

from tests.engine.conftest import LIMITS, TOY, policy_of
from tests.engine.test_training import NoWorkspace, gradients, rollout_of
from training.engine import groups, grpo, rloo
from training.engine.advantages import equal_groups, group_advantages, leave_one_out_advantages
from training.engine.batches import sums_to_go
from training.engine.config import Grpo, Rloo
from training.engine.losses import clipped_policy_loss, completion_kl_loss, token_kl_loss
from training.engine.networks import trained_parameters

GROUPED = {
    "rewards": [TOY],
    "steps": 30,
    "batch_size": 32,
    "samples_per_prompt": 4,
    "minibatch_size": 16,
    "learning_rate": 3e-3,
    "kl_budget_nats": 30.0,
    "missing_eos_penalty": 0.5,
    "update_kl_limit_nats": 3.0,
    "max_repeated_share": 1.0,  # In this world repetition is what is wanted.
    "max_identical_share": 1.0,
    "min_distinct_2": 0.0,
    "min_entropy": 0.0,
}
METHODS = {"grpo": (Grpo, grpo), "rloo": (Rloo, rloo)}
# Every option that changes what a token or a completion teaches.
OPTIONS = {
    "grpo by tokens": ("grpo", {}),
    "grpo by completion": ("grpo", {"length_divisor": "completion", "clip_range_high": None}),
    "grpo by constant": ("grpo", {"length_divisor": "constant", "entropy_coefficient": 0.05}),
    "grpo with kl in the loss": ("grpo", {"kl_in_loss": True, "divide_by_deviation": True}),
    "grpo with each token's own kl": ("grpo", {"kl_in_loss": True, "kl_gradient": "token"}),
    "grpo as first published": ("grpo", {"length_divisor": "completion", "divide_by_deviation": True, "kl_in_loss": True}),
    "rloo": ("rloo", {}),
    "rloo with entropy": ("rloo", {"entropy_coefficient": 0.05, "whiten_advantages": True}),
}  # fmt: skip
PRICE = 0.1


def players_of(folder, method, **changes):
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.write('{"prompt": "a"}\n')
        file.flush()
        config = METHODS[method][0](model=folder, prompts=file.name, **LIMITS | GROUPED | changes)
        return config, groups.load_group_players(config, NoWorkspace())[1]


def all_counted(*shape):
    return torch.ones(*shape, dtype=torch.bool)


def close(tensor, numbers):
    torch.testing.assert_close(tensor, torch.tensor(numbers), atol=1e-5, rtol=1e-5)


def move(players, scale=0.02):
    """Away from the policy that sampled, so that some ratios leave their range, and from the reference."""
    random_numbers = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in trained_parameters(players.policy.model).values():
            weight.add_(torch.randn(weight.shape, generator=random_numbers) * scale)


def lesson_of(method, rollout, config, price=PRICE):
    """The method's own lesson and loss."""
    _, module = METHODS[method]
    counted = groups.comparable(rollout, config)
    lesson = groups.Lesson(module.advantages_of(rollout, price, config), counted)
    if method == "grpo":
        return lesson, partial(grpo.loss_of, kl_coefficient=price, config=config)
    return lesson, partial(rloo.loss_of, config=config)


def policy_of_noise(folder):
    other = policy_of(folder)
    with torch.no_grad():
        other.model.get_output_embeddings().weight.mul_(1.5)
    return other


# Advantages by hand


def test_group_advantages_are_rewards_above_the_groups_mean():
    rewards = torch.tensor([1.0, 2.0, 6.0, 5.0, 5.0, 8.0])  # means 3 and 6
    close(group_advantages(rewards, 3, all_counted(6)), [-2.0, -1.0, 3.0, -1.0, -1.0, 2.0])
    # Squares 4 + 1 + 9 = 14 and 1 + 1 + 4 = 6; over 2: deviations root 7 and root 3.
    first, other = math.sqrt(7) + 1e-4, math.sqrt(3) + 1e-4
    expected = [-2 / first, -1 / first, 3 / first, -1 / other, -1 / other, 2 / other]
    close(group_advantages(rewards, 3, all_counted(6), divide_by_deviation=True), expected)


def test_leave_one_out_advantages_are_rewards_above_the_mean_of_the_others():
    rewards = torch.tensor([1.0, 2.0, 6.0, 5.0, 5.0, 8.0])
    # Of the others: 4, 3.5, 1.5, and 6.5, 6.5, 5.
    close(leave_one_out_advantages(rewards, 3, all_counted(6)), [-3.0, -1.5, 4.5, -1.5, -1.5, 3.0])


@pytest.mark.parametrize("divide", [False, True])
def test_what_does_not_count_is_in_no_mean_and_gets_nothing(divide):
    rewards = torch.tensor([1.0, 99.0, 3.0, float("nan"), 7.0, 7.0])
    counted = torch.tensor([True, False, True, False, True, False])
    # Of 1 and 3 the mean is 2 and the deviation root 2. Of a single one there is nothing to be above.
    one = 1 / (math.sqrt(2) + 1e-4) if divide else 1.0
    close(group_advantages(rewards, 3, counted, divide), [-one, 0.0, one, 0.0, 0.0, 0.0])
    close(leave_one_out_advantages(rewards, 3, counted), [-2.0, 0.0, 2.0, 0.0, 0.0, 0.0])


def test_equal_rewards_give_exactly_nothing():
    rewards = torch.full((14,), 1.3)  # Seven times 1.3, divided by seven, is not 1.3 in float32.
    assert not group_advantages(rewards, 7, all_counted(14)).any()
    assert not group_advantages(rewards, 7, all_counted(14), divide_by_deviation=True).any()
    assert not leave_one_out_advantages(rewards, 7, all_counted(14)).any()


def test_groups_are_equal_where_what_counts_is():
    rewards = torch.tensor([1.0, 1.0, 1.0, 2.0, 1.0, 2.0, float("nan"), float("nan"), 4.0, 5.0])
    counted = torch.tensor([True, True, True, True, True, False, True, True, False, False])
    assert equal_groups(rewards, 2, counted).tolist() == [True, False, True, False, True]


def test_a_reward_that_is_no_number_is_not_passed_over():
    rewards = torch.tensor([1.0, float("nan"), 1.0, 2.0])
    for advantages in (
        group_advantages(rewards, 2, all_counted(4)),
        leave_one_out_advantages(rewards, 2, all_counted(4)),
    ):
        assert advantages[:2].isnan().any() and advantages[2:].isfinite().all()


@pytest.mark.parametrize("compare", [group_advantages, leave_one_out_advantages, equal_groups])
def test_groups_must_fill_the_batch(compare):
    with pytest.raises(ValueError, match="5 completions do not fill groups of 2"):
        compare(torch.zeros(5), 2, all_counted(5))


def test_grpo_divides_scores_by_their_deviation_but_not_the_price_of_kl(llama):
    config, players = players_of(
        llama, "grpo", batch_size=8, minibatch_size=8, samples_per_prompt=4, divide_by_deviation=True
    )
    rollout = rollout_of(config, players)
    kl = torch.tensor([1.0, 3.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0])
    ratios = torch.cat([torch.full((n,), float(k) / n) for n, k in zip(rollout.lengths, kl, strict=True)])
    rollout = dataclasses.replace(
        rollout,
        scores=torch.tensor([5.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0]),
        reference_logprobs=rollout.logprobs - ratios,
    )
    # Scores: mean 2, deviation root((9 + 3) / 3) = 2: 1.5, -.5, -.5, -.5. KL: mean 1. The other group's scores
    # are equal, and its KL has the mean 0.5.
    parts = [1.5, -0.5, -0.5, -0.5, 0.0, 0.0, 0.0, 0.0]
    prices = [0.0, -0.2, 0.1, 0.1, -0.15, 0.05, 0.05, 0.05]
    expected = [part + price for part, price in zip(parts, prices, strict=True)]
    torch.testing.assert_close(
        grpo.advantages_of(rollout, 0.1, config), torch.tensor(expected), atol=1e-3, rtol=0
    )
    in_loss = config.model_copy(update={"kl_in_loss": True})
    torch.testing.assert_close(
        grpo.advantages_of(rollout, 0.1, in_loss), torch.tensor(parts), atol=1e-3, rtol=0
    )


def test_rloo_takes_the_price_of_kl_off_before_it_compares(llama):
    config, players = players_of(llama, "rloo", batch_size=4, minibatch_size=4, samples_per_prompt=2)
    rollout = rollout_of(config, players)
    kl = torch.tensor([1.0, 3.0, 0.0, 2.0])
    ratios = torch.cat([torch.full((n,), float(k) / n) for n, k in zip(rollout.lengths, kl, strict=True)])
    scores = torch.tensor([5.0, 1.0, 2.0, 2.0])
    rollout = dataclasses.replace(rollout, scores=scores, reference_logprobs=rollout.logprobs - ratios)
    # Rewards 4.9, 0.7 and 2, 1.8.
    close(rloo.advantages_of(rollout, 0.1, config), [4.2, -4.2, 0.2, -0.2])
    white = rloo.advantages_of(rollout, 0.1, config.model_copy(update={"whiten_advantages": True}))
    deviation = math.sqrt((4.2**2 + 0.2**2) / 2)
    close(white, [4.2 / deviation, -4.2 / deviation, 0.2 / deviation, -0.2 / deviation])


# Losses by hand


def test_the_upper_limit_of_the_ratio_is_its_own():
    new = torch.log(torch.tensor([1.25, 1.5, 0.7, 0.7]))
    advantages = torch.tensor([1.0, 1.0, -1.0, 1.0])
    loss, clipped, _ = clipped_policy_loss(new, torch.zeros(4), advantages, 0.2, 0.28)
    close(loss, [-1.25, -1.28, 0.8, -0.7])
    assert clipped.tolist() == [False, True, True, False]


def test_sums_to_go_end_with_their_row():
    close(
        sums_to_go(torch.tensor([1.0, 2.0, 3.0, 10.0, 5.0, -5.0]), [3, 1, 2]),
        [6.0, 5.0, 3.0, 10.0, 0.0, -5.0],
    )


def tabular(table, answer):
    """Log-probabilities of two-token answers over three tokens; the second depends on the first."""
    first, second = answer
    return torch.stack(
        [torch.log_softmax(table[0], 0)[first], torch.log_softmax(table[1 + first], 0)[second]]
    )


def test_the_gradient_of_the_kl_loss_is_that_of_the_kl_of_whole_completions():
    torch.manual_seed(4)
    table, reference = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3)
    exact = token_by_token = ours = 0.0
    for answer in itertools.product(range(3), repeat=2):
        new, base = tabular(table, answer), tabular(reference, answer)
        probability = new.sum().exp()
        exact = exact + probability * (new - base).sum()
        ours = ours + probability.detach() * completion_kl_loss(new, new.detach(), base, [2]).sum()
        token_by_token = token_by_token + probability.detach() * (0.5 * (new - base) ** 2).sum()
    wanted, found, partial_only = (
        torch.autograd.grad(one, table, retain_graph=True)[0] for one in (exact, ours, token_by_token)
    )
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    # The half square of each token's log-ratio forgets that the first token decides where the second is drawn.
    assert (partial_only - wanted).abs().max() > 0.02


def test_the_gradient_of_the_token_kl_loss_is_that_of_each_next_token_and_of_the_k3_that_others_take():
    torch.manual_seed(4)
    table, reference = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3)
    exact = ours = others = 0.0
    for first, second in itertools.product(range(3), repeat=2):
        new, base = tabular(table, (first, second)), tabular(reference, (first, second))
        old = new.detach()
        probability = old.sum().exp()
        # The first token is drawn from this policy, whatever it then becomes.
        exact = exact + old[0].exp() * new[1].exp() * (new[1] - base[1])
        ours = ours + probability * token_kl_loss(new, old, base).sum()
        k3 = (base - new).exp() - 1 - (base - new)
        others = others + probability * ((new - old).exp() * k3).sum()
    at_first, start = torch.log_softmax(table[0], 0), torch.log_softmax(reference[0], 0)
    exact = exact + (at_first.exp() * (at_first - start)).sum()
    wanted, found, theirs = (
        torch.autograd.grad(one, table, retain_graph=True)[0] for one in (exact, ours, others)
    )
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(theirs, wanted, atol=1e-5, rtol=1e-5)


def test_the_kl_loss_corrects_for_samples_of_an_older_policy():
    torch.manual_seed(5)
    logits, older, reference = torch.randn(4, requires_grad=True), torch.randn(4), torch.randn(4)
    new, old, base = (torch.log_softmax(one, 0) for one in (logits, older, reference))
    exact = (new.exp() * (new - base)).sum()
    ours = (old.exp() * completion_kl_loss(new, old, base, [1] * 4)).sum()
    wanted = torch.autograd.grad(exact, logits, retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(ours, logits)[0], wanted, atol=1e-5, rtol=1e-5)


def test_token_weights_by_hand():
    config = Grpo(model="-", prompts="-", rewards=[TOY], max_completion_tokens=10)
    by = {name: config.model_copy(update={"length_divisor": name}) for name in ("completion", "constant")}
    # A pass with completions of 1 and 2 tokens, of a step that has another of 5.
    close(grpo.token_weights([1, 2], [1, 5, 2], config), [1 / 8] * 3)
    close(grpo.token_weights([1, 2], [1, 5, 2], by["completion"]), [1 / 3, 1 / 6, 1 / 6])
    close(grpo.token_weights([1, 2], [1, 5, 2], by["constant"]), [1 / 30] * 3)


# Gradients


@pytest.mark.parametrize("name", OPTIONS)
def test_gradients_do_not_depend_on_passes_or_on_the_order_of_rows(llama, name):
    method, options = OPTIONS[name]
    config, players = players_of(llama, method, **options)
    players.reference = policy_of_noise(llama)
    rollout = rollout_of(config, players)
    move(players)
    lesson, loss_of = lesson_of(method, rollout, config)
    weights = trained_parameters(players.policy.model)
    rows = list(range(32))
    found = []
    for budget, order in ((10_000, rows), (150, rows), (40, rows[::-1])):
        players.policy_updater.drop()
        cut = config.model_copy(update={"micro_batch_tokens": budget})
        sums, _ = groups.accumulate_gradients(players, rollout, lesson, order, loss_of, cut)
        found.append((sums, gradients(weights)))
    for sums, others in found[1:]:
        assert sums == pytest.approx(found[0][0], rel=1e-3, abs=1e-5)
        torch.testing.assert_close(others, found[0][1], atol=1e-5, rtol=1e-3)


def plain_rows(players, rollout, rows):
    """New log-probabilities and entropies of each row's tokens, a forward pass for each token."""
    for number in rows:
        row, logs, entropies = rollout.rows[number], [], []
        for place, token in enumerate(row.completion):
            ids = torch.tensor([[*row.prompt, *row.completion[:place]]])
            log = torch.log_softmax(players.policy.model(input_ids=ids).logits[0, -1], 0)
            logs.append(log[token])
            entropies.append(-(log.exp() * log).sum())
        begin = sum(rollout.lengths[:number])
        old = rollout.logprobs[begin : begin + len(logs)]
        reference = rollout.reference_logprobs[begin : begin + len(logs)]
        yield number, logs, entropies, old, reference


def gain(ratio, advantage, low, high):
    return min(ratio * advantage, max(min(ratio, high), low) * advantage)


def plain_grpo(players, rollout, rows, advantages, config):
    losses, lengths = [], []
    high = 1 + (config.clip_range_high or config.clip_range)
    for number, logs, entropies, old, reference in plain_rows(players, rollout, rows):
        loss = 0.0
        for place, log in enumerate(logs):
            loss = loss - gain((log - old[place]).exp(), advantages[number], 0.8, high)
            loss = loss - config.entropy_coefficient * entropies[place]
            if config.kl_in_loss:
                end = place + 1 if config.kl_gradient == "token" else len(logs)
                following = sum(logs[n].item() - reference[n].item() for n in range(place, end))
                loss = loss + PRICE * following * (log - old[place]).exp()
        losses.append(loss)
        lengths.append(len(logs))
    if config.length_divisor == "completion":
        return sum(loss / length for loss, length in zip(losses, lengths, strict=True)) / len(losses)
    if config.length_divisor == "constant":
        return sum(losses) / (len(losses) * 8)  # The longest that a completion may be here.
    return sum(losses) / sum(lengths)


def plain_rloo(players, rollout, rows, advantages, config):
    loss = 0.0
    for number, logs, entropies, old, _ in plain_rows(players, rollout, rows):
        ratio = (sum(logs) - sum(old)).exp()
        loss = loss - gain(ratio, advantages[number], 0.8, 1.2)
        loss = loss - config.entropy_coefficient * sum(entropies)
    return loss / len(rows)


@pytest.mark.parametrize("name", OPTIONS)
def test_the_gradient_is_that_of_a_plain_loop(llama, name):
    method, options = OPTIONS[name]
    config, players = players_of(llama, method, **options)
    players.reference = policy_of_noise(llama)
    rollout = rollout_of(config, players)
    move(players, 0.03)
    rows = [0, 1, 2, 5, 9, 14, 15, 31]
    lesson, loss_of = lesson_of(method, rollout, config)
    lesson = dataclasses.replace(lesson, advantages=torch.linspace(-2, 2, 32))
    sums, _ = groups.accumulate_gradients(players, rollout, lesson, rows, loss_of, config)
    weights = trained_parameters(players.policy.model)
    ours = gradients(weights)
    players.policy_updater.drop()
    plain = plain_grpo if method == "grpo" else plain_rloo
    plain(players, rollout, rows, torch.linspace(-2, 2, 32), config).backward()
    assert 0 < sums["clipped"] < sums["ratios"]
    torch.testing.assert_close(gradients(weights), ours, atol=1e-5, rtol=1e-3)


def test_the_first_update_of_rloo_is_reinforce(llama):
    config, players = players_of(llama, "rloo")
    rollout = rollout_of(config, players)
    lesson, loss_of = lesson_of("rloo", rollout, config)
    groups.accumulate_gradients(players, rollout, lesson, range(32), loss_of, config)
    weights = trained_parameters(players.policy.model)
    ours = gradients(weights)
    players.policy_updater.drop()
    loss = 0.0
    for number, logs, *_ in plain_rows(players, rollout, range(32)):
        loss = loss - lesson.advantages[number] * sum(logs) / 32
    loss.backward()
    torch.testing.assert_close(gradients(weights), ours, atol=1e-5, rtol=1e-3)
