"""Pages, scripts and styles go out compressed. Exports do not: they are streamed as fast as they are read."""

from django.conf import settings
from django.http import HttpRequest, HttpResponseBase
from django.middleware.gzip import GZipMiddleware


class PagesCompressed(GZipMiddleware):
    """Django's own, which pads compressed pages at random against BREACH, for pages and static files alone."""

    def process_request(self, request: HttpRequest) -> None:
        # What was compressed has a weak tag, and WhiteNoise knows files by strong ones: else none is ever unchanged.
        if request.path.startswith(settings.STATIC_URL) and (tags := request.META.get("HTTP_IF_NONE_MATCH")):
            request.META["HTTP_IF_NONE_MATCH"] = tags.removeprefix("W/")

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        is_page = response.headers.get("Content-Type", "").startswith(("text/html", "application/json"))
        is_static = request.path.startswith(settings.STATIC_URL) and response.status_code == 200
        if (is_page and not response.streaming) or is_static:
            return super().process_response(request, response)
        return response
