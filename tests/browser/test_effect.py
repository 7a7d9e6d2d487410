"""What my answers did, in a real browser: opened from one's own answers, and leading back to the desk."""

import pytest
from django.urls import reverse
from playwright.sync_api import expect

from tests.browser.test_desk import shown
from tests.training.rounds import answer_again, ask, loop_of, say, trained

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def learned(project, bob):
    """A round that learned from Bob's answers, disagrees with the newest of them, and answers its prompt at length."""
    loop_of(project)
    ask(project, ["eval"] * 3 + ["train"] * 6)
    given = say(bob, project, "kind")
    newest = given[-1].comparison.prompt_id
    round = trained(project, lambda one: ("kind" in one.text) != (one.prompt_id == newest))
    answer_again(round, "It is on its way. " * 400)
    return given


def test_by_keyboard_alone_a_person_finds_where_it_disagrees_and_looks_again(sign_in, project, bob, learned):
    page = sign_in(bob, reverse("labeling:mine", args=[project.slug]))
    page.get_by_role("link", name="What my answers did").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Round 1 learned from 6 of your answers")).to_be_visible()
    expect(page.locator(".agreement").first).to_contain_text("100% of 3 answers")
    expect(page.locator(".agreement").last).to_contain_text("83% of 6 answers")
    page.get_by_role("link", name="Look again").focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/label/**")
    assert shown(page) == learned[-1].assignment_id
    expect(page.get_by_role("status")).to_contain_text("You answered this before")


def test_a_long_fresh_answer_scrolls_by_keyboard_in_its_own_place(sign_in, project, bob, learned):
    page = sign_in(bob, reverse("training:effect", args=[project.slug]))
    fresh = page.get_by_role("group", name="The policy's answer now").first
    assert fresh.evaluate("box => box.scrollHeight > box.clientHeight")
    fresh.focus()
    page.keyboard.press("PageDown")
    page.wait_for_function("box => box.scrollTop > 0", arg=fresh.element_handle())


def test_on_a_phone_nothing_is_wider_than_the_page(sign_in, project, bob, learned):
    trained(project)
    page = sign_in(
        bob,
        reverse("training:effect", args=[project.slug]),
        viewport={"width": 360, "height": 740},
        has_touch=True,
        is_mobile=True,
    )
    expect(page.get_by_role("heading", name="Other rounds")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
