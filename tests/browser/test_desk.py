"""Comparing answers in a real browser. What was said is always read from the database, never from the page."""

import itertools
import re

import pytest
from playwright.sync_api import expect

from labeling.models import Assignment, Judgment, Preference, User
from tests.browser.conftest import lose_receipts, wait_for_receipts

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


def shown(page):
    return int(page.locator("#stage article").get_attribute("data-assignment"))


def press(page, key):
    """Press a key that answers, and wait until another comparison is on screen."""
    before = shown(page)
    page.keyboard.press(key)
    expect(page.locator(f"#stage article:not([data-assignment='{before}'])")).to_be_visible()
    return before


def better_side(page):
    """Which of the two on screen is the good answer: 0 for A, 1 for B."""
    return 0 if "good" in page.locator("#stage .answer").first.inner_text() else 1


def test_ten_comparisons_are_answered_by_keyboard_alone_and_one_is_taken_back(
    desk, pairs, judged, faults, until
):
    pairs(12)
    page = desk()
    given = {}
    for key in "1234567012":
        left_is_good = better_side(page) == 0
        given[press(page, key)] = (key, left_is_good)
    until(lambda: len(judged()) == 10)
    last = list(given)[-1]
    page.keyboard.press("z")
    expect(page.locator(f"#stage article[data-assignment='{last}']")).to_be_visible()
    until(lambda: len(judged()) == 9)

    for judgment in judged():
        key, left_is_good = given[judgment.assignment_id]
        preference = Preference.objects.get(judgment=judgment)
        if key in "4":
            assert judgment.verdict == "tie" and preference.tie
        elif key in "0":
            assert judgment.verdict == "all_bad" and preference.both_bad
        else:
            chose_left = key in "123"
            word = "good" if chose_left == left_is_good else "bad"
            assert preference.chosen.text.startswith(word), (key, left_is_good)
            assert judgment.strength == {"1": 3, "2": 2, "3": 1, "5": 1, "6": 2, "7": 3}[key]
        assert 0 <= judgment.seconds_spent < 60
    assert last not in {judgment.assignment_id for judgment in judged()}
    assert Judgment.objects.filter(assignment=last, is_current=False).count() == 1
    assert faults == []


def test_the_comparison_taken_back_can_be_answered_anew(desk, pairs, judged, until):
    pairs(3)
    page = desk()
    first = press(page, "4")
    until(lambda: len(judged()) == 1)
    page.keyboard.press("z")
    expect(page.locator(f"#stage article[data-assignment='{first}']")).to_be_visible()
    press(page, "0")
    until(lambda: [j.verdict for j in judged()] == ["all_bad"])
    assert Judgment.objects.filter(assignment=first).count() == 2


def test_undo_after_a_reload_takes_back_the_last_answer_and_no_other(desk, pairs, judged, until):
    pairs(4)
    page = desk()
    given = [press(page, "4"), press(page, "1")]
    until(lambda: len(judged()) == 2)
    page.reload()
    page.wait_for_load_state("networkidle")
    page.route("**/label/undo/", lambda route: (route.fetch(), route.abort()), times=1)
    page.keyboard.press("z")
    expect(page.get_by_role("status")).to_have_text(
        "No connection. Try once more to take your last answer back."
    )
    assert [one.assignment_id for one in judged()] == given[:1]  # the receipt alone was lost
    page.keyboard.press("z")
    expect(page.locator(f"#stage article[data-assignment='{given[1]}']")).to_be_visible()
    assert [one.assignment_id for one in judged()] == given[:1]
    page.keyboard.press("z")
    expect(page.locator(f"#stage article[data-assignment='{given[0]}']")).to_be_visible()
    assert judged() == []
    expect(page.get_by_role("button", name="Take it back")).to_be_disabled()


def test_undo_after_a_reload_takes_nothing_back_while_an_answer_waits(desk, pairs, judged, until):
    pairs(4)
    page = desk()
    page.wait_for_load_state("networkidle")
    first = press(page, "4")
    until(lambda: len(judged()) == 1)
    page.route(
        "**/label/answer/", lambda route: route.fulfill(status=500, body="<h1>Server Error (500)</h1>")
    )
    press(page, "1")
    page.reload()
    expect(page.get_by_role("status")).to_contain_text("The server failed on 1 answer.")
    with page.expect_response("**/label/answer/"):
        page.keyboard.press("z")
    page.unroute("**/label/answer/")
    until(lambda: len(judged()) == 2)
    assert judged()[0].assignment_id == first and Judgment.objects.count() == 2


