"""How far people say the same: one person's answers beside those of others to the same comparisons."""

from collections import defaultdict
from typing import NamedTuple

from labeling.models import Judgment, Project, User

MOST_ANSWERS = 2_000  # of the person, the newest


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
    # The candidates on the highest level of an answer, or its verdict where all are on one.
    said: dict[int, dict[int, frozenset[int] | str]] = defaultdict(dict)
    judgments = Judgment.objects.current().filter(comparison__in=mine)
    for comparison, annotator, verdict, ranking in judgments.values_list(
        "comparison", "annotator", "verdict", "ranking"
    ):
        said[comparison][annotator] = frozenset(ranking[0]) if ranking else verdict
    same = of = 0
    for answers in said.values():
        own_best = answers.pop(person.pk)
        same += sum(other == own_best for other in answers.values())
        of += len(answers)
    return Agreement(same, of)
