import uuid

import pytest
from django.core.exceptions import ValidationError

from labeling import answers
from labeling.answers import derive_pairs
from labeling.assignment import AlreadyAnswered, Conflict, LeaseExpired, next_for, skip
from labeling.judging import (
    choice_from_side,
    ranking_from_sides,
    record,
    revise,
    undo_last,
    withdraw,
)
from labeling.models import Assignment, Judgment, Preference, Project

pytestmark = pytest.mark.django_db


def check_answer(candidates, verdict, project=None, **said):
    return answers.check_answer(project or Project(), candidates, verdict, said)


def left(assignment):
    return {"ranking": choice_from_side(assignment, "left"), "strength": 2}


def test_an_answer_becomes_one_preference(project, bob, comparison):
    assignment = next_for(bob, project)
    judgment = record(
        assignment, "preferred", uuid.uuid4(), **left(assignment), reason="kinder", seconds_spent=7
    )
    shown_left, shown_right = (
        comparison.candidates.get(position=side).completion for side in assignment.sides
    )
    preference = Preference.objects.get()
    assert (preference.chosen, preference.rejected) == (shown_left, shown_right)
    assert (preference.strength, preference.weight, preference.tie) == (2, 1.0, False)
    assert (judgment.reason, judgment.seconds_spent) == ("kinder", 7.0)
    comparison.refresh_from_db()
    assert comparison.closed_at is not None
    assert Assignment.objects.get().outcome == "judged"


def test_the_right_side_is_the_right_side(project, bob, comparison):
    assignment = next_for(bob, project)
    assert choice_from_side(assignment, "right") == [[assignment.sides[1]], [assignment.sides[0]]]


def test_a_comparison_stays_open_until_the_overlap_is_reached(
    project, bob, make_annotator, make_comparison, answer
):
    comparison = make_comparison(overlap=2)
    answer(bob)
    comparison.refresh_from_db()
    assert comparison.closed_at is None
    answer(make_annotator())
    comparison.refresh_from_db()
    assert comparison.closed_at is not None


def test_sent_twice_it_is_stored_once(project, bob, comparison):
    assignment, key = next_for(bob, project), uuid.uuid4()
    first = record(assignment, "preferred", key, **left(assignment))
    again = record(assignment, "preferred", str(key), **left(assignment))
    assert first.pk == again.pk
    assert (Judgment.objects.count(), Preference.objects.count()) == (1, 1)


def test_a_second_answer_under_another_key_is_refused(project, bob, comparison):
    assignment = next_for(bob, project)
    record(assignment, "tie", uuid.uuid4())
    with pytest.raises(AlreadyAnswered):
        record(assignment, "all_bad", uuid.uuid4())


def test_a_key_serves_one_comparison_only(project, bob, make_comparison):
    make_comparison()
    make_comparison()
    key = uuid.uuid4()
    record(next_for(bob, project), "tie", key)
    with pytest.raises(ValidationError, match="another comparison"):
        record(next_for(bob, project), "tie", key)


def test_a_late_answer_counts_while_nobody_took_the_slot(project, bob, comparison, expire):
    assignment = next_for(bob, project)
    expire(assignment)
    assert record(assignment, "tie", uuid.uuid4()).pk


def test_a_late_answer_counts_while_another_slot_is_free(
    project, bob, make_annotator, make_comparison, expire
):
    make_comparison(overlap=2)
    late, other = next_for(bob, project), next_for(make_annotator(), project)
    expire(late)
    expire(other)
    next_for(make_annotator(), project)
    late.refresh_from_db()
    assert late.slot is None
    record(late, "tie", uuid.uuid4())
    assert Assignment.objects.get(pk=late.pk).outcome == "judged"
    assert Assignment.objects.get(pk=other.pk).slot is None


def test_an_answer_too_late_is_refused_and_leaves_nothing(project, bob, make_annotator, comparison, expire):
    assignment = next_for(bob, project)
    expire(assignment)
    next_for(make_annotator(), project)
    with pytest.raises(LeaseExpired):
        record(assignment, "tie", uuid.uuid4())
    assert not Judgment.objects.exists()


def test_what_was_skipped_cannot_be_answered(project, bob, comparison):
    assignment = next_for(bob, project)
    skip(assignment, "unclear")
    with pytest.raises(AlreadyAnswered, match="skipped"):
        record(assignment, "tie", uuid.uuid4())


def test_an_answer_taken_back_leaves_the_comparison_with_its_annotator(
    project, bob, make_annotator, comparison, answer
):
    judgment = answer(bob)
    lease = withdraw(judgment)
    comparison.refresh_from_db()
    assert comparison.closed_at is None
    assert next_for(make_annotator(), project) is None
    assert next_for(bob, project).pk == lease.pk == judgment.assignment_id
    judgment.refresh_from_db()
    assert (judgment.is_current, judgment.verdict) == (False, "preferred")
    assert judgment.superseded_at is not None
    assert not Preference.objects.current().exists()
    again = answer(bob, verdict="tie")
    assert again.revision == 2


