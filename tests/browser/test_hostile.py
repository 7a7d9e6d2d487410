"""Hostile text in a real browser: it shows as text, and nothing of it runs."""

import json
from itertools import count, cycle

import pytest
from django.urls import reverse
from django.utils import timezone
from playwright.sync_api import expect

from labeling.assignment import flag, next_for
from labeling.keys import USUAL
from labeling.models import (
    Completion,
    Membership,
    Project,
    Prompt,
    QualificationQuestion,
    User,
)
from labeling.qualification import add_questions, build_question
from labeling.selection import create_comparison
from tests.labeling.test_rendering import PAYLOADS
from tests.training.rounds import answer_again, loop_of, say, trained
from tests.training.test_marked import mark
from training.models import ModelVersion, Promotion, Run

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
    for name in EVENTS:
        assert page.evaluate(f"typeof {name}") == "undefined"
    assert dialogs == [] and faults == []
    assert all(url.startswith(live_server.url) for url in asked)
    page.keyboard.press("1")
    expect(page.get_by_role("status")).to_have_text("Last answer saved")


@pytest.mark.parametrize("script", ["inline", "handler", "eval"])
def test_the_content_policy_stops_what_a_sanitiser_might_miss(desk, pairs, script, faults, until):
    """The wall behind the wall: script put into the page by hand does not run."""
    pairs(1)
    page = desk()
    attempts = {
        "inline": "const s = document.createElement('script'); s.textContent = 'window.hacked = 1'; document.body.append(s)",
        "handler": "document.body.insertAdjacentHTML('beforeend', '<img src=/nothing onerror=\"window.hacked = 1\">')",
        "eval": "const b = document.createElement('button'); b.setAttribute('onclick', 'window.hacked = 1'); document.body.append(b); b.click()",
    }
    page.evaluate(f"() => {{ {attempts[script]} }}")
    until(lambda: any("Content Security Policy" in fault for fault in faults))
    assert page.evaluate("typeof window.hacked") == "undefined"


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


@pytest.fixture
def quiet(live_server, faults):
    """Whether a page has run nothing, asked no other host and opened no dialog since it was watched."""

    def watch(page):
        asked, dialogs = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))

        def check():
            page.wait_for_load_state("networkidle")
            ran = [flag for flag in EVENTS if page.evaluate(f"typeof {flag}") != "undefined"]
            elsewhere = [url for url in asked if not url.startswith(live_server.url)]
            assert (ran, elsewhere, dialogs, faults) == ([], [], [], [])

        return check

    return watch


def test_what_annotators_and_managers_write_runs_on_no_page(
    desk, sign_in, project, alice, pairs, judged, until, quiet
):
    """Reasons, tags, criteria, better answers, reports, names and guidelines; the desk, one's answers, managers' pages."""
    short = [
        payload
        for payload in PAYLOADS
        if len(payload) <= 40 and "\n" not in payload and "\x01" not in payload
    ]
    Project.objects.filter(pk=project.pk).update(
        name=PAYLOADS[3] * 3, guidelines="\n\n".join(PAYLOADS), criteria=short[:1], reason_tags=short[1:9]
    )
    User.objects.filter(pk=alice.pk).update(
        first_name=PAYLOADS[3], last_name=PAYLOADS[5], email='"<svg/onload=alert(1)>"@a.example'
    )
    pairs(4)
    page = desk()
    check = quiet(page)
    page.keyboard.press("r")
    page.keyboard.type("25")
    page.keyboard.press("e")
    page.get_by_label("As it should have been").fill("\n\n".join(PAYLOADS))
    page.keyboard.press("Control+Enter")
    page.keyboard.press("c")
    for box in page.locator("#why .tags label").all():
        box.click()
    page.get_by_label("In a sentence").fill("\n".join(PAYLOADS)[:5000])
    page.keyboard.press("Control+Enter")
    page.keyboard.press("1")
    until(lambda: len(judged()) == 1)
    assert judged()[0].reason == "\n".join(PAYLOADS)[:5000] and judged()[0].reason_tags == short[1:9]
    page.keyboard.press("z")  # the answer comes back with all that was said
    expect(page.locator("#stage .rating input:checked")).to_have_count(2)
    check()
    page.keyboard.press("1")
    until(lambda: len(judged()) == 1)
    page.keyboard.press("f")
    page.get_by_label("What should the manager know?").fill("\n".join(PAYLOADS)[:2000])
    page.get_by_role("button", name="It could harm someone").click()
    expect(page.get_by_role("status")).to_have_text("Reported to a manager")
    for name in ("labeling:mine", "labeling:guidelines"):
        page.goto(reverse(name, args=[project.slug]))
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        check()

    page = sign_in(alice)
    check = quiet(page)
    pages = ("settings", "data", "people", "reports", "guidelines", "label")
    for name in (*(f"labeling:{one}" for one in pages), "training:loop", "training:versions"):
        page.goto(reverse(name, args=[project.slug]))
        expect(page.get_by_role("heading", level=1)).to_be_attached()
        check()


