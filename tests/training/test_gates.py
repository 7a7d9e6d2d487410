from training import gates

GOOD_POLICY = {
    "kl_nats": 4.0,
    "identical_share": 0.05,
    "eos_rate": 0.99,
    "win_rate": 0.7,
    "win_rate_interval": [0.61, 0.78],
}


def reward(accuracy, low, pairs=100):
    result = {"accuracy": accuracy, "accuracy_interval": [low, min(1.0, 2 * accuracy - low)], "pairs": pairs}
    return gates.reward_checks(result, minimum_bound=0.5, minimum_pairs=20)


def policy(**changed):
    return gates.policy_checks(GOOD_POLICY | changed, 8.0, 0.5, 0.5, 0.5)


def test_a_reward_model_surely_above_chance_passes():
    checks = reward(0.79, 0.71)
    assert gates.passed(checks)
    assert gates.refusal(checks) == ""


def test_a_lower_bound_at_chance_is_refused_with_the_figure():
    checks = reward(0.60, 0.50)
    assert not gates.passed(checks)
    assert "Held-out accuracy: 0.60 (0.50 to 0.70), needed a lower 95 % bound above 0.50" in gates.refusal(
        checks
    )


def test_a_high_accuracy_on_too_few_pairs_is_refused():
    checks = reward(1.0, 0.8, pairs=19)
    assert "Held-out pairs: 19, needed at least 20" in gates.refusal(checks)


def test_a_second_judge_is_asked_only_where_there_is_one():
    assert [check.name for check in policy()][-1] == "win rate against the first policy"
    asked = gates.policy_checks(GOOD_POLICY, 8.0, 0.5, 0.5, 0.5, second_judge=True)
    assert "Win rate by the held-out reward model: not measured" in gates.refusal(asked)
    beaten = GOOD_POLICY | {"second_win_rate": 0.45, "second_win_rate_interval": [0.38, 0.52]}
    assert not gates.passed(gates.policy_checks(beaten, 8.0, 0.5, 0.5, 0.5, second_judge=True))


def test_what_was_not_measured_does_not_pass():
    checks = gates.reward_checks({"accuracy": None, "accuracy_interval": None, "pairs": 0}, 0.5, 0)
    assert not gates.passed(checks)
    assert "not measured" in gates.refusal(checks)
    assert not gates.passed(policy(win_rate=None, win_rate_interval=None))
    assert not gates.passed(policy(kl_nats=None))


def test_a_good_policy_passes():
    assert gates.passed(policy())


def test_each_fault_of_a_policy_is_named_with_its_figure_and_a_remedy():
    assert "KL to the first policy: 8.01 nats, needed at most 8 nats" in gates.refusal(policy(kl_nats=8.01))
    assert "Identical answers: 0.60, needed at most 0.5" in gates.refusal(policy(identical_share=0.6))
    assert "Answers that end: 0.40, needed at least 0.5" in gates.refusal(policy(eos_rate=0.4))
    worse = gates.refusal(policy(win_rate=0.55, win_rate_interval=[0.47, 0.63]))
    assert "0.55 (0.47 to 0.63), needed a lower 95 % bound above 0.50" in worse
    assert "Collect more answers" in worse


def test_a_check_is_kept_as_plain_values():
    assert reward(0.79, 0.71)[1].as_dict()["figure"] == "0.79 (0.71 to 0.87)"
