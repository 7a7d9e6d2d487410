"""An order of four, put together by hand: dragged by mouse and by finger, moved by arrows, read from the database."""

import pytest
from playwright.sync_api import expect

from labeling.models import Project
from tests.browser.conftest import wait_for_frame
from tests.browser.test_saying import PHONE

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def ranking(desk, pairs):
    """Bob's desk on a comparison of four."""

    def open_ranking(**options):
        pairs(2, candidates=("one", "two", "three", "four"))
        return desk(**options)

    return open_ranking


def chip(page, letter):
    return page.locator(f".strip .chip[aria-label^='Answer {letter},']")


def middle(locator, right=0.0):
    """A point of an element: its middle, or so many of its widths to the right of it."""
    box = locator.bounding_box()
    return box["x"] + box["width"] * (0.5 + right), box["y"] + box["height"] / 2


def drag(page, letter, to, right=0.0, let_go=True):
    page.mouse.move(*middle(chip(page, letter)))
    page.mouse.down()
    page.mouse.move(*middle(to, right), steps=4)
    if let_go:
        page.mouse.up()


def said(page):
    return page.locator("[data-order]").inner_text().strip("\u2066\u2069")


def sent(page, judged, until):
    page.keyboard.press("Enter")
    until(lambda: len(judged()) == 1)
    sides = judged()[0].assignment.sides
    return [sorted("ABCD"[sides.index(position)] for position in level) for level in judged()[0].ranking]


def test_an_order_is_dragged_together_with_a_tie(ranking, judged, until, faults):
    page = ranking()
    levels = page.locator(".strip .levels")
    drag(page, "C", levels)
    drag(page, "A", chip(page, "C"), right=0.6)  # after it
    drag(page, "D", chip(page, "C"), right=-0.6)  # before it
    drag(page, "B", chip(page, "A"))  # on it
    expect(page.locator("[data-order]")).to_contain_text("D > C > A = B")
    drag(page, "D", chip(page, "A"), right=0.6)  # in the middle of a tie is part of it
    expect(page.locator("[data-order]")).to_contain_text("C > A = B = D")
    drag(page, "A", chip(page, "C"), right=0.6)
    expect(page.locator("[data-order]")).to_contain_text("C > A > B = D")
    assert sent(page, judged, until) == [["C"], ["A"], ["B", "D"]]
    assert faults == []


def test_what_is_dragged_into_the_tray_has_no_place(ranking, judged, until, project):
    Project.objects.filter(pk=project.pk).update(partial_rankings=True)
    page = ranking()
    page.keyboard.type("1234")
    drag(page, "B", page.locator(".strip .tray"))
    drag(page, "A", page.locator(".strip .tray"))
    drag(page, "B", chip(page, "D"), right=0.6)
    assert sent(page, judged, until) == [["C"], ["D"], ["B"]]


def test_a_drag_that_is_broken_off_changes_nothing(ranking, judged):
    page = ranking()
    page.keyboard.type("1234")
    before = said(page)
    drag(page, "A", chip(page, "D"), let_go=False)
    page.keyboard.press("Escape")
    page.mouse.up()
    drag(page, "A", page.locator("#stage .answer").first)  # far away from the strip
    drag(page, "A", chip(page, "A"), right=0.1)  # hardly moved: a click, which takes it out
    expect(page.locator("[data-order]")).to_contain_text("(1 left)")
    assert before == "A > B > C > D" and said(page).startswith("B > C > D") and judged() == []


def test_a_click_on_a_chip_picks_as_its_button_does(ranking, judged, until):
    page = ranking()
    for letter in "DA":
        chip(page, letter).click()
    page.locator("#stage .pick").nth(1).click()
    chip(page, "C").focus()
    page.keyboard.press("Space")
    assert sent(page, judged, until) == [["D"], ["A"], ["B"], ["C"]]


def test_arrows_move_a_chip_step_by_step(ranking, judged, until):
    page = ranking()
    page.keyboard.type("123")
    chip(page, "C").focus()
    steps = ["A > B = C", "A > C > B", "A = C > B", "C > A > B"]
    for order in steps:
        page.keyboard.press("ArrowLeft")
        assert said(page).startswith(order)
        expect(chip(page, "C")).to_be_focused()
    for order in [*steps[-2::-1], "A > B > C"]:
        page.keyboard.press("ArrowRight")
        assert said(page).startswith(order)
    page.keyboard.press("ArrowRight")  # out of the order
    expect(page.locator(".strip .tray .chip")).to_have_count(2)
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("4")
    assert sent(page, judged, until) == [["A"], ["B"], ["C"], ["D"]]


