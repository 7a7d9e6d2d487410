"""The terms that a reward is made of, one model each. docs/rewards.md gives their formulas. Pydantic only."""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

# What the learned model's own figures are logged as: reward_model, reward_model_std, reward_model_spread.
RESERVED_NAMES = ("model", "model_std", "model_spread")


def _compiles(pattern: str | None) -> str | None:
    try:
        re.compile(pattern or "")
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{pattern!r} is no regular expression ({error})") from error
    return pattern


class RewardTerm(BaseModel):
    """What every term is told."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )

    weight: float = Field(1.0, ge=-1e6, le=1e6, description="Factor on the term before terms are added.")
    name: str | None = Field(
        None,
        pattern=r"^[a-z][a-z0-9_]*$",
        max_length=60,
        description="The term is logged as `reward_<name>`; null takes its kind, or its function's name, "
        "with a number where that is taken.",
    )

    @property
    def own_name(self) -> str:
        """What it is called where no name was given and none is taken."""
        return self.kind  # type: ignore[attr-defined]

    @field_validator("name")
    @classmethod
    def _is_free(cls, name: str | None) -> str | None:
        if name in RESERVED_NAMES:
            raise ValueError(f"{name} is the reward model's")
        return name


class ReadingTerm(RewardTerm):
    """A term that reads a part of the completion."""

    extract: Literal["whole", "last_line", "answer_tags", "pattern"] = Field(
        "whole",
        description="What is read: all of it, its last line that is not blank, what stands in its last "
        "<answer> tags, or what `extract_pattern` finds.",
    )
    extract_pattern: str | None = Field(
        None,
        min_length=1,
        max_length=1000,
        description="Regular expression for `extract` = pattern: its last match is read, or that match's "
        "first group where it has one.",
    )

    @field_validator("extract_pattern")
    @classmethod
    def _is_a_pattern(cls, pattern: str | None) -> str | None:
        return _compiles(pattern)

    @model_validator(mode="after")
    def _pattern_goes_with_extract(self) -> Self:
        if (self.extract == "pattern") != (self.extract_pattern is not None):
            raise ValueError("extract = pattern and extract_pattern go together, and neither goes alone")
        return self


class ExactAnswerReward(ReadingTerm):
    """1 where the completion's answer is the prompt's `answer`, else 0."""

    kind: Literal["exact_answer"] = Field(
        "exact_answer", description="The sort of term: the same text as the prompt's `answer`."
    )
    strip: bool = Field(True, description="Leave out white space at both ends.")
    ignore_case: bool = Field(False, description="Take capitals and small letters for the same.")
    collapse_whitespace: bool = Field(False, description="Take any run of white space for one space.")


class NumberReward(ReadingTerm):
    """1 where the last number of the completion's answer is the prompt's `answer`, else 0."""

    kind: Literal["number"] = Field(
        "number", description="The sort of term: the same number as the prompt's `answer`."
    )
    absolute_tolerance: float = Field(0.0, ge=0, description="Difference from the answer that still counts.")
    relative_tolerance: float = Field(
        0.0, ge=0, lt=1, description="The same as a share of the answer; the wider of both counts."
    )


class RegexReward(RewardTerm):
    """1 where the pattern matches the completion, else 0."""

    kind: Literal["regex"] = Field("regex", description="The sort of term: a regular expression.")
    pattern: str = Field(
        min_length=1, max_length=1000, description="Regular expression, in the syntax of Python's `re`."
    )
    match: Literal["search", "full"] = Field(
        "search", description="Whether it must match anywhere, or the whole completion."
    )

    @field_validator("pattern")
    @classmethod
    def _is_a_pattern(cls, pattern: str) -> str:
        _compiles(pattern)
        return pattern


class JsonSchemaReward(ReadingTerm):
    """1 where what is read is JSON that satisfies a schema, else 0."""

    kind: Literal["json_schema"] = Field(
        "json_schema", description="The sort of term: JSON that satisfies a schema."
    )
    json_schema: dict[str, Any] = Field(
        description="The JSON Schema; draft 2020-12 unless its $schema says otherwise."
    )


class ThinkFormatReward(RewardTerm):
    """1 where the completion is <think>...</think><answer>...</answer>, else 0."""

    kind: Literal["think_format"] = Field(
        "think_format", description="The sort of term: thoughts in <think>, then the answer in <answer>."
    )


class LengthReward(RewardTerm):
    """How far a completion's length is from a range, or DAPO's punishment of what is nearly too long."""

    kind: Literal["length"] = Field("length", description="The sort of term: a range of lengths.")
    unit: Literal["tokens", "words"] = Field(
        "tokens", description="What is counted: tokens with the end token, or words between white space."
    )
    minimum: int = Field(0, ge=0, description="Shortest length without a loss.")
    maximum: int | None = Field(None, ge=0, description="Longest length without a loss; null: any.")
    margin: int = Field(
        0, ge=0, description="Tokens or words outside the range over which the loss grows to 1; 0: at once."
    )
    form: Literal["penalty", "bonus"] = Field(
        "penalty", description="From -1 outside to 0 within the range, or from 0 to 1."
    )
    overlong_tokens: int | None = Field(
        None,
        ge=1,
        description="DAPO's soft punishment instead of a range: over the last so many tokens before "
        "`max_completion_tokens` the term falls from 0 to -1.",
    )

    @model_validator(mode="after")
    def _is_one_range(self) -> Self:
        given = self.model_fields_set & {"unit", "minimum", "maximum", "margin", "form"}
        changed = [
            name for name in sorted(given) if getattr(self, name) != type(self).model_fields[name].default
        ]
        if self.overlong_tokens is not None and changed:
            raise ValueError(f"overlong_tokens: is a range of its own, give no {changed[0]} beside it")
        if self.overlong_tokens is None and not self.minimum and self.maximum is None:
            raise ValueError("give minimum, maximum or overlong_tokens, or no length is ever wrong")
        if self.maximum is not None and self.minimum > self.maximum:
            raise ValueError("minimum: may not be greater than maximum")
        return self


class RepetitionReward(RewardTerm):
    """Minus the share of word n-grams that the completion has said before."""

    kind: Literal["repetition"] = Field("repetition", description="The sort of term: repeated n-grams.")
    ngram_words: int = Field(3, ge=1, le=20, description="Words in an n-gram.")


class CallableReward(RewardTerm):
    """What a Python function says: `function(prompts, completions) -> list of numbers`."""

    kind: Literal["callable"] = Field("callable", description="The sort of term: a Python callable.")
    path: str = Field(
        pattern=r"^[\w.]+:\w+$", description="Where the function is: `package.module:function`."
    )

    @property
    def own_name(self) -> str:
        """Its function's."""
        return self.path.split(":")[1]


