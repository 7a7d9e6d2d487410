"""Hostile Markdown: shown as text, never run. Payload classes after the peers' published advisories."""

import re
from html.parser import HTMLParser

import pytest

from labeling.rendering import MATH_TAGS, MAX_MARKDOWN_CHARACTERS, TEXT_TAGS, render_markdown

PAYLOADS = [
    "<script>window.hacked = 1</script>",
    "<SCRIPT SRC=//evil.example/x.js></SCRIPT>",
    "<scr<script>ipt>alert(1)</scr</script>ipt>",
    "<img src=x onerror=window.hacked=1>",
    '<img src="x" onerror="window.hacked=1"',
    "<svg onload=window.hacked=1>",
    "<svg><script>window.hacked=1</script></svg>",
    "<svg><a xlink:href='javascript:window.hacked=1'><text y=20>x</text></a></svg>",
    "<math><mtext></mtext><mglyph><svg><mtext><style><path id='</style><img src onerror=window.hacked=1>'>",
    "<math><mi//xlink:href='data:x,<script>window.hacked=1</script>'>",
    "<math href='javascript:window.hacked=1'>click</math>",
    "<iframe src='javascript:window.hacked=1'></iframe>",
    "<iframe srcdoc='<script>parent.hacked=1</script>'></iframe>",
    "<object data='data:text/html,<script>window.hacked=1</script>'></object>",
    "<embed src='javascript:window.hacked=1'>",
    "<form action='javascript:window.hacked=1'><button>go</button></form>",
    "<body onload=window.hacked=1>",
    "<details open ontoggle=window.hacked=1>",
    "<input autofocus onfocus=window.hacked=1>",
    "<video><source onerror=window.hacked=1></video>",
    "<style>body { display: none }</style>",
    "<link rel=stylesheet href=//evil.example/x.css>",
    "<meta http-equiv=refresh content='0;url=javascript:window.hacked=1'>",
    "<base href=//evil.example/>",
    "<template><script>window.hacked=1</script></template>",
    "<noscript><p title='</noscript><img src=x onerror=window.hacked=1>'>",
    "<!--><img src=x onerror=window.hacked=1>-->",
    "<![CDATA[<script>window.hacked=1</script>]]>",
    "</div></div></main><h1>Log in again</h1>",
    "<div style='position:fixed;inset:0'>over the page</div>",
    "<p><b>never closed <i> <table><tr><td>",
    "[click](javascript:window.hacked=1)",
    "[click](JaVaScRiPt:window.hacked=1)",
    "[click](java\tscript:window.hacked=1)",
    "[click](&#106;avascript:window.hacked=1)",
    "[click](javascript&colon;window.hacked=1)",
    "[click](\x01javascript:window.hacked=1)",
    "[click](vbscript:msgbox(1))",
    "[click](data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==)",
    "[click](file:///etc/passwd)",
    "[click](/accounts/logout/)",
    "[click](//evil.example/)",
    "[click]: javascript:window.hacked=1\n\n[click]",
    "<javascript:window.hacked=1>",
    '[x](https://a.example "\\" onmouseover=window.hacked=1 \\"")',
    "[x](https://a.example/'onmouseover='window.hacked=1)",
    "![x](https://evil.example/pixel.png)",
    '![" onerror="window.hacked=1](x)',
    "![x](data:image/svg+xml,<svg onload=window.hacked=1>)",
    "```html\n<script>window.hacked=1</script>\n```",
    '```"><script>window.hacked=1</script>\ncode\n```',
    '```python" onclick="window.hacked=1\ncode\n```',
    "`<script>window.hacked=1</script>`",
    r"$\text{<script>window.hacked=1</script>}$",
    r"$\text{&#60;img src=x onerror=window.hacked=1&#62;}$",
    r"$\text{&lt;img src=x onerror=window.hacked=1&gt;}$",
    r"$\mathrm{<img src=x onerror=window.hacked=1>}$",
    r"$\href{javascript:window.hacked=1}{x}$",
    r"$\style{position:fixed}{x}$",
    r"\[\text{</mtext></math><img src=x onerror=window.hacked=1>}\]",
    "| a |\n|---|\n| <img src=x onerror=window.hacked=1> |",
    "# <img src=x onerror=window.hacked=1>",
]


