"""Rules that Django's constraints cannot express, kept by the database itself.

A broken rule raises check_violation (django.db.IntegrityError) with a sentence. What people said can be
deleted only in a transaction that says so first: SET LOCAL tastemaker.erase = 'on'.
"""

from django.db import migrations

REFUSE = """
CREATE FUNCTION labeling_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND current_setting('tastemaker.erase', true) = 'on' THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION '%', TG_ARGV[0] USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;
END $$;

CREATE TRIGGER prompt_content_is_fixed
    BEFORE UPDATE OF project_id, messages, content_hash, split ON labeling_prompt FOR EACH ROW
    WHEN ((OLD.project_id, OLD.messages, OLD.content_hash, OLD.split)
          IS DISTINCT FROM (NEW.project_id, NEW.messages, NEW.content_hash, NEW.split))
    EXECUTE FUNCTION labeling_refuse('a prompt never changes');
CREATE TRIGGER completion_content_is_fixed
    BEFORE UPDATE OF prompt_id, text, author, text_hash ON labeling_completion FOR EACH ROW
    WHEN ((OLD.prompt_id, OLD.text, OLD.author, OLD.text_hash)
          IS DISTINCT FROM (NEW.prompt_id, NEW.text, NEW.author, NEW.text_hash))
    EXECUTE FUNCTION labeling_refuse('a completion never changes');
CREATE TRIGGER comparison_content_is_fixed
    BEFORE UPDATE OF project_id, prompt_id, overlap ON labeling_comparison FOR EACH ROW
    WHEN ((OLD.project_id, OLD.prompt_id, OLD.overlap)
          IS DISTINCT FROM (NEW.project_id, NEW.prompt_id, NEW.overlap))
    EXECUTE FUNCTION labeling_refuse('a comparison keeps its prompt and its overlap');
CREATE TRIGGER candidate_is_fixed
    BEFORE UPDATE OR DELETE ON labeling_candidate FOR EACH ROW
    EXECUTE FUNCTION labeling_refuse('the candidates of a comparison never change');
CREATE TRIGGER judgment_is_kept
    BEFORE DELETE ON labeling_judgment FOR EACH ROW
    EXECUTE FUNCTION labeling_refuse('a judgment is withdrawn, never deleted');
CREATE TRIGGER judgment_is_append_only
    BEFORE UPDATE ON labeling_judgment FOR EACH ROW
    WHEN (NOT OLD.is_current OR to_jsonb(OLD) - 'is_current' - 'superseded_at'
          IS DISTINCT FROM to_jsonb(NEW) - 'is_current' - 'superseded_at')
    EXECUTE FUNCTION labeling_refuse('a judgment is never overwritten; write a new revision');
CREATE TRIGGER preference_is_fixed
    BEFORE UPDATE OR DELETE ON labeling_preference FOR EACH ROW
    EXECUTE FUNCTION labeling_refuse('a preference never changes; it follows from its judgment');
CREATE TRIGGER dataset_is_frozen
    BEFORE UPDATE ON labeling_datasetversion FOR EACH ROW WHEN (OLD.train_sha256 <> '')
    EXECUTE FUNCTION labeling_refuse('a dataset version is frozen');
CREATE TRIGGER dataset_is_kept
    BEFORE DELETE ON labeling_datasetversion FOR EACH ROW
    EXECUTE FUNCTION labeling_refuse('a dataset version is frozen');
CREATE TRIGGER dataset_entry_is_frozen
    BEFORE UPDATE OR DELETE ON labeling_datasetentry FOR EACH ROW
    EXECUTE FUNCTION labeling_refuse('a dataset version is frozen');
"""

REFUSE_BACK = """
DROP TRIGGER prompt_content_is_fixed ON labeling_prompt;
DROP TRIGGER completion_content_is_fixed ON labeling_completion;
DROP TRIGGER comparison_content_is_fixed ON labeling_comparison;
DROP TRIGGER candidate_is_fixed ON labeling_candidate;
DROP TRIGGER judgment_is_kept ON labeling_judgment;
DROP TRIGGER judgment_is_append_only ON labeling_judgment;
DROP TRIGGER preference_is_fixed ON labeling_preference;
DROP TRIGGER dataset_is_frozen ON labeling_datasetversion;
DROP TRIGGER dataset_is_kept ON labeling_datasetversion;
DROP TRIGGER dataset_entry_is_frozen ON labeling_datasetentry;
DROP FUNCTION labeling_refuse();
"""

