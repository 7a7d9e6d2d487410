"""Own answers in words, and how far people agree."""

import uuid

import pytest
from django.db import connection

from labeling.agreement import with_others
from labeling.assignment import next_for
from labeling.judging import record, withdraw
from labeling.models import Completion, Edit, Judgment
from labeling.views.mine import page_of, verdict_in_words
from tests.labeling.conftest import rows_read

pytestmark = pytest.mark.django_db


@pytest.fixture
def project(project):
    project.all_good = project.partial_rankings = True
    project.save()
    return project


def by_letters(assignment, *groups):
    return [[assignment.sides["ABCD".index(letter)] for letter in group] for group in groups]


@pytest.mark.parametrize(
    ("candidates", "verdict", "groups", "strength", "words"),
    [
        (2, "preferred", ("B", "A"), 3, "B much better"),
        (2, "preferred", ("A", "B"), 1, "A slightly better"),
        (2, "tie", (), None, "Tie"),
        (2, "all_bad", (), None, "Both bad"),
        (2, "all_good", (), None, "Both good"),
        (4, "preferred", ("C", "AD", "B"), None, "C > A = D > B"),
        (4, "preferred", ("D", "B"), None, "D > B"),
        (4, "all_bad", (), None, "All bad"),
    ],
)
def test_an_answer_is_told_by_the_letters_it_was_given_to(
    project, bob, make_comparison, candidates, verdict, groups, strength, words
):
    make_comparison(candidates=candidates)
    assignment = next_for(bob, project)
    said = {"ranking": by_letters(assignment, *groups), "strength": strength} if groups else {}
    record(assignment, verdict, uuid.uuid4(), **said)
    assert verdict_in_words(Judgment.objects.select_related("assignment").get()) == words


def test_agreement_counts_each_other_person_on_each_comparison(project, bob, make_annotator, make_comparison):
    others = [make_annotator() for _ in range(2)]
    # By positions: what Bob says, and what the others do.
    said = [([0, 1], [0, 1], [0, 1]), ([0, 1], [1, 0], None), (None, None, "all_bad"), ([1, 0], None, None)]
    for answers in said:
        make_comparison(overlap=3)
        for person, ranking in zip([bob, *others], answers, strict=True):
            how = (
                {"ranking": [[place] for place in ranking], "strength": 1}
                if isinstance(ranking, list)
                else {}
            )
            record(next_for(person, project), "preferred" if how else ranking or "tie", uuid.uuid4(), **how)
    assert with_others(bob, project) == (3, 8)
    assert with_others(bob, project).share == 3 / 8
    assert with_others(make_annotator(), project) == (0, 0)


def test_agreement_does_without_an_answer_taken_back_while_it_is_counted(
    project, bob, carol, make_comparison, answer
):
    make_comparison(overlap=2)
    make_comparison(overlap=2)
    given = [answer(person, "tie") for person in (bob, carol) for _ in range(2)]

    def withdrawn_after_the_first(execute, *asked):
        found = execute(*asked)
        if not taken:
            taken.append(True)
            withdraw(given[0])
        return found

    taken = []
    with connection.execute_wrapper(withdrawn_after_the_first):
        assert with_others(bob, project) == (1, 1)


def test_the_page_takes_few_queries_however_many_answers(
    client, project, bob, make_comparison, answer, django_assert_max_num_queries
):
    for _ in range(30):
        make_comparison()
        answer(bob)
    client.force_login(bob)
    with django_assert_max_num_queries(14):
        page = client.get(f"/p/{project.slug}/mine/").content.decode()
    assert page.count("Look again") == 25 and ">Newest<" not in page
    older = Judgment.objects.order_by("-id")[24].pk
    assert f"?before={older}&amp;q=" in page
    page = client.get(f"/p/{project.slug}/mine/", {"before": older}).content.decode()
    assert page.count("Look again") == 5 and ">Newest<" in page and ">Older<" not in page
    assert client.get(f"/p/{project.slug}/mine/?before=x").content.decode().count("Look again") == 25