def test_the_next_comparison_is_there_before_the_answer_has_left(desk, pairs, judged, until):
    pairs(4)
    page = desk()
    page.wait_for_function("() => document.querySelector('#ahead').content.children.length > 0")
    page.context.set_offline(True)
    press(page, "1")
    assert judged() == []
    page.context.set_offline(False)
    until(lambda: len(judged()) == 1)


def test_a_cut_network_loses_nothing_and_doubles_nothing(desk, pairs, judged, until):
    pairs(8)
    page = desk()
    with page.expect_request_finished(lambda request: "/label/next/" in request.url):
        press(page, "4")
    until(lambda: len(judged()) == 1)
    page.context.set_offline(True)
    press(page, "1")
    page.keyboard.press("7")
    expect(page.get_by_role("status")).to_contain_text("2 answers are kept in this browser")
    expect(page.get_by_role("heading", name="No connection to the server")).to_be_visible()
    assert len(judged()) == 1
    page.context.set_offline(False)
    until(lambda: len(judged()) == 3)
    expect(page.locator("#stage article")).to_be_visible()
    assert [j.strength for j in judged()] == [None, 3, 3]
    assert Judgment.objects.count() == 3


def test_answers_given_without_a_network_survive_closing_the_page(desk, pairs, judged, project, until):
    pairs(4)
    page = desk()
    page.wait_for_load_state("networkidle")
    page.context.set_offline(True)
    answered = press(page, "6")
    expect(page.get_by_role("status")).to_contain_text("1 answer is kept in this browser")
    page.close()
    page.context.set_offline(False)
    again = page.context.new_page()
    again.goto(f"/p/{project.slug}/label/")
    until(lambda: [j.assignment_id for j in judged()] == [answered])
    assert shown(again) != answered


def test_an_answer_whose_receipt_was_lost_is_stored_once(desk, pairs, judged, until):
    pairs(4)
    page = desk()
    arrived = []

    def lose_the_receipt(route):
        if not arrived:
            arrived.append(route.fetch().status)
            route.abort()
        else:
            route.continue_()

    page.route("**/label/answer/", lose_the_receipt)
    press(page, "2")
    until(lambda: len(judged()) == 1)
    expect(page.get_by_role("status")).to_have_text("Last answer saved")
    assert arrived == [200] and Judgment.objects.count() == 1


def test_an_answer_whose_receipt_was_lost_counts_once_after_a_reload(desk, pairs, judged, until):
    pairs(4)
    page = desk()
    lost = lose_receipts(page)
    press(page, "2")
    until(lambda: len(judged()) == 1 and lost)
    page.reload()
    until(lambda: len(lost) > 1)
    expect(page.get_by_role("status")).to_contain_text("1 answer is kept in this browser")
    page.unroute("**/label/answer/")
    wait_for_receipts(page)
    expect(page.locator("[data-count=today]")).to_have_text("1")
    press(page, "2")
    expect(page.locator("[data-count=today]")).to_have_text("2")


def test_a_server_that_fails_gets_the_answer_again(desk, pairs, judged, until):
    pairs(4)
    page = desk()
    failures = []

    def fail_twice(route):
        if len(failures) < 2:
            failures.append(route.request.url)
            route.fulfill(status=502, body="Bad gateway")
        else:
            route.continue_()

    page.route("**/label/answer/", fail_twice)
    press(page, "2")
    expect(page.get_by_role("status")).to_contain_text("1 answer is kept in this browser")
    until(lambda: len(judged()) == 1)
    assert len(failures) == 2


def test_an_answer_taken_back_before_it_left_never_arrives(desk, pairs, judged, until):
    pairs(4)
    page = desk()
    page.wait_for_load_state("networkidle")
    under_way = []
    page.route("**/label/answer/", lambda route: under_way.append(route), times=1)
    first = press(page, "1")
    until(lambda: under_way)
    second = press(page, "1")  # waits for the first to arrive
    page.keyboard.press("z")
    expect(page.locator(f"#stage article[data-assignment='{second}']")).to_be_visible()
    expect(page.get_by_role("status")).to_have_text("Taken back")
    press(page, "6")
    under_way[0].continue_()
    until(lambda: [(one.assignment_id, one.strength) for one in judged()] == [(first, 3), (second, 2)])
    assert Judgment.objects.count() == 2


