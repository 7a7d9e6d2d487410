"""The annotator's desk: the page, and the small POSTs by which it answers and asks for more.

They answer JSON. 401 means that the person whose page it is is not signed in, `other` that somebody else is
(the page keeps what was said); 409 that it no longer fits what has happened since, 400 that it makes no sense;
`message` is a sentence for the person.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import wraps
from typing import Any

from django.contrib.auth.decorators import login_required
from django.core.exceptions import ValidationError
from django.db.models import Count, Q
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from labeling import assignment as handing
from labeling import judging
from labeling.access import ANNOTATING, access_assignment, access_judgment, access_place, access_project
from labeling.answers import RATINGS
from labeling.forms import AnswerForm, PutAsideForm, QualificationForm
from labeling.keys import as_written, keys_with
from labeling.models import Assignment, Candidate, Judgment, Membership, Project, User
from labeling.models.content import Message
from labeling.qualification import NotQualified
from labeling.rendering import render_markdown
from labeling.words import desk_words

LETTERS = "ABCDEFGH"
SPEAKERS = {
    "system": gettext_lazy("Instructions"),
    "user": gettext_lazy("User"),
    "assistant": gettext_lazy("Assistant"),
}
NOT_YOURS = gettext_lazy("This comparison is not yours any more.")
MAX_IDS = 50
PERSON_HEADER = "X-Person"  # whose page it is that posts

View = Callable[..., HttpResponse]


@never_cache
@require_GET
@login_required
def label(request: HttpRequest, slug: str) -> HttpResponse:
    """The desk; with `?again=` and the number of an assignment, an answer of one's own to be looked at again.

    The qualification round comes before anything new, not before what a person has answered or holds already.
    """
    place = access_place(request.user, slug, *ANNOTATING)
    project = place.project
    revised = answered(request.user, project, request.GET["again"]) if "again" in request.GET else None
    keys = keys_with(request.user.own_keys)
    try:
        current = revised.assignment if revised else leased(request.user, project)
    except NotQualified:
        return redirect("labeling:qualification", project.slug)
    ahead = None
    if current:
        with suppress(NotQualified):
            ahead = leased(request.user, project, holding=[current.pk])
    return render(
        request,
        "labeling/label.html",
        {
            "project": project,
            "role": place.role,
            "current": on_screen(current, keys) | {"revises": revised.pk}
            if revised
            else on_screen(current, keys),
            "again": said_before(revised) if revised else None,
            "ahead": on_screen(ahead, keys),
            "newest": newest(request.user, project),
            "keys": as_written(keys),
            "own_keys": keys,
            "progress": progress(request.user, project),
            "asks": asks(project),
            "words": desk_words(),
            "ratings": RATINGS,
            "guidelines": render_markdown(project.guidelines, top_heading=3) if project.guidelines else "",
            "skip_reasons": PutAsideForm.SKIP_REASONS,
            "flag_reasons": PutAsideForm.FLAG_REASONS,
        },
    )


def leased(user: User, project: Project, holding: Sequence[int] = ()) -> Assignment | None:
    """The person's next assignment; Http404 if they have been removed from the project since they were let in."""
    try:
        return handing.next_for(user, project, holding)
    except Membership.DoesNotExist:
        raise Http404 from None


def answered(user: User, project: Project, assignment: str) -> Judgment:
    """The person's standing answer to an assignment of theirs in the project; else Http404."""
    own = Judgment.objects.current().filter(annotator=user, comparison__project=project)
    own = own.select_related("assignment__comparison__project", "edit__completion")
    try:
        return own.get(assignment=assignment)
    except (Judgment.DoesNotExist, ValueError, OverflowError):
        raise Http404 from None


def said_before(judgment: Judgment) -> dict[str, Any]:
    """A standing answer as a draft of the next, by the places on screen: what was said beside the verdict, and the
    order of three or more."""
    sides = judgment.assignment.sides
    edit = getattr(judgment, "edit", None)
    candidates = {row.completion_id: row.position for row in judgment.comparison.candidates.all()}
    order = judgment.ranking or [] if len(sides) > 2 else []
    return {
        "assignment": judgment.assignment_id,
        "draft": {
            "of": judgment.pk,
            "reason": judgment.reason,
            "tags": judgment.reason_tags,
            "order": [sorted(sides.index(position) for position in level) for level in order],
            "ratings": {
                name: [given[position] for position in sides] for name, given in judgment.ratings.items()
            },
            "edit": edit
            and {"side": sides.index(candidates[edit.original_id]), "text": edit.completion.text},
        },
    }


