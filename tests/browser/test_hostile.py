"""Hostile text in a real browser: it shows as text, and nothing of it runs."""

import pytest
from playwright.sync_api import expect

from labeling.models import Completion, Prompt
from labeling.selection import create_comparison
from tests.labeling.test_rendering import PAYLOADS

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

EVENTS = ["window.hacked", "parent.hacked", "top.hacked"]


def test_no_payload_runs_asks_another_host_or_breaks_the_page(desk, project, live_server, faults):
    everything = "\n\n".join(PAYLOADS)
    prompt = Prompt.objects.add(project, everything)
    completions = [Completion.objects.add(prompt, text, "m") for text in (everything, "A quiet answer.")]
    create_comparison(project, prompt, completions)
    project.guidelines = project.name = everything[:190]
    project.save(update_fields=["guidelines", "name"])

    page = desk()
    asked, dialogs = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    page.reload()
    page.wait_for_load_state("networkidle")
    expect(page.locator("#stage .answer")).to_have_count(2)
    expect(page.get_by_text("<script>window.hacked = 1</script>", exact=False).first).to_be_visible()
    for link in page.locator("#stage a").all():
        assert link.get_attribute("href").startswith(("https://", "http://", "mailto:"))
        assert link.get_attribute("target") == "_blank" and "noopener" in link.get_attribute("rel")
    page.mouse.move(400, 400)
    page.keyboard.press("g")
    page.keyboard.press("g")
    for flag in EVENTS:
        assert page.evaluate(f"typeof {flag}") == "undefined"
    assert dialogs == [] and faults == []
    assert all(url.startswith(live_server.url) for url in asked)
    page.keyboard.press("1")
    expect(page.get_by_role("status")).to_have_text("Last answer saved")


@pytest.mark.parametrize("script", ["inline", "handler", "eval"])
def test_the_content_policy_stops_what_a_sanitiser_might_miss(desk, pairs, script, faults):
    """The wall behind the wall: script put into the page by hand does not run."""
    pairs(1)
    page = desk()
    attempts = {
        "inline": "const s = document.createElement('script'); s.textContent = 'window.hacked = 1'; document.body.append(s)",
        "handler": "document.body.insertAdjacentHTML('beforeend', '<img src=/nothing onerror=\"window.hacked = 1\">')",
        "eval": "const b = document.createElement('button'); b.setAttribute('onclick', 'window.hacked = 1'); document.body.append(b); b.click()",
    }
    page.evaluate(f"() => {{ {attempts[script]} }}")
    page.wait_for_timeout(300)
    assert page.evaluate("typeof window.hacked") == "undefined"
    assert any("Content Security Policy" in fault for fault in faults)


def test_a_very_long_answer_is_shown_whole_and_the_bar_still_works(desk, project):
    prompt = Prompt.objects.add(project, "Be long.")
    long = "word " * 40_000 + "the end"
    completions = [Completion.objects.add(prompt, text, "m") for text in (long, "\u202e\u200b reversed")]
    create_comparison(project, prompt, completions)
    page = desk()
    assert "the end" in page.locator("#stage .answers").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.keyboard.press("0")
    expect(page.get_by_role("status")).to_have_text("Last answer saved")
