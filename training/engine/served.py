"""Completions that a server writes: the other back end of `generate`, for models too large to sample here.

Any server that knows OpenAI's chat completions will do. Each completion is a request of its own: some servers take no
notice of `n`, and temperatures and seeds differ from one to the next. docs/generate.md says what is asked.
"""

import asyncio
import hashlib
import json
import math
import os
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, NoReturn, Self

import httpx2
from pydantic import BaseModel, Field, ValidationError

from training.engine.config import EngineError, Generate, explain
from training.engine.events import EventLog, LineFile
from training.engine.records import CompletionRecord, PromptRecord, line_of
from training.engine.workspace import Workspace

KEY_VARIABLE = "TASTEMAKER_SERVER_KEY"
ANSWERS = "answers.jsonl"  # in OUT/, while the run is not done
POLL_SECONDS = 0.1  # between two looks at whether somebody asked to stop
REPORT_SECONDS = 1.0
CONNECT_SECONDS = 30.0
LONGEST_PAUSE_SECONDS = 60.0  # that we take between two attempts by ourselves
LONGEST_WAIT_SECONDS = 600.0  # that a server may ask for
MOST_ANSWER_BYTES = 8 * 2**20
MOST_WORDS = 300  # characters of what a server says of itself
MOST_TOKENS = 2**31 - 1
AGAIN = (408, 409, 425, 429)  # and 5xx: what may pass
NO_ACCESS, NOT_THERE = (401, 403), 404
CUT = ("length", "content_filter")  # reasons to finish that are no end of the model's own


class Answer(BaseModel):
    """A completion as it came, kept until the run is done."""

    asked: str  # the digest of the request
    completion: str
    ended: bool
    tokens: int = Field(ge=0)  # 0 where the server did not count


class _Message(BaseModel):
    content: str


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _ChatCompletion(BaseModel):
    choices: tuple[_Choice, ...] = Field(min_length=1)
    usage: Any = None

    @property
    def tokens(self) -> int:
        """Length of the one choice; 0 where that cannot be told."""
        count = self.usage.get("completion_tokens") if isinstance(self.usage, dict) else None
        known = len(self.choices) == 1 and type(count) is int and 0 < count <= MOST_TOKENS
        return count if known else 0


