"""What can be set for the methods that learn from their own samples, and for the rewards they learn by."""

from typing import Literal, Self

from pydantic import Field, model_validator

from training.engine.reward_settings import AnyRewardTerm, LengthReward, term_names
from training.engine.settings import Training

MINIBATCH_SIZE = 64  # where nothing is said, and the batch has as many


class Online(Training):
    """What every method that learns from its own samples is told."""

    reference_model: str | None = Field(
        None, description="Policy that the KL divergence is measured against; null takes `model`."
    )
    reward_model: str | None = Field(
        None,
        description="Reward model to please, which the critic of ppo starts from as well: a folder; null takes "
        "`rewards` alone.",
        examples=["path/to/reward_model"],
    )
    reward_model_weight: float = Field(
        1.0,
        ge=0,
        le=1e6,
        description="Factor on the reward model's score before the terms of `rewards` are added.",
    )
    reward_spread_coefficient: float = Field(
        0.0,
        ge=0,
        le=100,
        description="Times the spread of the reward model's members that is taken from their mean score.",
    )
    rewards: tuple[AnyRewardTerm, ...] = Field(
        (),
        strict=False,
        description='Further terms of the reward, a list of objects such as {"kind": "length", "maximum": 60, "weight": 0.5}; '
        "kinds and what each asks for: docs/rewards.md.",
    )
    share_base: bool = Field(
        True,
        description="With adapters: keep one copy of the base in memory, on which policy, critic and reward model "
        "take turns and which alone is the reference. False loads each network for itself.",
    )
    held_out_reward_model: str | None = Field(
        None,
        description="Second reward model, of other preferences or another seed, that is watched and never "
        "learned from: a folder; null goes without.",
    )
    held_out_every_steps: int = Field(1, ge=1, description="Iterations between two looks of that model.")
    held_out_tolerance: float = Field(
        4.0,
        gt=0,
        description="The run stops when the reward has risen while the held-out one has fallen from its best "
        "by more than so many standard errors.",
    )
    prompts: str = Field(
        min_length=1,
        description="Prompts to sample for: JSON Lines with prompt as text or messages.",
        examples=["path/to/prompts.jsonl"],
    )
    replay_prompts: str | None = Field(
        None,
        description="Prompts of earlier rounds, of which each batch takes `replay_share`: JSON Lines.",
    )
    replay_share: float = Field(
        0.0, ge=0, lt=1, description="Share of each batch's prompts that is drawn from `replay_prompts`."
    )
    steps: int = Field(
        60, ge=1, le=1_000_000, description="Iterations: each samples a batch, then learns from it."
    )
    batch_size: int = Field(128, ge=2, description="Completions sampled per iteration.")
    samples_per_prompt: int = Field(1, ge=1, le=64, description="Completions of each prompt in a batch.")
    minibatch_size: int | None = Field(
        None,
        ge=1,
        description="Completions per optimiser update, no more than the batch has; null: 64, or the whole batch "
        "where that is smaller.",
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
    clip_range: float = Field(
        0.2, gt=0, lt=1, description="How far the probability ratio of a token may leave 1 and still teach."
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
        description="Greatest share of repeated 3-grams within completions, and of words that only repeat the "
        "one before; more stops the run.",
    )
    max_length_factor: float = Field(
        3.0,
        gt=1,
        description="Factor by which the mean length of completions may leave its start, up or down; more "
        "stops the run.",
    )
    min_entropy: float = Field(
        0.005, ge=0, description="Smallest entropy, in nats per token; less stops the run."
    )
    marked_samples: int = Field(
        32,
        ge=0,
        le=10_000,
        description="Completions of the last iterations to put before people in OUT/marked.jsonl: those of the "
        "highest reward, those on which reward and held-out reward differ most, and those on which the reward model's "
        "members do.",
    )
    checkpoint_every_steps: int = Field(
        5, ge=1, description="Iterations between two checkpoints; at most so many are lost to a crash."
    )

    @property
    def kl_target(self) -> float:
        """Nats per completion; below the budget, so that the price acts before the guard does."""
        return self.kl_target_nats or 0.6 * self.kl_budget_nats

    @property
    def first_policy_step(self) -> int:
        """The iteration in which the policy begins to learn."""
        return 0

    @property
    def update_size(self) -> int:
        """Completions per optimiser update."""
        return self.minibatch_size or min(MINIBATCH_SIZE, self.batch_size)

    @property
    def update_kl_limit(self) -> float:
        """Nats per completion; long completions add up what each token moves."""
        return self.update_kl_limit_nats or 0.1 * self.kl_budget_nats

    @model_validator(mode="after")
    def _check_rewards(self) -> Self:
        if self.reward_model is None and not self.rewards:
            raise ValueError("reward_model: name a reward model, or give at least one of `rewards`")
        if self.reward_model is None and self.reward_spread_coefficient:
            raise ValueError(
                "reward_spread_coefficient: there is no reward_model whose spread it could count"
            )
        if self.held_out_reward_model is not None and self.held_out_reward_model == self.reward_model:
            raise ValueError("held_out_reward_model: must be another model than reward_model")
        if (self.replay_prompts is None) != (self.replay_share == 0):
            raise ValueError("replay_share: goes with replay_prompts; give both, or neither")
        if self.batch_size % self.samples_per_prompt:
            raise ValueError("batch_size: must be a multiple of samples_per_prompt")
        if self.update_size > self.batch_size:
            raise ValueError("minibatch_size: may not be greater than batch_size")
        if self.kl_target > self.kl_budget_nats:
            raise ValueError("kl_target_nats: may not be greater than kl_budget_nats")
        return self

    @model_validator(mode="after")
    def _check_terms(self) -> Self:
        term_names(self.rewards)
        for number, term in enumerate(self.rewards):
            if not isinstance(term, LengthReward):
                continue
            if (term.overlong_tokens or 0) >= self.max_completion_tokens:
                raise ValueError(f"rewards.{number}.overlong_tokens: must be less than max_completion_tokens")
            if term.unit == "tokens" and term.minimum > self.max_completion_tokens:
                raise ValueError(f"rewards.{number}.minimum: is more than max_completion_tokens allows")
        return self


class Ppo(Online):
    """Proximal policy optimisation: sample, score, and make the better completions more likely."""

    critic_learning_rate: float | None = Field(
        None, gt=0, le=1, description="Highest learning rate of the critic; null is 3 times the policy's."
    )
    critic_warmup_steps: int = Field(3, ge=0, description="First iterations in which only the critic learns.")
    discount: float = Field(1.0, gt=0, le=1, description="Discount per token (gamma).")
    gae_lambda: float = Field(
        0.95, ge=0, le=1, description="Trade of bias and variance in the advantages (lambda)."
    )
    value_clip_range: float | None = Field(
        None, gt=0, description="How far a value may move in one batch and still teach; null: any way."
    )

    @property
    def first_policy_step(self) -> int:
        """Before it only the critic learns."""
        return self.critic_warmup_steps

    @model_validator(mode="after")
    def _policy_learns(self) -> Self:
        if self.critic_warmup_steps >= self.steps:
            raise ValueError("critic_warmup_steps: must be less than steps, or the policy never learns")
        return self


class Grouped(Online):
    """What methods without a critic are told: they hold the completions of a prompt against each other."""

    samples_per_prompt: int = Field(
        8,
        ge=2,
        le=64,
        description="Completions of each prompt in a batch, which are held against each other.",
    )
    epochs: int = Field(1, ge=1, le=20, description="Times each batch is learned from.")
    skip_equal_groups: bool = Field(
        False,
        description="Whether prompts whose completions all got the same reward are left out of the update, "
        "and of what its loss is divided by; else the price of KL still acts on them.",
    )
    mask_unfinished: bool = Field(
        False,
        description="Whether completions that were cut before their end are left out, as if never sampled: "
        "they teach nothing and no other completion is held against them.",
    )


class Grpo(Grouped):
    """Group relative policy optimisation: make likelier what is better than its prompt's other completions."""

    divide_by_deviation: bool = Field(
        False,
        description="Whether rewards are divided by their deviation within the prompt's completions, as first "
        "published; this favours prompts on which completions hardly differ.",
    )
    length_divisor: Literal["tokens", "completion", "constant"] = Field(
        "tokens",
        description="What losses of tokens are divided by: all tokens of the update, each completion's own "
        "length (as first published), or max_completion_tokens.",
    )
    clip_range_high: float | None = Field(
        0.28,
        gt=0,
        le=10,
        description="How far the probability ratio of a token may rise above 1 and still teach; "
        "null takes clip_range, as below 1.",
    )
    kl_in_loss: bool = Field(
        False,
        description="Whether KL to the reference is a term of the loss, which neither baseline nor clipping "
        "touches, instead of a part of the reward.",
    )
    kl_gradient: Literal["completion", "token"] = Field(
        "completion",
        description="With `kl_in_loss`: whether a token answers for the KL from it to its completion's end, which is "
        "the gradient of what is paid for, or for its own alone, as other trainers have it; a nat then costs less "
        "than its price.",
    )


class Rloo(Grouped):
    """REINFORCE leave-one-out: hold each completion against the mean of its prompt's other completions."""

    samples_per_prompt: int = Field(
        4,
        ge=2,
        le=64,
        description="Completions of each prompt in a batch, which are held against each other.",
    )
    minibatch_size: int | None = Field(
        None,
        ge=1,
        description="Completions per optimiser update, no more than the batch has; null: the whole batch.",
    )
    whiten_advantages: bool = Field(
        False, description="Whether advantages are brought to mean 0 and deviation 1 over the batch."
    )

    @property
    def update_size(self) -> int:
        """The whole batch where nothing is said: then the ratio is 1, and the gradient REINFORCE's."""
        return self.minibatch_size or self.batch_size
