"""Where the loop stands, in words and figures: what a manager's page answers before it is asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.urls import reverse
from django.utils import timezone

from labeling.access import ANNOTATING
from labeling.models import Assignment, Membership, Project, Prompt
from training import loop, schedules
from training.charts import Guard, Measured, interval_chart, number, run_panels
from training.models import LoopSettings, ModelVersion, Round, Run

Stage = Round.Stage
UNCLAIMED_AFTER = timedelta(seconds=45)
ROUNDS_SHOWN = 12
ORDER = list(Stage.values)


@dataclass
class Cell:
    """One station on the strip. state: done, now, waiting or needs."""

    title: str
    figure: str
    rest: str = ""
    caption: str = ""
    state: str = "waiting"
    share: int | None = None


@dataclass
class Need:
    """Something that waits for a manager: what, and where to do it."""

    words: str
    tone: str = "needs"
    link: str = ""
    link_words: str = ""


@dataclass
class Situation:
    headline: str
    next_words: str
    cells: list[Cell] = field(default_factory=list)
    needs: list[Need] = field(default_factory=list)
    gates: list[dict[str, Any]] = field(default_factory=list)
    remark: str = ""


def describe(settings: LoopSettings, round: Round | None) -> Situation:
    headline, following = _headline(settings, round)
    situation = Situation(headline, following, _cells(settings, round), _needs(settings, round))
    if round:
        situation.gates = _gates(round)
        situation.remark = loop.held_out_remark(round)
    return situation


# The headline and what happens next


def _headline(settings: LoopSettings, round: Round | None) -> tuple[str, str]:
    when = schedules.in_words(settings.project)
    if round is None:
        words = (
            f"{settings.policy.name} will write candidates for your prompts, and people will compare them."
        )
        return "The first round has not started", words
    if settings.paused and round.is_open:
        return (
            f"Round {round.number} is paused",
            f"It was {round.get_stage_display()}. What runs goes on; nothing new starts.",
        )
    if round.is_open:
        return f"Round {round.number} is {_doing(round)}", _next_words(round, when)
    if round.outcome == Round.Outcome.PUBLISHED:
        starts = f"The loop starts again {when}." if when else "Start the next round when you like."
        return f"Round {round.number} is done: {round.new_policy.name} is in use", starts
    if round.outcome == Round.Outcome.CANCELLED:
        return (
            f"Round {round.number} was cancelled",
            "Its answers stay, and the next round trains on them too.",
        )
    return f"Round {round.number} halted while {_doing(round)}", "Nothing runs until you decide what to do."


def _doing(round: Round) -> str:
    return Stage(round.stage).label


def _next_words(round: Round, when: str) -> str:
    match round.stage:
        case Stage.GENERATE:
            return f"Then people compare what {round.policy.name} wrote."
        case Stage.COLLECT if round.train_requested_at:
            return "It trains now, on the answers that are there."
        case Stage.COLLECT:
            first = f", or {when.replace(' and ', ', or ')}, whichever comes first" if when else ""
            return f"Trains at {round.target} answers{first}"
        case Stage.REWARD:
            return "Then it must show on held-out prompts that it has learned something."
        case Stage.POLICY:
            return "Then the policy is held against the first one, on held-out prompts."
    return "This takes a moment."


# The strip


def _cells(settings: LoopSettings, round: Round | None) -> list[Cell]:
    if round is None:
        return [
            Cell(title, "–")
            for title in ("Candidates", "Comparisons", "Reward model", "Gate", "Policy", "Win rate")
        ]
    before = _round_before(round)
    running = _at_work(round) if round.is_open else None
    cells = [
        _candidates(round, running),
        _comparisons(round),
        _reward(round, running, before),
        _gate(settings, round),
        _policy(settings, round, running, before),
        _win_rate(settings, round, running, before),
    ]
    for cell, stages in zip(cells, STATIONS, strict=True):
        cell.state = _state(round, stages)
    return cells


def _at_work(round: Round) -> Run | None:
    """The stage's run to speak of: one that runs, else one that waits, else the last."""
    found = list(Run.objects.filter(round=round, stage=round.stage).order_by("-id")[:10])
    order = {Run.Status.RUNNING: 0, Run.Status.QUEUED: 1}
    return min(found, key=lambda run: order.get(run.status, 2), default=None)


