"""Checkpoints: written aside, flushed to disk, renamed; a torn one is skipped for the one before.

checkpoints/step-00000050/ holds tensors.safetensors (weights), state.pt (optimiser and small things, read
back with weights_only=True) and manifest.json with the size and SHA-256 of both.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.engine.config import EngineError
from training.engine.events import EventLog
from training.engine.fsdp import gathered, like, whole
from training.engine.processes import ALONE, Processes
from training.engine.workspace import write_atomically, written_aside

KEPT = 2  # the last one, and the one before should that turn out torn


@dataclass(frozen=True)
class Checkpoint:
    """The state between two steps."""

    step: int  # steps done
    tensors: dict[str, Tensor]
    state: dict[str, Any]  # tensors, numbers, strings, lists and dicts of these


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, folder: Path, events: EventLog, processes: Processes = ALONE) -> None:
        self.folder = folder / "checkpoints"
        self.events = events
        self._processes = processes

    def save(self, step: int, tensors: Mapping[str, Tensor], state: dict[str, Any]) -> None:
        """Write one, then let older ones go. Raises EngineError when the disk refuses; older ones stay.

        The first of several processes writes it for all, once all hold the same weights; the others wait, since a
        launcher ends all when one of them has left.
        """
        plain = self._same(step, tensors)
        state = gathered(state, self._processes.is_first)
        if self._processes.is_first:
            self._write(self.folder / f"step-{step:08d}", step, plain, state)
        self._processes.gather(None)

    def _write(self, folder: Path, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        with written_aside(folder) as aside:
            save_file(tensors, aside / "tensors.safetensors")
            with open(aside / "state.pt", "wb") as file:
                torch.save(state, file)  # Given a path, it would not say what the disk said.
            names = ("tensors.safetensors", "state.pt")
            manifest = {name: _fingerprint(aside / name, flush=True) for name in names}
            write_atomically(aside / "manifest.json", json.dumps({"step": step, "files": manifest}).encode())
        for old in self._folders()[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def load(self) -> Checkpoint | None:
        """The latest whole one, or None: which one that is, the first of several processes says for all.

        Raises EngineError where a process cannot read what the first one could.
        """
        found = self._latest() if self._processes.is_first else None
        step = self._processes.gather(found and found.step)[0]
        if self._processes.is_first or step is None:
            return found
        folder = self.folder / f"step-{step:08d}"
        try:
            return _read(folder)
        except (OSError, ValueError, KeyError) as error:
            raise EngineError(
                f"{folder}: one process could read it, and another could not ({error})"
            ) from error

    def _latest(self) -> Checkpoint | None:
        for folder in reversed(self._folders()):
            try:
                return _read(folder)
            except (OSError, ValueError, KeyError) as error:
                self.events.message("warning", f"{folder.name} is damaged and was skipped: {error}")
        return None

    def _same(self, step: int, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors, in main memory, for the process that writes; nothing for the others.

        Processes whose weights have parted learn nothing together; better to end than to go on.
        """
        kept, digest = {}, hashlib.sha256()
        for name, tensor in tensors.items():
            plain = whole(tensor).detach().cpu().contiguous()
            if self._processes.count > 1:
                digest.update(plain.flatten().view(torch.uint8).numpy())
            if self._processes.is_first:
                kept[name] = plain
        if len(set(self._processes.gather(digest.hexdigest()))) > 1:
            raise EngineError(f"the processes no longer hold the same weights after {step} steps")
        return kept

    def _folders(self) -> list[Path]:
        return sorted(self.folder.glob("step-*")) if self.folder.is_dir() else []


def _fingerprint(path: Path, flush: bool = False) -> dict[str, Any]:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if flush:
            os.fsync(file.fileno())
    return {"bytes": path.stat().st_size, "sha256": digest}


def _read(folder: Path) -> Checkpoint:
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, expected in manifest["files"].items():
        if _fingerprint(folder / name) != expected:
            raise ValueError(f"{name} is not what was written")
    state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    return Checkpoint(manifest["step"], load_file(folder / "tensors.safetensors"), state)


def restore(parameters: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Copy saved weights over live ones, by name. Raises ValueError when the names differ."""
    if parameters.keys() != saved.keys():
        raise ValueError("the checkpoint holds other weights than this run trains")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(like(saved[name], parameter))


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Several networks' weights in one file: names get their network's name in front."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def part(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One network's weights out of such a file."""
    start = f"{prefix}/"
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
