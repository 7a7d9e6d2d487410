"""What a person is asked again, when, and what becomes of the answer."""

import json
import random
import uuid

import pytest
from django.db import connection
from django.utils import timezone

from labeling import assignment as handing
from labeling import repeats
from labeling.agreement import Consistency, Shown, consistency, wilson, with_themselves
from labeling.answers import Better
from labeling.assignment import LeaseExpired, flag, next_for, release, renew, skip
from labeling.datasets import freeze
from labeling.exports import stream_demonstrations, stream_preferences
from labeling.judging import choice_from_side, record, revise, withdraw
from labeling.models import Comparison, Judgment, Preference
from labeling.models.work import Edit
from labeling.projects import create_project
from labeling.reports import handle
from tests.labeling.conftest import rows_read

pytestmark = pytest.mark.django_db


@pytest.fixture
def always(project, monkeypatch):
    """Let the chance of a repeat always strike, for any prompt, in a project that wants some."""
    monkeypatch.setattr(repeats, "DRAWN", ".")
    project.repeat_share = 0.2
    project.save()

    class Struck(random.SystemRandom):
        def random(self):
            return 0.0

    monkeypatch.setattr(handing, "_chance", Struck())


@pytest.fixture
def long_ago():
    """Move all that was said so far an hour back, past the rule that nothing said is ever changed."""

    def move():
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL session_replication_role = replica")
            cursor.execute("UPDATE labeling_judgment SET created_at = created_at - interval '1 hour'")
            cursor.execute("SET LOCAL session_replication_role = origin")

    return move


@pytest.fixture
def make_due(make_comparison, bob, answer, always, long_ago):
    """Bob's first answer, which may be asked again by now, while one more comparison waits."""

    def make(overlap=1):
        first = None
        for _ in range(repeats.ANSWERS_BETWEEN + 1):
            make_comparison(overlap=1 if first else overlap)
            judgment = answer(bob)
            first = first or judgment
        long_ago()
        make_comparison()
        return first

    return make


@pytest.fixture
def due(make_due):
    return make_due()


def say(assignment, side, **more):
    return record(
        assignment, "preferred", uuid.uuid4(), ranking=choice_from_side(assignment, side), strength=1, **more
    )


def test_an_answer_is_asked_again_with_the_sides_swapped(project, bob, due):
    again = next_for(bob, project)
    assert again.comparison.repeats == due
    assert again.comparison != due.comparison
    assert again.sides == due.assignment.sides[::-1]
    shown = [list(each.comparison.candidates.values_list("completion", flat=True)) for each in (due, again)]
    assert shown[0] == shown[1]


def test_a_ranking_is_asked_again_in_the_opposite_order(
    project, bob, make_comparison, answer, always, long_ago
):
    make_comparison(candidates=4)
    first = answer(bob, "tie").assignment
    for _ in range(repeats.ANSWERS_BETWEEN):
        make_comparison()
        answer(bob)
    long_ago()
    make_comparison()
    assert next_for(bob, project).sides == first.sides[::-1]


def test_nothing_is_asked_again_where_the_project_wants_no_repeats(project, bob, due):
    project.repeat_share = 0
    project.save()
    assert next_for(bob, project).comparison.repeats is None


def test_the_share_is_the_chance_of_a_repeat(project, bob, due, monkeypatch):
    class Missed(random.SystemRandom):
        def random(self):
            return 0.2

    monkeypatch.setattr(handing, "_chance", Missed())
    assert next_for(bob, project).comparison.repeats is None


def test_what_was_answered_just_now_is_not_asked_again(project, bob, make_comparison, answer, always):
    for _ in range(repeats.ANSWERS_BETWEEN + 3):
        make_comparison()
        answer(bob)
    assert repeats.repeatable(bob, project) == []


def test_what_few_answers_lie_behind_is_not_asked_again(
    project, bob, make_comparison, answer, always, long_ago
):
    for _ in range(repeats.ANSWERS_BETWEEN):
        make_comparison()
        answer(bob)
    long_ago()
    assert repeats.repeatable(bob, project) == []


