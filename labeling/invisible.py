"""Characters that nobody can see, made visible.

A text may carry what no reader notices: spaces without width, marks that turn the order of what follows, letters
spelled in tags. The model reads all of it, so the person who judges has to see it. Each stands as a small mark with
its name. The character itself stays inside, so that copied text is the text as it was written; it cannot reorder
anything, since a mark is a box of its own (`.unseen` in static/css/base.css).

What writing needs is left alone: the joiners of Arabic, Persian and Indic words, the word spaces of Thai and Khmer,
and what emoji and Han characters are composed with.
"""

import re
from collections.abc import Iterator
from html import escape
from itertools import groupby

from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

MOST_MARKS = 1_000  # of a text; further ones are told as plain words, which are cheaper to lay out
MOST_KINDS = 4  # told of one run

# Source: Default_Ignorable_Code_Point of Unicode's DerivedCoreProperties.txt, and beside it the controls, the line
# and paragraph separators and the interlinear annotations.
HIDDEN = (
    "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    "\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
# Letters and marks of scripts that are written with joiners, of scripts without spaces, and what emoji are made of.
JOINING = (
    "\u0620-\u109f\u1780-\u17b3\u17b6-\u180a\u1810-\u1cff\ua800-\uabff\ufb50-\ufdff\ufe70-\ufefc"
    "\U00010a00-\U00011fff\U0001e900-\U0001e95f"
)
UNSPACED = "\u0e00-\u109f\u1780-\u17b3\u17b6-\u17ff"
HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
EMOJI = (
    "\xa9\xae\u203c\u2049\u2122\u2139\u2190-\u21ff\u231a-\u23ff\u24c2\u25a0-\u27bf\u2900-\u297f\u2b00-\u2bff"
    "\u3030\u303d\u3297\u3299\U0001f000-\U0001faff"
)
NEEDED = "|".join(
    [
        f"(?<=[{JOINING}])[\u200c\u200d]",
        f"(?<=[{UNSPACED}])\u200b(?=[{UNSPACED}])",
        "(?<=[\u1820-\u18aa])[\u180b-\u180f]",
        f"(?<=[{EMOJI}])[\ufe0e\ufe0f]",
        f"(?<=[{EMOJI}])\u200d(?=[{EMOJI}])",
        f"(?<=[{EMOJI}]\ufe0f)\u200d(?=[{EMOJI}])",
        "(?<=[0-9#*])\ufe0f(?=\u20e3)",
        "(?<=\U0001f3f4)[\U000e0030-\U000e0039\U000e0061-\U000e007a]{3,6}\U000e007f",  # the flag of Wales
        f"(?<=[{HAN}])[\ufe00-\ufe02\U000e0100-\U000e01ef]",
        "(?<=[\u1000-\u109f\u2200-\u2aff\uaa60-\uaa7f])\ufe00",
    ]
)
TAG = r'<[^>"]*(?:"[^"]*"[^>"]*)*>'
PARTS = re.compile(f"(?P<left>{TAG}|{NEEDED})|(?P<hidden>[{HIDDEN}]+)")
ANY = re.compile(f"[{HIDDEN}]")
# The marks of direction are ordinary in Arabic and Hebrew: they are shown, and keep their effect on their neighbours.
DIRECTION_MARKS = frozenset("\u061c\u200e\u200f")

NAMES: dict[str, tuple[str, str | Promise]] = {
    "\u00ad": ("SHY", gettext_lazy("soft hyphen")),
    "\u061c": ("ALM", gettext_lazy("Arabic letter mark")),
    "\u200b": ("ZWSP", gettext_lazy("space without width")),
    "\u200c": ("ZWNJ", gettext_lazy("non-joiner without width")),
    "\u200d": ("ZWJ", gettext_lazy("joiner without width")),
    "\u200e": ("LRM", gettext_lazy("left-to-right mark")),
    "\u200f": ("RLM", gettext_lazy("right-to-left mark")),
    "\u2028": ("LS", gettext_lazy("line separator")),
    "\u2029": ("PS", gettext_lazy("paragraph separator")),
    "\u202a": ("LRE", gettext_lazy("left-to-right embedding")),
    "\u202b": ("RLE", gettext_lazy("right-to-left embedding")),
    "\u202c": ("PDF", gettext_lazy("end of an embedding or override")),
    "\u202d": ("LRO", gettext_lazy("left-to-right override")),
    "\u202e": ("RLO", gettext_lazy("right-to-left override")),
    "\u2060": ("WJ", gettext_lazy("word joiner")),
    "\u2066": ("LRI", gettext_lazy("left-to-right isolate")),
    "\u2067": ("RLI", gettext_lazy("right-to-left isolate")),
    "\u2068": ("FSI", gettext_lazy("first strong isolate")),
    "\u2069": ("PDI", gettext_lazy("end of an isolate")),
    "\ufeff": ("BOM", gettext_lazy("byte order mark")),
}


def hides(text: str) -> bool:
    """Whether a reader would miss something of a text, which is not HTML."""
    return any(part["hidden"] for part in PARTS.finditer(escape(text)))


def swallows(text: str, html: str) -> bool:
    """Whether some of what the text hides is not in the HTML made of it: in an address, or trimmed as white space."""
    return hides(text) and len(ANY.findall(html)) < len(ANY.findall(text))


def show_hidden(html: str) -> str:
    """Put a mark in the place of each run of hidden characters of sanitised HTML, in time linear in its length."""
    marks = 0

    def shown(part: re.Match[str]) -> str:
        nonlocal marks
        if part["left"]:
            return part[0]
        marks += 1
        return mark(part[0]) if marks <= MOST_MARKS else f"[{' '.join(labels(part[0]))}]"

    return PARTS.sub(shown, html)


def mark(run: str) -> str:
    title = ", ".join(names(run))
    inside, after = ("", run) if DIRECTION_MARKS.issuperset(run) else (run, "")
    return (
        f'<span class="unseen" role="img" title="{title}" aria-label="{title}" '
        f'data-label="{" ".join(labels(run))}">{inside}</span>{after}'
    )


def labels(run: str) -> Iterator[str]:
    """The abbreviations of a run's characters, with their number where one repeats."""
    for char, times in kinds(run):
        yield (label(char) if char else "…") + (f"×{times}" if times > 1 else "")


def names(run: str) -> Iterator[str]:
    """The same in words."""
    for char, times in kinds(run):
        yield (name(char) if char else "…") + (f" ×{times}" if times > 1 else "")


def kinds(run: str) -> Iterator[tuple[str, int]]:
    """Each character with how often it follows itself; at the end ("", 1) where there are too many to tell."""
    for number, (_label, group) in enumerate(groupby(run, key=label)):
        if number == MOST_KINDS:
            yield "", 1
            return
        same = list(group)
        yield same[0], len(same)


def label(char: str) -> str:
    if char in NAMES:
        return NAMES[char][0]
    if "\ufe00" <= char <= "\ufe0f" or "\U000e0100" <= char <= "\U000e01ef":
        return "VS"
    return "TAG" if "\U000e0000" <= char <= "\U000e007f" else f"U+{ord(char):04X}"


def name(char: str) -> str:
    usual = {"VS": _("variation selector"), "TAG": _("tag character")}
    words = NAMES[char][1] if char in NAMES else usual.get(label(char), _("character that cannot be seen"))
    return f"{words} (U+{ord(char):04X})"
