"""What follows a round: runs by which people see what their answers did.

The reward model that was trained, and the one before it, score what people compared; the policy in use answers a few
prompts that they judged. Rounds come first, whosever they are, for all share one queue: a run is started only while no
other is under way in the whole installation, or, after an hour of that, in the project. What fails is left out. Looking is
harmless, as in `loop`.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby, zip_longest
from operator import attrgetter
from pathlib import Path
from typing import Any

from django.db import DatabaseError, connection, transaction
from django.db.models import QuerySet
from django.utils import timezone

from config import storage
from labeling.access import ANNOTATING
from labeling.models import Completion, DatasetVersion, Membership, Prompt, User
from training import candidates, effect, runs
from training.engine.config import EngineError
from training.engine.records import CompletionRecord, ScoreRecord, iterate_records
from training.models import FreshAnswer, ModelVersion, Round, Run, Score

logger = logging.getLogger(__name__)

Afterwards = Round.Afterwards
LOCK = 7_303, 0
LONGEST_WAIT = timedelta(hours=1)  # for other projects, from the end of the round
MOST_PEOPLE = 100  # whose answers are looked at: those who answered last
MOST_SCORED = 5_000  # completions, by each of the two reward models
PROMPTS_EACH = 3  # a person's prompts that the policy answers again
MOST_ANSWERED = 300  # prompts of all people
# How a reward model reads, and on what it computes: as when it was trained.
READING = (
    "device",
    "precision",
    "threads",
    "max_prompt_tokens",
    "max_completion_tokens",
    "micro_batch_tokens",
)


@dataclass(frozen=True)
class Step:
    """One thing that follows a round: how its run is started (None: there is nothing to say), what is kept of it."""

    start: Callable[[Round], Run | None]
    keep: Callable[[Run], None]


# Moving on


def advance_all() -> None:
    """Of each project the newest round; what follows an older one would come too late to be of interest."""
    waiting = _waiting().order_by("project", "-number")
    for _, rounds in groupby(waiting.values_list("project", "pk", named=True), attrgetter("project")):
        newest, *older = [round.pk for round in rounds]
        for round_id in older:
            _logging(give_up, round_id)
        _logging(advance, newest)


def _logging(act: Callable[[int], None], round_id: int) -> None:
    """What one round meets is not to keep the others from their turn."""
    try:
        act(round_id)
    except Exception:
        logger.exception("what follows round %s could not be moved on", round_id)


def _waiting() -> QuerySet[Round]:
    """Rounds of which something is still to follow, where the loop is not paused."""
    return Round.objects.followed().filter(project__loop_settings__paused=False)


def advance(round_id: int) -> None:
    """Take what follows a round as far as it goes now."""
    while _step(round_id):
        pass


def give_up(round_id: int) -> None:
    """Let nothing more follow a round: a run under way is stopped, and what one has brought is kept."""
    with transaction.atomic():
        round = _locked(round_id)
        if round is None:
            return
        run = _run_of(round)
        if run and run.unfinished:
            runs.request_stop(run)
        elif run:
            _passed(round)
        round.afterwards = Afterwards.OVER
        round.save(update_fields=["afterwards"])


def _locked(round_id: int) -> Round | None:
    """The round, where something is still to follow it and no other process is at it."""
    return (
        _waiting()
        .select_for_update(skip_locked=True, no_key=True, of=("self",))
        .select_related("project__loop_settings__policy", "dataset_version", "reward__run")
        .filter(pk=round_id)
        .first()
    )


def _step(round_id: int) -> bool:
    """One further, if its run is over. False where it waits, all is over, or another process is at it."""
    with transaction.atomic():
        round = _locked(round_id)
        if round is None or not _passed(round):
            return False
        order = Afterwards.values
        round.afterwards = order[order.index(round.afterwards) + 1]
        round.save(update_fields=["afterwards"])
    return round.afterwards != Afterwards.OVER


def _passed(round: Round) -> bool:
    """Whether what comes next has been done, or cannot be. What fails leaves nothing behind."""
    try:
        with transaction.atomic():
            return _attempt(round, STEPS[round.afterwards])
    except DatabaseError:
        raise
    except runs.RunRefused as reason:
        logger.warning("after %s of project %s: %s", round, round.project_id, reason)
    except Exception:
        logger.exception("after %s of project %s", round, round.project_id)
    return True


def _attempt(round: Round, step: Step) -> bool:
    run = _run_of(round)
    if run is None:
        return _nothing_else_waits(round) and step.start(round) is None
    if run.status == Run.Status.DONE:
        step.keep(run)
    return not run.unfinished


def _run_of(round: Round) -> Run | None:
    """The run that does what follows the round now."""
    return Run.objects.filter(round=round, stage=round.afterwards).order_by("-id").first()


def _nothing_else_waits(round: Round) -> bool:
    """Whether no run is under way, nor soon will be: a round between two of its runs has none for a moment.

    Among several projects at work all the time that moment might never come, so it is not waited for without end.
    One process at a time is told so, until its transaction ends: by then the next one sees the run that it started.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s, %s)", LOCK)
        (alone,) = cursor.fetchone()
    under_way, at_work = Run.objects.unfinished(), Round.objects.at_work()
    if timezone.now() - round.finished_at > LONGEST_WAIT:
        under_way, at_work = (rows.filter(project=round.project_id) for rows in (under_way, at_work))
    return alone and not under_way.exists() and not at_work.exists()


# Scores


def _score_by_the_new(round: Round) -> Run | None:
    return _score(round, round.reward)


def _score_by_the_one_before(round: Round) -> Run | None:
    before = effect.round_before(round)
    return _score(round, before.reward) if before else None


