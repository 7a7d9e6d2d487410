"""Starts the engine as a process of its own, follows what it says, and records how it ended.

A crash of torch or CUDA therefore never takes the worker down, and its memory goes back to the system.
The engine's folder is the contract: it continues there after whatever ended it, so a run that was killed
from outside is simply started again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import math
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import InterfaceError, OperationalError, close_old_connections
from pydantic import ValidationError

from training import runs
from training.engine.records import MessageEvent, MetricsEvent, ProgressEvent, ResultEvent, read_event
from training.models import Metric, Run
from training.process_group import STOPPED, ProcessGroup

logger = logging.getLogger(__name__)

DONE, BAD_INPUT, GUARDED = 0, 2, 3
KILLED = (-signal.SIGKILL, -signal.SIGTERM, STOPPED)  # ends that come from outside the engine
POLL_SECONDS = 0.25
WRITE_SECONDS = 2.0
GRACE_SECONDS = 120.0
# The engine reads no environment and no settings; it is not even shown them.
HIDDEN = ("DJANGO_", "TASTEMAKER_", "DATABASE_", "REDIS_", "CELERY_", "SECRET_KEY", "EMAIL_", "PRODUCTION")


def never() -> bool:
    return False


def execute(run: Run, leaving: Callable[[], bool] = never) -> None:
    """Run the engine for a claimed run, to its end or until `leaving` says that this worker goes away."""
    try:
        _run_engine(run, leaving)
    except runs.Superseded:
        logger.info("run %s was taken over by another worker", run.pk)
    except (OperationalError, InterfaceError):
        raise  # the database is away: the run's heartbeat grows stale, and it is continued later
    except Exception as error:
        logger.exception("run %s", run.pk)
        with suppress(runs.Superseded):
            runs.fail(run, f"The worker could not follow the engine: {error}")


def _run_engine(run: Run, leaving: Callable[[], bool]) -> None:
    if run.stop_requested_at:
        runs.stopped(run, "Stopped before it started again; its checkpoint is kept.")
        return
    _wait_for_folder(run)
    follower, engines = Follower(run), _start(run)
    try:
        code, asked = _attend(engines, follower, leaving)
        follower.write()
        _conclude(follower, code, asked)
    finally:
        engines.kill()


# The process


def _start(run: Run) -> ProcessGroup:
    run.path.mkdir(parents=True, exist_ok=True)
    request = run.path / "request.json"
    aside = request.with_suffix(".tmp")
    aside.write_text(json.dumps(run.config, indent=1))
    os.replace(aside, request)
    engines = ProcessGroup(
        [sys.executable, "-m", "training.engine", run.method, str(request), str(run.path)],
        # A server is asked by one process, which knows how much it may ask at once.
        1 if run.config.get("server") else settings.ENGINE_PROCESSES,
        run.path,
        settings.BASE_DIR,
        _environment() | _server_key(run),
    )
    (run.path / "engine.pid").write_text(f"{socket.gethostname()} {engines.pid}")
    return engines


def _wait_for_folder(run: Run) -> None:
    """An engine whose worker died may still be saving its checkpoint: let it, and ask it to leave if it does not know.

    The engine holds a lock on its folder; the kernel gives that back however it ends. Raises Superseded.
    """
    deadline, asked = time.monotonic() + GRACE_SECONDS, False
    while _locked(run.path / "lock") and time.monotonic() < deadline:
        if not asked:
            asked = True
            _ask_to_leave(run.path / "engine.pid")
        runs.heartbeat(run, phase="waiting for the engine before")
        time.sleep(WRITE_SECONDS / 2)


def _locked(path: Path) -> bool:
    if not path.exists():
        return False
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _ask_to_leave(note: Path) -> None:
    """Where the kernel did not do so already (only Linux does). The lock says that an engine of this run lives."""
    with suppress(OSError, ValueError):
        host, pid = note.read_text().split()
        if host == socket.gethostname():
            os.kill(int(pid), signal.SIGTERM)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(HIDDEN)} | {
        "PYTHONUNBUFFERED": "1"
    }


def _server_key(run: Run) -> dict[str, str]:
    """The key of the server that a run asks for completions; the engine is shown it, and no other run's is."""
    key = settings.GENERATION_SERVER_KEY
    return {"TASTEMAKER_SERVER_KEY": key} if key and run.config.get("server") else {}


def _attend(engines: ProcessGroup, follower: Follower, leaving: Callable[[], bool]) -> tuple[int, str]:
    """Wait for the engine's end, writing what it says. Returns its exit code and why we asked it to stop: "", "stop" or
    "leave".
    """
    asked, asked_at, written_at = "", 0.0, 0.0
    while (code := engines.wait(POLL_SECONDS)) is None:
        now = time.monotonic()
        if now - written_at >= WRITE_SECONDS:
            written_at = now
            wanted = follower.write()
            wish = "stop" if wanted else "leave" if leaving() else ""
            if wish and not asked:
                asked, asked_at = wish, now
                engines.signal(signal.SIGTERM)
        if asked and now - asked_at > GRACE_SECONDS:
            engines.signal(signal.SIGKILL)
    return code, asked


# What it says


