import json
import random
import uuid

import pytest
from django.db import DatabaseError

from labeling.assignment import flag, next_for
from labeling.judging import record
from labeling.models import Comparison, Completion, DatasetVersion, Project
from labeling.reports import handle
from labeling.selection import create_comparison
from training import launch, loop, runs
from training.forms import check_overrides
from training.models import Generation, LoopSettings, ModelVersion, Promotion, Round, RoundComparison, Run


def work_off():
    """What a worker does, without a broker: every queued run, once."""
    for run_id in list(Run.objects.unfinished().order_by("id").values_list("pk", flat=True)):
        if run := runs.claim(run_id):
            launch.execute(run)


def answer_all(project, person, limit=10_000):
    """The person likes longer answers, with some noise."""
    rng = random.Random(0)
    given = 0
    while given < limit and (assignment := next_for(person, project)):
        texts = {
            c.position: c.completion.text
            for c in assignment.comparison.candidates.select_related("completion")
        }
        best = sorted(texts, key=lambda place: len(texts[place]) + rng.gauss(0, 3), reverse=True)
        record(assignment, "preferred", uuid.uuid4(), ranking=[[place] for place in best], strength=2)
        given += 1
    return given


def fresh(round):
    return Round.objects.get(pk=round.pk)


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_a_round_closes_and_the_next_starts_from_its_policy(project, prompts, loop_settings, bob, alice):
    first = loop_settings.policy
    round = loop.start_round(project, alice, seed=7)
    loop.advance(round.pk)
    assert fresh(round).message == ""
    generate = Run.objects.get(round=round)
    assert (generate.method, generate.status, generate.input_model) == ("generate", "queued", first)
    loop.advance(round.pk)
    assert Run.objects.count() == 1, "looking twice starts nothing twice"

    work_off()
    loop.advance(round.pk)
    assert fresh(round).stage == "collect"
    put = RoundComparison.objects.filter(round=round)
    assert put.count() == fresh(round).target == 16
    splits = set(put.values_list("comparison__prompt__split", flat=True))
    assert splits == {"train", "eval"}, "there are held-out pairs"
    assert set(Generation.objects.values_list("model_version__name", "completion__author")) == {
        ("policy-0", "policy-0")
    }
    assert set(Generation.objects.values_list("temperature", flat=True)) == {0.9, 1.2}
    for comparison in Comparison.objects.all():
        texts = [candidate.completion.text for candidate in comparison.candidates.all()]
        assert len(set(texts)) == 2

    answer_all(project, bob, 15)
    loop.advance(round.pk)
    assert fresh(round).stage == "collect", "one answer is missing"
    answer_all(project, bob)
    loop.advance(round.pk)
    assert fresh(round).stage == "reward"
    assert fresh(round).collected == 16
    reward_run = Run.objects.get(round=round, method="reward", held_out=False)
    assert reward_run.input_model == first
    assert reward_run.dataset_version == fresh(round).dataset_version == DatasetVersion.objects.get()

    for _ in range(3):  # reward model, policy, evaluation
        work_off()
        loop.advance(round.pk)
    done = fresh(round)
    assert (done.stage, done.outcome) == ("done", "published"), done.message
    assert (done.reward.name, done.held_out_reward.name) == ("reward-1", "reward-2")
    assert done.reward.sha256 != done.held_out_reward.sha256
    assert done.new_policy.metrics["held_out_reward"] is not None, "it watched the policy's training"
    assert done.new_policy.name == "policy-1"
    assert done.new_policy.parent == first
    assert done.new_policy.run.reward_model == done.reward
    assert done.new_policy.metrics["evaluation"]["kl_nats"] >= 0
    assert {"reward_gate", "held_out", "policy_gate"} == set(done.gates)
    assert done.new_policy.metrics["evaluation"]["second_win_rate"] is not None
    assert set(done.seconds_by_stage()) == set(Round.Stage.values) - {"done"}
    loop_settings.refresh_from_db()
    assert loop_settings.policy == done.new_policy
    promotion = Promotion.objects.get(version=done.new_policy)
    assert (promotion.previous, promotion.promoted_by, promotion.round) == (first, None, done)

    second = loop.start_round(project, alice, seed=8)
    loop.advance(second.pk)
    authors = set(
        Run.objects.filter(round=second).values_list("input_model__name", "config__samples_per_prompt")
    )
    assert authors == {("policy-1", 2), ("policy-0", 1)}, (
        "a share of the candidates comes from the first policy"
    )


