"""A key-value cache in which the answers of a batch begin and end each in its own time."""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache

ATTENTION = {"full_attention", "sliding_attention"}  # kinds of layers that keep keys and values alone
# Columns that buffers have beyond those in use. Attention reads memory most of its time, and reads a buffer
# that is nearly full much faster than a window of a large one; moving once in so many steps costs little.
MARGIN = 16


def make_slots(model: PreTrainedModel, slots: int, longest_prompt: int) -> "Slots":
    """A cache that suits a model."""
    kinds = getattr(model.config.get_text_config(), "layer_types", None) or ATTENTION
    return (Slots if set(kinds) <= ATTENTION else Growing)(model, slots, longest_prompt)


class Slots(Cache):
    """Keys and values of the answers in progress: slot a holds answer a, and no slot between two is empty.

    All answers write the same column, so that a step is one copy; an answer whose prompt is shorter, or which
    came later, begins further right, and the mask hides what is left of it.
    """

    mixes_lengths = True  # Prompts of several lengths may be read together.

    def __init__(self, model: PreTrainedModel, slots: int, longest_prompt: int) -> None:
        super().__init__(layers=[])
        self._model = model
        self.slots = slots
        self.active = 0
        self.closed = False  # No more answers will come.
        self.column = self._longest = longest_prompt  # the next column to be written
        self.columns = longest_prompt + MARGIN
        self._begins = torch.zeros(0, dtype=torch.long)  # (A,) of each answer, the column of its first token
        self.first = longest_prompt  # the first column that any answer looks at
        self._is_even = True  # All look at the same columns.

    @property
    def free(self) -> int:
        """Slots that a new answer may take."""
        return self.slots - self.active

    def mask(self) -> Tensor | None:
        """(A, W) of a step: 1 where a column, the one to be written among them, holds the answer's own tokens.

        None where all of them do.
        """
        if self._is_even:
            return None
        columns = torch.arange(self.first, self.column + 1, device=self._model.device)
        return (columns >= self._begins_there[:, None]).long()

    def for_prefill(self) -> DynamicCache:
        """An empty cache for reading prompts."""
        return DynamicCache()

    def admit(self, prefilled: Cache, sources: list[int], lengths: list[int]) -> None:
        """Take answers in behind the others: answer i goes on from row `sources[i]` of what was prefilled.

        Prefilled rows have their padding on the left; `lengths` are their prompts, in tokens, one for each answer.
        """
        if not self.layers:
            self.layers = [Layer(self, layer.keys, layer.values) for layer in prefilled.layers]
        rows = slice(self.active, self.active + len(sources))
        columns = slice(self.column - max(lengths), self.column)
        for own, layer in zip(self.layers, prefilled.layers, strict=True):
            own.keys[rows, :, columns] = layer.keys[sources]
            own.values[rows, :, columns] = layer.values[sources]
        self._begin_at(torch.cat([self._begins, self.column - torch.tensor(lengths)]))

    def keep(self, going: list[int]) -> list[int]:
        """Let the other answers go; the last ones fill the gaps. Returns which answer each slot holds now."""
        order = list(range(len(going)))
        gaps = sorted(set(order) - set(going))
        movers = [slot for slot in going if slot >= len(going)]
        for gap, mover in zip(gaps, movers, strict=True):
            order[gap] = mover
        for layer in self.layers if gaps else ():
            for cached in (layer.keys, layer.values):
                cached[gaps, :, self.first : self.column] = cached[movers, :, self.first : self.column]
        self._begin_at(self._begins[order])
        return order

    def _begin_at(self, begins: Tensor) -> None:
        """(A,) the first column of each answer."""
        self._begins = begins
        self._begins_there = begins.to(self._model.device)
        self.active = len(begins)
        self.first = int(begins.min()) if self.active else self.column
        self._is_even = bool((begins == self.first).all())

    def advance(self) -> None:
        """Every layer has written its column of this step; have a next one, in wider buffers if need be."""
        self.column += 1
        if self.column < self.columns:
            return
        first, end = self.first, self.column
        self.column = max(end - first, self._longest)
        self.columns = self.column + MARGIN
        for layer in self.layers:
            layer.move(slice(first, end))
        self._begin_at(self._begins - end + self.column)


class Layer(CacheLayerMixin):
    """One layer's part of the slots, as transformers' attention asks for it."""

    is_sliding = False  # Nothing is thrown away: the mask alone makes a window.

    def __init__(self, slots: Slots, keys: Tensor, values: Tensor) -> None:
        """`keys` and `values` (B, heads, T, size) are of a prefill, and say how large the buffers are to be."""
        super().__init__()
        self._slots = slots
        self.keys, self.values = self._buffer(keys), self._buffer(values)
        self.is_initialized = True

    def move(self, window: slice) -> None:
        """Bring a window of the old buffers, up to the next column, into new ones."""
        slots = self._slots
        rows, place = slice(slots.active), slice(slots.column - (window.stop - window.start), slots.column)
        keys, values = self.keys, self.values
        self.keys, self.values = self._buffer(keys), self._buffer(values)
        self.keys[rows, :, place] = keys[rows, :, window]
        self.values[rows, :, place] = values[rows, :, window]

    def _buffer(self, like: Tensor) -> Tensor:
        # Zeros, since a masked column still enters a product, where 0 times what memory held may be NaN.
        rows = self._slots.active if self._slots.closed else self._slots.slots
        return like.new_zeros((rows, like.shape[1], self._slots.columns, like.shape[3]))

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing: the buffers are there."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write a step's column of every answer, (A, heads, 1, size); returns the window (A, heads, W, size)."""
        active, column = self._slots.active, self._slots.column
        window = slice(self._slots.first, column + 1)
        self.keys[:active, :, column] = key_states[:, :, 0]
        self.values[:active, :, column] = value_states[:, :, 0]
        return self.keys[:active, :, window], self.values[:active, :, window]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Columns that a step looks at, and the first one's number."""
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        """Columns in use before the step."""
        return self._slots.column - self._slots.first

    def get_max_length(self) -> int:
        """Columns that there are."""
        return self._slots.columns


class Growing(Slots):
    """Where some layers keep something else than keys and values: transformers' own cache, which is copied at
    every step, and which takes new answers in only when all have ended.
    """

    mixes_lengths = False  # Some such layers would take padding for tokens.

    @property
    def free(self) -> int:
        """None while any answer is in progress."""
        return 0 if self.active else self.slots

    def for_prefill(self) -> DynamicCache:
        """What a model of this kind needs."""
        return DynamicCache(config=self._model.config)

    def admit(self, prefilled: Cache, sources: list[int], lengths: list[int]) -> None:
        """Take over what was prefilled, of prompts of one length."""
        self.layers = prefilled.layers
        self.reorder_cache(torch.tensor(sources))
        self.column = lengths[0]
        self._begin_at(torch.zeros(len(sources), dtype=torch.long))

    def keep(self, going: list[int]) -> list[int]:
        """Let the other answers go."""
        self.reorder_cache(torch.tensor(going, dtype=torch.long))
        self._begin_at(self._begins[going])
        return going

    def advance(self) -> None:
        """The layers make their own room."""
        self.column += 1
