"""Every page, on a desktop and on a phone and in both themes, looked at by axe: nothing against WCAG 2.2 A or AA."""

import json

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from django.urls import reverse
from django.utils import timezone

from config.demo import FORMS, make_form
from labeling.assignment import flag, next_for
from labeling.models import Completion, Membership, Prompt
from labeling.projects import save_guidelines
from labeling.selection import create_comparison
from tests.training.rounds import answer_again, ask, loop_of, say, trained
from training.models import LoopSettings, Metric, ModelVersion, Run

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
OF_COLOURS = ["color-contrast", "link-in-text-block"]  # the rules by which one theme can fail alone
LOOKS = {
    "desktop": {"viewport": {"width": 1280, "height": 850}, "reduced_motion": "reduce"},
    "phone": {
        "viewport": {"width": 360, "height": 740},
        "has_touch": True,
        "is_mobile": True,
        "reduced_motion": "reduce",
    },
}
OF_MANAGERS = [
    ("labeling:home", False), ("labeling:account", False), ("labeling:keys", False), ("labeling:tokens", False), ("labeling:settings", True),
    ("labeling:guidelines", True), ("labeling:mine", True), ("labeling:data", True), ("labeling:people", True), ("labeling:reports", True), ("training:loop", True),
    ("training:loop-settings", True), ("training:runs", True), ("training:versions", True), ("training:schedules", True),
    ("account_change_password", False), ("mfa_index", False), ("account_logout", False),
]  # fmt: skip


def make_loop(project):
    """A loop with a policy and a run of PPO that has ended, to look at; returns the run."""
    policy = ModelVersion.objects.create(
        project=project, kind="policy", number=0, name="policy-0", location="nowhere"
    )
    LoopSettings.objects.create(project=project, first_policy=policy, policy=policy)
    now = timezone.now()
    run = Run.objects.create(
        project=project,
        method="ppo",
        status="done",
        config={"steps": 20},
        started_at=now,
        finished_at=now,
        input_model=policy,
    )
    Metric.objects.bulk_create(
        Metric(run=run, step=step, name=name, value=step / 10, at=now)
        for name in ("reward", "kl_nats", "entropy")
        for step in range(20)
    )
    return run


def faults_of(page):
    """What axe finds, one line each: the theme, the rule, how bad it is, and where.

    The dark theme changes nothing but colours, so only the rules of these are held against it.
    """
    page.wait_for_load_state("load")
    page.evaluate(AXE_SCRIPT)
    found = look_at(page, "light", {"type": "tag", "values": RULES})
    found += look_at(page, "dark", {"type": "rule", "values": OF_COLOURS})
    page.emulate_media(color_scheme="light")
    return found


def look_at(page, theme, rules):
    page.emulate_media(color_scheme=theme)
    # Colours may be on their way.
    page.evaluate("Promise.allSettled(document.getAnimations().map((one) => one.finished))")
    options = json.dumps({"runOnly": rules, "resultTypes": ["violations"]})
    found = page.evaluate(f"axe.run(document, {options})")["violations"]
    return [
        f"{theme}: {one['id']} ({one['impact']}): {', '.join(str(node['target']) for node in one['nodes'][:4])}"
        for one in found
    ]


def test_axe_sees_what_is_wrong(sign_in, bob):
    page = sign_in(bob)
    page.evaluate("document.querySelector('main').append(new Image())")
    page.evaluate("document.querySelector('h1').style.color = '#ccc'")
    assert [line.split(" (")[0] for line in faults_of(page)] == ["light: color-contrast", "light: image-alt"]
    page.evaluate("document.querySelector('h1').style.color = '#333'")
    assert [line.split(" (")[0] for line in faults_of(page)] == ["light: image-alt", "dark: color-contrast"]


@pytest.mark.parametrize("look", LOOKS)
def test_the_desk_and_its_dialogs(sign_in, alice, bob, project, look):
    for slug, form in FORMS.items():
        make_form(slug, form, alice, bob)
    found = {}
    page = sign_in(bob, reverse("labeling:label", args=["criteria"]), **LOOKS[look])
    found["desk"] = faults_of(page)
    for act in ("why", "better", "skip", "flag"):
        page.locator(f".extras [data-do={act}]").click()
        page.locator("dialog[open]").wait_for()
        found[act] = faults_of(page)
        page.keyboard.press("Escape")
    page.locator("nav [data-do=guidelines]").click()
    found["guidelines"] = faults_of(page)
    page.keyboard.press("g")
    page.keyboard.press("?")
    found["keys"] = faults_of(page)
    for slug in ("rankings", "conversations", project.slug):
        page.goto(reverse("labeling:label", args=[slug]))
        found[slug] = faults_of(page)
    assert found == {name: [] for name in found}


@pytest.mark.parametrize("look", LOOKS)
def test_what_my_answers_did(sign_in, bob, project, look):
    loop_of(project)
    path = reverse("training:effect", args=[project.slug])
    page = sign_in(bob, path, **LOOKS[look])
    found = {"nothing yet": faults_of(page)}
    ask(project, ["train"] * 3 + ["eval"] * 2)
    say(bob, project, "kind")
    trained(project, lambda one: "kind" in one.text)
    answer_again(trained(project, lambda one: "short" in one.text), "It is **on its way**. " * 200)
    page.reload()
    assert page.locator(".agreement, .contradicted li, .again, .past li").count() > 5
    found["learned"] = faults_of(page)
    assert found == {name: [] for name in found}


@pytest.mark.slow
@pytest.mark.parametrize("look", LOOKS)
def test_the_pages_of_managers(sign_in, open_browser, alice, bob, project, look):
    save_guidelines(project, "# Be kind\n\nAnd *short*.", alice)
    assert Membership.objects.get(user=alice).role == "manager"
    prompt = Prompt.objects.add(project, "Which?")
    create_comparison(project, prompt, [Completion.objects.add(prompt, text, "m") for text in ("One", "Two")])
    flag(next_for(bob, project), "harmful", "Look at B.")
    page = open_browser(**LOOKS[look]).new_page()
    page.goto(reverse("account_login"))
    found = {"login": faults_of(page)}
    page = sign_in(alice, **LOOKS[look])
    run = make_loop(project)
    of_training = [("training:run", [project.slug, run.pk]), ("training:run-new", [project.slug, "ppo"])]
    visited = [(name, [project.slug] if of_project else []) for name, of_project in OF_MANAGERS]
    for name, words in visited + of_training:
        assert page.goto(reverse(name, args=words)).ok, name
        for closed in page.locator("main details:not([open]) summary").all():
            closed.click()
        found[name] = faults_of(page)
    page.goto("/nowhere/")
    found["404"] = faults_of(page)
    assert found == {name: [] for name in found}
