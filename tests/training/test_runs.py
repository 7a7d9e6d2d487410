import threading
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from tests.training.conftest import TINY
from training import launch, loop, runs
from training.models import Metric, ModelVersion, Run


def silence(run, seconds=60):
    """As if its worker had not been heard of for so long."""
    Run.objects.filter(pk=run.pk).update(heartbeat_at=timezone.now() - timedelta(seconds=seconds))


def test_a_run_is_queued_with_all_that_is_needed_to_repeat_it(queued_run, loop_settings):
    run = Run.objects.get(pk=queued_run.pk)
    assert run.status == "queued"
    assert run.config["samples_per_prompt"] == 2
    assert run.config["model"] == loop_settings.policy.path
    assert run.config["top_p"] == 1.0, "defaults are stored too: they may change later"
    assert run.input_model == loop_settings.policy
    assert run.code_version


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"samples_per_prompt": 0}, "samples_per_prompt"),
        ({"nonsense": 1}, "nonsense: there is no such setting"),
        ({"prompts": "/nowhere.jsonl"}, "there is no file /nowhere.jsonl"),
    ],
)
def test_a_config_that_the_engine_would_refuse_starts_nothing(
    project, loop_settings, prompts_file, values, words
):
    with pytest.raises(runs.RunRefused, match=words):
        runs.start(
            project, "generate", {"prompts": str(prompts_file)} | values, input_model=loop_settings.policy
        )
    assert not Run.objects.exists()


def test_only_the_id_is_sent_and_only_on_commit(
    project, loop_settings, prompts_file, monkeypatch, django_capture_on_commit_callbacks
):
    sent = []
    monkeypatch.setattr(runs, "send", lambda task, key: sent.append((task, key)))
    with django_capture_on_commit_callbacks() as callbacks:
        run = runs.start(
            project, "generate", {"prompts": str(prompts_file)}, input_model=loop_settings.policy
        )
        assert not sent
    for callback in callbacks:
        callback()
    assert sent == [("training.tasks.execute_run", run.pk)]


def test_a_run_is_claimed_once(queued_run):
    claimed = runs.claim(queued_run.pk)
    assert claimed.status == "running" and claimed.attempts == 1
    assert runs.claim(queued_run.pk) is None


@pytest.mark.django_db(transaction=True)
def test_ten_messages_to_four_workers_claim_a_run_once(queued_run):
    claims, barrier = [], threading.Barrier(10)

    def work():
        barrier.wait()
        try:
            claims.append(runs.claim(queued_run.pk))
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claims) == 10
    assert sum(claim is not None for claim in claims) == 1


def test_a_stale_run_is_taken_over_and_the_first_worker_can_no_longer_write(queued_run):
    first = runs.claim(queued_run.pk)
    silence(first)
    second = runs.claim(queued_run.pk)
    assert second.attempts == 2
    metric = Metric(run=first, step=1, name="loss", value=1.0, at=timezone.now())
    for write in (
        lambda: runs.heartbeat(first, phase="ghost"),
        lambda: runs.record(first, [metric]),
        lambda: runs.fail(first, "ghost"),
        lambda: runs.finish(first, {"ghost": True}),
        lambda: runs.requeue(first, "ghost"),
        lambda: runs.stopped(first, "ghost"),
    ):
        with pytest.raises(runs.Superseded):
            write()
    run = Run.objects.get(pk=queued_run.pk)
    assert (run.status, run.phase, run.message, run.result) == ("running", "", "", {})
    assert not Metric.objects.exists()
    runs.heartbeat(second, phase="alive")


def test_a_run_with_a_fresh_heartbeat_is_left_alone(queued_run):
    first = runs.claim(queued_run.pk)
    silence(first, seconds=10)
    assert runs.claim(queued_run.pk) is None
    assert runs.resend() == []


def test_a_stale_run_is_sent_again(queued_run):
    first = runs.claim(queued_run.pk)
    silence(first)
    Run.objects.update(sent_at=timezone.now() - timedelta(minutes=5))
    assert runs.resend() == [first.pk]
    assert runs.resend() == [], "once is enough for a while"


