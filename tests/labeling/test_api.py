"""The REST API through the client, by the cast."""

import base64
import json
import re
import uuid

import pytest
from django.core.cache import cache
from django.urls import URLPattern, reverse
from rest_framework.test import APIClient

from labeling.api import urls
from labeling.assignment import next_for
from labeling.datasets import freeze
from labeling.models import Assignment, Comparison, Judgment, Preference, Project, Prompt
from labeling.projects import create_project

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _no_failed_logins(broker_url):
    cache.clear()


def as_(person):
    client = APIClient()
    if person is not None:
        client.force_authenticate(person)
    return client


def at(name, *args):
    return reverse(f"labeling-api:{name}", args=args)


def basic(name, password="a long passphrase"):
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


# Who may reach what: one row per route and method; a new route without a row fails the test below.

M, A, R = "alice", "bob", "carol"
WRITTEN = {"verdict": "tie", "client_key": "f81d4fae-7dec-11d0-a765-00a0c91e6bf6"}
MATRIX = [
    # route, method, body, who reaches it
    ("project", "get", None, {M, A, R}),
    ("prompts", "get", None, {M, R}),
    ("prompts", "post", {"prompts": [{"prompt": "Hello?"}]}, {M}),
    ("comparisons", "get", None, {M, R}),
    (
        "comparisons",
        "post",
        {"comparisons": [{"prompt": "Hi?", "completions": [{"text": "a"}, {"text": "b"}]}]},
        {M},
    ),
    ("next", "post", {}, {M, A}),
    ("undo", "post", None, {M, A}),
    ("my-judgments", "get", None, {M, A}),
    ("judgments", "get", None, {M, R}),
    ("judgment-lines", "get", None, {M, R}),
    ("qualification", "get", None, {M, R}),
    ("preferences", "get", None, {M, R}),
    ("demonstrations", "get", None, {M, R}),
    ("put-aside", "get", None, {M, R}),
    ("datasets", "get", None, {M, R}),
    ("datasets", "post", {}, {M}),
    ("dataset", "get", None, {M, R}),
    ("dataset-file", "get", None, {M, R}),
    # Bob's own, whoever else asks:
    ("assignment", "get", None, {A}),
    ("answer", "post", WRITTEN, {A}),
    ("skip", "post", {"reason": "unclear"}, {A}),
    ("flag", "post", {"reason": "harmful"}, {A}),
    ("renew", "post", None, {A}),
    ("release", "post", None, {A}),
    ("judgment", "get", None, {A}),
    ("judgment", "put", WRITTEN, {A}),
    ("judgment", "delete", None, {A}),
]
FOR_EVERYONE_LOGGED_IN = {"projects", "token", "one-token"}


@pytest.fixture
def world(project, bob, alice, make_comparison, answer):
    """A judged comparison of Bob's, one that he holds, one that nobody has, and a frozen version."""
    make_comparison()
    judgment = answer(bob)
    version = freeze(project, alice)
    make_comparison()
    lease = next_for(bob, project)
    make_comparison()
    by_project = dict.fromkeys(
        (
            "project",
            "prompts",
            "comparisons",
            "next",
            "undo",
            "my-judgments",
            "judgments",
            "judgment-lines",
            "qualification",
            "preferences",
            "demonstrations",
            "put-aside",
            "datasets",
        ),
        project.slug,
    )
    of_lease = dict.fromkeys(("assignment", "answer", "skip", "flag", "renew", "release"), lease.pk)
    return (
        by_project
        | of_lease
        | {
            "judgment": judgment.pk,
            "dataset": version.pk,
            "dataset-file": version.pk,
        }
    )


@pytest.mark.parametrize("who", ["alice", "bob", "carol", "charlie", None])
@pytest.mark.parametrize(("route", "method", "body", "allowed"), MATRIX)
def test_everyone_reaches_what_is_theirs_and_nothing_else(
    route, method, body, allowed, who, world, alice, bob, carol, charlie
):
    person = {"alice": alice, "bob": bob, "carol": carol, "charlie": charlie, None: None}[who]
    response = getattr(as_(person), method)(at(route, world[route]), body, format="json")
    if who is None:
        assert response.status_code == 401
    elif who in allowed:
        assert response.status_code in (200, 201, 204), response.content
    else:
        assert response.status_code == 404
        assert set(response.json()) == {"detail"}


def test_every_route_is_in_the_matrix():
    names = {pattern.name for pattern in urls.urlpatterns if isinstance(pattern, URLPattern)}
    assert names == {row[0] for row in MATRIX} | FOR_EVERYONE_LOGGED_IN


