"""When to stop: KL budget, degeneration, drift. Each stop says why in plain words."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from training.engine.online_settings import Online
from training.engine.reward_terms import repeated_ngrams

EOS_FALL = 0.5  # Greatest fall of the share of completions that end by themselves.
WINDOW = 3  # Looks of the held-out reward model that are averaged.


class GuardStop(Exception):
    """A run must not go on; the message says why, for a person."""


def text_metrics(texts: Sequence[str]) -> dict[str, float]:
    """How varied texts are: over all of them, and each within itself.

    distinct_2: share of word pairs that differ, over all texts. identical_share: share of the texts that are
    the commonest one. repeated_share: share of 3-grams of words that came before in the same text. run_share:
    share of word pairs that are one word twice, "the the", which texts too short for 3-grams show as well.
    """
    words = [text.split() for text in texts]
    pairs = [pair for row in words for pair in pairwise(row)]
    runs = sum(one == other for one, other in pairs)
    repeated = total = 0
    for row in words:
        again, triples = repeated_ngrams(row, 3)
        repeated, total = repeated + again, total + triples
    return {
        "distinct_2": len(set(pairs)) / len(pairs) if pairs else 0.0,
        "identical_share": Counter(texts).most_common(1)[0][1] / len(texts),
        "repeated_share": repeated / total if total else 0.0,
        "run_share": runs / len(pairs) if pairs else 0.0,
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
    if metrics["run_share"] > max(config.max_repeated_share, first["run_share"]):
        raise GuardStop(f"{metrics['run_share']:.0%} of the words only repeat the word before them")
    _check_length(metrics["length"], first["length"], config.max_length_factor)
    if metrics["entropy"] < min(config.min_entropy, first["entropy"]):
        raise GuardStop(f"the entropy has fallen to {metrics['entropy']:.4f} nats per token")
    if metrics["eos_rate"] < first["eos_rate"] - EOS_FALL:
        raise GuardStop(
            f"only {metrics['eos_rate']:.0%} of the completions end by themselves; "
            f"at the start {first['eos_rate']:.0%} did"
        )


def _check_length(length: float, first: float, factor: float) -> None:
    if not first / factor <= length <= first * factor:
        how = "longer" if length > first else "shorter"
        raise GuardStop(
            f"completions have become {how} by more than a factor of {factor:g}: {length:.1f} tokens on average, "
            f"{first:.1f} at the start"
        )


@dataclass(frozen=True)
class Look:
    """What both reward models said of one rollout, or the mean of several."""

    step: int  # iterations done before the last of its rollouts
    kl: float  # nats per completion
    reward: float
    held_out: float
    held_out_error: float  # standard error of held_out


def smoothed(looks: Sequence[Look]) -> list[Look]:
    """Each look averaged with those before it, WINDOW in all; rollouts are independent draws."""
    means = []
    for end in range(1, len(looks) + 1):
        window = looks[max(0, end - WINDOW) : end]
        count = len(window)
        means.append(
            Look(
                step=window[-1].step,
                kl=sum(look.kl for look in window) / count,
                reward=sum(look.reward for look in window) / count,
                held_out=sum(look.held_out for look in window) / count,
                held_out_error=math.sqrt(sum(look.held_out_error**2 for look in window)) / count,
            )
        )
    return means


def best_look(looks: Sequence[Look]) -> Look:
    """The smoothed look of the greatest held-out reward; of equal ones the latest."""
    return max(smoothed(looks), key=lambda look: (look.held_out, look.step))


def check_held_out(looks: Sequence[Look], tolerance: float) -> None:
    """Raise GuardStop when the reward has risen since the held-out reward was best, and that has clearly fallen.

    Clearly: by more than `tolerance` standard errors of the difference. The best of many noisy means is too
    high, so the usual 2 is far too little: where the held-out reward only stands still, a tolerance of 4 stops
    3 of 100 runs of 60 looks, a tolerance of 3 stops 39 (simulated; docs/guards.md).
    Source: Gao et al., arXiv 2210.10760: proxy and gold reward part, and the proxy does not show when.
    """
    if not looks:
        return
    best, now = best_look(looks), smoothed(looks)[-1]
    fall, error = best.held_out - now.held_out, math.hypot(best.held_out_error, now.held_out_error)
    if now.reward > best.reward and fall > tolerance * error:
        raise GuardStop(
            f"since step {best.step} the reward has risen from {best.reward:.2f} to {now.reward:.2f}, while the "
            f"held-out reward model's score has fallen from {best.held_out:.2f} to {now.held_out:.2f} "
            f"({fall:.2f}, standard error {error:.2f}): what the policy now learns pleases its reward alone"
        )
