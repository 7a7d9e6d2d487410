"""What annotators put aside: reports that a manager decides on, and skips."""

from django.db import transaction
from django.db.models.functions import Now

from labeling.assignment import Conflict
from labeling.models import Assignment, Comparison, Project, User
from labeling.models.work import AssignmentQuerySet

Handling = Assignment.Handling


def put_aside(project: Project, outcome: str) -> AssignmentQuerySet:
    """The project's skips, or its reports, with all that a manager reads of them, newest first."""
    rows = Assignment.objects.put_aside().filter(outcome=outcome, comparison__project=project)
    related = rows.select_related("annotator", "handled_by", "comparison__prompt")
    return related.prefetch_related("comparison__candidates__completion").order_by("-id")


@transaction.atomic
def handle(report: Assignment, manager: User, handling: str) -> None:
    """Decide on a report: `closed` asks nobody about its comparison any more, `kept` lets it go on.

    With `closed`, leases on the comparison end, also those that ran out and that nobody else has taken yet, and other
    reports of it are decided in the same way; answers that were given stay. All that asks the same is closed with it:
    the comparison that a repeat repeats, and its repeats. Raises Conflict if somebody else has decided before.
    """
    concerned = _lock_askings(report.comparison)
    waiting = Assignment.objects.waiting_reports()
    decision = {"handling": handling, "handled_at": Now(), "handled_by": manager}
    if not waiting.filter(pk=report.pk).update(**decision):
        raise Conflict("Somebody else has decided on this report.")
    if handling == Handling.CLOSED:
        waiting.filter(comparison__in=concerned).update(**decision)
        Assignment.objects.filter(comparison__in=concerned, outcome="").update(slot=None)
        Comparison.objects.filter(pk__in=concerned, closed_at=None).update(closed_at=Now())


def _lock_askings(comparison: Comparison) -> list[int]:
    """Lock all that asks the same, oldest first; nobody else holds two of them and waits for an older one.

    The original comes before the others are looked for: while it is held, no repeat of it is made (repeats.py).
    """
    comparisons = Comparison.objects.select_for_update(no_key=True).order_by("id")
    comparisons.get(pk=comparison.original_id)
    return list(comparisons.filter(pk__in=comparison.askings()).values_list("pk", flat=True))
