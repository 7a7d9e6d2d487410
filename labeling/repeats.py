"""Asking a person again, sides swapped, what they judged before: do they say the same?

A repeat is a comparison of its own, for one person, so that nobody is handed the same comparison twice. Its
answer is stored like any other. But what it says of the candidates was said before, and a preference from it would count
twice what the chance of a draw picked; so it becomes none (judging.py), and neither exports nor
training have to know. A better answer that somebody writes on the way is new, and is kept; the same one again is kept, too, and
counts once.

Who has been told what a model thinks of an answer would not answer again for themselves. So repeats are drawn from about half
of the prompts, by their hash, and in a project with repeats people are told such things of the other half alone.
"""

import random
from collections.abc import Iterable
from datetime import timedelta

from django.db.models import Exists, OuterRef, QuerySet
from django.db.models.functions import Now

from labeling.models import Assignment, Candidate, Comparison, Judgment, Project, Prompt, User

# So much has to lie between an answer and its repeat, or memory would answer in the person's place.
ANSWERS_BETWEEN = 10
TIME_BETWEEN = timedelta(minutes=10)
# Of so many answers one is drawn: further back the reading would cost more than it tells.
MOST_LOOKED_AT = 200
# Of a prompt that repeats are drawn from: how its hash ends. How it begins says whether it is held out.
DRAWN = "[0-7]$"

_chance = random.SystemRandom()


def next_for(annotator: User, project: Project) -> Comparison | None:
    """Return the person's next repeat, locked: one that they left unanswered, else a new one; None if none is due.

    Runs in the transaction of assignment.next_for, which lets a person ask for one thing at a time. What a manager has
    closed after a report is not asked again.
    """
    left = Comparison.objects.filter(project=project).repeats_for(annotator)
    if repeat := left.select_for_update(of=("self",), no_key=True).first():
        return repeat
    due = repeatable(annotator, project)
    return repeat_of(_chance.choice(due)) if due else None


def repeatable(annotator: User, project: Project) -> list[Judgment]:
    """The person's answers that lie far enough back, may be drawn and were not asked again yet."""
    standing = Judgment.objects.current().filter(annotator=annotator, comparison__project=project)
    newest = standing.order_by("-id").values_list("pk", "comparison__reserved_for", "comparison__prompt")
    older = list(newest[: ANSWERS_BETWEEN + MOST_LOOKED_AT])[ANSWERS_BETWEEN:]
    drawn = set(drawn_from({prompt for _, _, prompt in older}).values_list("pk", flat=True))
    originals = [pk for pk, reserved_for, prompt in older if reserved_for is None and prompt in drawn]
    return list(_old_enough(Judgment.objects.current().filter(pk__in=originals)))


def drawn_from(prompts: Iterable[int]) -> QuerySet[Prompt]:
    """Those of the prompts that repeats are drawn from."""
    return Prompt.objects.filter(pk__in=prompts, content_hash__regex=DRAWN)


def _old_enough(answers: QuerySet[Judgment]) -> QuerySet[Judgment]:
    asked_again = Comparison.objects.filter(
        reserved_for=OuterRef("annotator"), repeats__comparison=OuterRef("comparison")
    )
    closing = Assignment.objects.closing_reports()
    return answers.filter(
        ~Exists(asked_again),
        ~Exists(closing.filter(comparison=OuterRef("comparison"))),
        ~Exists(closing.filter(comparison__repeats__comparison=OuterRef("comparison"))),
        created_at__lte=Now() - TIME_BETWEEN,
    )


def repeat_of(judgment: Judgment) -> Comparison | None:
    """Put the comparison of a judgment before its annotator again, and nobody else; None if a manager has just closed it.

    The original is locked, so that whoever closes it finds each of its repeats.
    """
    original = Comparison.objects.select_for_update(no_key=True).get(pk=judgment.comparison_id)
    if original.closed_by_report:
        return None
    repeat = Comparison.objects.create(
        project_id=original.project_id,
        prompt_id=original.prompt_id,
        overlap=1,
        repeats=judgment,
        reserved_for_id=judgment.annotator_id,
    )
    Candidate.objects.bulk_create(
        Candidate(comparison=repeat, completion_id=candidate.completion_id, position=candidate.position)
        for candidate in original.candidates.all()
    )
    return repeat
