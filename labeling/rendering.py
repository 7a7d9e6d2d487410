"""Hostile Markdown in, safe HTML out.

What a model or a stranger wrote is shown, never run. Four walls, each enough alone for the payloads
that the peers fell to: the parser knows no raw HTML; links are kept only when they are absolute http,
https or mailto; mathematics is rebuilt element by element; and the result passes an allow-list (nh3).
The page's content policy is the fifth. What cannot be rendered is shown as its source, and what cannot be
seen is marked (invisible.py). A formula that would keep something from the reader is shown as its source, too.
"""

import html
import math
import re
from collections.abc import Mapping, MutableMapping, Sequence
from functools import cache
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree

import nh3
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext as _
from latex2mathml.converter import convert_to_element
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markdown_it.utils import OptionsDict
from mdit_py_plugins.dollarmath import dollarmath_plugin
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name

from labeling.invisible import hides, show_hidden, swallows

# Beyond these the parser's worst case (a scan for each open bracket) would keep a page waiting for
# seconds; such a text is shown whole, as text.
MAX_MARKDOWN_CHARACTERS = 50_000
MAX_BRACKETS = 1_000
MAX_NESTING = 30
MAX_CODE_CHARACTERS = 20_000
MAX_FORMULA_CHARACTERS = 2_000
MAX_FORMULAS = 200


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


LATEX_COMMENT = re.compile(r"(?<!\\)(?:\\\\)*%")

# Languages whose lexers are worth their time; code in any other is shown plain.
LANGUAGES = words(
    "bash c c++ cpp cs csharp css diff docker go golang haskell html ini java javascript js json julia "
    "kotlin latex lua make markdown matlab md nginx perl php powershell py python python3 r rb ruby rs "
    "rust scala sh shell sql swift toml ts tsx typescript xml yaml yml zsh"
)

# Without mphantom, whose content takes room and is not seen.
MATH_TAGS = words(
    "math menclose mfenced mfrac mi mmultiscripts mn mo mover mpadded mprescripts mroot mrow ms mspace "
    "msqrt mstyle msub msubsup msup mtable mtd mtext mtr munder munderover none"
)
MATH_ATTRIBUTES = words(
    "accent accentunder columnalign columnlines columnspacing depth displaystyle fence form height "
    "largeop linethickness lspace mathvariant maxsize minsize movablelimits notation rowlines rowspacing "
    "rspace scriptlevel separator stretchy symmetric voffset width"
)
MATH_LENGTHS = words(
    "columnspacing depth height linethickness lspace maxsize minsize rowspacing rspace voffset width"
)
# What a unit is in em, roughly; `width` and its like are those of what stands inside.
EM_OF = {
    "": 1, "em": 1, "pc": 1, "ex": 0.5, "px": 1 / 16, "pt": 1 / 12, "mu": 1 / 18, "mm": 0.24, "cm": 2.4, "in": 6, "%": 0.01,
    "width": 1, "height": 1, "depth": 1,
}  # fmt: skip
MAX_SPACE_EM = 20
TEXT_TAGS = words(
    "a blockquote br code del div em h1 h2 h3 h4 h5 h6 hr li ol p pre s span strong table tbody td th "
    "thead tr ul"
)
CLEANER = nh3.Cleaner(
    tags=set(TEXT_TAGS | MATH_TAGS),
    attributes={tag: set(MATH_ATTRIBUTES) for tag in MATH_TAGS}
    | {
        "math": {"display"} | set(MATH_ATTRIBUTES),
        "a": {"href", "target"},
        "ol": {"start"},
        "span": {"class", "dir"},
        "pre": {"class", "dir", "tabindex"},
        "td": {"class"},
        "th": {"class"},
    },
    url_schemes={"http", "https", "mailto"},
    link_rel="noopener noreferrer nofollow",
    set_tag_attribute_values={"a": {"target": "_blank"}},
)


