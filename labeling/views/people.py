"""The people of a project: who may do what, and what they have given."""

import secrets
from collections import defaultdict
from datetime import datetime
from typing import NamedTuple

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import IntegrityError, transaction
from django.db.models import Count, Exists, Max, OuterRef, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from labeling.access import MANAGER, access_project
from labeling.agreement import with_themselves
from labeling.forms import PersonForm, RoleForm
from labeling.models import Judgment, Membership, Project, User
from labeling.projects import add_member, remove_member
from labeling.qualification import scores, standings

PASSWORD_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"  # none that looks like another


class Work(NamedTuple):
    """What a person has given a project: how many answers that stand, and how much they put aside."""

    answers: int = 0
    last_answer: datetime | None = None
    skipped: int = 0
    flagged: int = 0


@never_cache
@require_http_methods(["GET", "POST"])
@login_required
def people(request: HttpRequest, slug: str) -> HttpResponse:
    """List, and add: the answer to the POST is the only page that ever shows a new password."""
    project = access_project(request.user, slug, MANAGER)
    form = PersonForm(request.POST or None)
    fresh = None
    if request.method == "POST" and form.is_valid():
        try:
            user, password = invite(project, form.cleaned_data["username"], form.cleaned_data["role"])
        except ValidationError as error:
            form.add_error(None, error)
        else:
            if password is None:
                messages.success(
                    request, f"{user.username} is in the project now, with the password they have."
                )
                return redirect("labeling:people", slug)
            fresh, form = {"username": user.username, "password": password}, PersonForm()
    return render(request, "labeling/people.html", page(request, project, form, fresh))


def page(
    request: HttpRequest, project: Project, form: PersonForm, fresh: dict[str, str] | None
) -> dict[str, object]:
    work = work_by_person(project)
    by_name = Membership.objects.active().filter(project=project).select_related("user", "project")
    places = list(by_name.order_by("user__username"))
    places.sort(key=lambda place: -work[place.user_id].answers)
    consistency, round_of = with_themselves(project), qualifying(project, places)
    accounts = resettable(request.user).filter(memberships__in=places)
    answered_for = set(accounts.values_list("pk", flat=True))
    members = [
        {
            "place": place,
            "work": work[place.user_id],
            "consistency": consistency.get(place.user_id),
            "qualifying": round_of[place.pk],
            "roles": RoleForm(initial={"role": place.role}, auto_id=f"id_%s_{place.pk}"),
            "resettable": place.user_id in answered_for,
        }
        for place in places
    ]
    return {
        "project": project,
        "role": MANAGER,
        "form": form,
        "fresh": fresh,
        "members": members,
        "asked_again": bool(consistency) or project.repeat_share > 0,
    }


def qualifying(project: Project, places: list[Membership]) -> dict[int, dict[str, object]]:
    """Where each person stands with the qualification round, and how the attempt that tells it went."""
    standing_at = standings(places)
    score_of = scores([standing.attempt for standing in standing_at.values() if standing.attempt])
    found = {}
    for pk, standing in standing_at.items():
        right, of = score_of.get(standing.attempt.pk, (0, 0)) if standing.attempt else (0, 0)
        found[pk] = {"standing": standing, "right": right, "of": of}
    return found


def work_by_person(project: Project) -> dict[int, Work]:
    """What each has given the project, and Work() of everybody else. Counted at once, not for one after the other."""
    standing = Judgment.objects.current().filter(comparison__project=project).order_by().values("annotator")
    aside = project.put_aside.order_by().values("annotator", "outcome")
    work: dict[int, Work] = defaultdict(Work)
    for row in standing.annotate(of=Count("pk"), last=Max("created_at")):
        work[row["annotator"]] = Work(row["of"], row["last"])
    for row in aside.annotate(of=Count("pk")):
        work[row["annotator"]] = work[row["annotator"]]._replace(**{row["outcome"]: row["of"]})
    return work


@transaction.atomic
def invite(project: Project, username: str, role: str) -> tuple[User, str | None]:
    """Put a person into the project. Returns them, and the password if the account is new.

    Raises ValidationError for a closed account and for who is there already: the role of a manager is not to be lost
    to a mistyped name.
    """
    # A form sent twice comes in turn.
    project = Project.objects.select_for_update(no_key=True).get(pk=project.pk)
    users = User.objects.order_by("id")
    user = users.filter(username=username).first() or users.filter(username__iexact=username).first()
    if user and not user.is_active:
        raise ValidationError({"username": "This account is closed and cannot join."})
    if user and (place := Membership.objects.active().filter(project=project, user=user).first()):
        said = f"{user.username} is in the project already, as {place.get_role_display()}."
        raise ValidationError({"username": f"{said} The table changes the role, and makes a new password."})
    password = None
    if user is None:
        password = random_password()
        try:
            with transaction.atomic():
                user = User.objects.create_user(username, password=password)
        except IntegrityError:  # in another project, at the same moment
            raise ValidationError({"username": "This name was taken just now; add it again."}) from None
    add_member(project, user, role)
    return user, password


def random_password() -> str:
    """Four groups of four letters: 79 bits, and it can be read over the telephone."""
    return "-".join("".join(secrets.choice(PASSWORD_LETTERS) for _ in range(4)) for _ in range(4))


@require_POST
@login_required
def change_role(request: HttpRequest, slug: str, member: int) -> HttpResponse:
    project = access_project(request.user, slug, MANAGER)
    place = get_object_or_404(Membership.objects.active(), project=project, pk=member)
    form = RoleForm(request.POST)
    if not form.is_valid():
        messages.error(request, "Choose one of the roles offered; nothing was changed.")
        return redirect("labeling:people", slug)
    try:
        if form.cleaned_data["role"] == "leave":
            remove_member(place)
        else:
            add_member(project, place.user, form.cleaned_data["role"])
    except ValidationError as error:
        messages.error(request, " ".join(error.messages))
    else:
        messages.success(request, f"Changed for {place.user.username}. Answers given so far stay.")
    # A manager may have given up the role just now.
    still_manages = Membership.objects.active().filter(project=project, user=request.user, role=MANAGER)
    return redirect("labeling:people", slug) if still_manages.exists() else redirect("labeling:home")


def resettable(manager: User) -> QuerySet[User]:
    """The accounts for which the manager answers whole: all their projects are the manager's, and they have no more rights."""
    managed = Membership.objects.active().filter(user=manager, role=MANAGER).values("project")
    beyond = Membership.objects.active().filter(
        Q(role=MANAGER) | ~Q(project__in=managed), user=OuterRef("pk")
    )
    plain = User.objects.filter(is_active=True, is_staff=False, is_superuser=False)
    return plain.exclude(pk=manager.pk).filter(~Exists(beyond))


@never_cache
@require_POST
@login_required
def reset_password(request: HttpRequest, slug: str, member: int) -> HttpResponse:
    project = access_project(request.user, slug, MANAGER)
    place = get_object_or_404(Membership.objects.active().select_related("user"), project=project, pk=member)
    if not resettable(request.user).filter(pk=place.user_id).exists():
        raise PermissionDenied
    password = random_password()
    place.user.set_password(password)
    place.user.save(update_fields=["password"])
    fresh = {"username": place.user.username, "password": password}
    return render(request, "labeling/people.html", page(request, project, PersonForm(), fresh))
