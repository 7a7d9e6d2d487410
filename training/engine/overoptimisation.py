"""How far a policy can be optimised before a reward model that it is not optimised against turns down.

Source: Gao, Schulman and Hilton, Scaling Laws for Reward Model Overoptimization, arXiv 2210.10760: with
d = sqrt(KL(policy || initial policy)) the gold reward of reinforcement learning follows
R(d) = d (alpha - beta log d). Setting its derivative alpha - beta - beta log d to 0 gives the peak.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

MIN_POINTS = 5
MAX_CORRELATION = 0.995  # of d and d log d over the points; above it alpha and beta cannot be told apart
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
        return None if logarithm > math.log(MAX_EXTRAPOLATION * self.greatest_kl) else math.exp(logarithm)

    def describe(self) -> dict[str, float | None]:
        """For the result of a run."""
        return asdict(self) | {"peak_kl": self.peak_kl}


def fit_curve(kl: Sequence[float], rewards: Sequence[float]) -> RewardCurve | None:
    """Least squares over points of a run: KL in nats per completion, held-out reward in any unit.

    None with fewer than MIN_POINTS, or where their KL does not vary enough to tell alpha from beta. A
    departure from the source: the reward at the start is fitted as well, since it is measured with noise.
    Sums are exact, so that a resumed run reports the same digits.
    """
    if len(kl) < MIN_POINTS:
        return None
    d = [math.sqrt(max(0.0, value)) for value in kl]
    bends = [-value * math.log(value) if value else 0.0 for value in d]  # what beta is multiplied by
    means = fmean(d), fmean(bends), fmean(rewards)
    x, y, r = ([one - mean for one in row] for row, mean in zip((d, bends, rewards), means, strict=True))
    xx, yy, xy, xr, yr = (_product(*pair) for pair in ((x, x), (y, y), (x, y), (x, r), (y, r)))
    if xy**2 >= MAX_CORRELATION**2 * xx * yy:
        return None
    determinant = xx * yy - xy**2
    alpha, beta = (xr * yy - yr * xy) / determinant, (yr * xx - xr * xy) / determinant
    start = means[2] - alpha * means[0] - beta * means[1]
    return RewardCurve(start, alpha, beta, len(kl), max(kl))


def _product(one: Sequence[float], other: Sequence[float]) -> float:
    return math.fsum(a * b for a, b in zip(one, other, strict=True))