def test_the_matrix_knows_every_method_of_every_route():
    for pattern in urls.urlpatterns:
        view = pattern.callback.view_class
        offered = {name for name in ("get", "post", "put", "patch", "delete") if hasattr(view, name)}
        if pattern.name not in FOR_EVERYONE_LOGGED_IN:
            assert offered == {row[1] for row in MATRIX if row[0] == pattern.name}, pattern.name


def test_another_annotator_cannot_touch_bobs_work(world, make_annotator):
    eve = as_(make_annotator("eve"))
    for route, method, body, allowed in MATRIX:
        if allowed == {A}:
            assert getattr(eve, method)(at(route, world[route]), body, format="json").status_code == 404
    assert Judgment.objects.count() == 1


def test_a_manager_of_another_project_finds_none_of_these_rows(world, charlie):
    create_project("Elsewhere", charlie)
    for route, method, body, _ in MATRIX:
        assert (
            getattr(as_(charlie), method)(at(route, world[route]), body, format="json").status_code == 404
        ), route


def test_who_left_the_project_has_lost_their_work_too(world, project, bob):
    from labeling.projects import remove_member

    remove_member(project.memberships.get(user=bob))
    for route, method, body, allowed in MATRIX:
        if A in allowed:
            assert getattr(as_(bob), method)(at(route, world[route]), body, format="json").status_code == 404


def test_projects_lists_only_ones_own(project, bob, charlie):
    create_project("Elsewhere", charlie)
    assert [row["slug"] for row in as_(bob).get(at("projects")).json()["results"]] == ["support"]
    [row] = as_(charlie).get(at("projects")).json()["results"]
    assert (row["slug"], row["role"]) == ("elsewhere", "manager")


# The annotator's work


def test_an_annotator_sees_texts_and_sides_and_nothing_that_gives_an_author_away(
    project, bob, make_comparison
):
    make_comparison(candidates=8)
    body = as_(bob).post(at("next", "support"), {}).json()
    assert set(body) == {"id", "comparison", "prompt", "candidates", "leased_until", "outcome"}
    assert [set(candidate) for candidate in body["candidates"]] == [{"side", "text"}] * 8
    assert [candidate["side"] for candidate in body["candidates"]] == list(range(8))
    sides = Assignment.objects.get().sides
    texts = {row.position: row.completion.text for row in Comparison.objects.get().candidates.all()}
    assert [candidate["text"] for candidate in body["candidates"]] == [texts[place] for place in sides]
    assert "model-" not in json.dumps(body)


def test_an_answer_by_side_chooses_what_was_shown_there(project, bob, comparison):
    client = as_(bob)
    shown = client.post(at("next", "support"), {}).json()
    said = {"verdict": "preferred", "preferred_side": 1, "strength": 3, "client_key": str(uuid.uuid4())}
    receipt = client.post(at("answer", shown["id"]), said)
    assert receipt.status_code == 201
    assert receipt.json()["ranking_sides"] == [[1], [0]]
    assert Preference.objects.get().chosen.text == shown["candidates"][1]["text"]
    assert "completion" not in receipt.content.decode()
    again = client.post(at("answer", shown["id"]), said)
    assert again.json() == receipt.json()
    assert client.get(at("judgment", receipt.json()["id"])).json() == receipt.json()
    assert client.post(at("next", "support"), {}).status_code == 204


def test_holding_fetches_ahead(project, bob, make_comparison):
    for _ in range(2):
        make_comparison()
    client = as_(bob)
    first = client.post(at("next", "support"), {}).json()
    assert client.post(at("next", "support"), {}).json()["id"] == first["id"]
    second = client.post(at("next", "support"), {"holding": [first["id"]]}).json()
    assert second["comparison"] != first["comparison"]


def test_undo_brings_the_comparison_back_as_it_was_shown(project, bob, comparison):
    client = as_(bob)
    shown = client.post(at("next", "support"), {}).json()
    client.post(at("answer", shown["id"]), {"verdict": "all_bad", "client_key": str(uuid.uuid4())})
    back = client.post(at("undo", "support")).json()
    assert (back["id"], back["candidates"]) == (shown["id"], shown["candidates"])
    assert client.post(at("undo", "support")).status_code == 204
    assert not Preference.objects.current().exists()


