"""Celery shells. Each is told only where to look, and looking twice is harmless."""

from __future__ import annotations

import multiprocessing
from multiprocessing.synchronize import Event
from typing import Any

from celery import shared_task
from celery.signals import worker_init, worker_shutting_down
from django.core.cache import cache

from training import followup, launch, loop, runs, schedules

_leaving: Event | None = None


@worker_init.connect
def _prepare(**signal: Any) -> None:
    """Made before the pool forks, so that the processes that work hear of a shutdown too."""
    global _leaving
    _leaving = multiprocessing.get_context("fork").Event()


@worker_shutting_down.connect
def _announce(**signal: Any) -> None:
    if _leaving:
        _leaving.set()


def leaving() -> bool:
    """Whether this worker was asked to go: then its run is handed back, to be continued elsewhere."""
    return bool(_leaving and _leaving.is_set())


@shared_task(acks_late=True, reject_on_worker_lost=True)
def execute_run(run_id: int) -> None:
    """Run the engine for a run, unless somebody else does."""
    if not leaving() and (run := runs.claim(run_id)):
        launch.execute(run, leaving)


@shared_task
def tick() -> None:
    """Every few seconds: say again what was lost, move rounds and what follows them on, start what a
    schedule asks for.
    """
    cache.set("tick", True, timeout=10)  # how `rehearse` sees that beat is running
    runs.stop_silent()
    runs.resend()
    schedules.fire_by_amount()
    loop.advance_open()
    followup.advance_all()


@shared_task
def advance_round(round_id: int) -> None:
    """Move a round on as far as it goes now."""
    loop.advance(round_id)


@shared_task
def start_round(project_id: int) -> None:
    """A schedule's time has come: train on what was collected, or start a round where none is open."""
    schedules.fire(project_id)
