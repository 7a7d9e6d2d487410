"""What is said beside the verdict, in a real browser: ratings, reasons, better answers; and what a project asks for."""

import random

import pytest
from django.urls import reverse
from playwright.sync_api import expect

from labeling.models import Assignment, Completion, Edit, GuidelinesVersion, Preference, Project, Prompt
from labeling.selection import create_comparison
from tests.browser.conftest import wait_for_frame, wait_for_receipts
from tests.browser.test_desk import press, shown

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
TABLET = {"viewport": {"width": 820, "height": 1180}, "has_touch": True, "is_mobile": True}


@pytest.fixture
def asks(project):
    def ask(**fields):
        Project.objects.filter(pk=project.pk).update(**fields)

    return ask


@pytest.fixture
def compared(project):
    """Make one comparison of these texts."""

    def make(*texts, prompt="Which one?"):
        prompt = Prompt.objects.add(project, prompt)
        return create_comparison(
            project, prompt, [Completion.objects.add(prompt, t, f"m{n}") for n, t in enumerate(texts)]
        )

    return make


def status(page):
    return page.get_by_role("status")


# Verdicts


def test_both_good_and_verdicts_without_strengths_have_their_keys(desk, pairs, judged, asks, until):
    asks(all_good=True, strengths=False, ties=False)
    pairs(5)
    page = desk()
    assert page.locator(".verdicts:not([hidden]) .verdict kbd").all_inner_texts() == list("1209")
    for key in "912":
        press(page, key)
    until(lambda: len(judged()) == 3)
    assert [(one.verdict, one.strength) for one in judged()] == [
        ("all_good", None),
        ("preferred", None),
        ("preferred", None),
    ]
    first, second = Preference.objects.filter(both_good=False).order_by("id")
    assert first.judgment.assignment.sides[0] == (0 if first.chosen.text.startswith("good") else 1)
    assert second.judgment.assignment.sides[1] == (0 if second.chosen.text.startswith("good") else 1)


def test_a_ranking_may_leave_answers_out(desk, pairs, judged, asks, until):
    asks(partial_rankings=True)
    pairs(1, candidates=("one", "two", "three", "four"))
    page = desk()
    page.keyboard.press("4")
    page.keyboard.press("Enter")  # a single one is no order
    assert judged() == []
    page.keyboard.press("2")
    page.keyboard.press("Enter")
    until(lambda: len(judged()) == 1)
    sides = judged()[0].assignment.sides
    assert judged()[0].ranking == [[sides[3]], [sides[1]]]
    assert Preference.objects.count() == 1


# Ratings


def test_ratings_are_given_by_keyboard_and_asked_for_before_the_verdict(desk, pairs, judged, asks, until):
    asks(criteria=["helpfulness", "honesty"])
    pairs(3)
    page = desk()
    page.evaluate("delete Element.prototype.checkVisibility")  # Safari has it since 17.4
    page.keyboard.press("1")
    expect(status(page)).to_have_text("First rate answer A: helpfulness")
    assert judged() == []
    page.keyboard.type("4352")  # A's two, then B's two
    press(page, "1")
    until(lambda: len(judged()) == 1)
    sides = judged()[0].assignment.sides
    found = {name: [given[position] for position in sides] for name, given in judged()[0].ratings.items()}
    assert found == {"helpfulness": [4, 5], "honesty": [3, 2]}

    # The next one starts without any, and what was begun outlives a reload.
    assert page.locator("#stage input:checked").count() == 0
    page.keyboard.press("r")
    page.keyboard.type("1")
    page.reload()
    expect(page.locator("#stage .rating input:checked")).to_have_count(1)
    page.keyboard.press("r")
    page.keyboard.type("222")
    press(page, "7")
    until(lambda: len(judged()) == 2)


# By how much what has the focus is covered by what sticks to the bottom or the top.
COVERED = """() => {
    const { top, bottom } = document.activeElement.getBoundingClientRect();
    const stuck = [...document.querySelectorAll(".topbar, .tabs, .answer > header")].map((one) => one.getBoundingClientRect());
    const free = Math.max(...stuck.filter((one) => one.top < 120).map((one) => one.bottom));
    return Math.max(0, bottom - document.querySelector(".bar").getBoundingClientRect().top, free - top);
}"""


