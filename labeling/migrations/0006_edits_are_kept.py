"""Edits never change, a preference may choose one, and guidelines that are there become version 1."""

from django.db import migrations

EDITS = """
CREATE TRIGGER edit_is_fixed
    BEFORE UPDATE OR DELETE ON labeling_edit FOR EACH ROW
    EXECUTE FUNCTION labeling_refuse('an edit never changes; it stands as long as its judgment');

CREATE FUNCTION labeling_check_edits() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM labeling_judgment judgment
          JOIN labeling_comparison comparison ON comparison.id = judgment.comparison_id
          JOIN labeling_candidate candidate ON candidate.comparison_id = comparison.id
          JOIN labeling_completion better ON better.prompt_id = comparison.prompt_id
         WHERE judgment.id = NEW.judgment_id AND candidate.completion_id = NEW.original_id
           AND better.id = NEW.completion_id) THEN
        RAISE EXCEPTION 'an edit answers the prompt that was judged, and starts from one of its candidates'
            USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER edit_of_a_candidate
    BEFORE INSERT ON labeling_edit FOR EACH ROW EXECUTE FUNCTION labeling_check_edits();
"""

EDITS_BACK = """
DROP TRIGGER edit_is_fixed ON labeling_edit;
DROP TRIGGER edit_of_a_candidate ON labeling_edit;
DROP FUNCTION labeling_check_edits();
"""

# Replaced, and so with its setting: a replaced function forgets it.
PREFERENCES = """
CREATE OR REPLACE FUNCTION labeling_check_preferences() RETURNS trigger
LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    IF EXISTS (
        SELECT FROM fresh
          JOIN labeling_judgment judgment ON judgment.id = fresh.judgment_id
          JOIN labeling_comparison comparison ON comparison.id = judgment.comparison_id
         WHERE comparison.project_id <> fresh.project_id OR comparison.prompt_id <> fresh.prompt_id
            OR NOT EXISTS (SELECT FROM labeling_candidate WHERE comparison_id = comparison.id
                              AND completion_id = fresh.rejected_id)
            OR NOT EXISTS (SELECT FROM labeling_candidate WHERE comparison_id = comparison.id
                              AND completion_id = fresh.chosen_id){edits}) THEN
        RAISE EXCEPTION '{sentence}'
            USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;
    END IF;
    RETURN NULL;
END $$;
"""
WITH_EDITS = PREFERENCES.format(
    edits="""
           AND NOT EXISTS (SELECT FROM labeling_edit WHERE judgment_id = judgment.id
                              AND completion_id = fresh.chosen_id AND original_id = fresh.rejected_id)""",
    sentence="a preference is between two candidates of the comparison that was judged, or of an edit over its original",
)
WITHOUT_EDITS = PREFERENCES.format(
    edits="", sentence="a preference is between two candidates of the comparison that was judged"
)


def number_guidelines(apps, schema_editor):
    project, version = (apps.get_model("labeling", name) for name in ("Project", "GuidelinesVersion"))
    written = project.objects.exclude(guidelines="")
    version.objects.bulk_create(
        version(project=one, number=1, text=one.guidelines, created_by=one.created_by) for one in written
    )
    written.update(guidelines_number=1)


class Migration(migrations.Migration):
    dependencies = [("labeling", "0005_what_people_can_say")]

    operations = [
        migrations.RunSQL(EDITS, EDITS_BACK),
        migrations.RunSQL(WITH_EDITS, WITHOUT_EDITS),
        migrations.RunPython(number_guidelines, migrations.RunPython.noop),
    ]
