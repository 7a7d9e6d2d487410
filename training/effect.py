"""What a person's answers did: which of them a round took, and what its reward model says of them.

All of it is of the person's own standing answers. `followup` has their candidates scored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import NamedTuple

from django.db.models import F, Q

from labeling.answers import PREFERRED
from labeling.models import DatasetEntry, DatasetVersion, Judgment, User
from training.models import ModelVersion, Round, Score

NEWEST_ANSWERS = 100  # of a person, that a round's reward model is asked about

Pair = tuple[int, int]  # ids of two completions, the preferred one first
Scores = Mapping[int, float]  # of completions, by their ids


class Answered(NamedTuple):
    """A person's standing answer with a winner, as a dataset version holds it."""

    judgment: int
    person: int
    prompt: int
    split: str
    pairs: list[Pair]


def considered(person: User, version: DatasetVersion) -> list[Answered]:
    """The person's newest standing answers with a winner among those that were frozen, newest first.

    A pair is one preferred candidate over another; what the person wrote as a better answer is not among them.
    """
    newest = (
        Judgment.objects.current()
        .filter(annotator=person, comparison__project=version.project_id, verdict=PREFERRED)
        .filter(created_at__lte=version.created_at)
        .order_by("-id")
        .values_list("pk", flat=True)[:NEWEST_ANSWERS]
    )
    edit = "preference__judgment__edit"
    of_candidates = Q(**{edit: None}) | ~Q(preference__chosen=F(f"{edit}__completion"))
    found: dict[int, Answered] = {}
    rows = (
        DatasetEntry.objects.filter(version=version, preference__judgment__in=list(newest))
        .filter(of_candidates, preference__tie=False)
        .order_by("-preference__judgment", "preference")
        .values_list(
            "preference__judgment",
            "preference__prompt",
            "split",
            "preference__chosen",
            "preference__rejected",
        )
    )
    for judgment, prompt, split, chosen, rejected in rows:
        answer = found.setdefault(judgment, Answered(judgment, person.pk, prompt, split, []))
        answer.pairs.append((chosen, rejected))
    return list(found.values())


def agreed(answer: Answered, scores: Scores) -> float | None:
    """The share of an answer's pairs in which the preferred completion scores higher; None where scores lack.

    Equal scores count half.
    """
    if not all(completion in scores for completion in chain.from_iterable(answer.pairs)):
        return None
    wins = [
        1.0 if scores[chosen] > scores[rejected] else 0.5 if scores[chosen] == scores[rejected] else 0.0
        for chosen, rejected in answer.pairs
    ]
    return sum(wins) / len(wins)


def round_before(round: Round) -> Round | None:
    """The one whose reward model this round's is held against."""
    earlier = Round.objects.filter(project=round.project_id, number__lt=round.number, reward__isnull=False)
    return earlier.select_related("reward__run").order_by("-number").first()


def scores_of(version: ModelVersion, answers: Iterable[Answered]) -> Scores:
    completions = {completion for answer in answers for pair in answer.pairs for completion in pair}
    found = Score.objects.filter(model_version=version, completion__in=completions)
    return dict(found.values_list("completion", "value"))
