"""The qualification round: who has to pass it, what counts, and that nothing of it trains."""

import json
import re
import uuid

import pytest
from django.core.exceptions import ValidationError
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from labeling import qualification as acts
from labeling.assignment import next_for
from labeling.judging import record
from labeling.models import (
    Judgment,
    Membership,
    Preference,
    Project,
    QualificationAnswer,
    QualificationAttempt,
    QualificationDecision,
    QualificationQuestion,
)
from labeling.projects import create_project
from labeling.qualification import (
    NoAttemptLeft,
    NotQualified,
    QuestionGone,
    add_questions,
    answer,
    begin,
    build_question,
    decide,
    move_question,
    needed_right,
    remove_question,
    removed,
    replace_question,
    standing_of,
)

pytestmark = pytest.mark.django_db


def make(project, number=1, right=("a",), answers=("Good.", "Bad.")):
    return build_question(project, f"Question {number}?", list(answers), list(right), f"Because {number}.")


@pytest.fixture
def round_of_five(project, comparison):
    """Five questions of which the first answer is right, in a project where a comparison waits."""
    project.qualification = True
    project.save()
    add_questions(project, [make(project, number) for number in range(5)])
    return project.questions.standing()


@pytest.fixture
def bobs(project, bob):
    return Membership.objects.select_related("project").get(project=project, user=bob)


def go_through(member, right, of=5):
    """Begin an attempt and give so many right answers, then wrong ones."""
    attempt = begin(member)
    for number, given in enumerate(attempt.answers.select_related("question__project")):
        letter = 0 if number < right else 1
        answer(given, "preferred", side=given.sides.index(letter), strength=2, seconds_spent=3.5)
    attempt.refresh_from_db()
    assert attempt.answers.count() == of
    return attempt


# Who has to pass it


def test_an_annotator_gets_no_comparison_before_the_round(project, bob, round_of_five):
    with pytest.raises(NotQualified, match="qualification round"):
        next_for(bob, project)


def test_managers_and_reviewers_need_none(project, alice, carol, round_of_five):
    assert next_for(alice, project)
    assert not standing_of(Membership.objects.get(project=project, user=carol)).needed


def test_nobody_is_held_up_without_questions_or_with_the_round_off(project, bob, round_of_five):
    project.qualification = False
    assert next_for(bob, project)
    project.qualification = True
    round_of_five.update(removed_at="2026-01-01T00:00Z")
    assert next_for(bob, project)


def test_four_of_five_let_in_and_three_do_not(project, bob, bobs, round_of_five):
    assert go_through(bobs, 3).passed is False
    with pytest.raises(NotQualified):
        next_for(bob, project)
    assert go_through(bobs, 4).passed is True
    assert next_for(bob, project)


@pytest.mark.parametrize(
    ("share", "of", "needed"), [(0.8, 5, 4), (0.14, 50, 7), (0.5, 3, 2), (1, 4, 4), (0, 4, 0)]
)
def test_how_many_have_to_be_right(share, of, needed):
    assert needed_right(Project(qualification_share=share), of) == needed


def test_attempts_end_and_a_manager_may_give_another_or_let_in(project, alice, bob, bobs, round_of_five):
    go_through(bobs, 0)
    go_through(bobs, 0)
    with pytest.raises(NoAttemptLeft):
        begin(bobs)
    decide(bobs, "attempt", alice)
    go_through(bobs, 3)
    with pytest.raises(NoAttemptLeft):
        begin(bobs)
    decide(bobs, "admit", alice)
    assert next_for(bob, project)
    assert standing_of(Membership.objects.get(pk=bobs.pk)).admitted.decided_by == alice


def test_two_managers_who_give_an_attempt_at_once_give_one(client, project, alice, bobs, round_of_five):
    client.force_login(alice)
    path = f"/p/{project.slug}/people/{bobs.pk}/qualify/"
    client.post(path, {"decision": "attempt"})
    bobs = Membership.objects.select_related("project").get(pk=bobs.pk)
    assert standing_of(bobs).left == 2, "who has attempts left is given none"
    go_through(bobs, 0)
    go_through(bobs, 0)
    client.post(path, {"decision": "attempt"})
    assert "no need of it" in client.post(path, {"decision": "attempt"}, follow=True).content.decode()
    assert standing_of(bobs).left == 1


