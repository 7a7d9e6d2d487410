"""Which completions people should look at first: what scores highest, and what judges disagree about.

Judges are the reward model and the held-out one, and the members of the reward model where it is an ensemble.

Source: adversarial reward models (Adv-RM) look for flaws of a reward model where its score and the
disagreement of several are greatest; here such completions go to people instead.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from training.engine.records import CompletionRecord, MarkedRecord
from training.engine.rollout import Rollout

KEPT_ROLLOUTS = 3  # the last ones, from which samples are marked
REASONS = {
    "reward": "among the highest rewards",
    "disagreement": "reward and held-out reward differ most",
    "spread": "the reward model's members differ most",
}

Scale = dict[str, list[float]]  # mean and deviation of reward and held_out over the first rollout


def scale_of(rollout: Rollout) -> Scale:
    """What one deviation is: that of the policy at its start."""
    scores = {"reward": rollout.scores, "held_out": rollout.held_out}
    return {
        name: [float(values.mean()), float(values.std(correction=0)) or 1.0]
        for name, values in scores.items()
        if values is not None
    }


def candidates(rollout: Rollout, scale: Scale, count: int, samples_per_prompt: int) -> list[dict[str, Any]]:
    """The `count` completions of a rollout that are first by each reason, as plain values for a checkpoint."""
    by_reason = {"reward": rollout.scores.cpu()}
    if rollout.held_out is not None and "held_out" in scale:
        by_reason["disagreement"] = disagreement(rollout.scores, rollout.held_out, scale)
    if rollout.spread is not None:
        by_reason["spread"] = rollout.spread
    lengths = rollout.lengths
    logprobs = [float(row.sum()) for row in rollout.logprobs.split(lengths)]
    found = []
    for reason, values in by_reason.items():
        for row in _first_distinct(values, rollout.texts, count):
            prompt, completion = rollout.prompts[row], rollout.completions[row]
            record = CompletionRecord(
                id=prompt.id,
                prompt=prompt.prompt,
                answer=prompt.answer,
                completion=rollout.texts[row],
                ended=completion.ended,
                tokens=lengths[row],
                temperature=rollout.temperature,
                sample=row % samples_per_prompt,
                logprob=logprobs[row],
            )
            others = {"held_out_reward": rollout.held_out, "spread": rollout.spread}
            found.append(
                {
                    "record": record.model_dump(mode="json"),
                    "reward": float(rollout.scores[row]),
                    **{name: _at(figures, row) for name, figures in others.items()},
                    "reason": reason,
                    "value": float(values[row]),
                }
            )
    return found


def disagreement(scores: Tensor, held_out: Tensor, scale: Scale) -> Tensor:
    """(B,) |reward - held-out reward|, each in its deviations above its mean at the start."""
    (mean, std), (held_mean, held_std) = scale["reward"], scale["held_out"]
    return ((scores.cpu() - mean) / std - (held_out.cpu() - held_mean) / held_std).abs()


def choose(found: Iterable[dict[str, Any]], count: int) -> list[MarkedRecord]:
    """At most `count` records with distinct texts, taken in turn from the reasons, the greatest first."""
    ranked = sorted(found, key=lambda one: -one["value"])
    queues = [[one for one in ranked if one["reason"] == reason] for reason in REASONS]
    chosen: dict[str, MarkedRecord] = {}
    while len(chosen) < count and any(queues):
        for queue in queues:
            while queue and queue[0]["record"]["completion"] in chosen:
                queue.pop(0)
            if queue and len(chosen) < count:
                one = queue.pop(0)
                chosen[one["record"]["completion"]] = MarkedRecord(
                    **one["record"],
                    reward=one["reward"],
                    held_out_reward=one["held_out_reward"],
                    spread=one.get("spread"),
                    reason=REASONS[one["reason"]],
                )
    return list(chosen.values())


def _at(figures: Tensor | None, row: int) -> float | None:
    return None if figures is None else float(figures[row])


def _first_distinct(values: Tensor, texts: Sequence[str], count: int) -> list[int]:
    """Rows of the greatest values, a text once."""
    rows: dict[str, int] = {}
    for row in torch.argsort(values, descending=True, stable=True).tolist():
        rows.setdefault(texts[row], row)
    return list(rows.values())[:count]