@pytest.mark.parametrize("payload", [PAYLOADS[0], PAYLOADS[3], "a\u202eb", "x" * 151])
def test_a_hostile_name_of_a_person_is_refused_at_its_field(sign_in, alice, project, quiet, payload):
    page = sign_in(alice, reverse("labeling:people", args=[project.slug]))
    check = quiet(page)
    page.evaluate("document.querySelector('[name=username]').removeAttribute('maxlength')")
    page.get_by_label("Username").fill(payload)
    page.locator("form:has([name=username]) button").last.click()
    expect(page.locator("#id_username_error")).not_to_be_empty()
    assert page.locator("[name=username]").input_value() == payload
    assert not User.objects.filter(username=payload).exists()
    check()


HEAVY = {
    "long": "word " * 40_000,
    "one word": "w" * 200_000,
    "nested": "> " * 1000 + "innermost",
    "lists": "".join("  " * level + "- item\n" for level in range(1000)),
    "formulas": r"$\frac{$ \[\begin{matrix} \(x\) $$" * 2000,
    "invisible": "a\u200b\u202e" * 66_000,
    "brackets": "[" * 200_000,
}


# On two busy cores they took 0.7 to 1.9; 132,000 marks of what cannot be seen, each an element of the page, 8.2.
MOST_SECONDS = dict.fromkeys(HEAVY, 30) | {"invisible": 60}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", HEAVY)
def test_what_is_heavy_is_on_screen_within_seconds_and_the_next_answer_is_given(
    desk, project, judged, until, kind
):
    prompt = Prompt.objects.add(project, "Be heavy.")
    texts = (HEAVY[kind][:199_990] + " the end", "A quiet answer.")
    create_comparison(project, prompt, [Completion.objects.add(prompt, text, "m") for text in texts])
    page = desk()
    expect(page.locator("#stage .answer").filter(has_text="the end")).to_be_visible()
    # Seconds from the request to the page's last byte laid out: what a person waits.
    waited = page.evaluate("performance.getEntriesByType('navigation')[0].domComplete / 1000")
    assert waited < MOST_SECONDS[kind]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.keyboard.press("d")
    page.keyboard.press("1")
    until(lambda: len(judged()) == 1)


def packed(most, apart=" "):
    """Every payload in as few texts as hold them, each of at most so many characters; a longer one is cut."""
    texts = []
    for payload in PAYLOADS:
        if texts and len(texts[-1] + apart + payload) <= most:
            texts[-1] += apart + payload
        else:
            texts.append(payload[:most])
    return texts


EVERYTHING = "\n\n".join(PAYLOADS)


@pytest.fixture
def visit(quiet):
    """Open pages one after another: each has its heading, and nothing of it has run or was refused."""

    def go(page, *paths):
        check = quiet(page)
        for path in paths:
            assert page.goto(path).ok
            expect(page.get_by_role("heading", level=1).first).to_be_attached()
            check()

    return go