def test_what_gets_the_focus_is_covered_by_nothing(desk, compared, asks):
    asks(criteria=["honesty"])
    text = "\n\n".join(["A paragraph."] * 40 + ["[A link](https://example.com)"] + ["A paragraph."] * 40)
    compared(text, text + " Yes.")
    page = desk()
    for width, height in ((1280, 720), (360, 740)):
        page.set_viewport_size({"width": width, "height": height})
        wait_for_frame(page)
        for begin, key in (("scrollTo(0, 0)", "r"), ("document.querySelector('.prompt').focus()", "Tab")):
            page.evaluate(begin)
            page.keyboard.press(key)
            assert page.evaluate(COVERED) == 0, (width, key)
        page.evaluate("document.querySelector('.answer .ratings input').focus()")
        page.keyboard.press("Shift+Tab")
        assert page.evaluate(COVERED) == 0, (width, "Shift+Tab")


# The share of the window's height in which an answer is seen, once one has scrolled to its text.
SEEN = """() => {
    document.querySelector(".answer .prose").scrollIntoView({ behavior: "instant" });
    const places = [...Array(50).keys()].map((step) => ((step + 0.5) / 50) * innerHeight);
    return places.filter((y) => document.elementFromPoint(innerWidth / 4, y).closest(".answer")).length / 50;
}"""


def test_a_low_window_leaves_room_to_read(desk, compared):
    compared(*(f"{number}: " + "A sentence of an answer. " * 60 for number in range(3)))
    page = desk()
    page.set_viewport_size({"width": 360, "height": 640})
    expect(page.locator(".bar")).to_be_in_viewport(ratio=1)
    for width, height in ((320, 256), (667, 375), (844, 390)):  # enlarged four times; phones held sideways
        page.set_viewport_size({"width": width, "height": height})
        assert page.evaluate(SEEN) > 0.7, (width, height)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.get_by_role("button", name="Skip").click()
        page.keyboard.press("Escape")


def test_ratings_are_large_enough_to_tap_and_fit_a_phone(desk, pairs, judged, asks, until):
    asks(criteria=["helpfulness", "a criterion with a long name"], all_good=True)
    pairs(2)
    page = desk(**PHONE)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for button in page.locator(
        ".verdicts:not([hidden]) .verdict, #stage .answer:first-child .rating label"
    ).all():
        box = button.bounding_box()
        assert box["height"] >= 32 and box["width"] >= 32, box
    for group in page.locator("#stage .answer:first-child .rating").all():
        assert len({label.bounding_box()["y"] for label in group.locator("label").all()}) == 1
    for side in (0, 1):
        page.locator("#stage .tabs button").nth(side).tap()
        for group in page.locator("#stage .answer").nth(side).locator(".rating").all():
            group.locator("label").nth(2).tap()
    page.get_by_role("button", name="Both good").tap()
    until(lambda: len(judged()) == 1)
    assert judged()[0].ratings == {"helpfulness": [3, 3], "a criterion with a long name": [3, 3]}


def test_a_digit_after_a_clicked_rating_is_a_verdict(desk, pairs, judged, asks, until):
    asks(criteria=["honesty"])
    pairs(2)
    page = desk()
    for side in (0, 1):
        page.locator("#stage .answer").nth(side).locator(".rating label").nth(3).click()
    press(page, "1")
    until(lambda: len(judged()) == 1)
    assert (judged()[0].strength, judged()[0].ratings) == (3, {"honesty": [4, 4]})


def test_what_was_said_beside_a_verdict_comes_back_with_it(desk, pairs, judged, asks, until):
    asks(criteria=["honesty"], reason_tags=["kinder"])
    pairs(4)
    page = desk()

    def say_all():
        page.keyboard.press("r")
        page.keyboard.type("25")
        page.keyboard.press("c")
        page.keyboard.press("1")
        page.get_by_role("button", name="Keep").click()
        page.keyboard.press("e")
        page.get_by_label("As it should have been").fill("Quite another one.")
        page.keyboard.press("Control+Enter")

    def is_all_there():
        expect(page.locator("#stage .rating input:checked")).to_have_count(2)
        expect(page.get_by_role("button", name="Say why")).to_have_attribute("aria-pressed", "true")
        expect(page.locator("[data-do=better]")).to_have_attribute("aria-pressed", "true")

    say_all()
    first = press(page, "1")
    until(lambda: len(judged()) == 1)
    page.keyboard.press("z")
    expect(page.locator(f"#stage article[data-assignment='{first}']")).to_be_visible()
    until(lambda: judged() == [])
    is_all_there()
    press(page, "7")  # sent again with all of it
    until(lambda: len(judged()) == 1)
    page.reload()
    page.keyboard.press("z")  # from the server this time
    expect(page.locator(f"#stage article[data-assignment='{first}']")).to_be_visible()
    is_all_there()
    press(page, "4")
    until(lambda: [(one.verdict, one.reason_tags) for one in judged()] == [("tie", ["kinder"])])
    assert Edit.objects.current().get().completion.text == "Quite another one."


