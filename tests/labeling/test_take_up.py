"""Taking back a skip or a report: the comparison comes back to the person, or a sentence says why not."""

import json
import uuid

import pytest
from django.urls import reverse

from labeling.assignment import AlreadyAnswered, Conflict, LeaseExpired, flag, next_for, skip, take_up
from labeling.models import Assignment, Judgment
from labeling.reports import handle


@pytest.fixture
def desk(client, project, bob):
    """Post to the desk as Bob: desk("undo", ...) -> (status, JSON)."""
    client.force_login(bob)

    def post(name, **values):
        url = reverse(f"labeling:{name}", args=[project.slug])
        response = client.post(url, json.dumps(values), content_type="application/json")
        return response.status_code, response.json()

    return post


@pytest.mark.parametrize("put_aside", [skip, flag])
def test_what_was_put_aside_is_open_again_and_leased_to_the_person(
    project, bob, make_annotator, comparison, put_aside
):
    before = next_for(bob, project)
    put_aside(before, "other", seconds_spent=7)
    take_up(Assignment.objects.get())
    take_up(Assignment.objects.get())
    after = Assignment.objects.get()
    assert (after.outcome, after.outcome_reason, after.outcome_text) == ("", "", "")
    assert (after.slot, after.outcome_at, after.put_aside_in, after.seconds_spent) == (0, None, None, None)
    assert next_for(bob, project) == before and after.sides == before.sides
    assert next_for(make_annotator(), project) is None


def test_it_does_not_come_back_while_others_hold_every_place(
    project, bob, make_annotator, comparison, expire, answer
):
    skipped = next_for(bob, project)
    skip(skipped, "other")
    other = make_annotator()
    lease = next_for(other, project)
    with pytest.raises(LeaseExpired, match="Someone else has this comparison now"):
        take_up(skipped)
    assert Assignment.objects.get(pk=skipped.pk).outcome == "skipped"
    expire(lease)
    assert take_up(skipped).slot == 0


def test_it_does_not_come_back_once_it_has_all_its_answers(project, bob, make_annotator, comparison, answer):
    skipped = next_for(bob, project)
    skip(skipped, "other")
    answer(make_annotator())
    with pytest.raises(LeaseExpired):
        take_up(skipped)


@pytest.mark.parametrize(
    ("handling", "why"),
    [("closed", "taken this comparison away"), ("kept", "decided on your report already")],
)
def test_a_report_that_a_manager_has_decided_on_stays(project, alice, bob, comparison, handling, why):
    reported = next_for(bob, project)
    flag(reported, "harmful")
    handle(reported, alice, handling)
    with pytest.raises(Conflict, match=why):
        take_up(reported)
    assert Assignment.objects.get().outcome == "flagged"


def test_a_manager_meets_no_report_that_was_taken_back(project, alice, bob, comparison):
    reported = next_for(bob, project)
    flag(reported, "harmful")
    take_up(reported)
    with pytest.raises(Conflict):
        handle(reported, alice, "closed")


def test_what_was_answered_since_is_no_skip(project, bob, comparison, answer):
    judged = answer(bob).assignment
    with pytest.raises(AlreadyAnswered):
        take_up(judged)


def test_the_desk_takes_back_the_skip_and_leaves_the_answer_before_it(desk, project, bob, make_comparison):
    make_comparison()
    make_comparison()
    answered = next_for(bob, project)
    desk("answer", assignment=answered.pk, client_key=str(uuid.uuid4()), verdict="tie")
    skipped = next_for(bob, project)
    desk("put-aside", assignment=skipped.pk, outcome="skip", reason="other")
    for _ in range(2):
        status, reply = desk("undo", assignment=skipped.pk, put_aside=True)
        assert status == 200 and f'data-assignment="{skipped.pk}"' in reply["html"]
        assert reply["aside"] is None and reply["last"] == Judgment.objects.current().get().pk


@pytest.mark.django_db(transaction=True)
def test_the_page_names_the_skip_only_while_it_is_the_last_act(desk, client, project, bob, make_comparison):
    for _ in range(3):
        make_comparison()

    def newest():
        page = client.get(f"/p/{project.slug}/label/").content.decode()
        return "data-last=" in page, "data-aside=" in page

    assert newest() == (False, False)
    skipped = next_for(bob, project)
    desk("put-aside", assignment=skipped.pk, outcome="flag", reason="broken")
    assert newest() == (False, True)
    answered = next_for(bob, project)
    judgment = desk("answer", assignment=answered.pk, client_key=str(uuid.uuid4()), verdict="tie")[1][
        "judgment"
    ]
    assert newest() == (True, False)
    assert desk("undo", judgment=judgment)[1]["aside"] == skipped.pk


def test_nobody_takes_up_what_another_put_aside(desk, project, make_annotator, comparison):
    other = next_for(make_annotator(), project)
    skip(other, "other")
    assert desk("undo", assignment=other.pk, put_aside=True)[0] == 404


def test_the_desk_says_why_a_skip_stays(desk, project, bob, make_annotator, comparison):
    skipped = next_for(bob, project)
    skip(skipped, "other")
    next_for(make_annotator(), project)
    reply = desk("undo", assignment=skipped.pk, put_aside=True)
    assert reply == (409, {"message": "Someone else has this comparison now."})