def test_a_session_that_ends_keeps_the_answer_until_the_next_sign_in(
    desk, pairs, judged, project, bob, until
):
    from django.contrib.sessions.models import Session

    pairs(4)
    page = desk()
    page.wait_for_load_state("networkidle")
    Session.objects.all().delete()
    answered = press(page, "5")
    expect(page.get_by_role("status")).to_contain_text(
        "You are signed out; 1 answer is kept in this browser."
    )
    link = page.get_by_role("link", name="Sign in again")
    link.focus()
    with page.expect_response("**/label/answer/"):  # tried again, and refused again
        pass
    expect(link).to_be_focused()
    link.click()
    page.get_by_label("Name or e-mail address").fill("bob")
    page.get_by_label("Password").fill("a long passphrase")
    page.get_by_role("button", name="Sign in").click()
    until(lambda: [j.assignment_id for j in judged()] == [answered])


def test_skip_report_and_say_why_by_keyboard(desk, pairs, judged, until):
    pairs(6)
    page = desk()
    page.keyboard.press("s")
    expect(page.get_by_role("dialog", name="Why skip this one?")).to_be_visible()
    skipped = shown(page)
    page.keyboard.press("2")
    until(lambda: Assignment.objects.get(pk=skipped).outcome_reason == "expertise")
    expect(page.locator(f"#stage article:not([data-assignment='{skipped}'])")).to_be_visible()

    reported = shown(page)
    page.keyboard.press("f")
    page.get_by_label("What should the manager know?").fill("<b>This</b> is vile.")
    page.get_by_role("button", name="It could harm someone").click()
    until(lambda: Assignment.objects.get(pk=reported).outcome == "flagged")
    assert Assignment.objects.get(pk=reported).outcome_text == "<b>This</b> is vile."
    assert all(0 <= one.seconds_spent < 60 for one in Assignment.objects.exclude(outcome=""))

    page.keyboard.press("c")
    page.keyboard.type("It answers 1 question.")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("button", name="Say why")).to_have_attribute("aria-pressed", "true")
    press(page, "1")
    until(lambda: [j.reason for j in judged()] == ["It answers 1 question."])
    expect(page.get_by_role("button", name="Say why")).to_have_attribute("aria-pressed", "false")
    press(page, "1")
    until(lambda: [j.reason for j in judged()] == ["It answers 1 question.", ""])

    # A report that was begun and left says nothing of the next comparison, whose reason a digit picks.
    page.keyboard.press("f")
    page.get_by_label("What should the manager know?").fill("Somebody is named.")
    page.keyboard.press("Escape")
    press(page, "1")
    reported = shown(page)
    page.keyboard.press("f")
    page.keyboard.press("2")
    until(lambda: Assignment.objects.get(pk=reported).outcome == "flagged")
    assert Assignment.objects.get(pk=reported).outcome_text == ""


def test_an_arrow_scrolls_the_code_that_has_the_focus(desk, pairs):
    pairs(1, candidates=("```\n" + "wide " * 38, "narrow"))
    page = desk()
    row, code = page.locator("#stage .answers"), page.locator("#stage pre")
    for width in (1280, 360):
        page.set_viewport_size({"width": width, "height": 740})
        code.evaluate("one => { one.scrollLeft = 0; one.focus(); }")
        before = row.evaluate("one => one.scrollLeft")
        page.keyboard.press("ArrowRight")
        page.wait_for_function("() => document.querySelector('#stage pre').scrollLeft > 0")
        assert row.evaluate("one => one.scrollLeft") == before


def test_a_key_held_down_answers_once(desk, pairs, judged, until):
    pairs(6)
    page = desk()
    before = shown(page)
    for _ in range(5):
        page.keyboard.down("1")  # from the second on, the browser marks it as a repeat
    page.keyboard.up("1")
    expect(page.locator(f"#stage article:not([data-assignment='{before}'])")).to_be_visible()
    until(lambda: len(judged()) == 1)
    wait_for_receipts(page)
    assert len(judged()) == 1


