"""What policy and reference say of the tokens that were sampled: one pass of each network at most."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from training.engine.batches import Tokens
from training.engine.generation import Completion
from training.engine.lines import token_batches
from training.engine.networks import Policy
from training.engine.processes import ALONE
from training.engine.tensors import Comparison, compare_policies, token_logprobs

GAUGED_ROWS = 4  # at least, and one in so many
GAUGED_SHARE = 16
# Greatest difference, in nats, at which what sampling recorded stands for what a pass would say: it moves a
# ratio by 1 %, a twentieth of the range in which ratios are clipped.
AGREEMENT = 0.01
STATES_BYTES = 2**29  # that recorded states may take; putting them in order takes as much again


class Figures(NamedTuple):
    """Of a rollout's N tokens, with what is known of how well sampling agrees with a pass."""

    tokens: Comparison
    metrics: dict[str, float]


def keeps_states(policy: Policy, completions: int, max_tokens: int) -> bool:
    """Whether sampling is to record the states that tokens were predicted from.

    Not where several processes share the rows: each would score others than it has sampled. Nor on a processor in half
    precision, where sampling multiplies in it and does all else in float32: a pass under autocast rounds more, and would
    not agree.
    """
    runtime = policy.runtime
    width = policy.head.width
    agrees = runtime.dtype == torch.float32 or runtime.device.type == "cuda"
    return agrees and runtime.processes is ALONE and completions * max_tokens * width * 4 <= STATES_BYTES


@torch.no_grad()
def read_tokens(
    policy: Policy,
    reference: Policy,
    completions: Sequence[Completion],
    temperature: float,
    budget: int,
    random: torch.Generator,
    on_pass: Callable[[], None],
) -> Figures:
    """Log-probabilities, KL and entropy of every sampled token; `on_pass` is called before each, and may raise.

    Where sampling recorded its states, a few rows, drawn by `random`, are read by the policy once more; where that
    agrees, what was recorded stands for the pass over all the others.
    """
    rows = [Tokens(completion.prompt, completion.tokens) for completion in completions]
    gauged = list(range(len(rows)))
    trusted = all(completion.states is not None for completion in completions)
    if trusted:
        count = min(len(rows), max(GAUGED_ROWS, len(rows) // GAUGED_SHARE))
        gauged = torch.randperm(len(rows), generator=random)[:count].sort().values.tolist()
        forward = _forward(policy, [rows[row] for row in gauged], temperature, budget, on_pass)
        # Well within what the guard before the first update lets pass, since it will see all the rows.
        limit = min(AGREEMENT, policy.runtime.tolerance / 4)
        trusted = gap(completions, gauged, forward)["sampling_gap_nats"] <= limit

    ends = torch.tensor([len(row.completion) for row in rows]).cumsum(0).tolist()
    figures = torch.zeros(len(Comparison._fields), ends[-1], device=policy.runtime.device)
    for group, batch in token_batches(rows, budget, policy.runtime.shared_with(reference.runtime)):
        on_pass()
        hidden = _recorded(completions, group) if trusted else policy.hidden(batch)
        told = compare_policies(
            policy.head, hidden, reference.head, reference.hidden(batch), batch.targets, temperature
        )
        places = torch.cat([torch.arange(ends[row] - len(rows[row].completion), ends[row]) for row in group])
        figures[:, places.to(figures.device)] = torch.stack(told)
    tokens = Comparison(*policy.runtime.processes.add_up(figures))
    if not trusted:
        gauged, forward = list(range(len(rows))), tokens.logprobs
    return Figures(tokens, gap(completions, gauged, forward) | {"reused": float(trusted)})


def gap(completions: Sequence[Completion], rows: Sequence[int], forward: Tensor) -> dict[str, float]:
    """How far what was recorded of some rows is from what a pass says of them: probabilities, and in nats."""
    recorded = torch.cat([completions[row].logprobs for row in rows])
    forward = forward.cpu()
    return {
        "sampling_gap": float((recorded.exp() - forward.exp()).abs().mean()),
        "sampling_gap_nats": float((recorded - forward).abs().max()),
    }


def _forward(
    policy: Policy, rows: Sequence[Tokens], temperature: float, budget: int, on_pass: Callable[[], None]
) -> Tensor:
    """(N,) log-probabilities by a pass like that of an update."""
    parts: dict[int, Tensor] = {}
    for group, batch in token_batches(rows, budget, policy.runtime):
        on_pass()
        logprobs = token_logprobs(policy.head, policy.hidden(batch), batch.targets, temperature)
        parts |= dict(zip(group, logprobs.split(batch.lengths), strict=True))
    return torch.cat([parts[row] for row in range(len(rows))])


def _recorded(completions: Sequence[Completion], rows: Sequence[int]) -> Tensor:
    """(N, d) the states from which the tokens of some rows were drawn."""
    return torch.cat([states for row in rows if (states := completions[row].states) is not None])
