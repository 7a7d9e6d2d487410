"""Projects and the people in them."""

import secrets
from operator import itemgetter

from django.conf import settings
from django.conf.locale import LANG_INFO
from django.contrib.auth.models import AbstractUser
from django.contrib.postgres.fields import ArrayField
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Func, Q, TextField, Value
from django.db.models.lookups import Exact
from django.utils.translation import gettext_lazy as _

from labeling.keys import validate_own_keys

# No vowels and no look-alikes, so that a pseudonym spells nothing and can be read aloud.
PSEUDONYM_LETTERS = "bcdfghjkmnpqrstvwxz23456789"
PSEUDONYM_LENGTH = 6
MAX_CRITERIA = 8
MAX_REASON_TAGS = 9  # each has a digit as its key
MAX_NAME_LENGTH = 40  # of a criterion or a reason tag
MIN_CANDIDATES = 2
MAX_CANDIDATES = 8
MAX_REPEAT_SHARE = 0.2


def random_pseudonym() -> str:
    """Name a person in exports without saying who it is."""
    letters = "".join(secrets.choice(PSEUDONYM_LETTERS) for _ in range(PSEUDONYM_LENGTH))
    return f"annotator-{letters}"


def languages() -> list[tuple[str, str]]:
    """Those that pages can be read in. A function, so that one more needs no migration."""
    return settings.LANGUAGES


def text_languages() -> list[tuple[str, str]]:
    """Every language that Django has a name for, by that and by its own."""
    named = [(code, known) for code, known in LANG_INFO.items() if "name" in known]
    return sorted(
        ((code, f"{known['name']} ({known['name_local']})") for code, known in named), key=itemgetter(1)
    )


class JSONBTypeOf(Func):
    function = "jsonb_typeof"
    output_field = TextField()


class User(AbstractUser):
    """A person, or the stand-in for people whose judgments were imported."""

    language = models.CharField(
        max_length=10,
        blank=True,
        db_default="",
        choices=languages,
        help_text="In which the person reads our pages; empty: as the browser asks.",
    )
    own_keys = models.JSONField(
        default=dict,
        db_default={},
        blank=True,
        validators=[validate_own_keys],
        help_text="Keys of the desk that are not the usual ones, by act (labeling/keys.py).",
    )

    class Meta(AbstractUser.Meta):
        constraints = [
            models.CheckConstraint(
                condition=Exact(JSONBTypeOf("own_keys"), Value("object")), name="user_own_keys_are_an_object"
            ),
        ]


