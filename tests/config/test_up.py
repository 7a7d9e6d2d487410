"""`manage.py up` as an operator sees it: it answers, heals, and leaves nothing behind."""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from config.supervisor import free_port

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def wait_for(condition, seconds=180):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.1)
    return False


def answers(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/", timeout=5) as answer:
            return answer.read() == b"ok"
    except OSError:
        return False


def processes_of(data):
    """Every living process that has the data folder in its command line or its environment."""
    found = []
    for process in psutil.process_iter():
        try:
            mine = str(data) in " ".join(process.cmdline()) or process.environ().get(
                "TASTEMAKER_DATA"
            ) == str(data)
            if mine and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_it_answers_heals_and_stops_without_a_trace(folder):
    port = free_port()
    environment = {
        name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")
    }
    environment |= {
        "TASTEMAKER_DATA": str(folder),
        "PORT": str(port),
        "HOST": "0.0.0.0",
        "PRODUCTION": "1",
        "SECRET_KEY": "s" * 50,
        "ALLOWED_HOSTS": "tastemaker.example",  # not the address that `up` asks
        "DJANGO_SETTINGS_MODULE": "config.settings",
    }
    with (folder / "up.log").open("w") as log:
        up = subprocess.Popen(
            [sys.executable, "manage.py", "up", "--demo"], cwd=ROOT, env=environment, stdout=log, stderr=log
        )
    try:
        ready = f"Tastemaker answers on http://127.0.0.1:{port}/"
        assert wait_for(lambda: ready in (folder / "up.log").read_text()), (folder / "up.log").read_text()
        shown = (folder / "up.log").read_text().split(ready)[0]
        assert re.search(r"manager +\S{16}\n +annotator +\S{16}\n", shown), shown
        names = [" ".join(child.cmdline()) for child in psutil.Process(up.pid).children()]
        for part in ("gunicorn", "--queues default", "--queues gpu --concurrency 1", " beat "):
            assert any(part in name for name in names), part

        web = next(
            child for child in psutil.Process(up.pid).children() if "gunicorn" in " ".join(child.cmdline())
        )
        os.kill(int((folder / "postgres" / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
        os.kill(web.pid, signal.SIGKILL)
        # Its orphaned workers may still answer for a moment, so first the notice, then the answer.
        notice = "web ended with code -9; it is started again"
        assert wait_for(lambda: notice in (folder / "up.log").read_text())
        assert wait_for(lambda: answers(port)), (folder / "up.log").read_text()

        up.send_signal(signal.SIGINT)
        assert up.wait(timeout=180) == 0, (folder / "up.log").read_text()
        assert wait_for(lambda: not processes_of(folder)), (folder / "up.log").read_text()
    finally:
        up.kill()
