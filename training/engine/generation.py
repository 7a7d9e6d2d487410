"""Prompts in, completions out: sampling with a key-value cache, over any causal model of transformers."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice, takewhile

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from training.engine.cohorts import make_cache, still_cohorts
from training.engine.half_weights import linear_products_in, linear_weights_in
from training.engine.networks import Policy
from training.engine.recording import Recorder
from training.engine.tensors import log_distribution

CACHE_FACTOR = 8  # A cached token costs far less memory than one in a pass that keeps activations.
BAND = 1.5  # Prompts share a cache where the longest, with its answer, is at most so many times the shortest.
REFILL_SHARE = 4  # Waiting completions begin when one in so many slots is free: a prefill costs like a step.
LOOK_EVERY = {"cpu": 1, "cuda": 16}  # Steps between two looks at who has ended; on a GPU a look waits for it.
RECORDS = {"cuda"}  # devices on which steps are recorded


@dataclass(frozen=True)
class Completion:
    """One sampled answer."""

    prompt: list[int]
    tokens: list[int]  # the end token included, if it came
    logprobs: Tensor  # (C,) recorded while sampling, of the distribution that was sampled from
    ended: bool  # False when cut at the greatest length
    states: Tensor | None = None  # (C, d) from which each token was predicted, where they were asked for


@dataclass(frozen=True)
class Sampling:
    """How to sample."""

    max_tokens: int
    temperatures: tuple[float, ...] = (1.0,)  # taken in turn by the completions of a prompt; 0 is greedy
    samples_per_prompt: int = 1
    top_k: int = 0
    top_p: float = 1.0
    keep_states: bool = (
        False  # keep the states that tokens were predicted from, for what is to be said of them
    )


@torch.inference_mode()
def sample(
    policy: Policy,
    prompts: Sequence[list[int]],
    how: Sampling,
    random: torch.Generator,
    budget: int,
    on_token: Callable[[], None] = lambda: None,
) -> list[Completion]:
    """Completions, those of a prompt side by side, in the order of the prompts.

    Each completion has its own row of random numbers, so neither its neighbours nor the budget (tokens in one
    pass) nor how many processes share the prompts changes what is drawn, but for rounding. `on_token` is called
    before each token, and may raise.
    """
    policy.take_turn()
    rows = len(prompts) * how.samples_per_prompt
    draws = torch.rand((rows, how.max_tokens), generator=random, dtype=torch.float64)
    own: dict[int, Completion] = {}
    runtime = policy.runtime
    shortest_first = sorted(range(len(prompts)), key=lambda number: (len(prompts[number]), number))
    with _weights(policy):
        for band in _bands(runtime.processes.deal(shortest_first), prompts, how):
            own |= _Sampler(policy, prompts, band, how, draws, budget).run(on_token)
    completions = {number: one for part in runtime.processes.gather(own) for number, one in part.items()}
    return [completions[number] for number in range(rows)]


def _weights(policy: Policy) -> AbstractContextManager[None]:
    """The policy's weights as steps are fastest with them."""
    runtime = policy.runtime
    if runtime.device.type == "cuda":
        return linear_weights_in(runtime.dtype, policy.model)
    is_half = runtime.dtype != torch.float32
    return linear_products_in(runtime.dtype, policy.model) if is_half else nullcontext()


def _bands(numbers: Iterable[int], prompts: Sequence[list[int]], how: Sampling) -> list[list[int]]:
    """Prompts, which come in order of length, in runs of so like length that one cache suits them all."""
    bands: list[list[int]] = []
    most = 0.0
    for number in numbers:
        width = len(prompts[number]) + how.max_tokens
        if width > most:
            bands.append([])
            most = BAND * width
        bands[-1].append(number)
    return bands


