"""Several rows on one line: each token's log-probability is that of its row alone, or the model is padded."""

import json

import pytest
import torch
from transformers import (
    FalconConfig,
    FalconForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from tests.engine.conftest import (
    LIMITS,
    SIZES,
    make_gpt2,
    make_llama,
    make_tokenizer,
    policy_of,
    save,
    scorer_of,
    write_rows,
)
from training.engine import sft
from training.engine.batches import (
    Tokens,
    fill_lines,
    make_batch,
    pack_batch,
    packed_batches,
)
from training.engine.config import EngineError, Sft
from training.engine.lines import token_batches
from training.engine.networks import trained_parameters
from training.engine.packing import why_not_packed
from training.engine.records import read_demonstrations
from training.engine.runtime import Runtime
from training.engine.tensors import token_logprobs
from training.engine.updates import Updater

CPU = torch.device("cpu")
ROWS = [
    Tokens([4, 5], [6, 0]),
    Tokens([7], [8, 9, 10, 4, 0]),
    Tokens([5, 6, 7, 8], [9]),
    Tokens([4], [5, 0]),
    Tokens([11, 10], [9, 8, 7, 0]),
]
GROUPED = SIZES | {"num_key_value_heads": 2, "head_dim": 8}


def make(name):
    torch.manual_seed(0)
    match name:
        case "llama":
            return make_llama()
        case "gpt2":
            return make_gpt2()
        case "qwen2":
            return Qwen2ForCausalLM(Qwen2Config(**SIZES, num_key_value_heads=2))
        case "gpt_neox":
            return GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES))
        case "gemma":
            return GemmaForCausalLM(GemmaConfig(**GROUPED))
        case "gemma3":  # Windows of 16 tokens in every other layer.
            layers = ["sliding_attention", "full_attention"]
            return Gemma3ForCausalLM(Gemma3TextConfig(**GROUPED, sliding_window=16, layer_types=layers))
        case "falcon":  # Positions as a bias (alibi) that is made from a mask of two dimensions.
            return FalconForCausalLM(FalconConfig(**SIZES, alibi=True, new_decoder_architecture=False))
        case "lfm2":  # A convolution looks back, whatever the mask says.
            layers = ["conv", "full_attention"]
            return Lfm2ForCausalLM(Lfm2Config(**SIZES, num_key_value_heads=2, layer_types=layers))


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """A folder with a random model of an architecture."""
    made = {}

    def folder(name):
        if name not in made:
            made[name] = save(tmp_path_factory.mktemp(name), make(name), make_tokenizer())
        return made[name]

    return folder


ARCHITECTURES = ["llama", "gpt2", "qwen2", "gpt_neox", "gemma", "gemma3"]


# The layout


def test_rows_fill_lines_the_longest_first():
    assert fill_lines([2, 6, 5, 3, 1], 0) == [[1], [2, 4], [3, 0]]
    assert fill_lines([2, 6, 5, 3, 1], 8) == [[1, 0], [2, 3], [4]]
    assert fill_lines([9, 1], 4) == [[0], [1]]


def test_a_packed_batch_by_hand():
    batch = pack_batch([ROWS[0], ROWS[1], ROWS[3]], CPU, fill=3, width=8)
    # The longest row, of 6 tokens, takes a line to itself; then 4 and 3 tokens, and one place is left.
    assert batch.ids.tolist() == [[7, 8, 9, 10, 4, 0, 3, 3], [4, 5, 6, 0, 4, 5, 0, 3]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 4, 5, 0, 0], [0, 1, 2, 3, 0, 1, 2, 0]]
    assert batch.predicting.tolist() == [9, 10, 0, 1, 2, 3, 4, 12, 13]
    assert batch.targets.tolist() == [6, 0, 8, 9, 10, 4, 0, 5, 0]
    assert batch.last.tolist() == [11, 5, 14]
    assert batch.lengths == [2, 5, 2]
    seen = [["".join(".x"[look] for look in place) for place in line] for line in batch.mask[:, 0].tolist()]
    assert seen[1] == [
        "x.......",
        "xx......",
        "xxx.....",
        "xxxx....",
        "....x...",
        "....xx..",
        "....xxx.",
        ".......x",
    ]


@pytest.mark.parametrize(("budget", "width"), [(30, 15), (12, 12), (4, 10)])
def test_every_row_is_in_one_pass_and_passes_keep_to_the_budget(budget, width):
    rows = [Tokens([4], [5] * length) for length in (3, 9, 1, 4, 4, 7, 2, 2, 9, 5)]
    seen = []
    for numbers, batch in packed_batches(rows, budget, Runtime(CPU, torch.float32)):
        assert batch.ids.shape[1] == width  # A row that is longer than the budget is read all the same.
        assert batch.ids.numel() <= max(budget, 10)
        assert batch.lengths == [len(rows[number].completion) for number in numbers]
        seen += numbers
    assert sorted(seen) == list(range(10))


