"""What can go wrong around an answer: a server that dies, a login that ends, two tabs. Nothing is lost or doubled."""

import socket
import subprocess
import sys
import time
import uuid
from urllib.parse import urlsplit

import pytest
import requests
from django.conf import settings
from django.contrib.sessions.models import Session
from django.test import Client
from django.urls import reverse
from playwright.sync_api import expect

from labeling.judging import revise
from labeling.models import Assignment, Edit, Judgment, Project
from labeling.qualification import add_questions, build_question
from tests.browser.conftest import PASSWORD, wait_for_receipts
from tests.browser.test_axe import faults_of
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
            "--graceful-timeout",
            "5",
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
        self.process.wait(timeout=60)


def hold_session(context, person, url):
    """Sign a person in by the session's cookie, in every tab, whoever was signed in before."""
    client = Client()
    client.force_login(person)
    session = client.cookies[settings.SESSION_COOKIE_NAME].value
    origin = "{0.scheme}://{0.netloc}".format(urlsplit(url))
    context.add_cookies([{"name": settings.SESSION_COOKIE_NAME, "value": session, "url": origin}])


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
        context = open_browser()
        hold_session(context, bob, server.url)
        page = context.new_page()
        page.goto(server.url + reverse("labeling:label", args=[project.slug]))
        page.wait_for_load_state("networkidle")
        return page

    return open_desk


def come_back_to(page):
    """As after lunch: the page is looked at again, and renews its leases."""
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


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
    expect(page.get_by_role("status")).to_contain_text("2 answers are kept in this browser")
    expect(page.get_by_role("heading", name="No connection to the server")).to_be_visible()
    assert judged() == []
    server.start()
    until(lambda: len(judged()) == 2)
    wait_for_receipts(page)
    expect(page.locator("#stage article")).to_be_visible()
    one, other = judged()
    assert [one.assignment_id, other.assignment_id] == [first, second]
    assert [(as_shown(said, "honesty"), said.reason_tags, said.reason) for said in (one, other)] == [
        ([2, 5], ["kinder"], "It says sorry."),
        ([4, 3], ["kinder"], "It says sorry."),
    ]
    assert Edit.objects.get().completion.text == "Quite another one." and Edit.objects.get().judgment == one
    assert Judgment.objects.count() == 2


def test_an_order_waits_for_the_server_too(server, desk_there, pairs, judged, until):
    pairs(1, candidates=("one", "two", "three"))
    page = desk_there()
    page.keyboard.type("31")
    server.stop()
    page.keyboard.type("=2")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("1 answer is kept in this browser")
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


def test_an_answer_that_may_have_arrived_is_taken_back_on_the_server(desk, pairs, judged, until):
    """The receipt was lost, so the page cannot know; the answer given instead must be the one that stands."""
    pairs(4)
    page = desk()
    page.wait_for_load_state("networkidle")

    def lose_the_receipt(route):
        route.fetch()
        route.abort()

    page.route("**/label/answer/", lose_the_receipt, times=1)
    first = press(page, "1")
    expect(page.get_by_role("status")).to_contain_text("1 answer is kept in this browser")
    assert [one.strength for one in judged()] == [3]
    page.keyboard.press("z")
    expect(page.locator(f"#stage article[data-assignment='{first}']")).to_be_visible()
    press(page, "6")
    until(lambda: [(one.assignment_id, one.strength) for one in judged()] == [(first, 2)])
    expect(page.get_by_role("status")).to_have_text("Last answer saved")


def test_somebody_who_signs_in_meanwhile_says_nothing_in_anothers_name(
    desk, pairs, judged, project, carol, bob, until
):
    Project.objects.filter(pk=project.pk).update(overlap=2)
    pairs(4)
    page = desk()
    page.wait_for_load_state("networkidle")
    page.context.set_offline(True)
    waiting = press(page, "1")
    expect(page.get_by_role("status")).to_contain_text("1 answer is kept in this browser")
    hold_session(page.context, carol, page.url)
    page.context.set_offline(False)
    expect(page.get_by_role("status")).to_contain_text(
        "Somebody else is signed in in this browser; 1 answer of yours is kept."
    )
    press_anyway = shown(page)
    page.keyboard.press("7")
    expect(page.get_by_role("status")).to_contain_text("2 answers of yours are kept")
    assert not Judgment.objects.exists()
    page.get_by_role("status").get_by_role("link", name="Sign out").click()
    page.get_by_role("button", name="Sign out").click()
    page.goto(f"{reverse('account_login')}?next={reverse('labeling:label', args=[project.slug])}")
    page.get_by_label("Name or e-mail address").fill(bob.username)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    until(
        lambda: (
            {(one.assignment_id, one.annotator) for one in judged()} == {(waiting, bob), (press_anyway, bob)}
        )
    )
    assert Judgment.objects.count() == 2


