"""Characters that nobody can see, on the desk: a mark stands for each, and nothing around it moves."""

import pytest
from playwright.sync_api import expect

from labeling.models import Completion, Prompt
from labeling.selection import create_comparison

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

# Where each letter of the paragraph's text nodes begins, from left to right.
PLACES = """
(paragraph) => {
  const places = [];
  const walker = document.createTreeWalker(paragraph, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    if (node.parentElement.closest('.unseen')) continue;
    for (let at = 0; at < node.data.length; at++) {
      const range = new Range();
      range.setStart(node, at);
      range.setEnd(node, at + 1);
      places.push(range.getBoundingClientRect().left);
    }
  }
  return places;
}"""


@pytest.fixture
def answer(desk, project):
    """Put a text before Bob; returns its element on the desk."""

    def show(text, **options):
        prompt = Prompt.objects.add(project, "Which?")
        completions = [Completion.objects.add(prompt, one, "m") for one in (text, "A quiet answer.")]
        create_comparison(project, prompt, completions)
        page = desk(**options)
        return page.locator("#stage .answer .read").filter(has_not_text="A quiet answer.")

    return show


@pytest.mark.parametrize(
    "control", ["\u202e", "\u202b", "\u2067", "\u2069\u202e", "\u2069\u2069\u202e\u2067"]
)
def test_an_override_reorders_nothing(answer, control):
    read = answer(f"abc{control}def ghi")
    expect(read.locator(".unseen")).to_be_visible()
    places = read.locator("p").evaluate(PLACES)
    assert len(places) == len("abcdef ghi") and places == sorted(places)


def test_what_is_copied_is_what_was_written(answer):
    written = "pass\u200bword \u202eabc\u2069 soft\u00adhyphen می‌خواهم 👩‍🚀"
    read = answer(written)
    copied = read.locator("p").evaluate(
        "(p) => { getSelection().selectAllChildren(p); return getSelection().toString(); }"
    )
    assert copied == written


def test_a_mark_is_told_to_the_eye_the_pointer_and_the_screen_reader(answer):
    mark = answer("right\u200f and pass\u200b\u200bword").get_by_role(
        "img", name="space without width (U+200B) ×2"
    )
    expect(mark).to_have_attribute("title", "space without width (U+200B) ×2")
    assert mark.evaluate("e => getComputedStyle(e, '::before').content") == '"ZWSP×2"'
    assert mark.bounding_box()["width"] > 20
