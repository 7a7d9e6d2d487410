"""What a completion is worth: a learned model's score and the terms of the config, each with its weight."""

from collections.abc import Sequence

import torch
from torch import Tensor

from training.engine.batches import Encoder, Tokens
from training.engine.events import EventLog
from training.engine.generation import Completion
from training.engine.networks import Policy, Scorer, same_tokenizer
from training.engine.online_settings import Online
from training.engine.records import PromptRecord
from training.engine.reward_settings import term_names
from training.engine.reward_terms import Sample, Term


class Rewards:
    """Scores completions by every term of the config."""

    def __init__(self, config: Online, terms: Sequence[Term], scorer: Scorer | None, policy: Policy) -> None:
        self._config = config
        self._terms = terms
        self._scorer = scorer
        self._policy = policy
        self._texts = Encoder(policy.tokenizer, policy.end_tokens, config)
        self._reads_ids = scorer is not None and same_tokenizer(policy.tokenizer, scorer.tokenizer)

    def report(self, events: EventLog) -> None:
        """Say how the reward model reads completions, where that is not as ids."""
        if self._scorer and not self._reads_ids:
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
        if self._scorer:
            rows = self._rows(prompts, completions, texts)
            scores, spread = self._scorer.score_rows_with_spread(rows, self._config.micro_batch_tokens)
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
            values = torch.tensor(compute(samples))
            means[f"reward_{name}"] = float(values.mean())
            total = total + term.weight * values
        limit = self._config.reward_clip
        unfinished = torch.tensor([not completion.ended for completion in completions])
        return total.clamp(-limit, limit) - self._config.missing_eos_penalty * unfinished, means

    def _rows(
        self, prompts: Sequence[PromptRecord], completions: Sequence[Completion], texts: Sequence[str]
    ) -> list[Tokens]:
        """The very ids that were sampled where the reward model knows them, else the text, read anew."""
        assert self._scorer is not None
        encoder = Encoder(self._scorer.tokenizer, self._scorer.end_tokens, self._config)
        if self._reads_ids:
            ends = set(self._policy.end_tokens)
            return [
                Tokens(one.prompt, [*(token for token in one.tokens if token not in ends), encoder.end])
                for one in completions
            ]
        ids = encoder.prompts([prompt.messages for prompt in prompts])
        return [Tokens(*row) for row in zip(ids, encoder.scored(texts), strict=True)]