def test_every_payload_as_a_name_a_tag_a_criterion_or_a_report_is_text(
    desk, sign_in, project, alice, bob, pairs, visit, quiet, until
):
    """Stored as no form takes them: more criteria and tags than are offered, and usernames of any signs."""
    names, parts = packed(200), packed(40)
    projects = [Project(slug=f"p{number}", name=name) for number, name in enumerate(names)]
    for one in Project.objects.bulk_create(projects):
        for person, role in ((alice, "manager"), (bob, "annotator")):
            Membership.objects.create(project=one, user=person, role=role)
    named = [
        User(username=f"{number} {name}"[:150], first_name=name[:150], last_name=name[:150])
        for number, name in enumerate(PAYLOADS)
    ]
    for person in User.objects.bulk_create(named):
        Membership.objects.create(project=project, user=person, role="annotator")
    project.name, project.reason_tags = names[0], parts
    project.save()
    pairs(1)
    assert say(bob, project, "good", reason_tags=parts)[0].reason_tags == parts
    project.criteria = parts
    project.save()
    pairs(4, ("fine", "poor"))
    page = desk()
    check = quiet(page)
    page.reload()
    texts = packed(2000)
    for number, text in enumerate(texts, start=1):
        page.keyboard.press("f")
        page.get_by_label("What should the manager know?").fill(text)
        page.get_by_role("button", name="It could harm someone").click()
        until(lambda number=number: project.put_aside.count() == number)
        expect(page.get_by_role("dialog")).to_have_count(0)
    reported = project.put_aside.order_by("id")
    assert [one.outcome_text for one in reported] == texts
    page.keyboard.press("c")
    expect(page.locator("#why .tags label")).to_have_count(len(parts))
    check()
    User.objects.filter(pk=bob.pk).update(username=PAYLOADS[0], first_name=PAYLOADS[3])
    visit(page, "/", reverse("labeling:mine", args=[project.slug]), reverse("labeling:account"))

    page = sign_in(alice)
    for person, text in zip(named, texts, strict=False):
        flag(next_for(person, project), "private", text)
    of_managers = ("people", "reports", "settings", "data")
    visit(page, "/", *(reverse(f"labeling:{one}", args=[project.slug]) for one in of_managers))
    page.goto(reverse("labeling:people", args=[project.slug]))
    shown = page.locator("main").inner_text()
    assert [
        one for one in PAYLOADS if " ".join(one.split()).strip("\x01") not in " ".join(shown.split())
    ] == []


def test_a_stored_shortcut_of_any_length_is_text_on_the_desk_and_on_its_page(
    desk, project, bob, pairs, judged, until, visit, quiet
):
    pairs(2)
    halves = zip(PAYLOADS[::2], PAYLOADS[1::2], strict=True)
    own = dict(zip(USUAL, map(" ".join, halves), strict=True))
    User.objects.filter(pk=bob.pk).update(own_keys=own)
    page = desk()
    check = quiet(page)
    page.reload()
    page.locator(".verdict[data-side='0']:visible").first.click()
    until(lambda: len(judged()) == 1)
    page.locator("[data-do=keys]").click()
    expect(page.get_by_role("dialog")).to_contain_text(own["a3"].upper()[:20], ignore_case=True)
    check()
    visit(page, reverse("labeling:keys"), reverse("labeling:mine", args=[project.slug]))
    assert User.objects.get(pk=bob.pk).own_keys == own


