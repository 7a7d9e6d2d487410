"""A manager at work in a real browser, with a real worker behind: what it shows is read from the server."""

import os
import signal
import subprocess
import sys

import pytest
from playwright.sync_api import expect

from labeling.models import Prompt
from tests.training.conftest import OVERRIDES, tiny_policy  # noqa: F401 - a fixture
from training import loop
from training.models import Run

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def gpu_worker(process_environment, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "config", "worker", "-Q", "gpu", "-c", "1", "-l", "WARNING"],
        env=process_environment | {"OMP_NUM_THREADS": "1"},
        stdout=(tmp_path / "worker.log").open("ab"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture
def looping(project, tiny_policy):  # noqa: F811
    for number in range(20):
        Prompt.objects.add(project, f"My order {number} is late")
    return loop.create_loop(project, str(tiny_policy), overrides=OVERRIDES)


def test_a_manager_starts_a_run_from_its_form_and_sees_it_end(sign_in, alice, looping, gpu_worker, faults):
    page = sign_in(alice, "/p/support/runs/")
    page.get_by_role("link", name="generate").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Start a run: sample completions")
    page.get_by_label("Samples per prompt").fill("3")
    page.get_by_label("Max completion tokens").fill("8")
    page.get_by_text("Every other setting of generate").click()
    page.get_by_label("Threads").fill("1")
    page.get_by_label("Max prompt tokens").fill("32")
    page.get_by_role("button", name="Start the run").click()

    run = Run.objects.get()
    expect(page.get_by_role("heading", level=1)).to_contain_text(f"Run {run.pk} (generate)")
    # Nobody touches the page: it asks for itself until the run has ended.
    expect(page.get_by_role("heading", level=1)).to_have_text(
        f"Run {run.pk} (generate) is done", timeout=240_000
    )
    expect(page.get_by_role("heading", name="What it wrote")).to_be_visible()

    run.refresh_from_db()
    assert run.status == "done"
    assert (run.config["samples_per_prompt"], run.config["max_completion_tokens"]) == (3, 8)
    assert run.requested_by == alice
    assert faults == []


def test_a_bad_setting_is_shown_where_it_is_and_starts_nothing(sign_in, alice, looping, faults):
    page = sign_in(alice, "/p/support/runs/new/generate/")
    page.get_by_label("Temperatures").fill("warm")
    page.get_by_role("button", name="Start the run").click()
    expect(page.get_by_role("alert")).to_contain_text("Nothing was started")
    expect(page.get_by_text("Give numbers with commas between them")).to_be_visible()
    assert not Run.objects.exists()
    assert faults == []


@pytest.mark.parametrize("path", ["loop", "runs", "runs/new/ppo", "versions", "schedules", "loop/settings"])
def test_no_page_is_wider_than_a_phone(sign_in, alice, looping, faults, path):
    page = sign_in(alice, f"/p/support/{path}/", viewport={"width": 360, "height": 780})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert faults == []


def test_the_round_starts_at_the_press_of_a_button(sign_in, alice, looping, faults):
    page = sign_in(alice, "/p/support/loop/")
    expect(page.get_by_role("heading", level=1)).to_have_text("The first round has not started")
    page.get_by_role("button", name="Start the first round").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Round 1 is writing candidates")
    assert loop.open_round(looping.project).started_by == alice
    assert faults == []