@pytest.mark.parametrize(("key", "code"), [("&", "Digit1"), ("\u0661", "Digit1"), ("1", "Numpad1")])
def test_keys_mean_the_same_on_every_layout(desk, pairs, judged, until, key, code):
    pairs(2)
    page = desk()
    page.evaluate(
        "([key, code]) => document.body.dispatchEvent(new KeyboardEvent('keydown', {key, code, bubbles: true}))",
        [key, code],
    )
    until(lambda: [j.strength for j in judged()] == [3])


def test_a_double_click_and_a_held_enter_answer_once(desk, pairs, judged, until):
    pairs(6)
    page = desk()
    button = page.get_by_role("button", name="A better")
    button.dblclick()
    until(lambda: len(judged()) == 1)
    button.focus()
    for _ in range(4):
        page.keyboard.down("Enter")
    page.keyboard.up("Enter")
    until(lambda: len(judged()) == 2)
    wait_for_receipts(page)
    assert len(judged()) == 2


def test_an_undo_that_waits_for_the_network_keeps_its_comparison(desk, pairs, judged, until):
    pairs(4)
    page = desk()
    first = press(page, "1")
    until(lambda: len(judged()) == 1)
    page.wait_for_load_state("networkidle")
    page.context.set_offline(True)
    page.keyboard.press("z")
    expect(page.locator(f"#stage article[data-assignment='{first}']")).to_be_visible()
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.context.set_offline(False)
    until(lambda: judged() == [])
    assert shown(page) == first
    press(page, "7")
    until(lambda: [j.assignment_id for j in judged()] == [first])


def test_keys_with_a_modifier_and_keys_typed_into_a_dialog_answer_nothing(desk, pairs, judged):
    pairs(2)
    page = desk()
    before = shown(page)
    page.keyboard.press("Control+1")
    page.keyboard.press("Alt+4")
    page.keyboard.press("c")
    page.keyboard.type("1234567")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    page.keyboard.press("4")
    page.keyboard.press("Escape")
    page.wait_for_load_state("networkidle")
    assert shown(page) == before and not Judgment.objects.exists()


def test_four_candidates_are_ranked_by_keys_with_a_tie(desk, pairs, judged, until):
    (comparison,) = pairs(1, candidates=["first", "second", "third", "fourth"])
    page = desk()
    shown_texts = page.locator("#stage .answer .prose").all_inner_texts()
    place = {text.split()[0]: str(number) for number, text in enumerate(shown_texts, start=1)}
    page.keyboard.press("Enter")  # too early: nothing is sent
    page.keyboard.press(place["second"])
    page.keyboard.press(place["first"])
    page.keyboard.press("=")
    page.keyboard.press(place["fourth"])
    page.keyboard.press(place["third"])
    page.keyboard.press("Enter")
    until(lambda: len(judged()) == 1)
    position = {
        c.completion.text.split()[0]: c.position for c in comparison.candidates.select_related("completion")
    }
    tied = sorted([position["first"], position["fourth"]])
    assert judged()[0].ranking == [[position["second"]], tied, [position["third"]]]


def test_the_mouse_works_as_the_keys_do(desk, pairs, judged, until):
    pairs(3)
    page = desk()
    page.get_by_role("button", name="B much better").click()
    until(lambda: len(judged()) == 1)
    page.get_by_role("button", name="Take it back").click()
    until(lambda: judged() == [])


