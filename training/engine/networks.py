"""The networks: policy, reward model, critic, and what of them learns. loading.py brings them from folders."""

from __future__ import annotations

import contextlib
import copy
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_layers import GradientCheckpointingLayer

from training.engine.batches import Batch, Tokens
from training.engine.config import Training
from training.engine.ensemble import EnsembleHead
from training.engine.last_layer import reading
from training.engine.lines import token_batches
from training.engine.runtime import Runtime

if TYPE_CHECKING:  # PEFT takes its time to load, and only adapters need it.
    from training.engine.adapters import Adapter, HeadOnBase

FULL_RATE, HIGHEST_RATE, LORA_FACTOR = 0.4, 3e-4, 10.0


def generator(seed: int, name: str, step: int = 0) -> torch.Generator:
    """The random numbers for one purpose at one step.

    Made from seed, name and step alone, so a resumed run draws what the uninterrupted one would have drawn.
    """
    digest = hashlib.sha256(f"{seed}/{name}/{step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def epoch_order(seed: int, epoch: int, count: int, purpose: str = "order") -> list[int]:
    """The order in which an epoch takes its rows; `purpose` keeps the walks through several files apart."""
    return torch.randperm(count, generator=generator(seed, purpose, epoch)).tolist()


class LanguageHead:
    """Hidden states to logits, with what some architectures do to them on the way."""

    def __init__(self, model: PreTrainedModel, runtime: Runtime) -> None:
        self._runtime = runtime
        self._output = model.get_output_embeddings()
        text_config = model.config.get_text_config()
        self.vocabulary, self.width = self._output.weight.shape
        self.multiple = runtime.multiple  # what the number of states is to be a multiple of
        self._scale = getattr(text_config, "logit_scale", None) or 1 / (
            getattr(text_config, "logits_scaling", None) or 1
        )
        self._softcap = getattr(text_config, "final_logit_softcapping", None)

    def as_sampled(self) -> LanguageHead:
        """This head as sampling computes: on a processor without autocast, which would bring the weights to half precision
        at every step; half_weights.py does so once.
        """
        if self._runtime.device.type != "cpu":
            return self
        head = copy.copy(self)
        head._runtime = replace(self._runtime, dtype=torch.float32)
        return head

    def __call__(self, hidden: Tensor) -> Tensor:
        """(N, d) to (N, V)."""
        with self._runtime.autocast():
            logits = self._output(hidden)
        if self._scale != 1:
            logits = logits * self._scale
        return torch.tanh(logits / self._softcap) * self._softcap if self._softcap else logits


@dataclass
class Policy:
    """A causal language model with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    end_tokens: list[int]  # any of these ends a completion; the first is the one we write
    head: LanguageHead
    runtime: Runtime
    adapter: Adapter | None = None  # its place on a base that it shares
    recorded_steps: int | None = 0  # of sampling, on a GPU; None where they cannot be recorded

    def take_turn(self) -> None:
        """Be the network that computes; whoever calls the model itself says so first."""
        if self.adapter:
            self.adapter.take_turn()

    def trained(self) -> dict[str, nn.Parameter]:
        """What an optimiser changes and a checkpoint holds, by name."""
        return self.adapter.trained() if self.adapter else trained_parameters(self.model)

    def hidden(self, batch: Batch) -> Tensor:
        """(N, d): the states from which the batch's completion tokens are predicted."""
        self.take_turn()
        return hidden_states(self.model, batch, batch.predicting, self.runtime)


class Readings(NamedTuple):
    """What a reward model says of B rows."""

    labels: Tensor  # (B, L) as the head gives them: the score, then the criteria
    members: Tensor  # (B, K) scores of the ensemble's members, each above its own mean


@dataclass
class Scorer:
    """A sequence classifier whose first label is the score: a reward model, or a critic."""

    model: PreTrainedModel | HeadOnBase
    tokenizer: PreTrainedTokenizerBase
    end_tokens: list[int]
    mean: float  # of its scores over the reference policy's samples
    runtime: Runtime
    ensemble: EnsembleHead | None = None  # whose mean the first label is
    adapter: Adapter | None = None  # its place on a base that it shares

    def trained(self) -> dict[str, nn.Parameter]:
        """What an optimiser changes and a checkpoint holds, by name."""
        return trained_parameters(self.model) | (self.adapter.trained() if self.adapter else {})

    def scores(self, batch: Batch) -> Tensor:
        """(B,): the score at each row's last real token, as the head gives it."""
        return self.labels(batch)[:, 0]

    def labels(self, batch: Batch) -> Tensor:
        """(B, L): all that the head gives at each row's last real token."""
        return self._read(batch, batch.last)

    def values(self, batch: Batch) -> Tensor:
        """(N,): the value of the state before each completion token."""
        return self._read(batch, batch.predicting)[:, 0]

    @torch.no_grad()
    def score_rows(self, rows: Sequence[Tokens], budget: int) -> Tensor:
        """(B,): scores in deviations above the reference policy's mean, for completions that have ended."""
        scores = torch.zeros(len(rows))
        for group, batch in token_batches(rows, budget, self.runtime):
            scores[group] = self.scores(batch).cpu() - self.mean
        return self.runtime.processes.add_up(scores)

    def score_rows_with_spread(self, rows: Sequence[Tokens], budget: int) -> tuple[Tensor, Tensor]:
        """(B,) the same scores, and (B,) how far the members of the ensemble are apart, in the same unit.

        The spread is the members' standard deviation, each measured from its own mean over the reference
        policy's samples, since preferences leave each member's level open. Without an ensemble it is 0.
        """
        readings = self.read_rows(rows, budget)
        return readings.labels[:, 0] - self.mean, readings.members.std(dim=1, correction=0)

    @torch.no_grad()
    def read_rows(self, rows: Sequence[Tokens], budget: int) -> Readings:
        """Every label and every member's score of each row, from one pass."""
        labels = torch.zeros(len(rows), self.model.score.out_features)
        members = torch.zeros(len(rows), self.ensemble.members if self.ensemble else 0)
        for group, batch in token_batches(rows, budget, self.runtime):
            hidden = self._hidden(batch, batch.last)
            labels[group] = self.model.score(hidden).cpu()
            if self.ensemble:
                members[group] = (self.ensemble(hidden) - self.ensemble.means).cpu()
        labels, members = self.runtime.processes.add_up(labels), self.runtime.processes.add_up(members)
        return Readings(labels, members if self.ensemble else labels[:, :1] - self.mean)

    def _read(self, batch: Batch, places: Tensor) -> Tensor:
        return self.model.score(self._hidden(batch, places))

    def _hidden(self, batch: Batch, places: Tensor) -> Tensor:
        if self.adapter:
            self.adapter.take_turn()
        return hidden_states(self.model, batch, places, self.runtime).float()


def hidden_states(
    model: PreTrainedModel | HeadOnBase, batch: Batch, places: Tensor, runtime: Runtime
) -> Tensor:
    """(P, d): the last layer's states, after its norm, at (P,) places of the flattened batch."""
    layers = _recomputed(model.base_model)
    # A layer computed anew, later, would not know what was read.
    few = contextlib.nullcontext() if layers else reading(places, batch.ids.numel(), runtime.multiple)
    with runtime.autocast(), _recomputing(layers), few:
        output = model.base_model(
            input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
        )
    return output.last_hidden_state.flatten(0, 1)[places]


def recompute_activations(model: PreTrainedModel) -> None:
    """Keep no activations between layers; the backward pass computes them anew."""
    model.activation_checkpointing_enable({"use_reentrant": False})
    for layer in model.modules():
        if isinstance(layer, GradientCheckpointingLayer):
            for name, value in vars(layer).items():
                if name.endswith("dropout") and isinstance(value, float):
                    setattr(layer, name, 0.0)


@contextlib.contextmanager
def _recomputing(layers: Sequence[nn.Module]) -> Iterator[None]:
    """transformers recomputes in training mode alone, where sampling has no cache; so it lasts for one forward
    pass with gradients, and only for the layers themselves: what is in them stays without dropout.
    """
    for layer in layers:
        layer.training = True
    try:
        yield
    finally:
        for layer in layers:
            layer.training = False


def _recomputed(trunk: nn.Module) -> list[nn.Module]:
    """The layers that the backward pass of this forward pass will compute anew."""
    if not torch.is_grad_enabled():
        return []
    return [
        layer
        for layer in trunk.modules()
        if isinstance(layer, GradientCheckpointingLayer) and layer.gradient_checkpointing
    ]


def reset_head(scorer: Scorer, std: float, random: torch.Generator | None = None) -> None:
    """A new head: zeros, or normal with deviation `std`."""
    weight = scorer.model.score.weight
    with torch.no_grad():
        drawn = torch.randn(weight.shape, generator=random) * std if random else torch.zeros(weight.shape)
        weight.copy_(drawn)
    scorer.mean, scorer.ensemble = 0.0, None


def add_adapters(model: PreTrainedModel, config: Training) -> None:
    """Freeze the model and put low-rank adapters beside every linear layer; the score head stays trained."""
    if not config.lora_rank:
        return
    from peft import inject_adapter_in_model

    from training.engine.adapters import lora_settings

    model.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):  # PEFT draws from torch's own, on the CPU.
        torch.manual_seed(generator(config.seed, "adapters").initial_seed())
        inject_adapter_in_model(lora_settings(model, config), model.base_model)
    if isinstance(getattr(model, "score", None), nn.Linear):
        model.score.requires_grad_(True)