class Elements(HTMLParser):
    """Tags and attributes as a browser's tokenizer would find them."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_payload_leaves_no_element_or_attribute_that_can_run(payload):
    found = Elements(render_markdown(payload))
    assert set(found.tags) <= TEXT_TAGS | MATH_TAGS
    for tag, name, value in found.attributes:
        assert not name.startswith("on") and name not in ("style", "src", "srcdoc", "id", "xlink:href"), (
            tag,
            name,
        )
        if name == "href":
            assert tag == "a" and re.match(r"(https?://|mailto:)", value), (tag, value)


@pytest.mark.parametrize("payload", [payload for payload in PAYLOADS if payload.startswith("<")])
def test_raw_html_shows_as_the_text_that_was_written(payload):
    assert Elements(render_markdown(payload)).text.strip() == payload.strip()


def test_a_link_opens_apart_and_tells_its_host_nothing():
    assert render_markdown("[site](https://example.org/a?b=1&c=2)").strip() == (
        '<p><a href="https://example.org/a?b=1&amp;c=2" target="_blank" '
        'rel="noopener noreferrer nofollow">site</a></p>'
    )


def test_a_picture_is_named_and_not_loaded():
    html = render_markdown("![a *red* door](https://example.org/door.png)")
    assert "<img" not in html
    assert "[picture not loaded: a *red* door, https://example.org/door.png]" in html


def test_it_renders_lists_emphasis_tables_and_strikethrough():
    html = render_markdown("1. **one**\n2. ~~two~~\n\n| a | b |\n|---|--:|\n| 1 | 2 |")
    assert "<strong>one</strong>" in html and "<s>two</s>" in html
    assert '<td class="right">2</td>' in html


def test_code_is_coloured_by_classes_and_an_unknown_language_is_shown_plain():
    assert '<span class="kn">import</span>' in render_markdown("```python\nimport os\n```")
    assert "<code>import os\n</code>" in render_markdown("```klingon\nimport os\n```")


def test_formulas_become_mathml_in_each_of_the_common_spellings():
    for source in [
        r"$\frac{1}{2}$",
        r"$$\frac{1}{2}$$",
        r"\(\frac{1}{2}\)",
        r"\[\frac{1}{2}\]",
        "$$\n\\frac{1}{2}\n$$",
    ]:
        assert "<mfrac><mrow><mn>1</mn></mrow><mrow><mn>2</mn></mrow></mfrac>" in render_markdown(source), (
            source
        )


def test_a_formula_that_does_not_parse_is_shown_as_its_source():
    assert r"<code>$\frac{$</code>" in render_markdown(r"Half is $\frac{$.")
    assert r"<code>\[\begin{matrix} a\]</code>" in render_markdown(r"\[\begin{matrix} a\]")


def test_prices_are_no_formulas():
    assert "<math" not in render_markdown("It costs $5 today and $10 tomorrow.")


def test_text_inside_a_formula_is_escaped_once():
    html = render_markdown(r"$a < b \text{ if } c$")
    assert "<mo>&lt;</mo>" in html and "&amp;lt;" not in html


def test_headings_of_an_answer_stay_below_the_headings_of_the_page():
    assert "<h3>One</h3>" in render_markdown("# One")
    assert "<h6>Six</h6>" in render_markdown("###### Six")
    assert "<h2>One</h2>" in render_markdown("# One", top_heading=2)


def test_a_line_break_is_kept():
    assert "Dear Ada,<br>" in render_markdown("Dear Ada,\nthank you.")


def test_a_text_beyond_the_cap_is_shown_whole_as_text():
    text = "<b>" + "word " * (MAX_MARKDOWN_CHARACTERS // 5)
    found = Elements(render_markdown(text))
    assert found.tags == ["pre"]
    assert found.text == text


UNITS = ["[", "]", "![", "[[](", "> ", ">", "*", "**a*", "_", "`", "``a`", "~~", "- ", "-\n", "1. ", "|", "$", "$a ",
         "$$", "\\(", "\\[", "\\(a\\)", "(", "<", "<!--", "&", "#", "[x]: y\n", "![a](", "\\", "\t- a\n", "{", "$\\frac{",
         "\u202e", "\u200b", "\n", "```\n", "| a |\n|---|\n"]  # fmt: skip


@pytest.mark.timeout(120)
@pytest.mark.parametrize("size", [45_000, 200_000])
def test_two_hundred_thousand_characters_of_anything_render(size):
    for unit in UNITS:
        assert render_markdown((unit * size)[:size]) is not None


NESTED = {
    "quotes": "> " * 1000 + "innermost",
    "lists": "".join("  " * level + "- item\n" for level in range(1000)) + "  " * 1000 + "innermost",
    "emphasis": "*" * 1000 + "innermost" + "*" * 1000,
    "formula": "$" + "{" * 900 + "innermost" + "}" * 900 + "$",
    "links": "[" * 900 + "innermost" + "](https://a.example)" * 900,
}


@pytest.mark.parametrize("kind", NESTED)
def test_what_is_nested_a_thousand_deep_is_still_shown(kind):
    shown = Elements(render_markdown(NESTED[kind])).text
    assert "innermost" in shown.replace("\n", "")
