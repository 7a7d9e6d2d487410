"""Handing out comparisons: a lease for one person, for a while.

Locks are always taken in this order: the person's membership, the comparison (of several the oldest first), the
assignment. Whoever gives a slot away holds the comparison's row, so slots are given one at a time; the unique
constraint on (comparison, slot) would refuse anything else.
"""

import random
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models.functions import Now
from django.utils.translation import gettext as _

from labeling import qualification, repeats
from labeling.answers import clean_seconds
from labeling.models import Assignment, Candidate, Comparison, Membership, Project, User

MAX_LIVE_LEASES = 3
# How often a comparison may be lost to others between finding and locking it, before giving up.
ATTEMPTS = 20

_chance = random.SystemRandom()


class Conflict(Exception):
    """What was asked no longer fits what has happened since; the message says why."""


class LeaseExpired(Conflict):
    """The lease ran out and its place was given to someone else."""


class AlreadyAnswered(Conflict):
    """The comparison was answered or put aside before."""


def next_for(annotator: User, project: Project, holding: Iterable[int] = ()) -> Assignment | None:
    """Return the person's next assignment in the project, leased to them, or None when nothing is left.

    holding: ids of assignments that the person's client already has; any other live lease of theirs
    comes back first, as after a reload. With MAX_LIVE_LEASES in hand nothing new is given out.
    Raises Membership.DoesNotExist for someone who is not in the project; NotQualified, instead of giving anything new
    out, for an annotator who has the project's qualification round still to pass.
    """
    holding = set(holding)
    with transaction.atomic():
        # One request of a person at a time, so that two tabs cannot pass the limit together.
        member = (
            Membership.objects.active().select_for_update(no_key=True).get(user=annotator, project=project)
        )
        member.project = project
        live = Assignment.objects.live().filter(annotator=annotator, comparison__project=project)
        leases = live.select_related("comparison__project").order_by("id")
        for lease in leases.exclude(pk__in=holding):
            with suppress(Conflict):  # answered or given to another since it was read
                return renew(lease)
        qualification.check(member)
        if live.count() >= MAX_LIVE_LEASES:
            return None
        return _lease_next(annotator, project)


def _lease_next(annotator: User, project: Project) -> Assignment | None:
    """Lease the first comparison in the queue that has room for the person, or now and then a repeat in its place."""
    queue = Comparison.objects.filter(project=project).open_for(annotator)
    # In its place only: where nothing waits, repeats alone would be work for nothing.
    if _chance.random() < project.repeat_share and queue.exists():
        repeat = repeats.next_for(annotator, project)
        if repeat and (assignment := _lease(annotator, repeat, project)):
            return assignment
    skip_locked = True
    for _attempt in range(ATTEMPTS):
        comparison = queue.select_for_update(skip_locked=skip_locked, of=("self",), no_key=True).first()
        if comparison is None and not skip_locked:
            return None
        if comparison is None:
            # All that is left is in others' hands at this very moment: wait for them and look again.
            skip_locked = False
        elif assignment := _lease(annotator, comparison, project):
            return assignment
    return None


def _lease(annotator: User, comparison: Comparison, project: Project) -> Assignment | None:
    """Lease a locked comparison to the person; None if its last slot went while it was being locked."""
    earlier = Assignment.objects.filter(comparison=comparison, annotator=annotator).first()
    slot = earlier.slot if earlier and earlier.slot is not None else take_slot(comparison)
    if slot is None:
        return None
    lease = {"slot": slot, "leased_until": Now() + timedelta(seconds=project.lease_seconds)}
    if earlier is None:
        sides = _draw_sides(comparison)
        pk = Assignment.objects.create(comparison=comparison, annotator=annotator, sides=sides, **lease).pk
    elif Assignment.objects.filter(pk=earlier.pk, outcome="").update(**lease):
        pk = earlier.pk
    else:
        return None
    return Assignment.objects.select_related("comparison__project").get(pk=pk)


def take_slot(comparison: Comparison) -> int | None:
    """Find a slot of a locked comparison: a free one, else that of the lease which ran out first.

    Returns None if live leases and judgments hold them all.
    """
    held = comparison.assignments.filter(slot__isnull=False)
    free = set(range(comparison.overlap)) - set(held.values_list("slot", flat=True))
    if free:
        return min(free)
    for expired in comparison.assignments.expired().order_by("leased_until"):
        # Its owner may be renewing it right now; the one row that changes decides who has it.
        if comparison.assignments.expired().filter(pk=expired.pk).update(slot=None):
            return expired.slot
    return None


def _draw_sides(comparison: Comparison) -> list[int]:
    """The candidates in random order; of a repeat, in the order opposite to the one judged before."""
    if comparison.repeats_id:
        return comparison.repeats.assignment.sides[::-1]
    positions = list(
        Candidate.objects.filter(comparison=comparison)
        .order_by("position")
        .values_list("position", flat=True)
    )
    return _chance.sample(positions, len(positions))


