"""Tab through the pages: it reaches all that can be used, in the order read, seen and named, and never gets caught.

WCAG 2.2: 2.1.1 Keyboard, 2.1.2 No Keyboard Trap, 2.4.3 Focus Order, 2.4.7 Focus Visible, 2.4.11 Focus Not Obscured,
4.1.2 Name; beside them 1.4.10 Reflow, 1.4.12 Text Spacing and 2.3.3 Animation from Interactions. axe looks at a page
that stands still, and sees none of them.
"""

import pytest
from django.urls import reverse
from playwright.sync_api import expect

from config.demo import FORMS, make_form
from labeling.models import User
from tests.training.rounds import loop_of

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

MOST_STOPS = 400
LOOKS = {
    "desktop": {"viewport": {"width": 1280, "height": 850}},
    # 1280 pixels at 400 %, which nobody may have to scroll in two directions (1.4.10 Reflow).
    "zoomed": {"viewport": {"width": 320, "height": 256}},
}
# What is wrong where Tab stopped, or nothing, and what it is; `stops` are compared by their places in the document.
STOP = """() => {
    const at = document.activeElement;
    if (at === document.body || at === document.documentElement) return null;
    window.stops ??= [];
    if (at === stops.at(-1)) return { same: true };
    if (stops.includes(at)) return { again: true };
    stops.push(at);
    const own = at.matches("select, textarea, input") ? "" : at.innerText; // the words in a field are not its name
    const label = at.ariaLabel || at.labels?.[0]?.textContent || own || at.title ||
        document.getElementById(at.getAttribute("aria-labelledby"))?.textContent || "";
    const name = label.trim().replace(/\\s+/g, " ");
    const shown = at.matches("input[type=radio], input[type=checkbox]") && at.labels[0] || at;
    const box = shown.getBoundingClientRect();
    const parts = [at, shown, ...shown.children].map((one) => getComputedStyle(one));
    const marked = parts.some(({ outlineStyle, outlineWidth }) => outlineStyle !== "none" && parseFloat(outlineWidth) >= 2);
    const left = Math.max(box.left, 0), right = Math.min(box.right, innerWidth);
    const top = Math.max(box.top, 0), bottom = Math.min(box.bottom, innerHeight);
    const seen = [0.02, 0.25, 0.5, 0.75, 0.98].some((down) => [0.02, 0.25, 0.5, 0.75, 0.98].some((across) => {
        const hit = document.elementFromPoint(left + (right - left) * across, top + (bottom - top) * down);
        return shown.contains(hit);
    }));
    const wrong = [!name && "no name", !marked && "no mark", (right <= left || bottom <= top || !seen) && "out of sight"];
    return { what: `${at.tagName.toLowerCase()} ${name.slice(0, 40) || at.outerHTML.slice(0, 90)}`, wrong: wrong.filter(Boolean).join(", ") };
}"""
# What can be used and Tab did not reach; and where it went back to what is read before.
LEFT_OUT = """() => {
    const can = "a[href], button:not([disabled]), input:not([disabled]):not([type=hidden]), select, textarea, summary, [tabindex='0']";
    const inside = document.querySelector("dialog[open]") ?? document;
    const chosen = (one) => one.type !== "radio" || stops.some((stop) => stop.name === one.name);
    return [...inside.querySelectorAll(can)]
        .filter((one) => one.checkVisibility({ visibilityProperty: true }) && !one.closest("[inert]"))
        .filter((one) => !stops.includes(one) && !(one.type === "radio" && chosen(one)))
        .map((one) => one.outerHTML.slice(0, 90));
}"""
TURNED_BACK = """() => {
    const path = (one) => (one ? [...path(one.parentElement), one] : []);
    const back = [];
    // In a dialog it began where the dialog lets one begin, and came to what is above it last.
    const first = !document.querySelector("dialog[open]") ? stops[0] : stops.reduce((one, other) => (one.compareDocumentPosition(other) & Node.DOCUMENT_POSITION_PRECEDING ? other : one));
    stops.unshift(...stops.splice(stops.indexOf(first)));
    for (let i = 1; i < stops.length; i++) {
        const [one, next] = [path(stops[i - 1]), path(stops[i])];
        const apart = one.findIndex((part, depth) => part !== next[depth]);
        const [a, b] = [one[apart], next[apart]];
        if (!a) continue; // into what it had, such as a card that scrolls
        if (!b) { back.push(`out to ${one[apart - 1].outerHTML.slice(0, 60)}`); continue; }
        if (!(a.compareDocumentPosition(b) & Node.DOCUMENT_POSITION_FOLLOWING)) back.push(`${a.outerHTML.slice(0, 60)} in the source`);
        const [from, to] = [a.getBoundingClientRect(), b.getBoundingClientRect()];
        if ([a, b].some((part) => ["fixed", "sticky"].includes(getComputedStyle(part).position))) continue;
        if ([a, b].every((part) => part.matches(".verdict"))) continue; // in the order of their keys, from A to B
        const above = to.bottom <= from.top + 1;
        const beside = to.top < from.bottom - 1 && from.top < to.bottom - 1;
        const before = getComputedStyle(a.parentElement).direction === "rtl" ? to.left >= from.right - 1 : to.right <= from.left + 1;
        if (above || (beside && before)) back.push(`${a.outerHTML.slice(0, 60)} -> ${b.outerHTML.slice(0, 60)}`);
    }
    return back;
}"""


