"""The Celery application. Queues: `gpu` with one process for what trains, `default` for the rest."""

import os

from celery import Celery
from celery.signals import setup_logging

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")


@setup_logging.connect
def keep_logging(**options: object) -> None:
    """What LOGGING says holds in workers and beat too: with a receiver here, Celery sets up no loggers of its own."""


app = Celery("tastemaker")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
app.conf.task_routes = {"training.tasks.execute_run": {"queue": "gpu"}}
# A tick that waited longer says nothing that the next one does not.
app.conf.beat_schedule = {
    "tick": {"task": "training.tasks.tick", "schedule": 2.0, "options": {"expires": 10}}
}
