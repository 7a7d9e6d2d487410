"""The task both sides work on: a policy, prompts, preferences and a reward model, made once and kept.

The preferences are what simulated annotators say of the policy's own samples, as in a rehearsal, ties left out:
the peer has no word for them.
"""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from benchmarks.jobs import read_rows
from docs.draw_learning_curves import DEMO, engine, split_prompts
from training.demo import build, recipe
from training.demo.gold import gold_preference

SEED = 1
SAMPLES_PER_PROMPT = 8  # in pairs
PAIRS = {"train": 1600, "eval": 400}
TIMED_PAIRS = {"small": 1600, "large": 640}  # from which both sides learn a reward model
LORA_RANK = 8
ADAPTER_PAIRS = 160  # The reward model on a shared base serves to measure memory alone.
LARGE = build.Size(layers=6, width=352, heads=11, inner_width=960)  # 9.6 million parameters
DEMONSTRATIONS = 8_000


def make_task(work: Path, size: str) -> dict[str, str]:
    """Files and folders by name; what is there already is not made again. size: small or large."""
    listing = work / "task.json"
    if listing.exists():
        return {name: str(work / place) for name, place in json.loads(listing.read_text()).items()}
    work.mkdir(parents=True, exist_ok=True)
    policy = copy_small_policy(work / "policy") if size == "small" else train_large_policy(work)
    task = {"policy": str(policy)}
    for name, prompts in zip(("train", "eval"), split_prompts(work), strict=True):
        sampling = {**recipe.GENERATE, "model": str(policy), "prompts": str(prompts), "seed": SEED}
        samples = engine(
            "generate", work / f"samples-{name}", sampling | {"samples_per_prompt": SAMPLES_PER_PROMPT}
        )
        rows = preferences(read_rows(str(samples / "completions.jsonl")), PAIRS[name], name)
        task |= {f"{name}_prompts": str(prompts), f"{name}_pairs": write_rows(work / f"{name}.jsonl", rows)}
    everything, rows = task["train_pairs"], read_rows(task["train_pairs"])
    few = write_rows(work / "few.jsonl", rows[:ADAPTER_PAIRS])
    task["train_pairs"] = write_rows(work / "timed.jsonl", rows[: TIMED_PAIRS[size]])
    reading = {**recipe.REWARD, "members": 1, "epochs": 1, "model": str(policy), "seed": SEED}
    reading |= {"prompts": task["train_prompts"]}
    learning = {
        "reward": {"train_data": everything, "eval_data": task["eval_pairs"]},
        "reward_adapter": {"train_data": few, "lora_rank": LORA_RANK, "normalization_samples": 64},
    }
    for name, settings in learning.items():
        task[name] = str(engine("reward", work / name, reading | settings) / "model")
    # Within the folder, which may be moved.
    places = {name: str(Path(place).relative_to(work)) for name, place in task.items()}
    listing.write_text(json.dumps(places, indent=1))
    return task


def copy_small_policy(folder: Path) -> Path:
    """The demo's policy in float32, in which both sides compute."""
    folder.mkdir(exist_ok=True)
    source = DEMO / "policy"
    weights = {
        name: value.astype(np.float32) for name, value in load_file(source / "model.safetensors").items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copyfile(source / name, folder / name)
    config = json.loads((source / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float32"}, indent=1))
    return folder


def train_large_policy(work: Path) -> Path:
    """A larger policy with the demo's tokenizer, which has seen a few demonstrations: enough to write sentences."""
    start = work / "start"
    build.write_random_model(start, SEED, LARGE)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(DEMO / "policy" / name, start / name)
    asked = frozenset(row["prompt"] for row in build.read_prompts())
    rows = list(build.demonstrations(DEMONSTRATIONS, SEED, leave_out=asked))
    data = write_rows(work / "demonstrations.jsonl", rows)
    config = {**build.SFT, "batch_size": 16, "learning_rate": 1.5e-3, "packing": True, "threads": 1}
    config |= {"model": str(start), "train_data": data, "seed": SEED, "micro_batch_tokens": 1024}
    return engine("sft", work / "policy", config) / "model"


def preferences(samples: list[dict[str, Any]], count: int, name: str) -> list[dict[str, Any]]:
    """So many pairs of samples of one prompt with a noisy judge's choice. Raises ValueError for too few."""
    rng = random.Random(f"{SEED} {name}")
    pairs = []
    for one, other in zip(samples[::2], samples[1::2], strict=True):
        prompt, texts = one["prompt"][-1]["content"], (one["completion"], other["completion"])
        if texts[0] == texts[1] or not all(text.strip() for text in texts):
            continue
        answer = gold_preference(prompt, *texts, rng)
        if answer.preferred is not None:
            chosen, rejected = texts[answer.preferred], texts[1 - answer.preferred]
            pairs.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    rng.shuffle(pairs)
    if len(pairs) < count:
        raise ValueError(f"{len(pairs)} pairs of {name} are fewer than the {count} wanted")
    return pairs[:count]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    """JSON Lines; returns the path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)
