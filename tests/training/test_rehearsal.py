"""The dress rehearsal as an operator runs it: a command that starts what it needs and ends with one line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from labeling.models import User
from training.models import Round
from training.rehearsal import Quota, bootstrap_interval

ROOT = Path(__file__).resolve().parents[2]


def rehearse(environment, *arguments):
    command = [sys.executable, "manage.py", "rehearse", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=840)


@pytest.fixture
def few_prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"Where is parcel number {n}?"}) + "\n" for n in range(60)))
    return path


@pytest.mark.slow
def test_it_closes_a_round_through_api_and_workers_and_reports_it(
    process_environment, tiny_policy, few_prompts
):
    outcome = rehearse(
        process_environment, "--rounds", "1", "--judgments", "40", "--seed", "3", "--lenient",
        "--policy", str(tiny_policy), "--prompts", str(few_prompts),
    )  # fmt: skip
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    report = json.loads(outcome.stdout.splitlines()[-1])
    assert report["judgments"] == 40
    assert report["judgments_per_second"] > 0
    (row,) = report["rounds"]
    assert row["held_out_reward_used"] and row["remark"] == ""
    for name in (
        "reward_accuracy",
        "held_out_reward_accuracy",
        "second_win_rate",
        "gold_score",
        "gold_win_rate",
        "kl_nats",
    ):
        low, high = row[f"{name}_interval"]
        assert low <= row[name] <= high, name
    assert set(row["seconds"]) >= {"generate", "collect", "reward", "policy", "policy_gate"}
    assert row["kl_nats"] <= row["kl_budget_nats"]

    turn = Round.objects.get(project__slug=report["project"])
    assert turn.outcome == "published"
    assert turn.project.preferences.values("judgment").distinct().count() == 40
    simulated = User.objects.filter(username__startswith=f"{report['project']}-").exclude(
        username__endswith="manager"
    )
    assert simulated.count() == 4
    assert not simulated.filter(is_active=True).exists(), "nobody may log in as a simulated person afterwards"


def test_a_station_that_fails_ends_it_with_a_sentence_and_code_1(process_environment):
    outcome = rehearse(
        process_environment, "--rounds", "1", "--judgments", "4", "--policy", "/nowhere/policy"
    )
    assert outcome.returncode == 1
    assert "there is no folder /nowhere/policy" in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_a_quota_is_used_up_once_by_all():
    quota = Quota(3)
    assert [quota.take() for _ in range(5)] == [True, True, True, False, False]


def test_a_quota_given_back_can_be_taken_again():
    quota = Quota(1)
    assert quota.take()
    quota.give_back()
    assert quota.take()


def test_an_interval_covers_the_mean_and_shrinks_with_more_prompts():
    few, many = bootstrap_interval([0.0, 1.0] * 10), bootstrap_interval([0.0, 1.0] * 1000)
    assert few[0] < many[0] < 0.5 < many[1] < few[1]
