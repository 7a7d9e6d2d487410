"""What annotators put aside: managers decide on reports, and read skips; all of it goes out."""

import json
import threading
import uuid

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from labeling.assignment import Conflict, LeaseExpired, flag, next_for, renew, skip
from labeling.judging import choice_from_side, record, undo_last
from labeling.models import Assignment, Comparison, User
from labeling.projects import create_project
from labeling.repeats import repeat_of
from labeling.reports import decided_reports, handle, skips, waiting_reports
from tests.labeling.conftest import rows_read

pytestmark = pytest.mark.django_db


@pytest.fixture
def reported(project, bob, make_comparison):
    make_comparison(overlap=2)
    assignment = next_for(bob, project)
    flag(assignment, "harmful", "<script>alert(1)</script> in A")
    return assignment


def answer_left(assignment):
    ranking = choice_from_side(assignment, "left")
    return record(assignment, "preferred", uuid.uuid4(), ranking=ranking, strength=1)


def test_what_is_closed_is_asked_of_nobody_and_answers_stay(project, alice, reported, make_annotator):
    early, late, later = (make_annotator() for _ in range(3))
    judgment = answer_left(next_for(early, project))
    open_on_screen = next_for(late, project)
    handle(reported, alice, "closed")
    assert next_for(later, project) is None
    with pytest.raises(LeaseExpired, match="manager has taken this comparison away"):
        answer_left(open_on_screen)
    judgment.refresh_from_db()
    assert judgment.is_current and judgment.preferences.count() == 1
    undo_last(early, project)  # which opens a comparison again, but not this one
    assert next_for(later, project) is None


def test_what_is_kept_is_asked_on(project, alice, reported, make_annotator):
    handle(reported, alice, "kept")
    assert next_for(make_annotator(), project).comparison_id == reported.comparison_id
    stored = Assignment.objects.get(pk=reported.pk)
    assert (stored.handling, stored.handled_by) == ("kept", alice) and stored.handled_at


def test_closing_decides_on_all_reports_of_the_comparison(project, alice, reported, make_annotator):
    other = next_for(make_annotator(), project)
    flag(other, "private")
    handle(reported, alice, "closed")
    assert not Assignment.objects.waiting_reports().exists()
    assert set(Assignment.objects.values_list("handling", flat=True)) == {"closed"}


@pytest.mark.django_db(transaction=True)
def test_of_two_managers_one_decides(alice, reported):
    start, outcomes = threading.Barrier(2), []

    def decide(handling):
        start.wait()
        try:
            handle(Assignment.objects.get(pk=reported.pk), alice, handling)
            outcomes.append(handling)
        except Conflict:
            outcomes.append("too late")
        finally:
            connection.close()

    threads = [threading.Thread(target=decide, args=[handling]) for handling in ("closed", "kept")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes)[-1] == "too late" and len(set(outcomes)) == 2
    decided = Assignment.objects.get(pk=reported.pk).handling
    assert decided in outcomes
    assert Comparison.objects.filter(closed_at=None).exists() == (decided == "kept")


def test_a_lease_that_ran_out_ends_too(project, alice, reported, make_annotator, expire):
    asleep = next_for(make_annotator(), project)
    expire(asleep)
    handle(reported, alice, "closed")
    with pytest.raises(LeaseExpired, match="manager has taken this comparison away"):
        renew(asleep)
    with pytest.raises(LeaseExpired, match="manager has taken this comparison away"):
        answer_left(asleep)


@pytest.fixture
def reported_repeat(project, bob, make_comparison):
    """A repeat that Bob has reported, of a comparison that one more person is wanted for."""
    make_comparison(overlap=2)
    judgment = answer_left(next_for(bob, project))
    with transaction.atomic():
        repeat = repeat_of(judgment)
    assignment = Assignment.objects.create(
        comparison=repeat, annotator=bob, sides=[0, 1], leased_until=timezone.now()
    )
    flag(assignment, "harmful")
    return assignment


