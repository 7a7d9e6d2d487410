"""Who may open which page: every route of a project in the URL table, as each of the cast.

A new route fails here until it is written down with who may use it, and with a row that is there for what its
address names beside the project: a row that is not there is found by nobody, whatever the page checks.
"""

import json
import uuid

import pytest
from django.urls import URLPattern, get_resolver, reverse

from labeling.assignment import next_for
from labeling.judging import record
from labeling.models import Completion, Judgment, Prompt, User
from labeling.projects import add_member, create_project
from labeling.selection import create_comparison

ALICE, BOB, CAROL = "alice", "bob", "carol"  # manager, annotator, reviewer
EVERYONE = {ALICE, BOB, CAROL}
PAGES = {
    "labeling:project": EVERYONE,
    "labeling:guidelines": EVERYONE,
    "labeling:label": {ALICE, BOB},
    "labeling:next": {ALICE, BOB},
    "labeling:answer": {ALICE, BOB},
    "labeling:texts": {ALICE, BOB},
    "labeling:put-aside": {ALICE, BOB},
    "labeling:undo": {ALICE, BOB},
    "labeling:renew": {ALICE, BOB},
    "labeling:mine": {ALICE, BOB},
    "labeling:qualification": {ALICE, BOB},
    "labeling:qualification-answer": {ALICE, BOB},
    "labeling:questions": {ALICE},
    "labeling:question-new": {ALICE},
    "labeling:questions-import": {ALICE},
    "labeling:question": {ALICE},
    "labeling:question-move": {ALICE},
    "labeling:question-remove": {ALICE},
    "labeling:question-back": {ALICE},
    "labeling:qualify": {ALICE},
    "labeling:settings": {ALICE},
    "labeling:data": {ALICE},
    "labeling:import": {ALICE},
    "labeling:freeze": {ALICE},
    "labeling:reports": {ALICE},
    "labeling:report-decide": {ALICE},
    "labeling:people": {ALICE},
    "labeling:change-role": {ALICE},
    "labeling:reset-password": {ALICE},
    "training:effect": {ALICE, BOB},
    "training:loop": {ALICE, CAROL},
    "training:loop-live": {ALICE, CAROL},
    "training:runs": {ALICE, CAROL},
    "training:run": {ALICE, CAROL},
    "training:run-live": {ALICE, CAROL},
    "training:versions": {ALICE, CAROL},
    "training:loop-settings": {ALICE},
    "training:first-policy": {ALICE},
    "training:loop-act": {ALICE},
    "training:run-new": {ALICE},
    "training:run-stop": {ALICE},
    "training:run-marked": {ALICE},
    "training:promote": {ALICE},
    "training:schedules": {ALICE},
    "training:schedule-remove": {ALICE},
}

READ_BY = {"labeling:guidelines": {BOB, CAROL}}  # and written by the others


def routes():
    """Name, and names of what the address holds, of every page that belongs to a project."""
    for namespace in ("labeling", "training"):
        _, resolver = get_resolver().namespace_dict[namespace]
        for pattern in resolver.url_patterns:
            assert isinstance(pattern, URLPattern)
            if "slug" in pattern.pattern.converters:
                yield f"{namespace}:{pattern.name}", set(pattern.pattern.converters) - {"slug"}


def address(name, slug, rows):
    named = dict(routes())[name]
    return reverse(name, kwargs={"slug": slug} | {part: rows[part] for part in named})


def answers(client, path):
    """Status of a GET and of a POST, but for what the route does not take."""
    given = [client.get(path), client.post(path, json.dumps({}), content_type="application/json")]
    return {response.status_code for response in given} - {405}


def test_every_page_of_a_project_is_written_down():
    assert dict.fromkeys(name for name, _ in routes()).keys() == PAGES.keys()


def test_every_page_beside_the_projects_is_a_persons_own():
    """Another one has to be written down, and tested for what it shows to whom."""
    _, resolver = get_resolver().namespace_dict["labeling"]
    beside = {pattern.name for pattern in resolver.url_patterns if "slug" not in pattern.pattern.converters}
    assert beside == {"home", "account", "language", "keys", "tokens", "revoke-token"}
    _, resolver = get_resolver().namespace_dict["training"]
    assert all("slug" in pattern.pattern.converters for pattern in resolver.url_patterns)


