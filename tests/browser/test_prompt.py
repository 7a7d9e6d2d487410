"""What is judged is seen: the last turn of a chat before its answers, and what Markdown makes of tables and formulas."""

import pytest
from django.urls import reverse
from playwright.sync_api import expect

from labeling.models import Completion, Prompt
from labeling.qualification import add_questions, build_question
from labeling.selection import create_comparison
from tests.browser.conftest import wait_for_receipts
from tests.browser.test_desk import press

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

DESKTOP = {"viewport": {"width": 1280, "height": 850}}
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
SCREENS = pytest.mark.parametrize("screen", [DESKTOP, PHONE], ids=["desktop", "phone"])
SPEAKERS = ["user", "assistant"]
# How far the last turn's upper and lower edges lie within the card: negative where they are out of sight.
EDGES = """() => {
    const card = document.querySelector(".prompt").getBoundingClientRect();
    const turn = document.querySelector(".chat > :last-child").getBoundingClientRect();
    return [turn.top - card.top, card.bottom - turn.bottom];
}"""


def chat(last="And what is left of it?"):
    """Seven turns, the last of which is answered."""
    turns = [f"Turn {number}. " + "Words of an earlier turn, many of them. " * 6 for number in range(6)]
    return [{"role": SPEAKERS[n % 2], "content": text} for n, text in enumerate([*turns, last])]


@pytest.fixture
def asked(project):
    """Make one comparison of these answers to a prompt."""

    def make(prompt, *texts):
        prompt = Prompt.objects.add(project, prompt)
        completions = [Completion.objects.add(prompt, text, f"m{n}") for n, text in enumerate(texts)]
        return create_comparison(project, prompt, completions)

    return make


def expect_last_turn(page):
    expect(page.locator("#stage .chat > li").last).to_be_in_viewport(ratio=1)
    assert min(page.evaluate(EDGES)) >= 0


@SCREENS
def test_the_last_turn_of_a_chat_is_in_sight(desk, asked, screen):
    asked(chat("What is left of it?"), "Much.", "Little.")
    asked(chat("And then?"), "Nothing.", "All.")
    page = desk(**screen)
    expect_last_turn(page)
    press(page, "4")
    expect(page.locator("#stage .chat")).to_contain_text("And then?")
    expect_last_turn(page)
    page.keyboard.press("z")
    expect(page.locator("#stage .chat")).to_contain_text("What is left of it?")
    expect_last_turn(page)


@SCREENS
def test_a_last_turn_taller_than_its_card_is_seen_from_its_beginning(desk, asked, screen):
    asked(chat("\n\n".join(f"Line {number}" for number in range(60))), "Much.", "Little.")
    page = desk(**screen)
    expect(page.locator("#stage .chat")).to_contain_text("Line 59")
    above, below = page.evaluate(EDGES)
    assert 0 <= above < 40 and below < 0
    card = page.locator("#stage .prompt")
    before = card.evaluate("card => card.scrollTop")
    assert before > 0
    card.focus()
    page.keyboard.press("Home")
    page.wait_for_function("() => document.querySelector('.prompt').scrollTop === 0")


def test_the_last_turn_is_in_sight_in_the_round_and_in_an_earlier_answer(
    desk, sign_in, asked, project, bob, judged, until
):
    asked(chat(), "Much.", "Little.")
    page = desk(**DESKTOP)
    press_and_wait(page, judged, until)
    page.goto(f"{reverse('labeling:label', args=[project.slug])}?again={judged()[0].assignment_id}")
    expect_last_turn(page)
    project.qualification = True
    project.save()
    add_questions(project, [build_question(project, chat(), ["Much.", "Little."], ["a"], "Much is more.")])
    page.goto(reverse("labeling:qualification", args=[project.slug]))
    page.get_by_role("button", name="Begin").click()
    page.wait_for_load_state("networkidle")
    expect_last_turn(page)
    page.keyboard.press("1")
    expect(page.locator("#outcome")).to_be_visible()
    page.wait_for_load_state("networkidle")
    assert min(page.evaluate(EDGES)) >= 0


def press_and_wait(page, judged, until):
    page.keyboard.press("4")
    until(lambda: len(judged()) == 1)
    wait_for_receipts(page)


@SCREENS
def test_a_table_and_a_formula_are_drawn(desk, asked, screen):
    table = "| Step | Cost |\n|---|---:|\n| Wash | 4 |"
    asked("How much?", f"{table}\n\nIt is $\\frac{{a}}{{b}}$.", f"{table}\n\nIt is $x^2$.")
    page = desk(**screen)
    answer = page.locator("#stage .answer").first
    expect(answer.locator("table td", has_text="Wash")).to_be_in_viewport()
    expect(answer.locator("math")).to_be_in_viewport()
    box = answer.locator("math").bounding_box()
    assert box["width"] > 5 and box["height"] > 5
    expect(answer).not_to_contain_text("$")
