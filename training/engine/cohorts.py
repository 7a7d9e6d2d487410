"""A key-value cache in which the answers of a batch begin and end each in its own time.

Answers that began at one step are a cohort, with buffers of its own. A step of a model takes the answers of all cohorts at
once; attention, which has to read every key and value and spends its time on that, takes a cohort after the other and reads
no further back than its longest answer goes, or, where a step is recorded, than its buffer does.
"""

from collections.abc import Callable
from itertools import count
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward

ATTENTION = {"full_attention", "sliding_attention"}  # kinds of layers that keep keys and values alone
# Columns that buffers have beyond those in use. Attention reads a buffer that is nearly full much faster than a
# window of a large one; moving once in so many steps costs little.
MARGIN = 16
STILL_MARGIN = 128  # the same where moving means that a step is recorded anew


def make_cache(
    model: PreTrainedModel, slots: int, most: int, takes_steps: bool, is_still: bool
) -> "Cohorts | Growing":
    """A cache for so many answers, of so many tokens at most, that suits a model.

    `takes_steps`: as `packing.take_steps` found; `is_still`: the steps will be recorded, if they can be.
    """
    kinds = getattr(model.config.get_text_config(), "layer_types", None) or ATTENTION
    if set(kinds) <= ATTENTION:
        return Cohorts(model, slots, most, takes_steps, is_still and takes_steps)
    return Growing(model, slots)


def still_cohorts(cache: "Cohorts | Growing") -> TypeGuard["Cohorts"]:
    """Whether a step of this cache can be recorded."""
    return isinstance(cache, Cohorts) and cache.is_still


