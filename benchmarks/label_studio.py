"""Label Studio's pairwise page, driven as ours is: benchmarks/page.py.

    python -m benchmarks.label_studio .venv-label-studio/bin/python 200 300

It has no key for an answer, so one side is clicked and Ctrl+Enter, its key for submitting, is timed. The last line of
stdout is one JSON object. Its folder is gone afterwards.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from benchmarks.page import ARGUMENTS, WATCH, Traffic, comparisons, timings

START_SECONDS = 180
NAME, PASSWORD = "annotator@example.org", "a long passphrase"
CONFIG = """<View>
  <Text name="prompt" value="$prompt"/>
  <Pairwise name="better" toName="left,right"/>
  <View style="display: flex">
    <Text name="left" value="$left"/>
    <Text name="right" value="$right"/>
  </View>
</View>"""
SIDES = ("left", "right")
CHANGED = "() => document.querySelector('[class*=htx-richtext], .lsf-richtext__container, .lsf-object')?.textContent ?? ''"


@contextmanager
def server(python: Path) -> Iterator[str]:
    """Label Studio on a free port, in a folder of its own; its address."""
    folder = tempfile.mkdtemp(prefix="label-studio-page-")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        str(python.parent / "label-studio"), "start", "--no-browser", "--data-dir", folder, "--port", str(port),
        "--username", NAME, "--password", PASSWORD, "--log-level", "ERROR",
    ]  # fmt: skip
    quiet = {
        "LATEST_VERSION_CHECK": "0",
        "COLLECT_ANALYTICS": "0",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
    }
    with open(Path(folder) / "log", "wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=os.environ | quiet, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + START_SECONDS
        while True:
            with suppress(OSError):
                urllib.request.urlopen(f"{address}/health", timeout=5)
                break
            if time.monotonic() > end or process.poll() is not None:
                raise SystemExit((Path(folder) / "log").read_text()[-3000:])
            time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=30)
        process.kill()
        shutil.rmtree(folder, ignore_errors=True)


def post(page: Page, path: str, body: Any) -> Any:
    """One POST to its API, as its pages make them."""
    token = next(cookie["value"] for cookie in page.context.cookies() if cookie["name"] == "csrftoken")
    response = page.request.post(path, data=body, headers={"X-CSRFToken": token, "Referer": page.url})
    if not response.ok:
        raise SystemExit(f"{path}: {response.status} {response.text()[:500]}")
    return response.json()


def make_project(page: Page, tasks: list[dict[str, str]]) -> int:
    project = post(page, "/api/projects/", {"title": "Benchmark", "label_config": CONFIG})["id"]
    post(page, f"/api/projects/{project}/import", tasks)
    return project


def main() -> None:
    """Drive, count, print."""
    python, count, pause_ms = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    with server(python) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("TASTEMAKER_CHROMIUM") or shutil.which("chromium"), args=ARGUMENTS
        )
        page = browser.new_context(base_url=address, viewport={"width": 1280, "height": 850}).new_page()
        page.goto("/user/login/")
        page.locator("input[name=email]").fill(NAME)
        page.locator("input[name=password]").fill(PASSWORD)
        page.locator("button[type=submit]").click()
        page.wait_for_url(lambda url: "/login" not in url)
        tasks = [
            {
                "prompt": one["prompt"],
                **dict(zip(SIDES, (text["text"] for text in one["completions"]), strict=True)),
            }
            for one in comparisons(count + 5)
        ]
        project = make_project(page, tasks)
        traffic = Traffic(page, address)
        page.goto(f"/projects/{project}/data?labeling=1")
        page.get_by_text(tasks[0]["prompt"]).wait_for(timeout=60_000)
        page.wait_for_load_state("networkidle")
        figures = traffic.figures()  # of the page; what it asks for with each task is not ours to count
        page.evaluate(f"({WATCH})({CHANGED})")
        for task in tasks[:count]:
            page.get_by_text(task["left"][:60]).click()
            before = page.evaluate(f"({CHANGED})()")
            page.keyboard.press("Control+Enter")
            page.wait_for_function(
                f"(before) => {{ const now = ({CHANGED})(); return now && now !== before; }}", arg=before
            )
            page.wait_for_timeout(pause_ms)
        found = timings(page.evaluate("window.keyToNext")) | figures
        kept = page.request.get(f"/api/projects/{project}/").json()
        found["lost"] = count - kept["num_tasks_with_annotations"]
        found["doubled"] = kept["total_annotations_number"] - kept["num_tasks_with_annotations"]
        browser.close()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
