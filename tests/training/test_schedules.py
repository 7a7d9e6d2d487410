import json
from datetime import time

import pytest
from django_celery_beat.models import PeriodicTask

from tests.training.test_loop import answer_all
from training import loop, schedules, tasks
from training.models import Round, Schedule


@pytest.fixture
def comparisons(project, prompts):
    from labeling.models import Completion
    from labeling.selection import create_comparison

    return [
        create_comparison(
            project, prompt, [Completion.objects.add(prompt, text, "x") for text in ("short", "longer")]
        )
        for prompt in prompts
    ]


def test_a_time_becomes_a_row_of_beat_whose_task_starts_a_round(project, loop_settings, alice):
    schedules.set_time(project, time(2, 30), "Europe/Berlin", alice)
    task = PeriodicTask.objects.get(task="training.tasks.start_round")
    assert (task.crontab.hour, task.crontab.minute, str(task.crontab.timezone)) == (
        "2",
        "30",
        "Europe/Berlin",
    )
    assert task.enabled and task.queue == "default"
    tasks.start_round(*json.loads(task.args))
    assert Round.objects.get().stage == "generate"
    tasks.start_round(*json.loads(task.args))
    assert Round.objects.count() == 1, "only when none is open"


def test_setting_a_time_again_changes_the_same_row(project, loop_settings):
    schedules.set_time(project, time(2, 0), "UTC")
    schedules.set_time(project, time(3, 0), "UTC", enabled=False)
    task = PeriodicTask.objects.get(task="training.tasks.start_round")
    assert task.crontab.hour == "3" and not task.enabled
    assert Schedule.objects.count() == 1


def test_removing_a_schedule_removes_the_row_of_beat(project, loop_settings):
    schedules.remove(schedules.set_time(project, time(2, 0), "UTC"))
    assert not PeriodicTask.objects.filter(task="training.tasks.start_round").exists()
    assert not Schedule.objects.exists()


def test_enough_new_preferences_start_a_round_that_trains_at_once(project, loop_settings, comparisons, bob):
    schedules.set_amount(project, 10)
    answer_all(project, bob, 9)
    schedules.fire_by_amount()
    assert not Round.objects.exists()
    answer_all(project, bob, 1)
    schedules.fire_by_amount()
    assert Round.objects.get().stage == "reward"


def test_the_same_preferences_never_fire_twice(project, loop_settings, comparisons, bob):
    schedules.set_amount(project, 10)
    answer_all(project, bob, 12)
    schedules.fire_by_amount()
    round = Round.objects.get()
    loop.cancel(round)
    schedules.fire_by_amount()
    assert Round.objects.count() == 1
    answer_all(project, bob, 10)
    schedules.fire_by_amount()
    assert Round.objects.count() == 2


def test_a_paused_loop_starts_nothing(project, loop_settings):
    loop_settings.paused = True
    loop_settings.save()
    assert schedules.fire(project.pk) is None
    assert not Round.objects.exists()


def test_a_schedule_of_a_project_that_is_gone_is_harmless(db):
    tasks.start_round(12345)


def test_the_schedules_are_told_in_words(project, loop_settings):
    assert schedules.in_words(project) == ""
    schedules.set_time(project, time(2, 0), "UTC")
    schedules.set_amount(project, 200)
    assert schedules.in_words(project) == "every day at 02:00 (UTC) and after every 200 new preferences"
