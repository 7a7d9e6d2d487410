"""What a completion is worth: a learned model's score and the terms of the config, each with its weight."""

from collections.abc import Sequence

import torch
from torch import Tensor

from training.engine.batches import Encoder
from training.engine.events import EventLog
from training.engine.generation import Completion
from training.engine.judges import Judge
from training.engine.networks import Policy, Scorer
from training.engine.online_settings import Online
from training.engine.records import PromptRecord
from training.engine.reward_settings import term_names
from training.engine.reward_terms import Sample, Term


class Rewards:
    """Scores completions by every term of the config."""

    def __init__(self, config: Online, terms: Sequence[Term], scorer: Scorer | None, policy: Policy) -> None:
        self._config = config
        self._terms = terms
        self._judge = Judge(scorer, policy, config) if scorer else None
        self._policy = policy
        self.spread: Tensor | None = None  # (B,) of the completions scored last; None without an ensemble
        self._texts = Encoder(policy.tokenizer, policy.end_tokens, config)

    def report(self, events: EventLog) -> None:
        """Say how the reward model reads completions, where that is not as ids."""
        if self._judge and not self._judge.reads_ids:
            events.message("warning", "the reward model has another tokenizer: it reads completions as text")

    def __call__(
        self, prompts: Sequence[PromptRecord], completions: Sequence[Completion]
    ) -> tuple[Tensor, dict[str, float]]:
        """(B,) rewards, and each term's mean for the log.

        The sum of the terms is clipped; a completion that was cut loses `missing_eos_penalty` after that.
        """
        texts = [self._texts.text(completion.tokens, self._policy.end_tokens) for completion in completions]
        total = torch.zeros(len(completions))
        means: dict[str, float] = {}
        if self._judge:
            scores, spread = self._judge.with_spread(prompts, completions, texts)
            self.spread = spread.cpu() if self._judge.is_ensemble else None
            means["reward_model"] = float(scores.mean())
            means["reward_model_std"] = float(scores.std(correction=0))
            means["reward_model_spread"] = float(spread.mean())
            # Where the members disagree the policy has left what they know: arXiv 2310.02743.
            careful = scores - self._config.reward_spread_coefficient * spread
            total = total + self._config.reward_model_weight * careful
        samples = [
            Sample(prompt, text, len(completion.tokens))
            for prompt, text, completion in zip(prompts, texts, completions, strict=True)
        ]
        terms = self._config.rewards
        for term, name, compute in zip(terms, term_names(terms), self._terms, strict=True):
            values = self._policy.runtime.processes.compute(samples, compute)
            means[f"reward_{name}"] = float(values.mean())
            total = total + term.weight * values
        limit = self._config.reward_clip
        unfinished = torch.tensor([not completion.ended for completion in completions])
        return total.clamp(-limit, limit) - self._config.missing_eos_penalty * unfinished, means