@dataclass
class Follower:
    """Reads events.jsonl from where it stopped reading, and keeps half a line for the next time."""

    run: Run
    offset: int = 0
    rest: bytes = b""
    metrics: list[Metric] = field(default_factory=list)
    progress: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    message: str = ""

    def read(self) -> None:
        path = self.run.path / "events.jsonl"
        if not path.exists():
            return
        with path.open("rb") as file:
            if file.seek(0, os.SEEK_END) < self.offset:  # cut back to a checkpoint: read it all again
                self.offset, self.rest = 0, b""
            file.seek(self.offset)
            new = file.read()
        self.offset += len(new)
        *lines, self.rest = (self.rest + new).split(b"\n")
        for line in lines:
            self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            event = read_event(line)
        except ValidationError:
            return
        match event:
            case MetricsEvent():
                at = datetime.fromtimestamp(event.time, UTC)
                self.metrics += [
                    Metric(run=self.run, step=event.step, name=name[:80], value=value, at=at)
                    for name, value in event.metrics.items()
                    if math.isfinite(value)
                ]
            case ProgressEvent():
                self.progress = {
                    "phase": event.phase[:60],
                    "progress_done": event.done,
                    "progress_total": event.total,
                    "seconds_left": event.seconds_left,
                }
            case MessageEvent():
                if event.level != "info":
                    self.message = event.text
            case ResultEvent():
                self.result = _storable(event.result)

    def write(self) -> bool:
        """Store what is new, with a heartbeat. Returns whether somebody asked for a stop.

        While the database is away the engine goes on; what it says waits in the file and in memory.
        """
        self.read()
        try:
            wanted = runs.record(self.run, self.metrics, **self.progress)
        except (OperationalError, InterfaceError):
            close_old_connections()  # the next write opens a new one
            return False
        self.metrics, self.progress = [], {}
        return wanted


def _storable(value: Any) -> Any:
    """JSON without NaN and infinity, which PostgreSQL has no word for."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(item) for item in value]
    return value


# How it ended


def _conclude(follower: Follower, code: int, asked: str) -> None:
    run = follower.run
    model = run.path / "model"
    result = follower.result or _read_result(run.path)
    if code == DONE or (code == GUARDED and run.method in runs.MAKES and model.is_dir()):
        _succeed(run, result, code, model)
    elif code == GUARDED:
        runs.fail(run, _guard_message(result, follower.message, kept=False), code)
    elif code == BAD_INPUT:
        runs.fail(run, last_words(run.path), code)
    elif code in KILLED and (
        asked == "stop" or Run.objects.filter(pk=run.pk, stop_requested_at__isnull=False).exists()
    ):
        runs.stopped(run, "Stopped on request. Its checkpoint is kept.", code)
    elif code in KILLED:
        runs.requeue(run, _interruption(code), counts=asked != "leave")
    else:
        runs.fail(run, f"The engine ended {_manner(code)}. {last_words(run.path)}".strip(), code)


def _succeed(run: Run, result: dict[str, Any], code: int, model: Path) -> None:
    message = _guard_message(result, "", kept=True) if code == GUARDED else ""
    if run.method not in runs.MAKES:
        runs.finish(run, result, message, code)
        return
    location = publish_folder(model, f"models/run-{run.pk}")
    runs.finish(run, result, message, code, location, weights_sha256(settings.DATA / location))
    shutil.rmtree(run.path / "checkpoints", ignore_errors=True)
    shutil.rmtree(model, ignore_errors=True)


def _guard_message(result: dict[str, Any], said: str, kept: bool) -> str:
    reason = str(result.get("stopped_by") or said or "a guard").rstrip(".")
    ending = "The last good weights were kept." if kept else "It left no usable weights."
    return f"Stopped early by a guard: {reason}. {ending}"


def _interruption(code: int) -> str:
    if code == -signal.SIGKILL:
        return (
            "Killed from outside (signal 9), which is also what a machine does that runs out of memory. "
            "It continues from its last checkpoint."
        )
    return "Interrupted when its worker went away. It continues from its last checkpoint."


def _manner(code: int) -> str:
    if code < 0:
        with suppress(ValueError):
            return f"by signal {-code} ({signal.Signals(-code).name})"
    return f"with code {code}"


def last_words(folder: Path, lines: int = 1) -> str:
    """The last lines that the engine wrote on stderr, without the noise of a traceback."""
    try:
        with (folder / "engine.log").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 8192))
            said = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    words = [line.strip() for line in said if line.strip()]
    return " ".join(words[-lines:])[:1000]


def _read_result(folder: Path) -> dict[str, Any]:
    try:
        return _storable(json.loads((folder / "result.json").read_text()))
    except (FileNotFoundError, ValueError):
        return {}


# Weights


def publish_folder(source: Path, location: str) -> str:
    """Give a finished model its lasting place below the data folder, whole or not at all; again is harmless."""
    target = Path(settings.DATA) / location
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f".{target.name}.{os.getpid()}.{time.monotonic_ns()}")
        shutil.copytree(source, aside)
        try:
            os.replace(aside, target)
        except OSError:  # another worker was first
            shutil.rmtree(aside, ignore_errors=True)
    return location


def weights_sha256(folder: Path) -> str:
    """The hash of the weights: of the one file, or of the list of hashes where there are several."""
    files = sorted(folder.glob("*.safetensors"))
    digests = []
    for path in files:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    if len(digests) <= 1:
        return digests[0] if digests else ""
    listing = "".join(f"{digest}  {path.name}\n" for digest, path in zip(digests, files, strict=True))
    return hashlib.sha256(listing.encode()).hexdigest()