def test_a_lost_message_is_sent_again(queued_run):
    assert runs.resend() == [], "its message may still be on its way"
    Run.objects.update(sent_at=timezone.now() - timedelta(minutes=1))
    assert runs.resend() == [queued_run.pk]


def test_a_run_behind_another_waits_in_the_queue_without_new_messages(project, loop_settings, queued_run):
    runs.claim(queued_run.pk)
    behind = runs.start(project, "generate", dict(queued_run.config), input_model=loop_settings.policy)
    Run.objects.filter(pk=behind.pk).update(sent_at=timezone.now() - timedelta(minutes=5))
    assert runs.resend() == []


def test_a_run_that_is_interrupted_too_often_fails_with_a_reason(queued_run):
    for _ in range(runs.ATTEMPTS):
        silence(runs.claim(queued_run.pk))
    assert runs.claim(queued_run.pk) is None
    run = Run.objects.get(pk=queued_run.pk)
    assert run.status == "failed"
    assert "Interrupted 5 times" in run.message


def test_a_run_that_nobody_has_taken_is_stopped_at_once(queued_run, alice):
    runs.request_stop(queued_run, alice)
    run = Run.objects.get(pk=queued_run.pk)
    assert (run.status, run.stop_requested_by) == ("stopped", alice)
    assert runs.claim(queued_run.pk) is None


def test_a_run_whose_worker_died_is_stopped_without_another(queued_run, alice):
    first = runs.claim(queued_run.pk)
    runs.request_stop(first, alice)
    runs.stop_silent()
    assert Run.objects.get().status == "running", "its worker lives and will say so itself"
    silence(first)
    runs.stop_silent()
    assert Run.objects.get().status == "stopped"
    with pytest.raises(runs.Superseded):
        runs.heartbeat(first)


def test_a_wish_to_stop_survives_a_worker_that_gives_the_run_back_meanwhile(queued_run, alice):
    run = runs.claim(queued_run.pk)
    given_back = []

    def give_back_after_the_first_update(execute, sql, params, many, context):
        outcome = execute(sql, params, many, context)
        if sql.startswith("UPDATE") and not given_back:
            given_back.append(True)
            runs.requeue(run, "The worker went away.")
        return outcome

    with connection.execute_wrapper(give_back_after_the_first_update):
        runs.request_stop(run, alice)
    run.refresh_from_db()
    assert given_back and run.status == Run.Status.STOPPED and run.stop_requested_by == alice


def test_a_message_that_comes_twice_or_late_changes_nothing(queued_run, monkeypatch):
    from training import tasks

    executed = []
    monkeypatch.setattr(launch, "execute", lambda run, leaving: executed.append(run.pk))
    for _ in range(10):
        tasks.execute_run(queued_run.pk)
    assert executed == [queued_run.pk]


def test_versions_are_numbered_by_kind(project, loop_settings):
    names = [runs.register(project, kind, "x", "").name for kind in ("policy", "reward", "policy", "reward")]
    assert names == ["policy-1", "reward-1", "policy-2", "reward-2"]


@pytest.mark.django_db(transaction=True)
def test_versions_registered_at_once_get_different_numbers(project, loop_settings):
    barrier, failures = threading.Barrier(6), []

    def work():
        barrier.wait()
        try:
            runs.register(project, "policy", "x", "")
        except Exception as error:
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    numbers = ModelVersion.objects.filter(project=project).order_by("number").values_list("number", flat=True)
    assert list(numbers) == [0, 1, 2, 3, 4, 5, 6]


def test_metrics_written_again_replace_each_other(queued_run):
    run = runs.claim(queued_run.pk)
    now = timezone.now()
    for value in (1.0, 2.0):
        runs.record(run, [Metric(run=run, step=1, name="loss", value=value, at=now)] * 2)
    assert list(Metric.objects.values_list("value", flat=True)) == [2.0]


def test_a_project_can_be_deleted_with_all_of_its_training(project, loop_settings, queued_run):
    run = runs.claim(queued_run.pk)
    runs.finish(run, {})
    loop.start_round(project)
    project.memberships.all().delete()
    project.delete()
    assert not Run.objects.exists() and not ModelVersion.objects.exists()


def test_the_default_config_is_kept_small(queued_run):
    assert set(TINY) <= set(queued_run.config)
