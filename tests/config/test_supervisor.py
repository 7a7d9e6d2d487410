"""Real child processes: killed, stopped, and never left behind."""

import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from config.supervisor import Child, Supervisor

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]
STUBBORN = [sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"]


def wait_for(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def said():
    return []


def watching(supervisor):
    def watch():
        while not supervisor.stopping:
            supervisor.watch()
            time.sleep(0.05)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def test_a_killed_child_is_started_again(said):
    child = Child("sleeper", SLEEPER)
    supervisor = Supervisor([child], said.append, keep=lambda: None)
    child.start()
    first = child.process.pid
    thread = watching(supervisor)
    os.kill(first, signal.SIGKILL)
    assert wait_for(lambda: getattr(child.process, "pid", first) != first)
    supervisor.stopping = True
    thread.join()
    supervisor.stop()
    assert "sleeper ended with code -9" in said[0]


def test_a_child_that_keeps_dying_is_started_ever_more_slowly(said):
    child = Child("broken", [sys.executable, "-c", "raise SystemExit(1)"])
    child.start()
    pauses = []
    for _ in range(3):
        child.process.wait()
        pauses.append(child.pause_seconds)
        child.plan_restart()
        child.start()
    child.process.wait()
    assert pauses == [1.0, 2.0, 4.0]


def test_stopping_leaves_no_process_behind(said, monkeypatch):
    monkeypatch.setattr("config.supervisor.STOP_SECONDS", 1)
    parent = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(601)']); time.sleep(600)"
    children = [
        Child("sleeper", SLEEPER),
        Child("stubborn", STUBBORN),
        Child("parent", [sys.executable, "-c", parent]),
    ]
    supervisor = Supervisor(children, said.append, keep=lambda: None)
    for child in children:
        child.start()
    assert wait_for(lambda: psutil.Process(children[2].process.pid).children())
    family = [
        *psutil.Process(children[2].process.pid).children(),
        *(psutil.Process(c.process.pid) for c in children),
    ]
    time.sleep(0.5)
    supervisor.stop()
    gone_or_defunct = lambda p: not p.is_running() or p.status() == psutil.STATUS_ZOMBIE  # noqa: E731
    assert wait_for(lambda: all(gone_or_defunct(process) for process in family))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_children_end_with_a_supervisor_that_was_killed():
    script = (
        "import os, time\n"
        "os.environ['DJANGO_SETTINGS_MODULE'] = 'config.settings'\n"
        "from config.supervisor import Child\n"
        f"child = Child('sleeper', {SLEEPER!r})\n"
        "child.start()\nprint(child.process.pid, flush=True)\ntime.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    sleeper = psutil.Process(int(process.stdout.readline()))
    process.kill()
    process.wait()
    assert wait_for(lambda: not sleeper.is_running() or sleeper.status() == psutil.STATUS_ZOMBIE)
