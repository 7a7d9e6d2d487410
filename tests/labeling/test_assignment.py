import re
import time
import uuid
from threading import Event, Thread

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from labeling.assignment import (
    AlreadyAnswered,
    LeaseExpired,
    flag,
    next_for,
    release,
    renew,
    skip,
    take_slot,
)
from labeling.judging import record
from labeling.models import Assignment, Comparison, Membership

pytestmark = pytest.mark.django_db


def test_it_gives_a_pair_to_one_annotator_at_a_time(project, bob, make_annotator, comparison):
    assert next_for(bob, project).comparison == comparison
    assert next_for(make_annotator(), project) is None


def test_it_gives_a_pair_to_as_many_as_the_overlap(project, bob, make_annotator, make_comparison):
    make_comparison(overlap=2)
    slots = [next_for(person, project).slot for person in (bob, make_annotator())]
    assert sorted(slots) == [0, 1]
    assert next_for(make_annotator(), project) is None


def test_it_asks_by_priority_then_by_age(project, bob, make_comparison):
    later, sooner = make_comparison(), make_comparison()
    urgent = make_comparison(priority=-1)
    held = []
    for expected in (urgent, later, sooner):
        assignment = next_for(bob, project, held)
        assert assignment.comparison == expected
        held.append(assignment.pk)


def test_a_reload_brings_the_same_comparison_and_the_same_sides_back(project, bob, make_comparison):
    make_comparison(candidates=8)
    make_comparison()
    first, again = next_for(bob, project), next_for(bob, project)
    assert first.pk == again.pk
    assert first.sides == again.sides
    assert sorted(first.sides) == list(range(8))


def test_sides_are_drawn_at_random(project, bob, make_comparison, answer):
    for _ in range(30):
        make_comparison()
        answer(bob)
    sides = [tuple(assignment.sides) for assignment in Assignment.objects.all()]
    assert 3 < sides.count((0, 1)) < 27  # a fair coin fails this once in 100,000


def test_a_person_holds_at_most_three_leases(project, bob, make_comparison):
    for _ in range(5):
        make_comparison()
    held = []
    for _ in range(3):
        held.append(next_for(bob, project, held).pk)
    assert len(set(held)) == 3
    assert next_for(bob, project, held) is None


def test_holding_what_is_not_mine_gives_nothing_away(project, bob, make_annotator, comparison):
    theirs = next_for(make_annotator(), project)
    assert next_for(bob, project, [theirs.pk, 10**15]) is None


def test_a_stranger_gets_nothing(project, charlie, comparison):
    with pytest.raises(Membership.DoesNotExist):
        next_for(charlie, project)


def test_who_left_gets_nothing(project, bob, comparison):
    from django.utils import timezone

    Membership.objects.filter(user=bob).update(left_at=timezone.now())
    with pytest.raises(Membership.DoesNotExist):
        next_for(bob, project)


def test_an_expired_lease_frees_its_slot(project, bob, make_annotator, comparison, expire):
    gone = next_for(bob, project)
    expire(gone)
    heir = next_for(make_annotator(), project)
    assert heir.slot == 0
    gone.refresh_from_db()
    assert gone.slot is None
    with pytest.raises(LeaseExpired):
        renew(gone)


def test_an_expired_lease_comes_back_to_its_owner_with_its_sides(project, bob, make_comparison, expire):
    make_comparison(candidates=8)
    first = next_for(bob, project)
    expire(first)
    again = next_for(bob, project)
    assert (again.pk, again.sides, again.slot) == (first.pk, first.sides, 0)
    assert again.leased_until > first.leased_until


def test_an_owner_whose_slot_was_taken_gets_a_free_one_later(
    project, bob, make_annotator, comparison, expire
):
    first = next_for(bob, project)
    expire(first)
    heir = next_for(make_annotator(), project)
    assert next_for(bob, project) is None
    release(heir)
    assert next_for(bob, project).pk == first.pk


def test_renewing_late_keeps_the_lease_while_nobody_took_it(project, bob, make_annotator, comparison, expire):
    lease = next_for(bob, project)
    expire(lease)
    renew(lease)
    assert next_for(make_annotator(), project) is None


