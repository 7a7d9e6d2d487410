"""Prompts and completions: what people are shown. Neither ever changes once stored."""

import hashlib
import json
from typing import Any

from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q

from labeling.models.projects import Project

EVAL_SHARE = 0.25
MAX_TEXT_LENGTH = 1_000_000
ROLES = ("system", "user", "assistant")

Message = dict[str, str]


def clean_text(text: Any, field: str) -> str:
    """Return text that the database can keep, or raise ValidationError for `field` with the reason."""
    if not isinstance(text, str):
        raise ValidationError({field: f"must be a text, not {type(text).__name__}"})
    if not text.strip():
        raise ValidationError({field: "is empty"})
    if len(text) > MAX_TEXT_LENGTH:
        raise ValidationError({field: f"has {len(text)} characters; at most {MAX_TEXT_LENGTH} are kept"})
    if "\x00" in text:
        raise ValidationError({field: "contains a NUL character, which the database cannot keep"})
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValidationError({field: "contains half of a surrogate pair, which is not text"}) from None
    return text


def clean_messages(prompt: Any, field: str = "prompt") -> list[Message]:
    """Return a prompt as chat messages; a text is one message from the user.

    The last message is the user's, since a completion answers it. Raises ValidationError for `field`.
    """
    if isinstance(prompt, str):
        return [{"role": "user", "content": clean_text(prompt, field)}]
    if not isinstance(prompt, list) or not prompt:
        raise ValidationError({field: "must be a text or a list of messages"})
    messages = [_clean_message(message, number, field) for number, message in enumerate(prompt, start=1)]
    if messages[-1]["role"] != "user":
        raise ValidationError({field: "must end with a message from the user"})
    return messages


def _clean_message(message: Any, number: int, field: str) -> Message:
    if not isinstance(message, dict) or set(message) != {"role", "content"}:
        raise ValidationError({field: f"message {number} must have exactly the keys role and content"})
    if message["role"] not in ROLES:
        raise ValidationError({field: f"message {number} has a role other than {', '.join(ROLES)}"})
    try:
        content = clean_text(message["content"], field)
    except ValidationError as error:
        raise ValidationError({field: f"message {number} {error.message_dict[field][0]}"}) from None
    return {"role": message["role"], "content": content}


def content_hash(messages: list[Message]) -> str:
    """Return the SHA-256 of the messages' canonical JSON, in hexadecimal."""
    canonical = json.dumps(messages, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def text_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def split_of(hexadecimal_hash: str) -> str:
    """Say on which side of the split a prompt falls: by its content alone, in every project alike."""
    return "eval" if int(hexadecimal_hash[:16], 16) < EVAL_SHARE * 2**64 else "train"


class PromptQuerySet(models.QuerySet["Prompt"]):
    def add(
        self, project: Project, prompt: Any, external_id: str | None = None, tags: list[str] = ()
    ) -> "Prompt":
        """Return the project's prompt with this content, made if it was not there."""
        fresh = Prompt.build(project, prompt, external_id, tags)
        stored, _ = self.get_or_create(
            project=project,
            content_hash=fresh.content_hash,
            defaults={
                "messages": fresh.messages,
                "external_id": fresh.external_id,
                "tags": fresh.tags,
                "split": fresh.split,
            },
        )
        return stored


class Prompt(models.Model):
    class Split(models.TextChoices):
        TRAIN = "train", "train"
        EVAL = "eval", "eval"

    project = models.ForeignKey(Project, on_delete=models.CASCADE, db_index=False, related_name="prompts")
    messages = models.JSONField(help_text="Chat messages, oldest first: a list of {role, content}.")
    content_hash = models.CharField(max_length=64, editable=False)
    external_id = models.CharField(max_length=200, null=True, blank=True)
    tags = ArrayField(models.CharField(max_length=100), default=list, blank=True)
    split = models.CharField(max_length=5, choices=Split, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = PromptQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["project", "content_hash"], name="prompt_once_per_project"),
            models.UniqueConstraint(
                fields=["project", "external_id"],
                condition=Q(external_id__isnull=False),
                name="prompt_external_id_unique",
            ),
            models.CheckConstraint(condition=Q(split__in=["train", "eval"]), name="prompt_split_known"),
            # Target of the foreign key that keeps a comparison and its prompt in one project.
            models.UniqueConstraint(fields=["id", "project"], name="prompt_id_and_project"),
        ]
        indexes = [models.Index(fields=["project", "id"], name="prompt_by_project")]

    def __str__(self) -> str:
        return self.text[:80]

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self.content_hash:
            self.messages = clean_messages(self.messages, "messages")
            self.content_hash = content_hash(self.messages)
            self.split = split_of(self.content_hash)
        super().save(*args, **kwargs)

    @classmethod
    def build(
        cls, project: Project, prompt: Any, external_id: str | None = None, tags: list[str] = ()
    ) -> "Prompt":
        """Make a prompt, not yet saved, from a text or messages; ValidationError says what is wrong."""
        messages = clean_messages(prompt)
        fingerprint = content_hash(messages)
        return cls(
            project=project,
            messages=messages,
            content_hash=fingerprint,
            external_id=external_id or None,
            tags=list(tags),
            split=split_of(fingerprint),
        )

    @property
    def text(self) -> str:
        """The last message of the user: what a completion answers."""
        return next((m["content"] for m in reversed(self.messages) if m["role"] == "user"), "")


class CompletionQuerySet(models.QuerySet["Completion"]):
    def add(self, prompt: Prompt, text: str, author: str) -> "Completion":
        """Return the author's completion with this text, made if it was not there."""
        fresh = Completion.build(prompt, text, author)
        stored, _ = self.get_or_create(
            prompt=prompt, author=fresh.author, text_hash=fresh.text_hash, defaults={"text": fresh.text}
        )
        return stored


class Completion(models.Model):
    """An answer to a prompt. `author` names who wrote it: a model version, an imported model, a person."""

    prompt = models.ForeignKey(Prompt, on_delete=models.CASCADE, db_index=False, related_name="completions")
    text = models.TextField()
    author = models.CharField(max_length=200, blank=True)
    text_hash = models.CharField(max_length=64, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = CompletionQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["prompt", "author", "text_hash"], name="completion_once_per_author"
            ),
        ]

    def __str__(self) -> str:
        return self.text[:80]

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self.text_hash:
            self.text_hash = text_hash(self.text)
        super().save(*args, **kwargs)

    @classmethod
    def build(cls, prompt: Prompt, text: Any, author: str = "", field: str = "text") -> "Completion":
        """Make a completion, not yet saved. An empty text is allowed: a model may answer nothing."""
        text = clean_text(text, field) if text != "" else ""
        return cls(prompt=prompt, text=text, author=author, text_hash=text_hash(text))
