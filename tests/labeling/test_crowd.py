"""Many people at once, over HTTP, against a real server of several processes."""

import json
import random
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest
import requests
from django.db import connection
from django.utils import timezone
from knox.models import AuthToken

from labeling import assignment as handing
from labeling import repeats
from labeling.assignment import next_for
from labeling.imports import add_comparisons
from labeling.judging import record
from labeling.models import Assignment, Comparison, Judgment, Preference, Project

CHECKOUT = Path(__file__).resolve().parents[2]
LEASE_SECONDS = 3


@pytest.fixture
def server(process_environment, tmp_path):
    """Gunicorn on the test database: two processes of eight threads."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "gunicorn", "config.wsgi", "--bind", f"127.0.0.1:{port}"]
    command += ["--workers", "2", "--threads", "8", "--log-level", "warning"]
    log = (tmp_path / "gunicorn.log").open("wb")
    process = subprocess.Popen(command, cwd=CHECKOUT, env=process_environment, stdout=log, stderr=log)
    try:
        _wait_for(port, process, tmp_path / "gunicorn.log")
        yield f"http://127.0.0.1:{port}/api/v1/"
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait_for(port, process, log):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            requests.get(f"http://127.0.0.1:{port}/api/v1/projects/", timeout=5)
            return
        except requests.RequestException:
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
    pytest.fail("the server did not answer within a minute")


def headers_for(person):
    _, token = AuthToken.objects.create(person, expiry=timedelta(hours=1))
    return {"Authorization": f"Token {token}"}


class Client:
    """An annotator's client that resends, loses connections, sends twice at once, and may die."""

    def __init__(self, server, headers, seed, dies):
        self.server, self.headers, self.dies = server, headers, dies
        self.chance = random.Random(seed)
        self.receipts, self.refusals, self.failures = {}, Counter(), []

    def run(self):
        try:
            self.work()
        except Exception as error:
            self.failures.append(repr(error))

    def work(self):
        idle_since = None
        answered = 0
        while idle_since is None or time.monotonic() - idle_since < LEASE_SECONDS + 2:
            response = self.post("projects/crowd/next/", {})
            if response.status_code == 204:
                idle_since = idle_since or time.monotonic()
                time.sleep(0.25)
                continue
            assert response.status_code == 200, response.text
            idle_since = None
            if self.dies and answered == 5:
                return  # with the lease in hand
            self.answer(response.json())
            answered += 1

    def answer(self, shown):
        said = {
            "verdict": "preferred",
            "preferred_side": self.chance.randrange(2),
            "strength": self.chance.randint(1, 3),
            "client_key": str(uuid.uuid4()),
        }
        path = f"assignments/{shown['id']}/judgment/"
        how = self.chance.random()
        if how < 0.1:
            self.cut(path, said)
        elif how < 0.2:
            twin = threading.Thread(target=self.post, args=(path, said))
            twin.start()
            response = self.post(path, said)
            twin.join()
            return self.note(response, said)
        elif how < 0.3:
            self.post(path, said)
        return self.note(self.post(path, said), said)

    def note(self, response, said):
        if response.status_code == 409:
            self.refusals[response.json()["detail"]] += 1
        else:
            assert response.status_code == 201, response.text
            self.receipts[said["client_key"]] = response.json()["id"]

    def post(self, path, body):
        return requests.post(self.server + path, json=body, headers=self.headers, timeout=60)

    def cut(self, path, body):
        send_and_hang_up(self.server + path, body, self.headers)


def send_and_hang_up(url, body, headers):
    """Send a whole request and leave before the answer comes."""
    host, path = url.removeprefix("http://").split("/", 1)
    name, port = host.split(":")
    payload = json.dumps(body).encode()
    lines = [f"POST /{path} HTTP/1.1", f"Host: {host}", "Content-Type: application/json"]
    lines += [f"{key}: {value}" for key, value in headers.items()] + [f"Content-Length: {len(payload)}"]
    with socket.create_connection((name, int(port))) as connected:
        connected.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + payload)


@pytest.fixture
def crowd(transactional_db, make_annotator):
    """300 comparisons, each for two people, and 20 people."""
    project = Project.objects.create(slug="crowd", name="Crowd", overlap=2, lease_seconds=600)
    add_comparisons(
        project,
        [
            {
                "prompt": f"Question {number}?",
                "completions": [{"text": "Yes.", "author": "yes"}, {"text": "No.", "author": "no"}],
            }
            for number in range(300)
        ],
    )
    return project, [make_annotator(f"person{number}", project) for number in range(20)]


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_twenty_clients_label_each_comparison_twice_and_lose_nothing(server, crowd):
    project, people = crowd
    Project.objects.filter(pk=project.pk).update(lease_seconds=LEASE_SECONDS)
    clients = [Client(server, headers_for(person), n, dies=n < 5) for n, person in enumerate(people)]
    threads = [threading.Thread(target=client.run) for client in clients]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - started
    assert [failure for client in clients for failure in client.failures] == []

    rows = list(Judgment.objects.values("comparison", "annotator", "client_key", "id", "is_current"))
    per_comparison = Counter(row["comparison"] for row in rows)
    assert set(per_comparison.values()) == {2}
    assert len(per_comparison) == 300
    assert all(row["is_current"] for row in rows)
    assert len({(row["comparison"], row["annotator"]) for row in rows}) == 600
    assert not Comparison.objects.open().exists()

    receipts = {key: pk for client in clients for key, pk in client.receipts.items()}
    assert receipts == {str(row["client_key"]): row["id"] for row in rows}
    assert Preference.objects.current().count() == 600
    # Five died with a lease in hand; those comparisons are among the finished ones, by other people.
    abandoned = Assignment.objects.filter(outcome="")
    assert abandoned.filter(annotator__in=people[:5]).values("annotator").distinct().count() == 5
    assert not abandoned.filter(slot__isnull=False).exists()
    print(
        f"600 judgments by 20 clients in {seconds:.1f} s; refused: {sum((c.refusals for c in clients), Counter())}"
    )