def test_an_answer_that_the_server_fails_on_keeps_nothing_else_back(desk, pairs, judged, until):
    pairs(4)
    page = desk()
    page.wait_for_load_state("networkidle")
    failing = shown(page)

    def fail_on_the_first(route):
        if route.request.post_data_json["assignment"] == failing:
            route.fulfill(status=500, body="<h1>Server Error (500)</h1>")
        else:
            route.continue_()

    page.route("**/label/answer/", fail_on_the_first)
    press(page, "1")
    others = [press(page, "7"), press(page, "7")]
    until(lambda: [one.assignment_id for one in judged()] == others)
    expect(page.get_by_role("status")).to_contain_text("The server failed on 1 answer.")
    lease = Assignment.objects.get(pk=shown(page))
    come_back_to(page)
    until(lambda: Assignment.objects.get(pk=lease.pk).leased_until > lease.leased_until)
    others.append(lease.pk)
    page.keyboard.press("7")
    until(lambda: [one.assignment_id for one in judged()] == others)
    expect(page.get_by_role("heading", name="Nothing waits for you right now")).to_be_visible()
    page.unroute("**/label/answer/")
    until(lambda: {one.assignment_id for one in judged()} == {failing, *others})
    assert Judgment.objects.count() == 4


def test_a_refusal_can_be_read_before_what_becomes_of_others_takes_its_place(desk, pairs, judged, until):
    pairs(5)
    page = desk()
    page.clock.install()
    page.reload()
    page.wait_for_load_state("networkidle")
    page.clock.pause_at(page.evaluate("Date.now() / 1000 + 1"))
    status = page.get_by_role("status")
    page.context.set_offline(True)
    refused, kept = press(page, "1"), shown(page)
    page.keyboard.press("1")
    expect(status).to_contain_text("2 answers are kept in this browser")
    Assignment.objects.filter(pk=refused).update(outcome="skipped", slot=None)
    page.context.set_offline(False)
    until(lambda: [one.assignment_id for one in judged()] == [kept])
    wait_for_receipts(page)
    expect(status).to_have_text("You have skipped this comparison already.")
    press(page, "1")
    until(lambda: len(judged()) == 2)
    wait_for_receipts(page)
    expect(status).to_have_text("You have skipped this comparison already.")
    page.clock.fast_forward(5_000)
    press(page, "1")
    expect(status).to_have_text("Last answer saved")


def test_what_cannot_be_read_in_the_browsers_storage_stops_nothing(desk, pairs, judged, bob, until):
    pairs(4)
    page = desk()
    page.evaluate("(name) => localStorage.setItem(name, '{not json')", f"tastemaker:{bob.pk}:0")
    given = [press(page, "1"), press(page, "7")]
    until(lambda: [one.assignment_id for one in judged()] == given)


def test_what_waits_is_sent_from_the_qualification_round_too(desk, pairs, judged, project, until):
    pairs(4)
    page = desk()
    page.wait_for_load_state("networkidle")
    page.route("**/label/answer/", lambda route: route.abort())
    page.keyboard.press("c")
    page.keyboard.type("It says sorry.")
    page.keyboard.press("Control+Enter")
    answered = press(page, "1")
    expect(page.get_by_role("status")).to_contain_text("1 answer is kept in this browser")
    Project.objects.filter(pk=project.pk).update(qualification=True)
    right = build_question(project, "Which is the largest?", ["7", "9"], ["b"], "9 is more than 7.")
    add_questions(project, [right])
    page.unroute("**/label/answer/")
    page.goto(reverse("labeling:qualification", args=[project.slug]))
    expect(page.get_by_role("status")).to_have_text("Last answer saved")
    assert [one.assignment_id for one in judged()] == [answered]
    wait_for_receipts(page)


def test_a_login_that_ends_keeps_the_order_in_the_making(desk, pairs, judged, bob, until):
    pairs(2, candidates="abcdefgh")
    page = desk()
    page.keyboard.type("83=2")
    first = shown(page)
    Session.objects.all().delete()
    page.keyboard.press("e")  # a better answer starts from the server's text
    page.keyboard.type("1")
    page.get_by_role("link", name="Sign in again").click()
    page.get_by_label("Name or e-mail address").fill(bob.username)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator("[data-order]")).to_contain_text("H > C = B > A")
    assert shown(page) == first
    page.keyboard.type("4567")
    page.keyboard.press("Enter")
    until(lambda: len(judged()) == 1)
    sides = judged()[0].assignment.sides
    order = [[7], [2, 1], [0], [3], [4], [5], [6]]
    assert judged()[0].ranking == [sorted(sides[place] for place in level) for level in order]


