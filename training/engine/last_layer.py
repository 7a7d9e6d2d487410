"""The last layer at the places that are read, and nowhere else.

Of what a reward model computes one state a row is read, the last; of a policy, those of the completion. All
layers before the last have to know every token, since later ones look at it. In the last, keys and values do;
its queries, its feed-forward network and what stands behind attention work for nobody at other places. That is a fifth
of a reward model with four layers, a thirtieth with twenty-eight.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

NETWORKS = ("mlp", "feed_forward")  # of a layer
# Of its attention; keys and values are not among them.
PROJECTIONS = ("q_proj", "o_proj", "out_proj", "c_proj", "dense")
ENOUGH = 0.9  # Where more of the places are read, leaving out the others is not worth the copies.

_read: ContextVar[Tensor | None] = ContextVar("places that are read", default=None)


@contextmanager
def reading(places: Tensor, count: int, multiple: int = 1) -> Iterator[None]:
    """Passes herein need states at these of `count` places alone; places (P,), of the flattened batch.

    So many others are computed that their number is a multiple of that.
    """
    few = None
    if len(places) < ENOUGH * count:
        is_read = torch.zeros(count, dtype=torch.bool, device=places.device)
        is_read[places] = True  # A prompt's end may be several rows' place.
        if fill := -int(is_read.sum()) % multiple:
            is_read[(~is_read).nonzero()[:fill]] = True
        few = is_read.nonzero().squeeze(1)
    token = _read.set(few)
    try:
        yield
    finally:
        _read.reset(token)


def narrow(trunk: nn.Module) -> list[nn.Module]:
    """Let what works place by place in the last layer heed `reading`; returns these modules."""
    lists = [child for child in trunk.children() if isinstance(child, nn.ModuleList)]
    layers = max(lists, key=len, default=None)
    narrowed = list(_placewise(layers[-1])) if layers else []
    for module in narrowed:
        module.forward = MethodType(_at_read_places, module)
    return narrowed


def widen(narrowed: list[nn.Module]) -> None:
    """Undo it."""
    for module in narrowed:
        vars(module).pop("forward", None)


def _placewise(layer: nn.Module) -> Iterator[nn.Module]:
    for name, child in layer.named_children():
        if name in NETWORKS:
            yield child
        elif "attn" in name or "attention" in name:
            yield from (part for own, part in child.named_children() if own in PROJECTIONS)


def _at_read_places(self: nn.Module, states: Tensor, *others: Any, **named: Any) -> Any:
    """What the module gives for the places that are read, (..., d); zeros at others."""
    usual, places = type(self).forward, _read.get()
    if places is None:
        return usual(self, states, *others, **named)
    seen = usual(self, states.flatten(0, -2).index_select(0, places).unsqueeze(0), *others, **named)
    wide = seen.new_zeros(states.shape[:-1].numel(), seen.shape[-1])
    return wide.index_copy(0, places, seen.squeeze(0)).unflatten(0, states.shape[:-1])
