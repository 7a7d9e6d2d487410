"""The qualification round: who has to pass it, asking it, and what managers put into it."""

import math
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Count, Max, Q
from django.db.models.functions import Now
from django.utils.translation import gettext as _

from labeling.answers import ALL_BAD, ALL_GOOD, TIE, clean_seconds
from labeling.models import (
    Membership,
    Project,
    QualificationAnswer,
    QualificationAttempt,
    QualificationDecision,
    QualificationQuestion,
    User,
)
from labeling.models.content import clean_messages, clean_text
from labeling.models.projects import MAX_CANDIDATES, MIN_CANDIDATES
from labeling.models.qualification import LETTERS
from labeling.selection import same_text

Decision = QualificationDecision.Decision
MAX_QUESTIONS = 50  # a round is short; a page shows them all
MAX_REMOVED = 50  # that can be put back

_chance = random.SystemRandom()


class NotQualified(Exception):
    """The person has to pass the project's qualification round first; the message says so."""


class NoAttemptLeft(Exception):
    """The person has tried as often as the project allows."""


class QuestionGone(Exception):
    """Somebody else has removed or replaced the question in the meantime."""

    def __init__(self) -> None:
        super().__init__(
            "Somebody has removed or changed this question in the meantime. Nothing was changed."
        )


# What managers put into it


def build_question(
    project: Project, prompt: Any, answers: Any, right: Any, explanation: Any
) -> QualificationQuestion:
    """Make a question, not yet saved and without a place. Raises ValidationError that names the field."""
    messages = clean_messages(prompt)
    if not isinstance(answers, list) or not MIN_CANDIDATES <= len(answers) <= MAX_CANDIDATES:
        raise ValidationError({"answers": f"must be a list of {MIN_CANDIDATES} to {MAX_CANDIDATES} texts"})
    answers = [clean_text(answer, "answers") for answer in answers]
    if len({same_text(answer) for answer in answers}) < len(answers):
        raise ValidationError({"answers": "must differ"})
    explanation = clean_text(explanation, "explanation")
    question = QualificationQuestion(
        project=project, messages=messages, answers=answers, explanation=explanation
    )
    question.right = _clean_right(project, question, right)
    return question


def _clean_right(project: Project, question: QualificationQuestion, right: Any) -> list[str]:
    right = [right] if isinstance(right, str) else right
    known = [*question.letters, TIE, ALL_BAD, ALL_GOOD]
    if not isinstance(right, list) or not right or not all(one in known for one in right):
        raise ValidationError({"right": f"must name some of {', '.join(known)}"})
    offered = said_of(project, question)
    if not set(offered) & set(right):
        raise ValidationError({"right": "names nothing that this project lets people say"})
    if set(offered) <= set(right):
        raise ValidationError({"right": "names all that can be said; nobody could be wrong"})
    return [one for one in known if one in right]


def said_of(project: Project, question: QualificationQuestion) -> list[str]:
    """What can be said to a question in this project."""
    offered = {TIE: project.ties, ALL_BAD: project.all_bad, ALL_GOOD: project.all_good}
    return [*question.letters, *(verdict for verdict, is_offered in offered.items() if is_offered)]


@transaction.atomic
def add_questions(
    project: Project, questions: Sequence[QualificationQuestion], by: User | None = None
) -> int:
    """Put questions behind those that are there, but for those that stand already word for word, as after a form sent
    twice. Returns how many came. Raises ValidationError where they become too many.
    """
    _hold_order(project.pk)
    known = [_content(each) for each in project.questions.standing()]
    fresh = []
    for question in questions:
        if _content(question) not in known:
            known.append(_content(question))
            fresh.append(question)
    for position, question in enumerate(fresh, start=_next_position(project, len(fresh))):
        question.position, question.created_by = position, by
    QualificationQuestion.objects.bulk_create(fresh)
    return len(fresh)


def _content(question: QualificationQuestion) -> tuple[Any, ...]:
    return question.messages, question.answers, question.right, question.explanation


def _next_position(project: Project, more: int) -> int:
    """Where the next of so many more questions is put. Raises ValidationError where they become too many."""
    there = project.questions.standing().order_by().aggregate(count=Count("pk"), last=Max("position"))
    if there["count"] + more > MAX_QUESTIONS:
        raise ValidationError(f"A round has at most {MAX_QUESTIONS} questions.")
    return (there["last"] or 0) + 1


@transaction.atomic
def replace_question(old: QualificationQuestion, new: QualificationQuestion, by: User) -> None:
    """Let another question stand in the place of one; what was said to the old one stays with it.

    A form that is sent twice makes one question. Raises QuestionGone if the old one stands no more for another reason,
    and ValidationError if the new one stands already beside it.
    """
    _hold_order(old.project_id)
    standing = QualificationQuestion.objects.filter(project=old.project_id).standing()
    there = _content(new) in map(_content, standing.exclude(pk=old.pk))
    if not remove_question(old):
        if there:
            return
        raise QuestionGone
    if there:
        raise ValidationError("Another question of the round says the same, word for word.")
    old.refresh_from_db(fields=["position"])
    new.position, new.created_by = old.position, by
    new.save()


