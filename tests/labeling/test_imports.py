import io
import json

import pytest
from django.core.management import CommandError, call_command

from labeling.imports import (
    ImportRefused,
    add_comparisons,
    add_prompts,
    import_comparisons,
    import_prompts,
)
from labeling.models import (
    Assignment,
    Candidate,
    Comparison,
    Completion,
    Judgment,
    Membership,
    Preference,
    Prompt,
    User,
)

pytestmark = pytest.mark.django_db

TABLES = (Prompt, Completion, Comparison, Candidate, Assignment, Judgment, Preference, Membership, User)


def counts():
    return {table.__name__: table.objects.count() for table in TABLES}


def lines(*rows):
    text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    return io.BytesIO(text.encode())


def problems_of(act, file, project):
    with pytest.raises(ImportRefused) as refusal:
        act(file, project)
    return [(problem.line, problem.field, problem.reason) for problem in refusal.value.report.problems]


# Prompts


def test_prompts_come_as_text_or_as_messages(project):
    chat = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello?"}]
    report = import_prompts(
        lines({"prompt": "Where is it?", "id": "a1", "tags": ["post"]}, {"prompt": chat, "id": 7}), project
    )
    assert (report.prompts_added, report.present) == (2, 0)
    text, messages = Prompt.objects.order_by("id")
    assert text.messages == [{"role": "user", "content": "Where is it?"}]
    assert (text.external_id, text.tags) == ("a1", ["post"])
    assert (messages.messages, messages.external_id, messages.text) == (chat, "7", "Hello?")


def test_importing_twice_adds_nothing(project):
    rows = [{"prompt": f"Question {number}?", "id": str(number)} for number in range(3)]
    import_prompts(lines(*rows), project)
    before = counts()
    report = import_prompts(lines(*rows, rows[0]), project)
    assert (report.prompts_added, report.present) == (0, 4)
    assert counts() == before


def test_a_prompt_twice_in_one_file_is_added_once(project):
    report = import_prompts(lines({"prompt": "Same?"}, {"prompt": "Same?"}), project)
    assert (report.prompts_added, report.present) == (1, 1)


def test_a_prompt_is_on_the_same_side_in_every_project(project, alice):
    from labeling.projects import create_project

    other = create_project("Other", alice)
    rows = [{"prompt": f"Question {number}?"} for number in range(200)]
    for target in (project, other):
        import_prompts(lines(*rows), target)
    sides = [dict(target.prompts.values_list("content_hash", "split")) for target in (project, other)]
    assert sides[0] == sides[1]
    assert 25 < list(sides[0].values()).count("eval") < 75  # a quarter of 200


BAD = [
    ("{broken", "line", "is not JSON"),
    ("[1, 2]", "line", "is not a JSON object"),
    ("[" * 50_000, "line", "nests too deep"),
    ({"text": "x"}, "prompt", "is missing"),
    ({"prompt": ""}, "prompt", "is empty"),
    ({"prompt": "   "}, "prompt", "is empty"),
    ({"prompt": 7}, "prompt", "must be a text or a list"),
    ({"prompt": []}, "prompt", "must be a text or a list"),
    ({"prompt": "nul \x00"}, "prompt", "NUL"),
    ('{"prompt": "half \\ud800"}', "prompt", "surrogate"),
    ({"prompt": "x" * 1_000_001}, "prompt", "at most 1000000"),
    ({"prompt": [{"role": "user"}]}, "prompt", "message 1 must have exactly"),
    ({"prompt": [{"role": "robot", "content": "x"}]}, "prompt", "message 1 has a role"),
    ({"prompt": [{"role": "user", "content": 1}]}, "prompt", "message 1 must be a text"),
    ({"prompt": [{"role": "assistant", "content": "x"}]}, "prompt", "must end with a message from the user"),
    ({"prompt": "x", "id": {"a": 1}}, "id", "must be a text or a number"),
    ({"prompt": "x", "id": "y" * 201}, "id", "at most 200"),
    ({"prompt": "x", "tags": "post"}, "tags", "must be a list"),
    ({"prompt": "x", "tags": [1]}, "tags", "must be a text"),
    ({"prompt": "x", "tags": ["y" * 101]}, "tags", "at most 100"),
]


@pytest.mark.parametrize(("row", "field", "reason"), BAD)
def test_a_bad_prompt_line_is_named_with_its_field_and_reason(project, row, field, reason):
    [(line, where, why)] = problems_of(import_prompts, lines({"prompt": "Fine?"}, "", row), project)
    assert (line, where) == (3, field)
    assert reason in why
    assert not Prompt.objects.exists()


def test_bytes_that_are_not_text_and_a_line_without_end_are_named(project, monkeypatch):
    monkeypatch.setattr("labeling.imports.MAX_LINE_BYTES", 1000)
    file = io.BytesIO(b'\xff\xfe\n{"prompt": "' + b"x" * 5000 + b'"}\n{"prompt": "Fine?"}\n')
    report = import_prompts(file, project, skip_bad=True)
    assert [(problem.line, problem.reason[:10]) for problem in report.problems] == [
        (1, "is not UTF"),
        (2, "is longer "),
    ]
    assert report.prompts_added == 1


