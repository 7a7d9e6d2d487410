"""The rows of the files that the engine reads and writes. Standard library and pydantic only."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    RootModel,
    Tag,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from training.engine.config import EngineError, explain


class Message(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    role: str = Field(min_length=1)
    content: str


def _as_messages(prompt: Any) -> Any:
    if isinstance(prompt, dict) and isinstance(prompt.get("prompt"), str):
        return {**prompt, "prompt": [{"role": "user", "content": prompt["prompt"]}]}
    return prompt


class PromptRecord(BaseModel):
    """A prompt: a text (one user message) or a list of messages. Other keys are let through unread."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    id: str | int | None = None
    prompt: tuple[Message, ...] = Field(min_length=1)
    answer: str | None = None  # What is right, for reward terms that compare with it; a number is its text.

    @model_validator(mode="before")
    @classmethod
    def _accept_text(cls, value: Any) -> Any:
        return _as_messages(value)

    @field_validator("answer", mode="before")
    @classmethod
    def _accept_number(cls, value: Any) -> Any:
        """Files have answers of their own; what is neither text nor number is none that a term could read."""
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            return None
        return str(value)

    @property
    def messages(self) -> list[dict[str, str]]:
        """The prompt as chat templates take it."""
        return [{"role": message.role, "content": message.content} for message in self.prompt]

    @property
    def key(self) -> str:
        """What makes two prompts the same: their messages."""
        return "\x1e".join(f"{message.role}\x1f{message.content}" for message in self.prompt)

    def lies_within(self, span: tuple[float, float]) -> bool:
        """Whether the prompt's hash lies in the span: at or above its low end, below its high end, 0 to 1.

        The hash is of the prompt alone, so a prompt stays where it is however many rows come to it, and it is none
        that a file may have been split by already.
        """
        digest = hashlib.sha256(b"prompt_span\0" + self.key.encode(errors="surrogatepass")).digest()
        low, high = span
        return low <= int.from_bytes(digest[:6]) / 2**48 < high

    @property
    def text(self) -> str:
        """The prompt as one text: a single message alone, or lines of `role: content`."""
        return plain_prompt(self.messages)


