"""Tensors to tensors: log-probabilities of tokens, entropy, exact KL. The only place that meets logits.

Logits are (N, V), for completion tokens alone, and are made and dropped in chunks, so that nothing of the
size batch x length x vocabulary is ever kept.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

Head = Callable[[Tensor], Tensor]  # (N, d) hidden states to (N, V) logits
CHUNK_ELEMENTS = 2**24  # of one chunk of logits: 64 MiB in float32
CACHED_ELEMENTS = 2**18  # the same where a processor reads a chunk many times: 1 MiB stays in its cache
CACHED_ROWS = 128  # but no fewer, since each chunk reads the whole head


class TokenStatistics(NamedTuple):
    """What a policy says of N tokens, in nats."""

    logprobs: Tensor  # (N,) of the tokens themselves
    entropy: Tensor  # (N,) of the distributions they were drawn from


class Comparison(NamedTuple):
    """What two policies say of N tokens that the first one drew, in nats."""

    logprobs: Tensor  # (N,) of the tokens themselves
    reference_logprobs: Tensor  # (N,) by the second policy
    exact_kl: Tensor  # (N,) of the first one's next-token distributions from the second one's
    entropy: Tensor  # (N,) of the first one's


def log_distribution(head: Head, hidden: Tensor, temperature: float | Tensor) -> Tensor:
    """(N, d) hidden states to (N, V) log-probabilities, in float32; temperature is a number or (N, 1)."""
    logits = head(hidden).float()
    if isinstance(temperature, Tensor) or temperature != 1:  # Dividing costs a pass over all logits.
        logits = logits / temperature
    return functional.log_softmax(logits, dim=-1)


def token_statistics(
    head: Head, hidden: Tensor, targets: Tensor, temperature: float, chunk_elements: int = CHUNK_ELEMENTS
) -> TokenStatistics:
    """Log-probability and entropy of each of N tokens; hidden (N, d), targets (N,)."""

    def of_chunk(hidden: Tensor, targets: Tensor) -> Tensor:
        logs = log_distribution(head, hidden, temperature)  # (chunk, V)
        chosen = -functional.nll_loss(logs, targets, reduction="none")
        return torch.stack([chosen, -(logs.exp() * logs).sum(-1)])

    both = _in_chunks(of_chunk, (hidden, targets), head, chunk_elements)
    return TokenStatistics(both[0], both[1])


def token_logprobs(
    head: Head, hidden: Tensor, targets: Tensor, temperature: float, chunk_elements: int = CHUNK_ELEMENTS
) -> Tensor:
    """(N,) log-probabilities alone, for losses that have no use for the entropy."""

    def of_chunk(hidden: Tensor, targets: Tensor) -> Tensor:
        logs = log_distribution(head, hidden, temperature)
        return -functional.nll_loss(logs, targets, reduction="none")[None]

    return _in_chunks(of_chunk, (hidden, targets), head, chunk_elements)[0]


def exact_kl(
    head: Head,
    hidden: Tensor,
    reference_head: Head,
    reference_hidden: Tensor,
    temperature: float,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> Tensor:
    """(N,) KL(policy || reference) of the next-token distributions, over the whole vocabulary, in nats.

    Summed over a sampled completion it estimates the KL of whole completions: unbiased, never negative, and
    of lower variance than the log-ratio of the sampled tokens. Source: arXiv 2504.10637.
    """

    def of_chunk(hidden: Tensor, reference_hidden: Tensor) -> Tensor:
        logs = log_distribution(head, hidden, temperature)
        return _exact_kl(logs, log_distribution(reference_head, reference_hidden, temperature))[None]

    return _in_chunks(of_chunk, (hidden, reference_hidden), head, chunk_elements)[0]


def compare_policies(
    head: Head,
    hidden: Tensor,
    reference_head: Head,
    reference_hidden: Tensor,
    targets: Tensor,
    temperature: float,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> Comparison:
    """All that a rollout's log and rewards need of N tokens, from one product with each head."""

    def of_chunk(hidden: Tensor, reference_hidden: Tensor, targets: Tensor) -> Tensor:
        logs = log_distribution(head, hidden, temperature)
        reference = log_distribution(reference_head, reference_hidden, temperature)
        own, others = (-functional.nll_loss(one, targets, reduction="none") for one in (logs, reference))
        return torch.stack([own, others, _exact_kl(logs, reference), -(logs.exp() * logs).sum(-1)])

    return Comparison(*_in_chunks(of_chunk, (hidden, reference_hidden, targets), head, chunk_elements))


def _exact_kl(logs: Tensor, reference: Tensor) -> Tensor:
    """(N,) of (N, V) log-probabilities."""
    return (logs.exp() * (logs - reference)).sum(-1).clamp(min=0)  # Rounding may dip below 0.


def _chunk_rows(head: Head, hidden: Tensor, chunk_elements: int) -> int:
    vocabulary = getattr(head, "vocabulary", 0) or head(hidden[:1]).shape[-1]
    if hidden.device.type == "cpu" and not torch.is_grad_enabled():
        chunk_elements = min(chunk_elements, max(CACHED_ELEMENTS, CACHED_ROWS * vocabulary))
    multiple = getattr(head, "multiple", 1)
    return max(1, chunk_elements // vocabulary // multiple) * multiple


def _in_chunks(
    function: Callable[..., Tensor], tensors: tuple[Tensor, ...], head: Head, chunk_elements: int
) -> Tensor:
    """Apply to slices of N rows and join along the last dimension, which has N; backward makes a chunk anew.

    The first row is repeated behind the last one where the head wants a multiple of some number.
    """
    count, rows = len(tensors[0]), _chunk_rows(head, tensors[0], chunk_elements)
    if fill := -count % getattr(head, "multiple", 1):
        tensors = tuple(torch.cat([one, one[:1].expand(fill, *one.shape[1:])]) for one in tensors)
    if len(tensors[0]) <= rows:
        return function(*tensors)[..., :count]
    parts = []
    for start in range(0, count, rows):
        chunk = [tensor[start : start + rows] for tensor in tensors]
        if torch.is_grad_enabled():
            parts.append(checkpoint(function, *chunk, use_reentrant=False))
        else:
            parts.append(function(*chunk))
    return torch.cat(parts, dim=-1)[..., :count]


def whiten(values: Tensor) -> Tensor:
    """(N,) to mean 0 and deviation 1; there is no padding in N. Equal values become 0."""
    return (values - values.mean()) / (values.std(correction=0) + 1e-8)
