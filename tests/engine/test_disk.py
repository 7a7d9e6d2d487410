"""A disk that is full: one sentence that names the place, nothing lost, and the same command goes on once there is room."""

import json
import os
import resource
import subprocess
import sys

import pytest

from tests.engine.kills import Point, about, assert_same_end, short_run
from training.engine.checkpoints import Checkpoints
from training.engine.config import EngineError
from training.engine.events import EventLog
from training.engine.workspace import written_aside


class Disk:
    """A small disk where one may be mounted; elsewhere no file may grow, which is refused in much the same way."""

    def __init__(self, folder):
        self.folder = folder
        tmpfs = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder]
        self.is_mounted = not subprocess.run(tmpfs, capture_output=True).returncode

    def fill(self):
        if not self.is_mounted:
            self.let_nothing_grow()
            return
        with open(self.folder / "ballast", "wb", buffering=0) as file:
            for size in (2**16, 1):
                while takes(file, bytes(size)):
                    pass

    def let_nothing_grow(self):
        """Not even a file whose last block has room."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))

    def make_room(self):
        (self.folder / "ballast").unlink(missing_ok=True)

    def unmount(self):
        if self.is_mounted:
            subprocess.run(["umount", "--lazy", self.folder], check=True)


def takes(file, content):
    try:
        return file.write(content) == len(content)
    except OSError:
        return False


@pytest.fixture
def disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    disk = Disk(folder)
    yield disk
    disk.unmount()


def run_into(engine, disk, point, fill, method, settings):
    """Run until the disk is full; returns the exit code and what was said."""
    reading, writing = os.pipe()

    def first():
        sys.stderr = os.fdopen(writing, "w", buffering=1)
        point.arm(fill)

    child = engine.start(method, disk.folder / "out", first=first, **settings)
    os.close(writing)
    with os.fdopen(reading) as file:
        said = file.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


CHECKPOINT, MODEL, EVENTS = "checkpoints/step-00000004", "model", "events.jsonl"
SAVED = Point("transformers:PreTrainedModel.save_pretrained", 6)
# The method, when the disk is full, what is named then, and the step that the next run logs first.
PLACES = {
    "weights of a checkpoint": ("ppo", Point("training.engine.checkpoints:save_file", 4), CHECKPOINT, 3),
    "state of a checkpoint": ("reward", Point("torch:save", 4), CHECKPOINT, 3),
    "manifest of a checkpoint": (
        "sft",
        Point("training.engine.checkpoints:_fingerprint", 4, call=2, when="after"),
        CHECKPOINT,
        3,
    ),
    "model": ("reward", SAVED, MODEL, 0),
    "model of an online run": ("grpo", SAVED, MODEL, 0),
    "marked completions": (
        "ppo",
        Point("training.engine.online_state:OnlineState.write_marked", 6),
        "marked.jsonl",
        0,
    ),
    "a checkpoint, and the events": ("sft", Point("training.engine.checkpoints:save_file", 4), CHECKPOINT, 3),
    "events": ("dpo", Point("training.engine.dpo:update", 3), EVENTS, 3),
    "events of an online run": ("rloo", Point("training.engine.rloo:learn", 5), EVENTS, 5),
    "result": (
        "sft",
        Point("training.engine.workspace:write_atomically", 6, which=about("result.json")),
        "result.json",
        0,
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_full_disk_is_named_and_loses_nothing(engine, disk, llama, tmp_path, place):
    method, point, named, first = PLACES[place]
    settings = short_run(method, llama, tmp_path)
    assert engine.run(method, "whole", **settings) == 0
    out, fill = disk.folder / "out", disk.let_nothing_grow if "events" in place else disk.fill
    code, said = run_into(engine, disk, point, fill, method, settings)
    assert code == 2, said
    assert said.startswith(f"{out / named}: cannot be written (") and said.count("\n") == 1
    assert "No space left" in said or "File too large" in said
    assert not [
        path for path in out.rglob("*") if path.name.endswith(".tmp")
    ]  # It would take room for nothing.
    disk.make_room()
    saved = Checkpoints(out, EventLog(out / "events.jsonl")).load()
    assert saved.step == (first - 1 if first else 6)
    before = len(engine.events(out, "metrics"))
    assert engine.run(method, out, **settings) == 0
    steps = [event["step"] for event in engine.events(out, "metrics")[before:]]
    assert (steps[0] if steps else 0) == first
    assert_same_end(engine, out, "whole")


def test_a_line_that_the_disk_takes_in_parts_is_written_whole(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr("training.engine.events.os.write", lambda file, content: write(file, content[:7]))
    log = EventLog(tmp_path / "events.jsonl")
    log.message("info", "first")
    log.message("info", "second")
    log.close()
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["first", "second"]


def test_torchs_own_complaint_is_traced_to_the_disks(tmp_path):
    refusal = RuntimeError("[enforce fail at inline_container.cc] . unexpected pos 704 vs 598")
    refusal.__context__ = OSError(28, "No space left on device")
    with (
        pytest.raises(EngineError, match=r"cannot be written \(\[Errno 28\]"),
        written_aside(tmp_path / "model"),
    ):
        raise refusal


def test_what_goes_wrong_beside_the_disk_is_not_blamed_on_it(tmp_path):
    with pytest.raises(RuntimeError, match="a bug"), written_aside(tmp_path / "model"):
        raise RuntimeError("a bug")
    assert not list(tmp_path.iterdir())
