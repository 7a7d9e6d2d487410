"""Small tensors and numbers worked by hand."""

import math

import pytest
import torch

from training.engine.advantages import generalized_advantages, next_coefficient, shaped_rewards
from training.engine.batches import by_token_budget, gather_rows, row_sums
from training.engine.intervals import mean_interval, share_interval
from training.engine.losses import centering_loss, clipped_policy_loss, preference_loss, value_loss
from training.engine.reward_report import calibration_error, correlation
from training.engine.tensors import exact_kl, token_logprobs, token_statistics, whiten

LOG2 = math.log(2)


def close(tensor, numbers):
    torch.testing.assert_close(tensor, torch.tensor(numbers), atol=1e-5, rtol=1e-5)


def test_rewards_price_kl_on_each_token_and_add_the_score_to_the_last():
    ratios = torch.tensor([1.0, -2.0, 3.0, 0.5])
    close(shaped_rewards(torch.tensor([10.0, -1.0]), ratios, [3, 1], 0.1), [-0.1, 0.2, 9.7, -1.05])


def test_a_score_of_zero_is_a_score():
    close(shaped_rewards(torch.tensor([0.0]), torch.tensor([0.0, 0.0]), [2], 0.1), [0.0, 0.0])


def test_advantages_of_ragged_rows():
    # Row 1: rewards 0, 0, 1; values .5, .6, .7. Row 2: reward 2, value 1. gamma 1, lambda .5.
    # deltas .1, .1, .3: A3 = .3, A2 = .1 + .5 * .3 = .25, A1 = .1 + .5 * .25 = .225; row 2: 2 - 1 = 1.
    rewards, values = torch.tensor([0.0, 0.0, 1.0, 2.0]), torch.tensor([0.5, 0.6, 0.7, 1.0])
    advantages, returns = generalized_advantages(rewards, values, [3, 1], 1.0, 0.5)
    close(advantages, [0.225, 0.25, 0.3, 1.0])
    close(returns, [0.725, 0.85, 1.0, 2.0])


def test_a_discount_counts_tokens():
    # rewards 0, 0, 4; values 0; gamma .5, lambda 1: 1, 2, 4.
    advantages, _ = generalized_advantages(torch.tensor([0.0, 0.0, 4.0]), torch.zeros(3), [3], 0.5, 1.0)
    close(advantages, [1.0, 2.0, 4.0])


def test_advantages_do_not_depend_on_the_row_beside():
    rewards, values = torch.randn(9), torch.randn(9)
    both, _ = generalized_advantages(rewards, values, [2, 7], 1.0, 0.95)
    alone, _ = generalized_advantages(rewards[:2], values[:2], [2], 1.0, 0.95)
    torch.testing.assert_close(both[:2], alone)


def test_the_price_of_kl_follows_the_target():
    assert next_coefficient(0.1, 12.0, 10.0, 100, 1000) == pytest.approx(0.102)  # error +.2
    assert next_coefficient(0.1, 99.0, 10.0, 100, 1000) == pytest.approx(0.102)  # clipped at +.2
    assert next_coefficient(0.1, 9.0, 10.0, 100, 1000) == pytest.approx(0.099)  # error -.1
    assert next_coefficient(0.1, 0.0, 10.0, 100, 1000) == pytest.approx(0.098)  # clipped at -.2


def test_preference_loss_by_hand():
    chosen, rejected = torch.tensor([0.0, math.log(3)]), torch.tensor([0.0, 0.0])
    never = torch.tensor([False, False])
    close(preference_loss(chosen, rejected, never), [LOG2, math.log(4 / 3)])  # sigmoid(log 3) = 3/4
    close(preference_loss(rejected, chosen, never), [LOG2, math.log(4)])


