"""Setting up projects and the people in them."""

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models.functions import Now

from labeling.models import GuidelinesVersion, Membership, Project, User

IMPORTED = "imported-"


@transaction.atomic
def create_project(name: str, manager: User, slug: str = "", **settings: object) -> Project:
    """Make a project with its first manager. `settings` are fields of Project."""
    guidelines = str(settings.pop("guidelines", ""))
    project = Project(slug=slug or free_slug(name), name=name, created_by=manager, **settings)
    project.full_clean()
    project.save()
    Membership.objects.create(project=project, user=manager, role=Membership.Role.MANAGER)
    save_guidelines(project, guidelines, manager)
    return project


@transaction.atomic
def save_guidelines(project: Project, text: str, by: User | None) -> None:
    """Let these words hold from now on, as the project's next version; the same words again change nothing."""
    text = text.replace("\r\n", "\n").strip()  # browsers send other line ends than files have
    held = Project.objects.select_for_update(no_key=True).get(pk=project.pk)
    if text != held.guidelines:
        held.guidelines, held.guidelines_number = text, held.guidelines_number + 1
        held.save(update_fields=["guidelines", "guidelines_number"])
        GuidelinesVersion.objects.create(
            project=held, number=held.guidelines_number, text=text, created_by=by
        )
    project.guidelines, project.guidelines_number = held.guidelines, held.guidelines_number


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