def test_a_draft_with_what_the_project_no_longer_takes_can_still_be_answered(
    desk, pairs, judged, asks, until
):
    asks(reason_tags=["kinder", "shorter"])
    pairs(3)
    page = desk()
    for key, word in (("c", None), ("e", "Quite another one.")):
        page.keyboard.press(key)
        if word:
            page.get_by_label("As it should have been").fill(word)
        else:
            page.keyboard.press("1")
        page.keyboard.press("Escape")
    asks(reason_tags=["shorter"], edits=False)
    page.reload()
    press(page, "1")
    until(lambda: len(judged()) == 1)
    assert judged()[0].reason_tags == [] and not Edit.objects.exists()


def test_a_refusal_leaves_what_is_on_screen_and_open_where_it_is(desk, pairs, judged, asks, until):
    pairs(4)
    page = desk()
    page.wait_for_load_state("networkidle")
    asks(reason_required=True)
    page.route("**/label/answer/", lambda route: (page.wait_for_timeout(400), route.continue_()))
    first = press(page, "1")
    second = shown(page)
    page.keyboard.press("s")
    expect(status(page)).to_contain_text("a reason for every answer. That comparison comes next.")
    expect(status(page).get_by_role("link", name="load it again")).to_be_visible()
    expect(page.get_by_role("dialog", name="Why skip this one?")).to_be_visible()
    page.keyboard.press("2")
    until(lambda: [one.pk for one in Assignment.objects.filter(outcome="skipped")] == [second])
    expect(page.locator(f"#stage article[data-assignment='{first}']")).to_be_visible()


def test_no_key_meets_a_comparison_that_came_back_unseen(desk, pairs, judged, asks, until):
    asks(partial_rankings=True)
    pairs(3, candidates=("one", "two", "three"))
    page = desk()
    page.wait_for_load_state("networkidle")
    asks(partial_rankings=False)
    page.keyboard.type("13")
    first, second = press(page, "Enter"), shown(page)
    page.keyboard.type("2")
    expect(status(page)).to_contain_text("That comparison comes next.")
    page.keyboard.type("13")
    assert press(page, "Enter") == second
    assert shown(page) == first
    expect(page.locator("[data-order]")).to_contain_text("A > C")
    page.keyboard.type("2")
    page.keyboard.press("Enter")
    until(lambda: {one.assignment_id for one in judged()} == {first, second})


# Reasons


def test_a_reason_that_is_needed_is_asked_for_and_the_verdict_then_goes(desk, pairs, judged, asks, until):
    asks(reason_required=True, reason_tags=["more correct", "kinder"])
    pairs(3)
    page = desk()
    dialog = page.get_by_role("dialog", name="Why this answer?")
    page.keyboard.press("1")
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert judged() == []
    page.keyboard.press("1")
    page.keyboard.press("2")
    page.get_by_role("button", name="Keep").click()
    until(lambda: len(judged()) == 1)
    assert (judged()[0].reason_tags, judged()[0].strength) == (["kinder"], 3)
    page.keyboard.press("7")
    dialog.get_by_role("textbox").fill("It says sorry.")
    page.keyboard.press("Control+Enter")
    until(lambda: len(judged()) == 2)
    assert (judged()[1].reason_tags, judged()[1].reason) == ([], "It says sorry.")


