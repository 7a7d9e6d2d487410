"""What the loop does next. A round is moved on under its row's lock, one stage at a time, as far as it goes.

Looking is harmless: `advance` may be called by anyone, at any time, any number of times. Each stage starts
only what is not there yet, so a crash between two writes costs a repetition, never a wrong row.
"""

from __future__ import annotations

import logging
import random
import secrets
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from django.core.exceptions import ValidationError
from django.db import DatabaseError, transaction
from django.db.models import Count, Exists, Max, OuterRef, Q
from django.utils import timezone

from labeling import datasets
from labeling.models import Comparison, DatasetVersion, Judgment, Membership, Project, User
from training import candidates, contributions, gates, launch, marked, runs
from training.engine.config import METHODS, check_sources
from training.models import LoopSettings, ModelVersion, Promotion, Round, Run

logger = logging.getLogger(__name__)

Stage = Round.Stage
MOST_POLICY_PROMPTS = 20_000
MOST_EVALUATION_PROMPTS = 500
LEFTOVER_PRIORITY = 10
# What the settings of a new loop say, for its manager to change. Four members cost a fifth more time than one,
# and show where a reward model is unsure: their spread marks samples, and may be taken off the reward.
ENGINE_SETTINGS = {"reward": {"members": 4}}


class RoundRefused(ValueError):
    """What was asked of the loop cannot be done now; the message says why in a sentence."""


class Halt(Exception):
    """The round cannot go on by itself; the message says why and what to do.

    A stage raises it to leave nothing behind, and returns it to keep what it wrote.
    """


# What managers ask for


def create_loop(project: Project, policy_location: str, **fields: Any) -> LoopSettings:
    """Register the first policy (a folder or a hub name) as policy-0 and give the project a loop.

    Raises EngineError for a folder that is no model.
    """
    existing = LoopSettings.objects.filter(project=project).first()
    if existing:
        return existing
    check_sources(METHODS["generate"].model_construct(model=policy_location))
    folder = Path(policy_location)
    digest = launch.weights_sha256(folder) if folder.is_dir() else ""
    with transaction.atomic():
        first = runs.register(project, ModelVersion.Kind.POLICY, policy_location, digest)
        Promotion.objects.create(project=project, version=first)
        fields = {"overrides": ENGINE_SETTINGS} | fields
        return LoopSettings.objects.create(project=project, first_policy=first, policy=first, **fields)


def start_round(
    project: Project, user: User | None = None, collect: bool = True, seed: int | None = None
) -> Round:
    """Open a round. Without `collect` it trains at once, on the answers that are there.

    Raises RoundRefused while another round is open; the database allows one only.
    """
    with transaction.atomic():
        settings = LoopSettings.objects.select_for_update(no_key=True).filter(project=project).first()
        if settings is None:
            raise RoundRefused("This project has no first policy yet.")
        if current := open_round(project):
            raise RoundRefused(f"Round {current.number} is still {current.get_stage_display()}.")
        stage = Stage.GENERATE if collect else Stage.REWARD
        last = Round.objects.filter(project=project).aggregate(last=Max("number"))["last"] or 0
        round = Round.objects.create(
            project=project,
            number=last + 1,
            stage=stage,
            target=settings.comparisons_per_round,
            seed=secrets.randbelow(2**31) if seed is None else seed,
            policy=settings.policy,
            times={stage: timezone.now().isoformat()},
            started_by=user,
        )
        _look_soon(round)
    return round


def open_round(project: Project) -> Round | None:
    return Round.objects.filter(project=project, outcome="").first()


def train_now(round: Round) -> None:
    """Stop collecting: train on the answers that are there. Raises RoundRefused where it is not collecting."""
    waiting = Round.objects.filter(pk=round.pk, outcome="", stage__in=[Stage.GENERATE, Stage.COLLECT])
    if not waiting.update(train_requested_at=timezone.now()):
        raise RoundRefused(f"Round {round.number} is not collecting answers.")
    _look_soon(round)


