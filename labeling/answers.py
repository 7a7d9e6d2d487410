"""What an answer may say, and the preferences that follow from it. Nothing here writes."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _

from labeling.models import Judgment, Preference, Project

PREFERRED, TIE, ALL_BAD, ALL_GOOD = Judgment.Verdict.values
MAX_REASON_LENGTH = 10_000
MAX_EDIT_LENGTH = 100_000
RATINGS = range(1, 6)
DAY_SECONDS = 86_400

Ranking = list[list[int]]
Ratings = dict[str, list[int]]


class Better(NamedTuple):
    """A better answer, and the candidate position that it starts from."""

    position: int
    text: str


class Said(TypedDict, total=False):
    """What an answer may say beside its verdict, unchecked. Candidates go by their positions."""

    ranking: Any
    strength: int | None
    reason: str
    reason_tags: Sequence[str]
    ratings: Any
    edit: Better | None
    seconds_spent: float | None


class Answer(NamedTuple):
    """A judgment's content, checked against its comparison and its project."""

    verdict: str
    ranking: Ranking | None = None
    strength: int | None = None
    reason: str = ""
    reason_tags: Sequence[str] = ()
    ratings: Ratings = {}
    seconds_spent: float | None = None


class Pair(NamedTuple):
    """A preference between two candidate positions, before it is a row."""

    chosen: int
    rejected: int
    tie: bool
    strength: int
    weight: float


# Checking


def check_answer(project: Project, candidates: int, verdict: str, said: Said) -> Answer:
    """Return the answer in its stored form. Raises ValidationError that names the field."""
    _check_verdict(project, verdict)
    ranking = said.get("ranking")
    if ranking is not None:
        ranking = clean_ranking(ranking, candidates, partial=project.partial_rankings)
    if verdict == TIE:
        ranking = None
    strength = said.get("strength")
    _check_strength(project, verdict, ranking, strength, candidates)
    reason, tags = _clean_reason(said.get("reason", "")), _clean_tags(project, said.get("reason_tags", ()))
    if project.comment_required and not reason.strip():
        raise ValidationError({"reason": _("this project wants a comment with every answer")})
    if project.reason_required and not tags and not reason.strip():
        raise ValidationError({"reason": _("this project wants a reason for every answer")})
    return Answer(
        verdict=verdict,
        ranking=ranking,
        strength=strength,
        reason=reason,
        reason_tags=tags,
        ratings=_clean_ratings(project, said.get("ratings"), candidates),
        seconds_spent=clean_seconds(said.get("seconds_spent")),
    )


def _check_verdict(project: Project, verdict: str) -> None:
    if verdict not in Judgment.Verdict.values:
        raise ValidationError(
            {"verdict": _("must be one of %(verdicts)s") % {"verdicts": ", ".join(Judgment.Verdict.values)}}
        )
    offered = {TIE: project.ties, ALL_BAD: project.all_bad, ALL_GOOD: project.all_good}
    if not offered.get(verdict, True):
        raise ValidationError(
            {"verdict": _("%(verdict)s is not offered in this project") % {"verdict": verdict}}
        )


def clean_ranking(ranking: Any, candidates: int, field: str = "ranking", partial: bool = False) -> Ranking:
    """Return the ranking as groups, best first; it must name each candidate once, or two at least if partial."""
    if not isinstance(ranking, list | tuple):
        raise ValidationError({field: _("must be a list, best first")})
    groups = [group if isinstance(group, list | tuple) else [group] for group in ranking]
    named = [number for group in groups for number in group]
    if any(isinstance(number, bool) or not isinstance(number, int) for number in named):
        raise ValidationError({field: _("must hold numbers, best first, ties in a list of their own")})
    everyone = set(range(candidates))
    if len(set(named)) < len(named) or not set(named) <= everyone or not all(groups):
        raise ValidationError({field: _("must name each of 0 to %(last)s once") % {"last": candidates - 1}})
    if partial and len(named) < 2:
        raise ValidationError({field: _("must put at least two in order")})
    if not partial and set(named) != everyone:
        raise ValidationError({field: _("must name each of 0 to %(last)s once") % {"last": candidates - 1}})
    return [sorted(group) for group in groups]


def _check_strength(
    project: Project, verdict: str, ranking: Ranking | None, strength: int | None, candidates: int
) -> None:
    if verdict == PREFERRED and ranking is None:
        raise ValidationError({"ranking": _("must say which one is better")})
    if verdict == PREFERRED and len(ranking) < 2:
        raise ValidationError({"ranking": _("puts all on one level; that is a tie")})
    if strength is None:
        if verdict == PREFERRED and candidates == 2 and project.strengths:
            raise ValidationError({"strength": _("must say how much better: 1, 2 or 3")})
        return
    if verdict == TIE or ranking is None:
        raise ValidationError({"strength": _("has no meaning where nothing is better")})
    if isinstance(strength, bool) or strength not in (1, 2, 3):
        raise ValidationError({"strength": _("must be 1, 2 or 3")})


