"""The qualification round as an annotator goes through it: one question at a time, on a page like the desk."""

from contextlib import suppress
from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from labeling import qualification as acts
from labeling.access import ANNOTATING, access_place
from labeling.answers import ALL_BAD, ALL_GOOD, TIE
from labeling.forms import QualificationForm
from labeling.keys import as_written, keys_with
from labeling.models import Membership, Project, QualificationAnswer, User
from labeling.models.qualification import LETTERS
from labeling.rendering import render_markdown
from labeling.views.label import LETTERS as SHOWN
from labeling.views.label import checked, desk_post, picking, rendered
from labeling.words import desk_words


@never_cache
@require_http_methods(["GET", "POST"])
@login_required
def qualification(request: HttpRequest, slug: str) -> HttpResponse:
    """The question that comes next, or how the round ended; a POST begins it. `?given=` looks at an answer."""
    member = access_place(request.user, slug, *ANNOTATING)
    project = member.project
    if request.method == "POST":
        with suppress(acts.NoAttemptLeft):  # the page says so
            acts.begin(member)
        return redirect("labeling:qualification", slug)
    standing = acts.standing_of(member)
    if "given" in request.GET:
        given = given_by(member, request.GET["given"])
        # An attempt asks what the one before explained: that stays closed until the attempt has ended.
        if given.answered_at and (not standing.open or given.attempt_id == standing.attempt.pk):
            return question_page(request, member, given)
    if standing.open:
        waiting = (
            standing.attempt.answers.filter(answered_at=None).select_related("question__project").first()
        )
        if waiting is None:  # another tab has just answered the last one: look again how the round ended
            return redirect("labeling:qualification", slug)
        return question_page(request, member, waiting)
    context = frame(project, member) | {"standing": standing, "asked": len(acts.asked(project))}
    if standing.attempt:
        context["right"], context["of"] = acts.score(standing.attempt)
        context["needed_right"] = acts.needed_right(project, context["of"])
    return render(request, "labeling/qualification.html", context)


@desk_post
def answer(user: User, project: Project, values: dict[str, Any]) -> dict[str, Any]:
    """Take an answer and lead to what is right; sent twice it leads to the same."""
    said = checked(QualificationForm(values))
    given = given_by(access_place(user, project.slug, *ANNOTATING), said.pop("given"))
    acts.answer(given, **said)
    return {"next": f"{reverse('labeling:qualification', args=[project.slug])}?given={given.pk}"}


def given_by(member: Membership, pk: Any) -> QualificationAnswer:
    """A question put to the person, answered or not; else Http404."""
    own = QualificationAnswer.objects.filter(attempt__member=member)
    try:
        return own.select_related("question__project", "attempt").get(pk=pk)
    except (QualificationAnswer.DoesNotExist, ValueError, OverflowError):
        raise Http404 from None


def question_page(request: HttpRequest, member: Membership, given: QualificationAnswer) -> HttpResponse:
    question = given.question
    texts = [question.answers[position] for position in given.sides]
    keys = keys_with(member.user.own_keys)
    language = question.project.only_language
    shown = {
        "id": given.pk,
        "language": language,
        **rendered(question.messages, texts, picking(keys)),
    }
    context = frame(question.project, member) | {
        "keys": as_written(keys),
        "own_keys": keys,
        "given": given,
        "shown": shown,
        "number": given.place + 1,
        "of": given.attempt.answers.count(),
        "offered": acts.said_of(question.project, question),
    }
    if given.answered_at:
        context["explanation"] = render_markdown(question.explanation, top_heading=3)
        context["you_said"] = in_words(given, given.said)
        context["counts"] = [in_words(given, right) for right in question.right]
        context["last"] = not given.attempt.answers.filter(answered_at=None).exists()
    return render(request, "labeling/qualification.html", context)


def frame(project: Project, member: Membership) -> dict[str, Any]:
    guidelines = render_markdown(project.guidelines, top_heading=3) if project.guidelines else ""
    return {"project": project, "role": member.role, "guidelines": guidelines, "words": desk_words()}


def in_words(given: QualificationAnswer, said: str) -> str:
    """What was said, by the letters under which the answers were shown."""
    pair = len(given.sides) == 2
    if said in LETTERS:
        letter = SHOWN[given.sides.index(LETTERS.index(said))]
        words = _("%(letter)s is better") if pair else _("%(letter)s is best")
        return words % {"letter": letter}
    return {
        TIE: _("Tie"),
        ALL_BAD: _("Both bad") if pair else _("All bad"),
        ALL_GOOD: _("Both good") if pair else _("All good"),
    }[said]
