"""What a person's answers did: what each round learned from them, and where its reward model agrees with them.

All of it is of the person's own answers: counted as they were frozen, and looked at as far as they still stand. `followup`
has their candidates scored, and prompts answered again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from typing import Any, NamedTuple

from django.db.models import Exists, F, OuterRef, Q, Subquery
from django.utils.translation import gettext as _

from labeling import repeats
from labeling.answers import PREFERRED
from labeling.models import (
    Assignment,
    Comparison,
    Completion,
    DatasetEntry,
    DatasetVersion,
    Judgment,
    Project,
    Prompt,
    User,
)
from labeling.rendering import render_markdown
from labeling.views.mine import in_words
from training.engine.intervals import share_interval
from training.engine.records import PromptRecord
from training.models import Contribution, FreshAnswer, ModelVersion, Round, RoundQuerySet, Score

NEWEST_ANSWERS = 100  # of a person, that a round's reward model is asked about
MOST_LOOKED_AT = 1_000  # of a person's answers in all projects, to find those in one
OTHER_ROUNDS_SHOWN = 5
DISAGREEMENTS_SHOWN = 5
PROMPTS_SHOWN = 3
TRAIN, EVAL = "train", "eval"  # the splits of a dataset version
WHOLE = (0.0, 1.0)
NOT_GIVEN = "not_given"  # of train what a reward model was not given, since its prompts are another one's

Pair = tuple[int, int]  # ids of two completions, the preferred one first
Scores = Mapping[int, float]  # of completions, by their ids


class Answered(NamedTuple):
    """A person's standing answer with a winner, as a dataset version holds it."""

    judgment: int
    person: int
    prompt: int
    split: str
    pairs: list[Pair]


class Learned(NamedTuple):
    """How many of a person's answers a dataset version holds, and how many preferences follow from them."""

    trained: int = 0
    held_out: int = 0
    preferences: int = 0


class Agreement(NamedTuple):
    """How often a reward model scores what the person preferred higher: of how many answers, which share."""

    of: int
    share: float
    interval: tuple[float, float]  # of 95 %: the fewer prompts the answers are to, the wider

    @property
    def percent(self) -> int:
        return round(100 * self.share)

    @property
    def low(self) -> int:
        return round(100 * self.interval[0])

    @property
    def high(self) -> int:
        return round(100 * self.interval[1])

    @property
    def width(self) -> int:
        """Of the interval, where 0 to 100 is drawn as a bar."""
        return self.high - self.low

    @property
    def place(self) -> int:
        """Of the figure's mark on that bar, which is 1 wide."""
        return min(self.percent, 99)


@dataclass
class Told:
    """What one round did with a person's answers."""

    round: Round
    spoken_of: bool  # Whether people are told of its reward model.
    learned: Learned
    answers: list[Answered]
    scored: list[Answered]  # those of them that the reward model was asked about
    scores: Scores

    @cached_property
    def now(self) -> dict[str, Agreement]:
        """By split, how often the round's reward model agrees."""
        return agreement(self.scored, self.scores)

    @cached_property
    def held_out(self) -> list[Answered]:
        """Those scored that nothing learns from."""
        return [answer for answer in self.scored if answer.split == EVAL]

    @cached_property
    def scores_before(self) -> Scores:
        """What the reward model before scored of the held-out answers."""
        earlier = round_before(self.round) if self.held_out else None
        return scores_of(earlier.reward, self.held_out) if earlier else {}

    @cached_property
    def before(self) -> Agreement | None:
        """How often the reward model before agrees with the same held-out answers.

        Answers that the newer one learned from tell of no progress: the older one may have had to foresee them.
        """
        theirs = agreement(self.held_out, self.scores_before).get(EVAL)
        # A figure of other answers than these could not be held beside theirs.
        return theirs if theirs and theirs.of == self.now[EVAL].of else None

    @property
    def differing(self) -> int:
        """On how many of those the two differ: the fewer, the more a change between their figures is chance."""
        return sum(
            agreed(answer, self.scores) != agreed(answer, self.scores_before) for answer in self.held_out
        )

    @property
    def unmeasured(self) -> str:
        """Why the reward model was not asked about the answers; empty where it was."""
        round, Stage = self.round, Round.Stage
        if self.now:
            return ""
        if round.is_open:
            return _("The reward model is asked about your answers when the round is over.")
        if round.outcome == Round.Outcome.CANCELLED:
            return _("The round was cancelled, so its reward model is not held against your answers.")
        if round.outcome == Round.Outcome.HALTED and round.stage == Stage.REWARD_GATE:
            return _("The reward model was not used, so it was not asked about your answers.")
        if round.outcome == Round.Outcome.HALTED and round.stage not in Round.WITH_POLICY:
            return _("No policy came of the round, so its reward model was not asked about your answers.")
        if round.afterwards != Round.Afterwards.OVER:
            return _("The reward model is still to be asked about your answers. Look again later.")
        return _("The reward model was not asked about your answers.")

    @cached_property
    def contradicted(self) -> list[Answered]:
        """The answers that the reward model contradicts, most first."""
        found = [answer for answer in self.scored if against(answer, self.scores) > 0]
        return sorted(found, key=lambda answer: against(answer, self.scores), reverse=True)

    @property
    def named(self) -> list[Answered]:
        """Those of them that the person may be led back to: none that is held out.

        Changed because a reward model disagrees, held-out answers would come to agree with what they are to measure.
        """
        return [answer for answer in self.contradicted if answer.split != EVAL]

    @property
    def kept_unnamed(self) -> bool:
        """Whether it contradicts held-out answers as well."""
        return len(self.named) < len(self.contradicted)

    @property
    def answering(self) -> bool:
        """Whether the policy in use is still to answer prompts again."""
        return self.spoken_of and self.round.afterwards != Round.Afterwards.OVER

    @property
    def shared(self) -> bool:
        """Whether its reward model was given a part of the training prompts only."""
        return span_of(self.round) != WHOLE

    @cached_property
    def set_aside(self) -> bool:
        """Whether the other part taught nothing: the reward model that it was kept for came to nothing.

        DPO has a policy learn from the whole version.
        """
        return (
            self.shared
            and self.round.held_out_reward_id is None
            and not self.round.runs.filter(method="dpo", stage=Round.Stage.POLICY).exists()
        )


