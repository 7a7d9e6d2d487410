"""Text to token ids, and ids to batches. Masks are made from lengths, never by looking for a pad id."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from training.engine.config import EngineError, Settings
from training.engine.events import EventLog
from training.engine.processes import ALONE, Processes
from training.engine.records import plain_prompt

if TYPE_CHECKING:
    from training.engine.runtime import Runtime


class Tokens(NamedTuple):
    """A prompt and a completion as ids. Neither holds padding."""

    prompt: list[int]
    completion: list[int]

    @property
    def length(self) -> int:
        """Tokens in all."""
        return len(self.prompt) + len(self.completion)


@dataclass(frozen=True)
class Batch:
    """B sequences side by side. N is the number of their completion tokens, over all rows.

    Whatever is said of tokens (log-probabilities, values, rewards) is a flat (N,) tensor in row order, so
    that padding can enter no mean and no loss, and so that rows may be laid out in another way: packed, L
    lines of T places hold several sequences each, and (B, T) below reads (L, T).
    """

    ids: Tensor  # (B, T)
    positions: Tensor  # (B, T): 0 at each row's first real token
    # (B, T), keeps real tokens; None where causality alone hides the padding; packed, (L, 1, T, T) bool: which
    # place (of the last dimension) a place may look at.
    mask: Tensor | None
    predicting: Tensor  # (N,) places in the flattened (B * T) from which a completion token is predicted
    targets: Tensor  # (N,) those completion tokens
    last: Tensor  # (B,) places of each row's last real token
    lengths: list[int]  # B completion lengths, in tokens; their sum is N


def make_batch(rows: Sequence[Tokens], device: torch.device, fill: int = 0, left: bool = False) -> Batch:
    """Lay rows out as one rectangle, padded with any id (`fill`) on the right, or on the left.

    On the right no mask is needed: causal attention never looks ahead, so no real token sees padding.
    """
    width = max(row.length for row in rows)
    ids = torch.full((len(rows), width), fill, dtype=torch.long)
    positions = torch.arange(width).repeat(len(rows), 1)
    mask = torch.ones((len(rows), width), dtype=torch.long) if left else None
    predicting, last = [], []
    for number, row in enumerate(rows):
        start = width - row.length if left else 0
        ids[number, start : start + row.length] = torch.tensor(row.prompt + row.completion)
        if mask is not None:
            mask[number, :start] = 0
            positions[number] = (positions[number] - start).clamp(min=0)
        first = number * width + start + len(row.prompt) - 1
        predicting.append(torch.arange(first, first + len(row.completion)))
        last.append(number * width + start + row.length - 1)
    return Batch(
        ids=ids.to(device),
        positions=positions.to(device),
        mask=None if mask is None else mask.to(device),
        predicting=torch.cat(predicting).to(device),
        targets=torch.tensor([token for row in rows for token in row.completion], device=device),
        last=torch.tensor(last, device=device),
        lengths=[len(row.completion) for row in rows],
    )


def pack_batch(rows: Sequence[Tokens], device: torch.device, fill: int = 0, width: int = 0) -> Batch:
    """Lay rows end to end on lines of `width` places, or as wide as the longest row where that is more.

    Positions begin anew with each row, and the mask lets none see another: every token's log-probability is
    that of its row alone. What is left of a line is filled with any id at position 0 (a line may be longer than
    the model has positions), which sees only such filling: a place that saw nothing would be 0 / 0.
    """
    lines = fill_lines([row.length for row in rows], width)
    width = max(width, *(row.length for row in rows))
    ids = torch.full((len(lines), width), fill, dtype=torch.long)
    positions = torch.zeros((len(lines), width), dtype=torch.long)
    segments = torch.full((len(lines), width), -1, dtype=torch.long)
    begins = [0] * len(rows)  # places in the flattened (L * T)
    for line, numbers in enumerate(lines):
        start = 0
        for number in numbers:
            row, end = rows[number], start + rows[number].length
            ids[line, start:end] = torch.tensor(row.prompt + row.completion)
            positions[line, start:end] = torch.arange(row.length)
            segments[line, start:end] = number
            begins[number] = line * width + start
            start = end
    same = segments[:, None, :, None] == segments[:, None, None, :]
    firsts = [begin + len(row.prompt) - 1 for begin, row in zip(begins, rows, strict=True)]
    predicting = [
        torch.arange(first, first + len(row.completion)) for first, row in zip(firsts, rows, strict=True)
    ]
    last = [begin + row.length - 1 for begin, row in zip(begins, rows, strict=True)]
    return Batch(
        ids=ids.to(device),
        positions=positions.to(device),
        mask=same.tril().to(device),
        predicting=torch.cat(predicting).to(device),
        targets=torch.tensor([token for row in rows for token in row.completion], device=device),
        last=torch.tensor(last, device=device),
        lengths=[len(row.completion) for row in rows],
    )


def fill_lines(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Row numbers for each line of `width` places: the longest row first, each where it first fits.

    A row longer than that makes all lines as wide as itself.
    """
    width = max(width, *lengths)
    lines: list[list[int]] = []
    free: list[int] = []
    for row in longest_first(lengths):
        line = next((line for line, places in enumerate(free) if places >= lengths[row]), len(lines))
        if line == len(lines):
            lines.append([])
            free.append(width)
        lines[line].append(row)
        free[line] -= lengths[row]
    return lines


def by_token_budget(lengths: Sequence[int], budget: int, processes: Processes = ALONE) -> list[list[int]]:
    """Row numbers in groups of like length, each padded to no more than `budget` tokens.

    A row longer than the budget gets a group of its own. Of several processes each gets its share of the rows.
    """
    groups: list[list[int]] = []
    group: list[int] = []
    for row in processes.deal(longest_first(lengths)):
        if group and lengths[group[0]] * (len(group) + 1) > budget:
            groups.append(group)
            group = []
        group.append(row)
    return [*groups, group] if group else groups


