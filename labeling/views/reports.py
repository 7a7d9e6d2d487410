"""What annotators put aside, for managers: reports to decide on, and skips."""

from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import BadRequest
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_POST

from labeling import reports as acts
from labeling.access import MANAGER, access_project
from labeling.assignment import Conflict
from labeling.forms import PutAsideForm
from labeling.models import Assignment
from labeling.rendering import render_markdown
from labeling.reports import Handling
from labeling.views.label import LETTERS, SPEAKERS
from labeling.views.paging import asked_before

REPORTS_SHOWN = 20
SKIPS_SHOWN = 50
REASONS = dict(PutAsideForm.SKIP_REASONS), dict(PutAsideForm.FLAG_REASONS)
DECIDED = {
    Handling.CLOSED: "Nobody is asked about it any more. Answers that were given stay.",
    Handling.KEPT: "It goes on being asked.",
}


@require_GET
@login_required
def reports(request: HttpRequest, slug: str) -> HttpResponse:
    """Reports that wait, each with what was reported; below, what was decided and skipped, newest first."""
    project = access_project(request.user, slug, MANAGER)
    waiting = list(acts.waiting_reports(project)[: REPORTS_SHOWN + 1])
    skips = acts.skips(project)
    before = asked_before(request)
    if before is not None:
        skips = skips.filter(pk__lt=before)
    shown = list(skips[: SKIPS_SHOWN + 1])
    context = {
        "project": project,
        "role": MANAGER,
        "reports": [in_words(report) | in_full(report) for report in waiting[:REPORTS_SHOWN]],
        "more_reports": len(waiting) > REPORTS_SHOWN,
        "decided": [in_words(report) for report in acts.decided_reports(project)[:REPORTS_SHOWN]],
        "skips": [in_words(skip) for skip in shown[:SKIPS_SHOWN]],
        "older": shown[SKIPS_SHOWN - 1].pk if len(shown) > SKIPS_SHOWN else None,
        "before": before,
    }
    return render(request, "labeling/reports.html", context)


def in_words(assignment: Assignment) -> dict[str, Any]:
    skipping, flagging = REASONS
    reasons = skipping if assignment.outcome == Assignment.Outcome.SKIPPED else flagging
    return {
        "row": assignment,
        "reason": reasons.get(assignment.outcome_reason, assignment.outcome_reason),
        "prompt": assignment.comparison.prompt.text,
        "took": taken(assignment.seconds_spent),
    }


def taken(seconds: float | None) -> str:
    """How long it took, as people say it; nothing where it is not known."""
    if seconds is None:
        return ""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def in_full(assignment: Assignment) -> dict[str, Any]:
    """The prompt and the answers as the person saw them."""
    candidates = assignment.comparison.candidates.all()
    texts = {candidate.position: candidate.completion.text for candidate in candidates}
    return {
        "messages": [
            {"who": SPEAKERS[message["role"]], "html": render_markdown(message["content"])}
            for message in assignment.comparison.prompt.messages
        ],
        # In the order in which the person saw them, since their words may name a letter.
        "answers": [
            {"letter": letter, "html": render_markdown(texts[position])}
            for letter, position in zip(LETTERS, assignment.sides, strict=False)
        ],
    }


@require_POST
@login_required
def decide(request: HttpRequest, slug: str, report: int) -> HttpResponse:
    project = access_project(request.user, slug, MANAGER)
    found = get_object_or_404(project.put_aside.filter(outcome=Assignment.Outcome.FLAGGED), pk=report)
    handling = request.POST.get("handling")
    if handling not in DECIDED:
        raise BadRequest("handling is closed or kept")
    try:
        acts.handle(found, request.user, handling)
    except Conflict as conflict:
        messages.error(request, str(conflict))
    else:
        messages.success(request, DECIDED[handling])
    return redirect("labeling:reports", slug)
