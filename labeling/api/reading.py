"""Reading requests: who sent them, and JSON that may be hostile."""

from typing import IO, Any

from django.conf import settings
from drf_spectacular.authentication import BasicScheme
from drf_spectacular.contrib.knox_auth_token import KnoxTokenScheme
from knox.auth import TokenAuthentication
from rest_framework import status
from rest_framework.authentication import BasicAuthentication
from rest_framework.exceptions import APIException, AuthenticationFailed, ParseError
from rest_framework.parsers import JSONParser
from rest_framework.request import Request


class TooLarge(APIException):
    status_code = status.HTTP_413_REQUEST_ENTITY_TOO_LARGE
    default_code = "too_large"
    default_detail = "The request is too large; send what it says in several."


class Token(TokenAuthentication):
    """Knox's, which takes bytes that are not text for a defect rather than for a wrong token."""

    def authenticate_credentials(self, token: bytes) -> Any:
        if not token.isascii() or b"\x00" in token:
            raise AuthenticationFailed("Invalid token.")
        return super().authenticate_credentials(token)


class Password(BasicAuthentication):
    """REST framework's, which lets names through that the database cannot even look up."""

    def authenticate_credentials(self, userid: str, password: str, request: Request | None = None) -> Any:
        if "\x00" in userid:
            raise AuthenticationFailed("Invalid username/password.")
        return super().authenticate_credentials(userid, password, request)


class TokenScheme(KnoxTokenScheme):
    """Tells the API's description how to send a token."""

    target_class = "labeling.api.reading.Token"
    name = "token"


class PasswordScheme(BasicScheme):
    target_class = "labeling.api.reading.Password"
    name = "password"


class LimitedJSON(JSONParser):
    """JSON of at most DATA_UPLOAD_MAX_MEMORY_SIZE bytes, which REST framework does not look at itself."""

    def parse(
        self, stream: IO[bytes], media_type: str | None = None, parser_context: dict[str, Any] | None = None
    ) -> Any:
        limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        length = int(parser_context["request"].META.get("CONTENT_LENGTH") or 0)
        if limit is not None and length > limit:
            raise TooLarge
        try:
            return super().parse(stream, media_type, parser_context)
        except RecursionError:
            raise ParseError("The JSON nests too deep.") from None
