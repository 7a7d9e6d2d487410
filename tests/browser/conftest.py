"""A real Chromium on a real server: what a person does, read back from the database.

The browser is the system's (`TASTEMAKER_CHROMIUM`, else chromium or google-chrome on the path), or the
one that `playwright install` has put in place; where there is none, these tests are skipped and say so.
"""

import os
import shutil
import threading
import time
from urllib.parse import urlsplit

import pytest
from django.conf import settings
from django.core.cache import cache
from django.db import connections
from django.test import Client
from django.urls import reverse

from labeling.models import Completion, Judgment, Prompt
from labeling.selection import create_comparison

playwright = pytest.importorskip("playwright.sync_api")

ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PASSWORD = "a long passphrase"
WAIT_SECONDS = 60  # several browsers share two cores
playwright.expect.set_options(timeout=1000 * WAIT_SECONDS)


@pytest.fixture(scope="package")
def chromium():
    """For the browser tests alone: while Playwright is there, its event loop lets no other one run in this thread."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = os.environ.get("TASTEMAKER_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    # Playwright keeps an event loop in this thread, and Django then takes every query for an async one.
    with pytest.MonkeyPatch.context() as patch, playwright.sync_playwright() as started:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
        try:
            browser = started.chromium.launch(executable_path=path, args=ARGUMENTS)
        except playwright.Error as error:
            pytest.skip(f"no Chromium can be started: {error}")
        yield browser
        browser.close()
        connections.close_all()  # that of this thread beside the event loop, which nobody reaches without it


@pytest.fixture(autouse=True)
def nobody_signed_in_lately(embedded_servers):
    """Logins are limited by address and minute, and a quick machine signs in more often than people do."""
    cache.clear()


@pytest.fixture
def faults():
    """What the browser complained about: script errors and refusals by the content policy."""
    return []


@pytest.fixture
def open_browser(chromium, live_server, faults):
    """Make a fresh browser profile; every script error in it ends up in `faults`."""
    contexts = []

    def make(**options):
        context = chromium.new_context(base_url=live_server.url, **options)
        context.set_default_timeout(2000 * WAIT_SECONDS)
        contexts.append(context)
        context.on("weberror", lambda error: faults.append(str(error.error)))
        context.on(
            "console",
            lambda message: (
                faults.append(message.text) if "Content Security Policy" in message.text else None
            ),
        )
        return context

    yield make
    for context in contexts:
        context.set_offline(False)
        context.close()
    wait_for_answers()


def wait_for_answers():
    """Until the live server's threads, one a connection, have ended: a request that is still being answered
    would meet a database that is being emptied."""
    deadline = time.monotonic() + WAIT_SECONDS
    while any("process_request_thread" in thread.name for thread in threading.enumerate()):
        assert time.monotonic() < deadline, "the live server is still answering, and no browser is open"
        time.sleep(0.01)


@pytest.fixture
def knock(open_browser):
    """Give name and password at the door, in a fresh profile; returns the page that it leads to, at `path`."""

    def give(person, path="/", **options):
        page = open_browser(**options).new_page()
        page.goto(reverse("account_login"))
        page.get_by_label("Name or e-mail address").fill(person.username)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(lambda url: urlsplit(url).path == path)
        return page

    return give


@pytest.fixture
def sign_in(open_browser, live_server):
    """A person's page in a fresh profile, with the cookie that the door would have given."""

    def sign(person, path="/", **options):
        client = Client()
        client.force_login(person)
        cookie = client.cookies[settings.SESSION_COOKIE_NAME]
        context = open_browser(**options)
        context.add_cookies([{"name": cookie.key, "value": cookie.value, "url": live_server.url}])
        page = context.new_page()
        page.goto(path)
        assert urlsplit(page.url).path == path, f"{person} was led from {path} to {page.url}"
        return page

    return sign


@pytest.fixture
def desk(sign_in, project, bob):
    """Bob's desk, open on its first comparison."""

    def open_desk(**options):
        return sign_in(bob, reverse("labeling:label", args=[project.slug]), **options)

    return open_desk


@pytest.fixture
def pairs(project):
    """Make n comparisons of "good N" and "bad N"; returns them in the order in which they are asked."""

    def make(count, candidates=("good", "bad")):
        made = []
        for number in range(count):
            prompt = Prompt.objects.add(project, f"Question {number}?")
            texts = [f"{word} {number}" for word in candidates]
            made.append(
                create_comparison(project, prompt, [Completion.objects.add(prompt, t, t) for t in texts])
            )
        return made

    return make


@pytest.fixture
def judged(project):
    """The standing judgments as the database has them, oldest first."""

    def read():
        return list(Judgment.objects.current().filter(comparison__project=project).order_by("id"))

    return read


@pytest.fixture
def until(chromium):
    """Wait for the server to have something; the browser lives on meanwhile, with its intercepted requests."""

    def wait(condition):
        end = time.monotonic() + WAIT_SECONDS
        while not condition():
            assert time.monotonic() < end, "the server did not get it in time"
            chromium.contexts[0].pages[0].wait_for_timeout(50)

    return wait


def lose_receipts(page):
    """Answers reach the server, and its receipts nobody; returns the statuses of those that are lost, while they are."""
    lost = []

    def lose(route):
        lost.append(route.fetch().status)
        route.abort()

    page.route("**/label/answer/", lose)
    return lost


def wait_for_frame(page):
    """Until the page has been drawn, and what watches sizes (bar.js) has seen them."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")


def wait_for_receipts(page):
    """Until nothing that was said or begun waits in the browser any more, in whichever tab it was said."""
    page.wait_for_function(
        "() => !Object.keys(localStorage).some((key) => /^tastemaker(-draft)?:/.test(key))"
    )