class _Sampler:
    """Samples the completions of a band of prompts: as many at once as the cache holds, the rest as others end.

    Completions have a number, and a line: the place in which they begin. Tensors of A are of those in progress,
    in the cache's order; tensors of L of all lines.
    """

    def __init__(
        self,
        policy: Policy,
        prompts: Sequence[list[int]],
        band: Sequence[int],
        how: Sampling,
        draws: Tensor,
        budget: int,
    ) -> None:
        self._policy, self._prompts, self._how = policy, prompts, how
        self._head = policy.head.as_sampled()
        self._device = device = policy.runtime.device
        self._look_every = LOOK_EVERY[device.type]
        each = how.samples_per_prompt
        self._numbers = [number * each + sample for number in band for sample in range(each)]
        self._waiting = deque(range(len(self._numbers)))
        count, longest, steps = len(self._numbers), len(prompts[band[-1]]), how.max_tokens
        slots = max(1, min(count, budget * CACHE_FACTOR // (longest + steps)))
        is_still = device.type in RECORDS and policy.recorded_steps is not None
        self._cache = make_cache(policy.model, slots, steps, policy.runtime.steps, is_still)
        self._recorder = Recorder(policy, self._cache) if still_cohorts(self._cache) else None
        heat = [how.temperatures[number % each % len(how.temperatures)] for number in self._numbers]
        self._heat = torch.tensor(heat, device=device)  # (L,)
        self._is_greedy = self._heat == 0 if 0 in heat else None
        self._draws = draws[self._numbers].to(device)
        self._ends = torch.tensor(policy.end_tokens, device=device)
        self._tokens = torch.zeros((count, steps), dtype=torch.long, device=device)
        self._logprobs = torch.zeros((count, steps), device=device)
        self._lengths = torch.zeros(count, dtype=torch.long, device=device)
        self._ended = torch.zeros(count, dtype=torch.bool, device=device)
        self._states: list[tuple[Tensor, Tensor, Tensor]] = []
        self._lines = torch.zeros(0, dtype=torch.long, device=device)  # (A,)
        self._places = torch.zeros_like(self._lines)  # (A,) tokens that each has drawn
        self._positions = torch.zeros_like(self._lines)  # (A,) of the token drawn next
        # (A,) not ended; what has ended draws on, to no effect, until the next look.
        self._running = torch.zeros(0, dtype=torch.bool, device=device)
        self._steps = 0
        self._due: list[int] = []  # of A, the step after which each has drawn all its tokens
        self._hidden = torch.zeros(0, device=device)  # (A, d) from which the next token is predicted

    def run(self, on_token: Callable[[], None]) -> dict[int, Completion]:
        """All completions, by their number."""
        while self._waiting or self._cache.active:
            self._admit()
            on_token()
            chosen = self._draw()
            self._steps += 1
            if self._steps == min(self._due):
                chosen = self._drop_ended(chosen, 1)
            elif self._steps % self._look_every == 0:
                chosen = self._drop_ended(chosen, self._worth_dropping)
            if self._cache.active:
                self._advance(chosen)
        return self._completions()

    def _admit(self) -> None:
        """Begin waiting completions, where enough slots are free: each prompt is read once."""
        cache = self._cache
        count = min(len(self._waiting), cache.free)
        if not count or (cache.active and cache.free * REFILL_SHARE < cache.slots):
            return
        each = self._how.samples_per_prompt
        owners = [self._numbers[line] // each for line in islice(self._waiting, count)]
        if not cache.mixes_lengths:
            length = len(self._prompts[owners[0]])
            owners = list(takewhile(lambda owner: len(self._prompts[owner]) == length, owners))
        lines = [self._waiting.popleft() for _ in owners]
        distinct = {owner: place for place, owner in enumerate(dict.fromkeys(owners))}
        sources = [distinct[owner] for owner in owners]
        lengths = [len(self._prompts[owner]) for owner in owners]
        prefilled, hidden = self._prefill([self._prompts[number] for number in distinct])
        cache.admit(prefilled, sources, lengths)
        self._due += [self._steps + self._how.max_tokens] * len(lines)
        begun = torch.tensor(lines, device=self._device)
        self._lines = torch.cat([self._lines, begun])
        self._places = torch.cat([self._places, torch.zeros_like(begun)])
        self._positions = torch.cat([self._positions, torch.tensor(lengths, device=self._device)])
        self._running = torch.cat([self._running, torch.ones_like(begun, dtype=torch.bool)])
        self._hidden = (
            torch.cat([self._hidden.to(hidden), hidden[sources]]) if len(self._hidden) else hidden[sources]
        )

    def _prefill(self, prompts: list[list[int]]) -> tuple[Cache, Tensor]:
        """Keys and values of prompts laid side by side, and (P, d) the states after them."""
        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
        pads = torch.tensor([width - len(prompt) for prompt in prompts])[:, None]
        places = torch.arange(width)[None]
        mask = (
            (places >= pads).long().to(self._device) if pads.any() else None
        )  # Without padding none is needed.
        cache = self._cache.for_prefill()
        return cache, self._forward(
            ids.to(self._device), (places - pads).clamp(min=0).to(self._device), mask, cache
        )

    def _draw(self) -> Tensor:
        """(A,) the next token of each completion in progress, recorded with its log-probability."""
        how, lines, places = self._how, self._lines, self._places
        heat = self._heat[lines][:, None]
        if self._is_greedy is None:
            logs = log_distribution(
                self._head, self._hidden, heat if len(how.temperatures) > 1 else how.temperatures[0]
            )
            chosen = _draw(logs, self._draws[lines, places], how)
        else:
            logs = log_distribution(self._head, self._hidden, torch.where(heat > 0, heat, 1.0))
            drawn = _draw(logs, self._draws[lines, places], how)
            chosen = torch.where(self._is_greedy[lines], logs.argmax(-1), drawn)
        self._tokens[lines, places] = chosen
        self._logprobs[lines, places] = logs.gather(1, chosen[:, None]).squeeze(1)
        if how.keep_states:
            self._states.append((lines, places, self._hidden))
        self._places = places + 1
        ends = torch.isin(chosen, self._ends)
        self._lengths[lines] += self._running
        self._ended[lines] |= ends
        self._running = self._running & ~ends & (self._places < how.max_tokens)
        return chosen

    @property
    def _worth_dropping(self) -> int:
        """How many have to have ended for the others to go on without them."""
        # A step of fewer answers would have to be recorded anew, which takes as long as dozens of steps.
        return math.ceil(self._cache.active / REFILL_SHARE) if self._recorder else 1

    def _drop_ended(self, chosen: Tensor, at_least: int) -> Tensor:
        """Let go of what has ended, if so many have; returns (A,) the chosen tokens of the others."""
        going = self._running.nonzero().squeeze(1).tolist()
        if len(chosen) - len(going) < at_least:
            return chosen
        kept = self._cache.keep(going)
        self._due = [self._due[slot] for slot in kept]
        order = torch.tensor(kept, dtype=torch.long, device=self._device)
        self._lines, self._places, self._positions = (
            self._lines[order],
            self._places[order],
            self._positions[order],
        )
        self._running, self._hidden = self._running[order], self._hidden[order]
        return chosen[order]

    def _advance(self, chosen: Tensor) -> None:
        """Append a token to each completion in progress."""
        cache = self._cache
        ids, positions = chosen[:, None], self._positions[:, None]
        if self._recorder:
            self._hidden = self._recorder(self._forward_step, ids, positions)
        else:
            self._hidden = self._forward_step(ids, positions)
        cache.advance()
        self._positions = self._positions + 1

    def _forward_step(self, ids: Tensor, positions: Tensor) -> Tensor:
        """(A, d) the states after (A, 1) ids."""
        return self._forward(ids, positions, self._cache.mask(), self._cache)

    def _forward(self, ids: Tensor, positions: Tensor, mask: Tensor | None, cache: Cache) -> Tensor:
        """(B, d) the states after the last of (B, T) ids."""
        # As `LanguageHead.as_sampled`.
        is_gpu = self._device.type == "cuda"
        with self._policy.runtime.autocast() if is_gpu else nullcontext():
            output = self._policy.model.base_model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            )
        return output.last_hidden_state[:, -1]

    def _completions(self) -> dict[int, Completion]:
        states = self._states_by_line() if self._how.keep_states else [None] * len(self._numbers)
        each = self._how.samples_per_prompt
        lines = zip(
            self._numbers,
            self._tokens.tolist(),
            self._logprobs.cpu(),
            self._lengths.tolist(),
            self._ended.tolist(),
            states,
            strict=True,
        )
        return {
            number: Completion(
                self._prompts[number // each], ids[:length], logs[:length].clone(), ended, kept
            )
            for number, ids, logs, length, ended, kept in lines
        }

    def _states_by_line(self) -> list[Tensor]:
        lines, places, states = (torch.cat(parts) for parts in zip(*self._states, strict=True))
        self._states.clear()
        real = (places < self._lengths[lines]).nonzero().squeeze(1)
        order = (lines * self._how.max_tokens + places)[real].argsort()
        return list(states[real[order]].split(self._lengths.tolist()))


def _draw(logs: Tensor, draws: Tensor, how: Sampling) -> Tensor:
    """One token per row from (A, V) log-probabilities: the first whose cumulated share passes the draw, (A,)."""
    cumulated = _truncate(logs, how).exp().cumsum(-1, dtype=torch.float64)
    wanted = (draws * cumulated[:, -1])[:, None]
    return torch.searchsorted(cumulated, wanted, right=True).squeeze(1).clamp(max=logs.shape[-1] - 1)


def _truncate(logs: Tensor, how: Sampling) -> Tensor:
    """Rule out all but the likeliest tokens, where that was asked for."""
    if how.top_k and how.top_k < logs.shape[-1]:
        least = logs.topk(how.top_k, dim=-1).values[:, -1:]
        logs = logs.masked_fill(logs < least, -torch.inf)
    if how.top_p < 1:
        ordered, places = logs.sort(dim=-1, descending=True)
        before = ordered.exp().cumsum(-1) - ordered.exp()  # share of all that is likelier
        out = torch.zeros_like(logs, dtype=torch.bool).scatter(1, places, before >= how.top_p)
        logs = logs.masked_fill(out, -torch.inf)
    return logs