def test_an_answer_can_be_changed_and_taken_back(project, bob, comparison, answer):
    judgment = answer(bob)
    client = as_(bob)
    changed = client.put(
        at("judgment", judgment.pk), {"verdict": "tie", "client_key": str(uuid.uuid4())}
    ).json()
    assert changed["revision"] == 2
    late = client.put(at("judgment", judgment.pk), {"verdict": "tie", "client_key": str(uuid.uuid4())})
    assert late.status_code == 409
    assert client.delete(at("judgment", changed["id"])).json()["comparison"] == comparison.pk
    assert [row["id"] for row in client.get(at("my-judgments", "support")).json()["results"]] == []


def test_too_late_is_a_sentence(project, bob, make_annotator, comparison, expire):
    lease = next_for(bob, project)
    expire(lease)
    next_for(make_annotator(), project)
    late = as_(bob).post(at("answer", lease.pk), {"verdict": "tie", "client_key": str(uuid.uuid4())})
    assert late.status_code == 409
    assert "ran out" in late.json()["detail"]


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({}, "verdict"),
        ({"verdict": "left"}, "verdict"),
        ({"verdict": "preferred"}, "ranking"),
        ({"verdict": "preferred", "preferred_side": 2, "strength": 1}, "preferred_side"),
        ({"verdict": "preferred", "preferred_side": 1}, "strength"),
        ({"verdict": "preferred", "preferred_side": 1, "strength": 9}, "strength"),
        ({"verdict": "preferred", "ranking_sides": [[0], [9]], "strength": 1}, "ranking_sides"),
        ({"verdict": "preferred", "ranking_sides": "x", "strength": 1}, "ranking_sides"),
        ({"verdict": "preferred", "ranking_sides": [[0], [1]], "preferred_side": 0}, "ranking_sides"),
        ({"verdict": "tie", "client_key": "no uuid"}, "client_key"),
        ({"verdict": "tie", "reason": "a\x00b"}, "reason"),
        ({"verdict": "tie", "seconds_spent": -4}, "seconds_spent"),
        ({"verdict": "tie", "seconds_spent": int("9" * 400)}, "seconds_spent"),
        ({"verdict": "tie", "winner": 1}, "winner"),
        ({"verdict": "tie", "ranking": [[0], [1]]}, "ranking"),
    ],
)
def test_a_bad_answer_is_refused_at_its_field(project, bob, comparison, said, field):
    lease = next_for(bob, project)
    response = as_(bob).post(at("answer", lease.pk), {"client_key": str(uuid.uuid4())} | said)
    assert response.status_code == 400
    assert list(response.json()["fields"]) == [field]
    assert response.json()["detail"].startswith(field)
    assert not Judgment.objects.exists()


@pytest.mark.parametrize("act", ["skip", "flag"])
def test_what_is_put_aside_says_how_long_it_took(project, bob, comparison, act):
    lease = next_for(bob, project)
    said = {"reason": "other", "seconds_spent": 4.5}
    assert as_(bob).post(at(act, lease.pk), said | {"seconds_spent": -1}).status_code == 400
    assert as_(bob).post(at(act, lease.pk), said).status_code == 200
    lease.refresh_from_db()
    assert lease.seconds_spent == 4.5


# Managers and programs


def test_a_manager_pushes_completions_of_their_own_models(project, alice, bob):
    rows = [
        {
            "prompt": [
                {"role": "system", "content": "Be kind."},
                {"role": "user", "content": "Where is it?"},
            ],
            "completions": [
                {"text": "On its way.", "author": "mine-1"},
                {"text": "No idea.", "author": "mine-2"},
            ],
            "overlap": 2,
            "priority": -5,
        }
    ]
    first = as_(alice).post(at("comparisons", "support"), {"comparisons": rows})
    assert first.status_code == 201
    assert first.json()["comparisons_added"] == 1
    again = as_(alice).post(at("comparisons", "support"), {"comparisons": rows}).json()
    assert (again["comparisons_added"], again["ids"]) == (0, first.json()["ids"])
    assert as_(bob).post(at("next", "support"), {}).json()["prompt"] == rows[0]["prompt"]
    [listed] = as_(alice).get(at("comparisons", "support")).json()["results"]
    assert [row["author"] for row in listed["candidates"]] == ["mine-1", "mine-2"]


def test_a_bad_row_is_named_and_nothing_is_added(project, alice):
    rows = [{"prompt": "Fine?"}, {"prompt": ""}, {"prompt": [{"role": "robot", "content": "x"}]}, 7]
    response = as_(alice).post(at("prompts", "support"), {"prompts": rows})
    assert response.status_code == 400
    assert set(response.json()["fields"]) == {"1.prompt", "2.prompt", "3.line"}
    assert not Prompt.objects.exists()


