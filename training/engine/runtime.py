"""Where to compute: device, number format, threads, and which other processes take a share."""

import contextlib
from dataclasses import dataclass, replace
from typing import Any

import torch

from training.engine.config import EngineError, Settings
from training.engine.processes import ALONE, Processes

HALF_MULTIPLE = 64


@dataclass(frozen=True)
class Runtime:
    """Where and how precisely to compute; settled once, before any loop."""

    device: torch.device
    dtype: torch.dtype  # of the forward pass; weights are float32
    processes: Processes = ALONE
    lines: bool = False  # Rows are laid on one line, without padding; the network's attention reads that.
    steps: bool = False  # While sampling, attention reads the cache cohort by cohort.

    def shared_with(self, other: "Runtime") -> "Runtime":
        """Of passes that are laid out once for two networks."""
        return replace(self, lines=self.lines and other.lines)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The forward pass's number format."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    @property
    def multiple(self) -> int:
        """What the number of rows of a product of matrices is to be a multiple of."""
        # On a processor products in half precision are compiled anew for each number of rows, and kept: 2 ms and
        # 0.7 MB each.
        return HALF_MULTIPLE if self.device.type == "cpu" and self.dtype != torch.float32 else 1

    @property
    def tolerance(self) -> float:
        """Greatest difference of two log-probabilities that should be the same, in nats."""
        return 1e-3 if self.dtype == torch.float32 else 0.5


def settle(config: Settings, processes: Processes = ALONE) -> Runtime:
    """Choose device, number format and threads. Raises EngineError for a GPU that is not there."""
    if config.threads:
        torch.set_num_threads(config.threads)
    has_gpu = torch.cuda.is_available()
    if config.device == "cuda" and not has_gpu:
        raise EngineError("device: there is no CUDA device here")
    device = torch.device("cuda" if has_gpu and config.device != "cpu" else "cpu")
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # For finding bugs; it costs time.
    half = config.precision == "bfloat16" or (config.precision == "auto" and device.type == "cuda")
    return Runtime(device, torch.bfloat16 if half else torch.float32, processes)
