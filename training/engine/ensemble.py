"""Several reward models for the price of one pass: linear members over a shared trunk."""

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

PRIOR_UNITS = 64
TANH_VARIANCE = 0.394  # of tanh of a standard normal number


class EnsembleHead(nn.Linear):
    """(N, d) states to (N, K + C) scores: K members of an ensemble, then C labels that have no members.

    To each member's linear score a random function of the state is added that is never trained (Osband et
    al. 2018, arXiv 1806.03335). Where there is data the members learn the same scores in spite of it; where
    there is none they go on differing by it. The functions add up to 0 over the members, so the members' mean
    is linear, and an ordinary head can hold it. No gradient passes through them into the trunk, which could
    otherwise learn to make them alike.
    """

    prior_in: Tensor  # (units, d)
    prior_out: Tensor  # (K, units); each column adds up to 0
    means: Tensor  # (K,): each member's over the reference policy's samples

    def __init__(self, features: int, members: int, others: int = 0, units: int = PRIOR_UNITS) -> None:
        super().__init__(features, members + others, bias=False)
        self.members, self.others = members, others
        self.register_buffer("prior_in", torch.zeros(units, features))
        self.register_buffer("prior_out", torch.zeros(members, units))
        self.register_buffer("means", torch.zeros(members))

    def draw_priors(self, scale: float, random: torch.Generator) -> None:
        """Random functions with a deviation of about `scale` over unlike states."""
        units, features = self.prior_in.shape
        inner = torch.randn(units, features, generator=random) / features**0.5
        outer = torch.randn(self.members, units, generator=random) / (TANH_VARIANCE * units) ** 0.5
        self.prior_in.copy_(inner)
        self.prior_out.copy_(scale * (outer - outer.mean(dim=0)))

    def forward(self, hidden: Tensor) -> Tensor:
        """(N, d) to (N, K + C)."""
        states = hidden.detach()
        states = states * torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + 1e-6)  # Any model's scale.
        priors = torch.tanh(functional.linear(states, self.prior_in)) @ self.prior_out.T  # (N, K)
        return super().forward(hidden) + functional.pad(priors, (0, self.others))

    @torch.no_grad()
    def split(self) -> tuple[nn.Linear, Self]:
        """An ordinary head with the members' mean as label 0 and the other labels after it; the members."""
        mean = self.weight[: self.members].mean(dim=0, keepdim=True)
        head = nn.Linear(self.in_features, 1 + self.others, bias=False, device=self.weight.device)
        head.weight.copy_(torch.cat([mean, self.weight[self.members :]]))
        values = self.state_dict() | {"weight": self.weight[: self.members].clone()}
        return head, type(self).restored(values).to(self.weight.device)

    @classmethod
    def restored(cls, values: dict[str, Tensor]) -> Self:
        """The members that `state_dict` gave. Raises KeyError or RuntimeError for anything else."""
        members, features = values["weight"].shape
        head = cls(features, members, units=len(values["prior_in"]))
        head.load_state_dict(values)
        return head.requires_grad_(False)

    @torch.no_grad()
    def normalize(self, deviation: float, means: Tensor) -> None:
        """Divide the members' scores by a deviation; means (K,) are theirs after that."""
        self.weight.div_(deviation)
        self.prior_out.div_(deviation)
        self.means.copy_(means)