def _round_before(round: Round) -> Round | None:
    """The last round that got as far as publishing: its figures stand in until this one has its own."""
    published = Round.objects.filter(
        project=round.project, number__lt=round.number, outcome=Round.Outcome.PUBLISHED
    )
    return (
        published.select_related("reward", "held_out_reward", "new_policy", "project")
        .order_by("-number")
        .first()
    )


STATIONS = (
    (Stage.GENERATE,),
    (Stage.COLLECT,),
    (Stage.REWARD,),
    (Stage.REWARD_GATE,),
    (Stage.POLICY,),
    (Stage.POLICY_GATE, Stage.PUBLISH),
)


def _state(round: Round, stages: tuple[str, ...]) -> str:
    here = ORDER.index(round.stage)
    places = [ORDER.index(stage) for stage in stages]
    if here > max(places):
        return "done"
    if here < min(places):
        return "waiting"
    return "now" if round.is_open else "needs"


def _running(run: Run | None, stage: str) -> str:
    """How far the station's run is, in words; empty where none runs."""
    if run is None or run.stage != stage or not run.unfinished:
        return ""
    if run.status == Run.Status.QUEUED:
        return "waits for a worker"
    left = f", {spoken(run.seconds_left)} left" if run.seconds_left is not None else ""
    return (
        f"{run.phase or 'starting'} {run.progress_done} of {run.progress_total}{left}"
        if run.progress_total
        else "starting"
    )


def spoken(seconds: float) -> str:
    """`40 s`, `3 min`, `2 h 5 min`."""
    seconds = round_up(seconds)
    if seconds < 90:
        return f"{seconds} s"
    minutes = (seconds + 30) // 60
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def round_up(value: float) -> int:
    return int(value) + (value > int(value))


def _candidates(round: Round, run: Run | None) -> Cell:
    going = _running(run, Stage.GENERATE)
    figure = f"{round.candidates_written:,}" if round.candidates_written else "–"
    if Stage.GENERATE not in round.times:
        return Cell("Candidates", figure, caption="none needed this time")
    return Cell("Candidates", figure, caption=going or f"from {round.policy.name}")


def _comparisons(round: Round) -> Cell:
    if not round.candidates_written:
        wanted = (
            f"{round.target} wanted"
            if Stage.GENERATE in round.times
            else "trains on the answers that are there"
        )
        return Cell("Comparisons", "–", caption=wanted)
    judged = round.collected if round.collected is not None else loop.progress(round)[0]
    caption = "answered by people" if round.collected is not None else pace(round, judged)
    share = min(100, round_up(100 * judged / max(round.target, 1)))
    return Cell("Comparisons", f"{judged:,}", f"/ {round.target:,}", caption, share=share)


def pace(round: Round, judged: int) -> str:
    """`6 people now, 41 an hour, 1 h 23 min to go`, from the last hour's answers."""
    since = timezone.now() - timedelta(hours=1)
    recent = Assignment.objects.filter(
        comparison__in_round__round=round, outcome="judged", outcome_at__gte=since
    )
    count, people = recent.count(), recent.values("annotator").distinct().count()
    if not count:
        return "nobody answered in the last hour"
    began = max(since, round.entered(Stage.COLLECT) or since)
    an_hour = count / max((timezone.now() - began).total_seconds() / 3600, 1 / 60)
    words = f"{people} {'person' if people == 1 else 'people'} in the last hour"
    if round.target > judged:
        words += f", about {spoken((round.target - judged) / an_hour * 3600)} to go"
    return words