@pytest.mark.django_db(transaction=True)
def test_an_answer_whose_receipt_was_lost_is_stored_once(server, crowd):
    _, people = crowd
    headers = headers_for(people[0])
    shown = requests.post(f"{server}projects/crowd/next/", json={}, headers=headers, timeout=60).json()
    said = {"verdict": "tie", "client_key": str(uuid.uuid4())}
    url = f"{server}assignments/{shown['id']}/judgment/"
    send_and_hang_up(url, said, headers)
    deadline = time.monotonic() + 30
    while not Judgment.objects.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    receipt = requests.post(url, json=said, headers=headers, timeout=60)
    assert receipt.status_code == 201
    assert receipt.json()["id"] == Judgment.objects.get().pk


@pytest.mark.django_db(transaction=True)
def test_the_same_answer_from_ten_threads_at_once_is_stored_once(crowd):
    project, people = crowd
    lease, key, results = next_for(people[0], project), uuid.uuid4(), []
    barrier = threading.Barrier(10)

    def send():
        barrier.wait()
        try:
            results.append(record(lease, "tie", key).pk)
        except Exception as error:
            results.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=send) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [Judgment.objects.get().pk] * 10


@pytest.mark.django_db(transaction=True)
def test_ten_tabs_of_one_person_never_hold_more_than_three(crowd):
    project, people = crowd
    barrier, given = threading.Barrier(10), []

    def ask():
        barrier.wait()
        held = []
        try:
            for _ in range(4):
                if lease := next_for(people[0], project, held):
                    held.append(lease.pk)
            given.extend(held)
        finally:
            connection.close()

    threads = [threading.Thread(target=ask) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(given)) == 3
    assert Assignment.objects.live().count() == 3


@pytest.mark.django_db(transaction=True)
def test_forty_people_racing_for_four_slots_get_four(crowd, make_annotator):
    project, _ = crowd
    # Two comparisons with two slots each are all that is left.
    left = list(Comparison.objects.order_by("id").values_list("id", flat=True)[:2])
    Comparison.objects.exclude(pk__in=left).update(closed_at=timezone.now())
    people = [make_annotator(project=project) for _ in range(40)]
    barrier, given = threading.Barrier(40), []

    def ask(person):
        barrier.wait()
        try:
            given.append(next_for(person, project))
        except Exception as error:
            given.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=ask, args=(person,)) for person in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    leases = [lease for lease in given if lease is not None]
    assert Counter((lease.comparison_id, lease.slot) for lease in leases) == {
        (comparison, slot): 1 for comparison in left for slot in (0, 1)
    }


@pytest.mark.django_db(transaction=True)
def test_people_at_once_are_asked_again_what_they_said_themselves(crowd, monkeypatch):
    """Every third comparison is a repeat wherever one is due, and three of every ten clients lose their leases."""
    project, people = crowd
    people = people[:8]
    left = list(Comparison.objects.order_by("id").values_list("id", flat=True)[:120])
    Comparison.objects.exclude(pk__in=left).update(closed_at=timezone.now())
    Project.objects.filter(pk=project.pk).update(repeat_share=0.2)
    project.refresh_from_db()
    monkeypatch.setattr(repeats, "TIME_BETWEEN", timedelta(0))
    monkeypatch.setattr(handing, "_chance", Often())
    failures = []

    def work(person, seed):
        chance = random.Random(seed)
        try:
            while assignment := next_for(person, project):
                if chance.random() < 0.3:
                    Assignment.objects.filter(pk=assignment.pk).update(leased_until=timezone.now())
                else:
                    record(assignment, "tie", uuid.uuid4())
        except Exception as error:
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=(person, n)) for n, person in enumerate(people)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []

    originals = Judgment.objects.filter(comparison__repeats=None)
    assert set(Counter(originals.values_list("comparison", flat=True)).values()) == {2}
    assert originals.count() == 2 * len(left)
    again = Comparison.objects.filter(repeats__isnull=False).select_related("repeats")
    assert len(again) > len(people)
    asked = Counter((each.repeats.comparison_id, each.reserved_for_id) for each in again)
    assert set(asked.values()) == {1}
    for assignment in Assignment.objects.filter(comparison__in=again).select_related("comparison__repeats"):
        assert assignment.annotator_id == assignment.comparison.repeats.annotator_id
    assert Preference.objects.count() == originals.count()


class Often(random.SystemRandom):
    """Lets the chance of a repeat strike every third time, and draws all else as ever."""

    def random(self):
        return 0.0 if super().random() < 1 / 3 else 1.0
