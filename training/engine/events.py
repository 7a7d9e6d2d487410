"""What a run says while it runs: events.jsonl, one JSON object a line. No torch."""

import json
import math
import os
import time
from pathlib import Path
from typing import Any

from training.engine.settings import EngineError


class LineFile:
    """JSON objects appended to a file; each line is written whole, at once. Raises EngineError when the disk refuses."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            _drop_torn_line(path)
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        except OSError as error:
            raise EngineError(f"{path}: cannot be written ({error})") from error

    def append(self, values: dict[str, Any]) -> None:
        """One line more."""
        left = json.dumps(values, allow_nan=False, ensure_ascii=False).encode() + b"\n"
        try:
            while left:  # A disk that is nearly full takes a part, and says so at the next attempt.
                left = left[os.write(self._file, left) :]
        except OSError as error:
            raise EngineError(f"{self._path}: cannot be written ({error})") from error

    def close(self) -> None:
        """Let the file go."""
        os.close(self._file)


class EventLog:
    """Appends events to a file. Raises EngineError when the disk refuses."""

    def __init__(self, path: Path) -> None:
        self._lines = LineFile(path)
        self._phase = ""
        self._phase_began = (0.0, 0)

    def metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Figures of a step; what is not a finite number is left out, since JSON has no word for it."""
        finite = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
        self._write("metrics", step=step, metrics=finite)

    def progress(self, phase: str, done: int, total: int) -> None:
        """How far a phase is; the time left is judged by the pace since the phase began."""
        now = time.monotonic()
        if phase != self._phase:
            self._phase, self._phase_began = phase, (now, done)
        began, first = self._phase_began
        pace = (now - began) / (done - first) if done > first else None
        left = None if pace is None else round(pace * (total - done), 1)
        self._write("progress", phase=phase, done=done, total=total, seconds_left=left)

    def message(self, level: str, text: str) -> None:
        """Something a person should read; level is info, warning or error."""
        self._write("message", level=level, text=text)

    def result(self, result: dict[str, Any]) -> None:
        """The outcome, once, at the end."""
        self._write("result", result=result)

    def close(self) -> None:
        """Let the file go."""
        self._lines.close()

    def _write(self, kind: str, **values: Any) -> None:
        self._lines.append({"time": time.time(), "kind": kind, **values})


def _drop_torn_line(path: Path) -> None:
    """A machine that lost power may leave half a line; nothing may be appended to that."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)
