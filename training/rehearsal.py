"""The dress rehearsal: the whole loop on a scratch project, with simulated annotators behind the HTTP API.

The annotators answer as the gold judge would, with Bradley-Terry noise. The gold judge is closed-form and
takes part in nothing that trains; here it answers in people's place and measures what came of it.
"""

import base64
import http.client
import json
import random
import secrets
import statistics
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.utils import timezone

from config import storage
from labeling.models import Comparison, Membership, Project, User
from training import loop, marked
from training.demo import gold
from training.demo.project import make_project
from training.models import LoopSettings, Round, Run

SILENCE_SECONDS = 900  # a stage in which nothing moves for so long has failed
POLL_SECONDS = 0.5
INTERVAL_DRAWS = 2000


# For models from which no quality is asked: the gates measure, and refuse nothing.
NO_REFUSALS = {
    "minimum_accuracy_bound": 0.0,
    "minimum_held_out_pairs": 1,
    "minimum_win_rate_bound": 0.0,
    "maximum_identical_share": 1.0,
    "minimum_ended_share": 0.0,
}


class RehearsalFailed(RuntimeError):
    """A station failed; the message says which and why."""


@dataclass
class Rehearsal:
    address: str
    rounds: int
    judgments: int
    seed: int
    annotators: int = 4
    policy: str = ""
    prompts: Path | None = None
    lenient: bool = False
    method: str = "ppo"
    say: Callable[[str], object] = print
    people: list["SimulatedAnnotator"] = field(default_factory=list)

    def run(self) -> dict[str, Any]:
        """Closes the rounds one after another. Raises RehearsalFailed with the station and its reason."""
        project = self.make_scratch_project()
        self.say(
            f"project {project.slug}: {project.prompts.count()} prompts, {len(self.people)} simulated annotators"
        )
        reports, seconds, given = [], 0.0, 0
        try:
            for number in range(1, self.rounds + 1):
                turn = loop.start_round(project, seed=self.seed + number)
                self.await_stage(turn, Round.Stage.COLLECT)
                begin = time.monotonic()
                given += self.collect(turn)
                seconds += time.monotonic() - begin
                self.await_stage(turn, Round.Stage.DONE)
                reports.append(report(turn))
                self.say(describe(reports[-1]))
        finally:
            self.lock_accounts()
        return {
            "project": project.slug,
            "method": self.method,
            "seed": self.seed,
            "judgments": given,
            "judgments_per_second": round(given / seconds, 1),
            "rounds": reports,
        }

    def make_scratch_project(self) -> Project:
        slug = f"rehearsal-{timezone.now():%m%d-%H%M%S}-{secrets.token_hex(2)}"
        manager = User.objects.create_user(f"{slug}-manager", password=secrets.token_urlsafe(24))
        project = make_project(slug, f"Rehearsal, seed {self.seed}", manager, self.policy, self.prompts)
        changes = {"comparisons_per_round": self.judgments, "policy_method": self.method} | (
            NO_REFUSALS if self.lenient else {}
        )
        LoopSettings.objects.filter(project=project).update(**changes)
        for number in range(1, self.annotators + 1):
            password = secrets.token_urlsafe(24)
            person = User.objects.create_user(f"{slug}-{number}", password=password)
            Membership.objects.create(project=project, user=person, role=Membership.Role.ANNOTATOR)
            self.people.append(
                SimulatedAnnotator(self.address, project.slug, person.username, password, self.seed)
            )
        return project

    def await_stage(self, turn: Round, stage: str) -> None:
        """Celery moves the round; here it is only watched."""
        last_change, seen = time.monotonic(), None
        order = Round.Stage.values
        while True:
            turn.refresh_from_db()
            if turn.outcome in (Round.Outcome.HALTED, Round.Outcome.CANCELLED):
                raise RehearsalFailed(
                    f"Round {turn.number} halted while {turn.get_stage_display()}: {turn.message}"
                )
            if order.index(turn.stage) >= order.index(stage):
                return
            sign = (turn.stage, *latest_sign(turn))
            if sign != seen:
                if not seen or seen[0] != turn.stage:
                    self.say(f"round {turn.number}: {turn.get_stage_display()}")
                last_change, seen = time.monotonic(), sign
            if time.monotonic() - last_change > SILENCE_SECONDS:
                raise RehearsalFailed(
                    f"Round {turn.number} has not moved for {SILENCE_SECONDS} s while {turn.get_stage_display()}"
                )
            time.sleep(POLL_SECONDS)

    def collect(self, turn: Round) -> int:
        """All annotators at once, until the round has what it asked for. Returns the receipts they hold."""
        quota = Quota(turn.target)
        with ThreadPoolExecutor(len(self.people)) as pool:
            counts = [pool.submit(person.work, quota) for person in self.people]
        return sum(count.result() for count in counts)

    def lock_accounts(self) -> None:
        """Simulated people must not stay behind as accounts that can log in."""
        names = [person.username for person in self.people]
        for user in User.objects.filter(username__in=names):
            user.auth_token_set.all().delete()
            User.objects.filter(pk=user.pk).update(is_active=False)


