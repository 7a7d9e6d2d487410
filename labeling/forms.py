"""What people may send: forms for pages, and for the small POSTs of the annotator's desk."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from django import forms
from django.contrib.auth.validators import UnicodeUsernameValidator
from django.core.exceptions import ValidationError
from django.http import QueryDict
from django.utils.translation import gettext_lazy as _

from labeling.answers import ALL_BAD, ALL_GOOD, MAX_EDIT_LENGTH, MAX_REASON_LENGTH, TIE
from labeling.keys import ACTS, GROUPS, USUAL, as_written, keys_with, own_keys, problems
from labeling.models import Judgment, Membership, Project, QualificationDecision, QualificationQuestion, User
from labeling.models.projects import (
    MAX_CRITERIA,
    MAX_NAME_LENGTH,
    MAX_REASON_TAGS,
    MIN_CANDIDATES,
    text_languages,
)
from labeling.models.qualification import LETTERS
from labeling.projects import save_guidelines
from labeling.qualification import MAX_QUESTIONS, build_question
from labeling.selection import same_text

MAX_UPLOAD_BYTES = 200 * 2**20
MAX_QUESTIONS_BYTES = 20 * 2**20


class SecondsField(forms.FloatField):
    """How long something took; not required."""

    def __init__(self) -> None:
        super().__init__(required=False, min_value=0)

    def to_python(self, value: Any) -> float | None:
        try:
            return super().to_python(value)
        except OverflowError:  # a whole number beyond what a float reaches
            raise ValidationError(self.error_messages["invalid"]) from None


class AnswerForm(forms.Form):
    """One answer from the desk. `preferred_side` and `ranking_sides` count the answers as shown, from 0."""

    assignment = forms.IntegerField(min_value=1, max_value=2**63 - 1)
    client_key = forms.UUIDField()
    revises = forms.IntegerField(required=False, min_value=1, max_value=2**63 - 1)
    verdict = forms.ChoiceField(choices=Judgment.Verdict.choices)
    preferred_side = forms.IntegerField(required=False, min_value=0, max_value=1)
    ranking_sides = forms.JSONField(required=False)
    strength = forms.IntegerField(required=False, min_value=1, max_value=3)
    reason = forms.CharField(required=False, max_length=MAX_REASON_LENGTH)
    reason_tags = forms.JSONField(required=False)
    rating_sides = forms.JSONField(required=False)
    edit_side = forms.IntegerField(required=False, min_value=0)
    edit_text = forms.CharField(required=False, strip=False, max_length=MAX_EDIT_LENGTH)
    seconds_spent = SecondsField()

    def said(self) -> dict[str, Any]:
        """What `answer_from_sides` takes: the verdict's company, without what was left out."""
        names = ("ranking_sides", "strength", "reason", "reason_tags", "rating_sides", "seconds_spent")
        given = self.cleaned_data
        said = {name: given[name] for name in names if given[name] not in (None, "", [], {})}
        if given["edit_text"]:
            said["edit"] = {"side": given["edit_side"], "text": given["edit_text"]}
        return said

    def clean(self) -> dict[str, Any]:
        said = super().clean()
        side = said.get("preferred_side")
        if side is not None:
            said["ranking_sides"] = [[side], [1 - side]]
        return said


class PutAsideForm(forms.Form):
    """Skip or report a comparison, with a reason."""

    SKIP_REASONS: ClassVar = [
        ("unclear", _("I cannot tell what is being asked")),
        ("expertise", _("I do not know enough to judge")),
        ("language", _("It is in a language that I do not read well")),
        ("same", _("The answers say the same")),
        ("other", _("Another reason")),
    ]
    FLAG_REASONS: ClassVar = [
        ("harmful", _("It could harm someone")),
        ("private", _("It shows private data")),
        ("broken", _("It is broken or unreadable")),
        ("other", _("Something else")),
    ]

    assignment = forms.IntegerField(min_value=1, max_value=2**63 - 1)
    outcome = forms.ChoiceField(choices=[("skip", "skip"), ("flag", "report")])
    reason = forms.CharField(max_length=200)
    text = forms.CharField(required=False, max_length=2000)
    seconds_spent = SecondsField()

    def clean(self) -> dict[str, Any]:
        said = super().clean()
        known = dict(self.SKIP_REASONS if said.get("outcome") == "skip" else self.FLAG_REASONS)
        if said.get("reason") not in known:
            raise ValidationError({"reason": _("Choose one of the reasons offered.")})
        return said