def _score(round: Round, version: ModelVersion) -> Run | None:
    wanted = completions_to_score(round)
    known = Score.objects.filter(model_version=version, completion__in=wanted)
    wanted = set(wanted).difference(known.values_list("completion", flat=True))
    if not wanted:
        return None
    trained = version.run.config if version.run else {}
    config = {name: trained[name] for name in READING if name in trained}
    config |= round.project.loop_settings.overrides.get("score", {})
    return _start(round, "score", config | {"completions": write_completions(wanted)}, input_model=version)


def completions_to_score(round: Round) -> list[int]:
    """Completions of people's newest answers, one answer of each person after another, as far as the bound goes."""
    found: dict[int, None] = {}
    for answer in _in_turn(_answers(round).values()):
        ids = [completion for pair in answer.pairs for completion in pair]
        if len(found.keys() | ids) > MOST_SCORED:
            break
        found |= dict.fromkeys(ids)
    return list(found)


def write_completions(ids: Iterable[int]) -> str:
    """Store completions as the engine reads them. Returns the file's path."""
    completions = Completion.objects.filter(pk__in=ids).select_related("prompt").order_by("pk")
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as file:
        for completion in completions.iterator(chunk_size=1000):
            row = {
                "id": str(completion.pk),
                "prompt": completion.prompt.messages,
                "completion": completion.text,
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        file.flush()
        return str(storage.local_path(storage.put_file(Path(file.name), "completions")))


def _keep_scores(run: Run) -> None:
    values = {int(row.id): row.score for row in _rows(run, "scores.jsonl", ScoreRecord)}
    still_there = Completion.objects.filter(pk__in=values).values_list("pk", flat=True)
    Score.objects.bulk_create(
        (
            Score(model_version_id=run.input_model_id, completion_id=pk, value=values[pk], run=run)
            for pk in still_there
        ),
        ignore_conflicts=True,
        batch_size=1000,
    )


# Fresh answers


def _answer_again(round: Round) -> Run | None:
    """One sample of each prompt, drawn as candidates are, from the policy in use, also where a server writes those.

    It may be an earlier round's: what followed that one was given up where this one ended first.
    """
    prompts = prompts_to_answer(round)
    if not prompts:
        return None
    settings = round.project.loop_settings.overrides.get("generate", {})
    config = {name: value for name, value in settings.items() if not name.startswith("server")}
    config |= {"prompts": candidates.write_prompts(prompts), "samples_per_prompt": 1}
    return _start(round, "generate", config, input_model=round.project.loop_settings.policy)


def prompts_to_answer(round: Round) -> list[Prompt]:
    """The prompts of people's newest answers, a few of each person, that the policy in use has not answered yet.

    Those about which the person may be asked would not be shown to them.
    """
    found: dict[int, set[int]] = {}
    told = (effect.may_be_told(person, answers) for person, answers in _answers(round).items())
    for answer in _in_turn(told):
        of_person = found.setdefault(answer.person, set())
        if len(of_person) < PROMPTS_EACH and len(set().union(*found.values())) < MOST_ANSWERED:
            of_person.add(answer.prompt)
    known = FreshAnswer.objects.filter(model_version=round.project.loop_settings.policy).values("prompt")
    wanted = Prompt.objects.filter(pk__in=set().union(*found.values())).exclude(pk__in=known)
    return list(wanted.order_by("pk"))


def _keep_answers(run: Run) -> None:
    texts = {
        int(row.id): row.completion
        for row in _rows(run, "completions.jsonl", CompletionRecord)
        if row.completion.strip() and "\x00" not in row.completion
    }
    still_there = Prompt.objects.filter(pk__in=texts).values_list("pk", flat=True)
    FreshAnswer.objects.bulk_create(
        (
            FreshAnswer(model_version_id=run.input_model_id, prompt_id=pk, text=texts[pk], run=run)
            for pk in still_there
        ),
        ignore_conflicts=True,
    )


# What the steps share


def people(version: DatasetVersion) -> list[User]:
    """Who annotates and has answers in the version, the last one first."""
    members = Membership.objects.active().filter(
        project=version.project_id, role__in=ANNOTATING, user__is_active=True
    )
    own = version.contributions.filter(person__in=members.values("user")).select_related("person")
    return [contribution.person for contribution in own.order_by("-newest")[:MOST_PEOPLE]]


def _answers(round: Round) -> dict[User, list[effect.Answered]]:
    version = round.dataset_version
    return {person: effect.considered(person, version) for person in people(version)}


def _in_turn(answers: Iterable[list[effect.Answered]]) -> Iterator[effect.Answered]:
    """The newest answer of each person, then the second of each, and so on, so that nobody crowds others out."""
    for turn in zip_longest(*answers):
        yield from (answer for answer in turn if answer)


def _start(round: Round, method: str, config: dict[str, Any], input_model: ModelVersion) -> Run:
    given = {"seed": round.seed, "long_prompts": "cut"} | config
    return runs.start(
        round.project, method, given, round=round, stage=round.afterwards, input_model=input_model
    )


def _rows(run: Run, name: str, kind: type) -> list[Any]:
    """What a run left; nothing where its folder was cleared away meanwhile."""
    try:
        return list(iterate_records(run.path / name, kind))
    except (OSError, EngineError):
        logger.exception("what run %s wrote cannot be read", run.pk)
        return []


STEPS = {
    Afterwards.SCORES: Step(_score_by_the_new, _keep_scores),
    Afterwards.EARLIER: Step(_score_by_the_one_before, _keep_scores),
    Afterwards.ANSWERS: Step(_answer_again, _keep_answers),
}
