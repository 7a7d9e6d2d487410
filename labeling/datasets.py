"""Frozen dataset versions: a filter, the preferences that it found, and the files made from them."""

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

from django.core.exceptions import ValidationError
from django.db import connection, transaction
from django.db.models import Max

from config.storage import put_file
from labeling.exports import read_rows
from labeling.filters import PreferenceFilter
from labeling.models import DatasetEntry, DatasetVersion, Preference, Project, User

SPLITS = ("train", "eval")
LOCK_NAMESPACE = 7_301


@transaction.atomic
def freeze(
    project: Project, created_by: User | None = None, filter: dict[str, Any] | None = None
) -> DatasetVersion:
    """Freeze the project's current preferences, or those that a PreferenceFilter finds, as a new version.

    A prompt's preferences are all in the train file or all in the eval file. Equal content is stored once.
    Raises ValidationError for a filter that makes no sense or finds nothing.
    """
    wanted = PreferenceFilter.parse(filter or {})
    _one_at_a_time(project)
    last = project.dataset_versions.aggregate(last=Max("number"))["last"] or 0
    version = DatasetVersion.objects.create(
        project=project, number=last + 1, filter=wanted.as_json(), created_by=created_by
    )
    if not _add_entries(version, wanted):
        raise ValidationError({"filter": "There are no preferences to freeze yet."})
    for split in SPLITS:
        name, sha256, count = _write_file(version, split)
        setattr(version, f"{split}_file", name)
        setattr(version, f"{split}_sha256", sha256)
        setattr(version, f"{split}_count", count)
    version.save(
        update_fields=[f"{split}_{part}" for split in SPLITS for part in ("file", "sha256", "count")]
    )
    return version


def freeze_if_changed(project: Project, created_by: User | None = None) -> tuple[DatasetVersion, bool]:
    """Freeze the project's current preferences, unless its newest version holds exactly these.

    Returns the version that holds them, and whether it is a new one. Raises as `freeze` does.
    """
    with transaction.atomic():
        version = freeze(project, created_by)
        before = project.dataset_versions.filter(number=version.number - 1).first()
        if before is None or _content(before) != _content(version):
            return version, True
        transaction.set_rollback(True)
    return before, False


def _content(version: DatasetVersion) -> tuple[str, str]:
    return version.train_sha256, version.eval_sha256


def _one_at_a_time(project: Project) -> None:
    """Wait for another freeze of the same project, so that numbers follow each other."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", [LOCK_NAMESPACE, project.pk % 2**31])


def _add_entries(version: DatasetVersion, wanted: PreferenceFilter) -> int:
    found, parameters = (
        wanted.select(version.project)
        .order_by("id")
        .values_list("id", "prompt__split")
        .query.sql_with_params()
    )
    table = DatasetEntry._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {table} (version_id, preference_id, split) "
            f"SELECT %s, found.id, found.split FROM ({found}) AS found (id, split)",
            [version.pk, *parameters],
        )
        return cursor.rowcount


def _write_file(version: DatasetVersion, split: str) -> tuple[str, str, int]:
    """Write one side of a version. Returns its name in the storage, its SHA-256 and its number of rows."""
    entries = DatasetEntry.objects.filter(version=version, split=split).values("preference")
    rows = read_rows(version.project, Preference.objects.filter(pk__in=entries).order_by("id"))
    digest, count = hashlib.sha256(), 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{split}.jsonl"
        with path.open("wb") as file:
            for count, row in enumerate(rows, start=1):  # noqa: B007 - the last count is the result
                line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
                digest.update(line)
                file.write(line)
        return put_file(path, "datasets"), digest.hexdigest(), count
