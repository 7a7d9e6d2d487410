"""The annotator's page in a real Chromium: from the key to the next comparison, and what goes over the wire.

    python -m benchmarks.page --comparisons 200

A server of its own, with a database of its own, in a folder that is gone afterwards. Chromium is the system's. One
comparison is answered after the other by key, with a pause as a person makes it; then the database is asked what
arrived. The last line of stdout is one JSON object. Label Studio's pairwise page is driven in the same run where
its environment, `.venv-label-studio`, is installed: benchmarks/label_studio.py.
"""

import argparse
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
KEYS = "1234567"
PASSWORD = "a long passphrase"
START_SECONDS = 60
# From the key to the frame in which another comparison stands there. `changed` is the page's own way to tell.
WATCH = """(changed) => {
  window.keyToNext = [];
  let began = null;
  let before = changed();
  addEventListener("keydown", () => { began = performance.now(); before = changed(); }, true);
  new MutationObserver(() => {
    if (began === null || !changed() || changed() === before) return;
    const start = began;
    began = null;
    requestAnimationFrame(() => {
      const painted = new MessageChannel();
      painted.port1.onmessage = () => window.keyToNext.push(performance.now() - start);
      painted.port2.postMessage(null);
    });
  }).observe(document.body, { childList: true, subtree: true, attributes: true, characterData: true });
}"""
OURS_CHANGED = "() => document.querySelector('#stage article')?.dataset.assignment ?? ''"


def comparisons(count: int) -> list[dict[str, Any]]:
    """Prompts with two answers of 30 to 300 words, the same each time."""
    dice = random.Random(1)
    words = [line["prompt"] for line in read_rows(ROOT / "training" / "demo" / "prompts.jsonl")]
    vocabulary = " ".join(words).split()

    def text() -> str:
        return " ".join(dice.choices(vocabulary, k=dice.randrange(30, 300)))

    return [
        {"prompt": f"{number}. {dice.choice(words)}", "completions": [{"text": text()}, {"text": text()}]}
        for number in range(count)
    ]


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@contextmanager
def own_server(count: int) -> Iterator[tuple[str, str]]:
    """A web server on its own database, with so many comparisons for an annotator; its address and the path of the desk."""
    folder = tempfile.mkdtemp(prefix="tastemaker-page-")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {"TASTEMAKER_DATA": folder, "DJANGO_SETTINGS_MODULE": "config.settings", "PORT": str(port)}
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"  # Playwright's loop runs beside our queries
    import django
    from django.conf import settings
    from django.core.management import call_command

    from config import embedded
    from config.supervisor import answers, web_server

    django.setup()
    release = embedded.hold(settings.DATA)
    child = web_server("127.0.0.1", port)
    try:
        call_command("migrate", verbosity=0)
        slug = make_project(count)
        child.start()
        address = f"http://127.0.0.1:{port}"
        end = time.monotonic() + START_SECONDS
        while not answers(f"{address}/health/"):
            if time.monotonic() > end:
                raise SystemExit(f"the web server did not start: {folder}/logs/web.log")
            time.sleep(0.1)
        yield address, f"/p/{slug}/label/"
    finally:
        if child.process:
            child.process.terminate()
            child.process.wait(timeout=START_SECONDS)
        release()
        shutil.rmtree(folder, ignore_errors=True)


def make_project(count: int) -> str:
    from labeling.imports import add_comparisons
    from labeling.models import User
    from labeling.projects import add_member, create_project

    manager = User.objects.create_user("manager", password=PASSWORD)
    annotator = User.objects.create_user("annotator", password=PASSWORD)
    project = create_project("Benchmark", manager)
    add_member(project, annotator, "annotator")
    add_comparisons(project, comparisons(count))
    return project.slug


