"""What waits in the browser: whatever the clock does, and whatever stands between browser and server."""

import uuid

import pytest
from playwright.sync_api import expect

from labeling.assignment import next_for
from labeling.judging import record
from labeling.models import Project
from tests.browser.conftest import lose_receipts, wait_for_receipts
from tests.browser.test_desk import press, shown

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


def test_a_clock_set_back_sends_no_undo_before_its_answer(desk, pairs, judged):
    pairs(2)
    page = desk()
    page.wait_for_load_state("networkidle")
    page.context.set_offline(True)
    press(page, "1")
    page.evaluate("() => { const now = Date.now; Date.now = () => now() - 3_600_000; }")
    page.keyboard.press("z")
    expect(page.get_by_role("status")).to_contain_text("No connection")
    page.context.set_offline(False)
    wait_for_receipts(page)
    assert judged() == []
    expect(page.locator("[data-count=today]")).to_have_text("0")


def test_what_a_filter_on_the_way_refuses_holds_back_nothing_else(desk, pairs, judged, until):
    pairs(3)
    page = desk()
    page.wait_for_load_state("networkidle")
    refused = []

    def disliked(route):
        if "OR 1=1" not in (route.request.post_data or ""):
            return route.continue_()
        refused.append(route.request.url)
        return route.fulfill(status=403, content_type="text/html", body="<h1>Request blocked</h1>")

    page.route("**/label/answer/", disliked)
    page.keyboard.press("c")
    page.get_by_label("In a sentence").fill("' OR 1=1; SELECT")
    page.keyboard.press("Control+Enter")
    press(page, "1")
    press(page, "2")
    until(lambda: len(judged()) == 1)
    assert refused and judged()[0].reason == ""
    line = page.get_by_role("status")
    expect(line).to_contain_text("The server failed on 1 answer")
    page.unroute("**/label/answer/")
    page.evaluate("() => dispatchEvent(new Event('online'))")
    until(lambda: len(judged()) == 2)


def test_what_was_typed_stays_while_an_undo_waits_behind_its_answer(desk, pairs, judged, until):
    pairs(2)
    page = desk()
    page.wait_for_load_state("networkidle")
    for act in ("answer", "undo"):
        page.route(f"**/label/{act}/", lambda route: route.abort())
    page.keyboard.press("c")
    page.get_by_label("In a sentence").fill("It says sorry.")
    page.keyboard.press("Control+Enter")
    press(page, "1")
    page.keyboard.press("z")
    other = page.context.new_page()
    other.goto(page.url.replace("label/", "qualification/"))  # which sends both
    other.wait_for_function("() => !Object.keys(localStorage).some((key) => key.startsWith('tastemaker:'))")
    page.unroute_all()
    page.reload()
    page.keyboard.press("c")
    expect(page.get_by_label("In a sentence")).to_have_value("It says sorry.")
    page.keyboard.press("Control+Enter")
    press(page, "1")
    until(lambda: [one.reason for one in judged()] == ["It says sorry."])


def test_nothing_left_to_take_back_is_no_error(desk, pairs, judged, until):
    pairs(3)
    page = desk()
    page.wait_for_load_state("networkidle")
    press(page, "1")
    wait_for_receipts(page)
    asked = []
    page.on("request", lambda request: asked.append(request.post_data) if "/undo/" in request.url else None)
    page.keyboard.press("z")
    page.keyboard.press("z")
    until(lambda: judged() == [])
    wait_for_receipts(page)
    expect(page.get_by_role("button", name="Take it back")).to_be_disabled()
    page.wait_for_timeout(300)
    assert len(asked) == 1
    expect(page.get_by_role("status")).to_have_text("Taken back")


def test_what_is_answered_while_an_undo_waits_is_not_what_was_meant(desk, pairs, judged, until):
    pairs(4)
    page = desk()
    page.wait_for_load_state("networkidle")
    press(page, "1")
    wait_for_receipts(page)
    held = []
    page.route("**/label/answer/", lambda route: held.append(route) if len(held) < 2 else route.continue_())
    press(page, "2")
    page.reload()
    until(lambda: len(held) == 2)
    page.keyboard.press("z")  # means the second answer, which is on its way
    press(page, "3")
    held[1].continue_()
    until(lambda: len(judged()) == 3)
    wait_for_receipts(page)
    page.wait_for_load_state("networkidle")
    assert len(judged()) == 3