def test_an_answer_is_asked_again_once(project, bob, due):
    assert due in repeats.repeatable(bob, project)
    say(next_for(bob, project), "left")
    assert due not in repeats.repeatable(bob, project)


def test_a_revised_answer_is_not_asked_a_third_time(project, bob, due, make_comparison, answer, long_ago):
    say(next_for(bob, project), "left")
    revise(due, "tie", uuid.uuid4())
    make_comparison()
    for _ in range(repeats.ANSWERS_BETWEEN):
        make_comparison()
        record(next_for(bob, project), "tie", uuid.uuid4())
    long_ago()
    assert due.comparison_id not in {judgment.comparison_id for judgment in repeats.repeatable(bob, project)}


def test_a_repeat_is_never_asked_again_itself(project, bob, due, make_comparison, long_ago):
    again = say(next_for(bob, project), "left")
    for _ in range(3 * repeats.ANSWERS_BETWEEN):
        make_comparison()
        record(next_for(bob, project), "tie", uuid.uuid4())
    long_ago()
    assert again.pk not in {judgment.pk for judgment in repeats.repeatable(bob, project)}


def test_repeats_alone_are_no_work(project, bob, due):
    Comparison.objects.open().update(closed_at=timezone.now())
    assert next_for(bob, project) is None


def test_nobody_else_gets_a_repeat(project, bob, due, make_annotator):
    held = next_for(bob, project)
    release(held)
    other = make_annotator()
    given = []
    while assignment := next_for(other, project, given):
        given.append(assignment.pk)
        assert assignment.comparison.repeats is None


def test_a_repeat_whose_lease_ran_out_comes_back_as_it_was(project, bob, due, expire):
    held = next_for(bob, project)
    expire(held)
    again = next_for(bob, project)
    assert (again.pk, again.sides) == (held.pk, held.sides)
    assert Comparison.objects.filter(repeats__isnull=False).count() == 1


def test_a_repeat_in_hand_is_not_given_twice(project, bob, due):
    held = next_for(bob, project)
    ahead = next_for(bob, project, [held.pk])
    assert ahead.comparison.repeats is None


@pytest.mark.parametrize("aside", [lambda a: skip(a, "unclear"), lambda a: flag(a, "harmful")])
def test_a_repeat_put_aside_does_not_come_back(project, bob, due, aside):
    held = next_for(bob, project)
    aside(held)
    assert next_for(bob, project).comparison.repeats is None


# What a manager closes


@pytest.fixture
def harmful(project, bob, make_due):
    """A repeat that Bob has reported, of a comparison that one more person is wanted for."""
    make_due(overlap=2)
    held = next_for(bob, project)
    flag(held, "harmful")
    return held


def test_closing_a_repeat_keeps_the_original_closed(project, alice, bob, harmful, make_annotator):
    judged = harmful.comparison.repeats
    on_screen = next_for(make_annotator(), project)
    assert on_screen.comparison_id == judged.comparison_id
    handle(harmful, alice, "closed")
    for late in (renew, lambda held: say(held, "left")):
        with pytest.raises(LeaseExpired, match="A manager has taken this comparison away"):
            late(on_screen)
    withdraw(judged)  # which opens a comparison again, but not this one
    closed = Comparison.objects.filter(pk__in=(judged.comparison_id, harmful.comparison_id))
    assert not closed.filter(closed_at=None).exists()
    assert next_for(make_annotator(), project).comparison_id != judged.comparison_id


def test_what_is_closed_is_asked_again_of_nobody(project, alice, bob, make_due, make_annotator):
    judged = make_due(overlap=3)
    reporting = next_for(make_annotator(), project)
    flag(reporting, "harmful")
    handle(reporting, alice, "closed")
    assert repeats.repeatable(bob, project) == []
    assert next_for(bob, project).comparison.repeats is None
    assert repeats.repeat_of(judged) is None  # drawn just before it was closed


