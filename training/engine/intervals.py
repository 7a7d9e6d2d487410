"""95 % intervals of figures whose rows come in clusters: answers to one prompt are not independent."""

import math
from collections.abc import Hashable, Sequence

Z = 1.96
FEW_CLUSTERS = 10


def share_interval(values: Sequence[float], clusters: Sequence[Hashable]) -> tuple[float, list[float]]:
    """A share of rows (each 0, 1 or between) with its Wilson interval for clustered rows.

    The number of rows is divided by the design effect, and is never more than the rows there are. Wilson's
    interval, unlike a bootstrap's, does not shrink to a point when all rows agree. Where rows agree wholly,
    clusters are what is counted. Of few clusters no more than they are counted either, for a variance between few is
    itself mostly chance, and most often too small: Cameron and Miller, A Practitioner's Guide to Cluster-Robust
    Inference (2015), section VI; the bound is ours.
    """
    count = len(values)
    share = sum(values) / count
    variance = _variance_of_mean(values, clusters)
    binary = share * (1 - share)
    known = len(set(clusters))
    effective = binary / variance if variance > 0 and binary > 0 else known
    effective = min(effective, known if known < FEW_CLUSTERS else count)
    middle = (share + Z**2 / (2 * effective)) / (1 + Z**2 / effective)
    half = Z / (1 + Z**2 / effective) * math.sqrt(binary / effective + Z**2 / (4 * effective**2))
    return share, [max(0.0, middle - half), min(1.0, middle + half)]


def mean_interval(values: Sequence[float], clusters: Sequence[Hashable]) -> tuple[float, list[float]]:
    """A mean with its normal interval for clustered rows."""
    mean = sum(values) / len(values)
    half = Z * math.sqrt(_variance_of_mean(values, clusters))
    return mean, [mean - half, mean + half]


def standard_error(values: Sequence[float], clusters: Sequence[Hashable]) -> float:
    """Of a mean over clustered rows; rows of a single cluster count by themselves."""
    known = clusters if len(set(clusters)) > 1 else range(len(values))
    return math.sqrt(_variance_of_mean(values, known))


def _variance_of_mean(values: Sequence[float], clusters: Sequence[Hashable]) -> float:
    """Variance of the mean from the sums of each cluster's deviations, with the small-sample factor."""
    mean = sum(values) / len(values)
    sums: dict[Hashable, float] = {}
    for value, cluster in zip(values, clusters, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + value - mean
    if len(sums) < 2:
        return 0.0
    factor = len(sums) / (len(sums) - 1)
    return factor * sum(total**2 for total in sums.values()) / len(values) ** 2
