"""How far people say the same: one person's answers beside those of others, and beside their own of before."""

import math
from collections import defaultdict
from collections.abc import Iterable
from statistics import NormalDist
from typing import NamedTuple

from labeling.models import Comparison, Judgment, Project, User

MOST_ANSWERS = 2_000  # of the person, the newest
MOST_REPEATS = 20_000  # of a project's people together, the newest
Z = NormalDist().inv_cdf(0.975)  # of intervals that hold the truth 19 times of 20

Best = frozenset[int] | str


class Agreement(NamedTuple):
    """Of answers that can be held against others': how many say the same."""

    same: int
    of: int

    @property
    def share(self) -> float:
        """0 to 1; 0 where there is nothing to hold them against."""
        return self.same / self.of if self.of else 0.0


def with_others(person: User, project: Project) -> Agreement:
    """The person's newest answers, each beside every other person's standing answer to the same comparison."""
    own = Judgment.objects.current().filter(annotator=person, comparison__project=project)
    mine = dict(own.order_by("-id").values_list("comparison", "id")[:MOST_ANSWERS])
    said: dict[int, dict[int, Best]] = defaultdict(dict)
    judgments = Judgment.objects.current().filter(comparison__in=mine)
    for comparison, annotator, verdict, ranking in judgments.values_list(
        "comparison", "annotator", "verdict", "ranking"
    ):
        said[comparison][annotator] = best(verdict, ranking)
    same = of = 0
    for answers in said.values():
        own_best = answers.pop(person.pk, None)
        if own_best is None:  # taken back since it was looked for
            continue
        same += sum(other == own_best for other in answers.values())
        of += len(answers)
    return Agreement(same, of)


def best(verdict: str, ranking: list[list[int]] | None) -> Best:
    """The candidates on the highest level of an answer that prefers some, else its verdict.

    That all are bad, or good, may come with an order; it is another thing to say all the same.
    """
    return frozenset(ranking[0]) if ranking and verdict == Judgment.Verdict.PREFERRED else verdict


class Shown(NamedTuple):
    """What was said to a comparison, and which candidate stood where."""

    verdict: str
    ranking: list[list[int]] | None
    sides: list[int]

    @property
    def best(self) -> Best:
        return best(self.verdict, self.ranking)

    @property
    def place(self) -> int | None:
        """The place on screen of the one that was best; None where it was not one."""
        found = self.best
        return (
            self.sides.index(next(iter(found))) if isinstance(found, frozenset) and len(found) == 1 else None
        )


class Consistency(NamedTuple):
    """Of comparisons that were asked twice, sides swapped: how many were answered the same.

    same_side counts those where the person chose the same place on screen instead, and so another answer.
    """

    same: int = 0
    of: int = 0
    same_side: int = 0

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.same, self.of)

    @property
    def percents(self) -> str:
        low, high = self.interval
        return f"{low:.0%} to {high:.0%}"


def consistency(pairs: Iterable[tuple[Shown, Shown]]) -> Consistency:
    """Count what was said the first time beside what was said the second time."""
    same = of = same_side = 0
    for first, second in pairs:
        of += 1
        if first.best == second.best:
            same += 1
        elif first.place is not None and first.place == second.place:
            same_side += 1
    return Consistency(same, of, same_side)


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of a share, by Wilson's score; unlike the plain one it does not shrink to nothing at 0 and 1.

    Source: Wilson 1927; Brown, Cai and DasGupta 2001, section 3.1.1. Without trials it is 0 to 1.
    """
    if not trials:
        return 0.0, 1.0
    share, squared = successes / trials, Z * Z
    middle = (share + squared / (2 * trials)) / (1 + squared / trials)
    spread = (
        Z * math.sqrt(share * (1 - share) / trials + squared / (4 * trials * trials)) / (1 + squared / trials)
    )
    return max(0.0, middle - spread), min(1.0, middle + spread)


def with_themselves(project: Project, person: User | None = None) -> dict[int, Consistency]:
    """Of each person (or one) who was asked again: how far they agree with what they had said before.

    The first answer is the one that stood when it was asked again, the second the one that stands.
    """
    # An answer closes a repeat: those that wait or were skipped do not stand in the way of older ones.
    repeats = Comparison.objects.filter(
        project=project, reserved_for__isnull=False, closed_at__isnull=False
    ).order_by("-id")
    if person:
        repeats = repeats.filter(reserved_for=person)
    newest = list(repeats.values_list("pk", flat=True)[: MOST_ANSWERS if person else MOST_REPEATS])
    # By their ids and not in one query, in which the planner may join all judgments with all repeats.
    again = Judgment.objects.current().filter(comparison__in=newest)
    columns = ("verdict", "ranking", "assignment__sides")
    before = [f"comparison__repeats__{name}" for name in columns]
    pairs: dict[int, list[tuple[Shown, Shown]]] = defaultdict(list)
    for annotator, *said in again.values_list("annotator", *before, *columns):
        pairs[annotator].append((Shown(*said[:3]), Shown(*said[3:])))
    return {annotator: consistency(of_one) for annotator, of_one in pairs.items()}
