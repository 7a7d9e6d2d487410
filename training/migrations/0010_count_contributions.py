from django.db import migrations
from django.db.models import Count, Max, Q


def count(apps, schema_editor):
    """Of the versions that rounds have frozen so far, one pass over each: training/contributions.py as it was."""
    Contribution = apps.get_model('training', 'Contribution')
    versions = apps.get_model('training', 'Round').objects.filter(dataset_version__isnull=False)
    for version in versions.order_by().values_list('dataset_version', flat=True).distinct():
        people = (
            apps.get_model('labeling', 'DatasetEntry')
            .objects.filter(version=version)
            .values('preference__judgment__annotator')
            .annotate(
                trained=Count('preference__judgment', distinct=True, filter=Q(split='train')),
                held_out=Count('preference__judgment', distinct=True, filter=Q(split='eval')),
                preferences=Count('pk', filter=Q(split='train')),
                newest=Max('preference__judgment'),
            )
        )
        Contribution.objects.bulk_create(
            (
                Contribution(version_id=version, person_id=row.pop('preference__judgment__annotator'), **row)
                for row in people
            ),
            batch_size=1000,
        )


class Migration(migrations.Migration):

    dependencies = [
        ('training', '0009_contributions'),
    ]

    operations = [
        migrations.RunPython(count, migrations.RunPython.noop, elidable=True),
    ]