def _reward(round: Round, run: Run | None, before: Round | None) -> Cell:
    if going := _running(run, Stage.REWARD):
        return Cell("Reward model", "training", caption=f"held-out one: {going}" if run.held_out else going)
    for of, words in ((round, ""), (before, "last round, ")):
        metrics = of.reward.metrics if of and of.reward else {}
        if metrics.get("accuracy") is not None:
            caption = f"{words}held out, {between(metrics.get('accuracy_interval'))}"
            second = of.held_out_reward.metrics if of.held_out_reward else {}
            if second.get("accuracy") is not None:
                caption += f"; {of.held_out_reward.name}, which only watches, {second['accuracy']:.2f}"
            return Cell("Reward model", f"{metrics['accuracy']:.2f}", caption=caption)
    return Cell("Reward model", "–", caption="accuracy on held-out prompts")


def between(interval: Any) -> str:
    if not interval or None in interval:
        return "no interval"
    return f"{interval[0]:.2f} to {interval[1]:.2f}"


def _gate(settings: LoopSettings, round: Round) -> Cell:
    checks = round.gates.get(Stage.REWARD_GATE, [])
    wanted = f"lower bound above {settings.minimum_accuracy_bound:.2f}"
    if not checks:
        return Cell("Gate", f"> {settings.minimum_accuracy_bound:.2f}", caption="lower bound of the accuracy")
    failed = [check for check in checks if not check["passed"]]
    if failed:
        return Cell(
            "Gate",
            "refused",
            caption=f"{failed[0]['name']} {failed[0]['figure']}, needed {failed[0]['needed']}",
        )
    pairs = next((check["figure"] for check in checks if check["name"] == "held-out pairs"), "?")
    return Cell("Gate", "passed", caption=f"{wanted}, on {pairs} pairs")


GATES = (
    (Stage.REWARD_GATE, "Reward model"),
    ("held_out", "Held-out reward model"),
    (Stage.POLICY_GATE, "Policy"),
)


def _gates(round: Round) -> list[dict[str, Any]]:
    """Each check that this round was held to, with its figure, in the order of the gates."""
    return [
        check | {"of": title, "fatal": gate != "held_out"}
        for gate, title in GATES
        for check in round.gates.get(gate, [])
    ]


def _policy(settings: LoopSettings, round: Round, run: Run | None, before: Round | None) -> Cell:
    if going := _running(run, Stage.POLICY):
        return Cell("Policy", settings.get_policy_method_display(), caption=going)
    if round.new_policy and (kl := kl_of(round.new_policy)) is not None:
        caption = f"moved {number(kl)} of {settings.kl_budget_nats:g} nats allowed"
        return Cell("Policy", round.new_policy.name, caption=caption)
    caption = f"KL budget {settings.kl_budget_nats:g} nats"
    if before and (kl := kl_of(before.new_policy)) is not None:
        caption += f", last round {number(kl)}"
    return Cell("Policy", settings.get_policy_method_display(), caption=caption)


def kl_of(version: ModelVersion) -> float | None:
    """As evaluated on held-out prompts, or else as its training measured it."""
    measured = evaluation_of(version).get("kl_nats")
    return version.metrics.get("kl_nats") if measured is None else measured


def _win_rate(settings: LoopSettings, round: Round, run: Run | None, before: Round | None) -> Cell:
    if going := _running(run, Stage.POLICY_GATE):
        return Cell("Win rate", "measuring", caption=going)
    for of, words in ((round, ""), (before, "last round, ")):
        found = evaluation_of(of.new_policy) if of else {}
        if found.get("win_rate") is not None:
            low, high = found["win_rate_interval"]
            caption = f"{words}over {settings.first_policy.name} by {of.reward.name}, {low:.0%} to {high:.0%}"
            if found.get("second_win_rate") is not None and of.held_out_reward:
                low, high = found["second_win_rate_interval"]
                caption += (
                    f"; by {of.held_out_reward.name} {found['second_win_rate']:.0%}, {low:.0%} to {high:.0%}"
                )
            return Cell("Win rate", f"{found['win_rate']:.0%}", caption=caption)
    return Cell("Win rate", "–", caption=f"over {settings.first_policy.name}, on held-out prompts")


def evaluation_of(version: ModelVersion | None) -> dict[str, Any]:
    return version.metrics.get("evaluation", {}) if version else {}


# What needs a person


