"""When the loop trains by itself, edited by managers; django-celery-beat keeps the times."""

from __future__ import annotations

from datetime import time
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_POST

from labeling.models import Project
from training import schedules
from training.forms import AmountForm, TimeForm
from training.models import Schedule
from training.views.access import managed


@require_http_methods(["GET", "POST"])
@login_required
def index(request: HttpRequest, slug: str) -> HttpResponse:
    """Two forms on a page; the button says which one was sent."""
    project = managed(request, slug)
    by_time, by_amount = schedules.of(project)
    sent = request.POST.get("kind")
    # Two forms on a page: a label belongs to one field alone.
    times = TimeForm(request.POST if sent == "time" else None, initial=_time(by_time), auto_id="id_time_%s")
    amounts = AmountForm(
        request.POST if sent == "amount" else None, initial=_amount(by_amount), auto_id="id_amount_%s"
    )
    if sent == "time" and times.is_valid():
        said = times.cleaned_data
        schedules.set_time(project, said["at"], said["timezone"], request.user, said["enabled"])
        return _saved(request, project)
    if sent == "amount" and amounts.is_valid():
        said = amounts.cleaned_data
        schedules.set_amount(project, said["every_preferences"], request.user, said["enabled"])
        return _saved(request, project)
    context = {
        "project": project,
        "role": "manager",
        "times": times,
        "amounts": amounts,
        "when": schedules.in_words(project),
    }
    return render(request, "training/schedules.html", context | {"by_time": by_time, "by_amount": by_amount})


def _saved(request: HttpRequest, project: Project) -> HttpResponse:
    when = schedules.in_words(project)
    messages.success(
        request, f"Saved. The loop trains {when}." if when else "Saved. The loop trains when you say so."
    )
    return redirect("training:schedules", project.slug)


def _time(schedule: Schedule | None) -> dict[str, Any]:
    if schedule is None:
        return {"at": time(2, 0), "timezone": "UTC", "enabled": True}
    crontab = schedule.periodic_task.crontab
    at = time(int(crontab.hour), int(crontab.minute))
    return {"at": at, "timezone": str(crontab.timezone), "enabled": schedule.enabled}


def _amount(schedule: Schedule | None) -> dict[str, Any]:
    if schedule is None:
        return {"every_preferences": 200, "enabled": True}
    return {"every_preferences": schedule.every_preferences, "enabled": schedule.enabled}


@require_POST
@login_required
def remove(request: HttpRequest, slug: str, schedule_id: int) -> HttpResponse:
    project = managed(request, slug)
    schedules.remove(get_object_or_404(Schedule, project=project, pk=schedule_id))
    messages.success(request, "Removed.")
    return redirect("training:schedules", slug)
