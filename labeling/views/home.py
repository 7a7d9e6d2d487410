"""Where a person starts: their projects with what to do next, and a project's own words."""

from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import ValidationError
from django.db.models import F
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.template.loader import render_to_string
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_http_methods

from labeling.access import ANNOTATING, MANAGER, access_place, access_project
from labeling.answers import RATINGS
from labeling.forms import GuidelinesForm, NewProjectForm, ProjectForm
from labeling.keys import USUAL, as_written
from labeling.models import Comparison, Membership, Project, User
from labeling.models.projects import MIN_CANDIDATES
from labeling.projects import create_project, save_guidelines
from labeling.qualification import Standing, standings
from labeling.rendering import render_markdown
from labeling.views.label import LETTERS, SPEAKERS, picking

# What the preview of the settings shows, as many as stand side by side.
PREVIEWED = (
    "You can return it within 30 days. Shall I send you the label?",
    "Returns are possible.",
    "Please pack it well, put the slip inside, and leave it at any post office.",
    "Lamps were invented long ago.",
    "I have booked a courier for tomorrow; nothing to pay.",
    "No.",
    "Could you tell me your order number first?",
    "Have a look at our website.",
)


@require_http_methods(["GET", "POST"])
@login_required
def home(request: HttpRequest) -> HttpResponse:
    """The projects of a person. Who manages one, or is staff, may make another."""
    may_create = can_create_project(request.user)
    if request.method == "POST" and not may_create:
        raise Http404
    form = NewProjectForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            project = create_project(
                form.cleaned_data["name"], request.user, overlap=form.cleaned_data["overlap"]
            )
        except ValidationError as error:
            form.add_error(None, error)
        else:
            messages.success(request, f"{project.name} is there. Bring prompts in next.")
            return redirect("labeling:data", project.slug)
    own = own_places(request.user)
    standing = standings(own)
    places = [at_a_glance(place, standing[place.pk]) for place in own]
    return render(request, "labeling/home.html", {"places": places, "form": form, "may_create": may_create})


def own_places(user: User) -> list[Membership]:
    places = Membership.objects.active().filter(user=user).select_related("project", "user")
    return list(places.order_by(F("project__name")))


def at_a_glance(place: Membership, qualifying: Standing) -> dict[str, object]:
    """A project on the home page. It asks whether work waits, not how much: that would be a long count."""
    waiting = (
        place.role in ANNOTATING
        and not qualifying.needed
        and Comparison.objects.filter(project=place.project).open_for(place.user).exists()
    )
    return {
        "project": place.project,
        "role": place.role,
        "role_name": place.get_role_display(),
        "waiting": waiting,
        "qualifying": qualifying,
        "manages": place.role == MANAGER,
    }


def can_create_project(user: User) -> bool:
    return user.is_staff or Membership.objects.active().filter(user=user, role=MANAGER).exists()


@require_GET
@login_required
def project(request: HttpRequest, slug: str) -> HttpResponse:
    """Lead to what the person does in the project."""
    place = access_place(request.user, slug)
    project, role = place.project, place.role
    if role == MANAGER:
        return redirect("training:loop", project.slug)
    return redirect("labeling:label" if role in ANNOTATING else "labeling:guidelines", project.slug)


@require_http_methods(["GET", "POST"])
@login_required
def guidelines(request: HttpRequest, slug: str) -> HttpResponse:
    """Everyone in the project reads them; a manager writes them, with `?edit` for the form."""
    place = access_place(request.user, slug)
    project, role = place.project, place.role
    editing = role == MANAGER and ("edit" in request.GET or request.method == "POST")
    words = {"guidelines": project.guidelines}
    form = GuidelinesForm(request.POST or None, initial=words) if editing else None
    if request.method == "POST":
        if form is None:
            raise Http404
        if form.is_valid() and not form.came_too_late():
            save_guidelines(project, form.cleaned_data["guidelines"], request.user)
            messages.success(request, _("Saved. Annotators see them from their next page on."))
            return redirect("labeling:guidelines", project.slug)
    return render(
        request,
        "labeling/guidelines.html",
        {
            "project": project,
            "role": role,
            "form": form,
            "html": render_markdown(project.guidelines, top_heading=2),
        },
    )


@require_http_methods(["GET", "POST"])
@login_required
def settings(request: HttpRequest, slug: str) -> HttpResponse:
    """What the project asks of its annotators; a POST with `?preview` saves nothing and answers JSON."""
    project = access_project(request.user, slug, MANAGER)
    form = ProjectForm(request.POST or None, instance=project)
    if request.method == "POST" and "preview" in request.GET:
        return JsonResponse(drawn(form))
    if request.method == "POST" and form.is_valid() and not form.came_too_late():
        form.save_by(request.user)
        messages.success(
            request,
            "Saved. Annotators see it from their next page on; comparisons that wait keep their number of people.",
        )
        return redirect("labeling:settings", project.slug)
    saved = Project.objects.get(pk=project.pk)  # the form has written what was sent into its own
    context = {"project": saved, "role": MANAGER, "form": form, **preview(saved)}
    return render(request, "labeling/settings.html", context)


def drawn(form: ProjectForm) -> dict[str, str]:
    """The preview of what was typed, or a sentence where it makes no sense yet."""
    if not form.is_valid():
        problems = (f"{form[name].label}: {' '.join(errors)}" for name, errors in form.errors.items())
        return {"message": f"The preview waits. {' '.join(problems)}"}
    project = form.instance
    return {"html": render_to_string("labeling/_preview.html", {"project": project, **preview(project)})}


def preview(project: Project) -> dict[str, Any]:
    """A made-up comparison as the project's annotators would see it."""
    return {
        "preview": {
            "id": 0,
            "criteria": project.criteria,
            "language": project.only_language,
            "messages": [{"role": "user", "who": SPEAKERS["user"], "html": "How do I send a lamp back?"}],
            "answers": [
                {"letter": letter, "key": key, "html": text}
                for letter, key, text in zip(
                    LETTERS, picking(USUAL), PREVIEWED[: project.answers_per_comparison], strict=False
                )
            ],
        },
        "ranking": project.answers_per_comparison > MIN_CANDIDATES,
        "ratings": RATINGS,
        "keys": as_written(USUAL),
        "guidelines": render_markdown(project.guidelines, top_heading=3) if project.guidelines else "",
    }
