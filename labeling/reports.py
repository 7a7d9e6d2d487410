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

    With `closed`, leases that run on the comparison end, and other reports of it are decided in the same way; answers
    that were given stay. With a repeat the comparison that it repeats is closed. Raises Conflict if somebody else has
    decided before.
    """
    comparison = Comparison.objects.select_for_update(no_key=True, of=("self",)).get(pk=report.comparison_id)
    waiting = Assignment.objects.waiting_reports()
    decision = {"handling": handling, "handled_at": Now(), "handled_by": manager}
    if not waiting.filter(pk=report.pk).update(**decision):
        raise Conflict("Somebody else has decided on this report.")
    if handling == Handling.CLOSED:
        concerned = [comparison.pk] + ([comparison.repeats.comparison_id] if comparison.repeats else [])
        waiting.filter(comparison__in=concerned).update(**decision)
        Assignment.objects.live().filter(comparison__in=concerned).update(slot=None)
        Comparison.objects.filter(pk__in=concerned, closed_at=None).update(closed_at=Now())
