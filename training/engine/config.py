"""What can be set for each method: one description per field, with its unit and range.

From these come the forms, the API schema, `--help` and the docs. Standard library and pydantic only.
"""

import json
import re
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator


class EngineError(Exception):
    """A config or data file that cannot be used: one sentence that names the place. Exit code 2."""


class Settings(BaseModel):
    """What every method is told."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )

    # What each named model must be: a policy where nothing is said.
    model_kinds: ClassVar[dict[str, str]] = {"reward_model": "reward", "judge_model": "reward"}

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
        256, ge=1, le=1_000_000, description="Longest prompt, in tokens; what is longer is cut from the left."
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
    checkpoint_every_steps: int = Field(
        50, ge=1, description="Steps between two checkpoints; at most so many are lost to a crash."
    )


class Sft(Training):
    """Supervised fine-tuning: learn to answer as demonstrations do."""

    train_data: str = Field(
        min_length=1,
        description="Demonstrations to learn from: JSON Lines with prompt and completion.",
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
    log_every_steps: int = Field(10, ge=1, description="Steps between two rows of metrics.")


class Reward(Training):
    """Reward model: learn from preferences which of two completions people would choose."""

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
    epochs: int = Field(3, ge=1, le=100, description="Times each preference is seen.")
    batch_size: int = Field(32, ge=1, description="Preferences per optimiser step.")
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


class CallableReward(BaseModel):
    """A reward computed by a Python function `function(prompts, completions) -> list of numbers`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    kind: Literal["callable"] = Field("callable", description="The sort of term: a Python callable.")
    path: str = Field(
        pattern=r"^[\w.]+:\w+$", description="Where the function is: `package.module:function`."
    )
    weight: float = Field(1.0, description="Factor on the term before terms are added.")


