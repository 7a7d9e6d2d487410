"""Comparisons, who has them, what was answered, and the preferences that follow from it."""

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Case, Exists, F, OuterRef, Q, Subquery, Sum, When
from django.db.models.functions import Coalesce, Now

from labeling.models.content import Completion, Prompt
from labeling.models.projects import MAX_CANDIDATES, Project, User

MORE_THAN_ANY_OVERLAP = 100_000

LIVE = Q(outcome="", slot__isnull=False, leased_until__gt=Now())
EXPIRED = Q(outcome="", slot__isnull=False, leased_until__lte=Now())
HOLDS_SLOT = LIVE | Q(outcome="judged")


class ComparisonQuerySet(models.QuerySet["Comparison"]):
    def open(self) -> "ComparisonQuerySet":
        """Those that still want judgments, of whoever comes; a repeat is one person's own affair."""
        return self.filter(closed_at=None, reserved_for=None)

    def open_for(self, annotator: User) -> "ComparisonQuerySet":
        """Those with room for another person, which this one has neither answered nor put aside.

        In the order in which they are to be asked. Whatever is finished costs nothing: the queue is a
        partial index of what is open, and for each comparison on it only its own few assignments are read.
        """
        return self.open()._with_room_for(annotator)

    def repeats_for(self, annotator: User) -> "ComparisonQuerySet":
        """The person's repeats that they have neither answered nor put aside, and do not hold."""
        return self.filter(closed_at=None, reserved_for=annotator)._with_room_for(annotator)

    def _with_room_for(self, annotator: User) -> "ComparisonQuerySet":
        mine = Q(annotator=annotator)
        obstacles = Case(
            When(mine & (~Q(outcome="") | LIVE), then=MORE_THAN_ANY_OVERLAP),
            When(HOLDS_SLOT, then=1),
            default=0,
        )
        # One subquery with an aggregate rather than EXISTS, which the planner may turn into a join with
        # everything that the person ever answered.
        of_comparison = Assignment.objects.filter(comparison=OuterRef("pk")).order_by().values("comparison")
        in_the_way = Subquery(of_comparison.annotate(total=Sum(obstacles)).values("total"))
        return (
            self.alias(in_the_way=Coalesce(in_the_way, 0))
            .filter(in_the_way__lt=F("overlap"))
            .order_by("priority", "id")
        )


class Comparison(models.Model):
    """A prompt with two or more completions side by side, wanted judged by `overlap` people.

    A repeat asks one person again what they judged before: the same candidates, for nobody else. It names the
    judgment and not the comparison, so that what is compared is what was said before it was asked again, however
    that answer is revised later.
    """

    project = models.ForeignKey(Project, on_delete=models.CASCADE, db_index=False, related_name="comparisons")
    prompt = models.ForeignKey(Prompt, on_delete=models.RESTRICT, related_name="comparisons")
    overlap = models.PositiveSmallIntegerField()
    priority = models.SmallIntegerField(default=0, help_text="Lower is asked first.")
    import_key = models.CharField(max_length=64, null=True, blank=True, editable=False)
    repeats = models.ForeignKey(
        "Judgment",
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        db_index=False,
        related_name="repeated_by",
    )
    reserved_for = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        db_index=False,
        related_name="+",
        help_text="Of a repeat: who gave the judgment that it repeats.",
    )
    created_at = models.DateTimeField(auto_now_add=True)
    closed_at = models.DateTimeField(null=True, blank=True)

    objects = ComparisonQuerySet.as_manager()

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(overlap__gte=1), name="comparison_overlap_at_least_1"),
            models.UniqueConstraint(
                fields=["project", "import_key"],
                condition=Q(import_key__isnull=False),
                name="comparison_imported_once",
            ),
            models.UniqueConstraint(
                fields=["repeats"], condition=Q(repeats__isnull=False), name="judgment_repeated_once"
            ),
            models.CheckConstraint(
                condition=Q(repeats__isnull=True, reserved_for__isnull=True)
                | Q(repeats__isnull=False, reserved_for__isnull=False, overlap=1),
                name="comparison_repeat_is_for_one",
            ),
        ]
        indexes = [
            models.Index(
                fields=["project", "priority", "id"],
                condition=Q(closed_at__isnull=True, reserved_for__isnull=True),
                name="comparison_open",
            ),
            models.Index(fields=["project", "id"], name="comparison_by_project"),
            models.Index(
                fields=["reserved_for", "project", "id"],
                condition=Q(reserved_for__isnull=False),
                name="comparison_repeats_by_person",
            ),
            models.Index(
                fields=["project", "id"],
                condition=Q(reserved_for__isnull=False),
                name="comparison_repeats_by_project",
            ),
        ]

    def __str__(self) -> str:
        return f"comparison {self.pk}"

    @property
    def original_id(self) -> int:
        """Of the comparison that this one repeats; its own if it repeats none."""
        return self.repeats.comparison_id if self.repeats_id else self.pk

    def askings(self) -> list[int]:
        """The ids of all that ask the same: the original, then its repeats, whoever they are for."""
        repeats = Comparison.objects.filter(repeats__comparison=self.original_id).order_by("id")
        return [self.original_id, *repeats.values_list("pk", flat=True)]

    def closing_reports(self) -> "AssignmentQuerySet":
        """The reports after which nobody is asked about it any more, be they of the original or of a repeat."""
        return Assignment.objects.closing_reports().filter(comparison__in=self.askings())

    @property
    def closed_by_report(self) -> bool:
        """Whether a manager has decided that nobody is asked about it any more."""
        return self.closing_reports().exists()


