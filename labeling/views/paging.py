"""Lists that go on below a key."""

from django.http import HttpRequest


def asked_before(request: HttpRequest) -> int | None:
    """The key below which the list is to go on; None for its beginning, as with anything that is no key."""
    said = request.GET.get("before", "")
    return int(said) if said.isdecimal() and len(said) < 19 else None
