"""Builds the demo's first policy from a seed: tokenizer, random Llama, demonstrations, fine-tuning.

    python -m training.demo.build --out training/demo/policy --seed 1

The weights are learned by the engine's own sft, as a separate process; this module needs neither torch
nor transformers, it writes a Hugging Face folder from numpy and plain JSON.
"""

import argparse
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from training.demo.grammar import demonstrations, draw_prompts

FOLDER = Path(__file__).parent
PROMPTS = FOLDER / "prompts.jsonl"
PROMPTS_PER_SITUATION = 12
PROMPTS_SEED = 2026

PAD, END, SYSTEM, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"
SPECIAL = (PAD, END, SYSTEM, USER, ASSISTANT)
# A turn costs one token; only what the assistant said is closed, since a new turn closes the others.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|' + message['role'] + '|>' + message['content'] -}}"
    "{%- if message['role'] == 'assistant' -%}{{- eos_token -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)
VOCABULARY = 1536
CONTEXT_TOKENS = 512


@dataclass(frozen=True)
class Size:
    """Of a policy without its vocabulary."""

    layers: int
    width: int
    heads: int
    inner_width: int


DEMO = Size(layers=4, width=160, heads=5, inner_width=448)
DEMONSTRATIONS = 60_000
SFT = {
    "epochs": 1,
    "batch_size": 64,
    "learning_rate": 3e-3,
    "weight_decay": 0.01,
    "warmup_share": 0.05,
    "max_prompt_tokens": 64,
    "max_completion_tokens": 96,
    "checkpoint_every_steps": 1000,
}


def build(out: Path, seed: int, work: Path, count: int = DEMONSTRATIONS) -> None:
    """Make the policy folder; `work` keeps what is needed on the way (demonstrations, the sft run)."""
    work.mkdir(parents=True, exist_ok=True)
    rows = list(demonstrations(count, seed, leave_out=frozenset(row["prompt"] for row in read_prompts())))
    write_rows(work / "demonstrations.jsonl", rows)
    write_tokenizer(work / "start", [f"{row['prompt']} {row['completion']}" for row in rows[:20_000]])
    write_random_model(work / "start", seed)
    run_sft(work, seed)
    publish(work / "sft" / "model", work / "start", out)


def read_prompts() -> list[dict[str, Any]]:
    return [json.loads(line) for line in PROMPTS.read_text().splitlines()]


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_tokenizer(folder: Path, texts: Sequence[str]) -> None:
    """Train a byte-level BPE and write it as transformers reads it, chat template included."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": PAD,
        "eos_token": END,
        "extra_special_tokens": list(SPECIAL[2:]),
        "chat_template": CHAT_TEMPLATE,
        "model_max_length": CONTEXT_TOKENS,
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",
    }
    write_json(folder / "tokenizer_config.json", config)


def model_config(dtype: str, size: Size = DEMO) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": size.width,
        "intermediate_size": size.inner_width,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.heads,
        "max_position_embeddings": CONTEXT_TOKENS,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": SPECIAL.index(END),
        "pad_token_id": SPECIAL.index(PAD),
        "dtype": dtype,
    }


def write_random_model(folder: Path, seed: int, size: Size = DEMO) -> None:
    """Write a Llama with random weights; outputs of a block are scaled down by the depth, as in GPT-2."""
    rng = np.random.default_rng(seed)
    width, inner_width = size.width, size.inner_width
    shapes = {
        "q_proj": (width, width),
        "k_proj": (width, width),
        "v_proj": (width, width),
        "o_proj": (width, width),
    }
    mlp = {
        "gate_proj": (inner_width, width),
        "up_proj": (inner_width, width),
        "down_proj": (width, inner_width),
    }
    weights = {"model.embed_tokens.weight": _normal(rng, (VOCABULARY, width), 0.02)}
    for layer in range(size.layers):
        prefix = f"model.layers.{layer}"
        for part, group in (("self_attn", shapes), ("mlp", mlp)):
            for name, shape in group.items():
                scale = 0.05 / math.sqrt(2 * size.layers) if name in ("o_proj", "down_proj") else 0.05
                weights[f"{prefix}.{part}.{name}.weight"] = _normal(rng, shape, scale)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{prefix}.{norm}.weight"] = np.ones(width, np.float32)
    weights["model.norm.weight"] = np.ones(width, np.float32)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", model_config("float32", size))
    write_generation_config(folder)


def _normal(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> np.ndarray:
    return (scale * rng.standard_normal(shape)).astype(np.float32)


def write_generation_config(folder: Path) -> None:
    config = {"do_sample": True, "eos_token_id": SPECIAL.index(END), "pad_token_id": SPECIAL.index(PAD)}
    write_json(folder / "generation_config.json", {**config, "max_new_tokens": SFT["max_completion_tokens"]})


def write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def run_sft(work: Path, seed: int) -> None:
    """Fine-tune by the engine, as the web application would; its log goes to the terminal."""
    config = {
        "model": str(work / "start"),
        "train_data": str(work / "demonstrations.jsonl"),
        "seed": seed,
        **SFT,
    }
    write_json(work / "sft.json", config)
    command = [sys.executable, "-m", "training.engine", "sft", str(work / "sft.json"), str(work / "sft")]
    subprocess.run(command, check=True)


def publish(trained: Path, start: Path, out: Path) -> None:
    """Write the trained weights in half precision, beside the tokenizer and the configuration."""
    out.mkdir(parents=True, exist_ok=True)
    weights = {
        name: value.astype(np.float16) for name, value in load_file(trained / "model.safetensors").items()
    }
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copyfile(start / name, out / name)
    write_json(out / "config.json", model_config("float16"))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Build the demo's first policy from a seed.")
    parser.add_argument("--out", type=Path, default=FOLDER / "policy", help="folder to write the policy to")
    parser.add_argument("--seed", type=int, default=1, help="seed of the demonstrations and the weights")
    parser.add_argument(
        "--work", type=Path, default=Path("var/demo-build"), help="folder for what is made on the way"
    )
    parser.add_argument("--prompts", action="store_true", help="write prompts.jsonl anew and do nothing else")
    options = parser.parse_args(arguments)
    if options.prompts:
        write_rows(PROMPTS, draw_prompts(PROMPTS_PER_SITUATION, PROMPTS_SEED))
    else:
        build(options.out, options.seed, options.work)


if __name__ == "__main__":
    main()
