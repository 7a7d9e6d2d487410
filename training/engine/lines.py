"""Rows of different lengths without padding: all their tokens on one line, on which attention keeps rows apart.

Everything in a model but attention looks at one token at a time, so a line of N tokens costs N tokens, whatever
the rows' lengths are. Rows that begin with the same prompt can share it: its tokens are on the line once, as a
stem, and the completions that branch off it look at it. Attention takes segments (stems, branches, whole rows) of
like length together, a part at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from training.engine.batches import Batch, Tokens, by_token_budget, longest_first, make_batch
from training.engine.cohorts import Step
from training.engine.runtime import Runtime

NAME = "ragged_sdpa"
LIKE = 0.8  # Segments that differ in length by no more than about such a share come side by side.
CALL = 4096  # places (token times token looked at) that attention computes in the time that a part takes by itself


@dataclass(frozen=True)
class Segment:
    """Tokens that lie side by side on the line; a branch goes on from where its stem ends."""

    tokens: list[int]
    begin: int  # place of its first token on the line
    stem: Segment | None = None

    @property
    def end(self) -> int:
        """The place after its last token."""
        return self.begin + len(self.tokens)


@dataclass(frozen=True)
class Part:
    """R segments of like length, T tokens at most, which look at S tokens at most."""

    queries: Tensor  # (R, T) places on the line; what a segment is too short for repeats its last place
    keys: Tensor  # (R, S), ending with the queries'
    real: Tensor  # (R, T) bool, the places that are a segment's own
    mask: Tensor | None  # (R, 1, T, S) bool, what looks at what; None where causality says it all


class Line(Tensor):
    """What stands in a model's attention mask, and hands the parts of the line down to its layers."""

    parts: tuple[Part, ...]
    queries: Tensor  # of all parts, one after the other: taken from the line at once
    keys: Tensor  # the same
    own: Tensor  # where among all parts' queries the tokens of the line are, in its order
    windows: set[int]  # that layers have asked for


def token_batches(rows: Sequence[Tokens], budget: int, runtime: Runtime) -> Iterator[tuple[list[int], Batch]]:
    """Row numbers with their batch, a forward pass each: this process's share of the rows, or all of them."""
    lengths = [row.length for row in rows]
    if runtime.lines:
        groups = _by_line_budget(rows, runtime.processes.deal(longest_first(lengths)), budget)
    else:
        groups = by_token_budget(lengths, budget, runtime.processes)
    for group in groups:
        yield group, lay_out([rows[row] for row in group], runtime)


def lay_out(rows: Sequence[Tokens], runtime: Runtime) -> Batch:
    """One pass over these rows, in the way that its models can read."""
    if runtime.lines:
        return make_line(rows, runtime.device, runtime.multiple)
    return make_batch(rows, runtime.device)


def _by_line_budget(rows: Sequence[Tokens], own: Sequence[int], budget: int) -> list[list[int]]:
    """Row numbers, those of one prompt together, in groups that hold at most `budget` tokens on a line.

    A row longer than the budget gets a group of its own.
    """
    of_prompt: dict[tuple[int, ...], list[int]] = {}
    for number in own:
        of_prompt.setdefault(tuple(rows[number].prompt), []).append(number)
    groups: list[list[int]] = []
    used = 0
    for numbers in of_prompt.values():
        for number in numbers:
            cost = rows[number].length if number == numbers[0] else len(rows[number].completion)
            if not groups or used + cost > budget:
                groups.append([])
                used, cost = 0, rows[number].length
            groups[-1].append(number)
            used += cost
    return groups


def make_line(rows: Sequence[Tokens], device: torch.device, multiple: int = 1) -> Batch:
    """Rows on one line, whose length is a multiple of that; those of one prompt share it."""
    of_prompt: dict[tuple[int, ...], list[int]] = {}
    for number, row in enumerate(rows):
        of_prompt.setdefault(tuple(row.prompt), []).append(number)
    # Of each row the segment that holds its completion.
    whole = [numbers[0] for numbers in of_prompt.values() if len(numbers) == 1]
    stems = [(rows[number].prompt + rows[number].completion, [number]) for number in whole]
    stems += [(list(prompt), numbers) for prompt, numbers in of_prompt.items() if len(numbers) > 1]
    segments: list[Segment] = []
    owners: dict[int, Segment] = {}
    end = 0
    branching: list[tuple[int, Segment]] = []
    for tokens, numbers in sorted(stems, key=lambda stem: -len(stem[0])):
        segments.append(Segment(tokens, end))
        end += len(tokens)
        if len(numbers) == 1:
            owners[numbers[0]] = segments[-1]
        else:
            branching += [(number, segments[-1]) for number in numbers]
    roots = len(segments)
    # Branches of like length after stems of like length: a part is as wide as its longest stem.
    branching.sort(
        key=lambda one: _steps(len(rows[one[0]].completion), len(rows[one[0]].prompt)), reverse=True
    )
    for number, stem in branching:
        owners[number] = Segment(rows[number].completion, end, stem)
        segments.append(owners[number])
        end = segments[-1].end
    parts = (*_parts(segments[:roots], device), *_parts(segments[roots:], device))
    line = torch.zeros((1, 1, 1, 1), device=device).as_subclass(Line)
    line.parts, line.windows = parts, set()
    line.queries, line.keys = (
        torch.cat([places.flatten() for places in kind])
        for kind in ([part.queries for part in parts], [part.keys for part in parts])
    )
    own = torch.cat([part.real.flatten() for part in parts]).nonzero().squeeze(1)
    fill = -end % multiple  # places behind the rows that look where the first token does; nobody reads them
    line.own = torch.cat([own, own[:1].expand(fill)])
    starts = [len(one.stem.tokens) if one.stem else 0 for one in segments]
    positions = [
        torch.arange(start, start + len(one.tokens)) for start, one in zip(starts, segments, strict=True)
    ]
    predicting, last = [], []
    for number, row in enumerate(rows):
        owner = owners[number]
        begin = owner.end - len(row.completion)
        first = owner.stem.end - 1 if owner.stem else begin - 1
        predicting += [torch.tensor([first]), torch.arange(begin, owner.end - 1)]
        last.append(owner.end - 1)
    return Batch(
        ids=torch.tensor([[token for one in segments for token in one.tokens] + [0] * fill], device=device),
        positions=torch.cat([*positions, torch.zeros(fill, dtype=torch.long)])[None].to(device),
        mask=line,
        predicting=torch.cat(predicting).to(device),
        targets=torch.tensor([token for row in rows for token in row.completion], device=device),
        last=torch.tensor(last, device=device),
        lengths=[len(row.completion) for row in rows],
    )


