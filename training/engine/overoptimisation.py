"""How far a policy can be optimised before a reward model that it is not optimised against turns down.

Source: Gao, Schulman and Hilton, Scaling Laws for Reward Model Overoptimization, arXiv 2210.10760: with
d = sqrt(KL(policy || initial policy)) the gold reward of reinforcement learning follows
R(d) = d (alpha - beta log d). Setting its derivative alpha - beta - beta log d to 0 gives the peak.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

MIN_POINTS = 5
# Beyond this condition number d and d log d cannot be told apart (Belsley, Kuh and Welsch 1980).
MAX_CONDITION = 30.0
MAX_EXTRAPOLATION = 10.0  # A peak at more than so many times the greatest KL seen is not in sight.


@dataclass(frozen=True)
class RewardCurve:
    """R(d) = start + d (alpha - beta log d), natural logarithm, d in the square root of nats."""

    start: float
    alpha: float
    beta: float
    points: int
    greatest_kl: float  # of the points, in nats

    @property
    def peak_kl(self) -> float | None:
        """Nats per completion at which the reward is greatest; None where it is not in sight."""
        if self.beta <= 0:
            return None
        logarithm = 2 * (self.alpha / self.beta - 1)
        if not self.greatest_kl or logarithm > math.log(MAX_EXTRAPOLATION * self.greatest_kl):
            return None
        return math.exp(logarithm)

    def describe(self) -> dict[str, float | None]:
        """For the result of a run."""
        return asdict(self) | {"peak_kl": self.peak_kl}


def fit_curve(kl: Sequence[float], rewards: Sequence[float]) -> RewardCurve | None:
    """Least squares over points of a run: KL in nats per completion, held-out reward in any unit.

    None with fewer than MIN_POINTS, or where their KL does not vary enough to tell alpha from beta. A
    departure from the source: the reward at the start is fitted as well, since it is measured with noise.
    """
    if len(kl) < MIN_POINTS:
        return None
    d = torch.tensor(kl, dtype=torch.float64).clamp(min=0).sqrt()
    columns = torch.stack([torch.ones_like(d), d, -torch.xlogy(d, d)], dim=1)  # (points, 3); 0 log 0 is 0
    scale = columns.norm(dim=0)
    if float(scale.min()) == 0 or not float(torch.linalg.cond(columns / scale)) <= MAX_CONDITION:
        return None
    target = torch.tensor(rewards, dtype=torch.float64)[:, None]
    found = (torch.linalg.lstsq(columns / scale, target).solution[:, 0] / scale).tolist()
    return RewardCurve(*found, points=len(kl), greatest_kl=max(kl))
