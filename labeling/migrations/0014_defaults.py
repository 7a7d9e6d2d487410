"""Columns that came since 0008 have defaults in the database, so that a process of before can still write rows.

And on the way back, before 0011 makes repeats into comparisons like any other: those that are open are closed and
their leases end, so that nobody is asked them.
"""

import django.contrib.postgres.fields
import labeling.keys
import labeling.models.projects
from django.db import migrations, models

CLOSE_REPEATS = """
WITH closed AS (
    UPDATE labeling_comparison SET closed_at = now() WHERE repeats_id IS NOT NULL AND closed_at IS NULL RETURNING id)
UPDATE labeling_assignment lease SET slot = NULL FROM closed WHERE lease.comparison_id = closed.id AND lease.outcome = ''
"""


class Migration(migrations.Migration):

    dependencies = [
        ('labeling', '0013_qualification'),
    ]

    operations = [
        migrations.RunSQL(migrations.RunSQL.noop, CLOSE_REPEATS),
        migrations.AlterField(
            model_name='project',
            name='languages',
            field=django.contrib.postgres.fields.ArrayField(base_field=models.CharField(choices=labeling.models.projects.text_languages, max_length=20), blank=True, db_default=[], default=list, help_text='That its texts are written in, by their codes; none: not said.', size=None),
        ),
        migrations.AlterField(
            model_name='user',
            name='language',
            field=models.CharField(blank=True, choices=labeling.models.projects.languages, db_default='', help_text='In which the person reads our pages; empty: as the browser asks.', max_length=10),
        ),
        migrations.AlterField(
            model_name='user',
            name='own_keys',
            field=models.JSONField(blank=True, db_default={}, default=dict, help_text='Keys of the desk that are not the usual ones, by act (labeling/keys.py).', validators=[labeling.keys.validate_own_keys]),
        ),
    ]