def test_who_is_signed_out_with_nothing_on_screen_is_told_so_and_led_back(desk, pairs, judged, bob, until):
    pairs(1)
    page = desk(reduced_motion="reduce")
    page.wait_for_load_state("networkidle")
    Session.objects.all().delete()
    page.keyboard.press("4")
    expect(page.get_by_role("heading", name="You are signed out")).to_be_visible()
    expect(page.get_by_role("heading", name="No connection to the server")).to_be_hidden()
    assert faults_of(page) == []
    page.locator("[data-empty='signed-out']").get_by_role("link", name="Sign in").click()
    page.get_by_label("Name or e-mail address").fill(bob.username)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    until(lambda: len(judged()) == 1)
    expect(page.get_by_role("heading", name="Nothing waits for you right now")).to_be_visible()


def test_an_empty_desk_on_which_somebody_else_is_signed_in_leads_to_the_way_out(desk, pairs, judged, carol):
    pairs(1)
    page = desk(reduced_motion="reduce")
    page.wait_for_load_state("networkidle")
    hold_session(page.context, carol, page.url)
    page.keyboard.press("4")
    expect(page.get_by_role("heading", name="Somebody else is signed in")).to_be_visible()
    assert faults_of(page) == [] and judged() == []
    page.locator("[data-empty=other]").get_by_role("link", name="Sign out").click()
    page.wait_for_url(f"**{reverse('account_logout')}")


def test_an_empty_desk_without_a_connection_asks_less_and_less_and_never_unseen(desk, until):
    page = desk()
    page.clock.install()
    page.reload()
    expect(page.get_by_role("heading", name="Nothing waits for you right now")).to_be_visible()
    page.wait_for_load_state("networkidle")
    page.context.set_offline(True)
    page.get_by_role("button", name="Look again now").click()
    expect(page.get_by_role("heading", name="No connection to the server")).to_be_visible()
    asked = []
    page.on("request", lambda request: asked.append(request.url) if "/label/next/" in request.url else None)

    def a_minute_passes():
        for _ in range(24):
            page.clock.run_for(2_500)
            page.wait_for_timeout(100)

    def is_hidden(hidden):
        page.evaluate(
            """(hidden) => {
                Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
                document.dispatchEvent(new Event("visibilitychange"));
            }""",
            hidden,
        )

    a_minute_passes()
    assert 3 <= len(asked) <= 6
    is_hidden(True)
    asked.clear()
    a_minute_passes()
    assert asked == []
    is_hidden(False)
    until(lambda: asked)
    page.wait_for_timeout(200)
    assert len(asked) == 1


def test_a_server_that_cannot_find_the_next_comparison_is_no_cut_connection(desk, pairs, judged, until):
    pairs(1)
    page = desk()
    page.wait_for_load_state("networkidle")
    page.route("**/label/next/", lambda route: route.fulfill(status=500, body="<h1>Server Error (500)</h1>"))
    page.keyboard.press("1")
    failing = page.get_by_role("heading", name="The server failed to find the next comparison")
    expect(failing).to_be_visible()
    expect(page.get_by_role("status")).to_have_text("Last answer saved")
    assert len(judged()) == 1 and faults_of(page) == []
    pairs(1)
    page.unroute("**/label/next/")
    page.locator("[data-empty=failing]").get_by_role("button", name="Try again now").click()
    expect(page.locator("#stage article")).to_be_visible()
    expect(failing).to_be_hidden()


def test_a_change_that_waits_to_be_sent_is_not_asked_for_again(desk, pairs, judged, until):
    pairs(3)
    page = desk()
    first = press(page, "1")
    until(lambda: len(judged()) == 1)
    again = f"{page.url}?again={first}"
    page.goto(again)
    expect(page.get_by_role("status")).to_have_text("You answered this before. Answer again to change it.")
    page.route("**/label/answer/", lambda route: None)  # under way, and without an answer
    page.wait_for_load_state("networkidle")
    press(page, "7")
    page.goto(again)
    expect(page.locator("#stage article")).to_be_visible()
    assert shown(page) != first
    expect(page.get_by_role("status")).to_be_empty()


def test_an_order_taken_back_is_there_again(desk, pairs, judged, until):
    pairs(3, candidates=("one", "two", "three"))
    page = desk()
    order = page.locator("[data-order]")
    page.keyboard.type("31=2")
    page.keyboard.press("Enter")
    until(lambda: len(judged()) == 1)
    expect(order).to_have_text("Pick the answers, best first.")
    page.keyboard.press("z")
    expect(order).to_contain_text("C > A = B")
    until(lambda: judged() == [])
    page.reload()
    expect(order).to_contain_text("C > A = B")
    page.keyboard.press("Enter")
    until(lambda: len(judged()) == 1)
    said = judged()[0].ranking
    page.reload()
    expect(order).to_have_text("Pick the answers, best first.")
    page.keyboard.press("z")  # from the server this time
    expect(order).to_contain_text("C > A = B")
    page.keyboard.press("Enter")
    until(lambda: [one.ranking for one in judged()] == [said] and Judgment.objects.count() == 3)
    page.wait_for_load_state("networkidle")
    assert page.evaluate("Object.keys(localStorage).filter((key) => key.includes(':')).length") == 0


