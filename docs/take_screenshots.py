"""Take a picture of every page into docs/screenshots/: `make screenshots`.

Starts an installation of its own in a scratch folder, makes the demo, lets simulated people answer until its loop has
turned, with a third round half answered, and looks at each page as its people do: on a desk in light, on a phone in the dark.
Takes about ten minutes on two cores; `--rounds 0` leaves training out and takes one.
"""

import argparse
import atexit
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import django
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "screenshots"
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
]  # fmt: skip
LOOKS = {
    "": {"viewport": {"width": 1280, "height": 850}},
    "-phone": {
        "viewport": {"width": 360, "height": 780}, "color_scheme": "dark", "has_touch": True, "is_mobile": True, "device_scale_factor": 2,
    },
}  # fmt: skip
ANNOTATOR, MANAGER, VISITOR = "annotator", "manager", ""  # a visitor has not signed in
PROJECT = "support"


def open_dialog(key: str, page: Page) -> None:
    page.keyboard.press(key)
    page.locator("dialog[open]").wait_for()


def unfold(page: Page) -> None:
    page.locator("main summary").first.click()


def begin(page: Page) -> None:
    """The first question of a qualification round; on the second device it is open already."""
    if page.locator("main form button.primary").count() and not page.locator("article").count():
        page.locator("main form button.primary").click()
        page.wait_for_load_state("networkidle")


def put_in_order(page: Page) -> None:
    """Half of an order: the third before the first two, which are tied."""
    page.keyboard.press("Backspace")
    page.keyboard.type("31=2")


def rewrite(page: Page) -> None:
    """A better answer, begun from A."""
    open_dialog("e", page)
    text = page.locator("#better-text")
    page.wait_for_function("() => document.querySelector('#better-text').value")
    text.press("Control+End")
    text.press_sequentially(" I am sorry for the trouble.")


class Shot(NamedTuple):
    """A page, by the name of its route, and whose it is."""

    name: str
    route: str
    who: str
    project: str | None = PROJECT
    full: bool = False  # the whole page, however long
    act: Callable[[Page], None] | None = None


SHOTS = [
    Shot("sign-in", "account_login", VISITOR, None),
    Shot("projects", "labeling:home", ANNOTATOR, None),
    Shot("desk", "labeling:label", ANNOTATOR),
    Shot("desk-why", "labeling:label", ANNOTATOR, "criteria", act=partial(open_dialog, "c")),
    Shot("desk-keys", "labeling:label", ANNOTATOR, act=partial(open_dialog, "?")),
    Shot("desk-differences", "labeling:label", ANNOTATOR, act=lambda page: page.keyboard.press("d")),
    Shot("desk-better", "labeling:label", ANNOTATOR, act=rewrite),
    Shot("desk-rankings", "labeling:label", ANNOTATOR, "rankings", act=put_in_order),
    Shot("desk-criteria", "labeling:label", ANNOTATOR, "criteria"),
    Shot("desk-conversations", "labeling:label", ANNOTATOR, "conversations"),
    Shot("my-answers", "labeling:mine", ANNOTATOR),
    Shot("what-my-answers-did", "training:effect", ANNOTATOR, full=True),
    Shot("guidelines", "labeling:guidelines", ANNOTATOR),
    Shot("account", "labeling:account", ANNOTATOR, None),
    Shot("own-keys", "labeling:keys", ANNOTATOR, None),
    Shot("password", "account_change_password", ANNOTATOR, None),
    Shot("e-mail", "account_email", ANNOTATOR, None),
    Shot("two-factor", "mfa_index", ANNOTATOR, None),
    Shot("sign-out", "account_logout", ANNOTATOR, None),
    Shot("qualification", "labeling:qualification", ANNOTATOR, "facts", act=begin),
    Shot("questions", "labeling:questions", MANAGER, "facts"),
    Shot("question-new", "labeling:question-new", MANAGER, "facts"),
    Shot("tokens", "labeling:tokens", MANAGER, None),
    Shot("loop", "training:loop", MANAGER, full=True),
    Shot("loop-settings", "training:loop-settings", MANAGER, full=True),
    Shot("schedules", "training:schedules", MANAGER),
    Shot("runs", "training:runs", MANAGER),
    Shot("run", "training:run", MANAGER, full=True),
    Shot("run-new", "training:run-new", MANAGER),
    Shot("versions", "training:versions", MANAGER),
    Shot("data", "labeling:data", MANAGER),
    Shot("people", "labeling:people", MANAGER),
    Shot("reports", "labeling:reports", MANAGER, act=unfold),
    Shot("settings", "labeling:settings", MANAGER, "criteria", full=True),
]


