from datetime import timedelta

from django.db import migrations
from django.utils import timezone

OF_INTEREST = timedelta(days=7)


def leave_old_rounds(apps, schema_editor):
    """0007 gave every round that there was something to follow, also where nobody has worked for years."""
    ended = apps.get_model('training', 'Round').objects.exclude(outcome='')
    ended.filter(finished_at__lt=timezone.now() - OF_INTEREST).update(afterwards='over')


class Migration(migrations.Migration):

    dependencies = [
        ('training', '0007_what_answers_did'),
    ]

    operations = [
        migrations.RunPython(leave_old_rounds, migrations.RunPython.noop, elidable=True),
    ]
