"""An annotator's own answers: found again, and changed."""

import json
from datetime import datetime, timedelta
from statistics import median
from time import monotonic
from typing import Any, NamedTuple

from django.contrib.auth.decorators import login_required
from django.db.models import BooleanField, Exists, F, Func, OuterRef, Q, QuerySet, TextField, Value
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_GET

from labeling.access import ANNOTATING, access_place
from labeling.agreement import with_others, with_themselves
from labeling.answers import ALL_BAD, ALL_GOOD, PREFERRED, TIE
from labeling.models import Candidate, Edit, Judgment, Project, User
from labeling.views.label import LETTERS, progress
from labeling.views.paging import asked_before

PER_PAGE = 25
LOOKED_AT_ONCE = 200  # answers, in a search
MOST_SECONDS = 1  # of a search, after which the page says how far back it went
BETTER = _("%(side)s better")
STRENGTHS = {1: _("%(side)s slightly better"), 2: BETTER, 3: _("%(side)s much better"), None: BETTER}
OF_A_PAIR = {ALL_BAD: _("Both bad"), ALL_GOOD: _("Both good"), TIE: _("Tie")}
OF_MORE = {ALL_BAD: _("All bad"), ALL_GOOD: _("All good"), TIE: _("Tie")}
RECENT = timedelta(days=30)
MOST_TIMES = 1_000  # of the newest answers, whose median is told


class Says(Func):
    """Whether a message of the judgment's prompt holds the words, whatever their case; not the JSON around them."""

    function = "jsonb_path_exists"
    template = "%(function)s(%(expressions)s::jsonpath)"
    output_field = BooleanField()

    def __init__(self, words: str) -> None:
        # Flag q: taken letter by letter.
        path = f'$[*].content ? (@ like_regex {json.dumps(words, ensure_ascii=False)} flag "qi")'
        super().__init__(F("comparison__prompt__messages"), Value(path))


@require_GET
@login_required
def mine(request: HttpRequest, slug: str) -> HttpResponse:
    """The person's standing answers, newest first; `q` looks for words in prompts, answers and reasons."""
    place = access_place(request.user, slug, *ANNOTATING)
    project = place.project
    words = request.GET.get("q", "").replace("\x00", "").strip()
    before = asked_before(request)
    page = page_of(standing(request.user, project), words, before)
    context = {
        "project": project,
        "role": place.role,
        "words": words,
        "before": before,
        "page": page,
        "answers": [in_words(judgment) for judgment in page.answers],
        "progress": progress(request.user, project),
        "seconds": usual_seconds(request.user, project),
        "agreement": with_others(request.user, project),
        "consistency": with_themselves(project, request.user).get(request.user.pk),
    }
    return render(request, "labeling/mine.html", context)


def standing(user: User, project: Project) -> QuerySet[Judgment]:
    return Judgment.objects.current().filter(annotator=user, comparison__project=project)


class Page(NamedTuple):
    """Some answers, newest first; `older` is the key below which there may be more.

    `back_to` says where the search broke off, if it did.
    """

    answers: list[Judgment]
    older: int | None = None
    back_to: datetime | None = None


def page_of(answers: QuerySet[Judgment], words: str, before: int | None) -> Page:
    """The newest answers below a key; with words, those in which they occur, as far back as a second allows."""
    if not words:
        return first_page(list(in_full(below(answers, before))[: PER_PAGE + 1]))
    give_up_at = monotonic() + MOST_SECONDS
    found: list[Judgment] = []
    while batch := list(below(answers, before).values_list("pk", "created_at")[:LOOKED_AT_ONCE]):
        found += holding(words, in_full(answers.filter(pk__in=[pk for pk, _at in batch])))
        before, back_to = batch[-1]
        if len(found) > PER_PAGE or len(batch) < LOOKED_AT_ONCE:
            break
        if monotonic() > give_up_at:
            return Page(found, before, back_to)
    return first_page(found)


def first_page(answers: list[Judgment]) -> Page:
    shown = answers[:PER_PAGE]
    return Page(shown, shown[-1].pk if len(answers) > PER_PAGE else None)


def below(answers: QuerySet[Judgment], before: int | None) -> QuerySet[Judgment]:
    return (answers if before is None else answers.filter(pk__lt=before)).order_by("-id")


def in_full(answers: QuerySet[Judgment]) -> QuerySet[Judgment]:
    return answers.select_related("assignment", "comparison__prompt").order_by("-id")


def holding(words: str, answers: QuerySet[Judgment]) -> QuerySet[Judgment]:
    """Those in which the words occur, whatever their case."""
    candidate = Candidate.objects.filter(comparison=OuterRef("comparison"), completion__text__icontains=words)
    edit = Edit.objects.filter(judgment=OuterRef("pk"), completion__text__icontains=words)
    tags = Func(F("reason_tags"), Value("\n"), function="array_to_string", output_field=TextField())
    said = Q(reason__icontains=words) | Q(tags__icontains=words)
    return answers.annotate(tags=tags).filter(Exists(candidate) | Q(Says(words)) | said | Exists(edit))


def in_words(judgment: Judgment) -> dict[str, Any]:
    return {
        "assignment": judgment.assignment_id,
        "prompt": judgment.comparison.prompt.text,
        "said": verdict_in_words(judgment),
        "reason": judgment.reason,
        "tags": judgment.reason_tags,
        "at": judgment.created_at,
        "revised": judgment.revision > 1,
    }


def verdict_in_words(judgment: Judgment) -> str:
    """The answer in the letters under which the person saw the candidates."""
    sides = judgment.assignment.sides
    if judgment.verdict == PREFERRED and len(sides) == 2:
        return STRENGTHS[judgment.strength] % {"side": _letters(judgment, 0)}
    if judgment.verdict == PREFERRED:
        return " > ".join(_letters(judgment, place) for place in range(len(judgment.ranking)))
    said = OF_A_PAIR if len(sides) == 2 else OF_MORE
    return str(said[judgment.verdict])


def _letters(judgment: Judgment, place: int) -> str:
    sides = judgment.assignment.sides
    return " = ".join(sorted(LETTERS[sides.index(position)] for position in judgment.ranking[place]))


def usual_seconds(user: User, project: Project) -> int | None:
    """The median time of the person's newest answers of the last month; None where none was taken."""
    timed = standing(user, project).filter(
        seconds_spent__isnull=False, created_at__gte=timezone.now() - RECENT
    )
    seconds = list(timed.order_by("-id").values_list("seconds_spent", flat=True)[:MOST_TIMES])
    return round(median(seconds)) if seconds else None
