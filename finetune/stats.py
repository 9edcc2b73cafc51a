"""Means with confidence intervals, and differences of pairs: percentile bootstrap with a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its 95 % confidence interval."""

    mean: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"

    @property
    def sure(self) -> bool:
        """Of a difference: the interval leaves out 0."""
        return self.count > 0 and (self.low > 0 or self.high < 0)


def estimate(values: Sequence[float], *, seed: int = 0) -> Estimate:
    """Of the mean of independent values; of no values: not a number."""
    if not len(values):
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    data = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(seed).integers(0, len(data), (SAMPLES, len(data)))
    low, high = np.quantile(data[draws].mean(axis=1), (0.025, 0.975))
    return Estimate(float(data.mean()), float(low), float(high), len(data))


def difference(ours: Sequence[float], theirs: Sequence[float], *, seed: int = 0) -> Estimate:
    """Of the mean of ours minus theirs, question by question. Raises ValueError unless both have one value each."""
    if len(ours) != len(theirs):
        raise ValueError(f"pairs need equal lengths, got {len(ours)} and {len(theirs)}")
    return estimate([a - b for a, b in zip(ours, theirs, strict=True)], seed=seed)


def proportion(hits: int, count: int) -> Estimate:
    """A share with its Wilson interval, which holds for few and for extreme counts."""
    if count == 0:
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    z, p = 1.959964, hits / count
    middle = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z * np.sqrt(p * (1 - p) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return Estimate(p, float(max(0.0, middle - half)), float(min(1.0, middle + half)), count)