def test_a_repeat_that_was_closed_is_repeated_for_nobody_else(
    project, alice, make_annotator, harmful, make_comparison, long_ago
):
    other = make_annotator()
    said = say(next_for(other, project), "left")
    assert said.comparison_id == harmful.comparison.repeats.comparison_id
    for _ in range(repeats.ANSWERS_BETWEEN):
        make_comparison()
        record(next_for(other, project), "tie", uuid.uuid4())
    long_ago()
    assert said in repeats.repeatable(other, project)
    handle(harmful, alice, "closed")
    assert said not in repeats.repeatable(other, project)


def test_closing_the_original_closes_its_repeats_too(project, alice, bob, make_due, make_annotator):
    judged = make_due(overlap=2)
    on_screen = next_for(bob, project)
    assert on_screen.comparison.repeats == judged
    reporting = next_for(make_annotator(), project)
    flag(reporting, "harmful")
    handle(reporting, alice, "closed")
    with pytest.raises(LeaseExpired, match="A manager has taken this comparison away"):
        say(on_screen, "left")
    assert next_for(bob, project).comparison.repeats is None


def test_a_report_of_what_is_closed_waits_for_nobody(project, alice, harmful, make_annotator):
    on_screen = next_for(make_annotator(), project)
    handle(harmful, alice, "closed")
    flag(on_screen, "private")
    harmful.refresh_from_db()
    on_screen.refresh_from_db()
    assert on_screen.outcome_reason == "private"
    for field in ("handling", "handled_by", "handled_at"):
        assert getattr(on_screen, field) == getattr(harmful, field)


# What becomes of the answer


def test_a_repeat_is_kept_like_any_answer_but_becomes_no_preference(project, bob, due):
    before = Preference.objects.count()
    frozen = freeze(project)
    again = say(next_for(bob, project), "left", seconds_spent=4.5)
    assert (again.verdict, again.seconds_spent, again.annotator) == ("preferred", 4.5, bob)
    assert Preference.objects.count() == before
    assert Comparison.objects.get(pk=again.comparison_id).closed_at is not None
    rows = list(stream_preferences(project))
    assert len(rows) == before
    assert freeze(project).train_sha256 == frozen.train_sha256


def test_a_better_answer_written_to_a_repeat_is_kept_and_says_what_it_repeats(project, bob, due):
    before = Preference.objects.count()
    again = say(next_for(bob, project), "left", edit=Better(0, "What should have been said."))
    assert Edit.objects.current().get(judgment=again).completion.text == "What should have been said."
    assert Preference.objects.count() == before + 1
    rows = [json.loads(line) for line in stream_preferences(project)]
    assert {row["repeat_of"] for row in rows[:-1]} == {0}
    assert rows[-1]["repeat_of"] == due.comparison_id
    (demonstration,) = map(json.loads, stream_demonstrations(project))
    assert demonstration["repeat_of"] == due.comparison_id


def test_the_same_better_answer_counts_once(project, bob, due):
    held, better = next_for(bob, project), Better(0, "What should have been said.")
    ranking = choice_from_side(due.assignment, "left")
    first = revise(due, "preferred", uuid.uuid4(), ranking=ranking, strength=1, edit=better)
    before = Preference.objects.current().count()
    again = say(held, "left", edit=better)
    assert Edit.objects.current().count() == 2
    assert Preference.objects.current().count() == before
    (demonstration,) = map(json.loads, stream_demonstrations(project))
    assert demonstration["judgment"] == first.pk
    # Taken back where it was said first, it stands by the other, and the other way round.
    without = revise(first, "preferred", uuid.uuid4(), ranking=ranking, strength=1)
    (demonstration,) = map(json.loads, stream_demonstrations(project))
    assert demonstration["judgment"] == again.pk
    written = Edit.objects.get(judgment=again).completion
    assert Preference.objects.current().get(chosen=written).judgment == again
    anew = revise(without, "preferred", uuid.uuid4(), ranking=ranking, strength=1, edit=better)
    assert Preference.objects.current().get(chosen=written).judgment == again
    withdraw(again)
    assert Preference.objects.current().get(chosen=written).judgment == anew
    assert Preference.objects.current().count() == before
    withdraw(anew)
    assert not Preference.objects.current().filter(chosen=written).exists()