def test_a_comparison_that_went_away_stays_until_the_person_goes_on(desk, pairs, judged, until):
    pairs(4)
    page = desk(reduced_motion="reduce")
    page.wait_for_load_state("networkidle")
    status = page.get_by_role("status")
    left = "Your time for this comparison ran out, and someone else has it now."
    gone = shown(page)
    page.keyboard.press("e")
    page.get_by_label("As it should have been").fill("Quite another one.")
    Assignment.objects.filter(pk=gone).update(slot=None)
    come_back_to(page)
    expect(page.locator("#stage .gone")).to_contain_text(left)
    page.keyboard.press("Control+Enter")  # the dialog is still open
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(status).to_have_text(left)
    expect(page.get_by_role("button", name="Skip")).to_be_disabled()
    assert faults_of(page) == []
    assert press(page, "1") == gone
    second = press(page, "7")
    until(lambda: [one.assignment_id for one in judged()] == [second])

    third = shown(page)
    Assignment.objects.filter(pk=third).update(outcome="skipped", slot=None)
    come_back_to(page)
    expect(page.locator("#stage .gone")).to_contain_text("You have skipped this comparison already.")
    page.get_by_role("button", name="Show the next comparison").click()
    expect(page.locator(f"#stage article:not([data-assignment='{third}'])")).to_be_visible()
    expect(page.get_by_role("button", name="Skip")).to_be_enabled()


def test_an_undo_that_is_refused_leaves_its_comparison_until_the_person_goes_on(desk, pairs, judged, until):
    pairs(3)
    page = desk()
    first = press(page, "4")
    until(lambda: len(judged()) == 1)
    page.wait_for_load_state("networkidle")
    page.context.set_offline(True)
    page.keyboard.press("z")
    expect(page.locator(f"#stage article[data-assignment='{first}']")).to_be_visible()
    revise(judged()[0], "all_bad", uuid.uuid4())  # on the phone, say
    page.context.set_offline(False)
    expect(page.locator("#stage .gone")).to_contain_text("changed or taken back in the meantime")
    assert press(page, "1") == first
    assert [one.verdict for one in judged()] == ["all_bad"] and Judgment.objects.count() == 2


def test_what_another_tab_sends_is_known_in_both(desk, pairs, judged, until):
    pairs(4)
    page = desk()
    page.wait_for_load_state("networkidle")
    other = page.context.new_page()
    other.goto(page.url)
    other.wait_for_load_state("networkidle")
    assert shown(other) == shown(page)
    page.route("**/label/answer/", lambda route: route.abort())
    press(page, "1")
    expect(page.get_by_role("status")).to_contain_text("1 answer is kept in this browser")
    come_back_to(other)
    expect(other.locator("#stage .gone")).to_contain_text("You have judged this comparison already.")
    expect(other.locator("[data-count=today]")).to_have_text("1")
    expect(other.get_by_role("button", name="Take it back")).to_be_enabled()
    expect(page.get_by_role("status")).to_have_text("Last answer saved")
    expect(page.locator("[data-count=today]")).to_have_text("1")
    assert len(judged()) == 1


def test_an_answer_from_before_a_reload_counts_until_it_is_refused(desk, pairs, judged, project):
    pairs(4)
    page = desk()
    page.wait_for_load_state("networkidle")
    status, today = page.get_by_role("status"), page.locator("[data-count=today]")
    page.route("**/label/answer/", lambda route: route.abort())
    press(page, "1")
    Project.objects.filter(pk=project.pk).update(reason_required=True)
    page.reload()
    expect(status).to_contain_text("1 answer is kept in this browser")
    expect(today).to_have_text("1")
    page.unroute("**/label/answer/")
    expect(status).to_contain_text("this project wants a reason for every answer")
    assert "comes next" not in status.inner_text()
    expect(today).to_have_text("0")
    assert judged() == []


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
    wait_for_receipts(page)
    assert Judgment.objects.count() == len(given)


def test_what_is_long_has_longer_to_get_through(desk, pairs):
    pairs(3)
    page = desk()
    page.route("**/label/answer/", lambda route: None)  # nothing comes back
    line = page.get_by_role("status")
    page.keyboard.press("e")
    page.clock.install()
    page.locator("#better-text").fill("字" * 100_000)
    page.keyboard.press("Control+Enter")
    page.keyboard.press("1")
    expect(line).to_have_text("Saving")
    page.clock.run_for(60_000)
    expect(line).to_have_text("Saving")
    page.clock.run_for(60_000)
    expect(line).to_contain_text("1 answer is kept in this browser")
