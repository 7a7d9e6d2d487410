"""Exports and dataset versions."""

import json
import threading
import tracemalloc
import uuid

import pytest
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.db.models.functions import Now

from config.storage import local_path, open_file, sha256_of
from labeling.answers import Better
from labeling.assignment import flag, next_for, skip
from labeling.datasets import freeze
from labeling.exports import stream_judgments, stream_preferences
from labeling.imports import add_comparisons
from labeling.judging import record, withdraw
from labeling.models import Assignment, DatasetVersion, Membership, Preference
from labeling.qualification import add_questions, begin, build_question
from labeling.qualification import answer as qualify
from labeling.repeats import repeat_of

pytestmark = pytest.mark.django_db


def read(project, **options):
    return [json.loads(line) for line in stream_preferences(project, **options)]


@pytest.fixture
def answers(bob, make_comparison, answer):
    """Five answers: three preferred, one tie, one all bad; the last of the preferred ones taken back."""
    given = []
    for verdict in ("preferred", "tie", "preferred", "all_bad", "preferred"):
        make_comparison()
        given.append(answer(bob, verdict))
    withdraw(given[-1])
    return given


def test_a_line_says_all_that_is_known(project, bob, answers):
    row = read(project)[0]
    preference = answers[0].preferences.get()
    assert row == {
        "id": preference.pk,
        "prompt": preference.prompt.messages,
        "chosen": preference.chosen.text,
        "rejected": preference.rejected.text,
        "tie": False,
        "both_bad": False,
        "both_good": False,
        "strength": 3,
        "weight": 1.0,
        "annotator": Membership.objects.get(user=bob).pseudonym,
        "chosen_author": preference.chosen.author,
        "rejected_author": preference.rejected.author,
        "chosen_side": 0,
        "rejected_side": 1,
        "criteria": {},
        "reason": "",
        "reason_tags": [],
        "seconds_spent": 0.0,
        "judged_at": row["judged_at"],
        "guidelines": 0,
        "prompt_id": preference.prompt_id,
        "split": preference.prompt.split,
        "comparison": answers[0].comparison_id,
        "judgment": answers[0].pk,
        "repeat_of": 0,
        "dataset_version": 0,
    }
    assert row["judged_at"].endswith("Z")


def test_ties_and_what_was_taken_back_stay_out(project, answers):
    assert [row["judgment"] for row in read(project)] == [answers[0].pk, answers[2].pk]
    with_ties = read(project, ties="include")
    assert [row["judgment"] for row in with_ties] == [answer.pk for answer in answers[:4]]
    assert [row["both_bad"] for row in with_ties] == [False, False, False, True]


def test_a_stream_goes_on_where_it_broke_off(project, answers):
    rows = read(project, ties="include")
    assert read(project, ties="include", after=rows[1]["id"]) == rows[2:]
    assert read(project, after=rows[-1]["id"]) == []


def test_filters_choose_by_what_is_asked(project, bob, make_annotator, make_comparison, answer):
    make_comparison(authors="xy")
    answer(bob)
    make_comparison()
    other = make_annotator()
    answer(other)
    name = Membership.objects.get(user=other).pseudonym
    [theirs] = read(project, annotators=[name])
    assert theirs["annotator"] == name
    [row] = read(project, authors=["model-x", "model-y"])
    assert row["annotator"] != name
    assert len(read(project, split="train")) + len(read(project, split="eval")) == 2
    assert read(project, tags=["nothing"]) == []
    assert read(project, since="2999-01-01T00:00:00Z") == []
    assert len(read(project, until="2999-01-01T00:00:00Z")) == 2


@pytest.mark.parametrize(
    "asked", [{"judgment__annotator": 1}, {"ties": "some"}, {"since": "2020-01-01T00:00:00"}, {"tags": "a"}]
)
def test_filters_that_make_no_sense_are_refused_before_the_first_line(project, asked):
    with pytest.raises(ValidationError) as refusal:
        stream_preferences(project, **asked)
    assert list(refusal.value.message_dict) == list(asked)


def test_the_export_command_writes_and_resumes(project, answers, tmp_path, capsysbinary):
    file = tmp_path / "out.jsonl"
    call_command("export", project="support", output=file)
    first = file.read_bytes().splitlines()
    assert len(first) == 2
    capsysbinary.readouterr()
    call_command("export", project="support", after=json.loads(first[0])["id"])
    assert capsysbinary.readouterr().out.splitlines() == first[1:]
    with pytest.raises(CommandError, match="--since"):
        call_command("export", project="support", since="long ago")
    with pytest.raises(CommandError, match="cannot be written"):
        call_command("export", project="support", output=tmp_path / "no" / "folder")


