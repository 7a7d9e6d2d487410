"""Every page, on a desktop and on a phone and in both themes, looked at by axe: nothing against WCAG 2.2 A or AA."""

import json
import re
import uuid
from urllib.parse import urlsplit

import pytest
from allauth.account.models import EmailAddress
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from allauth.mfa.totp.internal.auth import TOTP, generate_totp_secret
from axe_playwright_python.base import AXE_SCRIPT
from django.template.loader import render_to_string
from django.urls import get_resolver, resolve, reverse
from django.utils import timezone

from config.demo import FORMS, make_form
from labeling.assignment import next_for
from labeling.judging import record
from labeling.models import Completion, Judgment, Prompt, User
from labeling.projects import save_guidelines
from labeling.selection import create_comparison
from tests.browser.conftest import PASSWORD
from tests.training.rounds import answer_again, ask, loop_of, say, trained
from training.models import Metric, ModelVersion, Run

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
MAGNIFIED = 320  # pixels that a desktop of 1280 has at 400 % (1.4.10)
TABLET = 800
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


# Of text before a gradient axe says that it cannot tell, and ours is no wider than what is cut off at a table's edge.
PLAIN = """() => {
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(".table-wrap { background: none !important; }");
    document.adoptedStyleSheets.push(sheet);
}"""


# A label leads to the first element of an id, and axe takes it for the label of each.
TWICE = """() => [...document.querySelectorAll("[id]")].map((one) => one.id).filter((id, at, all) => all.indexOf(id) !== at)"""


def faults_of(page):
    """What axe finds, one line each: the theme, the rule, how bad it is, and where.

    The dark theme changes nothing but colours, so only the rules of these are held against it.
    """
    page.wait_for_load_state("load")
    page.evaluate(AXE_SCRIPT)
    page.evaluate(PLAIN)
    found = look_at(page, "light", {"type": "tag", "values": RULES})
    found += look_at(page, "dark", {"type": "rule", "values": OF_COLOURS})
    page.emulate_media(color_scheme="light")
    return found + [f"two of one id: {name}" for name in page.evaluate(TWICE)]


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


def test_axe_sees_what_is_wrong_in_a_table(sign_in, alice, bob, project):
    page = sign_in(alice, reverse("labeling:people", args=[project.slug]))
    page.evaluate("document.querySelector('.table-wrap td').style.color = '#bbb'")
    assert [line.split(" (")[0] for line in faults_of(page)] == ["light: color-contrast"]


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
        for width in {LOOKS[look]["viewport"]["width"], MAGNIFIED, TABLET}:
            page.set_viewport_size(LOOKS[look]["viewport"] | {"width": width})
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, (name, wide)
            assert page.locator(".topbar nav").evaluate("(nav) => nav.scrollWidth <= nav.clientWidth"), (
                name,
                width,
            )
        page.set_viewport_size(LOOKS[look]["viewport"])
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


class Doors:
    """The pages of accounts that stand in the URL table, looked at wherever a person comes to one that reads anew."""

    def __init__(self, page):
        self.page = page
        self.found, self.read = {}, set()

    def look(self, who, names=None, **parts):
        for name in names or sorted(name for name in self.written_down() if "key" not in parts_of(name)):
            path = reverse(name, kwargs=parts)
            if "text/html" not in self.page.request.get(path, max_redirects=0).headers["content-type"]:
                continue
            if not self.page.goto(path).ok:
                continue
            name, reads = (
                resolve(urlsplit(self.page.url).path).url_name,
                self.page.locator("main").inner_text(),
            )
            if (name, reads) not in self.read:
                self.read.add((name, reads))
                self.found[f"{name}, {who}"] = faults_of(self.page)

    @staticmethod
    def written_down():
        return {name for name in get_resolver().reverse_dict if str(name).startswith(("account_", "mfa_"))}

    def unseen(self):
        return self.written_down() - {name for name, _ in self.read}


def parts_of(name):
    return get_resolver().reverse_dict.getlist(name)[0][0][0][1]