def test_questions_changed_later_throw_nobody_out(project, alice, bob, bobs, round_of_five):
    go_through(bobs, 5)
    replace_question(round_of_five[0], make(project, 99), alice)
    remove_question(round_of_five[1])
    add_questions(project, [make(project, 100)])
    project.qualification_share = 1
    project.save()
    assert next_for(bob, project)


def test_an_attempt_under_way_keeps_its_questions(project, alice, bobs, round_of_five):
    attempt = begin(bobs)
    replace_question(round_of_five[0], make(project, 99, right="b"), alice)
    assert begin(bobs) == attempt
    assert go_through(bobs, 5).passed is True


def test_who_comes_later_is_asked_what_stands_then(project, alice, bobs, round_of_five):
    first = round_of_five[0]
    replace_question(first, make(project, 99), alice)
    asked = [given.question for given in begin(bobs).answers.all()]
    assert first not in asked and len(asked) == 5
    assert asked[0].messages[0]["content"] == "Question 99?"


def test_a_question_that_cannot_be_answered_rightly_is_not_asked(project, bobs, round_of_five):
    add_questions(project, [make(project, 6, right=["tie"])])
    project.ties = False
    project.save()
    bobs.project = project
    assert begin(bobs).answers.count() == 5


def test_a_question_that_nobody_can_get_wrong_any_more_is_not_asked(project, bobs, round_of_five):
    add_questions(project, [make(project, 6, right=["a", "b"])])
    project.ties = project.all_bad = False
    project.save()
    bobs.project = project
    assert begin(bobs).answers.count() == 5


def test_who_was_asked_before_the_settings_made_it_impossible_is_right(project, bobs):
    project.qualification = True
    project.save()
    add_questions(project, [make(project, 1, right=["tie"])])
    begin(bobs)
    project.ties = False
    project.save()
    assert answer(QualificationAnswer.objects.get(), "preferred", 0).right is True
    assert QualificationAttempt.objects.get().passed is True


def test_a_round_whose_last_question_goes_while_it_begins_does_not_begin(
    project, bobs, round_of_five, monkeypatch
):
    def looked_and_removed(member, standing_of=acts.standing_of):
        found = standing_of(member)
        QualificationQuestion.objects.update(removed_at=timezone.now())
        return found

    monkeypatch.setattr(acts, "standing_of", looked_and_removed)
    with pytest.raises(NoAttemptLeft):
        begin(bobs)
    assert not QualificationAttempt.objects.exists()


# What is said


def test_the_sides_are_drawn_and_count_by_what_stood_there(project, bobs, round_of_five):
    seen = set()
    for _ in range(30):
        attempt = begin(bobs)
        seen |= {tuple(given.sides) for given in attempt.answers.all()}
        attempt.answers.all().delete()
        attempt.delete()
    assert seen == {(0, 1), (1, 0)}  # a fair coin fails this once in 10 to the 44


@pytest.mark.parametrize(
    ("right", "verdict", "side_of", "is_right"),
    [
        (["a"], "preferred", "a", True),
        (["a"], "preferred", "b", False),
        (["a"], "tie", None, False),
        (["tie", "all_bad"], "tie", None, True),
        (["tie", "all_bad"], "all_bad", None, True),
        (["tie", "all_bad"], "preferred", "a", False),
    ],
)
def test_what_counts_as_right(project, bobs, right, verdict, side_of, is_right):
    project.qualification = True
    project.save()
    add_questions(project, [make(project, 1, right)])
    given = begin(bobs).answers.get()
    side = given.sides.index("ab".index(side_of)) if side_of else None
    said = answer(given, verdict, side)
    assert (said.said, said.right) == (side_of or verdict, is_right)


def test_the_first_answer_stands(project, bobs, round_of_five):
    given = begin(bobs).answers.first()
    answer(given, "tie")
    again = answer(given, "preferred", given.sides.index(0))
    assert (again.said, again.right) == ("tie", False)


@pytest.mark.django_db(transaction=True)
def test_two_tabs_that_begin_at_once_begin_one_attempt(bobs, round_of_five, at_once):
    start, finish = at_once
    with transaction.atomic():
        Membership.objects.select_for_update().get(pk=bobs.pk)
        start(one=lambda: begin(bobs), other=lambda: begin(bobs))
    outcomes = finish()
    assert outcomes["one"] == outcomes["other"] == QualificationAttempt.objects.get()
    assert QualificationAnswer.objects.count() == 5