def walk(page):
    """Press Tab until it has been everywhere; returns the names of where it stopped."""
    page.evaluate("window.stops = []")
    names, wrong = [], []
    page.evaluate(STOP)  # in a dialog one has the focus already
    for _ in range(MOST_STOPS):
        page.keyboard.press("Tab")
        stop = page.evaluate(STOP)
        if (stop is None and names) or (stop and stop.get("same")):
            continue  # past the page's end and on from its beginning, or on to the minutes of a time
        if not stop or stop.get("again"):
            break
        names.append(stop["what"])
        if stop["wrong"]:
            wrong.append(f"{stop['what']}: {stop['wrong']}")
    else:
        pytest.fail(f"Tab does not come to an end: {names[-8:]}")
    assert wrong == []
    assert page.evaluate(LEFT_OUT) == []
    assert page.evaluate(TURNED_BACK) == []
    return names


DESK = """Skip to content|Tastemaker|Ratings and reasons|0 today, 0 in all|Guidelines G|Keys ?|bob|Prompt|1|1|1|1|1|1|
1 A much better|2 A better|3 A slightly|4 Tie|5 B slightly|6 B better|7 B much better|0 Both bad|
C Say why|E Rewrite an answer|D Differences|L Scroll apart|S Skip|F Report"""


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("language", ["en", "ar"])
def test_the_desk(sign_in, alice, bob, look, language):
    for slug in ("rankings", "criteria", "conversations"):
        make_form(slug, FORMS[slug], alice, bob)
    User.objects.filter(pk=bob.pk).update(language=language)
    page = sign_in(bob, reverse("labeling:label", args=["criteria"]), **LOOKS[look])
    stops = walk(page)
    if (look, language) == ("desktop", "en"):
        assert [stop.split(" ", 1)[1] for stop in stops] == DESK.replace("\n", "").split("|")
    for slug in ("rankings", "conversations"):
        page.goto(reverse("labeling:label", args=[slug]))
        assert len(walk(page)) > 20
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_dialog_keeps_the_focus_and_gives_it_back(sign_in, alice, bob):
    make_form("criteria", FORMS["criteria"], alice, bob)
    page = sign_in(bob, reverse("labeling:label", args=["criteria"]), **LOOKS["desktop"])
    for act in ("why", "better", "skip", "flag", "keys"):
        opener = page.locator(f"button[data-do={act}]").first
        opener.focus()
        page.keyboard.press("Enter")
        page.locator(f"dialog#{act}[open]").wait_for()
        assert page.evaluate("document.activeElement.closest('dialog') !== null"), act
        walk(page)
        assert page.evaluate("stops.every((stop) => stop.closest('dialog[open]'))"), act
        page.keyboard.press("Escape")
        expect(page.locator("dialog[open]")).to_have_count(0)
        expect(opener).to_be_focused()


@pytest.mark.parametrize("look", LOOKS)
def test_the_other_pages(sign_in, alice, bob, project, look):
    make_form("facts", FORMS["facts"], alice, bob)
    loop_of(project)
    page = sign_in(bob, **LOOKS[look])
    pages = {
        name: reverse(f"labeling:{name}", args=[slug] if slug else [])
        for name, slug in {"home": None, "account": None, "keys": None, "mine": project.slug, "qualification": "facts"}.items()
    }  # fmt: skip
    for path in pages.values():
        page.goto(path)
        assert len(walk(page)) > 5, path
    page = sign_in(alice, **LOOKS[look])
    for name in ("settings", "people", "data", "questions", "question-new", "reports"):
        page.goto(reverse(f"labeling:{name}", args=["facts"]))
        assert len(walk(page)) > 8, name
    for name, args in {
        "loop": [],
        "runs": [],
        "run-new": ["reward"],
        "versions": [],
        "schedules": [],
        "loop-settings": [],
    }.items():
        page.goto(reverse(f"training:{name}", args=[project.slug, *args]))
        assert len(walk(page)) > 8, name


MOVING = """() => [...document.querySelectorAll("*")].flatMap((one) => ["", "::before", "::after"].map((part) => [one, part]))
    .filter(([one, part]) => {
        const { transitionDuration, animationDuration, animationName, scrollBehavior } = getComputedStyle(one, part || null);
        const moves = (animationName !== "none" && parseFloat(animationDuration) > 0) || scrollBehavior === "smooth";
        return moves || transitionDuration.split(",").some((duration) => parseFloat(duration) > 0);
    })
    .map(([one, part]) => `${one.tagName}.${one.className}${part}`)"""