def test_a_judgments_line_says_all_that_was_said(project, bob, make_comparison):
    project.partial_rankings, project.criteria, project.reason_tags = True, ["honesty"], ["kinder"]
    project.save()
    comparison = make_comparison(candidates=4)
    ratings = {"honesty": [1, 2, 3, 4]}
    said = {"reason": "It apologises.", "reason_tags": ["kinder"], "ratings": ratings, "seconds_spent": 7.5}
    edit = Better(1, "As it should be.")
    lease = next_for(bob, project)
    judgment = record(lease, "preferred", uuid.uuid4(), ranking=[[3], [0, 1]], edit=edit, **said)
    (row,) = said_lines(project)
    assert row == said | {
        "id": judgment.pk,
        "prompt": comparison.prompt.messages,
        "completions": [one.completion.text for one in comparison.candidates.order_by("position")],
        "authors": [f"model-{letter}" for letter in "abcd"],
        "verdict": "preferred",
        "ranking": [[3], [0, 1]],
        "strength": 0,
        "edit": "As it should be.",
        "annotator": Membership.objects.get(user=bob).pseudonym,
        "sides": lease.sides,
        "judged_at": row["judged_at"],
        "revision": 1,
        "guidelines": 0,
        "prompt_id": comparison.prompt_id,
        "split": comparison.prompt.split,
        "comparison": comparison.pk,
        "repeat_of": 0,
    }
    with transaction.atomic():
        again = repeat_of(judgment)
    lease = Assignment.objects.create(
        comparison=again, annotator=bob, slot=0, sides=[3, 2, 1, 0], leased_until=Now()
    )
    record(lease, "all_bad", uuid.uuid4(), ratings=ratings)
    first, second = said_lines(project)
    assert (second["verdict"], second["ranking"], second["edit"]) == ("all_bad", [], "")
    assert (second["repeat_of"], second["sides"]) == (comparison.pk, [3, 2, 1, 0])
    assert said_lines(project, after=first["id"]) == [second]


def said_lines(project, **options):
    return [json.loads(line) for line in stream_judgments(project, **options)]


@pytest.mark.parametrize("what", ["judgments", "demonstrations", "put-aside", "qualification"])
def test_the_command_writes_what_the_api_streams(
    client, project, bob, carol, make_comparison, answer, tmp_path, what
):
    make_comparison()
    answer(bob, "tie", edit=Better(0, "As it should be."), seconds_spent=4.5)
    make_comparison()
    skip(next_for(bob, project), "unclear", 3.5)
    make_comparison()
    flag(next_for(bob, project), "broken", "It ends in the middle.", 2.5)
    project.qualification = True
    project.save()
    add_questions(project, [build_question(project, "2 + 2?", ["4", "5"], "a", "It is 4.")])
    attempt = begin(Membership.objects.select_related("project").get(user=bob))
    (given,) = attempt.answers.select_related("question__project")
    qualify(given, "preferred", side=given.sides.index(1), strength=2, seconds_spent=1.5)
    file = tmp_path / "out.jsonl"
    call_command("export", project="support", what=what, output=file)
    client.force_login(carol)
    path = "judgments/lines" if what == "judgments" else what
    streamed = client.get(f"/api/v1/projects/support/{path}/").streaming_content
    assert file.read_bytes() == b"".join(streamed)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    name = Membership.objects.get(user=bob).pseudonym
    took = {"judgments": [4.5], "demonstrations": [4.5], "put-aside": [3.5, 2.5], "qualification": [1.5]}
    assert [row["seconds_spent"] for row in rows] == took[what]
    assert {row["annotator"] for row in rows} == {name}
    assert all("sides" in row or row["original_side"] in (0, 1) for row in rows)
    if what == "qualification":
        (row,) = rows
        assert (row["said"], row["right"], row["known"], row["sides"]) == ("b", False, ["a"], given.sides)
        assert (row["strength"], row["attempt"], row["completions"]) == (2, 1, ["4", "5"])
    with pytest.raises(CommandError, match="--ties does not go with"):
        call_command("export", project="support", what=what, ties="include")


