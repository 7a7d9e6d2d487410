"""Recording what people answer, once each, and the preferences that follow from it."""

import uuid
from collections.abc import Iterable
from typing import Any, Unpack

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import Max
from django.db.models.functions import Now
from django.utils.translation import gettext as _

from labeling.answers import (
    Answer,
    Better,
    Ranking,
    Said,
    build_preferences,
    check_answer,
    check_edit,
    clean_ranking,
)
from labeling.assignment import (
    AlreadyAnswered,
    Conflict,
    LeaseExpired,
    done_already,
    renew,
    take_slot,
    taken_away,
)
from labeling.models import (
    Assignment,
    Candidate,
    Comparison,
    Completion,
    Edit,
    Judgment,
    Membership,
    Preference,
    Project,
    User,
)


def record(
    assignment: Assignment, verdict: str, client_key: uuid.UUID | str, **said: Unpack[Said]
) -> Judgment:
    """Write the answer to an assignment, its preferences, and the end of the comparison if it was the last.

    Sent again with the same client_key it changes nothing and returns the same judgment. A lease that ran
    out is still good while nobody else has its slot. Raises ValidationError for an answer that does not
    fit, LeaseExpired when the slot is gone, AlreadyAnswered when there is an answer under another key.
    """
    key = clean_key(client_key)
    with transaction.atomic():
        comparison, assignment = _lock(assignment)
        if earlier := _sent_before(assignment, key):
            return earlier
        answer, edit = _checked(assignment, verdict, said)
        _hold_slot(comparison, assignment)
        judgment = _write(assignment, answer, edit, key)
        Assignment.objects.filter(pk=assignment.pk).update(
            outcome=Assignment.Outcome.JUDGED, outcome_at=Now(), slot=assignment.slot
        )
        if comparison.judgments.current().count() >= comparison.overlap:
            Comparison.objects.filter(pk=comparison.pk, closed_at=None).update(closed_at=Now())
        return judgment


def revise(judgment: Judgment, verdict: str, client_key: uuid.UUID | str, **said: Unpack[Said]) -> Judgment:
    """Replace an answer by a new revision; the old one stays, no longer current.

    Sent again with the same client_key it returns the same revision. Raises Conflict if the judgment was
    revised or withdrawn in the meantime.
    """
    key = clean_key(client_key)
    with transaction.atomic():
        _comparison, assignment = _lock(judgment.assignment)
        if earlier := _sent_before(assignment, key):
            return earlier
        answer, edit = _checked(assignment, verdict, said)
        _supersede(judgment)
        revision = _write(assignment, answer, edit, key)
        _settle_edit(judgment)
        return revision


def withdraw(judgment: Judgment) -> Assignment:
    """Take an answer back; the comparison is leased to the same person again, in the slot it had.

    Withdrawing twice is once. Raises Conflict if the judgment was revised in the meantime.
    """
    with transaction.atomic():
        comparison, assignment = _lock(judgment.assignment)
        if _is_withdrawn(judgment, assignment):
            return assignment
        _supersede(judgment)
        _settle_edit(judgment)
        assignment.outcome, assignment.outcome_at = Assignment.Outcome.NONE, None
        assignment.save(update_fields=["outcome", "outcome_at"])
        if not comparison.closed_by_report:
            Comparison.objects.filter(pk=comparison.pk).update(closed_at=None)
        return renew(assignment)


def undo_last(annotator: User, project: Project) -> Assignment | None:
    """Take back the person's latest standing answer in the project; None if there is none."""
    judgment = latest(annotator, project)
    return withdraw(judgment) if judgment else None


def latest(annotator: User, project: Project) -> Judgment | None:
    """The person's latest standing answer in the project."""
    own = Judgment.objects.current().filter(annotator=annotator, comparison__project=project)
    return own.select_related("assignment__comparison__project").order_by("-id").first()


