"""The engine's processes of one run: they start together, and one that fails takes the others along."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

STOPPED = 143
LOST_SECONDS = 10.0  # that the others have to notice that one has failed
POLL_SECONDS = 0.25
PR_SET_PDEATHSIG = 1


class ProcessGroup:
    """`count` processes of one command in a process group; each is told its place as torch's launcher does.

    Unlike under that launcher the exit code is the engine's own.
    """

    def __init__(
        self, command: Sequence[str], count: int, folder: Path, cwd: Path, environment: Mapping[str, str]
    ) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []
        self._failed_at: float | None = None
        port = _free_port() if count > 1 else 0
        try:
            for rank in range(count):
                name = f"engine-{rank}.log" if rank else "engine.log"
                with (folder / name).open("ab") as log:
                    process = subprocess.Popen(
                        command,
                        cwd=cwd,
                        env={**environment, **(_place(rank, count, port) if count > 1 else {})},
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        process_group=self.pid if rank else 0,
                        preexec_fn=_dies_with(os.getpid()) if sys.platform == "linux" else None,
                    )
                self._processes.append(process)
        except BaseException:
            self.kill()
            raise

    @property
    def pid(self) -> int:
        """Of the first process, which writes the run's files; the group has its number."""
        return self._processes[0].pid

    def wait(self, seconds: float) -> int | None:
        """The exit code once all have ended; None where they have not within that time."""
        deadline = time.monotonic() + seconds
        while (code := self._poll()) is None and (left := deadline - time.monotonic()) > 0:
            running = [one for one in self._processes if one.returncode is None]
            with suppress(subprocess.TimeoutExpired):
                running[0].wait(min(left, POLL_SECONDS))
        return code

    def signal(self, number: int) -> None:
        """To all that still run."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def kill(self) -> None:
        """End what still runs."""
        if any(one.poll() is None for one in self._processes):
            self.signal(signal.SIGKILL)
        for one in self._processes:
            one.wait()

    def _poll(self) -> int | None:
        codes = [one.poll() for one in self._processes]
        ended = [code for code in codes if code is not None]
        if len(ended) == len(codes):
            return _outcome(ended)
        if any(ended):
            # The others wait for it, or have lost it and say so at length.
            self._failed_at = self._failed_at or time.monotonic()
            if time.monotonic() - self._failed_at > LOST_SECONDS:
                code = _outcome([code for code in ended if code])
                self.kill()
                return code
        return None


def _outcome(codes: Sequence[int]) -> int:
    """What the run as a whole ended with: a signal explains the others' errors; else the first failure counts."""
    return next((code for code in codes if code < 0), next((code for code in codes if code), 0))


def _place(rank: int, count: int, port: int) -> dict[str, str]:
    """As `torch.distributed` reads it, with an even share of the processor's threads."""
    threads = max(1, len(os.sched_getaffinity(0)) // count)
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _dies_with(parent: int) -> Callable[[], None]:
    """Have the kernel ask the engine to stop when the worker is gone, however it went (Linux)."""
    libc = ctypes.CDLL(None, use_errno=True)

    def ask() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died between fork and here
            os._exit(STOPPED)

    return ask
