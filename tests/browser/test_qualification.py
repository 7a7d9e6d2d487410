"""The qualification round in a real browser: by keys alone, on a phone, and looked at by axe."""

import pytest
from django.conf import settings
from django.urls import reverse
from playwright.sync_api import expect

from labeling.models import QualificationAnswer, QualificationAttempt
from labeling.qualification import add_questions, build_question
from tests.browser.conftest import PASSWORD, wait_for_frame
from tests.browser.test_axe import LOOKS, faults_of
from tests.browser.test_languages import CUT_OFF, speak
from tests.browser.test_outages import hold_session

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
WHY = "One answer **names a step** that settles the matter."
# The verdicts that are less than 44 px large, and how much room the page leaves beyond what its bar covers.
LAYOUT = """() => [
    [...document.querySelectorAll('.verdict')].filter((one) => Math.min(one.offsetWidth, one.offsetHeight) < 44).map((one) => one.textContent),
    parseFloat(getComputedStyle(document.querySelector('.desk')).paddingBottom) - document.querySelector('.bar').offsetHeight,
]"""


@pytest.fixture
def round_of_two(project, pairs):
    """A pair of which the first answer is right and three of which the second is, before comparisons that wait."""
    pairs(2)
    project.qualification = True
    project.save()
    broken = build_question(
        project, "My kettle arrived broken.", ["We send a new one.", "Kettles are old."], ["a"], WHY
    )
    largest = build_question(project, "Which is the largest?", ["7", "9", "8"], ["b"], "9 is more than 8.")
    add_questions(project, [broken, largest])
    return reverse("labeling:qualification", args=[project.slug])


def side_of(page, text):
    """The place on screen of the answer with these words."""
    shown = page.locator("#stage .answer .prose").all_inner_texts()
    return next(place for place, words in enumerate(shown) if text in words)


def press(page, key):
    """Press a key once the page has its scripts."""
    page.wait_for_load_state("networkidle")
    page.keyboard.press(key)


def test_the_round_is_passed_by_keys_alone(sign_in, bob, round_of_two, faults):
    page = sign_in(bob, round_of_two)
    page.clock.install()
    page.get_by_role("button", name="Begin").focus()
    press(page, "Enter")
    expect(page.get_by_text("Question 1 of 2")).to_be_visible()
    page.wait_for_load_state()  # its keys and taps are the script's
    right = "17"[side_of(page, "new one")]
    page.route("**/answer/", lambda route: route.abort("aborted"), times=1)
    press(page, right)
    expect(page.get_by_role("status").last).to_contain_text("1 answer is kept in this browser")
    page.clock.run_for(6_000)  # it is sent again by itself
    expect(page.get_by_role("heading", name="Right")).to_be_focused()
    expect(page.get_by_text("names a step")).to_be_visible()
    press(page, "Enter")
    expect(page.get_by_text("Question 2 of 2")).to_be_visible()
    page.wait_for_load_state()  # its keys and taps are the script's
    press(page, "123"[side_of(page, "9")])
    expect(page.get_by_role("heading", name="Right")).to_be_visible()
    press(page, "Enter")
    expect(page.get_by_role("heading", name="2 of 2 answers were right: you have passed")).to_be_visible()
    page.get_by_role("link", name="Compare answers").focus()
    press(page, "Enter")
    expect(page.locator("#stage article")).to_be_visible()
    assert [given.strength for given in QualificationAnswer.objects.order_by("place")] == [3, None]
    assert all(0 <= given.seconds_spent < 120 for given in QualificationAnswer.objects.all())
    assert QualificationAttempt.objects.get().passed is True
    assert faults == []


def test_a_wrong_answer_on_a_phone_is_explained(sign_in, bob, round_of_two, faults):
    page = sign_in(bob, round_of_two, **LOOKS["phone"])
    page.get_by_role("button", name="Begin").tap()
    expect(page.get_by_text("Question 1 of 2")).to_be_visible()
    page.wait_for_load_state()  # its keys and taps are the script's
    wrong = 1 - side_of(page, "new one")
    page.get_by_role("button", name=f"Answer {'AB'[wrong]}").tap()
    expect(page.locator("#stage .answer").nth(wrong)).to_be_in_viewport()
    page.locator(f".verdict[data-side='{wrong}'][data-strength='1']").tap()
    expect(page.get_by_role("heading", name="Not this time")).to_be_visible()
    expect(page.get_by_text(f"Right is: {'AB'[1 - wrong]} is better.")).to_be_visible()
    expect(page.get_by_text("names a step")).to_be_in_viewport()
    page.go_back()
    expect(page.get_by_role("heading", name="Which answer is best?")).to_be_attached()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert QualificationAnswer.objects.get(place=0).right is False
    assert faults == []


def test_a_desk_that_is_open_leads_to_a_round_that_was_switched_on_since(
    sign_in, bob, project, pairs, round_of_two, judged, until
):
    project.qualification = False
    project.save()
    page = sign_in(bob, reverse("labeling:label", args=[project.slug]))
    press(page, "4")
    until(lambda: len(judged()) == 1)
    project.qualification = True
    project.save()
    press(page, "4")
    page.wait_for_url(f"**{round_of_two}")
    expect(page.get_by_role("button", name="Begin")).to_be_visible()
    until(lambda: len(judged()) == 2)