TERM_KINDS: dict[str, type[RewardTerm]] = {
    "exact_answer": ExactAnswerReward,
    "number": NumberReward,
    "regex": RegexReward,
    "json_schema": JsonSchemaReward,
    "think_format": ThinkFormatReward,
    "length": LengthReward,
    "repetition": RepetitionReward,
    "callable": CallableReward,
}


def _kind_of(value: Any) -> str | None:
    """A term that names no kind is a callable: so configs were written before there were others."""
    kind = value.get("kind", "callable") if isinstance(value, dict) else getattr(value, "kind", None)
    return kind if isinstance(kind, str) else None


AnyRewardTerm = Annotated[
    Annotated[ExactAnswerReward, Tag("exact_answer")]
    | Annotated[NumberReward, Tag("number")]
    | Annotated[RegexReward, Tag("regex")]
    | Annotated[JsonSchemaReward, Tag("json_schema")]
    | Annotated[ThinkFormatReward, Tag("think_format")]
    | Annotated[LengthReward, Tag("length")]
    | Annotated[RepetitionReward, Tag("repetition")]
    | Annotated[CallableReward, Tag("callable")],
    Discriminator(
        _kind_of,
        custom_error_type="reward_kind",
        custom_error_message=f"kind must be one of {', '.join(TERM_KINDS)}",
    ),
]


def term_names(terms: Sequence[RewardTerm]) -> list[str]:
    """Under which names terms are logged, each once. Raises ValueError where two were given the same."""
    names: list[str | None] = [term.name for term in terms]
    taken = {*RESERVED_NAMES}
    for number, name in enumerate(names):
        if name in taken:
            raise ValueError(f"rewards.{number}.name: {name} is the name of a term before it")
        taken |= {name} if name else set()
    for number, term in enumerate(terms):
        if names[number] is None:
            own, count = term.own_name, 1
            while (name := own if count == 1 else f"{own}_{count}") in taken:
                count += 1
            names[number] = name
            taken.add(name)
    return [str(name) for name in names]