# Without an engine: what a run leaves behind is written by hand


def end(run, result=None, model=""):
    """As the engine would have ended it."""
    return runs.finish(runs.claim(run.pk), result or {}, location=model, sha256="0" * 64 if model else "")


def sampled(run):
    """Give every prompt of a generate run three different completions."""
    run.path.mkdir(parents=True, exist_ok=True)
    with open(run.config["prompts"]) as prompts, open(run.path / "completions.jsonl", "w") as out:
        for line in prompts:
            for sample, text in enumerate(["yes", "no, sorry", "no, sorry", " ", "perhaps tomorrow"]):
                row = json.loads(line) | {
                    "completion": text,
                    "sample": sample,
                    "tokens": 2,
                    "temperature": 1.0,
                }
                out.write(json.dumps(row) + "\n")
    end(run)


@pytest.fixture
def collecting(project, prompts, loop_settings):
    round = loop.start_round(project, seed=1)
    loop.advance(round.pk)
    sampled(Run.objects.get())
    loop.advance(round.pk)
    return fresh(round)


@pytest.fixture
def judged(collecting, project, bob):
    answer_all(project, bob)
    loop.advance(collecting.pk)
    return fresh(collecting)


GOOD_REWARD = {"accuracy": 0.8, "accuracy_interval": [0.7, 0.9], "pairs": 60, "prompts": 20}
GOOD_POLICY = {
    "kl_nats": 2.0, "identical_share": 0.1, "eos_rate": 1.0, "win_rate": 0.7, "win_rate_interval": [0.6, 0.8],
    "second_win_rate": 0.65, "second_win_rate_interval": [0.55, 0.75],
}  # fmt: skip


def latest(round, method, held_out=False):
    return Run.objects.filter(round=round, method=method, held_out=held_out).order_by("-id").first()


def through_the_reward_gate(round, result=None, of_held_out=None):
    end(latest(round, "reward"), result or GOOD_REWARD, "models/reward")
    if watching := latest(round, "reward", held_out=True):
        end(watching, of_held_out or GOOD_REWARD, "models/held-out")
    loop.advance(round.pk)
    return fresh(round)


def through_the_policy_gate(round, result=None):
    end(latest(round, "ppo"), {"kl_nats": 2.0}, "models/policy")
    loop.advance(round.pk)
    end(latest(round, "evaluate"), result or GOOD_POLICY)
    loop.advance(round.pk)
    return fresh(round)


def test_only_one_round_is_open_at_a_time(project, loop_settings):
    loop.start_round(project)
    with pytest.raises(loop.RoundRefused, match="Round 1 is still writing candidates"):
        loop.start_round(project)


def test_empty_and_equal_completions_are_never_compared(collecting):
    for comparison in Comparison.objects.all():
        texts = [candidate.completion.text for candidate in comparison.candidates.all()]
        assert len(set(texts)) == 2
        assert all(text.strip() for text in texts)


@pytest.mark.django_db(transaction=True)
def test_as_many_answers_stand_side_by_side_as_the_project_asks_for(project, prompts, loop_settings, bob):
    # More than the loop samples for each prompt: then it samples as many as are shown.
    Project.objects.filter(pk=project.pk).update(
        answers_per_comparison=loop_settings.candidates_per_prompt + 1
    )
    round = loop.start_round(project, seed=7)
    loop.advance(round.pk)
    work_off()
    loop.advance(round.pk)
    assert fresh(round).stage == "collect"
    sizes = [comparison.candidates.count() for comparison in Comparison.objects.all()]
    assert set(sizes) == {4} and answer_all(project, bob, 2) == 2


def test_the_candidates_know_how_they_were_made(collecting):
    generation = Generation.objects.filter(completion__text="perhaps tomorrow").first()
    assert (generation.model_version, generation.sample, generation.tokens) == (collecting.policy, 4, 2)
    assert generation.run.round == collecting


def test_a_policy_with_one_answer_for_everything_halts_the_round(project, prompts, loop_settings):
    round = loop.start_round(project)
    loop.advance(round.pk)
    run = Run.objects.get()
    run.path.mkdir(parents=True)
    with open(run.config["prompts"]) as prompts_file, open(run.path / "completions.jsonl", "w") as out:
        out.writelines(json.dumps(json.loads(line) | {"completion": "yes"}) + "\n" for line in prompts_file)
    end(run)
    loop.advance(round.pk)
    assert fresh(round).outcome == "halted"
    assert "nothing to compare" in fresh(round).message
    assert not Comparison.objects.exists()


