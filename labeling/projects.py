"""Setting up projects and the people in them."""

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models.functions import Now

from labeling.models import Membership, Project, User

IMPORTED = "imported-"


@transaction.atomic
def create_project(name: str, manager: User, slug: str = "", **settings: object) -> Project:
    """Make a project with its first manager. `settings` are fields of Project."""
    project = Project(slug=slug or free_slug(name), name=name, created_by=manager, **settings)
    project.full_clean()
    project.save()
    Membership.objects.create(project=project, user=manager, role=Membership.Role.MANAGER)
    return project


def free_slug(name: str) -> str:
    """Return an address for the name that no project has yet."""
    from django.utils.text import slugify

    base = slugify(name)[:40] or "project"
    taken = set(Project.objects.filter(slug__startswith=base).values_list("slug", flat=True))
    numbered = (f"{base}-{number}" for number in range(2, len(taken) + 3))
    return next(slug for slug in (base, *numbered) if slug not in taken)


@transaction.atomic
def add_member(project: Project, user: User, role: str) -> Membership:
    """Put a person into a project, or give them another role there. Who comes back keeps the pseudonym."""
    member, made = Membership.objects.select_for_update().get_or_create(
        project=project, user=user, defaults={"role": role}
    )
    if not made:
        if role != Membership.Role.MANAGER:
            _keep_a_manager(member)
        member.role, member.left_at = role, None
        member.save(update_fields=["role", "left_at"])
    return member


@transaction.atomic
def remove_member(member: Membership) -> None:
    """Take a person out of a project. What they answered stays, under their pseudonym."""
    _keep_a_manager(member)
    Membership.objects.filter(pk=member.pk, left_at=None).update(left_at=Now())


def imported_member(project: Project) -> Membership:
    """The stand-in for all people whose judgments of this project were imported. It cannot log in."""
    user, made = User.objects.get_or_create(
        username=f"{IMPORTED}{project.slug}", defaults={"is_active": False, "first_name": "Imported"}
    )
    if made:
        user.set_unusable_password()
        user.save(update_fields=["password"])
    member, _ = Membership.objects.get_or_create(
        project=project, user=user, defaults={"role": Membership.Role.ANNOTATOR}
    )
    return member


def _keep_a_manager(member: Membership) -> None:
    managers = Membership.objects.active().filter(project=member.project, role=Membership.Role.MANAGER)
    ids = set(managers.select_for_update().values_list("pk", flat=True))
    if ids == {member.pk}:
        raise ValidationError({"role": "A project keeps at least one manager; name another one first."})