def test_a_comment_that_is_needed_is_asked_for_beside_what_was_picked(desk, pairs, judged, asks, until):
    asks(comment_required=True, reason_tags=["more correct", "kinder"])
    pairs(2)
    page = desk()
    dialog = page.get_by_role("dialog", name="Why this answer?")
    page.keyboard.press("1")
    expect(dialog.get_by_role("textbox", name="(needed)")).to_be_visible()
    page.keyboard.press("2")
    page.get_by_role("button", name="Keep").click()
    expect(status(page)).to_have_text("This project asks for a comment with every answer")
    assert judged() == []
    page.keyboard.press("1")
    dialog.get_by_role("textbox").fill("It says sorry.")
    page.keyboard.press("Control+Enter")
    until(lambda: len(judged()) == 1)
    assert (judged()[0].reason_tags, judged()[0].reason) == (["kinder"], "It says sorry.")


def test_an_answer_that_no_longer_fits_comes_back_with_what_was_written(desk, pairs, judged, asks, until):
    pairs(3)
    page = desk()
    page.wait_for_load_state("networkidle")
    asks(reason_required=True)  # since the page was loaded
    first = press(page, "1")
    expect(status(page)).to_contain_text("this project wants a reason")
    page.keyboard.press("s")
    page.keyboard.press("2")
    expect(page.locator(f"#stage article[data-assignment='{first}']")).to_be_visible()
    assert judged() == []
    page.keyboard.press("c")
    page.keyboard.type("Because.")
    page.keyboard.press("Control+Enter")
    press(page, "1")
    until(lambda: [one.assignment_id for one in judged()] == [first])


# Better answers


