"""Who may see what. Whoever may not gets the same answer as for what does not exist: 404."""

from django.contrib.auth.models import AnonymousUser
from django.db.models import QuerySet
from django.http import Http404

from labeling.models import Assignment, DatasetVersion, Judgment, Membership, Project, User

MANAGER, ANNOTATOR, REVIEWER = Membership.Role.values
# Who may answer comparisons, and who may read what others answered.
ANNOTATING = (ANNOTATOR, MANAGER)
READING = (MANAGER, REVIEWER)
NOTHING = "There is nothing here that you may see."


def projects_of(user: User | AnonymousUser) -> QuerySet[Project]:
    """The projects that the person belongs to."""
    if not user.is_authenticated:
        return Project.objects.none()
    return Project.objects.filter(memberships__user=user, memberships__left_at=None)


def access_place(user: User | AnonymousUser, slug: str, *roles: str) -> Membership:
    """Return the person's place in the project, with it, in one of the roles where any are named; else Http404."""
    if not user.is_authenticated:
        raise Http404(NOTHING)
    places = Membership.objects.active().filter(user=user, project__slug=slug).select_related("project")
    return _first_or_404(places.filter(role__in=roles) if roles else places)


def access_project(user: User | AnonymousUser, slug: str, *roles: str) -> Project:
    """Return the project if the person is in it, in one of the roles where any are named; else Http404."""
    return access_place(user, slug, *roles).project


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


def _first_or_404(rows: QuerySet) -> Membership | Assignment | Judgment | DatasetVersion:
    row = rows.first()
    if row is None:
        raise Http404(NOTHING)
    return row