TOGETHER = """
ALTER TABLE labeling_comparison ADD CONSTRAINT comparison_in_its_prompts_project
    FOREIGN KEY (prompt_id, project_id) REFERENCES labeling_prompt (id, project_id)
    DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE labeling_judgment ADD CONSTRAINT judgment_of_its_assignment
    FOREIGN KEY (assignment_id, comparison_id, annotator_id)
    REFERENCES labeling_assignment (id, comparison_id, annotator_id) DEFERRABLE INITIALLY DEFERRED;
"""

TOGETHER_BACK = """
ALTER TABLE labeling_comparison DROP CONSTRAINT comparison_in_its_prompts_project;
ALTER TABLE labeling_judgment DROP CONSTRAINT judgment_of_its_assignment;
"""

# Deferred, so that a comparison and its candidates may be written in any order within a transaction.
CANDIDATES = """
CREATE FUNCTION labeling_check_candidates() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    the_comparison bigint;
    how_many int;
    last_position int;
    strangers int;
BEGIN
    IF TG_TABLE_NAME = 'labeling_comparison' THEN
        the_comparison := NEW.id;
    ELSE
        the_comparison := NEW.comparison_id;
    END IF;
    SELECT count(*), max(candidate.position),
           count(*) FILTER (WHERE completion.prompt_id <> comparison.prompt_id)
      INTO how_many, last_position, strangers
      FROM labeling_comparison comparison
      JOIN labeling_candidate candidate ON candidate.comparison_id = comparison.id
      JOIN labeling_completion completion ON completion.id = candidate.completion_id
     WHERE comparison.id = the_comparison;
    IF how_many NOT BETWEEN 2 AND 8 THEN
        IF NOT EXISTS (SELECT FROM labeling_comparison WHERE id = the_comparison) THEN
            RETURN NULL;  -- written and deleted again in this transaction
        END IF;
        RAISE EXCEPTION 'comparison % has % candidates; it takes 2 to 8', the_comparison, how_many
            USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;
    END IF;
    IF last_position <> how_many - 1 THEN
        RAISE EXCEPTION 'the candidates of comparison % are not numbered 0 to %', the_comparison, how_many - 1
            USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;
    END IF;
    IF strangers > 0 THEN
        RAISE EXCEPTION 'comparison % has a candidate that answers another prompt', the_comparison
            USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;
    END IF;
    RETURN NULL;
END $$;

CREATE CONSTRAINT TRIGGER comparison_has_candidates
    AFTER INSERT ON labeling_comparison DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    EXECUTE FUNCTION labeling_check_candidates();
CREATE CONSTRAINT TRIGGER candidate_fits_comparison
    AFTER INSERT ON labeling_candidate DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    EXECUTE FUNCTION labeling_check_candidates();
"""

CANDIDATES_BACK = """
DROP TRIGGER comparison_has_candidates ON labeling_comparison;
DROP TRIGGER candidate_fits_comparison ON labeling_candidate;
DROP FUNCTION labeling_check_candidates();
"""

ASSIGNMENTS = """
CREATE FUNCTION labeling_check_slot() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    slots int;
BEGIN
    SELECT overlap INTO slots FROM labeling_comparison WHERE id = NEW.comparison_id;
    IF NEW.slot < 0 OR NEW.slot >= slots THEN
        RAISE EXCEPTION 'comparison % has no slot %: its overlap is %', NEW.comparison_id, NEW.slot, slots
            USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER assignment_slot_within_overlap
    BEFORE INSERT OR UPDATE OF slot, comparison_id ON labeling_assignment FOR EACH ROW
    WHEN (NEW.slot IS NOT NULL) EXECUTE FUNCTION labeling_check_slot();

CREATE FUNCTION labeling_check_sides() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (SELECT array_agg(side ORDER BY side) FROM unnest(NEW.sides) AS side) IS DISTINCT FROM
       (SELECT array_agg(position ORDER BY position) FROM labeling_candidate
         WHERE comparison_id = NEW.comparison_id) THEN
        RAISE EXCEPTION 'the sides of an assignment show each candidate of its comparison once'
            USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER assignment_shows_each_candidate
    BEFORE INSERT ON labeling_assignment FOR EACH ROW EXECUTE FUNCTION labeling_check_sides();
CREATE TRIGGER assignment_is_fixed
    BEFORE UPDATE OF comparison_id, annotator_id, sides ON labeling_assignment FOR EACH ROW
    WHEN ((OLD.comparison_id, OLD.annotator_id, OLD.sides)
          IS DISTINCT FROM (NEW.comparison_id, NEW.annotator_id, NEW.sides))
    EXECUTE FUNCTION labeling_refuse('an assignment keeps its comparison, its annotator and its sides');

CREATE FUNCTION labeling_check_judged() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    the_assignment bigint;
BEGIN
    IF TG_TABLE_NAME = 'labeling_assignment' THEN
        the_assignment := NEW.id;
    ELSE
        the_assignment := NEW.assignment_id;
    END IF;
    IF EXISTS (SELECT FROM labeling_assignment assignment
                WHERE assignment.id = the_assignment
                  AND (assignment.outcome = 'judged') <> EXISTS (
                      SELECT FROM labeling_judgment judgment
                       WHERE judgment.assignment_id = the_assignment AND judgment.is_current)) THEN
        RAISE EXCEPTION 'assignment % must be judged exactly when it has a current judgment', the_assignment
            USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER assignment_judged_has_judgment
    AFTER INSERT OR UPDATE OF outcome ON labeling_assignment DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    EXECUTE FUNCTION labeling_check_judged();
CREATE CONSTRAINT TRIGGER judgment_marks_assignment
    AFTER INSERT OR UPDATE OF is_current ON labeling_judgment DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    EXECUTE FUNCTION labeling_check_judged();
"""

