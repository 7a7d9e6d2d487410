"""What was skipped or reported carries its project, so that a project's lists need not read those of all.

Only such rows carry it, a few in a hundred: the others stay as they are, and the table is not written anew. A trigger
sets it, so that a process of before does, too.
"""

import django.db.models.deletion
from django.db import migrations, models

PUT_ASIDE_IN = """
CREATE FUNCTION labeling_put_aside_in() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    NEW.put_aside_in_id := NULL;
    IF NEW.outcome IN ('skipped', 'flagged') THEN
        SELECT project_id INTO NEW.put_aside_in_id FROM labeling_comparison WHERE id = NEW.comparison_id;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER assignment_put_aside_in_its_project
    BEFORE INSERT OR UPDATE OF outcome, put_aside_in_id ON labeling_assignment FOR EACH ROW
    WHEN (NEW.outcome IN ('skipped', 'flagged') OR NEW.put_aside_in_id IS NOT NULL)
    EXECUTE FUNCTION labeling_put_aside_in();
"""

PUT_ASIDE_IN_BACK = """
DROP TRIGGER assignment_put_aside_in_its_project ON labeling_assignment;
DROP FUNCTION labeling_put_aside_in();
"""


class Migration(migrations.Migration):
    dependencies = [("labeling", "0014_defaults")]

    operations = [
        migrations.AddField(
            model_name="assignment",
            name="put_aside_in",
            field=models.ForeignKey(
                db_index=False,
                editable=False,
                help_text="The comparison's project, once skipped or reported: what a project's lists go by. "
                "The database itself sets it.",
                null=True,
                on_delete=django.db.models.deletion.CASCADE,
                related_name="put_aside",
                to="labeling.project",
            ),
        ),
        migrations.RunSQL(PUT_ASIDE_IN, PUT_ASIDE_IN_BACK),
    ]
