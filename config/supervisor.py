"""Keeps child processes alive until asked to stop, and then leaves none behind."""

import ctypes
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from django.conf import settings
from django.core.cache import cache
from django.utils.crypto import salted_hmac

from config import embedded

START_SECONDS = 60
STOP_SECONDS = 20  # for a worker to finish what it may finish; then it is killed
RESTART_PAUSE_SECONDS = 1.0  # doubled with each early death, so that a broken child does not spin
LONGEST_PAUSE_SECONDS = 30.0
SETTLED_SECONDS = 30.0  # a child that lived so long starts afresh with the shortest pause
PR_SET_PDEATHSIG = 1


@dataclass
class Child:
    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen | None = None
    started_at: float = 0.0
    pause_seconds: float = RESTART_PAUSE_SECONDS
    start_again_at: float = 0.0

    def start(self) -> None:
        log = settings.DATA / "logs" / f"{self.name}.log"
        log.parent.mkdir(exist_ok=True)
        with log.open("ab") as output:
            # A session of its own: Ctrl-C in the terminal reaches the supervisor alone, which stops
            # the children in order.
            self.process = subprocess.Popen(
                self.command, cwd=settings.BASE_DIR, env=os.environ | self.environment, stdin=subprocess.DEVNULL,
                stdout=output, stderr=output, start_new_session=True, preexec_fn=_die_with_parent,
            )  # fmt: skip
        self.started_at = time.monotonic()

    def died(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def plan_restart(self) -> None:
        lived = time.monotonic() - self.started_at
        if lived > SETTLED_SECONDS:
            self.pause_seconds = RESTART_PAUSE_SECONDS
        self.start_again_at = time.monotonic() + self.pause_seconds
        self.pause_seconds = min(2 * self.pause_seconds, LONGEST_PAUSE_SECONDS)
        self.process = None

    def signal(self, number: int) -> None:
        """To the whole session of the child, so that its own children hear it too when it is killed."""
        if self.process is None:
            return
        try:
            if number == signal.SIGKILL:
                os.killpg(self.process.pid, number)
            else:
                self.process.send_signal(number)
        except ProcessLookupError:
            pass


class Supervisor:
    """Starts children in order, restarts what dies, stops all on SIGINT or SIGTERM.

    keep is called about once a second and keeps alive what is not a child of ours (the bundled servers).
    """

    def __init__(self, children: list[Child], say: Callable[[str], object], keep: Callable[[], None]) -> None:
        self.children = children
        self.say = say
        self.keep = keep
        self.stopping = False

    def run(self, ready_address: str, ready_message: str) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.request_stop)
        try:
            for child in self.children:
                child.start()
            ready = False
            while not self.stopping:
                self.watch()
                if not ready and answers(ready_address):
                    ready = True
                    self.say(ready_message)
                time.sleep(0.2 if not ready else 0.5)
        finally:
            self.stop()

    def request_stop(self, number: int, frame: object) -> None:
        self.stopping = True

    def watch(self) -> None:
        self.keep()
        for child in self.children:
            if child.died():
                self.say(
                    f"  {child.name} ended with code {child.process.returncode}; it is started again. Its log: {settings.DATA / 'logs' / child.name}.log"
                )
                child.plan_restart()
            if child.process is None and time.monotonic() >= child.start_again_at:
                child.start()

    def watch_until_stopped(self) -> None:
        while not self.stopping:
            self.watch()
            time.sleep(0.5)

    def stop(self) -> None:
        """Ask all to stop; kill with its own children what has not after STOP_SECONDS."""
        self.stopping = True
        running = [child for child in self.children if child.process and child.process.poll() is None]
        for child in running:
            child.signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while any(child.process.poll() is None for child in running) and time.monotonic() < deadline:
            time.sleep(0.05)
        for child in running:
            child.signal(signal.SIGKILL)
            child.process.wait()


@contextmanager
def running_installation(say: Callable[[str], object]) -> Iterator[str]:
    """For the duration, start of web server, workers and beat what does not run. Yields the web address."""
    address, children = web_address(), []
    queues = consumed_queues()
    if not answers(f"{address}health/", ours=True):
        port = free_port()
        address = f"http://127.0.0.1:{port}/"
        children.append(web_server("127.0.0.1", port))
    children += [
        celery_worker(queue, count) for queue, count in (("default", 1), ("gpu", 1)) if queue not in queues
    ]
    if not queues or not beats():
        children.append(beat())
    if children:
        say(f"starting for now: {', '.join(child.name for child in children)}")
    supervisor = Supervisor(children, say, keep=embedded.keep_alive)
    watcher = threading.Thread(target=supervisor.watch_until_stopped, daemon=True)
    try:
        for child in children:
            child.start()
        watcher.start()
        deadline = time.monotonic() + START_SECONDS
        while not answers(f"{address}health/", ours=True):
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"The web server does not answer on {address}; its log is {settings.DATA / 'logs' / 'web.log'}"
                )
            time.sleep(0.2)
        yield address
    finally:
        supervisor.stopping = True
        if watcher.ident:
            watcher.join()
        supervisor.stop()


def consumed_queues() -> set[str]:
    """The queues that a living worker takes messages from."""
    from config.celery import app

    replies = app.control.inspect(timeout=2).active_queues() or {}
    return {queue["name"] for queues in replies.values() for queue in queues}


def beats() -> bool:
    """Whether a beat sends ticks: each tick leaves a mark in Redis for a few seconds."""
    deadline = time.monotonic() + 6
    while time.monotonic() < deadline:
        if cache.get("tick"):
            return True
        time.sleep(0.2)
    return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def web_address() -> str:
    """Where this machine reaches what listens on HOST and PORT."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.HOST, settings.HOST)
    return f"http://{bracketed(host)}:{settings.PORT}/"


def bracketed(host: str) -> str:
    """As addresses and binds spell it: IPv6 between brackets."""
    return f"[{host}]" if ":" in host else host


def installation_mark() -> str:
    """Tells one installation's web server from another's, without telling its secret."""
    return salted_hmac("installation", "health").hexdigest()[:16]


def python_module(*arguments: str) -> list[str]:
    return [sys.executable, "-m", *arguments]


def web_server(host: str, port: int) -> Child:
    threads = 8
    command = python_module(
        "gunicorn", "config.wsgi", "--bind", f"{bracketed(host)}:{port}", "--workers", "2", "--threads", str(threads),
        "--worker-class", "gthread", "--timeout", "120", "--graceful-timeout", "10", "--log-level", "warning",
        "--no-control-socket",
    )  # fmt: skip
    return Child("web", command, {"DATABASE_POOL": str(threads)})


def celery_worker(queue: str, concurrency: int) -> Child:
    command = python_module(
        "celery", "-A", "config", "worker", "--queues", queue, "--concurrency", str(concurrency),
        "--hostname", f"{queue}@%h", "--without-gossip", "--without-mingle",
    )  # fmt: skip
    return Child(f"worker-{queue}", command)


def beat() -> Child:
    return Child("beat", python_module("celery", "-A", "config", "beat", "--pidfile", ""))


def answers(address: str, ours: bool = False) -> bool:
    """Whether a web server answers there; with ours, whether it is one of this installation."""
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return not ours or answer.headers["X-Installation"] == installation_mark()
    except (OSError, http.client.HTTPException):
        return False


def _die_with_parent() -> None:
    """Linux: a child does not outlive a supervisor that was killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
