"""Model versions: where each comes from, which one is in use, and how to go back."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_POST

from training import loop
from training.models import LoopSettings, ModelVersion, Promotion
from training.views.access import managed, readable, version_of

SHOWN = 100


@require_GET
@login_required
def index(request: HttpRequest, slug: str) -> HttpResponse:
    project, context = readable(request, slug)
    versions = (
        ModelVersion.objects.filter(project=project)
        .select_related("parent", "run__dataset_version", "run__reward_model", "run__round")
        .order_by("-number")
    )
    context |= {
        "loop": LoopSettings.objects.select_related("policy", "first_policy").filter(project=project).first(),
        "policies": versions.filter(kind=ModelVersion.Kind.POLICY)[:SHOWN],
        "rewards": versions.filter(kind=ModelVersion.Kind.REWARD)[:SHOWN],
        "promotions": Promotion.objects.filter(project=project).select_related(
            "version", "previous", "promoted_by", "round"
        )[:10],
    }
    return render(request, "training/versions.html", context)


@require_POST
@login_required
def promote(request: HttpRequest, slug: str, version_id: int) -> HttpResponse:
    version = version_of(managed(request, slug), version_id)
    try:
        loop.promote(version, request.user)
    except loop.RoundRefused as reason:
        messages.error(request, str(reason))
    else:
        messages.success(request, f"{version.name} is in use. The next round starts from it.")
    return redirect("training:versions", slug)
