"""What distance from the reference costs, and the scale of what was seen so far. Both are written into checkpoints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from finetune.ppo.config import PpoConfig


@dataclass(slots=True)
class KlCost:
    """Steers the cost of a nat so that answers stay about the target away (Ziegler et al. 2019)."""

    coefficient: float

    def see(self, kl: float, *, answers: int, config: PpoConfig) -> None:
        """Take note of a step: its mean KL of an answer, nats. Without a target the cost stays."""
        if not config.ppo_kl_target:
            return
        error = min(0.2, max(-0.2, kl / config.ppo_kl_target - 1.0))
        self.coefficient *= 1.0 + error * min(1.0, answers / config.ppo_kl_horizon)


@dataclass(slots=True)
class Running:
    """Mean and deviation of everything so far (Chan's update)."""

    count: float = 0.0
    mean: float = 0.0
    squares: float = 0.0
    """Sum of squared distances from the mean."""

    def see(self, values: Sequence[float]) -> None:
        """Take note of the values of a step."""
        count, mean = len(values), sum(values) / len(values)
        squares = sum((v - mean) ** 2 for v in values)
        total, apart = self.count + count, mean - self.mean
        self.squares += squares + apart**2 * self.count * count / total
        self.mean += apart * count / total
        self.count = total

    @property
    def deviation(self) -> float:
        """1 while nothing differs."""
        return math.sqrt(self.squares / self.count) if self.count > 1 and self.squares > 0 else 1.0


def shaped(
    scores: Sequence[float], *, ended: Sequence[bool], scale: Running, config: PpoConfig
) -> list[float]:
    """Scores as they are learned from: normalised, bounded, less the penalty where an answer did not end."""
    out = list(scores)
    if config.ppo_score_norm:
        scale.see(out)
        out = [(s - scale.mean) / (scale.deviation + 1e-8) for s in out]
    if limit := config.ppo_score_clip:
        out = [min(limit, max(-limit, s)) for s in out]
    return [s - (0.0 if e else config.ppo_eos_penalty) for s, e in zip(out, ended, strict=True)]
