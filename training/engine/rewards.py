"""What a completion is worth: a learned model's score and any Python callables, each with its weight."""

import importlib
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from training.engine.batches import Encoder, Tokens
from training.engine.config import CallableReward, EngineError
from training.engine.events import EventLog
from training.engine.generation import Completion
from training.engine.networks import Policy, Scorer, same_tokenizer
from training.engine.online_settings import Online
from training.engine.records import PromptRecord

RewardFunction = Callable[[list[str], list[str]], list[float]]


def load_callables(terms: Sequence[CallableReward]) -> list[RewardFunction]:
    """The functions that a config names. Raises EngineError for one that is not there."""
    functions = []
    for term in terms:
        module, name = term.path.split(":")
        try:
            function = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise EngineError(f"rewards: {term.path} cannot be imported ({error})") from error
        functions.append(function)
    return functions


class Rewards:
    """Scores completions by every term of the config."""

    def __init__(
        self, config: Online, functions: Sequence[RewardFunction], scorer: Scorer | None, policy: Policy
    ) -> None:
        self._config = config
        self._functions = functions
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
            scores = self._scorer.score_rows(
                self._rows(prompts, completions, texts), self._config.micro_batch_tokens
            )
            means["reward_model"], means["reward_model_std"] = (
                float(scores.mean()),
                float(scores.std(correction=0)),
            )
            total = total + scores
        questions = [prompt.text for prompt in prompts]
        for term, function in zip(self._config.rewards, self._functions, strict=True):
            values = _checked(term.path, function(questions, texts), len(texts))
            means[f"reward_{term.path.split(':')[1]}"] = float(values.mean())
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


def _checked(path: str, values: Sequence[float], count: int) -> Tensor:
    numbers = [float(value) for value in values]
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise EngineError(f"rewards: {path} must return {count} finite numbers")
    return torch.tensor(numbers)
