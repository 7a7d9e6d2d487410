"""One optimiser update: scale, clip, refuse what is not finite, step. The same for every method."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from training.engine.config import Training
from training.engine.fsdp import clip_gradients, like
from training.engine.processes import ALONE, Processes

BETAS, EPSILON = (0.9, 0.95), 1e-5


class Updater:
    """Adam with warm-up and linear decay over one network's trained parameters."""

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        rate: float,
        steps: int,
        config: Training,
        processes: Processes = ALONE,
    ) -> None:
        self.processes = processes
        self.parameters = list(parameters.values())
        self._spread = any(isinstance(one, DTensor) for one in self.parameters)
        matrices = [parameter for parameter in self.parameters if parameter.ndim > 1]
        vectors = [parameter for parameter in self.parameters if parameter.ndim <= 1]
        groups = [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self.rate = rate
        self.steps = steps
        self.warmup = math.ceil(config.warmup_share * steps)
        self.max_norm = config.max_grad_norm
        self.done = 0
        self.refused = 0
        used = [group for group in groups if group["params"]]
        fused = not self._spread  # One pass over each tensor instead of ten.
        self._adam = torch.optim.AdamW(used, lr=rate, betas=BETAS, eps=EPSILON, fused=fused)

    def step(self) -> float:
        """Apply and clear the gradients, those of all processes together; returns their norm before clipping.

        A norm that is not finite changes nothing but the count of refused steps.
        """
        self.processes.add_up_gradients([one for one in self.parameters if not isinstance(one, DTensor)])
        if self._spread:
            norm = clip_gradients(self.parameters, self.max_norm, self.processes)
        else:
            norm = float(nn.utils.clip_grad_norm_(self.parameters, self.max_norm))
        if math.isfinite(norm):
            for group in self._adam.param_groups:
                group["lr"] = self.current_rate
            self._adam.step()
            self.done += 1
        else:
            self.refused += 1
        self.drop()
        return norm

    def drop(self) -> None:
        """Forget the gradients."""
        self._adam.zero_grad(set_to_none=True)

    @property
    def current_rate(self) -> float:
        """Rises over the warm-up, then falls in a line to 0 at the last step."""
        if self.done < self.warmup:
            return self.rate * (self.done + 1) / self.warmup
        return self.rate * max(0.0, (self.steps - self.done) / max(1, self.steps - self.warmup))

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint; what is spread over processes stays so."""
        return {"adam": self._adam.state_dict(), "done": self.done, "refused": self.refused}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From the checkpoint."""
        ordered = [one for group in self._adam.param_groups for one in group["params"]]
        moments = {
            number: {name: like(value, ordered[number]) for name, value in one.items()}
            for number, one in state["adam"]["state"].items()
        }
        # How a step is computed is this machine's affair, not the one's that saved.
        ways = [{name: own[name] for name in ("fused", "foreach")} for own in self._adam.param_groups]
        groups = [saved | way for saved, way in zip(state["adam"]["param_groups"], ways, strict=True)]
        self._adam.load_state_dict({"state": moments, "param_groups": groups})
        self.done, self.refused = state["done"], state["refused"]
