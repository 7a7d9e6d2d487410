"""Who sees training: managers act, reviewers read, nobody else knows that it is there."""

from __future__ import annotations

from django.http import Http404, HttpRequest

from labeling.access import MANAGER, READING, access_place, access_project
from labeling.models import Project
from training.models import ModelVersion, Round, Run


def readable(request: HttpRequest, slug: str) -> tuple[Project, dict[str, object]]:
    """The project for who may read it, and what every page says of it; else Http404."""
    place = access_place(request.user, slug, *READING)
    return place.project, {"project": place.project, "role": place.role}


def managed(request: HttpRequest, slug: str) -> Project:
    """The project for who manages it; else Http404."""
    return access_project(request.user, slug, MANAGER)


def run_of(project: Project, run_id: int) -> Run:
    run = (
        Run.objects.select_related(
            "project",
            "input_model",
            "reward_model",
            "dataset_version",
            "round",
            "requested_by",
            "stop_requested_by",
        )
        .filter(project=project, pk=run_id)
        .first()
    )
    if run is None:
        raise Http404("There is no such run.")
    return run


def version_of(project: Project, version_id: int) -> ModelVersion:
    version = ModelVersion.objects.filter(project=project, pk=version_id).first()
    if version is None:
        raise Http404("There is no such version.")
    return version


def last_round(project: Project) -> Round | None:
    return (
        Round.objects.select_related(
            "policy", "reward", "held_out_reward", "new_policy", "dataset_version", "project"
        )
        .filter(project=project)
        .first()
    )
