"""A project's data: prompts and comparisons in, dataset versions out."""

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_POST

from labeling import datasets, imports
from labeling.access import MANAGER, access_project
from labeling.forms import UploadForm
from labeling.models import Comparison, Preference, Project, Prompt

COUNTED = 100_000  # nobody waits for a longer count; beyond it the page says "more than"
VERSIONS_SHOWN = 50


@require_GET
@login_required
def data(request: HttpRequest, slug: str) -> HttpResponse:
    project = access_project(request.user, slug, MANAGER)
    return render(request, "labeling/data.html", page(project, UploadForm()))


def page(project: Project, form: UploadForm, report: imports.ImportReport | None = None) -> dict[str, object]:
    comparisons = Comparison.objects.filter(project=project, reserved_for=None)  # repeats ask nothing new
    return {
        "project": project,
        "role": MANAGER,
        "form": form,
        "report": report,
        "counted": COUNTED,
        "prompts": counted(Prompt.objects.filter(project=project)),
        "comparisons": counted(comparisons),
        "open": counted(comparisons.open()),
        "preferences": counted(Preference.objects.current().filter(project=project)),
        "versions": project.dataset_versions.select_related("created_by").order_by("-number")[
            :VERSIONS_SHOWN
        ],
    }


def counted(rows: QuerySet) -> int:
    """How many rows there are, up to COUNTED + 1."""
    return rows.order_by()[: COUNTED + 1].count()


@require_POST
@login_required
def upload(request: HttpRequest, slug: str) -> HttpResponse:
    project = access_project(request.user, slug, MANAGER)
    form = UploadForm(request.POST, request.FILES)
    if not form.is_valid():
        return render(request, "labeling/data.html", page(project, form), status=400)
    act = imports.import_prompts if form.cleaned_data["kind"] == "prompts" else imports.import_comparisons
    try:
        report = act(form.cleaned_data["file"], project, skip_bad=form.cleaned_data["skip_bad"])
    except imports.ImportRefused as refused:
        context = page(project, form, refused.report) | {"refused": True}
        return render(request, "labeling/data.html", context, status=400)
    return render(request, "labeling/data.html", page(project, UploadForm(), report))


@require_POST
@login_required
def freeze(request: HttpRequest, slug: str) -> HttpResponse:
    project = access_project(request.user, slug, MANAGER)
    try:
        version, is_new = datasets.freeze_if_changed(project, created_by=request.user)
    except ValidationError as error:
        messages.error(request, " ".join(error.messages))
    else:
        total = version.train_count + version.eval_count
        if is_new:
            said = f"Dataset version {version.number} is frozen, with {total} preferences."
        else:
            said = f"Nothing has changed since version {version.number} was frozen."
        messages.success(request, said)
    return redirect("labeling:data", slug)