def render_markdown(text: str, top_heading: int = 3) -> SafeString:
    """HTML to show `text` by, safe in any page of ours.

    top_heading: the level that a first-level heading gets, so that an answer's own headings stay below
    the page's. The cost is bounded by the caps above, whatever the text.
    """
    if len(text) > MAX_MARKDOWN_CHARACTERS or text.count("[") > MAX_BRACKETS:
        return plain_text(text)
    env: dict[str, Any] = {"top_heading": top_heading}
    md = parser()
    try:
        tokens = md.parse(text, env)
        # The parser drops what lies deeper than it goes, and a person must see all that they judge.
        if any(token.level >= MAX_NESTING - 1 for token in tokens):
            return plain_text(text)
        rendered = md.renderer.render(tokens, md.options, env)
    except RecursionError:
        return plain_text(text)
    cleaned = CLEANER.clean(rendered)
    return plain_text(text) if swallows(text, cleaned) else mark_safe(show_hidden(cleaned))


def plain_text(text: str) -> SafeString:
    return mark_safe(f'<pre class="plain" dir="auto" tabindex="0">{show_hidden(html.escape(text))}</pre>')


@cache
def parser() -> MarkdownIt:
    md = MarkdownIt(
        "commonmark", {"html": False, "linkify": False, "breaks": True, "maxNesting": MAX_NESTING}
    )
    md.enable(["table", "strikethrough"])
    # Labels of equations would be read and never shown.
    dollarmath_plugin(md, allow_labels=False, allow_space=False, allow_digits=False, double_inline=True)
    md.inline.ruler.before("escape", "bracket_math", bracket_math)
    md.validateLink = is_safe_link  # type: ignore[method-assign]
    for name, rule in RULES.items():
        md.add_render_rule(name, rule)
    return md


def is_safe_link(url: str) -> bool:
    """Whether a link may stay one: absolute, and of a scheme that runs nothing.

    Relative links are refused because they would lead into this application ("/accounts/logout/").
    """
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        return False
    if parts.scheme in ("http", "https"):
        return bool(parts.netloc)
    return parts.scheme == "mailto"


def bracket_math(state: StateInline, silent: bool) -> bool:
    r"""Read \( ... \) and \[ ... \], in which most chat models write their formulas."""
    opening = state.src[state.pos : state.pos + 2]
    closing = {"\\(": "\\)", "\\[": "\\]"}.get(opening)
    if closing is None:
        return False
    start = state.pos + 2
    end = state.src.find(closing, start, min(state.posMax, start + MAX_FORMULA_CHARACTERS))
    if end < 0 or not state.src[start:end].strip():
        return False
    if not silent:
        token = state.push("math_inline" if opening == "\\(" else "math_inline_double", "math", 0)
        token.content, token.markup = state.src[start:end], opening
    state.pos = end + 2
    return True


def formula(latex: str, display: bool) -> str | None:
    """MathML of a formula, or None when it cannot be read or would not show all of itself.

    The elements are copied one by one: the library's own serialiser undoes escaping, so that a tag
    inside \\text{...} would come out as a tag.
    """
    if hides(latex) or LATEX_COMMENT.search(latex):
        return None
    try:
        element = convert_to_element(latex, display="block" if display else "inline")
        return ElementTree.tostring(copied(element), encoding="unicode", short_empty_elements=False)
    except (Exception, RecursionError):  # the library raises many kinds, IndexError and KeyError among them
        return None


def copied(element: ElementTree.Element) -> ElementTree.Element:
    if element.tag not in MATH_TAGS:
        raise ValueError(f"{element.tag} is no MathML that we show")
    kept = MATH_ATTRIBUTES | {"display"} if element.tag == "math" else MATH_ATTRIBUTES
    copy = ElementTree.Element(element.tag, {k: v for k, v in element.attrib.items() if k in kept})
    # A character may be written as a reference, which is a letter like any other until here.
    copy.text = html.unescape(element.text or "")
    if hides(copy.text):
        raise ValueError("a formula shows all its characters")
    if any(strays(length) for name in MATH_LENGTHS if (length := copy.get(name))):
        raise ValueError("a formula stays where it stands")
    copy.extend(copied(child) for child in element)
    return copy


