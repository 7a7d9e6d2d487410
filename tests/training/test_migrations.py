"""What a migration hands over, tried on rows of before."""

from datetime import timedelta
from importlib import import_module

import pytest
from django.apps import apps
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone

from tests.training import rounds
from training.models import Contribution

BEFORE = [("labeling", "0007_side_by_side"), ("training", "0005_marked_samples")]
AFTER = [("labeling", "0007_side_by_side"), ("training", "0006_side_by_side")]


def migrate(targets):
    executor = MigrationExecutor(connection)
    executor.migrate(targets)
    return executor.loader.project_state(targets).apps


@pytest.fixture
def migrations(transactional_db):
    yield migrate
    migrate(MigrationExecutor(connection).loader.graph.leaf_nodes())


def test_how_many_stand_side_by_side_moves_from_the_loop_to_the_project_and_back(migrations):
    apps = migrations(BEFORE)
    projects = [apps.get_model("labeling", "Project").objects.create(slug=f"p{size}") for size in (2, 4)]
    for project, size in zip(projects, (2, 4), strict=True):
        policy = apps.get_model("training", "ModelVersion").objects.create(
            project=project, kind="policy", number=0, name="policy-0", location="x"
        )
        apps.get_model("training", "LoopSettings").objects.create(
            project=project, first_policy=policy, policy=policy, candidates_per_comparison=size
        )

    def sizes(apps, model, field):
        return sorted(apps.get_model(*model).objects.values_list(field, flat=True))

    apps = migrations(AFTER)
    assert sizes(apps, ("labeling", "Project"), "answers_per_comparison") == [2, 4]
    apps = migrations(BEFORE)
    assert sizes(apps, ("training", "LoopSettings"), "candidates_per_comparison") == [2, 4]


def test_rounds_that_ended_long_before_an_upgrade_are_followed_by_nothing(migrations):
    apps = migrations([("labeling", "0008_person_language"), ("training", "0007_what_answers_did")])
    project = apps.get_model("labeling", "Project").objects.create(slug="p")
    policy = apps.get_model("training", "ModelVersion").objects.create(
        project=project, kind="policy", number=0, name="policy-0", location="x"
    )
    for number, (days, outcome) in enumerate([(300, "published"), (8, "halted"), (2, "published"), (0, "")]):
        apps.get_model("training", "Round").objects.create(
            project=project,
            number=number,
            target=2,
            policy=policy,
            outcome=outcome,
            finished_at=timezone.now() - timedelta(days=days) if days else None,
        )
    apps = migrations([("training", "0008_old_rounds_are_not_followed")])
    found = apps.get_model("training", "Round").objects.order_by("number")
    assert list(found.values_list("afterwards", flat=True)) == ["over", "over", "scores", "scores"]


def test_what_rounds_had_frozen_before_an_upgrade_is_counted(project, bob, alice):
    rounds.loop_of(project)
    rounds.ask(project, ["train"] * 2 + ["eval"], ("kind", "short", "rude"))
    rounds.say(bob, project, "kind")
    rounds.ask(project, ["train", "eval", "eval"])
    rounds.say(alice, project, "kind")
    rounds.trained(project)

    def counted():
        return list(
            Contribution.objects.order_by("person").values(
                "person", "trained", "held_out", "preferences", "newest"
            )
        )

    before = counted()
    assert sorted(row["preferences"] for row in before) == [1, 6]
    Contribution.objects.all().delete()
    migration = import_module("training.migrations.0010_count_contributions")
    for _ in range(2):
        migration.count(apps, None)
        assert counted() == before, "a second time changes nothing"
