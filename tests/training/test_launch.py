import json
import os
import socket
import subprocess
import sys
import threading
import time

import pytest
from django.db import connection

from tests.training.conftest import TINY, WORDS
from training import launch, runs
from training.models import Metric, Run

pytestmark = pytest.mark.timeout(900)


def execute(run, leaving=launch.never):
    launch.execute(runs.claim(run.pk), leaving)
    return Run.objects.get(pk=run.pk)


def in_background(run, leaving=launch.never):
    def work():
        try:
            execute(run, leaving)
        finally:
            connection.close()

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def wait_for(condition, seconds=240):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return found


def engine_of(run):
    """The process id of the engine that holds the run's folder, once it has taken it."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/cmdline", "rb") as file:
                    words = file.read().split(b"\0")
            except OSError:
                continue
            if b"training.engine" in words and str(run.path).encode() in words:
                return int(entry)
    return None


@pytest.fixture
def long_run(project, loop_settings, tmp_path):
    """A generate run that would take minutes, and says early how far it is."""
    path = tmp_path / "many.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"my order {n}"}) + "\n" for n in range(5000)))
    values = TINY | {"prompts": str(path), "samples_per_prompt": 20, "micro_batch_tokens": 64}
    return runs.start(project, "generate", values, input_model=loop_settings.policy)


def test_a_run_ends_done_with_its_result_and_files(queued_run):
    run = execute(queued_run)
    assert (run.status, run.message, run.exit_code) == ("done", "", 0)
    assert run.finished_at and run.claim_token is None
    rows = [json.loads(line) for line in (run.path / "completions.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * len(WORDS)
    assert run.result


def test_the_engine_sees_no_settings_of_the_web(monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "postgresql://secret")
    monkeypatch.setenv("SECRET_KEY", "secret")
    assert "secret" not in " ".join(launch._environment().values())
    assert "PATH" in launch._environment()


def test_data_that_vanished_fails_the_run_with_the_engines_sentence(queued_run, prompts_file):
    prompts_file.unlink()
    run = execute(queued_run)
    assert (run.status, run.exit_code) == ("failed", 2)
    assert run.message == f"prompts: there is no file {prompts_file}"


def test_a_bad_row_is_reported_with_its_line(queued_run, prompts_file):
    prompts_file.write_text('{"prompt": "fine"}\n{"prompt": 7}\n')
    run = execute(queued_run)
    assert run.status == "failed"
    assert "line 2" in run.message


@pytest.mark.django_db(transaction=True)
def test_a_stop_reaches_the_engine(long_run, alice):
    thread = in_background(long_run)
    wait_for(lambda: Run.objects.get(pk=long_run.pk).progress_total)
    runs.request_stop(Run.objects.get(pk=long_run.pk), alice)
    thread.join(240)
    assert not thread.is_alive()
    run = Run.objects.get(pk=long_run.pk)
    assert (run.status, run.exit_code) == ("stopped", 143)
    assert "Stopped on request" in run.message
    assert engine_of(run) is None


@pytest.mark.django_db(transaction=True)
def test_a_superseded_worker_ends_its_engine_and_leaves_no_trace(long_run):
    thread = in_background(long_run)
    wait_for(lambda: Run.objects.get(pk=long_run.pk).progress_total)
    Run.objects.filter(pk=long_run.pk).update(
        claim_token="00000000-0000-0000-0000-000000000001", phase="theirs"
    )
    thread.join(240)
    assert not thread.is_alive()
    run = Run.objects.get(pk=long_run.pk)
    assert (run.status, run.phase) == ("running", "theirs")
    assert engine_of(run) is None


def test_a_new_engine_waits_for_one_that_still_saves_and_asks_it_to_leave(queued_run):
    run = runs.claim(queued_run.pk)
    run.path.mkdir(parents=True, exist_ok=True)
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl, signal, sys, time\n"
            "lock = open(sys.argv[1], 'w'); fcntl.flock(lock, fcntl.LOCK_EX)\n"
            "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n"
            "print('held', flush=True); signal.sigwait([signal.SIGTERM]); time.sleep(1.5)",
            str(run.path / "lock"),
        ],
        stdout=subprocess.PIPE,
    )
    holder.stdout.readline()
    (run.path / "engine.pid").write_text(f"{socket.gethostname()} {holder.pid}")
    began = time.monotonic()
    launch._wait_for_folder(run)
    assert time.monotonic() - began > 1.4
    assert holder.wait(240) == 0
    launch._wait_for_folder(run)


def event(**values):
    return json.dumps({"time": 1.0} | values) + "\n"


def test_half_a_line_is_kept_until_its_other_half_comes(queued_run):
    run = runs.claim(queued_run.pk)
    run.path.mkdir(parents=True, exist_ok=True)
    events = run.path / "events.jsonl"
    line = event(kind="metrics", step=3, metrics={"loss": 0.5})
    events.write_text(line[:20])
    follower = launch.Follower(run)
    follower.write()
    assert not Metric.objects.exists()
    with events.open("a") as file:
        file.write(line[20:] + "not json\n" + event(kind="progress", phase="learning", done=3, total=9))
    follower.write()
    assert list(Metric.objects.values_list("step", "name", "value")) == [(3, "loss", 0.5)]
    run.refresh_from_db()
    assert (run.phase, run.progress_done, run.progress_total) == ("learning", 3, 9)


def test_events_cut_back_to_a_checkpoint_are_read_again(queued_run):
    run = runs.claim(queued_run.pk)
    run.path.mkdir(parents=True, exist_ok=True)
    events = run.path / "events.jsonl"
    events.write_text("".join(event(kind="metrics", step=step, metrics={"loss": 1.0}) for step in range(4)))
    follower = launch.Follower(run)
    follower.write()
    events.write_text(event(kind="metrics", step=0, metrics={"loss": 2.0}))
    follower.write()
    assert list(Metric.objects.order_by("step").values_list("value", flat=True)) == [2.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("code", "asked", "status", "words"),
    [
        (143, "stop", "stopped", "Stopped on request"),
        (143, "", "queued", "continues from its last checkpoint"),
        (-9, "", "queued", "memory"),
        (-11, "", "failed", "signal 11 (SIGSEGV)"),
        (1, "", "failed", "RuntimeError: the last words"),
    ],
)
def test_every_way_to_end_is_told_in_words(queued_run, code, asked, status, words):
    run = runs.claim(queued_run.pk)
    run.path.mkdir(parents=True, exist_ok=True)
    (run.path / "engine.log").write_text("Traceback\n  somewhere\nRuntimeError: the last words\n")
    launch._conclude(launch.Follower(run), code, asked)
    run.refresh_from_db()
    assert run.status == status
    assert words in run.message


def test_a_guard_that_kept_good_weights_gives_a_version(project, loop_settings, prompts_file, tiny_policy):
    values = TINY | {"prompts": str(prompts_file), "rewards": [{"path": "builtins:len", "weight": 1.0}]}
    run = runs.claim(runs.start(project, "ppo", values, input_model=loop_settings.policy).pk)
    run.path.mkdir(parents=True)
    (run.path / "model").symlink_to(tiny_policy)
    (run.path / "result.json").write_text(
        json.dumps({"stopped_by": "KL of 12 nats over its budget", "kl_nats": 12.0})
    )
    launch._conclude(launch.Follower(run), 3, "")
    run.refresh_from_db()
    assert run.status == "done"
    assert (
        run.message
        == "Stopped early by a guard: KL of 12 nats over its budget. The last good weights were kept."
    )
    assert run.model_version.name == "policy-1"
    assert run.model_version.sha256 == loop_settings.policy.sha256
    assert run.model_version.parent == loop_settings.policy


def test_a_guard_that_left_no_weights_fails_the_run(project, loop_settings, prompts_file):
    values = TINY | {"prompts": str(prompts_file), "rewards": [{"path": "builtins:len", "weight": 1.0}]}
    run = runs.claim(runs.start(project, "ppo", values, input_model=loop_settings.policy).pk)
    run.path.mkdir(parents=True)
    (run.path / "result.json").write_text(json.dumps({"stopped_by": "ratio 1.2 before the first step"}))
    launch._conclude(launch.Follower(run), 3, "")
    run.refresh_from_db()
    assert run.status == "failed"
    assert "ratio 1.2" in run.message and "no usable weights" in run.message