def test_a_round_that_was_switched_on_waits_until_what_was_answered_has_arrived(
    sign_in, bob, project, pairs, round_of_two, judged
):
    project.qualification = False
    project.save()
    desk = reverse("labeling:label", args=[project.slug])
    page = sign_in(bob, desk)
    page.wait_for_load_state("networkidle")
    project.qualification = True
    project.save()
    page.route(
        "**/label/answer/", lambda route: route.fulfill(status=500, body="<h1>Server Error (500)</h1>")
    )
    reloads = []
    page.on("request", lambda request: reloads.append(request) if request.is_navigation_request() else None)
    page.keyboard.press("4")
    with page.expect_response(lambda response: response.status == 409):
        page.keyboard.press("4")
    expect(page.get_by_role("heading", name="The next comparison is on its way")).to_be_visible()
    page.wait_for_timeout(300)  # as long as it takes to load the desk again
    assert reloads == []
    page.unroute("**/label/answer/")
    page.wait_for_url(f"**{round_of_two}")
    assert len(judged()) == 2


def test_an_answer_outlives_a_cut_network_and_a_login_that_ends(sign_in, bob, round_of_two):
    page = sign_in(bob, round_of_two)
    page.clock.install()
    page.get_by_role("button", name="Begin").click()
    expect(page.get_by_text("Question 1 of 2")).to_be_visible()
    page.wait_for_load_state()  # its keys and taps are the script's
    page.context.set_offline(True)
    press(page, "4")
    line = page.locator(".bar .status")
    expect(line).to_contain_text("No connection. 1 answer is kept")
    page.context.clear_cookies(name=settings.SESSION_COOKIE_NAME)
    page.context.set_offline(False)
    expect(line).to_contain_text("You are signed out; 1 answer is kept")
    hold_session(page.context, bob, page.url)
    page.clock.run_for(6_000)  # it is sent again by itself
    expect(page.get_by_role("heading", name="Not this time")).to_be_visible()
    assert QualificationAnswer.objects.get(said="tie").place == 0
    press(page, "Enter")
    expect(page.get_by_text("Question 2 of 2")).to_be_visible()
    page.wait_for_load_state()  # its keys and taps are the script's
    page.context.clear_cookies(name=settings.SESSION_COOKIE_NAME)
    press(page, "0")
    line.get_by_role("link", name="Sign in again").click()
    page.get_by_label("Name or e-mail address").fill(bob.username)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Not this time")).to_be_visible()
    assert QualificationAnswer.objects.get(said="all_bad").place == 1


@pytest.mark.parametrize("answers", [3, 8])
def test_what_can_be_said_of_many_answers_fits_in_every_language(sign_in, bob, project, answers):
    project.qualification = project.all_good = True
    project.save()
    texts = [f"Number {number}" for number in range(answers)]
    add_questions(project, [build_question(project, "Which one?", texts, ["a"], WHY)])
    page = sign_in(bob, reverse("labeling:qualification", args=[project.slug]), **LOOKS["phone"])
    page.get_by_role("button", name="Begin").tap()
    expect(page.locator(".verdict")).to_have_count(answers + 3)
    for code, _ in settings.LANGUAGES:
        speak(bob, code)
        for width, height in ((360, 740), (800, 850), (1280, 850)):
            page.set_viewport_size({"width": width, "height": height})
            page.reload()
            expect(page.locator("html")).to_have_attribute("lang", code)
            wait_for_frame(page)
            small, room = page.evaluate(LAYOUT)
            assert (small, page.evaluate(CUT_OFF)) == ([], []), (code, width)
            assert room >= 0, (code, width)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (code, width)
    page.set_viewport_size({"width": 320, "height": 256})  # a page enlarged four times
    expect(page.locator(".bar")).not_to_be_in_viewport()


@pytest.mark.parametrize("look", LOOKS)
def test_axe_finds_nothing_on_its_pages(sign_in, alice, bob, project, round_of_two, look):
    found = {}
    page = sign_in(bob, round_of_two, **LOOKS[look])
    found["begin"] = faults_of(page)
    page.get_by_role("button", name="Begin").click()
    expect(page.get_by_text("Question 1 of 2")).to_be_visible()
    page.wait_for_load_state()  # its keys and taps are the script's
    found["pair"] = faults_of(page)
    page.locator(f".verdict[data-side='{1 - side_of(page, 'new one')}']").first.click()
    expect(page.get_by_role("heading", name="Not this time")).to_be_visible()
    found["wrong"] = faults_of(page)
    page.locator("[data-next]").click()
    expect(page.get_by_text("Question 2 of 2")).to_be_visible()
    page.wait_for_load_state()  # its keys and taps are the script's
    found["three"] = faults_of(page)
    page.locator(f".verdict[data-side='{side_of(page, '9')}']").click()
    expect(page.get_by_role("heading", name="Right")).to_be_visible()
    found["right"] = faults_of(page)
    page.locator("[data-next]").click()
    expect(page.get_by_role("heading", name="1 of 2 answers were right")).to_be_visible()
    found["end"] = faults_of(page)
    manager = sign_in(alice, **LOOKS[look])
    question = project.questions.standing().first()
    for name, more in [("questions", []), ("question-new", []), ("question", [question.pk]), ("people", [])]:
        manager.goto(reverse(f"labeling:{name}", args=[project.slug, *more]))
        found[name] = faults_of(manager)
    assert found == {name: [] for name in found}
