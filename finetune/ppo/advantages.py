"""From scores to advantages. All arrays are (answers, most tokens), with a mask of what was written; float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


def padded(flat: NDArray[np.floating], *, lengths: Sequence[int]) -> tuple[Array, Mask]:
    """Values of all answers one after the other -> one row an answer, zeros after its end, and where it is real."""
    mask = np.arange(max(lengths))[None, :] < np.asarray(lengths)[:, None]
    out = np.zeros(mask.shape)
    out[mask] = flat
    return out, mask


def token_rewards(kl: Array, *, scores: Sequence[float], lengths: Sequence[int], coefficient: float) -> Array:
    """Reward of each token: minus `coefficient` times its distance from the reference, and at the end the score.

    `kl`: log-probability under the policy minus that under the reference, nats, of the token that was drawn.
    """
    rewards = -coefficient * kl
    rewards[np.arange(len(lengths)), np.asarray(lengths) - 1] += scores
    return rewards


@dataclass(frozen=True, slots=True)
class Advantages:
    """What a step learns from."""

    advantages: Array
    returns: Array
    """What the value head should have said."""


def estimate(rewards: Array, *, values: Array, mask: Mask, gamma: float, lam: float) -> Advantages:
    """Generalised advantage estimation (Schulman et al. 2015): nothing comes after an answer's last token."""
    width = rewards.shape[1]
    advantages = np.zeros_like(rewards)
    later, next_value = np.zeros(len(rewards)), np.zeros(len(rewards))
    for t in range(width - 1, -1, -1):
        surprise = rewards[:, t] + gamma * next_value - values[:, t]
        later = np.where(mask[:, t], surprise + gamma * lam * later, 0.0)
        next_value = np.where(mask[:, t], values[:, t], 0.0)
        advantages[:, t] = later
    return Advantages(advantages, np.where(mask, advantages + values, 0.0))


def whiten(values: Array, *, mask: Mask, least: float = 0.0) -> Array:
    """To mean 0 and deviation 1 over what is real; only the mean is taken if all are the same.

    `least`: a deviation below it counts as it. Once all answers are equally good, what is left is noise, and noise blown
    up to deviation 1 drives a policy away from what it has learned.
    """
    real = values[mask]
    spread = max(float(real.std()), least)
    return np.where(mask, (values - real.mean()) / (spread if spread > 1e-8 else 1.0), 0.0)


def explained_variance(values: Array, *, returns: Array, mask: Mask) -> float:
    """Share of the returns' variance that the values foresaw: 1 all, 0 none, below 0 worse than a constant."""
    wanted, left = returns[mask], (returns - values)[mask]
    variance = float(wanted.var())
    return 1.0 - float(left.var()) / variance if variance > 1e-12 else 0.0
