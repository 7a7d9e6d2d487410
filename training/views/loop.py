"""The loop on one page: where it stands, what happens next, what needs a manager."""

from __future__ import annotations

from django.conf import settings as site
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from labeling.models import Project
from training import loop, situation
from training.engine.config import EngineError
from training.forms import FirstPolicyForm, LoopForm
from training.models import LoopSettings
from training.views.access import last_round, managed, readable


def settings_of(project: Project) -> LoopSettings | None:
    return (
        LoopSettings.objects.select_related("project", "policy", "first_policy")
        .filter(project=project)
        .first()
    )


@never_cache
@require_GET
@login_required
def show(request: HttpRequest, slug: str) -> HttpResponse:
    project, context = readable(request, slug)
    settings = settings_of(project)
    if settings is None:
        context |= {"form": FirstPolicyForm(initial={"location": site.POLICY_MODEL})}
        return render(request, "training/loop_new.html", context | {"needs": situation.reported(project)})
    before = request.GET.get("before", "")
    rounds = situation.history(project, int(before) if before.isdecimal() else None)
    shown = rounds[: situation.ROUNDS_SHOWN]
    run, panels = situation.last_policy_charts(project)
    context |= {
        "settings": settings,
        "history": situation.history_rows(shown),
        "older": shown[-1].number if len(rounds) > len(shown) else None,
        "win_rates": situation.win_rate_chart(settings, shown),
        "policy_run": run,
        "panels": panels,
    }
    return render(request, "training/loop.html", context | standing(settings))


@never_cache
@require_GET
@login_required
def live(request: HttpRequest, slug: str) -> HttpResponse:
    """Headline, strip and what needs a manager; asks for itself every few seconds."""
    project, context = readable(request, slug)
    settings = settings_of(project)
    if settings is None:
        raise Http404("This project has no loop yet.")
    return render(request, "training/_loop_live.html", context | {"settings": settings} | standing(settings))


def standing(settings: LoopSettings) -> dict[str, object]:
    round = last_round(settings.project)
    return {"round": round, "situation": situation.describe(settings, round)}


@require_POST
@login_required
def act(request: HttpRequest, slug: str, act: str) -> HttpResponse:
    """What the buttons of the page do: start, train, pause, resume, retry, cancel."""
    project = managed(request, slug)
    round = last_round(project)
    if act not in ("start", "train", "pause", "resume", "retry", "cancel"):
        raise Http404("There is no such button.")
    try:
        if act == "start":
            loop.start_round(project, request.user)
        elif act in ("pause", "resume"):
            LoopSettings.objects.filter(project=project).update(paused=act == "pause")
        elif round is None:
            raise loop.RoundRefused("There is no round yet.")
        elif act == "train":
            loop.train_now(round)
        elif act == "retry":
            loop.retry(round)
        else:
            loop.cancel(round, request.user)
    except loop.RoundRefused as reason:
        messages.error(request, str(reason))
    return redirect("training:loop", slug)


@require_http_methods(["GET", "POST"])
@login_required
def edit(request: HttpRequest, slug: str) -> HttpResponse:
    project = managed(request, slug)
    settings = settings_of(project)
    if settings is None:
        return redirect("training:loop", slug)
    form = LoopForm(request.POST or None, instance=settings)
    if request.method == "POST" and form.is_valid():
        form.save()
        messages.success(
            request,
            "Saved. Gates are held against these limits from now on; the rest counts from the next round.",
        )
        return redirect("training:loop", slug)
    return render(
        request, "training/loop_settings.html", {"project": project, "role": "manager", "form": form}
    )


@require_POST
@login_required
def first_policy(request: HttpRequest, slug: str) -> HttpResponse:
    project = managed(request, slug)
    form = FirstPolicyForm(request.POST)
    if form.is_valid():
        try:
            loop.create_loop(project, form.cleaned_data["location"])
        except EngineError as reason:
            form.add_error("location", str(reason))
        else:
            return redirect("training:loop", slug)
    context = {"project": project, "role": "manager", "form": form, "needs": situation.reported(project)}
    return render(request, "training/loop_new.html", context, status=400)
