"""A project may want a comment with every answer; on the way back it wants a reason, the nearest that there was."""

from django.db import migrations, models

REASON_INSTEAD = "UPDATE labeling_project SET reason_required = true WHERE comment_required"


class Migration(migrations.Migration):
    dependencies = [("labeling", "0017_edits_prefer_again")]

    operations = [
        migrations.AddField(
            model_name="project",
            name="comment_required",
            field=models.BooleanField(
                db_default=False,
                default=False,
                help_text="Whether every answer needs a comment: a sentence, whatever reasons were picked.",
            ),
        ),
        migrations.RunSQL(migrations.RunSQL.noop, REASON_INSTEAD),
    ]