def drive(browser: Browser, address: str, desk: str, count: int, pause_ms: int) -> dict[str, Any]:
    """Answer so many comparisons by key; what it took, and what the browser asked for."""
    page = browser.new_context(base_url=address, viewport={"width": 1280, "height": 850}).new_page()
    page.goto(f"/accounts/login/?next={desk}")
    page.get_by_label("Name or e-mail address").fill("annotator")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(lambda url: urlsplit(url).path == desk)
    traffic = Traffic(page, address)
    page.reload()  # as on the first morning
    page.wait_for_load_state("networkidle")
    page.evaluate(f"({WATCH})({OURS_CHANGED})")
    for number in range(count):
        page.keyboard.press(KEYS[number % len(KEYS)])
        page.wait_for_timeout(pause_ms)
    page.wait_for_load_state("networkidle")
    taken = page.evaluate("window.keyToNext")
    found = timings(taken) | traffic.figures()
    page.context.close()
    return found


class Traffic:
    """Bytes of scripts and styles as they come over the wire to an empty cache, and requests to anybody else."""

    def __init__(self, page: Page, address: str) -> None:
        self.address = address
        self.kinds: dict[str, str] = {}
        self.assets = 0
        self.foreign = 0
        network = page.context.new_cdp_session(page)
        network.on("Network.requestWillBeSent", lambda event: self._asked(event["request"]["url"]))
        network.on(
            "Network.responseReceived", lambda event: self.kinds.update({event["requestId"]: event["type"]})
        )
        network.on("Network.loadingFinished", self._finished)
        network.send("Network.enable")
        network.send("Network.setCacheDisabled", {"cacheDisabled": True})

    def _asked(self, url: str) -> None:
        self.foreign += not url.startswith((self.address, "data:", "blob:"))

    def _finished(self, event: dict[str, Any]) -> None:
        if self.kinds.get(event["requestId"]) in ("Script", "Stylesheet"):
            self.assets += int(event["encodedDataLength"])

    def figures(self) -> dict[str, int]:
        return {"asset_bytes": self.assets, "foreign_requests": self.foreign}


def timings(taken: Sequence[float]) -> dict[str, Any]:
    """Median and 95th percentile in ms, and of how many."""
    if len(taken) < 2:
        raise SystemExit("no comparison followed upon a key")
    return {
        "key_to_next_ms": {"median": round(median(taken), 1), "p95": round(quantiles(taken, n=20)[-1], 1)},
        "answered": len(taken),
    }


def stored(count: int) -> dict[str, int]:
    """What the database has of so many answers."""
    from labeling.models import Judgment

    kept = Judgment.objects.values_list("assignment", flat=True)
    return {"lost": count - len(set(kept)), "doubled": len(kept) - len(set(kept))}


def label_studio(count: int, pause_ms: int) -> dict[str, Any] | None:
    """The same on Label Studio's pairwise page; None where it is not installed."""
    python = ROOT / ".venv-label-studio" / "bin" / "python"
    if not python.exists():
        return None
    command = [sys.executable, "-m", "benchmarks.label_studio", str(python), str(count), str(pause_ms)]
    own = ("DJANGO_SETTINGS_MODULE", "TASTEMAKER_DATA", "PORT")
    environment = {name: value for name, value in os.environ.items() if name not in own}
    outcome = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if outcome.returncode:
        print(outcome.stderr[-3000:], file=sys.stderr)
        return None
    return json.loads(outcome.stdout.splitlines()[-1])


def main() -> None:
    """Drive, count, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--comparisons", type=int, default=200)
    parser.add_argument("--pause-ms", type=int, default=300, help="between two answers")
    given = parser.parse_args()
    count, pause_ms = given.comparisons, given.pause_ms
    chromium = (
        os.environ.get("TASTEMAKER_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    )
    with own_server(count + 5) as (address, desk), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        found = drive(browser, address, desk, count, pause_ms) | stored(count)
        browser.close()
    if peer := label_studio(count, pause_ms):
        found["label_studio"] = peer
    print(json.dumps(found))


if __name__ == "__main__":
    main()