def test_taking_back_twice_is_once(bob, comparison, answer):
    judgment = answer(bob)
    assert withdraw(judgment).pk == withdraw(judgment).pk


def test_a_change_is_a_new_revision(bob, comparison, answer):
    first = answer(bob)
    key = uuid.uuid4()
    second = revise(first, "tie", key)
    assert revise(first, "tie", key).pk == second.pk
    first.refresh_from_db()
    comparison.refresh_from_db()
    assert (first.is_current, second.is_current, second.revision) == (False, True, 2)
    assert comparison.closed_at is not None
    assert [row.judgment_id for row in Preference.objects.current()] == [second.pk]
    with pytest.raises(Conflict):
        revise(first, "all_bad", uuid.uuid4())
    with pytest.raises(Conflict):
        withdraw(first)


def test_undo_takes_the_latest_answer_of_this_project(project, bob, make_comparison, answer):
    for _ in range(2):
        make_comparison()
        answer(bob)
    first, second = Judgment.objects.order_by("id")
    assert undo_last(bob, project).pk == second.assignment_id
    assert undo_last(bob, project).pk == first.assignment_id
    assert undo_last(bob, project) is None


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"verdict": "left"}, "verdict"),
        ({"verdict": "preferred"}, "ranking"),
        ({"verdict": "preferred", "ranking": [[0], [1]]}, "strength"),
        ({"verdict": "preferred", "ranking": [[0], [1]], "strength": 4}, "strength"),
        ({"verdict": "preferred", "ranking": [[0], [1]], "strength": True}, "strength"),
        ({"verdict": "preferred", "ranking": [[0, 1]], "strength": 1}, "ranking"),
        ({"verdict": "preferred", "ranking": [[0]], "strength": 1}, "ranking"),
        ({"verdict": "preferred", "ranking": [[0], [0], [1]], "strength": 1}, "ranking"),
        ({"verdict": "preferred", "ranking": [[0], [], [1]], "strength": 1}, "ranking"),
        ({"verdict": "preferred", "ranking": [["0"], [1]], "strength": 1}, "ranking"),
        ({"verdict": "preferred", "ranking": {"a": 1}, "strength": 1}, "ranking"),
        ({"verdict": "preferred", "ranking": 7, "strength": 1}, "ranking"),
        ({"verdict": "tie", "strength": 1}, "strength"),
        ({"verdict": "tie", "reason": "\x00"}, "reason"),
        ({"verdict": "tie", "reason": "x" * 10_001}, "reason"),
        ({"verdict": "tie", "seconds_spent": -1}, "seconds_spent"),
        ({"verdict": "tie", "seconds_spent": float("nan")}, "seconds_spent"),
        ({"verdict": "tie", "seconds_spent": float("inf")}, "seconds_spent"),
    ],
)
def test_an_answer_that_makes_no_sense_is_refused_at_its_field(given, field):
    with pytest.raises(ValidationError) as refusal:
        check_answer(2, **given)
    assert list(refusal.value.message_dict) == [field]


def test_a_tie_of_two_is_one_pair_without_strength():
    assert derive_pairs(check_answer(2, "tie"), 2) == [(0, 1, True, 0, 1.0)]


def test_both_bad_is_a_tie_that_says_so(bob, comparison, answer):
    assert derive_pairs(check_answer(2, "all_bad"), 2) == [(0, 1, True, 0, 1.0)]
    answer(bob, "all_bad")
    preference = Preference.objects.get()
    assert (preference.tie, preference.both_bad, preference.both_good) == (True, True, False)


def test_all_bad_may_still_say_which_is_better():
    answer = check_answer(2, "all_bad", ranking=[[1], [0]], strength=2)
    assert derive_pairs(answer, 2) == [(1, 0, False, 2, 1.0)]


def test_a_ranking_of_three_becomes_all_pairs():
    answer = check_answer(3, "preferred", ranking=[[2], [0, 1]])
    assert derive_pairs(answer, 3) == [
        (2, 0, False, 1, 1 / 3),
        (2, 1, False, 1, 1 / 3),
        (0, 1, True, 0, 1 / 3),
    ]


def test_a_ranking_of_three_may_become_neighbours_only():
    answer = check_answer(3, "preferred", ranking=[[2], [0], [1]])
    pairs = derive_pairs(answer, 3, adjacent_only=True)
    assert [(pair.chosen, pair.rejected, pair.weight) for pair in pairs] == [(2, 0, 0.5), (0, 1, 0.5)]


def test_a_ranking_on_screen_is_stored_by_position(project, bob, make_comparison):
    make_comparison(candidates=3)
    assignment = next_for(bob, project)
    first, second, third = assignment.sides
    assert ranking_from_sides(assignment, [2, [0, 1]]) == [[third], [first, second]]
    judgment = record(
        assignment, "preferred", uuid.uuid4(), ranking=ranking_from_sides(assignment, [[2], [0], [1]])
    )
    assert judgment.ranking == [[third], [first], [second]]
    assert Preference.objects.count() == 3