def clean_key(client_key: uuid.UUID | str) -> uuid.UUID:
    try:
        return client_key if isinstance(client_key, uuid.UUID) else uuid.UUID(str(client_key))
    except ValueError:
        raise ValidationError({"client_key": _("must be a UUID, made anew for each answer")}) from None


# From what was on screen to what is stored


def choice_from_side(assignment: Assignment, side: str) -> Ranking:
    """Return the ranking of a pair in which the candidate shown "left" or "right" is better."""
    if side not in ("left", "right"):
        raise ValidationError({"side": _("must be left or right")})
    return ranking_from_sides(assignment, [[0], [1]] if side == "left" else [[1], [0]])


def ranking_from_sides(assignment: Assignment, ranking_sides: Any) -> Ranking:
    """Turn a ranking of places on screen (0 is the first shown) into one of candidate positions."""
    groups = clean_ranking(ranking_sides, len(assignment.sides), "ranking_sides", partial=True)
    return [[assignment.sides[side] for side in group] for group in groups]


def answer_from_sides(assignment: Assignment, said: dict[str, Any]) -> dict[str, Any]:
    """Turn what was said of places on screen (`ranking_sides`, `rating_sides`, the side of `edit`) into what
    is said of candidate positions, for `record` and `revise`; the rest is as it was.
    """
    said = dict(said)
    ranking, ratings, edit = (said.pop(name, None) for name in ("ranking_sides", "rating_sides", "edit"))
    said["ranking"] = None if ranking is None else ranking_from_sides(assignment, ranking)
    said["ratings"] = None if ratings is None else ratings_from_sides(assignment, ratings)
    said["edit"] = None if edit is None else edit_from_side(assignment, edit["side"], edit["text"])
    return said


def ratings_from_sides(assignment: Assignment, rating_sides: Any) -> dict[str, Any]:
    """Turn ratings in the order shown, by criterion, into ratings by candidate position."""
    sides = assignment.sides
    if not isinstance(rating_sides, dict):
        raise ValidationError({"rating_sides": _("must be an object of criteria")})
    if not all(isinstance(shown, list) and len(shown) == len(sides) for shown in rating_sides.values()):
        raise ValidationError(
            {
                "rating_sides": _("must rate each of the %(count)s answers by each criterion")
                % {"count": len(sides)}
            }
        )
    return {
        name: [shown[side] for side in sorted(range(len(sides)), key=sides.__getitem__)]
        for name, shown in rating_sides.items()
    }


def edit_from_side(assignment: Assignment, side: int, text: str) -> Better:
    """Turn a better answer than the one at a place on screen into one than a candidate."""
    if side not in range(len(assignment.sides)):
        raise ValidationError(
            {"edit": _("must start from one of the %(count)s answers") % {"count": len(assignment.sides)}}
        )
    return Better(assignment.sides[side], text)


# Within the transaction


def _lock(assignment: Assignment) -> tuple[Comparison, Assignment]:
    """Lock first the comparison, then the assignment, as all do; so nobody waits in a circle."""
    comparisons = Comparison.objects.select_related("project").select_for_update(of=("self",), no_key=True)
    comparison = comparisons.get(pk=assignment.comparison_id)
    fresh = Assignment.objects.select_for_update().get(pk=assignment.pk)
    fresh.comparison = comparison
    return comparison, fresh


def _sent_before(assignment: Assignment, key: uuid.UUID) -> Judgment | None:
    earlier = Judgment.objects.filter(annotator_id=assignment.annotator_id, client_key=key).first()
    if earlier and earlier.assignment_id != assignment.pk:
        raise ValidationError({"client_key": _("was already used for another comparison")})
    return earlier


def _hold_slot(comparison: Comparison, assignment: Assignment) -> None:
    if assignment.outcome:
        raise AlreadyAnswered(done_already(assignment))
    if assignment.slot is None and comparison.closed_at and comparison.closed_by_report:
        raise taken_away()
    if assignment.slot is None:
        assignment.slot = take_slot(comparison)
    if assignment.slot is None:
        raise LeaseExpired(_("Your time for this comparison ran out, and others have answered it since."))


