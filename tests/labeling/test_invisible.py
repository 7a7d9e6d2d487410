"""Characters that nobody can see: each is marked, none is lost, and what writing needs is left alone."""

import re
import time
from html import unescape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labeling.invisible import HIDDEN, MOST_MARKS, hides
from labeling.rendering import plain_text, render_markdown

MARK = re.compile(r'<span class="unseen" role="img" title="([^"]*)" aria-label="\1" data-label="([^"]*)">')

NEEDED = {
    "Persian": "می‌خواهم خانه‌ها",
    "Arabic abbreviation": "ه‍ 1447",
    "Hindi": "क्‍ष र्‍य",
    "Malayalam": "അവന്‍",
    "Bengali": "র‍্যাব",
    "Thai": "ภาษา\u200bไทย",
    "Khmer": "ភាសា\u200bខ្មែរ",
    "Mongolian": "ᠨᠢ᠋",
    "family": "👨‍👩‍👧‍👦",
    "dark-skinned woman in a wheelchair": "👩🏾‍🦽",
    "rainbow flag": "🏳️‍🌈",
    "flag of Wales": "🏴\U000e0067\U000e0062\U000e0077\U000e006c\U000e0073\U000e007f",
    "keycap": "1️⃣ #️⃣",
    "heart as text and as a picture": "❤︎ ❤️",
    "Han variant": "葛\U000e0100城",
    "French spaces": "«\u00a0Ah\u202f!\u00a0»",
}


def marks(html):
    return [label for _title, label in MARK.findall(html)]


def copied(html):
    """What a person would copy: the text of the elements."""
    return unescape(re.sub(r"<[^>]*>", "", html))


@pytest.mark.parametrize("name", NEEDED)
def test_what_writing_needs_is_left_alone(name):
    assert not hides(NEEDED[name])
    assert NEEDED[name] in copied(render_markdown(NEEDED[name]))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pass\u200bword", ["ZWSP"]),
        ("a\u200cb c\u200dd", ["ZWNJ", "ZWJ"]),  # between Latin letters nothing is joined
        ("می‌‌خواهم", ["ZWNJ"]),  # one is needed, the second is not
        ("\ufeffStart", ["BOM"]),
        ("access\u202e level", ["RLO"]),
        ("\u2066a\u2069 \u2067b\u2069", ["LRI", "PDI", "RLI", "PDI"]),
        ("soft\u00adhyphen", ["SHY"]),
        ("bell\x07 and \x9b", ["U+0007", "U+009B"]),
        ("ok\U000e0069\U000e0067\U000e006e\U000e006f\U000e0072\U000e0065", ["TAG×6"]),  # "ignore" in tags
        ("😀\ufe0f\ufe01\ufe02\ufe03", ["VS×3"]),  # bytes behind a smile
        ("\u200b\u200b\u200b\u202e", ["ZWSP×3 RLO"]),
        ("\u200b\u202e\u200b\u202e\u200b\u202e", ["ZWSP RLO ZWSP RLO …"]),
        ("a\u3164b", ["U+3164"]),
        ("line\u2028break", ["LS"]),
    ],
)
def test_what_nobody_can_see_is_marked(text, expected):
    assert marks(render_markdown(text)) == expected
    assert marks(plain_text(text)) == expected


def test_a_mark_is_named_in_words_for_the_pointer_and_the_screen_reader():
    (title, _label) = MARK.findall(render_markdown("a\u202e\u200b\u200bb"))[0]
    assert title == "right-to-left override (U+202E), space without width (U+200B) ×2"


def test_code_links_headings_and_tables_are_marked_too():
    html = render_markdown(
        "# Head\u200b\n\n```python\nif access != 'user\u202e':\n```\n\n[li\u200bnk](https://a.example)\n\n"
        "| a\u200b |\n|---|\n| b |\n\n`co\u200bde`"
    )
    assert marks(html) == ["ZWSP", "RLO", "ZWSP", "ZWSP", "ZWSP"]


@pytest.mark.parametrize(
    "text",
    [
        "[x](https://a.example/?q=\u202e)",
        "[x]\n\n[x]: https://a.example/\u200b",
        "```py\u200b\nx\n```",
        "last word\x0c",
    ],
)
def test_where_markdown_would_swallow_one_the_source_is_shown(text):
    html = render_markdown(text)
    assert copied(html) == text and len(marks(html)) == 1