def newest(user: User, project: Project) -> dict[str, int | None]:
    """What the person did last, to be taken back: `last`, an answer by its number, and where something was skipped or
    reported since, `aside`, its assignment."""
    last = judging.latest(user, project)
    aside = handing.last_put_aside(user, project, last and last.created_at)
    return {"last": last and last.pk, "aside": aside and aside.pk}


def asks(project: Project) -> dict[str, Any]:
    """What the page's script has to know of what the project asks for; the template shows the rest."""
    return {
        "partial": project.partial_rankings,
        "ties": project.ties,
        "reasonRequired": project.reason_required,
        "commentRequired": project.comment_required,
        "tags": project.reason_tags,
    }


def on_screen(assignment: Assignment | None, keys: Mapping[str, str]) -> dict[str, Any] | None:
    """What of an assignment may reach the browser: its id, and texts in the order shown, with the keys that pick them."""
    if assignment is None:
        return None
    candidates = Candidate.objects.filter(comparison=assignment.comparison_id).select_related("completion")
    texts = {candidate.position: candidate.completion.text for candidate in candidates}
    project = assignment.comparison.project
    shown = rendered(
        assignment.comparison.prompt.messages,
        [texts[position] for position in assignment.sides],
        picking(keys),
    )
    return {"id": assignment.pk, "criteria": project.criteria, "language": project.only_language, **shown}


def rendered(messages: list[Message], texts: list[str], picks: Sequence[str] = LETTERS) -> dict[str, Any]:
    """A prompt, and the answers to it in the order shown, as safe HTML. picks: the keys that pick the answers."""
    return {
        "messages": [
            {"role": m["role"], "who": SPEAKERS[m["role"]], "html": render_markdown(m["content"])}
            for m in messages
        ],
        "answers": [
            {"letter": letter, "key": key, "html": render_markdown(text) if text.strip() else ""}
            for letter, key, text in zip(LETTERS, picks, texts, strict=False)
        ],
    }


def picking(keys: Mapping[str, str]) -> list[str]:
    """The keys that put the answers into an order, as they are written."""
    return [as_written(keys)[f"rank{number}"] for number in range(1, len(LETTERS) + 1)]


def progress(user: User, project: Project) -> dict[str, int]:
    """How many standing answers the person has given, today and in all; a few thousand rows at most."""
    own = Judgment.objects.current().filter(annotator=user, comparison__project=project)
    midnight = timezone.localtime().replace(hour=0, minute=0, second=0, microsecond=0)
    return own.aggregate(today=Count("pk", filter=Q(created_at__gte=midnight)), total=Count("pk"))


def desk_post(view: View) -> View:
    """Give the view its project and the posted JSON; turn what may go wrong into an answer with a sentence."""

    @never_cache
    @require_POST
    @wraps(view)
    def answered(request: HttpRequest, slug: str) -> HttpResponse:
        if not request.user.is_authenticated:
            return JsonResponse({"message": _("You are signed out.")}, status=401)
        # A page that was left open says nothing in the name of whoever has signed in since.
        if request.headers.get(PERSON_HEADER, str(request.user.pk)) != str(request.user.pk):
            return JsonResponse({"message": _("You are signed out."), "other": True}, status=401)
        try:
            project = access_project(request.user, slug, *ANNOTATING)
            return JsonResponse(view(request.user, project, posted(request)))
        except Http404:
            return JsonResponse({"message": str(NOT_YOURS)}, status=404)
        except (handing.Conflict, NotQualified) as conflict:
            return JsonResponse({"message": str(conflict)}, status=409)
        except ValidationError as error:
            return JsonResponse({"message": " ".join(error.messages)}, status=400)

    return answered


def posted(request: HttpRequest) -> dict[str, Any]:
    try:
        values = json.loads(request.body)
    except (ValueError, RecursionError):
        raise ValidationError(_("This was not JSON.")) from None
    if not isinstance(values, dict):
        raise ValidationError(_("This was not a JSON object."))
    try:
        json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # JSON can spell half of a pair that makes one character; no text holds it
        raise ValidationError(_("There is half of a character in the text; write it again.")) from None
    return values


def ids(values: Any) -> list[int]:
    if not isinstance(values, list) or not all(type(v) is int and 0 < v < 2**63 for v in values):
        raise ValidationError(_("A list of assignments' numbers was expected."))
    return values[:MAX_IDS]


def checked(form: AnswerForm | PutAsideForm | QualificationForm) -> dict[str, Any]:
    if not form.is_valid():
        problems = [f"{field}: {' '.join(errors)}" for field, errors in form.errors.items()]
        raise ValidationError(problems)
    return form.cleaned_data