def test_a_better_answer_starts_from_the_text_as_it_was_written(desk, compared, judged, until):
    compared("A **bold** claim.", "Another *claim*.")
    page = desk()
    page.keyboard.press("e")
    field = page.get_by_label("As it should have been")
    sides = Assignment.objects.get(pk=shown(page)).sides
    texts = ["A **bold** claim.", "Another *claim*."]
    expect(field).to_have_value(texts[sides[0]])
    page.get_by_role("radio", name="Answer B").check()
    expect(field).to_have_value(texts[sides[1]])
    field.fill("A **careful** claim.")
    page.keyboard.press("Control+Enter")
    expect(page.locator("[data-do=better]")).to_have_attribute("aria-pressed", "true")
    page.reload()
    expect(page.locator("[data-do=better]")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("4")
    until(lambda: len(judged()) == 1)
    edit = Edit.objects.get()
    assert (edit.completion.text, edit.original.text) == ("A **careful** claim.", texts[sides[1]])
    assert Preference.objects.get(chosen=edit.completion).rejected == edit.original


def test_a_server_that_fails_is_told_from_a_connection_that_is_cut(desk, pairs, judged, until):
    pairs(3)
    page = desk()
    page.keyboard.press("1")
    until(lambda: len(judged()) == 1)
    wait_for_receipts(page)
    page.reload()
    for address, key in (("texts", "e"), ("undo", "z")):
        page.route(f"**/label/{address}/", lambda route: route.fulfill(status=500, body="Oh no"))
        page.keyboard.press(key)
        expect(status(page)).to_have_text("The server failed. Try once more.")
        page.unroute(f"**/label/{address}/")
        page.route(f"**/label/{address}/", lambda route: route.abort())
        page.keyboard.press(key)
        expect(status(page)).to_contain_text("No connection")
        page.unroute(f"**/label/{address}/")


def test_a_better_answer_may_be_dropped_and_unchanged_text_is_none(desk, pairs, judged, until):
    pairs(2)
    page = desk()
    better = page.locator("[data-do=better]")
    field = page.get_by_label("As it should have been")
    page.keyboard.press("e")
    expect(field).to_be_visible()
    page.get_by_role("button", name="Keep", exact=True).click()
    expect(better).to_have_attribute("aria-pressed", "false")
    page.keyboard.press("e")
    field.fill("Something else.")
    page.get_by_role("button", name="Keep", exact=True).click()
    expect(better).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("e")
    expect(field).to_have_value("Something else.")
    page.get_by_role("button", name="Drop it").click()
    expect(better).to_have_attribute("aria-pressed", "false")
    press(page, "4")
    until(lambda: len(judged()) == 1)
    assert not Edit.objects.exists()


def test_a_long_better_answer_arrives_whole(desk, pairs, judged, until):
    pairs(2)
    page = desk()
    page.keyboard.press("e")
    page.get_by_label("As it should have been").fill("ж" * 90_000)
    page.keyboard.press("Control+Enter")
    press(page, "1")
    until(lambda: len(judged()) == 1)
    assert Edit.objects.get().completion.text == "ж" * 90_000


# Differences and scrolling


def test_differences_are_marked_on_demand_and_go_with_the_comparison(desk, compared, faults):
    compared("The cat sat on the mat.", "The dog sat on the mat.")
    compared("Quite the same words here.", "Quite the same words there.", prompt="And now?")
    page = desk()
    marked = "() => [...(CSS.highlights.get('differs') ?? [])].map(String).sort()"
    page.keyboard.press("d")
    expect(page.get_by_role("button", name="Differences")).to_have_attribute("aria-pressed", "true")
    assert page.evaluate(marked) in (["cat", "dog"], ["here", "there"])
    page.keyboard.press("d")
    assert page.evaluate(marked) == []
    page.keyboard.press("d")
    press(page, "4")
    assert page.evaluate(marked) == []
    assert faults == []


def test_on_a_phone_the_differences_are_a_tap_away(desk, compared, faults):
    compared("The cat sat on the mat.", "The dog sat on the mat.")
    page = desk(**PHONE)
    button = page.get_by_role("button", name="Differences")
    box = button.bounding_box()
    assert box["height"] >= 44 and box["width"] >= 44
    button.tap()
    expect(button).to_have_attribute("aria-pressed", "true")
    assert page.evaluate("() => CSS.highlights.get('differs').size") == 2
    button.tap()
    expect(button).to_have_attribute("aria-pressed", "false")
    assert faults == []


def test_of_three_answers_a_phone_offers_no_differences(desk, pairs):
    pairs(1, candidates=("good", "bad", "worse"))
    page = desk(**PHONE)
    expect(page.locator(".tabs [data-show]").nth(2)).to_be_visible()
    expect(page.get_by_role("button", name="Differences")).to_be_hidden()


def test_where_the_pointer_is_coarse_the_list_of_keys_still_has_them(desk, pairs):
    pairs(1)
    page = desk(**PHONE)
    assert page.evaluate("matchMedia('(hover: none) and (pointer: coarse)').matches")
    page.keyboard.press("?")
    expect(page.locator("#keys dt kbd").first).to_be_visible()
    expect(page.locator(".verdict kbd").first).to_be_hidden()


def test_the_differences_are_those_of_a_longest_common_subsequence(desk, pairs):
    pairs(1)
    page = desk()
    dice = random.Random(5)
    cases = [[dice.choices("abc", k=dice.randrange(12)) for _ in range(2)] for _ in range(300)]
    found = page.evaluate(
        "async (cases) => { const { different } = await import('/static/js/diff.js');"
        " return cases.map(([a, b]) => different(a, b)); }",
        cases,
    )
    for (a, b), (only_a, only_b) in zip(cases, found, strict=True):
        kept = [
            [word for place, word in enumerate(side) if place not in only]
            for side, only in ((a, only_a), (b, only_b))
        ]
        assert kept[0] == kept[1]
        assert len(kept[0]) == longest_common(a, b)


def longest_common(a, b):
    row = [0] * (len(b) + 1)
    for one in a:
        before = row
        row = [0]
        for place, other in enumerate(b):
            row.append(before[place] + 1 if one == other else max(before[place + 1], row[place]))
    return row[-1]


def test_long_answers_scroll_apart_when_asked_and_stay_so(desk, compared):
    compared("word " * 4000, "other " * 4000)
    page = desk()
    page_height = "document.documentElement.scrollHeight"
    together = page.evaluate(page_height)
    page.keyboard.press("l")
    assert page.evaluate(page_height) < together / 3
    page.reload()
    assert page.evaluate(page_height) < together / 3
    page.keyboard.press("l")
    assert page.evaluate(page_height) == together


# The manager's page


def test_the_settings_show_what_annotators_will_see_and_keep_it(sign_in, project, alice, faults):
    page = sign_in(alice, reverse("labeling:settings", args=[project.slug]))
    preview = page.locator("#preview")
    expect(preview.get_by_text("A much better")).to_be_visible()
    page.get_by_label("Criteria").fill("helpfulness\n\nhonesty\nhonesty")
    expect(preview.locator(".answer").first.locator(".rating")).to_have_count(2)
    page.get_by_label("How much better").uncheck()
    page.get_by_label("Both good").check()
    expect(preview.get_by_text("A is better")).to_be_visible()
    expect(preview.get_by_text("Both good")).to_be_visible()
    page.get_by_label("Reasons to pick from").fill("<script>alert(1)</script>\nkinder")
    expect(preview.get_by_text("<script>alert(1)</script>")).to_be_visible()
    page.get_by_label("A comment is needed").check()
    expect(
        preview.get_by_text("A comment is needed with every answer; reasons may be picked")
    ).to_be_visible()
    page.get_by_label("What annotators should look for").fill("Be *kind*.")
    expect(preview.locator("em")).to_have_text("kind")
    page.get_by_label("Answers side by side").fill("4")
    expect(preview.locator(".answer")).to_have_count(4)
    expect(preview.get_by_text("Send this order")).to_be_visible()
    page.get_by_label("Answers side by side").fill("9")
    expect(page.locator("[data-waits]")).to_contain_text("Answers side by side")
    page.get_by_label("Answers side by side").fill("4")
    assert Project.objects.get(pk=project.pk).criteria == []  # nothing is saved by looking

    page.get_by_label("Criteria").fill("x" * 41)
    expect(page.locator("[data-waits]")).to_contain_text("41 characters")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("41 characters; at most 40 fit").first).to_be_visible()
    assert page.get_by_label("Criteria").input_value() == "x" * 41
    page.get_by_label("Criteria").fill("helpfulness")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Saved. Annotators see it")).to_be_visible()
    saved = Project.objects.get(pk=project.pk)
    assert (saved.criteria, saved.strengths, saved.all_good) == (["helpfulness"], False, True)
    assert (saved.answers_per_comparison, saved.comment_required) == (4, True)
    assert saved.reason_tags == ["<script>alert(1)</script>", "kinder"]
    assert GuidelinesVersion.objects.get().text == saved.guidelines == "Be *kind*."
    assert faults == []