def test_an_answer_to_a_repeat_can_be_revised_and_taken_back(project, bob, due):
    before = Preference.objects.count()
    again = say(next_for(bob, project), "left")
    again = revise(again, "tie", uuid.uuid4())
    assert Preference.objects.count() == before
    lease = withdraw(again)
    assert next_for(bob, project).pk == lease.pk
    assert with_themselves(project) == {}


# Agreement with oneself


PAIR = [Shown("preferred", [[0], [1]], [0, 1]), Shown("preferred", [[0], [1]], [1, 0])]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (*PAIR, (1, 1, 0)),
        (PAIR[0], Shown("preferred", [[1], [0]], [1, 0]), (0, 1, 1)),
        (PAIR[0], Shown("tie", None, [1, 0]), (0, 1, 0)),
        (Shown("tie", None, [0, 1]), Shown("tie", None, [1, 0]), (1, 1, 0)),
        (Shown("tie", None, [0, 1]), Shown("all_bad", None, [1, 0]), (0, 1, 0)),
        (Shown("all_good", [[0], [1]], [0, 1]), Shown("all_bad", [[0], [1]], [1, 0]), (0, 1, 0)),
        (Shown("preferred", [[0], [1]], [0, 1]), Shown("all_bad", [[0], [1]], [1, 0]), (0, 1, 0)),
        # Of three: the best is the same, whatever comes behind it.
        (
            Shown("preferred", [[2], [0], [1]], [0, 1, 2]),
            Shown("preferred", [[2], [1], [0]], [2, 1, 0]),
            (1, 1, 0),
        ),
        (
            Shown("preferred", [[2], [0], [1]], [0, 1, 2]),
            Shown("preferred", [[0], [1], [2]], [2, 1, 0]),
            (0, 1, 1),
        ),
        (
            Shown("preferred", [[1, 2], [0]], [0, 1, 2]),
            Shown("preferred", [[0], [1], [2]], [2, 1, 0]),
            (0, 1, 0),
        ),
    ],
)
def test_the_best_answer_is_what_has_to_be_the_same(first, second, expected):
    assert consistency([(first, second)]) == Consistency(*expected)


def test_wilsons_interval_by_hand():
    # 9 of 10: middle (0.9 + 0.192073) / 1.384146, spread 1.959964 * sqrt(0.009 + 0.0096036) / 1.384146
    low, high = wilson(9, 10)
    assert (round(low, 3), round(high, 3)) == (0.596, 0.982)
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 10)[0] == pytest.approx(0)
    assert wilson(10, 10)[1] == pytest.approx(1)
    assert wilson(10, 10)[0] > 0.7


def test_what_was_said_before_it_was_asked_again_is_what_counts(project, bob, due):
    again = next_for(bob, project)
    # Bob chose the left one much better; now the left is the other.
    say(again, "left")
    assert with_themselves(project) == {bob.pk: Consistency(0, 1, 1)}
    other = choice_from_side(due.assignment, "right")
    revise(due, "preferred", uuid.uuid4(), ranking=other, strength=1)
    assert with_themselves(project, bob) == {bob.pk: Consistency(0, 1, 1)}


def test_a_slip_that_was_mended_counts_as_mended(project, bob, due):
    again = say(next_for(bob, project), "left")
    same = choice_from_side(again.assignment, "right")
    revise(again, "preferred", uuid.uuid4(), ranking=same, strength=1)
    assert with_themselves(project, bob) == {bob.pk: Consistency(1, 1, 0)}
    assert Judgment.objects.current().filter(comparison=again.comparison).count() == 1


def test_repeats_that_nobody_answered_hide_no_older_ones(project, bob, make_due, monkeypatch):
    make_due()
    say(next_for(bob, project), "left")
    repeats.repeat_of(Judgment.objects.filter(comparison__reserved_for=None).latest("id"))
    monkeypatch.setattr("labeling.agreement.MOST_ANSWERS", 1)
    assert with_themselves(project, bob)[bob.pk].of == 1


