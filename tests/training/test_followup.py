"""What follows a round: scores of what people compared, fresh answers, and nothing that a round waits for."""

# ruff: noqa: F401, F811 - `collecting` and `judged` are fixtures, which tests take by their names

import json
from datetime import timedelta
from threading import Event, Thread

import pytest
from django.db import DatabaseError, connection, transaction
from django.utils import timezone

from labeling.judging import latest as latest_judgment
from labeling.judging import withdraw
from labeling.models import Completion, Project, User
from labeling.projects import add_member
from labeling.selection import create_comparison
from tests.training import rounds
from tests.training.conftest import OVERRIDES, TINY
from tests.training.test_loop import (
    GOOD_POLICY,
    answer_all,
    collecting,
    end,
    fresh,
    judged,
    latest,
    sampled,
    through_the_policy_gate,
    through_the_reward_gate,
    work_off,
)
from training import effect, followup, loop, runs, tasks
from training.models import FreshAnswer, LoopSettings, Round, Run, Score


@pytest.fixture
def published(judged):
    return through_the_policy_gate(through_the_reward_gate(judged))


def after(round):
    """The runs that followed a round, oldest first."""
    return list(Run.objects.filter(round=round, stage__in=Round.Afterwards.values).order_by("id"))


def rows_of(path):
    with open(path) as file:
        return [json.loads(line) for line in file]