def _checked(assignment: Assignment, verdict: str, said: Said) -> tuple[Answer, Better | None]:
    project, candidates = assignment.comparison.project, len(assignment.sides)
    answer = check_answer(project, candidates, verdict, said)
    return answer, check_edit(project, candidates, said.get("edit"))


def _write(assignment: Assignment, answer: Answer, edit: Better | None, key: uuid.UUID) -> Judgment:
    comparison = assignment.comparison
    last = assignment.judgments.aggregate(last=Max("revision"))["last"] or 0
    try:
        with transaction.atomic():
            judgment = Judgment.objects.create(
                assignment=assignment,
                comparison=comparison,
                annotator_id=assignment.annotator_id,
                revision=last + 1,
                client_key=key,
                guidelines_number=comparison.project.guidelines_number,
                **answer._asdict(),
            )
    except IntegrityError as error:
        if "judgment_sent_once" not in str(error):
            raise
        raise ValidationError({"client_key": _("was already used for another comparison")}) from None
    completions = _completions(comparison)
    if not comparison.repeats_id:  # a repeat says nothing new of its candidates: see repeats.py
        Preference.objects.bulk_create(
            build_preferences(judgment, comparison.project, comparison.prompt_id, completions)
        )
    if edit:
        _write_edit(judgment, completions[edit.position], edit.text)
        _settle_edit(judgment)
    return judgment


def _write_edit(judgment: Judgment, original_id: int, text: str) -> None:
    comparison = judgment.comparison
    prompt, original = comparison.prompt, Completion.objects.get(pk=original_id)
    if original.text.replace("\r\n", "\n").strip() == text:
        raise ValidationError({"edit": _("says the same as the answer that it starts from")})
    writer = Membership.objects.get(project=comparison.project, user=judgment.annotator_id)
    better = Completion.objects.add(prompt, text, writer.pseudonym)
    Edit.objects.create(judgment=judgment, original=original, completion=better)


def _settle_edit(judgment: Judgment) -> None:
    """See that the judgment's better answer, if any, has one preference over its original while it stands anywhere.

    Asked again, people mend the same mistake in the same way, and it would count twice; taken back in one place it still
    stands in the other. The better answer is locked, so that of two judgments at once the second finds what the first did.
    """
    edit = Edit.objects.filter(judgment=judgment).first()
    if edit is None:
        return
    Completion.objects.select_for_update(no_key=True).get(pk=edit.completion_id)
    # A completion is one person's, by its author: nobody else's preference can have chosen it.
    if Preference.objects.current().filter(chosen=edit.completion_id, rejected=edit.original_id).exists():
        return
    same = Edit.objects.current().filter(completion=edit.completion_id, original=edit.original_id)
    if standing := same.select_related("judgment__comparison").order_by("id").first():
        comparison = standing.judgment.comparison
        Preference.objects.create(
            project_id=comparison.project_id,
            prompt_id=comparison.prompt_id,
            judgment=standing.judgment,
            chosen_id=edit.completion_id,
            rejected_id=edit.original_id,
        )


def _completions(comparison: Comparison) -> list[int]:
    rows: Iterable[int] = (
        Candidate.objects.filter(comparison=comparison)
        .order_by("position")
        .values_list("completion", flat=True)
    )
    return list(rows)


def _supersede(judgment: Judgment) -> None:
    current = Judgment.objects.current().filter(pk=judgment.pk)
    if not current.update(is_current=False, superseded_at=Now()):
        raise Conflict(_("This answer was changed or taken back in the meantime."))


def _is_withdrawn(judgment: Judgment, assignment: Assignment) -> bool:
    """Whether this judgment is the latest and was taken back before."""
    latest = assignment.judgments.order_by("-revision").first()
    return latest.pk == judgment.pk and not latest.is_current
