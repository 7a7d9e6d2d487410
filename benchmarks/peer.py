"""The peer's side of a job, in the peer's environment: TRL's trainers and transformers' generate.

    python -m benchmarks.peer JOB.json

Set as somebody would who knows them: no log, no checkpoint, no gradient checkpointing, float32, and passes of
the size that was the fastest. Nothing of ours is loaded but the job and the meter. Each trainer's arguments are made by
a function of the job's settings alone, which a test holds against ours.
"""

from collections.abc import Mapping
from typing import Any

from benchmarks.jobs import ADAM, read_rows, repeated, take_job
from benchmarks.meter import Meter, begin

# Adam as our engine has it, the learning rate falling in a line from the first step, and nothing beside training.
PLAIN: dict[str, Any] = {
    "adam_beta1": ADAM["betas"][0],
    "adam_beta2": ADAM["betas"][1],
    "adam_epsilon": ADAM["epsilon"],
    "lr_scheduler_type": "linear",
    "warmup_steps": 0,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "logging_strategy": "no",
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}

PASS_PAIRS = 8  # of a forward pass: faster than 16 by a seventh, and 4 are no faster

Settings = Mapping[str, Any]


def reward_arguments(settings: Settings) -> dict[str, Any]:
    """For RewardConfig."""
    return {
        **PLAIN,
        "num_train_epochs": settings["epochs"],
        "per_device_train_batch_size": PASS_PAIRS,
        "gradient_accumulation_steps": settings["batch_size"] // PASS_PAIRS,
        "learning_rate": settings["learning_rate"],
        "center_rewards_coefficient": settings["center_coefficient"],
        "max_grad_norm": settings["max_grad_norm"],
        "weight_decay": settings["weight_decay"],
        "max_length": settings["max_prompt_tokens"] + settings["max_completion_tokens"],
    }


def grpo_arguments(settings: Settings) -> dict[str, Any]:
    """For GRPOConfig. It has no limit for prompts, and none of the task's is longer than ours.

    A pass is a whole minibatch; halves and quarters of one were no faster.
    """
    updates = settings["batch_size"] // settings["minibatch_size"]
    return {
        **PLAIN,
        "max_steps": settings["steps"] * settings["epochs"] * updates,
        "per_device_train_batch_size": settings["minibatch_size"],
        "steps_per_generation": updates,
        "num_generations": settings["samples_per_prompt"],
        "num_iterations": settings["epochs"],
        "learning_rate": settings["learning_rate"],
        "beta": settings["kl_coefficient"],
        "epsilon": settings["clip_range"],
        "epsilon_high": settings["clip_range_high"],
        "temperature": settings["temperature"],
        "max_completion_length": settings["max_completion_tokens"],
        "max_grad_norm": settings["max_grad_norm"],
        "weight_decay": settings["weight_decay"],
        "loss_type": "dapo",  # divided by the tokens of the step, as ours
        "scale_rewards": "none",
    }


def ppo_arguments(settings: Settings) -> dict[str, Any]:
    """For PPOConfig.

    It steps once for `gradient_accumulation_steps` passes, however many minibatches those are; minibatches of
    their own need the whole batch named as one device's, of which a pass then takes a minibatch. Its rate falls
    once an iteration, ours with each update: its first rate is lowered so that both have the same mean.
    """
    steps, minibatches = settings["steps"], settings["batch_size"] // settings["minibatch_size"]
    updates = steps * settings["epochs"] * minibatches
    lowered = (1 + 1 / updates) / (1 + 1 / steps)
    return {
        **PLAIN,
        "total_episodes": steps * settings["batch_size"],
        "per_device_train_batch_size": settings["batch_size"],
        "gradient_accumulation_steps": 1,
        "num_mini_batches": minibatches,
        "local_rollout_forward_batch_size": settings["batch_size"],
        "num_ppo_epochs": settings["epochs"],
        "learning_rate": lowered * settings["learning_rate"],
        "kl_coef": settings["kl_coefficient"],
        "cliprange": settings["clip_range"],
        "cliprange_value": settings["value_clip_range"],
        "gamma": settings["discount"],
        "lam": settings["gae_lambda"],
        "temperature": settings["temperature"],
        "response_length": settings["max_completion_tokens"],
        "missing_eos_penalty": settings["missing_eos_penalty"],
        "weight_decay": settings["weight_decay"],
        "vf_coef": 1.0,  # Adam divides it out again.
        "stop_token": "eos",
        "num_sample_generations": 0,
    }


def run_reward(job: dict[str, Any]) -> dict[str, Any]:
    """Preferences to a reward model."""
    import torch
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    meter = begin(job)
    settings = job["settings"]
    rows = [
        {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "chosen": [{"role": "assistant", "content": row["chosen"]}],
            "rejected": [{"role": "assistant", "content": row["rejected"]}],
        }
        for row in read_rows(job["train_data"])
    ]
    model = load_scorer(job["model"])
    # The same deviation of first scores as ours; transformers' own is the smaller 0.02.
    torch.nn.init.normal_(model.score.weight, std=(model.score.in_features + 1) ** -0.5)
    trainer = RewardTrainer(
        model=model,
        args=RewardConfig(output_dir=job["out"], seed=job["seed"], **reward_arguments(settings)),
        train_dataset=Dataset.from_list(rows),
        processing_class=load_tokenizer(job["model"]),
    )
    return train(trainer, meter, job) | {"units": settings["epochs"] * len(rows)}


