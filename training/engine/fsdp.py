"""Fully sharded data parallelism: each process keeps a part of every weight, gradient and moment of Adam, and
gathers a layer's weights while it computes with them. torch's own `fully_shard` does it; docs/processes.md.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from training.engine.processes import Processes


class Spread:
    """A model whose trunk is spread over all processes, until it is wanted whole again."""

    def __init__(self, model: PreTrainedModel, processes: Processes) -> None:
        self.model = model
        # Its modules without their weights: what `fully_shard` does to a module cannot be undone.
        self._shell = copy.deepcopy(model, {id(one): _without_data(one) for one in model.parameters()})
        trunk = model.base_model
        mesh = init_device_mesh(next(trunk.parameters()).device.type, (processes.count,))
        layers = set(model._no_split_modules or ())
        for module in [one for one in trunk.modules() if type(one).__name__ in layers]:
            fully_shard(module, mesh=mesh)
        fully_shard(trunk, mesh=mesh)
        for module in trunk.modules():
            if isinstance(module, FSDPModule):
                # Losses are divided by what all processes have, so gradients are summed; gloo cannot average.
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)

    def whole(self) -> PreTrainedModel:
        """The model as it was made, with the weights of now, on every process."""
        weights = {name: whole(one.detach()) for name, one in self.model.named_parameters()}
        self._shell.load_state_dict(weights, strict=False, assign=True)
        return self._shell


def whole(tensor: Tensor) -> Tensor:
    """What all processes hold of it, in one. All processes must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(value: Any, keep: bool) -> Any:
    """Whole tensors in main memory, also within dicts and lists, or None for a process that does not keep them.

    One after another, so that the device holds one whole tensor at a time. All processes must call it.
    """
    if isinstance(value, Tensor):
        one = whole(value)
        return one.detach().cpu() if keep else None
    if isinstance(value, Mapping):
        return {name: gathered(one, keep) for name, one in value.items()}
    return [gathered(one, keep) for one in value] if isinstance(value, list) else value


def like(value: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor, spread as the parameter is, where it has the parameter's shape."""
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)


def clip_gradients(parameters: Sequence[nn.Parameter], limit: float, processes: Processes) -> float:
    """As torch's `clip_grad_norm_`, where some gradients are spread and others whole; returns the norm before."""
    gradients = [one.grad for one in parameters if one.grad is not None]
    parts = [one.to_local() for one in gradients if isinstance(one, DTensor)]
    others = [one for one in gradients if not isinstance(one, DTensor)]
    squares = processes.add_up(torch.tensor([_squares(parts)], dtype=torch.float64)).item()
    norm = math.sqrt(squares + _squares(others))
    if math.isfinite(norm):
        for gradient in (*parts, *others):
            gradient.mul_(min(1.0, limit / (norm + 1e-6)))
    return norm


def _squares(gradients: Sequence[Tensor]) -> float:
    return sum(float(one.double().pow(2).sum()) for one in gradients)


def _without_data(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=parameter.requires_grad)