def test_a_project_without_prompts_halts_with_what_to_do(project, loop_settings):
    round = loop.start_round(project)
    loop.advance(round.pk)
    assert fresh(round).message == "There are no prompts yet. Import some, then try again."


def test_a_manager_trains_early_on_what_is_there(collecting, project, bob):
    answer_all(project, bob, 12)
    loop.train_now(collecting)
    loop.advance(collecting.pk)
    round = fresh(collecting)
    assert (round.stage, round.collected) == ("reward", 12)
    left = Comparison.objects.open().values_list("priority", flat=True)
    assert set(left) == {loop.LEFTOVER_PRIORITY}, "what is left over waits behind the next round"


def test_a_round_goes_on_when_nobody_can_answer_the_rest(collecting, project, bob, alice):
    from labeling.assignment import flag

    answer_all(project, bob, 15)
    loop.advance(collecting.pk)
    assert fresh(collecting).stage == "collect"
    for person in (bob, alice):
        flag(next_for(person, project), "broken")
    loop.advance(collecting.pk)
    assert fresh(collecting).stage == "reward"


def test_training_without_any_answer_halts_with_what_to_do(collecting):
    loop.train_now(collecting)
    loop.advance(collecting.pk)
    assert fresh(collecting).outcome == "halted"
    assert "no preferences" in fresh(collecting).message
    assert not DatasetVersion.objects.exists(), "nothing half-made is left"


def test_the_reward_gate_refuses_with_the_figure_and_starts_no_ppo(judged, loop_settings):
    loop_settings.minimum_accuracy_bound = 0.5
    loop_settings.save()
    round = through_the_reward_gate(
        judged, GOOD_REWARD | {"accuracy": 0.55, "accuracy_interval": [0.43, 0.66]}
    )
    assert (round.stage, round.outcome) == ("reward_gate", "halted")
    assert "0.55 (0.43 to 0.66)" in round.message and "above 0.50" in round.message
    assert round.gates["reward_gate"][1]["passed"] is False, "what was measured is kept"
    assert not Run.objects.filter(method="ppo").exists()


def test_a_refused_gate_is_held_against_new_limits_on_retry(judged, loop_settings):
    LoopSettings.objects.update(minimum_accuracy_bound=0.75)
    round = through_the_reward_gate(judged)
    assert round.outcome == "halted"
    LoopSettings.objects.update(minimum_accuracy_bound=0.6)
    loop.retry(round)
    loop.advance(round.pk)
    assert fresh(round).stage == "policy"
    assert Run.objects.filter(method="reward").count() == 2, "the reward models are not trained again"


def test_a_failed_run_halts_the_round_and_a_retry_starts_another(judged):
    run = runs.claim(latest(judged, "reward").pk)
    runs.fail(run, "The disk is full.")
    loop.advance(judged.pk)
    round = fresh(judged)
    assert (round.stage, round.outcome) == ("reward", "halted")
    assert round.message == f"Run {run.pk} (reward) failed. The disk is full."
    loop.retry(round)
    loop.advance(round.pk)
    again = latest(round, "reward")
    assert again.pk != run.pk and again.status == "queued"
    assert again.dataset_version == run.dataset_version, "on the same frozen answers"


def test_a_policy_beyond_its_budget_is_not_published(judged, loop_settings):
    LoopSettings.objects.update(kl_budget_nats=8)
    round = through_the_policy_gate(through_the_reward_gate(judged), GOOD_POLICY | {"kl_nats": 9.5})
    assert (round.stage, round.outcome) == ("policy_gate", "halted")
    assert "9.50 nats, needed at most 8 nats" in round.message
    loop_settings.refresh_from_db()
    assert loop_settings.policy.name == "policy-0"
    assert ModelVersion.objects.get(name="policy-1").metrics["evaluation"]["kl_nats"] == 9.5


def test_a_published_policy_starts_the_next_round_where_the_loop_is_continuous(
    judged, django_capture_on_commit_callbacks
):
    LoopSettings.objects.update(continuous=True)
    with django_capture_on_commit_callbacks(execute=True):
        round = through_the_policy_gate(through_the_reward_gate(judged))
    assert round.outcome == "published"
    following = Round.objects.get(number=2)
    assert following.policy == round.new_policy