def _clean_reason(reason: Any) -> str:
    if not isinstance(reason, str) or "\x00" in reason:
        raise ValidationError({"reason": _("must be a text without NUL characters")})
    if len(reason) > MAX_REASON_LENGTH:
        raise ValidationError(
            {"reason": _("may have at most %(most)s characters") % {"most": MAX_REASON_LENGTH}}
        )
    return reason


def _clean_tags(project: Project, tags: Any) -> list[str]:
    """Return the tags, in the project's order. One that it has no more is refused: the person should see it."""
    if not isinstance(tags, list | tuple) or not all(isinstance(tag, str) for tag in tags):
        raise ValidationError({"reason_tags": _("must be a list of texts")})
    if unknown := set(tags) - set(project.reason_tags):
        raise ValidationError(
            {"reason_tags": _("%(tag)s is not one of this project's reasons") % {"tag": min(unknown)}}
        )
    return [tag for tag in project.reason_tags if tag in tags]


def _clean_ratings(project: Project, ratings: Any, candidates: int) -> Ratings:
    """Return a rating of each candidate by each of the project's criteria."""
    ratings = {} if ratings is None else ratings
    if not isinstance(ratings, Mapping):
        raise ValidationError({"ratings": _("must be an object of criteria")})
    if unknown := set(ratings) - set(project.criteria):
        raise ValidationError(
            {
                "ratings": _("%(criterion)s is not one of this project's criteria")
                % {"criterion": min(map(str, unknown))}
            }
        )
    for name in project.criteria:
        given = ratings.get(name)
        if not isinstance(given, list | tuple) or len(given) != candidates:
            raise ValidationError(
                {
                    "ratings": _("%(criterion)s must rate each of the %(count)s answers")
                    % {"criterion": name, "count": candidates}
                }
            )
        if any(isinstance(one, bool) or one not in RATINGS for one in given):
            raise ValidationError(
                {
                    "ratings": _("%(criterion)s must be rated by whole numbers from 1 to 5")
                    % {"criterion": name}
                }
            )
    return {name: [int(one) for one in ratings[name]] for name in project.criteria}


def clean_seconds(seconds: Any) -> float | None:
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
        raise ValidationError({"seconds_spent": _("must be a number of seconds, 0 or more")})
    # Clocks in browsers jump; a page left open over the weekend says nothing about the work.
    return float(min(seconds, DAY_SECONDS))


def check_edit(project: Project, candidates: int, edit: Better | None) -> Better | None:
    """Return a better answer without the spaces around it. Raises ValidationError for `edit`."""
    if edit is None:
        return None
    if not project.edits:
        raise ValidationError({"edit": _("this project asks for no better answers")})
    if isinstance(edit.position, bool) or edit.position not in range(candidates):
        raise ValidationError(
            {"edit": _("must start from one of the %(count)s answers") % {"count": candidates}}
        )
    if not isinstance(edit.text, str) or not edit.text.strip():
        raise ValidationError({"edit": _("is empty")})
    if len(edit.text) > MAX_EDIT_LENGTH:
        raise ValidationError({"edit": _("may have at most %(most)s characters") % {"most": MAX_EDIT_LENGTH}})
    return Better(edit.position, edit.text.replace("\r\n", "\n").strip())


# Preferences


def derive_pairs(answer: Answer, candidates: int, adjacent_only: bool = False) -> list[Pair]:
    """Return the preferences that an answer implies; their weights add up to 1.

    Without a ranking all candidates are on one level. Pairs of one level are ties. Of candidates that a ranking
    leaves out nothing follows.
    """
    groups = answer.ranking or [list(range(candidates))]
    level = {position: number for number, group in enumerate(groups) for position in group}
    order = [position for group in groups for position in group]
    pairs = list(itertools.pairwise(order) if adjacent_only else itertools.combinations(order, 2))
    return [
        Pair(
            chosen=better,
            rejected=worse,
            tie=level[better] == level[worse],
            strength=0 if level[better] == level[worse] else answer.strength or 1,
            weight=1 / len(pairs),
        )
        for better, worse in pairs
    ]


def build_preferences(
    judgment: Judgment, project: Project, prompt_id: int, completions: list[int]
) -> list[Preference]:
    """Make a judgment's preferences, not yet saved. completions: ids of the candidates by position."""
    answer = Answer(judgment.verdict, judgment.ranking, judgment.strength)
    adjacent_only = project.ranking_pairs == Project.RankingPairs.ADJACENT
    return [
        Preference(
            project=project,
            prompt_id=prompt_id,
            judgment=judgment,
            chosen_id=completions[pair.chosen],
            rejected_id=completions[pair.rejected],
            tie=pair.tie,
            both_bad=judgment.verdict == ALL_BAD,
            both_good=judgment.verdict == ALL_GOOD,
            strength=pair.strength,
            weight=pair.weight,
        )
        for pair in derive_pairs(answer, len(completions), adjacent_only)
    ]