class WordsField(forms.CharField):
    """A list of short texts, one a line."""

    widget = forms.Textarea(attrs={"rows": 4, "dir": "auto"})

    def __init__(self, most: int, **more: Any) -> None:
        super().__init__(required=False, **more)
        self.most = most

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(value) if isinstance(value, list) else value

    def to_python(self, value: Any) -> list[str]:
        return list(
            dict.fromkeys(
                " ".join(line.split()) for line in super().to_python(value).splitlines() if line.strip()
            )
        )

    def validate(self, value: list[str]) -> None:
        if len(value) > self.most:
            raise ValidationError(f"These are {len(value)}; at most {self.most} can be shown.")
        if longest := max((word for word in value if len(word) > MAX_NAME_LENGTH), key=len, default=""):
            raise ValidationError(
                f"“{longest[:60]}” has {len(longest)} characters; at most {MAX_NAME_LENGTH} fit."
            )


class Words(forms.Textarea):
    """Room for text in any script."""

    def __init__(self, rows: int) -> None:
        super().__init__(attrs={"rows": rows, "dir": "auto"})


class NoticesOthers:
    """A form that knows what stood there when it was shown, so that nobody's change is overwritten unseen."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        standing = json.dumps(self.initial, sort_keys=True, default=str)
        self.standing = hashlib.sha256(standing.encode()).hexdigest()
        self.fields["seen"] = forms.CharField(required=False, widget=forms.HiddenInput, initial=self.standing)

    def came_too_late(self) -> bool:
        """Whether somebody has saved other values since the form was shown: an error names the fields that
        differ, and what is then sent again stands.
        """
        if self.cleaned_data["seen"] in ("", self.standing):
            return False
        pairs = (
            (name, self.cleaned_data.get(name), self.initial[name])
            for name in self.fields
            if name in self.initial
        )
        differing = [name for name, said, standing in pairs if _as_stored(said) != _as_stored(standing)]
        if differing:
            fields = ", ".join(str(self[name].label) for name in differing)
            self.add_error(
                None,
                _(
                    "Somebody has saved this page since you opened it, and yours differs in: %(fields)s. Nothing is saved "
                    "yet. Save again to let yours stand, or load the page again to see theirs."
                )
                % {"fields": fields},
            )
            self.data = self.data.copy()
            self.data["seen"] = self.standing
        return bool(differing)


def _as_stored(value: Any) -> Any:
    """Browsers send other line ends than are kept."""
    return value.replace("\r\n", "\n").strip() if isinstance(value, str) else value


class ProjectForm(NoticesOthers, forms.ModelForm):
    """What a project asks of its annotators, on one page."""

    PARTS: ClassVar = {
        "The project": ("name", "languages", "overlap", "lease_seconds"),
        "What can be said": (
            "answers_per_comparison",
            "strengths",
            "ties",
            "all_bad",
            "all_good",
            "partial_rankings",
            "ranking_pairs",
        ),
        "What is asked beside it": (
            "criteria",
            "reason_tags",
            "reason_required",
            "comment_required",
            "edits",
        ),
        "How well it is answered": (
            "qualification",
            "qualification_share",
            "qualification_attempts",
            "repeat_share",
        ),
        "Guidelines": ("guidelines",),
    }

    languages = forms.MultipleChoiceField(
        choices=text_languages,
        required=False,
        label="Languages of its texts",
        widget=forms.SelectMultiple(attrs={"size": 6}),
        help_text="With one, screen readers read prompts and answers in it. Hold Ctrl or ⌘ to choose several, or to "
        "choose none.",
    )
    criteria = WordsField(
        MAX_CRITERIA,
        label="Criteria",
        help_text="What each answer is rated by, from 1 to 5: one a line, such as helpfulness, honesty, harmlessness. "
        "None: no ratings are asked for.",
    )
    reason_tags = WordsField(
        MAX_REASON_TAGS,
        label="Reasons to pick from",
        help_text="One a line, such as “more correct”. None: a comment alone.",
    )

    class Meta:
        model = Project
        fields: ClassVar = [
            "name", "overlap", "lease_seconds", "answers_per_comparison", "strengths", "ties", "all_bad", "all_good", "partial_rankings",
            "ranking_pairs", "criteria", "reason_tags", "reason_required", "comment_required", "edits",
            "qualification", "qualification_share", "qualification_attempts", "repeat_share", "languages", "guidelines",
        ]  # fmt: skip
        widgets: ClassVar = {"guidelines": forms.Textarea(attrs={"rows": 8, "dir": "auto"})}
        labels: ClassVar = {
            "overlap": "People per comparison",
            "lease_seconds": "Seconds a comparison is reserved",
            "answers_per_comparison": "Answers side by side",
            "strengths": "How much better",
            "ties": "Tie",
            "all_bad": "Both bad",
            "all_good": "Both good",
            "partial_rankings": "Rankings may leave answers out",
            "ranking_pairs": "What a ranking becomes",
            "reason_required": "A reason is needed",
            "comment_required": "A comment is needed",
            "edits": "Better answers",
            "qualification": "Qualification round",
            "qualification_share": "Share that has to be right",
            "qualification_attempts": "Attempts",
            "repeat_share": "Repeats",
            "guidelines": "What annotators should look for, in Markdown",
        }
        help_texts: ClassVar = {"guidelines": "Each change is kept as a version of its own."}

    def parts(self) -> dict[str, list[Any]]:
        """The fields under their headings."""
        return {heading: [self[name] for name in names] for heading, names in self.PARTS.items()}

    def clean(self) -> dict[str, Any]:
        said = super().clean()
        # What the instance holds was bound to the form already; the version is made from what it held before.
        self.guidelines = said.get("guidelines", "")
        return said

    def save_by(self, user: User) -> Project:
        """Save, the guidelines as a version of their own where they changed."""
        self.instance.guidelines = self.initial["guidelines"]
        project = self.save()
        save_guidelines(project, self.guidelines, user)
        return project


class NewProjectForm(forms.ModelForm):
    class Meta:
        model = Project
        fields: ClassVar = ["name", "overlap"]
        labels: ClassVar = {"name": _("Name"), "overlap": _("People per comparison")}
        help_texts: ClassVar = {"overlap": _("How many people judge each new comparison.")}


class QuestionForm(forms.Form):
    """A question of the qualification round. `prompt` is the last message; earlier ones stay as they are."""

    RIGHT: ClassVar = [
        *((letter, f"Answer {letter.upper()}") for letter in LETTERS),
        (TIE, "Tie"),
        (ALL_BAD, "All bad"),
        (ALL_GOOD, "All good"),
    ]

    prompt = forms.CharField(label="What the user says", strip=False, widget=Words(rows=3))
    right = forms.MultipleChoiceField(
        label="What counts as right",
        choices=RIGHT,
        widget=forms.CheckboxSelectMultiple,
        help_text="One or several. Ask only what nobody in their senses would dispute, such as an answer that is plainly "
        "wrong, rude or beside the point, against one that is not: where taste decides there is no right answer, and "
        "people learn to guess yours.",
    )
    explanation = forms.CharField(
        label="Why, in Markdown",
        strip=False,
        widget=Words(rows=4),
        help_text="Shown after the answer, right or wrong. The answers stand in random order, so say “the one that names "
        "a step” and not “A”.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for place, letter in enumerate(LETTERS):
            self.fields[f"answer_{letter}"] = forms.CharField(
                label=f"Answer {letter.upper()}",
                strip=False,
                required=place < MIN_CANDIDATES,
                widget=Words(rows=3),
            )
        self.order_fields(["prompt", *(f"answer_{letter}" for letter in LETTERS), "right", "explanation"])

    def first_answers(self) -> list[Any]:
        return [self[f"answer_{letter}"] for letter in LETTERS[:MIN_CANDIDATES]]

    def more_answers(self) -> list[Any]:
        return [self[f"answer_{letter}"] for letter in LETTERS[MIN_CANDIDATES:]]

    @classmethod
    def of(cls, question: QualificationQuestion) -> "QuestionForm":
        answers = zip(LETTERS, question.answers, strict=False)
        initial = {f"answer_{letter}": text for letter, text in answers}
        said = {"right": question.right, "explanation": question.explanation}
        return cls(initial={"prompt": question.messages[-1]["content"], **initial, **said})

    def build(self, project: Project, before: Sequence[dict[str, str]] = ()) -> QualificationQuestion | None:
        """The question as it was typed, behind the messages `before`; None, and errors at their fields, where it makes none."""
        said = self.cleaned_data
        answers = [said[f"answer_{letter}"] for letter in LETTERS]
        while answers and not answers[-1]:
            answers.pop()
        for letter, problem in self._problems(answers):
            self.add_error(f"answer_{letter}", problem)
        if self.errors:
            return None
        prompt = [*before, {"role": "user", "content": said["prompt"]}]
        try:
            return build_question(project, prompt, answers, said["right"], said["explanation"])
        except ValidationError as error:
            for field, problems in error.message_dict.items():
                self.add_error("answer_a" if field == "answers" else field, f"This {problems[0]}.")
        return None

    @staticmethod
    def _problems(answers: Sequence[str]) -> Iterator[tuple[str, str]]:
        """What is wrong with single answers, by their letters."""
        known: dict[str, str] = {}
        for letter, text in zip(LETTERS, answers, strict=False):
            if not text.strip():
                yield letter, "Fill this in, or clear those after it."
            elif first := known.get(same_text(text)):
                yield letter, f"This says the same as answer {first.upper()}."
            known.setdefault(same_text(text), letter)


class QuestionsFileForm(forms.Form):
    file = forms.FileField(label="JSONL file", help_text="One JSON object a line, UTF-8.")

    def clean_file(self) -> Any:
        file = self.cleaned_data["file"]
        if file.size > MAX_QUESTIONS_BYTES:
            raise ValidationError(f"This file is above 20 MB; a round has at most {MAX_QUESTIONS} questions.")
        return file


class GuidelinesForm(NoticesOthers, forms.Form):
    guidelines = forms.CharField(
        label=_("Guidelines"),
        required=False,
        strip=False,
        widget=forms.Textarea(attrs={"rows": 18, "dir": "auto"}),
    )


class PersonForm(forms.Form):
    """Put a person into a project. A name that nobody has yet becomes a new account."""

    username = forms.CharField(
        max_length=150,
        validators=[UnicodeUsernameValidator()],
        help_text="An existing account joins; a new name gets an account and a password, shown once.",
    )
    role = forms.ChoiceField(choices=Membership.Role.choices, initial=Membership.Role.ANNOTATOR)


class RoleForm(forms.Form):
    role = forms.ChoiceField(choices=[*Membership.Role.choices, ("leave", "not in the project")])


class DecisionForm(forms.Form):
    decision = forms.ChoiceField(choices=QualificationDecision.Decision.choices)


class QualificationForm(forms.Form):
    """One answer of the round; `side` counts the answers as shown, from 0."""

    given = forms.IntegerField(min_value=1, max_value=2**63 - 1)
    verdict = forms.ChoiceField(choices=Judgment.Verdict.choices)
    side = forms.IntegerField(required=False, min_value=0)
    strength = forms.IntegerField(required=False, min_value=1, max_value=3)
    seconds_spent = SecondsField()


class UploadForm(forms.Form):
    KINDS: ClassVar = [("prompts", "Prompts"), ("comparisons", "Comparisons, judged or not")]

    kind = forms.ChoiceField(choices=KINDS, label="What is in the file")
    file = forms.FileField(label="JSONL file", help_text="One JSON object a line, UTF-8.")
    skip_bad = forms.BooleanField(required=False, label="Take the good lines even if some are bad")

    def clean_file(self) -> Any:
        file = self.cleaned_data["file"]
        if file.size > MAX_UPLOAD_BYTES:
            raise ValidationError(
                "Files above 200 MB are imported on the server: manage.py import_prompts FILE --project NAME."
            )
        return file


class LanguageForm(forms.ModelForm):
    """In which language a person reads our pages; empty: as the browser asks."""

    class Meta:
        model = User
        fields: ClassVar = ["language"]
        widgets: ClassVar = {"language": forms.RadioSelect}


class KeysForm(forms.Form):
    """The keys of a person's desk, a field for each act; an empty one means the usual key."""

    def __init__(self, user: User, data: QueryDict | None = None) -> None:
        super().__init__(data)
        self.user = user
        for name, key in as_written(keys_with(user.own_keys)).items():
            widget = forms.TextInput(attrs={"size": 2, "autocomplete": "off", "autocapitalize": "off"})
            help_text = (
                _("usually %(key)s") % {"key": as_written(USUAL)[name]} if name in user.own_keys else ""
            )
            self.fields[name] = forms.CharField(
                label=ACTS[name].name,
                initial=key,
                required=False,
                max_length=40,
                widget=widget,
                help_text=help_text,
            )

    def groups(self) -> list[tuple[Any, list[Any]]]:
        """The fields under their headings."""
        return [(heading, [self[name] for name in acts]) for heading, acts in GROUPS]

    def clean(self) -> dict[str, Any]:
        said = super().clean()
        unknown = self.data.keys() - self.fields.keys() - {"csrfmiddlewaretoken"}
        self.own_keys = own_keys({name: key for name, key in said.items() if key})
        for name, sentence in problems(self.own_keys | dict.fromkeys(unknown, "")).items():
            self.add_error(name if name in self.fields else None, sentence)
        return said

    def save(self) -> None:
        self.user.own_keys = self.own_keys
        self.user.save(update_fields=["own_keys"])


class TokenForm(forms.Form):
    LIFETIMES: ClassVar = [
        ("7", _("a week")),
        ("30", _("30 days")),
        ("90", _("90 days")),
        ("365", _("a year")),
    ]

    lifetime = forms.TypedChoiceField(choices=LIFETIMES, coerce=int, initial="90", label=_("Works for"))
