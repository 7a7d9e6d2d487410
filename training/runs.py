"""Starts, claims, stops, fails and finishes runs: the only writer of Run.status.

The truth is the row. A queued message only says "look at run 17": it may be lost, come twice or come late.
A worker takes a run by one conditional UPDATE that writes its own token, and each later write names that
token; a worker that was given up for dead therefore changes nothing when it comes back.
"""

from __future__ import annotations

import logging
import os
import subprocess
import uuid
from collections.abc import Iterable, Mapping
from datetime import timedelta
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.db.models.functions import Coalesce
from django.utils import timezone
from pydantic import ValidationError

from config import storage
from labeling.models import DatasetVersion, Project, User
from training.engine.config import METHODS, EngineError, Settings, check_sources, explain
from training.models import Metric, ModelVersion, Round, Run

logger = logging.getLogger(__name__)

ATTEMPTS = 5
RESEND_AFTER = timedelta(seconds=20)
RESEND_BEHIND_OTHERS_AFTER = timedelta(minutes=10)
MAKES = {
    "sft": "policy",
    "ppo": "policy",
    "grpo": "policy",
    "rloo": "policy",
    "dpo": "policy",
    "reward": "reward",
}


class RunRefused(ValueError):
    """The run was not started; the message says in a sentence which setting is wrong."""


class Superseded(Exception):
    """Another worker has taken this run over; this one must leave without a trace."""


# Starting


def start(
    project: Project,
    method: str,
    overrides: Mapping[str, Any] | None = None,
    user: User | None = None,
    *,
    input_model: ModelVersion | None = None,
    reward_model: ModelVersion | None = None,
    dataset_version: DatasetVersion | None = None,
    round: Round | None = None,
    stage: str = "",
    held_out: bool = False,
) -> Run:
    """Queue a run of the engine. Raises RunRefused where the engine would refuse its config."""
    given = dict(overrides or {}) | _linked(method, input_model, reward_model, dataset_version)
    config = validated(method, given)
    with transaction.atomic():
        run = Run.objects.create(
            project=project,
            method=method,
            config=config.model_dump(mode="json"),
            seed=config.seed,
            dataset_version=dataset_version,
            input_model=input_model,
            reward_model=reward_model,
            round=round,
            stage=stage,
            held_out=held_out,
            code_version=code_version(),
            requested_by=user,
            sent_at=timezone.now(),
        )
        Run.objects.filter(pk=run.pk).update(folder=f"runs/{run.pk}")
        transaction.on_commit(lambda: send("training.tasks.execute_run", run.pk))
    run.folder = f"runs/{run.pk}"
    return run


def validated(method: str, values: Mapping[str, Any]) -> Settings:
    """The engine's config for a method. Raises RunRefused with the first thing that is wrong."""
    if method not in METHODS:
        raise RunRefused(f"There is no method {method!r}; there are {', '.join(METHODS)}.")
    try:
        config = METHODS[method].model_validate(dict(values))
        check_server(config)
        check_sources(config)
    except ValidationError as error:
        raise RunRefused(explain(error)) from error
    except EngineError as error:
        raise RunRefused(str(error)) from error
    return config


def check_server(config: Settings) -> None:
    """Raise RunRefused for a server that the operator has not listed: a worker would ask it from inside the network.

    Its model must be named as well, since that is who wrote the candidates; `model` names a version of ours.
    """
    server = getattr(config, "server", None)
    if server is None:
        return
    if server not in settings.GENERATION_SERVERS:
        raise RunRefused(
            "server: only servers that the operator has listed (TASTEMAKER_GENERATION_SERVERS) can be asked, and "
            f"{server} is none of them"
        )
    if not config.server_model_name:
        raise RunRefused("server_model_name: must be given with server; it says who wrote the candidates")


def _linked(
    method: str,
    input_model: ModelVersion | None,
    reward_model: ModelVersion | None,
    dataset: DatasetVersion | None,
) -> dict[str, str | None]:
    """What the config says about rows: the folders and files behind them."""
    values = {}
    if input_model:
        values["model"] = input_model.path
    if reward_model:
        values["judge_model" if method == "evaluate" else "reward_model"] = reward_model.path
    if dataset:
        values |= {
            "train_data": str(storage.local_path(dataset.train_file)),
            "eval_data": str(storage.local_path(dataset.eval_file)) if dataset.eval_count else None,
        }
    return values