def set_up(folder: str) -> None:
    """Let the project's code work on a data folder of its own."""
    sys.path.insert(0, str(ROOT))
    os.environ |= {
        "TASTEMAKER_DATA": folder,
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "LOG_LEVEL": "WARNING",
    }
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"  # Playwright's loop runs beside the database calls
    for name in ("DATABASE_URL", "REDIS_URL"):
        os.environ.pop(name, None)
    django.setup()
    from config import embedded

    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    embedded.attach()


def turn_the_loop(address: str, passwords: dict[str, str], rounds: int) -> None:
    """Close so many rounds of the demo's loop, and answer half of one more."""
    from labeling.models import Membership, Project, User
    from training import loop
    from training.models import Round, Run
    from training.rehearsal import POLL_SECONDS, Rehearsal, SimulatedAnnotator

    project = Project.objects.get(slug=PROJECT)
    rehearsal = Rehearsal(address, rounds, judgments=0, seed=1)
    people = {ANNOTATOR: passwords[ANNOTATOR]} | dict.fromkeys(
        ("ana", "ben", "chen"), "a passphrase of theirs"
    )
    for name, password in people.items():
        if name != ANNOTATOR:
            user = User.objects.create_user(name, password=password)
            Membership.objects.create(project=project, user=user, role=Membership.Role.ANNOTATOR)
        rehearsal.people.append(SimulatedAnnotator(address, PROJECT, name, password, seed=1))
    for _ in range(rounds):
        turn = Round.objects.filter(project=project).latest("id")
        rehearsal.await_stage(turn, Round.Stage.COLLECT)
        rehearsal.collect(turn)
        rehearsal.await_stage(turn, Round.Stage.DONE)
        loop.start_round(project)
    turn = Round.objects.filter(project=project).latest("id")
    rehearsal.await_stage(turn, Round.Stage.COLLECT)
    turn.target //= 2
    rehearsal.collect(turn)
    while Run.objects.unfinished().exists() or Round.objects.followed().exists():
        time.sleep(POLL_SECONDS)


def put_aside() -> None:
    """Something for the manager to read."""
    from labeling.assignment import flag, next_for, skip
    from labeling.models import Project, User

    project = Project.objects.get(slug=PROJECT)
    ana, ben = (User.objects.get(username=name) for name in ("ana", "ben"))
    flag(next_for(ana, project), "private", "Answer A names a customer and their street.")
    skip(next_for(ben, project), "unclear")


@contextmanager
def opened(browser: Browser, address: str, who: str, passwords: dict[str, str], look: dict) -> Iterator[Page]:
    """A fresh browser, in which they have signed in."""
    context = browser.new_context(base_url=address, reduced_motion="reduce", locale="en", **look)
    page = context.new_page()
    if who != VISITOR:
        page.goto("/accounts/login/")
        page.get_by_label("Name or e-mail address").fill(who)
        page.get_by_label("Password").fill(passwords[who])
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(lambda url: "login" not in url)
    yield page
    context.close()


def path_of(shot: Shot) -> str | None:
    """Its address; None for a run where there is none."""
    from django.urls import reverse

    from training.models import Run

    words: list[str | int] = [shot.project] if shot.project else []
    if shot.route == "training:run-new":
        words.append("reward")
    if shot.route == "training:run":
        run = Run.objects.filter(project__slug=PROJECT, method="ppo").order_by("-id").first()
        if run is None:
            return None
        words.append(run.pk)
    return reverse(shot.route, args=words)


def take(page: Page, shot: Shot, suffix: str) -> None:
    path = path_of(shot)
    if path is None:
        print(f"{shot.name}: there is none to show")
        return
    answer = page.goto(path)
    if answer is None or not answer.ok:
        sys.exit(f"{path} did not show; {shot.name} was not taken.")
    page.wait_for_load_state("networkidle")
    if shot.act:
        shot.act(page)
    page.wait_for_timeout(500)  # charts draw themselves after they have loaded
    target = OUT / f"{shot.name}{suffix}.png"
    page.screenshot(path=target, full_page=shot.full)
    print(target.relative_to(ROOT), flush=True)


def take_all(address: str, passwords: dict[str, str]) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    chromium = (
        os.environ.get("TASTEMAKER_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        for suffix, look in LOOKS.items():
            for who in (VISITOR, ANNOTATOR, MANAGER):
                with opened(browser, address, who, passwords, look) as page:
                    for shot in SHOTS:
                        if shot.who == who:
                            take(page, shot, suffix)
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=2, help="of the loop that are closed first; 2")
    given = parser.parse_args()
    set_up(tempfile.mkdtemp(prefix="tastemaker-screenshots-"))
    from django.core.management import call_command

    from config.demo import make_demo_project
    from config.supervisor import running_installation

    call_command("migrate", verbosity=0)
    passwords = make_demo_project()
    with running_installation(print) as address:
        turn_the_loop(address, passwords, given.rounds)
        put_aside()
        take_all(address, passwords)


if __name__ == "__main__":
    main()
