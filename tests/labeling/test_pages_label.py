"""The annotator's desk through the client: what it shows, what it takes, and what it never tells."""

import json
import uuid

import pytest
from django.urls import reverse

from labeling import access
from labeling.api import work
from labeling.assignment import next_for
from labeling.models import Assignment, Completion, Judgment, Preference
from labeling.projects import remove_member
from labeling.selection import create_comparison
from labeling.views import label


@pytest.fixture
def desk(client, project):
    """Post to the desk as whoever is signed in: desk("answer", ...) -> (status, JSON)."""

    def post(name, **values):
        url = reverse(f"labeling:{name}", args=[project.slug])
        response = client.post(url, json.dumps(values), content_type="application/json")
        return response.status_code, response.json()

    return post


@pytest.fixture
def as_bob(client, bob):
    client.force_login(bob)
    return client


def test_it_shows_the_first_comparison_and_has_the_next_one_ready(as_bob, project, bob, make_comparison):
    make_comparison()
    make_comparison()
    html = as_bob.get(f"/p/{project.slug}/label/").content.decode()
    first, second = Assignment.objects.filter(annotator=bob).order_by("id")
    assert html.count("<article") == 2
    assert html.index(f'data-assignment="{first.pk}"') < html.index('<template id="ahead">')
    assert html.index('<template id="ahead">') < html.index(f'data-assignment="{second.pk}"')


def test_no_author_and_no_completion_id_reaches_the_browser(as_bob, project, make_prompt):
    prompt = make_prompt("Which one?")
    completions = [
        Completion.objects.add(prompt, text, f"secret-{text}-author") for text in ("left", "right")
    ]
    Completion.objects.filter(pk=completions[0].pk).update(id=987_654_321)
    create_comparison(project, prompt, [Completion.objects.get(pk=987_654_321), completions[1]])
    html = as_bob.get(f"/p/{project.slug}/label/").content.decode()
    assert "left" in html and "right" in html
    assert "secret" not in html and "987654321" not in html


def test_the_answers_stand_in_the_order_drawn_for_the_person(as_bob, project, bob, make_prompt):
    for number in range(12):
        prompt = make_prompt(f"Prompt {number}?")
        create_comparison(
            project, prompt, [Completion.objects.add(prompt, t, "m") for t in ("zeroth", "first")]
        )
    seen = set()
    for _ in range(12):
        assignment = next_for(bob, project)
        html = as_bob.get(f"/p/{project.slug}/label/").content.decode().split('<template id="ahead">')[0]
        shown = [0, 1] if html.index("zeroth") < html.index("first") else [1, 0]
        assert shown == assignment.sides
        seen.add(tuple(shown))
        Assignment.objects.filter(pk=assignment.pk).update(outcome="skipped", slot=None)
        Assignment.objects.filter(annotator=bob, outcome="").delete()
    assert seen == {(0, 1), (1, 0)}


@pytest.mark.parametrize("side", [0, 1])
def test_the_side_that_was_chosen_on_screen_is_the_one_that_is_stored(
    as_bob, desk, project, bob, comparison, side
):
    assignment = next_for(bob, project)
    status, reply = desk(
        "answer",
        assignment=assignment.pk,
        client_key=str(uuid.uuid4()),
        verdict="preferred",
        preferred_side=side,
        strength=2,
        reason="Kinder.",
        seconds_spent=3.5,
    )
    preference = Preference.objects.get()
    assert status == 200 and reply["judgment"] == preference.judgment_id
    chosen = comparison.candidates.get(position=assignment.sides[side]).completion
    assert preference.chosen == chosen and preference.strength == 2
    assert preference.judgment.reason == "Kinder." and preference.judgment.seconds_spent == 3.5


def test_a_ranking_is_stored_by_candidate_positions(as_bob, desk, project, bob, make_comparison):
    make_comparison(candidates=3)
    assignment = next_for(bob, project)
    status, _ = desk(
        "answer",
        assignment=assignment.pk,
        client_key=str(uuid.uuid4()),
        verdict="preferred",
        ranking_sides=[[2], [0, 1]],
    )
    first, second, third = assignment.sides
    assert status == 200
    assert Judgment.objects.get().ranking == [[third], sorted([first, second])]


