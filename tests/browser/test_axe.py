"""Every page, on a desktop and on a phone and in both themes, looked at by axe: nothing against WCAG 2.2 A or AA."""

import json
import uuid

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from django.template.loader import render_to_string
from django.urls import get_resolver, reverse
from django.utils import timezone

from config.demo import FORMS, make_form
from labeling.assignment import next_for
from labeling.judging import record
from labeling.models import Completion, Prompt
from labeling.projects import save_guidelines
from labeling.selection import create_comparison
from tests.training.rounds import answer_again, ask, loop_of, say, trained
from training.models import Metric, ModelVersion, Run

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


def make_run(project):
    """A run of PPO that has ended, to look at."""
    policy = ModelVersion.objects.get(project=project)
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


def written_down():
    """Every address of ours, but for the API's: a new page is looked at without anybody's doing."""
    for namespace in ("labeling", "training"):
        for pattern in get_resolver().namespace_dict[namespace][1].url_patterns:
            yield f"{namespace}:{pattern.name}"


def address(name, slug, rows):
    named = {"slug": slug, "digest": "none"} | rows
    parts = (
        get_resolver()
        .namespace_dict[name.split(":")[0]][1]
        .reverse_dict.getlist(name.split(":")[1])[0][0][0][1]
    )
    return reverse(name, kwargs={part: named[part] for part in parts})


@pytest.fixture
def comparisons_said(project, bob, alice):
    """Alice has answered one, so that the page of her own answers holds a row."""
    prompt = Prompt.objects.add(project, "Which is kind?")
    create_comparison(
        project, prompt, [Completion.objects.add(prompt, t, "m") for t in ("One", "Two")], overlap=2
    )
    record(next_for(alice, project), "tie", uuid.uuid4(), reason="Both are.")


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
def test_every_page_that_a_manager_can_open(sign_in, rows, alice, bob, project, comparisons_said, look):
    save_guidelines(project, "# Be kind\n\nAnd *short*.", alice)
    rows["run_id"] = make_run(project).pk
    page = sign_in(alice, **LOOKS[look])
    found, names = {}, {}
    for name in written_down():
        path = address(name, project.slug, rows)
        reply = page.request.get(path, max_redirects=0)
        assert reply.status in (200, 302, 405), (name, reply.status)
        if reply.status == 200 and reply.text().lstrip().lower().startswith("<!doctype"):
            names[name] = path
    assert len(names) > 20
    names["guidelines?edit"] = f"{reverse('labeling:guidelines', args=[project.slug])}?edit"
    for name, path in names.items():
        assert page.goto(path).ok, name
        for closed in page.locator("main details:not([open]) > summary").all():
            closed.click()
        found[name] = faults_of(page)
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= LOOKS[look]["viewport"]["width"], (name, wide)
    page.goto(names["labeling:question-new"])
    page.evaluate(
        "() => { for (const one of document.querySelectorAll('[required]')) one.required = false; }"
    )
    page.get_by_role("button", name="Add", exact=True).click()
    page.get_by_text("This field is required.").first.wait_for()
    found["errors"] = faults_of(page)
    page.goto(names["labeling:account"])
    page.locator("form[action*=language] button").click()
    page.locator(".messages").wait_for()
    found["a message"] = faults_of(page)
    assert found == {name: [] for name in found}


@pytest.mark.slow
def test_every_page_of_the_doors(sign_in, open_browser, alice, settings):
    found = {}

    def look_at_all(page, names, mark=""):
        for name in names:
            page.goto(reverse(name))
            found[name + mark] = faults_of(page)

    page = open_browser(**LOOKS["phone"]).new_page()
    doors = ["account_login", "account_reset_password", "account_signup", "account_inactive"]
    look_at_all(page, doors)
    settings.EMAIL_HOST = "mail.example.org"
    look_at_all(
        page,
        ["account_login", "account_reset_password", "account_reset_password_done", "account_reset_password_from_key_done"],
        " with mail",
    )  # fmt: skip
    page = sign_in(alice, **LOOKS["phone"])
    look_at_all(
        page,
        ["account_email", "account_change_password", "account_reauthenticate", "mfa_index", "mfa_activate_totp", "account_logout"],
    )  # fmt: skip
    for template in ("403.html", "403_csrf.html", "404.html", "500.html"):
        answer = {"body": render_to_string(template), "content_type": "text/html"}
        page.route("**/nowhere/", lambda route, request, answer=answer: route.fulfill(**answer))
        page.goto("/nowhere/")
        found[template] = faults_of(page)
        page.unroute("**/nowhere/")
    assert found == {name: [] for name in found}
