"""python -m training.engine METHOD CONFIG.json OUT/

Exit codes: 0 done, 2 bad config or data, or a disk that takes no more, 3 stopped by a guard, 143 stopped on
request (the same command continues).
"""

import argparse
import gc
import importlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any

from training.engine.config import (
    METHODS,
    EngineError,
    Settings,
    check_sources,
    default_config,
    describe,
    load_config,
)
from training.engine.processes import launched, leave, meet
from training.engine.workspace import StopRequested, Workspace

DONE, BAD_INPUT, GUARDED, STOPPED = 0, 2, 3, 143

# Threads that wait for each other are to sleep, not to spin: beside other processes on the same cores a spinning
# thread keeps its own partner from the core (measured: sampling 43 s instead of 3.5 s). Read when torch loads.
os.environ["OMP_WAIT_POLICY"] = "passive"

# Each runs as `function(config, workspace) -> result`; torch is imported only with these modules.
RUNNERS = {
    "sft": "training.engine.sft:train_policy",
    "reward": "training.engine.reward_model:train_reward_model",
    "ppo": "training.engine.ppo:train_with_ppo",
    "grpo": "training.engine.grpo:train_with_grpo",
    "rloo": "training.engine.rloo:train_with_rloo",
    "dpo": "training.engine.dpo:train_with_dpo",
    "generate": "training.engine.evaluate:generate",
    "score": "training.engine.evaluate:score",
    "evaluate": "training.engine.evaluate:evaluate",
}


class _Parser(argparse.ArgumentParser):
    def __init__(self) -> None:
        super().__init__(prog="python -m training.engine", add_help=False)
        self.add_argument("method", nargs="?", choices=METHODS, help="what to do")
        self.add_argument("config", nargs="?", help="a JSON file with the method's settings")
        self.add_argument("out", nargs="?", help="the folder to write to; an interrupted run continues")
        self.add_argument("--print-config", action="store_true", help="print a complete default config")
        self.add_argument("--help", "-h", action="store_true", help="show every setting of a method")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one method; returns the exit code."""
    parser = _Parser()
    given = parser.parse_args(arguments)
    if given.help or not given.method:
        methods = [given.method] if given.method else list(METHODS)
        print("\n\n".join([parser.format_help(), *map(describe, methods)]))
        return DONE if given.help else BAD_INPUT
    if given.print_config:
        print(json.dumps(default_config(given.method), indent=1))
        return DONE
    if not given.config or not given.out:
        parser.error("name a config file and a folder to write to")
    try:
        return _run(given.method, given.config, given.out)
    except EngineError as error:
        print(str(error).replace("\n", " "), file=sys.stderr)
        return BAD_INPUT
    except StopRequested:
        return STOPPED


def _run(method: str, config_path: str, out: str) -> int:
    # Until the workspace follows the signal there is nothing to save.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(STOPPED))
    config = load_config(method, config_path)
    check_sources(config)
    with _no_collection():
        processes = meet(config.device)  # of several, and then it loads torch
    workspace = Workspace(out, processes)
    workspace.open(config)
    try:
        result = workspace.result() or _work(method, config, workspace)
    finally:
        workspace.close()
    leave(processes)
    return GUARDED if result.get("stopped_by") else DONE


def _work(method: str, config: Settings, workspace: Workspace) -> dict[str, Any]:
    try:
        preflight, run = _import_for(method)
        preflight.check_inputs(config)
        result = run(config, workspace)
    except EngineError as error:
        with suppress(EngineError):  # Perhaps it is the disk of the events that is full.
            workspace.events.message("error", str(error))
        raise
    workspace.finish(result)
    return result


def _import_for(method: str) -> tuple[ModuleType, Callable[[Settings, Workspace], dict[str, Any]]]:
    """What checks a method's inputs, and what runs it. What torch and transformers load stays for good: looking for
    garbage among it takes a fifth of the time of loading it (measured: 5.4 s, 4.3 s without).
    """
    module, function = RUNNERS[method].split(":")
    with _no_collection():
        preflight = importlib.import_module("training.engine.preflight")
        return preflight, getattr(importlib.import_module(module), function)


@contextmanager
def _no_collection() -> Iterator[None]:
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _end(code: int) -> None:
    """Leave Python. Among several processes at once: a thread of gloo that still lets go of its last tensors
    aborts a Python that is unwinding (seen with torch 2.13), and the launcher then ends the other processes.
    """
    if not launched():
        gc.freeze()  # nor is there any on the way out, where looking takes a second and more
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _end(main())
