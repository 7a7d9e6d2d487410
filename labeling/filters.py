"""Which preferences to take: the few questions that may be asked, and nothing that names a column."""

from datetime import datetime
from typing import Any, Literal

import pydantic
from django.core.exceptions import ValidationError
from django.db.models import Q
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from labeling.models import Preference, Project
from labeling.models.work import PreferenceQuerySet


class PreferenceFilter(BaseModel):
    """Which of a project's current preferences are wanted."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    since: AwareDatetime | None = Field(None, description="Judged at this time or later.")
    until: AwareDatetime | None = Field(None, description="Judged before this time.")
    ties: Literal["include", "exclude"] = Field("include", description="Whether ties are wanted.")
    split: Literal["train", "eval"] | None = Field(None, description="Only this side of the split.")
    tags: list[str] = Field([], description="Only prompts with one of these tags.")
    authors: list[str] = Field([], description="Only pairs of which both completions are by these authors.")
    annotators: list[str] = Field([], description="Only judgments by these pseudonyms.")

    @classmethod
    def parse(cls, values: dict[str, Any]) -> "PreferenceFilter":
        """Raises Django's ValidationError, which names the field."""
        try:
            return cls.model_validate(values)
        except pydantic.ValidationError as error:
            raise ValidationError(_sentences(error)) from None

    def as_json(self) -> dict[str, Any]:
        """What was asked for, without what was left as it is."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def select(self, project: Project) -> PreferenceQuerySet:
        rows = Preference.objects.current().filter(self._times(), project=project)
        if self.ties == "exclude":
            rows = rows.filter(tie=False)
        if self.split:
            rows = rows.filter(prompt__split=self.split)
        if self.tags:
            rows = rows.filter(prompt__tags__overlap=self.tags)
        if self.authors:
            rows = rows.filter(chosen__author__in=self.authors, rejected__author__in=self.authors)
        if self.annotators:
            people = project.memberships.filter(pseudonym__in=self.annotators).values("user")
            rows = rows.filter(judgment__annotator__in=people)
        return rows

    def _times(self) -> Q:
        since: datetime | None = self.since
        condition = Q(judgment__created_at__gte=since) if since else Q()
        return condition & Q(judgment__created_at__lt=self.until) if self.until else condition


def _sentences(error: pydantic.ValidationError) -> dict[str, str]:
    problems = {}
    for problem in error.errors():
        field = str(problem["loc"][0]) if problem["loc"] else "filter"
        unknown = problem["type"] == "extra_forbidden"
        problems[field] = "is not something to filter by" if unknown else problem["msg"]
    return problems