def test_a_finger_drags_on_a_phone_and_the_page_stays_where_it_is(ranking, judged, until):
    page = ranking(**PHONE)
    touch = page.context.new_cdp_session(page)

    def swipe(start, end):
        points = [tuple(a + (b - a) * step / 6 for a, b in zip(start, end, strict=True)) for step in range(7)]
        for number, (x, y) in enumerate(points):
            kind = "touchMove" if number else "touchStart"
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
            page.wait_for_timeout(40)
        touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    for letter in "ABCD":
        box = chip(page, letter).bounding_box()
        assert box["width"] >= 44 and box["height"] >= 44
        chip(page, letter).tap()
    expect(page.locator("[data-order]")).to_contain_text("A > B > C > D")
    swipe(middle(chip(page, "D")), middle(chip(page, "A"), -0.6))
    expect(page.locator("[data-order]")).to_contain_text("D > A > B > C")
    swipe(middle(chip(page, "C")), middle(chip(page, "B")))
    expect(page.locator("[data-order]")).to_contain_text("D > A > B = C")
    assert page.evaluate("[scrollX, scrollY]") == [0, 0]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.get_by_role("button", name="Send this order").tap()
    until(lambda: len(judged()) == 1)
    sides = judged()[0].assignment.sides
    assert judged()[0].ranking == [[sides[3]], [sides[0]], sorted([sides[1], sides[2]])]


def test_eight_chips_fit_a_narrow_phone(desk, pairs):
    pairs(1, candidates=[f"{letter}\n\n" * 50 for letter in "abcdefgh"])
    page = desk(**PHONE)
    page.locator("#stage .pick").first.wait_for()
    for letter in "ABCDEFGH":
        chip(page, letter).tap()
    strip = page.locator(".strip").bounding_box()
    assert strip["x"] >= 0 and strip["x"] + strip["width"] <= 360
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    # The bar covers nothing of the answers that could not be scrolled from under it.
    wait_for_frame(page)
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    answer = page.locator("#stage .answer").first.bounding_box()
    assert answer["y"] + answer["height"] <= page.locator(".bar").bounding_box()["y"]


def test_a_chip_that_the_next_comparison_lacks_leaves_the_focus_to_the_answers(
    desk, pairs, judged, until, faults
):
    for candidates in (["one", "two", "three", "four"], ["one", "two", "three"], ["one", "two"]):
        pairs(1, candidates)
    page = desk()
    page.wait_for_load_state("networkidle")
    page.keyboard.press("c")
    page.keyboard.type("Because of the first.")
    page.keyboard.press("Control+Enter")
    page.keyboard.type("1234")
    chip(page, "D").focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    expect(page.locator("#stage")).to_be_focused()
    expect(page.get_by_role("button", name="Say why")).to_have_attribute("aria-pressed", "false")
    page.keyboard.type("321")
    chip(page, "A").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#stage")).to_be_focused()
    expect(page.locator("#stage article[data-candidates='2']")).to_be_visible()
    page.keyboard.press("1")
    until(lambda: len(judged()) == 3)
    assert [one.reason for one in judged()] == ["Because of the first.", "", ""]
    assert faults == []


def test_after_the_last_order_the_bar_holds_nothing_of_it(desk, pairs, judged, until, faults):
    pairs(1, candidates=("one", "two", "three"))
    page = desk()
    page.keyboard.type("31=2")
    page.keyboard.press("Enter")
    until(lambda: len(judged()) == 1)
    expect(page.locator(".strip .chip")).to_have_count(0)
    expect(page.locator("[data-order]")).to_be_empty()
    expect(page.get_by_role("button", name="Send this order")).to_be_disabled()
    pairs(1, candidates=("one", "two", "three", "four"))
    # With the receipt the page looks by itself: the button may be gone by now.
    page.get_by_role("button", name="Look again now", include_hidden=True).dispatch_event("click")
    expect(page.locator(".strip .tray .chip")).to_have_count(4)
    assert faults == []
