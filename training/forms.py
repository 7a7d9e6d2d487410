"""Forms: a run's, made from the engine's description of its config; the loop's; the schedules'."""

from __future__ import annotations

import json
import zoneinfo
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from django import conf, forms
from django.core.exceptions import ValidationError
from django.core.files.uploadedfile import UploadedFile
from pydantic import ValidationError as InvalidConfig
from pydantic.fields import FieldInfo

from labeling.models import DatasetVersion, Project, User
from training import choices, runs
from training.engine.config import METHODS, explain
from training.models import LoopSettings, Run

ESSENTIALS = {
    "sft": ("epochs", "batch_size", "learning_rate", "seed"),
    "reward": ("epochs", "batch_size", "learning_rate", "seed"),
    "ppo": ("steps", "batch_size", "kl_budget_nats", "learning_rate", "seed"),
    "grpo": ("steps", "batch_size", "samples_per_prompt", "kl_budget_nats", "learning_rate", "seed"),
    "rloo": ("steps", "batch_size", "samples_per_prompt", "kl_budget_nats", "learning_rate", "seed"),
    "dpo": ("epochs", "batch_size", "beta", "learning_rate", "seed"),
    "generate": ("samples_per_prompt", "temperatures", "max_completion_tokens", "seed"),
    "score": ("micro_batch_tokens",),
    "evaluate": ("samples_per_prompt", "temperature", "seed"),
}
CHOICE_WORDS = {
    "model": ("Model", "The version to start from."),
    "reference_model": ("Reference", "The policy that KL is measured against; empty takes the model itself."),
    "baseline_model": ("Baseline", "The policy to compare with."),
    "reward_model": ("Reward model", "The judge."),
    "held_out_reward_model": (
        "Held-out reward model",
        "Another judge, which is only watched: where the reward rises and its score falls, the run stops.",
    ),
    "second_judge_model": ("Second judge", "Another reward model, for a win rate of its own."),
    "dataset": ("Dataset version", "Frozen preferences, with their held-out part."),
    "prompts": (
        "Prompts",
        "Held-out prompts are for measuring: what was trained on them cannot be measured any more.",
    ),
    "completions_of": ("Completions of", "A finished run that sampled."),
    "better_answers": ("Better answers that annotators wrote", ""),
    "demonstrations": (
        "Demonstrations",
        "A file of JSON Lines with prompt and completion; or the above alone.",
    ),
}