class Candidate(models.Model):
    """A completion on offer in a comparison. The database wants 2 to 8, all of the comparison's prompt."""

    comparison = models.ForeignKey(
        Comparison, on_delete=models.CASCADE, db_index=False, related_name="candidates"
    )
    completion = models.ForeignKey(Completion, on_delete=models.RESTRICT, related_name="candidacies")
    position = models.PositiveSmallIntegerField()

    class Meta:
        ordering = ["position"]
        constraints = [
            models.UniqueConstraint(
                fields=["comparison", "completion"], name="candidate_once_per_comparison"
            ),
            models.UniqueConstraint(fields=["comparison", "position"], name="candidate_position_unique"),
            models.CheckConstraint(
                condition=Q(position__gte=0) & Q(position__lt=MAX_CANDIDATES),
                name="candidate_position_0_to_7",
            ),
        ]

    def __str__(self) -> str:
        return f"candidate {self.position} of {self.comparison_id}"


class AssignmentQuerySet(models.QuerySet["Assignment"]):
    def live(self) -> "AssignmentQuerySet":
        """Leases that run."""
        return self.filter(LIVE)

    def waiting_reports(self) -> "AssignmentQuerySet":
        """Reports that no manager has decided on."""
        return self.filter(outcome=Assignment.Outcome.FLAGGED, handled_at=None)

    def closing_reports(self) -> "AssignmentQuerySet":
        """Reports on which a manager decided that nobody is asked any more."""
        return self.filter(handling=Assignment.Handling.CLOSED)

    def expired(self) -> "AssignmentQuerySet":
        """Leases that ran out and whose slot nobody has taken yet."""
        return self.filter(EXPIRED)