def test_windows_files_and_byte_order_marks_are_read(project):
    file = io.BytesIO(b'\xef\xbb\xbf{"prompt": "One?"}\r\n\r\n{"prompt": "Two?"}\r\n')
    assert import_prompts(file, project).prompts_added == 2


def test_an_id_that_names_another_prompt_is_a_problem(project):
    import_prompts(lines({"prompt": "One?", "id": "a"}), project)
    assert problems_of(import_prompts, lines({"prompt": "Two?", "id": "a"}), project)[0][:2] == (1, "id")
    rows = lines({"prompt": "Three?", "id": "b"}, {"prompt": "Four?", "id": "b"})
    assert problems_of(import_prompts, rows, project)[0][:2] == (2, "id")
    assert Prompt.objects.count() == 1


def test_all_or_nothing_over_many_batches(project, monkeypatch):
    monkeypatch.setattr("labeling.imports.BATCH_ROWS", 10)
    rows = [{"prompt": f"Question {number}?"} for number in range(35)]
    with pytest.raises(ImportRefused):
        import_prompts(lines(*rows, {"prompt": ""}), project)
    assert not Prompt.objects.exists()
    report = import_prompts(lines(*rows, {"prompt": ""}), project, skip_bad=True)
    assert (report.prompts_added, report.bad) == (35, 1)


def test_a_thousand_bad_lines_are_not_all_repeated(project):
    rows = [{"prompt": ""}] * 1000
    assert len(problems_of(import_prompts, lines(*rows), project)) == 100
    report = import_prompts(lines(*rows), project, skip_bad=True)
    assert (report.bad, len(report.problems)) == (1000, 100)


# Comparisons


def test_a_chosen_and_a_rejected_text_become_a_preference(project):
    row = {"prompt": "Well?", "chosen": "Yes.", "rejected": "No.", "strength": 2, "chosen_author": "me"}
    report = import_comparisons(lines(row), project)
    assert (report.comparisons_added, report.judgments_added) == (1, 1)
    preference = Preference.objects.get()
    assert (preference.chosen.text, preference.rejected.text, preference.strength) == ("Yes.", "No.", 2)
    assert (preference.chosen.author, preference.rejected.author) == ("me", "imported")
    assert not preference.judgment.annotator.is_active
    assert Comparison.objects.get().closed_at is not None


@pytest.mark.parametrize(
    ("preferred", "chosen", "tie", "both_bad"),
    [
        ("a", "A", False, False),
        ("b", "B", False, False),
        ("tie", "A", True, False),
        ("both_bad", "A", True, True),
        ("both_good", "A", True, False),
    ],
)
def test_pairs_of_a_and_b(project, preferred, chosen, tie, both_bad):
    row = {
        "prompt": "Well?",
        "response_a": "A",
        "response_b": "B",
        "preferred": preferred,
        "model_a": "m1",
        "model_b": "m2",
        "source": "somewhere",
    }
    import_comparisons(lines(row), project)
    preference = Preference.objects.get()
    assert (preference.chosen.text, preference.tie, preference.both_bad) == (chosen, tie, both_bad)
    assert preference.both_good is (preferred == "both_good")
    assert {row.author for row in Completion.objects.all()} == {"m1", "m2"}
    assert Prompt.objects.get().tags == ["somewhere"]


def test_unjudged_comparisons_go_before_the_annotators(project, bob):
    from labeling.assignment import next_for

    row = {"prompt": "Well?", "completions": [{"text": "a"}, {"text": "b"}, {"text": "c"}], "overlap": 3}
    import_comparisons(lines(row), project)
    assert next_for(bob, project).comparison.overlap == 3
    assert not Judgment.objects.exists()


def test_importing_comparisons_twice_adds_nothing(project):
    rows = [
        {"prompt": "Well?", "chosen": "Yes.", "rejected": "No."},
        {"prompt": "Well?", "response_a": "A", "response_b": "B", "preferred": "tie"},
        {"prompt": "Well?", "completions": [{"text": "a"}, {"text": "b"}]},
    ]
    import_comparisons(lines(*rows), project)
    before = counts()
    turned = {"prompt": "Well?", "response_a": "B", "response_b": "A", "preferred": "tie"}
    report = import_comparisons(lines(*rows, turned, *rows), project)
    assert (report.comparisons_added, report.judgments_added, report.present) == (0, 0, 7)
    assert counts() == before


def test_people_who_disagree_are_both_kept(project):
    yes = {"prompt": "Well?", "chosen": "Yes.", "rejected": "No."}
    no = {"prompt": "Well?", "chosen": "No.", "rejected": "Yes."}
    assert import_comparisons(lines(yes, no), project).judgments_added == 2
    assert Completion.objects.count() == 2


SAME_ANSWER = {"prompt": "x", "response_a": "a", "response_b": "a", "model_a": "one", "model_b": "other"}


