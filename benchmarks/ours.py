"""Our side of a job, in our environment: the engine as it runs, with a meter at its ends.

    python -m benchmarks.ours JOB.json

Guards that would stop a run or an update early are opened wide, and the price of KL stays where it is: the peer
has neither. What the guards look at is computed all the same.
"""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import wraps
from types import ModuleType
from typing import Any

import peft  # noqa: F401 (else its first use would count as memory of the training)

from benchmarks.jobs import read_rows, repeated, take_job
from benchmarks.meter import Meter, begin
from training.engine import grpo, online, ppo, reward_model, sharing  # noqa: F401 (the same)
from training.engine.batches import Encoder
from training.engine.config import METHODS, Generate
from training.engine.generation import CACHE_FACTOR, Sampling, sample
from training.engine.loading import load_policy
from training.engine.networks import generator
from training.engine.records import PromptRecord, read_records
from training.engine.runtime import settle
from training.engine.workspace import StopRequested, Workspace

NEVER = 1_000_000  # steps
PASS_TOKENS = 2048  # of one forward pass
PLAIN: dict[str, Any] = {
    "warmup_share": 0.0,
    "checkpoint_every_steps": NEVER,
    "micro_batch_tokens": PASS_TOKENS,
}
UNGUARDED: dict[str, Any] = {
    "kl_horizon": 10**12,
    "kl_budget_nats": 1e6,
    "update_kl_limit_nats": 1e6,
    "min_distinct_2": 0.0,
    "max_identical_share": 1.0,
    "max_repeated_share": 1.0,
    "max_length_factor": 1e6,
    "min_entropy": 0.0,
}
# Each job's training itself: the function of a module that does nothing else.
TRAINING: dict[str, tuple[ModuleType, str]] = {
    "reward": (reward_model, "take_course"),
    "grpo": (grpo, "train_online"),
    "ppo": (ppo, "train_online"),
}
METHOD: dict[str, Callable[..., dict[str, Any]]] = {
    "reward": reward_model.train_reward_model,
    "grpo": grpo.train_with_grpo,
    "ppo": ppo.train_with_ppo,
}

Settings = Mapping[str, Any]


def reward_arguments(settings: Settings) -> dict[str, Any]:
    """For the engine's `reward`."""
    return {**PLAIN, **settings, "log_every_steps": NEVER}


def grpo_arguments(settings: Settings) -> dict[str, Any]:
    """For the engine's `grpo`, the price of KL in the loss and of each token for itself, as the peer has it."""
    kl = {"kl_in_loss": True, "kl_gradient": "token"}
    return {**PLAIN, **UNGUARDED, **settings, **kl, "length_divisor": "tokens"}


def ppo_arguments(settings: Settings) -> dict[str, Any]:
    """For the engine's `ppo`. The peer has one learning rate, no warm-up of the critic and no limit of gradients."""
    return {
        **PLAIN,
        **UNGUARDED,
        **settings,
        "critic_learning_rate": settings["learning_rate"],
        "critic_warmup_steps": 0,
        "max_grad_norm": 1e9,
    }


# What a job says beside its settings, and the engine has as a setting.
OWN = ("model", "reward_model", "prompts", "train_data", "seed", "threads", "precision")
ARGUMENTS = {"reward": reward_arguments, "grpo": grpo_arguments, "ppo": ppo_arguments}


def run_training(job: dict[str, Any]) -> dict[str, Any]:
    """Any method that trains; a unit is a pair or an episode."""
    meter, what = begin(job), job["what"]
    workspace = Workspace(job["out"])
    config = METHODS[what].model_validate(job_config(job))
    workspace.open(config)
    start_at(meter, *TRAINING[what])
    stop_at_metrics(meter, workspace)
    result = METHOD[what](config, workspace)
    workspace.finish(result)
    workspace.close()
    if stopped := result.get("stopped_by"):
        raise RuntimeError(f"a guard stopped the run: {stopped}")
    settings = job["settings"]
    if what == "reward":
        units = settings["epochs"] * len(read_rows(job["train_data"]))
    else:
        units = settings["steps"] * settings["batch_size"]
    return meter.figures() | {"units": units, "model": f"{job['out']}/model"}