def test_finding_repeats_costs_no_more_the_more_was_answered(project, bob, make_due, many_finished):
    many_finished(10_000)
    assert make_due() in repeats.repeatable(bob, project)
    read = rows_read(lambda: repeats.repeatable(bob, project))
    assert read < 15 * (repeats.ANSWERS_BETWEEN + repeats.MOST_LOOKED_AT)


def test_agreement_reads_only_the_repeats_of_the_project(project, alice, bob, due, many_finished):
    say(next_for(bob, project), "left")
    other = create_project("Other", alice)
    many_finished(3_000)
    many_finished(3_000, project=other)
    with connection.cursor() as cursor:  # all of it asked again there
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute(
            """
            INSERT INTO labeling_comparison (project_id, prompt_id, overlap, priority, created_at, repeats_id, reserved_for_id)
            SELECT project_id, prompt_id, 1, 0, now(), judgment.id, annotator_id
              FROM labeling_judgment judgment JOIN labeling_comparison comparison ON comparison_id = comparison.id
             WHERE project_id = %s
            """,
            [other.pk],
        )
        cursor.execute("SET LOCAL session_replication_role = origin")
    for person in (None, bob):
        assert rows_read(lambda person=person: with_themselves(project, person)) < 100


# Where it is told


def test_people_read_how_far_they_agree_with_themselves(client, project, bob, alice, due):
    client.force_login(bob)
    assert "with the sides swapped" not in client.get(f"/p/{project.slug}/mine/").content.decode()
    say(next_for(bob, project), "left")
    page = client.get(f"/p/{project.slug}/mine/").content.decode()
    assert "Asked again later with the sides swapped, you said the same to 0 of 1 comparison." in page
    assert "1 time you chose the same side of the screen instead." in page
    client.force_login(alice)
    page = client.get(f"/p/{project.slug}/people/").content.decode()
    assert "0 of 1" in page and "(0% to 79%; same side 1)" in page


def test_a_manager_sets_the_share(client, project, alice):
    client.force_login(alice)
    path = f"/p/{project.slug}/settings/"
    form = client.get(path).context["form"]
    sent = {name: "" if form[name].value() is None else form[name].value() for name in form.fields}
    del sent["seen"]  # it is sent again and again
    for share, stored in (("0.1", 0.1), ("0.3", 0.1), ("-1", 0.1), ("", 0.1), ("0", 0.0)):
        sent["repeat_share"] = share
        status = client.post(path, sent).status_code
        project.refresh_from_db()
        assert (project.repeat_share, status) == (stored, 302 if stored == float(share or "nan") else 200)


def test_nothing_on_the_desk_or_in_the_api_tells_a_repeat(client, project, bob, due):
    client.force_login(bob)
    shown = client.post(f"/api/v1/projects/{project.slug}/next/", {}, "application/json").json()
    assert Comparison.objects.get(pk=shown["comparison"]).repeats == due
    assert set(shown) == {"id", "comparison", "prompt", "candidates", "leased_until", "outcome"}
    page = client.get(f"/p/{project.slug}/label/").content.decode()
    assert f'data-assignment="{shown["id"]}"' in page
    assert "repeat" not in page


def test_managers_read_in_the_api_which_are_repeats(client, project, alice, bob, due):
    again = say(next_for(bob, project), "left")
    client.force_login(alice)
    judgments = client.get(f"/api/v1/projects/{project.slug}/judgments/").json()["results"]
    assert {row["id"]: row["repeat_of"] for row in judgments}[again.pk] == due.comparison_id
    comparisons = client.get(f"/api/v1/projects/{project.slug}/comparisons/").json()["results"]
    assert [row["repeat_of"] for row in comparisons if row["repeat_of"]] == [due.comparison_id]
    assert client.get(f"/api/v1/projects/{project.slug}/").json()["repeat_share"] == 0.2
