"""What each reward term says of a completion: functions of the prompt's row and the text. No torch.

Completions are written by what is being trained, so they are hostile: whatever a text holds, a term answers with
a finite number, in bounded time. docs/rewards.md gives formulas and ranges.
"""

import importlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import regex

from training.engine.json_schema import parse_json, satisfies, schema_validator
from training.engine.patterns import MAX_CHARACTERS, compiled, last_match, matches
from training.engine.records import PromptRecord
from training.engine.reward_settings import (
    CallableReward,
    ExactAnswerReward,
    JsonSchemaReward,
    LengthReward,
    NumberReward,
    ReadingTerm,
    RegexReward,
    RepetitionReward,
    RewardTerm,
)
from training.engine.settings import EngineError

MAX_DIGITS, MAX_EXPONENT = 100, 300  # of a number; beyond, it is none
MAX_VALUE = 1e30  # of a callable; with every weight it stays finite in float32

# A run of digits with what numbers are written with; whether it is one number is decided part by part.
NUMBER = regex.compile(
    r"(?P<sign>(?<![\w.)%])[-+\u2212])?[$€£]?"
    r"(?P<body>\.?[0-9][0-9.,/]*(?:[eE][-+]?[0-9][0-9.,/]*)*)(?P<percent>\s?%)?"
)
NUMERAL = regex.compile(
    r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?(?:[eE](?P<exponent>[-+]?[0-9]+))?"
    r"|\.[0-9]+(?:[eE](?P<exponent>[-+]?[0-9]+))?"
)


@dataclass(frozen=True)
class Sample:
    """A completion with the row that it answers."""

    prompt: PromptRecord
    text: str
    tokens: int  # its length, the end token included


# One number for each sample.
Term = Callable[[Sequence[Sample]], list[float]]


def extracted(term: ReadingTerm, text: str) -> str | None:
    """The part of a completion that a term reads; None where it is not there."""
    if len(text) > MAX_CHARACTERS:
        return None
    if term.extract == "last_line":
        return next((line for line in reversed(text.splitlines()) if line.strip()), None)
    if term.extract == "answer_tags":
        _, opened, rest = text.rpartition("<answer>")
        answer, closed, _ = rest.partition("</answer>")
        return answer if opened and closed else None
    if term.extract_pattern is not None:
        return last_match(compiled(term.extract_pattern), text)
    return text


def exact_answer(term: ExactAnswerReward, sample: Sample) -> float:
    """1 for the answer of the row, after both were normalised alike; else 0."""
    said = extracted(term, sample.text)
    return float(said is not None and normalized(term, said) == normalized(term, sample.prompt.answer or ""))


def normalized(term: ExactAnswerReward, text: str) -> str:
    """Without the differences that do not count."""
    if term.collapse_whitespace:
        text = regex.sub(r"\s+", " ", text)
    if term.strip:
        text = text.strip()
    return text.casefold() if term.ignore_case else text


def number(term: NumberReward, sample: Sample) -> float:
    """1 where the last number that was said is the row's within the wider tolerance; else 0.

    Compared as exact fractions: 0.1 and 1/10 are the same, and no tolerance is needed for rounding.
    """
    said = extracted(term, sample.text)
    value = last_number(said) if said is not None else None
    wanted = last_number(sample.prompt.answer or "")
    if value is None or wanted is None:
        return 0.0
    absolute, relative = (Fraction(str(x)) for x in (term.absolute_tolerance, term.relative_tolerance))
    return float(abs(value - wanted) <= max(absolute, relative * abs(wanted)))


def last_number(text: str) -> Fraction | None:
    """The last number of a text, exactly; None where there is none, or where it is not clearly one.

    Known: a sign that touches the number, commas between groups of three, a decimal point, an exponent, a fraction
    a/b, percent (5% is 0.05), a currency sign before the digits. `1,5`, `1.2.3` and `1/0` are no numbers.
    """
    found = list(NUMBER.finditer(text))
    return _value(found[-1]) if found else None


def _value(found: Any) -> Fraction | None:
    parts = [_numeral(part) for part in found["body"].rstrip(".,/").split("/")]
    if len(parts) > 2 or None in parts or (len(parts) == 2 and not parts[1]):
        return None
    value = parts[0] / parts[1] if len(parts) == 2 else parts[0]
    return value * (-1 if found["sign"] in ("-", "\u2212") else 1) / (100 if found["percent"] else 1)


def _numeral(text: str) -> Fraction | None:
    found = NUMERAL.fullmatch(text) if len(text) <= MAX_DIGITS else None
    if not found or abs(int(found["exponent"] or 0)) > MAX_EXPONENT:
        return None
    return Fraction(text.replace(",", ""))


def think_format(text: str) -> float:
    """1 for <think>...</think><answer>...</answer>, each tag once, in order, neither part blank, and nothing
    around them but white space; else 0.
    """
    tags = ("<think>", "</think>", "<answer>", "</answer>")
    if any(text.count(tag) != 1 for tag in tags) or sorted(tags, key=text.index) != list(tags):
        return 0.0
    before, thoughts, between, answer, after = regex.split(r"</?(?:think|answer)>", text)
    outside = (before + between + after).strip()
    return float(not outside and bool(thoughts.strip()) and bool(answer.strip()))


