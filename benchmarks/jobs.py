"""What both sides are told: one job is one file, the same for both but for the folder to write to.

Standard library alone, since the peer's environment holds nothing of ours.
"""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# What our engine has no setting for; the peer is set to the same.
ADAM = {"betas": (0.9, 0.95), "epsilon": 1e-5}

ONLINE = {
    "batch_size": 64,
    "minibatch_size": 32,
    "temperature": 1.0,
    "max_prompt_tokens": 64,
    "max_completion_tokens": 64,
    "missing_eos_penalty": 1.0,
    "reward_clip": 5.0,
    "clip_range": 0.2,
    "weight_decay": 0.0,
}
# What each kind of job is told, by names that mean the same to both sides; learning rates are the small model's.
SETTINGS: dict[str, dict[str, Any]] = {
    "reward": {
        "epochs": 1,
        "batch_size": 16,
        "learning_rate": 1e-3,
        "center_coefficient": 0.01,
        "max_grad_norm": 1.0,
        "weight_decay": 0.0,
        "max_prompt_tokens": 64,
        "max_completion_tokens": 80,
    },
    "grpo": {
        **ONLINE,
        "steps": 20,
        "samples_per_prompt": 8,
        "epochs": 1,
        "learning_rate": 5e-4,
        "kl_coefficient": 0.05,
        "clip_range_high": 0.28,
        "max_grad_norm": 1.0,
    },
    "ppo": {
        **ONLINE,
        "steps": 12,
        "epochs": 4,
        "learning_rate": 3e-4,
        "kl_coefficient": 0.1,
        "discount": 1.0,
        "gae_lambda": 0.95,
        "value_clip_range": 0.2,
    },
    "sampling": {
        "answers": 1024,
        "batch_size": 64,
        "temperature": 1.0,
        "max_prompt_tokens": 64,
        "max_completion_tokens": 64,
    },
}
# By size of the model: what differs from the above.
SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "small": {},
    "large": {
        "grpo": {"learning_rate": 2e-4, "steps": 6},
        "ppo": {"learning_rate": 1e-4, "steps": 6},
        "sampling": {"answers": 256},
    },
}

Runner = Callable[[dict[str, Any]], dict[str, Any]]


def take_job(runners: Mapping[str, Runner]) -> None:
    """Do the job of the file named on the command line; the last line of output is what was measured."""
    job = json.loads(Path(sys.argv[1]).read_text())
    figures = runners[job["what"]](job)
    print(json.dumps(figures), flush=True)


def read_rows(path: str) -> list[dict[str, Any]]:
    """The objects of a file of JSON Lines."""
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def repeated(rows: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """So many rows, from the first one on, as often round as it takes."""
    return [rows[number % len(rows)] for number in range(count)]