ASSIGNMENTS_BACK = """
DROP TRIGGER assignment_slot_within_overlap ON labeling_assignment;
DROP TRIGGER assignment_shows_each_candidate ON labeling_assignment;
DROP TRIGGER assignment_is_fixed ON labeling_assignment;
DROP TRIGGER assignment_judged_has_judgment ON labeling_assignment;
DROP TRIGGER judgment_marks_assignment ON labeling_judgment;
DROP FUNCTION labeling_check_slot();
DROP FUNCTION labeling_check_sides();
DROP FUNCTION labeling_check_judged();
"""

# Whole statements at a time, since these come by the thousand.
DERIVED = """
CREATE FUNCTION labeling_check_preferences() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM fresh
          JOIN labeling_judgment judgment ON judgment.id = fresh.judgment_id
          JOIN labeling_comparison comparison ON comparison.id = judgment.comparison_id
         WHERE comparison.project_id <> fresh.project_id OR comparison.prompt_id <> fresh.prompt_id
            OR NOT EXISTS (SELECT FROM labeling_candidate WHERE comparison_id = comparison.id
                              AND completion_id = fresh.chosen_id)
            OR NOT EXISTS (SELECT FROM labeling_candidate WHERE comparison_id = comparison.id
                              AND completion_id = fresh.rejected_id)) THEN
        RAISE EXCEPTION 'a preference is between two candidates of the comparison that was judged'
            USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER preference_between_candidates
    AFTER INSERT ON labeling_preference REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT
    EXECUTE FUNCTION labeling_check_preferences();

CREATE FUNCTION labeling_check_entries() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM (SELECT DISTINCT version_id FROM fresh) AS touched
          JOIN labeling_datasetversion version ON version.id = touched.version_id
         WHERE version.train_sha256 <> '') THEN
        RAISE EXCEPTION 'a dataset version is frozen'
            USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;
    END IF;
    IF EXISTS (
        SELECT FROM fresh
          JOIN labeling_datasetversion version ON version.id = fresh.version_id
          JOIN labeling_preference preference ON preference.id = fresh.preference_id
          JOIN labeling_prompt prompt ON prompt.id = preference.prompt_id
         WHERE prompt.split <> fresh.split OR preference.project_id <> version.project_id) THEN
        RAISE EXCEPTION 'a dataset entry stands on its prompt''s side, in its prompt''s project'
            USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER dataset_entry_fits
    AFTER INSERT ON labeling_datasetentry REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT
    EXECUTE FUNCTION labeling_check_entries();
"""

DERIVED_BACK = """
DROP TRIGGER preference_between_candidates ON labeling_preference;
DROP TRIGGER dataset_entry_fits ON labeling_datasetentry;
DROP FUNCTION labeling_check_preferences();
DROP FUNCTION labeling_check_entries();
"""


class Migration(migrations.Migration):
    dependencies = [("labeling", "0001_initial")]

    operations = [
        migrations.RunSQL(REFUSE, REFUSE_BACK),
        migrations.RunSQL(TOGETHER, TOGETHER_BACK),
        migrations.RunSQL(CANDIDATES, CANDIDATES_BACK),
        migrations.RunSQL(ASSIGNMENTS, ASSIGNMENTS_BACK),
        migrations.RunSQL(DERIVED, DERIVED_BACK),
    ]
