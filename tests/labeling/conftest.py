"""Things to label: prompts, completions and comparisons for the cast of tests/conftest.py."""

import itertools
import threading
import time
import uuid
from datetime import timedelta

import pytest
from django.db import connection
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext

from labeling.assignment import next_for
from labeling.judging import choice_from_side, record
from labeling.models import Assignment, Completion, Membership, Prompt, User
from labeling.selection import create_comparison

_numbers = itertools.count(1)


@pytest.fixture
def make_prompt(project):
    def make(text=None, project=project, **fields):
        return Prompt.objects.add(project, text or f"Question {next(_numbers)}?", **fields)

    return make


@pytest.fixture
def make_comparison(project, make_prompt):
    def make(candidates=2, overlap=None, priority=0, project=project, prompt=None, authors="abcdefgh"):
        prompt = prompt or make_prompt(project=project)
        completions = [
            Completion.objects.add(prompt, f"Answer {next(_numbers)}.", f"model-{authors[place]}")
            for place in range(candidates)
        ]
        return create_comparison(project, prompt, completions, overlap, priority)

    return make


@pytest.fixture
def comparison(make_comparison):
    return make_comparison()


@pytest.fixture
def make_annotator(project):
    def make(name=None, project=project, role="annotator"):
        person = User.objects.create_user(name or f"annotator{next(_numbers)}", password="a long passphrase")
        Membership.objects.create(project=project, user=person, role=role)
        return person

    return make


@pytest.fixture
def answer(project):
    """Lease the next comparison to a person and answer it: the left one is much better, unless told."""

    def give(person, verdict="preferred", side="left", strength=3, project=project, **more):
        assignment = next_for(person, project)
        if verdict == "preferred":
            more = {"ranking": choice_from_side(assignment, side), "strength": strength} | more
        return record(assignment, verdict, uuid.uuid4(), **more)

    return give


@pytest.fixture
def expire():
    """Let the time of a lease run out."""

    def expire(assignment):
        Assignment.objects.filter(pk=assignment.pk).update(leased_until=Now() - timedelta(seconds=1))

    return expire


@pytest.fixture
def many_finished(project, bob, make_prompt):
    """Put comparisons that Bob has finished into the database by the thousand, past the rules."""

    def make(count, overlap=1, closed=True, outcome="judged", project=project):
        prompt = make_prompt(project=project)
        judged = outcome == "judged"
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL session_replication_role = replica")
            cursor.execute(
                """
                WITH done AS (
                    INSERT INTO labeling_comparison (project_id, prompt_id, overlap, priority, created_at, closed_at)
                    SELECT %s, %s, %s, 0, now(), CASE WHEN %s THEN now() END FROM generate_series(1, %s)
                    RETURNING id),
                finished AS (
                    INSERT INTO labeling_assignment (comparison_id, annotator_id, slot, sides, leased_until, created_at,
                                                     outcome, outcome_reason, outcome_text, outcome_at, put_aside_in_id)
                    SELECT id, %s, %s, '{0,1}', now(), now(), %s, '', '', now(), %s FROM done
                    RETURNING id, comparison_id, annotator_id, outcome)
                INSERT INTO labeling_judgment (assignment_id, comparison_id, annotator_id, revision, is_current, verdict,
                                               reason, client_key, created_at)
                SELECT id, comparison_id, annotator_id, 1, true, 'tie', '', gen_random_uuid(), now()
                  FROM finished WHERE outcome = 'judged'
                """,
                [
                    *(project.pk, prompt.pk, overlap, closed, count),
                    *(bob.pk, 0 if judged else None, outcome, None if judged else project.pk),
                ],
            )
            cursor.execute("SET LOCAL session_replication_role = origin")
            cursor.execute("ANALYZE")  # as autovacuum does where rows come one after another

    return make


def rows_read(act):
    """How many rows PostgreSQL goes through for the queries of an act, found or passed over."""
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")  # the tables may have been filled a moment ago
        with CaptureQueriesContext(connection) as queries:
            act()
        read = 0
        for query in queries.captured_queries:
            cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {query['sql']}")
            ((plan,),) = cursor.fetchone()
            read += _rows_of(plan["Plan"])
    return read


def _rows_of(node):
    passed_over = sum(rows for name, rows in node.items() if name.startswith("Rows Removed by"))
    below = sum(_rows_of(one) for one in node.get("Plans", []) if not _found_above(node, one))
    return (node["Actual Rows"] + passed_over) * node["Actual Loops"] + below


def _found_above(node, below):
    """Whether a node has what one index gave it: the index still names rows of earlier tests that were taken back."""
    return (node["Node Type"], below["Node Type"]) == ("Bitmap Heap Scan", "Bitmap Index Scan")


@pytest.fixture
def at_once():
    """Start things, each only when the ones before wait for a lock; then let go of what they wait for."""
    running, outcomes = [], {}

    def run(name, act):
        try:
            outcomes[name] = act()
        except Exception as error:
            outcomes[name] = error
        finally:
            connection.close()

    def start(**acts):
        for name, act in acts.items():
            running.append(threading.Thread(target=run, args=[name, act]))
            running[-1].start()
            wait_until_blocked(len(running))

    def finish():
        for thread in running:
            thread.join()
        return outcomes

    return start, finish


def wait_until_blocked(sessions):
    deadline = time.monotonic() + 60
    waiting = "SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted"
    while time.monotonic() < deadline:
        with connection.cursor() as cursor:
            cursor.execute(waiting)
            if cursor.fetchone() == (sessions,):
                return
        time.sleep(0.01)
    raise AssertionError(f"{sessions} sessions never waited together")