def send(task: str, key: int) -> None:
    """Tell a worker where to look. Where the broker is away, `tick` will say it again."""
    from config.celery import app

    queue = "gpu" if task == "training.tasks.execute_run" else "default"
    try:
        app.send_task(task, [key], queue=queue, retry=False)
    except Exception as error:  # kombu raises what its transports raise
        logger.warning("could not send %s(%s), which will be sent again: %s", task, key, error)


@cache
def code_version() -> str:
    """The package's version, and the commit where the code lies in a checkout."""
    try:
        version = metadata.version("tastemaker")
    except metadata.PackageNotFoundError:
        version = "0"
    git = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"],
        cwd=settings.BASE_DIR,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ.get("PATH", ""), "GIT_DIR": str(Path(settings.BASE_DIR) / ".git")},
    )
    return f"{version}+{git.stdout.strip()}" if git.returncode == 0 else version


# Claiming


def claim(run_id: int) -> Run | None:
    """Take a run for this worker, or None where it is somebody else's, over, or out of attempts."""
    token, now = uuid.uuid4(), timezone.now()
    taken = (
        Run.objects.claimable()
        .filter(pk=run_id, attempts__lt=ATTEMPTS)
        .update(
            status=Run.Status.RUNNING,
            claim_token=token,
            attempts=F("attempts") + 1,
            heartbeat_at=now,
            started_at=Coalesce(F("started_at"), now),
            seconds_left=None,
        )
    )
    if not taken:
        _give_up(run_id)
        return None
    return Run.objects.select_related("project", "input_model").filter(pk=run_id, claim_token=token).first()


def _give_up(run_id: int) -> None:
    """A run that was interrupted too often would be so for ever."""
    reason = f"Interrupted {ATTEMPTS} times without coming to its end; start it again when the worker's machine is well."
    exhausted = Run.objects.claimable().filter(pk=run_id, attempts__gte=ATTEMPTS)
    if exhausted.update(
        status=Run.Status.FAILED, finished_at=timezone.now(), message=reason, claim_token=None
    ):
        _tell_round(run_id)


def stop_silent() -> None:
    """A run that was asked to stop and whose worker is gone has stopped."""
    silent = Run.objects.stale().filter(stop_requested_at__isnull=False)
    for run_id in list(silent.values_list("pk", flat=True)):
        ended = {"status": Run.Status.STOPPED, "finished_at": timezone.now(), "claim_token": None}
        if silent.filter(pk=run_id).update(
            message="Stopped on request; its worker had gone before.", **ended
        ):
            _tell_round(run_id)


def resend() -> list[int]:
    """Send again what waits for a worker although nobody works on it. Returns the runs' ids.

    While a worker is busy a queue is a queue: then only what has waited for long is sent again.
    """
    now = timezone.now()
    busy = (
        Run.objects.filter(status=Run.Status.RUNNING)
        .exclude(pk__in=Run.objects.stale().values("pk"))
        .exists()
    )
    before = now - (RESEND_BEHIND_OTHERS_AFTER if busy else RESEND_AFTER)
    sent = []
    for run_id in list(
        Run.objects.claimable().filter(sent_at__lt=before).order_by("id").values_list("pk", flat=True)[:100]
    ):
        if Run.objects.claimable().filter(pk=run_id, sent_at__lt=before).update(sent_at=now):
            send("training.tasks.execute_run", run_id)
            sent.append(run_id)
    return sent


# While it runs: every write names the claim


def _held(run: Run) -> Any:
    return Run.objects.filter(pk=run.pk, status=Run.Status.RUNNING, claim_token=run.claim_token)


def heartbeat(run: Run, **progress: Any) -> bool:
    """Say that the run lives, and how far it is. Returns whether a stop was asked for; raises Superseded."""
    if not _held(run).update(heartbeat_at=timezone.now(), **progress):
        raise Superseded(f"run {run.pk} was taken over")
    return Run.objects.filter(pk=run.pk, stop_requested_at__isnull=False).exists()