def test_exports_and_frozen_files_load_as_datasets(project, answers, tmp_path):
    datasets = pytest.importorskip("datasets")
    freeze(project, filter={"ties": "exclude"})
    file = tmp_path / "out.jsonl"
    file.write_bytes(b"".join(stream_preferences(project, ties="include")))
    version = DatasetVersion.objects.get()
    frozen = local_path(version.train_file if version.train_count else version.eval_file)
    for path, count in ((file, 4), (frozen, version.train_count or version.eval_count)):
        loaded = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path))
        assert len(loaded) == count
        assert loaded[0]["prompt"][0]["role"] == "user"
        kinds = {name: str(getattr(kind, "dtype", "list")) for name, kind in loaded.features.items()}
        assert kinds["chosen"] == "string"
        assert kinds["weight"] == "float64"
        assert "null" not in kinds.values()


def test_memory_stays_flat_however_many_there_are(project, monkeypatch):
    monkeypatch.setattr("labeling.exports.ROWS_AT_A_TIME", 100)

    def add(first, last):
        rows = [
            {"prompt": f"Question {n}?", "chosen": "yes " * 250, "rejected": "no " * 300}
            for n in range(first, last)
        ]
        add_comparisons(project, rows)

    def peak_of(count):
        tracemalloc.start()
        try:
            assert sum(1 for _ in stream_preferences(project)) == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    add(0, 300)
    list(stream_preferences(project))
    few = peak_of(300)
    add(300, 1500)
    assert peak_of(1500) < few + 2**19  # 1,200 more rows of 2 kB would be 2.4 MB


# Dataset versions


def test_a_version_names_its_files_by_their_content(project, alice, answers):
    version = freeze(project, alice)
    assert (version.number, version.created_by) == (1, alice)
    assert version.train_count + version.eval_count == version.entries.count() == 4
    rows = []
    for split in ("train", "eval"):
        path = local_path(getattr(version, f"{split}_file"))
        assert sha256_of(path) == getattr(version, f"{split}_sha256") == path.stem
        with open_file(getattr(version, f"{split}_file")) as file:
            side = [json.loads(line) for line in file]
        assert len(side) == getattr(version, f"{split}_count")
        assert {row["split"] for row in side} <= {split}
        rows += side
    assert sorted(row["judgment"] for row in rows) == [answer.pk for answer in answers[:4]]
    assert {row["dataset_version"] for row in read(project, ties="include")} == {1}


def test_equal_content_is_stored_once_under_a_new_number(project, answers):
    first, second = freeze(project), freeze(project)
    assert (first.number, second.number) == (1, 2)
    assert (first.train_file, first.eval_file) == (second.train_file, second.eval_file)


def test_what_happens_later_leaves_a_version_as_it_is(project, bob, answers, make_comparison, answer):
    first = freeze(project)
    before = [open_file(getattr(first, f"{split}_file")).read() for split in ("train", "eval")]
    withdraw(answers[0])
    second = freeze(project)
    assert second.entries.count() == 3
    first.refresh_from_db()
    assert first.entries.count() == 4
    assert before == [open_file(getattr(first, f"{split}_file")).read() for split in ("train", "eval")]


def test_a_version_keeps_its_filter(project, answers):
    version = freeze(project, filter={"ties": "exclude", "since": "2020-01-01T00:00:00Z"})
    version.refresh_from_db()
    assert version.filter == {"ties": "exclude", "since": "2020-01-01T00:00:00Z"}
    assert version.entries.count() == 2


def test_nothing_to_freeze_leaves_no_version(project):
    with pytest.raises(ValidationError, match="no preferences"):
        freeze(project)
    with pytest.raises(ValidationError):
        freeze(project, filter={"project_id": 7})
    assert not DatasetVersion.objects.exists()


def test_no_prompt_is_on_both_sides(project, bob, make_prompt, make_comparison, answer):
    for _ in range(12):
        prompt = make_prompt()
        for _ in range(2):
            make_comparison(prompt=prompt)
            answer(bob)
    version = freeze(project)
    sides = [
        set(version.entries.filter(split=split).values_list("preference__prompt", flat=True))
        for split in ("train", "eval")
    ]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 12


@pytest.mark.django_db(transaction=True)
def test_versions_frozen_at_once_get_different_numbers(project, bob, make_comparison, answer):
    make_comparison()
    answer(bob)
    barrier = threading.Barrier(5)
    results = []

    def run():
        barrier.wait()
        try:
            results.append(freeze(project).number)
        except Exception as error:
            results.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=run) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [1, 2, 3, 4, 5]
    assert Preference.objects.count() == 1
