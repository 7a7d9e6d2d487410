"""What must never happen is refused by the database itself, whoever writes to it."""

import uuid

import pytest
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from labeling.assignment import next_for
from labeling.datasets import freeze
from labeling.judging import record
from labeling.models import (
    Assignment,
    Candidate,
    Comparison,
    Completion,
    DatasetEntry,
    DatasetVersion,
    Judgment,
    Membership,
    Preference,
    Project,
    Prompt,
)

pytestmark = pytest.mark.django_db


class refused:
    """The block must be refused by the database, by the rule named, at the latest at the transaction's end."""

    def __init__(self, rule):
        self.rule = rule

    def __enter__(self):
        self.savepoint = transaction.atomic()
        self.savepoint.__enter__()

    def __exit__(self, kind, error, trace):
        if kind is None:
            try:
                with connection.cursor() as cursor:
                    cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
            except IntegrityError as late:
                kind, error, trace = type(late), late, late.__traceback__
        self.savepoint.__exit__(kind or AssertionError, error or AssertionError(), trace)
        with connection.cursor() as cursor:
            cursor.execute("SET CONSTRAINTS ALL DEFERRED")
        assert kind is not None, "the database accepted it"
        assert issubclass(kind, IntegrityError), error
        assert self.rule in str(error), error
        return True


def assign(comparison, person, **fields):
    values = {"slot": 0, "sides": [0, 1], "leased_until": timezone.now()} | fields
    return Assignment.objects.create(comparison=comparison, annotator=person, **values)


def judge(assignment, **fields):
    values = {"verdict": "tie", "client_key": uuid.uuid4()} | fields
    values = {"comparison": assignment.comparison, "annotator": assignment.annotator} | values
    return Judgment.objects.create(assignment=assignment, **values)


@pytest.fixture
def judged(bob, comparison, answer):
    return answer(bob)


# Projects and people


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"overlap": 0}, "project_overlap_1_to_100"),
        ({"lease_seconds": 0}, "project_lease_within_a_day"),
        ({"ranking_pairs": "some"}, "project_ranking_pairs_known"),
        ({"repeat_share": 0.21}, "project_repeat_share_0_to_a_fifth"),
        ({"slug": "support"}, "slug"),
    ],
)
def test_a_project_that_makes_no_sense(project, fields, rule):
    with refused(rule):
        Project.objects.create(**{"slug": "other", "name": "Other"} | fields)


def test_a_person_twice_in_a_project(project, bob):
    with refused("membership_once_per_person"):
        Membership.objects.create(project=project, user=bob, role="reviewer")


def test_a_role_that_does_not_exist(project, charlie):
    with refused("membership_role_known"):
        Membership.objects.create(project=project, user=charlie, role="king")


def test_two_people_under_one_pseudonym(project, bob, charlie):
    name = project.memberships.get(user=bob).pseudonym
    with refused("membership_pseudonym_unique"):
        Membership.objects.create(project=project, user=charlie, role="annotator", pseudonym=name)


# Prompts and completions


def test_a_prompt_twice_in_a_project(project, make_prompt):
    prompt = make_prompt("Once?")
    with refused("prompt_once_per_project"):
        Prompt.objects.create(project=project, messages=prompt.messages)


def test_an_external_id_twice(project, make_prompt):
    make_prompt("One?", external_id="7")
    with refused("prompt_external_id_unique"):
        Prompt.objects.create(project=project, messages="Two?", external_id="7")


def test_a_prompt_that_changes(make_prompt):
    prompt = make_prompt()
    with refused("a prompt never changes"):
        Prompt.objects.filter(pk=prompt.pk).update(split="eval" if prompt.split == "train" else "train")
    with refused("a prompt never changes"):
        Prompt.objects.filter(pk=prompt.pk).update(messages=[{"role": "user", "content": "Else?"}])


def test_a_completion_twice_or_changed(make_prompt):
    completion = Completion.objects.add(make_prompt(), "Yes.", "me")
    with refused("completion_once_per_author"):
        Completion.objects.create(prompt=completion.prompt, text="Yes.", author="me")
    with refused("a completion never changes"):
        Completion.objects.filter(pk=completion.pk).update(author="you")


# Comparisons


def test_a_comparison_of_a_completion_with_itself(project, make_prompt):
    completion = Completion.objects.add(make_prompt(), "Yes.", "me")
    with refused("candidate_once_per_comparison"):
        comparison = Comparison.objects.create(project=project, prompt=completion.prompt, overlap=1)
        for position in (0, 1):
            Candidate.objects.create(comparison=comparison, completion=completion, position=position)


