"""The folder of one run: its lock, config, events, result, and the wish to stop. No torch."""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from safetensors import SafetensorError

from training.engine.config import FILE_FIELDS, EngineError, Settings
from training.engine.events import EventLog
from training.engine.processes import ALONE, Processes

LOCK_SECONDS = 15.0


class StopRequested(Exception):
    """Somebody asked the run to stop (SIGTERM). Exit code 143, and the same command continues."""


class Workspace:
    """OUT/: one engine at a time writes it, and a run is finished once it holds result.json.

    Of several processes the first has the folder; the others read it, and what they write goes nowhere.
    """

    def __init__(self, folder: str | Path, processes: Processes = ALONE) -> None:
        self.folder = Path(folder)
        self.processes = processes
        self.stopping = False

    def open(self, config: Settings, lock_seconds: float = LOCK_SECONDS) -> None:
        """Lock the folder, keep the config, follow signals. Raises EngineError when it is not ours."""
        if self.processes.is_first:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._lock(lock_seconds)
            except OSError as error:
                raise EngineError(f"{self.folder}: cannot be written ({error})") from error
            self._keep_config(config)
        self._check_agreement(config)
        self.events = EventLog(self.folder / "events.jsonl" if self.processes.is_first else Path(os.devnull))
        signal.signal(signal.SIGTERM, self._ask_to_stop)

    def close(self) -> None:
        """Let the folder go."""
        self.events.close()
        if self.processes.is_first:
            os.close(self._lock_file)

    def result(self) -> dict[str, Any] | None:
        """The outcome of a run that has ended here, or None; all processes get what the first one reads."""
        found = None
        if self.processes.is_first:
            with contextlib.suppress(FileNotFoundError):
                found = json.loads((self.folder / "result.json").read_text())
        return self.processes.gather(found)[0]

    def finish(self, result: dict[str, Any]) -> None:
        """Publish the outcome: the event first, so that whoever sees the file has had the event."""
        self.events.result(result)
        if self.processes.is_first:
            write_atomically(self.folder / "result.json", json.dumps(result, indent=1).encode())

    def check_stop(self) -> None:
        """Raise StopRequested if somebody has asked; called where stopping loses nothing.

        Several processes stop together or not at all: they wait for the next `should_stop`.
        """
        if self.stopping and self.processes.count == 1:
            raise StopRequested

    def should_stop(self) -> bool:
        """Whether somebody has asked this process or another one; all processes must ask at the same place."""
        stops = self.processes.any(self.stopping)
        self.stopping = (
            self.stopping or stops
        )  # The wish may have come while this process waited for the others.
        return stops

    def _check_agreement(self, config: Settings) -> None:
        """Raise EngineError where processes were told different things: they would share rows that are not the same.

        Nobody reads the folder before that, so nothing that an earlier engine is still writing.
        """
        if self.processes.count == 1:
            return
        told = {"config": hashlib.sha256(config.model_dump_json().encode()).hexdigest()}
        for name in FILE_FIELDS:
            if path := getattr(config, name, None):
                with open(path, "rb") as file:
                    told[name] = hashlib.file_digest(file, "sha256").hexdigest()
        all_told = self.processes.gather(told)
        if parted := sorted({name for one in all_told for name in told if one.get(name) != told[name]}):
            raise EngineError(f"{', '.join(parted)}: not the same for all processes")

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        self.stopping = True

    def _lock(self, seconds: float) -> None:
        self._lock_file = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        deadline = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise EngineError(f"{self.folder}: another engine is writing this folder") from None
                time.sleep(0.2)

    def _keep_config(self, config: Settings) -> None:
        path = self.folder / "config.json"
        values = config.model_dump(mode="json")
        if path.exists():
            fields = type(config).model_fields.items()
            defaults = {name: field.default for name, field in fields if not field.is_required()}
            # What the engine could not be told when the run began stood at its default.
            before = json.loads(json.dumps(defaults)) | json.loads(path.read_text())
            names = sorted(name for name in {*before, *values} if before.get(name) != values.get(name))
            if names:
                raise EngineError(f"{self.folder}: holds a run with another config ({', '.join(names)})")
            return
        write_atomically(path, json.dumps(values, indent=1).encode())


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all, also after a power cut.

    Raises EngineError when the disk refuses; what was there before stays.
    """
    aside = path.with_name(f".{path.name}.tmp")
    try:
        with open(aside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        sync_folder(path.parent)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise EngineError(f"{path}: cannot be written ({error})") from error


@contextmanager
def written_aside(folder: Path) -> Iterator[Path]:
    """A folder to write into; it takes the place of `folder` once all is there.

    Raises EngineError when the disk refuses; what was there before stays, and half a folder takes no room.
    """
    aside = folder.with_name(f".{folder.name}.tmp")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        yield aside
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(aside, folder)
        sync_folder(folder.parent)
    except (OSError, SafetensorError, EngineError, RuntimeError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        # torch.save raises an error of its own while it handles the disk's, and so does write_atomically.
        refusal = error if isinstance(error, OSError | SafetensorError) else error.__context__
        if not isinstance(refusal, OSError | SafetensorError):
            raise
        raise EngineError(f"{folder}: cannot be written ({refusal})") from error


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of names to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