def test_a_tie_pulls_equal_scores_nowhere_and_unequal_ones_together():
    chosen, rejected = torch.tensor([0.0, 2.0], requires_grad=True), torch.tensor([0.0, 0.0])
    losses = preference_loss(chosen, rejected, torch.tensor([True, True]))
    close(losses.detach()[:1], [LOG2])
    losses.sum().backward()
    # Derivative: 1/2 (sigmoid(2) - sigmoid(-2)) = 1/2 tanh(1).
    close(chosen.grad, [0.0, 0.5 * math.tanh(1)])


@pytest.mark.parametrize("tie", [True, False])
def test_enormous_gaps_give_finite_losses(tie):
    chosen, rejected = torch.tensor([1e4, -1e4]), torch.tensor([-1e4, 1e4])
    losses = preference_loss(chosen, rejected, torch.tensor([tie, tie]))
    assert losses.isfinite().all()
    assert losses[1] == pytest.approx(1e4 if tie else 2e4)


def test_centering_looks_at_the_level_alone():
    close(centering_loss(torch.tensor([1.0, 2.0]), torch.tensor([-1.0, 1.0])), [0.0, 9.0])


def test_policy_loss_is_clipped_where_the_gain_is_taken_already():
    old = torch.zeros(4)
    new = torch.log(torch.tensor([1.5, 1.5, 0.5, 0.5]))
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0])
    loss, clipped, kl = clipped_policy_loss(new, old, advantages, 0.2)
    # Good and already likelier: held at 1.2. Bad and likelier: full. Good and rarer: full. Bad and rarer: .8.
    close(loss, [-1.2, 1.5, -0.5, 0.8])
    assert clipped.tolist() == [True, False, False, True]
    close(kl, [0.5 - math.log(1.5)] * 2 + [-0.5 + LOG2] * 2)


def test_policy_loss_teaches_nothing_where_clipped():
    new = torch.log(torch.tensor([1.5, 1.1])).requires_grad_()
    clipped_policy_loss(new, torch.zeros(2), torch.ones(2), 0.2).loss.sum().backward()
    close(new.grad, [0.0, -1.1])


def test_a_log_ratio_that_would_overflow_stays_finite():
    loss = clipped_policy_loss(torch.tensor([500.0]), torch.tensor([-500.0]), torch.tensor([-1.0]), 0.2).loss
    assert loss.isfinite().all()


def test_value_loss_free_and_clipped():
    new, old, returns = torch.tensor([1.0, 0.1]), torch.tensor([0.0, 0.0]), torch.tensor([1.0, 1.0])
    close(value_loss(new, old, returns, None), [0.0, 0.405])
    close(value_loss(new, old, returns, 0.2), [0.32, 0.405])  # 1/2 (0.2 - 1)^2; the other did not move far


def test_whitening_uses_all_values_and_survives_equal_ones():
    close(whiten(torch.tensor([1.0, 3.0])), [-1.0, 1.0])
    close(whiten(torch.tensor([2.0, 2.0])), [0.0, 0.0])


def fixed_head(logits):
    """A head that knows its logits: hidden states are one-hot row numbers."""
    return lambda hidden: hidden @ torch.tensor(logits)


def test_log_probabilities_and_entropy_by_hand():
    head = fixed_head([[0.0, LOG2 * 2], [0.0, 0.0]])  # probabilities 1/5, 4/5 and 1/2, 1/2
    logprobs, entropy = token_statistics(head, torch.eye(2), torch.tensor([1, 0]), 1.0)
    close(logprobs, [math.log(0.8), -LOG2])
    close(entropy, [-(0.8 * math.log(0.8) + 0.2 * math.log(0.2)), LOG2])


def test_temperature_divides_the_logits():
    head = fixed_head([[0.0, 2 * LOG2]])
    close(token_logprobs(head, torch.eye(1), torch.tensor([1]), 2.0), [math.log(2 / 3)])