def strays(lengths: str) -> bool:
    """Whether something in a formula is moved by so much that it might lie over, or beyond, the other answer."""
    found = re.findall(r"([+-]?[\d.]+)\s*([a-z%]*)", lengths)
    return any(not -1 <= float(number) * EM_OF.get(unit, math.inf) <= MAX_SPACE_EM for number, unit in found)


# Render rules of markdown-it: (renderer, tokens, index, options, env) -> HTML


def render_formula(
    renderer: RendererHTML,
    tokens: Sequence[Token],
    idx: int,
    options: OptionsDict,
    env: MutableMapping[str, Any],
) -> str:
    token = tokens[idx]
    display = token.type != "math_inline"
    env["formulas"] = env.get("formulas", 0) + 1
    fits = len(token.content) <= MAX_FORMULA_CHARACTERS and env["formulas"] <= MAX_FORMULAS
    mathml = formula(token.content.strip(), display) if fits else None
    if mathml is None:
        closing = {"\\(": "\\)", "\\[": "\\]"}.get(token.markup, token.markup)
        return f"<code>{html.escape(token.markup + token.content + closing)}</code>"
    return f"<p>{mathml}</p>" if token.type.startswith("math_block") else mathml


def render_code(
    renderer: RendererHTML,
    tokens: Sequence[Token],
    idx: int,
    options: OptionsDict,
    env: MutableMapping[str, Any],
) -> str:
    token = tokens[idx]
    language = token.info.strip().split(maxsplit=1)[0].lower() if token.info.strip() else ""
    shown = html.escape(token.content)
    if language in LANGUAGES and len(token.content) <= MAX_CODE_CHARACTERS:
        shown = highlight(
            token.content, get_lexer_by_name(language, stripnl=False), HtmlFormatter(nowrap=True)
        )
    return f'<pre dir="ltr" tabindex="0"><code>{shown}</code></pre>\n'


def render_image(
    renderer: RendererHTML,
    tokens: Sequence[Token],
    idx: int,
    options: OptionsDict,
    env: MutableMapping[str, Any],
) -> str:
    """Say that a picture was here: loading it would tell its host who reads what, and when."""
    token = tokens[idx]
    said = _("picture not loaded: %(words)s, %(address)s") % {
        "words": token.content or _("no description"),
        "address": token.attrGet("src"),
    }
    return f'<span class="not-loaded">[{html.escape(said)}]</span>'


def render_heading(
    renderer: RendererHTML,
    tokens: Sequence[Token],
    idx: int,
    options: OptionsDict,
    env: MutableMapping[str, Any],
) -> str:
    level = min(6, int(tokens[idx].tag[1]) + env.get("top_heading", 1) - 1)
    return f"<h{level}>" if tokens[idx].nesting == 1 else f"</h{level}>\n"


def render_cell(
    renderer: RendererHTML,
    tokens: Sequence[Token],
    idx: int,
    options: OptionsDict,
    env: MutableMapping[str, Any],
) -> str:
    """A table cell; its alignment as a class, since the content policy allows no inline style."""
    token = tokens[idx]
    side = str(token.attrGet("style") or "").removeprefix("text-align:")
    return f'<{token.tag} class="{side}">' if side in ("left", "center", "right") else f"<{token.tag}>"


RULES: Mapping[str, Any] = {
    "math_inline": render_formula,
    "math_inline_double": render_formula,
    "math_block": render_formula,
    "fence": render_code,
    "code_block": render_code,
    "image": render_image,
    "heading_open": render_heading,
    "heading_close": render_heading,
    "th_open": render_cell,
    "td_open": render_cell,
}