@pytest.mark.parametrize("count", [0, 1])
def test_a_comparison_with_too_few_candidates(project, make_prompt, count):
    prompt = make_prompt()
    with refused("it takes 2 to 8"):
        comparison = Comparison.objects.create(project=project, prompt=prompt, overlap=1)
        for position in range(count):
            completion = Completion.objects.add(prompt, f"{position}", "me")
            Candidate.objects.create(comparison=comparison, completion=completion, position=position)


def test_a_ninth_candidate(make_comparison):
    comparison = make_comparison(candidates=8)
    extra = Completion.objects.add(comparison.prompt, "One more.", "me")
    with refused("candidate_position_0_to_7"):
        Candidate.objects.create(comparison=comparison, completion=extra, position=8)


def test_a_gap_between_candidates(comparison):
    extra = Completion.objects.add(comparison.prompt, "One more.", "me")
    with refused("not numbered 0 to 2"):
        Candidate.objects.create(comparison=comparison, completion=extra, position=5)


def test_a_candidate_that_answers_another_prompt(comparison, make_prompt):
    stranger = Completion.objects.add(make_prompt(), "Elsewhere.", "me")
    with refused("answers another prompt"):
        Candidate.objects.create(comparison=comparison, completion=stranger, position=2)


def test_a_candidate_that_changes_or_goes(comparison):
    with refused("never change"):
        comparison.candidates.filter(position=0).update(position=5)
    with refused("never change"):
        comparison.candidates.first().delete()


def test_a_prompt_of_another_project(make_comparison, make_prompt):
    other = Project.objects.create(slug="other", name="Other")
    prompt = make_prompt(project=other)
    comparison = make_comparison(prompt=make_prompt())
    with refused("comparison_in_its_prompts_project"), connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO labeling_comparison (project_id, prompt_id, overlap, priority, created_at) "
            "VALUES (%s, %s, 1, 0, now())",
            [comparison.project_id, prompt.pk],
        )
        cursor.execute("SET CONSTRAINTS comparison_in_its_prompts_project IMMEDIATE")


def test_an_overlap_that_changes(comparison):
    with refused("keeps its prompt and its overlap"):
        Comparison.objects.filter(pk=comparison.pk).update(overlap=2)


# Leases


def test_two_assignments_of_one_comparison_to_one_person(bob, comparison):
    assign(comparison, bob)
    with refused("assignment_once_per_person"):
        assign(comparison, bob, slot=None)


def test_a_slot_held_twice(bob, alice, comparison):
    assign(comparison, bob)
    with refused("assignment_slot_held_once"):
        assign(comparison, alice)


@pytest.mark.parametrize("slot", [-1, 1, 7])
def test_more_leases_than_the_overlap(bob, comparison, slot):
    with refused(f"has no slot {slot}"):
        assign(comparison, bob, slot=slot)


def test_moving_to_a_slot_beyond_the_overlap(bob, comparison):
    assignment = assign(comparison, bob)
    with refused("has no slot 1"):
        Assignment.objects.filter(pk=assignment.pk).update(slot=1)


@pytest.mark.parametrize("sides", [[], [0], [0, 0], [0, 1, 2], [1, 2]])
def test_sides_that_do_not_show_each_candidate_once(bob, comparison, sides):
    with refused("each candidate of its comparison once"):
        assign(comparison, bob, sides=sides)


def test_sides_or_person_that_change(bob, alice, comparison):
    assignment = assign(comparison, bob)
    for change in ({"sides": [1, 0]}, {"annotator": alice}):
        with refused("keeps its comparison"):
            Assignment.objects.filter(pk=assignment.pk).update(**change)


def test_judged_without_a_slot_and_put_aside_with_one(bob, comparison):
    assignment = assign(comparison, bob)
    with refused("assignment_put_aside_frees_slot"):
        Assignment.objects.filter(pk=assignment.pk).update(outcome="skipped")
    with refused("assignment_judged_holds_slot"):
        Assignment.objects.filter(pk=assignment.pk).update(outcome="judged", slot=None)
    with refused("assignment_outcome_known"):
        Assignment.objects.filter(pk=assignment.pk).update(outcome="lost")


def test_judged_without_a_judgment(bob, comparison):
    assignment = assign(comparison, bob)
    with refused("exactly when it has a current judgment"):
        Assignment.objects.filter(pk=assignment.pk).update(outcome="judged")


# Judgments


def test_a_judgment_whose_assignment_is_not_judged(bob, comparison):
    assignment = assign(comparison, bob)
    with refused("exactly when it has a current judgment"):
        judge(assignment)


def test_two_judgments_by_one_person_on_one_comparison(judged):
    with refused("judgment_one_current_per_person"):
        judge(judged.assignment, revision=2)


def test_a_revision_twice(judged):
    with refused("judgment_revision_unique"):
        judge(judged.assignment, revision=1, is_current=False, superseded_at=timezone.now())