@pytest.mark.django_db(transaction=True)
def test_two_tabs_that_give_the_last_two_answers_at_once_end_the_attempt(bobs, round_of_five, at_once):
    attempt = begin(bobs)
    given = list(attempt.answers.select_related("question__project"))

    def right(one):
        return answer(one, "preferred", side=one.sides.index(0))

    for one in given[:3]:
        right(one)
    start, finish = at_once
    with transaction.atomic():
        QualificationAttempt.objects.select_for_update().get(pk=attempt.pk)
        start(fourth=lambda: right(given[3]), fifth=lambda: right(given[4]))
    outcomes = finish()
    assert (outcomes["fourth"].right, outcomes["fifth"].right) == (True, True)
    attempt.refresh_from_db()
    assert attempt.passed and attempt.ended_at


def test_of_several_answers_the_best_is_what_counts(project, bobs):
    project.qualification = True
    project.save()
    add_questions(project, [make(project, 1, ["c"], ["One.", "Two.", "Three.", "Four."])])
    given = begin(bobs).answers.get()
    assert answer(given, "preferred", given.sides.index(2)).right is True


@pytest.mark.parametrize(
    ("verdict", "side"), [("preferred", None), ("preferred", 2), ("all_good", None), ("a", None)]
)
def test_what_is_not_offered_cannot_be_said(project, bobs, round_of_five, verdict, side):
    given = begin(bobs).answers.first()
    with pytest.raises(ValidationError):
        answer(given, verdict, side)
    assert QualificationAnswer.objects.get(pk=given.pk).answered_at is None


def test_nothing_of_it_is_a_judgment_or_a_preference(project, bob, bobs, round_of_five):
    go_through(bobs, 5)
    assert not Judgment.objects.exists() and not Preference.objects.exists()
    record(next_for(bob, project), "tie", uuid.uuid4())
    assert Judgment.objects.count() == Preference.objects.count() == 1


def test_what_was_said_is_never_overwritten(project, bobs, round_of_five):
    attempt = go_through(bobs, 5)
    for change in (
        lambda: QualificationAnswer.objects.update(said="b"),
        lambda: QualificationAnswer.objects.all().delete(),
        lambda: QualificationAttempt.objects.filter(pk=attempt.pk).update(passed=False),
        lambda: QualificationQuestion.objects.update(right=["b"]),
        lambda: QualificationQuestion.objects.update(explanation="Otherwise."),
    ):
        with pytest.raises(IntegrityError), transaction.atomic():
            change()


def test_the_check_costs_a_project_without_a_round_nothing(project, bob, bobs, comparison):
    project.qualification = False
    bobs.project = project
    with CaptureQueriesContext(connection) as queries:
        acts.check(bobs)
    assert len(queries) == 0


