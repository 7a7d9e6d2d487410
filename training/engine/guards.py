"""When to stop: KL budget, degeneration, drift. Each stop says why in plain words."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

from training.engine.online_settings import Online
from training.engine.reward_terms import repeated_ngrams

EOS_FALL = 0.5  # Greatest fall of the share of completions that end by themselves.


class GuardStop(Exception):
    """A run must not go on; the message says why, for a person."""


def text_metrics(texts: Sequence[str]) -> dict[str, float]:
    """How varied texts are: over all of them, and each within itself.

    distinct_2: share of word pairs that differ, over all texts. identical_share: share of the texts that are
    the commonest one. repeated_share: share of 3-grams of words that came before in the same text.
    """
    words = [text.split() for text in texts]
    pairs = [pair for row in words for pair in pairwise(row)]
    repeated = total = 0
    for row in words:
        again, triples = repeated_ngrams(row, 3)
        repeated, total = repeated + again, total + triples
    return {
        "distinct_2": len(set(pairs)) / len(pairs) if pairs else 0.0,
        "identical_share": Counter(texts).most_common(1)[0][1] / len(texts),
        "repeated_share": repeated / total if total else 0.0,
    }


def check_start(ratio_error: float, kl: float | None, tolerance: float) -> None:
    """Before the first step the new policy is the old one, and the reference where they share weights.

    ratio_error: greatest |log-ratio| of a token, nats. kl: exact KL per completion if it must be 0.
    """
    if ratio_error > tolerance:
        raise GuardStop(
            f"before the first step the policy already differs from the one that sampled, by {ratio_error:.3g} "
            "nats on a token: padding, dropout, temperature or number format is not the same in both"
        )
    if kl is not None and kl > tolerance:
        raise GuardStop(
            f"before the first step policy and reference differ by {kl:.3g} nats per completion, though they "
            "have the same weights"
        )


def check_rollout(metrics: Mapping[str, float], first: Mapping[str, float], config: Online) -> None:
    """Raise GuardStop when what the policy now writes breaks a limit; `first` is its start."""
    kl = metrics["exact_kl"]
    if not all(map(math.isfinite, (kl, metrics["entropy"], metrics["reward"]))):
        raise GuardStop("the policy's probabilities or its reward are no longer finite numbers")
    if kl > config.kl_budget_nats:
        raise GuardStop(
            f"the policy is {kl:.2f} nats per completion away from the reference; the budget is "
            f"{config.kl_budget_nats:g}"
        )
    if metrics["identical_share"] > max(config.max_identical_share, first["identical_share"]):
        raise GuardStop(f"{metrics['identical_share']:.0%} of the completions are one and the same text")
    if metrics["distinct_2"] < min(config.min_distinct_2, first["distinct_2"]):
        raise GuardStop(f"only {metrics['distinct_2']:.1%} of the word pairs are distinct")
    if metrics["repeated_share"] > max(config.max_repeated_share, first["repeated_share"]):
        raise GuardStop(f"{metrics['repeated_share']:.0%} of the 3-grams repeat what the text said before")
    if metrics["entropy"] < min(config.min_entropy, first["entropy"]):
        raise GuardStop(f"the entropy has fallen to {metrics['entropy']:.4f} nats per token")
    if metrics["eos_rate"] < first["eos_rate"] - EOS_FALL:
        raise GuardStop(
            f"only {metrics['eos_rate']:.0%} of the completions end by themselves; "
            f"at the start {first['eos_rate']:.0%} did"
        )
