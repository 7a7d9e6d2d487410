"""Runs to which something happens, such as SIGKILL: a moment after a step, or at a chosen call."""

import importlib
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.engine.conftest import PROMPTS, end, write_rows
from tests.engine.test_dpo import DPO
from tests.engine.test_groups import GROUPED
from tests.engine.test_training import PPO, REWARD, taste
from training.engine.events import EventLog

METHODS = ("sft", "reward", "ppo", "grpo", "rloo", "dpo")


def short_run(method, model, folder, epochs=1):
    """Settings of a run of six steps an epoch, saved after every second; its files stand in a folder."""
    if method in ("ppo", "grpo", "rloo"):
        prompts = write_rows(folder / "prompts.jsonl", [{"prompt": text} for text in PROMPTS])
        settings = (PPO if method == "ppo" else GROUPED) | {"prompts": prompts, "steps": 6 * epochs}
    else:
        rows = taste(48, "abcd")  # of which sft learns the chosen answers
        learning = {"sft": {"batch_size": 8, "log_every_steps": 1}, "reward": REWARD, "dpo": DPO}[method]
        settings = learning | {"train_data": write_rows(folder / "train.jsonl", rows), "epochs": epochs}
    return settings | {"model": model, "checkpoint_every_steps": 2}


def kill_after_steps(engine, method, settings, out, steps):
    """Start a run again and again, and kill it a moment after each of these steps; some may have ended before."""
    kills, moments = 0, random.Random(method)
    for step in steps:  # By steps, since a loaded machine changes how long a run takes.
        child = engine.start(method, out, **settings)
        engine.wait_for_step(out, step)
        time.sleep(moments.uniform(0.0, 0.2))
        kills += end(child) == -signal.SIGKILL
    assert kills


def assert_same_end(engine, out, whole):
    assert engine.weights(out) == engine.weights(whole)
    assert engine.result(out) == engine.result(whole)


@dataclass(frozen=True)
class Point:
    """A call of a function: the n-th that `which` is true of, once a step has been logged."""

    place: str  # module:name, or module:Class.name
    step: int  # 0 counts from the start
    call: int = 1
    when: str = "before"  # "before" it works, "after" that, or "torn": when half of its file is there
    which: Callable[..., bool] = lambda *args, **kwargs: True

    def arm(self, happen: Callable[[], None] = lambda: os.kill(os.getpid(), signal.SIGKILL)) -> None:
        """Have this happen there in the present process, which must be a child of ours."""
        module, names = self.place.split(":")
        owner: Any = importlib.import_module(module)
        *path, name = names.split(".")
        for part in path:
            owner = getattr(owner, part)
        function, log, logged, calls = getattr(owner, name), EventLog.metrics, 0, 0

        def noting(events: EventLog, step: int, metrics: dict[str, float]) -> None:
            nonlocal logged
            log(events, step, metrics)
            logged = step

        def struck(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            counts = logged >= self.step and self.which(*args, **kwargs)
            calls += counts
            is_it = counts and calls == self.call
            if is_it and self.when == "before":
                happen()
            result = function(*args, **kwargs)
            if is_it and self.when == "torn":
                file = next(arg.name if hasattr(arg, "fileno") else arg for arg in reversed(args))
                os.truncate(file, Path(file).stat().st_size // 2)
            if is_it and self.when != "before":
                happen()
            return result

        EventLog.metrics = noting
        setattr(owner, name, struck)


def kill_at(engine, point, method, settings, out):
    """Run until the point; it must be reached."""
    child = engine.start(method, out, first=point.arm, **settings)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def about(name):
    """Whether a call is about a file or folder of that name."""
    return lambda *given, **options: any(
        isinstance(one, str | Path) and Path(one).name == name for one in given
    )