def test_ppo_starts_from_the_policy_in_use_and_is_held_to_the_first(judged, loop_settings):
    better = runs.register(judged.project, "policy", "models/better", "")
    Round.objects.filter(pk=judged.pk).update(policy=better)
    through_the_reward_gate(judged)
    run = latest(judged, "ppo")
    assert run.input_model == better
    assert run.config["reference_model"] == loop_settings.first_policy.path
    assert run.config["kl_budget_nats"] == loop_settings.kl_budget_nats
    assert run.config["steps"] == 3, "the loop's own settings of the engine"


def test_a_new_loop_trains_an_ensemble_until_its_manager_says_otherwise(project, tiny_policy):
    made = loop.create_loop(project, str(tiny_policy))
    made.refresh_from_db()
    assert made.overrides == {"reward": {"members": 4}}
    check_overrides("reward", made.overrides["reward"])


def test_ppo_starts_from_the_first_policy_where_the_loop_says_so(judged, loop_settings):
    better = runs.register(judged.project, "policy", "models/better", "")
    Round.objects.filter(pk=judged.pk).update(policy=better)
    LoopSettings.objects.update(start_from_first=True)
    through_the_reward_gate(judged)
    assert latest(judged, "ppo").input_model == loop_settings.first_policy


@pytest.mark.parametrize("method", ["grpo", "rloo", "dpo"])
def test_a_round_trains_its_policy_by_the_method_of_the_loop(judged, loop_settings, method):
    LoopSettings.objects.update(policy_method=method, overrides={method: {"batch_size": 256}})
    round = through_the_reward_gate(judged)
    run = latest(round, method)
    assert run.config["batch_size"] == 256
    assert run.config["reference_model"] == loop_settings.first_policy.path
    if method == "dpo":  # from the preferences themselves, the same that the reward model had
        assert run.dataset_version == round.dataset_version and not run.reward_model
    else:
        assert run.reward_model == round.reward
        assert run.config["kl_budget_nats"] == loop_settings.kl_budget_nats
    end(run, {}, "models/policy")
    loop.advance(round.pk)
    assert fresh(round).new_policy.run == run
    assert latest(round, "evaluate").input_model == fresh(round).new_policy


def test_a_method_that_changes_while_a_policy_trains_counts_from_the_next_round(judged, loop_settings):
    round = through_the_reward_gate(judged)
    LoopSettings.objects.update(policy_method="dpo", start_from_first=True)
    loop.advance(round.pk)
    assert list(Run.objects.filter(round=round, stage="policy").values_list("method", flat=True)) == ["ppo"]
    round = through_the_policy_gate(fresh(round))
    assert round.outcome == "published"


def test_a_manager_rolls_back_and_it_is_recorded(judged, loop_settings, alice):
    through_the_policy_gate(through_the_reward_gate(judged))
    loop.promote(loop_settings.first_policy, alice)
    loop_settings.refresh_from_db()
    assert loop_settings.policy.name == "policy-0"
    promotion = Promotion.objects.first()
    assert (promotion.previous.name, promotion.promoted_by) == ("policy-1", alice)


def test_a_reward_model_is_never_put_in_use_as_a_policy(judged):
    round = through_the_reward_gate(judged)
    with pytest.raises(loop.RoundRefused):
        loop.promote(round.reward)


def test_a_cancelled_round_stops_its_runs_and_keeps_its_answers(judged, alice):
    loop.cancel(judged, alice)
    assert fresh(judged).outcome == "cancelled"
    assert latest(judged, "reward").status == "stopped"
    loop.start_round(judged.project)


def test_a_paused_loop_waits(collecting, project, bob):
    LoopSettings.objects.update(paused=True)
    answer_all(project, bob)
    loop.advance(collecting.pk)
    assert fresh(collecting).stage == "collect"
    LoopSettings.objects.update(paused=False)
    loop.advance(collecting.pk)
    assert fresh(collecting).stage == "reward"


def test_a_comparison_taken_away_after_a_report_is_no_answer(collecting, project, bob, alice):
    reported = next_for(bob, project)
    flag(reported, "harmful")
    assert loop.progress(collecting) == (0, 16)
    handle(reported, alice, "closed")
    assert loop.progress(collecting) == (0, 15)
    answer_all(project, bob)
    assert loop.progress(collecting) == (15, 0)
    loop.advance(collecting.pk)
    assert fresh(collecting).stage == "reward"


