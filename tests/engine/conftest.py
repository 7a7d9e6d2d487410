"""Tiny models with a tokenizer of a dozen words, made in a moment: no hub, no Django."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from training.engine.__main__ import main
from training.engine.config import Ppo, Reward
from training.engine.events import EventLog
from training.engine.loading import load_policy, load_scorer
from training.engine.networks import reset_head
from training.engine.runtime import settle

torch.set_num_threads(1)  # Runs are forked here, and forks and threads do not mix.

WORDS = ["<end>", "<unk>", "<pad>", "<start>", *"abcdefgh"]
SIZES = {
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "eos_token_id": 0,
    "bos_token_id": None,
    "pad_token_id": None,
    "initializer_range": 0.2,
}
LIMITS = {"threads": 1, "max_prompt_tokens": 8, "max_completion_tokens": 8, "micro_batch_tokens": 200}


def make_tokenizer(pad=None):
    words = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>")
    )
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<end>", unk_token="<unk>", pad_token=pad
    )


def make_llama(seed=0, **changes):
    torch.manual_seed(seed)
    settings = SIZES | {"num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**settings | changes))


def make_gpt2(seed=0):
    torch.manual_seed(seed)
    settings = GPT2Config(
        vocab_size=len(WORDS), n_positions=64, n_embd=32, n_layer=2, n_head=4, eos_token_id=0, bos_token_id=None,
        initializer_range=0.2,
    )  # fmt: skip
    return GPT2LMHeadModel(settings)


def save(folder, model, tokenizer):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    """A random Llama whose tokenizer has no pad at all."""
    return save(tmp_path_factory.mktemp("llama"), make_llama(), make_tokenizer())


@pytest.fixture(scope="session")
def other_llama(tmp_path_factory):
    return save(tmp_path_factory.mktemp("other"), make_llama(seed=1), make_tokenizer())


@pytest.fixture(scope="session")
def pad_is_end(tmp_path_factory):
    """A random Llama whose pad is its end token."""
    model = make_llama(pad_token_id=0)
    return save(tmp_path_factory.mktemp("pad-is-end"), model, make_tokenizer(pad="<end>"))


@pytest.fixture(scope="session")
def gpt2(tmp_path_factory):
    """Learned absolute positions."""
    return save(tmp_path_factory.mktemp("gpt2"), make_gpt2(), make_tokenizer(pad="<pad>"))


@pytest.fixture
def prompts(tmp_path):
    return write_rows(tmp_path / "prompts.jsonl", [{"prompt": text} for text in PROMPTS])


PROMPTS = ["a", "b c", "c d e", "d", "e f g h", "f a", "g", "h b d"]


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def policy_of(folder, **changes):
    config = Ppo(model=folder, prompts="-", rewards=[TOY], **LIMITS | changes)
    return load_policy(folder, config, settle(config))


def scorer_of(folder, std=0.3, **changes):
    config = Reward(model=folder, train_data="-", **LIMITS | changes)
    scorer = load_scorer(folder, config, settle(config))
    reset_head(scorer, std, torch.Generator().manual_seed(5))
    return scorer


TOY = {"kind": "callable", "path": "tests.engine.toys:share_of_a", "weight": 1.0}


class Engine:
    """Runs methods as a user does, in this process or in one that can be killed."""

    def __init__(self, folder):
        self.folder = folder

    def config(self, **values):
        path = self.folder / "config.json"
        path.write_text(json.dumps(LIMITS | values))
        return str(path)

    def run(self, method, out, **values):
        return main([method, self.config(**values), str(self.folder / out)])

    def result(self, out):
        return json.loads((self.folder / out / "result.json").read_text())

    def events(self, out, kind):
        lines = (self.folder / out / "events.jsonl").read_text().splitlines()
        return [event for line in lines if (event := json.loads(line))["kind"] == kind]

    def weights(self, out):
        return (self.folder / out / "model" / "model.safetensors").read_bytes()

    def start(self, method, out, first=lambda: None, **values):
        """Fork a run, which calls `first` before it begins; returns its process id."""
        config = self.config(**values)
        child = os.fork()
        if not child:
            code = 1
            try:
                first()
                code = main([method, config, str(self.folder / out)])
            finally:
                os._exit(code)
        return child

    def stop(self, method, out, step, **values):
        """Fork a run that is asked to stop right after it has reported this step; returns its exit code."""
        child = self.start(method, out, first=lambda: ask_to_stop_after(step), **values)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def wait_for_step(self, out, step, seconds=60):
        """Until that step has been reported."""
        deadline = time.monotonic() + seconds
        path = self.folder / out / "events.jsonl"
        while time.monotonic() < deadline:
            if path.exists() and f'"step": {step},' in path.read_text():
                return
            time.sleep(0.002)
        raise AssertionError(f"step {step} did not come")


def ask_to_stop_after(step):
    """Have the present process, a child of ours, send itself SIGTERM once it has reported this step."""
    metrics = EventLog.metrics

    def asking(events, reported, figures):
        metrics(events, reported, figures)
        if reported == step:
            os.kill(os.getpid(), signal.SIGTERM)

    EventLog.metrics = asking


def end(child, how=signal.SIGKILL):
    """Signal a forked run; returns its exit code, or minus the signal that ended it."""
    os.kill(child, how)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture
def engine(tmp_path, monkeypatch):
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    kept = signal.getsignal(signal.SIGTERM)
    yield Engine(tmp_path)
    signal.signal(signal.SIGTERM, kept)
