"""Steps of sampling at the speed of a GPU's memory, their kernels recorded.

A step reads every weight and computes little, so what it costs should be that reading. Written as a model is, it costs more:
starting some hundred kernels one by one takes longer than what they do.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from training.engine.cohorts import Cohorts
from training.engine.networks import Policy

CHECKED_STEPS = 2  # of a recording, computed both ways: what it holds as a number shows in the second
AGREEMENT = 0.02  # Greatest difference of recorded states, as a share of what they are.

Forward = Callable[[Tensor, Tensor], Tensor]  # (A, 1) ids and their positions to (A, d) states


class Recording:
    """A step as a CUDA graph: replayed, it reads and writes the memory that it was recorded with."""

    def __init__(self, forward: Forward, ids: Tensor, positions: Tensor) -> None:
        self._ids, self._positions = ids.clone(), positions.clone()
        stream, beside = torch.cuda.current_stream(), torch.cuda.Stream()
        beside.wait_stream(stream)
        with torch.cuda.stream(
            beside
        ):  # Libraries take memory at their first call, which cannot be recorded.
            forward(self._ids, self._positions)
        stream.wait_stream(beside)
        self._graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(self._graph):
                self._states = forward(self._ids, self._positions)
        finally:
            torch.cuda.set_stream(stream)  # which a failed recording would leave another

    def __call__(self, ids: Tensor, positions: Tensor) -> Tensor:
        """The states of this step."""
        self._ids.copy_(ids)
        self._positions.copy_(positions)
        self._graph.replay()
        return self._states.clone()  # The next replay writes where they are.


class Recorder:
    """A policy's steps: recorded where that works, and anew whenever the cache's memory is another.

    The first steps of each recording are computed both ways. A policy whose steps cannot be recorded, or come out
    otherwise, computes them one by one from then on.
    """

    def __init__(self, policy: Policy, cache: Cohorts) -> None:
        self._policy, self._cache = policy, cache
        self._recording: Recording | None = None
        self._memory: tuple[int, ...] = ()
        self._checked = 0

    def __call__(self, forward: Forward, ids: Tensor, positions: Tensor) -> Tensor:
        """(A, d) the states after (A, 1) ids."""
        if self._policy.recorded_steps is None:
            return forward(ids, positions)
        if self._memory != self._cache.memory:
            # What follows at once may change it again: new answers after some have gone.
            self._recording, self._memory, self._checked = None, self._cache.memory, 0
            return forward(ids, positions)
        try:
            self._recording = self._recording or Recording(forward, ids, positions)
            states = self._recording(ids, positions)
        except RuntimeError:  # Models do as they like; what waits for the GPU cannot be recorded.
            return self._give_up(forward(ids, positions))
        if self._checked < CHECKED_STEPS:
            expected = forward(ids, positions)  # It writes the same column once more.
            if not (states - expected).norm() <= AGREEMENT * expected.norm():
                return self._give_up(expected)
            self._checked += 1
        self._policy.recorded_steps += 1
        return states

    def _give_up(self, states: Tensor) -> Tensor:
        self._recording, self._policy.recorded_steps = None, None
        return states
