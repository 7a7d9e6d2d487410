"""How the demo project trains: engine settings per method, found by trying, enough for two CPU cores."""

from typing import Any

# One thread: on matrices this small a second one gains little, and where web and worker share the two
# cores, threads that wait for each other made every method several times slower.
COMMON: dict[str, Any] = {
    "threads": 1,
    "max_prompt_tokens": 64,
    "max_completion_tokens": 80,
    "micro_batch_tokens": 1024,  # what the processor's cache holds; 8192 takes a quarter longer
}
# Four members cost a fifth more time and no accuracy (docs/demo.md).
REWARD: dict[str, Any] = {**COMMON, "epochs": 2, "batch_size": 16, "learning_rate": 1e-3, "members": 4}
PPO: dict[str, Any] = {
    **COMMON,
    "steps": 40,
    "batch_size": 64,
    "minibatch_size": 32,
    "epochs": 2,
    "learning_rate": 5e-4,
    "critic_learning_rate": 1e-3,
    "critic_warmup_steps": 2,
    "kl_coefficient": 0.2,
    "kl_target_nats": 3.0,
    "kl_budget_nats": 15.0,
    "reward_spread_coefficient": 1.0,
}
ONLINE = (
    "steps", "batch_size", "minibatch_size", "learning_rate", "kl_coefficient", "kl_target_nats",
    "reward_spread_coefficient",
)  # fmt: skip
GRPO: dict[str, Any] = {**COMMON, **{name: PPO[name] for name in ONLINE}, "samples_per_prompt": 4}
RLOO: dict[str, Any] = {**GRPO, "minibatch_size": 64}
DPO: dict[str, Any] = {**COMMON, "epochs": 2, "batch_size": 16, "learning_rate": 3e-4}
GENERATE: dict[str, Any] = {**COMMON, "temperatures": [1.0]}
EVALUATE: dict[str, Any] = {**COMMON, "temperature": 1.0}
