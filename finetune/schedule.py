"""Learning rates as pure functions of the step, so that a resumed run has the same ones. Names are the community's."""

from __future__ import annotations

import math
from dataclasses import dataclass

from finetune.config import TrainConfig


def warmup_of(config: TrainConfig, *, total: int) -> int:
    """Steps of warm-up."""
    if config.lr_scheduler_type in ("constant", "reduce_lr_on_plateau") and not config.warmup_steps:
        return 0
    return config.warmup_steps or math.ceil(config.warmup_ratio * total)


def factor(config: TrainConfig, *, step: int, total: int) -> float:
    """What the learning rate is multiplied with at `step` (0-based) of `total`."""
    name, warmup = config.lr_scheduler_type, warmup_of(config, total=total)
    if name != "constant" and step < warmup:
        return step / max(1, warmup)
    if name in ("constant", "constant_with_warmup", "reduce_lr_on_plateau"):
        return 1.0
    if name == "inverse_sqrt":
        timescale = warmup or 10_000
        return 1.0 / math.sqrt((step + timescale - warmup) / timescale)
    if step >= total:
        return config.lr_end / config.learning_rate if name == "polynomial" else 0.0
    progress = (step - warmup) / max(1, total - warmup)
    if name == "linear":
        return max(0.0, 1.0 - progress)
    if name == "polynomial":
        end = config.lr_end / config.learning_rate
        return float((1.0 - end) * (1.0 - progress) ** config.power + end)
    if name == "cosine_with_restarts":
        waves = config.num_cycles or 1.0
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * ((waves * progress) % 1.0))))
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * 2.0 * (config.num_cycles or 0.5) * progress)))


@dataclass(slots=True)
class Plateau:
    """State of reduce_lr_on_plateau. It is written into checkpoints."""

    best: float = math.inf
    waited: int = 0
    scale: float = 1.0

    def see(self, loss: float, *, config: TrainConfig) -> bool:
        """Take note of a loss; True if the rate falls now."""
        if loss < self.best * (1 - 1e-4):
            self.best, self.waited = loss, 0
            return False
        self.waited += 1
        if self.waited <= config.plateau_patience:
            return False
        self.scale, self.waited = self.scale * config.plateau_factor, 0
        return True