def test_pages_go_on_by_key(project, alice, make_prompt):
    for number in range(5):
        make_prompt(f"Question {number}?")
    client, seen, url = as_(alice), [], at("prompts", "support") + "?limit=2"
    while url:
        page = client.get(url).json()
        seen += [row["id"] for row in page["results"]]
        url = page["next"]
    assert seen == sorted(Prompt.objects.values_list("id", flat=True))


def test_reviewers_read_judgments_under_pseudonyms(project, bob, carol, comparison, answer):
    answer(bob)
    page = as_(carol).get(at("judgments", "support"))
    [row] = page.json()["results"]
    assert row["annotator"] == project.memberships.get(user=bob).pseudonym
    assert "bob" not in page.content.decode().lower()


@pytest.mark.parametrize(
    "query",
    [
        "judgment__annotator__password__startswith=m",
        "annotator=bob",
        "ties=maybe",
        "since=yesterday",
        "after=-1",
    ],
)
def test_nothing_else_can_be_filtered_by(project, carol, query):
    response = as_(carol).get(at("preferences", "support") + "?" + query)
    assert response.status_code == 400
    assert list(response.json()["fields"]) == [query.split("=")[0]]


def test_a_dataset_is_frozen_listed_and_downloaded(project, alice, carol, bob, make_comparison, answer):
    for _ in range(8):
        make_comparison()
        answer(bob)
    made = as_(alice).post(at("datasets", "support"), {"filter": {"ties": "exclude"}}).json()
    assert made["filter"] == {"ties": "exclude"}
    assert made["train_count"] + made["eval_count"] == 8
    [listed] = as_(carol).get(at("datasets", "support")).json()["results"]
    assert listed == made
    lines = []
    for split in ("train", "eval"):
        file = as_(carol).get(at("dataset-file", made["id"]) + f"?split={split}")
        lines += b"".join(file.streaming_content).splitlines()
    assert len(lines) == 8
    assert as_(carol).get(at("dataset-file", made["id"]) + "?split=../secret").status_code == 400


def test_freezing_nothing_is_refused_with_a_sentence(project, alice):
    response = as_(alice).post(at("datasets", "support"), {})
    assert response.status_code == 400
    assert "no preferences" in response.json()["detail"]


# Tokens


def test_a_password_buys_an_expiring_token_that_works_until_revoked(project, bob):
    made = APIClient().post(at("token"), {"days": 2}, HTTP_AUTHORIZATION=basic("bob"))
    assert made.status_code == 201
    assert made.json()["expiry"] is not None
    client = APIClient(HTTP_AUTHORIZATION=f"Token {made.json()['token']}")
    assert client.get(at("project", "support")).status_code == 200
    [listed] = client.get(at("token")).json()
    assert made.json()["token"].startswith(listed["prefix"])
    assert made.json()["token"] not in json.dumps(listed)
    assert client.delete(at("token")).status_code == 204
    assert client.get(at("project", "support")).status_code == 401


def test_a_token_is_stored_hashed(bob):
    from knox.models import AuthToken

    token = APIClient().post(at("token"), HTTP_AUTHORIZATION=basic("bob")).json()["token"]
    assert token not in str(AuthToken.objects.values().get())


def test_an_expired_token_is_worth_nothing(project, bob):
    from datetime import timedelta

    from knox.models import AuthToken

    _, token = AuthToken.objects.create(bob, expiry=timedelta(seconds=-1))
    assert APIClient(HTTP_AUTHORIZATION=f"Token {token}").get(at("project", "support")).status_code == 401


def test_one_token_is_revoked_by_its_beginning_and_only_by_its_owner(bob, alice):
    prefix = APIClient().post(at("token"), HTTP_AUTHORIZATION=basic("bob")).json()["prefix"]
    assert as_(alice).delete(at("one-token", prefix)).status_code == 404
    assert as_(bob).delete(at("one-token", prefix)).status_code == 204


def test_a_token_makes_no_token_and_a_password_reads_no_data(project, bob):
    token = APIClient().post(at("token"), HTTP_AUTHORIZATION=basic("bob")).json()["token"]
    assert APIClient(HTTP_AUTHORIZATION=f"Token {token}").post(at("token")).status_code == 401
    assert APIClient(HTTP_AUTHORIZATION=basic("bob")).get(at("project", "support")).status_code == 401
    assert APIClient(HTTP_AUTHORIZATION=basic("bob")).get(at("token")).status_code == 401


