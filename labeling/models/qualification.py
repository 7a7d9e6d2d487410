"""The qualification round: questions with a known answer, and what people said to them before their first comparison.

Nothing of it is a comparison or a judgment, so none of it can reach preferences or training; it has a stream of its own (exports.py).
"""

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q

from labeling.models.projects import MAX_CANDIDATES, Membership, Project

LETTERS = "abcdefgh"[:MAX_CANDIDATES]


class QuestionQuerySet(models.QuerySet["QualificationQuestion"]):
    def standing(self) -> "QuestionQuerySet":
        """Those neither removed nor replaced, in the order in which they are asked."""
        return self.filter(removed_at=None).order_by("position", "id")


class QualificationQuestion(models.Model):
    """A prompt and answers of which it is known what counts as right, and why.

    Its content never changes, since answers were given to it: a changed question is a new one in its place.
    """

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="questions")
    position = models.PositiveIntegerField(help_text="Lower is asked first.")
    messages = models.JSONField(help_text="Chat messages, oldest first: a list of {role, content}.")
    answers = ArrayField(models.TextField(), size=MAX_CANDIDATES)
    right = ArrayField(
        models.CharField(max_length=10),
        help_text="What counts as right: the letters of the answers as they stand here, tie, all_bad, all_good.",
    )
    explanation = models.TextField(help_text="Why, in Markdown.")
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    removed_at = models.DateTimeField(null=True, blank=True)

    objects = QuestionQuerySet.as_manager()

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(answers__len__gte=2, answers__len__lte=MAX_CANDIDATES),
                name="question_has_2_to_8_answers",
            ),
            models.CheckConstraint(condition=Q(right__len__gte=1), name="question_has_a_right_answer"),
        ]

    def __str__(self) -> str:
        return self.messages[-1]["content"][:80]

    @property
    def letters(self) -> str:
        return LETTERS[: len(self.answers)]


class QualificationAttempt(models.Model):
    """A person going through the round once. Its questions are those that stood when it began."""

    member = models.ForeignKey(Membership, on_delete=models.CASCADE, db_index=False, related_name="attempts")
    number = models.PositiveSmallIntegerField()
    started_at = models.DateTimeField(auto_now_add=True)
    ended_at = models.DateTimeField(null=True, blank=True)
    passed = models.BooleanField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["member", "number"], name="attempt_number_unique"),
            models.UniqueConstraint(
                fields=["member"], condition=Q(ended_at__isnull=True), name="attempt_one_open_per_person"
            ),
            models.CheckConstraint(
                condition=Q(ended_at__isnull=True, passed__isnull=True)
                | Q(ended_at__isnull=False, passed__isnull=False),
                name="attempt_ends_passed_or_not",
            ),
        ]

    def __str__(self) -> str:
        return f"attempt {self.number} of {self.member}"


class QualificationAnswer(models.Model):
    """A question put in an attempt, and what was said to it: once, and never overwritten."""

    attempt = models.ForeignKey(
        QualificationAttempt, on_delete=models.CASCADE, db_index=False, related_name="answers"
    )
    question = models.ForeignKey(QualificationQuestion, on_delete=models.RESTRICT, related_name="given")
    place = models.PositiveSmallIntegerField(help_text="In the attempt, from 0.")
    sides = ArrayField(
        models.PositiveSmallIntegerField(), help_text="The answers in the order shown, drawn at random."
    )
    said = models.CharField(max_length=10, blank=True, help_text="In the words of the question's `right`.")
    strength = models.PositiveSmallIntegerField(null=True, blank=True)
    right = models.BooleanField(null=True, blank=True)
    seconds_spent = models.FloatField(null=True, blank=True)
    answered_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["place"]
        constraints = [
            models.UniqueConstraint(fields=["attempt", "question"], name="question_once_per_attempt"),
            models.UniqueConstraint(fields=["attempt", "place"], name="attempt_place_unique"),
            models.CheckConstraint(
                condition=Q(answered_at__isnull=True, said="", right__isnull=True)
                | (Q(answered_at__isnull=False, right__isnull=False) & ~Q(said="")),
                name="qualification_answer_is_whole",
            ),
        ]

    def __str__(self) -> str:
        return f"answer {self.place} of {self.attempt}"


class QualificationDecision(models.Model):
    """What a manager decided on a person: they may work without passing, or may try once more."""

    class Decision(models.TextChoices):
        ADMIT = "admit", "let in"
        ATTEMPT = "attempt", "another attempt"

    member = models.ForeignKey(Membership, on_delete=models.CASCADE, related_name="decisions")
    decision = models.CharField(max_length=10, choices=Decision)
    decided_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.SET_NULL, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(decision__in=["admit", "attempt"]), name="qualification_decision_known"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.decision} for {self.member}"