def merge_adapters(model: PreTrainedModel) -> None:
    """Add the adapters into the weights, so that the saved folder needs no PEFT. Without any nothing changes."""
    if not any("lora_A" in name for name, _ in model.named_parameters()):
        return
    from peft.tuners.lora import LoraLayer

    for name, layer in list(model.named_modules()):
        if isinstance(layer, LoraLayer):
            layer.merge()
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, layer.get_base_layer())


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """What an optimiser changes and a checkpoint holds, by name; tied weights once."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def learning_rate(chosen: float | None, model: nn.Module, config: Training) -> float:
    """The rate that was chosen, or one that suits the model's size.

    0.4 / sqrt(parameters), at most 3e-4, is 1e-5 for 1.5 billion; adapters take ten times that. Ours: between
    what tiny models bear (measured) and what is usual for large ones (OpenRLHF, TRL).
    """
    if chosen is not None:
        return chosen
    count = sum(parameter.numel() for parameter in model.parameters())
    rate = min(HIGHEST_RATE, FULL_RATE / count**0.5)
    return rate * LORA_FACTOR if config.lora_rank else rate


def describe_training(
    model: nn.Module, parameters: dict[str, nn.Parameter], rate: float, runtime: Runtime
) -> str:
    """What is about to be trained, for a person."""
    count = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in parameters.values())
    number_format = str(runtime.dtype).removeprefix("torch.")
    return (
        f"training {trained:,} of {count:,} weights on {runtime.device.type} in {number_format}, "
        f"learning rate {rate:.2g}"
    )


def same_tokenizer(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
    """Whether ids of one mean the same to the other, prompts included."""
    return one.get_vocab() == other.get_vocab() and one.chat_template == other.chat_template
