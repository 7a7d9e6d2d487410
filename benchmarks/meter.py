"""Time and memory of one process, taken in the same way on both sides, from Linux's /proc."""

import random
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


class Meter:
    """Made once libraries are loaded and before any model is: memory is counted from there."""

    def __init__(self) -> None:
        # The highest so far is forgotten where the kernel allows it; importing takes no more than it leaves.
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        self._resident = status_bytes("VmRSS")
        self._began = self._ended = (0.0, 0.0)
        self._peak = 0

    def start(self) -> None:
        """Training begins."""
        self._began = (time.monotonic(), time.process_time())

    def stop(self) -> None:
        """It ends, or has come so far: the last call counts."""
        self._ended = (time.monotonic(), time.process_time())
        self._peak = status_bytes("VmHWM")

    def figures(self) -> dict[str, float]:
        """Seconds by the wall and of all processor cores, and bytes at the peak above what libraries took."""
        return {
            "seconds": self._ended[0] - self._began[0],
            "cpu_seconds": self._ended[1] - self._began[1],
            "peak_bytes": self._peak - self._resident,
        }


def status_bytes(name: str) -> int:
    """A line of /proc/self/status: VmRSS is what is resident now, VmHWM the most that ever was."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/self/status has no line {name}")


def begin(job: Mapping[str, Any]) -> Meter:
    """Libraries are loaded: seed all three generators, warm up, and count memory from here."""
    import numpy as np
    import torch

    torch.set_num_threads(job["threads"])
    warm_up()
    random.seed(job["seed"])
    np.random.seed(job["seed"])
    torch.manual_seed(job["seed"])
    return Meter()


def warm_up() -> None:
    """One step of a model of a few numbers: what torch loads at its first use is no memory of the training."""
    import torch

    layer = torch.nn.Linear(8, 8)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(4, 8)).sum().backward()
    optimizer.step()
    torch.multinomial(torch.ones(2, 8), 1)
