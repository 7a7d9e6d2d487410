"""Recording what people answer, once each, and the preferences that follow from it."""

import itertools
import math
import uuid
from collections.abc import Iterable
from typing import Any, NamedTuple

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import Max
from django.db.models.functions import Now

from labeling.assignment import AlreadyAnswered, Conflict, LeaseExpired, renew, take_slot
from labeling.models import Assignment, Candidate, Comparison, Judgment, Preference, Project, User

PREFERRED, TIE, ALL_BAD = Judgment.Verdict.values
MAX_REASON_LENGTH = 10_000
DAY_SECONDS = 86_400

Ranking = list[list[int]]


class Answer(NamedTuple):
    """A judgment's content, checked against its comparison."""

    verdict: str
    ranking: Ranking | None
    strength: int | None
    reason: str
    seconds_spent: float | None


class Pair(NamedTuple):
    """A preference between two candidate positions, before it is a row."""

    chosen: int
    rejected: int
    tie: bool
    both_bad: bool
    strength: int
    weight: float


def record(
    assignment: Assignment,
    verdict: str,
    client_key: uuid.UUID | str,
    ranking: Ranking | None = None,
    strength: int | None = None,
    reason: str = "",
    seconds_spent: float | None = None,
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
        answer = check_answer(len(assignment.sides), verdict, ranking, strength, reason, seconds_spent)
        _hold_slot(comparison, assignment)
        judgment = _write(assignment, answer, key)
        Assignment.objects.filter(pk=assignment.pk).update(
            outcome=Assignment.Outcome.JUDGED, outcome_at=Now(), slot=assignment.slot
        )
        if comparison.judgments.current().count() >= comparison.overlap:
            Comparison.objects.filter(pk=comparison.pk, closed_at=None).update(closed_at=Now())
        return judgment


def revise(
    judgment: Judgment,
    verdict: str,
    client_key: uuid.UUID | str,
    ranking: Ranking | None = None,
    strength: int | None = None,
    reason: str = "",
    seconds_spent: float | None = None,
) -> Judgment:
    """Replace an answer by a new revision; the old one stays, no longer current.

    Sent again with the same client_key it returns the same revision. Raises Conflict if the judgment was
    revised or withdrawn in the meantime.
    """
    key = clean_key(client_key)
    with transaction.atomic():
        _, assignment = _lock(judgment.assignment)
        if earlier := _sent_before(assignment, key):
            return earlier
        answer = check_answer(len(assignment.sides), verdict, ranking, strength, reason, seconds_spent)
        _supersede(judgment)
        return _write(assignment, answer, key)


def withdraw(judgment: Judgment) -> Assignment:
    """Take an answer back; the comparison is leased to the same person again, in the slot it had.

    Withdrawing twice is once. Raises Conflict if the judgment was revised in the meantime.
    """
    with transaction.atomic():
        comparison, assignment = _lock(judgment.assignment)
        if _is_withdrawn(judgment, assignment):
            return assignment
        _supersede(judgment)
        assignment.outcome, assignment.outcome_at = Assignment.Outcome.NONE, None
        assignment.save(update_fields=["outcome", "outcome_at"])
        Comparison.objects.filter(pk=comparison.pk).update(closed_at=None)
        return renew(assignment)


def undo_last(annotator: User, project: Project) -> Assignment | None:
    """Take back the person's latest standing answer in the project; None if there is none."""
    last = Judgment.objects.current().filter(annotator=annotator, comparison__project=project)
    judgment = last.select_related("assignment__comparison__project").order_by("-id").first()
    return withdraw(judgment) if judgment else None


def clean_key(client_key: uuid.UUID | str) -> uuid.UUID:
    try:
        return client_key if isinstance(client_key, uuid.UUID) else uuid.UUID(str(client_key))
    except ValueError:
        raise ValidationError({"client_key": "must be a UUID, made anew for each answer"}) from None


# From what was on screen to what is stored


def choice_from_side(assignment: Assignment, side: str) -> Ranking:
    """Return the ranking of a pair in which the candidate shown "left" or "right" is better."""
    if side not in ("left", "right"):
        raise ValidationError({"side": "must be left or right"})
    return ranking_from_sides(assignment, [[0], [1]] if side == "left" else [[1], [0]])


def ranking_from_sides(assignment: Assignment, ranking_sides: Any) -> Ranking:
    """Turn a ranking of places on screen (0 is the first shown) into one of candidate positions."""
    groups = clean_ranking(ranking_sides, len(assignment.sides), "ranking_sides")
    return [[assignment.sides[side] for side in group] for group in groups]


# Checking an answer


def check_answer(
    candidates: int,
    verdict: str,
    ranking: Any = None,
    strength: int | None = None,
    reason: str = "",
    seconds_spent: float | None = None,
) -> Answer:
    """Return the answer in its stored form. Raises ValidationError that names the field."""
    if verdict not in Judgment.Verdict.values:
        raise ValidationError({"verdict": f"must be one of {', '.join(Judgment.Verdict.values)}"})
    if ranking is not None:
        ranking = clean_ranking(ranking, candidates)
    if verdict == TIE:
        ranking = None
    _check_strength(verdict, ranking, strength, candidates)
    return Answer(verdict, ranking, strength, _clean_reason(reason), _clean_seconds(seconds_spent))


def clean_ranking(ranking: Any, candidates: int, field: str = "ranking") -> Ranking:
    """Return the ranking as groups, best first; it must name each candidate once."""
    if not isinstance(ranking, list | tuple):
        raise ValidationError({field: "must be a list, best first"})
    groups = [group if isinstance(group, list | tuple) else [group] for group in ranking]
    named = [number for group in groups for number in group]
    if any(isinstance(number, bool) or not isinstance(number, int) for number in named):
        raise ValidationError({field: "must hold numbers, best first, ties in a list of their own"})
    if sorted(named) != list(range(candidates)) or not all(groups):
        raise ValidationError({field: f"must name each of 0 to {candidates - 1} once"})
    return [sorted(group) for group in groups]


def _check_strength(verdict: str, ranking: Ranking | None, strength: int | None, candidates: int) -> None:
    if verdict == PREFERRED and ranking is None:
        raise ValidationError({"ranking": "must say which one is better"})
    if verdict == PREFERRED and len(ranking) < 2:
        raise ValidationError({"ranking": "puts all on one level; that is a tie"})
    if strength is None:
        if verdict == PREFERRED and candidates == 2:
            raise ValidationError({"strength": "must say how much better: 1, 2 or 3"})
        return
    if verdict == TIE or ranking is None:
        raise ValidationError({"strength": "has no meaning where nothing is better"})
    if isinstance(strength, bool) or strength not in (1, 2, 3):
        raise ValidationError({"strength": "must be 1, 2 or 3"})


def _clean_reason(reason: str) -> str:
    if not isinstance(reason, str) or "\x00" in reason:
        raise ValidationError({"reason": "must be a text without NUL characters"})
    if len(reason) > MAX_REASON_LENGTH:
        raise ValidationError({"reason": f"may have at most {MAX_REASON_LENGTH} characters"})
    return reason


def _clean_seconds(seconds: float | None) -> float | None:
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
        raise ValidationError({"seconds_spent": "must be a number of seconds, 0 or more"})
    # Clocks in browsers jump; a page left open over the weekend says nothing about the work.
    return min(float(seconds), DAY_SECONDS)


# Preferences


def derive_pairs(answer: Answer, candidates: int, adjacent_only: bool = False) -> list[Pair]:
    """Return the preferences that an answer implies; their weights add up to 1.

    Without a ranking all candidates are on one level. Pairs of one level are ties.
    """
    groups = answer.ranking or [list(range(candidates))]
    level = {position: number for number, group in enumerate(groups) for position in group}
    order = [position for group in groups for position in group]
    pairs = list(itertools.pairwise(order) if adjacent_only else itertools.combinations(order, 2))
    all_bad = answer.verdict == ALL_BAD
    return [
        Pair(
            chosen=better,
            rejected=worse,
            tie=level[better] == level[worse],
            both_bad=all_bad,
            strength=0 if level[better] == level[worse] else answer.strength or 1,
            weight=1 / len(pairs),
        )
        for better, worse in pairs
    ]


def build_preferences(
    judgment: Judgment, project: Project, prompt_id: int, completions: list[int]
) -> list[Preference]:
    """Make a judgment's preferences, not yet saved. completions: ids of the candidates by position."""
    answer = Answer(judgment.verdict, judgment.ranking, judgment.strength, "", None)
    adjacent_only = project.ranking_pairs == Project.RankingPairs.ADJACENT
    return [
        Preference(
            project=project,
            prompt_id=prompt_id,
            judgment=judgment,
            chosen_id=completions[pair.chosen],
            rejected_id=completions[pair.rejected],
            tie=pair.tie,
            both_bad=pair.both_bad,
            strength=pair.strength,
            weight=pair.weight,
        )
        for pair in derive_pairs(answer, len(completions), adjacent_only)
    ]


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
        raise ValidationError({"client_key": "was already used for another comparison"})
    return earlier


def _hold_slot(comparison: Comparison, assignment: Assignment) -> None:
    if assignment.outcome:
        raise AlreadyAnswered(f"You have {assignment.outcome} this comparison already.")
    if assignment.slot is None:
        assignment.slot = take_slot(comparison)
    if assignment.slot is None:
        raise LeaseExpired("Your time for this comparison ran out, and others have answered it since.")


def _write(assignment: Assignment, answer: Answer, key: uuid.UUID) -> Judgment:
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
                **answer._asdict(),
            )
    except IntegrityError as error:
        if "judgment_sent_once" not in str(error):
            raise
        raise ValidationError({"client_key": "was already used for another comparison"}) from None
    completions = _completions(comparison)
    Preference.objects.bulk_create(
        build_preferences(judgment, comparison.project, comparison.prompt_id, completions)
    )
    return judgment


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
        raise Conflict("This answer was changed or taken back in the meantime.")


def _is_withdrawn(judgment: Judgment, assignment: Assignment) -> bool:
    """Whether this judgment is the latest and was taken back before."""
    latest = assignment.judgments.order_by("-revision").first()
    return latest.pk == judgment.pk and not latest.is_current
