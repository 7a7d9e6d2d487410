"""What an annotator's answers did: the page that a person opens from their own answers."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET

from labeling.access import ANNOTATING, access_place
from labeling.views.paging import asked_before
from training import effect, loop
from training.views.loop import settings_of


@never_cache
@require_GET
@login_required
def show(request: HttpRequest, slug: str) -> HttpResponse:
    """Round by round, the newest first, what became of the person's own answers; nobody sees another's."""
    place = access_place(request.user, slug, *ANNOTATING)
    project = place.project
    settings = settings_of(project)
    before = asked_before(request)
    headlined = effect.newest_round(project)
    rounds = effect.other_rounds(project, headlined, before)
    newest_round = None if before else headlined
    shown = rounds[: effect.OTHER_ROUNDS_SHOWN]
    told = effect.told(request.user, [newest_round, *shown] if newest_round else shown)
    newest = told.pop(0) if newest_round else None
    policy = settings.policy if settings else None
    context = {
        "project": project,
        "role": place.role,
        "settings": settings,
        "open_round": loop.open_round(project),
        "newest": newest,
        "disagreements": effect.disagreements(request.user, newest) if newest else [],
        "fresh": effect.fresh_answers(request.user, policy, newest.answers) if newest else None,
        "others": told,
        "older": shown[-1].number if len(rounds) > len(shown) else None,
    }
    return render(request, "training/effect.html", context)
