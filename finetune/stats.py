"""Means with confidence intervals, and differences of pairs: percentile bootstrap with a seed, widened for few values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

SAMPLES = 2000
FEWEST = 6
"""Pairs below which nothing is called sure: with five, even a sign test cannot reach 5 % (2 / 2**5 = 6.25 %)."""
# Two-sided 95 % quantiles of Student's t by degrees of freedom (tables of the distribution).
_T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 10: 2.228}
_T |= {11: 2.201, 12: 2.179, 13: 2.160, 14: 2.145, 15: 2.131, 20: 2.086, 25: 2.060, 30: 2.042, 60: 2.000}


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
        """Of a difference: the interval leaves out 0, and there are enough pairs to say so."""
        return self.count >= FEWEST and (self.low > 0 or self.high < 0)


NOTHING = Estimate(float("nan"), float("nan"), float("nan"), 0)


def estimate(values: Sequence[float], *, seed: int = 0) -> Estimate:
    """Of the mean of independent values; of no values: not a number."""
    if not len(values):
        return NOTHING
    data = np.asarray(values, dtype=np.float64)
    drawn = data[_draws(len(data), seed)].mean(axis=1)
    return _interval(float(data.mean()), drawn, len(data))


def difference(ours: Sequence[float], theirs: Sequence[float], *, seed: int = 0) -> Estimate:
    """Of the mean of ours minus theirs, question by question. Raises ValueError unless both have one value each."""
    _same_length(ours, theirs)
    return estimate([a - b for a, b in zip(ours, theirs, strict=True)], seed=seed)


def percent(ours: Sequence[float], theirs: Sequence[float], *, seed: int = 0) -> Estimate:
    """Of the mean of ours as per cent of the mean of theirs (above 0), drawn in pairs. Raises ValueError like `difference`."""
    _same_length(ours, theirs)
    if not len(ours):
        return NOTHING
    a, b = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    draws = _draws(len(a), seed)
    drawn = 100 * a[draws].mean(axis=1) / b[draws].mean(axis=1)
    return _interval(float(100 * a.mean() / b.mean()), drawn, len(a))


def proportion(hits: int, count: int) -> Estimate:
    """A share with its Wilson interval, which holds for few and for extreme counts."""
    if count == 0:
        return NOTHING
    z, p = 1.959964, hits / count
    middle = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z * np.sqrt(p * (1 - p) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return Estimate(p, float(max(0.0, middle - half)), float(min(1.0, middle + half)), count)


def _same_length(ours: Sequence[float], theirs: Sequence[float]) -> None:
    if len(ours) != len(theirs):
        raise ValueError(f"pairs need equal lengths, got {len(ours)} and {len(theirs)}")


def _draws(count: int, seed: int) -> NDArray[np.int64]:
    """(SAMPLES, count) places, drawn with replacement."""
    return np.random.default_rng(seed).integers(0, count, (SAMPLES, count))


def _interval(mean: float, drawn: NDArray[np.float64], count: int) -> Estimate:
    """Percentiles wide enough for few values (the "expanded percentile" interval: Student's t for the normal)."""
    freedom = count - 1
    quantile = _T[max((f for f in _T if f <= freedom), default=1)] if freedom <= 60 else 1.96
    tail = NormalDist().cdf(-quantile * (count / max(freedom, 1)) ** 0.5)
    low, high = np.quantile(drawn, (tail, 1 - tail))
    return Estimate(mean, float(low), float(high), count)