@pytest.mark.parametrize("refused", [True, False])
def test_what_becomes_of_an_answer_is_told_in_the_tab_that_gave_it(desk, pairs, judged, until, refused):
    pairs(4)
    page = desk()
    other = page.context.new_page()
    other.goto(page.url)
    other.wait_for_load_state("networkidle")
    given = shown(page)
    assert shown(other) == given
    if refused:
        press(page, "1")
        until(lambda: len(judged()) == 1)
        wait_for_receipts(page)
    other.route("**/label/answer/", lambda route: route.abort())
    other.keyboard.press("7")
    expect(other.get_by_role("status")).to_contain_text("No connection")
    page.evaluate("() => dispatchEvent(new Event('online'))")  # this one sends it
    if refused:
        expect(other.locator(".status.harm")).to_have_text("You have judged this comparison already.")
        expect(other.locator("[data-count=today]")).to_have_text("0")  # as it was when this tab was opened
    else:
        expect(other.get_by_role("status")).to_have_text("Last answer saved")
    assert len(judged()) == 1


def keep_back(page):
    page.route("**/label/answer/", lambda route: route.abort())


def test_saving_becomes_saved_when_another_tab_has_sent_what_came_after(desk, pairs, judged, until):
    pairs(4)
    page = desk()
    other = page.context.new_page()
    for tab, kept in ((page, "1 answer is"), (other, "2 answers are")):
        keep_back(tab)
        tab.goto(page.url)
        press(tab, "1")
        expect(tab.get_by_role("status")).to_contain_text(f"{kept} kept in this browser")
    other.unroute("**/label/answer/")
    other.evaluate("() => dispatchEvent(new Event('online'))")
    until(lambda: len(judged()) == 2)
    for tab in (page, other):
        expect(tab.get_by_role("status")).to_have_text("Last answer saved")


@pytest.mark.parametrize("refused", [True, False])
def test_a_tab_that_was_loaded_while_an_answer_waited_is_told_what_became_of_it(
    desk, pairs, judged, until, refused, project
):
    pairs(4)
    page = desk()
    keep_back(page) if refused else lose_receipts(page)
    press(page, "1")
    expect(page.get_by_role("status")).to_contain_text("1 answer is kept in this browser")
    page.reload()
    expect(page.get_by_role("status")).to_contain_text("1 answer is kept in this browser")
    if refused:
        Project.objects.filter(pk=project.pk).update(comment_required=True)
    other = page.context.new_page()
    other.goto(page.url)  # it sends
    wait_for_receipts(other)
    if refused:
        expect(page.locator(".status.harm")).to_contain_text("comment")
    else:
        expect(page.get_by_role("status")).to_have_text("Last answer saved")
    expect(page.locator("[data-count=today]")).to_have_text("0" if refused else "1")
    assert len(judged()) == (0 if refused else 1)


@pytest.mark.parametrize("before", [0, 1], ids=["first-of-the-day", "second"])
@pytest.mark.parametrize("reloaded", [False, True], ids=["", "reloaded"])
def test_what_takes_back_an_answer_that_is_refused_takes_nothing_away(
    desk, pairs, judged, project, bob, until, before, reloaded
):
    pairs(4)
    for _ in range(before):
        record(next_for(bob, project), "tie", uuid.uuid4())
    page = desk()
    status, today = page.get_by_role("status"), page.locator("[data-count=today]")
    page.wait_for_load_state("networkidle")
    page.route("**/label/answer/", lambda route: route.abort())
    page.route("**/label/undo/", lambda route: route.abort())
    press(page, "1")
    expect(today).to_have_text(str(before + 1))
    page.keyboard.press("z")
    expect(today).to_have_text(str(before))
    if reloaded:
        page.reload()
        expect(status).to_contain_text("1 answer is kept in this browser")
        expect(today).to_have_text(str(before))
    Project.objects.filter(pk=project.pk).update(comment_required=True)
    page.unroute("**/label/answer/")
    page.evaluate("() => dispatchEvent(new Event('online'))")
    until(
        lambda: (
            page.evaluate(
                "Object.keys(localStorage).filter((key) => /^tastemaker:\\d+:\\d/.test(key)).length"
            )
            == 1
        )
    )
    expect(today).to_have_text(str(before))
    if reloaded:
        page.reload()  # which knows of the undo alone
        expect(status).to_contain_text("1 answer is kept in this browser")
    page.unroute("**/label/undo/")
    page.evaluate("() => dispatchEvent(new Event('online'))")
    wait_for_receipts(page)
    expect(today).to_have_text(str(before))
    assert len(judged()) == before