def remove_question(question: QualificationQuestion) -> bool:
    """Ask it no more. Who passed has passed, and attempts under way go on with it. Returns whether it stood."""
    standing = QualificationQuestion.objects.filter(pk=question.pk, removed_at=None)
    return bool(standing.update(removed_at=Now()))


@transaction.atomic
def put_back(question: QualificationQuestion) -> None:
    """Ask a question again that was removed or replaced, as the last one.

    Changes nothing where it stands already. Raises ValidationError where they become too many.
    """
    _hold_order(question.project_id)
    question.refresh_from_db()
    if question.removed_at is not None:
        question.position, question.removed_at = _next_position(question.project, 1), None
        question.save(update_fields=["position", "removed_at"])


def removed(project: Project) -> list[QualificationQuestion]:
    """The questions that were removed or replaced last, the last one first, and of equal ones one."""
    known = [_content(each) for each in project.questions.standing()]
    found = []
    for each in project.questions.exclude(removed_at=None).order_by("-removed_at", "-id")[:MAX_REMOVED]:
        if _content(each) not in known:
            known.append(_content(each))
            found.append(each)
    return found


@transaction.atomic
def move_question(question: QualificationQuestion, by: int) -> None:
    """Ask a question one place sooner (-1) or later (1); at the ends nothing changes. Raises QuestionGone."""
    _hold_order(question.project_id)
    order = list(QualificationQuestion.objects.filter(project=question.project_id).standing())
    if question not in order:
        raise QuestionGone
    here = order.index(question)
    there = min(max(here + by, 0), len(order) - 1)
    order.insert(there, order.pop(here))
    for position, each in enumerate(order, start=1):
        QualificationQuestion.objects.filter(pk=each.pk).update(position=position)


def _hold_order(project_id: int) -> None:
    """Let nobody else put questions into their places until the transaction ends."""
    Project.objects.select_for_update(no_key=True).get(pk=project_id)


def asked(project: Project) -> list[QualificationQuestion]:
    """The questions of a round that begins now."""
    return [each for each in project.questions.standing() if can_be_asked(project, each)]


def can_be_asked(project: Project, question: QualificationQuestion) -> bool:
    """Whether one can be right and can be wrong, by what the project lets people say now."""
    offered, right = set(said_of(project, question)), set(question.right)
    return bool(offered & right) and not offered <= right


# Who has to pass it


class Standing(NamedTuple):
    """Where a person stands with the round."""

    needed: bool
    attempt: QualificationAttempt | None = None  # the last one
    admitted: QualificationDecision | None = None
    left: int = 0

    @property
    def passed(self) -> bool:
        return bool(self.attempt and self.attempt.passed)

    @property
    def open(self) -> bool:
        """Whether an attempt is under way."""
        return bool(self.attempt and self.attempt.ended_at is None)


def check(member: Membership) -> None:
    """Raises NotQualified for an annotator who has the round still before them.

    Managers are let through: they know the answers, having written them. Reviewers answer no comparisons.
    """
    if standing_of(member).needed:
        raise NotQualified(
            _("This project begins with a short qualification round. Please go through it first.")
        )


def standing_of(member: Membership) -> Standing:
    return standings([member])[member.pk]


def standings(members: Sequence[Membership]) -> dict[int, Standing]:
    """Where each stands with their project's round, by their ids, in three queries however many they are."""
    found = {member.pk: Standing(needed=False) for member in members}
    going = {
        member.pk: member.project
        for member in members
        if member.project.qualification and member.role == Membership.Role.ANNOTATOR
    }
    if not going:
        return found
    decisions: dict[int, list[QualificationDecision]] = defaultdict(list)
    for decision in QualificationDecision.objects.filter(member__in=going).order_by("-id"):
        decisions[decision.member_id].append(decision)
    attempts: dict[int, list[QualificationAttempt]] = defaultdict(list)
    for attempt in QualificationAttempt.objects.filter(member__in=going).order_by("number"):
        attempts[attempt.member_id].append(attempt)
    found |= {pk: _standing(project, decisions[pk], attempts[pk]) for pk, project in going.items()}
    needing = {pk: project for pk, project in going.items() if found[pk].needed}
    asking = _that_ask(needing.values())
    for pk, project in needing.items():
        if project.pk not in asking:
            found[pk] = found[pk]._replace(needed=False)
    return found