@pytest.mark.django_db(transaction=True)
def test_a_manager_who_closes_and_an_answer_do_not_wait_in_a_circle(
    project, alice, reported_repeat, make_annotator, at_once
):
    on_screen = next_for(make_annotator(), project)
    start, finish = at_once
    with transaction.atomic():
        Assignment.objects.select_for_update().get(pk=on_screen.pk)
        start(close=lambda: handle(reported_repeat, alice, "closed"), answer=lambda: answer_left(on_screen))
    outcomes = finish()
    assert outcomes["close"] is None
    assert isinstance(outcomes["answer"], LeaseExpired)


@pytest.mark.django_db(transaction=True)
def test_a_lease_that_is_being_given_while_a_manager_closes_ends(
    project, alice, reported_repeat, make_annotator, at_once
):
    late = make_annotator()
    start, finish = at_once
    with transaction.atomic():
        # Whoever leases to this person holds the comparison, and waits at the end for the person's row.
        User.objects.select_for_update().get(pk=late.pk)
        start(lease=lambda: next_for(late, project), close=lambda: handle(reported_repeat, alice, "closed"))
    outcomes = finish()
    assert outcomes["close"] is None
    assert outcomes["lease"].comparison_id == reported_repeat.comparison.repeats.comparison_id
    assert Assignment.objects.get(pk=outcomes["lease"].pk).slot is None


def test_the_page_shows_what_was_reported_and_skipped_and_runs_none_of_it(
    client, project, alice, bob, reported, make_comparison
):
    make_comparison()
    skip(next_for(bob, project), "expertise", 12.4)
    client.force_login(alice)
    page = client.get(f"/p/{project.slug}/reports/").content.decode()
    assert "1 report waits for you" in page and "It could harm someone" in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; in A" in page and "<script>alert" not in page
    assert "I do not know enough to judge" in page and ">12 s<" in page
    path = f"/p/{project.slug}/reports/{reported.pk}/decide/"
    assert client.post(path, {"handling": "burn it"}).status_code == 400
    page = client.post(path, {"handling": "closed"}, follow=True).content.decode()
    assert "Nobody is asked about it any more" in page and "No report waits" in page
    page = client.post(path, {"handling": "kept"}, follow=True).content.decode()
    assert "Somebody else has decided on this report." in page
    assert Assignment.objects.get(pk=reported.pk).handling == "closed"


def test_a_report_of_another_project_is_not_found(client, project, alice, bob, make_comparison, reported):
    other = create_project("Other", alice)
    client.force_login(alice)
    path = f"/p/{other.slug}/reports/{reported.pk}/decide/"
    assert client.post(path, {"handling": "closed"}).status_code == 404
    # Nor is a comparison that was merely skipped.
    make_comparison(project=project)
    skipped = next_for(bob, project)
    skip(skipped, "other")
    path = f"/p/{project.slug}/reports/{skipped.pk}/decide/"
    assert client.post(path, {"handling": "closed"}).status_code == 404


def test_older_skips_are_a_page_further(client, project, alice, bob, make_comparison, monkeypatch):
    monkeypatch.setattr("labeling.views.reports.SKIPS_SHOWN", 2)
    prompts = []
    for _ in range(3):
        prompts.append(make_comparison().prompt.text)
        skip(next_for(bob, project), "other")
    client.force_login(alice)
    first = client.get(f"/p/{project.slug}/reports/").content.decode()
    assert prompts[0] not in first and prompts[1] in first and prompts[2] in first
    before = Assignment.objects.order_by("-id")[1].pk
    assert f"?before={before}" in first
    second = client.get(path_before(project, before)).content.decode()
    assert prompts[0] in second and prompts[1] not in second
    assert "Skipped, earlier ones" in second
    for no_key in ("1;drop", "abc", "9" * 30):
        page = client.get(f"/p/{project.slug}/reports/", {"before": no_key}).content.decode()
        assert prompts[2] in page and "Skipped, newest first" in page
    assert "Nobody has skipped anything before that" in client.get(path_before(project, 0)).content.decode()