class Assignment(models.Model):
    """A comparison handed to one annotator: a lease first, then how it ended.

    A live lease or a judgment holds a slot of the comparison; there are `overlap` of them, so there can
    never be more judgments than were asked for.
    """

    class Outcome(models.TextChoices):
        NONE = "", "open"
        JUDGED = "judged", "judged"
        SKIPPED = "skipped", "skipped"
        FLAGGED = "flagged", "flagged"

    class Handling(models.TextChoices):
        NONE = "", "waits"
        KEPT = "kept", "asked on"
        CLOSED = "closed", "asked no more"

    PUT_ASIDE = ("skipped", "flagged")

    comparison = models.ForeignKey(
        Comparison, on_delete=models.CASCADE, db_index=False, related_name="assignments"
    )
    annotator = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="assignments"
    )
    slot = models.SmallIntegerField(null=True, blank=True)
    sides = ArrayField(
        models.PositiveSmallIntegerField(),
        help_text="Positions of the candidates in the order shown, drawn at random.",
    )
    leased_until = models.DateTimeField()
    created_at = models.DateTimeField(auto_now_add=True)
    outcome = models.CharField(max_length=10, choices=Outcome, default="", blank=True)
    outcome_reason = models.CharField(max_length=200, blank=True)
    outcome_text = models.TextField(blank=True)
    outcome_at = models.DateTimeField(null=True, blank=True)
    seconds_spent = models.FloatField(
        null=True, blank=True, help_text="Of what was skipped or reported; a judgment says it itself."
    )
    put_aside_in = models.ForeignKey(
        Project,
        null=True,
        editable=False,
        on_delete=models.CASCADE,
        db_index=False,
        related_name="put_aside",
        help_text="The comparison's project, once skipped or reported: what a project's lists go by. "
        "The database itself sets it.",
    )
    handling = models.CharField(
        max_length=10,
        choices=Handling,
        default="",
        db_default="",
        blank=True,
        help_text="What a manager decided on a report.",
    )
    handled_at = models.DateTimeField(null=True, blank=True)
    handled_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )

    objects = AssignmentQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["comparison", "annotator"], name="assignment_once_per_person"),
            models.UniqueConstraint(
                fields=["comparison", "slot"],
                condition=Q(slot__isnull=False),
                name="assignment_slot_held_once",
            ),
            models.CheckConstraint(
                condition=Q(outcome__in=["", "judged", "skipped", "flagged"]), name="assignment_outcome_known"
            ),
            models.CheckConstraint(
                condition=~Q(outcome="judged") | Q(slot__isnull=False), name="assignment_judged_holds_slot"
            ),
            models.CheckConstraint(
                condition=~Q(outcome__in=["skipped", "flagged"]) | Q(slot__isnull=True),
                name="assignment_put_aside_frees_slot",
            ),
            models.CheckConstraint(
                condition=Q(handling="", handled_at__isnull=True)
                | Q(handling__in=["kept", "closed"], handled_at__isnull=False, outcome="flagged"),
                name="assignment_handled_is_a_report",
            ),
            # Target of the foreign key by which a judgment repeats its assignment's comparison and person.
            models.UniqueConstraint(
                fields=["id", "comparison", "annotator"], name="assignment_id_comparison_annotator"
            ),
        ]
        indexes = [
            models.Index(
                fields=["annotator", "id"],
                condition=Q(outcome="", slot__isnull=False),
                name="assignment_leased",
            ),
            models.Index(
                fields=["put_aside_in", "-id", "outcome"],
                condition=Q(put_aside_in__isnull=False),
                name="assignment_aside_by_project",
            ),
            models.Index(
                fields=["put_aside_in", "-id"],
                condition=Q(outcome="flagged", handled_at__isnull=True),
                name="assignment_waits_by_project",
            ),
            models.Index(
                fields=["put_aside_in", "-handled_at", "-id"],
                condition=Q(handled_at__isnull=False),
                name="assignment_handled_by_project",
            ),
            models.Index(
                fields=["comparison"], condition=Q(handling="closed"), name="assignment_closing_report"
            ),
        ]

    def __str__(self) -> str:
        return f"assignment {self.pk}"


class JudgmentQuerySet(models.QuerySet["Judgment"]):
    def current(self) -> "JudgmentQuerySet":
        """Those neither revised nor withdrawn."""
        return self.filter(is_current=True)


class Judgment(models.Model):
    """One annotator's answer to one comparison. A change is a new revision; the old one stays."""

    class Verdict(models.TextChoices):
        PREFERRED = "preferred", "one is better"
        TIE = "tie", "equally good"
        ALL_BAD = "all_bad", "all are bad"
        ALL_GOOD = "all_good", "all are good"

    assignment = models.ForeignKey(
        Assignment, on_delete=models.CASCADE, db_index=False, related_name="judgments"
    )
    comparison = models.ForeignKey(Comparison, on_delete=models.CASCADE, related_name="judgments")
    annotator = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="judgments"
    )
    revision = models.PositiveSmallIntegerField(default=1)
    is_current = models.BooleanField(default=True)
    superseded_at = models.DateTimeField(null=True, blank=True)
    verdict = models.CharField(max_length=10, choices=Verdict)
    ranking = models.JSONField(
        null=True, blank=True, help_text="Candidate positions, best first, ties grouped: [[1], [0, 2]]."
    )
    strength = models.PositiveSmallIntegerField(
        null=True, blank=True, help_text="1 slightly, 2 clearly, 3 much better."
    )
    reason = models.TextField(blank=True)
    reason_tags = ArrayField(models.TextField(), default=list, blank=True, db_default=[])
    ratings = models.JSONField(
        default=dict,
        blank=True,
        db_default={},
        help_text="Of each criterion, a rating from 1 to 5 of each candidate by its position.",
    )
    guidelines_number = models.PositiveIntegerField(
        default=0, db_default=0, help_text="Of the guidelines that held; 0 where none did."
    )
    client_key = models.UUIDField()
    seconds_spent = models.FloatField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = JudgmentQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["comparison", "annotator"],
                condition=Q(is_current=True),
                name="judgment_one_current_per_person",
            ),
            models.UniqueConstraint(fields=["assignment", "revision"], name="judgment_revision_unique"),
            models.UniqueConstraint(fields=["annotator", "client_key"], name="judgment_sent_once"),
            models.CheckConstraint(
                condition=Q(verdict__in=["preferred", "tie", "all_bad", "all_good"]),
                name="judgment_verdict_known",
            ),
            models.CheckConstraint(
                condition=~Q(verdict="preferred") | Q(ranking__isnull=False),
                name="judgment_preferred_says_what",
            ),
            models.CheckConstraint(
                condition=Q(strength__isnull=True) | Q(strength__gte=1, strength__lte=3),
                name="judgment_strength_1_to_3",
            ),
            models.CheckConstraint(
                condition=Q(is_current=True, superseded_at__isnull=True)
                | Q(is_current=False, superseded_at__isnull=False),
                name="judgment_superseded_has_time",
            ),
            models.CheckConstraint(
                condition=Q(seconds_spent__isnull=True) | Q(seconds_spent__gte=0),
                name="judgment_seconds_not_negative",
            ),
        ]
        indexes = [
            models.Index(
                fields=["annotator", "id"], condition=Q(is_current=True), name="judgment_current_by_person"
            ),
        ]

    def __str__(self) -> str:
        return f"judgment {self.pk}"