def test_an_answer_sent_twice_is_stored_once(as_bob, desk, project, bob, comparison):
    assignment = next_for(bob, project)
    said = {"assignment": assignment.pk, "client_key": str(uuid.uuid4()), "verdict": "tie"}
    assert desk("answer", **said) == desk("answer", **said)
    assert Judgment.objects.count() == 1


def test_a_second_answer_under_another_key_is_refused_with_a_sentence(as_bob, desk, project, bob, comparison):
    assignment = next_for(bob, project)
    desk("answer", assignment=assignment.pk, client_key=str(uuid.uuid4()), verdict="tie")
    status, reply = desk("answer", assignment=assignment.pk, client_key=str(uuid.uuid4()), verdict="all_bad")
    assert status == 409 and reply["message"] == "You have judged this comparison already."


@pytest.mark.parametrize(
    "wrong",
    [
        {"verdict": "best"},
        {"verdict": "preferred"},
        {"verdict": "preferred", "preferred_side": 2, "strength": 1},
        {"verdict": "preferred", "preferred_side": 0, "strength": 4},
        {"verdict": "preferred", "preferred_side": 0},
        {"verdict": "preferred", "ranking_sides": [[0, 1]], "strength": 1},
        {"verdict": "preferred", "ranking_sides": {"a": 1}, "strength": 1},
        {"verdict": "preferred", "ranking_sides": [["0"], ["1"]], "strength": 1},
        {"verdict": "tie", "client_key": "mine"},
        {"verdict": "tie", "seconds_spent": -1},
        {"verdict": "tie", "reason": "x" * 10_001},
        {"verdict": "tie", "reason": "\x00"},
        {"verdict": "tie", "reason": "half of a character \ud83d"},
        {"verdict": "tie", "seconds_spent": int("9" * 400)},
        {"verdict": "tie", "assignment": "all"},
        {"verdict": "tie", "assignment": 2**70},
    ],
)
def test_an_answer_that_makes_no_sense_is_refused_and_nothing_stored(
    as_bob, desk, project, bob, comparison, wrong
):
    assignment = next_for(bob, project)
    status, reply = desk("answer", **({"assignment": assignment.pk, "client_key": str(uuid.uuid4())} | wrong))
    assert status == 400 and reply["message"]
    assert not Judgment.objects.exists()


def test_nothing_is_said_in_the_name_of_whoever_signed_in_since(
    desk, as_bob, project, bob, alice, comparison
):
    assignment = next_for(bob, project)
    said = {"assignment": assignment.pk, "client_key": str(uuid.uuid4()), "verdict": "tie"}
    url = reverse("labeling:answer", args=[project.slug])
    given = {"data": json.dumps(said), "content_type": "application/json"}
    assert as_bob.post(url, headers={"X-Person": str(alice.pk)}, **given).json()["other"] is True
    assert not Judgment.objects.exists()
    assert as_bob.post(url, headers={"X-Person": str(bob.pk)}, **given).status_code == 200


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"null", b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_refused(as_bob, project, body):
    for name in ("next", "answer", "put-aside", "undo", "renew"):
        url = reverse(f"labeling:{name}", args=[project.slug])
        assert as_bob.post(url, body, content_type="application/json").status_code == 400


def test_skip_and_report_keep_their_reason_and_never_come_back(as_bob, desk, project, bob, make_comparison):
    make_comparison()
    make_comparison()
    first = next_for(bob, project)
    assert (
        desk("put-aside", assignment=first.pk, outcome="skip", reason="expertise", seconds_spent=2.5)[0]
        == 200
    )
    second = next_for(bob, project)
    said = {
        "assignment": second.pk,
        "outcome": "flag",
        "reason": "harmful",
        "text": "It says how.",
        "seconds_spent": 10**6,
    }
    assert desk("put-aside", **said)[0] == 200
    first.refresh_from_db()
    second.refresh_from_db()
    assert (first.outcome, first.outcome_reason) == ("skipped", "expertise")
    assert (first.seconds_spent, second.seconds_spent) == (2.5, 86_400)
    assert (second.outcome, second.outcome_reason, second.outcome_text) == (
        "flagged",
        "harmful",
        "It says how.",
    )
    assert desk("next", holding=[]) == (200, {"html": None})


