"""The language of each answer: a person's own choice, else what their browser asks for."""

from django.conf import settings
from django.http import HttpRequest
from django.middleware.locale import LocaleMiddleware
from django.utils import translation

API = "/api/"


class OwnLanguage(LocaleMiddleware):
    """Speak the language that the signed-in person chose.

    The API speaks English to everyone: programs read it, its field names are English, and an error in a log
    should be found again whoever's program met it.
    """

    def process_request(self, request: HttpRequest) -> None:
        super().process_request(request)
        if request.path_info.startswith(API):
            chosen = settings.LANGUAGE_CODE
        else:
            chosen = getattr(request.user, "language", "")
        if chosen in dict(settings.LANGUAGES):
            translation.activate(chosen)
            request.LANGUAGE_CODE = chosen
