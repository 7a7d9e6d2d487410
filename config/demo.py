"""The demo project of `make demo`, and the accounts of a first start."""

import secrets

from django.db import transaction

from labeling.models import Membership, User

SLUG = "support"
PASSWORD_BYTES = 12


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
    return passwords