def test_a_reason_that_was_not_offered_is_refused(as_bob, desk, project, bob, comparison):
    assignment = next_for(bob, project)
    assert desk("put-aside", assignment=assignment.pk, outcome="skip", reason="harmful")[0] == 400


def test_undo_takes_the_last_answer_back_and_shows_that_comparison_again(
    as_bob, desk, project, bob, make_comparison
):
    make_comparison()
    make_comparison()
    for _ in range(2):
        assignment = next_for(bob, project)
        desk("answer", assignment=assignment.pk, client_key=str(uuid.uuid4()), verdict="tie")
    status, reply = desk("undo")
    assert status == 200 and reply["assignment"] == assignment.pk
    assert f'data-assignment="{assignment.pk}"' in reply["html"]
    assert Judgment.objects.current().count() == 1 and Judgment.objects.count() == 2


def test_undo_of_a_named_answer_sent_twice_takes_nothing_else_back(
    as_bob, desk, project, bob, make_comparison
):
    make_comparison()
    make_comparison()
    for _ in range(2):
        assignment = next_for(bob, project)
        desk("answer", assignment=assignment.pk, client_key=str(uuid.uuid4()), verdict="tie")
    assert desk("undo", assignment=assignment.pk)[0] == desk("undo", assignment=assignment.pk)[0] == 200
    assert Judgment.objects.current().count() == 1


def test_an_undo_takes_back_the_answer_that_it_names_and_no_later_one(as_bob, desk, bob, project, comparison):
    assignment = next_for(bob, project)
    keys = [str(uuid.uuid4()) for _ in range(2)]
    named = {"assignment": assignment.pk, "client_key": keys[0]}
    assert desk("undo", **named)[0] == 200  # the answer never arrived, and there is nothing to take back
    for key in keys:
        desk("answer", assignment=assignment.pk, client_key=key, verdict="tie")
        if key == keys[0]:
            assert desk("undo", **named)[0] == desk("undo", **named)[0] == 200
    assert desk("undo", **named) == (
        409,
        {"message": "This answer was changed or taken back in the meantime."},
    )
    assert [str(one.client_key) for one in Judgment.objects.current()] == [keys[1]]


def test_the_page_names_the_last_answer_and_an_undo_the_one_before_it(
    as_bob, desk, bob, project, make_comparison
):
    for _ in range(3):
        make_comparison()
    assert "data-last" not in as_bob.get(f"/p/{project.slug}/label/").content.decode()
    given = []
    for _ in range(2):
        key, assignment = str(uuid.uuid4()), next_for(bob, project)
        reply = desk("answer", assignment=assignment.pk, client_key=key, verdict="tie")[1]
        given.append(reply["judgment"])
    assert f'data-last="{given[1]}"' in as_bob.get(f"/p/{project.slug}/label/").content.decode()
    replies = [desk("undo", judgment=given[1]) for _ in range(2)]  # the first receipt was lost
    assert replies[0] == replies[1] and replies[0][1]["last"] == given[0]
    assert [one.pk for one in Judgment.objects.current()] == [given[0]]
    assert desk("undo", judgment=given[0])[1]["last"] is None


def test_undo_with_nothing_to_take_back_says_so(as_bob, desk):
    assert desk("undo") == (409, {"message": "There is no answer of yours to take back."})


def test_renewing_tells_which_leases_are_gone(
    as_bob, desk, project, bob, make_annotator, make_comparison, expire
):
    for _ in range(3):
        make_comparison()
    lost = next_for(bob, project)
    done = next_for(bob, project, holding=[lost.pk])
    desk("answer", assignment=done.pk, client_key=str(uuid.uuid4()), verdict="tie")
    kept = next_for(bob, project, holding=[lost.pk])
    expire(lost)
    assert next_for(make_annotator(), project).comparison == lost.comparison
    before = Assignment.objects.get(pk=kept.pk).leased_until
    status, reply = desk("renew", assignments=[lost.pk, done.pk, kept.pk])
    assert (status, reply["lost"]) == (200, [lost.pk, done.pk])
    assert reply["why"] == {
        str(lost.pk): "Your time for this comparison ran out, and someone else has it now.",
        str(done.pk): "You have judged this comparison already.",
    }
    assert Assignment.objects.get(pk=kept.pk).leased_until > before