class Quota:
    """Shared by the annotators of a round: nobody takes a comparison that would be one too many."""

    def __init__(self, size: int) -> None:
        self.left = size
        self.lock = threading.Lock()

    def take(self) -> bool:
        with self.lock:
            self.left -= 1
            return self.left >= 0

    def give_back(self) -> None:
        with self.lock:
            self.left += 1


class SimulatedAnnotator:
    """One person at the REST API: next comparison, judgment, next comparison."""

    EMPTY_SECONDS = 30  # how long a queue may stay empty before work ends

    def __init__(self, address: str, project: str, username: str, password: str, seed: int) -> None:
        self.client = Client(address)
        self.project = project
        self.username = username
        self.password = password
        self.seed = seed

    def work(self, quota: Quota) -> int:
        """Answers until the quota is used up. Returns how many receipts came back."""
        self.client.log_in(self.username, self.password)
        receipts, empty_since = 0, time.monotonic()
        while quota.take():
            assignment = self.client.post(f"projects/{self.project}/next/", {"holding": []})
            if assignment is None:
                quota.give_back()
                if time.monotonic() - empty_since > self.EMPTY_SECONDS:
                    return receipts
                time.sleep(POLL_SECONDS)
                continue
            receipt = self.client.post(f"assignments/{assignment['id']}/judgment/", self.judge(assignment))
            if not receipt:
                raise RehearsalFailed(f"The judgment of assignment {assignment['id']} got no receipt")
            receipts, empty_since = receipts + 1, time.monotonic()
        return receipts

    def judge(self, assignment: dict[str, Any]) -> dict[str, Any]:
        """What the gold judge would say with noise; the same for the same texts, whoever is asked."""
        prompt = assignment["prompt"][-1]["content"]
        texts = [candidate["text"] for candidate in sorted(assignment["candidates"], key=lambda c: c["side"])]
        first, second = sorted(texts)
        rng = random.Random(f"{self.seed}|{prompt}|{first}|{second}")
        answer = gold.gold_preference(prompt, first, second, rng)
        body: dict[str, Any] = {
            "verdict": answer.verdict,
            "client_key": str(uuid.uuid4()),
            "seconds_spent": round(rng.lognormvariate(2.2, 0.5), 1),  # around nine seconds, as people take
        }
        if answer.verdict == "preferred":
            body |= {
                "preferred_side": texts.index([first, second][answer.preferred]),
                "strength": answer.strength,
            }
        return body


