"""Let the checks always look rows up by index.

A connection keeps the plan that it made for a check when it first ran. Made while the tables were nearly
empty, it reads whole tables, and the first large import through that connection takes quadratic time.
"""

from django.db import migrations

CHECKS = (
    "labeling_check_candidates",
    "labeling_check_slot",
    "labeling_check_sides",
    "labeling_check_judged",
    "labeling_check_preferences",
    "labeling_check_entries",
)


class Migration(migrations.Migration):
    dependencies = [("labeling", "0003_drop_repeated_indexes")]

    operations = [
        migrations.RunSQL(
            f"ALTER FUNCTION {check}() SET enable_seqscan = off",
            f"ALTER FUNCTION {check}() RESET enable_seqscan",
        )
        for check in CHECKS
    ]
