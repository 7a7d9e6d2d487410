"""The keys of the desk: by which each act is done, and what a person has put in the usual one's place.

A person's own keys are kept with the account, so that they hold on every device. They are characters, compared with
what the keyboard types; Enter, Escape, Backspace and the arrows are the same for everyone, and so are the digits of
ratings and of the lists in dialogs.
"""

import unicodedata
from collections.abc import Mapping
from typing import Any, NamedTuple

from django.core.exceptions import ValidationError
from django.utils.functional import Promise
from django.utils.text import format_lazy
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

# The desks that acts are offered on: a pair with strengths, a pair without, and three answers or more.
STRENGTHS, PLAIN, RANKING = "strengths", "plain", "ranking"
PAIR = frozenset({STRENGTHS, PLAIN})
EVERY = PAIR | {RANKING}


class Act(NamedTuple):
    key: str  # the usual one
    name: str | Promise
    desks: frozenset[str]


GROUPS: list[tuple[str | Promise, dict[str, Act]]] = [
    (
        gettext_lazy("Two answers"),
        {
            "a3": Act("1", gettext_lazy("A is much better"), frozenset({STRENGTHS})),
            "a2": Act("2", gettext_lazy("A is better"), frozenset({STRENGTHS})),
            "a1": Act("3", gettext_lazy("A is slightly better"), frozenset({STRENGTHS})),
            "tie": Act("4", gettext_lazy("Tie"), PAIR),
            "b1": Act("5", gettext_lazy("B is slightly better"), frozenset({STRENGTHS})),
            "b2": Act("6", gettext_lazy("B is better"), frozenset({STRENGTHS})),
            "b3": Act("7", gettext_lazy("B is much better"), frozenset({STRENGTHS})),
            "all_bad": Act("0", gettext_lazy("Both are bad, or all"), EVERY),
            "all_good": Act("9", gettext_lazy("Both are good, or all"), EVERY),
        },
    ),
    (
        gettext_lazy("Two answers, where nobody asks how much better"),
        {
            "a": Act("1", gettext_lazy("A is better"), frozenset({PLAIN})),
            "b": Act("2", gettext_lazy("B is better"), frozenset({PLAIN})),
        },
    ),
    (
        gettext_lazy("Three answers or more"),
        {
            f"rank{number}": Act(
                str(number), format_lazy(gettext_lazy("Answer {letter}"), letter=letter), frozenset({RANKING})
            )
            for number, letter in enumerate("ABCDEFGH", start=1)
        }
        | {
            "tied": Act("=", gettext_lazy("The next one is tied"), frozenset({RANKING})),
            "equal": Act("t", gettext_lazy("All are equal"), frozenset({RANKING})),
        },
    ),
    (
        gettext_lazy("Beside the verdict"),
        {
            "why": Act("c", gettext_lazy("Say why"), EVERY),
            "better": Act("e", gettext_lazy("Write a better answer"), EVERY),
            "rate": Act("r", gettext_lazy("Rate the answers"), EVERY),
            "skip": Act("s", gettext_lazy("Skip"), EVERY),
            "flag": Act("f", gettext_lazy("Report"), EVERY),
            "undo": Act("z", gettext_lazy("Take back the last answer, skip or report"), EVERY),
        },
    ),
    (
        gettext_lazy("Reading"),
        {
            "differences": Act("d", gettext_lazy("Mark what differs"), EVERY),
            "apart": Act("l", gettext_lazy("Let the answers scroll apart"), EVERY),
            "guidelines": Act("g", gettext_lazy("Guidelines"), EVERY),
            "keys": Act("?", gettext_lazy("The list of keys"), EVERY),
        },
    ),
]
ACTS: dict[str, Act] = {name: act for _group, acts in GROUPS for name, act in acts.items()}
USUAL: dict[str, str] = {name: act.key for name, act in ACTS.items()}


def keys_with(own: Mapping[str, str]) -> dict[str, str]:
    """The key of each act, a person's own in the place of the usual ones."""
    return USUAL | {name: key for name, key in own.items() if name in ACTS}


def as_written(keys: Mapping[str, str]) -> dict[str, str]:
    """The keys as they stand on buttons: letters as capitals, as keyboards show them.

    A letter whose capital is another's too, such as `ı`, `µ` or `ς`, stays small, or a form would give back another.
    """
    return {name: key.upper() if key.upper().lower() == key else key for name, key in keys.items()}


def own_keys(chosen: Mapping[str, str]) -> dict[str, str]:
    """What is to be kept of the keys chosen: those that are not the usual ones, in lower case."""
    lower = {name: key.lower() for name, key in chosen.items()}
    return {name: key for name, key in lower.items() if key != USUAL.get(name)}


def is_key(key: Any) -> bool:
    """Whether it is a single letter, digit or sign that a keyboard types."""
    return isinstance(key, str) and len(key.lower()) == 1 and unicodedata.category(key)[0] in "LNPS"


def problems(own: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with a person's own keys: a sentence for each act concerned."""
    found = {name: _("The desk has no act of this name.") for name in own if name not in ACTS}
    for name in own.keys() & ACTS.keys():
        if not is_key(own[name]):
            found[name] = _("A key is one letter, digit or sign, such as x or 7.")
    if found:
        return found
    keys = keys_with(own)
    for name, act in ACTS.items():
        same = [
            str(other.name)
            for its, other in ACTS.items()
            if its != name and keys[its] == keys[name] and act.desks & other.desks
        ]
        if same:
            found[name] = _("The same key is set for: %(acts)s.") % {"acts": ", ".join(same)}
    return found


def validate_own_keys(own: Any) -> None:
    if not isinstance(own, dict):
        raise ValidationError(_("Keys are an object: an act's name and its key."))
    if found := problems(own):
        raise ValidationError([f"{name[:40]}: {sentence}" for name, sentence in found.items()])
