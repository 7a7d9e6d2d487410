"""Projects, and what managers put before people."""

from django.db.models import F, QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import status
from rest_framework.generics import ListAPIView, RetrieveAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from labeling.access import MANAGER, READING, access_project, projects_of
from labeling.api import serializers
from labeling.api.paging import ById
from labeling.imports import add_comparisons, add_prompts
from labeling.models import Comparison, Project, Prompt


@extend_schema(summary="List your projects")
class ProjectsView(ListAPIView):
    serializer_class = serializers.ProjectSerializer
    pagination_class = ById

    def get_queryset(self) -> QuerySet[Project]:
        return projects_of(self.request.user).annotate(role=F("memberships__role"))


@extend_schema(summary="One project")
class ProjectView(RetrieveAPIView):
    serializer_class = serializers.ProjectSerializer

    def get_object(self) -> Project:
        project = access_project(self.request.user, self.kwargs["slug"])
        project.role = project.memberships.get(user=self.request.user).role
        return project


class PromptsView(ListAPIView):
    serializer_class = serializers.PromptSerializer
    pagination_class = ById

    def get_queryset(self) -> QuerySet[Prompt]:
        if getattr(self, "swagger_fake_view", False):
            return Prompt.objects.none()
        return access_project(self.request.user, self.kwargs["slug"], *READING).prompts.all()

    @extend_schema(summary="List prompts")
    def get(self, request: Request, slug: str) -> Response:
        return self.list(request)

    @extend_schema(
        summary="Add prompts",
        description="All or none. What is there already is not added again.",
        request=serializers.NewPromptsSerializer,
        responses={201: serializers.AddedSerializer, 400: serializers.ErrorSerializer},
    )
    def post(self, request: Request, slug: str) -> Response:
        project = access_project(request.user, slug, MANAGER)
        sent = serializers.NewPromptsSerializer(data=request.data)
        sent.is_valid(raise_exception=True)
        report = add_prompts(project, sent.validated_data["prompts"])
        return Response(serializers.AddedSerializer(report).data, status.HTTP_201_CREATED)


class ComparisonsView(ListAPIView):
    serializer_class = serializers.ComparisonSerializer
    pagination_class = ById

    def get_queryset(self) -> QuerySet[Comparison]:
        if getattr(self, "swagger_fake_view", False):
            return Comparison.objects.none()
        project = access_project(self.request.user, self.kwargs["slug"], *READING)
        return project.comparisons.select_related("prompt", "repeats").prefetch_related(
            "candidates__completion"
        )

    @extend_schema(summary="List comparisons")
    def get(self, request: Request, slug: str) -> Response:
        return self.list(request)

    @extend_schema(
        summary="Add comparisons",
        description="Completions of your own models, to be judged by people, or pairs that were judged "
        "elsewhere. All or none. What is there already is not added again.",
        request=serializers.NewComparisonsSerializer,
        responses={201: serializers.AddedSerializer, 400: serializers.ErrorSerializer},
    )
    def post(self, request: Request, slug: str) -> Response:
        project = access_project(request.user, slug, MANAGER)
        sent = serializers.NewComparisonsSerializer(data=request.data)
        sent.is_valid(raise_exception=True)
        report = add_comparisons(project, sent.validated_data["comparisons"])
        return Response(serializers.AddedSerializer(report).data, status.HTTP_201_CREATED)
