"""What a reward model is worth, on preferences that it has not learned from and on a policy's samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from training.engine.batches import Tokens, by_token_budget
from training.engine.config import Reward
from training.engine.intervals import share_interval
from training.engine.lines import lay_out
from training.engine.networks import Scorer
from training.engine.preferences import OVERALL, Judgment

CALIBRATION_BINS = 10
LENGTH_BUCKETS = 3


@dataclass(frozen=True)
class Verdicts:
    """P decided preferences with what the model makes of them; ties have no right answer and are left out."""

    chosen: list[Tokens]
    rejected: list[Tokens]
    prompts: list[str]
    strengths: list[int | None]
    chosen_scores: Tensor  # (P,)
    rejected_scores: Tensor  # (P,)
    spread: Tensor  # (P,): deviation over the members of the difference of the two scores

    @property
    def gaps(self) -> Tensor:
        """(P,): above 0 where the model agrees."""
        return self.chosen_scores - self.rejected_scores

    @property
    def right(self) -> list[float]:
        """1, 0, or one half for equal scores."""
        return ((self.gaps > 0).float() + 0.5 * (self.gaps == 0).float()).tolist()

    @property
    def longer_by(self) -> list[int]:
        """Tokens by which the chosen completion is longer."""
        pairs = zip(self.chosen, self.rejected, strict=True)
        return [len(one.completion) - len(other.completion) for one, other in pairs]


def describe_judgments(scorer: Scorer, judgments: Sequence[Judgment], config: Reward) -> dict[str, Any]:
    """How well scores agree with preferences, overall and by criterion. Every completion is read once."""
    rows = [row for judgment in judgments for row in judgment.rows]
    readings = scorer.read_rows(rows, config.micro_batch_tokens)
    overall = _verdicts(judgments, rows, readings.labels, readings.members, OVERALL)
    count = sum(one.label == OVERALL for judgment in judgments for one in judgment.preferences)
    figures: dict[str, Any] = {
        "pairs": len(overall.chosen),
        "ties": count - len(overall.chosen),
        "prompts": len(set(overall.prompts)),
        "accuracy": None,
        "accuracy_interval": None,
    }
    if overall.chosen:
        figures |= _agreement(overall)
        figures |= _spread_figures(overall) if scorer.ensemble else {}
        figures["swapped_agreement"] = _swapped_agreement(scorer, overall, config)
    if config.criteria:
        figures["accuracy_by_criterion"] = {
            name: _share(_verdicts(judgments, rows, readings.labels, readings.members, label))
            for label, name in enumerate(config.criteria, 1)
        }
    return figures


def _verdicts(
    judgments: Sequence[Judgment], rows: Sequence[Tokens], labels: Tensor, members: Tensor, label: int
) -> Verdicts:
    places, prompts, strengths = [], [], []
    begin = 0
    for judgment in judgments:
        for one in judgment.preferences:
            if one.label == label and not one.tie:
                places.append((begin + one.chosen, begin + one.rejected))
                prompts.append(judgment.prompt)
                strengths.append(one.strength)
        begin += len(judgment.rows)
    chosen, rejected = [place for place, _ in places], [place for _, place in places]
    return Verdicts(
        chosen=[rows[place] for place in chosen],
        rejected=[rows[place] for place in rejected],
        prompts=prompts,
        strengths=strengths,
        chosen_scores=labels[chosen, label],
        rejected_scores=labels[rejected, label],
        spread=(members[chosen] - members[rejected]).std(dim=1, correction=0),
    )


def _share(verdicts: Verdicts) -> dict[str, Any]:
    if not verdicts.chosen:
        return {"pairs": 0, "accuracy": None, "accuracy_interval": None}
    share, interval = share_interval(verdicts.right, verdicts.prompts)
    return {"pairs": len(verdicts.chosen), "accuracy": share, "accuracy_interval": interval}


def _agreement(verdicts: Verdicts) -> dict[str, Any]:
    """Overall, and where it could hide: among short chosen ones, by length, by strength; how sure, how often."""
    right = verdicts.right
    figures = _share(verdicts)
    shorter = [one for one, more in zip(right, verdicts.longer_by, strict=True) if more < 0]
    figures["accuracy_where_shorter_chosen"] = sum(shorter) / len(shorter) if shorter else None
    figures["accuracy_by_length"] = accuracy_by_length(right, verdicts.longer_by)
    by_strength: dict[str, list[float]] = {}
    for strength, one in sorted(zip(map(str, verdicts.strengths), right, strict=True)):
        by_strength.setdefault("unknown" if strength == "None" else strength, []).append(one)
    figures["accuracy_by_strength"] = {
        name: {"pairs": len(ones), "accuracy": sum(ones) / len(ones)} for name, ones in by_strength.items()
    }
    figures["calibration_error"] = calibration_error(torch.sigmoid(verdicts.gaps))
    lengths = [
        len(row.completion) for both in zip(verdicts.chosen, verdicts.rejected, strict=True) for row in both
    ]
    scores = torch.stack([verdicts.chosen_scores, verdicts.rejected_scores], dim=1).flatten()
    figures["length_correlation"] = correlation(scores, torch.tensor(lengths, dtype=torch.float32))
    return figures


def accuracy_by_length(right: Sequence[float], longer_by: Sequence[int]) -> list[dict[str, Any]]:
    """Accuracy in thirds of the pairs, from the chosen completion much shorter to much longer, in tokens.

    Pairs with the same difference stay together, so thirds may be unequal, and fewer than three.
    """
    ordered = sorted(longer_by)
    limits = [ordered[len(ordered) * part // LENGTH_BUCKETS] for part in range(1, LENGTH_BUCKETS)]
    thirds: dict[int, list[tuple[int, float]]] = {}
    for more, one in sorted(zip(longer_by, right, strict=True)):
        thirds.setdefault(sum(more >= limit for limit in limits), []).append((more, one))
    return [
        {
            "longer_by_from": third[0][0],
            "longer_by_to": third[-1][0],
            "pairs": len(third),
            "accuracy": sum(one for _, one in third) / len(third),
        }
        for third in thirds.values()
    ]


def _spread_figures(verdicts: Verdicts) -> dict[str, float | None]:
    """How far members are apart about a pair, and whether that warns where the model is wrong."""
    wrong = torch.tensor(verdicts.right) < 0.5
    there = {"right": verdicts.spread[~wrong], "wrong": verdicts.spread[wrong]}
    means = {
        f"spread_where_{name}": float(part.mean()) if len(part) else None for name, part in there.items()
    }
    return {
        "spread_mean": float(verdicts.spread.mean()),
        **means,
        "spread_warns": chance_above(there["wrong"], there["right"]),
    }


def chance_above(ones: Tensor, others: Tensor) -> float | None:
    """The chance that a value of one lot is above one of the other, ties half (the area under the ROC curve)."""
    if not len(ones) or not len(others):
        return None
    differences = ones[:, None] - others
    return float(((differences > 0).float() + 0.5 * (differences == 0).float()).mean())


def _swapped_agreement(scorer: Scorer, verdicts: Verdicts, config: Reward) -> float:
    """Share of pairs with the same verdict when both answers share a pass, the rejected one first."""
    same = 0
    pairs = list(zip(verdicts.rejected, verdicts.chosen, strict=True))
    lengths = [2 * max(one.length, other.length) for one, other in pairs]
    with torch.no_grad():
        for group in by_token_budget(lengths, config.micro_batch_tokens):
            rows = [row for number in group for row in pairs[number]]
            scores = scorer.scores(lay_out(rows, scorer.runtime)).cpu().view(-1, 2)
            same += int(((scores[:, 1] - scores[:, 0] > 0) == (verdicts.gaps[group] > 0)).sum())
    return same / len(pairs)


def calibration_error(probabilities: Tensor) -> float:
    """Mean gap between how sure the model is of its preferred side and how often that is right.

    probabilities (P,): of the side that people chose. Source: Guo et al. 2017, expected calibration error.
    """
    sure = torch.maximum(probabilities, 1 - probabilities)  # 0.5 to 1
    right = (probabilities > 0.5).float()
    bins = ((sure - 0.5) * 2 * CALIBRATION_BINS).long().clamp(max=CALIBRATION_BINS - 1)
    error = 0.0
    for number in range(CALIBRATION_BINS):
        inside = bins == number
        if inside.any():
            error += float(inside.float().mean() * (sure[inside].mean() - right[inside].mean()).abs())
    return error


def correlation(one: Tensor, other: Tensor) -> float | None:
    """Pearson's; None where one does not vary."""
    if len(one) < 2 or one.std() == 0 or other.std() == 0:
        return None
    return float(torch.corrcoef(torch.stack([one, other]))[0, 1])