def scored(run, value=lambda text: float(len(text))):
    """End a score run as the engine would, with scores by a rule."""
    run.path.mkdir(parents=True, exist_ok=True)
    rows = [row | {"score": value(row["completion"])} for row in rows_of(run.config["completions"])]
    (run.path / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    end(run)


def follow(round):
    """Let everything follow a round that is published: scores, then answers."""
    followup.advance_all()
    for run in after(round):
        if run.unfinished and run.method == "score":
            scored(run)
            followup.advance_all()
    if (last := after(round)[-1]).unfinished:
        sampled(last)
        followup.advance_all()


def test_the_new_reward_model_scores_what_people_compared_and_the_new_policy_answers_again(published, bob):
    assert after(published) == []
    followup.advance_all()
    followup.advance_all()
    (run,) = after(published)
    assert (run.method, run.stage, run.input_model) == ("score", "scores", published.reward)
    assert run.config["max_completion_tokens"] == OVERRIDES["reward"]["max_completion_tokens"]
    answers = effect.considered(bob, published.dataset_version)
    compared = {completion for answer in answers for pair in answer.pairs for completion in pair}
    assert len(answers) == 16
    assert {int(row["id"]) for row in rows_of(run.config["completions"])} == compared

    scored(run)
    followup.advance_all()
    assert dict(published.reward.scores.values_list("completion", "value")) == {
        one.pk: len(one.text) for one in Completion.objects.filter(pk__in=compared)
    }
    _, run = after(published)  # nothing scores for a reward model before the first
    assert (run.method, run.stage, run.input_model) == ("generate", "answers", published.new_policy)
    assert run.config["samples_per_prompt"] == 1
    prompts = [answer.prompt for answer in answers[: followup.PROMPTS_EACH]]
    assert sorted(int(row["id"]) for row in rows_of(run.config["prompts"])) == sorted(prompts)

    before = Completion.objects.count()
    sampled(run)
    followup.advance_all()
    assert set(FreshAnswer.objects.values_list("model_version", "prompt")) == {
        (published.new_policy_id, prompt) for prompt in prompts
    }
    assert Completion.objects.count() == before, "a fresh answer is no candidate"
    assert fresh(published).afterwards == "over"
    assert Run.objects.unfinished().count() == 0


def test_the_reward_model_before_scores_the_same_completions_but_for_those_it_knows(published, project, bob):
    follow(published)
    second = loop.start_round(project, seed=2)
    loop.advance(second.pk)
    for run in Run.objects.filter(round=second, method="generate"):
        sampled(run)
    loop.advance(second.pk)
    answer_all(project, bob)
    loop.advance(second.pk)
    second = through_the_policy_gate(through_the_reward_gate(fresh(second)))
    assert second.outcome == "published"
    followup.advance_all()
    (new,) = after(second)
    scored(new)
    followup.advance_all()
    _, before = after(second)
    assert (before.stage, before.input_model) == ("earlier", published.reward)
    texts = [{row["id"] for row in rows_of(run.config["completions"])} for run in (new, before)]
    assert texts[1] < texts[0], "those of the first round are scored already"
    scored(before)
    followup.advance_all()
    assert set(second.reward.scores.values_list("completion", flat=True)) <= set(
        published.reward.scores.values_list("completion", flat=True)
    )


def test_a_round_counts_what_came_of_whom_when_it_freezes_its_dataset(judged, bob):
    (own,) = judged.dataset_version.contributions.all()
    splits = [answer.split for answer in effect.considered(bob, judged.dataset_version)]
    assert (own.person, own.trained, own.held_out) == (bob, splits.count("train"), splits.count("eval"))
    assert own.preferences == judged.dataset_version.train_count
    own.delete()
    loop.advance(judged.pk)
    assert judged.dataset_version.contributions.get().trained == own.trained, "a worker of before froze it"


def test_after_a_policy_that_was_refused_the_one_in_use_answers_and_the_new_one_once_it_is(judged):
    LoopSettings.objects.update(kl_budget_nats=8)
    round = through_the_policy_gate(through_the_reward_gate(judged), GOOD_POLICY | {"kl_nats": 9.5})
    assert round.outcome == "halted"
    follow(round)
    assert fresh(round).afterwards == "over"
    assert [(run.method, run.input_model) for run in after(round)] == [
        ("score", round.reward),
        ("generate", round.policy),
    ]
    assert FreshAnswer.objects.filter(model_version=round.policy).exists()

    LoopSettings.objects.update(kl_budget_nats=10)
    loop.retry(round)
    loop.advance(round.pk)
    assert fresh(round).outcome == "published"
    followup.advance_all()
    assert [(run.method, run.input_model) for run in after(round)] == [
        ("score", round.reward),  # nothing is scored again
        ("generate", round.new_policy),
    ]


def test_a_reward_model_that_was_refused_is_not_asked(judged):
    LoopSettings.objects.update(minimum_accuracy_bound=0.75)
    assert through_the_reward_gate(judged).outcome == "halted"
    followup.advance_all()
    assert after(judged) == []


@pytest.fixture
def elsewhere(bob):
    """A round of another project that is published, and is still to be followed."""
    other = Project.objects.create(slug="sales", name="Sales")
    add_member(other, bob, "annotator")
    rounds.loop_of(other)
    rounds.ask(other, ["train", "eval"])
    rounds.say(bob, other, "kind")
    return rounds.trained(other, afterwards="scores")


def test_what_follows_waits_for_every_run_of_the_next_round(published, project):
    following = loop.start_round(project)
    loop.advance(following.pk)
    generate = list(Run.objects.filter(round=following))
    followup.advance_all()
    assert after(published) == [], "the next round's candidates come first"
    for run in generate:
        sampled(run)
    loop.advance(following.pk)
    followup.advance_all()
    assert [run.method for run in after(published)] == ["score"], (
        "then people are collecting, and there is time"
    )


def test_the_next_round_starts_while_something_follows_the_last(published, project):
    followup.advance_all()
    assert after(published)[0].unfinished
    following = loop.start_round(project)
    loop.advance(following.pk)
    assert Run.objects.filter(round=following, status="queued").exists()


def test_what_follows_waits_for_the_runs_of_other_projects(judged, elsewhere):
    followup.advance_all()
    assert after(elsewhere) == [], "a reward model is being trained, and all projects share the queue"
    through_the_policy_gate(through_the_reward_gate(judged))
    followup.advance_all()
    followup.advance_all()
    assert [len(after(round)) for round in (judged, elsewhere)] == [1, 0], "of two rounds one at a time"
    runs.request_stop(after(judged)[0])
    followup.advance_all()
    runs.request_stop(after(judged)[1])
    followup.advance_all()
    assert [len(after(round)) for round in (judged, elsewhere)] == [2, 1]


def test_other_projects_are_not_waited_for_without_end(judged, elsewhere):
    Round.objects.filter(pk=elsewhere.pk).update(finished_at=timezone.now() - timedelta(minutes=61))
    own = Run.objects.create(project=elsewhere.project, method="sft", config={})
    followup.advance_all()
    assert after(elsewhere) == [], "the project's own come first all the same"
    runs.request_stop(own)
    followup.advance_all()
    assert len(after(elsewhere)) == 1
    assert Run.objects.unfinished().filter(project=judged.project).exists()


@pytest.mark.parametrize("paused", [False, True])
def test_what_follows_waits_for_a_round_between_two_of_its_runs(judged, elsewhere, paused):
    end(latest(judged, "reward"))
    end(latest(judged, "reward", held_out=True))
    assert not Run.objects.unfinished().exists() and judged.stage == "reward"
    LoopSettings.objects.filter(project=judged.project).update(paused=paused)
    followup.advance_all()
    assert len(after(elsewhere)) == paused, "one that is paused starts none"


@pytest.mark.django_db(transaction=True)
def test_two_processes_that_look_at_once_start_one_run(judged, elsewhere):
    published = through_the_policy_gate(through_the_reward_gate(judged))
    started, commit = Event(), Event()

    def look():
        with transaction.atomic():
            followup.advance(published.pk)
            started.set()
            commit.wait(30)
        connection.close()

    other_process = Thread(target=look)
    other_process.start()
    assert started.wait(30)
    followup.advance_all()
    commit.set()
    other_process.join()
    followup.advance_all()
    assert [len(after(round)) for round in (published, elsewhere)] == [1, 0]


def test_nothing_follows_where_the_settings_are_gone(published, elsewhere, caplog):
    published.project.loop_settings.delete()
    followup.advance_all()
    assert [len(after(round)) for round in (published, elsewhere)] == [0, 1]
    assert caplog.text == ""


def test_a_run_that_fails_is_left_out_and_the_round_stays_published(published):
    followup.advance_all()
    runs.fail(runs.claim(after(published)[0].pk), "The disk is full.")
    followup.advance_all()
    assert [run.method for run in after(published)] == ["score", "generate"]
    assert not Score.objects.exists()
    runs.request_stop(after(published)[1])
    followup.advance_all()
    assert (fresh(published).outcome, fresh(published).afterwards) == ("published", "over")
    assert fresh(published).message == published.message


def test_settings_that_the_engine_refuses_leave_the_step_out(published, caplog):
    LoopSettings.objects.update(overrides={"score": {"threads": -1}})
    followup.advance_all()
    assert [run.method for run in after(published)] == ["generate"]
    assert "threads" in caplog.text


def test_a_folder_that_was_cleared_away_leaves_nothing_and_stops_nothing(published, caplog):
    followup.advance_all()
    end(after(published)[0])
    followup.advance_all()
    assert not Score.objects.exists()
    assert fresh(published).afterwards == "answers"
    assert "cannot be read" in caplog.text


def test_what_is_not_stored_is_stored_at_the_next_look(published, monkeypatch, caplog):
    followup.advance_all()
    scored(after(published)[0])
    with monkeypatch.context() as patch:
        patch.setattr(Round, "save", _away)
        followup.advance_all()
    assert not Score.objects.exists(), "what is kept and how far it is are one transaction"
    assert fresh(published).afterwards == "scores"
    assert "could not be moved on" in caplog.text
    followup.advance_all()
    assert Score.objects.exists()
    assert fresh(published).afterwards == "answers"


def _away(*args, **kwargs):
    raise DatabaseError("the database is away")


def test_a_paused_loop_starts_nothing_after_a_round(published):
    LoopSettings.objects.update(paused=True)
    followup.advance_all()
    assert after(published) == []


def test_a_tick_moves_on_what_follows(published):
    tasks.tick()
    assert len(after(published)) == 1


@pytest.mark.parametrize("gone", ["left", "locked"])
def test_nothing_is_started_where_nobody_would_look(published, project, bob, gone):
    if gone == "left":
        project.memberships.filter(user=bob).update(left_at=published.finished_at)
    else:
        User.objects.filter(pk=bob.pk).update(is_active=False)
    followup.advance_all()
    assert after(published) == []
    assert fresh(published).afterwards == "over"


def test_answers_that_were_taken_back_are_not_looked_at(published, project, bob):
    kept = effect.considered(bob, published.dataset_version)
    withdraw(latest_judgment(bob, project))
    assert effect.considered(bob, published.dataset_version) == kept[1:]


@pytest.mark.parametrize("done", [False, True])
def test_only_the_newest_round_is_followed_and_nothing_of_one_before_goes_on(published, project, done):
    followup.advance_all()
    (run,) = after(published)
    if done:
        scored(run)
    newest = Round.objects.create(
        project=project,
        number=2,
        stage="policy_gate",
        outcome="halted",
        finished_at=published.finished_at,
        target=2,
        policy=published.new_policy,
        reward=published.reward,
        dataset_version=published.dataset_version,
    )
    followup.advance_all()
    run.refresh_from_db()
    assert (fresh(published).afterwards, run.status) == ("over", "done" if done else "stopped")
    assert Score.objects.exists() is done, "what it brought is kept"
    (following,) = after(newest)
    if not done:
        scored(following)
        followup.advance_all()
        following = after(newest)[-1]
    assert (following.method, following.input_model) == ("generate", published.new_policy), "the one in use"


def test_within_the_bound_everybody_has_a_turn(collecting, project, bob, monkeypatch):
    eve = User.objects.create_user("eve")
    add_member(project, eve, "annotator")
    answer_all(project, bob, 12)
    answer_all(project, eve)
    loop.advance(collecting.pk)
    round = through_the_policy_gate(through_the_reward_gate(fresh(collecting)))
    monkeypatch.setattr(followup, "MOST_SCORED", 8)
    newest = [effect.considered(person, round.dataset_version)[:2] for person in (bob, eve)]
    expected = {
        completion for answers in newest for answer in answers for pair in answer.pairs for completion in pair
    }
    assert set(followup.completions_to_score(round)) == expected
    assert [person.username for person in followup.people(round.dataset_version)] == ["eve", "bob"]
    monkeypatch.setattr(followup, "MOST_ANSWERED", 2)
    assert {prompt.pk for prompt in followup.prompts_to_answer(round)} == {
        answers[0].prompt for answers in newest
    }


def test_prompts_that_would_not_be_shown_are_not_answered_again(published, project, bob):
    answers = effect.considered(bob, published.dataset_version)
    newest = project.prompts.get(pk=answers[0].prompt)
    create_comparison(project, newest, list(newest.completions.order_by("-id")[:2]))
    found = [prompt.pk for prompt in followup.prompts_to_answer(published)]
    others = dict.fromkeys(answer.prompt for answer in answers if answer.prompt != newest.pk)
    assert found == sorted(list(others)[: followup.PROMPTS_EACH])


def test_a_server_that_writes_candidates_is_not_asked_what_the_policy_says(published):
    LoopSettings.objects.update(
        overrides={"generate": TINY | {"server": "http://gpu7:8000/v1", "server_model_name": "big"}}
    )
    followup.advance_all()
    scored(after(published)[0])
    followup.advance_all()
    run = after(published)[1]
    assert run.config["server"] is None
    assert run.config["model"] == published.new_policy.path


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_the_engine_scores_and_answers(judged, project, bob, tiny_policy):
    LoopSettings.objects.update(train_held_out_reward=False)
    Run.objects.filter(round=judged, held_out=True).delete()
    work_off()
    loop.advance(judged.pk)
    round = fresh(judged)
    assert round.reward.metrics["accuracy"] is not None, round.message
    # What PPO and its gate take minutes for has tests of its own; the first policy stands for the new one.
    end(latest(round, "ppo"), {"kl_nats": 2.0}, str(tiny_policy))
    loop.advance(round.pk)
    end(latest(round, "evaluate"), GOOD_POLICY)
    loop.advance(round.pk)
    assert fresh(round).outcome == "published", fresh(round).message
    for _ in range(2):
        followup.advance_all()
        work_off()
    followup.advance_all()
    assert [(run.method, run.status) for run in after(round)] == [("score", "done"), ("generate", "done")]
    answers = effect.considered(bob, round.dataset_version)
    scores = effect.scores_of(round.reward, answers)
    assert all(effect.agreed(answer, scores) is not None for answer in answers)
    assert len(set(scores.values())) > 2
    assert FreshAnswer.objects.filter(model_version=fresh(round).new_policy).count() == followup.PROMPTS_EACH
    assert fresh(round).afterwards == "over"
