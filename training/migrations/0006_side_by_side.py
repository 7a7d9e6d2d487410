"""How many answers stand side by side is what a project asks of people, not how its loop turns."""

from django.db import migrations


def hand_over(apps, schema_editor):
    settings = apps.get_model("training", "LoopSettings").objects.exclude(candidates_per_comparison=2)
    for project, size in settings.values_list("project", "candidates_per_comparison"):
        apps.get_model("labeling", "Project").objects.filter(pk=project).update(answers_per_comparison=size)


def take_back(apps, schema_editor):
    projects = apps.get_model("labeling", "Project").objects.exclude(answers_per_comparison=2)
    for project, size in projects.values_list("pk", "answers_per_comparison"):
        settings = apps.get_model("training", "LoopSettings").objects.filter(project=project)
        settings.update(candidates_per_comparison=size)


class Migration(migrations.Migration):

    dependencies = [
        ("labeling", "0007_side_by_side"),
        ("training", "0005_marked_samples"),
    ]

    operations = [
        migrations.RunPython(hand_over, take_back),
        migrations.RemoveField(
            model_name="loopsettings",
            name="candidates_per_comparison",
        ),
    ]