def run_grpo(job: dict[str, Any]) -> dict[str, Any]:
    """Prompts and a reward model to a policy."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    meter = begin(job)
    settings = job["settings"]
    tokenizer = load_tokenizer(job["model"])

    def unfinished(completion_ids: list[list[int]], **_: Any) -> list[float]:
        ended = [ids[-1] == tokenizer.eos_token_id for ids in completion_ids]
        return [0.0 if end else -settings["missing_eos_penalty"] for end in ended]

    trainer = GRPOTrainer(
        model=load_policy(job["model"]),
        reward_funcs=[load_reward(job["reward_model"], settings["reward_clip"]), unfinished],
        reward_processing_classes=[load_tokenizer(job["reward_model"]), None],
        args=GRPOConfig(output_dir=job["out"], seed=job["seed"], **grpo_arguments(settings)),
        train_dataset=Dataset.from_list([{"prompt": messages} for messages in conversations(job)]),
        processing_class=tokenizer,
    )
    return train(trainer, meter, job) | {"units": settings["steps"] * settings["batch_size"]}


def run_ppo(job: dict[str, Any]) -> dict[str, Any]:
    """The same with a critic, which starts from the reward model with a new head, as ours."""
    import torch
    from datasets import Dataset
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    meter = begin(job)
    settings = job["settings"]
    tokenizer = load_tokenizer(job["model"])
    critic = load_scorer(job["reward_model"])
    torch.nn.init.zeros_(critic.score.weight)
    rows = [
        {
            "input_ids": tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, return_dict=True, tokenize=True
            )["input_ids"][-settings["max_prompt_tokens"] :]
        }
        for messages in conversations(job)
    ]
    trainer = PPOTrainer(
        args=PPOConfig(output_dir=job["out"], seed=job["seed"], **ppo_arguments(settings)),
        processing_class=tokenizer,
        model=load_policy(job["model"]),
        ref_model=load_policy(job["model"]),
        reward_model=load_reward(job["reward_model"], settings["reward_clip"]),
        value_model=critic,
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows[:1]),
    )
    return train(trainer, meter, job) | {"units": settings["steps"] * settings["batch_size"]}


def run_sampling(job: dict[str, Any]) -> dict[str, Any]:
    """Answers to prompts; a unit is a token up to and with the one that ends its answer."""
    import torch

    meter = begin(job)
    settings = job["settings"]
    tokenizer, policy = load_tokenizer(job["model"]), load_policy(job["model"]).eval()
    messages = repeated(conversations(job), settings["answers"])
    size = settings["batch_size"]
    batches = [
        tokenizer.apply_chat_template(
            messages[begin : begin + size],
            add_generation_prompt=True,
            padding=True,
            return_dict=True,
            return_tensors="pt",
        )
        for begin in range(0, len(messages), size)
    ]

    def answer(batch: Any) -> int:
        sampled = policy.generate(
            **batch,
            do_sample=True,
            temperature=settings["temperature"],
            top_k=0,
            top_p=1.0,
            max_new_tokens=settings["max_completion_tokens"],
        )
        # What stands after an answer's end is padding, which no policy of ours writes.
        return int((sampled[:, batch["input_ids"].shape[1] :] != tokenizer.pad_token_id).sum())

    with torch.inference_mode():
        answer(batches[0])
        meter.start()
        tokens = sum(answer(batch) for batch in batches)
        meter.stop()
    return meter.figures() | {"units": tokens}


def train(trainer: Any, meter: Meter, job: dict[str, Any]) -> dict[str, Any]:
    """The whole of it, timed; the model is saved afterwards."""
    meter.start()
    trainer.train()
    meter.stop()
    folder = f"{job['out']}/model"
    trainer.save_model(folder)
    load_tokenizer(job["model"]).save_pretrained(folder)
    return meter.figures() | {"model": folder}


def conversations(job: dict[str, Any]) -> list[list[dict[str, str]]]:
    """Prompts as messages."""
    return [[{"role": "user", "content": row["prompt"]}] for row in read_rows(job["prompts"])]


def load_tokenizer(folder: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def load_policy(folder: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def load_scorer(folder: str) -> Any:
    import torch
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32)


def load_reward(folder: str, limit: float) -> Any:
    """A reward model that gives what ours gives: scores above the policy's mean, limited to either side."""
    from torch import Tensor, nn

    class Head(nn.Module):
        def __init__(self, linear: nn.Linear, mean: float) -> None:
            super().__init__()
            self.linear, self.mean = linear, mean

        def forward(self, hidden: Tensor) -> Tensor:
            return (self.linear(hidden) - self.mean).clamp(-limit, limit)

    model = load_scorer(folder).eval()
    model.score = Head(model.score, model.config.score_mean)
    return model


RUNNERS = {"reward": run_reward, "grpo": run_grpo, "ppo": run_ppo, "sampling": run_sampling}

if __name__ == "__main__":
    take_job(RUNNERS)
