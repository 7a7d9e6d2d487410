"""A repeat asks one person again what they judged before, and its verdict becomes no preference."""

import django.core.validators
import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

REPEATS = """
CREATE TRIGGER comparison_repeat_is_fixed
    BEFORE UPDATE OF repeats_id, reserved_for_id ON labeling_comparison FOR EACH ROW
    WHEN ((OLD.repeats_id, OLD.reserved_for_id) IS DISTINCT FROM (NEW.repeats_id, NEW.reserved_for_id))
    EXECUTE FUNCTION labeling_refuse('a comparison stays the repeat that it is, and for whom');

CREATE FUNCTION labeling_check_repeat() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    IF EXISTS (SELECT FROM labeling_comparison WHERE id = NEW.id) AND NOT EXISTS (
        SELECT FROM labeling_judgment judgment
          JOIN labeling_comparison original ON original.id = judgment.comparison_id
         WHERE judgment.id = NEW.repeats_id AND judgment.annotator_id = NEW.reserved_for_id
           AND original.project_id = NEW.project_id AND original.prompt_id = NEW.prompt_id
           AND original.reserved_for_id IS NULL
           AND (SELECT array_agg(completion_id ORDER BY position) FROM labeling_candidate
                 WHERE comparison_id = original.id)
             = (SELECT array_agg(completion_id ORDER BY position) FROM labeling_candidate
                 WHERE comparison_id = NEW.id)) THEN
        RAISE EXCEPTION 'a repeat shows the candidates that its person judged before, and is no repeat of a repeat'
            USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER comparison_repeats_what_was_judged
    AFTER INSERT ON labeling_comparison DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (NEW.repeats_id IS NOT NULL) EXECUTE FUNCTION labeling_check_repeat();

CREATE FUNCTION labeling_check_reserved() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    IF EXISTS (SELECT FROM labeling_comparison
                WHERE id = NEW.comparison_id AND reserved_for_id <> NEW.annotator_id) THEN
        RAISE EXCEPTION 'comparison % repeats what another person said', NEW.comparison_id
            USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER assignment_of_whom_it_is_reserved_for
    BEFORE INSERT ON labeling_assignment FOR EACH ROW EXECUTE FUNCTION labeling_check_reserved();
"""

REPEATS_BACK = """
DROP TRIGGER comparison_repeat_is_fixed ON labeling_comparison;
DROP TRIGGER comparison_repeats_what_was_judged ON labeling_comparison;
DROP TRIGGER assignment_of_whom_it_is_reserved_for ON labeling_assignment;
DROP FUNCTION labeling_check_repeat();
DROP FUNCTION labeling_check_reserved();
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
            OR ({repeats}NOT EXISTS (SELECT FROM labeling_candidate WHERE comparison_id = comparison.id
                              AND completion_id = fresh.chosen_id))
           AND NOT EXISTS (SELECT FROM labeling_edit WHERE judgment_id = judgment.id
                              AND completion_id = fresh.chosen_id AND original_id = fresh.rejected_id)) THEN
        RAISE EXCEPTION '{sentence}'
            USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME;
    END IF;
    RETURN NULL;
END $$;
"""
BETWEEN = "a preference is between two candidates of the comparison that was judged, or of an edit over its original"
WITH_REPEATS = PREFERENCES.format(
    repeats="comparison.repeats_id IS NOT NULL OR ", sentence=f"{BETWEEN}; of a repeat only the latter"
)
WITHOUT_REPEATS = PREFERENCES.format(repeats="", sentence=BETWEEN)


class Migration(migrations.Migration):

    dependencies = [
        ('labeling', '0010_text_languages'),
    ]

    operations = [
        migrations.RemoveIndex(
            model_name='comparison',
            name='comparison_open',
        ),
        migrations.AddField(
            model_name='comparison',
            name='repeats',
            field=models.ForeignKey(blank=True, db_index=False, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='repeated_by', to='labeling.judgment'),
        ),
        migrations.AddField(
            model_name='comparison',
            name='reserved_for',
            field=models.ForeignKey(blank=True, db_index=False, help_text='Of a repeat: who gave the judgment that it repeats.', null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to=settings.AUTH_USER_MODEL),
        ),
        migrations.AddField(
            model_name='project',
            name='repeat_share',
            field=models.FloatField(db_default=0, default=0, help_text="Which share of a person's comparisons are ones that they answered before, asked again with the sides swapped: 0 (none) to 0.2. It shows how far people agree with themselves, and costs that share of their time; their verdict on a repeat trains nothing.", validators=[django.core.validators.MinValueValidator(0), django.core.validators.MaxValueValidator(0.2)]),
        ),
        migrations.AddIndex(
            model_name='comparison',
            index=models.Index(condition=models.Q(('closed_at__isnull', True), ('reserved_for__isnull', True)), fields=['project', 'priority', 'id'], name='comparison_open'),
        ),
        migrations.AddIndex(
            model_name='comparison',
            index=models.Index(condition=models.Q(('reserved_for__isnull', False)), fields=['reserved_for', 'project', 'id'], name='comparison_repeats_by_person'),
        ),
        migrations.AddConstraint(
            model_name='comparison',
            constraint=models.UniqueConstraint(condition=models.Q(('repeats__isnull', False)), fields=('repeats',), name='judgment_repeated_once'),
        ),
        migrations.AddConstraint(
            model_name='comparison',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('repeats__isnull', True), ('reserved_for__isnull', True)), models.Q(('overlap', 1), ('repeats__isnull', False), ('reserved_for__isnull', False)), _connector='OR'), name='comparison_repeat_is_for_one'),
        ),
        migrations.AddConstraint(
            model_name='project',
            constraint=models.CheckConstraint(condition=models.Q(('repeat_share__gte', 0), ('repeat_share__lte', 0.2)), name='project_repeat_share_0_to_a_fifth'),
        ),
        migrations.RunSQL(REPEATS, REPEATS_BACK),
        migrations.RunSQL(WITH_REPEATS, WITHOUT_REPEATS),
    ]
