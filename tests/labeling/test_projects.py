import random
import re

import pytest
from django.core.exceptions import ValidationError
from django.http import Http404

from config.demo import FORMS, make_form
from labeling.access import access_assignment, access_place, access_project
from labeling.assignment import next_for
from labeling.models import Completion, Membership, Project, split_of
from labeling.projects import add_member, create_project, imported_member, remove_member
from labeling.qualification import NotQualified
from labeling.selection import create_comparison, propose_pairs, same_text

pytestmark = pytest.mark.django_db


def test_a_project_starts_with_its_manager_and_a_free_address(alice):
    first, second = create_project("Kind answers", alice), create_project("Kind answers", alice, overlap=3)
    assert (first.slug, second.slug, second.overlap) == ("kind-answers", "kind-answers-2", 3)
    assert access_place(alice, first.slug).role == "manager"
    assert create_project("東京", alice).slug == "project"


def test_a_project_that_makes_no_sense_is_not_made(alice):
    with pytest.raises(ValidationError):
        create_project("Bad", alice, overlap=0)


def test_pseudonyms_say_nothing_about_the_person(project):
    names = [member.pseudonym for member in project.memberships.all()]
    assert len(set(names)) == 3
    assert all(re.fullmatch(r"annotator-[a-z0-9]{6}", name) for name in names)


def test_who_comes_back_keeps_the_pseudonym(project, bob):
    before = access_place(bob, project.slug)
    remove_member(before)
    with pytest.raises(Http404):
        access_place(bob, project.slug)
    after = add_member(project, bob, "reviewer")
    assert (after.pseudonym, after.role) == (before.pseudonym, "reviewer")


def test_the_last_manager_cannot_leave(project, alice, bob):
    with pytest.raises(ValidationError, match="at least one manager"):
        remove_member(access_place(alice, project.slug))
    with pytest.raises(ValidationError, match="at least one manager"):
        add_member(project, alice, "annotator")
    add_member(project, bob, "manager")
    remove_member(access_place(alice, project.slug))


def test_the_imported_member_cannot_log_in(project, client):
    user = imported_member(project).user
    assert imported_member(project).user == user
    assert not user.is_active
    assert not user.has_usable_password()


def test_access_is_by_place_and_role(project, alice, bob, carol, charlie):
    assert access_project(bob, "support") == project
    assert access_project(bob, "support", "manager", "annotator") == project
    for person, roles in ((charlie, ()), (bob, ("manager",)), (carol, ("manager", "annotator"))):
        with pytest.raises(Http404):
            access_project(person, "support", *roles)
    with pytest.raises(Http404):
        access_project(alice, "nowhere")


def test_a_role_in_one_project_opens_no_other(project, bob, charlie):
    other = create_project("Other", charlie)
    add_member(other, bob, "manager")
    with pytest.raises(Http404):
        access_project(bob, "support", "manager")
    with pytest.raises(Http404):
        access_project(charlie, "support", "manager")


def test_an_assignment_is_its_annotators_alone(project, bob, alice, comparison):
    lease = next_for(bob, project)
    assert access_assignment(bob, lease.pk) == lease
    with pytest.raises(Http404):
        access_assignment(alice, lease.pk)
    Membership.objects.filter(user=bob).update(role="reviewer")
    with pytest.raises(Http404):
        access_assignment(bob, lease.pk)


# Selection


@pytest.fixture
def completions(make_prompt):
    prompt = make_prompt()
    return [Completion.objects.add(prompt, text, f"model {n}") for n, text in enumerate("abcdef")]