def test_settings_that_the_engine_refuses_halt_the_round_with_its_sentence(project, prompts, loop_settings):
    LoopSettings.objects.update(overrides={"generate": {"top_p": 7}})
    round = loop.start_round(project)
    loop.advance(round.pk)
    assert fresh(round).outcome == "halted"
    assert "top_p" in fresh(round).message


def test_a_halted_round_is_not_retried_beside_an_open_one(judged):
    runs.fail(runs.claim(latest(judged, "reward").pk), "The disk is full.")
    loop.advance(judged.pk)
    following = loop.start_round(judged.project)
    with pytest.raises(loop.RoundRefused, match="Another round is open"):
        loop.retry(fresh(judged))
    assert loop.open_round(judged.project) == following


def test_answers_to_other_comparisons_do_not_fill_a_round(collecting, project, prompts, bob):
    for prompt in prompts:
        pair = [Completion.objects.add(prompt, text, "somebody") for text in ("first", "second")]
        create_comparison(project, prompt, pair, priority=-1)
    answer_all(project, bob, len(prompts))
    assert Comparison.objects.filter(closed_at__isnull=False).count() == len(prompts) > collecting.target
    loop.advance(collecting.pk)
    assert fresh(collecting).stage == "collect"
    assert loop.progress(collecting) == (0, collecting.target)


# The held-out reward model


def test_a_round_trains_a_second_reward_model_by_another_seed(judged):
    main, watching = latest(judged, "reward"), latest(judged, "reward", held_out=True)
    assert (main.held_out, watching.held_out) == (False, True)
    assert main.dataset_version == watching.dataset_version == judged.dataset_version
    assert main.seed != watching.seed
    assert main.config["prompt_span"] == watching.config["prompt_span"] == [0.0, 1.0]
    loop.advance(judged.pk)
    assert Run.objects.filter(round=judged, method="reward").count() == 2, "looking again starts nothing"


@pytest.mark.parametrize(
    ("share", "spans"), [(0.5, ([0.5, 1.0], [0.0, 0.5])), (0.2, ([0.2, 1.0], [0.0, 0.8]))]
)
def test_each_reward_model_has_a_share_of_the_prompts_for_itself(collecting, project, bob, share, spans):
    LoopSettings.objects.update(reserved_share=share)
    answer_all(project, bob)
    loop.advance(collecting.pk)
    found = [
        latest(collecting, "reward", held_out=held_out).config["prompt_span"] for held_out in (False, True)
    ]
    assert tuple(found) == spans


def test_a_loop_may_do_without_a_second_reward_model(collecting, project, bob):
    LoopSettings.objects.update(train_held_out_reward=False, reserved_share=0.5)
    answer_all(project, bob)
    loop.advance(collecting.pk)
    (run,) = Run.objects.filter(round=collecting, method="reward")
    assert run.config["prompt_span"] == [0.0, 1.0], "nothing is kept for a model that is not trained"
    round = through_the_reward_gate(fresh(collecting))
    assert latest(round, "ppo").config["held_out_reward_model"] is None
    round = through_the_policy_gate(round)
    assert latest(round, "evaluate").config["second_judge_model"] is None
    assert (round.outcome, round.message) == ("published", "policy-1 is in use.")


@pytest.mark.parametrize("held_out_first", [True, False])
def test_the_round_waits_for_both_reward_models_whichever_ends_first(judged, held_out_first):
    for held_out in (held_out_first, not held_out_first):
        assert fresh(judged).stage == "reward"
        run = latest(judged, "reward", held_out=held_out)
        end(run, GOOD_REWARD, "models/held-out" if held_out else "models/reward")
        loop.advance(judged.pk)
    round = fresh(judged)
    assert round.stage == "policy"
    assert round.reward.location == "models/reward"
    assert round.held_out_reward.location == "models/held-out"