class Cohort:
    """Keys and values of answers that began together: (A, heads, columns, size) of each layer.

    All write the same column, so that a step is one copy; an answer whose prompt is shorter begins further right, and the
    mask hides what is left of it.
    """

    margin = MARGIN

    def __init__(self, prefilled: Cache, sources: list[int], lengths: list[int], most: int) -> None:
        """As `Cohorts.admit` takes them; `most`: tokens that an answer may have."""
        self.column = max(lengths)  # the next one to be written
        self._room = min(self.margin, most)
        # Under autocast values are in half precision, and keys, once rotated, are not; attention brings them to it.
        self._buffers = [
            [self._widened(one[sources].to(layer.values.dtype)) for one in (layer.keys, layer.values)]
            for layer in prefilled.layers
        ]
        self._begin_at(self.column - torch.tensor(lengths))

    @property
    def columns(self) -> int:
        """That its buffers have."""
        return self._buffers[0][0].shape[2]

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """A step's column of every answer: (A, heads, 1, size)."""
        for buffer, column in zip(self._buffers[layer], (keys, values), strict=True):
            buffer[: self.active, :, self.column] = column[:, :, 0]

    def window(self, layer: int, most: int | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys and values (A, heads, W, size) up to the column of this step, at most so many, and what hides some:
        (A, 1, 1, W), to be added to scores, or None.
        """
        first = max(self.first, self.column + 1 - most) if most else self.first
        columns = slice(first, self.column + 1)
        keys, values = (buffer[: self.active, :, columns] for buffer in self._buffers[layer])
        return keys, values, None if self._hidden is None else self._hidden[..., columns]

    def keep(self, going: list[int]) -> list[int]:
        """Let the other answers go; the last ones fill the gaps. Returns which answer each row holds now."""
        order = list(range(len(going)))
        gaps = sorted(set(order) - set(going))
        movers = [row for row in going if row >= len(going)]
        for gap, mover in zip(gaps, movers, strict=True):
            order[gap] = mover
        columns = slice(self.first, self.column)
        for buffer in (one for both in self._buffers for one in both) if gaps else ():
            buffer[gaps, :, columns] = buffer[movers, :, columns]
        self._begin_at(self._begins[order])
        return order

    def advance(self) -> None:
        """Every layer has written its column of this step; have a next one, in wider buffers if need be."""
        self.column += 1
        if self.column == self.columns:
            self._move()

    def _move(self) -> None:
        rows, columns = slice(self.active), slice(self.first, self.column)
        self._replace(lambda buffer: self._widened(buffer[rows, :, columns]))
        self.column -= self.first
        self._begin_at(self._begins - self.first)

    def _replace(self, anew: Callable[[Tensor], Tensor]) -> None:
        for both in self._buffers:  # one after another, since two of all would be much memory
            for place, buffer in enumerate(both):
                both[place] = anew(buffer)

    def _widened(self, columns: Tensor) -> Tensor:
        """(A, heads, T, size) with a margin of columns behind."""
        # Zeros, since a hidden column still enters a product, where 0 times what memory held may be NaN.
        return functional.pad(columns, (0, 0, 0, self._room))

    def _begin_at(self, begins: Tensor) -> None:
        """(A,) the first column of each answer."""
        self._begins = begins
        self.active = len(begins)
        self.first = int(begins.min()) if self.active else self.column
        self._hidden: Tensor | None = None
        if (begins != self.first).any():
            self._hidden = self._hiding(torch.arange(self.columns) < begins[:, None])

    def _hiding(self, places: Tensor) -> Tensor:
        """(A, columns) bool to what hides these: (A, 1, 1, columns), to be added to scores."""
        keys = self._buffers[0][0]
        hidden = torch.zeros(places.shape, dtype=keys.dtype).masked_fill_(places, -torch.inf)
        return hidden[:, None, None].to(keys.device)


class StillCohort(Cohort):
    """A cohort whose shapes and memory stay as they are between two moves, so that a step can be recorded: which column
    is written, and what is hidden, is in tensors.
    """

    margin = STILL_MARGIN
    _versions = count()

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """A step's column of every answer: (A, heads, 1, size)."""
        for buffer, column in zip(self._buffers[layer], (keys, values), strict=True):
            buffer.index_copy_(2, self._at, column.to(buffer.dtype))

    def window(self, layer: int, most: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """All columns, and what hides those that hold nothing of an answer, or too old a token."""
        hidden = self._hidden
        if most:
            hidden = hidden.masked_fill(self._numbers <= self._at - most, -torch.inf)
        return *self._buffers[layer], hidden

    def keep(self, going: list[int]) -> list[int]:
        """Let the other answers go."""
        if len(going) < self.active:
            self._replace(lambda buffer: buffer[going])
            self._begin_at(self._begins[going])
        return going

    def advance(self) -> None:
        """Have a next column, in wider buffers if need be."""
        self.column += 1
        if self.column == self.columns:
            self._move()
        else:
            self._at += 1
            self._hidden[..., self.column] = 0

    def _begin_at(self, begins: Tensor) -> None:
        self._begins, self.active = begins, len(begins)
        self.first = int(begins.min()) if self.active else self.column
        numbers = torch.arange(self.columns)
        self._hidden = self._hiding((numbers < begins[:, None]) | (numbers > self.column))
        self._numbers = numbers.to(self._hidden.device)
        self._at = torch.tensor([self.column], device=self._hidden.device)
        self.version = next(self._versions)


class Cohorts(Cache):
    """The answers in progress, in the order of their cohorts.

    Where attention does not take steps there is one cohort at a time: new answers begin when all have ended.
    """

    mixes_lengths = True  # Prompts of several lengths may be read together.

    def __init__(
        self, model: PreTrainedModel, slots: int, most: int, takes_steps: bool, is_still: bool = False
    ) -> None:
        super().__init__(layers=[])
        self.slots, self._most = slots, most
        self.is_still = is_still
        self.cohorts: list[Cohort] = []
        self._step = torch.zeros((1, 1, 1, 1), device=model.device).as_subclass(Step) if takes_steps else None
        if self._step is not None:
            self._step.cohorts = self
        self._layer = 0  # whose keys and values were written last

    @property
    def active(self) -> int:
        """Answers in progress."""
        return sum(cohort.active for cohort in self.cohorts)

    @property
    def free(self) -> int:
        """Slots that a new answer may take."""
        return 0 if self.cohorts and self._step is None else self.slots - self.active

    @property
    def memory(self) -> tuple[int, ...]:
        """Another one whenever a step writes and reads elsewhere than the last one did, where cohorts are still."""
        return tuple(cohort.version for cohort in self.cohorts if isinstance(cohort, StillCohort))

    def mask(self) -> Tensor | None:
        """Of a step: these cohorts, for an attention that takes them; else (A, W): 1 where a column, the one to be
        written among them, holds the answer's own tokens, and None where all of them do.
        """
        if self._step is not None:
            return self._step
        [cohort] = self.cohorts
        hidden = cohort.window(0)[2]
        return None if hidden is None else (hidden[:, 0, 0] == 0).long()

    def for_prefill(self) -> DynamicCache:
        """An empty cache for reading prompts."""
        return DynamicCache()

    def admit(self, prefilled: Cache, sources: list[int], lengths: list[int]) -> None:
        """Take answers in behind the others: answer i goes on from row `sources[i]` of what was prefilled.

        Prefilled rows have their padding on the left; `lengths` are their prompts, in tokens, one for each answer.
        """
        self.layers = self.layers or [Layer(self, number) for number in range(len(prefilled.layers))]
        kind = StillCohort if self.is_still else Cohort
        self.cohorts.append(kind(prefilled, sources, lengths, self._most))

    def keep(self, going: list[int]) -> list[int]:
        """Let the other answers go; returns which answer each place holds now."""
        order, begin = [], 0
        for cohort in self.cohorts:
            end = begin + cohort.active
            order += [
                begin + row for row in cohort.keep([row - begin for row in going if begin <= row < end])
            ]
            begin = end
        self.cohorts = [cohort for cohort in self.cohorts if cohort.active]
        return order

    def advance(self) -> None:
        """Every layer has written its column of this step."""
        for cohort in self.cohorts:
            cohort.advance()

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """A step's column of every answer, (A, heads, 1, size); returns what attention is to look at."""
        self._layer = layer
        sizes = [cohort.active for cohort in self.cohorts]
        for cohort, *own in zip(self.cohorts, keys.split(sizes), values.split(sizes), strict=True):
            cohort.write(layer, *own)
        return self.cohorts[0].window(layer)[:2] if self._step is None else (keys, values)

    def attend(self, module: nn.Module, query: Tensor, options: dict[str, Any]) -> Tensor:
        """(A, heads, 1, size) of the layer that wrote last, to (A, 1, heads, size)."""
        window = options.get("sliding_window")
        queries = query.split([cohort.active for cohort in self.cohorts])
        seen = [
            sdpa_attention_forward(module, own, *cohort.window(self._layer, window), **options)[0]
            for cohort, own in zip(self.cohorts, queries, strict=True)
        ]
        return seen[0] if len(seen) == 1 else torch.cat(seen)


class Step(Tensor):
    """What stands in a model's attention mask while it samples, and leads its attention to the cohorts."""

    cohorts: Cohorts


class Layer(CacheLayerMixin):
    """One layer's part of the cohorts, as transformers' attention asks for it."""

    is_sliding = False  # Nothing is thrown away: attention looks at a window, or the mask makes one.

    def __init__(self, cohorts: Cohorts, number: int) -> None:
        super().__init__()
        self._cohorts, self._number = cohorts, number
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing: the buffers are there."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write a step's column of every answer, (A, heads, 1, size)."""
        return self._cohorts.write(self._number, key_states, value_states)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Columns that a step looks at, and the first one's number."""
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        """Columns in use before the step."""
        return max(cohort.column - cohort.first for cohort in self._cohorts.cohorts)

    def get_max_length(self) -> int:
        """Columns that there are."""
        return max(cohort.columns for cohort in self._cohorts.cohorts)


class Growing(Cache):
    """Where some layers keep something else than keys and values: transformers' own cache, which is copied at
    every step, and which takes new answers in only when all have ended.
    """

    mixes_lengths = False  # Some such layers would take padding for tokens.

    def __init__(self, model: PreTrainedModel, slots: int) -> None:
        super().__init__(layers=[])
        self._config = model.config
        self.slots = slots
        self.active = 0

    @property
    def free(self) -> int:
        """None while any answer is in progress."""
        return 0 if self.active else self.slots

    def mask(self) -> None:
        """Nothing is hidden."""

    def for_prefill(self) -> DynamicCache:
        """What a model of this kind needs."""
        return DynamicCache(config=self._config)

    def admit(self, prefilled: Cache, sources: list[int], lengths: list[int]) -> None:
        """Take over what was prefilled, of prompts of one length."""
        self.layers = prefilled.layers
        self.reorder_cache(torch.tensor(sources))
        self.active = len(lengths)

    def keep(self, going: list[int]) -> list[int]:
        """Let the other answers go."""
        self.reorder_cache(torch.tensor(going, dtype=torch.long))
        self.active = len(going)
        return going

    def advance(self) -> None:
        """The layers make their own room."""
