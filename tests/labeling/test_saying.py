"""What a project asks for, and what people may say in answer: verdicts, ratings, reasons, better answers."""

import json
import uuid

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from labeling.answers import Better
from labeling.assignment import next_for
from labeling.exports import stream_demonstrations, stream_preferences
from labeling.judging import answer_from_sides, record, revise, withdraw
from labeling.models import Completion, Edit, GuidelinesVersion, Judgment, Membership, Preference
from labeling.projects import save_guidelines

pytestmark = pytest.mark.django_db


@pytest.fixture
def asks(project):
    """Let the project ask for something else."""

    def ask(**fields):
        for name, value in fields.items():
            setattr(project, name, value)
        project.save()

    return ask


def say(person, project, verdict="tie", **said):
    return record(next_for(person, project), verdict, uuid.uuid4(), **said)


def refusal(person, project, *verdict, **said):
    with pytest.raises(ValidationError) as refused:
        say(person, project, *verdict, **said)
    return refused.value.message_dict


def lines(stream):
    return [json.loads(line) for line in stream]


# Verdicts


@pytest.mark.parametrize("verdict", ["tie", "all_bad", "all_good"])
def test_a_verdict_that_the_project_does_not_offer_is_refused(project, bob, comparison, asks, verdict):
    asks(ties=False, all_bad=False, all_good=False)
    assert refusal(bob, project, verdict) == {"verdict": [f"{verdict} is not offered in this project"]}
    assert not Judgment.objects.exists()


def test_all_good_is_a_tie_that_says_so(project, bob, comparison, asks):
    asks(all_good=True)
    say(bob, project, "all_good")
    preference = Preference.objects.get()
    assert (preference.tie, preference.both_good, preference.both_bad) == (True, True, False)
    (row,) = lines(stream_preferences(project, ties="include"))
    assert (row["both_good"], row["both_bad"], row["tie"]) == (True, False, True)


def test_a_pair_needs_no_strength_where_none_is_asked_for(project, bob, comparison, asks):
    asks(strengths=False)
    judgment = say(bob, project, "preferred", ranking=[[1], [0]])
    assert (judgment.strength, Preference.objects.get().strength) == (None, 1)


# Rankings


def test_a_ranking_may_leave_answers_out_where_the_project_lets_it(project, bob, make_comparison, asks):
    comparison = make_comparison(candidates=4)
    assert "ranking" in refusal(bob, project, "preferred", ranking=[[3], [1]])
    asks(partial_rankings=True)
    say(bob, project, "preferred", ranking=[[3], [1]])
    position = {row.completion_id: row.position for row in comparison.candidates.all()}
    pairs = [
        (position[one.chosen_id], position[one.rejected_id], one.weight) for one in Preference.objects.all()
    ]
    assert pairs == [(3, 1, 1.0)]


@pytest.mark.parametrize("ranking", [[[3]], [[3], [3]], [[3], [4]], [[3, 1]], []])
def test_a_partial_ranking_still_has_to_order_something(project, bob, make_comparison, asks, ranking):
    make_comparison(candidates=4)
    asks(partial_rankings=True)
    assert "ranking" in refusal(bob, project, "preferred", ranking=ranking)


def test_a_partial_ranking_of_what_is_all_bad_orders_something_too(project, bob, make_comparison, asks):
    make_comparison(candidates=4)
    asks(partial_rankings=True)
    assert "ranking" in refusal(bob, project, "all_bad", ranking=[[3]])


# Ratings


def test_ratings_are_kept_by_position_and_exported_by_what_was_chosen(project, bob, make_comparison, asks):
    asks(criteria=["helpfulness", "honesty"])
    make_comparison(candidates=3)
    assignment = next_for(bob, project)
    shown = {"helpfulness": [1, 2, 3], "honesty": [5, 4, 5]}
    said = answer_from_sides(assignment, {"ranking_sides": [2, 0, 1], "rating_sides": shown})
    judgment = record(assignment, "preferred", uuid.uuid4(), **said)
    for name, given in shown.items():
        assert [judgment.ratings[name][position] for position in assignment.sides] == given
    rows = lines(stream_preferences(project))
    assert len(rows) == 3
    for row in rows:
        sides = (row["chosen_side"], row["rejected_side"])
        assert sides in [(2, 0), (2, 1), (0, 1)]
        assert row["criteria"] == {name: [given[side] for side in sides] for name, given in shown.items()}


