"""Who may open which page: every route of a project in the URL table, as each of the cast.

A new route fails here until it is written down with who may use it.
"""

import json

import pytest
from django.urls import NoReverseMatch, URLPattern, get_resolver, reverse

from labeling.assignment import next_for
from labeling.models import Completion, Project, Prompt, User
from labeling.projects import add_member
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
ANYTHING = 1  # a number for what a route names beside its project
WORDS = {"act": "start", "method": "ppo"}


def routes():
    """Name, and names of what the address holds, of every page that belongs to a project."""
    for namespace in ("labeling", "training"):
        _, resolver = get_resolver().namespace_dict[namespace]
        for pattern in resolver.url_patterns:
            assert isinstance(pattern, URLPattern)
            if "slug" in pattern.pattern.converters:
                yield f"{namespace}:{pattern.name}", set(pattern.pattern.converters) - {"slug"}


def address(name, slug):
    more = dict(routes())[name]
    return reverse(name, kwargs={"slug": slug} | {part: WORDS.get(part, ANYTHING) for part in more})


def answers(client, path):
    """Status of a GET and of a POST, but for what the route does not take."""
    given = [client.get(path), client.post(path, json.dumps({}), content_type="application/json")]
    return {response.status_code for response in given} - {405}


def test_every_page_of_a_project_is_written_down():
    assert dict.fromkeys(name for name, _ in routes()).keys() == PAGES.keys()


def test_a_name_that_is_no_route_is_noticed():
    with pytest.raises((NoReverseMatch, KeyError)):
        address("labeling:nothing", "support")


@pytest.mark.django_db
@pytest.mark.parametrize("name", PAGES)
def test_a_guessed_address_is_not_found(client, project, alice, bob, carol, charlie, name):
    for person in (alice, bob, carol, charlie):
        client.force_login(person)
        found = answers(client, address(name, project.slug))
        if person.username not in PAGES[name]:
            assert found == {404}, (person, found)
        elif name.startswith("labeling:") and not dict(routes())[name]:
            assert found and 404 not in found, (person, found)
        # The same page of a project that is not theirs, and of none at all.
        other, _ = Project.objects.get_or_create(slug="other", defaults={"name": "Other"})
        assert answers(client, address(name, other.slug)) == {404}
        assert answers(client, address(name, "nowhere")) == {404}
    client.logout()
    signed_out = answers(client, address(name, project.slug))
    assert signed_out <= {302, 401}, signed_out


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
