"""What can be set for each method that learns from files or changes no weights, and what all methods share.

One description per field, with its unit and range: from these come the forms, the API schema, `--help` and
the docs. Standard library and pydantic only.
"""

import ipaddress
import re
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

SERVER_URL = re.compile(
    r"(https?)://([a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?((?:/[a-z0-9._~-]+)*)/?",
    re.IGNORECASE | re.ASCII,
)


class EngineError(Exception):
    """A config, data file, disk or server that cannot be used: one sentence that names the place. Exit code 2."""


def server_url(text: str) -> str:
    """A server's base URL in its one spelling, so that two that are the same are equal.

    Raises ValueError for anything else, in words that do not repeat it: there may be a password in it.
    """
    if "@" in text or "?" in text or "#" in text:
        raise ValueError(
            "may hold no name, password or key; the key has a place of its own in the environment"
        )
    wrong = ValueError("must be the base URL of a server, such as http://host:8000/v1")
    if not (found := SERVER_URL.fullmatch(text)):
        raise wrong
    scheme, host, port, path = found.groups()
    if port and not 0 < int(port) < 2**16:
        raise wrong
    if host.startswith("["):
        try:
            host = f"[{ipaddress.IPv6Address(host[1:-1])}]"
        except ValueError:
            raise wrong from None
    return f"{scheme.lower()}://{host.lower()}{f':{int(port)}' if port else ''}{path}"


