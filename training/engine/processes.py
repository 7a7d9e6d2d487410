"""Processes that train one model together: each takes its share of the rows, and what they find is added up.

A launcher starts them (`torchrun`, `accelerate launch`) and tells each its place. Every process draws the same
random numbers, holds the same weights and takes the same decisions; the first one alone writes files.
docs/processes.md says what follows from that. torch is imported only where there are several.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor, nn

T = TypeVar("T")

PATIENCE = timedelta(hours=1)  # that processes wait for each other, e.g. while the first one saves
BUCKET_ELEMENTS = 2**24  # gradients that travel at once: 64 MiB in float32


@dataclass(frozen=True)
class Processes:
    """The place of this process among all. What is said of "all processes" every one of them must call."""

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes files."""
        return self.rank == 0

    def deal(self, things: Sequence[T]) -> list[T]:
        """This process's share: dealt in turn, so that things sorted by size make shares of like size."""
        return list(things[self.rank :: self.count])

    def gather(self, thing: T) -> list[T]:
        """What each process brings, in their order, for all processes."""
        if self.count == 1:
            return [thing]
        from torch import distributed

        gathered: list[Any] = [None] * self.count
        distributed.all_gather_object(gathered, thing)
        return gathered

    def any(self, wish: bool) -> bool:
        """Whether one of all processes wishes it."""
        return any(self.gather(wish))

    def count_up(self, sums: Mapping[str, float]) -> Counter[str]:
        """Sums by name, over all processes; a process may know none of them."""
        total: Counter[str] = Counter()
        for of_process in self.gather(dict(sums)):
            total.update(of_process)
        return total

    def add_up(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all processes, in place; shapes are the same in all.

        Where each has filled its own places and left 0 in the others', that puts the parts together exactly.
        """
        if self.count > 1 and tensor.numel():
            from torch import distributed

            distributed.all_reduce(tensor)
        return tensor

    def compute(self, items: Sequence[T], function: Callable[[list[T]], Iterable[float]]) -> Tensor:
        """(B,) a number for each of B items, each computed by one of all processes."""
        import torch

        own = self.deal(range(len(items)))
        values = torch.zeros(len(items))
        if own:
            values[own] = torch.tensor(list(function([items[place] for place in own])), dtype=values.dtype)
        return self.add_up(values)

    def add_up_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Give every parameter the sum of its gradients over all processes; one that no process has stays None."""
        if self.count == 1:
            return
        import torch

        held = torch.tensor([float(one.grad is not None) for one in parameters], device=parameters[0].device)
        taught = [one for one, count in zip(parameters, self.add_up(held).tolist(), strict=True) if count]
        for bucket in _buckets(taught):
            for one in bucket:
                one.grad = torch.zeros_like(one) if one.grad is None else one.grad
            gradients = [one.grad for one in bucket if one.grad is not None]
            total = self.add_up(torch.cat([gradient.flatten() for gradient in gradients]))
            for gradient, part in zip(gradients, total.split([one.numel() for one in bucket]), strict=True):
                gradient.copy_(part.view_as(gradient))


ALONE = Processes()


def launched() -> bool:
    """Whether a launcher has started several processes; it says so in the environment."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def meet(device: str) -> Processes:
    """The processes that a launcher has started with this one; where none has, this one is alone.

    device: as the setting of that name. The launcher says in the environment how many there are and where they
    meet; torch reads it there (docs.pytorch.org, distributed, "Environment variable initialization").
    """
    if not launched():
        return ALONE
    import torch
    from torch import distributed

    if device != "cpu" and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group(timeout=PATIENCE)  # tensors of a CPU travel by gloo, those of GPUs by NCCL
    return Processes(distributed.get_rank(), distributed.get_world_size())


def leave(processes: Processes) -> None:
    """Close what `meet` opened, once all processes are done: a launcher ends the others when one of them fails."""
    if processes.count > 1:
        from torch import distributed

        distributed.barrier()
        distributed.destroy_process_group()


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Parameters in their order, as many as travel at once."""
    bucket: list[nn.Parameter] = []
    for one in parameters:
        if bucket and sum(other.numel() for other in bucket) + one.numel() > BUCKET_ELEMENTS:
            yield bucket
            bucket = []
        bucket.append(one)
    if bucket:
        yield bucket