def test_what_was_skipped_goes_to_others_but_never_back(project, bob, make_annotator, comparison):
    skip(next_for(bob, project), "I do not speak this language")
    assert next_for(bob, project) is None
    other = make_annotator()
    assert next_for(other, project).comparison == comparison
    stored = Assignment.objects.get(annotator=bob)
    assert (stored.outcome, stored.outcome_reason, stored.slot) == (
        "skipped",
        "I do not speak this language",
        None,
    )


def test_a_report_keeps_its_words(project, bob, comparison):
    flag(next_for(bob, project), "harmful", "It tells how to hurt someone.")
    stored = Assignment.objects.get()
    assert (stored.outcome, stored.outcome_text) == ("flagged", "It tells how to hurt someone.")
    assert next_for(bob, project) is None


def test_skipping_twice_is_once_but_an_answer_stands(project, bob, make_comparison, answer):
    make_comparison()
    judged = answer(bob).assignment
    with pytest.raises(AlreadyAnswered):
        skip(judged, "too late")
    make_comparison()
    assignment = next_for(bob, project)
    skip(assignment, "once")
    skip(assignment, "twice")
    assert Assignment.objects.get(pk=assignment.pk).outcome_reason == "once"


def test_a_released_comparison_is_anyones(project, bob, make_annotator, comparison):
    lease = next_for(bob, project)
    release(lease)
    release(lease)
    assert next_for(make_annotator(), project).comparison == comparison


def test_an_answered_comparison_does_not_come_back(project, bob, make_comparison, answer):
    make_comparison(overlap=3)
    answer(bob)
    assert next_for(bob, project) is None


def test_no_slot_is_left_when_all_are_held(project, bob, comparison):
    next_for(bob, project)
    assert take_slot(comparison) is None


@pytest.fixture
def while_answering():
    """An answer of another request that is stored, and is committed once somebody waits for its row."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    stored = Event()

    def answer(assignment):
        with transaction.atomic():
            record(assignment, "tie", uuid.uuid4())
            stored.set()
            with connection.cursor() as cursor:
                for _ in range(1000):
                    cursor.execute(waiting)
                    if cursor.fetchone()[0]:
                        break
                    time.sleep(0.01)
        connection.close()

    def begin(assignment):
        thread = Thread(target=answer, args=(assignment,))
        thread.start()
        assert stored.wait(30)
        return thread

    return begin


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("left", [0, 1])
def test_an_answer_that_arrives_while_the_next_is_looked_for_is_not_asked_again(
    project, bob, make_comparison, while_answering, left
):
    for _ in range(1 + left):
        make_comparison()
    answering = while_answering(next_for(bob, project))
    following = next_for(bob, project)
    answering.join()
    assert (following is not None) == bool(left)
    assert not left or following.outcome == ""
    assert Assignment.objects.filter(outcome="judged").count() == 1


def plan_for(person, project):
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE labeling_comparison, labeling_assignment")
    return Comparison.objects.filter(project=project).open_for(person)[:1].explain(analyze=True, buffers=True)


def test_what_is_finished_costs_the_queue_nothing(project, bob, make_comparison, many_finished):
    many_finished(20_000)
    for _ in range(5):
        make_comparison()
    plan = plan_for(bob, project)
    assert "Index Scan using comparison_open" in plan
    assert "Seq Scan" not in plan
    assert int(re.search(r"Buffers: shared hit=(\d+)", plan)[1]) < 20
    with CaptureQueriesContext(connection) as queries:
        assert next_for(bob, project)
    assert len(queries) < 12


def test_ones_own_answers_are_looked_at_only_where_others_are_still_wanted(
    project, bob, make_comparison, many_finished
):
    """The planner must not join the queue with everything that the person ever answered."""
    many_finished(20_000)
    many_finished(500, overlap=2, closed=False)
    make_comparison()
    plan = plan_for(bob, project)
    assert "Index Scan using comparison_open" in plan
    assert "Seq Scan" not in plan
    assert int(re.search(r"Buffers: shared hit=(\d+)", plan)[1]) < 500 * 6
    assert next_for(bob, project)
