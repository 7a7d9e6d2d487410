"""What people said out: streams of what stands now, and frozen versions."""

from typing import Any

from django.db.models import QuerySet
from django.http import FileResponse, StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers as fields
from rest_framework import status
from rest_framework.generics import ListAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from config.storage import open_file
from labeling.access import MANAGER, READING, access_dataset, access_project
from labeling.api import serializers
from labeling.api.paging import NewestFirst
from labeling.datasets import freeze
from labeling.exports import STREAMS
from labeling.models import DatasetVersion

LINES = "application/x-ndjson"
LISTS = ("tags", "authors", "annotators")


def _after(help_text: str) -> fields.IntegerField:
    return fields.IntegerField(min_value=0, max_value=serializers.MAX_ID, default=0, help_text=help_text)


LATER = "The id of the last line that you have; the stream goes on behind it."


class LaterSerializer(serializers.Strict):
    after = _after(LATER)


class FilteredSerializer(serializers.FilterSerializer):
    after = _after(LATER)


class CutSerializer(serializers.Strict):
    after = _after(
        "The id of the last line that you have of a stream that was cut. For what is new, read all again: rows "
        "are put aside and decided on in another order than that of their ids."
    )


def streamed(request: Request, slug: str, name: str, asked: type[fields.Serializer]) -> StreamingHttpResponse:
    """Lines as a file to be saved, sent while they are read."""
    project = access_project(request.user, slug, *READING)
    asks = asked(data=_query(request))
    asks.is_valid(raise_exception=True)
    response = StreamingHttpResponse(STREAMS[name](project, **asks.validated_data), content_type=LINES)
    response["Content-Disposition"] = f'attachment; filename="{project.slug}-{name}.jsonl"'
    return response


class PreferencesView(APIView):
    @extend_schema(
        summary="Stream the current preferences",
        description="JSON lines in order of id, each with the same keys and types. Ties only with "
        "ties=include. A connection that was cut is resumed with after.",
        parameters=[FilteredSerializer],
        responses={(200, LINES): serializers.PreferenceSerializer, 400: serializers.ErrorSerializer},
    )
    def get(self, request: Request, slug: str) -> StreamingHttpResponse:
        return streamed(request, slug, "preferences", FilteredSerializer)


class JudgmentsView(APIView):
    @extend_schema(
        summary="Stream all that standing answers say",
        description="JSON lines in order of id: every verdict with all that was said beside it, repeats among them. What is "
        "not said is empty or 0. To train a reward model take preferences, which are derived from these and weighted.",
        parameters=[LaterSerializer],
        responses={(200, LINES): serializers.JudgmentLineSerializer, 400: serializers.ErrorSerializer},
    )
    def get(self, request: Request, slug: str) -> StreamingHttpResponse:
        return streamed(request, slug, "judgments", LaterSerializer)


class PutAsideView(APIView):
    @extend_schema(
        summary="Stream what people skipped and reported",
        description="JSON lines in order of id, each with its reason and, of a report, what was decided.",
        parameters=[CutSerializer],
        responses={(200, LINES): serializers.PutAsideSerializer, 400: serializers.ErrorSerializer},
    )
    def get(self, request: Request, slug: str) -> StreamingHttpResponse:
        return streamed(request, slug, "put-aside", CutSerializer)


class DemonstrationsView(APIView):
    @extend_schema(
        summary="Stream the better answers that people wrote",
        description="JSON lines in order of id, as supervised fine-tuning takes them.",
        parameters=[LaterSerializer],
        responses={(200, LINES): serializers.DemonstrationSerializer, 400: serializers.ErrorSerializer},
    )
    def get(self, request: Request, slug: str) -> StreamingHttpResponse:
        return streamed(request, slug, "demonstrations", LaterSerializer)


class QualificationView(APIView):
    @extend_schema(
        summary="Stream what people said in the qualification round",
        description="JSON lines in order of id. They are no judgments, and nothing learns from them.",
        parameters=[CutSerializer],
        responses={(200, LINES): serializers.QualificationLineSerializer, 400: serializers.ErrorSerializer},
    )
    def get(self, request: Request, slug: str) -> StreamingHttpResponse:
        return streamed(request, slug, "qualification", CutSerializer)


def _query(request: Request) -> dict[str, Any]:
    """The query as plain values; what may be given several times as lists."""
    query = request.query_params
    return {name: query.getlist(name) if name in LISTS else query[name] for name in query}


class DatasetsView(ListAPIView):
    serializer_class = serializers.DatasetSerializer
    pagination_class = NewestFirst

    def get_queryset(self) -> QuerySet[DatasetVersion]:
        if getattr(self, "swagger_fake_view", False):
            return DatasetVersion.objects.none()
        project = access_project(self.request.user, self.kwargs["slug"], *READING)
        return project.dataset_versions.select_related("project")

    @extend_schema(summary="List dataset versions, newest first")
    def get(self, request: Request, slug: str) -> Response:
        return self.list(request)

    @extend_schema(
        summary="Freeze a dataset version",
        description="Of the preferences that stand now. Ties are in it; a prompt is on one side of the split.",
        request=serializers.FreezeSerializer,
        responses={201: serializers.DatasetSerializer, 400: serializers.ErrorSerializer},
    )
    def post(self, request: Request, slug: str) -> Response:
        project = access_project(request.user, slug, MANAGER)
        sent = serializers.FreezeSerializer(data=request.data)
        sent.is_valid(raise_exception=True)
        version = freeze(project, request.user, sent.validated_data["filter"])
        return Response(serializers.DatasetSerializer(version).data, status.HTTP_201_CREATED)


class DatasetView(APIView):
    @extend_schema(summary="One dataset version", responses=serializers.DatasetSerializer)
    def get(self, request: Request, pk: int) -> Response:
        return Response(serializers.DatasetSerializer(access_dataset(request.user, pk, *READING)).data)


class DatasetFileView(APIView):
    @extend_schema(
        summary="Download one side of a dataset version",
        parameters=[
            OpenApiParameter("split", OpenApiTypes.STR, enum=["train", "eval"], default="train"),
        ],
        responses={
            (200, LINES): OpenApiResponse(serializers.PreferenceSerializer, description="JSON lines."),
            400: serializers.ErrorSerializer,
        },
    )
    def get(self, request: Request, pk: int) -> FileResponse:
        version = access_dataset(request.user, pk, *READING)
        split = request.query_params.get("split", "train")
        if split not in ("train", "eval"):
            raise fields.ValidationError({"split": ["must be train or eval"]})
        file = open_file(getattr(version, f"{split}_file"))
        name = f"{version.project.slug}-{version.number}-{split}.jsonl"
        response = FileResponse(file, as_attachment=True, filename=name, content_type=LINES)
        response["ETag"] = f'"{getattr(version, f"{split}_sha256")}"'
        return response