class EditQuerySet(models.QuerySet["Edit"]):
    def current(self) -> "EditQuerySet":
        """Those that came with judgments which still stand."""
        return self.filter(judgment__is_current=True)

    def once(self) -> "EditQuerySet":
        """Where a person wrote the same better answer several times, the first that stands.

        A completion is one person's, by its author: of two people who wrote the same, both count.
        """
        earlier = Edit.objects.current().filter(completion=OuterRef("completion"), id__lt=OuterRef("id"))
        return self.filter(~Exists(earlier))


class Edit(models.Model):
    """A better answer that an annotator wrote, starting from a candidate. It stands as long as its judgment.

    It is a demonstration, and the chosen side of a preference over the candidate.
    """

    judgment = models.OneToOneField(Judgment, on_delete=models.CASCADE, related_name="edit")
    original = models.ForeignKey(Completion, on_delete=models.RESTRICT, related_name="edits")
    completion = models.ForeignKey(Completion, on_delete=models.RESTRICT, related_name="edit_of")
    created_at = models.DateTimeField(auto_now_add=True)

    objects = EditQuerySet.as_manager()

    class Meta:
        constraints = [
            models.CheckConstraint(condition=~Q(original=F("completion")), name="edit_changes_something"),
        ]

    def __str__(self) -> str:
        return f"edit of judgment {self.judgment_id}"


class PreferenceQuerySet(models.QuerySet["Preference"]):
    def current(self) -> "PreferenceQuerySet":
        """Those that follow from judgments which still stand."""
        return self.filter(judgment__is_current=True)


class Preference(models.Model):
    """One completion chosen over another. In a tie both are meant alike, and their order means nothing."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, db_index=False, related_name="preferences")
    prompt = models.ForeignKey(Prompt, on_delete=models.RESTRICT, related_name="preferences")
    judgment = models.ForeignKey(
        Judgment, on_delete=models.CASCADE, db_index=False, related_name="preferences"
    )
    chosen = models.ForeignKey(Completion, on_delete=models.RESTRICT, related_name="chosen_in")
    rejected = models.ForeignKey(Completion, on_delete=models.RESTRICT, related_name="rejected_in")
    tie = models.BooleanField(default=False)
    both_bad = models.BooleanField(default=False)
    both_good = models.BooleanField(default=False, db_default=False)
    strength = models.PositiveSmallIntegerField(
        default=1, help_text="0 for a tie; 1 slightly or not said, 2 clearly, 3 much better."
    )
    weight = models.FloatField(
        default=1.0,
        help_text="The pairs of one judgment weigh 1 together, however many they are; that of an edit weighs 1 more.",
    )
    created_at = models.DateTimeField(auto_now_add=True)

    objects = PreferenceQuerySet.as_manager()

    class Meta:
        constraints = [
            models.CheckConstraint(condition=~Q(chosen=F("rejected")), name="preference_of_two"),
            models.UniqueConstraint(fields=["judgment", "chosen", "rejected"], name="preference_once"),
            models.CheckConstraint(
                condition=Q(tie=True, strength=0) | Q(tie=False, strength__gte=1, strength__lte=3),
                name="preference_strength_0_is_tie",
            ),
            models.CheckConstraint(
                condition=Q(weight__gt=0) & Q(weight__lte=1), name="preference_weight_0_to_1"
            ),
        ]
        indexes = [models.Index(fields=["project", "id"], name="preference_by_project")]

    def __str__(self) -> str:
        return f"preference {self.pk}"
