"""A better answer whose preference went with the judgment where it was written first gets one where it stands."""

from django.db import migrations

PREFER = """
INSERT INTO labeling_preference
    (project_id, prompt_id, judgment_id, chosen_id, rejected_id, tie, both_bad, strength, weight, created_at)
SELECT DISTINCT ON (edit.completion_id, edit.original_id)
       comparison.project_id, comparison.prompt_id, judgment.id, edit.completion_id, edit.original_id,
       false, false, 1, 1, now()
  FROM labeling_edit edit
  JOIN labeling_judgment judgment ON judgment.id = edit.judgment_id AND judgment.is_current
  JOIN labeling_comparison comparison ON comparison.id = judgment.comparison_id
 WHERE NOT EXISTS (
       SELECT FROM labeling_preference preference
         JOIN labeling_judgment standing ON standing.id = preference.judgment_id AND standing.is_current
        WHERE preference.chosen_id = edit.completion_id AND preference.rejected_id = edit.original_id)
 ORDER BY edit.completion_id, edit.original_id, edit.id
"""


class Migration(migrations.Migration):
    dependencies = [("labeling", "0016_lists_by_project")]

    operations = [migrations.RunSQL(PREFER, migrations.RunSQL.noop)]
