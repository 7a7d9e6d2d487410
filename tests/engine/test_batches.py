"""Padding, positions and ends: the same text gives the same numbers wherever it stands."""

import dataclasses

import pytest
import torch

from tests.engine.conftest import LIMITS, make_tokenizer, policy_of, scorer_of
from training.engine.batches import Encoder, Tokens, make_batch
from training.engine.config import EngineError, Generate
from training.engine.loading import end_tokens_of, load_policy, load_tokenizer
from training.engine.runtime import settle
from training.engine.tensors import token_logprobs

CPU = torch.device("cpu")
ROWS = [Tokens([4, 5], [6, 0]), Tokens([7], [8, 9, 10, 4, 0]), Tokens([5, 6, 7, 8], [9])]


@pytest.fixture(params=["llama", "pad_is_end", "gpt2"])
def folder(request):
    return request.getfixturevalue(request.param)


def test_a_batch_by_hand():
    batch = make_batch(ROWS[:2], CPU)
    assert batch.ids.tolist() == [[4, 5, 6, 0, 0, 0], [7, 8, 9, 10, 4, 0]]
    assert batch.predicting.tolist() == [1, 2, 6, 7, 8, 9, 10]
    assert batch.targets.tolist() == [6, 0, 8, 9, 10, 4, 0]
    assert batch.last.tolist() == [3, 11]
    assert batch.lengths == [2, 5]


def test_a_batch_padded_on_the_left_by_hand():
    batch = make_batch(ROWS[:2], CPU, left=True)
    assert batch.ids.tolist() == [[0, 0, 4, 5, 6, 0], [7, 8, 9, 10, 4, 0]]
    assert batch.mask.tolist() == [[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]]
    assert batch.positions.tolist() == [[0, 0, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5]]
    assert batch.predicting.tolist() == [3, 4, 6, 7, 8, 9, 10]
    assert batch.last.tolist() == [5, 11]


@pytest.mark.parametrize("fill", [0, 4, 11])
@pytest.mark.parametrize("left", [False, True])
def test_padding_on_either_side_with_any_id_changes_nothing(folder, left, fill):
    policy, scorer = policy_of(folder), scorer_of(folder)
    with torch.no_grad():
        alone = [make_batch([row], CPU) for row in ROWS]
        together = make_batch(ROWS, CPU, fill=fill, left=left)
        for read in (
            lambda batch: token_logprobs(policy.head, policy.hidden(batch), batch.targets, 1.0),
            scorer.values,
            scorer.scores,
        ):
            torch.testing.assert_close(
                read(together), torch.cat([read(batch) for batch in alone]), atol=1e-5, rtol=1e-4
            )


def test_positions_matter_to_these_models(folder):
    """Or the tests above could not fail."""
    policy = policy_of(folder)
    batch = make_batch(ROWS, CPU, left=True)
    wrong = dataclasses.replace(batch, positions=torch.arange(6).repeat(3, 1) * 2)
    with torch.no_grad():
        assert not torch.allclose(policy.hidden(batch), policy.hidden(wrong), atol=1e-3)


def test_our_logits_are_the_models_own(folder):
    policy = policy_of(folder)
    batch = make_batch(ROWS, CPU)
    with torch.no_grad():
        own = policy.model(input_ids=batch.ids).logits.log_softmax(-1).flatten(0, 1)[batch.predicting]
        ours = token_logprobs(policy.head, policy.hidden(batch), batch.targets, 1.0)
    torch.testing.assert_close(ours, own.gather(1, batch.targets[:, None]).squeeze(1), atol=1e-5, rtol=1e-4)


def encoder_of(tokenizer, **changes):
    return Encoder(tokenizer, [0], Generate(model="-", prompts="-", **LIMITS | changes))


def turns(*texts):
    return [
        {"role": role, "content": text} for role, text in zip(("user", "assistant") * 2, texts, strict=False)
    ]


def test_without_a_template_one_message_is_its_text_and_several_are_lines():
    encoder = encoder_of(make_tokenizer(), max_prompt_tokens=20)
    unknown = 1  # "user:" and "assistant:" are no words of this tokenizer
    assert encoder.prompts([turns("a b"), turns("a", "b", "c")]) == [
        [4, 5],
        [unknown, 4, unknown, 5, unknown, 6],
    ]


def test_a_chat_template_is_followed_without_further_special_tokens():
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}<start> {{ m.content }} {% endfor %}{% if add_generation_prompt %}<start>{% endif %}"
    assert encoder_of(tokenizer).prompts([turns("a b")]) == [[3, 4, 5, 3]]


def test_a_template_that_refuses_a_prompt_is_a_bad_input():
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('no such role') }}"
    with pytest.raises(EngineError, match="no such role"):
        encoder_of(tokenizer).prompts([turns("a")])


def test_long_prompts_lose_their_beginning_and_long_completions_their_end_and_both_are_counted():
    encoder = encoder_of(make_tokenizer(), max_prompt_tokens=2, max_completion_tokens=3)
    assert encoder.prompts([turns("a b c d"), turns("a b")]) == [[6, 7], [4, 5]]
    assert encoder.completions(["a b c d", "a b"]) == [[4, 5, 6], [4, 5, 0]]
    assert (encoder.cut_prompts, encoder.cut_completions) == (1, 1)
    heard = []
    encoder.report(type("Events", (), {"message": lambda self, level, text: heard.append(text)})())
    assert [text.partition(" tokens")[0] for text in heard] == [
        "1 prompts were longer than 2",
        "1 completions were longer than 3",
    ]


def test_what_a_reward_model_reads_has_always_ended():
    encoder = encoder_of(make_tokenizer(), max_completion_tokens=3)
    assert encoder.scored(["a b c d", "a", "a b"]) == [[4, 5, 6, 0], [4, 0], [4, 5, 0]]


def test_an_empty_prompt_leaves_something_to_predict_from():
    assert encoder_of(make_tokenizer()).prompts([turns("")]) == [[0]]


def test_text_has_no_end_token():
    encoder = encoder_of(make_tokenizer())
    assert encoder.text([4, 5, 0], [0]) == "a b"


def test_a_model_without_an_end_token_is_refused(tmp_path, llama):
    import json
    import shutil

    shutil.copytree(llama, tmp_path / "model")
    for name in ("config.json", "generation_config.json"):
        path = tmp_path / "model" / name
        path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": None}))
    path = tmp_path / "model" / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token": None}))
    with pytest.raises(EngineError, match="no end token"):
        end_tokens_of(str(tmp_path / "model"), load_tokenizer(str(tmp_path / "model")))


def test_prompt_and_completion_must_fit_the_context(gpt2):
    config = Generate(model=gpt2, prompts="-", max_prompt_tokens=40, max_completion_tokens=24)
    with pytest.raises(EngineError, match="do not fit the 64 positions"):
        load_policy(gpt2, config, settle(config))


def test_weights_stored_in_half_precision_are_float32_here(tmp_path):
    from tests.engine.conftest import make_llama, save

    folder = save(tmp_path, make_llama().bfloat16(), make_tokenizer())
    assert {weight.dtype for weight in policy_of(folder).model.parameters()} == {torch.float32}