def test_pages_of_what_was_found_go_on_where_the_one_before_ended(
    client, project, bob, make_comparison, answer, monkeypatch
):
    monkeypatch.setattr("labeling.views.mine.LOOKED_AT_ONCE", 3)
    monkeypatch.setattr("labeling.views.mine.PER_PAGE", 4)
    for number in range(20):
        make_comparison()
        answer(bob, reason="kinder" if number % 2 else "shorter")
    kinder = [judgment.pk for judgment in Judgment.objects.filter(reason="kinder").order_by("-id")]
    standing, before, found = Judgment.objects.current(), None, []
    for size in (4, 4, 2):
        page = page_of(standing, "Kinder", before)
        assert (len(page.answers), page.back_to) == (size, None)
        found += [judgment.pk for judgment in page.answers]
        before = page.older
    assert found == kinder and before is None


def test_a_search_that_takes_long_says_how_far_back_it_went(
    client, project, bob, make_comparison, answer, monkeypatch
):
    monkeypatch.setattr("labeling.views.mine.LOOKED_AT_ONCE", 2)
    monkeypatch.setattr("labeling.views.mine.MOST_SECONDS", 0)
    for reason in ("kinder", "", "", ""):
        make_comparison()
        answer(bob, reason=reason)
    client.force_login(bob)
    path, further = f"/p/{project.slug}/mine/", Judgment.objects.order_by("-id")[1]
    page = client.get(path, {"q": "kinder"}).content.decode()
    assert "Nothing found so far" in page and "Your answers were looked through back to" in page
    assert f'?before={further.pk}&amp;q=kinder">Look further back<' in page
    page = client.get(path, {"q": "kinder", "before": further.pk}).content.decode()
    assert page.count("Look again") == 1


def test_a_page_reads_no_more_for_the_answers_that_are_not_on_it(project, bob, many_finished):
    many_finished(3_000)
    standing = Judgment.objects.current().filter(annotator=bob, comparison__project=project)
    middle = standing.order_by("id")[1_500].pk
    for before in (None, middle):
        assert rows_read(lambda before=before: page_of(standing, "", before)) < 500


@pytest.mark.parametrize(
    ("words", "finds"),
    [
        ('say "frac"', True), ("\\frac{1}", True), ("100 %", True), ("SAY", True), ("line\nbreak", True),
        ("user", False), ("content", False), ("_", False), ("0 0", False), ("\x00", True), ("' OR 1=1 --", False),
    ],
)  # fmt: skip
def test_words_are_found_as_they_are_written(
    client, project, bob, make_comparison, make_prompt, answer, words, finds
):
    make_comparison(prompt=make_prompt('I say "frac": \\frac{1}{2} is 100 %\nof a line\nbreak'))
    answer(bob)
    client.force_login(bob)
    page = client.get(f"/p/{project.slug}/mine/", {"q": words})
    assert page.status_code == 200
    assert ("Look again" in page.content.decode()) is finds


def test_reasons_that_were_picked_and_better_answers_are_found_too(
    client, project, bob, make_comparison, answer
):
    project.reason_tags = ["More correct", "kinder"]
    project.save()
    make_comparison()
    judgment = answer(bob, reason_tags=["More correct"])
    client.force_login(bob)
    for words, finds in (("more corr", True), ("kinder", False), ("correct\nkinder", False)):
        page = client.get(f"/p/{project.slug}/mine/", {"q": words}).content.decode()
        assert ("Look again" in page) is finds
    completion = Completion.objects.add(judgment.comparison.prompt, "Of course, gladly.", "bob")
    original = judgment.comparison.candidates.first().completion
    Edit.objects.create(judgment=judgment, original=original, completion=completion)
    assert "Look again" in client.get(f"/p/{project.slug}/mine/", {"q": "GLADLY"}).content.decode()


@pytest.mark.parametrize("again", ["0", "-1", "x", "9" * 30, "1;drop", ""])
def test_an_answer_that_is_not_ones_own_is_not_found(client, project, bob, again):
    client.force_login(bob)
    assert client.get(f"/p/{project.slug}/label/", {"again": again}).status_code == 404


def test_anothers_answer_is_not_found(client, project, bob, alice, comparison, answer):
    judgment = answer(bob)
    client.force_login(alice)
    assert client.get(f"/p/{project.slug}/label/", {"again": judgment.assignment_id}).status_code == 404
    client.force_login(bob)
    assert client.get(f"/p/{project.slug}/label/", {"again": judgment.assignment_id}).status_code == 200