def retry(round: Round) -> None:
    """Try a halted round's stage again: failed runs are set aside, gates are held against today's limits."""
    with transaction.atomic():
        LoopSettings.objects.select_for_update(no_key=True).get(project=round.project)
        if open_round(round.project):
            raise RoundRefused("Another round is open; it has to end first.")
        halted = Round.objects.filter(pk=round.pk, outcome=Round.Outcome.HALTED)
        again = {"outcome": "", "message": "", "finished_at": None, "afterwards": Round.Afterwards.SCORES}
        if not halted.update(**again):
            raise RoundRefused(f"Round {round.number} is not halted.")
        aside = Run.objects.filter(round=round, stage=round.stage)
        if round.stage != Stage.GENERATE:  # where all of it may have been the same answer
            aside = aside.filter(status__in=[Run.Status.FAILED, Run.Status.STOPPED])
        aside.update(stage="")
        _forget_answers(round)
        _look_soon(round)


def _forget_answers(round: Round) -> None:
    """What the policy in use answered after the round halted: published, its own is to be asked."""
    asked = Run.objects.filter(round=round, stage=Round.Afterwards.ANSWERS)
    for run in asked.unfinished():
        runs.request_stop(run)
    asked.update(stage="")


def cancel(round: Round, user: User | None = None) -> None:
    """End an open or halted round. Its answers stay, and the next round trains on them too."""
    ended = Round.objects.filter(pk=round.pk, outcome__in=["", Round.Outcome.HALTED]).update(
        outcome=Round.Outcome.CANCELLED,
        finished_at=timezone.now(),
        message=f"Cancelled by {user}." if user else "Cancelled.",
    )
    if not ended:
        raise RoundRefused(f"Round {round.number} is already over.")
    for run in Run.objects.unfinished().filter(round=round):
        runs.request_stop(run, user)
    _put_leftovers_last(round)


def promote(version: ModelVersion, user: User | None = None, round: Round | None = None) -> Promotion:
    """Put a policy in use: the next round starts from it. Rolling back is promoting an earlier one."""
    if version.kind != ModelVersion.Kind.POLICY:
        raise RoundRefused(f"{version.name} is a reward model; only a policy can be put in use.")
    with transaction.atomic():
        settings = LoopSettings.objects.select_for_update(no_key=True).get(project=version.project)
        previous, settings.policy = settings.policy, version
        settings.save(update_fields=["policy"])
        return Promotion.objects.create(
            project=version.project, version=version, previous=previous, promoted_by=user, round=round
        )


def _look_soon(round: Round) -> None:
    transaction.on_commit(lambda: runs.send("training.tasks.advance_round", round.pk))


# Moving on


def advance_open() -> None:
    """Every open round; what one of them meets is not to keep the others from their turn."""
    for round_id in Round.objects.filter(outcome="").order_by("id").values_list("pk", flat=True):
        try:
            advance(round_id)
        except Exception:
            logger.exception("round %s could not be moved on", round_id)


def advance(round_id: int) -> None:
    """Take a round through every stage that can be passed now."""
    while _step(round_id):
        pass


def _step(round_id: int) -> bool:
    """One stage further, if its work is done. False where it waits, is over, or another process has it."""
    with transaction.atomic():
        round = (
            Round.objects.select_for_update(skip_locked=True, no_key=True, of=("self",))
            .select_related("project__loop_settings")
            .filter(pk=round_id, outcome="")
            .first()
        )
        if round is None or round.project.loop_settings.paused:
            return False
        following = _attempt(round)
        if isinstance(following, Halt):
            round.outcome, round.message = Round.Outcome.HALTED, str(following)
            round.finished_at = timezone.now()
            round.save(update_fields=["outcome", "message", "finished_at", "gates"])
            return False
        if following is None:
            return False
        round.stage = following
        round.times[following] = timezone.now().isoformat()
        round.save()
        return following != Stage.DONE


def _attempt(round: Round) -> str | Halt | None:
    """The next stage, None to wait, or why the round halts. What fails leaves nothing behind."""
    try:
        with transaction.atomic():
            return STAGES[round.stage](round, round.project.loop_settings)
    except Halt as reason:
        return reason
    except runs.RunRefused as reason:
        return Halt(f"The loop's settings were refused while {round.get_stage_display()}. {reason}")
    except DatabaseError:
        raise
    except Exception as error:
        logger.exception("%s of project %s", round, round.project_id)
        return Halt(f"The loop met an error while {round.get_stage_display()}: {error}")


