"""The rows of the files that the engine reads and writes. Standard library and pydantic only."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

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

    @model_validator(mode="before")
    @classmethod
    def _accept_text(cls, value: Any) -> Any:
        return _as_messages(value)

    @property
    def messages(self) -> list[dict[str, str]]:
        """The prompt as chat templates take it."""
        return [{"role": message.role, "content": message.content} for message in self.prompt]

    @property
    def key(self) -> str:
        """What makes two prompts the same: their messages."""
        return "\x1e".join(f"{message.role}\x1f{message.content}" for message in self.prompt)

    @property
    def text(self) -> str:
        """The prompt as one text: a single message alone, or lines of `role: content`."""
        return plain_prompt(self.messages)


def plain_prompt(messages: list[dict[str, str]]) -> str:
    """A prompt without a chat template: one message is its text, several are `role: content` lines."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n".join(f"{message['role']}: {message['content']}" for message in messages)


class DemonstrationRecord(PromptRecord):
    """A prompt with an answer to learn from."""

    completion: str = Field(min_length=1)
    weight: float = Field(1.0, gt=0)


class PreferenceRecord(PromptRecord):
    """One completion chosen over another; of a tie the order means nothing."""

    chosen: str = Field(min_length=1)
    rejected: str = Field(min_length=1)
    tie: bool = False
    strength: int | None = Field(None, ge=0, le=3)
    weight: float = Field(1.0, gt=0)
    annotator: str | None = None

    @model_validator(mode="after")
    def _differ(self) -> Self:
        # Two models may give the same answer, and people then say tie, which is true and teaches nothing.
        if self.chosen == self.rejected and not self.tie and self.strength != 0:
            raise ValueError("chosen and rejected are the same text")
        return self


class CompletionRecord(PromptRecord):
    """A sampled completion."""

    completion: str
    ended: bool = True  # False when it was cut at max_completion_tokens.
    tokens: int = Field(0, ge=0)  # Its length, the end token included.
    temperature: float = Field(1.0, ge=0)
    sample: int = Field(0, ge=0)  # Which of its prompt's completions this is.
    logprob: float | None = None  # Of all its tokens under the policy at that temperature, in nats.


class ScoreRecord(PromptRecord):
    """A completion with the reward model's score, in deviations above the reference policy's mean."""

    completion: str
    sample: int = Field(0, ge=0)
    score: float


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

Record = TypeVar("Record", bound=PromptRecord)


def read_event(line: str | bytes) -> MetricsEvent | ProgressEvent | MessageEvent | ResultEvent:
    """One line of events.jsonl. Raises pydantic.ValidationError on anything else."""
    return EVENT.validate_json(line)


def iterate_records(path: str | Path, kind: type[Record]) -> Iterator[Record]:
    """The rows of a JSON Lines file. Raises EngineError naming file and line."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield kind.model_validate_json(line)
            except ValidationError as error:
                raise EngineError(f"{path} line {number}: {_explain(error)}") from error


def read_records(path: str | Path, kind: type[Record]) -> list[Record]:
    """All rows of a JSON Lines file; a file without any is an error."""
    try:
        records = list(iterate_records(path, kind))
    except OSError as error:
        raise EngineError(f"{path}: cannot be read ({error})") from error
    if not records:
        raise EngineError(f"{path}: holds no rows")
    return records


def _explain(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    if first["type"] == "json_invalid":
        return f"not JSON ({first['ctx']['error']})"
    return explain(error)