def longest_first(lengths: Sequence[int]) -> list[int]:
    """Row numbers; of rows of one length the first comes first."""
    return sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))


def packed_batches(
    rows: Sequence[Tokens], budget: int, runtime: Runtime
) -> Iterator[tuple[list[int], Batch]]:
    """Row numbers with their packed batch, a forward pass each: this process's share of the rows.

    Lines half as wide again as the longest row were the fastest (docs/sft.md): shorter ones leave gaps, and
    attention pays for longer ones by their square.
    """
    lengths = [row.length for row in rows]
    width = max(max(lengths), min(max(lengths) * 3 // 2, budget))
    own = runtime.processes.deal(longest_first(lengths))
    lines = fill_lines([lengths[row] for row in own], width) if own else []
    for group in by_token_budget([width] * len(lines), budget):
        numbers = [own[place] for line in group for place in lines[line]]
        yield numbers, pack_batch([rows[row] for row in numbers], runtime.device, width=width)


def offsets(lengths: Sequence[int]) -> list[int]:
    """Where each row begins in a flat tensor of tokens, and, last, where that ends."""
    return [0, *accumulate(lengths)]


def gather_rows(flat: Tensor, lengths: Sequence[int], rows: Sequence[int]) -> Tensor:
    """The tokens of some rows, in the order asked for, out of a flat tensor of all rows' tokens."""
    begins = offsets(lengths)
    return torch.cat([flat[begins[row] : begins[row + 1]] for row in rows])


def row_sums(flat: Tensor, lengths: Sequence[int]) -> Tensor:
    """(N,) token figures to (B,) sums over each row."""
    rows = torch.repeat_interleave(
        torch.arange(len(lengths), device=flat.device), torch.tensor(lengths, device=flat.device)
    )
    return torch.zeros(len(lengths), dtype=flat.dtype, device=flat.device).index_add_(0, rows, flat)


def sums_to_go(flat: Tensor, lengths: Sequence[int]) -> Tensor:
    """(N,) token figures to (N,) sums from each token to the end of its row."""
    return torch.cat([row.flip(0).cumsum(0).flip(0) for row in flat.split(list(lengths))])


class Encoder:
    """Turns messages and answers into ids, within limits; counts what it had to cut."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, end_tokens: Sequence[int], config: Settings
    ) -> None:
        self.tokenizer = tokenizer
        self.end = end_tokens[0]
        self.max_prompt_tokens = config.max_prompt_tokens
        self.max_completion_tokens = config.max_completion_tokens
        self.cut_prompts = self.cut_completions = 0

    def prompts(self, prompts: Sequence[list[dict[str, str]]]) -> list[list[int]]:
        """Prompts as the model is to read them; too long ones keep their end."""
        if self.tokenizer.chat_template:
            texts = [self._render(messages) for messages in prompts]
        else:
            texts = [plain_prompt(messages) for messages in prompts]
        # A template writes its own special tokens; plain text gets the tokenizer's.
        encoded = self._ids(texts, special=not self.tokenizer.chat_template)
        return [self._fit_prompt(ids) for ids in encoded]

    def completions(self, texts: Sequence[str]) -> list[list[int]]:
        """Answers with the end token; of too long ones the rest is cut, and they do not end."""
        return [self._fit_completion(ids) for ids in self._ids(texts, special=False)]

    def scored(self, texts: Sequence[str]) -> list[list[int]]:
        """Answers as a reward model reads them: always ended, also when cut."""
        return [self.ended(ids) for ids in self.completions(texts)]

    def ended(self, completion: list[int]) -> list[int]:
        """The completion with an end token, which the reward model has always seen."""
        return completion if completion[-1:] == [self.end] else [*completion, self.end]

    def text(self, completion: Sequence[int], end_tokens: Iterable[int]) -> str:
        """What people read of a sampled completion."""
        ends = set(end_tokens)
        ids = [token for token in completion if token not in ends]
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def report(self, events: EventLog) -> None:
        """Say what was cut, once; nothing is shortened silently."""
        if self.cut_prompts:
            events.message(
                "warning",
                f"{self.cut_prompts} prompts were longer than {self.max_prompt_tokens} tokens "
                "and lost their beginning",
            )
        if self.cut_completions:
            events.message(
                "warning",
                f"{self.cut_completions} completions were longer than {self.max_completion_tokens} tokens "
                "and lost their end",
            )
        self.cut_prompts = self.cut_completions = 0

    def _render(self, messages: list[dict[str, str]]) -> str:
        try:
            return self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        except Exception as error:  # Templates raise what they like, e.g. for roles they do not know.
            raise EngineError(f"the chat template refuses a prompt: {error}") from error

    def _ids(self, texts: Sequence[str], special: bool) -> list[list[int]]:
        return self.tokenizer(list(texts), add_special_tokens=special)["input_ids"] if texts else []

    def _fit_prompt(self, ids: list[int]) -> list[int]:
        if ids and ids[-1] == self.end and not self.tokenizer.chat_template:
            ids = ids[:-1]  # Some tokenizers end every text; a prompt goes on.
        if len(ids) > self.max_prompt_tokens:
            self.cut_prompts += 1
            ids = ids[-self.max_prompt_tokens :]
        # The first token is predicted from something, also after an empty prompt.
        return ids or [self.end if self.tokenizer.bos_token_id is None else self.tokenizer.bos_token_id]

    def _fit_completion(self, ids: list[int]) -> list[int]:
        ids = [*ids, self.end]
        if len(ids) > self.max_completion_tokens:
            self.cut_completions += 1
            ids = ids[: self.max_completion_tokens]
        return ids