def test_pairs_never_show_equal_texts(make_prompt):
    prompt = make_prompt()
    rows = [Completion.objects.add(prompt, text, text) for text in ("Yes.", " yes. ", "YES.", "No.")]
    proposed = propose_pairs(rows, 10, 2, random.Random(1))
    assert len(proposed) == 1
    assert {row.text.strip().lower() for row in proposed[0]} == {"yes.", "no."}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("True", "True.", True),
        ("\u201cNo\u201d \u2013 she said", '"no" - she  said', True),
        ("na\u00efve", "nai\u0308ve", True),
        ("a\u200bb", "ab", True),
        ("\u202eright\u202c to left", "right to left", True),
        ("Take:\n* a __big__ pan\n+ oil", "Take:\n- a **big** pan\n- oil", True),
        ("`__init__`", "`**init**`", False),
        ("- 1", "+ 1", True),
        ("2 - 1", "2 + 1", False),
        ("He is not", "He is now", False),
        ("👍", "👎", False),
        ("x < y", "x > y", False),
        ("1.5", "15", False),
        ("Is it?", "Is it", False),
        ("do not", "do", False),
    ],
)
def test_texts_that_nobody_would_choose_between_are_the_same(one, other, same):
    assert (same_text(one) == same_text(other)) is same


def test_every_completion_is_shown_about_equally_often(completions):
    proposed = propose_pairs(completions, 6, 2, random.Random(1))
    shown = [row.pk for pair in proposed for row in pair]
    assert len({frozenset(pair) for pair in proposed}) == 6
    often = [shown.count(row.pk) for row in completions]
    assert max(often) - min(often) <= 2


def test_many_completions_in_large_groups_are_no_burden(make_prompt):
    prompt = make_prompt()
    rows = [Completion.build(prompt, f"Answer {n}.", "me") for n in range(64)]
    proposed = propose_pairs(rows, 8, 8, random.Random(1))
    assert len({row.text for group in proposed for row in group}) > 40


def test_proposals_are_seeded_and_of_the_size_asked_for(completions):
    again = [propose_pairs(completions, 3, 4, random.Random(7)) for _ in range(2)]
    assert again[0] == again[1]
    assert [len(group) for group in again[0]] == [4, 4, 4]
    assert propose_pairs(completions[:1], 3) == []


def test_a_comparison_takes_the_projects_overlap_unless_told(project, completions):
    project.overlap = 2
    assert create_comparison(project, completions[0].prompt, completions[:2]).overlap == 2
    told = create_comparison(project, completions[0].prompt, completions[1:4], overlap=5, priority=3)
    assert (told.overlap, told.priority) == (5, 3)
    assert [row.position for row in told.candidates.all()] == [0, 1, 2]


def test_a_comparison_that_makes_no_sense_is_refused_with_a_sentence(project, completions, make_prompt):
    prompt = completions[0].prompt
    same = Completion.objects.add(prompt, "A", "shouting")
    stranger = Completion.objects.add(make_prompt(), "Elsewhere.", "x")
    for wrong in (completions[:1], [completions[0], same], [completions[0], stranger], []):
        with pytest.raises(ValidationError) as refusal:
            create_comparison(project, prompt, wrong)
        assert "completions" in refusal.value.message_dict


def test_the_split_follows_from_the_hash_alone():
    assert split_of("0" * 64) == "eval"
    assert split_of("3f" + "f" * 62) == "eval"
    assert split_of("40" + "0" * 62) == "train"
    assert split_of("f" * 64) == "train"


@pytest.mark.parametrize("slug", FORMS)
def test_the_demo_has_a_project_for_each_form_of_asking(slug, alice, bob):
    make_form(slug, FORMS[slug], alice, bob)
    project = Project.objects.get(slug=slug)
    waiting = project.comparisons.open_for(bob)
    assert waiting.count() == waiting.filter(overlap=2).count() == (16 if slug == "facts" else 5)
    assert project.guidelines_number == 1
    assert project.questions.count() == (4 if slug == "facts" else 0)
    if slug == "facts":
        with pytest.raises(NotQualified):
            next_for(bob, project)
    assert next_for(alice if slug == "facts" else bob, project).comparison.candidates.count() == (
        4 if slug == "rankings" else 2
    )