def path_before(project, before):
    return f"/p/{project.slug}/reports/?before={before}"


def test_the_lists_of_a_project_read_nothing_of_others(
    project, alice, bob, make_annotator, make_comparison, many_finished, reported, monkeypatch
):
    other = create_project("Other", alice)
    many_finished(3_000, outcome="skipped", project=other)
    many_finished(3_000, outcome="flagged", project=other)
    many_finished(3_000, project=other)
    many_finished(3_000)
    make_comparison()
    skip(next_for(bob, project), "unclear")
    handle(reported, alice, "kept")
    flag(next_for(make_annotator(), project), "private")
    for rows in (waiting_reports(project), decided_reports(project), skips(project)):
        assert rows_read(lambda rows=rows: list(rows[:21])) < 50
        assert len(rows) == 1
    assert rows_read(lambda: list(project.put_aside.order_by("id"))) < 50
    assert rows_read(lambda: reported.comparison.closed_by_report) < 50


def test_the_page_renders_in_full_only_what_waits(
    client, project, alice, bob, reported, make_comparison, monkeypatch
):
    rendered = []
    monkeypatch.setattr("labeling.views.reports.render_markdown", lambda text: rendered.append(text) or text)
    make_comparison()
    skip(next_for(bob, project), "unclear")
    client.force_login(alice)
    path = f"/p/{project.slug}/reports/"
    client.get(path)
    assert len(rendered) == 3  # the prompt and two answers of the report
    handle(reported, alice, "kept")
    with CaptureQueriesContext(connection) as queries:
        page = client.get(path).content.decode()
    assert len(rendered) == 3 and reported.comparison.prompt.text in page
    assert not any("labeling_completion" in query["sql"] for query in queries)


def test_what_was_decided_last_stands_first(client, project, alice, bob, reported, make_comparison):
    second = make_comparison()
    later = next_for(bob, project)
    assert later.comparison == second
    flag(later, "broken")
    handle(later, alice, "kept")
    handle(reported, alice, "kept")
    assert [row.pk for row in decided_reports(project)] == [reported.pk, later.pk]


def test_skips_and_reports_go_out_as_lines(client, project, alice, bob, carol, reported, make_comparison):
    make_comparison()
    skipped = next_for(bob, project)
    skip(skipped, "unclear", 12.5)
    handle(reported, alice, "kept")
    client.force_login(bob)
    path = f"/api/v1/projects/{project.slug}/put-aside/"
    assert client.get(path).status_code == 404
    client.force_login(carol)
    lines = b"".join(client.get(path).streaming_content).splitlines()
    first, second = (json.loads(line) for line in lines)
    texts = [one.completion.text for one in reported.comparison.candidates.all()]
    assert first == {
        "id": reported.pk,
        "outcome": "flagged",
        "reason": "harmful",
        "text": "<script>alert(1)</script> in A",
        "annotator": project.memberships.get(user=bob).pseudonym,
        "at": first["at"],
        "seconds_spent": 0.0,
        "sides": reported.sides,
        "handling": "kept",
        "prompt": reported.comparison.prompt.messages,
        "prompt_id": reported.comparison.prompt_id,
        "split": reported.comparison.prompt.split,
        "comparison": reported.comparison_id,
        "repeat_of": 0,
        "completions": texts,
    }
    assert (second["outcome"], second["reason"], second["handling"]) == ("skipped", "unclear", "")
    assert second["seconds_spent"] == 12.5
    rest = b"".join(client.get(path, {"after": reported.pk}).streaming_content).splitlines()
    assert [json.loads(line)["id"] for line in rest] == [skipped.pk]
    assert client.get(path, {"after": "x"}).status_code == 400
