"""Training as the web sees it: model versions, runs and their metrics, rounds of the loop, schedules."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.urls import reverse
from django.utils import timezone

SHARE = [MinValueValidator(0.0), MaxValueValidator(1.0)]
# A worker writes a heartbeat every two seconds. One that was silent this long is dead, or as good as dead:
# every write of its run is conditional on its claim, so taking the run from it is safe.
STALE_AFTER = timedelta(seconds=30)


class ModelVersion(models.Model):
    """Weights with a name: who made them (run), from what (parent), and where they lie."""

    class Kind(models.TextChoices):
        POLICY = "policy"
        REWARD = "reward", "reward model"

    project = models.ForeignKey("labeling.Project", models.CASCADE, related_name="model_versions")
    kind = models.CharField(max_length=8, choices=Kind)
    number = models.PositiveIntegerField()
    name = models.CharField(max_length=40)
    location = models.CharField(
        max_length=500, help_text="A folder (below the data folder unless absolute) or a hub name."
    )
    sha256 = models.CharField(max_length=64, blank=True, help_text="Of the weights; empty for a hub name.")
    run = models.OneToOneField("Run", models.RESTRICT, null=True, blank=True, related_name="model_version")
    parent = models.ForeignKey("self", models.RESTRICT, null=True, blank=True, related_name="children")
    metrics = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(fields=["project", "name"], name="version_name_unique"),
            models.UniqueConstraint(fields=["project", "kind", "number"], name="version_number_unique"),
            models.CheckConstraint(condition=Q(kind__in=["policy", "reward"]), name="version_kind_known"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def path(self) -> str:
        """What the engine loads: an absolute folder, or a hub name."""
        folder = Path(settings.DATA) / self.location
        return str(folder) if folder.is_dir() else self.location

    @property
    def end_of_location(self) -> str:
        """What tells a folder from others where a line has no room for all of it; a hub name is short."""
        parts = Path(self.location).parts
        return f"…/{parts[-2]}/{parts[-1]}" if len(parts) > 2 else self.location


class RunQuerySet(models.QuerySet["Run"]):
    def unfinished(self) -> RunQuerySet:
        return self.filter(status__in=[Run.Status.QUEUED, Run.Status.RUNNING])

    def stale(self) -> RunQuerySet:
        """Running on paper, but its worker has been silent."""
        return self.filter(status=Run.Status.RUNNING, heartbeat_at__lt=timezone.now() - STALE_AFTER)

    def claimable(self) -> RunQuerySet:
        silent = Q(status=Run.Status.RUNNING, heartbeat_at__lt=timezone.now() - STALE_AFTER)
        return self.filter(Q(status=Run.Status.QUEUED) | silent)


class Run(models.Model):
    """One execution of the engine. `status` is written by training.runs alone."""

    class Status(models.TextChoices):
        QUEUED = "queued"
        RUNNING = "running"
        DONE = "done"
        FAILED = "failed"
        STOPPED = "stopped"

    project = models.ForeignKey("labeling.Project", models.CASCADE, related_name="runs")
    method = models.CharField(max_length=16)
    status = models.CharField(max_length=8, choices=Status, default=Status.QUEUED)
    config = models.JSONField()
    seed = models.BigIntegerField(default=0)
    dataset_version = models.ForeignKey(
        "labeling.DatasetVersion", models.RESTRICT, null=True, blank=True, related_name="runs"
    )
    input_model = models.ForeignKey(
        ModelVersion, models.RESTRICT, null=True, blank=True, related_name="used_by"
    )
    reward_model = models.ForeignKey(
        ModelVersion, models.RESTRICT, null=True, blank=True, related_name="optimised_by"
    )
    round = models.ForeignKey("Round", models.SET_NULL, null=True, blank=True, related_name="runs")
    stage = models.CharField(
        max_length=16, blank=True, help_text="The stage of the round that this run serves."
    )
    held_out = models.BooleanField(
        default=False, help_text="It trains the round's held-out reward model, which no policy learns from."
    )
    code_version = models.CharField(max_length=100, blank=True)
    requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    sent_at = models.DateTimeField(null=True, blank=True)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    heartbeat_at = models.DateTimeField(null=True, blank=True)
    claim_token = models.UUIDField(null=True, blank=True)
    attempts = models.PositiveSmallIntegerField(default=0)
    stop_requested_at = models.DateTimeField(null=True, blank=True)
    stop_requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+"
    )
    phase = models.CharField(max_length=60, blank=True)
    progress_done = models.PositiveIntegerField(default=0)
    progress_total = models.PositiveIntegerField(default=0)
    seconds_left = models.FloatField(null=True, blank=True)
    message = models.TextField(
        blank=True, help_text="In words: why it failed, or what to know about how it ended."
    )
    result = models.JSONField(default=dict, blank=True)
    exit_code = models.SmallIntegerField(null=True, blank=True)
    folder = models.CharField(max_length=200, blank=True)

    objects = RunQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["project", "-id"], name="run_by_project"),
            models.Index(
                fields=["status", "id"], name="run_unfinished", condition=Q(status__in=["queued", "running"])
            ),
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(status__in=["queued", "running", "done", "failed", "stopped"]),
                name="run_status_known",
            ),
            models.CheckConstraint(
                condition=~Q(status="running") | Q(claim_token__isnull=False, heartbeat_at__isnull=False),
                name="run_running_is_claimed",
            ),
            models.CheckConstraint(
                condition=Q(status__in=["queued", "running"]) | Q(finished_at__isnull=False),
                name="run_ended_has_time",
            ),
        ]

    def __str__(self) -> str:
        return f"run {self.pk} ({self.method})"

    def get_absolute_url(self) -> str:
        return reverse("training:run", args=[self.project.slug, self.pk])

    @property
    def unfinished(self) -> bool:
        return self.status in (self.Status.QUEUED, self.Status.RUNNING)

    @property
    def path(self) -> Path:
        return Path(settings.DATA) / (self.folder or f"runs/{self.pk}")

    @property
    def purpose(self) -> str:
        """What its round wants of it, in words; empty for a run of its own."""
        words = dict(Round.Stage.choices) | dict(Round.Afterwards.choices)
        return words.get(self.stage, "") if self.round_id else ""

    @property
    def is_stale(self) -> bool:
        return self.status == self.Status.RUNNING and self.heartbeat_at < timezone.now() - STALE_AFTER

    @property
    def took(self) -> timedelta | None:
        if not self.started_at:
            return None
        return (self.finished_at or timezone.now()) - self.started_at


class Metric(models.Model):
    """One number of one step. The table grows fastest of all and holds nothing but what a chart needs."""

    run = models.ForeignKey(Run, models.CASCADE, related_name="metrics")
    step = models.PositiveIntegerField()
    name = models.CharField(max_length=80)
    value = models.FloatField()
    at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["run", "name", "step"], name="metric_unique")]

    def __str__(self) -> str:
        return f"{self.name}[{self.step}] = {self.value:g}"


class LoopSettings(models.Model):
    """How one project's loop turns. Made once, when its first policy is registered."""

    project = models.OneToOneField("labeling.Project", models.CASCADE, related_name="loop_settings")
    first_policy = models.ForeignKey(ModelVersion, models.RESTRICT, related_name="+")
    policy = models.ForeignKey(
        ModelVersion, models.RESTRICT, related_name="+", help_text="The policy in use."
    )
    comparisons_per_round = models.PositiveIntegerField(
        default=200, validators=[MinValueValidator(2)], help_text="Answers collected before a round trains."
    )
    candidates_per_prompt = models.PositiveSmallIntegerField(
        default=4,
        validators=[MinValueValidator(2), MaxValueValidator(64)],
        help_text="Completions sampled for each prompt.",
    )
    first_policy_share = models.FloatField(
        default=0.25,
        validators=SHARE,
        help_text="From round 2 on, the share of candidates that the first policy writes.",
    )
    policy_method = models.CharField(
        max_length=10,
        choices=[("ppo", "PPO"), ("grpo", "GRPO"), ("rloo", "RLOO"), ("dpo", "DPO")],
        default="ppo",
        help_text="How a round improves its policy: with a critic (PPO), by holding the answers to one prompt "
        "against each other (GRPO, RLOO), or from the preferences alone (DPO).",
    )
    start_from_first = models.BooleanField(
        default=False,
        help_text="Each round trains its policy anew from the first one, with the reward model that knows more. "
        "Off: from the policy in use.",
    )
    train_held_out_reward = models.BooleanField(
        default=True,
        help_text="Beside the reward model that the policy learns from, train another one that no policy learns "
        "from: it watches the policy's training, and is the second judge of its win rate.",
    )
    reserved_share = models.FloatField(
        default=0.0,
        validators=[MinValueValidator(0.0), MaxValueValidator(0.5)],
        help_text="Share of the training prompts that only the held-out reward model learns from; as many are the "
        "other model's alone. 0: both learn from all of them, by other seeds. 0.5: each from its own half.",
    )
    eval_share = models.FloatField(
        default=0.2,
        validators=SHARE,
        help_text="Share of comparisons on held-out prompts: they measure and never train.",
    )
    marked_share = models.FloatField(
        default=0.1,
        validators=[MinValueValidator(0.0), MaxValueValidator(0.5)],
        help_text="Share of comparisons with samples that the last policy's training marked: those of the highest "
        "reward, and those on which reward models differ most. There a reward model is most often wrong, and one "
        "answer corrects most. Only a share, for a reward model must know ordinary answers as well. 0: none.",
    )
    overrides = models.JSONField(
        default=dict, blank=True, help_text='Engine settings by method, such as {"ppo": {"steps": 60}}.'
    )
    kl_budget_nats = models.FloatField(
        default=8.0,
        validators=[MinValueValidator(0.01)],
        help_text="How far a policy may move from the first, per response.",
    )
    minimum_accuracy_bound = models.FloatField(
        default=0.5,
        validators=SHARE,
        help_text="The lower 95 % bound of the reward model's held-out accuracy must exceed this.",
    )
    minimum_held_out_pairs = models.PositiveIntegerField(
        default=20, help_text="Held-out pairs needed to judge a reward model."
    )
    minimum_win_rate_bound = models.FloatField(
        default=0.5,
        validators=SHARE,
        help_text="The lower 95 % bound of the win rate against the first policy must exceed this.",
    )
    maximum_identical_share = models.FloatField(
        default=0.5,
        validators=SHARE,
        help_text="Share of held-out prompts that may get one and the same answer.",
    )
    minimum_ended_share = models.FloatField(
        default=0.5,
        validators=SHARE,
        help_text="Share of answers that must end by themselves within the length limit.",
    )
    continuous = models.BooleanField(default=False, help_text="Start the next round when one is published.")
    paused = models.BooleanField(
        default=False, help_text="While paused, the loop starts nothing; what runs goes on."
    )

    class Meta:
        verbose_name_plural = "loop settings"

    def __str__(self) -> str:
        return f"loop of {self.project}"