class Settings(BaseModel):
    """What every method is told."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )

    # What each named model must be: a policy where nothing is said.
    model_kinds: ClassVar[dict[str, str]] = {
        "reward_model": "reward",
        "held_out_reward_model": "reward",
        "judge_model": "reward",
        "second_judge_model": "reward",
    }

    model: str = Field(
        min_length=1,
        description="The model to start from: a folder in the Hugging Face layout, or a hub name.",
        examples=["path/to/model"],
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of every random draw of the run.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where to compute; auto takes the first GPU when there is one, else the CPU."
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Number format of the forward pass; auto is float32 on a CPU and bfloat16 on a GPU. "
        "Weights, optimiser and log-probabilities are float32 either way.",
    )
    threads: int = Field(
        0, ge=0, le=1024, description="CPU threads to compute with; 0 leaves the number to torch."
    )
    max_prompt_tokens: int = Field(
        256,
        ge=1,
        le=1_000_000,
        description="Longest prompt, in tokens; what is longer is cut from the left, and what is longer than the model's "
        "context is an error.",
    )
    long_prompts: Literal["refuse", "cut"] = Field(
        "refuse",
        description="What becomes of a prompt that is longer than a model's whole context: refuse the file and "
        "name the line, or cut it from the left like any beyond max_prompt_tokens.",
    )
    max_completion_tokens: int = Field(
        128, ge=1, le=1_000_000, description="Longest completion, in tokens, its end token included."
    )
    micro_batch_tokens: int = Field(
        4096,
        ge=1,
        description="Tokens in one forward pass, padding included; bounds memory, does not change results.",
    )


class Training(Settings):
    """What every method that changes weights is told."""

    weight_decay: float = Field(
        0.0, ge=0, le=1, description="Decoupled weight decay of matrices, as a share of the learning rate."
    )
    warmup_share: float = Field(
        0.03, ge=0, le=1, description="Share of the steps in which the learning rate rises from 0."
    )
    max_grad_norm: float = Field(
        1.0, gt=0, description="Gradients are scaled down to this norm when they are longer."
    )
    lora_rank: int = Field(
        0,
        ge=0,
        le=1024,
        description="Rank of the low-rank adapters to train; 0 trains all weights. Adapters are merged "
        "into the model that is saved.",
    )
    lora_alpha: float = Field(
        32.0, gt=0, description="Scale of the adapters' contribution, divided by their rank."
    )
    gradient_checkpointing: bool = Field(
        False,
        description="Keep no activations between layers and compute them anew in the backward pass: a third "
        "more time for much less memory. Does not change results.",
    )
    checkpoint_every_steps: int = Field(
        50, ge=1, description="Steps between two checkpoints; at most so many are lost to a crash."
    )


class Sft(Training):
    """Supervised fine-tuning: learn to answer as demonstrations do."""

    train_data: str = Field(
        min_length=1,
        description="Demonstrations to learn from: JSON Lines with prompt and completion, or preferences, of "
        "which the chosen answer is learned.",
        examples=["path/to/demonstrations.jsonl"],
    )
    eval_data: str | None = Field(
        None, description="Demonstrations to report the loss on, never learned from: JSON Lines."
    )
    epochs: int = Field(3, ge=1, le=1000, description="Times each demonstration is seen.")
    batch_size: int = Field(64, ge=1, description="Demonstrations per optimiser step.")
    learning_rate: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Highest learning rate of the run; "
        "null suits the model's size: 0.4 / sqrt(parameters), at most 3e-4; ten times that for adapters.",
    )
    packing: bool = Field(
        False,
        description="Lay several demonstrations on one line, masked from each other, instead of padding each.",
    )
    log_every_steps: int = Field(10, ge=1, description="Steps between two rows of metrics.")


class Reward(Training):
    """Reward model: learn from preferences which of two completions people would choose."""

    train_data: str = Field(
        min_length=1,
        description="Preferences to learn from: JSON Lines with prompt, chosen and rejected, or with prompt, "
        "completions and ranking.",
        examples=["path/to/train.jsonl"],
    )
    eval_data: str | None = Field(
        None,
        description="Preferences on other prompts, never learned from: accuracy is reported on these.",
    )
    replay_data: str | None = Field(
        None,
        description="Preferences of earlier rounds, of which each batch takes `replay_share`: JSON Lines.",
    )
    replay_share: float = Field(
        0.0, ge=0, lt=1, description="Share of each batch that is drawn from `replay_data`."
    )
    prompt_span: tuple[float, float] = Field(
        (0.0, 1.0),
        strict=False,
        description="From where to where, of 0 to 1, the hash of a prompt may lie for its preferences to be learned from. "
        "Two models with spans that do not overlap share no prompt.",
    )
    criteria: tuple[str, ...] = Field(
        (),
        strict=False,
        description="Names of criteria in the rows' `criteria`, each to be learned as a label of its own.",
    )
    criteria_coefficient: float = Field(
        1.0, ge=0, le=100, description="Weight of the criteria's loss, all of them together."
    )
    members: int = Field(
        1, ge=1, le=8, description="Members of the ensemble, which share all but the head; 1 is no ensemble."
    )
    prior_scale: float = Field(
        1.0,
        ge=0,
        le=100,
        description="Deviation of the fixed random function that is added to each of several members.",
    )
    policy_model: str | None = Field(
        None,
        description="Policy to be trained with this model: the spread of scores over its samples is reported.",
    )
    reference_model: str | None = Field(
        None,
        description="Policy on whose samples scores get mean 0 and deviation 1; null takes `model`.",
    )
    prompts: str | None = Field(
        None, description="Prompts of those samples: JSON Lines; null takes the prompts of `train_data`."
    )
    normalization_samples: int = Field(
        256, ge=16, le=100_000, description="Completions sampled to normalise the scores."
    )
    temperature: float = Field(
        1.0, gt=0, le=10, description="Sampling temperature of those completions; divides the logits."
    )
    epochs: int = Field(3, ge=1, le=100, description="Times each preference of `train_data` is seen.")
    batch_size: int = Field(32, ge=1, description="Judgments per optimiser step: pairs, or whole rankings.")
    learning_rate: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Highest learning rate of the run; "
        "null suits the model's size: 0.4 / sqrt(parameters), at most 3e-4; ten times that for adapters.",
    )
    center_coefficient: float = Field(
        0.01,
        ge=0,
        le=10,
        description="Weight of the term that keeps the two scores of a pair centred on zero.",
    )
    log_every_steps: int = Field(1, ge=1, description="Steps between two rows of metrics.")

    fsdp: bool = Field(
        False,
        description="Spread weights, gradients and Adam's moments over the processes that a launcher has started "
        "(fully sharded data parallelism), for a model that does not fit one GPU in training.",
    )

    @model_validator(mode="after")
    def _check_parts(self) -> Self:
        if self.fsdp and self.lora_rank:
            raise ValueError("fsdp: spreads weights that are trained; with lora_rank those are few")
        if (self.replay_data is None) != (self.replay_share == 0):
            raise ValueError("replay_share: goes with replay_data; give both, or neither")
        if len(set(self.criteria)) < len(self.criteria) or "" in self.criteria:
            raise ValueError("criteria: each needs a name of its own")
        low, high = self.prompt_span
        if not 0 <= low < high <= 1:
            raise ValueError("prompt_span: must be two shares from 0 to 1, the lower one first")
        return self


class Dpo(Training):
    """Direct preference optimisation: learn from preferences without a reward model."""

    train_data: str = Field(
        min_length=1,
        description="Preferences to learn from: JSON Lines with prompt, chosen and rejected.",
        examples=["path/to/train.jsonl"],
    )
    eval_data: str | None = Field(
        None,
        description="Preferences on other prompts, never learned from: accuracy is reported on these.",
    )
    reference_model: str | None = Field(
        None, description="Policy that log-probabilities are measured against; null takes `model`."
    )
    loss: Literal["sigmoid", "ipo"] = Field(
        "sigmoid",
        description="sigmoid is DPO: the margin may grow for ever; ipo pulls the margin per token to "
        "1 / (2 beta).",
    )
    beta: float = Field(
        0.1,
        gt=0,
        le=100,
        description="Implicit reward per nat of log-ratio to the reference; higher stays nearer to it.",
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="Share of the preferences that are taken to be the wrong way round."
    )
    sft_coefficient: float = Field(
        0.0,
        ge=0,
        le=100,
        description="Weight of the chosen answers' negative log-likelihood per token, which keeps them likely.",
    )
    epochs: int = Field(1, ge=1, le=100, description="Times each preference is seen.")
    batch_size: int = Field(32, ge=1, description="Preferences per optimiser step.")
    learning_rate: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Highest learning rate of the run; "
        "null suits the model's size: 0.4 / sqrt(parameters), at most 3e-4; ten times that for adapters.",
    )
    log_every_steps: int = Field(1, ge=1, description="Steps between two rows of metrics.")


class Generate(Settings):
    """Sample completions from a policy."""

    prompts: str = Field(
        min_length=1,
        description="Prompts to answer: JSON Lines with prompt as text or messages.",
        examples=["path/to/prompts.jsonl"],
    )
    samples_per_prompt: int = Field(2, ge=1, le=1024, description="Completions of each prompt.")
    temperatures: tuple[Annotated[float, Field(ge=0, le=10)], ...] = Field(
        (1.0,),
        strict=False,
        min_length=1,
        description="Sampling temperatures, taken in turn by the completions of a prompt; 0 is greedy.",
    )
    top_k: int = Field(
        0,
        ge=0,
        description="Sample from so many of the likeliest tokens; 0 from all, or as a server does by itself.",
    )
    top_p: float = Field(
        1.0, gt=0, le=1, description="Sample from the likeliest tokens of this total probability."
    )
    server: str | None = Field(
        None,
        description="Base URL of an OpenAI-compatible server that is asked for the completions, such as "
        "http://host:8000/v1; null samples here. A key that it wants is read from the environment variable "
        "TASTEMAKER_SERVER_KEY. What concerns this machine's own sampling and the length of prompts is left to the server.",
    )
    server_model_name: str | None = Field(
        None,
        max_length=200,
        pattern=r"^[^\x00-\x1f\x7f]+$",
        description="Name of the model that the server is asked for; null asks for `model` as it stands. "
        "Either way `model` need not exist here.",
    )
    server_length_name: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens",
        description="Name under which the server is told max_completion_tokens; some models of OpenAI know only "
        "the second.",
    )
    server_concurrency: int = Field(
        8, ge=1, le=1024, description="Requests that may be under way at the server at once."
    )
    server_timeout_seconds: float = Field(
        600.0,
        gt=0,
        le=86_400,
        description="Seconds after which a request that has no whole answer is given up.",
    )
    server_retries: int = Field(
        8,
        ge=0,
        le=100,
        description="Times a request is repeated that found no connection, took too long, or was answered with "
        "408, 409, 425, 429 or 5xx.",
    )
    server_backoff_seconds: float = Field(
        1.0,
        gt=0,
        le=60,
        description="Seconds before a request is first repeated; doubled each time up to 60, and longer where "
        "the server asks for that.",
    )

    @field_validator("server")
    @classmethod
    def _spell_server(cls, value: str | None) -> str | None:
        return None if value is None else server_url(value)

    @model_validator(mode="after")
    def _check_server(self) -> Self:
        if self.server is None and self.server_model_name is not None:
            raise ValueError("server_model_name: goes with server")
        return self


class Score(Settings):
    """Score completions with a reward model."""

    model_kinds: ClassVar[dict[str, str]] = {"model": "reward"}

    completions: str = Field(
        min_length=1,
        description="Completions to score: JSON Lines with prompt and completion.",
        examples=["path/to/completions.jsonl"],
    )


class Evaluate(Settings):
    """Hold a policy against a baseline: win rate, KL divergence, length, variety."""

    baseline_model: str = Field(
        min_length=1,
        description="Policy to compare with: a folder, or a hub name.",
        examples=["path/to/baseline"],
    )
    judge_model: str | None = Field(
        None, description="Reward model that says which completion wins; null leaves the win rate out."
    )
    second_judge_model: str | None = Field(
        None,
        description="Another reward model to ask as well, of other preferences or another seed than the one "
        "that the policy learned from; null asks one alone.",
    )
    prompts: str = Field(
        min_length=1,
        description="Prompts to answer: JSON Lines with prompt as text or messages.",
        examples=["path/to/prompts.jsonl"],
    )
    samples_per_prompt: int = Field(1, ge=1, le=1024, description="Completions of each prompt and model.")
    temperature: float = Field(
        1.0, ge=0, le=10, description="Sampling temperature; divides the logits, 0 is greedy."
    )