def test_an_address_in_persian_stays_a_link():
    assert '<a href="https://a.example/' in render_markdown("[می‌خواهم](https://a.example/می‌خواهم)")


@pytest.mark.parametrize("formula", ["$x\u200b$", "$\\text{a\u202eb}$", "$a <\u202e b>$"])
def test_a_formula_that_hides_something_is_shown_as_its_source(formula):
    html = render_markdown(formula)
    assert "<math" not in html and len(marks(html)) == 1


@pytest.mark.parametrize(
    "formula",
    [
        r"$\text{&#x202e;abc}$",
        r"\(\text{&#8203;hid&#x2066;den}\)",
        r"\[\text{a&ZeroWidthSpace;b}\]",
        r"$$\text{a&shy;b}$$",
        r"$\text{a&InvisibleTimes;b}$",
        r"$x \phantom{only the model reads this}$",
        r"$x \hphantom{nor this}$",
        r"$x %nor this$",
        r"$a\hspace{-100em}b$",
        r"$a\kern-2.5cm b$",
        r"$\lower 50em x$",
        r"$\rule{1em}{99em}$",
        r"$a\hspace{9999px}b$",
        r"$x \\%nor this$",
    ],
)
def test_a_formula_that_would_keep_something_to_itself_is_shown_as_its_source(formula):
    html = render_markdown(formula)
    assert copied(html).strip() == formula and "<math" not in html and not hides(copied(html))


def test_the_label_of_an_equation_is_read_by_people_too():
    assert "only the model" in render_markdown("$$\nx\n$$ (only the model)")


@pytest.mark.parametrize(
    "formula",
    [
        r"$\sin(x)$",
        r"$50\%$",
        r"$a\!b\quad c\hspace{2em}d$",
        r"$\mathllap{x}y$",
        r"$\left(\frac{a}{b}\right)$",
        r"$\text{a&lt;b}$",
        r"$\text{می‌خواهم}$",
    ],
)
def test_a_formula_that_shows_all_it_says_stays_one(formula):
    html = render_markdown(formula)
    assert "<math" in html and marks(html) == []


def test_marks_of_direction_keep_their_effect_and_overrides_lose_theirs():
    assert render_markdown("a\u200f!").count("</span>\u200f!") == 1
    assert render_markdown("a\u202e!").count("\u202e</span>!") == 1


ANYTHING = st.text(
    st.one_of(
        st.sampled_from("ab <>&\"'`*_[]() 1#میनक्ไทก 😀❤👩🏾🏴葛ᠨ∩\n"),
        st.from_regex(f"[{HIDDEN}]", fullmatch=True),
    ),
    max_size=60,
)


@given(ANYTHING)
@settings(max_examples=500, deadline=None)
def test_no_character_is_lost_or_left_unmarked(text):
    html = plain_text(text)
    assert copied(html) == text
    outside = re.sub(r'<span class="unseen"[^>]*>[^<]*</span>[\u061c\u200e\u200f]*', " ", html)
    # What stands outside the marks is what this very text was allowed to keep.
    for found in re.finditer(f"[{HIDDEN}]", copied(outside)):
        before = copied(outside)[: found.start()]
        assert (before and not before[-1].isascii()) or before[-1] in "0123456789#*", (text, html)


@given(ANYTHING)
@settings(max_examples=500, deadline=None)
def test_markdown_swallows_nothing_that_is_hidden(text):
    if hides(text):
        found = [re.findall(f"[{HIDDEN}]", one) for one in (text, copied(render_markdown(text)))]
        assert len(found[0]) == len(found[1])


@pytest.mark.parametrize("unit", ["\u200b", "a\u200b", "\u202e\u200bx", "م\u200c", "&\u200b", "😀\u200d"])
def test_two_hundred_thousand_of_them_cost_little(unit):
    started = time.monotonic()
    html = render_markdown((unit * 200_000)[:200_000])
    assert time.monotonic() - started < 30
    assert len(marks(html)) <= MOST_MARKS and len(html) < 2_000_000