class Promotion(models.Model):
    """A policy was put in use: by the loop (no person) or by a manager, who can also roll back."""

    project = models.ForeignKey("labeling.Project", models.CASCADE, related_name="promotions")
    version = models.ForeignKey(ModelVersion, models.RESTRICT, related_name="promotions")
    previous = models.ForeignKey(ModelVersion, models.RESTRICT, null=True, blank=True, related_name="+")
    promoted_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+"
    )
    round = models.ForeignKey("Round", models.SET_NULL, null=True, blank=True, related_name="promotions")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index(fields=["project", "-id"], name="promotion_by_project")]

    def __str__(self) -> str:
        return f"{self.version} in use from {self.created_at:%Y-%m-%d %H:%M}"


class RoundQuerySet(models.QuerySet["Round"]):
    def at_work(self) -> RoundQuerySet:
        """Open ones that wait for no person: a run of theirs is under way, or is about to be."""
        return self.filter(outcome="", project__loop_settings__paused=False).exclude(
            stage=Round.Stage.COLLECT
        )

    def spoken_of(self) -> RoundQuerySet:
        """Those of whose reward model people are told: it passed its gate, and a policy came of it."""
        published = Q(outcome=Round.Outcome.PUBLISHED)
        unpublished = Q(outcome=Round.Outcome.HALTED, stage__in=Round.WITH_POLICY)
        return self.filter(published | unpublished, reward__isnull=False)

    def followed(self) -> RoundQuerySet:
        """Those after which runs are still to come, by which people see what their answers did."""
        return self.spoken_of().exclude(afterwards=Round.Afterwards.OVER)