def record(run: Run, metrics: Iterable[Metric], **progress: Any) -> bool:
    """Store metrics and progress together. Returns whether a stop was asked for; raises Superseded."""
    latest = {(metric.name, metric.step): metric for metric in metrics}
    with transaction.atomic():
        stop = heartbeat(run, **progress)
        Metric.objects.bulk_create(
            latest.values(),
            update_conflicts=True,
            unique_fields=["run", "name", "step"],
            update_fields=["value", "at"],
            batch_size=5000,
        )
    return stop


def request_stop(run: Run, user: User | None = None) -> None:
    """Ask a run to save and leave. One that nobody has taken yet is over at once."""
    now = timezone.now()
    # The wish first: whoever takes or gives back the run between the two statements finds it there.
    open_ones = Run.objects.filter(pk=run.pk, status__in=[Run.Status.QUEUED, Run.Status.RUNNING])
    open_ones.filter(stop_requested_at__isnull=True).update(stop_requested_at=now, stop_requested_by=user)
    never_ran = Run.objects.filter(pk=run.pk, status=Run.Status.QUEUED)
    if never_ran.update(status=Run.Status.STOPPED, finished_at=now, message="Stopped before it started."):
        _tell_round(run.pk)


# Ending


def requeue(run: Run, message: str, counts: bool = True) -> None:
    """Give an interrupted run back, to be continued from its checkpoint by whoever takes it next."""
    attempts = F("attempts") if counts else F("attempts") - 1
    with transaction.atomic():
        changed = _held(run).update(
            status=Run.Status.QUEUED,
            claim_token=None,
            message=message,
            attempts=attempts,
            sent_at=timezone.now(),
        )
        if not changed:
            raise Superseded(f"run {run.pk} was taken over")
        transaction.on_commit(lambda: send("training.tasks.execute_run", run.pk))


def fail(run: Run, reason: str, exit_code: int | None = None) -> None:
    _end(run, Run.Status.FAILED, message=reason, exit_code=exit_code)


def stopped(run: Run, message: str, exit_code: int | None = None) -> None:
    _end(run, Run.Status.STOPPED, message=message, exit_code=exit_code)


def finish(
    run: Run,
    result: dict[str, Any],
    message: str = "",
    exit_code: int = 0,
    location: str = "",
    sha256: str = "",
) -> ModelVersion | None:
    """The run is done. Where it made a model (location), the version is registered in the same transaction."""
    with transaction.atomic():
        _end(run, Run.Status.DONE, message=message, exit_code=exit_code, result=result)
        if not location:
            return None
        return register(
            run.project, MAKES[run.method], location, sha256, run=run, parent=run.input_model, metrics=result
        )


def _end(run: Run, status: str, **fields: Any) -> None:
    with transaction.atomic():
        if not _held(run).update(
            status=status, finished_at=timezone.now(), claim_token=None, seconds_left=None, **fields
        ):
            raise Superseded(f"run {run.pk} was taken over")
        _tell_round(run.pk)


def _tell_round(run_id: int) -> None:
    """A round waits for its runs; it looks as soon as one is over, not at the next tick."""
    round_id = Run.objects.filter(pk=run_id).values_list("round_id", flat=True).first()
    if round_id:
        transaction.on_commit(lambda: send("training.tasks.advance_round", round_id))


# Model versions


def register(
    project: Project,
    kind: str,
    location: str,
    sha256: str,
    run: Run | None = None,
    parent: ModelVersion | None = None,
    metrics: dict[str, Any] | None = None,
) -> ModelVersion:
    """Name new weights policy-N or reward-N. The project's row is locked, so no two get the same number."""
    with transaction.atomic():
        Project.objects.select_for_update(no_key=True).get(pk=project.pk)
        last = ModelVersion.objects.filter(project=project, kind=kind).order_by("-number").first()
        number = last.number + 1 if last else (0 if kind == ModelVersion.Kind.POLICY else 1)
        return ModelVersion.objects.create(
            project=project,
            kind=kind,
            number=number,
            name=f"{kind}-{number}",
            location=location,
            sha256=sha256,
            run=run,
            parent=parent,
            metrics=metrics or {},
        )
