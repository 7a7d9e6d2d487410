"""What can go wrong around an answer: a server that dies, a login that ends, two tabs. Nothing is lost or doubled."""

import socket
import subprocess
import sys
import time

import pytest
import requests
from django.conf import settings
from django.contrib.sessions.models import Session
from django.test import Client
from django.urls import reverse
from playwright.sync_api import expect

from labeling.models import Edit, Judgment, Project
from tests.browser.conftest import PASSWORD
from tests.browser.test_desk import press, shown

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


class Server:
    """Gunicorn on the test database, which can be killed and started again on the same port."""

    def __init__(self, environment, log):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment, self.log = environment, log

    def start(self):
        command = [
            sys.executable,
            "-m",
            "gunicorn",
            "config.wsgi",
            "--bind",
            f"127.0.0.1:{self.port}",
            "--threads",
            "4",
        ]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=settings.BASE_DIR, env=self.environment, stdout=log, stderr=log
            )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                return requests.get(f"{self.url}/health/", timeout=5)
            except requests.RequestException:
                assert self.process.poll() is None, self.log.read_text()
                time.sleep(0.1)
        return pytest.fail("the server did not answer within a minute")

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=30)


@pytest.fixture
def server(process_environment, tmp_path):
    server = Server(process_environment, tmp_path / "gunicorn.log")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def desk_there(server, open_browser, bob, project):
    """Bob's desk on that server, signed in by the session's cookie."""

    def open_desk():
        client = Client()
        client.force_login(bob)
        context = open_browser()
        session = client.cookies[settings.SESSION_COOKIE_NAME].value
        context.add_cookies([{"name": settings.SESSION_COOKIE_NAME, "value": session, "url": server.url}])
        page = context.new_page()
        page.goto(server.url + reverse("labeling:label", args=[project.slug]))
        page.wait_for_load_state("networkidle")
        return page

    return open_desk


def say_much(page, ratings):
    """Everything that can be said beside a verdict but a better answer, whose start is the server's."""
    page.keyboard.press("r")
    page.keyboard.type(ratings)
    page.keyboard.press("c")
    page.keyboard.press("1")
    page.get_by_label("In a sentence").fill("It says sorry.")
    page.keyboard.press("Control+Enter")


def as_shown(judgment, name):
    return [judgment.ratings[name][position] for position in judgment.assignment.sides]


def test_a_server_that_stops_and_comes_back_gets_all_that_was_said(
    server, desk_there, pairs, judged, project, until
):
    Project.objects.filter(pk=project.pk).update(criteria=["honesty"], reason_tags=["kinder"])
    pairs(4)
    page = desk_there()
    page.keyboard.press("e")
    page.get_by_label("As it should have been").fill("Quite another one.")
    page.keyboard.press("Control+Enter")
    server.stop()
    say_much(page, "25")
    first = press(page, "1")
    say_much(page, "43")
    second = shown(page)
    page.keyboard.press("7")
    expect(page.get_by_role("status")).to_contain_text("2 answers are kept in this browser", timeout=15_000)
    expect(page.get_by_role("heading", name="No connection to the server")).to_be_visible()
    assert judged() == []
    server.start()
    until(lambda: len(judged()) == 2)
    expect(page.locator("#stage article")).to_be_visible(timeout=5_000)
    one, other = judged()
    assert [one.assignment_id, other.assignment_id] == [first, second]
    assert [(as_shown(said, "honesty"), said.reason_tags, said.reason) for said in (one, other)] == [
        ([2, 5], ["kinder"], "It says sorry."),
        ([4, 3], ["kinder"], "It says sorry."),
    ]
    assert Edit.objects.get().completion.text == "Quite another one." and Edit.objects.get().judgment == one
    assert Judgment.objects.count() == 2
    assert page.evaluate("Object.keys(localStorage).filter((key) => key.includes(':')).length") == 0


def test_an_order_waits_for_the_server_too(server, desk_there, pairs, judged, until):
    pairs(1, candidates=("one", "two", "three"))
    page = desk_there()
    page.keyboard.type("31")
    server.stop()
    page.keyboard.type("=2")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("1 answer is kept in this browser", timeout=15_000)
    server.start()
    until(lambda: len(judged()) == 1)
    sides = judged()[0].assignment.sides
    assert judged()[0].ranking == [[sides[2]], sorted([sides[0], sides[1]])]
    assert Judgment.objects.count() == 1


def test_a_login_that_ends_and_comes_back_in_another_tab_keeps_what_was_begun(
    desk, pairs, judged, project, bob, until
):
    Project.objects.filter(pk=project.pk).update(criteria=["honesty"], reason_tags=["kinder"])
    pairs(4)
    page = desk()
    page.wait_for_load_state("networkidle")
    Session.objects.all().delete()
    say_much(page, "25")
    first = press(page, "1")
    expect(page.get_by_role("status")).to_contain_text("You are signed out; 1 answer is kept")
    page.keyboard.press("r")
    page.keyboard.type("3")  # begun, and not answered yet
    other = page.context.new_page()
    other.goto(reverse("account_login"))
    other.get_by_label("Name or e-mail address").fill(bob.username)
    other.get_by_label("Password").fill(PASSWORD)
    other.get_by_role("button", name="Sign in").click()
    until(lambda: [one.assignment_id for one in judged()] == [first])
    assert (as_shown(judged()[0], "honesty"), judged()[0].reason) == ([2, 5], "It says sorry.")
    expect(page.locator("#stage .rating input:checked")).to_have_count(1)
    page.keyboard.type("4")
    press(page, "7")
    until(lambda: len(judged()) == 2)
    assert as_shown(judged()[1], "honesty") == [3, 4] and Judgment.objects.count() == 2


def test_two_tabs_on_one_comparison_store_one_answer_and_say_so(desk, pairs, judged, until):
    pairs(4)
    page = desk()
    other = page.context.new_page()
    other.goto(page.url)
    assert shown(other) == shown(page)
    answered = press(page, "1")
    until(lambda: [one.strength for one in judged()] == [3])
    other.keyboard.press("7")
    expect(other.locator(".status.harm")).not_to_be_empty()
    expect(other.locator(f"#stage article:not([data-assignment='{answered}'])")).to_be_visible()
    assert [one.strength for one in judged()] == [3] and Judgment.objects.count() == 1


def test_two_tabs_without_a_network_send_each_answer_once(desk, pairs, judged, until):
    pairs(6)
    page = desk()
    page.wait_for_load_state("networkidle")
    other = page.context.new_page()
    other.goto(page.url)
    other.wait_for_load_state("networkidle")
    page.context.set_offline(True)
    given = {press(page, "1"), shown(page)}
    page.keyboard.press("1")
    expect(page.get_by_role("status")).to_contain_text("2 answers are kept in this browser")
    given.add(press(other, "7"))
    page.context.set_offline(False)
    until(lambda: {one.assignment_id for one in judged()} == given)
    page.wait_for_load_state("networkidle")
    other.wait_for_load_state("networkidle")
    assert Judgment.objects.count() == len(given)
