"""The demo project of `make demo`, and the accounts of a first start."""

import secrets
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import transaction

from labeling.models import Membership, User

SLUG = "support"
PASSWORD_BYTES = 12
EXAMPLES = Path(settings.BASE_DIR) / "labeling" / "examples"
# A project for each further form of asking, with comparisons of labeling/examples/ and without a model of its own.
FORMS: dict[str, dict[str, Any]] = {
    "rankings": {
        "name": "Rankings of four",
        "guidelines": "Put the four answers in order, best first. Leave out what you cannot place.",
        "partial_rankings": True,
        "all_good": True,
    },
    "criteria": {
        "name": "Ratings and reasons",
        "guidelines": "Rate each answer from 1 (bad) to 5 (very good) by each criterion, then say which is better "
        "and pick a reason.",
        "criteria": ["helpfulness", "honesty", "harmlessness"],
        "reason_tags": ["more correct", "safer", "kinder", "clearer", "more complete", "shorter"],
        "reason_required": True,
    },
    "conversations": {
        "name": "Conversations with code and formulas",
        "guidelines": "Choose the answer that you would rather get at this point of the conversation. "
        "*Code* should run; $formulas$ should be right.",
    },
    # Begins with a qualification round (facts-questions.jsonl), and asks one in five comparisons again.
    "facts": {
        "name": "Facts, with a qualification round",
        "guidelines": "Choose the answer that is true and answers what was asked. Of two true ones, choose the clearer. "
        "If neither is true, say *both bad*.",
        "qualification": True,
        "repeat_share": 0.2,
    },
}


def make_demo_project() -> dict[str, str]:
    """Make the project and its two accounts where they are not there. Returns new passwords by name."""
    from labeling.models import Project
    from training import loop
    from training.demo.project import make_project

    if Project.objects.filter(slug=SLUG).exists():
        return {}
    passwords = {name: secrets.token_urlsafe(PASSWORD_BYTES) for name in ("manager", "annotator")}
    with transaction.atomic():
        manager = User.objects.create_superuser(
            "manager", password=passwords["manager"], first_name="Manager"
        )
        annotator = User.objects.create_user(
            "annotator", password=passwords["annotator"], first_name="Annotator"
        )
        project = make_project(SLUG, "Support answers", manager)
        Membership.objects.create(project=project, user=annotator, role=Membership.Role.ANNOTATOR)
        loop.start_round(project)
        for slug, form in FORMS.items():
            make_form(slug, form, manager, annotator)
    return passwords


def make_form(slug: str, form: dict[str, Any], manager: User, annotator: User) -> None:
    """One of FORMS, with its comparisons waiting for both people, and its questions."""
    from labeling.imports import import_comparisons, import_questions
    from labeling.projects import add_member, create_project

    project = create_project(**form, manager=manager, slug=slug, overlap=2, languages=["en"])
    add_member(project, annotator, Membership.Role.ANNOTATOR)
    import_comparisons(EXAMPLES / f"{slug}.jsonl", project)
    if project.qualification:
        import_questions(EXAMPLES / f"{slug}-questions.jsonl", project, manager)
