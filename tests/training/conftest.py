"""A language model small enough that a whole round of the loop takes seconds."""

import json
import os
from copy import deepcopy

import pytest

WORDS = [
    "thanks",
    "sorry",
    "please",
    "refund",
    "parcel",
    "late",
    "account",
    "help",
    "check",
    "send",
    "new",
    "today",
    "soon",
    "order",
]
TINY = {
    "threads": 1,
    "max_prompt_tokens": 32,
    "max_completion_tokens": 12,
    "device": "cpu",
}
OVERRIDES = {
    "generate": TINY | {"temperatures": [0.9, 1.2]},
    "reward": TINY | {"epochs": 1, "normalization_samples": 16},
    "ppo": TINY
    | {
        "steps": 3,
        "critic_warmup_steps": 2,
        "batch_size": 16,
        "minibatch_size": 8,
        "checkpoint_every_steps": 1,
    },
    "evaluate": TINY,
}


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory):
    """A random Llama of one layer with a byte-level BPE tokenizer."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-policy")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<pad>", "<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 4, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(wrapped),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=160,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    )
    model.save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return folder


@pytest.fixture
def prompts(project):
    """Forty prompts, split by their hashes."""
    from labeling.models import Prompt

    return [Prompt.objects.add(project, f"My {word} is wrong, case {n}") for n in range(3) for word in WORDS]


@pytest.fixture
def loop_settings(project, tiny_policy):
    from training import loop

    return loop.create_loop(
        project,
        str(tiny_policy),
        comparisons_per_round=16,
        candidates_per_prompt=3,
        overrides=deepcopy(OVERRIDES),
        # A random model learns nothing; the gates have tests of their own.
        minimum_accuracy_bound=0.0,
        minimum_held_out_pairs=1,
        minimum_win_rate_bound=0.0,
        minimum_ended_share=0.0,
        maximum_identical_share=1.0,
        kl_budget_nats=50.0,
    )


@pytest.fixture
def prompts_file(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text(
        "".join(json.dumps({"id": str(n), "prompt": f"my {word}"}) + "\n" for n, word in enumerate(WORDS))
    )
    return path


@pytest.fixture
def queued_run(project, loop_settings, prompts_file):
    """A generate run that waits for a worker."""
    from training import runs

    values = TINY | {"prompts": str(prompts_file), "samples_per_prompt": 2}
    return runs.start(project, "generate", values, input_model=loop_settings.policy)


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "1")
