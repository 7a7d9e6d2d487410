"""JSON from hostile texts, held against a JSON Schema: bounded, offline, without remote references. No torch."""

import json
import math
from collections.abc import Iterator
from typing import Any

import jsonschema
import referencing.jsonschema
from jsonschema.validators import extend, validator_for
from referencing.exceptions import Unresolvable

from training.engine.patterns import SEARCH_SECONDS, compiled

MAX_DEPTH, MAX_VALUES, MAX_DIGITS = 32, 4000, 100  # of a text's JSON; beyond, it is none


def parse_json(text: str) -> Any:
    """What a text says as JSON. Raises ValueError for anything else, for NaN and infinities, and beyond the limits.

    The limit of depth is ours, since what Python's own parser bears depends on who calls it.
    """
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite, parse_int=_short)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    waiting, count = [(value, 1)], 0
    while waiting:
        one, depth = waiting.pop()
        count += 1
        if depth > MAX_DEPTH or count > MAX_VALUES:
            raise ValueError("nested too deeply, or too many values")
        if isinstance(one, dict | list):
            parts = one.values() if isinstance(one, dict) else one
            waiting += [(part, depth + 1) for part in parts]
    return value


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


def _finite(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise ValueError("a number that is too large")
    return value


def _short(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError("a number that is too long")
    return int(digits)


def schema_validator(schema: dict[str, Any]) -> Any:
    """A validator that needs no network. Raises ValueError for a schema that cannot be used."""
    known = validator_for(schema, default=None) if "$schema" in schema else jsonschema.Draft202012Validator
    if known is None:
        raise ValueError(f"there is no draft {schema['$schema']!r}")
    try:
        known.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise ValueError(f"{'.'.join(map(str, error.path))} is no JSON Schema ({error.message})") from error
    resolver = referencing.Registry().resolver_with_root(
        referencing.Resource.from_contents(schema, referencing.jsonschema.DRAFT202012)
    )
    for keyword, value in _keywords(schema):
        if keyword == "patternProperties":
            raise ValueError("patternProperties is not known here: its patterns could search without end")
        if keyword == "pattern" and isinstance(value, str):
            compiled(value)
        if keyword in ("$ref", "$dynamicRef") and isinstance(value, str):
            try:
                resolver.lookup(value) if value.startswith("#") else _refuse_remote(value)
            except Unresolvable as error:
                raise ValueError(f"{value} refers to nothing within the schema") from error
    validator = extend(known, {"pattern": _matches})(schema, registry=referencing.Registry())
    for probe in (None, {}, [], "", 0):
        try:
            validator.is_valid(probe)
        except RecursionError as error:
            raise ValueError("refers to itself without end") from error
    return validator


def _refuse_remote(reference: str) -> None:
    raise ValueError(f"{reference} is outside the schema; only references that begin with # are followed")


def satisfies(validator: Any, value: Any) -> bool:
    """Whether a value satisfies the schema; not where one of its patterns searched for too long."""
    try:
        return validator.is_valid(value)
    except (TimeoutError, RecursionError):
        return False


def _keywords(schema: Any) -> Iterator[tuple[str, Any]]:
    """Every key of a schema with its value, at any depth."""
    waiting = [schema]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield from one.items()
        if isinstance(one, dict | list):
            waiting += one.values() if isinstance(one, dict) else one


def _matches(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[Any]:
    """The keyword `pattern`, with a limit of time."""
    if isinstance(instance, str) and not compiled(pattern).search(instance, timeout=SEARCH_SECONDS):
        yield jsonschema.ValidationError(f"does not match {pattern}")