class Fresh(NamedTuple):
    """What a policy says to prompts that a person judged."""

    answers: list[dict[str, Any]]
    kept_back: bool  # There is something, but only to prompts about which the person may be asked.


# What a version holds of a person


def considered(person: User, version: DatasetVersion) -> list[Answered]:
    """The person's newest standing answers with a winner among those that were frozen, newest first.

    A pair is one preferred candidate over another; what the person wrote as a better answer is not among them.
    """
    edit = "preference__judgment__edit"
    of_candidates = Q(**{edit: None}) | ~Q(preference__chosen=F(f"{edit}__completion"))
    found: dict[int, Answered] = {}
    rows = (
        DatasetEntry.objects.filter(version=version, preference__judgment__in=_newest(person, version))
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


def _newest(person: User, version: DatasetVersion) -> list[int]:
    """The ids of those answers. Fewer are found of a person who has said most of late in other projects.

    They are picked out here and not in the query, which would otherwise walk through those projects for the last of them.
    """
    own = Contribution.objects.filter(version=version, person=person)
    said = Judgment.objects.current().filter(annotator=person, pk__lte=Subquery(own.values("newest")))
    looked_at = said.order_by("-id").values_list(
        "pk", "verdict", "comparison__project", "comparison__reserved_for"
    )[:MOST_LOOKED_AT]
    here = (PREFERRED, version.project_id, None)  # a repeat, which is reserved, trains nothing
    return [pk for pk, *where in looked_at if tuple(where) == here][:NEWEST_ANSWERS]


def learned(person: User, versions: Iterable[int]) -> dict[int, Learned]:
    """By dataset version what it holds of the person's answers, also of those changed or taken back since."""
    rows = Contribution.objects.filter(version__in=list(versions), person=person)
    return {row.version_id: Learned(row.trained, row.held_out, row.preferences) for row in rows}


def span_of(round: Round) -> tuple[float, float]:
    """From where to where the prompts lie that the round's reward model was given."""
    run = round.reward.run
    return tuple(run.config.get("prompt_span", WHOLE)) if run else WHOLE


def as_given(answers: list[Answered], round: Round) -> list[Answered]:
    """The answers, with those set apart that the round's reward model was not given although they trained another."""
    span = span_of(round)
    if span == WHOLE:
        return answers
    prompts = Prompt.objects.filter(pk__in={answer.prompt for answer in answers if answer.split == TRAIN})
    outside = {prompt.pk for prompt in prompts if not PromptRecord(prompt=prompt.messages).lies_within(span)}
    return [answer._replace(split=NOT_GIVEN) if answer.prompt in outside else answer for answer in answers]


# Agreement: functions over plain values


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


def agreement(answers: Iterable[Answered], scores: Scores) -> dict[str, Agreement]:
    """By split: answers that were learned from are easier than those that were held out."""
    found: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for answer in answers:
        if (share := agreed(answer, scores)) is not None:
            found[answer.split].append((share, answer.prompt))
    return {split: _agreement(*zip(*rows, strict=True)) for split, rows in found.items()}


def _agreement(shares: Sequence[float], prompts: Sequence[int]) -> Agreement:
    share, (low, high) = share_interval(shares, prompts)
    return Agreement(len(shares), share, (low, high))


def against(answer: Answered, scores: Scores) -> float:
    """By how much a reward model contradicts an answer most: the other's score over the preferred one's."""
    return max(scores[rejected] - scores[chosen] for chosen, rejected in answer.pairs)


# What a person is told


def newest_round(project: Project) -> Round | None:
    """The newest of whose reward model people are told; where there is none, the newest that trained one."""
    rounds = _trained(project)
    return rounds.spoken_of().first() or rounds.first()


def other_rounds(project: Project, newest: Round | None, before: int | None) -> list[Round]:
    """The newest of the other rounds that are over, one more than are shown."""
    rounds = _trained(project).exclude(outcome=Round.Outcome.OPEN)
    if newest:
        rounds = rounds.exclude(pk=newest.pk)
    if before:
        rounds = rounds.filter(number__lt=before)
    return list(rounds[: OTHER_ROUNDS_SHOWN + 1])


def _trained(project: Project) -> RoundQuerySet:
    """Rounds with a reward model, the newest first."""
    rounds = Round.objects.filter(project=project, reward__isnull=False, dataset_version__isnull=False)
    return rounds.select_related("reward__run", "dataset_version").order_by("-number")


def round_before(round: Round) -> Round | None:
    """The one whose reward model this round's is held against."""
    earlier = Round.objects.spoken_of().filter(project=round.project_id, number__lt=round.number)
    return earlier.select_related("reward__run").order_by("-number").first()


def told(person: User, rounds: Sequence[Round]) -> list[Told]:
    """What each round did, in the order given."""
    counted = learned(person, {round.dataset_version_id for round in rounds})
    spoken_of = set(Round.objects.spoken_of().filter(pk__in=[round.pk for round in rounds]))
    return [
        _told(person, round, counted.get(round.dataset_version_id, Learned()), round in spoken_of)
        for round in rounds
    ]


def _told(person: User, round: Round, counted: Learned, spoken_of: bool) -> Told:
    answers = as_given(considered(person, round.dataset_version), round)
    scores = scores_of(round.reward, answers) if spoken_of else {}
    scored = [answer for answer in answers if agreed(answer, scores) is not None]
    return Told(round, spoken_of, counted, answers, scored, scores)


def scores_of(version: ModelVersion, answers: Iterable[Answered]) -> Scores:
    completions = {completion for answer in answers for pair in answer.pairs for completion in pair}
    found = Score.objects.filter(model_version=version, completion__in=completions)
    return dict(found.values_list("completion", "value"))


def disagreements(person: User, told: Told) -> list[dict[str, Any]]:
    """The answers that the round's reward model contradicts most, in words, as the person finds them again."""
    shown = [answer.judgment for answer in may_be_told(person, told.named)[:DISAGREEMENTS_SHOWN]]
    judgments = Judgment.objects.select_related("assignment", "comparison__prompt").in_bulk(shown)
    return [in_words(judgments[judgment]) for judgment in shown]


def may_be_told(person: User, answers: Sequence[Answered]) -> list[Answered]:
    """The answers to prompts about which the person is asked nothing more."""
    waiting = may_be_asked(person, {answer.prompt for answer in answers})
    return [answer for answer in answers if answer.prompt not in waiting]


def may_be_asked(person: User, prompts: Collection[int]) -> set[int]:
    """Those of the prompts about which the person holds a comparison or may still get one, as a repeat as well.

    What a model says of them is kept back: the person is to answer without having been told. What a later round asks
    is not known yet, and its candidates are others.
    """
    judged = Assignment.objects.filter(
        comparison=OuterRef("pk"), annotator=person, outcome=Assignment.Outcome.JUDGED
    )
    open_to_them = Q(reserved_for=None) | Q(reserved_for=person)
    found = Comparison.objects.filter(~Exists(judged), open_to_them, closed_at=None, prompt__in=prompts)
    repeatable = repeats.drawn_from(prompts).filter(project__repeat_share__gt=0)
    return set(found.values_list("prompt", flat=True)) | set(repeatable.values_list("pk", flat=True))


def fresh_answers(person: User, policy: ModelVersion | None, answers: Iterable[Answered]) -> Fresh:
    """What a policy says to prompts of these answers, beside what the person chose."""
    chosen: dict[int, int] = {}
    for answer in answers:
        chosen.setdefault(answer.prompt, answer.pairs[0][0])
    found = FreshAnswer.objects.filter(model_version=policy, prompt__in=chosen)
    fresh = dict(found.values_list("prompt", "text"))
    waiting = may_be_asked(person, fresh)
    free = (prompt for prompt in chosen if prompt in fresh and prompt not in waiting)
    shown = list(islice(free, PROMPTS_SHOWN))
    prompts = Prompt.objects.in_bulk(shown)
    completions = Completion.objects.in_bulk([chosen[prompt] for prompt in shown])
    rows = [
        {
            "prompt": prompts[prompt].text,
            "chosen": render_markdown(completions[chosen[prompt]].text),
            "fresh": render_markdown(fresh[prompt]),
        }
        for prompt in shown
    ]
    return Fresh(rows, kept_back=bool(fresh and not rows))
