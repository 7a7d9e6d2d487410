"""Take the pictures of the README from a running Tastemaker, such as `make demo` starts: `make screenshots`.

Reads from the environment BASE_URL (http://127.0.0.1:8000), PROJECT (the slug; default: the demo's support, or the
first on the manager's home page), MANAGER and MANAGER_PASSWORD, ANNOTATOR and ANNOTATOR_PASSWORD, and OUT (docs/images).
It looks and answers nothing; the annotator's page takes a lease, which runs out by itself.
"""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from playwright.sync_api import Browser, Page, sync_playwright

BASE_URL = os.environ.get("BASE_URL", "http://127.0.0.1:8000")
OUT = Path(os.environ.get("OUT") or Path(__file__).parent / "images")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
]
DESKTOP = {"width": 1440, "height": 900}
PHONE = {"width": 390, "height": 844}


class Person(NamedTuple):
    name: str
    password: str


def person(role: str) -> Person:
    name, password = os.environ.get(role), os.environ.get(f"{role}_PASSWORD")
    if not name or not password:
        sys.exit(f"Set {role} and {role}_PASSWORD to an account of the running demo.")
    return Person(name, password)


@contextmanager
def signed_in(browser: Browser, who: Person, dark: bool = False, phone: bool = False) -> Iterator[Page]:
    context = browser.new_context(
        base_url=BASE_URL,
        viewport=PHONE if phone else DESKTOP,
        color_scheme="dark" if dark else "light",
        has_touch=phone,
        is_mobile=phone,
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.goto("/accounts/login/")
    page.get_by_label("Name or e-mail address").fill(who.name)
    page.get_by_label("Password").fill(who.password)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_selector("h1:has-text('projects')")
    yield page
    context.close()


def find_project(page: Page) -> str:
    if slug := os.environ.get("PROJECT"):
        return slug
    links = page.locator("main a[href^='/p/']").evaluate_all(
        "links => links.map(link => link.getAttribute('href'))"
    )
    slugs = [re.fullmatch(r"/p/([^/]+)/.*", link)[1] for link in links]
    return "support" if "support" in slugs else slugs[0]


def take(page: Page, path: str, name: str, full_page: bool = False) -> None:
    answer = page.goto(path)
    if answer is None or not answer.ok:
        sys.exit(f"{path} did not show; {name} was not taken.")
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(500)  # charts draw themselves after they have loaded
    page.screenshot(path=OUT / f"{name}.png", full_page=full_page)
    print(OUT / f"{name}.png")


def manager_pages(browser: Browser, manager: Person) -> str:
    with signed_in(browser, manager) as page:
        slug = find_project(page)
        take(page, f"/p/{slug}/loop/", "loop")
        take(page, f"/p/{slug}/data/", "data")
        take(page, f"/p/{slug}/versions/", "versions")
        take(page, f"/p/{slug}/runs/", "runs")
        rows = page.locator("main tr", has_text="ppo").locator("a")  # the run with most to see
        runs = rows.evaluate_all("links => links.map(link => link.getAttribute('href'))")
        shown = [href for href in runs if re.fullmatch(rf"/p/{slug}/runs/\d+/", href or "")]
        if shown:
            take(page, shown[0], "run", full_page=True)
        if page.request.get("/p/criteria/settings/").ok:
            take(page, "/p/criteria/settings/", "settings")
    with signed_in(browser, manager, dark=True) as page:
        take(page, f"/p/{slug}/loop/", "loop-dark")
    return slug


def annotator_pages(browser: Browser, annotator: Person, slug: str) -> None:
    for name, look in {
        "annotate": {},
        "annotate-dark": {"dark": True},
        "annotate-phone": {"phone": True},
    }.items():
        with signed_in(browser, annotator, **look) as page:
            take(page, f"/p/{slug}/label/", name)
            for form in ("criteria", "rankings"):
                if name == "annotate" and page.request.get(f"/p/{form}/label/").ok:
                    take(page, f"/p/{form}/label/", f"annotate-{form}")


def main() -> None:
    manager, annotator = person("MANAGER"), person("ANNOTATOR")
    OUT.mkdir(parents=True, exist_ok=True)
    chromium = (
        os.environ.get("TASTEMAKER_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        slug = manager_pages(browser, manager)
        annotator_pages(browser, annotator, slug)
        browser.close()


if __name__ == "__main__":
    main()
