"""The bundled servers, really started, shared, killed and stopped."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from config import embedded

ROOT = Path(__file__).resolve().parents[2]
HOLDER = """
import sys, time
from pathlib import Path
from config import embedded
release = embedded.hold(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.readline()
release()
"""

FIRST_START = """
import sys
from pathlib import Path
from config import embedded
embedded.SYSTEM_USER = sys.argv[2]
embedded._wheel()
print("ready", flush=True)
sys.stdin.readline()
embedded.hold(Path(sys.argv[1]), redis=False)()
"""


@pytest.fixture
def data(folder):
    yield folder
    embedded.stop(folder)


def hold_elsewhere(data):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(data)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    return process


def answers(data):
    try:
        psycopg.connect(embedded.database_url(data)).close()
        return bool(redis.from_url(embedded.redis_url(data)).ping())
    except (psycopg.OperationalError, redis.RedisError):
        return False


def test_both_servers_answer_while_somebody_holds_them(data):
    release = embedded.hold(data)
    assert answers(data)
    release()
    assert not answers(data)


def test_the_last_to_leave_stops_them(data):
    release = embedded.hold(data)
    other = hold_elsewhere(data)
    release()
    assert answers(data)
    other.communicate("\n")
    assert not answers(data)


def test_a_holder_that_was_killed_counts_no_longer(data):
    other = hold_elsewhere(data)
    other.kill()
    other.wait()
    release = embedded.hold(data)
    release()
    assert not answers(data)


def test_many_processes_may_start_at_once(data):
    holders = [
        subprocess.Popen([sys.executable, "-c", HOLDER, str(data)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]  # fmt: skip
    assert [holder.stdout.readline() for holder in holders] == ["held\n"] * 4
    for holder in holders:
        holder.communicate("\n")
        assert holder.returncode == 0
    assert not answers(data)


@pytest.fixture
def missing_user():
    """The name of a system user that is not there; whoever makes it leaves it to the test to take away."""
    name = f"tastemaker-{os.getpid()}"
    yield name
    subprocess.run(["userdel", name], capture_output=True, check=False)


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("useradd"), reason="only root makes a user for PostgreSQL"
)
def test_many_data_folders_may_be_begun_at_once_on_a_machine_without_the_user(folder, missing_user):
    data = [folder / str(number) for number in range(4)]
    for one in data:
        one.mkdir()
    starting = [
        subprocess.Popen(
            [sys.executable, "-c", FIRST_START, str(one), missing_user],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for one in data
    ]  # fmt: skip
    for process in starting:
        assert process.stdout.readline() == "ready\n"
    for process in starting:
        process.stdin.write("\n")
        process.stdin.flush()
    complaints = [process.communicate(timeout=90)[1] for process in starting]
    assert [process.returncode for process in starting] == [0] * len(starting), complaints


def test_a_killed_server_is_started_again_with_its_data(data):
    release = embedded.hold(data)
    with psycopg.connect(embedded.database_url(data), autocommit=True) as connection:
        connection.execute("CREATE TABLE kept (word text)")
        connection.execute("INSERT INTO kept VALUES ('still here')")
    postmaster = int((data / "postgres" / "postmaster.pid").read_text().split()[0])
    os.kill(postmaster, signal.SIGKILL)
    os.kill(int((data / "redis" / "valkey.pid").read_text()), signal.SIGKILL)
    embedded.start(data)
    with psycopg.connect(embedded.database_url(data)) as connection:
        assert connection.execute("SELECT word FROM kept").fetchone() == ("still here",)
    assert redis.from_url(embedded.redis_url(data)).ping()
    release()


def test_a_killed_server_is_started_again_once_its_last_process_has_let_its_memory_go(data):
    release = embedded.hold(data)
    with psycopg.connect(embedded.database_url(data)) as connection:
        backend = psutil.Process(connection.info.backend_pid)
        backend.suspend()
        psutil.Process(int((data / "postgres" / "postmaster.pid").read_text().split()[0])).kill()
        lets_go = threading.Timer(3, backend.kill)
        lets_go.start()
        embedded.start(data)
        lets_go.join()
    assert answers(data)
    release()


def test_a_data_folder_with_a_long_path_still_gets_sockets(folder):
    data = folder / ("long-name-" * 12)
    data.mkdir()
    release = embedded.hold(data)
    assert answers(data)
    release()


def test_nobody_else_on_the_machine_reaches_the_database(data):
    release = embedded.hold(data)
    assert (data / "postgres").stat().st_mode & 0o077 == 0
    assert (data / "redis" / "valkey.sock").stat().st_mode & 0o077 == 0
    release()
