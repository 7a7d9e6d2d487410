"""How long people looked at what they skipped or reported; of what was put aside before, nobody knows."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("labeling", "0018_comment_required")]

    operations = [
        migrations.AddField(
            model_name="assignment",
            name="seconds_spent",
            field=models.FloatField(
                blank=True,
                help_text="Of what was skipped or reported; a judgment says it itself.",
                null=True,
            ),
        ),
    ]