def _that_ask(projects: Iterable[Project]) -> set[int]:
    """Which of the projects have a question that can be asked now."""
    by_id = {project.pk: project for project in projects}
    questions = QualificationQuestion.objects.filter(project__in=by_id).standing() if by_id else ()
    return {each.project_id for each in questions if can_be_asked(by_id[each.project_id], each)}


def _standing(
    project: Project, decisions: list[QualificationDecision], attempts: list[QualificationAttempt]
) -> Standing:
    """Where a person stands if there are questions, by the decisions on them, newest first, and their attempts."""
    admitted = next((each for each in decisions if each.decision == Decision.ADMIT), None)
    # Who has passed may work, whatever came after.
    last = next((each for each in attempts if each.passed), attempts[-1] if attempts else None)
    more = sum(each.decision == Decision.ATTEMPT for each in decisions)
    needed = not admitted and not (last and last.passed)
    return Standing(needed, last, admitted, max(0, project.qualification_attempts + more - len(attempts)))


@transaction.atomic
def decide(member: Membership, decision: str, by: User) -> bool:
    """Let a person in, or let them try once more; returns whether there was need of it, as two managers may decide at once."""
    member = Membership.objects.select_for_update(no_key=True).get(pk=member.pk)
    standing = standing_of(member)
    needed = standing.needed and (decision == Decision.ADMIT or (not standing.open and not standing.left))
    if needed:
        QualificationDecision.objects.create(member=member, decision=decision, decided_by=by)
    return needed


# Asking it


@transaction.atomic
def begin(member: Membership) -> QualificationAttempt:
    """Begin an attempt, or go on with the one under way. Raises NoAttemptLeft, also where no question is left."""
    member = Membership.objects.select_for_update(no_key=True).get(pk=member.pk)
    standing = standing_of(member)
    if standing.open:
        return standing.attempt
    questions = asked(member.project)
    if not standing.needed or not standing.left or not questions:
        raise NoAttemptLeft(_("There is no attempt left for you."))
    attempt = QualificationAttempt.objects.create(member=member, number=member.attempts.count() + 1)
    QualificationAnswer.objects.bulk_create(
        QualificationAnswer(
            attempt=attempt,
            question=question,
            place=place,
            sides=_chance.sample(range(len(question.answers)), len(question.answers)),
        )
        for place, question in enumerate(questions)
    )
    return attempt


@transaction.atomic
def answer(
    given: QualificationAnswer,
    verdict: str,
    side: int | None = None,
    strength: int | None = None,
    seconds_spent: float | None = None,
) -> QualificationAnswer:
    """Say something to a question: a verdict, or with `preferred` the place on screen of the best answer.

    The last answer ends the attempt. Sent again it changes nothing. Raises ValidationError. Where settings were changed
    since the attempt began, so that nobody could be right any more, everybody is.
    """
    attempt = QualificationAttempt.objects.select_for_update().get(pk=given.attempt_id)
    question = given.question
    said = _said(given, verdict, side)
    QualificationAnswer.objects.filter(pk=given.pk, answered_at=None).update(
        said=said,
        strength=strength if said in LETTERS else None,
        right=said in question.right or not can_be_asked(question.project, question),
        seconds_spent=clean_seconds(seconds_spent),
        answered_at=Now(),
    )
    given.refresh_from_db()
    if not attempt.answers.filter(answered_at=None).exists():
        right, of = score(attempt)
        passed = right >= needed_right(question.project, of)
        QualificationAttempt.objects.filter(pk=attempt.pk, ended_at=None).update(
            ended_at=Now(), passed=passed
        )
    return given


def _said(given: QualificationAnswer, verdict: str, side: int | None) -> str:
    if verdict == "preferred":
        if side not in range(len(given.sides)):
            raise ValidationError({"side": _("Say which of the answers is better.")})
        return LETTERS[given.sides[side]]
    # A letter is a place in the manager's order, which nobody else is to know.
    if verdict in LETTERS or verdict not in said_of(given.question.project, given.question):
        raise ValidationError({"verdict": _("This cannot be said here.")})
    return verdict


def score(attempt: QualificationAttempt) -> tuple[int, int]:
    """How many answers of an attempt are right, and of how many questions."""
    return scores([attempt]).get(attempt.pk, (0, 0))


def scores(attempts: Sequence[QualificationAttempt]) -> dict[int, tuple[int, int]]:
    """The score of each attempt that has questions, by its id."""
    answers = QualificationAnswer.objects.filter(attempt__in=attempts).order_by().values("attempt")
    counted = answers.annotate(rights=Count("pk", filter=Q(right=True)), of=Count("pk"))
    return {attempt: (right, of) for attempt, right, of in counted.values_list("attempt", "rights", "of")}


def needed_right(project: Project, of: int) -> int:
    """How many have to be right; 0.8 of 5 is 4 whatever floating point makes of it."""
    return math.ceil(round(project.qualification_share * of, 6))
