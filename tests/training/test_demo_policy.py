"""The first policy: a folder that transformers loads, small, and whose answers end and differ."""

import json
import math
import random

import pytest

from training.demo import build, grammar, recipe
from training.demo.gold import gold_points, gold_score
from training.engine.config import METHODS

POLICY = build.FOLDER / "policy"


@pytest.fixture(scope="module")
def tokenizer():
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(POLICY)


@pytest.fixture(scope="module")
def model():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    return transformers.AutoModelForCausalLM.from_pretrained(POLICY, dtype=torch.float32).eval()


def sample(model, tokenizer, prompts, seed):
    import torch

    torch.manual_seed(seed)
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    ids = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, padding=True, return_dict=True, return_tensors="pt"
    )
    written = model.generate(**ids, top_k=0)[:, ids["input_ids"].shape[1] :]
    return [tokenizer.decode(row, skip_special_tokens=True) for row in written], [
        bool((row == tokenizer.eos_token_id).any()) for row in written
    ]


@pytest.fixture(scope="module")
def prompts():
    return random.Random(5).sample([row["prompt"] for row in build.read_prompts()], 48)


@pytest.fixture(scope="module")
def samples(model, tokenizer, prompts):
    return sample(model, tokenizer, prompts, seed=1)


def test_the_folder_is_small_enough_for_the_repository():
    assert sum(file.stat().st_size for file in POLICY.iterdir()) < 5_000_000


def test_it_is_a_llama_of_one_to_four_million_parameters(model):
    assert model.config.model_type == "llama"
    assert 1_000_000 <= model.num_parameters() <= 4_000_000


def test_padding_is_not_the_end_of_an_answer(tokenizer, model):
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.config.pad_token_id == tokenizer.pad_token_id


def test_any_text_survives_the_tokenizer(tokenizer):
    text = "Grüße 你好 \n\t 🙂 <b>unseen</b>"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_a_conversation_of_several_turns_is_a_prompt(tokenizer):
    turns = [("system", "Be kind."), ("user", "Hi."), ("assistant", "Hello."), ("user", "Where is my desk?")]
    text = tokenizer.apply_chat_template(
        [{"role": role, "content": content} for role, content in turns],
        add_generation_prompt=True,
        tokenize=False,
    )
    assert (
        text
        == "<|system|>Be kind.<|user|>Hi.<|assistant|>Hello.<|end|><|user|>Where is my desk?<|assistant|>"
    )


def test_answers_end_by_themselves(samples):
    _, ended = samples
    assert sum(ended) >= 0.95 * len(ended)


def test_answers_read_as_answers(samples, prompts):
    """Of neighbouring words hardly any are such as the grammar never puts side by side."""
    texts, _ = samples
    garbled = [gold_points(prompt, text)["garbled"] for prompt, text in zip(prompts, texts, strict=True)]
    assert sum(garbled) / len(garbled) > -0.25  # -3 would be all of them


def test_samples_are_good_and_bad(samples, prompts):
    """What is to be learned must show in the candidates, and most of them must leave room."""
    texts, _ = samples
    scores = [gold_score(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
    good = sum(score > 3.3 for score in scores) / len(scores)
    assert 0.02 < good < 0.4
    assert sum(score < -1 for score in scores) > 0.2 * len(scores)


def test_another_seed_gives_other_answers(model, tokenizer, prompts, samples):
    again, _ = sample(model, tokenizer, prompts[:8], seed=2)
    assert again != samples[0][:8]


def test_the_recipe_is_a_config_that_the_engine_takes():
    given = {"model": "m", "train_data": "t", "prompts": "p", "reward_model": "r", "baseline_model": "b"}
    methods = {
        "reward": recipe.REWARD, "ppo": recipe.PPO, "grpo": recipe.GRPO, "rloo": recipe.RLOO, "dpo": recipe.DPO, "generate": recipe.GENERATE, "evaluate": recipe.EVALUATE,
    }  # fmt: skip
    for method, overrides in methods.items():
        needed = {name: value for name, value in given.items() if name in METHODS[method].model_fields}
        METHODS[method].model_validate({**needed, **overrides})


def test_building_writes_a_folder_that_the_engine_can_train(tmp_path):
    """The build with a single step of training: every file in its place, weights in half precision."""
    numpy = pytest.importorskip("safetensors.numpy")
    build.build(tmp_path / "policy", seed=3, work=tmp_path / "work", count=64)
    assert {file.name for file in (tmp_path / "policy").iterdir()} == {file.name for file in POLICY.iterdir()}
    weights = numpy.load_file(tmp_path / "policy" / "model.safetensors")
    assert {str(value.dtype) for value in weights.values()} == {"float16"}
    assert sum(math.prod(value.shape) for value in weights.values()) == 1_516_960
    start = numpy.load_file(tmp_path / "work" / "start" / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    assert (weights[name] != start[name].astype("float16")).any()
    rows = [
        json.loads(line) for line in (tmp_path / "work" / "demonstrations.jsonl").read_text().splitlines()
    ]
    assert rows == list(
        grammar.demonstrations(64, 3, frozenset(row["prompt"] for row in build.read_prompts()))
    )