def test_on_a_phone_one_answer_is_seen_at_a_time_and_taps_answer(desk, pairs, judged, until):
    pairs(3)
    page = desk(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    first, second = page.locator("#stage .answer").all()
    expect(first).to_be_in_viewport()
    expect(second).not_to_be_in_viewport()
    page.locator("#stage .tabs button").nth(1).tap()
    expect(second).to_be_in_viewport(ratio=0.9)
    expect(page.locator("#stage .tabs button").nth(1)).to_have_attribute("aria-current", "true")
    for button in page.locator(".verdicts:not([hidden]) .verdict").all():
        box = button.bounding_box()
        assert box["height"] >= 44 and box["width"] >= 44
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    right_is_good = better_side(page) == 1
    page.locator(".verdict.b.s3").tap()
    until(lambda: len(judged()) == 1)
    chosen = Preference.objects.get().chosen.text
    assert chosen.startswith("good" if right_is_good else "bad")


@pytest.mark.parametrize("name", ["annotator", "maria-fernanda-de-la-torre"])
def test_nothing_at_the_top_of_a_phone_covers_anything(desk, pairs, bob, name):
    User.objects.filter(pk=bob.pk).update(username=name)
    bob.refresh_from_db()
    pairs(1)
    page = desk(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    boxes = page.evaluate(
        """() => [...document.querySelectorAll(".topbar .brand, .topbar nav > *")].filter((one) => one.offsetWidth).map((one) => {
            const { left, right } = one.getBoundingClientRect();
            return [left, right, one.matches("a:last-child") || one.scrollWidth <= one.clientWidth];
        })"""
    )
    assert len(boxes) == 4 and all(fits for *_, fits in boxes)
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(boxes))
    assert boxes[0][0] >= 0 and boxes[-1][1] <= 360


def test_the_page_does_not_overflow_at_360_pixels(desk, pairs):
    pairs(1)
    page = desk(viewport={"width": 360, "height": 640})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_nothing_but_the_content_moves_when_an_answer_is_given(desk, pairs):
    pairs(4)
    page = desk()
    places = "[...document.querySelectorAll('.topbar, .bar, .verdict, .answer')].map(e => JSON.stringify(e.getBoundingClientRect()))"
    before = page.evaluate(places)
    press(page, "1")
    expect(page.get_by_role("status")).to_have_text("Last answer saved")
    assert page.evaluate(places) == before


def test_when_all_is_answered_the_page_says_so_and_new_work_appears(desk, pairs, judged):
    pairs(1)
    page = desk()
    page.keyboard.press("1")
    expect(page.get_by_role("heading", name="Nothing waits for you right now")).to_be_visible()
    pairs(2)
    # With the receipt the page looks by itself: the button may be gone by now.
    page.get_by_role("button", name="Look again now", include_hidden=True).dispatch_event("click")
    expect(page.locator("#stage article")).to_be_visible()


def test_after_the_last_answer_the_page_speaks_of_no_lost_connection(desk, pairs, judged, until):
    # The server says that nothing is left while the answer is still on its way.
    pairs(1)
    page = desk()
    page.wait_for_load_state("networkidle")
    held = []
    page.route("**/label/answer/", lambda route: held.append(route))
    page.evaluate(
        """() => {
            window.seen = [];
            const look = () => document.querySelectorAll("[data-empty]:not([hidden])").forEach((one) => window.seen.push(one.dataset.empty));
            new MutationObserver(look).observe(document.body, { subtree: true, attributes: true });
        }"""
    )
    with page.expect_response("**/label/next/"):
        page.keyboard.press("4")
    until(lambda: held)
    held[0].continue_()
    expect(page.get_by_text("Nothing waits for you right now")).to_be_visible()
    assert len(judged()) == 1
    assert "cut" not in page.evaluate("window.seen")


def test_the_lease_is_renewed_while_the_page_is_open(desk, pairs, project, until):
    project.lease_seconds = 3
    project.save(update_fields=["lease_seconds"])
    pairs(2)
    page = desk()
    until_when = Assignment.objects.get(pk=shown(page)).leased_until
    until(lambda: Assignment.objects.get(pk=shown(page)).leased_until > until_when)


def test_guidelines_and_keys_open_and_close_by_key(desk, pairs, project):
    project.guidelines = "# Prefer the *true* one"
    project.save(update_fields=["guidelines"])
    pairs(1)
    page = desk()
    page.keyboard.press("g")
    expect(page.get_by_text("Prefer the true one")).to_be_visible()
    page.keyboard.press("g")
    expect(page.get_by_text("Prefer the true one")).to_be_hidden()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog", name="Keys")).to_be_hidden()


def test_every_request_goes_to_our_own_server(desk, pairs, live_server):
    pairs(2)
    page = desk()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.reload()
    page.wait_for_load_state("networkidle")
    assert asked and all(url.startswith(live_server.url) for url in asked)


def test_every_key_is_written_on_its_button(desk, pairs):
    pairs(1)
    page = desk()
    written = page.locator(".verdicts:not([hidden]) .verdict kbd").all_inner_texts()
    assert written == list("12345670")
    extras = page.locator(".extras button kbd").all_inner_texts()
    assert extras == list("CEDLSFZ") and re.search(r"\bG\b", page.locator("nav").inner_text())