class _TryAgain(Exception):
    """An attempt that failed for a reason that may pass, said in the message."""

    def __init__(self, reason: str, wait_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds  # at the least, says the server


@dataclass(frozen=True)
class _Question:
    """One completion that is wanted. What is asked follows from config and place, so a run asks the same again."""

    config: Generate
    prompt: PromptRecord
    row: int  # of the prompt, from 0
    sample: int

    @property
    def temperature(self) -> float:
        return self.config.temperatures[self.sample % len(self.config.temperatures)]

    @property
    def body(self) -> bytes:
        """The request."""
        config = self.config
        digest = hashlib.sha256(f"{config.seed}/server/{self.row}/{self.sample}".encode()).digest()
        body = {
            "model": config.server_model_name or config.model,
            "messages": self.prompt.messages,
            "temperature": self.temperature,
            "top_p": config.top_p,  # said also where it is 1: servers have defaults of their own
            config.server_length_name: config.max_completion_tokens,
            "seed": int.from_bytes(digest[:4], "big") >> 1,
        }
        if config.top_k:  # OpenAI does not know it, and refuses what it does not know
            body["top_k"] = config.top_k
        return json.dumps(body, ensure_ascii=False).encode()

    @property
    def digest(self) -> str:
        """What makes two requests the same."""
        return hashlib.sha256(self.body).hexdigest()

    @property
    def place(self) -> str:
        """Where the prompt stands."""
        return f"{self.config.prompts} line {line_of(self.config.prompts, self.row)}"

    def record(self, answer: Answer) -> CompletionRecord:
        """The row of completions.jsonl."""
        return CompletionRecord(
            id=self.prompt.id,
            prompt=self.prompt.prompt,
            answer=self.prompt.answer,
            completion=answer.completion,
            ended=answer.ended,
            tokens=answer.tokens,
            temperature=self.temperature,
            sample=self.sample,
        )


def ask_for_completions(
    prompts: Sequence[PromptRecord], config: Generate, workspace: Workspace
) -> list[CompletionRecord]:
    """Completions of every prompt, side by side, in the order of the prompts.

    What came is kept in OUT/answers.jsonl, so that a run that was interrupted asks only for the rest. Raises
    EngineError where the server refuses, or gives no answer however often it is asked.
    """
    if workspace.processes.count > 1:
        raise EngineError("server: is asked by one process alone; start without a launcher")
    questions = [
        _Question(config, prompt, row, sample)
        for row, prompt in enumerate(prompts)
        for sample in range(config.samples_per_prompt)
    ]
    answers = _Answers(workspace.folder / ANSWERS)
    try:
        asyncio.run(_ask_for_missing(questions, answers, config, workspace))
    finally:
        answers.close()
    return [question.record(answers[question]) for question in questions]


def forget_answers(workspace: Workspace) -> None:
    """What came is kept no longer than until completions.jsonl is there."""
    (workspace.folder / ANSWERS).unlink()


class _Answers:
    """What came, by what was asked: in memory, and in a file as soon as it is there."""

    def __init__(self, path: Path) -> None:
        self._file = LineFile(path)
        self._known: dict[str, Answer] = {}
        for line in path.read_bytes().split(b"\n"):
            with suppress(ValidationError):  # What a power cut damaged is asked again.
                answer = Answer.model_validate_json(line)
                self._known[answer.asked] = answer

    def __contains__(self, question: _Question) -> bool:
        return question.digest in self._known

    def __getitem__(self, question: _Question) -> Answer:
        return self._known[question.digest]

    def keep(self, answer: Answer) -> None:
        self._file.append(answer.model_dump())
        self._known[answer.asked] = answer

    def close(self) -> None:
        self._file.close()


async def _ask_for_missing(
    questions: Sequence[_Question], answers: _Answers, config: Generate, workspace: Workspace
) -> None:
    """Ask, so many requests at once, and look between whether to stop: what is under way is then given up."""
    missing = [question for question in questions if question not in answers]
    left, reported = len(missing), 0.0
    turn = iter(missing)

    async def work() -> None:
        nonlocal left
        for question in turn:
            answers.keep(await server.answer(question))
            left -= 1

    async with _Server(config, workspace.events) as server:
        workers = [asyncio.create_task(work()) for _ in range(min(config.server_concurrency, left))]
        waiting = set(workers)
        try:
            while waiting:
                done, waiting = await asyncio.wait(
                    waiting, timeout=POLL_SECONDS, return_when=asyncio.FIRST_EXCEPTION
                )
                workspace.check_stop()
                for worker in done:
                    worker.result()
                if not waiting or time.monotonic() - reported >= REPORT_SECONDS:
                    reported = time.monotonic()
                    workspace.events.progress("generate", len(questions) - left, len(questions))
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)