def test_a_question_of_the_round_runs_nothing_before_or_after_its_answer(
    sign_in, project, alice, bob, pairs, quiet, visit
):
    pairs(1)
    project.qualification, project.guidelines = True, EVERYTHING
    project.save()
    ours = build_question(project, EVERYTHING, [EVERYTHING, "A quiet answer."], ["a"], EVERYTHING)
    three = build_question(project, EVERYTHING, [EVERYTHING, "One.", "Two."], ["b"], EVERYTHING)
    add_questions(project, [ours, three])
    path = reverse("labeling:qualification", args=[project.slug])
    page = sign_in(bob, path)
    check = quiet(page)
    page.get_by_role("button", name="Begin").click()
    for number in (1, 2):
        expect(page.get_by_text(f"Question {number} of 2")).to_be_visible()
        check()
        page.locator(".verdict:visible").first.click()
        expect(page.locator("#outcome")).to_be_visible()
        expect(page.locator(".outcome .prose")).to_contain_text("<script>window.hacked = 1</script>")
        check()
        page.locator("[data-next]").click()
    expect(page.get_by_role("heading", name="of 2 answers")).to_be_visible()
    check()

    page = sign_in(alice)
    asked = QualificationQuestion.objects.order_by("position")
    edits = [reverse("labeling:question", args=[project.slug, one.pk]) for one in asked]
    visit(page, reverse("labeling:questions", args=[project.slug]), *edits)
    assert page.locator("textarea").last.input_value().replace("\r", "").count("window.hacked") > 20


def test_what_models_write_runs_on_no_page_of_training(sign_in, project, alice, bob, visit):
    """Fresh answers, disagreements, samples, marked samples, settings, results, versions, rounds and messages."""
    loop_of(project)
    offers = (Prompt.build(project, f"{EVERYTHING}\n\n{number}") for number in count())
    for split in ("eval", "train", "train", "train"):
        prompt = next(one for one in offers if one.split == split)
        prompt.save()
        both = [Completion.objects.add(prompt, f"{EVERYTHING}\n\n{word}", word) for word in ("kind", "short")]
        create_comparison(project, prompt, both)
    given = say(bob, project, "kind")
    round = trained(
        project,
        lambda one: one.text.endswith("short"),
        message=EVERYTHING,
        times={"generate": timezone.now().isoformat()},
    )
    answer_again(round, EVERYTHING)
    page = sign_in(bob)
    visit(page, reverse("training:effect", args=[project.slug]))
    shown = page.locator("main").inner_text()
    assert shown.count("<script>window.hacked = 1</script>") > 3
    assert page.get_by_role("link", name="Look again").count() > 0 and given

    now = timezone.now()
    parent, policies = None, []
    locations = cycle(packed(500))
    for number, name in enumerate(packed(40), start=100):
        kind = ("policy", "reward")[number % 2]
        version = ModelVersion.objects.create(
            project=project, kind=kind, number=number, name=name, location=next(locations), parent=parent,
            metrics={"evaluation": {"win_rate": 0.5, "win_rate_interval": [0.4, 0.6]}} if kind == "policy" else {},
        )  # fmt: skip
        parent = version
        if kind == "policy":
            policies.append(version)
    Promotion.objects.create(project=project, version=policies[0], previous=policies[1], promoted_by=alice)
    paths = []
    for method, status in (("ppo", "done"), ("generate", "done"), ("evaluate", "failed")):
        run = Run.objects.create(
            project=project, method=method, status=status, started_at=now, finished_at=now, input_model=policies[2],
            reward_model=policies[3], message=EVERYTHING, code_version=PAYLOADS[0], folder=f"runs/hostile-{method}",
            config=dict.fromkeys(PAYLOADS, EVERYTHING), result=dict.fromkeys(PAYLOADS, EVERYTHING),
        )  # fmt: skip
        mark(run, *((prompt, payload) for payload in PAYLOADS))
        with (run.path / "completions.jsonl").open("w") as file:
            for payload in packed(600):
                row = {"id": "1", "prompt": payload, "completion": payload}
                file.write(json.dumps(row) + "\n")
        paths.append(reverse("training:run", args=[project.slug, run.pk]))
    page = sign_in(alice)
    others = ("versions", "runs", "loop", "loop-settings", "schedules")
    visit(page, *(reverse(f"training:{one}", args=[project.slug]) for one in others), *paths[2:], *paths[:2])
    expect(page.get_by_role("heading", name="What it wrote")).to_be_visible()
    page.goto(paths[0])
    page.get_by_text("The other").click()
    page.get_by_role("button", name="Put before annotators").click()
    expect(page.get_by_text("put before annotators").first).to_be_visible()