@pytest.mark.django_db
@pytest.mark.parametrize("who", [ALICE, BOB, CAROL, "charlie"])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_there_for_whom_it_is_for_and_for_nobody_else(client, project, rows, charlie, name, who):
    client.force_login(User.objects.get(username=who))
    found = answers(client, address(name, project.slug, rows))
    if who in READ_BY.get(name, set()):
        assert found == {200, 404}
    elif who in PAGES[name]:
        assert found and 404 not in found
    else:
        assert found == {404}


@pytest.mark.django_db
@pytest.mark.parametrize("name", PAGES)
def test_a_page_of_another_project_is_not_found(client, project, rows, alice, name):
    other = create_project("Other", User.objects.create_user("olga"))
    client.force_login(alice)
    assert answers(client, address(name, other.slug, rows)) == {404}
    assert answers(client, address(name, "nowhere", rows)) == {404}


@pytest.mark.django_db
@pytest.mark.parametrize(
    "name", [name for name, named in routes() if any(part not in ("act", "method") for part in named)]
)
def test_a_row_of_another_project_is_not_found_below_ones_own(client, rows, name):
    olga = User.objects.create_user("olga")
    own = create_project("Other", olga)
    client.force_login(olga)
    assert answers(client, address(name, own.slug, rows)) == {404}


@pytest.mark.django_db
@pytest.mark.parametrize("name", PAGES)
def test_who_is_not_signed_in_is_led_to_the_door(client, project, rows, name):
    signed_out = answers(client, address(name, project.slug, rows))
    assert signed_out and signed_out <= {302, 401}


@pytest.mark.django_db
@pytest.mark.parametrize("act", ["answer", "texts", "put-aside", "undo"])
def test_another_persons_comparison_is_not_found(client, project, bob, act):
    prompt = Prompt.objects.add(project, "Which?")
    create_comparison(project, prompt, [Completion.objects.add(prompt, t, t) for t in "ab"])
    bobs = next_for(bob, project)
    eve = User.objects.create_user("eve")
    add_member(project, eve, "annotator")
    body = {
        "assignment": bobs.pk,
        "client_key": "00000000-0000-4000-8000-000000000000",
        "verdict": "tie",
        "outcome": "skip",
        "reason": "same",
    }
    path = reverse(f"labeling:{act}", args=[project.slug])
    for person, expected in ((eve, 404), (bob, 200)):
        client.force_login(person)
        response = client.post(path, json.dumps(body), content_type="application/json")
        assert response.status_code == expected, (person, response.content)


@pytest.mark.django_db
def test_another_persons_judgment_is_neither_changed_nor_taken_back(client, project, bob):
    prompt = Prompt.objects.add(project, "Which?")
    create_comparison(project, prompt, [Completion.objects.add(prompt, t, t) for t in "ab"], overlap=2)
    bobs = record(next_for(bob, project), "tie", uuid.uuid4())
    eve = User.objects.create_user("eve")
    add_member(project, eve, "annotator")
    own = next_for(eve, project)
    client.force_login(eve)
    said = {"verdict": "all_bad", "client_key": str(uuid.uuid4()), "revises": bobs.pk}
    for act, body in (
        ("answer", said | {"assignment": own.pk}),
        ("answer", said | {"assignment": bobs.assignment_id}),
        ("undo", {"judgment": bobs.pk}),
        ("undo", {"assignment": bobs.assignment_id, "client_key": str(bobs.client_key)}),
        ("undo", {"assignment": bobs.assignment_id, "put_aside": True}),
    ):
        path = reverse(f"labeling:{act}", args=[project.slug])
        assert client.post(path, json.dumps(body), content_type="application/json").status_code == 404, body
    bobs.refresh_from_db()
    assert (bobs.verdict, bobs.is_current, Judgment.objects.count()) == ("tie", True, 1)
