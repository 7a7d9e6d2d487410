"""Who may see what. Whoever may not gets the same answer as for what does not exist: 404."""

from django.contrib.auth.models import AnonymousUser
from django.db.models import QuerySet
from django.http import Http404

from labeling.models import Assignment, DatasetVersion, Judgment, Membership, Project, User

MANAGER, ANNOTATOR, REVIEWER = Membership.Role.values
# Who may answer comparisons, and who may read what others answered.
ANNOTATING = (ANNOTATOR, MANAGER)
READING = (MANAGER, REVIEWER)


def membership(user: User | AnonymousUser, project: Project) -> Membership | None:
    """The person's place in the project, or None for a stranger and for who has left."""
    if not user.is_authenticated:
        return None
    return Membership.objects.active().filter(user=user, project=project).first()


def projects_of(user: User | AnonymousUser) -> QuerySet[Project]:
    """The projects that the person belongs to."""
    if not user.is_authenticated:
        return Project.objects.none()
    return Project.objects.filter(memberships__user=user, memberships__left_at=None)


def access_project(user: User | AnonymousUser, slug: str, *roles: str) -> Project:
    """Return the project if the person is in it, in one of the roles where any are named; else Http404."""
    project = projects_of(user).filter(slug=slug)
    if roles:
        project = project.filter(memberships__role__in=roles, memberships__user=user)
    return _first_or_404(project)


def access_assignment(user: User | AnonymousUser, pk: int) -> Assignment:
    """Return the person's own assignment, in a project where they still annotate; else Http404."""
    own = Assignment.objects.filter(pk=pk, comparison__project__in=_annotates(user))
    return _first_or_404(own.filter(annotator_id=user.pk).select_related("comparison__project"))


def access_judgment(user: User | AnonymousUser, pk: int) -> Judgment:
    """Return the person's own judgment, in a project where they still annotate; else Http404."""
    own = Judgment.objects.filter(pk=pk, comparison__project__in=_annotates(user))
    return _first_or_404(own.filter(annotator_id=user.pk).select_related("assignment__comparison__project"))


def access_dataset(user: User | AnonymousUser, pk: int, *roles: str) -> DatasetVersion:
    """Return the dataset version if the person has one of the roles in its project; else Http404."""
    version = _first_or_404(DatasetVersion.objects.filter(pk=pk).select_related("project"))
    access_project(user, version.project.slug, *roles)
    return version


def _annotates(user: User | AnonymousUser) -> QuerySet[Project]:
    return projects_of(user).filter(memberships__role__in=ANNOTATING, memberships__user_id=user.pk)


def _first_or_404(rows: QuerySet) -> Project | Assignment | Judgment | DatasetVersion:
    row = rows.first()
    if row is None:
        raise Http404("There is nothing here that you may see.")
    return row