# Fingers


def swipe(page, row, by):
    """A finger on a row of answers, moved sideways by so many pixels."""
    box = row.bounding_box()
    y, start = box["y"] + box["height"] / 2, box["x"] + box["width"] / 2 - by / 2
    finger = page.context.new_cdp_session(page)
    for step in range(9):
        kind = "touchMove" if step else "touchStart"
        finger.send(
            "Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": start + by * step / 8, "y": y}]}
        )
        page.wait_for_timeout(16)
    finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def test_a_finger_swipes_between_the_answers(desk, pairs, judged):
    pairs(2)
    page = desk(**PHONE)
    first, second = page.locator("#stage .answer").all()
    row = page.locator("#stage .answers")
    before = shown(page)
    swipe(page, row, by=-240)
    expect(second).to_be_in_viewport(ratio=0.9)
    expect(first).not_to_be_in_viewport()
    expect(page.locator("#stage .tabs button").nth(1)).to_have_attribute("aria-current", "true")
    swipe(page, row, by=240)
    expect(first).to_be_in_viewport(ratio=0.9)
    expect(page.locator("#stage .tabs button").nth(0)).to_have_attribute("aria-current", "true")
    assert shown(page) == before and judged() == []


@pytest.mark.parametrize("held", [PHONE, TABLET], ids=["phone", "tablet"])
def test_what_is_tapped_is_44_pixels_large(desk, pairs, asks, held):
    asks(criteria=["honesty"], reason_tags=["kinder"], all_good=True)
    pairs(1)
    page = desk(**held)
    small = """() => [...document.querySelectorAll('button, nav a, .rating label, .tags label')]
        .map((element) => [element, element.getBoundingClientRect()])
        .filter(([, box]) => box.width && (box.width < 44 || box.height < 44))
        .map(([element, box]) => `${element.textContent.trim()}: ${box.width} x ${box.height}`)"""
    assert page.evaluate(small) == []
    for act in ("why", "better", "skip", "flag"):
        page.locator(f".extras [data-do={act}]").tap()
        page.locator("dialog[open]").wait_for()
        assert page.evaluate(small) == [], act
        page.keyboard.press("Escape")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
