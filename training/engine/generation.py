"""Prompts in, completions out: sampling with a key-value cache, over any causal model of transformers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from training.engine.networks import Policy
from training.engine.processes import ALONE, Processes
from training.engine.tensors import log_distribution

CACHE_FACTOR = 8  # A cached token costs far less memory than one in a pass that keeps activations.


@dataclass(frozen=True)
class Completion:
    """One sampled answer."""

    prompt: list[int]
    tokens: list[int]  # the end token included, if it came
    logprobs: Tensor  # (C,) recorded while sampling, of the distribution that was sampled from
    ended: bool  # False when cut at the greatest length


@dataclass(frozen=True)
class Sampling:
    """How to sample."""

    max_tokens: int
    temperatures: tuple[float, ...] = (1.0,)  # taken in turn by the completions of a prompt; 0 is greedy
    samples_per_prompt: int = 1
    top_k: int = 0
    top_p: float = 1.0


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

    Each completion has its own row of random numbers, so neither bucketing nor the budget (tokens in one
    pass) nor how many processes share the prompts changes what is drawn, but for rounding. `on_token` is called
    before each token, and may raise.
    """
    policy.take_turn()
    rows = len(prompts) * how.samples_per_prompt
    draws = torch.rand((rows, how.max_tokens), generator=random, dtype=torch.float64)
    own: dict[int, Completion] = {}
    processes = policy.runtime.processes
    for bucket in _buckets([len(prompt) for prompt in prompts], how, budget, processes):
        numbers = [n * how.samples_per_prompt + s for n in bucket for s in range(how.samples_per_prompt)]
        sampled = _sample_bucket(policy, [prompts[n] for n in bucket], how, draws[numbers], on_token)
        own.update(zip(numbers, sampled, strict=True))
    completions = {number: one for part in processes.gather(own) for number, one in part.items()}
    return [completions[number] for number in range(rows)]


def _buckets(
    lengths: Sequence[int], how: Sampling, budget: int, processes: Processes = ALONE
) -> list[list[int]]:
    """Prompts of like length together, as many as the cache may hold: this process's share of them."""
    buckets: list[list[int]] = []
    for number in processes.deal(sorted(range(len(lengths)), key=lambda number: (lengths[number], number))):
        cost = (lengths[number] + how.max_tokens) * how.samples_per_prompt
        if not buckets or cost * (len(buckets[-1]) + 1) > budget * CACHE_FACTOR:
            buckets.append([])
        buckets[-1].append(number)
    return buckets


def _sample_bucket(
    policy: Policy,
    prompts: list[list[int]],
    how: Sampling,
    draws: Tensor,
    on_token: Callable[[], None],
) -> list[Completion]:
    """Prefill each prompt once, then token by token; rows that ended leave the batch and the cache."""
    device, rows = policy.runtime.device, len(draws)
    state = _Decoding(policy, prompts, how.samples_per_prompt)
    temperatures = torch.tensor([how.temperatures[row % how.samples_per_prompt % len(how.temperatures)]
                                 for row in range(rows)], device=device)[:, None]  # fmt: skip
    ends = torch.tensor(policy.end_tokens, device=device)
    draws = draws.to(device)
    tokens = torch.zeros((rows, how.max_tokens), dtype=torch.long, device=device)
    logprobs = torch.zeros((rows, how.max_tokens), device=device)
    lengths = torch.full((rows,), how.max_tokens, device=device)
    ended = torch.zeros(rows, dtype=torch.bool, device=device)
    active = torch.arange(rows, device=device)
    for place in range(how.max_tokens):
        on_token()
        heat = temperatures[active]
        logs = log_distribution(policy.head, state.hidden, torch.where(heat > 0, heat, 1.0))  # (A, V)
        chosen = _choose(logs, heat, draws[active, place], how)
        tokens[active, place] = chosen
        logprobs[active, place] = logs.gather(1, chosen[:, None]).squeeze(1)
        done = torch.isin(chosen, ends)
        lengths[active[done]], ended[active[done]] = place + 1, True
        going = (~done).nonzero().squeeze(1)
        if place + 1 == how.max_tokens or not len(going):
            break
        if len(going) < len(active):
            state.keep(going)
            active, chosen = active[going], chosen[going]
        state.advance(chosen)
    sampled = zip(tokens.tolist(), logprobs.cpu(), lengths.tolist(), ended.tolist(), strict=True)
    return [
        Completion(prompts[row // how.samples_per_prompt], ids[:length], logs[:length].clone(), end)
        for row, (ids, logs, length, end) in enumerate(sampled)
    ]


class _Decoding:
    """The cache of the rows still going, and the state from which each one's next token is predicted."""

    def __init__(self, policy: Policy, prompts: list[list[int]], samples_per_prompt: int) -> None:
        self._policy = policy
        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
        pads = torch.tensor([width - len(prompt) for prompt in prompts])[:, None]
        places = torch.arange(width)[None]
        self._mask = (places >= pads).long() if pads.any() else None  # Without padding none is needed.
        positions = (places - pads).clamp(min=0)
        self._cache = DynamicCache(config=policy.model.config)
        self._forward(ids, positions)
        self._next = torch.tensor([len(prompt) for prompt in prompts], device=self.hidden.device)[:, None]
        if samples_per_prompt > 1:
            self._cache.batch_repeat_interleave(samples_per_prompt)
            self.hidden = self.hidden.repeat_interleave(samples_per_prompt, 0)
            self._next = self._next.repeat_interleave(samples_per_prompt, 0)
            if self._mask is not None:
                self._mask = self._mask.repeat_interleave(samples_per_prompt, 0)

    def keep(self, rows: Tensor) -> None:
        """Let the other rows go."""
        self._cache.batch_select_indices(rows)
        self._next = self._next[rows]
        if self._mask is not None:
            self._mask = self._mask[rows.to(self._mask.device)]

    def advance(self, tokens: Tensor) -> None:
        """Append a token to each row."""
        if self._mask is not None:
            self._mask = torch.cat([self._mask, self._mask.new_ones((len(tokens), 1))], dim=1)
        self._forward(tokens[:, None], self._next)
        self._next = self._next + 1

    def _forward(self, ids: Tensor, positions: Tensor) -> None:
        device = self._policy.runtime.device
        with self._policy.runtime.autocast():
            output = self._policy.model.base_model(
                input_ids=ids.to(device),
                attention_mask=None if self._mask is None else self._mask.to(device),
                position_ids=positions.to(device),
                past_key_values=self._cache,
                use_cache=True,
            )
        self.hidden = output.last_hidden_state[:, -1]


def _choose(logs: Tensor, heat: Tensor, draws: Tensor, how: Sampling) -> Tensor:
    """One token per row from (A, V) log-probabilities: the first whose cumulated share passes the draw."""
    greedy = logs.argmax(-1)
    if not heat.any():
        return greedy
    cumulated = _truncate(logs, how).double().exp().cumsum(-1)
    wanted = (draws * cumulated[:, -1])[:, None]
    sampled = torch.searchsorted(cumulated, wanted, right=True).squeeze(1).clamp(max=logs.shape[-1] - 1)
    return torch.where(heat.squeeze(1) > 0, sampled, greedy)


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