# What managers write


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": [{"role": "assistant", "content": "Hi"}]}, "prompt"),
        ({"answers": ["One."]}, "answers"),
        ({"answers": ["One."] * 9}, "answers"),
        ({"answers": ["One.", " one"]}, "answers"),
        ({"answers": "One."}, "answers"),
        ({"right": []}, "right"),
        ({"right": ["c"]}, "right"),
        ({"right": [1]}, "right"),
        ({"right": ["all_good"]}, "right"),
        ({"right": ["a", "b", "tie", "all_bad"]}, "right"),
        ({"explanation": " "}, "explanation"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused_at_its_field(project, change, field):
    good = {"prompt": "Which?", "answers": ["One.", "Two."], "right": ["a"], "explanation": "So."}
    with pytest.raises(ValidationError) as refused:
        build_question(project, **good | change)
    assert set(refused.value.message_dict) == {field}


def test_questions_are_asked_in_the_order_that_managers_give(project, round_of_five):
    def order():
        return [question.messages[0]["content"][-2] for question in project.questions.standing()]

    first, second = round_of_five[0], round_of_five[1]
    move_question(first, -1)
    assert order() == list("01234")
    move_question(first, 1)
    assert order() == list("10234")
    move_question(second, 1)
    assert order() == list("01234")


def test_a_question_is_replaced_once(project, alice, round_of_five):
    old, last = round_of_five[1], round_of_five[4]
    stale = QualificationQuestion.objects.get(pk=old.pk)
    move_question(old, -1)
    replace_question(stale, make(project, 99), alice)
    replace_question(stale, make(project, 99), alice)  # the form, sent twice
    with pytest.raises(QuestionGone):
        replace_question(stale, make(project, 98), alice)
    with pytest.raises(QuestionGone):
        move_question(stale, 1)
    standing = [question.messages[0]["content"] for question in project.questions.standing()]
    assert standing == [f"Question {number}?" for number in (99, 0, 2, 3, 4)]
    assert remove_question(last) and not remove_question(last)


def test_the_page_says_that_a_question_went_in_the_meantime(client, project, alice, round_of_five):
    old = round_of_five[0]
    remove_question(old)
    client.force_login(alice)
    base = f"/p/{project.slug}/questions/{old.pk}/"
    for path, values in ((base, SENT), (f"{base}move/", {"to": "up"})):
        page = client.post(path, values, follow=True).content.decode()
        assert "Somebody has removed or changed this question in the meantime." in page
    assert "*So*." in client.post(base, SENT).content.decode()  # nothing typed is lost
    assert project.questions.standing().count() == 4


def test_a_button_pressed_twice_does_it_once_and_says_so(client, project, alice):
    client.force_login(alice)
    base = f"/p/{project.slug}/questions/"
    first = [client.post(base + "new/", SENT, follow=True).content.decode() for _ in range(2)]
    assert "Added, as the last question." in first[0] and "is there, word for word." in first[1]
    question = project.questions.get()
    sent = SENT | {"prompt": "Which now?"}
    changed = [client.post(f"{base}{question.pk}/", sent, follow=True).content.decode() for _ in range(2)]
    assert all("Changed for attempts that begin from now on." in page for page in changed)
    question = project.questions.standing().get()
    once, twice = (client.post(f"{base}{question.pk}/remove/", follow=True) for _ in range(2))
    assert "Removed. Who has passed" in once.content.decode()
    assert "Nothing was changed now." in twice.content.decode()
    back = [client.post(f"{base}{question.pk}/back/", follow=True).content.decode() for _ in range(2)]
    assert all("It is asked again, as the last question." in page for page in back)
    assert project.questions.standing().get() == question


def test_a_question_that_went_can_be_put_back(client, project, alice, round_of_five):
    first, second, third = round_of_five[:3]
    client.force_login(alice)
    base = f"/p/{project.slug}/questions/"
    assert "Removed or replaced" not in client.get(base).content.decode()
    remove_question(first)
    replace_question(second, make(project, 98), alice)
    remove_question(third)
    add_questions(project, [make(project, 2)])  # the third one again: nobody needs it twice
    assert removed(project) == [second, first]
    page = client.get(base).content.decode()
    assert "Removed or replaced: 2" in page and f"{base}{first.pk}/back/" in page
    client.post(f"{base}{first.pk}/back/")
    asked = [question.messages[0]["content"] for question in project.questions.standing()]
    assert asked == [f"Question {number}?" for number in (98, 3, 4, 2, 0)]
    assert removed(project) == [second]
    add_questions(project, [make(project, number) for number in range(100, 145)])
    full = client.post(f"{base}{second.pk}/back/", follow=True).content.decode()
    assert "Nothing was changed. A round has at most 50 questions." in full
    assert project.questions.standing().count() == 50


def lines(*rows):
    text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    return SimpleUploadedFile("round.jsonl", text.encode())


SENT = {"prompt": "Which?", "answer_a": "One.", "answer_b": "Two.", "right": ["a"], "explanation": "*So*."}
GOOD = {"prompt": "Which?", "answers": ["One.", "Two."], "right": ["a"], "explanation": "So."}


def test_questions_come_in_as_json_lines(client, project, alice):
    client.force_login(alice)
    path = f"/p/{project.slug}/questions/import/"
    talk = [{"role": m, "content": "Hi"} for m in ("user", "assistant", "user")]
    assert (
        client.post(path, {"file": lines(GOOD, GOOD | {"prompt": talk, "right": "tie"})}).status_code == 302
    )
    stored = list(project.questions.standing())
    assert [question.right for question in stored] == [["a"], ["tie"]]
    assert (stored[1].messages, stored[0].created_by) == (talk, alice)
    page = client.post(path, {"file": lines(GOOD, GOOD | {"prompt": "And?"})}, follow=True).content.decode()
    assert "Added, behind the others: 1 question." in page and project.questions.count() == 3
    page = client.post(path, {"file": lines(GOOD)}, follow=True).content.decode()
    assert "Every question of the file was there already." in page and project.questions.count() == 3
    page = client.post(path, {"file": lines("", " ")}, follow=True).content.decode()
    assert "The file holds no questions." in page
    twice = GOOD | {"prompt": "Twice?"}
    page = client.post(path, {"file": lines(twice, twice)}, follow=True).content.decode()
    assert "Added, behind the others: 1 question." in page and project.questions.count() == 4


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("{", "round.jsonl, line 2: line is not JSON"),
        (GOOD | {"right": ["x"]}, "round.jsonl, line 2: right must name some of"),
        ({"prompt": "Which?"}, "round.jsonl, line 2: answers is missing"),
        (GOOD | {"why": "So."}, "round.jsonl, line 2: why is not a field"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_imported(client, project, alice, bad, said):
    client.force_login(alice)
    response = client.post(f"/p/{project.slug}/questions/import/", {"file": lines(GOOD, bad)})
    assert response.status_code == 400
    assert said in response.content.decode()
    assert not project.questions.exists()


def test_a_round_stays_short(client, project, alice):
    client.force_login(alice)
    many = [GOOD | {"prompt": f"Which of {number}?"} for number in range(51)]
    response = client.post(f"/p/{project.slug}/questions/import/", {"file": lines(*many)})
    assert response.status_code == 400 and "at most 50 questions" in response.content.decode()
    assert not project.questions.exists()


def test_a_manager_writes_changes_moves_and_removes_questions(client, project, alice):
    client.force_login(alice)
    base = f"/p/{project.slug}/questions/"
    assert client.post(base + "new/", SENT).status_code == 302
    assert client.post(base + "new/", SENT | {"prompt": "And which?"}).status_code == 302
    first, second = project.questions.standing()
    page = client.get(base).content.decode()
    assert page.index("Which?") < page.index("And which?") and "<em>So</em>" in page
    client.post(f"{base}{first.pk}/move/", {"to": "down"})
    assert list(project.questions.standing()) == [second, first]
    assert "Two." in client.get(f"{base}{first.pk}/").content.decode()
    client.post(f"{base}{first.pk}/", SENT | {"answer_c": "Three.", "right": ["c", "a"]})
    assert client.get(f"{base}{first.pk}/").status_code == 404
    changed = project.questions.standing()[1]
    assert (changed.answers, changed.right) == (["One.", "Two.", "Three."], ["a", "c"])
    client.post(f"{base}{changed.pk}/remove/")
    assert list(project.questions.standing()) == [second]


def test_a_question_typed_wrong_keeps_what_was_typed(client, project, alice):
    client.force_login(alice)
    sent = {
        "prompt": "Which?",
        "answer_a": "One.",
        "answer_b": "one",
        "right": ["a"],
        "explanation": "Because so.",
    }
    response = client.post(f"/p/{project.slug}/questions/new/", sent)
    page = response.content.decode()
    assert "This says the same as answer A." in page and "Because so." in page
    assert not project.questions.exists()
    form = client.post(f"/p/{project.slug}/questions/new/", sent | {"answer_b": "Two.", "answer_d": "Four."})
    assert form.context["form"].errors == {"answer_c": ["Fill this in, or clear those after it."]}


def test_a_question_is_not_changed_into_one_that_stands(client, project, alice, round_of_five):
    client.force_login(alice)
    sent = {"prompt": "Question 1?", "answer_a": "Good.", "answer_b": "Bad.", "right": ["a"]}
    path = f"/p/{project.slug}/questions/{round_of_five[0].pk}/"
    page = client.post(path, sent | {"explanation": "Because 1."}).content.decode()
    assert "Another question of the round says the same, word for word." in page
    assert list(project.questions.standing()) == list(round_of_five)


# Pages and the API


def test_the_desk_leads_to_the_round_and_the_home_page_too(client, project, bob, round_of_five):
    client.force_login(bob)
    path = f"/p/{project.slug}/qualification/"
    assert client.get(f"/p/{project.slug}/label/")["Location"] == path
    home = client.get("/").content.decode()
    assert path in home and "A short qualification round comes first" in home
    reply = client.post(f"/p/{project.slug}/label/next/", "{}", "application/json")
    assert (reply.status_code, "qualification round" in reply.json()["message"]) == (409, True)


@pytest.fixture
def in_hand(project, bob, make_comparison):
    """Bob has answered one comparison and holds another; then the round is switched on."""
    make_comparison()
    make_comparison()
    answered = record(next_for(bob, project), "tie", uuid.uuid4())
    held = next_for(bob, project)
    add_questions(project, [make(project)])
    project.qualification = True
    project.save()
    return answered, held


def test_what_a_person_holds_stays_theirs_when_the_round_is_switched_on(client, project, bob, in_hand):
    client.force_login(bob)
    _, held = in_hand
    page = client.get(f"/p/{project.slug}/label/")
    assert page.context["current"]["id"] == held.pk and page.context["ahead"] is None
    record(held, "tie", uuid.uuid4())
    assert client.get(f"/p/{project.slug}/label/")["Location"] == f"/p/{project.slug}/qualification/"


def test_an_earlier_answer_can_be_changed_before_the_round(client, project, bob, in_hand):
    client.force_login(bob)
    answered, held = in_hand
    record(held, "tie", uuid.uuid4())
    page = client.get(f"/p/{project.slug}/label/", {"again": answered.assignment_id})
    assert page.context["current"]["revises"] == answered.pk and page.context["ahead"] is None
    said = {
        "assignment": answered.assignment_id,
        "revises": answered.pk,
        "verdict": "all_bad",
        "client_key": str(uuid.uuid4()),
    }
    assert client.post(f"/p/{project.slug}/label/answer/", said, "application/json").status_code == 200
    assert Judgment.objects.current().get(assignment=answered.assignment_id).verdict == "all_bad"


def test_the_api_refuses_with_a_sentence(client, project, bob, bobs, round_of_five):
    client.force_login(bob)
    path = f"/api/v1/projects/{project.slug}/next/"
    reply = client.post(path, {}, "application/json")
    assert reply.status_code == 403
    assert reply.json()["detail"].startswith("This project begins with a short qualification round.")
    go_through(bobs, 5)
    assert client.post(path, {}, "application/json").status_code == 200
    settings = client.get(f"/api/v1/projects/{project.slug}/").json()
    told = {name: settings[name] for name in settings if name.startswith("qualification")}
    assert told == {"qualification": True, "qualification_share": 0.8, "qualification_attempts": 2}


def test_a_person_goes_through_the_round_by_the_page(client, project, bob, bobs, round_of_five):
    client.force_login(bob)
    path = f"/p/{project.slug}/qualification/"
    assert "First, 5 questions with a known answer" in client.get(path).content.decode()
    client.post(path)
    for number in range(5):
        page = client.get(path)
        assert f"Question {number + 1} of 5" in page.content.decode()
        assert "Because" not in page.content.decode()
        given = page.context["given"]
        wrong = number == 2
        said = {
            "given": given.pk,
            "verdict": "preferred",
            "side": given.sides.index(int(wrong)),
            "strength": 3,
        }
        leads_to = client.post(path + "answer/", said, "application/json").json()["next"]
        after = client.get(leads_to).content.decode()
        assert f"Because {number}." in after
        assert ("Not this time" in after and "Right is:" in after) is wrong
    assert "4 of 5 answers were right: you have passed" in client.get(path).content.decode()
    assert client.get(f"/p/{project.slug}/label/").status_code == 200


def test_what_an_attempt_explained_is_closed_while_another_is_open(client, project, bob, bobs, round_of_five):
    explained = go_through(bobs, 3).answers.first()
    client.force_login(bob)
    path = f"/p/{project.slug}/qualification/"
    assert "Because 0." in client.get(path, {"given": explained.pk}).content.decode()
    begin(bobs)
    page = client.get(path, {"given": explained.pk}).content.decode()
    assert "Question 1 of 5" in page and "Because" not in page
    assert go_through(bobs, 5).passed
    assert "Because 0." in client.get(path, {"given": explained.pk}).content.decode()


def test_the_last_answer_may_come_from_another_tab_while_the_page_is_made(
    client, project, bob, bobs, round_of_five, monkeypatch
):
    def standing_before_the_last_answer(member):
        found = standing_of(member)
        if found.open:
            for given in found.attempt.answers.select_related("question__project"):
                answer(given, "preferred", side=given.sides.index(0))
        return found

    begin(bobs)
    monkeypatch.setattr(acts, "standing_of", standing_before_the_last_answer)
    client.force_login(bob)
    page = client.get(f"/p/{project.slug}/qualification/", follow=True)
    assert "5 of 5 answers were right: you have passed" in page.content.decode()


def test_the_page_does_not_say_that_as_many_are_needed_as_were_right(
    client, project, bob, bobs, round_of_five
):
    client.force_login(bob)
    project.qualification_share = 0.9
    project.save()
    go_through(bobs, 4)
    path = f"/p/{project.slug}/qualification/"
    assert "5 are needed." in client.get(path).content.decode()
    project.qualification_share = 0.8  # since then
    project.save()
    page = client.get(path).content.decode()
    assert (
        "4 of 5 answers were right" in page and "needed." not in page and "You may try 1 more time." in page
    )


def test_without_an_attempt_left_the_page_says_whom_to_ask(client, project, alice, bob, bobs, round_of_five):
    for _ in range(2):
        go_through(bobs, 0)
    client.force_login(bob)
    path = f"/p/{project.slug}/qualification/"
    assert "no attempt is left" in client.get(path).content.decode()
    client.post(path)
    assert QualificationAttempt.objects.count() == 2
    assert "A manager has to let you in" in client.get("/").content.decode()
    client.force_login(alice)
    people = f"/p/{project.slug}/people/"
    page = client.get(people).content.decode()
    assert "0 of 5, no attempt left" in page
    client.post(f"{people}{bobs.pk}/qualify/", {"decision": "attempt"})
    assert "may try again" in client.get(people).content.decode()
    assert go_through(bobs, 5).passed
    assert "passed with 5 of 5" in client.get(people).content.decode()


def test_the_page_of_people_asks_as_much_for_two_as_for_twenty(
    client, project, alice, make_annotator, round_of_five
):
    client.force_login(alice)
    path = f"/p/{project.slug}/people/"
    client.get(path)

    def join(count):
        for number in range(count):
            user = make_annotator()
            member = Membership.objects.select_related("project").get(project=project, user=user)
            QualificationDecision.objects.create(member=member, decision="attempt", decided_by=alice)
            go_through(member, 2 + number % 4)

    def queries():
        with CaptureQueriesContext(connection) as made:
            page = client.get(path).content.decode()
        return len(made), page

    join(2)
    few, page = queries()
    assert page.count("2 of 5") == page.count("3 of 5") == 1
    join(18)
    many, page = queries()
    assert page.count("passed with 4 of 5") == 4
    assert many == few


def test_an_answer_to_anothers_question_is_not_found(
    client, project, bob, bobs, make_annotator, round_of_five
):
    given = begin(bobs).answers.first()
    client.force_login(make_annotator())
    path = f"/p/{project.slug}/qualification/"
    said = {"given": given.pk, "verdict": "tie"}
    assert client.post(path + "answer/", said, "application/json").status_code == 404
    for number in (given.pk, "x", 10**30):
        assert client.get(path, {"given": number}).status_code == 404
    client.force_login(bob)
    assert client.post(path + "answer/", {**said, "verdict": "a"}, "application/json").status_code == 400
    assert client.post(path + "answer/", said, "application/json").status_code == 200


def test_a_question_looks_the_same_whatever_is_right_of_it(client, project, bob, bobs):
    project.qualification = True
    project.save()
    add_questions(project, [make(project, right=[right]) for right in ("a", "b", "tie")])
    client.force_login(bob)
    pages = set()
    for given in begin(bobs).answers.all():
        QualificationAnswer.objects.filter(pk=given.pk).update(sides=[0, 1])
        page = client.get(f"/p/{project.slug}/qualification/").content.decode()
        assert "Good." in page and "Because" not in page
        of_its_own = (
            rf'nonce="[^"]+"|"X-CSRFToken": "\w+"|value="\w+"|Question {given.place + 1} |"{given.pk}"'
        )
        pages.add(re.sub(of_its_own, "", page))
        answer(given, "tie")
    assert len(pages) == 1


def test_the_home_page_asks_one_query_more_for_a_project_more(client, project, alice, bob, round_of_five):
    client.force_login(bob)

    def add():
        other = create_project("Other", alice, qualification=True)
        Membership.objects.create(project=other, user=bob, role="annotator")
        add_questions(other, [make(other)])

    def asked():
        with CaptureQueriesContext(connection) as queries:
            page = client.get("/").content.decode()
        assert page.count("/qualification/") == Membership.objects.filter(user=bob).count()
        return len(queries)

    add()
    two = asked()
    for _ in range(3):
        add()
    assert asked() <= two + 3
