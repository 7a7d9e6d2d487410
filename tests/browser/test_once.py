"""A form that is sent is sent once, however often it is clicked."""

import pytest
from django.urls import reverse
from playwright.sync_api import expect

from labeling.models import DatasetVersion
from tests.training.rounds import ask, say

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def held():
    """What was sent, for which no page comes back."""
    return []


@pytest.fixture
def editor(sign_in, alice, project, held):
    """The page on which guidelines are written, and which stays where it is."""
    page = sign_in(alice)
    page.goto(reverse("labeling:guidelines", args=[project.slug]) + "?edit")

    def hold(route):
        held.append(route.request.post_data)
        route.fulfill(status=204)

    page.route("**/guidelines/", hold)
    return page


def save(page):
    page.get_by_role("button", name="Save").click()


def test_a_double_click_freezes_one_version(sign_in, alice, bob, project):
    ask(project, ["train"])
    say(bob, project, "kind")
    page = sign_in(alice, reverse("labeling:data", args=[project.slug]))
    asked = []
    page.on("request", lambda request: asked.append(request.url) if request.method == "POST" else None)
    page.get_by_role("button", name="Freeze what is there now").dblclick()
    expect(page.get_by_text("Dataset version 1 is frozen")).to_be_visible()
    assert len(asked) == DatasetVersion.objects.count() == 1


def test_the_same_is_asked_once_and_what_was_mended_meanwhile_again(editor, held, until):
    text = editor.get_by_role("textbox").first
    text.fill("Be kind")
    save(editor)
    until(lambda: len(held) == 1)
    save(editor)
    text.fill("Be kind.")
    save(editor)
    until(lambda: len(held) == 2)
    assert ["kind." in sent for sent in held] == [False, True]


def test_a_page_that_renews_itself_asks_once_too(editor, held, until):
    save(editor)
    until(lambda: len(held) == 1)
    editor.evaluate(
        "() => { const form = document.querySelector('form.card'); form.replaceWith(form.cloneNode(true)); }"
    )
    save(editor)
    editor.get_by_role("textbox").first.fill("Be kind")
    save(editor)
    until(lambda: len(held) == 2)
    assert "kind" in held[1]


def test_a_page_that_comes_back_can_ask_again(editor, held, until):
    save(editor)
    until(lambda: len(held) == 1)
    editor.evaluate("() => dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")
    save(editor)
    until(lambda: len(held) == 2)
