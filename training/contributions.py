"""How much of a frozen dataset version came from whom."""

from __future__ import annotations

from django.db.models import Count, Max, Q

from labeling.models import DatasetEntry, DatasetVersion
from training.models import Contribution

TRAIN, EVAL = Q(split="train"), Q(split="eval")


def count(version: DatasetVersion) -> None:
    """Store what the version holds of each person, in one pass over it. A second time changes nothing."""
    people = (
        DatasetEntry.objects.filter(version=version)
        .values("preference__judgment__annotator")
        .annotate(
            trained=Count("preference__judgment", distinct=True, filter=TRAIN),
            held_out=Count("preference__judgment", distinct=True, filter=EVAL),
            preferences=Count("pk", filter=TRAIN),
            newest=Max("preference__judgment"),
        )
    )
    found = (
        Contribution(version=version, person_id=row.pop("preference__judgment__annotator"), **row)
        for row in people
    )
    Contribution.objects.bulk_create(found, ignore_conflicts=True, batch_size=1000)