def job_config(job: dict[str, Any]) -> dict[str, Any]:
    """What the engine is told: the job's settings, its own names of them, and what `adapters` asks for."""
    config = ARGUMENTS[job["what"]](job["settings"])
    own = {name: job[name] for name in OWN if name in job}
    return {**config, **own, **job.get("adapters", {})}


def run_sampling(job: dict[str, Any]) -> dict[str, Any]:
    """Answers to prompts; a unit is a token of an answer, its end included."""
    meter, settings = begin(job), job["settings"]
    config = Generate(
        model=job["model"],
        prompts=job["prompts"],
        threads=job["threads"],
        precision=job.get("precision", "float32"),
        max_prompt_tokens=settings["max_prompt_tokens"],
        max_completion_tokens=settings["max_completion_tokens"],
    )
    policy = load_policy(config.model, config, settle(config))
    rows = repeated(read_records(config.prompts, PromptRecord), settings["answers"])
    encoder = Encoder(policy.tokenizer, policy.end_tokens, config)
    ids = encoder.prompts([row.messages for row in rows])
    how = Sampling(config.max_completion_tokens, (settings["temperature"],))
    # So many answers at once: what the cache holds is a multiple of the tokens of one pass.
    width = max(map(len, ids)) + config.max_completion_tokens
    budget = math.ceil(settings["batch_size"] * width / CACHE_FACTOR)

    def answer(prompts: list[list[int]]) -> int:
        sampled = sample(policy, prompts, how, generator(job["seed"], "sampling"), budget)
        return sum(len(completion.tokens) for completion in sampled)

    answer(ids[: settings["batch_size"]])
    meter.start()
    tokens = answer(ids)
    meter.stop()
    return meter.figures() | {"units": tokens}


class _GoesOn(Exception):
    """All is as it was at the checkpoint."""


def run_resume(job: dict[str, Any]) -> dict[str, Any]:
    """PPO that stops after some iterations; with `stop_after` 0, how soon its next process is as far."""
    config = METHODS["ppo"].model_validate(job_config(job | {"what": "ppo"}))
    workspace = Workspace(job["out"])
    workspace.open(config)
    if job["stop_after"]:
        stop_after(job["stop_after"], workspace)
        with suppress(StopRequested):
            ppo.train_with_ppo(config, workspace)
        return {}
    took: dict[str, float] = {}
    resume = online.OnlineState.resume

    def timed(state: online.OnlineState) -> int:
        began = time.monotonic()
        if not resume(state):
            raise RuntimeError(f"{job['out']} holds no checkpoint")
        ended = time.monotonic()
        took.update(seconds=ended - job["launched"], checkpoint_seconds=ended - began)
        raise _GoesOn

    online.OnlineState.resume = timed  # type: ignore[method-assign]
    with suppress(_GoesOn):
        ppo.train_with_ppo(config, workspace)
    return took


def start_at(meter: Meter, module: ModuleType, name: str) -> None:
    """The meter starts when this function of the engine is called."""
    function = getattr(module, name)

    @wraps(function)
    def timed(*arguments: Any, **named: Any) -> Any:
        meter.start()
        return function(*arguments, **named)

    setattr(module, name, timed)


def stop_at_metrics(meter: Meter, workspace: Workspace) -> None:
    """And stops with each row of metrics: after the last one come checkpoint, final measurement and the model."""
    write = workspace.events.metrics

    def timed(step: int, metrics: dict[str, float]) -> None:
        meter.stop()
        write(step, metrics)

    workspace.events.metrics = timed  # type: ignore[method-assign]


def stop_after(steps: int, workspace: Workspace) -> None:
    """As if somebody had asked for it while so many iterations were done."""
    write = workspace.events.metrics

    def asking(step: int, metrics: dict[str, float]) -> None:
        workspace.stopping = step >= steps
        write(step, metrics)

    workspace.events.metrics = asking  # type: ignore[method-assign]


RUNNERS = {
    **dict.fromkeys(TRAINING, run_training),
    "sampling": run_sampling,
    "resume": run_resume,
}

if __name__ == "__main__":
    take_job(RUNNERS)