@pytest.mark.parametrize("method", ["ppo", "dpo"])
def test_the_second_reward_model_watches_the_training_and_judges_the_policy(judged, method):
    LoopSettings.objects.update(policy_method=method, overrides={})
    round = through_the_reward_gate(judged)
    if method == "ppo":
        assert latest(round, "ppo").config["held_out_reward_model"] == round.held_out_reward.path
    end(latest(round, method), {"kl_nats": 2.0}, "models/policy")
    loop.advance(round.pk)
    run = latest(round, "evaluate")
    assert (run.reward_model, run.config["second_judge_model"]) == (round.reward, round.held_out_reward.path)
    end(run, GOOD_POLICY)
    loop.advance(round.pk)
    checks = {check["name"]: check for check in fresh(round).gates["policy_gate"]}
    assert checks["win rate by the held-out reward model"]["figure"] == "0.65 (0.55 to 0.75)"
    assert fresh(round).outcome == "published"


def test_a_policy_that_wins_by_its_own_reward_model_alone_is_not_published(judged):
    LoopSettings.objects.update(minimum_win_rate_bound=0.5)
    result = GOOD_POLICY | {"second_win_rate": 0.5, "second_win_rate_interval": [0.4, 0.6]}
    round = through_the_policy_gate(through_the_reward_gate(judged), result)
    assert (round.stage, round.outcome) == ("policy_gate", "halted")
    assert "Win rate by the held-out reward model: 0.50 (0.40 to 0.60)" in round.message


def test_a_second_reward_model_that_learned_nothing_is_not_used_and_the_round_says_so(judged):
    LoopSettings.objects.update(minimum_accuracy_bound=0.5)
    chance = GOOD_REWARD | {"accuracy": 0.52, "accuracy_interval": [0.4, 0.63]}
    round = through_the_reward_gate(judged, of_held_out=chance)
    assert (round.stage, round.outcome) == ("policy", "")
    assert round.held_out_reward and round.watcher is None
    assert latest(round, "ppo").config["held_out_reward_model"] is None
    round = through_the_policy_gate(round)
    assert latest(round, "evaluate").config["second_judge_model"] is None
    assert round.outcome == "published"
    assert f"{round.held_out_reward.name} is not used as the held-out reward model" in round.message
    assert "0.52 (0.40 to 0.63)" in round.message


def test_a_second_reward_model_that_failed_does_not_halt_the_round(judged):
    watching = latest(judged, "reward", held_out=True)
    runs.fail(runs.claim(watching.pk), "The disk is full.")
    loop.advance(judged.pk)
    assert fresh(judged).outcome == ""
    end(latest(judged, "reward"), GOOD_REWARD, "models/reward")
    loop.advance(judged.pk)
    round = fresh(judged)
    assert (round.stage, round.held_out_reward, round.watcher) == ("policy", None, None)
    assert "the round goes on without it" in loop.held_out_remark(round)
    assert f"Run {watching.pk}: The disk is full." in loop.held_out_remark(round)


def test_a_retry_trains_again_only_the_reward_model_that_failed(judged):
    watching = latest(judged, "reward", held_out=True)
    end(watching, GOOD_REWARD, "models/held-out")
    failed = runs.claim(latest(judged, "reward").pk)
    runs.fail(failed, "The disk is full.")
    loop.advance(judged.pk)
    round = fresh(judged)
    assert (round.stage, round.outcome) == ("reward", "halted")
    loop.retry(round)
    loop.advance(round.pk)
    assert latest(round, "reward").pk != failed.pk
    assert latest(round, "reward", held_out=True) == watching
    end(latest(round, "reward"), GOOD_REWARD, "models/reward")
    loop.advance(round.pk)
    assert fresh(round).watcher == watching.model_version


def test_a_cancelled_round_stops_both_reward_models(judged, alice):
    loop.cancel(judged, alice)
    assert set(Run.objects.filter(round=judged, method="reward").values_list("status", flat=True)) == {
        "stopped"
    }
    loop.start_round(judged.project)
    assert Run.objects.unfinished().count() == 0


def test_a_round_that_cannot_be_moved_on_does_not_keep_the_others_from_it(monkeypatch, collecting, caplog):
    moved_on = []

    def advance(round_id):
        if round_id == collecting.pk:
            raise DatabaseError("the row is damaged")
        moved_on.append(round_id)

    other = Project.objects.create(slug="other", name="Other", created_by=collecting.project.created_by)
    loop.create_loop(other, collecting.policy.path)
    later = loop.start_round(other)
    monkeypatch.setattr(loop, "advance", advance)
    loop.advance_open()
    assert moved_on == [later.pk]
    assert "could not be moved on" in caplog.text
