"""Runs, model versions and rounds over HTTP: managers act, reviewers read, nobody else finds them."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from django.http import FileResponse, Http404
from django.urls import reverse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import exceptions, status
from rest_framework.generics import ListAPIView, RetrieveAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from labeling.access import MANAGER, READING, access_project
from labeling.api.errors import Refused
from labeling.api.paging import NewestFirst
from labeling.api.serializers import ErrorSerializer
from labeling.models import DatasetVersion, Project
from training import choices, loop, marked, runs
from training.api import serializers
from training.models import LoopSettings, Metric, ModelVersion, Round, Run

MOST_METRICS = 10_000
MOST_MARKED = 10_000


def reachable(user: Any, kind: type, pk: int, *roles: str) -> Any:
    """A run, version or round in a project where the person has one of the roles; else 404."""
    row = kind.objects.select_related("project").filter(pk=pk).first()
    if row is None:
        raise Http404("There is nothing here that you may see.")
    access_project(user, row.project.slug, *roles)
    return row


class OfProject(ListAPIView):
    """Rows of one project, newest first."""

    pagination_class = NewestFirst
    kind: type

    def project(self, *roles: str) -> Project:
        return access_project(self.request.user, self.kwargs["slug"], *(roles or READING))

    def get_queryset(self) -> QuerySet:
        if getattr(self, "swagger_fake_view", False):
            return self.kind.objects.none()
        return self.kind.objects.filter(project=self.project())


# Runs


class RunsView(OfProject):
    serializer_class = serializers.RunSerializer
    kind = Run

    def get_queryset(self) -> QuerySet[Run]:
        return (
            super()
            .get_queryset()
            .select_related(
                "project",
                "input_model",
                "reward_model",
                "dataset_version",
                "round",
                "requested_by",
                "model_version",
            )
        )

    @extend_schema(summary="List runs")
    def get(self, request: Request, slug: str) -> Response:
        return self.list(request)

    @extend_schema(
        summary="Start a run",
        description="Versions, datasets and prompts are named; paths and Python callables are not taken here, and "
        "of servers only those that the operator has listed.",
        request=serializers.NewRunSerializer,
        responses={201: serializers.RunSerializer, 400: ErrorSerializer},
    )
    def post(self, request: Request, slug: str) -> Response:
        project = self.project(MANAGER)
        sent = serializers.NewRunSerializer(data=request.data)
        sent.is_valid(raise_exception=True)
        said = dict(sent.validated_data)
        method, config = said.pop("method"), said.pop("config")
        try:
            run = choices.start_run(project, method, config, found(project, method, said), request.user)
        except runs.RunRefused as reason:
            field, _, words = str(reason).partition(": ")
            raise exceptions.ValidationError(
                {field: [words]} if words else {"config": [str(reason)]}
            ) from reason
        return Response(serializers.RunSerializer(run).data, status.HTTP_201_CREATED)


def found(project: Project, method: str, said: dict[str, Any]) -> dict[str, Any]:
    """The rows behind the names. Raises ValidationError for a name that the project does not have."""
    chosen: dict[str, Any] = {}
    for name, value in said.items():
        if name not in choices.CHOICES[method]:
            raise exceptions.ValidationError({name: [f"{method} takes no {name}"]})
        if name == "dataset":
            row = DatasetVersion.objects.filter(project=project, number=value).first()
        elif name == "completions_of":
            row = choices.sampled_runs(project).filter(pk=value).first()
        elif name in ("prompts", "better_answers"):
            row = value
        else:
            row = choices.versions(project, method, name).filter(name=value).first()
        if row is None:
            raise exceptions.ValidationError({name: [f"the project has no {value} for this"]})
        chosen[name] = row
    return chosen


class RunView(RetrieveAPIView):
    serializer_class = serializers.RunSerializer

    @extend_schema(summary="One run")
    def get(self, request: Request, pk: int) -> Response:
        return self.retrieve(request)

    def get_object(self) -> Run:
        return reachable(self.request.user, Run, self.kwargs["pk"], *READING)


class StopView(APIView):
    @extend_schema(
        summary="Stop a run",
        description="It saves a checkpoint and leaves; asking twice is harmless.",
        request=None,
        responses={202: serializers.RunSerializer},
    )
    def post(self, request: Request, pk: int) -> Response:
        run = reachable(request.user, Run, pk, MANAGER)
        runs.request_stop(run, request.user)
        return Response(serializers.RunSerializer(Run.objects.get(pk=pk)).data, status.HTTP_202_ACCEPTED)


class MarkedView(APIView):
    @extend_schema(
        summary="What a run marked for people to look at",
        description="Samples of the highest reward, and those on which reward models differ most.",
        responses=serializers.MarkedSerializer(many=True),
    )
    def get(self, request: Request, pk: int) -> Response:
        run = reachable(request.user, Run, pk, *READING)
        return Response(serializers.MarkedSerializer(marked.listed(run, MOST_MARKED), many=True).data)

    @extend_schema(
        summary="Put marked samples before annotators",
        description="Makes a comparison of each with another answer to its prompt; asking twice is harmless.",
        request=None,
        responses={200: serializers.MarkedOutcomeSerializer, 409: ErrorSerializer},
    )
    def post(self, request: Request, pk: int) -> Response:
        run = reachable(request.user, Run, pk, MANAGER)
        try:
            outcome = marked.put_before_annotators(run)
        except marked.NothingMarked as reason:
            raise Refused(str(reason)) from reason
        return Response(serializers.MarkedOutcomeSerializer(outcome).data)


class MetricsView(APIView):
    @extend_schema(
        summary="A run's metrics",
        description=f"In order of step, at most {MOST_METRICS:,} at a time; ask again with `after` for what follows.",
        parameters=[
            OpenApiParameter("name", str, many=True, description="Only these metrics."),
            OpenApiParameter("after", int, description="Only steps after this one."),
        ],
        responses=serializers.MetricSerializer(many=True),
    )
    def get(self, request: Request, pk: int) -> Response:
        metrics = Metric.objects.filter(run=reachable(request.user, Run, pk, *READING))
        if names := request.query_params.getlist("name"):
            metrics = metrics.filter(name__in=names)
        after = request.query_params.get("after", "")
        if after.isdecimal():
            metrics = metrics.filter(step__gt=int(after))
        rows = metrics.order_by("step", "name").values("name", "step", "value")[:MOST_METRICS]
        return Response(list(rows))


# Model versions


class ModelsView(OfProject):
    serializer_class = serializers.ModelVersionSerializer
    kind = ModelVersion

    @extend_schema(summary="List model versions")
    def get(self, request: Request, slug: str) -> Response:
        return self.list(request)

    def get_queryset(self) -> QuerySet[ModelVersion]:
        return super().get_queryset().select_related("parent")

    def get_serializer_context(self) -> dict[str, Any]:
        slug = self.kwargs.get("slug")
        in_use = LoopSettings.objects.filter(project__slug=slug).values_list("policy_id", flat=True).first()
        return super().get_serializer_context() | {"in_use": in_use}


class PromoteView(APIView):
    @extend_schema(
        summary="Put a policy in use",
        description="The next round starts from it. Rolling back is putting an earlier one in use again.",
        request=None,
        responses={200: serializers.ModelVersionSerializer, 409: ErrorSerializer},
    )
    def post(self, request: Request, pk: int) -> Response:
        version = reachable(request.user, ModelVersion, pk, MANAGER)
        try:
            loop.promote(version, request.user)
        except loop.RoundRefused as reason:
            raise Refused(str(reason)) from reason
        return Response(serializers.ModelVersionSerializer(version, context={"in_use": version.pk}).data)


class ModelFilesView(APIView):
    @extend_schema(
        summary="The files of a model version", responses=serializers.ModelFileSerializer(many=True)
    )
    def get(self, request: Request, pk: int) -> Response:
        version = reachable(request.user, ModelVersion, pk, *READING)
        listed = [
            {
                "name": (name := choices.file_name(version, path)),
                "bytes": path.stat().st_size,
                "url": request.build_absolute_uri(reverse("training-api:model-file", args=[pk, name])),
            }
            for path in choices.model_files(version)
        ]
        return Response(listed)


class ModelFileView(APIView):
    @extend_schema(
        summary="Fetch one file of a model version",
        responses={(200, "application/octet-stream"): OpenApiTypes.BINARY},
    )
    def get(self, request: Request, pk: int, name: str) -> FileResponse:
        version = reachable(request.user, ModelVersion, pk, *READING)
        listed = {choices.file_name(version, path): path for path in choices.model_files(version)}
        if name not in listed:
            raise Http404("The version has no such file here.")
        return FileResponse(listed[name].open("rb"), as_attachment=True, filename=listed[name].name)


# Rounds


class RoundsView(OfProject):
    serializer_class = serializers.RoundSerializer
    kind = Round

    def get_queryset(self) -> QuerySet[Round]:
        return (
            super()
            .get_queryset()
            .select_related("project", "policy", "reward", "held_out_reward", "new_policy", "dataset_version")
        )

    @extend_schema(summary="List rounds")
    def get(self, request: Request, slug: str) -> Response:
        return self.list(request)

    @extend_schema(
        summary="Start a round",
        description="Refused with 409 while another one is open.",
        request=serializers.NewRoundSerializer,
        responses={201: serializers.RoundSerializer, 409: ErrorSerializer},
    )
    def post(self, request: Request, slug: str) -> Response:
        project = self.project(MANAGER)
        sent = serializers.NewRoundSerializer(data=request.data)
        sent.is_valid(raise_exception=True)
        try:
            round = loop.start_round(project, request.user, **sent.validated_data)
        except loop.RoundRefused as reason:
            raise Refused(str(reason)) from reason
        return Response(serializers.RoundSerializer(round).data, status.HTTP_201_CREATED)


class RoundView(RetrieveAPIView):
    serializer_class = serializers.RoundSerializer

    @extend_schema(summary="One round")
    def get(self, request: Request, pk: int) -> Response:
        return self.retrieve(request)

    def get_object(self) -> Round:
        return reachable(self.request.user, Round, self.kwargs["pk"], *READING)


class RoundActView(APIView):
    """One of the three things that a manager may do to a round."""

    act: str

    @extend_schema(request=None, responses={200: serializers.RoundSerializer, 409: ErrorSerializer})
    def post(self, request: Request, pk: int) -> Response:
        round = reachable(request.user, Round, pk, MANAGER)
        try:
            if self.act == "cancel":
                loop.cancel(round, request.user)
            else:
                {"train": loop.train_now, "retry": loop.retry}[self.act](round)
        except loop.RoundRefused as reason:
            raise Refused(str(reason)) from reason
        return Response(serializers.RoundSerializer(Round.objects.get(pk=pk)).data)


@extend_schema(summary="Train now", description="Stop collecting, and train on the answers that are there.")
class TrainView(RoundActView):
    act = "train"


@extend_schema(summary="Try a halted round's stage again")
class RetryView(RoundActView):
    act = "retry"


@extend_schema(summary="Cancel a round", description="Its answers stay.")
class CancelView(RoundActView):
    act = "cancel"
