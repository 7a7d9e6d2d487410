from django.db import migrations
from django.db.models import Count, Exists, Max, OuterRef, Q


def count(apps, schema_editor):
    """Of the versions that rounds have frozen so far, one pass over each: training/contributions.py as it was.

    The newest come first, for they are looked at. Stopped and started again it goes on where it was.
    """
    Contribution = apps.get_model('training', 'Contribution')
    counted = Contribution.objects.filter(version=OuterRef('dataset_version'))
    rounds = apps.get_model('training', 'Round').objects.filter(~Exists(counted), dataset_version__isnull=False)
    versions = rounds.order_by('-dataset_version').values_list('dataset_version', flat=True).distinct()
    for version in list(versions):
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
            ignore_conflicts=True,  # A worker may have counted it meanwhile.
            batch_size=1000,
        )


class Migration(migrations.Migration):

    # A version at a time: together they may take long, and nobody is to wait for the last one.
    atomic = False

    dependencies = [
        ('training', '0009_contributions'),
    ]

    operations = [
        migrations.RunPython(count, migrations.RunPython.noop, elidable=True),
    ]
