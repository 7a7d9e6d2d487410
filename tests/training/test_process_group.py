"""Processes that share a run: what each is told, and what becomes of the run when one of them ends."""

import json
import os
import signal
import sys
import time
from contextlib import contextmanager

import pytest

from tests.training.test_launch import execute, in_background, wait_for
from training import process_group, runs
from training.models import Run
from training.process_group import ProcessGroup

RANK = "import json, os, signal, sys, time; rank = int(os.environ['RANK']); "


@contextmanager
def started(folder, code, count=2):
    group = ProcessGroup([sys.executable, "-c", RANK + code], count, folder, folder, dict(os.environ))
    try:
        yield group
    finally:
        group.kill()


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_each_is_told_its_place_and_writes_its_own_log(tmp_path):
    names = "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"
    with started(tmp_path, f"print(json.dumps([os.environ[name] for name in {names}]))", 3) as group:
        assert group.wait(90) == 0
    told = [json.loads((tmp_path / f"engine{part}.log").read_text()) for part in ("", "-1", "-2")]
    port = told[0][-1]
    assert told == [[str(rank), str(rank), "3", "127.0.0.1", port] for rank in range(3)]
    assert 1024 < int(port) < 65536


def test_one_alone_is_told_of_no_others(tmp_path):
    group = ProcessGroup(
        [sys.executable, "-c", "import os; print('WORLD_SIZE' in os.environ)"], 1, tmp_path, tmp_path, {}
    )
    assert group.wait(90) == 0
    assert (tmp_path / "engine.log").read_text() == "False\n"


@pytest.mark.parametrize("fails", [0, 1])
def test_one_that_fails_takes_the_others_along(tmp_path, monkeypatch, fails):
    monkeypatch.setattr(process_group, "LOST_SECONDS", 0.2)
    code = f"sys.exit(2) if rank == {fails} else time.sleep(100)"
    with started(tmp_path, code) as group:
        began = time.monotonic()
        assert group.wait(90) == 2
        assert time.monotonic() - began < 60
        assert not any(is_alive(process.pid) for process in group._processes)


def test_others_that_notice_by_themselves_are_let_to(tmp_path, monkeypatch):
    monkeypatch.setattr(process_group, "LOST_SECONDS", 60)
    code = "sys.exit(2) if rank else (time.sleep(0.5), print('noticed'), sys.exit(1))"
    with started(tmp_path, code) as group:
        assert group.wait(90) == 1  # the code of the first process, since both failed
    assert (tmp_path / "engine.log").read_text() == "noticed\n"


def test_a_kill_is_what_the_run_ended_by_whatever_the_others_say_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(process_group, "LOST_SECONDS", 60)
    code = "os.kill(os.getpid(), signal.SIGKILL) if rank else (time.sleep(0.2), sys.exit(1))"
    with started(tmp_path, code) as group:
        assert group.wait(90) == -signal.SIGKILL


def test_a_signal_reaches_all(tmp_path):
    code = (
        "asked = [signal.SIGTERM]; signal.pthread_sigmask(signal.SIG_BLOCK, asked); print('up', flush=True)"
        "; signal.sigwait(asked); sys.exit(143)"
    )
    with started(tmp_path, code) as group:
        wait_for(
            lambda: all(
                (tmp_path / name).exists() and (tmp_path / name).read_text()
                for name in ("engine.log", "engine-1.log")
            )
        )
        group.signal(signal.SIGTERM)
        assert group.wait(90) == 143


def test_it_waits_no_longer_than_it_is_asked_to(tmp_path):
    with started(tmp_path, "time.sleep(100)") as group:
        began = time.monotonic()
        assert group.wait(0.3) is None
        assert 0.3 <= time.monotonic() - began < 60


# The real engine


@pytest.fixture
def two(settings):
    settings.ENGINE_PROCESSES = 2


def completions(run):
    return [json.loads(line) for line in (run.path / "completions.jsonl").read_text().splitlines()]


def test_bad_input_of_two_is_the_sentence_of_one(queued_run, prompts_file, two):
    prompts_file.write_text('{"prompt": "fine"}\n{"prompt": 7}\n')
    run = execute(queued_run)
    assert (run.status, run.exit_code) == ("failed", 2)
    assert "line 2" in run.message


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_a_run_goes_on_after_a_kill_and_two_processes_write_what_one_writes(
    queued_run, two, settings, monkeypatch
):
    monkeypatch.setattr(process_group, "LOST_SECONDS", 0.2)
    born = []
    popen = process_group.subprocess.Popen
    monkeypatch.setattr(
        process_group.subprocess, "Popen", lambda *a, **k: born.append(popen(*a, **k)) or born[-1]
    )
    thread = in_background(queued_run)
    wait_for(lambda: len(born) == 2)
    os.kill(born[1].pid, signal.SIGKILL)
    thread.join(240)
    assert not thread.is_alive()
    assert not is_alive(born[0].pid)
    run = Run.objects.get(pk=queued_run.pk)
    assert (run.status, "Killed from outside" in run.message) == ("queued", True)
    shared = execute(run)
    assert (shared.status, shared.exit_code) == ("done", 0)
    assert (shared.path / "engine-1.log").exists()
    settings.ENGINE_PROCESSES = 1
    alone = runs.start(run.project, run.method, run.config, input_model=run.input_model)
    assert completions(shared) == completions(execute(alone))
