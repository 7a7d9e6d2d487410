"""Preferences and demonstrations out, as JSON lines, in constant memory however many there are."""

import itertools
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import OuterRef, Subquery
from django.db.models.functions import Coalesce

from labeling.filters import PreferenceFilter
from labeling.models import Candidate, DatasetEntry, Edit, Project
from labeling.models.work import PreferenceQuerySet

ROWS_AT_A_TIME = 1000
PAIR = ("chosen", "rejected")
# The comparison that was asked again; of preferences only those of better answers have one: see repeats.py.
REPEAT_OF = "judgment__comparison__repeats__comparison_id"
UNSEEN = -1  # the side of a better answer, which was written and not shown

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


def stream_demonstrations(project: Project, split: str = "") -> Iterator[bytes]:
    """Return the better answers that stand, as JSON lines for supervised fine-tuning, ordered by id.

    What a person wrote twice, as when asked again, is there once. split: train or eval; none is both.
    """
    pseudonyms = _pseudonyms(project)
    columns = {
        "id": "id",
        "prompt": "judgment__comparison__prompt__messages",
        "completion": "completion__text",
        "original": "original__text",
        "annotator": "judgment__annotator_id",
        "original_author": "original__author",
        "written_at": "created_at",
        "prompt_id": "judgment__comparison__prompt_id",
        "split": "judgment__comparison__prompt__split",
        "comparison": "judgment__comparison_id",
        "judgment": "judgment_id",
        "repeat_of": REPEAT_OF,
    }
    edits = Edit.objects.current().once().filter(judgment__comparison__project=project).order_by("id")
    if split:
        edits = edits.filter(judgment__comparison__prompt__split=split)
    with transaction.atomic():
        for value in edits.values_list(*columns.values()).iterator(chunk_size=ROWS_AT_A_TIME):
            row = dict(zip(columns, value, strict=True))
            row["annotator"] = pseudonyms.get(row["annotator"], "")
            row["written_at"] = _iso(row["written_at"])
            row["repeat_of"] = row["repeat_of"] or 0
            yield _line(row)


def stream_put_aside(project: Project, after: int = 0) -> Iterator[bytes]:
    """Return what people skipped and reported, as JSON lines ordered by id.

    after: the id of the last row that was received, to go on with a stream that was cut. It finds nothing new: rows have
    the ids of their leases, and appear, and are decided on, in another order.
    """
    pseudonyms = _pseudonyms(project)
    columns = {
        "id": "id",
        "outcome": "outcome",
        "reason": "outcome_reason",
        "text": "outcome_text",
        "annotator": "annotator_id",
        "at": "outcome_at",
        "seconds_spent": "seconds_spent",
        "sides": "sides",
        "handling": "handling",
        "prompt": "comparison__prompt__messages",
        "prompt_id": "comparison__prompt_id",
        "split": "comparison__prompt__split",
        "comparison": "comparison_id",
        "repeat_of": "comparison__repeats__comparison_id",
    }
    rows = project.put_aside.filter(id__gt=after).order_by("id")
    with transaction.atomic():
        read = rows.values_list(*columns.values()).iterator(chunk_size=ROWS_AT_A_TIME)
        while chunk := list(itertools.islice(read, ROWS_AT_A_TIME)):
            found = [dict(zip(columns, value, strict=True)) for value in chunk]
            texts = _texts({row["comparison"] for row in found})
            for row in found:
                row["annotator"] = pseudonyms.get(row["annotator"], "")
                row["at"] = _iso(row["at"])
                row["seconds_spent"] = row["seconds_spent"] or 0.0
                row["repeat_of"] = row["repeat_of"] or 0
                row["completions"] = texts[row["comparison"]]
                yield _line(row)