class Round(models.Model):
    """One turn of the loop. Open while `outcome` is empty; a project has at most one open round."""

    class Stage(models.TextChoices):
        GENERATE = "generate", "writing candidates"
        COLLECT = "collect", "collecting answers"
        REWARD = "reward", "training the reward model"
        REWARD_GATE = "reward_gate", "checking the reward model"
        POLICY = "policy", "training the policy"
        POLICY_GATE = "policy_gate", "checking the policy"
        PUBLISH = "publish", "publishing the policy"
        DONE = "done", "done"

    class Outcome(models.TextChoices):
        OPEN = "", "open"
        PUBLISHED = "published", "published"
        HALTED = "halted", "halted"
        CANCELLED = "cancelled", "cancelled"

    class Afterwards(models.TextChoices):
        """What follows a round, one after another: runs by which people see what their answers did."""

        SCORES = "scores", "scoring answers that people compared"
        EARLIER = "earlier", "scoring them by the reward model before"
        ANSWERS = "answers", "answering prompts that people judged"
        OVER = "over", "over"

    WITH_POLICY = (Stage.POLICY_GATE, Stage.PUBLISH)  # Halted there, it has trained a policy all the same.

    project = models.ForeignKey("labeling.Project", models.CASCADE, related_name="rounds")
    number = models.PositiveIntegerField()
    stage = models.CharField(max_length=12, choices=Stage, default=Stage.GENERATE)
    outcome = models.CharField(max_length=10, choices=Outcome, default=Outcome.OPEN, blank=True)
    message = models.TextField(blank=True)
    target = models.PositiveIntegerField(help_text="Judged comparisons after which the round trains.")
    seed = models.BigIntegerField(default=0)
    policy = models.ForeignKey(
        ModelVersion, models.RESTRICT, related_name="+", help_text="The policy it starts from."
    )
    reward = models.ForeignKey(ModelVersion, models.RESTRICT, null=True, blank=True, related_name="+")
    held_out_reward = models.ForeignKey(
        ModelVersion,
        models.RESTRICT,
        null=True,
        blank=True,
        related_name="+",
        help_text="The reward model that its policy does not learn from.",
    )
    new_policy = models.ForeignKey(ModelVersion, models.RESTRICT, null=True, blank=True, related_name="+")
    dataset_version = models.ForeignKey(
        "labeling.DatasetVersion", models.RESTRICT, null=True, blank=True, related_name="+"
    )
    candidates_written = models.PositiveIntegerField(default=0)
    collected = models.PositiveIntegerField(
        null=True, blank=True, help_text="Judged comparisons when collecting ended."
    )
    gates = models.JSONField(
        default=dict,
        blank=True,
        help_text="By gate: each check with its figure. Under held_out: those that the held-out reward model must "
        "pass to be used.",
    )
    times = models.JSONField(default=dict, blank=True, help_text="By stage: when it was entered.")
    afterwards = models.CharField(
        max_length=8,
        choices=Afterwards,
        default=Afterwards.SCORES,
        help_text="What follows it next, once it is published or its new policy was refused.",
    )
    started_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+"
    )
    train_requested_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    objects = RoundQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(
                fields=["project", "number"], condition=~Q(afterwards="over"), name="round_followed"
            ),
        ]
        constraints = [
            models.UniqueConstraint(fields=["project", "number"], name="round_number_unique"),
            models.UniqueConstraint(fields=["project"], condition=Q(outcome=""), name="round_one_open"),
            models.CheckConstraint(
                condition=Q(outcome__in=["", "published", "halted", "cancelled"]), name="round_outcome_known"
            ),
            models.CheckConstraint(
                condition=Q(afterwards__in=["scores", "earlier", "answers", "over"]),
                name="round_afterwards_known",
            ),
        ]

    def __str__(self) -> str:
        return f"round {self.number}"

    @property
    def is_open(self) -> bool:
        return self.outcome == self.Outcome.OPEN

    @property
    def watcher(self) -> ModelVersion | None:
        """The held-out reward model, if it passed its checks: only then is it asked for anything."""
        checks = self.gates.get("held_out", [])
        return self.held_out_reward if checks and all(check["passed"] for check in checks) else None

    def entered(self, stage: str) -> datetime | None:
        text = self.times.get(stage)
        return datetime.fromisoformat(text) if text else None

    def seconds_by_stage(self) -> dict[str, float]:
        """How long each stage that has ended took; the last one counts until now while it is open."""
        moments = [(stage, self.entered(stage)) for stage in self.Stage.values if self.entered(stage)]
        ends = [at for _, at in moments[1:]] + [self.finished_at or timezone.now()]
        return {
            stage: round((end - at).total_seconds(), 1)
            for (stage, at), end in zip(moments, ends, strict=False)
            if stage != self.Stage.DONE
        }