class RunForm(forms.Form):
    """Everything that can be set for a run of one method."""

    def __init__(self, project: Project, method: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.project, self.method = project, method
        initial = choices.defaults(project, method)
        for name in choices.CHOICES[method]:
            self.fields[f"choose_{name}"] = choice_field(project, method, name, initial.get(name))
        for name in choices.settings_of(method):
            self.fields[name] = setting_field(name, METHODS[method].model_fields[name])

    def chosen_fields(self) -> list[forms.BoundField]:
        return [self[f"choose_{name}"] for name in choices.CHOICES[self.method]]

    def essential_fields(self) -> list[forms.BoundField]:
        return [self[name] for name in ESSENTIALS[self.method]]

    def advanced_fields(self) -> list[forms.BoundField]:
        return [
            self[name] for name in choices.settings_of(self.method) if name not in ESSENTIALS[self.method]
        ]

    def advanced_errors(self) -> bool:
        return any(field.errors for field in self.advanced_fields())

    def start(self, user: User) -> Run | None:
        """Start the run, or say at the right field why the engine refuses its settings."""
        said = self.cleaned_data
        settings = {name: said[name] for name in choices.settings_of(self.method) if said[name] is not None}
        chosen = {name: said[f"choose_{name}"] for name in choices.CHOICES[self.method]}
        try:
            return choices.start_run(self.project, self.method, settings, chosen, user)
        except runs.RunRefused as reason:
            field, _, words = str(reason).partition(": ")
            place = next((name for name in (field, f"choose_{field}") if name in self.fields), None)
            if place is None and (part := field.split(".")[0]) in self.fields:  # such as rewards.0.weight
                place, words = part, str(reason)
            self.add_error(place, words if place else str(reason))
            return None


def choice_field(project: Project, method: str, name: str, initial: Any) -> forms.Field:
    label, help_text = CHOICE_WORDS[name]
    common = {
        "label": label,
        "help_text": help_text,
        "initial": initial,
        "required": (method, name) not in choices.OPTIONAL,
    }
    if name == "prompts":
        return forms.ChoiceField(choices=[(key, words) for key, words in choices.SPLITS.items()], **common)
    if name == "demonstrations":
        return DemonstrationsField(**common)
    if name == "better_answers":
        written = choices.better_answers(project).count()
        words = f"{written} to training prompts stand now." if written else "Nobody has written one yet."
        return forms.BooleanField(**common | {"help_text": words, "disabled": not written})
    if name == "dataset":
        rows = DatasetVersion.objects.filter(project=project).order_by("-number")
    elif name == "completions_of":
        rows = choices.sampled_runs(project)
    else:
        rows = choices.versions(project, method, name)
    return forms.ModelChoiceField(
        rows, empty_label="none" if rows.exists() else "there is none yet", **common
    )


class DemonstrationsField(forms.FileField):
    def clean(self, data: UploadedFile | None, initial: Any = None) -> UploadedFile | None:
        file = super().clean(data, initial)
        if file and not file.name.endswith((".jsonl", ".json")):
            raise ValidationError("Give a file of JSON Lines, named .jsonl.")
        return file


def setting_field(name: str, described: FieldInfo) -> forms.Field:
    """A form field from one field of the engine's config: type, range, default and description."""
    annotation, optional = without_none(described.annotation)
    default = described.get_default()
    common = {
        "label": words_of(name),
        "help_text": described.description.replace(" null ", " empty ")
        if optional
        else described.description,
        "initial": default,
        "required": not optional and annotation is not bool,
    }
    if annotation is bool:
        return forms.BooleanField(**common)
    if get_origin(annotation) is Literal:
        return forms.ChoiceField(choices=[(value, value) for value in get_args(annotation)], **common)
    if annotation is int:
        return forms.IntegerField(**limits(described), **common)
    if annotation is float:
        return forms.FloatField(
            widget=forms.NumberInput(attrs={"step": "any"}), **limits(described), **common
        )
    if get_origin(annotation) is tuple and get_args(annotation)[0] is str:
        return WordsField(**common | {"initial": ", ".join(default), "required": False})
    if name == "rewards":
        return TermsField(**common | {"initial": [], "required": False})
    if get_origin(annotation) is tuple:
        common["initial"] = ", ".join(f"{value:g}" for value in default)
        return NumbersField(**common)
    if name == "server":
        return ServerField(**common)
    return forms.CharField(empty_value=None if optional else "", **common)


def words_of(name: str) -> str:
    """`kl_budget_nats` as people write it."""
    words = name.replace("_", " ")
    return (words[0].upper() + words[1:]).replace("Kl ", "KL ").replace(" kl ", " KL ")


class NumbersField(forms.CharField):
    """Numbers with commas between them."""

    def to_python(self, value: Any) -> list[float] | None:
        words = [word.strip() for word in super().to_python(value).split(",") if word.strip()]
        try:
            return [float(word) for word in words]
        except ValueError:
            raise ValidationError("Give numbers with commas between them, such as 0.7, 1.0.") from None


class ServerField(forms.TypedChoiceField):
    """One of the servers that the operator has listed, or none."""

    def __init__(self, **options: Any) -> None:
        servers = [(url, url) for url in conf.settings.GENERATION_SERVERS]
        help_text = (
            "Which of the servers that the operator has listed writes the completions; name its model too."
        )
        super().__init__(
            choices=[("", "none: sample here"), *servers],
            empty_value=None,
            error_messages={"invalid_choice": "Only servers that the operator has listed can be asked."},
            **options | {"help_text": help_text},
        )


class TermsField(forms.JSONField):
    """Terms of a reward as a JSON list, docs/rewards.md; none is as good as any."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            widget=forms.Textarea(attrs={"rows": 4, "spellcheck": "false", "class": "mono"}), **options
        )

    def clean(self, value: Any) -> list[Any]:
        terms = super().clean(value)
        if terms and not isinstance(terms, list):
            raise ValidationError('Give a list of terms, such as [{"kind": "length", "weight": 0.1}].')
        return terms or []


class WordsField(forms.CharField):
    """Names with commas between them; none is as good as any."""

    def to_python(self, value: Any) -> list[str]:
        return [word.strip() for word in super().to_python(value).split(",") if word.strip()]


def without_none(annotation: Any) -> tuple[Any, bool]:
    """`float | None` is a float that may be left empty."""
    if get_origin(annotation) in (Union, UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        return kinds[0], len(kinds) < len(get_args(annotation))
    return annotation, False


def limits(described: FieldInfo) -> dict[str, Any]:
    """The bounds that a browser can check too; an open bound is left to the engine."""
    found = {}
    for part in described.metadata:
        if (least := getattr(part, "ge", None)) is not None:
            found["min_value"] = least
        if (most := getattr(part, "le", None)) is not None:
            found["max_value"] = most
    return found


class LoopForm(forms.ModelForm):
    """How the loop turns; the engine's own settings are given as JSON, and checked by the engine's config."""

    class Meta:
        model = LoopSettings
        fields = [
            "comparisons_per_round",
            "candidates_per_prompt",
            "first_policy_share",
            "eval_share",
            "marked_share",
            "policy_method",
            "train_held_out_reward",
            "reserved_share",
            "kl_budget_nats",
            "start_from_first",
            "minimum_accuracy_bound",
            "minimum_held_out_pairs",
            "minimum_win_rate_bound",
            "maximum_identical_share",
            "minimum_ended_share",
            "continuous",
            "overrides",
        ]
        widgets = {"overrides": forms.Textarea(attrs={"rows": 8, "spellcheck": "false", "class": "mono"})}
        labels = {
            "eval_share": "Share on held-out prompts",
            "first_policy_share": "Share of the first policy",
            "marked_share": "Share of marked samples",
            "policy_method": "Method",
            "train_held_out_reward": "Train a held-out reward model",
            "reserved_share": "Prompts for one reward model alone",
            "kl_budget_nats": "KL budget, nats",
            "start_from_first": "Start each round from the first policy",
            "minimum_accuracy_bound": "Accuracy, lower bound",
            "minimum_held_out_pairs": "Held-out pairs",
            "minimum_win_rate_bound": "Win rate, lower bound",
            "maximum_identical_share": "Identical answers, at most",
            "minimum_ended_share": "Answers that end, at least",
            "overrides": "Engine settings",
            "continuous": "Start the next round when one is published",
        }
        help_texts = {"continuous": ""}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial["overrides"] = self.instance.overrides
        self.fields["overrides"].encoder = _Indented

    def sections(self) -> list[tuple[str, list[forms.BoundField]]]:
        """The fields in the order of a round."""
        return [
            ("Collecting", [self[name] for name in self._meta.fields[:5]]),
            ("Training", [self[name] for name in self._meta.fields[5:10]]),
            ("Gates", [self[name] for name in self._meta.fields[10:15]]),
            ("Running", [self[name] for name in self._meta.fields[15:]]),
        ]

    def clean_overrides(self) -> dict[str, Any]:
        said = self.cleaned_data["overrides"] or {}
        if not isinstance(said, dict):
            raise ValidationError("Give a JSON object with a method's name for each key.")
        for method, settings in said.items():
            if method not in METHODS:
                raise ValidationError(f"There is no method {method!r}; there are {', '.join(METHODS)}.")
            check_overrides(method, settings)
        return said


class _Indented(json.JSONEncoder):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "indent": 2})


def check_overrides(method: str, settings: Any) -> None:
    """Raise ValidationError where the engine would refuse one of the settings, whatever the others are."""
    if not isinstance(settings, dict):
        raise ValidationError(f"{method}: give a JSON object of settings.")
    model = METHODS[method]
    for name in settings:
        if name in choices.NOT_SETTINGS or name not in model.model_fields:
            raise ValidationError(f"{method}: there is no setting {name} that can be given here.")
    placeholders = {
        name: name
        for name in choices.NOT_SETTINGS & set(model.model_fields)
        if name not in ("replay_data", "replay_prompts", "replay_share")
    }
    try:
        choices.check_rewards(settings.get("rewards"))
    except runs.RunRefused as reason:
        raise ValidationError(f"{method}: {reason}") from reason
    try:
        runs.check_server(model.model_validate(placeholders | settings))
    except InvalidConfig as error:
        raise ValidationError(f"{method}: {explain(error)}") from error
    except runs.RunRefused as reason:
        raise ValidationError(f"{method}: {reason}") from reason


class FirstPolicyForm(forms.Form):
    """The policy that a project's loop starts from."""

    location = forms.CharField(
        label="First policy",
        max_length=500,
        help_text="A folder on the worker's machine in the Hugging Face layout, or a hub name.",
    )


class TimeForm(forms.Form):
    """Train every day at a time."""

    at = forms.TimeField(label="Time", widget=forms.TimeInput(attrs={"type": "time"}, format="%H:%M"))
    timezone = forms.ChoiceField(
        label="Time zone",
        choices=lambda: [
            (name, name) for name in sorted(zoneinfo.available_timezones()) if "/" in name or name == "UTC"
        ],
    )
    enabled = forms.BooleanField(label="On", required=False, initial=True)


class AmountForm(forms.Form):
    """Train after so many new preferences."""

    every_preferences = forms.IntegerField(label="New preferences", min_value=1, max_value=10_000_000)
    enabled = forms.BooleanField(label="On", required=False, initial=True)
