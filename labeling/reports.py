"""What annotators put aside: reports that a manager decides on, and skips."""

from django.db import transaction
from django.db.models.functions import Now

from labeling.assignment import Conflict
from labeling.models import Assignment, Comparison, Project, User
from labeling.models.work import AssignmentQuerySet

Handling = Assignment.Handling


def skips(project: Project) -> AssignmentQuerySet:
    """What the project's people skipped, with all that a manager reads of it, newest first."""
    return _listed(project.put_aside.filter(outcome=Assignment.Outcome.SKIPPED)).order_by("-id")


def waiting_reports(project: Project) -> AssignmentQuerySet:
    """The reports that no manager has decided on, with what was reported, newest first."""
    waiting = _listed(project.put_aside.waiting_reports())
    return waiting.prefetch_related("comparison__candidates__completion").order_by("-id")


def decided_reports(project: Project) -> AssignmentQuerySet:
    """The reports that a manager has decided on, the latest decision first."""
    return _listed(project.put_aside.exclude(handled_at=None)).order_by("-handled_at", "-id")


def _listed(rows: AssignmentQuerySet) -> AssignmentQuerySet:
    return rows.select_related("annotator", "handled_by", "comparison__prompt")


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