class Ppo(Training):
    """Proximal policy optimisation: sample, score, and make the better completions more likely."""

    reference_model: str | None = Field(
        None, description="Policy that the KL divergence is measured against; null takes `model`."
    )
    reward_model: str | None = Field(
        None,
        description="Reward model to please, which the critic starts from as well: a folder; null takes "
        "`rewards` alone.",
        examples=["path/to/reward_model"],
    )
    rewards: tuple[CallableReward, ...] = Field(
        (), strict=False, description="Further terms of the reward, each with its weight."
    )
    prompts: str = Field(
        min_length=1,
        description="Prompts to sample for: JSON Lines with prompt as text or messages.",
        examples=["path/to/prompts.jsonl"],
    )
    steps: int = Field(
        60, ge=1, le=1_000_000, description="Iterations: each samples a batch, then learns from it."
    )
    batch_size: int = Field(128, ge=2, description="Completions sampled per iteration.")
    samples_per_prompt: int = Field(1, ge=1, le=64, description="Completions of each prompt in a batch.")
    minibatch_size: int = Field(
        64, ge=1, description="Completions per optimiser update; no more than the batch has."
    )
    epochs: int = Field(2, ge=1, le=20, description="Times each batch is learned from.")
    temperature: float = Field(
        1.0, gt=0, le=10, description="Sampling temperature; divides the logits in every place."
    )
    learning_rate: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Highest learning rate of the policy; null suits its size: 0.4 / sqrt(parameters), "
        "at most 3e-4; ten times that for adapters.",
    )
    critic_learning_rate: float | None = Field(
        None, gt=0, le=1, description="Highest learning rate of the critic; null is 3 times the policy's."
    )
    critic_warmup_steps: int = Field(3, ge=0, description="First iterations in which only the critic learns.")
    discount: float = Field(1.0, gt=0, le=1, description="Discount per token (gamma).")
    gae_lambda: float = Field(
        0.95, ge=0, le=1, description="Trade of bias and variance in the advantages (lambda)."
    )
    clip_range: float = Field(
        0.2, gt=0, lt=1, description="How far the probability ratio of a token may leave 1 and still teach."
    )
    value_clip_range: float | None = Field(
        None, gt=0, description="How far a value may move in one batch and still teach; null: any way."
    )
    entropy_coefficient: float = Field(
        0.0, ge=0, le=1, description="Weight of the entropy bonus, per nat and token."
    )
    update_kl_limit_nats: float | None = Field(
        None,
        gt=0,
        description="KL per completion between the old and the new policy, in nats, at which an iteration stops "
        "learning; null: a tenth of the budget.",
    )
    kl_coefficient: float = Field(
        0.05, ge=0, le=100, description="First price of KL to the reference, in reward per nat."
    )
    kl_target_nats: float | None = Field(
        None,
        gt=0,
        description="KL per completion, in nats, that the price is steered to; null: 0.6 of the budget.",
    )
    kl_horizon: int = Field(
        1000,
        ge=1,
        description="Completions over which the price of KL can change by a factor of about 1.2.",
    )
    kl_budget_nats: float = Field(
        10.0,
        gt=0,
        description="Greatest exact KL to the reference, in nats per completion; beyond it the run stops.",
    )
    missing_eos_penalty: float = Field(
        1.0, ge=0, description="Taken from the reward of a completion that was cut before its end."
    )
    reward_clip: float = Field(
        5.0, gt=0, description="Rewards are limited to plus and minus this, in deviations."
    )
    min_distinct_2: float = Field(
        0.02,
        ge=0,
        le=1,
        description="Smallest share of distinct word pairs over a batch; less stops the run.",
    )
    max_identical_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Greatest share of a batch that may be one and the same completion; more stops the run.",
    )
    max_repeated_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Greatest share of repeated 3-grams within completions; more stops the run.",
    )
    min_entropy: float = Field(
        0.005, ge=0, description="Smallest entropy, in nats per token; less stops the run."
    )
    checkpoint_every_steps: int = Field(
        5, ge=1, description="Iterations between two checkpoints; at most so many are lost to a crash."
    )

    @property
    def kl_target(self) -> float:
        """Nats per completion; below the budget, so that the price acts before the guard does."""
        return self.kl_target_nats or 0.6 * self.kl_budget_nats

    @property
    def update_kl_limit(self) -> float:
        """Nats per completion; long completions add up what each token moves."""
        return self.update_kl_limit_nats or 0.1 * self.kl_budget_nats

    @model_validator(mode="after")
    def _check_rewards(self) -> Self:
        if self.reward_model is None and not self.rewards:
            raise ValueError("reward_model: name a reward model, or give at least one of `rewards`")
        if self.batch_size % self.samples_per_prompt:
            raise ValueError("batch_size: must be a multiple of samples_per_prompt")
        if self.kl_target > self.kl_budget_nats:
            raise ValueError("kl_target_nats: may not be greater than kl_budget_nats")
        return self


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
    top_k: int = Field(0, ge=0, description="Sample from so many of the likeliest tokens; 0 from all.")
    top_p: float = Field(
        1.0, gt=0, le=1, description="Sample from the likeliest tokens of this total probability."
    )


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
    prompts: str = Field(
        min_length=1,
        description="Prompts to answer: JSON Lines with prompt as text or messages.",
        examples=["path/to/prompts.jsonl"],
    )
    samples_per_prompt: int = Field(1, ge=1, le=1024, description="Completions of each prompt and model.")
    temperature: float = Field(
        1.0, ge=0, le=10, description="Sampling temperature; divides the logits, 0 is greedy."
    )


METHODS: dict[str, type[Settings]] = {
    "sft": Sft,
    "reward": Reward,
    "ppo": Ppo,
    "generate": Generate,
    "score": Score,
    "evaluate": Evaluate,
}

MODEL_FIELDS = ("model", "reference_model", "reward_model", "baseline_model", "judge_model")
FILE_FIELDS = ("train_data", "eval_data", "prompts", "completions")


def default_config(method: str) -> dict[str, Any]:
    """Every field of a method: its default, or an example where it must be given."""
    config: dict[str, Any] = {}
    for name, field in METHODS[method].model_fields.items():
        # An optional field with an example shows it: a config without any reward would be refused.
        config[name] = field.examples[0] if field.examples else field.get_default()
    return json.loads(json.dumps(config))