# No cross-talk


def read_both_ways(folder, width):
    policy = policy_of(folder)
    with torch.no_grad():
        alone = [make_batch([row], CPU) for row in ROWS]
        together = pack_batch(ROWS, CPU, width=width)
        return [
            (
                token_logprobs(policy.head, policy.hidden(together), together.targets, 1.0),
                torch.cat(
                    [token_logprobs(policy.head, policy.hidden(one), one.targets, 1.0) for one in alone]
                ),
            )
        ][0]


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("width", [0, 10, 16])
def test_a_packed_token_has_the_log_probability_of_its_row_alone(folder_of, name, width):
    packed, alone = read_both_ways(folder_of(name), width)
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-4)


def test_a_line_may_be_longer_than_the_model_has_positions(folder_of):
    policy = policy_of(folder_of("gpt2"))  # 64 of them
    alone, wide = make_batch(ROWS[:1], CPU), pack_batch(ROWS[:1], CPU, width=70)
    torch.testing.assert_close(policy.hidden(wide), policy.hidden(alone), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_scores_and_values_of_packed_rows_are_those_of_the_rows_alone(folder_of, name):
    scorer = scorer_of(folder_of(name))
    with torch.no_grad():
        together, alone = pack_batch(ROWS, CPU, width=12), [make_batch([row], CPU) for row in ROWS]
        for read in (scorer.scores, scorer.values):
            torch.testing.assert_close(
                read(together), torch.cat([read(one) for one in alone]), atol=1e-5, rtol=1e-4
            )


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_fills_a_line_changes_nothing_and_breaks_no_gradient(folder_of, name):
    found = []
    for fill in (0, 11):
        policy = policy_of(folder_of(name))
        batch = pack_batch(ROWS, CPU, fill=fill, width=11)
        assert batch.ids.numel() > sum(row.length for row in ROWS)
        token_logprobs(policy.head, policy.hidden(batch), batch.targets, 1.0).sum().backward()
        found.append({name: weight.grad for name, weight in trained_parameters(policy.model).items()})
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen2", "gpt_neox", "gemma"])
def test_these_models_are_packed(folder_of, name):
    assert why_not_packed(policy_of(folder_of(name)), ROWS) is None


def test_a_model_that_looks_back_on_a_window_is_packed_as_long_as_rows_fit_it(folder_of):
    policy = policy_of(folder_of("gemma3"))
    assert why_not_packed(policy, ROWS) is None
    assert "windows of 16 tokens" in why_not_packed(policy, [*ROWS, Tokens([4], [5] * 16)])


@pytest.mark.parametrize(("name", "reason"), [("falcon", "four dimensions"), ("lfm2", "see each other")])
def test_models_that_cannot_be_packed_are_found_out(folder_of, name, reason):
    assert reason in why_not_packed(policy_of(folder_of(name)), ROWS)


def test_a_mask_that_leaks_would_be_found_out(folder_of, monkeypatch):
    def leaking(*given, **named):
        batch = pack_batch(*given, **named)
        batch.mask[:] = torch.ones_like(batch.mask).tril()
        return batch

    monkeypatch.setattr("training.engine.packing.pack_batch", leaking)
    assert "see each other" in why_not_packed(policy_of(folder_of("llama")), ROWS)


# Fine-tuning


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_gradient_of_a_step_is_the_same_packed_and_padded(folder_of, name, monkeypatch):
    found = []
    for layout, budget in ((token_batches, 1000), (packed_batches, 1000), (packed_batches, 12)):
        policy = policy_of(folder_of(name))
        config = Sft(model="-", train_data="-", **LIMITS | {"micro_batch_tokens": budget})
        weights = trained_parameters(policy.model)
        updater = Updater(weights, 0.0, 10, config)
        monkeypatch.setattr(updater, "drop", lambda: None)  # Keep the gradients to look at.
        loss, tokens, _ = sft._update(policy, updater, ROWS, [1.0, 2.0, 0.5, 1.0, 3.0], config, layout)
        found.append((loss / tokens, {name: weight.grad.clone() for name, weight in weights.items()}))
    for loss, gradients in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-5)
        torch.testing.assert_close(gradients, found[0][1], atol=1e-6, rtol=1e-4)