class Project(models.Model):
    class RankingPairs(models.TextChoices):
        ALL = "all", "every ordered pair of a ranking"
        ADJACENT = "adjacent", "neighbours in a ranking only"

    slug = models.SlugField(unique=True, help_text="The project's name in addresses.")
    name = models.CharField(max_length=200)
    guidelines = models.TextField(blank=True, help_text="What annotators should look for, in Markdown.")
    overlap = models.PositiveSmallIntegerField(
        default=1,
        validators=[MinValueValidator(1), MaxValueValidator(100)],
        help_text="How many people judge each new comparison.",
    )
    lease_seconds = models.PositiveIntegerField(
        default=900,
        validators=[MinValueValidator(1), MaxValueValidator(86_400)],
        help_text="How long a comparison stays reserved for the person who has it open, in seconds.",
    )
    answers_per_comparison = models.PositiveSmallIntegerField(
        default=MIN_CANDIDATES,
        db_default=MIN_CANDIDATES,
        validators=[MinValueValidator(MIN_CANDIDATES), MaxValueValidator(MAX_CANDIDATES)],
        help_text="How many answers stand side by side: 2 is a pair, more is a ranking. Of comparisons that the loop "
        "makes; imported ones bring their own.",
    )
    ranking_pairs = models.CharField(
        max_length=10,
        choices=RankingPairs,
        default=RankingPairs.ALL,
        help_text="Which pairs a ranking of three or more becomes.",
    )
    guidelines_number = models.PositiveIntegerField(
        default=0, editable=False, help_text="Of the guidelines' newest version; 0 while there is none."
    )
    strengths = models.BooleanField(default=True, help_text="Whether people say how much better, of a pair.")
    ties = models.BooleanField(default=True, help_text="Whether they may say that answers are equally good.")
    all_bad = models.BooleanField(default=True, help_text="Whether they may say that all are bad.")
    all_good = models.BooleanField(default=False, help_text="Whether they may say that all are good.")
    partial_rankings = models.BooleanField(
        default=False, help_text="Whether a ranking may leave answers out; of these nothing is learned."
    )
    criteria = ArrayField(
        models.CharField(max_length=MAX_NAME_LENGTH),
        default=list,
        blank=True,
        size=MAX_CRITERIA,
        help_text="What each answer is rated by, from 1 to 5, beside the verdict.",
    )
    reason_tags = ArrayField(
        models.CharField(max_length=MAX_NAME_LENGTH),
        default=list,
        blank=True,
        size=MAX_REASON_TAGS,
        help_text="Reasons to pick from, beside a comment.",
    )
    reason_required = models.BooleanField(
        default=False, help_text="Whether every answer needs a reason: a tag, or a comment."
    )
    comment_required = models.BooleanField(
        default=False,
        db_default=False,
        help_text="Whether every answer needs a comment: a sentence, whatever reasons were picked.",
    )
    edits = models.BooleanField(default=True, help_text="Whether people may write a better answer.")
    languages = ArrayField(
        models.CharField(max_length=20, choices=text_languages),
        default=list,
        db_default=[],
        blank=True,
        help_text="That its texts are written in, by their codes; none: not said.",
    )
    qualification = models.BooleanField(
        default=False,
        db_default=False,
        help_text="Whether annotators go through a round of questions with a known answer before their first comparison. "
        "Nobody is held up while there are no questions.",
    )
    qualification_share = models.FloatField(
        default=0.8,
        db_default=0.8,
        validators=[MinValueValidator(0), MaxValueValidator(1)],
        help_text="Which share of the questions has to be right, from 0 to 1.",
    )
    qualification_attempts = models.PositiveSmallIntegerField(
        default=2,
        db_default=2,
        validators=[MinValueValidator(1), MaxValueValidator(20)],
        help_text="How often a person may try; then a manager may let them in, or try again, on the page People.",
    )
    repeat_share = models.FloatField(
        default=0,
        db_default=0,
        validators=[MinValueValidator(0), MaxValueValidator(MAX_REPEAT_SHARE)],
        help_text="Which share of a person's comparisons are ones that they answered before, asked again with the sides "
        "swapped: 0 (none) to 0.2. It shows how far people agree with themselves, and costs that share of their time; "
        "their verdict on a repeat trains nothing.",
    )
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(overlap__gte=1) & Q(overlap__lte=100), name="project_overlap_1_to_100"
            ),
            models.CheckConstraint(
                condition=Q(lease_seconds__gte=1) & Q(lease_seconds__lte=86_400),
                name="project_lease_within_a_day",
            ),
            models.CheckConstraint(
                condition=Q(
                    answers_per_comparison__gte=MIN_CANDIDATES, answers_per_comparison__lte=MAX_CANDIDATES
                ),
                name="project_answers_2_to_8",
            ),
            models.CheckConstraint(
                condition=Q(ranking_pairs__in=["all", "adjacent"]), name="project_ranking_pairs_known"
            ),
            models.CheckConstraint(
                condition=Q(repeat_share__gte=0, repeat_share__lte=MAX_REPEAT_SHARE),
                name="project_repeat_share_0_to_a_fifth",
            ),
            models.CheckConstraint(
                condition=Q(qualification_share__gte=0, qualification_share__lte=1),
                name="project_qualification_share_0_to_1",
            ),
            models.CheckConstraint(
                condition=Q(qualification_attempts__gte=1, qualification_attempts__lte=20),
                name="project_qualification_attempts_1_to_20",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def only_language(self) -> str:
        """That all of its texts are written in, or nothing where that is not known."""
        return self.languages[0] if len(self.languages) == 1 else ""


class GuidelinesVersion(models.Model):
    """Guidelines as they once read; judgments name the number that held when they were given."""

    project = models.ForeignKey(
        Project, on_delete=models.CASCADE, db_index=False, related_name="guidelines_versions"
    )
    number = models.PositiveIntegerField()
    text = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["project", "number"], name="guidelines_number_unique"),
        ]

    def __str__(self) -> str:
        return f"guidelines {self.number} of {self.project}"


class MembershipQuerySet(models.QuerySet["Membership"]):
    def active(self) -> "MembershipQuerySet":
        """Those who have not left the project."""
        return self.filter(left_at=None)


class Membership(models.Model):
    """A person's place in a project.

    It is never deleted: judgments stay, and with them the pseudonym under which they are exported.
    """

    class Role(models.TextChoices):
        MANAGER = "manager", _("manager")
        ANNOTATOR = "annotator", _("annotator")
        REVIEWER = "reviewer", _("reviewer")

    project = models.ForeignKey(Project, on_delete=models.CASCADE, db_index=False, related_name="memberships")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="memberships")
    role = models.CharField(max_length=10, choices=Role)
    pseudonym = models.CharField(max_length=40, default=random_pseudonym, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    left_at = models.DateTimeField(null=True, blank=True)

    objects = MembershipQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["project", "user"], name="membership_once_per_person"),
            models.UniqueConstraint(fields=["project", "pseudonym"], name="membership_pseudonym_unique"),
            models.CheckConstraint(
                condition=Q(role__in=["manager", "annotator", "reviewer"]), name="membership_role_known"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.user} in {self.project} as {self.role}"