def _steps(*lengths: int) -> tuple[int, ...]:
    """Lengths on a scale on which a step is a share of `LIKE`."""
    return tuple(round(math.log(length) / -math.log(LIKE)) for length in lengths)


def _parts(segments: Sequence[Segment], device: torch.device) -> list[Part]:
    """Segments side by side in parts: of like length, but no part that would cost more than padding does."""
    runs: list[list[Segment]] = []
    for _, run in groupby(segments, lambda one: _steps(*_extent([one]))):
        runs.append(list(run))
        while len(runs) > 1 and _cost(runs[-2] + runs[-1]) <= _cost(runs[-2]) + _cost(runs[-1]):
            last = runs.pop()
            runs[-1] += last
    return [_part(run, device) for run in runs]


def _extent(run: Sequence[Segment]) -> tuple[int, int]:
    """Tokens of the longest segment, and of the longest stem; 1 where there is none."""
    return max(len(one.tokens) for one in run), max(len(one.stem.tokens) if one.stem else 1 for one in run)


def _cost(run: Sequence[Segment]) -> int:
    """Places that one part of these computes, its own price included."""
    tokens, stem = _extent(run)
    return CALL + len(run) * tokens * (tokens + stem)


def _part(run: Sequence[Segment], device: torch.device) -> Part:
    longest = max(len(one.tokens) for one in run)
    lengths = torch.tensor([len(one.tokens) for one in run])[:, None]
    begins = torch.tensor([one.begin for one in run])[:, None]
    steps = torch.arange(longest)[None]
    queries = begins + torch.minimum(steps, lengths - 1)
    real = steps < lengths
    keys, mask = queries, None
    stems = torch.tensor([[one.stem.end, len(one.stem.tokens)] for one in run if one.stem])
    if len(stems):
        # A stem's keys end where its branch's begin, so that one triangle suits branches of any stem.
        room = int(stems[:, 1].max())
        before = torch.arange(-room, 0)[None]
        keys = torch.cat([(stems[:, :1] + before).clamp(min=0), queries], dim=1)
        seen = torch.cat([before >= -stems[:, 1:], torch.ones_like(queries, dtype=torch.bool)], dim=1)
        causal = torch.ones(longest, room + longest, dtype=torch.bool).tril(room)
        mask = (causal & seen[:, None]).unsqueeze(1).to(device)
    return Part(queries.to(device), keys.to(device), real.to(device), mask)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """transformers' attention, (B, heads, N, size) to (B, N, heads, size); on a line of each part by itself, in a step of
    sampling of each cohort.
    """
    if isinstance(attention_mask, Step):
        return attention_mask.cohorts.attend(module, query, options), None
    if query.device.type == "cpu" and value.dtype != torch.float32:
        # In half precision torch's attention takes five times as long on a processor in the backward pass.
        wide = (one.float() for one in (query, key, value))
        with torch.autocast("cpu", enabled=False):
            seen, _ = attend(module, *wide, attention_mask, **options)
        return seen.to(value.dtype), None
    if not isinstance(attention_mask, Line):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    line = attention_mask
    if window := options.get("sliding_window"):
        line.windows.add(window)
    taken = (
        one[0].transpose(0, 1).index_select(0, places)  # (places, heads, size)
        for one, places in ((query, line.queries), (key, line.keys), (value, line.keys))
    )
    sizes = [(part.queries.numel(), part.keys.numel(), part.keys.numel()) for part in line.parts]
    pieces = (one.split(of_parts) for one, of_parts in zip(taken, zip(*sizes, strict=True), strict=True))
    seen = [
        _attend_part(module, part, of_part, options)
        for part, *of_part in zip(line.parts, *pieces, strict=True)
    ]
    return torch.cat(seen).index_select(0, line.own)[None], None


def _attend_part(module: nn.Module, part: Part, taken: Sequence[Tensor], options: dict[str, Any]) -> Tensor:
    """(R * T, heads, size) of a part's queries; taken: its queries, keys and values, (places, heads, size)."""
    rows = len(part.queries)
    padded = [one.unflatten(0, (rows, -1)).transpose(1, 2) for one in taken]
    mask = part.mask
    if (window := options.get("sliding_window")) and window < part.keys.shape[1]:
        mask = _within(window, part)
    seen, _ = sdpa_attention_forward(module, *padded, mask, **options)
    return seen.flatten(0, 1)


def _within(window: int, part: Part) -> Tensor:
    """The part's mask, with nothing seen that lies `window` tokens back or more."""
    queries, keys = part.queries.shape[1], part.keys.shape[1]
    near = torch.ones(queries, keys, dtype=torch.bool, device=part.queries.device)
    near = near.tril(keys - queries).triu(keys - queries - window + 1)
    return near[None, None] if part.mask is None else near & part.mask


ALL_ATTENTION_FUNCTIONS.register(NAME, attend)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
