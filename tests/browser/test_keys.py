"""A person's own keys, in a real browser: set on a page, written on the buttons, and pressed."""

import pytest
from django.urls import reverse
from playwright.sync_api import expect

from labeling.models import Assignment, Project, User
from tests.browser.test_desk import press, shown

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def own_keys(bob):
    """Give Bob keys of his own, as the page would keep them."""

    def give(**keys):
        User.objects.filter(pk=bob.pk).update(own_keys=keys)

    return give


def strike(page, key, code, **held):
    """A key of another layout: what it types, where it lies, and what is held down with it."""
    page.evaluate(
        "struck => document.body.dispatchEvent(new KeyboardEvent('keydown', {...struck, bubbles: true}))",
        {"key": key, "code": code} | held,
    )


def test_keys_are_changed_from_the_desk_and_hold_in_another_browser(
    desk, sign_in, bob, project, pairs, judged, until, faults
):
    pairs(4)
    page = desk()
    page.keyboard.press("?")
    page.get_by_role("link", name="Change the keys").click()
    page.get_by_label("A is much better").click()
    page.keyboard.type("j")  # what was there is selected
    page.get_by_label("A is slightly better").fill("k")
    page.get_by_label("Skip", exact=True).fill("4")
    page.get_by_role("button", name="Save these keys").click()
    expect(page.get_by_text("The same key is set for: Tie, Answer D.")).to_be_visible()
    expect(page.get_by_label("A is much better")).to_have_value("j")
    page.get_by_label("Skip", exact=True).fill("x")
    page.get_by_role("button", name="Save these keys").click()
    expect(page.get_by_text("Saved. Your desk has these keys")).to_be_visible()
    assert User.objects.get(pk=bob.pk).own_keys == {"a3": "j", "a1": "k", "skip": "x"}

    page = sign_in(bob, reverse("labeling:label", args=[project.slug]))
    written = page.locator(".verdicts:not([hidden]) .verdict kbd").all_inner_texts()
    assert written == list("J2K45670")
    before = shown(page)
    page.keyboard.press("1")  # nobody's key now
    page.keyboard.press("s")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert shown(page) == before
    press(page, "j")
    press(page, "k")
    until(lambda: [one.strength for one in judged()] == [3, 1])
    page.keyboard.press("x")
    expect(page.get_by_role("dialog", name="Why skip this one?")).to_be_visible()
    page.keyboard.press("Escape")

    page.keyboard.press("?")
    page.get_by_role("link", name="Change the keys").click()
    page.get_by_role("button", name="Reset to the usual keys").click()
    page.get_by_role("link", name="Back to the desk").click()
    page.wait_for_load_state()
    press(page, "1")
    until(lambda: [one.strength for one in judged()] == [3, 1, 3])
    assert faults == []


def test_a_ranking_has_its_own_keys_too(desk, pairs, judged, own_keys, until):
    own_keys(rank1="h", rank2="j", rank3="k", tied="1", undo="2")
    pairs(2, candidates=("one", "two", "three"))
    page = desk()
    assert page.locator("#stage .pick kbd").all_inner_texts() == list("HJK")
    page.keyboard.type("k1h")  # the third and, tied with it, the first
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    until(lambda: len(judged()) == 1)
    sides = judged()[0].assignment.sides
    assert judged()[0].ranking == [sorted([sides[2], sides[0]]), [sides[1]]]
    page.keyboard.press("2")
    until(lambda: judged() == [])


def test_other_layouts_keep_their_places_and_may_be_typed(desk, pairs, judged, own_keys, until):
    own_keys(skip="é", undo="ъ", a3=";")
    pairs(4)
    page = desk()
    strike(page, "é", "Digit2")  # typed comes before where it lies
    expect(page.get_by_role("dialog", name="Why skip this one?")).to_be_visible()
    page.keyboard.press("Escape")
    strike(page, '"', "Digit3")  # French: the key of 3
    until(lambda: [one.strength for one in judged()] == [1])
    strike(page, "ъ", "BracketRight")
    until(lambda: judged() == [])
    strike(page, "с", "KeyC")  # Russian: the key of C
    expect(page.get_by_role("dialog", name="Why this answer?")).to_be_visible()
    page.keyboard.press("Escape")
    strike(page, ";", "Semicolon")
    until(lambda: [one.strength for one in judged()] == [3])


ALTGR = {"ctrlKey": True, "altKey": True, "modifierAltGraph": True}  # as Windows has it


def test_signs_that_need_another_key_may_be_ones_own(desk, pairs, judged, own_keys, until):
    own_keys(a3="@", b3="{")
    pairs(3)
    page = desk()
    strike(page, "€", "KeyE", **ALTGR)  # nobody's, and no E
    strike(page, "@", "KeyQ", ctrlKey=True)
    strike(page, "s", "KeyS", altKey=True)
    expect(page.get_by_role("dialog")).to_have_count(0)
    strike(page, "@", "KeyQ", **ALTGR)
    until(lambda: [one.strength for one in judged()] == [3])
    strike(page, "{", "Digit8", altKey=True)  # on a Mac
    until(lambda: [one.strength for one in judged()] == [3, 3])


@pytest.mark.parametrize("mark", ["?", "؟", "？"])
def test_every_question_mark_lists_the_keys(desk, pairs, mark):
    pairs(1)
    page = desk()
    strike(page, mark, "Slash")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()


def test_a_question_mark_may_be_a_key_of_ones_own(desk, pairs, own_keys):
    own_keys(skip="؟")
    pairs(1)
    page = desk()
    strike(page, "؟", "Slash")
    expect(page.get_by_role("dialog", name="Why skip this one?")).to_be_visible()


def test_digits_rate_whatever_they_do_elsewhere(desk, pairs, judged, own_keys, until, project):
    Project.objects.filter(pk=project.pk).update(criteria=["honesty"])
    own_keys(rate="1", a3="r", skip="5", b1="s")
    pairs(2)
    page = desk()
    page.keyboard.press("1")
    page.keyboard.type("45")
    press(page, "r")
    until(lambda: len(judged()) == 1)
    (judgment,) = judged()
    assert [judgment.ratings["honesty"][position] for position in judgment.assignment.sides] == [4, 5]
    assert judgment.strength == 3
    assert not Assignment.objects.filter(outcome="skipped").exists()


def test_keys_that_spell_markup_are_shown_and_nothing_of_them_runs(
    desk, pairs, judged, own_keys, until, faults
):
    own_keys(a3="<", b3="&", why='"', skip="'", undo="`", tie="}")
    pairs(2)
    page = desk()
    assert page.locator(".verdicts:not([hidden]) .verdict kbd").all_inner_texts() == list("<23}56&0")
    press(page, "<")
    until(lambda: [one.strength for one in judged()] == [3])
    page.keyboard.press("?")
    expect(page.locator("dialog[open] kbd").first).to_have_text("<")
    assert faults == []
