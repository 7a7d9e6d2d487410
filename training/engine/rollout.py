"""What an iteration of an online method sampled, and all that was known of it before the update."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from training.engine.batches import Tokens
from training.engine.generation import Completion
from training.engine.intervals import standard_error
from training.engine.judges import Judge
from training.engine.records import PromptRecord


@dataclass
class Rollout:
    """B completions; figures of tokens are flat (N,)."""

    prompts: list[PromptRecord]
    completions: list[Completion]
    rows: list[Tokens]
    scores: Tensor  # (B,)
    logprobs: Tensor  # (N,) under the policy that sampled
    reference_logprobs: Tensor
    exact_kl: Tensor
    entropy: Tensor
    metrics: dict[str, float]
    temperature: float = 1.0  # of sampling
    texts: list[str] = field(default_factory=list)  # what people read of each completion
    held_out: Tensor | None = None  # (B,) scores of the held-out reward model, where it was asked
    spread: Tensor | None = (
        None  # (B,) how far the members of the reward model are apart, where it has several
    )

    @property
    def lengths(self) -> list[int]:
        """Tokens of each completion."""
        return [len(row.completion) for row in self.rows]

    @property
    def is_finite(self) -> bool:
        """Whether there is no NaN and no infinity in anything that a network said."""
        figures = [self.scores, self.logprobs, self.reference_logprobs, self.exact_kl, self.entropy]
        figures += [] if self.held_out is None else [self.held_out]
        return all(bool(torch.isfinite(figure).all()) for figure in figures)

    def ask(self, judge: Judge) -> None:
        """Let the held-out reward model score it; `reward_error` and `held_out_error` are standard errors."""
        self.held_out = judge(self.prompts, self.completions, self.texts)
        keys = [prompt.key for prompt in self.prompts]
        self.metrics |= {
            "reward_error": standard_error(self.scores.tolist(), keys),
            "held_out_reward": float(self.held_out.mean()),
            "held_out_error": standard_error(self.held_out.tolist(), keys),
        }
