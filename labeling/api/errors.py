"""Errors as JSON: `detail` is a sentence; `fields` says what is wrong where."""

from typing import Any

from django.core.exceptions import RequestDataTooBig
from django.core.exceptions import ValidationError as DjangoValidationError
from rest_framework import exceptions, status
from rest_framework.response import Response
from rest_framework.views import exception_handler

from labeling.api.reading import TooLarge
from labeling.assignment import Conflict
from labeling.imports import ImportRefused
from labeling.models import Membership
from labeling.qualification import NotQualified


class Refused(exceptions.APIException):
    """409: what was asked no longer fits what has happened since."""

    status_code = status.HTTP_409_CONFLICT
    default_code = "conflict"


def answer(error: Exception, context: dict[str, Any]) -> Response | None:
    """Turn what our acts raise into a response; leave what is a defect to become a 500."""
    response = exception_handler(_translate(error), context)
    if response is not None:
        response.data = _body(response.data)
    return response


def _translate(error: Exception) -> Exception:
    if isinstance(error, Conflict):
        return Refused(str(error))
    if isinstance(error, NotQualified):
        return exceptions.PermissionDenied(str(error))
    if isinstance(error, Membership.DoesNotExist):  # removed from the project since they were let in
        return exceptions.NotFound()
    if isinstance(error, RequestDataTooBig):
        return TooLarge()
    if isinstance(error, ImportRefused):
        problems = error.report.problems
        return exceptions.ValidationError({f"{each.line}.{each.field}": [each.reason] for each in problems})
    if isinstance(error, DjangoValidationError):
        return exceptions.ValidationError(
            error.message_dict if hasattr(error, "error_dict") else {"non_field_errors": error.messages}
        )
    return error


def _body(data: Any) -> dict[str, Any]:
    if isinstance(data, dict) and set(data) == {"detail"}:
        return {"detail": str(data["detail"])}
    fields = _flatten(data) if isinstance(data, dict) else {"non_field_errors": _sentences(data)}
    sentences = [f"{name}: {text}" for name, texts in fields.items() for text in texts]
    return {"detail": " ".join(sentences[:3]).replace("non_field_errors: ", ""), "fields": fields}


def _flatten(data: dict[str, Any], prefix: str = "") -> dict[str, list[str]]:
    """Name nested problems by their path: completions.0.text."""
    flat: dict[str, list[str]] = {}
    for name, value in data.items():
        path = f"{prefix}{name}"
        if isinstance(value, dict):
            flat |= _flatten(value, f"{path}.")
        elif isinstance(value, list) and any(isinstance(each, dict) for each in value):
            flat |= _flatten({str(place): each for place, each in enumerate(value) if each}, f"{path}.")
        else:
            flat[path] = _sentences(value)
    return flat


def _sentences(value: Any) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list | tuple) else [str(value)]