def test_exact_kl_by_hand_and_never_negative():
    policy, reference = fixed_head([[0.0, 0.0]]), fixed_head([[0.0, math.log(3)]])
    # 1/2 log((1/2) / (1/4)) + 1/2 log((1/2) / (3/4))
    expected = 0.5 * LOG2 + 0.5 * math.log(2 / 3)
    close(exact_kl(policy, torch.eye(1), reference, torch.eye(1), 1.0), [expected])
    close(exact_kl(policy, torch.eye(1), policy, torch.eye(1), 1.0), [0.0])


def test_chunks_change_neither_values_nor_gradients():
    torch.manual_seed(0)
    weight = torch.randn(7, 5, requires_grad=True)
    hidden, targets = torch.randn(11, 7), torch.randint(5, (11,))
    gradients = []
    for chunk_elements in (5, 15, 10_000):
        statistics = token_statistics(lambda rows: rows @ weight, hidden, targets, 0.7, chunk_elements)
        (statistics.logprobs.sum() + 0.3 * statistics.entropy.sum()).backward()
        gradients.append(weight.grad.clone())
        weight.grad = None
    torch.testing.assert_close(gradients[0], gradients[2])
    torch.testing.assert_close(gradients[1], gradients[2])


def test_row_sums_and_gathering_follow_lengths():
    flat = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    close(row_sums(flat, [1, 3, 2]), [1.0, 9.0, 11.0])
    close(gather_rows(flat, [1, 3, 2], [2, 0]), [5.0, 6.0, 1.0])


def test_groups_keep_to_the_budget_and_hold_each_row_once():
    lengths = [3, 50, 7, 7, 1, 20]
    groups = by_token_budget(lengths, 24)
    assert sorted(row for group in groups for row in group) == list(range(6))
    assert all(len(group) * max(lengths[row] for row in group) <= 24 or len(group) == 1 for group in groups)
    assert [1] in groups  # longer than the budget, alone


def test_share_interval_of_independent_rows_is_wilsons():
    share, (low, high) = share_interval([1] * 8 + [0] * 2, range(10))
    # Wilson for 8 of 9 effective rows (10 rows, small-sample factor 10/9), z = 1.96.
    assert share == 0.8
    assert (low, high) == pytest.approx((0.4746, 0.9464), abs=2e-3)


def test_rows_of_one_prompt_count_less_than_rows_of_many():
    values = [1, 1, 1, 1, 0, 0, 1, 1]
    _, wide = share_interval(values, [0, 0, 0, 0, 1, 1, 2, 2])
    _, narrow = share_interval(values, range(8))
    assert wide[1] - wide[0] > narrow[1] - narrow[0]


def test_unanimous_rows_leave_doubt():
    _, (low, high) = share_interval([1.0] * 20, [0, 1] * 10)
    assert low < 0.5 and high == 1.0


def test_of_few_prompts_one_that_dissents_leaves_no_less_doubt():
    prompts = [0] * 19 + [1]
    _, (agreeing, _) = share_interval([1.0] * 20, prompts)
    _, (low, high) = share_interval([1.0] * 19 + [0.0], prompts)
    # Wilson for 0.95 of 2 rows, and for 1 of 2.
    assert (low, high, agreeing) == pytest.approx((0.3094, 0.9988, 0.3424), abs=1e-4)


def test_mean_interval_by_hand():
    mean, (low, high) = mean_interval([1.0, 3.0], ["a", "b"])
    # Deviations -1, 1: 2 * (1 + 1) / 4 = 1, so half the width is 1.96.
    assert (mean, low, high) == pytest.approx((2.0, 0.04, 3.96))


def test_calibration_error_by_hand():
    # Two sure (0.9) and right, two sure (0.9) and wrong: says 0.9, is right half the time.
    assert calibration_error(torch.tensor([0.9, 0.9, 0.1, 0.1])) == pytest.approx(0.4)


def test_correlation_of_what_does_not_vary_is_unknown():
    assert correlation(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 3.0])) is None
    assert correlation(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 5.0])) == pytest.approx(1.0)