def _needs(settings: LoopSettings, round: Round | None) -> list[Need]:
    project = settings.project
    needs = []
    if round and round.outcome == Round.Outcome.HALTED:
        needs.append(Need(round.message, "harm"))
    if not Prompt.objects.filter(project=project).exists():
        link = reverse("labeling:data", args=[project.slug])
        needs.append(Need("There are no prompts yet.", link=link, link_words="Import prompts"))
    if not Membership.objects.active().filter(project=project, role=ANNOTATING[0]).exists():
        link = reverse("labeling:people", args=[project.slug])
        needs.append(Need("Nobody annotates yet but you.", link=link, link_words="Invite people"))
    needs += _waiting_runs(project)
    return needs + reported(project)


def _waiting_runs(project: Project) -> list[Need]:
    """A queued run while nothing runs at all means that no worker is there."""
    since = timezone.now() - UNCLAIMED_AFTER
    waiting = (
        Run.objects.filter(project=project, status=Run.Status.QUEUED, created_at__lt=since)
        .order_by("id")
        .first()
    )
    if waiting is None or Run.objects.filter(status=Run.Status.RUNNING).exists():
        return []
    words = f"Run {waiting.pk} waits, and no worker of the queue gpu takes it. Start one."
    return [Need(words, link=waiting.get_absolute_url(), link_words="See the run")]


def reported(project: Project) -> list[Need]:
    """What annotators reported waits for a manager, whether the project has a loop or not."""
    waiting = project.put_aside.waiting_reports().count()
    if not waiting:
        return []
    words = "comparison was" if waiting == 1 else "comparisons were"
    link = reverse("labeling:reports", args=[project.slug])
    return [Need(f"{waiting} {words} reported by annotators.", link=link, link_words="See what it is")]


# The history and its charts


def history(project: Project, before: int | None = None) -> list[Round]:
    rounds = Round.objects.filter(project=project).select_related(
        "policy", "reward", "held_out_reward", "new_policy", "project"
    )
    if before:
        rounds = rounds.filter(number__lt=before)
    return list(rounds.order_by("-number")[: ROUNDS_SHOWN + 1])


def history_rows(rounds: list[Round]) -> list[dict[str, Any]]:
    rows = []
    for round in rounds:
        found, accuracy = evaluation_of(round.new_policy), round.reward.metrics if round.reward else {}
        second = round.held_out_reward.metrics if round.held_out_reward else {}
        rows.append(
            {
                "round": round,
                "accuracy": accuracy.get("accuracy"),
                "accuracy_between": between(accuracy.get("accuracy_interval")),
                "second_accuracy": second.get("accuracy"),
                "second_accuracy_between": between(second.get("accuracy_interval")),
                "win_rate": found.get("win_rate"),
                "win_rate_between": between(found.get("win_rate_interval")),
                "second_win_rate": found.get("second_win_rate"),
                "second_win_rate_between": between(found.get("second_win_rate_interval")),
                "kl_nats": kl_of(round.new_policy) if round.new_policy else None,
                "took": spoken(sum(round.seconds_by_stage().values())),
            }
        )
    return rows


def win_rate_chart(settings: LoopSettings, rounds: list[Round]) -> str:
    """The win rate against the first policy of every policy that was measured, oldest first."""
    figures = [Measured(settings.first_policy.name, 0.5)]
    for round in reversed(rounds):
        found = evaluation_of(round.new_policy)
        if found.get("win_rate") is not None:
            low, high = found.get("win_rate_interval") or (None, None)
            figures.append(Measured(round.new_policy.name, found["win_rate"], low, high))
    if len(figures) < 2:
        return ""
    return interval_chart("Win rate against the first policy", figures, Guard("no better", 0.5))


def last_policy_charts(project: Project) -> tuple[Run | None, list[dict[str, object]]]:
    """Reward and KL of the newest run of a policy that has something to show."""
    methods = [value for value, _ in LoopSettings.policy_method.field.choices]
    run = Run.objects.filter(project=project, method__in=methods, started_at__isnull=False).first()
    return run, run_panels(run)[:2] if run else []