class Client:
    """A JSON client on one kept-alive connection. What may have been stored is sent again with the same key."""

    ATTEMPTS = 5

    def __init__(self, address: str) -> None:
        self.parts = urlsplit(address)
        self.headers = {"Content-Type": "application/json", "Accept": "application/json"}
        self.connection = self.connect()

    def connect(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self.parts.scheme == "https" else http.client.HTTPConnection
        return kind(self.parts.hostname, self.parts.port, timeout=60)

    def log_in(self, username: str, password: str) -> None:
        if "Authorization" in self.headers and self.headers["Authorization"].startswith("Token"):
            return
        self.headers["Authorization"] = (
            "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()
        )
        self.headers["Authorization"] = f"Token {self.post('auth/token/', {})['token']}"

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        """The answer's JSON, or None for 204. Raises RehearsalFailed with the server's sentence."""
        for attempt in range(1, self.ATTEMPTS + 1):
            try:
                self.connection.request("POST", f"/api/v1/{path}", json.dumps(body), self.headers)
                answer = self.connection.getresponse()
                text = answer.read().decode()
            except (OSError, http.client.HTTPException) as error:
                self.connection.close()
                if attempt == self.ATTEMPTS:
                    raise RehearsalFailed(f"{path} could not be reached: {error}") from error
                time.sleep(0.2 * 2**attempt)
                continue
            if answer.status >= 500 and attempt < self.ATTEMPTS:
                time.sleep(0.2 * 2**attempt)
                continue
            if answer.status >= 400:
                raise RehearsalFailed(f"{path} was answered {answer.status}: {text[:500]}")
            return json.loads(text) if text else None
        raise AssertionError("unreachable")


# What came of it


def report(turn: Round) -> dict[str, Any]:
    """One round's figures: what the loop measured, and what the gold judge says of it on eval prompts."""
    reward = turn.reward.metrics
    second = turn.held_out_reward.metrics if turn.held_out_reward else {}
    evaluate = turn.runs.filter(method="evaluate", status=Run.Status.DONE).latest("id")
    after, before = (
        list(read_rows(evaluate.path / name)) for name in ("completions.jsonl", "baseline_completions.jsonl")
    )
    scores = [gold.gold_score(text_of(row["prompt"]), row["completion"]) for row in after]
    first_scores = [gold.gold_score(text_of(row["prompt"]), row["completion"]) for row in before]
    wins = [
        1.0 if new > old else 0.5 if new == old else 0.0
        for new, old in zip(scores, first_scores, strict=True)
    ]
    return {
        "round": turn.number,
        "preferences": turn.dataset_version.train_count + turn.dataset_version.eval_count,
        "marked_comparisons": marked_comparisons(turn),
        "reward_accuracy": round(reward["accuracy"], 4),
        "reward_accuracy_interval": rounded(reward["accuracy_interval"]),
        "reward_held_out_pairs": reward["pairs"],
        "held_out_reward_accuracy": round(second["accuracy"], 4) if second else None,
        "held_out_reward_accuracy_interval": rounded(second["accuracy_interval"]) if second else None,
        "held_out_reward_used": turn.watcher is not None,
        "remark": loop.held_out_remark(turn),
        "win_rate": round(evaluate.result["win_rate"], 4),
        "win_rate_interval": rounded(evaluate.result["win_rate_interval"]),
        "second_win_rate": round(evaluate.result["second_win_rate"], 4) if turn.watcher else None,
        "second_win_rate_interval": rounded(evaluate.result["second_win_rate_interval"])
        if turn.watcher
        else None,
        "noise_ceiling": round(held_out_ceiling(turn), 4),
        "gold_score": round(statistics.mean(scores), 4),
        "gold_score_interval": bootstrap_interval(scores),
        "gold_score_first_policy": round(statistics.mean(first_scores), 4),
        "gold_win_rate": round(statistics.mean(wins), 4),
        "gold_win_rate_interval": bootstrap_interval(wins),
        "kl_nats": round(evaluate.result["kl_nats"], 3),
        "kl_nats_interval": rounded(evaluate.result["kl_nats_interval"]),
        "kl_budget_nats": turn.project.loop_settings.kl_budget_nats,
        "identical_share": round(evaluate.result["identical_share"], 4),
        "seconds": turn.seconds_by_stage(),
        "samples": [
            {"prompt": text_of(new["prompt"]), "before": old["completion"], "after": new["completion"]}
            for new, old in list(zip(after, before, strict=True))[:5]
        ],
    }


def marked_comparisons(turn: Round) -> int:
    """How many of a round's comparisons hold a sample that the last policy's training marked."""
    of_round = Comparison.objects.filter(in_round__round=turn)
    made = of_round.filter(candidates__completion__generation__run__method__in=marked.METHODS)
    return made.distinct().count()


def held_out_ceiling(turn: Round) -> float:
    """The accuracy of a judge that knows the gold scores, on the very pairs that the reward model was held to."""
    rows = read_rows(storage.local_path(turn.dataset_version.eval_file))
    return gold.noise_ceiling(
        (text_of(row["prompt"]), row["chosen"], row["rejected"]) for row in rows if not row["tie"]
    )


def latest_sign(turn: Round) -> tuple:
    """Something that changes while a stage is alive."""
    return tuple(turn.runs.order_by("-id").values_list("id", "status", "progress_done", "attempts")[:10])


def bootstrap_interval(values: list[float], seed: int = 0) -> list[float]:
    """95 % percentile interval of the mean, one value a prompt."""
    rng = random.Random(seed)
    means = sorted(statistics.fmean(rng.choices(values, k=len(values))) for _ in range(INTERVAL_DRAWS))
    return rounded([means[int(0.025 * INTERVAL_DRAWS)], means[int(0.975 * INTERVAL_DRAWS) - 1]])


def describe(row: dict[str, Any]) -> str:
    low, high = row["gold_win_rate_interval"]
    second = row["second_win_rate"]
    by_second = "" if second is None else f", by the held-out one {second:.0%}"
    return (
        f"round {row['round']}: reward model right on {row['reward_accuracy']:.0%} of held-out answers (ceiling {row['noise_ceiling']:.0%}), "
        f"win rate by it {row['win_rate']:.0%}{by_second}, "
        f"gold win rate {row['gold_win_rate']:.0%} ({low:.0%} to {high:.0%}), gold score {row['gold_score_first_policy']:.2f} -> {row['gold_score']:.2f}, "
        f"KL {row['kl_nats']:.1f} of {row['kl_budget_nats']:g} nats, {sum(row['seconds'].values()):.0f} s"
    )


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open() as file:
        for line in file:
            yield json.loads(line)


def text_of(prompt: str | list[dict[str, str]]) -> str:
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def rounded(values: list[float]) -> list[float]:
    return [round(value, 4) for value in values]
