"""Preferences as ids, and what a policy and its reference say of them: what dpo learns from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from safetensors.torch import load_file
from safetensors.torch import save as as_safetensors
from torch import Tensor

from training.engine.batches import Encoder, Tokens, by_token_budget, row_sums
from training.engine.config import Dpo, EngineError
from training.engine.lines import lay_out, token_batches
from training.engine.loading import load_policy
from training.engine.networks import Policy
from training.engine.records import PreferenceRecord
from training.engine.runtime import Runtime
from training.engine.tensors import token_logprobs
from training.engine.workspace import Workspace, write_atomically


@dataclass(frozen=True)
class Pair:
    """A preference as ids."""

    chosen: Tokens
    rejected: Tokens
    tie: bool
    weight: float  # the judgment's own, times its strength
    prompt: str  # what two preferences about the same prompt share

    @property
    def length(self) -> int:
        """Tokens of the longer side, to which both are padded."""
        return max(self.chosen.length, self.rejected.length)


@dataclass(frozen=True)
class Preferences:
    """P pairs with what the reference says of their completions."""

    pairs: list[Pair]
    reference: Tensor  # (2, P) log-probabilities of the chosen and the rejected completions, nats

    def take(self, numbers: Sequence[int]) -> "Preferences":
        """Some of them, in the order asked for."""
        return Preferences([self.pairs[number] for number in numbers], self.reference[:, list(numbers)])

    @property
    def ties(self) -> Tensor:
        """(P,) bool."""
        return torch.tensor([pair.tie for pair in self.pairs], dtype=torch.bool)

    @property
    def weights(self) -> Tensor:
        """(P,) what each counts in the loss."""
        return torch.tensor([pair.weight for pair in self.pairs])

    @property
    def lengths(self) -> Tensor:
        """(2, P) tokens of the completions."""
        return torch.tensor(
            [
                [len(pair.chosen.completion) for pair in self.pairs],
                [len(pair.rejected.completion) for pair in self.pairs],
            ]
        )

    def margins(self, ratios: Tensor, config: Dpo) -> Tensor:
        """(2, P) log-ratios to (P,): by how many nats the chosen completion gained more than the rejected one.

        A nat of the whole completion, or of its mean token for ipo: otherwise its fixed target would ask
        long completions for less. Source: the authors of IPO, huggingface.co/blog/pref-tuning, TRL #1265.
        """
        if config.loss == "ipo":
            ratios = ratios / self.lengths.to(ratios.device)
        return ratios[0] - ratios[1]


def encode(records: Sequence[PreferenceRecord], encoder: Encoder) -> list[Pair]:
    """Both answers of each preference as the policy writes them: what was cut does not end."""
    prompts = encoder.prompts([record.messages for record in records])
    chosen = encoder.completions([record.chosen for record in records])
    rejected = encoder.completions([record.rejected for record in records])
    return [
        Pair(
            chosen=Tokens(prompt, one),
            rejected=Tokens(prompt, other),
            tie=record.undecided,
            weight=record.loss_weight,
            prompt=record.key,
        )
        for record, prompt, one, other in zip(records, prompts, chosen, rejected, strict=True)
    ]


def distinct(pairs: list[Pair], config: Dpo, workspace: Workspace) -> list[Pair]:
    """Pairs whose two sides differ as ids: where only what was cut differs, there is nothing to tell apart."""
    kept = [pair for pair in pairs if pair.chosen != pair.rejected]
    if len(kept) < len(pairs):
        workspace.events.message(
            "warning",
            f"{len(pairs) - len(kept)} preferences were skipped: within {config.max_completion_tokens} tokens "
            "both answers are the same",
        )
    return kept


def reference_logprobs(
    sets: Sequence[Sequence[Pair]], config: Dpo, workspace: Workspace, runtime: Runtime
) -> list[Tensor]:
    """For each set of pairs (2, P) log-probabilities under the reference, nats.

    Computed once and kept in OUT/reference.safetensors, so a resumed run need not load the reference; the
    weights leave memory with this function.
    """
    path = workspace.folder / "reference.safetensors"
    shapes = [(2, len(pairs)) for pairs in sets]
    if workspace.processes.gather(path.exists())[0]:  # as the first process sees it
        kept = [load_file(path)[str(number)] for number in range(len(sets))]
        if [tuple(tensor.shape) for tensor in kept] == shapes:
            return kept
    source = config.reference_model or config.model
    reference = load_policy(source, config, runtime)
    rows = [row for pairs in sets for row in _rows(pairs)]

    def report(done: int) -> None:
        workspace.check_stop()
        workspace.events.progress("reference", done, len(rows))

    sums = completion_logprobs(reference, rows, config.micro_batch_tokens, report)
    if not sums.isfinite().all():
        raise EngineError(f"{source}: gives an answer a log-probability that is not a finite number")
    flat = sums.split([2 * len(pairs) for pairs in sets])
    found = [part.reshape(shape).contiguous() for part, shape in zip(flat, shapes, strict=True)]
    if workspace.processes.is_first:
        write_atomically(path, as_safetensors({str(number): tensor for number, tensor in enumerate(found)}))
    return found


@torch.no_grad()
def completion_logprobs(
    policy: Policy, rows: Sequence[Tokens], budget: int, report: Callable[[int], None]
) -> Tensor:
    """(B,): log-probabilities of whole completions, in nats, on the CPU."""
    sums = torch.zeros(len(rows))
    done = 0
    for group, batch in token_batches(rows, budget, policy.runtime):
        report(done)
        logprobs = token_logprobs(policy.head, policy.hidden(batch), batch.targets, 1.0)
        sums[group] = row_sums(logprobs, batch.lengths).cpu()
        done += len(group) * policy.runtime.processes.count  # shares are alike
    return policy.runtime.processes.add_up(sums)


def _rows(pairs: Sequence[Pair]) -> list[Tokens]:
    """All chosen, then all rejected completions."""
    return [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]


def pair_logprobs(policy: Policy, pairs: Sequence[Pair]) -> Tensor:
    """(2, P) log-probabilities of the chosen and the rejected completions, nats."""
    batch = lay_out(_rows(pairs), policy.runtime)
    logprobs = token_logprobs(policy.head, policy.hidden(batch), batch.targets, 1.0)
    return row_sums(logprobs, batch.lengths).view(2, -1)


@torch.no_grad()
def log_ratios(policy: Policy, preferences: Preferences, config: Dpo) -> Tensor:
    """(2, P): by how many nats each completion is likelier than under the reference, on the CPU."""
    ratios = torch.zeros_like(preferences.reference)
    lengths, processes = [2 * pair.length for pair in preferences.pairs], policy.runtime.processes
    for group in by_token_budget(lengths, config.micro_batch_tokens, processes):
        logprobs = pair_logprobs(policy, [preferences.pairs[number] for number in group]).cpu()
        ratios[:, group] = logprobs - preferences.reference[:, group]
    return processes.add_up(ratios)