class _Server:
    """The server, asked with patience. Nothing that it is told or says may bring its key into a message or a file."""

    def __init__(self, config: Generate, events: EventLog) -> None:
        self._config, self._events, self._key = config, events, _read_key()
        # Proxies and certificates are those of the environment; a redirect is not followed, since what is asked
        # and the key are for the server that was named.
        self._client = httpx2.AsyncClient(
            headers={"Content-Type": "application/json", "Accept-Encoding": "identity"}
            | ({"Authorization": f"Bearer {self._key}"} if self._key else {}),
            timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS),
            limits=httpx2.Limits(max_connections=config.server_concurrency),
            follow_redirects=False,
        )
        self._warned = False

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._client.__aexit__(*error)

    async def answer(self, question: _Question) -> Answer:
        """Raises EngineError once it is clear that there will be none."""
        attempt, pause = 1, self._config.server_backoff_seconds
        while True:
            try:
                return await self._attempt(question)
            except _TryAgain as reason:
                if attempt > self._config.server_retries:
                    raise EngineError(
                        f"{question.place}: {self._config.server} gave no answer in {attempt} attempts, "
                        f"at last because {reason}"
                    ) from None
                self._warn(reason)
                # Requests that failed together are not to come again together.
                await asyncio.sleep(max(reason.wait_seconds, pause * random.uniform(0.5, 1.0)))
            attempt, pause = attempt + 1, min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _attempt(self, question: _Question) -> Answer:
        url, seconds = f"{self._config.server}/chat/completions", self._config.server_timeout_seconds
        try:
            async with (
                asyncio.timeout(seconds),
                self._client.stream("POST", url, content=question.body) as response,
            ):
                content = await _read_bounded(response)
        except TimeoutError:
            raise _TryAgain(f"it took more than {seconds:g} seconds") from None
        except httpx2.TransportError as error:
            reason = self._clean(f"{type(error).__name__} {error}")
            raise _TryAgain(f"the connection failed ({reason})") from None
        if not response.is_success:
            self._refuse(question, response, content)
        return self._understand(question, content)

    def _refuse(self, question: _Question, response: httpx2.Response, content: bytes) -> NoReturn:
        """Raise _TryAgain for a reason that may pass, EngineError for another."""
        status = response.status_code
        words = f"answered {status}: {self._own_words(content) or self._clean(response.reason_phrase)}"
        if status in AGAIN or status >= 500:
            raise _TryAgain(f"it {words}", _wait_asked_for(response))
        if status in NO_ACCESS:
            shown = "with the key of" if self._key else "without a key, since there is none in"
            raise EngineError(f"server: {self._config.server} was asked {shown} {KEY_VARIABLE}, and {words}")
        if status == NOT_THERE:
            raise EngineError(f"server: {self._config.server} {words}")
        raise EngineError(f"{question.place}: {self._config.server} {words}")

    def _understand(self, question: _Question, content: bytes) -> Answer:
        try:
            if len(content) > MOST_ANSWER_BYTES:
                raise ValueError(f"longer than {MOST_ANSWER_BYTES} bytes")
            said = _ChatCompletion.model_validate_json(content)
        except ValueError as error:
            reason = explain(error) if isinstance(error, ValidationError) else str(error)
            raise EngineError(
                f"{question.place}: {self._config.server} sent no chat completion ({self._clean(reason)}): "
                f"{self._own_words(content)}"
            ) from None
        choice = said.choices[0]  # None other was asked for.
        return Answer(
            asked=question.digest,
            completion=choice.message.content,
            ended=choice.finish_reason not in CUT,
            tokens=said.tokens,
        )

    def _warn(self, reason: _TryAgain) -> None:
        """Once: what keeps failing ends the run, and says so then."""
        if not self._warned:
            self._warned = True
            self._events.message(
                "warning", f"{self._config.server}: a request is repeated because {reason}; this is said once"
            )

    def _own_words(self, content: bytes) -> str:
        """What a server says of itself: the sentence in its JSON where there is one, else all of it."""
        try:
            said = json.loads(content)
        except (ValueError, RecursionError):
            said = None
        while isinstance(said, dict):
            said = next((said[key] for key in ("error", "message", "detail") if said.get(key)), None)
        return self._clean(said if isinstance(said, str) else content.decode(errors="replace"))

    def _clean(self, text: str) -> str:
        """In one line, short, without the key and without what a terminal would obey."""
        text = text.replace(self._key, "(the key)") if self._key else text
        text = " ".join("".join(one if one.isprintable() else " " for one in text).split())
        return text if len(text) <= MOST_WORDS else f"{text[:MOST_WORDS]}..."


def _read_key() -> str:
    """The key, from the environment alone: a config is written to OUT/ and stored with the run."""
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not all("!" <= character <= "~" for character in key):
        raise EngineError(f"{KEY_VARIABLE}: holds a character that cannot be in a key")
    return key


async def _read_bounded(response: httpx2.Response) -> bytes:
    """What a server sends, or so much of it that it is known to be too long; not unpacked, which could make it endless."""
    content = bytearray()
    async for part in response.aiter_raw():
        content += part
        if len(content) > MOST_ANSWER_BYTES:
            break
    return bytes(content)


def _wait_asked_for(response: httpx2.Response) -> float:
    """Seconds that a server wants to be left alone (Retry-After: seconds, or a date); 0 where it does not say."""
    said = response.headers.get("Retry-After", "")
    try:
        seconds = float(said)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(said) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError, OverflowError):  # a date without a time zone is none to subtract from
            return 0.0
    return min(max(seconds, 0.0), LONGEST_WAIT_SECONDS) if math.isfinite(seconds) else 0.0