def test_guessing_passwords_is_slowed_down_whatever_address_is_claimed(bob):
    answers = [
        APIClient().post(
            at("token"), HTTP_AUTHORIZATION=basic("bob", "guess"), HTTP_X_FORWARDED_FOR=f"10.0.0.{n}"
        )
        for n in range(31)
    ]
    assert [answer.status_code for answer in answers] == [401] * 30 + [429]
    assert APIClient().post(at("token"), HTTP_AUTHORIZATION=basic("bob")).status_code == 429


def test_logging_in_rightly_is_not_slowed_down(bob):
    codes = {APIClient().post(at("token"), HTTP_AUTHORIZATION=basic("bob")).status_code for _ in range(35)}
    assert codes == {201}


# Hostile requests


@pytest.mark.parametrize(
    "header", ["Token", "Token \xff\xfe", "Token a b", "Token x\x00y", "Token 東京", "Basic ?"]
)
def test_a_broken_token_is_no_defect(project, header):
    response = APIClient().get(
        at("projects"), headers={"authorization": header.encode("utf-8").decode("latin-1")}
    )
    assert response.status_code == 401


@pytest.mark.parametrize("name", ["bo\x00b", "\ud7ff", "' OR 1=1 --", ""])
def test_a_hostile_name_is_no_defect(name):
    assert APIClient().post(at("token"), HTTP_AUTHORIZATION=basic(name)).status_code == 401


@pytest.mark.parametrize(
    "url",
    [
        "auth/token/%00/",
        "projects/%00/",
        "projects/support/prompts/?cursor=x&limit=-1",
    ],
)
def test_a_hostile_address_is_not_found(project, alice, url):
    assert as_(alice).delete("/api/v1/" + url).status_code in (404, 405)
    assert as_(alice).get("/api/v1/" + url).status_code == 404


@pytest.mark.parametrize("query", ["authors=%00", "tags=%00&tags=b", "after=1e3", "since=%00", "split=%00"])
def test_a_hostile_query_is_refused(project, alice, query):
    assert as_(alice).get(at("preferences", "support") + "?" + query).status_code == 400


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"verdict": ' + b"9" * 10_000 + b"}",
        b'{"verdict": NaN}',
        b"\xff\xfe{}",
        b"not json",
        b"[]",
        b'"text"',
        b"null",
        b'{"verdict": {"a": 1}, "client_key": []}',
        b'{"verdict": "tie", "client_key": "f81d4fae-7dec-11d0-a765-00a0c91e6bf6", "reason": "\\ud800"}',
    ],
)
def test_broken_json_is_refused(project, bob, comparison, body):
    lease = next_for(bob, project)
    response = as_(bob).generic("POST", at("answer", lease.pk), body, content_type="application/json")
    assert response.status_code == 400
    assert response.json()["detail"]


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"holding": 7}', b'{"holding": [99999999999999999999]}', b"[1]"]
)
def test_broken_holding_is_refused(project, bob, comparison, body):
    response = as_(bob).generic("POST", at("next", "support"), body, content_type="application/json")
    assert response.status_code == 400


def test_a_request_that_is_too_large_is_refused(project, alice, settings):
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000
    response = as_(alice).post(at("prompts", "support"), {"prompts": [{"prompt": "x" * 2000}]})
    assert response.status_code == 413


def test_an_id_beyond_the_database_is_not_found(bob):
    assert as_(bob).get(at("assignment", 10**30)).status_code == 404


def test_a_hostile_completion_is_stored_and_returned_as_it_is(project, alice, bob):
    text = "<script>alert(1)</script>\u202e\u200b ' OR 1=1 --"
    rows = [{"prompt": "Hm?", "completions": [{"text": text, "author": "a"}, {"text": "b", "author": "b"}]}]
    as_(alice).post(at("comparisons", "support"), {"comparisons": rows})
    response = as_(bob).post(at("next", "support"), {})
    assert response["Content-Type"] == "application/json"
    assert text in [candidate["text"] for candidate in response.json()["candidates"]]


def test_the_api_describes_itself_without_warnings(capsys):
    from django.core.management import call_command

    call_command("spectacular", "--validate", "--fail-on-warn", "--file", "/dev/null")
    assert not re.search("warning|error", capsys.readouterr().err, re.IGNORECASE)


def test_an_unsafe_session_request_needs_its_csrf_token(project, bob, comparison):
    client = APIClient(enforce_csrf_checks=True)
    client.force_login(bob)
    assert client.post(at("next", "support"), {}).status_code == 403
    assert Project.objects.count() == 1
