"""Weights in half precision while answers are sampled.

A step of sampling reads every weight and computes little, and autocast would bring each weight to half precision again at
every step: on a GPU that costs more than the step, on a processor as much as the step saves.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional

from training.engine.runtime import HALF_MULTIPLE

STEP_MULTIPLE = (
    16  # Rows of a step: fewer than those of a pass, whose multiple would double a small batch's work.
)


@contextmanager
def linear_weights_in(dtype: torch.dtype, model: nn.Module) -> Iterator[None]:
    """Let the model's linear layers have weights of this dtype: what autocast would make of them at every call."""
    layers = [
        (layer, layer.weight)
        for layer in model.modules()
        if isinstance(layer, nn.Linear) and layer.weight.dtype != dtype
    ]
    cast = {  # Tied weights are one.
        id(weight): nn.Parameter(weight.detach().to(dtype), requires_grad=False) for _, weight in layers
    }
    for layer, weight in layers:
        layer.weight = cast[id(weight)]
    try:
        yield
    finally:
        for layer, weight in layers:
            layer.weight = weight


@contextmanager
def linear_products_in(dtype: torch.dtype, model: nn.Module) -> Iterator[None]:
    """Let linear layers multiply in this dtype, and take and give float32: for a processor, on which all else in half
    precision, attention above all, is slower than in float32. What is spread over processes stays as it is.
    """
    layers = [
        layer
        for layer in model.modules()
        if type(layer) is nn.Linear and "forward" not in vars(layer) and not isinstance(layer.weight, DTensor)
    ]
    with linear_weights_in(dtype, nn.ModuleList(layers)):
        for layer in layers:
            layer.forward = MethodType(_multiply, layer)
        try:
            yield
        finally:
            for layer in layers:
                del layer.forward


def _multiply(layer: nn.Linear, states: Tensor) -> Tensor:
    """(..., d) to (..., e) in float32, the product itself in the dtype of the layer's weight."""
    rows = states.reshape(-1, states.shape[-1])
    count, dtype = len(rows), layer.weight.dtype
    # As `Runtime.multiple`: the processor compiles a product anew for each number of rows.
    fill = -count % (STEP_MULTIPLE if count <= HALF_MULTIPLE else HALF_MULTIPLE)
    half = functional.pad(rows.to(dtype), (0, 0, 0, fill)) if fill else rows.to(dtype)
    bias = None if layer.bias is None else layer.bias.to(dtype)
    return functional.linear(half, layer.weight, bias)[:count].float().view(*states.shape[:-1], -1)
