"""From rows of a preference file to what a reward model learns from: judgments with their preferences."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import torch

from training.engine.batches import Encoder, Tokens
from training.engine.networks import generator
from training.engine.processes import ALONE, Processes
from training.engine.records import PreferenceRecord, RankingRecord

OVERALL = 0  # the label of the score itself; criteria come after it


@dataclass(frozen=True)
class Preference:
    """One completion of a judgment over another, both by their place in it; of a tie the order means nothing."""

    chosen: int
    rejected: int
    tie: bool
    weight: float  # the judgment's own, times its strength, shared among the pairs of a ranking
    label: int = OVERALL
    strength: int | None = None  # 1 to 3; None where nobody said


@dataclass(frozen=True)
class Judgment:
    """What one person said of completions of one prompt; each completion is run once, however many pairs."""

    rows: tuple[Tokens, ...]
    preferences: tuple[Preference, ...]
    prompt: str  # what two judgments of the same prompt share
    draws: tuple[int, ...] = ()  # how often each member's bootstrap sample holds it; empty: one member, once

    @property
    def longest(self) -> int:
        """Tokens of the longest row, to which all are padded."""
        return max(row.length for row in self.rows)

    @property
    def weight(self) -> float:
        """Of the overall preferences; what a step's loss is divided by."""
        return sum(one.weight for one in self.preferences if one.label == OVERALL)


def within_span(
    records: Sequence[PreferenceRecord | RankingRecord], span: tuple[float, float]
) -> list[PreferenceRecord | RankingRecord]:
    """The rows whose prompts lie in the span."""
    return [record for record in records if record.lies_within(span)]


def encode(
    records: Sequence[PreferenceRecord | RankingRecord], encoder: Encoder, criteria: Sequence[str] = ()
) -> list[Judgment]:
    """Every completion that is part of a preference, always with an end token, as the policy's will be scored."""
    prompts = encoder.prompts([record.messages for record in records])
    kept = [preferences_of(record, criteria) for record in records]
    places = [sorted({place for one in each for place in (one.chosen, one.rejected)}) for each in kept]
    texts = [record.answers[place] for record, used in zip(records, places, strict=True) for place in used]
    answers = iter(encoder.scored(texts))
    judgments = []
    for record, prompt, preferences, used in zip(records, prompts, kept, places, strict=True):
        rows = tuple(Tokens(prompt, next(answers)) for _ in used)
        new = {place: number for number, place in enumerate(used)}
        moved = tuple(
            dataclasses.replace(one, chosen=new[one.chosen], rejected=new[one.rejected])
            for one in preferences
        )
        judgments.append(Judgment(rows, moved, record.key))
    return judgments


def preferences_of(
    record: PreferenceRecord | RankingRecord, criteria: Sequence[str] = ()
) -> list[Preference]:
    """The overall preferences of a row, then those of each criterion that it rates."""
    if isinstance(record, RankingRecord):
        found = ranked(record.ranking, record.weight)
    else:
        found = [Preference(0, 1, record.undecided, record.loss_weight, OVERALL, record.strength or None)]
    for label, name in enumerate(criteria, 1):
        rated = [
            (rating, place)
            for place, rating in enumerate(record.criteria.get(name, ()))
            if rating is not None
        ]
        if len(rated) > 1:
            levels = sorted({rating for rating, _ in rated}, reverse=True)
            groups = [[place for rating, place in rated if rating == level] for level in levels]
            found += ranked(groups, record.weight, label)
    return found


def ranked(groups: Sequence[Sequence[int]], weight: float, label: int = OVERALL) -> list[Preference]:
    """All pairs of a ranking, best group first; whoever shares a group is tied.

    Each of the C(k, 2) pairs of k ranked completions gets an equal part of the weight: they are not
    independent, and together count as one judgment. Source: InstructGPT, arXiv 2203.02155, section 3.5.
    """
    places = [(rank, place) for rank, group in enumerate(groups) for place in group]
    part = weight / comb(len(places), 2)
    return [
        Preference(one, other, rank == other_rank, part, label)
        for (rank, one), (other_rank, other) in combinations(places, 2)
    ]


def bootstrap(judgments: Sequence[Judgment], members: int, seed: int, name: str) -> list[Judgment]:
    """Say how often each judgment is in each member's sample: Poisson numbers of mean 1, the same in all epochs.

    That is drawing with replacement, as of a file so long that its length is no constraint. A single member
    sees everything once. Source: Osband et al. 2016, arXiv 1602.04621; Poisson for the multinomial: Oza 2001.
    """
    if members == 1:
        return list(judgments)
    rates = torch.ones(len(judgments), members)
    draws = torch.poisson(rates, generator=generator(seed, f"bootstrap {name}")).long().tolist()
    return [
        dataclasses.replace(judgment, draws=tuple(row))
        for judgment, row in zip(judgments, draws, strict=True)
    ]


def passes(
    judgments: Sequence[Judgment], budget: int, lines: bool, processes: Processes = ALONE
) -> list[list[Judgment]]:
    """Judgments in groups of like length, whose rows hold at most `budget` tokens: padded, or on one line.

    A judgment stays whole: its losses need all its scores. One above the budget gets a pass of its own. Of
    several processes each gets its share.
    """
    groups: list[list[Judgment]] = []
    for judgment in processes.deal(sorted(judgments, key=lambda one: -one.longest)):
        if not groups or _columns([*groups[-1], judgment], lines) > budget:
            groups.append([])
        groups[-1].append(judgment)
    return groups


def _columns(judgments: Sequence[Judgment], lines: bool) -> int:
    """What one pass over them computes, in tokens."""
    if lines:
        return sum(
            len(one.rows[0].prompt) + sum(len(row.completion) for row in one.rows) for one in judgments
        )
    return sum(len(one.rows) for one in judgments) * max(one.longest for one in judgments)