def demonstrations(tmp_path):
    rows = [
        {"prompt": text, "completion": f"{text} a {'b ' * (place % 4)}"}
        for place, text in enumerate("abcdefgh")
    ]
    return write_rows(tmp_path / "demos.jsonl", rows * 6)


SFT = {"epochs": 10, "batch_size": 8, "learning_rate": 1e-2, "packing": True, "log_every_steps": 1}


def test_packed_it_learns_and_resumes_to_the_same_weights(engine, llama, tmp_path):
    data = demonstrations(tmp_path)
    settings = SFT | {"model": llama, "train_data": data, "eval_data": data, "checkpoint_every_steps": 7}
    assert engine.run("sft", "whole", **settings) == 0
    assert engine.result("whole")["eval_loss"] < 0.5 < engine.events("whole", "metrics")[0]["metrics"]["loss"]
    assert not [event for event in engine.events("whole", "message") if event["level"] == "warning"]
    from tests.engine.conftest import end

    child = engine.start("sft", "cut", **settings)
    engine.wait_for_step("cut", 9)
    end(child)
    assert engine.run("sft", "cut", **settings) == 0
    assert engine.weights("cut") == engine.weights("whole")
    assert engine.result("cut") == engine.result("whole")


def test_a_model_that_cannot_be_packed_is_padded_and_says_so(engine, folder_of, tmp_path):
    settings = {
        "model": folder_of("lfm2"),
        "train_data": demonstrations(tmp_path),
        "epochs": 1,
        "batch_size": 8,
    }
    assert engine.run("sft", "out", **settings, packing=True) == 0
    (said,) = [event["text"] for event in engine.events("out", "message") if event["level"] == "warning"]
    assert said.startswith("Lfm2ForCausalLM cannot be packed: ") and said.endswith("rows are padded instead")
    assert engine.run("sft", "padded", **settings) == 0
    assert engine.weights("out") == engine.weights("padded")


# Preferences as demonstrations


def test_the_chosen_answer_of_a_preference_is_a_demonstration(tmp_path):
    rows = [
        {"prompt": "a", "completion": "b", "weight": 2.0},
        {"prompt": "c", "chosen": "d", "rejected": "e", "weight": 3.0, "strength": 3, "id": 7},
        {"prompt": "c", "chosen": "d", "rejected": "f", "tie": True},
        {"prompt": "c", "chosen": "d", "rejected": "g", "strength": 0},
    ]
    found, ties = read_demonstrations(write_rows(tmp_path / "rows.jsonl", rows))
    assert [(row.text, row.completion, row.weight, row.id) for row in found] == [
        ("a", "b", 2.0, None),
        ("c", "d", 3.0, 7),
    ]
    assert ties == 2


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"prompt": "a"}, "line 2: demonstration.completion: must be given"),
        ({"prompt": "a", "chosen": "b"}, "line 2: preference.rejected: must be given"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "line 2: .*the same text"),
    ],
)
def test_a_bad_row_says_what_it_was_taken_for(tmp_path, row, complaint):
    with pytest.raises(EngineError, match=complaint):
        read_demonstrations(write_rows(tmp_path / "rows.jsonl", [{"prompt": "a", "completion": "b"}, row]))


def test_ties_are_counted_and_ties_alone_refused(engine, llama, tmp_path, capsys):
    tie = {"prompt": "a", "chosen": "b", "rejected": "c", "tie": True}
    rows = [{"prompt": "a", "chosen": "b c", "rejected": "c"}, tie, {"prompt": "d", "completion": "e"}]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    assert engine.run("sft", "out", model=llama, train_data=data, epochs=1) == 0
    assert engine.result("out")["demonstrations"] == 2
    assert any("1 preferences are ties" in event["text"] for event in engine.events("out", "message"))
    assert engine.run("sft", "none", model=llama, train_data=write_rows(tmp_path / "ties.jsonl", [tie])) == 2
    assert "every preference is a tie" in capsys.readouterr().err


def test_sft_on_preferences_learns_the_chosen_answers(engine, llama, tmp_path):
    rows = [{"prompt": text, "chosen": "a b", "rejected": "h g f"} for text in "abcdefgh"] * 4
    data = write_rows(tmp_path / "rows.jsonl", rows)
    settings = {"epochs": 10, "batch_size": 8, "learning_rate": 1e-2}
    assert engine.run("sft", "out", model=llama, train_data=data, **settings) == 0
    model = str(engine.folder / "out" / "model")
    engine.run("generate", "gen", model=model, prompts=data, samples_per_prompt=1)
    said = [json.loads(line)["completion"] for line in (engine.folder / "gen" / "completions.jsonl").open()]
    assert said.count("a b") > 28
