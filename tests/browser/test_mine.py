"""An annotator's own answers, in a real browser: found again, changed, and kept until the change has arrived."""

import uuid

import pytest
from django.urls import reverse
from playwright.sync_api import expect

from labeling.judging import revise
from labeling.models import Judgment, Project
from tests.browser.conftest import wait_for_receipts
from tests.browser.test_desk import press, shown

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def answered(desk, pairs, judged, until):
    """Bob's desk after three answers, the second with a reason."""
    pairs(4)
    page = desk()
    press(page, "1")
    page.keyboard.press("c")
    page.keyboard.type("It is kinder.")
    page.keyboard.press("Control+Enter")
    press(page, "6")
    press(page, "4")
    until(lambda: len(judged()) == 3)
    return page


def open_again(page, words):
    page.locator("nav .pace").click()
    page.get_by_label("Find in prompts").fill(words)
    page.get_by_role("button", name="Find").click()
    page.get_by_role("link", name="Look again").click()
    page.wait_for_url("**/label/")  # the script has taken the question out of the address: its keys are there


def test_an_earlier_answer_is_found_and_changed(answered, project, judged, until):
    page = answered
    second = judged()[1]
    open_again(page, "KINDER")
    assert shown(page) == second.assignment_id
    expect(page.get_by_role("status")).to_contain_text("You answered this before")
    expect(page.get_by_role("button", name="Say why")).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("button", name="Skip")).to_be_disabled()
    assert len(judged()) == 3  # it stands while it is looked at
    press(page, "1")
    until(lambda: judged()[-1].revision == 2)
    revision = judged()[-1]
    assert (revision.assignment_id, revision.strength, revision.reason) == (
        second.assignment_id,
        3,
        "It is kinder.",
    )
    assert len(judged()) == 3
    page.goto(reverse("labeling:mine", args=[project.slug]))
    first_row = page.locator("tbody tr").first
    expect(first_row).to_contain_text("A much better (changed)")
    expect(page.get_by_role("heading", name="3 answers of yours")).to_be_visible()
    page.set_viewport_size({"width": 360, "height": 740})
    table = page.get_by_role("table")
    assert table.evaluate("it => it.parentElement.scrollWidth <= it.parentElement.clientWidth")
    expect(table.get_by_role("row").nth(1).get_by_role("cell").first).to_have_text("A much better (changed)")


def test_a_change_taken_back_takes_the_answer_back(answered, judged, until):
    page = answered
    second = judged()[1]
    open_again(page, "kinder")
    press(page, "7")
    until(lambda: judged()[-1].revision == 2)
    page.keyboard.press("z")
    until(lambda: len(judged()) == 2)
    expect(page.locator(f"#stage article[data-assignment='{second.assignment_id}']")).to_be_visible()
    press(page, "4")  # an answer like any other now
    until(lambda: [one.verdict for one in judged() if one.assignment_id == second.assignment_id] == ["tie"])
    assert Judgment.objects.filter(assignment=second.assignment_id).count() == 3


def test_the_newest_answer_looked_at_again_and_taken_back_is_asked_once(answered, judged, until):
    page = answered
    newest = judged()[-1]
    page.locator("nav .pace").click()
    page.get_by_role("link", name="Look again").first.click()
    assert shown(page) == newest.assignment_id
    page.wait_for_load_state("networkidle")
    page.keyboard.press("z")
    until(lambda: len(judged()) == 2)
    expect(page.get_by_role("status")).to_have_text("Taken back")
    press(page, "7")
    until(lambda: len(judged()) == 3)
    page.reload()  # the address no longer asks for the old answer
    assert shown(page) != newest.assignment_id
    assert {one.assignment_id for one in judged()} >= {newest.assignment_id}


def test_what_was_begun_to_change_in_an_answer_gives_way_to_the_one_that_stands(answered, judged):
    page = answered
    second = judged()[1]
    why = page.get_by_label("In a sentence, sent with your answer")
    open_again(page, "kinder")
    page.reload()
    wait_for_receipts(page)  # who merely looks leaves nothing behind
    open_again(page, "kinder")
    page.keyboard.press("c")
    expect(why).to_have_value("It is kinder.")
    why.fill("")
    page.keyboard.press("Control+Enter")
    open_again(page, "kinder")
    page.keyboard.press("c")
    expect(why).to_have_value("")  # begun, and of the answer that stands
    revise(second, "tie", uuid.uuid4(), reason="Both are kinder.")  # on the phone, say
    page.keyboard.press("Control+Enter")
    open_again(page, "Question 1")
    page.keyboard.press("c")
    expect(why).to_have_value("Both are kinder.")


def test_nobody_skips_what_was_answered(answered, judged):
    page = answered
    open_again(page, "kinder")
    page.keyboard.press("s")
    page.keyboard.press("f")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_a_change_without_a_connection_waits_like_every_answer(answered, judged, until):
    page = answered
    second = judged()[1]
    open_again(page, "kinder")
    page.wait_for_load_state("networkidle")
    page.context.set_offline(True)
    page.keyboard.press("7")
    expect(page.get_by_role("status")).to_contain_text("1 answer is kept in this browser")
    assert {one.pk for one in judged()} >= {second.pk}
    page.context.set_offline(False)
    until(lambda: judged()[-1].revision == 2)


def test_words_that_are_markup_are_words(answered, project):
    page = answered
    page.goto(reverse("labeling:mine", args=[project.slug]) + "?q=%3Cscript%3Ealert(1)%3C/script%3E")
    expect(page.get_by_role("heading", name="No answer of yours holds these words")).to_be_visible()
    assert page.get_by_label("Find in prompts").input_value() == "<script>alert(1)</script>"
    assert Project.objects.count() == 1