def test_a_key_twice(judged):
    with refused("judgment_sent_once"):
        judge(
            judged.assignment,
            revision=2,
            is_current=False,
            superseded_at=timezone.now(),
            client_key=judged.client_key,
        )


def test_a_judgment_in_another_persons_name(judged, alice):
    with refused("judgment_of_its_assignment"):
        judge(judged.assignment, annotator=alice, revision=2)


def test_a_judgment_on_another_comparison(judged, make_comparison):
    with refused("judgment_of_its_assignment"):
        judge(judged.assignment, comparison=make_comparison(), revision=2)


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": "tie"},
        {"ranking": None},
        {"strength": 1},
        {"reason": "on second thoughts"},
        {"client_key": uuid.uuid4()},
        {"revision": 3},
        {"created_at": timezone.now()},
    ],
)
def test_a_judgment_that_is_overwritten(judged, change):
    with refused("never overwritten"):
        Judgment.objects.filter(pk=judged.pk).update(**change)


def test_a_judgment_that_is_deleted_or_comes_back(judged):
    with refused("withdrawn, never deleted"), connection.cursor() as cursor:
        cursor.execute("DELETE FROM labeling_judgment WHERE id = %s", [judged.pk])
    with refused("judgment_superseded_has_time"):
        Judgment.objects.filter(pk=judged.pk).update(is_current=False)
    from labeling.judging import withdraw

    withdraw(judged)
    with refused("never overwritten"):
        Judgment.objects.filter(pk=judged.pk).update(is_current=True, superseded_at=None)


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"verdict": "maybe"}, "judgment_verdict_known"),
        ({"verdict": "preferred"}, "judgment_preferred_says_what"),
        ({"strength": 4}, "judgment_strength_1_to_3"),
        ({"strength": 0}, "judgment_strength_1_to_3"),
        ({"seconds_spent": -1.0}, "judgment_seconds_not_negative"),
    ],
)
def test_a_judgment_that_makes_no_sense(bob, comparison, fields, rule):
    assignment = assign(comparison, bob)
    with refused(rule):
        judge(assignment, **fields)


# Preferences


def test_a_preference_without_a_judgment(judged):
    preference = Preference.objects.get()
    with refused("judgment_id"):
        Preference.objects.create(
            project=preference.project,
            prompt=preference.prompt,
            judgment=None,
            chosen=preference.chosen,
            rejected=preference.rejected,
        )


def copy(preference, **changes):
    names = ("project", "prompt", "judgment", "chosen", "rejected", "tie", "strength", "weight")
    return Preference.objects.create(**{name: getattr(preference, name) for name in names} | changes)


def test_a_preference_of_a_completion_over_itself(judged):
    preference = Preference.objects.get()
    with refused("preference_of_two"):
        copy(preference, rejected=preference.chosen)


def test_a_preference_twice(judged):
    with refused("preference_once"):
        copy(Preference.objects.get())


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"tie": True, "strength": 2}, "preference_strength_0_is_tie"),
        ({"tie": False, "strength": 0}, "preference_strength_0_is_tie"),
        ({"weight": 0}, "preference_weight_0_to_1"),
        ({"weight": 1.5}, "preference_weight_0_to_1"),
    ],
)
def test_a_preference_that_makes_no_sense(judged, fields, rule):
    preference = Preference.objects.get()
    with refused(rule):
        copy(preference, chosen=preference.rejected, rejected=preference.chosen, **fields)


def test_a_preference_for_what_was_not_compared(judged):
    preference = Preference.objects.get()
    outsider = Completion.objects.add(preference.prompt, "Never shown.", "me")
    with refused("between two candidates"):
        copy(preference, rejected=outsider)


def test_a_preference_in_another_project(judged):
    other = Project.objects.create(slug="other", name="Other")
    preference = Preference.objects.get()
    with refused("between two candidates"):
        copy(preference, project=other, chosen=preference.rejected, rejected=preference.chosen)


def test_a_preference_that_changes_or_goes(judged):
    with refused("never changes"):
        Preference.objects.update(strength=1)
    with refused("never changes"), connection.cursor() as cursor:
        cursor.execute("DELETE FROM labeling_preference")


# Dataset versions


def test_a_frozen_version_that_changes(project, judged):
    version = freeze(project)
    for change in ({"train_count": 9}, {"filter": {"ties": "exclude"}}, {"number": 5}):
        with refused("is frozen"):
            DatasetVersion.objects.filter(pk=version.pk).update(**change)
    with refused("is frozen"):
        DatasetEntry.objects.filter(version=version).update(split="eval")
    with refused("is frozen"), connection.cursor() as cursor:
        cursor.execute("DELETE FROM labeling_datasetentry")
    with refused("is frozen"), connection.cursor() as cursor:
        cursor.execute("DELETE FROM labeling_datasetversion")


