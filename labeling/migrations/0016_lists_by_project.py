"""The lists of a project are read by indexes that know the project.

Nobody waits for it, on large tables either: rows are filled in some thousands at a time, and indexes are made while
others write. Stopped in the middle, in either direction, it can be started again: an index that is there already,
whole or not, is made anew.
"""

from django.contrib.postgres.operations import AddIndexConcurrently, RemoveIndexConcurrently
from django.db import migrations, models
from django.db.models import Q

ROWS_AT_A_TIME = 5_000

FILL = """
WITH batch AS (
    SELECT id, comparison_id FROM labeling_assignment
     WHERE outcome = '{outcome}' AND id > %s ORDER BY id LIMIT %s),
filled AS (
    UPDATE labeling_assignment assignment SET put_aside_in_id = comparison.project_id
      FROM batch JOIN labeling_comparison comparison ON comparison.id = batch.comparison_id
     WHERE assignment.id = batch.id AND assignment.put_aside_in_id IS NULL)
SELECT max(id) FROM batch
"""


def fill(apps, schema_editor):
    with schema_editor.connection.cursor() as cursor:
        for outcome in ("skipped", "flagged"):
            last = 0
            while last is not None:
                cursor.execute(FILL.format(outcome=outcome), [last, ROWS_AT_A_TIME])
                (last,) = cursor.fetchone()


class AddIndex(AddIndexConcurrently):
    def database_forwards(self, app_label, schema_editor, *states):
        drop(self.index.name, schema_editor)
        super().database_forwards(app_label, schema_editor, *states)


class RemoveIndex(RemoveIndexConcurrently):
    def database_backwards(self, app_label, schema_editor, *states):
        drop(self.name, schema_editor)
        super().database_backwards(app_label, schema_editor, *states)


def drop(index, schema_editor):
    schema_editor.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {index}")


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("labeling", "0015_put_aside_in")]

    operations = [
        migrations.RunPython(fill, migrations.RunPython.noop),
        AddIndex(
            model_name="assignment",
            index=models.Index(
                fields=["put_aside_in", "-id", "outcome"],
                condition=Q(put_aside_in__isnull=False),
                name="assignment_aside_by_project",
            ),
        ),
        AddIndex(
            model_name="assignment",
            index=models.Index(
                fields=["put_aside_in", "-id"],
                condition=Q(outcome="flagged", handled_at__isnull=True),
                name="assignment_waits_by_project",
            ),
        ),
        AddIndex(
            model_name="assignment",
            index=models.Index(
                fields=["put_aside_in", "-handled_at", "-id"],
                condition=Q(handled_at__isnull=False),
                name="assignment_handled_by_project",
            ),
        ),
        AddIndex(
            model_name="assignment",
            index=models.Index(
                fields=["comparison"], condition=Q(handling="closed"), name="assignment_closing_report"
            ),
        ),
        AddIndex(
            model_name="comparison",
            index=models.Index(
                fields=["project", "id"],
                condition=Q(reserved_for__isnull=False),
                name="comparison_repeats_by_project",
            ),
        ),
        RemoveIndex(model_name="assignment", name="assignment_put_aside"),
        RemoveIndex(model_name="assignment", name="assignment_report_waits"),
    ]
