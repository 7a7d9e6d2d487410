"""Whatever is wrong with settings, models or data: exit code 2, one sentence that names the place, no weights read."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from tests.engine.conftest import PROMPTS, TOY, make_llama, make_tokenizer, save, write_rows
from training.engine.config import METHODS

ROWS = {
    "sft": {"prompt": "a", "completion": "b"},
    "reward": {"prompt": "a", "chosen": "b", "rejected": "c"},
    "ppo": {"prompt": "a"},
    "generate": {"prompt": "a"},
    "score": {"prompt": "a", "completion": "b"},
    "evaluate": {"prompt": "a"},
}
DATA = {
    "sft": "train_data", "reward": "train_data", "ppo": "prompts", "generate": "prompts", "score": "completions",
    "evaluate": "prompts",
}  # fmt: skip
EVERY = list(ROWS)


@pytest.fixture(scope="session")
def judge(tmp_path_factory, llama):
    """An untrained reward model."""
    model = AutoModelForSequenceClassification.from_pretrained(llama, num_labels=1)
    return save(tmp_path_factory.mktemp("judge"), model, make_tokenizer())


@pytest.fixture
def case(engine, tmp_path, llama, judge, capsys, monkeypatch):
    """Runs a method with something wrong; checks the code and the one line, and that no weights were read."""

    def refuse(*args, **kwargs):
        raise AssertionError("weights were loaded")

    def run(method, changes=(), row=None, lines=None):
        data = tmp_path / "rows.jsonl"
        write_rows(data, [ROWS[method]] * 2)
        if row is not None or lines is not None:
            with data.open("ab") as file:
                file.write(lines if lines is not None else json.dumps(ROWS[method] | row).encode() + b"\n")
        values = {"model": judge if method == "score" else llama, DATA[method]: str(data)}
        values |= {"ppo": {"rewards": [TOY]}, "evaluate": {"baseline_model": llama}}.get(method, {})
        for loader in (AutoModelForCausalLM, AutoModelForSequenceClassification):
            monkeypatch.setattr(loader, "from_pretrained", refuse)
        code = engine.run(method, "out", **values | dict(changes))
        said = capsys.readouterr().err
        assert code == 2, said
        assert said.count("\n") == 1 and "Traceback" not in said
        return said

    return run


def test_the_table_knows_every_method():
    assert set(METHODS) >= set(ROWS) == set(DATA)


# Settings


@pytest.mark.parametrize("method", EVERY)
def test_an_unknown_setting(case, method):
    said = case(method, {"learning_rat": 1})
    assert "config.json line 1: learning_rat: there is no such setting" in said


@pytest.mark.parametrize("method", EVERY)
def test_a_setting_given_twice(case, method, engine, monkeypatch):
    written = engine.config

    def twice(**values):
        path = written(**values)
        Path(path).write_text(Path(path).read_text()[:-1] + ', "seed": 1, "seed": 2}')
        return path

    monkeypatch.setattr(engine, "config", twice)
    assert "not JSON (seed is given twice)" in case(method)


CONTRADICTIONS = [
    (
        "ppo",
        {"batch_size": 64, "samples_per_prompt": 3},
        "batch_size: must be a multiple of samples_per_prompt",
    ),
    ("ppo", {"batch_size": 16, "minibatch_size": 32}, "minibatch_size: may not be greater than batch_size"),
    ("ppo", {"kl_target_nats": 5.0, "kl_budget_nats": 4.0}, "kl_target_nats: may not be greater"),
    ("ppo", {"steps": 3, "critic_warmup_steps": 3}, "critic_warmup_steps: must be less than steps"),
    ("ppo", {"temperature": 0.0}, "temperature: input should be greater than 0"),
    ("reward", {"temperature": 0}, "temperature: input should be greater than 0"),
    ("ppo", {"rewards": []}, "reward_model: name a reward model"),
    ("ppo", {"reward_spread_coefficient": 1.0}, "reward_spread_coefficient: there is no reward_model"),
    ("ppo", {"clip_range": float("nan")}, "clip_range: input should be a finite number"),
    ("generate", {"temperatures": [-0.1]}, "temperatures.0: input should be greater than or equal to 0"),
    ("generate", {"top_p": 0.0}, "top_p: input should be greater than 0"),
    ("sft", {"learning_rate": float("inf")}, "learning_rate: "),
    ("sft", {"seed": "7"}, "seed: input should be a valid integer"),
    ("sft", {"device": "tpu"}, "device: input should be 'auto', 'cpu' or 'cuda'"),
    ("evaluate", {"samples_per_prompt": 0}, "samples_per_prompt: "),
    ("score", {"micro_batch_tokens": 0}, "micro_batch_tokens: "),
]


@pytest.mark.parametrize(("method", "changes", "complaint"), CONTRADICTIONS)
def test_settings_that_contradict_each_other_or_their_range(case, method, changes, complaint):
    assert complaint in case(method, changes)


@pytest.mark.parametrize("method", EVERY)
def test_more_tokens_than_the_model_can_read(case, method):
    said = case(method, {"max_completion_tokens": 100})
    assert said.startswith(
        "model: max_prompt_tokens: 8 and max_completion_tokens 100 (and 1) do not fit the 64"
    )


@pytest.mark.parametrize("changes", [{"reference_model": "SHORT"}, {"reward_model": "SHORT_JUDGE"}])
def test_more_tokens_than_another_of_the_models_can_read(case, tmp_path, changes):
    short = make_llama(max_position_embeddings=16)
    save(tmp_path / "SHORT", short, make_tokenizer())
    save(tmp_path / "SHORT_JUDGE", short, make_tokenizer())
    settings = json.loads((tmp_path / "SHORT_JUDGE" / "config.json").read_text())
    settings["architectures"] = ["LlamaForSequenceClassification"]
    (tmp_path / "SHORT_JUDGE" / "config.json").write_text(json.dumps(settings))
    ((name, folder),) = changes.items()
    assert case("ppo", {name: str(tmp_path / folder)}).startswith(f"{name}: max_prompt_tokens: 8 and")


# Rows


ROW_FAULTS = [
    ("reward", {"chosen": "b", "rejected": "b"}, "chosen and rejected are the same text"),
    ("reward", {"chosen": ""}, "chosen: is empty"),
    ("reward", {"rejected": " \n"}, "rejected: is empty"),
    ("reward", {"rejected": None}, "rejected: input should be a valid string"),
    ("reward", {"strength": 4}, "strength: "),
    ("reward", {"weight": 0}, "weight: input should be greater than 0"),
    ("sft", {"completion": ""}, "demonstration.completion: is empty"),
    ("sft", {"completion": "\t"}, "demonstration.completion: is empty"),
    ("sft", {"weight": -1}, "demonstration.weight: "),
    ("score", {"completion": None}, "completion: input should be a valid string"),
]


@pytest.mark.parametrize(("method", "row", "complaint"), ROW_FAULTS)
def test_a_row_that_teaches_nothing(case, method, row, complaint):
    said = case(method, row=row)
    assert "rows.jsonl line 3: " + complaint in said


@pytest.mark.parametrize("method", EVERY)
@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        (b"not JSON\n", "not JSON ("),
        (b'{"prompt": "a", \n', "not JSON ("),
        (b'{"prompt": "\xff"}\n', "not JSON ("),
        (b"[" * 10_000 + b"\n", "not JSON ("),
        (b"null\n", "Input should be an object"),
        (b"{}\n", "prompt: must be given"),
        (b'{"prompt": []}\n', "prompt: "),
        (b'{"prompt": [{"role": "user"}]}\n', "prompt.0.content: must be given"),
    ],
)
def test_a_line_that_is_no_row(case, method, lines, complaint):
    assert f"rows.jsonl line 3: {complaint}" in case(method, lines=lines)


@pytest.mark.parametrize("method", EVERY)
def test_a_prompt_longer_than_the_context(case, method):
    said = case(method, row={"prompt": " ".join(["a"] * 64)})
    assert "rows.jsonl line 3: prompt: has 64 tokens, but " in said and "no more than 64 at once" in said


def test_a_prompt_that_is_merely_long_is_cut_and_reported(engine, llama, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": " ".join(["a"] * 63)}])
    assert engine.run("generate", "out", model=llama, prompts=rows) == 0
    assert "lost their beginning" in engine.events("out", "message")[0]["text"]


@pytest.mark.parametrize("method", EVERY)
def test_a_file_without_rows_or_without_a_file(case, method, tmp_path):
    (tmp_path / "none.jsonl").write_text("\n\n")
    assert "none.jsonl: holds no rows" in case(method, {DATA[method]: str(tmp_path / "none.jsonl")})
    assert f"{DATA[method]}: there is no file" in case(method, {DATA[method]: str(tmp_path)})


@pytest.mark.parametrize(
    ("method", "name"), [("sft", "eval_data"), ("reward", "eval_data"), ("reward", "prompts")]
)
def test_the_second_file_is_read_before_the_first_step_too(case, tmp_path, method, name):
    (tmp_path / "other.jsonl").write_text("{\n")
    assert "other.jsonl line 1: not JSON" in case(method, {name: str(tmp_path / "other.jsonl")})


# Models


def model_with(folder, tokenizer=None, **changes):
    save(folder, make_llama(**changes), tokenizer or make_tokenizer())
    return str(folder)


@pytest.mark.parametrize("method", [method for method in EVERY if method != "score"])
def test_a_tokenizer_without_an_end_token(case, tmp_path, method):
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    model = model_with(tmp_path / "endless", tokenizer, eos_token_id=None)
    assert f"model: {model}: has no end token (EOS)" in case(method, {"model": model})


def test_a_tokenizer_without_a_pad_token_is_enough(engine, llama, prompts):
    assert make_tokenizer().pad_token is None
    assert engine.run("generate", "out", model=llama, prompts=prompts) == 0
    assert engine.result("out")["completions"] == 2 * len(PROMPTS)


@pytest.mark.parametrize("method", EVERY)
def test_a_folder_with_pickled_weights_only(case, tmp_path, llama, judge, method):
    folder = shutil.copytree(judge if method == "score" else llama, tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    said = case(method, {"model": str(folder)})
    assert said == f"model: {folder} has no *.safetensors; pickled weights are not loaded\n"


@pytest.mark.parametrize("method", ["ppo", "evaluate"])
def test_every_model_of_a_run_is_looked_at(case, tmp_path, llama, judge, method):
    name = "reference_model" if method == "ppo" else "judge_model"
    folder = shutil.copytree(llama if method == "ppo" else judge, tmp_path / "pickled")
    (folder / "model.safetensors").unlink()
    assert case(method, {name: str(folder)}).startswith(f"{name}: {folder} has no *.safetensors")


@pytest.mark.parametrize("method", EVERY)
def test_the_code_of_a_model_folder_is_not_run(case, tmp_path, llama, judge, method):
    folder = shutil.copytree(judge if method == "score" else llama, tmp_path / "custom")
    settings = json.loads((folder / "config.json").read_text()) | {
        "model_type": "custom",
        "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"},
    }
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'it-ran')!r}, 'w')\n")
    assert case(method, {"model": str(folder)}).startswith(f"model: {folder}: cannot be loaded (")
    assert not (tmp_path / "it-ran").exists()


BROKEN_FOLDERS = {
    "config.json": "{",
    "tokenizer.json": "{",
    "model.safetensors": None,
}


@pytest.mark.parametrize("method", ["sft", "generate"])
@pytest.mark.parametrize(("file", "content"), BROKEN_FOLDERS.items())
def test_a_model_folder_with_a_broken_file(case, tmp_path, llama, method, file, content):
    folder = shutil.copytree(llama, tmp_path / "broken")
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content)
    assert case(method, {"model": str(folder)}).startswith(f"model: {folder}")


def test_a_prompt_longer_than_the_context_is_cut_where_that_was_asked_for(engine, tmp_path, llama):
    rows = [{"prompt": "a"}, {"prompt": "a " * 64}]
    prompts = write_rows(tmp_path / "rows.jsonl", rows)
    assert engine.run("generate", "out", model=llama, prompts=prompts, long_prompts="refuse") == 2
    assert engine.run("generate", "cut", model=llama, prompts=prompts, long_prompts="cut") == 0
    assert any("lost their beginning" in event["text"] for event in engine.events("cut", "message"))


def test_weights_that_are_cut_short_are_named(engine, tmp_path, llama, prompts, capsys):
    folder = shutil.copytree(llama, tmp_path / "short")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert engine.run("generate", "out", model=str(folder), prompts=prompts) == 2
    assert f"{folder}: cannot be loaded (" in capsys.readouterr().err


def test_what_stopped_a_run_is_in_its_events_too(case, engine, tmp_path):
    said = case("generate", lines=b"{\n")
    assert engine.events("out", "message")[-1] == engine.events("out", "message")[-1] | {
        "level": "error",
        "text": said.strip(),
    }