def _generate(round: Round, settings: LoopSettings) -> str | None:
    """Sample candidates from the policy in use, and from round 2 on a share from the first one.

    Prompts of what the last policy's training marked are among them, so that there is something to compare it with.
    """
    marked_run = _marking_run(round)
    most_marked = round_half_up(round.target * settings.marked_share)
    # Fewer than stand side by side could never make a comparison.
    each = max(settings.candidates_per_prompt, round.project.answers_per_comparison)
    plan = {round.policy: each}
    served = settings.overrides.get("generate", {}).get("server")  # It answers whichever policy is in use.
    if not served and round.policy_id != settings.first_policy_id and settings.first_policy_share:
        theirs = max(1, round_half_up(each * settings.first_policy_share))
        plan = {round.policy: max(1, each - theirs), settings.first_policy: theirs}

    def values(samples: int) -> dict[str, Any]:
        first = marked.prompts_to_sample(marked_run, most_marked) if marked_run and most_marked else ()
        rng = random.Random(round.seed)
        prompts = candidates.prompts_for_round(round, settings.eval_share, rng, first)
        if not prompts:
            raise Halt("There are no prompts yet. Import some, then try again.")
        return {"prompts": candidates.write_prompts(prompts), "samples_per_prompt": samples}

    sampled = [
        _run(round, settings, "generate", partial(values, samples), input_model=version)
        for version, samples in plan.items()
    ]
    if not all(run.status == Run.Status.DONE for run in sampled):
        return None
    made = candidates.put_before_people(
        round,
        sampled,
        settings.eval_share,
        round.project.answers_per_comparison,
        marked_run,
        most_marked,
    )
    if not made:
        raise Halt(
            f"{candidates.author_of(sampled[0])} answered every prompt with one text only, so there is nothing to compare. "
            "Raise the temperatures of generate."
        )
    round.candidates_written = sum(run.generations.count() for run in sampled)
    round.target = min(round.target, made)
    return Stage.COLLECT


def _marking_run(round: Round) -> Run | None:
    """The newest run of an earlier round that trained a policy and is over, also where a guard stopped it."""
    earlier = Run.objects.filter(round__project=round.project, round__number__lt=round.number)
    over = earlier.filter(method__in=marked.METHODS, status__in=[Run.Status.DONE, Run.Status.FAILED])
    return over.select_related("project", "input_model").order_by("-id").first()


def _collect(round: Round, settings: LoopSettings) -> str | None:
    judged, answerable = progress(round)
    if not round.train_requested_at and judged < round.target and (answerable or not judged):
        return None
    round.collected = judged
    _put_leftovers_last(round)
    return Stage.REWARD


def progress(round: Round) -> tuple[int, int]:
    """How many of a round's comparisons are judged, and how many somebody could still answer.

    What everyone has skipped or flagged would keep the round waiting for ever.
    """
    mine = Comparison.objects.filter(in_round__round=round)
    # A comparison that a manager took away after a report may have closed without any answer.
    answered = Exists(Judgment.objects.current().filter(comparison=OuterRef("pk")))
    judged = mine.filter(answered, closed_at__isnull=False).count()
    people = (
        Membership.objects.active()
        .filter(project=round.project)
        .exclude(role=Membership.Role.REVIEWER)
        .count()
    )
    put_aside = Count("assignments", filter=Q(assignments__outcome__in=["skipped", "flagged", "judged"]))
    answerable = mine.open().annotate(put_aside=put_aside).filter(put_aside__lt=people).count()
    return judged, answerable


def _put_leftovers_last(round: Round) -> None:
    """What nobody answered in time is worth less than the next round's candidates."""
    left = Comparison.objects.open().filter(in_round__round=round)
    Comparison.objects.filter(pk__in=left.values("pk")).update(priority=LEFTOVER_PRIORITY)