class Contribution(models.Model):
    """What the dataset version of a round holds of one person: counted when it is frozen, for it never changes."""

    version = models.ForeignKey(
        "labeling.DatasetVersion", models.CASCADE, db_index=False, related_name="contributions"
    )
    person = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    trained = models.PositiveBigIntegerField(help_text="Answers in the train split.")
    held_out = models.PositiveBigIntegerField(help_text="Answers in the eval split.")
    preferences = models.PositiveBigIntegerField(help_text="Preferences in the train split.")
    newest = models.BigIntegerField(help_text="Id of the newest of the judgments.")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["version", "person"], name="contribution_once")]

    def __str__(self) -> str:
        return f"{self.trained} answers of {self.person_id} in version {self.version_id}"


class RoundComparison(models.Model):
    """A comparison that a round put before people."""

    round = models.ForeignKey(Round, models.CASCADE, related_name="comparisons")
    comparison = models.OneToOneField("labeling.Comparison", models.CASCADE, related_name="in_round")

    def __str__(self) -> str:
        return f"{self.round}: comparison {self.comparison_id}"


class Generation(models.Model):
    """How a completion came to be: which weights wrote it, with which settings."""

    completion = models.OneToOneField("labeling.Completion", models.CASCADE, related_name="generation")
    model_version = models.ForeignKey(
        ModelVersion,
        models.RESTRICT,
        null=True,
        blank=True,
        related_name="generations",
        help_text="Empty where a policy wrote it while it was trained, with weights that may be none that were kept.",
    )
    run = models.ForeignKey(Run, models.RESTRICT, related_name="generations")
    temperature = models.FloatField()
    seed = models.BigIntegerField()
    sample = models.PositiveIntegerField(default=0)
    tokens = models.PositiveIntegerField(default=0)
    ended = models.BooleanField(default=True, help_text="It ended by itself, not at the length limit.")

    def __str__(self) -> str:
        return f"completion {self.completion_id} by {self.model_version or self.run}"