@pytest.mark.parametrize(
    "ratings",
    [
        None,
        {},
        [3, 3],
        {"helpfulness": [3, 3]},
        {"helpfulness": [3, 3], "honesty": [3]},
        {"helpfulness": [3, 3], "honesty": [3, 6]},
        {"helpfulness": [3, 3], "honesty": [3, 0]},
        {"helpfulness": [3, 3], "honesty": [3, True]},
        {"helpfulness": [3, 3], "honesty": [3, "4"]},
        {"helpfulness": [3, 3], "honesty": [3, 3.5]},
        {"helpfulness": [3, 3], "honesty": [3, 4], "speed": [1, 1]},
    ],
)
def test_ratings_that_are_not_those_asked_for_are_refused(project, bob, comparison, asks, ratings):
    asks(criteria=["helpfulness", "honesty"])
    assert list(refusal(bob, project, ratings=ratings)) == ["ratings"]


def test_every_row_has_the_projects_criteria_also_those_given_before_it_asked(
    project, bob, make_comparison, asks
):
    make_comparison()
    say(bob, project)
    asks(criteria=["helpfulness"])
    make_comparison()
    say(bob, project, ratings={"helpfulness": [4, 2]})
    first, second = lines(stream_preferences(project, ties="include"))
    assert first["criteria"] == {"helpfulness": [None, None]}
    assert sorted(second["criteria"]["helpfulness"]) == [2, 4]


# Reasons


def test_a_reason_is_a_tag_or_a_comment(project, bob, make_comparison, asks):
    asks(reason_required=True, reason_tags=["more correct", "kinder"])
    make_comparison()
    make_comparison()
    assert list(refusal(bob, project)) == ["reason"]
    assert list(refusal(bob, project, reason="  \n")) == ["reason"]
    assert list(refusal(bob, project, reason_tags=["shorter"])) == ["reason_tags"]
    say(bob, project, reason_tags=["kinder", "more correct"])
    say(bob, project, reason="It apologises.")
    first, second = lines(stream_preferences(project, ties="include"))
    assert (first["reason_tags"], first["reason"]) == (["more correct", "kinder"], "")
    assert (second["reason_tags"], second["reason"]) == ([], "It apologises.")


def test_a_comment_that_is_needed_is_a_sentence_whatever_was_picked(project, bob, comparison, asks):
    asks(comment_required=True, reason_tags=["kinder"])
    assert list(refusal(bob, project, reason_tags=["kinder"])) == ["reason"]
    assert list(refusal(bob, project, reason=" \n", reason_tags=["kinder"])) == ["reason"]
    said = say(bob, project, reason="It apologises.")
    assert (said.reason, said.reason_tags) == ("It apologises.", [])


# Better answers


def edited(person, project, position=1, text="A better answer.", **said):
    return say(person, project, edit=Better(position, text), **said)


def test_a_better_answer_is_a_demonstration_and_a_preference(project, bob, comparison):
    judgment = edited(bob, project, text="  A better answer.\n")
    worse = comparison.candidates.get(position=1).completion
    tie, better = Preference.objects.order_by("id")
    assert (tie.tie, tie.weight) == (True, 1.0)
    assert (better.chosen.text, better.rejected, better.tie) == ("A better answer.", worse, False)
    assert (better.strength, better.weight) == (1, 1.0)
    assert better.chosen.author == Membership.objects.get(user=bob).pseudonym
    (row,) = lines(stream_preferences(project))
    assert (row["chosen"], row["chosen_side"]) == ("A better answer.", -1)
    assert row["rejected_side"] == judgment.assignment.sides.index(1)
    (row,) = lines(stream_demonstrations(project))
    assert (row["completion"], row["original"], row["prompt"]) == (
        "A better answer.",
        worse.text,
        comparison.prompt.messages,
    )
    assert row["annotator"] == better.chosen.author


