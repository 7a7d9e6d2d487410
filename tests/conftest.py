"""The cast: Alice manages the project, Bob annotates, Carol reviews, Charlie may see nothing."""

import atexit
import gc
import os
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


gc.disable()  # until all is loaded, of which none is garbage: looking for some takes half of the time
atexit.register(gc.freeze)  # nor is there any on the way out


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """One more than cores: a third of their time tests wait for browsers, servers and processes."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items):
    """Files with slow tests first, then those of the browser, so that no process ends long after the others.

    What is slow on a machine of its own may take many times as long on a busy one.
    """
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(900))
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path not in slow, item.get_closest_marker("browser") is None))


@pytest.fixture(autouse=True)
def speak_english():
    """A request leaves its person's language behind in the thread."""
    yield
    if "django" in sys.modules:
        from django.utils import translation

        translation.deactivate()


@pytest.fixture(scope="session")
def embedded_servers():
    """The bundled PostgreSQL and Valkey, running for this session alone."""
    from django.conf import settings

    from config import embedded

    embedded.POSTGRES_SETTINGS |= {"fsync": "off"}  # nobody needs this database after a crash of the machine
    release = embedded.hold(settings.DATA)
    yield settings.DATA
    release()


@pytest.fixture(scope="session")
def django_db_modify_db_settings(embedded_servers, django_db_modify_db_settings_parallel_suffix):
    """pytest-django calls this before it makes the test database."""


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup):
    """Empty the database after a test by DELETE: to truncate every table takes twenty times as long.

    What migrating put into the tables of content types and permissions stays there, and need not be made again.
    """
    from django.db import connection
    from django.db.models.signals import post_migrate

    def sql_flush(operations, style, tables, **_options):
        emptied = sorted(set(tables) - {"django_content_type", "auth_permission"})
        deletes = [f"DELETE FROM {operations.quote_name(table)}" for table in emptied]
        # As a replica PostgreSQL looks at no constraint: all rows go, and every one that another needs.
        statements = ["SET LOCAL session_replication_role = replica", *deletes]
        with operations.connection.cursor() as cursor:
            cursor.execute(
                "SELECT relname FROM pg_class WHERE relname = ANY(%s) AND pg_relation_size(oid) > 1000000",
                [emptied],
            )
            # What many rows leave behind would slow down every scan after them.
            if large := [operations.quote_name(table) for (table,) in cursor]:
                statements.append(f"TRUNCATE {', '.join(large)} CASCADE")
        return statements

    with pytest.MonkeyPatch.context() as patch:
        # Of every connection: beside Playwright's event loop this thread has another one.
        patch.setattr(type(connection.ops), "sql_flush", sql_flush)
        patch.setattr(post_migrate, "receivers", [])
        yield


@pytest.fixture(scope="session")
def broker_url(embedded_servers):
    from django.conf import settings

    return settings.CELERY_BROKER_URL


@pytest.fixture
def process_environment(embedded_servers, transactional_db):
    """Environment of a process of ours that works on the test database: a worker, a server, a command."""
    from django.conf import settings
    from django.db import connection

    host, name = connection.settings_dict["HOST"], connection.settings_dict["NAME"]
    return os.environ | {
        "DATABASE_URL": f"postgresql://postgres@{quote(host, safe='')}/{name}",
        "REDIS_URL": settings.REDIS_URL,
        "TASTEMAKER_DATA": str(settings.DATA),
        "DJANGO_SETTINGS_MODULE": "config.settings",
    }


@pytest.fixture(scope="session")
def shared():
    """Real data and models beside the checkout; absent on most machines."""
    if not SHARED.exists():
        pytest.skip("the folder ../shared with real data and models is not here")
    return SHARED


def _person(name):
    from labeling.models import User

    return User.objects.create_user(
        name.lower(), f"{name.lower()}@example.org", "a long passphrase", first_name=name
    )


@pytest.fixture
def alice(db):
    return _person("Alice")


@pytest.fixture
def bob(db):
    return _person("Bob")


@pytest.fixture
def carol(db):
    return _person("Carol")


@pytest.fixture
def charlie(db):
    return _person("Charlie")


@pytest.fixture
def project(alice, bob, carol):
    from labeling.models import Membership, Project

    project = Project.objects.create(slug="support", name="Support answers", created_by=alice)
    for person, role in [(alice, "manager"), (bob, "annotator"), (carol, "reviewer")]:
        Membership.objects.create(project=project, user=person, role=role)
    return project


@pytest.fixture
def rows(project, alice, bob):
    """What the addresses of its pages name: rows that are there, and words that the pages know."""
    from labeling.assignment import flag, next_for
    from labeling.models import Completion, Membership, Prompt, QualificationQuestion
    from labeling.selection import create_comparison
    from training import schedules
    from training.models import LoopSettings, ModelVersion, Run

    question = QualificationQuestion.objects.create(
        project=project,
        position=0,
        messages=[{"role": "user", "content": "What is 7 times 8?"}],
        answers=["56.", "54."],
        right=["a"],
        explanation="7 times 8 is 56.",
    )
    prompt = Prompt.objects.add(project, "Which?")
    create_comparison(project, prompt, [Completion.objects.add(prompt, t, t) for t in "ab"])
    report = next_for(bob, project)
    flag(report, "harmful")
    policy = ModelVersion.objects.create(
        project=project, kind="policy", number=0, name="policy-0", location="models/policy-0"
    )
    LoopSettings.objects.create(project=project, policy=policy, first_policy=policy)
    return {
        "question": question.pk,
        "report": report.pk,
        "member": Membership.objects.get(project=project, user=bob).pk,
        "run_id": Run.objects.create(project=project, method="ppo", config={}, input_model=policy).pk,
        "version_id": policy.pk,
        "schedule_id": schedules.set_amount(project, 200, alice).pk,
        "act": "pause",
        "method": "ppo",
    }
