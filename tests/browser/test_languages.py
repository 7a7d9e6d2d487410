"""Reading and answering in one's own language, in a real browser; Arabic from the right to the left."""

import uuid

import pytest
from django.conf import settings
from django.urls import reverse
from django.utils import translation
from django.utils.translation import gettext, ngettext
from playwright.sync_api import expect

from labeling.assignment import next_for
from labeling.judging import record
from labeling.words import desk_words
from tests.browser.test_axe import LOOKS, faults_of
from tests.browser.test_desk import press

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
PHONE = LOOKS["phone"]
CUT_OFF = """[...document.querySelectorAll('.verdict, .extras button, .topbar nav')]
    .filter((element) => element.scrollWidth > element.clientWidth).map((element) => element.textContent.trim())"""
OTHERS = [code for code, _ in settings.LANGUAGES if code != "en"]


def speak(person, code):
    person.language = code
    person.save(update_fields=["language"])


def say(code, sentence):
    with translation.override(code):
        return gettext(sentence)


@pytest.mark.parametrize("code", [code for code, _ in settings.LANGUAGES])
def test_a_person_chooses_a_language_and_answers_in_it_by_key(
    sign_in, bob, project, pairs, judged, until, code
):
    pairs(2)
    page = sign_in(bob, reverse("labeling:account"), locale="tlh")
    page.get_by_role("radio", name=dict(settings.LANGUAGES)[code]).check()
    page.get_by_role("button", name="Save").click()
    expect(page.locator("html")).to_have_attribute("lang", code)
    page.goto(reverse("labeling:label", args=[project.slug]))
    expect(page.get_by_role("heading", level=1)).to_have_text(say(code, "Compare answers"))
    press(page, "7")
    until(lambda: len(judged()) == 1)
    assert (judged()[0].verdict, judged()[0].strength) == ("preferred", 3)
    expect(page.get_by_role("status")).to_have_text(say(code, "Last answer saved"))


def test_a_count_known_in_the_browser_takes_the_form_that_its_language_has(sign_in, bob, project):
    counts = [*range(125), 1_000, 1_111, 999_999]
    sentence = "You are signed out; %(count)s answer is kept in this browser."
    many = "You are signed out; %(count)s answers are kept in this browser."
    page = sign_in(bob)
    for code, _ in settings.LANGUAGES:
        kinds = page.evaluate(
            "([code, counts]) => counts.map((count) => new Intl.PluralRules(code).select(count))",
            [code, counts],
        )
        with translation.override(code):
            forms = desk_words()["kept-signed-out"]
            wrong = [
                (count, kind)
                for count, kind in zip(counts, kinds, strict=True)
                if forms[kind] != ngettext(sentence, many, count)
            ]
        assert wrong == [], code


def test_what_waits_is_told_in_arabic_as_arabic_counts(desk, bob, pairs, judged, until):
    speak(bob, "ar")
    pairs(4)
    page = desk()
    page.context.set_offline(True)
    press(page, "4")
    expect(page.get_by_role("status")).to_contain_text("إجابة واحدة محفوظة")
    page.keyboard.press("4")
    expect(page.get_by_role("status")).to_contain_text("إجابتان محفوظتان")
    page.context.set_offline(False)
    until(lambda: len(judged()) == 2)


def test_in_arabic_the_first_answer_stands_on_the_right(desk, bob, pairs):
    speak(bob, "ar")
    pairs(1)
    page = desk(viewport={"width": 1280, "height": 850})
    a, b = (page.locator(f"#stage .answer.side-{side}").bounding_box() for side in "ab")
    assert a["x"] > b["x"] + b["width"]
    best, worst = (page.locator(f".verdict.{which}.s3").bounding_box() for which in "ab")
    assert best["x"] > worst["x"] + worst["width"]
    # An English answer starts on its own left.
    prose = page.locator("#stage .answer .prose").first
    assert prose.evaluate("e => getComputedStyle(e).direction") == "ltr"


def test_arrows_lead_where_they_point(desk, bob, pairs):
    pairs(1)
    for code, towards_b, back in (("en", "ArrowRight", "ArrowLeft"), ("ar", "ArrowLeft", "ArrowRight")):
        speak(bob, code)
        page = desk(**PHONE)
        shown = page.locator(".tabs [aria-current=true]")
        expect(shown).to_have_attribute("data-show", "0")
        page.keyboard.press(towards_b)
        expect(shown).to_have_attribute("data-show", "1")
        expect(page.locator("#stage .answer.side-b")).to_be_in_viewport(ratio=0.3)
        page.keyboard.press(back)
        expect(shown).to_have_attribute("data-show", "0")


@pytest.mark.parametrize("code", OTHERS)
def test_words_fit_on_a_phone_in_every_language(sign_in, open_browser, bob, project, pairs, code):
    speak(bob, code)
    pairs(2)
    desk = reverse("labeling:label", args=[project.slug])
    of_project = ["labeling:mine", "labeling:guidelines", "labeling:qualification", "training:effect"]
    of_account = ["labeling:home", "labeling:account", "labeling:keys", "labeling:tokens", "account_logout"]
    paths = [desk, "/nowhere/", *map(reverse, of_account)]
    paths += [reverse(name, args=[project.slug]) for name in of_project]
    page = sign_in(bob, **PHONE)
    for path in paths:
        page.goto(path)
        expect(page.locator("html")).to_have_attribute("lang", code)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path
    door = open_browser(**PHONE, locale=code).new_page()
    door.goto(reverse("account_login"))
    expect(door.locator("html")).to_have_attribute("lang", code)
    assert door.evaluate("document.documentElement.scrollWidth") <= 360
    for size in ({"width": 360, "height": 740}, {"width": 1280, "height": 850}):
        page.set_viewport_size(size)
        page.goto(desk)
        assert page.evaluate(CUT_OFF) == [], size


@pytest.mark.parametrize("look", LOOKS)
def test_axe_finds_nothing_on_arabic_pages(sign_in, open_browser, bob, alice, project, pairs, look):
    pairs(3)
    record(next_for(bob, project), "tie", uuid.uuid4(), reason="كلتاهما واضحة")
    door = open_browser(**LOOKS[look], locale="ar").new_page()
    door.goto(reverse("account_login"))
    expect(door.locator("html")).to_have_attribute("dir", "rtl")
    found = {"login": faults_of(door)}
    speak(bob, "ar")
    page = sign_in(bob, **LOOKS[look])
    for name in ("label", "mine", "guidelines"):
        page.goto(reverse(f"labeling:{name}", args=[project.slug]))
        found[name] = faults_of(page)
    page.goto(reverse("labeling:label", args=[project.slug]))
    for act in ("why", "better", "skip", "flag"):
        page.locator(f".extras [data-do={act}]").click()
        page.locator("dialog[open]").wait_for()
        found[act] = faults_of(page)
        page.keyboard.press("Escape")
    for name in ("home", "account", "tokens"):
        page.goto(reverse(f"labeling:{name}"))
        found[name] = faults_of(page)
    speak(alice, "ar")
    page = sign_in(alice, **LOOKS[look])
    page.goto(reverse("labeling:settings", args=[project.slug]))
    found["settings"] = faults_of(page)
    assert found == {name: [] for name in found}