def test_two_who_write_the_same_better_answer_both_count(project, bob, carol, make_comparison):
    make_comparison(overlap=2)
    for person in (bob, carol):
        edited(person, project)
    rows = lines(stream_demonstrations(project))
    writers = {Membership.objects.get(user=person).pseudonym for person in (bob, carol)}
    assert len(rows) == 2 and {row["annotator"] for row in rows} == writers
    assert {row["completion"] for row in rows} == {"A better answer."}
    assert Preference.objects.filter(chosen__text="A better answer.").count() == 2


def test_a_better_answer_stands_as_long_as_its_judgment(project, bob, comparison):
    first = edited(bob, project)
    second = revise(first, "tie", uuid.uuid4(), edit=Better(0, "Another one."))
    assert [row["completion"] for row in lines(stream_demonstrations(project))] == ["Another one."]
    withdraw(second)
    assert not lines(stream_demonstrations(project))
    assert not lines(stream_preferences(project, ties="include"))
    assert Edit.objects.count() == 2  # kept, though they do not stand


@pytest.mark.parametrize(
    ("position", "text"), [(2, "Better."), (-1, "Better."), (True, "Better."), (0, " \n"), (0, 7), (0, None)]
)
def test_a_better_answer_that_makes_no_sense_is_refused(project, bob, comparison, position, text):
    assert list(refusal(bob, project, edit=Better(position, text))) == ["edit"]


def test_a_better_answer_has_to_change_something(project, bob, comparison):
    same = comparison.candidates.get(position=0).completion.text
    assert list(refusal(bob, project, edit=Better(0, f" {same}\r\n"))) == ["edit"]
    assert not Judgment.objects.exists()
    assert not Edit.objects.exists()
    edited(bob, project, 0, same.upper())  # in code that may be all that was wrong


def test_no_better_answer_where_none_is_asked_for(project, bob, comparison, asks):
    asks(edits=False)
    assert list(refusal(bob, project, edit=Better(0, "Better."))) == ["edit"]


def test_the_database_keeps_edits_as_they_are(project, bob, make_comparison):
    other = make_comparison()
    make_comparison()
    first = edited(bob, project)
    second = say(bob, project)
    edit = Edit.objects.get()
    for break_it in (
        lambda: Edit.objects.update(original=first.comparison.candidates.get(position=0).completion),
        lambda: Edit.objects.all().delete(),
        lambda: Edit.objects.create(judgment=second, original=edit.original, completion=edit.completion),
        lambda: Preference.objects.create(
            project=project,
            prompt=other.prompt,
            judgment=first,
            chosen=edit.original,
            rejected=edit.completion,
        ),
        lambda: Preference.objects.create(
            project=project,
            prompt=other.prompt,
            judgment=first,
            chosen=Completion.objects.add(other.prompt, "A stranger's.", "x"),
            rejected=edit.original,
        ),
    ):
        with pytest.raises(IntegrityError), transaction.atomic():
            break_it()


# Guidelines


def test_guidelines_are_numbered_and_judgments_say_which_held(project, alice, bob, make_comparison):
    for text in ("Be kind.", " Be kind.\r\n", "Be kind and short."):
        make_comparison()
        save_guidelines(project, text, alice)
        say(bob, project)
    assert list(GuidelinesVersion.objects.values_list("number", "text")) == [
        (1, "Be kind."),
        (2, "Be kind and short."),
    ]
    assert list(Judgment.objects.order_by("id").values_list("guidelines_number", flat=True)) == [1, 1, 2]
    assert [row["guidelines"] for row in lines(stream_preferences(project, ties="include"))] == [1, 1, 2]