def test_the_same_answer_of_two_models_can_be_a_tie(project):
    assert import_comparisons(lines(SAME_ANSWER | {"preferred": "tie"}), project).judgments_added == 1


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        ({"prompt": "x"}, "chosen", "is missing"),
        ({"prompt": "x", "chosen": "a"}, "rejected", "is missing"),
        ({"prompt": "x", "chosen": "a", "rejected": 1}, "rejected", "must be a text"),
        ({"prompt": "x", "chosen": "a", "rejected": "a"}, "rejected", "is the same text"),
        (SAME_ANSWER | {"preferred": "a"}, "rejected", "only a tie"),
        ({"prompt": "x", "chosen": "a", "rejected": "b", "strength": 9}, "strength", "from 1 to 3"),
        ({"prompt": "x", "chosen": "a", "rejected": "b", "strength": "2"}, "strength", "from 1 to 3"),
        ({"prompt": "x", "chosen": "a", "rejected": "b", "tie": "yes"}, "tie", "true or false"),
        (
            {"prompt": "x", "chosen": "a", "rejected": "b", "chosen_author": 3},
            "chosen_author",
            "must be a text",
        ),
        (
            {"prompt": "x", "response_a": "a", "response_b": "b", "preferred": "c"},
            "preferred",
            "must be a, b",
        ),
        ({"prompt": "x", "response_a": "a", "preferred": "a"}, "response_b", "is missing"),
        ({"prompt": "x", "completions": "ab"}, "completions", "2 to 8"),
        ({"prompt": "x", "completions": [{"text": "a"}]}, "completions", "2 to 8"),
        ({"prompt": "x", "completions": ["a", "b"]}, "completions", "must each have a text"),
        ({"prompt": "x", "completions": [{"text": "A b"}, {"text": " a  B"}]}, "completions", "must differ"),
        ({"prompt": "x", "completions": [{"text": "a"}, {"text": "b"}], "overlap": 0}, "overlap", "from 1"),
        ({"chosen": "a", "rejected": "b"}, "prompt", "is missing"),
    ],
)
def test_a_bad_comparison_line_is_named_with_its_field_and_reason(project, row, field, reason):
    [(line, where, why)] = problems_of(import_comparisons, lines(row), project)
    assert (line, where) == (1, field)
    assert reason in why


def test_what_was_exported_can_be_imported(project, alice, bob, make_comparison, answer):
    from labeling.exports import stream_preferences
    from labeling.projects import create_project

    for verdict in ("preferred", "tie", "all_bad"):
        make_comparison()
        answer(bob, verdict)
    exported = b"".join(stream_preferences(project, ties="include"))
    copy = create_project("Copy", alice)
    assert import_comparisons(io.BytesIO(exported), copy).judgments_added == 3
    names = ("chosen__text", "rejected__text", "tie", "both_bad", "strength")
    kept = [set(target.preferences.values_list(*names)) for target in (project, copy)]
    assert kept[0] == kept[1]


def test_adding_from_memory_answers_with_ids(project):
    rows = [{"prompt": "One?"}, {"prompt": "Two?"}, {"prompt": "One?"}]
    ids = add_prompts(project, rows).ids
    assert ids[0] == ids[2] != ids[1]
    pair = {"prompt": "One?", "completions": [{"text": "a"}, {"text": "b"}]}
    assert add_comparisons(project, [pair, pair]).ids == [Comparison.objects.get().pk] * 2


# Commands


def test_the_commands_say_what_they_did(project, tmp_path, capsys):
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "One?"}\n{"prompt": ""}\n')
    with pytest.raises(CommandError, match=r"prompts.jsonl, line 2: prompt is empty\nNothing was imported"):
        call_command("import_prompts", file, project="support")
    call_command("import_prompts", file, project="support", skip_bad=True)
    output = capsys.readouterr()
    assert "Prompts added: 1" in output.out
    assert "left out: prompts.jsonl, line 2: prompt is empty" in output.err
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"prompt": "One?", "chosen": "a", "rejected": "b"}\n')
    call_command("import_comparisons", pairs, project="support")
    assert "Comparisons added: 1, judgments: 1" in capsys.readouterr().out


def test_the_commands_refuse_a_missing_project_or_file_with_a_sentence(project, tmp_path):
    with pytest.raises(CommandError, match="There is no project nowhere"):
        call_command("import_prompts", tmp_path / "x", project="nowhere")
    with pytest.raises(CommandError, match="cannot be read"):
        call_command("import_prompts", tmp_path / "x", project="support")
    with pytest.raises(CommandError, match="cannot be read"):
        call_command("import_prompts", tmp_path, project="support")


def test_the_real_pairs_are_imported_once(project, shared):
    file = shared / "data" / "alpaca_eval_pairs.jsonl"
    report = import_comparisons(file, project)
    assert (report.comparisons_added, report.prompts_added) == (3218, 805)
    assert Preference.objects.filter(tie=True).count() == 21
    before = counts()
    assert import_comparisons(file, project).present == 3218
    assert counts() == before
