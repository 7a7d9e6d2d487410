"""What a user sees of settings and bad files; what the engine may import."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from tests.engine.conftest import TOY, write_rows
from training.engine.__main__ import main
from training.engine.config import METHODS, EngineError, default_config, load_config
from training.engine.records import (
    CompletionRecord,
    PreferenceRecord,
    PromptRecord,
    read_event,
    read_records,
)

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "training" / "engine").glob("*.py"))


@pytest.mark.parametrize("method", METHODS)
def test_the_printed_config_is_complete_and_accepted(method, capsys):
    assert main([method, "--print-config"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed.keys() == METHODS[method].model_fields.keys()
    METHODS[method].model_validate(printed)


@pytest.mark.parametrize("method", METHODS)
def test_help_shows_every_setting_with_its_meaning(method, capsys):
    assert main([method, "--help"]) == 0
    printed = capsys.readouterr().out
    for name, field in METHODS[method].model_fields.items():
        assert f"  {name} (" in printed
        assert field.description in printed


def attributes_read(tree):
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }


def test_every_setting_has_a_reader():
    read = set()
    for path in SOURCES:
        # In config.py itself only properties and checks count, not the descriptions.
        read |= attributes_read(ast.parse(path.read_text()))
    from training.engine.config import FILE_FIELDS, MODEL_FIELDS

    for method, model in METHODS.items():
        unread = model.model_fields.keys() - read
        assert not unread, f"{method}: nothing reads {unread}"
        assert set(MODEL_FIELDS + FILE_FIELDS) >= {
            name for name in model.model_fields if name.endswith(("_model", "_data"))
        }


def test_the_engine_imports_nothing_of_ours_but_itself_and_no_django():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                top = name.split(".")[0]
                assert top not in ("django", "celery", "labeling", "config", "rest_framework"), (path, name)
                assert top != "training" or name.startswith("training.engine"), (path, name)


def test_settings_rows_and_help_load_without_torch_and_django():
    program = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = sys.modules['django'] = None\n"
        "import training.engine.config, training.engine.records, training.engine.events\n"
        "from training.engine.__main__ import main\n"
        "assert main(['ppo', '--help']) == 0\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def config_file(tmp_path, method, **changes):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**default_config(method), **changes}, indent=1))
    return str(path)


@pytest.mark.parametrize(
    ("method", "changes", "complaint"),
    [
        ("ppo", {"stepz": 3}, "stepz: there is no such setting"),
        ("ppo", {"steps": 0}, "steps: input should be greater than or equal to 1, not 0"),
        ("ppo", {"steps": "many"}, 'steps: input should be a valid integer, not "many"'),
        ("ppo", {"reward_model": None}, "reward_model: name a reward model"),
        ("ppo", {"batch_size": 9, "samples_per_prompt": 2}, "batch_size: must be a multiple"),
        ("ppo", {"kl_target_nats": 11.0}, "kl_target_nats: may not be greater"),
        ("ppo", {"rewards": [{**TOY, "path": "no colon"}]}, "rewards.0.path: "),
        ("reward", {"train_data": None}, "train_data: input should be a valid string, not null"),
        ("generate", {"temperatures": []}, "temperatures: "),
        ("sft", {"learning_rate": -1.0}, "learning_rate: "),
    ],
)
def test_a_bad_setting_is_named_with_its_line(tmp_path, capsys, method, changes, complaint):
    path = config_file(tmp_path, method, **changes)
    assert main([method, path, str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert complaint in said
    assert said.startswith(path) and said.count("\n") == 1
    name = next(iter(changes))
    if complaint.startswith(name):
        line = next(n for n, text in enumerate(Path(path).read_text().splitlines(), 1) if f'"{name}"' in text)
        assert said.startswith(f"{path} line {line}: ") or "there" not in complaint
    assert not (tmp_path / "out").exists()


def test_a_missing_setting_and_a_file_that_is_no_json_are_named(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("{}")
    with pytest.raises(EngineError, match="model: must be given"):
        load_config("generate", path)
    path.write_text("{'model'")
    with pytest.raises(EngineError, match="not JSON"):
        load_config("generate", path)
    with pytest.raises(EngineError, match="cannot be read"):
        load_config("generate", tmp_path / "none.json")


@pytest.mark.parametrize(
    ("line", "kind", "complaint"),
    [
        ("{prompt", PromptRecord, "not JSON"),
        ("[1]", PromptRecord, "should be an object"),
        ('{"prompt": []}', PromptRecord, "prompt: "),
        ('{"prompt": 3}', PromptRecord, "prompt: "),
        ('{"prompt": [{"role": "user"}]}', PromptRecord, "prompt.0.content: must be given"),
        ('{"prompt": "p", "chosen": "a"}', PreferenceRecord, "rejected: must be given"),
        ('{"prompt": "p", "chosen": "a", "rejected": ""}', PreferenceRecord, "rejected: "),
        ('{"prompt": "p", "chosen": "a", "rejected": "a"}', PreferenceRecord, "the same text"),
        ('{"prompt": "p", "chosen": "a", "rejected": "b", "strength": 7}', PreferenceRecord, "strength: "),
        (
            '{"prompt": "p", "chosen": "a", "rejected": "b", "weight": NaN}',
            PreferenceRecord,
            "not JSON|weight",
        ),
    ],
)
def test_a_bad_row_is_named_with_file_and_line(tmp_path, line, kind, complaint):
    path = tmp_path / "rows.jsonl"
    good = '{"prompt": "p", "chosen": "a", "rejected": "b"}'
    path.write_text(f"{good}\n\n{line}\n")
    with pytest.raises(EngineError, match=f"rows.jsonl line 3: .*({complaint})"):
        read_records(path, kind)


def test_a_file_without_rows_is_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n")
    with pytest.raises(EngineError, match="holds no rows"):
        read_records(path, PromptRecord)


def test_bad_data_ends_with_code_2_before_any_weights_load(engine, tmp_path, llama, capsys, monkeypatch):
    from transformers import AutoModelForSequenceClassification

    def refuse(*args, **kwargs):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(AutoModelForSequenceClassification, "from_pretrained", refuse)
    data = write_rows(tmp_path / "train.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "b"}])
    assert engine.run("reward", "out", model=llama, train_data=data) == 2
    assert "train.jsonl line 1: chosen and rejected are the same text" in capsys.readouterr().err


def test_a_tie_of_two_equal_answers_is_no_contradiction():
    same = {"prompt": "a", "chosen": "b", "rejected": "b"}
    assert PreferenceRecord.model_validate(same | {"tie": True}).tie
    with pytest.raises(ValidationError, match="the same text"):
        PreferenceRecord.model_validate(same | {"strength": 1})


def test_missing_files_and_folders_are_named(engine, llama, prompts, capsys, tmp_path):
    assert engine.run("generate", "out", model=llama, prompts="/nowhere.jsonl") == 2
    assert "prompts: there is no file /nowhere.jsonl" in capsys.readouterr().err
    assert engine.run("generate", "out", model="/nowhere", prompts=prompts) == 2
    assert "model: there is no folder /nowhere" in capsys.readouterr().err
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "config.json").write_text("{}")
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"")
    assert engine.run("generate", "out", model=str(tmp_path / "pickled"), prompts=prompts) == 2
    assert "pickled weights are not loaded" in capsys.readouterr().err
    assert engine.run("score", "out", model=llama, completions=prompts) == 2
    assert "is a policy, not a reward model" in capsys.readouterr().err


def test_a_prompt_is_a_text_or_messages_and_both_are_the_same_prompt():
    as_text = PromptRecord.model_validate({"prompt": "hi", "id": 3, "more": True})
    as_messages = PromptRecord.model_validate({"prompt": [{"role": "user", "content": "hi"}]})
    assert as_text.key == as_messages.key
    assert as_text.messages == [{"role": "user", "content": "hi"}]


def test_what_the_engine_writes_can_be_read_back():
    record = CompletionRecord(prompt="p", completion="c", tokens=2)
    assert CompletionRecord.model_validate_json(record.model_dump_json()) == record
    event = read_event(
        '{"time": 1.0, "kind": "progress", "phase": "p", "done": 1, "total": 2, "seconds_left": null}'
    )
    assert event.total == 2


def test_the_checklist_names_tests_that_there_are():
    named = set(re.findall(r"`(test_\w+)", (ROOT / "docs" / "engine-checklist.md").read_text()))
    tests = "".join(path.read_text() for path in (ROOT / "tests" / "engine").glob("test_*.py"))
    assert len(named) > 50
    assert not named - set(re.findall(r"^def (test_\w+)", tests, re.MULTILINE))