def _reward(round: Round, settings: LoopSettings) -> str | None:
    """Train the reward model anew from the first policy, on all answers ever given, and beside it the held-out one.

    The held-out one may fail, or be stopped: the round goes on without it, which its gate says.
    """
    if round.dataset_version is None:
        round.dataset_version = _freeze(round)
        round.save(update_fields=["dataset_version"])
    # Not only here may it have been frozen: during an upgrade a worker of before does so, and counts nothing.
    if not round.dataset_version.contributions.exists():
        contributions.count(round.dataset_version)
    links = {"input_model": settings.first_policy, "dataset_version": round.dataset_version}
    run = _run(round, settings, "reward", partial(_learning, round, settings), **links)
    watching = _held_out_run(round)
    if watching is None and settings.train_held_out_reward:
        values = partial(_learning, round, settings, held_out=True)
        watching = _begun(round, settings, "reward", values, held_out=True, **links)
    if run.status != Run.Status.DONE or (watching and watching.unfinished):
        return None
    round.reward = run.model_version
    round.held_out_reward = ModelVersion.objects.filter(run=watching).first() if watching else None
    return Stage.REWARD_GATE


def _learning(round: Round, settings: LoopSettings, held_out: bool = False) -> dict[str, Any]:
    """From which prompts a reward model learns, and the held-out one's seed: another than the round's."""
    share = settings.reserved_share if settings.train_held_out_reward else 0.0
    if not held_out:
        return {"prompt_span": [share, 1.0]} if share else {}
    seed = settings.overrides.get("reward", {}).get("seed", round.seed)
    return {"seed": (seed + 1) % 2**31} | ({"prompt_span": [0.0, 1.0 - share]} if share else {})


def _held_out_run(round: Round) -> Run | None:
    trained = Run.objects.filter(round=round, stage=Stage.REWARD, held_out=True)
    return trained.select_related("model_version", "input_model", "project").order_by("-id").first()


def _freeze(round: Round) -> DatasetVersion:
    try:
        version = datasets.freeze(round.project, created_by=round.started_by)
    except ValidationError as reason:
        raise Halt(f"{' '.join(reason.messages)} Collect some answers first.") from reason
    if not version.train_count or not version.eval_count:
        raise Halt(
            f"There are {version.train_count} preferences to learn from and {version.eval_count} on held-out "
            "prompts; both are needed. Collect more answers."
        )
    return version


def _reward_gate(round: Round, settings: LoopSettings) -> str | Halt:
    """The held-out reward model must be as good, or else it is not used; that alone halts no round."""
    limits = settings.minimum_accuracy_bound, settings.minimum_held_out_pairs
    checks = gates.reward_checks(round.reward.metrics, *limits)
    round.gates[Stage.REWARD_GATE] = [check.as_dict() for check in checks]
    if round.held_out_reward:
        of_held_out = gates.reward_checks(round.held_out_reward.metrics, *limits)
    elif watching := _held_out_run(round):
        of_held_out = gates.no_model(f"Run {watching.pk}: {watching.message or watching.status}")
    else:
        of_held_out = []
    round.gates["held_out"] = [check.as_dict() for check in of_held_out]
    if not gates.passed(checks):
        return Halt(
            f"No policy was trained: {round.reward.name} did not pass its gate. {gates.refusal(checks)}"
        )
    return Stage.POLICY


def _policy(round: Round, settings: LoopSettings) -> str | None:
    """From the policy in use, or from the first one again; held close to the first one either way.

    A policy that a young reward model led to one kind of answer samples no other, so a better reward model cannot
    lead it on: what it never tries is never rewarded. From the first policy the way is open again.
    """
    start = settings.first_policy if settings.start_from_first else round.policy
    method = settings.policy_method
    # Settings that change while it runs count from the next round.
    begun = (
        Run.objects.filter(round=round, stage=Stage.POLICY)
        .select_related("input_model")
        .order_by("id")
        .last()
    )
    if begun:
        start, method = begun.input_model, begun.method
    values: dict[str, Any] = {"reference_model": settings.first_policy.path}
    if method == "dpo":
        run = _run(
            round, settings, "dpo", lambda: values, input_model=start, dataset_version=round.dataset_version
        )
    else:

        def to_sample() -> dict[str, Any]:
            rng = random.Random(round.seed)
            prompts = candidates.choose_prompts(round.project, MOST_POLICY_PROMPTS, "train", rng)
            if not prompts:
                raise Halt("There are no prompts to train on; all of them are held out. Import more prompts.")
            file = candidates.write_prompts(prompts)
            watched = {"held_out_reward_model": round.watcher.path} if round.watcher else {}
            return values | watched | {"prompts": file, "kl_budget_nats": settings.kl_budget_nats}

        run = _run(round, settings, method, to_sample, input_model=start, reward_model=round.reward)
    if run.status != Run.Status.DONE:
        return None
    round.new_policy = run.model_version
    return Stage.POLICY_GATE


