"""kill -9, in the middle of PPO, of the engine and of the whole worker: the run still ends right."""

import contextlib
import os
import signal
import subprocess
import sys
from datetime import timedelta

import pytest
from django.utils import timezone

from tests.training.conftest import OVERRIDES
from tests.training.test_launch import engine_of, wait_for
from training import launch, runs, tasks
from training.models import Metric, Run

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]
STEPS = 60


@pytest.fixture
def hold(tmp_path):
    """While this file is there, an engine that a worker started needs minutes to the end of its run."""
    path = tmp_path / "hold"
    path.touch()
    return path


@pytest.fixture
def start_worker(process_environment, tmp_path, hold):
    """A real Celery worker for the queue gpu, on the test's database and broker."""
    started = []

    def start():
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "celery",
                "-A",
                "config",
                "worker",
                "-Q",
                "gpu",
                "-c",
                "1",
                "-l",
                "WARNING",
            ],
            env=process_environment | {"OMP_NUM_THREADS": "1", "HOLD": str(hold)},
            stdout=(tmp_path / "worker.log").open("ab"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        kill_all(process)


def kill_all(process):
    """kill -9 of a worker with the processes of its pool; the engine has a group of its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture
def ppo_run(project, loop_settings, prompts_file):
    def start():
        values = OVERRIDES["ppo"] | {
            "prompts": str(prompts_file),
            "rewards": [{"path": "tests.training.judge:shorter"}],
            "steps": STEPS,
            "checkpoint_every_steps": 3,
            "kl_budget_nats": 1000.0,
            "kl_target_nats": 500.0,
            "max_identical_share": 1.0,
            "min_distinct_2": 0.0,
            "seed": 5,
        }
        return runs.start(project, "ppo", values, input_model=loop_settings.policy)

    return start


def step_of(run):
    return (
        Metric.objects.filter(run=run, name="reward").order_by("-step").values_list("step", flat=True).first()
        or 0
    )


def check_ended_right(run):
    wait_for(lambda: not Run.objects.get(pk=run.pk).unfinished, seconds=400)
    ended = Run.objects.select_related("model_version").get(pk=run.pk)
    assert (ended.status, ended.attempts) == ("done", 2), ended.message
    assert ended.model_version.name.startswith("policy-")
    steps = Metric.objects.filter(run=run, name="reward").order_by("step").values_list("step", flat=True)
    assert list(steps) == list(range(1, STEPS + 1)), "every step once"
    return ended


def test_a_killed_engine_continues_and_ends_with_the_weights_of_an_undisturbed_run(
    start_worker, ppo_run, hold
):
    undisturbed = ppo_run()
    launch.execute(runs.claim(undisturbed.pk))
    expected = Run.objects.get(pk=undisturbed.pk).model_version.sha256

    run = ppo_run()
    start_worker()
    wait_for(lambda: step_of(run) >= 2)
    os.kill(engine_of(run), signal.SIGKILL)
    hold.unlink()
    assert check_ended_right(run).model_version.sha256 == expected


def test_a_killed_worker_takes_its_engine_with_it_and_another_one_continues(start_worker, ppo_run, hold):
    run = ppo_run()
    worker = start_worker()
    wait_for(lambda: step_of(run) >= 2)
    engine = engine_of(run)
    kill_all(worker)
    hold.unlink()
    wait_for(lambda: engine_of(run) != engine)
    assert Run.objects.get(pk=run.pk).status == "running", "nobody has noticed yet"

    silent_for = runs.RESEND_AFTER + timedelta(minutes=1)
    Run.objects.filter(pk=run.pk).update(
        heartbeat_at=timezone.now() - silent_for, sent_at=timezone.now() - silent_for
    )
    start_worker()
    tasks.tick()
    check_ended_right(run)


def test_a_worker_that_is_asked_to_stop_hands_its_run_on(start_worker, ppo_run):
    run = ppo_run()
    worker = start_worker()
    wait_for(lambda: step_of(run) >= 2)
    worker.send_signal(signal.SIGTERM)
    worker.wait(240)
    assert step_of(run) < STEPS, "it did not wait for the end of the run"
    handed = Run.objects.get(pk=run.pk)
    assert (handed.status, handed.attempts) == ("queued", 0)