def fragment(assignment: Assignment | None, user: User) -> str | None:
    if assignment is None:
        return None
    shown = on_screen(assignment, keys_with(user.own_keys))
    return render_to_string("labeling/_comparison.html", {"assignment": shown, "ratings": RATINGS})


@desk_post
def next_comparison(user: User, project: Project, values: dict[str, Any]) -> dict[str, Any]:
    assignment = leased(user, project, holding=ids(values.get("holding", [])))
    return {"html": fragment(assignment, user)}


@desk_post
def answer(user: User, project: Project, values: dict[str, Any]) -> dict[str, Any]:
    form = AnswerForm(values)
    given = checked(form)
    assignment = access_assignment(user, given["assignment"])
    said = judging.answer_from_sides(assignment, form.said())
    if given["revises"]:
        judgment = access_judgment(user, given["revises"])
        if judgment.assignment_id != assignment.pk:
            raise ValidationError(_("The answer to be changed is to another comparison."))
        judgment = judging.revise(judgment, given["verdict"], given["client_key"], **said)
    else:
        judgment = judging.record(assignment, given["verdict"], given["client_key"], **said)
    return {"judgment": judgment.pk, "saved_at": judgment.created_at.isoformat()}


@desk_post
def texts(user: User, project: Project, values: dict[str, Any]) -> dict[str, Any]:
    """The answers as they were written, in the order shown: what a better one starts from."""
    (pk,) = ids([values.get("assignment")])
    assignment = access_assignment(user, pk)
    candidates = Candidate.objects.filter(comparison=assignment.comparison_id).select_related("completion")
    by_position = {candidate.position: candidate.completion.text for candidate in candidates}
    return {"texts": [by_position[position] for position in assignment.sides]}


@desk_post
def put_aside(user: User, project: Project, values: dict[str, Any]) -> dict[str, Any]:
    said = checked(PutAsideForm(values))
    assignment = access_assignment(user, said["assignment"])
    if said["outcome"] == "skip":
        handing.skip(assignment, said["reason"], said["seconds_spent"])
    else:
        handing.flag(assignment, said["reason"], said["text"], said["seconds_spent"])
    return {"assignment": assignment.pk}


@desk_post
def undo(user: User, project: Project, values: dict[str, Any]) -> dict[str, Any]:
    """Take one answer back, or with `put_aside` what was skipped or reported, once however often it is asked.

    `took_back` is whether there was something: an answer that was refused never stood. `last` and `aside` name what to
    take back after it: see `newest`.
    """
    judgment = None
    if values.get("put_aside"):
        (pk,) = ids([values.get("assignment")])
        assignment = handing.take_up(access_assignment(user, pk))
    else:
        assignment, judgment = to_take_back(user, project, values)
        if judgment:
            assignment = judging.withdraw(judgment)
    return {
        "assignment": assignment.pk,
        "html": fragment(assignment, user),
        "draft": said_before(judgment)["draft"] if judgment else {},
        "took_back": judgment is not None or bool(values.get("put_aside")),
        **newest(user, project),
    }


def to_take_back(user: User, project: Project, values: dict[str, Any]) -> tuple[Assignment, Judgment | None]:
    """The answer meant, by its number or by the key that it was sent with; None if it never arrived.

    A page or an outbox older than these names meant whatever stands of an assignment, or the person's last answer.
    """
    if "judgment" in values:
        (pk,) = ids([values["judgment"]])
        judgment = access_judgment(user, pk)
        return judgment.assignment, judgment
    if "assignment" in values:
        (pk,) = ids([values["assignment"]])
        assignment = access_assignment(user, pk)
        meant = (
            {"client_key": judging.clean_key(values["client_key"])}
            if "client_key" in values
            else {"is_current": True}
        )
        return assignment, assignment.judgments.filter(**meant).first()
    judgment = judging.latest(user, project)
    if judgment is None:
        raise handing.Conflict(_("There is no answer of yours to take back."))
    return judgment.assignment, judgment


@desk_post
def renew(user: User, project: Project, values: dict[str, Any]) -> dict[str, Any]:
    """Renew the leases of what the page shows or has ready; tell which of them are gone, and why."""
    why = {}
    for pk in ids(values.get("assignments", [])):
        try:
            handing.renew(access_assignment(user, pk))
        except handing.Conflict as conflict:
            why[pk] = str(conflict)
        except Http404:
            why[pk] = str(NOT_YOURS)
    return {"lost": list(why), "why": why}