def test_a_signed_out_person_is_told_so_in_json(client, desk, project):
    for name in ("next", "answer", "put-aside", "undo", "renew"):
        assert desk(name) == (401, {"message": "You are signed out."})


def test_another_persons_assignment_cannot_be_answered(
    client, desk, project, bob, make_annotator, comparison
):
    assignment = next_for(bob, project)
    client.force_login(make_annotator())
    key = str(uuid.uuid4())
    assert desk("answer", assignment=assignment.pk, client_key=key, verdict="tie")[0] == 404
    assert desk("put-aside", assignment=assignment.pk, outcome="skip", reason="other")[0] == 404
    assert desk("undo", assignment=assignment.pk)[0] == 404
    assert desk("renew", assignments=[assignment.pk])[1]["lost"] == [assignment.pk]
    assert not Judgment.objects.exists()


def test_strangers_and_reviewers_get_404(client, desk, project, charlie, carol, comparison):
    for person in (charlie, carol):
        client.force_login(person)
        assert client.get(f"/p/{project.slug}/label/").status_code == 404
        assert desk("next", holding=[])[0] == 404


def test_who_is_removed_while_they_ask_gets_404(as_bob, desk, project, comparison, monkeypatch):
    def let_in_and_removed(*asked):
        place = access.access_place(*asked)
        remove_member(place)
        return place

    back_in = project.memberships.filter(user__username="bob")
    monkeypatch.setattr(label, "access_place", let_in_and_removed)
    assert as_bob.get(f"/p/{project.slug}/label/").status_code == 404
    back_in.update(left_at=None)
    monkeypatch.setattr(label, "access_project", lambda *asked: let_in_and_removed(*asked).project)
    assert desk("next", holding=[])[0] == 404
    back_in.update(left_at=None)
    monkeypatch.setattr(work, "access_project", lambda *asked: let_in_and_removed(*asked).project)
    assert as_bob.post(f"/api/v1/projects/{project.slug}/next/", {}, "application/json").status_code == 404
    assert not Assignment.objects.exists()


def test_the_desk_takes_no_get_and_no_post_without_the_csrf_token(project, bob):
    from django.test import Client

    strict = Client(enforce_csrf_checks=True)
    strict.force_login(bob)
    url = reverse("labeling:next", args=[project.slug])
    assert strict.get(url).status_code == 405
    assert strict.post(url, "{}", content_type="application/json").status_code == 403


def test_hostile_words_in_prompt_completions_guidelines_and_names_show_as_text(as_bob, project, make_prompt):
    evil = "<script>window.hacked=1</script>"
    project.guidelines, project.name = evil, evil
    project.save(update_fields=["guidelines", "name"])
    prompt = make_prompt(evil)
    create_comparison(project, prompt, [Completion.objects.add(prompt, f"{evil} {n}", "m") for n in "12"])
    html = as_bob.get(f"/p/{project.slug}/label/").content.decode()
    assert "<script>window" not in html
    assert html.count("&lt;script&gt;window.hacked=1&lt;/script&gt;") >= 4


def test_every_page_carries_a_content_policy_without_inline_script_or_style(as_bob, project):
    response = as_bob.get(f"/p/{project.slug}/label/")
    policy = response["Content-Security-Policy"]
    assert "unsafe" not in policy and "default-src 'none'" in policy and "style-src 'self'" in policy
    html = response.content.decode()
    assert " style=" not in html and "<style" not in html and " onclick" not in html


def test_the_empty_desk_says_what_comes_next(as_bob, project):
    html = as_bob.get(f"/p/{project.slug}/label/").content.decode()
    assert "Nothing waits for you right now" in html and "<article" not in html


def test_it_counts_the_answers_that_stand(as_bob, desk, project, bob, make_comparison, answer):
    make_comparison()
    make_comparison()
    answer(bob)
    answer(bob)
    desk("undo")
    html = as_bob.get(f"/p/{project.slug}/label/").content.decode()
    assert '<b data-count="today">1</b>' in html
