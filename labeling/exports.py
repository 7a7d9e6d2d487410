"""Preferences out, as JSON lines, in constant memory however many there are."""

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import OuterRef, Subquery
from django.db.models.functions import Coalesce

from labeling.filters import PreferenceFilter
from labeling.models import DatasetEntry, Project
from labeling.models.work import PreferenceQuerySet

ROWS_AT_A_TIME = 1000

Row = dict[str, Any]


def stream_preferences(project: Project, after: int = 0, **filters: Any) -> Iterator[bytes]:
    """Return the project's current preferences as JSON lines, ordered by id.

    after: the id of the last row that was received; the stream goes on behind it. `filters` are those of
    PreferenceFilter; ties are left out unless ties="include". Raises ValidationError before the first row.
    """
    wanted = PreferenceFilter.parse({"ties": "exclude"} | filters)
    rows = wanted.select(project).filter(id__gt=after).order_by("id")
    latest = DatasetEntry.objects.filter(preference=OuterRef("pk")).order_by("-version__number")
    rows = rows.annotate(dataset_version=Coalesce(Subquery(latest.values("version__number")[:1]), 0))
    return _lines(read_rows(project, rows, "dataset_version"))


def read_rows(project: Project, preferences: PreferenceQuerySet, *more: str) -> Iterator[Row]:
    """Read preferences through a server-side cursor, as rows that all have the same keys and types.

    What is not known is "" or 0 rather than null, since loaders guess a column's type from its first rows.
    Annotators appear under their pseudonyms. more: annotations to add to each row.
    """
    pseudonyms = dict(project.memberships.values_list("user_id", "pseudonym"))
    columns = {
        "id": "id",
        "prompt": "prompt__messages",
        "chosen": "chosen__text",
        "rejected": "rejected__text",
        "tie": "tie",
        "both_bad": "both_bad",
        "strength": "strength",
        "weight": "weight",
        "annotator": "judgment__annotator_id",
        "chosen_author": "chosen__author",
        "rejected_author": "rejected__author",
        "reason": "judgment__reason",
        "seconds_spent": "judgment__seconds_spent",
        "judged_at": "judgment__created_at",
        "prompt_id": "prompt_id",
        "split": "prompt__split",
        "comparison": "judgment__comparison_id",
        "judgment": "judgment_id",
    } | {name: name for name in more}
    values = preferences.values_list(*columns.values())
    with transaction.atomic():  # a cursor inside a transaction reads as it goes; one outside reads all first
        for value in values.iterator(chunk_size=ROWS_AT_A_TIME):
            row = dict(zip(columns, value, strict=True))
            row["annotator"] = pseudonyms.get(row["annotator"], "")
            row["seconds_spent"] = row["seconds_spent"] or 0.0
            row["judged_at"] = _iso(row["judged_at"])
            yield row


def _lines(rows: Iterator[Row]) -> Iterator[bytes]:
    return (json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def _iso(time: datetime) -> str:
    return time.isoformat(timespec="microseconds").replace("+00:00", "Z")
