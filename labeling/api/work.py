"""The annotator's work: the next comparison, the answer, and taking it back."""

from typing import Any

from django.db.models import OuterRef, QuerySet, Subquery
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework import status
from rest_framework.generics import ListAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from labeling import assignment as leases
from labeling.access import ANNOTATING, READING, access_assignment, access_judgment, access_project
from labeling.api import serializers
from labeling.api.paging import NewestFirst
from labeling.judging import answer_from_sides, record, revise, undo_last, withdraw
from labeling.models import Assignment, Judgment, Membership

NOTHING_LEFT = OpenApiResponse(description="Nothing is left for you.")
NOT_QUALIFIED = OpenApiResponse(
    serializers.ErrorSerializer,
    description="You have the project's qualification round still to pass, on its page in the browser.",
)
CONFLICT = OpenApiResponse(serializers.ErrorSerializer, description="Too late: see the sentence.")


def _said(assignment: Assignment, data: Any) -> dict[str, Any]:
    """Read an answer and turn the places on screen into candidate positions."""
    sent = serializers.AnswerSerializer(data=data)
    sent.is_valid(raise_exception=True)
    said = dict(sent.validated_data)
    return answer_from_sides(assignment, said)


class NextView(APIView):
    @extend_schema(
        summary="Lease your next comparison",
        description="A lease of yours that is not in `holding` comes back first, so that a lost answer or "
        "a reload loses nothing. Name what you hold to fetch ahead; you may hold three.",
        request=serializers.HoldingSerializer,
        responses={200: serializers.AssignmentSerializer, 204: NOTHING_LEFT, 403: NOT_QUALIFIED},
    )
    def post(self, request: Request, slug: str) -> Response:
        project = access_project(request.user, slug, *ANNOTATING)
        sent = serializers.HoldingSerializer(data=request.data)
        sent.is_valid(raise_exception=True)
        assignment = leases.next_for(request.user, project, sent.validated_data["holding"])
        return _shown(assignment)


class UndoView(APIView):
    @extend_schema(
        summary="Take your latest answer back",
        request=None,
        responses={200: serializers.AssignmentSerializer, 204: NOTHING_LEFT},
    )
    def post(self, request: Request, slug: str) -> Response:
        project = access_project(request.user, slug, *ANNOTATING)
        return _shown(undo_last(request.user, project))


class AssignmentView(APIView):
    @extend_schema(summary="One of your assignments", responses=serializers.AssignmentSerializer)
    def get(self, request: Request, pk: int) -> Response:
        return _shown(access_assignment(request.user, pk))


class AnswerView(APIView):
    @extend_schema(
        summary="Answer a comparison",
        description="Sent again with the same client_key it changes nothing and returns the same receipt.",
        request=serializers.AnswerSerializer,
        responses={201: serializers.JudgmentSerializer, 400: serializers.ErrorSerializer, 409: CONFLICT},
    )
    def post(self, request: Request, pk: int) -> Response:
        assignment = access_assignment(request.user, pk)
        judgment = record(assignment, **_said(assignment, request.data))
        return Response(serializers.JudgmentSerializer(judgment).data, status.HTTP_201_CREATED)


class SkipView(APIView):
    @extend_schema(
        summary="Put a comparison aside",
        description="You will not be asked it again; others may be.",
        request=serializers.SkipSerializer,
        responses={200: serializers.LeaseSerializer, 409: CONFLICT},
    )
    def post(self, request: Request, pk: int) -> Response:
        assignment = access_assignment(request.user, pk)
        sent = serializers.SkipSerializer(data=request.data)
        sent.is_valid(raise_exception=True)
        leases.skip(assignment, **sent.validated_data)
        return Response(serializers.LeaseSerializer(assignment).data)


class FlagView(APIView):
    @extend_schema(
        summary="Report a comparison to the managers",
        request=serializers.FlagSerializer,
        responses={200: serializers.LeaseSerializer, 409: CONFLICT},
    )
    def post(self, request: Request, pk: int) -> Response:
        assignment = access_assignment(request.user, pk)
        sent = serializers.FlagSerializer(data=request.data)
        sent.is_valid(raise_exception=True)
        leases.flag(assignment, **sent.validated_data)
        return Response(serializers.LeaseSerializer(assignment).data)


class RenewView(APIView):
    @extend_schema(
        summary="Keep a comparison while you look at it",
        request=None,
        responses={200: serializers.LeaseSerializer, 409: CONFLICT},
    )
    def post(self, request: Request, pk: int) -> Response:
        assignment = leases.renew(access_assignment(request.user, pk))
        return Response(serializers.LeaseSerializer(assignment).data)


class ReleaseView(APIView):
    @extend_schema(
        summary="Give a comparison back unanswered",
        request=None,
        responses={204: OpenApiResponse(description="Given back.")},
    )
    def post(self, request: Request, pk: int) -> Response:
        leases.release(access_assignment(request.user, pk))
        return Response(status=status.HTTP_204_NO_CONTENT)


@extend_schema(summary="List your standing answers, newest first")
class OwnJudgmentsView(ListAPIView):
    serializer_class = serializers.JudgmentSerializer
    pagination_class = NewestFirst

    def get_queryset(self) -> QuerySet[Judgment]:
        if getattr(self, "swagger_fake_view", False):
            return Judgment.objects.none()
        project = access_project(self.request.user, self.kwargs["slug"], *ANNOTATING)
        own = Judgment.objects.current().filter(annotator=self.request.user, comparison__project=project)
        return own.select_related("assignment", "edit__completion")


@extend_schema(summary="List everybody's standing judgments, for managers and reviewers")
class ReviewView(ListAPIView):
    serializer_class = serializers.ReviewedJudgmentSerializer
    pagination_class = NewestFirst

    def get_queryset(self) -> QuerySet[Judgment]:
        if getattr(self, "swagger_fake_view", False):
            return Judgment.objects.none()
        project = access_project(self.request.user, self.kwargs["slug"], *READING)
        names = Membership.objects.filter(project=project, user=OuterRef("annotator"))
        judgments = Judgment.objects.current().filter(comparison__project=project)
        named = judgments.annotate(pseudonym=Subquery(names.values("pseudonym")[:1]))
        return named.select_related("assignment", "comparison__repeats", "edit__completion")


class JudgmentView(APIView):
    @extend_schema(summary="One of your answers", responses=serializers.JudgmentSerializer)
    def get(self, request: Request, pk: int) -> Response:
        return Response(serializers.JudgmentSerializer(access_judgment(request.user, pk)).data)

    @extend_schema(
        summary="Change an answer",
        description="A new revision is written; the old one is kept. Idempotent by client_key.",
        request=serializers.AnswerSerializer,
        responses={200: serializers.JudgmentSerializer, 400: serializers.ErrorSerializer, 409: CONFLICT},
    )
    def put(self, request: Request, pk: int) -> Response:
        judgment = access_judgment(request.user, pk)
        revision = revise(judgment, **_said(judgment.assignment, request.data))
        return Response(serializers.JudgmentSerializer(revision).data)

    @extend_schema(
        summary="Take an answer back",
        description="The comparison is yours again, as it was shown.",
        responses={200: serializers.AssignmentSerializer, 409: CONFLICT},
    )
    def delete(self, request: Request, pk: int) -> Response:
        return _shown(withdraw(access_judgment(request.user, pk)))


def _shown(assignment: Assignment | None) -> Response:
    if assignment is None:
        return Response(status=status.HTTP_204_NO_CONTENT)
    return Response(serializers.AssignmentSerializer(assignment).data)