def test_nothing_moves_for_who_wants_it_still(sign_in, alice, project, pairs):
    pairs(2)
    page = sign_in(alice, viewport={"width": 360, "height": 740})
    paths = [reverse(f"labeling:{name}", args=[project.slug]) for name in ("label", "settings", "mine")]
    page.goto(paths[0])
    assert page.evaluate(MOVING)  # buttons fade for everybody else
    page.emulate_media(reduced_motion="reduce")
    for path in [*paths, reverse("labeling:home"), reverse("training:loop", args=[project.slug])]:
        page.goto(path)
        assert page.evaluate(MOVING) == [], path
    page.goto(paths[0])
    page.locator(".tabs button").nth(1).click()
    settled = "() => new Promise((done) => requestAnimationFrame(() => done(document.querySelector('.answers').scrollLeft)))"
    at = page.evaluate(settled)
    assert at > 100
    page.wait_for_timeout(500)
    assert page.evaluate(settled) == at


SPACED = """() => {
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(`* { line-height: 1.5 !important; letter-spacing: 0.12em !important; word-spacing: 0.16em !important; }
        p { margin-bottom: 2em !important; }`);
    document.adoptedStyleSheets.push(sheet);
}"""
CUT_OFF = """() => [...document.querySelectorAll("body *")]
    .filter((one) => one.checkVisibility() && one.clientWidth > 1 && one.innerText?.trim() && !one.closest(".visually-hidden, .skip"))
    .filter((one) => {
        const { overflowX, overflowY, display, textOverflow } = getComputedStyle(one);
        const holds = one.matches("button, .button, summary, label > span, .badge, kbd");
        const over = (across) => holds || ["hidden", "clip"].includes(across);
        if (display === "inline" || textOverflow === "ellipsis") return false;
        return (over(overflowX) && one.scrollWidth > one.clientWidth + 1) || (over(overflowY) && one.scrollHeight > one.clientHeight + 1);
    })
    .map((one) => one.outerHTML.slice(0, 100))"""


@pytest.mark.parametrize("width", [1280, 360])
def test_more_room_between_letters_and_lines_cuts_nothing_off(sign_in, alice, bob, project, width):
    make_form("criteria", FORMS["criteria"], alice, bob)
    make_form("facts", FORMS["facts"], alice, bob)
    page = sign_in(bob, viewport={"width": width, "height": 800})
    for name, slug in {"label": "criteria", "qualification": "facts", "mine": project.slug}.items():
        page.goto(reverse(f"labeling:{name}", args=[slug]))
        page.evaluate(SPACED)
        assert page.evaluate(CUT_OFF) == [], name
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
    page.goto(reverse("labeling:label", args=["criteria"]))
    page.evaluate(SPACED)
    for act in ("why", "better", "skip", "flag"):
        page.locator(f".extras [data-do={act}]").click()
        page.locator(f"dialog#{act}[open]").wait_for()
        assert page.evaluate(CUT_OFF) == [], act
        page.keyboard.press("Escape")


def test_what_is_chosen_is_seen_in_the_systems_own_colours(sign_in, alice, bob):
    """Windows' contrast themes take every ground away that a page gave (1.4.1 Use of Color, 1.4.11)."""
    make_form("criteria", FORMS["criteria"], alice, bob)
    make_form("rankings", FORMS["rankings"], alice, bob)
    look = {"viewport": {"width": 700, "height": 900}, "forced_colors": "active"}  # with the answers as tabs
    page = sign_in(bob, reverse("labeling:label", args=["criteria"]), **look)

    def ground(part):
        return page.locator(part).first.evaluate("(one) => getComputedStyle(one).backgroundColor")

    def chosen_by(act, part):
        before = ground(part)
        act()
        page.locator("#stage").hover(position={"x": 1, "y": 1}, force=True)
        return ground(part) != before

    four = ".rating label:nth-of-type(4) > span"
    assert chosen_by(lambda: page.locator(".rating label").nth(3).click(), four)
    assert chosen_by(lambda: page.keyboard.press("d"), ".extras [data-do=differences]")
    assert ground(".tabs [aria-current=true]") != ground(
        ".tabs button:not([aria-current]):not([aria-pressed])"
    )
    given = ".verdict.a.s3"
    for mark in ("(one) => one.classList.add('given')", "(one) => (one.ariaPressed = 'true')"):
        assert chosen_by(lambda mark=mark: page.locator(given).evaluate(mark), given)
        page.locator(given).evaluate("(one) => { one.classList.remove('given'); one.ariaPressed = null; }")
    page.keyboard.press("c")
    assert chosen_by(lambda: page.keyboard.press("1"), "#why .tags label > span")
    page.goto(reverse("labeling:label", args=["rankings"]))
    assert chosen_by(lambda: page.keyboard.press("1"), ".pick")