def test_an_entry_added_to_a_frozen_version(project, bob, judged, make_comparison, answer):
    version = freeze(project)
    make_comparison()
    preference = answer(bob).preferences.get()
    with refused("is frozen"):
        DatasetEntry.objects.create(version=version, preference=preference, split=preference.prompt.split)


def test_a_number_twice(project, judged):
    version = freeze(project)
    with refused("dataset_number_unique"):
        DatasetVersion.objects.create(project=project, number=version.number)


def test_an_entry_on_the_wrong_side(project, judged):
    version = DatasetVersion.objects.create(project=project, number=1)
    preference = Preference.objects.get()
    wrong = "train" if preference.prompt.split == "eval" else "eval"
    with refused("stands on its prompt"):
        DatasetEntry.objects.create(version=version, preference=preference, split=wrong)


def test_an_entry_of_another_project(judged):
    other = Project.objects.create(slug="other", name="Other")
    version = DatasetVersion.objects.create(project=other, number=1)
    preference = Preference.objects.get()
    with refused("stands on its prompt"):
        DatasetEntry.objects.create(version=version, preference=preference, split=preference.prompt.split)


def test_a_whole_project_can_be_erased_by_saying_so(project, bob, judged):
    next_for(bob, project)
    freeze(project)
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL tastemaker.erase = 'on'")
        project.delete()
    assert not Judgment.objects.exists()


def test_every_check_looks_rows_up_by_index():
    """A plan kept from when the tables were empty made the first large import quadratic: 48 s, not 3."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT proname, proconfig FROM pg_proc WHERE proname LIKE 'labeling_check_%'")
        checks = dict(cursor.fetchall())
    assert len(checks) == 9
    assert all("enable_seqscan=off" in (config or []) for config in checks.values()), checks


# Repeats


def again(judgment, **fields):
    values = {"repeats": judgment, "reserved_for": judgment.annotator, "overlap": 1} | fields
    original = judgment.comparison
    repeat = Comparison.objects.create(**{"project": original.project, "prompt": original.prompt} | values)
    for candidate in original.candidates.all():
        Candidate.objects.create(
            comparison=repeat, completion=candidate.completion, position=candidate.position
        )
    return repeat


def test_a_repeat_is_for_whom_it_repeats(judged, alice):
    with refused("a repeat shows the candidates that its person judged before"):
        again(judged, reserved_for=alice)


@pytest.mark.parametrize("fields", [{"overlap": 2}, {"reserved_for": None}, {"repeats": None}])
def test_a_repeat_is_one_persons(judged, fields):
    with refused("comparison_repeat_is_for_one"):
        again(judged, **fields)


def test_a_judgment_is_repeated_once(judged):
    again(judged)
    with refused("judgment_repeated_once"):
        again(judged)


def test_a_repeat_shows_the_same_candidates(judged, make_comparison):
    other = make_comparison(prompt=judged.comparison.prompt)
    with refused("a repeat shows the candidates that its person judged before"):
        repeat = Comparison.objects.create(
            project=other.project,
            prompt=other.prompt,
            overlap=1,
            repeats=judged,
            reserved_for=judged.annotator,
        )
        for candidate in other.candidates.all():
            Candidate.objects.create(
                comparison=repeat, completion=candidate.completion, position=candidate.position
            )


def test_no_repeat_is_repeated(judged, bob):
    repeat = again(judged)
    second = record(assign(repeat, bob), "tie", uuid.uuid4())
    with refused("no repeat of a repeat"):
        again(second)


def test_a_repeat_goes_to_nobody_else(judged, alice, bob):
    repeat = again(judged)
    with refused("repeats what another person said"):
        assign(repeat, alice)
    assign(repeat, bob)


def test_a_repeat_stays_what_it_is(judged, comparison, alice):
    repeat = again(judged)
    with refused("a comparison stays the repeat that it is"):
        Comparison.objects.filter(pk=repeat.pk).update(reserved_for=alice)
    with refused("a comparison stays the repeat that it is"):
        Comparison.objects.filter(pk=comparison.pk).update(reserved_for=alice, repeats=judged)


def test_a_repeats_verdict_is_no_preference(judged, bob):
    repeat = again(judged)
    assignment = assign(repeat, bob)
    preference = judged.preferences.get()
    with refused("of a repeat only the latter"):
        Preference.objects.create(
            project=repeat.project,
            prompt=repeat.prompt,
            judgment=judge(assignment, verdict="preferred", ranking=[[0], [1]]),
            chosen=preference.chosen,
            rejected=preference.rejected,
        )
