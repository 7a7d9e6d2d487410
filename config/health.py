"""Whether this process answers: for load balancers, compose and `manage.py up`."""

from collections.abc import Callable

from django.db import connection
from django.http import HttpRequest, HttpResponse, HttpResponseBase

from config.supervisor import installation_mark

PATH = "/health/"


class Health:
    """Answers first of all: who asks comes without HTTPS, and by an address that ALLOWED_HOSTS need not name."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        return health() if request.path == PATH else self.get_response(request)


def health() -> HttpResponse:
    """This process answers and reaches its database."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return HttpResponse("ok", content_type="text/plain", headers={"X-Installation": installation_mark()})
