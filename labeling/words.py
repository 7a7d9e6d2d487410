"""The sentences that the desk's scripts say, in the reader's language.

The page carries them as JSON (`words|json_script:"words"`), and `static/js/words.js` says them by name. Values
go in by name, `%(letter)s`; a sentence with `%(count)s` has a form for each kind of number, among which the
browser picks, since it alone knows the count.
"""

from collections.abc import Callable

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

# A number of each kind that Unicode's plural rules tell apart. A language without a kind never asks for it; whole
# millions, which Spanish and French have a kind for, are not counted here.
KINDS = {"zero": 0, "one": 1, "two": 2, "few": 3, "many": 11, "other": 100}

Words = dict[str, str | dict[str, str]]


def desk_words() -> Words:
    return {
        # What became of an answer
        "saving": _("Saving"),
        "saved": _("Last answer saved"),
        "taken-back": _("Taken back"),
        "skipped": _("Skipped"),
        "reported": _("Reported to a manager"),
        "refused": _("The server refused the last answer. Load the page again."),
        "not-asked-for": _("%(message)s. That comparison comes next. If the page does not ask for it:"),
        "load-again": _("load it again"),
        "answered-before": _("You answered this before. Answer again to change it."),
        # Without a connection, or signed out
        "kept-offline": _by_count(
            lambda count: ngettext(
                "No connection. %(count)s answer is kept in this browser and will be sent.",
                "No connection. %(count)s answers are kept in this browser and will be sent.",
                count,
            )
        ),
        "kept-signed-out": _by_count(
            lambda count: ngettext(
                "You are signed out; %(count)s answer is kept in this browser.",
                "You are signed out; %(count)s answers are kept in this browser.",
                count,
            )
        ),
        "kept-other": _by_count(
            lambda count: ngettext(
                "Somebody else is signed in in this browser; %(count)s answer of yours is kept.",
                "Somebody else is signed in in this browser; %(count)s answers of yours are kept.",
                count,
            )
        ),
        "kept-faulty": _by_count(
            lambda count: ngettext(
                "The server failed on %(count)s answer. It is kept in this browser and sent again.",
                "The server failed on %(count)s answers. They are kept in this browser and sent again.",
                count,
            )
        ),
        "other": _("Somebody else is signed in in this browser."),
        "sign-out": _("Sign out"),
        "signed-out": _("You are signed out."),
        "sign-in": _("Sign in again"),
        "undo-offline": _("No connection. Try once more to take your last answer back."),
        "texts-offline": _("No connection, so the answer's own text did not come."),
        "failed": _("The server failed. Try once more."),
        # What an answer still lacks, or takes along
        "rate-first": _("First rate answer %(letter)s: %(criterion)s"),
        "reason-needed": _("This project asks for a reason with every answer"),
        "comment-needed": _("This project asks for a comment with every answer"),
        "better-kept": _("Your better answer goes with your verdict"),
        "answer": _("Answer %(letter)s"),
        # Rankings
        "pick": _("Pick"),
        "place": _("Place %(number)s"),
        "not-placed": _("not placed"),
        "pick-in-order": _("Pick the answers, best first."),
        "left": _by_count(lambda count: ngettext("(%(count)s left)", "(%(count)s left)", count)),
        # Differences
        "little-shared": _("These two share too little for marks to help"),
        "nothing-differs": _("The two say the same, word for word"),
    }


def _by_count(sentence: Callable[[int], str]) -> dict[str, str]:
    return {kind: sentence(count) for kind, count in KINDS.items()}