def length(term: LengthReward, sample: Sample, max_completion_tokens: int) -> float:
    """0 within the range, falling in a line to -1 over the margin outside it; as a bonus, 1 more.

    `overlong_tokens` is L_cache of DAPO's soft over-long punishment, arXiv 2503.14476, section 3.4, and
    `max_completion_tokens` its L_max.
    """
    count = sample.tokens if term.unit == "tokens" else len(sample.text.split())
    lowest, highest, margin = term.minimum, term.maximum, term.margin
    if term.overlong_tokens is not None:
        margin = term.overlong_tokens
        highest = max_completion_tokens - margin
    outside = max(lowest - count, 0 if highest is None else count - highest, 0)
    loss = min(1.0, outside / margin) if margin else float(outside > 0)
    return 1 - loss if term.form == "bonus" else -loss


def repetition(text: str, ngram_words: int) -> float:
    """Minus the share of the text's word n-grams that came before in it; 0 for a text without any."""
    repeated, total = repeated_ngrams(text.split(), ngram_words)
    return -repeated / total if total else 0.0


def repeated_ngrams(words: Sequence[str], size: int) -> tuple[int, int]:
    """How many of a text's n-grams came before in it, and how many there are."""
    ngrams = [tuple(words[begin : begin + size]) for begin in range(len(words) - size + 1)]
    return len(ngrams) - len(set(ngrams)), len(ngrams)


def pattern_matches(term: RegexReward, text: str) -> float:
    """1 where the pattern matches; 0 where not, and where that took too long to say."""
    return float(matches(compiled(term.pattern), text, term.match == "full"))


def json_satisfies(term: JsonSchemaReward, validator: Any, text: str) -> float:
    """1 for JSON that satisfies the schema; else 0."""
    said = extracted(term, text)
    try:
        return float(said is not None and satisfies(validator, parse_json(said)))
    except ValueError:
        return 0.0


def build_terms(terms: Sequence[RewardTerm], max_completion_tokens: int) -> list[Term]:
    """What computes each term. Raises EngineError for a function or schema that cannot be used."""
    return [_build(term, f"rewards.{place}", max_completion_tokens) for place, term in enumerate(terms)]


def _build(term: RewardTerm, place: str, max_completion_tokens: int) -> Term:
    match term:
        case ExactAnswerReward():
            return lambda samples: [exact_answer(term, sample) for sample in samples]
        case NumberReward():
            return lambda samples: [number(term, sample) for sample in samples]
        case RegexReward():
            return lambda samples: [pattern_matches(term, sample.text) for sample in samples]
        case JsonSchemaReward():
            try:
                validator = schema_validator(term.json_schema)
            except ValueError as error:
                raise EngineError(f"{place}.json_schema: {error}") from error
            return lambda samples: [json_satisfies(term, validator, sample.text) for sample in samples]
        case LengthReward():
            return lambda samples: [length(term, sample, max_completion_tokens) for sample in samples]
        case RepetitionReward():
            return lambda samples: [repetition(sample.text, term.ngram_words) for sample in samples]
        case CallableReward():
            return callable_term(term.path, load_function(term.path, place), place)
        case _:
            return lambda samples: [think_format(sample.text) for sample in samples]


def load_function(path: str, place: str) -> Callable[..., Any]:
    """The function that a path names. Raises EngineError where it is not there."""
    module, name = path.split(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as error:  # A module may raise what it likes while it is imported.
        raise EngineError(f"{place}.path: {path} cannot be imported ({error})") from error
    if not callable(function):
        raise EngineError(f"{place}.path: {path} is no function")
    return function


def callable_term(path: str, function: Callable[..., Any], place: str) -> Term:
    """`function(prompts, completions)` as a term; one that takes `rows` gets the prompts' rows as well."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # Some built-in functions do not say what they take.
        parameters = ()
    takes_rows = any(
        one.kind is one.VAR_KEYWORD or (one.name == "rows" and one.kind is not one.POSITIONAL_ONLY)
        for one in parameters
    )

    def compute(samples: Sequence[Sample]) -> list[float]:
        rows = {"rows": [sample.prompt.model_dump() for sample in samples]} if takes_rows else {}
        said = function([one.prompt.text for one in samples], [one.text for one in samples], **rows)
        try:
            values = [float(value) for value in said]
        except (TypeError, ValueError):
            values = []
        if len(values) != len(samples) or not all(abs(value) <= MAX_VALUE for value in values):
            raise EngineError(f"{place}: {path} must return {len(samples)} finite numbers")
        return values

    return compute


def answer_check(terms: Sequence[RewardTerm]) -> Callable[[PromptRecord], None]:
    """What raises ValueError for a prompt whose `answer` some term needs and cannot use."""

    def check(record: PromptRecord) -> None:
        for place, term in enumerate(terms):
            if not isinstance(term, ExactAnswerReward | NumberReward):
                continue
            needed = f"which rewards.{place} ({term.kind}) compares with"
            if record.answer is None:
                raise ValueError(f"answer: must be given, {needed}")
            if isinstance(term, ExactAnswerReward) and not normalized(term, record.answer):
                raise ValueError(f"answer: is empty, {needed}")
            if isinstance(term, NumberReward) and not _is_number(record.answer):
                raise ValueError(f"answer: must be a number, {needed}, not {record.answer[:60]!r}")

    return check


def _is_number(text: str) -> bool:
    found = NUMBER.fullmatch(text.strip())
    return found is not None and _value(found) is not None