def plain_prompt(messages: list[dict[str, str]]) -> str:
    """A prompt without a chat template: one message is its text, several are `role: content` lines."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n".join(f"{message['role']}: {message['content']}" for message in messages)


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty, so there is nothing to learn from")
    return text


Said = Annotated[str, AfterValidator(_not_blank)]


class DemonstrationRecord(PromptRecord):
    """A prompt with an answer to learn from."""

    completion: Said
    weight: float = Field(1.0, gt=0)


# A criterion's name to a rating of each completion, in their order; null where there is none. More is better,
# and only the order counts: who said no more than which is better writes [1, 0].
Ratings = dict[str, tuple[float | None, ...]]


class PreferenceRecord(PromptRecord):
    """One completion chosen over another; of a tie the order means nothing."""

    chosen: Said
    rejected: Said
    tie: bool = False
    strength: int | None = Field(None, ge=0, le=3)
    weight: float = Field(1.0, gt=0)
    annotator: str | None = None
    criteria: Ratings = Field(default_factory=dict)  # of chosen and rejected

    @model_validator(mode="after")
    def _differ(self) -> Self:
        # Two models may give the same answer, and people then say tie, which is true and teaches nothing.
        if self.chosen == self.rejected and not self.tie and self.strength != 0:
            raise ValueError("chosen and rejected are the same text")
        _check_ratings(self.criteria, 2)
        return self

    @property
    def answers(self) -> tuple[str, ...]:
        """The completions, chosen first."""
        return (self.chosen, self.rejected)

    @property
    def undecided(self) -> bool:
        """Whether people found neither better."""
        return self.tie or self.strength == 0

    @property
    def loss_weight(self) -> float:
        """Strength scales the loss (HelpSteer2-Preference, arXiv 2410.01257); unknown and tied count once."""
        return self.weight * (self.strength or 1)


class RankingRecord(PromptRecord):
    """Several completions with their order: groups of places, best first; who shares a group is tied.

    A completion whose place is in no group was not ranked, and nothing is learned of it.
    """

    completions: tuple[Said, ...] = Field(min_length=2, max_length=64)
    ranking: tuple[tuple[int, ...], ...]
    weight: float = Field(1.0, gt=0)
    annotator: str | None = None
    criteria: Ratings = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_ranking(self) -> Self:
        places = [place for group in self.ranking for place in group]
        count = len(self.completions)
        if outside := [place for place in places if not 0 <= place < count]:
            raise ValueError(f"ranking names completion {outside[0]}, there are 0 to {count - 1}")
        if len(set(places)) < len(places):
            raise ValueError("ranking names a completion twice")
        if len(places) < 2:
            raise ValueError("ranking must order at least two completions")
        if len({self.completions[place] for place in places}) < len(places):
            raise ValueError("ranking orders the same text twice")
        _check_ratings(self.criteria, count)
        return self

    @property
    def answers(self) -> tuple[str, ...]:
        """The completions."""
        return self.completions


def _check_ratings(criteria: Ratings, count: int) -> None:
    for name, ratings in criteria.items():
        if len(ratings) != count:
            raise ValueError(f"criteria.{name} has {len(ratings)} ratings for {count} completions")


def _kind_of_example(row: Any) -> str:
    is_preference = isinstance(row, dict) and "chosen" in row and "completion" not in row
    return "preference" if is_preference else "demonstration"


class ExampleRecord(RootModel):
    """A row to learn an answer from: a demonstration, or a preference."""

    root: Annotated[
        Annotated[DemonstrationRecord, Tag("demonstration")] | Annotated[PreferenceRecord, Tag("preference")],
        Discriminator(_kind_of_example),
    ]


class CompletionRecord(PromptRecord):
    """A sampled completion."""

    completion: str
    ended: bool = True  # False when it was cut at max_completion_tokens.
    tokens: int = Field(0, ge=0)  # Its length, the end token included; 0 where a server did not count.
    temperature: float = Field(1.0, ge=0)
    sample: int = Field(0, ge=0)  # Which of its prompt's completions this is.
    # Of all its tokens under the policy at that temperature, in nats; None from a server.
    logprob: float | None = None


class MarkedRecord(CompletionRecord):
    """A completion that people should look at, and why."""

    reward: float
    held_out_reward: float | None = None  # None where no held-out reward model looked at it.
    spread: float | None = None  # Deviation of the reward model's members; None where it has one alone.
    reason: str


class ScoreRecord(PromptRecord):
    """A completion with the reward model's score, in deviations above the reference policy's mean."""

    completion: str
    sample: int = Field(0, ge=0)
    score: float
    spread: float | None = None  # Deviation of the ensemble's members, in the score's unit; None without one.


class MetricsEvent(BaseModel):
    """Figures of one step."""

    time: float
    kind: Literal["metrics"] = "metrics"
    step: int
    metrics: dict[str, float]


class ProgressEvent(BaseModel):
    """How far a phase is."""

    time: float
    kind: Literal["progress"] = "progress"
    phase: str
    done: int
    total: int
    seconds_left: float | None = None


class MessageEvent(BaseModel):
    """Something a person should read."""

    time: float
    kind: Literal["message"] = "message"
    level: Literal["info", "warning", "error"]
    text: str


class ResultEvent(BaseModel):
    """The outcome, once, at the end."""

    time: float
    kind: Literal["result"] = "result"
    result: dict[str, Any]


Event = Annotated[
    MetricsEvent | ProgressEvent | MessageEvent | ResultEvent,
    Field(discriminator="kind"),
]
EVENT: TypeAdapter[MetricsEvent | ProgressEvent | MessageEvent | ResultEvent] = TypeAdapter(Event)

Record = TypeVar("Record", bound=BaseModel)


def read_event(line: str | bytes) -> MetricsEvent | ProgressEvent | MessageEvent | ResultEvent:
    """One line of events.jsonl. Raises pydantic.ValidationError on anything else."""
    return EVENT.validate_json(line)


Check = Callable[[Any], None]  # raises ValueError with what is wrong with a row


def iterate_records(
    path: str | Path, kind: type[Record], check: Check = lambda record: None
) -> Iterator[Record]:
    """The rows of a JSON Lines file. Raises EngineError naming file and line, also where `check` raises
    ValueError.
    """
    return _iterate(path, kind.model_validate_json, check)


def _iterate(path: str | Path, read: Callable[[bytes], Record], check: Check) -> Iterator[Record]:
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                record = read(line)
                check(record)
            except ValueError as error:
                reason = _explain(error) if isinstance(error, ValidationError) else str(error)
                raise EngineError(f"{path} line {number}: {reason}") from error
            yield record


def read_records(path: str | Path, kind: type[Record], check: Check = lambda record: None) -> list[Record]:
    """All rows of a JSON Lines file that pass `check`; a file without any is an error."""
    return _read_all(path, kind.model_validate_json, check)


def line_of(path: str | Path, row: int) -> int:
    """The line, from 1, on which a row of a JSON Lines file stands; rows count from 0, blank lines are none."""
    with open(path, "rb") as file:
        return [number for number, line in enumerate(file, 1) if line.strip()][row]


def read_judgments(path: str | Path) -> list[PreferenceRecord | RankingRecord]:
    """Pairs and rankings, which may stand in one file. Raises EngineError naming file and line."""
    return _read_all(path, _judgment)


def _judgment(line: bytes) -> PreferenceRecord | RankingRecord:
    kind = RankingRecord if b'"ranking"' in line and _has_ranking(line) else PreferenceRecord
    return kind.model_validate_json(line)


def _has_ranking(line: bytes) -> bool:
    try:
        row = json.loads(line)
    except ValueError:
        return False  # What is wrong with it is said where it is read.
    return isinstance(row, dict) and "ranking" in row


def _read_all(
    path: str | Path, read: Callable[[bytes], Record], check: Check = lambda record: None
) -> list[Record]:
    try:
        records = list(_iterate(path, read, check))
    except OSError as error:
        raise EngineError(f"{path}: cannot be read ({error})") from error
    if not records:
        raise EngineError(f"{path}: holds no rows")
    return records


def read_demonstrations(path: str | Path) -> tuple[list[DemonstrationRecord], int]:
    """Demonstrations, and of preferences the chosen answers; how many ties had none, and were left out.

    A preference's weight counts, its strength does not: that is of the distance to the other answer.
    """
    examples = [example.root for example in read_records(path, ExampleRecord)]
    decided = [row for row in examples if isinstance(row, DemonstrationRecord) or not row.undecided]
    if not decided:
        raise EngineError(f"{path}: every preference is a tie, there is no answer to learn from")
    rows = [
        row
        if isinstance(row, DemonstrationRecord)
        else DemonstrationRecord(id=row.id, prompt=row.prompt, completion=row.chosen, weight=row.weight)
        for row in decided
    ]
    return rows, len(examples) - len(decided)


def _explain(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    if first["type"] == "json_invalid":
        return f"not JSON ({first['ctx']['error']})"
    return explain(error)
