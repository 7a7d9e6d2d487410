"""The Celery application. Queues: `gpu` with one process for what trains, `default` for the rest."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

app = Celery("tastemaker")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
app.conf.task_routes = {"training.tasks.execute_run": {"queue": "gpu"}}
# A tick that waited longer says nothing that the next one does not.
app.conf.beat_schedule = {
    "tick": {"task": "training.tasks.tick", "schedule": 2.0, "options": {"expires": 10}}
}
