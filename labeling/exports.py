"""What people said out, as JSON lines, in constant memory however much it is."""

import itertools
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce

from labeling.filters import PreferenceFilter
from labeling.models import Candidate, DatasetEntry, Edit, Judgment, Project, QualificationAnswer
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


def stream_judgments(project: Project, after: int = 0) -> Iterator[bytes]:
    """Return all that people's standing answers say, repeats among them, as JSON lines ordered by id.

    Candidates go by their positions: `completions`, `authors`, `ranking` and `ratings` count them in the same order, and
    `sides` says in which one they were shown. What is not said is "", 0 or empty. after: the id of the last row that
    was received.
    """
    pseudonyms = _pseudonyms(project)
    columns = {
        "id": "id",
        "prompt": "comparison__prompt__messages",
        "verdict": "verdict",
        "ranking": "ranking",
        "strength": "strength",
        "reason": "reason",
        "reason_tags": "reason_tags",
        "ratings": "ratings",
        "edit": "edit__completion__text",
        "annotator": "annotator_id",
        "sides": "assignment__sides",
        "seconds_spent": "seconds_spent",
        "judged_at": "created_at",
        "revision": "revision",
        "guidelines": "guidelines_number",
        "prompt_id": "comparison__prompt_id",
        "split": "comparison__prompt__split",
        "comparison": "comparison_id",
        "repeat_of": "comparison__repeats__comparison_id",
    }
    judgments = Judgment.objects.current().filter(comparison__project=project, id__gt=after).order_by("id")
    for rows in _chunks(judgments, columns):
        texts, authors = _candidates({row["comparison"] for row in rows}, "text", "author")
        for row in rows:
            _fill(row, pseudonyms)
            row["completions"], row["authors"] = texts[row["comparison"]], authors[row["comparison"]]
            names = dict.fromkeys([*project.criteria, *row["ratings"]])
            row["ratings"] = {name: row["ratings"].get(name, []) for name in names}
            row["ranking"], row["edit"] = row["ranking"] or [], row["edit"] or ""
            row["strength"] = row["strength"] or 0
            row["judged_at"] = _iso(row["judged_at"])
            yield _line(row)


def stream_demonstrations(project: Project, after: int = 0, split: str = "") -> Iterator[bytes]:
    """Return the better answers that stand, as JSON lines for supervised fine-tuning, ordered by id.

    What a person wrote twice, as when asked again, is there once. after: the id of the last row that was received.
    split: train or eval; none is both.
    """
    pseudonyms = _pseudonyms(project)
    columns = {
        "id": "id",
        "prompt": "judgment__comparison__prompt__messages",
        "completion": "completion__text",
        "original": "original__text",
        "annotator": "judgment__annotator_id",
        "original_author": "original__author",
        "original_side": "original_id",
        "sides": "judgment__assignment__sides",
        "seconds_spent": "judgment__seconds_spent",
        "written_at": "created_at",
        "prompt_id": "judgment__comparison__prompt_id",
        "split": "judgment__comparison__prompt__split",
        "comparison": "judgment__comparison_id",
        "judgment": "judgment_id",
        "repeat_of": REPEAT_OF,
    }
    edits = (
        Edit.objects.current()
        .once()
        .filter(judgment__comparison__project=project, id__gt=after)
        .order_by("id")
    )
    if split:
        edits = edits.filter(judgment__comparison__prompt__split=split)
    for rows in _chunks(edits, columns):
        positions = _positions({row["comparison"] for row in rows})
        for row in rows:
            _fill(row, pseudonyms)
            row["original_side"] = row.pop("sides").index(positions[row["comparison"], row["original_side"]])
            row["written_at"] = _iso(row["written_at"])
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
    for rows in _chunks(project.put_aside.filter(id__gt=after).order_by("id"), columns):
        (texts,) = _candidates({row["comparison"] for row in rows}, "text")
        for row in rows:
            _fill(row, pseudonyms)
            row["at"] = _iso(row["at"])
            row["completions"] = texts[row["comparison"]]
            yield _line(row)


def stream_qualification(project: Project, after: int = 0) -> Iterator[bytes]:
    """Return what people said to the questions of the qualification round, as JSON lines ordered by id.

    No judgments: what was right was known before, and nothing learns from them. after: the id of the last row that was
    received, to go on with a stream that was cut; answers have ids from when their attempt began.
    """
    columns = {
        "id": "id",
        "question": "question_id",
        "prompt": "question__messages",
        "completions": "question__answers",
        "known": "question__right",
        "said": "said",
        "right": "right",
        "strength": "strength",
        "annotator": "attempt__member__pseudonym",
        "attempt": "attempt__number",
        "sides": "sides",
        "seconds_spent": "seconds_spent",
        "answered_at": "answered_at",
    }
    given = QualificationAnswer.objects.filter(
        attempt__member__project=project, answered_at__isnull=False, id__gt=after
    ).order_by("id")
    for rows in _chunks(given, columns):
        for row in rows:
            row["strength"] = row["strength"] or 0
            row["seconds_spent"] = row["seconds_spent"] or 0.0
            row["answered_at"] = _iso(row["answered_at"])
            yield _line(row)


def _chunks(rows: QuerySet[Any], columns: dict[str, str]) -> Iterator[list[Row]]:
    """The rows under the columns' names, some at a time; a cursor in a transaction reads as it goes."""
    with transaction.atomic():
        read = rows.values_list(*columns.values()).iterator(chunk_size=ROWS_AT_A_TIME)
        while chunk := list(itertools.islice(read, ROWS_AT_A_TIME)):
            yield [dict(zip(columns, value, strict=True)) for value in chunk]


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
    for rows in _chunks(preferences, columns | {"sides": "judgment__assignment__sides"}):
        positions = _positions({row["comparison"] for row in rows})
        for row in rows:
            _fill(row, pseudonyms)
            sides = row.pop("sides")
            places = [positions.get((row["comparison"], row[f"{side}_side"])) for side in PAIR]
            row["criteria"] = _criteria(project, row["criteria"], places)
            for side, place in zip(PAIR, places, strict=True):
                row[f"{side}_side"] = UNSEEN if place is None else sides.index(place)
            row["judged_at"] = _iso(row["judged_at"])
            yield row


def _fill(row: Row, pseudonyms: dict[int, str]) -> None:
    """What every row of a person's work has, without nulls."""
    row["annotator"] = pseudonyms.get(row["annotator"], "")
    row["seconds_spent"] = row["seconds_spent"] or 0.0
    row["repeat_of"] = row["repeat_of"] or 0


def _pseudonyms(project: Project) -> dict[int, str]:
    return dict(project.memberships.values_list("user_id", "pseudonym"))


def _candidates(comparisons: set[int], *columns: str) -> list[dict[int, list[str]]]:
    """Of each comparison what its completions hold in each column, by position."""
    found: list[dict[int, list[str]]] = [defaultdict(list) for _ in columns]
    candidates = Candidate.objects.filter(comparison__in=comparisons).order_by("comparison", "position")
    names = [f"completion__{column}" for column in columns]
    for comparison, *values in candidates.values_list("comparison_id", *names):
        for held, value in zip(found, values, strict=True):
            held[comparison].append(value)
    return found


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


# By the names of their addresses and of `manage.py export`; each takes the project and `after`.
STREAMS = {
    "preferences": stream_preferences,
    "judgments": stream_judgments,
    "demonstrations": stream_demonstrations,
    "put-aside": stream_put_aside,
    "qualification": stream_qualification,
}
