"""Taking back a skip or a report in a real browser: the last act, with and without a connection."""

import pytest
from playwright.sync_api import expect

from labeling.assignment import next_for
from labeling.models import Assignment
from tests.browser.conftest import wait_for_receipts
from tests.browser.test_desk import press, shown

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


def put_aside(page, key="s", reason="1"):
    """Skip or report what is on screen, and wait for the next; returns which it was."""
    before = shown(page)
    page.keyboard.press(key)
    expect(page.locator("dialog[open]")).to_be_visible()
    if key == "f":
        page.get_by_role("button", name="It could harm someone").focus()
    page.keyboard.press(reason)
    expect(page.locator(f"#stage article:not([data-assignment='{before}'])")).to_be_visible()
    return before


def aside():
    return set(Assignment.objects.filter(outcome__in=Assignment.PUT_ASIDE).values_list("pk", flat=True))


def expect_on_screen(page, assignment):
    expect(page.locator(f"#stage article[data-assignment='{assignment}']")).to_be_visible()


@pytest.mark.parametrize("key", ["s", "f"])
def test_it_is_taken_back_before_the_answer_that_came_before_it(desk, pairs, judged, until, faults, key):
    pairs(4)
    page = desk()
    answered = press(page, "1")
    until(lambda: len(judged()) == 1)
    skipped = put_aside(page, key)
    until(lambda: aside() == {skipped})
    page.keyboard.press("z")
    expect_on_screen(page, skipped)
    until(lambda: aside() == set())
    assert [one.assignment_id for one in judged()] == [answered]
    expect(page.locator("[data-count=today]").first).to_have_text("1")
    page.keyboard.press("z")
    expect_on_screen(page, answered)
    until(lambda: judged() == [])
    press(page, "4")
    expect_on_screen(page, skipped)
    press(page, "5")
    until(lambda: [one.assignment_id for one in judged()] == [answered, skipped])
    assert faults == []


def test_without_a_connection_it_is_taken_back_as_well(desk, pairs, judged, until):
    pairs(4)
    page = desk()
    page.wait_for_load_state("networkidle")
    page.context.set_offline(True)
    skipped = put_aside(page)
    page.keyboard.press("z")
    expect_on_screen(page, skipped)
    page.context.set_offline(False)
    wait_for_receipts(page)
    assert aside() == set() and shown(page) == skipped
    press(page, "7")
    until(lambda: [one.assignment_id for one in judged()] == [skipped])


def test_one_whose_receipt_was_lost_is_taken_back_on_the_server(desk, pairs, until):
    pairs(4)
    page = desk()
    page.wait_for_load_state("networkidle")
    page.route("**/label/put-aside/", lambda route: (route.fetch(), route.abort()), times=1)
    skipped = put_aside(page)
    until(lambda: aside() == {skipped})
    page.keyboard.press("z")
    expect_on_screen(page, skipped)
    wait_for_receipts(page)
    assert aside() == set() and shown(page) == skipped


def test_after_a_reload_it_is_still_what_comes_back(desk, pairs, judged, until):
    pairs(4)
    page = desk()
    answered = press(page, "1")
    skipped = put_aside(page)
    wait_for_receipts(page)
    page.reload()
    page.wait_for_load_state("networkidle")
    page.keyboard.press("z")
    expect_on_screen(page, skipped)
    assert aside() == set() and [one.assignment_id for one in judged()] == [answered]
    expect(page.locator("[data-count=today]").first).to_have_text("1")
    page.keyboard.press("z")
    expect_on_screen(page, answered)
    assert judged() == []


@pytest.mark.parametrize("reloaded", [False, True])
def test_one_that_somebody_else_has_stays_and_so_does_the_answer(
    desk, pairs, judged, until, project, carol, reloaded
):
    pairs(3)
    page = desk()
    press(page, "1")
    skipped = put_aside(page)
    wait_for_receipts(page)
    theirs = next_for(carol, project)
    assert theirs.comparison_id == Assignment.objects.get(pk=skipped).comparison_id
    if reloaded:
        page.reload()
        page.wait_for_load_state("networkidle")
    page.keyboard.press("z")
    expect(page.get_by_role("status")).to_have_text("Someone else has this comparison now.")
    if not reloaded:
        expect(page.locator("#stage .gone")).to_contain_text("Someone else has this comparison now.")
    assert len(judged()) == 1 and aside() == {skipped}