def read_rows(project: Project, preferences: PreferenceQuerySet, *more: str) -> Iterator[Row]:
    """Read preferences through a server-side cursor, as rows that all have the same keys and types.

    What is not known is "" or 0 rather than null, since loaders guess a column's type from its first rows; but
    `criteria` holds null where there is no rating, since 0 would be the worst of them, and the names of criteria that
    were dropped since only in the rows that have them. Annotators appear under their pseudonyms. more: annotations to add to each row.
    """
    pseudonyms = _pseudonyms(project)
    columns = {
        "id": "id",
        "prompt": "prompt__messages",
        "chosen": "chosen__text",
        "rejected": "rejected__text",
        "tie": "tie",
        "both_bad": "both_bad",
        "both_good": "both_good",
        "strength": "strength",
        "weight": "weight",
        "annotator": "judgment__annotator_id",
        "chosen_author": "chosen__author",
        "rejected_author": "rejected__author",
        "chosen_side": "chosen_id",
        "rejected_side": "rejected_id",
        "criteria": "judgment__ratings",
        "reason": "judgment__reason",
        "reason_tags": "judgment__reason_tags",
        "seconds_spent": "judgment__seconds_spent",
        "judged_at": "judgment__created_at",
        "guidelines": "judgment__guidelines_number",
        "prompt_id": "prompt_id",
        "split": "prompt__split",
        "comparison": "judgment__comparison_id",
        "judgment": "judgment_id",
        "repeat_of": REPEAT_OF,
    } | {name: name for name in more}
    values = preferences.values_list(*columns.values(), "judgment__assignment__sides")
    with transaction.atomic():  # a cursor inside a transaction reads as it goes; one outside reads all first
        read = values.iterator(chunk_size=ROWS_AT_A_TIME)
        while chunk := list(itertools.islice(read, ROWS_AT_A_TIME)):
            rows = [dict(zip(columns, value, strict=False)) for value in chunk]
            positions = _positions({row["comparison"] for row in rows})
            for row, (*_, sides) in zip(rows, chunk, strict=True):
                places = [positions.get((row["comparison"], row[f"{side}_side"])) for side in PAIR]
                row["criteria"] = _criteria(project, row["criteria"], places)
                for side, place in zip(PAIR, places, strict=True):
                    row[f"{side}_side"] = UNSEEN if place is None else sides.index(place)
                row["annotator"] = pseudonyms.get(row["annotator"], "")
                row["seconds_spent"] = row["seconds_spent"] or 0.0
                row["judged_at"] = _iso(row["judged_at"])
                row["repeat_of"] = row["repeat_of"] or 0
                yield row


def _pseudonyms(project: Project) -> dict[int, str]:
    return dict(project.memberships.values_list("user_id", "pseudonym"))


def _texts(comparisons: set[int]) -> dict[int, list[str]]:
    """Of each comparison the texts of its candidates, by position."""
    texts: dict[int, list[str]] = defaultdict(list)
    candidates = Candidate.objects.filter(comparison__in=comparisons).order_by("comparison", "position")
    for comparison, text in candidates.values_list("comparison_id", "completion__text"):
        texts[comparison].append(text)
    return texts


def _positions(comparisons: set[int]) -> dict[tuple[int, int], int]:
    """Of each comparison and completion, the candidate's position."""
    candidates = Candidate.objects.filter(comparison__in=comparisons).order_by()
    return {
        (comparison, completion): position
        for comparison, completion, position in candidates.values_list(
            "comparison_id", "completion_id", "position"
        )
    }


def _criteria(
    project: Project, ratings: dict[str, list[int]], places: Sequence[int | None]
) -> dict[str, list[int | None]]:
    """Of each criterion the ratings of chosen and rejected, null where there is none, in every row alike."""
    names = dict.fromkeys([*project.criteria, *ratings])
    return {
        name: [ratings[name][place] if name in ratings and place is not None else None for place in places]
        for name in names
    }


def _lines(rows: Iterator[Row]) -> Iterator[bytes]:
    return (_line(row) for row in rows)


def _line(row: Row) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


def _iso(time: datetime) -> str:
    return time.isoformat(timespec="microseconds").replace("+00:00", "Z")
