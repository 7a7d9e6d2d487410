"""What migrations hand over, tried on rows of before."""

import uuid
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.db.migrations.executor import MigrationExecutor
from django.db.models.functions import Now
from django.utils import timezone

from labeling.answers import Better
from labeling.assignment import flag, next_for, skip
from labeling.judging import record
from labeling.models import Assignment, Judgment, Preference, Project, User
from labeling.projects import create_project
from labeling.repeats import repeat_of
from tests.labeling.test_reports import answer_left

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def migrate():
    def to(*targets):
        MigrationExecutor(connection).migrate(list(targets))

    yield to
    to(*MigrationExecutor(connection).loader.graph.leaf_nodes())


def newest():
    return MigrationExecutor(connection).loader.graph.leaf_nodes()


def test_a_process_of_before_can_still_write_people_and_projects(alice, project):
    def columns(model, *new):
        return ", ".join(
            field.column for field in model._meta.concrete_fields if field.name not in ("id", *new)
        )

    copies = (
        (User, ("language", "own_keys"), "username", "'dora'"),
        (Project, ("languages", "comment_required"), "slug", "'other'"),
    )
    with connection.cursor() as cursor:
        for model, new, unique, value in copies:
            table, names = model._meta.db_table, columns(model, *new)
            values = names.replace(unique, value)
            cursor.execute(f"INSERT INTO {table} ({names}) SELECT {values} FROM {table} LIMIT 1")
    dora = User.objects.get(username="dora")
    assert (dora.language, dora.own_keys) == ("", {})
    assert Project.objects.get(slug="other").languages == []


def test_on_the_way_back_an_open_repeat_becomes_a_question_for_nobody(project, bob, make_comparison, migrate):
    make_comparison()
    judgment = answer_left(next_for(bob, project))
    with transaction.atomic():
        repeat = repeat_of(judgment)
    lease = lease_of(repeat, bob)
    migrate(("labeling", "0013_qualification"))
    with connection.cursor() as cursor:
        cursor.execute("SELECT closed_at IS NULL FROM labeling_comparison WHERE id = %s", [repeat.pk])
        assert cursor.fetchone() == (False,)
        cursor.execute("SELECT slot FROM labeling_assignment WHERE id = %s", [lease.pk])
        assert cursor.fetchone() == (None,)


def lease_of(repeat, person):
    until = timezone.now() + timedelta(minutes=5)
    return Assignment.objects.create(
        comparison=repeat, annotator=person, slot=0, sides=[1, 0], leased_until=until
    )


def test_what_was_put_aside_before_gets_its_project_and_indexes_by_it(
    project, alice, bob, make_comparison, make_annotator, migrate, monkeypatch
):
    other = create_project("Other", alice)
    for place in (project, other):
        person = make_annotator(project=place)
        for aside in (skip, flag, skip, flag, skip, lambda *_: None):
            make_comparison(project=place)
            aside(next_for(person, place), "other")
    leave_behind("assignment_put_aside")
    migrate(("labeling", "0014_defaults"))
    assert definitions("assignment_put_aside").pop().count("outcome") == 2
    leave_behind("assignment_aside_by_project", "assignment_waits_by_project")
    monkeypatch.setattr("labeling.migrations.0016_lists_by_project.ROWS_AT_A_TIME", 2)
    migrate(*newest())
    assert Assignment.objects.count() == 12
    for place in (project, other):
        of_place = Assignment.objects.filter(comparison__project=place)
        assert set(place.put_aside.all()) == set(of_place.exclude(outcome=""))
    anew = definitions("assignment_aside_by_project", "assignment_waits_by_project")
    assert len(anew) == 2 and all("put_aside_in_id" in definition for definition in anew)


def test_a_better_answer_that_lost_its_preference_gets_one(project, bob, make_comparison, migrate):
    make_comparison()
    first = record(next_for(bob, project), "tie", uuid.uuid4(), edit=Better(0, "As it should be."))
    with transaction.atomic():
        repeat = repeat_of(first)
    lease = {"slot": 0, "sides": [0, 1], "leased_until": Now()}
    asked_again = Assignment.objects.create(comparison=repeat, annotator=bob, **lease)
    again = record(asked_again, "tie", uuid.uuid4(), edit=Better(0, "As it should be."))
    # As `first` was once taken back: its preference went, and nobody looked at `again`.
    with transaction.atomic():
        Judgment.objects.filter(pk=first.pk).update(is_current=False, superseded_at=Now())
        Assignment.objects.filter(pk=first.assignment_id).update(outcome="", outcome_at=None)
    assert not Preference.objects.current().exists()
    migrate(("labeling", "0016_lists_by_project"))
    migrate(*newest())
    given = Preference.objects.current().get()
    assert (given.judgment, given.chosen.text, given.rejected) == (
        again,
        "As it should be.",
        again.edit.original,
    )
    migrate(("labeling", "0016_lists_by_project"))
    migrate(*newest())
    assert Preference.objects.current().count() == 1


def test_a_project_that_wants_a_comment_wants_a_reason_on_the_way_back(project, alice, migrate):
    other = create_project("Other", alice)
    Project.objects.filter(pk=project.pk).update(comment_required=True)
    migrate(("labeling", "0017_edits_prefer_again"))
    migrate(*newest())
    wanted = Project.objects.order_by("pk").values_list("pk", "reason_required", "comment_required")
    assert list(wanted) == [(project.pk, True, False), (other.pk, False, False)]


def leave_behind(*indexes):
    """As a migration does that was stopped in the middle: the last one is not whole."""
    with connection.cursor() as cursor:
        for name in indexes:
            cursor.execute(f"CREATE INDEX {name} ON labeling_assignment (id)")
        cursor.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = %s::regclass", [name])


def definitions(*indexes):
    """What the whole ones among the indexes are made of."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indisvalid AND indexrelid::regclass::text = ANY(%s)",
            [list(indexes)],
        )
        return [definition for (definition,) in cursor.fetchall()]
