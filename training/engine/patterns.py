"""Regular expressions over hostile texts: a limit of time and length for each search. No torch."""

import functools
from typing import Any

import regex

MAX_CHARACTERS = 100_000  # A longer text is not searched: nothing matches in it.
SEARCH_SECONDS = 0.2  # of the processor, for one pattern in one text; then it does not match


@functools.cache
def compiled(pattern: str) -> Any:
    """A pattern in the syntax of Python's `re`. Raises ValueError.

    The `regex` module runs it, since that can be told when to give up; the config has been checked with `re`.
    """
    try:
        return regex.compile(pattern, regex.V0)
    except (regex.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{pattern!r} is no regular expression ({error})") from error


def matches(pattern: Any, text: str, full: bool = False) -> bool:
    """Whether a pattern matches anywhere in a text, or all of it; not where that takes too long to say."""
    search = pattern.fullmatch if full else pattern.search
    try:
        return len(text) <= MAX_CHARACTERS and search(text, timeout=SEARCH_SECONDS) is not None
    except (TimeoutError, MemoryError):
        return False


def last_match(pattern: Any, text: str) -> str | None:
    """The last match's first group, or all of the match where the pattern has no group; None without any."""
    try:
        found = list(pattern.finditer(text, timeout=SEARCH_SECONDS)) if len(text) <= MAX_CHARACTERS else []
    except (TimeoutError, MemoryError):
        return None
    if not found:
        return None
    return found[-1][1] if pattern.groups else found[-1][0]
