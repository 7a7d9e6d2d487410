"""Tokens for programs: hashed, expiring, shown once."""

from datetime import timedelta
from typing import Any

from allauth.mfa.utils import is_mfa_enabled
from django.http import Http404
from django.utils import timezone
from drf_spectacular.utils import OpenApiResponse, extend_schema
from knox.models import AuthToken
from rest_framework import serializers, status
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import PermissionDenied, Throttled
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.throttling import SimpleRateThrottle
from rest_framework.views import APIView

from labeling.api.reading import Password
from labeling.api.serializers import Strict

DEFAULT_DAYS = 30
MAX_DAYS = 365
MAX_TOKENS = 50


class FailedLogins(SimpleRateThrottle):
    """Counts attempts by address; a login that succeeds is taken off the count again."""

    scope = "token"

    def get_cache_key(self, request: Request, view: APIView) -> str:
        return self.cache_format % {"scope": self.scope, "ident": self.get_ident(request)}

    def forgive(self) -> None:
        history = self.cache.get(self.key, [])
        if self.now in history:
            history.remove(self.now)
            self.cache.set(self.key, history, self.duration)


class NewTokenSerializer(Strict):
    days = serializers.IntegerField(
        min_value=1, max_value=MAX_DAYS, default=DEFAULT_DAYS, help_text="How long the token works, in days."
    )


class TokenSerializer(serializers.Serializer):
    prefix = serializers.CharField(source="token_key", help_text="How the token begins.")
    created = serializers.DateTimeField()
    expiry = serializers.DateTimeField(allow_null=True)


class MadeTokenSerializer(TokenSerializer):
    token = serializers.CharField(help_text="The whole token; it cannot be shown again.")


class TokenView(APIView):
    """Tokens go into the header `Authorization: Token tm_...`."""

    def get_authenticators(self) -> list[BaseAuthentication]:
        # Only a password makes tokens: a stolen token must not be able to prolong itself.
        if self.request is not None and self.request.method == "POST":
            return [Password()]
        return super().get_authenticators()

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Ask the throttle first: REST framework would let wrong passwords pass it by."""
        if request.method == "POST":
            throttle = FailedLogins()
            if not throttle.allow_request(request, self):
                raise Throttled(throttle.wait())
            super().initial(request, *args, **kwargs)
            throttle.forgive()
        else:
            super().initial(request, *args, **kwargs)

    @extend_schema(
        operation_id="token_create",
        request=NewTokenSerializer,
        responses={201: MadeTokenSerializer},
        auth=[{"password": []}],
        summary="Exchange name and password for a token",
    )
    def post(self, request: Request) -> Response:
        if is_mfa_enabled(request.user):
            raise PermissionDenied("You log in with a second factor: make tokens on the page /tokens/.")
        wanted = NewTokenSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        AuthToken.objects.filter(user=request.user, expiry__lt=timezone.now()).delete()
        if AuthToken.objects.filter(user=request.user).count() >= MAX_TOKENS:
            raise PermissionDenied(f"You have {MAX_TOKENS} tokens; revoke one first.")
        days = wanted.validated_data["days"]
        stored, token = AuthToken.objects.create(user=request.user, expiry=timedelta(days=days))
        stored.token = token
        return Response(MadeTokenSerializer(stored).data, status.HTTP_201_CREATED)

    @extend_schema(
        operation_id="token_list",
        responses=TokenSerializer(many=True),
        summary="List your own tokens by how they begin",
    )
    def get(self, request: Request) -> Response:
        own = AuthToken.objects.filter(user=request.user).order_by("-created")
        return Response(TokenSerializer(own, many=True).data)

    @extend_schema(
        operation_id="token_revoke_this",
        responses={204: OpenApiResponse(description="Revoked.")},
        summary="Revoke the token that this request carries",
    )
    def delete(self, request: Request) -> Response:
        if not isinstance(request.auth, AuthToken):
            raise serializers.ValidationError(
                {"token": ["This request carries no token; name one to revoke."]}
            )
        request.auth.delete()
        return Response(status=status.HTTP_204_NO_CONTENT)


class OneTokenView(APIView):
    @extend_schema(
        operation_id="token_revoke",
        responses={204: OpenApiResponse(description="Revoked.")},
        summary="Revoke one of your tokens",
    )
    def delete(self, request: Request, prefix: str) -> Response:
        deleted, _ = AuthToken.objects.filter(user=request.user, token_key=prefix).delete()
        if not deleted:
            raise Http404
        return Response(status=status.HTTP_204_NO_CONTENT)
