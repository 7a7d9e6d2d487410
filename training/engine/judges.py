"""A reward model that reads what one policy writes: as the ids that were sampled, or as text."""

from collections.abc import Sequence

from torch import Tensor

from training.engine.batches import Encoder, Tokens
from training.engine.config import Settings
from training.engine.generation import Completion
from training.engine.loading import load_scorer
from training.engine.networks import Policy, Scorer, same_tokenizer
from training.engine.records import PromptRecord


class Judge:
    """Scores one policy's completions; nothing here is learned."""

    def __init__(self, scorer: Scorer, policy: Policy, config: Settings) -> None:
        self.reads_ids = same_tokenizer(policy.tokenizer, scorer.tokenizer)
        self.is_ensemble = scorer.ensemble is not None
        self._scorer = scorer
        self._ends = set(policy.end_tokens)
        self._encoder = Encoder(scorer.tokenizer, scorer.end_tokens, config)
        self._budget = config.micro_batch_tokens
        scorer.model.requires_grad_(False)

    def __call__(
        self, prompts: Sequence[PromptRecord], completions: Sequence[Completion], texts: Sequence[str]
    ) -> Tensor:
        """(B,) scores, in deviations above the reference policy's mean; texts: what people read of each."""
        return self.with_spread(prompts, completions, texts)[0]

    def with_spread(
        self, prompts: Sequence[PromptRecord], completions: Sequence[Completion], texts: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        """(B,) the same scores, and (B,) how far the members of an ensemble are apart; one member is not."""
        return self._scorer.score_rows_with_spread(self._rows(prompts, completions, texts), self._budget)

    def _rows(
        self, prompts: Sequence[PromptRecord], completions: Sequence[Completion], texts: Sequence[str]
    ) -> list[Tokens]:
        """The very ids that were sampled where the reward model knows them, else the text, read anew."""
        if self.reads_ids:
            return [
                Tokens(
                    one.prompt,
                    [*(token for token in one.tokens if token not in self._ends), self._encoder.end],
                )
                for one in completions
            ]
        ids = self._encoder.prompts([prompt.messages for prompt in prompts])
        return [Tokens(*row) for row in zip(ids, self._encoder.scored(texts), strict=True)]


def load_judge(source: str | None, policy: Policy, config: Settings) -> Judge | None:
    """The judge that a setting names, or None. Raises EngineError when it cannot be used."""
    return Judge(load_scorer(source, config, policy.runtime), policy, config) if source else None