class Score(models.Model):
    """What a reward model says of a completion that people compared, in its own deviations above the mean."""

    model_version = models.ForeignKey(ModelVersion, models.CASCADE, db_index=False, related_name="scores")
    completion = models.ForeignKey("labeling.Completion", models.CASCADE, related_name="scores")
    value = models.FloatField()
    run = models.ForeignKey(Run, models.CASCADE, related_name="scores")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["model_version", "completion"], name="score_once"),
        ]

    def __str__(self) -> str:
        return f"{self.value:g} for completion {self.completion_id}"


class FreshAnswer(models.Model):
    """What a policy says to a prompt that people judged. It is no candidate: nobody is asked about it."""

    model_version = models.ForeignKey(
        ModelVersion, models.CASCADE, db_index=False, related_name="fresh_answers"
    )
    prompt = models.ForeignKey("labeling.Prompt", models.CASCADE, related_name="fresh_answers")
    text = models.TextField()
    run = models.ForeignKey(Run, models.CASCADE, related_name="fresh_answers")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["model_version", "prompt"], name="fresh_answer_once"),
        ]

    def __str__(self) -> str:
        return self.text[:80]


class Schedule(models.Model):
    """When a project's loop trains by itself: at a time (a row of django-celery-beat) or after an amount of answers."""

    project = models.ForeignKey("labeling.Project", models.CASCADE, related_name="schedules")
    periodic_task = models.OneToOneField(
        "django_celery_beat.PeriodicTask",
        models.CASCADE,
        null=True,
        blank=True,
        related_name="tastemaker_schedule",
    )
    every_preferences = models.PositiveIntegerField(null=True, blank=True, validators=[MinValueValidator(1)])
    enabled = models.BooleanField(default=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(periodic_task__isnull=False, every_preferences__isnull=True)
                | Q(periodic_task__isnull=True, every_preferences__gte=1),
                name="schedule_by_time_or_amount",
            ),
            models.UniqueConstraint(
                fields=["project"], condition=Q(every_preferences__isnull=False), name="schedule_one_amount"
            ),
            models.UniqueConstraint(
                fields=["project"], condition=Q(periodic_task__isnull=False), name="schedule_one_time"
            ),
        ]

    def __str__(self) -> str:
        return (
            f"every {self.every_preferences} answers" if self.every_preferences else str(self.periodic_task)
        )