def _policy_gate(round: Round, settings: LoopSettings) -> str | Halt | None:
    """Hold the new policy against the first one, on prompts that nothing was trained on.

    The reward model that it learned from is no impartial judge, so the held-out one is asked as well.
    """

    def values() -> dict[str, Any]:
        rng = random.Random(round.seed)
        prompts = candidates.choose_prompts(round.project, MOST_EVALUATION_PROMPTS, "eval", rng)
        if not prompts:
            raise Halt("There are no held-out prompts to check the policy on. Import more prompts.")
        second = {"second_judge_model": round.watcher.path} if round.watcher else {}
        first = {"baseline_model": settings.first_policy.path}
        return {"prompts": candidates.write_prompts(prompts)} | first | second

    run = _run(round, settings, "evaluate", values, input_model=round.new_policy, reward_model=round.reward)
    if run.status != Run.Status.DONE:
        return None
    ModelVersion.objects.filter(pk=round.new_policy_id).update(
        metrics=round.new_policy.metrics | {"evaluation": run.result}
    )
    checks = gates.policy_checks(
        run.result,
        settings.kl_budget_nats,
        settings.minimum_win_rate_bound,
        settings.maximum_identical_share,
        settings.minimum_ended_share,
        second_judge=bool(run.config.get("second_judge_model")),
    )
    round.gates[Stage.POLICY_GATE] = [check.as_dict() for check in checks]
    if not gates.passed(checks):
        return Halt(f"{round.new_policy.name} was not published. {gates.refusal(checks)}")
    return Stage.PUBLISH


def _publish(round: Round, settings: LoopSettings) -> str:
    promote(round.new_policy, round=round)
    round.outcome, round.finished_at = Round.Outcome.PUBLISHED, timezone.now()
    remark = held_out_remark(round)
    round.message = f"{round.new_policy.name} is in use. {remark}".strip()
    if settings.continuous:
        transaction.on_commit(lambda: _start_next(round.project))
    return Stage.DONE


def held_out_remark(round: Round) -> str:
    """Why a round goes on without its held-out reward model; empty where it has one or wants none."""
    name = round.held_out_reward.name if round.held_out_reward else ""
    return gates.held_out_remark(name, round.gates.get("held_out", []))


def _start_next(project: Project) -> None:
    try:
        start_round(project)
    except RoundRefused as reason:
        logger.info("no next round: %s", reason)


STAGES: dict[str, Callable[[Round, LoopSettings], str | Halt | None]] = {
    Stage.GENERATE: _generate,
    Stage.COLLECT: _collect,
    Stage.REWARD: _reward,
    Stage.REWARD_GATE: _reward_gate,
    Stage.POLICY: _policy,
    Stage.POLICY_GATE: _policy_gate,
    Stage.PUBLISH: _publish,
}


def _run(
    round: Round, settings: LoopSettings, method: str, values: Callable[[], dict[str, Any]], **links: Any
) -> Run:
    """The stage's run of this method and model, started if it is not there. Raises Halt where it ended badly."""
    run = _begun(round, settings, method, values, **links)
    if run.status == Run.Status.STOPPED:
        raise Halt(f"Run {run.pk} ({method}) was stopped. Try again when it should go on.")
    if run.status == Run.Status.FAILED:
        raise Halt(f"Run {run.pk} ({method}) failed. {run.message}")
    return run


def _begun(
    round: Round, settings: LoopSettings, method: str, values: Callable[[], dict[str, Any]], **links: Any
) -> Run:
    """The stage's run of this method and model, started if it is not there, however it ended."""
    run = (
        Run.objects.select_related("model_version", "input_model", "project")
        .filter(round=round, stage=round.stage, method=method, input_model=links["input_model"])
        .filter(held_out=links.get("held_out", False))
        .order_by("-id")
        .first()
    )
    if run:
        return run
    # One long prompt among thousands is to cost its beginning, not the round.
    config = {"seed": round.seed, "long_prompts": "cut"} | settings.overrides.get(method, {}) | values()
    return runs.start(
        round.project, method, config, round.started_by, round=round, stage=round.stage, **links
    )


def round_half_up(value: float) -> int:
    return int(value + 0.5)
