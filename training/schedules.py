"""When the loop trains by itself: at a time of day, or after an amount of new preferences."""

from __future__ import annotations

import json
from datetime import time
from zoneinfo import ZoneInfo

from django.db import transaction
from django_celery_beat.models import CrontabSchedule, PeriodicTask

from labeling.models import Preference, Project, User
from training import loop
from training.models import LoopSettings, Round, Schedule

TASK = "training.tasks.start_round"


def set_time(
    project: Project, at: time, timezone: str, user: User | None = None, enabled: bool = True
) -> Schedule:
    """Train every day at this time: a row of django-celery-beat, which beat reads within seconds."""
    with transaction.atomic():
        crontab, _ = CrontabSchedule.objects.get_or_create(
            minute=str(at.minute), hour=str(at.hour), day_of_week="*", day_of_month="*", month_of_year="*",
            timezone=ZoneInfo(timezone),
        )  # fmt: skip
        task, _ = PeriodicTask.objects.update_or_create(
            name=f"project {project.pk}: train every day",
            defaults={
                "task": TASK,
                "args": json.dumps([project.pk]),
                "queue": "default",
                "crontab": crontab,
                "enabled": enabled,
            },
        )
        schedule, _ = Schedule.objects.update_or_create(
            project=project, periodic_task=task, defaults={"enabled": enabled, "created_by": user}
        )
    return schedule


def set_amount(
    project: Project, every_preferences: int, user: User | None = None, enabled: bool = True
) -> Schedule:
    """Train after every so many new preferences."""
    schedule, _ = Schedule.objects.update_or_create(
        project=project,
        every_preferences__isnull=False,
        defaults={"every_preferences": every_preferences, "enabled": enabled, "created_by": user},
    )
    return schedule


def of(project: Project) -> tuple[Schedule | None, Schedule | None]:
    """The project's schedules: by time, by amount."""
    found = list(Schedule.objects.filter(project=project).select_related("periodic_task__crontab"))
    by_time = next((schedule for schedule in found if schedule.periodic_task), None)
    return by_time, next((schedule for schedule in found if schedule.every_preferences), None)


def in_words(project: Project) -> str:
    """`every day at 02:00 (Europe/Berlin) and after every 200 new preferences`, or nothing."""
    by_time, by_amount = of(project)
    words = []
    if by_time and by_time.enabled:
        crontab = by_time.periodic_task.crontab
        words.append(f"every day at {int(crontab.hour):02}:{int(crontab.minute):02} ({crontab.timezone})")
    if by_amount and by_amount.enabled:
        words.append(f"after every {by_amount.every_preferences} new preferences")
    return " and ".join(words)


def remove(schedule: Schedule) -> None:
    with transaction.atomic():
        if schedule.periodic_task:
            schedule.periodic_task.delete()  # takes the schedule with it
        else:
            schedule.delete()


def fire(project_id: int, collect: bool = True) -> Round | None:
    """A schedule is due. A collecting round trains now; where no round is open one is started."""
    settings = LoopSettings.objects.select_related("project").filter(project=project_id).first()
    if settings is None or settings.paused:
        return None
    try:
        if current := loop.open_round(settings.project):
            if current.stage == Round.Stage.COLLECT and (not collect or loop.progress(current)[0]):
                loop.train_now(current)
            return current
        return loop.start_round(settings.project, collect=collect)
    except loop.RoundRefused:  # somebody else was a moment faster
        return loop.open_round(settings.project)


def fire_by_amount() -> None:
    """Look whether a project has collected what its schedule waits for."""
    due = Schedule.objects.filter(every_preferences__isnull=False, enabled=True).select_related("project")
    for schedule in due:
        if new_preferences(schedule.project, schedule.every_preferences) >= schedule.every_preferences:
            fire(schedule.project_id, collect=False)


def new_preferences(project: Project, limit: int) -> int:
    """How many preferences came since a round last began to train, counted up to the limit from the newest back."""
    trained = Round.objects.filter(project=project, times__has_key=Round.Stage.REWARD.value)
    last = trained.order_by("-number").first()
    since = last.entered(Round.Stage.REWARD) if last else None
    newest = Preference.objects.filter(project=project).order_by("-id")
    moments = newest.values_list("created_at", "judgment__is_current")[:limit]
    return sum(current and (since is None or at > since) for at, current in moments)