def describe(method: str) -> str:
    """The help of a method: each field with its type, default, meaning, unit and range."""
    model = METHODS[method]
    lines = [f"{method}: {model.__doc__}", ""]
    for name, field in model.model_fields.items():
        default = "required" if field.is_required() else f"default {json.dumps(field.default)}"
        limits = ", ".join(limit for part in field.metadata if (limit := _limit(part)))
        bounds = f"; {limits}" if limits else ""
        lines += [
            f"  {name} ({_type_name(field.annotation)}; {default}{bounds})",
            f"      {field.description}",
        ]
    return "\n".join(lines)


def _limit(part: Any) -> str:
    for attribute, sign in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<")):
        if (value := getattr(part, attribute, None)) is not None:
            return f"{sign} {value:g}"
    return ""


def _type_name(annotation: Any) -> str:
    if isinstance(annotation, UnionType):
        return " or ".join(_type_name(part) for part in get_args(annotation))
    if annotation is type(None):
        return "null"
    if hasattr(annotation, "__name__") and not get_args(annotation):
        return {"str": "text", "int": "integer", "float": "number"}.get(annotation.__name__, "object")
    arguments = get_args(annotation)
    if arguments and all(isinstance(part, str) for part in arguments):
        return " | ".join(arguments)
    return "list"


def load_config(method: str, path: str | Path) -> Settings:
    """Read and check a config file. Raises EngineError naming file, line and field."""
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise EngineError(f"{path}: cannot be read ({error})") from error
    try:
        values = json.loads(text)
    except ValueError as error:
        raise EngineError(f"{path}: not JSON ({error})") from error
    if not isinstance(values, dict):
        raise EngineError(f"{path}: must hold a JSON object")
    try:
        return METHODS[method].model_validate(values)
    except ValidationError as error:
        raise EngineError(f"{path}{_line_of(text, error)}: {explain(error)}") from error


def explain(error: ValidationError) -> str:
    """The first thing that pydantic found wrong, as a sentence with the field's name."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{field}: there is no such setting"
    if first["type"] == "missing":
        return f"{field}: must be given"
    message = first["msg"].removeprefix("Value error, ")
    if not field:
        return message
    return f"{field}: {message[0].lower()}{message[1:]}, not {_short(first.get('input'))}"


def _short(value: Any) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _line_of(text: str, error: ValidationError) -> str:
    location = error.errors(include_url=False)[0]["loc"]
    found = re.search(rf'"{re.escape(str(location[0]))}"\s*:', text) if location else None
    return f" line {text.count(chr(10), 0, found.start()) + 1}" if found else ""


def check_sources(config: Settings) -> None:
    """Raise EngineError when a named model folder or data file cannot be used, before weights load."""
    for name in MODEL_FIELDS:
        if source := getattr(config, name, None):
            _check_model(name, source, config.model_kinds.get(name, "policy"))
    for name in FILE_FIELDS:
        source = getattr(config, name, None)
        if source and not Path(source).is_file():
            raise EngineError(f"{name}: there is no file {source}")


def _check_model(name: str, source: str, kind: str) -> None:
    folder = Path(source)
    if not folder.is_dir():
        if folder.is_absolute() or source.startswith(".") or source.count("/") > 1:
            raise EngineError(f"{name}: there is no folder {source}")
        return  # A hub name; transformers says whether it can be reached.
    if not (folder / "config.json").is_file():
        raise EngineError(f"{name}: {source} has no config.json, so it is not a model folder")
    if not any(folder.glob("*.safetensors")):
        raise EngineError(f"{name}: {source} has no *.safetensors; pickled weights are not loaded")
    is_reward = "ForSequenceClassification" in (folder / "config.json").read_text()
    if is_reward != (kind == "reward"):
        is_a, wanted = ("reward model", "policy") if is_reward else ("policy", "reward model")
        raise EngineError(f"{name}: {source} is a {is_a}, not a {wanted}")