def renew(assignment: Assignment) -> Assignment:
    """Give the lease its full time again. Raises LeaseExpired if its slot was given away."""
    lease_seconds = assignment.comparison.project.lease_seconds
    mine = Assignment.objects.filter(pk=assignment.pk, outcome="", slot__isnull=False)
    if not mine.update(leased_until=Now() + timedelta(seconds=lease_seconds)):
        _explain(assignment)
    assignment.refresh_from_db(fields=["leased_until", "slot", "outcome"])
    return assignment


def release(assignment: Assignment) -> None:
    """Give an unanswered comparison back, for anyone, this person included. A second time does nothing."""
    open_lease = Assignment.objects.filter(pk=assignment.pk, outcome="")
    open_lease.update(slot=None, leased_until=Now())


def skip(assignment: Assignment, reason: str, seconds_spent: float | None = None) -> None:
    """Put a comparison aside for this person for good; another may have it."""
    _put_aside(assignment, Assignment.Outcome.SKIPPED, reason, seconds_spent=seconds_spent)


def flag(assignment: Assignment, reason: str, text: str = "", seconds_spent: float | None = None) -> None:
    """Report a comparison to the managers, and put it aside for this person.

    Where a manager has decided by then that nobody is asked about it any more, that decides on this report, too.
    """
    with transaction.atomic():
        comparison = Comparison.objects.select_for_update(no_key=True).get(pk=assignment.comparison_id)
        _put_aside(assignment, Assignment.Outcome.FLAGGED, reason, text, seconds_spent)
        decision = comparison.closing_reports().values("handling", "handled_at", "handled_by").first()
        if decision:
            Assignment.objects.waiting_reports().filter(pk=assignment.pk).update(**decision)


def take_up(assignment: Assignment) -> Assignment:
    """Take a skip or a report back; the comparison is leased to the same person again. Twice is once.

    Raises LeaseExpired if its places have gone to others, AlreadyAnswered if there is an answer, Conflict if a manager
    has decided on the report.
    """
    with transaction.atomic():
        comparison = Comparison.objects.select_for_update(no_key=True).get(pk=assignment.comparison_id)
        assignment.refresh_from_db(from_queryset=Assignment.objects.select_for_update())
        if assignment.outcome not in Assignment.PUT_ASIDE:
            return renew(assignment)
        if comparison.closed_by_report:
            raise taken_away()
        if assignment.handling:
            raise Conflict(_("A manager has decided on your report already."))
        slot = take_slot(comparison)
        if slot is None:
            raise LeaseExpired(_("Someone else has this comparison now."))
        Assignment.objects.filter(pk=assignment.pk).update(
            outcome=Assignment.Outcome.NONE,
            outcome_reason="",
            outcome_text="",
            outcome_at=None,
            seconds_spent=None,
            slot=slot,
        )
        return renew(assignment)


def last_put_aside(annotator: User, project: Project, since: datetime | None = None) -> Assignment | None:
    """What the person skipped or reported last in the project, if it was after a time."""
    own = project.put_aside.filter(annotator=annotator)
    return (own.filter(outcome_at__gt=since) if since else own).order_by("-outcome_at").first()


def _put_aside(
    assignment: Assignment, outcome: str, reason: str, text: str = "", seconds_spent: float | None = None
) -> None:
    unanswered = Assignment.objects.filter(pk=assignment.pk, outcome="")
    changed = unanswered.update(
        outcome=outcome,
        outcome_reason=reason[:200],
        outcome_text=text,
        outcome_at=Now(),
        seconds_spent=clean_seconds(seconds_spent),
        slot=None,
    )
    assignment.refresh_from_db()
    if not changed and assignment.outcome != outcome:
        _explain(assignment)


def _explain(assignment: Assignment) -> None:
    """Raise the reason why an assignment is no longer open."""
    assignment.refresh_from_db()
    if assignment.outcome:
        raise AlreadyAnswered(done_already(assignment))
    if assignment.comparison.closed_by_report:
        raise taken_away()
    raise LeaseExpired(_("Your time for this comparison ran out, and someone else has it now."))


def taken_away() -> LeaseExpired:
    return LeaseExpired(_("A manager has taken this comparison away after a report."))


def done_already(assignment: Assignment) -> str:
    """What the person did with a comparison that is no longer open to them."""
    done = {
        Assignment.Outcome.JUDGED: _("You have judged this comparison already."),
        Assignment.Outcome.SKIPPED: _("You have skipped this comparison already."),
        Assignment.Outcome.FLAGGED: _("You have reported this comparison already."),
    }
    return done[Assignment.Outcome(assignment.outcome)]