# Never a page: it leads to another one, or hands out a file. Nor do we have codes that are sent, or people without
# a password.
NO_PAGES = {"account_confirm_login_code", "account_set_password", "mfa_download_recovery_codes"}


@pytest.mark.slow
def test_every_page_of_the_doors(knock, open_browser, alice, settings, mailoutbox):
    doors = Doors(open_browser(**LOOKS["phone"]).new_page())
    doors.look("signed out")
    settings.EMAIL_HOST = "mail.example.org"
    doors.look("signed out, with mail")
    EmailAddress.objects.create(user=alice, email="alice@example.org", primary=True)
    doors.page.goto(reverse("account_reset_password"))
    doors.page.locator("input[name=email]").fill("alice@example.org")
    doors.page.locator("main form button").click()
    doors.page.wait_for_url(f"**{reverse('account_reset_password_done')}")
    uid, key = re.search(r"/password/reset/key/(\w+?)-(\S+)/", mailoutbox[-1].body).groups()
    doors.look("from a letter", ["account_reset_password_from_key"], uidb36=uid, key=key)
    doors.look("from an old letter", ["account_reset_password_from_key"], uidb36=uid, key="x-y")
    doors.look("from no letter", ["account_confirm_email"], key="none")

    doors.page = knock(alice, **LOOKS["phone"])
    doors.look("signed in")
    doors.page.goto(reverse("mfa_activate_totp"))
    doors.page.locator("input[type=password]").fill(PASSWORD)
    doors.page.locator("main form button").first.click()
    doors.page.wait_for_url(f"**{reverse('mfa_activate_totp')}")
    doors.look("confirmed")
    TOTP.activate(alice, generate_totp_secret())
    RecoveryCodes.activate(alice)
    doors.look("with a second factor")
    doors.page = knock(alice, reverse("mfa_authenticate"), **LOOKS["phone"])
    doors.look("half signed in", ["mfa_authenticate"])
    assert doors.found == {name: [] for name in doors.found}
    assert doors.unseen() == NO_PAGES


def test_the_pages_of_what_went_wrong(sign_in, alice):
    page = sign_in(alice, **LOOKS["phone"])
    found = {}
    for template in ("403.html", "403_csrf.html", "404.html", "429.html", "500.html"):
        answer = {"body": render_to_string(template), "content_type": "text/html"}
        page.route("**/nowhere/", lambda route, request, answer=answer: route.fulfill(**answer))
        page.goto("/nowhere/")
        found[template] = faults_of(page)
        page.unroute("**/nowhere/")
    assert found == {name: [] for name in found}


@pytest.mark.parametrize("look", LOOKS)
def test_the_administration(sign_in, alice, bob, project, comparisons_said, look):
    """Django's own pages, one of each kind, with what ours mend in them."""
    root = User.objects.create_superuser("root", "root@example.org", PASSWORD)
    judgment = Judgment.objects.get()
    pages = {
        "index": [],
        "password_change": [],
        "labeling_user_changelist": [],  # with filters
        "labeling_user_change": [bob.pk],
        "labeling_project_change": [project.pk],  # with a table in it
        "labeling_judgment_changelist": [],  # nothing can be changed
        "labeling_judgment_change": [judgment.pk],
    }
    page = sign_in(root, **LOOKS[look])
    found = {}
    for name, args in pages.items():
        assert page.goto(reverse(f"admin:{name}", args=args)).ok
        found[name] = [fault for fault in faults_of(page) if "(minor)" not in fault]
    assert found == {name: [] for name in pages}


def test_the_page_of_the_api(sign_in, alice, faults):
    page = sign_in(alice, reverse("api-docs"), **LOOKS["desktop"])
    page.locator(".opblock").first.wait_for()

    def look():
        assert [fault for fault in faults_of(page) if not fault.startswith("two of one id")] == []

    look()
    for method in ("get", "post"):  # with what one of each takes and gives
        summary = page.locator(f".opblock-{method} .opblock-summary-control").first
        summary.click()
        page.locator(f".opblock-{method}.is-open .responses-wrapper").wait_for()
        look()
        summary.click()
    assert faults == []
