"""Low-rank adapters on a frozen base: policy, critic and reward model take turns on one copy of it, and the
base alone is the reference.

An adapter is kept in PEFT's own layout beside the merged model (`model/adapter/`), with a fingerprint of the
base it belongs to, so that the next run can put it on that base instead of loading another copy.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from training.engine.settings import EngineError, Training

FOLDER = "adapter"
WEIGHTS, BASE = "adapter_model.safetensors", "base.json"
PREFIX = "base_model.model."  # PEFT's name for the model around which it wraps itself.


class SharedBase:
    """A frozen base whose adapters take turns. What is active stays so until the next turn: backward passes
    that compute activations anew (gradient checkpointing) must find the adapter of their forward pass.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        model.requires_grad_(False)
        # Taken before any adapter is there: names and values of the base alone.
        self.fingerprint = fingerprint(model)
        self._learning: set[str] = set()
        self._settings: dict[str, LoraConfig] = {}

    def add(self, name: str, settings: LoraConfig, random: torch.Generator, learns: bool = True) -> None:
        """Put an adapter on every linear layer; it changes nothing until it has learned."""
        with warnings.catch_warnings():  # PEFT warns of a second adapter; several are the point here.
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")
            inject_adapter_in_model(settings, self.model.base_model, adapter_name=name)
        self._settings[name] = settings
        for parameter_name, weight in self._weights(name).items():
            if (
                "lora_A" in parameter_name
            ):  # PEFT draws from torch's own generator; ours depends on the seed alone.
                with torch.no_grad():
                    bound = weight.shape[1] ** -0.5
                    weight.copy_(torch.rand(weight.shape, generator=random) * 2 * bound - bound)
        if learns:
            self._learning.add(name)
        self.take_turn(name)

    def take_turn(self, name: str | None) -> None:
        """Compute with this adapter from now on; None is the base alone."""
        for layer in self._layers():
            layer.enable_adapters(name is not None)
            if name is not None:
                layer.set_adapter(name)
        # PEFT lets only the active adapter learn; gradients are gathered here over several turns.
        for learning in self._learning:
            for weight in self._weights(learning).values():
                weight.requires_grad_(True)
        if name is not None and name not in self._learning:
            for weight in self._weights(name).values():
                weight.requires_grad_(False)

    def trained(self, name: str) -> dict[str, nn.Parameter]:
        """What of an adapter an optimiser changes, by name."""
        return self._weights(name) if name in self._learning else {}

    def load(self, name: str, weights: dict[str, Tensor]) -> None:
        """Copy saved weights over an adapter's. Raises EngineError where they are of another shape."""
        own = self._weights(name)
        saved = {_with_adapter(key, name): value for key, value in weights.items()}
        if own.keys() != saved.keys() or any(own[key].shape != saved[key].shape for key in own):
            raise EngineError("the saved adapter does not fit the base that it names")
        with torch.no_grad():
            for key, weight in own.items():
                weight.copy_(saved[key])

    def state(self, name: str) -> dict[str, Tensor]:
        """An adapter's weights under PEFT's names."""
        return {
            PREFIX + key.replace(f".{name}.", "."): weight.detach().cpu().contiguous()
            for key, weight in self._weights(name).items()
        }

    def merge(self, name: str) -> Callable[[Path], None]:
        """Add an adapter into the base and drop all of them: an ordinary model is left.

        Returns what writes the adapter, as it was, into that model's folder.
        """
        self.take_turn(name)
        apart = partial(save_adapter, self.state(name), self._settings[name], self.fingerprint)
        for path, layer in list(self.model.named_modules()):
            if isinstance(layer, LoraLayer):
                layer.merge(adapter_names=[name])
                parent, _, child = path.rpartition(".")
                setattr(self.model.get_submodule(parent), child, layer.get_base_layer())
        return apart

    def _layers(self) -> Iterable[LoraLayer]:
        return (layer for layer in self.model.modules() if isinstance(layer, LoraLayer))

    def _weights(self, name: str) -> dict[str, nn.Parameter]:
        return {key: weight for key, weight in self.model.named_parameters() if f".{name}." in key}


@dataclass(frozen=True)
class Adapter:
    """One network's place on a shared base; without a name it is the base alone."""

    base: SharedBase
    name: str | None

    def take_turn(self) -> None:
        """Compute as this network from now on."""
        self.base.take_turn(self.name)

    def trained(self) -> dict[str, nn.Parameter]:
        """What of it learns, by name."""
        return self.base.trained(self.name) if self.name else {}


class HeadOnBase(nn.Module):
    """A score head on somebody else's base, with what a sequence classifier has: `base_model`, `score`, `config`."""

    def __init__(self, model: PreTrainedModel, outputs: int = 1) -> None:
        super().__init__()
        self._owner = [model]  # In a list, so that the base's weights are not counted as this module's.
        width = model.config.get_text_config().hidden_size
        self.score = nn.Linear(width, outputs, bias=False, device=model.device)
        nn.init.zeros_(self.score.weight)
        self.config = model.config

    @property
    def base_model(self) -> nn.Module:
        return self._owner[0].base_model


def lora_settings(model: nn.Module, config: Training) -> LoraConfig:
    """Adapters beside every linear layer of the trunk."""
    return LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        # GPT-2 stores W transposed.
        fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in model.modules()),
    )


def fingerprint(model: PreTrainedModel) -> str:
    """SHA-256 over the trunk's weights, the same for a causal model and a classifier on the same trunk."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.base_model.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def save_adapter(weights: dict[str, Tensor], settings: LoraConfig, base: str, folder: Path) -> None:
    """Write an adapter into a model folder; base: the fingerprint of what it belongs on."""
    target = folder / FOLDER
    target.mkdir()
    save_file(weights, target / WEIGHTS)
    settings.save_pretrained(target)
    (target / BASE).write_text(json.dumps({"sha256": base}))


@dataclass(frozen=True)
class SavedAdapter:
    """An adapter as it lies in a model folder."""

    weights: dict[str, Tensor]  # under PEFT's names
    settings: LoraConfig
    base: str  # fingerprint of what it belongs on


def load_adapter(folder: str | Path) -> SavedAdapter | None:
    """A model folder's adapter; None where it was saved without one. Raises EngineError for a broken one."""
    source = Path(folder) / FOLDER
    if not source.is_dir():
        return None
    try:
        base = json.loads((source / BASE).read_text())["sha256"]
        return SavedAdapter(load_file(source / WEIGHTS), LoraConfig.from_pretrained(source), base)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise EngineError(f"{source}: cannot be loaded ({' '.join(str(error).split())[:200]})") from error


def _with_adapter(key: str, name: str) -> str:
    return key.removeprefix(PREFIX).replace(".weight", f".{name}.weight") if PREFIX in key else key
